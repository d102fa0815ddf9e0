"""Products of matrices as cuBLASLt does them, with what becomes of the result: ops of graphs."""

from __future__ import annotations

from typing import Any

from nnx import dtypes
from nnx.op import OPS, Op


def _gemm(xp: Any, x: Any, y: Any, /, *given: Any, compute: str, epilogue: str, dtype: Any) -> Any:
    """A product of matrices, and what its epilogue makes of it.

    "bias" adds ``given``, one number a column; "relu_bias" then leaves no number below 0, and so
    does "relu_aux_bias", with a `MASK` beside it. "drelu" gives 0 where the mask ``given`` has no
    bit. "bgradb" is the product as it is, with `SUMS` beside it.
    """
    native = xp.native(dtypes.float64 if dtype is dtypes.float64 else dtypes.float32)
    out = xp.matmul(xp.astype(x, native), xp.astype(y, native))
    if epilogue == "drelu":
        out = xp.where(_unpacked(xp, given[0], out.shape), out, 0.0)
    elif given:
        out = xp.add(out, xp.astype(given[0], native))
    if epilogue in ("relu_bias", "relu_aux_bias"):
        out = xp.maximum(out, 0)
    return xp.astype(out, xp.native(dtype))


def _mask(xp: Any, x: Any, /, *, dtype: Any) -> Any:
    """Bits that tell which elements are above 0, the first of a byte the lowest."""
    rows, n = x.shape
    bits = xp.astype(xp.reshape(xp.greater(x, 0), (rows, n // 8, 8)), xp.native(dtypes.int64))
    return xp.astype(xp.sum(xp.multiply(bits, _powers(xp)), axis=-1), xp.native(dtype))


def _unpacked(xp: Any, mask: Any, shape: Any) -> Any:
    wide = xp.reshape(xp.astype(mask, xp.native(dtypes.int64)), (*mask.shape, 1))
    return xp.reshape(xp.not_equal(xp.bitwise_and(wide, _powers(xp)), 0), shape)


def _powers(xp: Any) -> Any:
    return xp.from_host([1 << i for i in range(8)], dtypes.int64)


def _sums(xp: Any, x: Any, product: Any, /, *, dtype: Any, keepdims: bool) -> Any:
    """The sums of a right factor down its columns, made by the product that reads it."""
    return xp.sum(xp.astype(x, xp.native(dtype)), axis=0, keepdims=keepdims)


def _sums_shape(x: Any, product: Any, *, dtype: Any, keepdims: bool) -> Any:
    return (1, x[1]) if keepdims else (x[1],)


def _relu(xp: Any, x: Any, /) -> Any:
    """No number below 0, with a `MASK` beside it."""
    return xp.maximum(x, 0)


def _op(name: str, kind: str, shape: Any, meaning: Any, dtype: str = "same") -> Op:
    return Op(name, kind, shape, meaning, None, meaning.__doc__ or "", dtype=dtype)


MASK_MULTIPLE = 128
"""Of what the rows of a mask have as many bits: those of the matrix too, so that none is unused."""

GEMM = _op(
    "gemm", "contract", lambda x, y, *given, **attrs: OPS["matmul"].shape(x, y), _gemm, "attr"
)
MASK = _op("gemm_mask", "elementwise", lambda x, dtype: (x[0], x[1] // 8), _mask, "attr")
SUMS = _op("gemm_sums", "reduce", _sums_shape, _sums, "attr")
RELU = _op("gemm_relu", "elementwise", lambda x: x, _relu)
RIDERS = (MASK, SUMS)
"""What is made beside the last of its inputs, by what makes that."""
