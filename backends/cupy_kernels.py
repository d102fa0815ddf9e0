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
