"""The boundary to the data of `fit`, `evaluate` and `predict`: checked, moved once, cut in batches.

Here, and nowhere else, host data and tensors of other devices are moved to a network's device.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from nnx import dtypes, random
from nnx.device import Device
from nnx.dtypes import DType
from nnx.errors import DataError, DTypeError, LabelError, did_you_mean, told_in
from nnx.host import to_host
from nnx.outputs import ONE, Takes, n_rows, named
from nnx.tensor import Tensor, asarray, elsewhere
from nnx.tree import flatten

Batch = tuple[Any, Any, Any]
"""Inputs, targets or None, weights or None; several inputs or targets are a tuple or dict."""

ClassWeight = Mapping[int, float]


class Place:
    """Where a network's data goes: its device, the type of its parameters, its inputs."""

    def __init__(self, where: Device, dtype: DType, takes: Takes = ONE) -> None:
        self.device = where
        self.dtype = dtype
        self.takes = takes

    def inputs(self, x: Any) -> Any:
        """Return inputs on the device: floats in the parameters' type, integers as they are.

        Several come as a dict, or, where the network takes as many, as a list or tuple of arrays.
        """
        if isinstance(x, Mapping):
            _check_names(x, self.takes)
            found: Any = {name: self._input(part, f"x[{name!r}]") for name, part in x.items()}
        elif self.are_several(x):
            found = tuple(self._input(part, f"x[{i}]") for i, part in enumerate(x))
        else:
            if self.takes.low > 1:
                raise DataError(
                    f"The model takes {self.takes.low} inputs"
                    f"{_listed(self.takes.names)}, and x is not so many arrays. Give a list of "
                    f"them, or a dict by name."
                )
            return self._input(x, "x")
        _check_alike(found, "x")
        return found

    def are_several(self, x: Any) -> bool:
        """Return whether x is a list of as many arrays as the network takes, two or more."""
        return (
            isinstance(x, list | tuple)
            and self.takes.high > 1
            and max(self.takes.low, 1) <= len(x) <= self.takes.high
            and all(len(getattr(part, "shape", ())) > 0 for part in x)
        )

    def _input(self, x: Any, what: str) -> Tensor:
        array = _rows(x, what)
        if array.dtype == "uint8":
            raise DTypeError(
                f"{what} of shape {tuple(array.shape)} is of type uint8, as raw images are (0 to "
                f"255). Scale it: x.astype('float32') / 255; if it holds numbers of words or "
                f"classes: x.astype('int64')."
            )
        floating = dtypes.as_dtype(array.dtype).is_floating
        return asarray(array, dtype=self.dtype if floating else None, device=self.device)

    def targets(self, y: Any, rows: int, copy: bool = False) -> Any:
        """Return targets on the device: class numbers as int64, all else as the parameters.

        Those of several outputs come as a dict, or as a list or tuple of arrays with a row for each
        of x.
        """
        found: Any
        if isinstance(y, Mapping):
            found = {name: self._target(part, f"y[{name!r}]", copy) for name, part in y.items()}
        elif _are_targets(y, rows):
            found = tuple(self._target(part, f"y[{i}]", copy) for i, part in enumerate(y))
        else:
            found = self._target(y, "y", copy)
        for what, part in named("y", found):
            check_partners(rows, part.shape[0], what)
        return found

    def _target(self, y: Any, what: str, copy: bool) -> Tensor:
        array = _rows(y, what)
        whole = dtypes.as_dtype(array.dtype).kind in ("int", "uint")
        dtype = self.device.nearest(dtypes.int64) if whole else self.dtype
        return asarray(array, dtype=dtype, device=self.device, copy=copy or None)

    def weights(self, weight: Any, rows: int) -> Tensor:
        """Return one weight a row on the device. Raises: DataError for other ones."""
        import numpy as np

        array = _rows(weight, "sample_weight")
        host = array.numpy() if isinstance(array, Tensor) else array
        if host.shape != (rows,):
            raise DataError(
                f"sample_weight has shape {host.shape}, x has {rows} rows: give one weight a row, "
                f"of shape ({rows},)."
            )
        bad = np.flatnonzero(~(np.isfinite(host) & (host >= 0)))
        if bad.size:
            raise DataError(
                f"sample_weight {host[bad[0]]} at row {bad[0]}; weights are finite and 0 or more."
            )
        return asarray(host, dtype=self.dtype, device=self.device)


