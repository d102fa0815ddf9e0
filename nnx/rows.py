"""Data sets that are larger than memory: host arrays of which a batch at a time is read.

A memory-mapped file of some size is read so, and an array whose copy on the device would not fit
beside it. The rows, their order and the results are those of a data set held whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx import dtypes
from nnx.batches import ArrayData, Batch, ClassWeight, Place, by_class, check_partners
from nnx.device import Device
from nnx.tensor import Tensor, asarray
from nnx.tree import flatten

MAPPED_BYTES = 64 << 20
"""A memory-mapped array below this is held as any other: steps then run in native blocks."""
SHARE = 0.25
"""Of the memory of its device a copy may take this part."""
BLOCK = 1 << 16


class RowData(ArrayData):
    """A data set in host arrays that stay where they are; each batch is checked and moved."""

    def __init__(self, place: Place, x: Any, y: Any = None, weight: Any = None) -> None:
        self._place, self._x, self._y = place, x, None
        place.inputs(x[:1])  # refuses what no batch could be
        self.rows = x.shape[0]
        self.y = self.weight = None
        if y is not None:
            if reads_by_rows(place, y):
                self._y = y
                place.targets(y[:1], 1)
                check_partners(self.rows, len(y))
            else:
                self.y = place.targets(y, self.rows)
        if weight is not None:
            self.weight = place.weights(weight, self.rows)

    def to(self, place: Place) -> None:
        """Send the batches to another device from now on."""
        self._place = place
        columns, rebuild = flatten((self.y, self.weight))
        self.y, self.weight = rebuild([t.to(place.device) for t in columns])

    def weigh(self, place: Place, class_weight: ClassWeight) -> None:
        """Multiply the weight of each row by that of its class."""
        if self._y is None:
            super().weigh(place, class_weight)
            return
        import numpy as np

        parts = []
        for start in range(0, self.rows, BLOCK):
            rows = slice(start, start + BLOCK)
            own = None if self.weight is None else Tensor(self.weight.array[rows], place.device)
            targets = self._y[rows]
            y = place.targets(targets, len(targets))
            parts.append(by_class(place, y, own, class_weight).numpy())
        self.weight = place.weights(np.concatenate(parts), self.rows)

    def _part(self, rows: slice) -> RowData:
        part = object.__new__(RowData)
        part._place, part._x = self._place, self._x[rows]
        part._y = None if self._y is None else self._y[rows]
        columns, rebuild = flatten((self.y, self.weight))
        part.y, part.weight = rebuild([Tensor(t.array[rows, ...], t.device) for t in columns])
        part.rows = part._x.shape[0]
        return part

    @property
    def _device(self) -> Device:
        return self._place.device

    def sources(self) -> tuple[Any, Any]:
        """Return the inputs and the targets whole, as host arrays where they are such."""
        return self._x, self.y if self._y is None else self._y

    def cutter(self, size: int, order: Any = None) -> Callable[[int], Batch]:
        """Return a function from a step's number to its batch."""
        place = self._place
        device = place.device
        take = device.kernels["take"]

        columns, rebuild = flatten((self.y, self.weight))

        def cut(step: int) -> Batch:
            rows: Any = slice(step * size, min((step + 1) * size, self.rows))
            if order is None:
                parts = [column.array[rows, ...] for column in columns]
            else:
                rows = order[rows]
                at = asarray(rows, device=device).array
                parts = [take(column.array, at, axis=0) for column in columns]
            y, weight = rebuild([Tensor(part, device) for part in parts])
            x = place.inputs(self._x[rows])
            if self._y is not None:
                y = place.targets(self._y[rows], x.shape[0])
            return x, y, weight

        return cut


def array_data(place: Place, x: Any, y: Any = None, weight: Any = None) -> ArrayData:
    """Return a data set in arrays, held whole or read by rows."""
    return (RowData if reads_by_rows(place, x) else ArrayData)(place, x, y, weight)


def reads_by_rows(place: Place, array: Any) -> bool:
    """Return whether an array is to be read a batch at a time."""
    import numpy as np

    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.nbytes < MAPPED_BYTES:
        return False
    if array.dtype.kind not in "biuf":
        return False
    return _is_mapped(array) or _copied_bytes(place, array) > SHARE * _memory_bytes(place)


def _is_mapped(array: Any) -> bool:
    """Return whether an array, or what it is a view of, is a memory-mapped file."""
    import numpy as np

    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _copied_bytes(place: Place, array: Any) -> int:
    """Return the size of the copy that a move to the device would make; 0 where it makes none."""
    floating = array.dtype.kind == "f"
    wanted = place.dtype if floating else dtypes.as_dtype(array.dtype)
    stays = place.device.backend.on_host and array.flags.c_contiguous
    if stays and dtypes.as_dtype(array.dtype) is wanted and array.dtype.isnative:
        return 0
    return int(array.size * (wanted.bits // 8))


def _memory_bytes(place: Place) -> float:
    """Return the size of the device's memory; infinity where it is not known."""
    hardware = place.device.backend.devices()[place.device.index]
    return hardware.memory_bytes or float("inf")
