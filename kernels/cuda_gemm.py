"""A product of matrices as cuBLASLt does it, with what becomes of the result: an op of graphs."""

from __future__ import annotations

from typing import Any

from nnx import dtypes
from nnx.op import OPS, Op


def _gemm(xp: Any, x: Any, y: Any, /, *bias: Any, compute: str, relu: bool, dtype: Any) -> Any:
    """A product of matrices, with a bias to each row of the result, and no number below 0."""
    native = xp.native(dtypes.float64 if dtype is dtypes.float64 else dtypes.float32)
    out = xp.matmul(xp.astype(x, native), xp.astype(y, native))
    if bias:
        out = xp.add(out, xp.astype(bias[0], native))
    return xp.astype(xp.maximum(out, 0) if relu else out, xp.native(dtype))


GEMM = Op(
    "gemm", "contract", lambda x, y, *bias, **attrs: OPS["matmul"].shape(x, y), _gemm, None,
    _gemm.__doc__ or "", dtype="attr",
)  # fmt: skip
