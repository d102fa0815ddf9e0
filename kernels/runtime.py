"""What emitted source calls, as plain Python on NumPy scalars: the text then runs without Numba.

`nnx.kernels.intrinsics` has a twin of each name for the compiled form; the two agree to the bounds
in its docstring. Scalars are NumPy's, so that arithmetic wraps and rounds as it does in arrays.
Nothing here warns or raises for a value: as in compiled code, NaN and infinity tell.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx import philox

Scalar = Any  # a NumPy scalar; a Python number counts as float64, int64 or bool
Pointer = NDArray[Any]  # memory from an address on, of no known length

_quiet: Callable[[Any], Any] = np.errstate(all="ignore")
_U64 = 2**64 - 1
# More elements than any memory has: whoever wrote the text knows where an array ends.
_NO_END = 2**40


def _cast(dtype: type[np.generic]) -> Callable[[Scalar], Scalar]:
    def cast(x: Scalar) -> Scalar:
        # As an array: a scalar type called on a Python int out of its range raises.
        return np.asarray(x).astype(dtype)[()]

    cast.__doc__ = f"Convert a scalar to {dtype.__name__}; integers wrap."
    quiet: Callable[[Scalar], Scalar] = _quiet(cast)
    return quiet


b1, i8, i16, i32, i64 = (_cast(t) for t in (np.bool_, np.int8, np.int16, np.int32, np.int64))
u8, u16, u32, u64 = (_cast(t) for t in (np.uint8, np.uint16, np.uint32, np.uint64))
f32, f64 = _cast(np.float32), _cast(np.float64)


class _Memory:
    """What NumPy takes an array from: an address and a type."""

    def __init__(self, address: int, dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": (_NO_END,),
            "typestr": dtype.str,
            "data": (int(address), False),
        }


def _pointer(dtype: type[np.generic]) -> list[Callable[..., Pointer]]:
    fixed = np.dtype(dtype)

    def at(address: int) -> Pointer:
        return np.asarray(_Memory(address, fixed))

    def slot(table: NDArray[np.int64], n: int) -> Pointer:
        return at(table[n])

    def shift(pointer: Pointer, n: int) -> Pointer:
        return at(pointer.ctypes.data + int(n) * fixed.itemsize)

    at.__doc__ = f"Return the {fixed.name} values at an address, to be indexed."
    slot.__doc__ = (
        f"Return the {fixed.name} values at the address in entry n of the table. Memory that is "
        f"written is reached by one entry alone."
    )
    shift.__doc__ = f"Return a pointer to {fixed.name} that is n elements further on."
    return [at, slot, shift]


b1_at, b1_slot, b1_shift = _pointer(np.bool_)
i8_at, i8_slot, i8_shift = _pointer(np.int8)
i16_at, i16_slot, i16_shift = _pointer(np.int16)
i32_at, i32_slot, i32_shift = _pointer(np.int32)
i64_at, i64_slot, i64_shift = _pointer(np.int64)
u8_at, u8_slot, u8_shift = _pointer(np.uint8)
u16_at, u16_slot, u16_shift = _pointer(np.uint16)
u32_at, u32_slot, u32_shift = _pointer(np.uint32)
u64_at, u64_slot, u64_shift = _pointer(np.uint64)
f32_at, f32_slot, f32_shift = _pointer(np.float32)
f64_at, f64_slot, f64_shift = _pointer(np.float64)


def select(condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    """Return a where the condition holds, else b."""
    return a if condition else b


@_quiet
def sum_add(a: Scalar, b: Scalar) -> Scalar:
    """Return a + b, one step of a sum whose order is free."""
    return a + b


maximum, minimum = _quiet(np.maximum), _quiet(np.minimum)
max_reduce, min_reduce = maximum, minimum

logical_and, logical_or = np.logical_and, np.logical_or
logical_xor, logical_not = np.logical_xor, np.logical_not

exp, expm1, log, log1p, log2, log10 = (
    _quiet(f) for f in (np.exp, np.expm1, np.log, np.log1p, np.log2, np.log10)
)
tanh, sinh, cosh, asinh, acosh, atanh = (
    _quiet(f) for f in (np.tanh, np.sinh, np.cosh, np.arcsinh, np.arccosh, np.arctanh)
)
sin, cos, tan, asin, acos, atan, atan2 = (
    _quiet(f) for f in (np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.arctan2)
)
hypot, logaddexp, sqrt = _quiet(np.hypot), _quiet(np.logaddexp), _quiet(np.sqrt)
floor, ceil, trunc, round = np.floor, np.ceil, np.trunc, np.rint
copysign, signbit, sign = np.copysign, np.signbit, _quiet(np.sign)
isnan, isinf, isfinite = np.isnan, np.isinf, np.isfinite
abs = _quiet(np.abs)
floor_divide, remainder = _quiet(np.floor_divide), _quiet(np.remainder)
divide = _quiet(np.divide)
shift_left, shift_right = np.left_shift, np.right_shift


@_quiet
def pow(a: Scalar, b: Scalar) -> Scalar:
    """Return a to the power b; of integers modulo 2**bits, and 1/a**-b cut to a whole number."""
    base, exponent = np.atleast_1d(a), np.atleast_1d(b)
    if base.dtype.kind == "f" or exponent.dtype.kind == "f" or b >= 0:
        # As arrays: for the scalar 0.5 NumPy takes the square root, which differs at -inf and -0.
        return np.power(base, exponent)[0]
    # Here NumPy raises.
    if a == 1 or a == -1:
        return a if b % 2 else base.dtype.type(1)
    return base.dtype.type(0)


@_quiet
def _gemm(
    dtype: type[np.generic],
    ta: int, tb: int, m: int, n: int, k: int,
    a: Pointer, lda: int, b: Pointer, ldb: int, c: Pointer, ldc: int,
) -> None:  # fmt: skip
    size = np.dtype(dtype).itemsize

    def matrix(p: Pointer, rows: int, columns: int, leading: int, transposed: int) -> Any:
        if transposed:
            return matrix(p, columns, rows, leading, 0).T
        view = p[: max(rows * leading, 1)]
        return np.lib.stride_tricks.as_strided(view, (rows, columns), (leading * size, size))

    matrix(c, m, n, ldc, 0)[...] = matrix(a, m, k, lda, ta) @ matrix(b, k, n, ldb, tb)


def f32_gemm(
    ta: int, tb: int, m: int, n: int, k: int,
    a: Pointer, lda: int, b: Pointer, ldb: int, c: Pointer, ldc: int,
) -> None:  # fmt: skip
    """Write C = op(A) op(B) of row-major float32 matrices; op transposes where ta, tb is 1.

    Shapes: op(A) (m, k), op(B) (k, n), C (m, n); lda, ldb, ldc are the lengths of stored rows.
    C overlaps neither A nor B.
    """
    _gemm(np.float32, ta, tb, m, n, k, a, lda, b, ldb, c, ldc)


def f64_gemm(
    ta: int, tb: int, m: int, n: int, k: int,
    a: Pointer, lda: int, b: Pointer, ldb: int, c: Pointer, ldc: int,
) -> None:  # fmt: skip
    """Write C = op(A) op(B) of row-major float64 matrices; see `f32_gemm`."""
    _gemm(np.float64, ta, tb, m, n, k, a, lda, b, ldb, c, ldc)


def blas_threads(n: int) -> None:
    """Let the matrix products that follow use n threads; NumPy's own do not follow this."""