def _rows(data: Any, what: str) -> Any:
    """Return data as a tensor or a host array with at least one row."""
    if not isinstance(data, Tensor) and elsewhere(data) is not None:
        data = asarray(data)
    array = data if isinstance(data, Tensor) else to_host(data, what)
    if not array.shape:
        raise DataError(f"{what} is a single value; it must have a first axis, one entry a row.")
    if 0 in array.shape:
        raise DataError(f"{what} of shape {tuple(array.shape)} is empty: there is nothing to use.")
    if isinstance(array, Tensor):
        return array
    import numpy as np

    # Rows are then summed in the same order whatever the strides of the caller's array.
    return np.ascontiguousarray(array)


def _are_targets(y: Any, rows: int) -> bool:
    """Return whether y is a list of arrays for several outputs, and not one of rows."""
    if not isinstance(y, list | tuple) or not y or len(y) == rows:
        return False
    shapes: list[Any] = [getattr(part, "shape", ()) for part in y]
    return all(shapes) and any(shape[0] == rows for shape in shapes)


def _check_names(x: Mapping[str, Any], takes: Takes) -> None:
    names = takes.names
    for name in x:
        if names is not None and name not in names:
            raise DataError(f"x has the input {name!r}. {did_you_mean(name, names)}")
    if len(x) < takes.low:
        raise DataError(f"The model takes {takes.low} inputs{_listed(names)}, x has {len(x)}.")


def _listed(names: tuple[str, ...] | None) -> str:
    return f" ({', '.join(names)})" if names else ""


def _check_alike(parts: Any, what: str) -> None:
    """Raise DataError unless all inputs have the same number of rows."""
    (first, one), *others = named(what, parts)
    for name, part in others:
        if part.shape[0] != one.shape[0]:
            raise DataError(
                f"{first} has {one.shape[0]} rows and {name} {part.shape[0]}. Give one of each for "
                f"every example."
            )


def check_partners(n_inputs: int, n_targets: int, what: str = "y") -> None:
    """Raise LabelError unless every row of x has one of y."""
    if n_inputs != n_targets:
        raise LabelError(
            f"x has {n_inputs} rows and {what} {n_targets}: row {min(n_inputs, n_targets)} is the "
            f"first without a partner. Give both the same length."
        )


