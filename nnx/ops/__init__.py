"""The op table: one entry an op, for all devices."""

from __future__ import annotations

from nnx.op import OPS
from nnx.ops import contract, elementwise, layout, loss, reduce, special

MODULES = (elementwise, special, reduce, contract, layout, loss)

__all__ = ["MODULES", "OPS", "contract", "elementwise", "layout", "loss", "reduce", "special"]