def copy_bytes(target: int, source: int, n: int) -> None:
    """Copy n bytes from one address to another; the two do not overlap."""
    ctypes.memmove(int(target), int(source), int(n))


def call_at(function: int, table: int) -> int:
    """Return what the compiled step at an address returns for the table at another."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    return kind(int(function))(int(table))  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=256)
def _block(seed: int, stream: int, block: int) -> tuple[Any, ...]:
    return tuple(philox.stream_words(seed, stream, block, 1))


def random_block(seed: int, stream: int, block: int) -> tuple[Any, ...]:
    """Return the four uint32 words of a block; the arguments are the int64 bits of uint64."""
    return _block(int(seed) & _U64, int(stream) & _U64, int(block) & _U64)


def random_word(seed: int, stream: int, first_block: int, word_index: int) -> Any:
    """Return one uint32 word of a stream, counted from the start of its first block."""
    index = int(word_index)
    return random_block(seed, stream, int(first_block) + index // 4)[index % 4]


def bernoulli_word(word: Any, threshold: int) -> Any:
    """Return whether word < threshold: true in threshold of 2**32 cases; see `philox.below`."""
    return np.bool_(int(word) < threshold)


def uniform_f32(word: Any) -> Any:
    """Return the float32 in [0, 1) of a word; see `philox.uniform32`."""
    return philox.uniform32(np.array([word], np.uint32))[0]


def uniform_f64(low: Any, high: Any) -> Any:
    """Return the float64 in [0, 1) of two words; see `philox.uniform64`."""
    return philox.uniform64(np.array([low, high], np.uint32))[0]


def pair_u64(low: Any, high: Any) -> Any:
    """Return the integer of two words; see `philox.pair`."""
    return philox.pair(np.array([low, high], np.uint32))[0]


def scaled_i64(low: Any, high: Any, span: Any, start: Any) -> Any:
    """Return start + floor(r span / 2**128), r of two halves; see `philox.scaled`.

    A span of 0 stands for 2**64; start counts modulo 2**64.
    """
    r = (int(high) << 64) + int(low)
    return i64((r * (int(span) or 2**64) >> 128) + int(start) & _U64)


def normal_f32(word: Any) -> Any:
    """Return the normal number of a word as float64, to be scaled, then rounded to float32."""
    return philox.normal32(np.array([word], np.uint32))[0]


def normal_f64(low: Any, high: Any) -> Any:
    """Return the normal number of two words; see `philox.normal64`."""
    return philox.normal64(np.array([low, high], np.uint32))[0]
