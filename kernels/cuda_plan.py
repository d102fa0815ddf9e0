"""Which eqns share loops on a GPU, and what of that a block keeps in shared memory."""

from __future__ import annotations

from collections.abc import Sequence

from nnx.graph import CHECK, Eqn, same_shape
from nnx.kernels.cuda_step import THREADS, WARPS
from nnx.kernels.groups import Group, Plan
from nnx.scalar import Scalar

SHARED_COLUMNS, SHARED_BYTES = 256, 24 << 10
"""Up to so many columns are summed in the same loops as rows, and in so much shared memory."""


class GpuPlan(Plan):
    """Groups as GPUs take them: long columns are not summed in loops over rows."""

    def _joins(self, eqn: Eqn, group: Group) -> bool:
        if not group.alone and any(self._mixes(e, group) for e in (eqn, *self._sums_of(eqn))):
            return False
        return super()._joins(eqn, group)

    def _sums_of(self, eqn: Eqn) -> list[Eqn]:
        """Return the sums of columns that are all that reads a widened value: it is read as it was
        by their own loops, not stored by others.
        """
        readers = self.readers.get(eqn.out, [])
        widens = eqn.op.name == "astype" and eqn.inputs[0].dtype.bits < eqn.out.dtype.bits
        return readers if widens and all(self.reduction(e) == "column" for e in readers) else []

    def _mixes(self, eqn: Eqn, group: Group) -> bool:
        """Return whether an eqn would bring loops over rows and too many sums of columns together.

        What such loops sum down the columns is in memory that the block shares.
        """
        eqns = (*group.eqns, eqn)
        summed = [e for e in eqns if self.reduction(e) == "column"]
        if not summed or not any(self.is_by_rows(e, group) for e in eqns):
            return False
        columns = group.domain[-1] if group.domain else 1
        if isinstance(columns, Scalar) or columns > SHARED_COLUMNS:
            return True
        return _shared_bytes(summed, columns) > SHARED_BYTES

    def shared_bytes(self, group: Group) -> int:
        """Return about how many bytes a part keeps in memory that its block shares."""
        summed = [e for e in group.eqns if self.reduction(e) == "column"]
        kept = sum(THREADS * e.out.dtype.itemsize for e in summed)  # for sums over threads
        if summed and any(self.is_by_rows(e, group) for e in group.eqns):
            kept += _shared_bytes(summed, group.domain[-1])
        return kept

    def is_by_rows(self, eqn: Eqn, group: Group) -> bool:
        """Return whether an eqn needs loops over the rows of its group."""
        kind = self.reduction(eqn)
        shape = eqn.inputs[0].shape if kind != "other" or eqn.op is CHECK else eqn.out.shape
        return kind == "row" or not same_shape(shape, group.domain)


def _shared_bytes(summed: Sequence[Eqn], columns: int) -> int:
    return sum(WARPS * columns * max(4, eqn.out.dtype.itemsize) for eqn in summed)
