"""The boundary to the data of `fit`, `evaluate` and `predict`: checked, moved once, cut in batches.

Here, and nowhere else, host data and tensors of other devices are moved to a network's device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nnx import dtypes
from nnx.autodiff import no_grad
from nnx.device import Device, device
from nnx.dtypes import DType
from nnx.errors import DataError, LabelError, ShapeError
from nnx.host import to_host
from nnx.ops.loss import cross_entropy
from nnx.tensor import Tensor, asarray

Batch = tuple[Tensor, Any, Any]
"""Inputs, targets or None, weights or None."""


class Place:
    """Where a network's data goes: its device, and the type of its parameters."""

    def __init__(self, where: Device, dtype: DType) -> None:
        self.device = where
        self.dtype = dtype

    def inputs(self, x: Any, copy: bool = False) -> Tensor:
        """Return inputs on the device: floats in the parameters' type, integers as they are."""
        array = _rows(x, "x")
        if array.dtype == "uint8":
            raise DataError(
                f"x of shape {tuple(array.shape)} is of type uint8, as raw images are (0 to 255). "
                f"Scale it: x.astype('float32') / 255; if it holds numbers of words or classes: "
                f"x.astype('int64')."
            )
        dtype = self.dtype if dtypes.as_dtype(array.dtype).is_floating else None
        return asarray(array, dtype=dtype, device=self.device, copy=copy or None)

    def targets(self, y: Any, copy: bool = False) -> Tensor:
        """Return targets on the device: class numbers as int64, all else as the parameters."""
        array = _rows(y, "y")
        whole = dtypes.as_dtype(array.dtype).kind in ("int", "uint")
        dtype = dtypes.int64 if whole else self.dtype
        return asarray(array, dtype=dtype, device=self.device, copy=copy or None)


def _rows(data: Any, what: str) -> Any:
    """Return data as a tensor or a host array with at least one row."""
    array = data if isinstance(data, Tensor) else to_host(data, what)
    if not array.shape:
        raise DataError(f"{what} is a single number; it must have a first axis, one entry a row.")
    if 0 in array.shape:
        raise DataError(f"{what} of shape {tuple(array.shape)} is empty: there is nothing to use.")
    return array


class ArrayData:
    """A data set in arrays: moved to the device as a whole, then cut there."""

    def __init__(self, place: Place, x: Any, y: Any = None, weight: Any = None) -> None:
        self.x = place.inputs(x)
        self.rows = self.x.shape[0]
        self.y = None if y is None else place.targets(y)
        if self.y is not None:
            check_partners(self.rows, self.y.shape[0])
        self.weight = None if weight is None else _weights(place, weight, self.rows)

    def head(self, n: int) -> Batch:
        """Return the first rows."""
        return next(self.batches(min(n, self.rows)))

    def split(self, fraction: float) -> tuple[ArrayData, ArrayData]:
        """Return the data without its last part, and that part."""
        start = int(self.rows * (1.0 - fraction))
        if not 0 < start < self.rows:
            raise DataError(
                f"validation_split={fraction} of {self.rows} rows leaves {start} to train with "
                f"and {self.rows - start} to validate; both need one. Give validation_data."
            )
        return self._part(slice(None, start)), self._part(slice(start, None))

    def _part(self, rows: slice) -> ArrayData:
        part = object.__new__(ArrayData)
        part.x, part.y, part.weight = (
            None if t is None else _taken(t, rows) for t in (self.x, self.y, self.weight)
        )  # type: ignore[assignment]
        part.rows = part.x.shape[0]
        return part

    def batches(self, size: int, order: Any = None) -> Iterator[Batch]:
        """Return the batches in turn, of the rows in the given order (a host array)."""
        columns = [None if t is None else t.array for t in (self.x, self.y, self.weight)]
        device = self.x.device
        if order is None:
            for start in range(0, self.rows, size):
                rows = slice(start, start + size)
                x, y, w = (None if c is None else Tensor(c[rows], device) for c in columns)
                yield x, y, w  # type: ignore[misc]
            return
        take = device.namespace.take
        places = asarray(order, device=device).array
        for start in range(0, self.rows, size):
            rows = places[start : start + size]
            x, y, w = (
                None if c is None else Tensor(take(c, rows, axis=0), device) for c in columns
            )
            yield x, y, w  # type: ignore[misc]


def _taken(tensor: Tensor, rows: slice) -> Tensor:
    return Tensor(tensor.array[rows], tensor.device)


class StreamData:
    """A data set that comes as batches, from any iterable; each is checked and moved as it comes.

    A batch is ``x``, ``(x, y)`` or ``(x, y, weights)``.
    """

    rows: int | None = None

    def __init__(
        self, place: Place, source: Iterable[Any], check: Callable[[Any], None] | None = None
    ) -> None:
        self._place, self._source = place, source
        self._needs_targets = True
        self.check: Callable[[Batch], None] | None = check
        self.class_weight: Mapping[int, float] | None = None
        self._first: tuple[Batch, Iterator[Any]] | None = None

    def head(self, n: int) -> Batch:
        """Return the first batch, which the first pass will give again."""
        if self._first is None:
            rest = iter(self._source)
            self._first = (self._moved(next(rest, None), 0), rest)
        return self._first[0]


def check_partners(n_inputs: int, n_targets: int) -> None:
    """Raise LabelError unless every row of x has one of y."""
    if n_inputs != n_targets:
        raise LabelError(
            f"x has {n_inputs} rows and y {n_targets}: row {min(n_inputs, n_targets)} is the "
            f"first without a partner. Give both the same length."
        )
