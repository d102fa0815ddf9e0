"""Data sets that are larger than memory: host arrays of which a batch at a time is read.

A memory-mapped file of some size is read so by a CPU device, and an array whose copy would not fit
into the device's memory by any: `Backend.resident` says so, `Backend.uploads` sends the batches.
The rows, their order and the results are those of a data set held whole.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any

from nnx import dtypes
from nnx.batches import ArrayData, Batch, ClassWeight, Place, by_class, check_partners, taking
from nnx.device import Device
from nnx.host import to_host
from nnx.tensor import Tensor, asarray
from nnx.tree import flatten

MAPPED_BYTES = 64 << 20
"""A memory-mapped array below this is held as any other: steps then run in native blocks."""
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

    def head(self, n: int) -> Batch:
        """Return the first rows."""
        return next(self._read([slice(0, min(n, self.rows))], sliced=True))

    def batches(self, size: int, order: Any = None, first: int = 0) -> Iterator[Batch]:
        """Yield the batches from one on, of the rows in the order given as a host array."""
        spans = (
            slice(step * size, min((step + 1) * size, self.rows))
            for step in range(first, self.steps(size))
        )
        if order is None:
            return self._read(spans, sliced=True)
        return self._read((order[span] for span in spans), sliced=False)

    def _read(self, places: Iterable[Any], sliced: bool) -> Iterator[Batch]:
        """Yield a batch for each slice or array of rows; a device may be sent the next ahead."""
        import numpy as np

        place = self._place
        device, backend = place.device, place.device.backend
        columns, rebuild = flatten((self.y, self.weight))
        take, held = taking(device), collections.deque[Any]()
        sources = [self._x] if self._y is None else [self._x, self._y]
        wanted = [place.inputs(self._x[:1])]
        if self._y is not None:
            wanted.append(place.targets(self._y[:1], 1))

        def hosts() -> Iterator[list[Any]]:
            for rows in places:
                held.append(rows)
                yield [np.ascontiguousarray(to_host(source[rows])) for source in sources]

        natives = [device.native(tensor.dtype) for tensor in wanted]
        for arrays in backend.uploads(hosts(), natives, device.index):
            rows = held.popleft()
            if sliced:
                parts = [column.array[rows, ...] for column in columns]
            else:
                at = asarray(rows, device=device).array if columns else None
                parts = [take(column.array, at) for column in columns]
            y, weight = rebuild([Tensor(part, device) for part in parts])
            x, *targets = (Tensor(array, device) for array in arrays)
            yield x, targets[0] if targets else y, weight


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
    backend = place.device.backend
    if backend.on_host and _is_mapped(array):
        return True
    copied = _copied_bytes(place, array)
    return copied > 0 and not backend.resident(copied, place.device.index)


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