class ArrayData:
    """A data set in arrays: moved to the device as a whole, then cut there.

    ``start`` is the random generator's state at which the running pass began.
    """

    start: Mapping[str, Any] | None = None

    def __init__(self, place: Place, x: Any, y: Any = None, weight: Any = None) -> None:
        self.x = place.inputs(x)
        self.rows = n_rows(self.x)
        self.y = None if y is None else place.targets(y, self.rows)
        self.weight = None if weight is None else place.weights(weight, self.rows)

    @property
    def columns(self) -> list[Tensor]:
        """The tensors of a batch: of the inputs, of the targets, the weights."""
        return flatten((self.x, self.y, self.weight))[0]

    def to(self, place: Place) -> None:
        """Move the data to another device."""
        columns, rebuild = flatten((self.x, self.y, self.weight))
        self.x, self.y, self.weight = rebuild([t.to(place.device) for t in columns])

    def weigh(self, place: Place, class_weight: ClassWeight) -> None:
        """Multiply the weight of each row by that of its class."""
        if self.y is not None:
            self.weight = by_class(place, self.y, self.weight, class_weight)

    def steps(self, size: int) -> int:
        """Return the number of batches."""
        return -(-self.rows // size)

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
        columns, rebuild = flatten((self.x, self.y, self.weight))
        part.x, part.y, part.weight = rebuild(
            [Tensor(t.array[rows, ...], t.device) for t in columns]
        )
        part.rows = n_rows(part.x)
        return part

    def begin(self, shuffle: bool, first: int = 0) -> Any:
        """Begin a pass of training: return the order of its rows, None for the one they have."""
        generator = random.default_generator()
        self.start = generator.state_dict()
        if not shuffle:
            return None
        return self._device.backend.permutation(generator, self.rows)

    @property
    def _device(self) -> Device:
        return self.columns[0].device

    def sources(self) -> tuple[Any, Any]:
        """Return the inputs and the targets whole, for a look at some of their rows."""
        return self.x, self.y

    def begin_again(self) -> None:
        """Forget that a pass was begun."""

    def batches(self, size: int, order: Any = None, first: int = 0) -> Iterator[Batch]:
        """Yield the batches from one on, of the rows in the order given as a host array."""
        cut = self.cutter(size, order)
        return map(cut, range(first, self.steps(size)))

    def cutter(self, size: int, order: Any = None) -> Callable[[int], Batch]:
        """Return a function from a step's number to its batch."""
        tensors, rebuild = flatten((self.x, self.y, self.weight))
        device, columns = tensors[0].device, [tensor.array for tensor in tensors]
        places = None if order is None else asarray(order, device=device).array
        take = taking(device)

        def cut(step: int) -> Batch:
            rows = slice(step * size, min((step + 1) * size, self.rows))
            if places is None:
                parts = [column[rows, ...] for column in columns]
            else:
                at = places[rows]
                parts = [take(column, at) for column in columns]
            return rebuild([Tensor(part, device) for part in parts])  # type: ignore[no-any-return]

        return cut


def taking(device: Device) -> Callable[[Any, Any], Any]:
    """Return what takes rows at places that are known to be there: no device looks at them."""
    backend = device.backend
    return backend.prepare(lambda x, at: backend.index(x, (at,)), device.index)  # type: ignore[no-any-return]


class StreamData:
    """A data set that comes as batches from any iterable; each is checked and moved as it comes.

    A batch is ``x``, ``(x, y)`` or ``(x, y, weights)``. The batches keep their order.
    ``start`` is the random generator's state at which the running pass began.
    """

    rows: int | None = None
    start: Mapping[str, Any] | None = None

    def __init__(self, place: Place, source: Iterable[Any], needs_targets: bool = True) -> None:
        self._class_weight: ClassWeight | None = None
        self._place, self._source, self._needs_targets = place, source, needs_targets
        self._begun: tuple[Batch, Iterator[Any]] | None = None
        self._rest: Iterator[Any] | None = None

    def to(self, place: Place) -> None:
        """Send the batches to another device from now on."""
        self._place = place
        if self._begun is not None:
            batch, rest = self._begun
            tensors, rebuild = flatten(batch)
            self._begun = (rebuild([tensor.to(place.device) for tensor in tensors]), rest)

    def weigh(self, place: Place, class_weight: ClassWeight) -> None:
        """Multiply the weight of each row by that of its class, in every batch."""
        self._class_weight = class_weight
        if self._begun is not None:
            (x, y, weight), rest = self._begun
            self._begun = ((x, y, by_class(place, y, weight, class_weight)), rest)

    def steps(self, size: int) -> int | None:
        """Return the number of batches if the iterable tells it."""
        return len(self._source) if isinstance(self._source, Sized) else None

    def head(self, n: int) -> Batch:
        """Return the first batch, with which the next pass will begin."""
        if self._begun is None:
            self._begun = self._begin()
        return self._begun[0]

    def begin(self, shuffle: bool, first: int = 0) -> Any:
        """Begin a pass, in the order of the iterable, and pass over the batches before one."""
        self.head(1)
        if first:
            assert self._begun is not None
            self._rest, self._begun = self._begun[1], None
            n = 1 + sum(1 for _ in itertools.islice(self._rest, first - 1))
            if n < first:
                raise DataError(
                    f"The iterable gave {n} batches, and {first} of the epoch were done already. "
                    f"To go on it has to give the same batches again."
                )
        return None

    def begin_again(self) -> None:
        """Forget that a pass was begun, where the iterable can be passed through again."""
        if not isinstance(self._source, Iterator):
            self._begun = None

    def batches(self, size: int, order: Any = None, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of a pass; ``first`` is how many of them were passed over."""
        rest, self._rest = self._rest, None
        if rest is None:
            batch, rest = self._begun or self._begin()
            self._begun, first = None, 1
            yield batch
        for i in itertools.count(first):
            with _noted(i):
                item = next(rest, _END)
            if item is _END:
                return
            yield self._moved(item, i)

    def _begin(self) -> tuple[Batch, Iterator[Any]]:
        self.start = random.default_generator().state_dict()
        with _noted(0):
            rest = iter(self._source)
            item = next(rest, _END)
        if item is not _END:
            return self._moved(item, 0), rest
        raise DataError(
            "The iterable gave no batches. A generator is used up after one pass; for several "
            "epochs give a list of batches, or an object whose __iter__ starts anew."
        )

    def _moved(self, item: Any, i: int) -> Batch:
        """Return one item of the iterable as a batch on the device."""
        alone = not self._needs_targets and self._place.are_several(item)
        parts = tuple(item) if isinstance(item, tuple | list) and not alone else (item,)
        if len(parts) > 3 or (self._needs_targets and len(parts) < 2):
            raise DataError(
                f"Batch {i} of the iterable has {len(parts)} parts; give (x, y) or (x, y, weights)."
            )
        with told_in(f"Batch {i} of the iterable"):
            return self._checked(*(*parts, None, None)[:3])

    def _checked(self, x: Any, y: Any, weight: Any) -> Batch:
        inputs = self._place.inputs(x)
        rows = n_rows(inputs)
        # The targets outlive the step; their maker may fill the same memory again.
        targets = None if y is None else self._place.targets(y, rows, copy=True)
        weights = None if weight is None else self._place.weights(weight, rows)
        if self._class_weight is not None and targets is not None:
            weights = by_class(self._place, targets, weights, self._class_weight)
        return inputs, targets, weights


_END: Any = object()


@contextlib.contextmanager
def _noted(batch: int) -> Iterator[None]:
    """Note at an error of the user's iterable which batch was asked for."""
    try:
        yield
    except Exception as error:
        error.add_note(f"The iterable raised this when batch {batch} was asked for (from 0 on).")
        raise


Data = ArrayData | StreamData


def is_stream(x: Any) -> bool:
    """Return whether x is an iterable of batches rather than an array or rows of numbers."""
    if isinstance(x, Tensor | str | Mapping) or hasattr(x, "__array__"):
        return False
    if isinstance(x, list | tuple):
        first = x[0] if x else None
        part = first[0] if isinstance(first, tuple) and first else None
        while isinstance(part, tuple | list | dict) and part:  # several inputs of a batch
            part = next(iter(part.values() if isinstance(part, dict) else part))
        return hasattr(part, "shape")
    return isinstance(x, Iterable) and not hasattr(x, "__dlpack__")


def open_data(place: Place, x: Any, y: Any, weight: Any = None) -> Data:
    """Return the data that training or measuring goes through."""
    if is_stream(x):
        if y is not None or weight is not None:
            raise DataError(
                "x is an iterable of batches, so y and sample_weight belong into them: let each "
                "batch be (x, y) or (x, y, weights)."
            )
        return StreamData(place, x)
    if y is None:
        raise DataError(_without_targets(x))
    from nnx.rows import array_data

    return array_data(place, x, y, weight)


def _without_targets(x: Any) -> str:
    """Return what is wrong with x that came alone and is no iterable of batches."""
    if isinstance(x, list | tuple):
        return (
            "y is missing. For one array give it too, as in fit(x, y); batches in a list are "
            "tuples: [(x, y), (x, y)]."
        )
    if isinstance(x, Mapping) or hasattr(x, "__array__") or hasattr(x, "__dlpack__"):
        return (
            "y is missing: x is an array, so give the targets too, as in fit(x, y). An iterable "
            "of batches (x, y) needs none."
        )
    hint = "Call it" if callable(x) else "Wrap it in a generator or a list of batches"
    return (
        f"x is a {type(x).__name__}: neither an array nor an iterable of batches (x, y), which has "
        f"__iter__. {hint}."
    )


def by_class(
    place: Place, targets: Tensor, weights: Tensor | None, class_weight: ClassWeight
) -> Tensor:
    """Return the weight of each row times that of its class; a class without one counts 1."""
    import numpy as np

    classes = targets.numpy()
    if classes.ndim == 2 and classes.shape[1] > 1 and _are_shares(classes):
        classes = classes.argmax(axis=-1)
    elif classes.ndim > 1 and classes.shape[-1] == 1:
        classes = classes[..., 0]
    if classes.ndim > 1 or not (classes == np.floor(classes)).all() or classes.min() < 0:
        raise DataError(
            f"class_weight needs one class a row: numbers of shape ({len(classes)},), or rows of "
            f"0 and 1 or of probabilities; got y of shape {targets.shape} and type "
            f"{targets.dtype}. Give sample_weight, one weight a row."
        )
    classes = classes.astype(np.int64)
    table = np.ones(1 + int(max(classes.max(initial=0), *class_weight)))
    for number, value in class_weight.items():
        table[int(number)] = value
    rows = table[classes]
    return place.weights(rows if weights is None else rows * weights.numpy(), len(rows))


def _are_shares(rows: Any) -> bool:
    """Return whether rows are one-hot or probabilities, so that the largest names a class."""
    import numpy as np

    sums = rows.sum(axis=1, dtype=np.float64)
    return bool((rows >= 0).all() and (np.abs(sums - 1.0) < 1e-3).all())
