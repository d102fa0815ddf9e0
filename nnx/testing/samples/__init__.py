"""The sample table: what goes into each op, and what NumPy in float64 says comes out.

It is shipped because `nnx.testing.check_backend` runs it on anyone's backend; nnx's own suite runs
the same rows. References are formulas in NumPy or `math`, never an op of nnx.

The float64 arrays of a sample stand for each type under test; other arrays keep their type; Python
numbers stay Python numbers. A new op needs a row here.
"""

from __future__ import annotations

from nnx.testing.samples import contract, elementwise, indexing, layout, loss, reduce
from nnx.testing.samples.table import SAMPLES, Sample

__all__ = ["SAMPLES", "Sample", "contract", "elementwise", "indexing", "layout", "loss", "reduce"]
