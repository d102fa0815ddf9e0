"""What CuPy lacks or rounds otherwise than nnx: bfloat16, sums of 16 bits, remainders, erf.

CuPy 14 has bfloat16 where ml_dtypes is installed. Of its functions, `where`, `any`, `all`, `not`,
`xor`, `argmax`, `cumsum` and `scatter_add` do not take it, and a Python float beside it gives
float32: NumPy's promotion says float64 of the two. So what is not only a move of elements is
computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Kernel = Callable[..., Any]

EXACT = frozenset({
    "astype", "reshape", "permute_dims", "matrix_transpose", "expand_dims", "squeeze",
    "broadcast_to", "concat", "stack", "flip", "roll", "tile", "repeat", "getitem", "take",
    "take_along_axis", "one_hot", "matmul", "linear", "tensordot", "cross_entropy",
})  # fmt: skip
"""Ops that take bfloat16 as it is: they move elements, or are made of ops that are adapted."""


def in_float32(function: Kernel, halves: frozenset[Any]) -> Kernel:
    """Return a function that computes arrays of the types ``halves`` in float32 and rounds once.

    Beside an array of a wider float the result is not rounded: their common type is the wider.
    """

    def kernel(*arrays: Any, **attrs: Any) -> Any:
        for x in arrays:
            if getattr(x, "dtype", None) in halves:
                break
        else:
            return function(*arrays, **attrs)
        narrow, wider, given = None, False, []
        for array in arrays:
            dtype = getattr(array, "dtype", None)
            if dtype in halves:
                narrow = dtype if narrow in (None, dtype) else "float32"
                array = array.astype("float32")
            elif dtype is not None and dtype.kind == "f":
                wider = True
            given.append(array)
        out = function(*given, **attrs)
        rounds = not wider and narrow != "float32" and out.dtype == "float32"
        return out.astype(narrow) if rounds else out

    return kernel


def adapted(kernel: Kernel, bfloat16: Any) -> Kernel:
    """Return an op's kernel for bfloat16 too; CuPy's own loop where only arrays meet."""
    careful = in_float32(kernel, frozenset({bfloat16}))
    if not any("E" in str(loop) for loop in getattr(kernel, "types", ())):
        return careful

    def fast(*arrays: Any, **attrs: Any) -> Any:
        for x in arrays:
            if x.__class__ is float or x.__class__ is int:
                return careful(*arrays, **attrs)
        return kernel(*arrays, **attrs)

    return fast


def checked(cupy: Any, name: str, kernel: Kernel) -> Kernel:
    """Return an op that reads at places, refusing those outside an axis before it reads.

    CuPy's kernels wrap around in silence. The answer is waited for.
    """

    def take(x: Any, indices: Any, axis: int | None = None) -> Any:
        at = axis or 0
        if indices.dtype.kind in "iu" and -x.ndim <= at < x.ndim:
            _refuse_outside(cupy, indices, x.shape[at], at % x.ndim)
        return kernel(x, indices, axis=axis)

    def along(x: Any, indices: Any, axis: int = -1) -> Any:
        if indices.dtype.kind in "iu" and -x.ndim <= axis < x.ndim:
            _refuse_outside(cupy, indices, x.shape[axis], axis % x.ndim)
        return kernel(x, indices, axis=axis)

    def getitem(x: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
        n_taken = len([item for item in key if item is not None and item is not Ellipsis])
        axis = 0
        for item in key:
            if item is Ellipsis:
                axis += max(x.ndim - n_taken, 0)
                continue
            if isinstance(item, str) and axis < x.ndim:
                _refuse_outside(cupy, indices[int(item[1:])], x.shape[axis], axis)
            axis += item is not None
        return kernel(x, *indices, key=key)

    return {"take": take, "take_along_axis": along, "getitem": getitem}[name]


READING = ("take", "take_along_axis", "getitem")


def _refuse_outside(cupy: Any, indices: Any, n: int, axis: int) -> None:
    """Raise IndexError, in NumPy's words, unless all indices lie in -n to n - 1."""
    if not indices.size:
        return
    if indices.dtype.kind == "u":
        inside = bool(indices.max() < n)
    else:
        # As an unsigned number what is below 0 is above all: one reduction looks at both ends.
        inside = bool((indices.astype("int64", copy=False) + n).view("uint64").max() < 2 * n)
    if not inside:
        host = cupy.asnumpy(indices)
        wrong = host[(host < -n) | (host >= n)].flat[0]
        raise IndexError(f"index {wrong} is out of bounds for axis {axis} with size {n}")


def corrections(cupy: Any, xp: Any, bfloat16: Any) -> dict[str, Kernel]:
    """Return kernels by op name where CuPy's own differ from what the op says."""
    from cupyx.scipy import special

    floating = cupy.dtype("float32")
    halves = frozenset({cupy.dtype("float16")} | ({bfloat16} if bfloat16 is not None else set()))

    def remainder(x: Any, y: Any) -> Any:
        if all(isinstance(v, int) or getattr(v, "dtype", floating).kind in "iu" for v in (x, y)):
            return cupy.remainder(x, y)
        # CuPy forms x - floor(x / y) y, which is NaN for an infinite y and rounded for a small x.
        rest = cupy.fmod(x, y)
        return cupy.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)

    def round(x: Any) -> Any:
        return x.copy() if x.dtype.kind in "biu" else cupy.rint(x)

    at_14 = int(cupy.__version__.partition(".")[0]) >= 14
    return {
        # Before CuPy 14 the sign of NaN was 0; array_api_compat mends that with three more kernels.
        "sign": cupy.sign if at_14 else xp.sign,
        "remainder": remainder,
        "round": round,
        # Their loops of float16 give float64, and running sums of 16 bits lose digits.
        **{name: in_float32(getattr(special, name), halves) for name in ("erf", "erfc")},
        **{
            name: in_float32(getattr(xp, name), halves)
            for name in ("cumulative_sum", "cumulative_prod")
        },
    }
