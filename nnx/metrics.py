"""Metrics: how good predictions are, all at once or summed up batch by batch.

Every metric takes predictions first and targets second, as the losses do, as tensors of any device
or as host arrays. `Metric` is the form that `fit` and `evaluate` use: what each part of the data
adds is measured on the device, merged, and finished once at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from nnx import creation, dtypes, shapes
from nnx.errors import DataError, ShapeError, did_you_mean
from nnx.ops import elementwise, layout, reduce
from nnx.ops.loss import binary_cross_entropy
from nnx.tape import no_grad
from nnx.tensor import Tensor, asarray

State = tuple[Any, ...]


class Metric(NamedTuple):
    """A metric in parts: ``finish(merge(measure(p1, t1), measure(p2, t2)))``."""

    name: str
    measure: Callable[..., State]
    finish: Callable[[State], float]
    merge: Callable[[State, State], State]


METRICS: dict[str, Metric] = {}
"""Every metric by name."""


def _added(first: State, second: State) -> State:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _ratio(state: State) -> float:
    total, count = state
    return float(total) / count if count else float("nan")


def _metric(
    finish: Callable[[State], float] = _ratio, merge: Callable[[State, State], State] = _added
) -> Callable[[Callable[..., State]], Callable[..., float]]:
    """Enter the decorated ``measure`` and return the function that users call."""

    def enter(measure: Callable[..., State]) -> Callable[..., float]:
        entry = Metric(measure.__name__, measure, finish, merge)
        METRICS[entry.name] = entry

        @functools.wraps(measure)
        def call(predictions: Any, targets: Any, **options: Any) -> float:
            with no_grad():
                return finish(measure(*_tensors(predictions, targets), **options))

        call.metric = entry  # type: ignore[attr-defined]
        return call

    return enter


def _tensors(predictions: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return both as tensors of one device: that of the predictions, NumPy's for host data."""
    if isinstance(predictions, Tensor):
        return predictions, asarray(targets, device=predictions.device)
    device = targets.device if isinstance(targets, Tensor) else "numpy"
    return asarray(predictions, device=device), asarray(targets, device=device)


# Classes


@_metric()
def accuracy(predictions: Any, targets: Any) -> State:
    """The share of right answers.

    Shapes: scores (..., C) against class numbers (...,) or rows (..., C): the largest counts;
    scores (B,) or (B, 1) against 0 and 1: logits, a positive one says 1; integers against
    integers of the same shape: equal ones are right.

    >>> accuracy([[0.1, 2.0], [3.0, 1.0]], [1, 1])
    0.5
    """
    same_shape = predictions.shape == targets.shape
    if same_shape and not predictions.dtype.is_floating:
        return _counted(predictions == targets)
    if same_shape and (predictions.ndim < 2 or predictions.shape[-1] == 1):
        return _counted((predictions > 0) == (targets > 0.5))
    _check_scores(predictions, targets)
    if same_shape:
        targets = reduce.argmax(targets, axis=-1)
    return _counted(reduce.argmax(predictions, axis=-1) == targets)


@_metric()
def binary_accuracy(predictions: Any, targets: Any) -> State:
    """The share of right answers, each by itself: a positive logit says 1.

    Shapes: both the same. ``"accuracy"`` means this one beside binary cross-entropy.
    """
    shapes.loss(predictions.shape, targets.shape)
    return _counted((predictions > 0) == (targets > 0.5))


@_metric()
def top_k_accuracy(predictions: Any, targets: Any, k: int = 5) -> State:
    """The share of rows whose class is among the k highest scores; of equal ones the first lead.

    Shapes: scores (..., C), class numbers (...,) or rows (..., C). Raises: DataError unless
    1 <= k <= C.
    """
    _check_scores(predictions, targets)
    n_classes = predictions.shape[-1]
    if not 1 <= k <= n_classes:
        raise DataError(f"top_k_accuracy: k is from 1 to the {n_classes} classes, got {k}.")
    if targets.ndim == predictions.ndim:
        targets = reduce.argmax(targets, axis=-1)
    place = layout.expand_dims(targets.astype(targets.device.nearest(dtypes.int64)), axis=-1)
    own = layout.take_along_axis(predictions, place, axis=-1)
    classes: Any = creation.arange(n_classes, device=predictions.device)
    # A NaN is never below: it counts as ahead, so that no row with one is right by accident.
    behind = (predictions < own) | ((predictions == own) & (classes >= place))
    ahead = reduce.sum(elementwise.logical_not(behind), axis=-1)
    return _counted(ahead < k)


def _check_scores(predictions: Any, targets: Any) -> None:
    """Refuse shapes that would compare each with each, or find the largest of one score."""
    fits = targets.shape in (predictions.shape, predictions.shape[:-1])
    if not fits or not predictions.shape or predictions.shape[-1] < 2:
        shape = predictions.shape
        raise ShapeError(
            f"Predictions of shape {shape} take targets of shape {shape[:-1]} (class numbers) or "
            f"{shape} (a row each), and single scores targets of their own shape; got "
            f"{targets.shape}. Reshape one: targets.reshape({shape})."
        )


def _counted(right: Any) -> State:
    return reduce.sum(right), right.size


# Numbers


def _squared(predictions: Any, targets: Any) -> Any:
    return elementwise.square(_error(predictions, targets))


def _error(predictions: Any, targets: Any) -> Any:
    shapes.loss(predictions.shape, targets.shape)
    return _wide(predictions) - _wide(targets)


def _wide(x: Tensor) -> Tensor:
    """Return x in float64 where its device has that, so that long sums keep their digits."""
    wide = dtypes.float64 if x.device.has(dtypes.float64) else dtypes.float32
    return x.astype(wide)  # type: ignore[no-any-return]


@_metric()
def mse(predictions: Any, targets: Any) -> State:
    """The mean squared error. Shapes: both the same; nothing broadcasts."""
    squared = _squared(predictions, targets)
    return reduce.sum(squared), squared.size


@_metric()
def mae(predictions: Any, targets: Any) -> State:
    """The mean absolute error. Shapes: both the same; nothing broadcasts."""
    sizes = elementwise.abs(_error(predictions, targets))
    return reduce.sum(sizes), sizes.size


def _r2_finish(state: State) -> float:
    """Return 1 - residual / spread, the mean over columns; a constant target has 1 or 0."""
    import numpy as np

    n, _, spread, residual = (np.asarray(part) for part in state)
    if n < 2:
        return float("nan")
    constant = spread == 0
    share = 1.0 - residual / np.where(constant, 1.0, spread)
    return float(np.where(constant, residual == 0, share).mean())


def _r2_merge(first: State, second: State) -> State:
    """Join two parts by their means. Source: Chan, Golub, LeVeque 1983, eq. 2.1."""
    n1, mean1, spread1, residual1 = first
    n2, mean2, spread2, residual2 = second
    n = n1 + n2
    step = mean2 - mean1
    spread = spread1 + spread2 + step * step * (n1 * n2 / n)
    return n, mean1 + step * (n2 / n), spread, residual1 + residual2


@_metric(_r2_finish, _r2_merge)
def r2(predictions: Any, targets: Any) -> State:
    """The share of the targets' variance that is predicted: 1 - sum (y - p)^2 / sum (y - mean)^2.

    Shapes: both (B,), or both (B, O): the mean over columns.
    """
    residual = reduce.sum(_squared(predictions, targets), axis=0)
    mean = reduce.mean(_wide(targets), axis=0)
    spread = reduce.sum(elementwise.square(_wide(targets) - mean), axis=0)
    return targets.shape[0], mean, spread, residual


# Looking up and summing up


def get(metric: Any, loss: Any = None) -> Metric:
    """Return the streaming form of a metric given by name or as a function.

    ``functools.partial(top_k_accuracy, k=3)`` sets options. Another function, called as
    ``f(predictions, targets)``, is averaged over the parts of the data by their rows.
    Raises: DataError for an unknown name.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise DataError(f"There is no metric {metric!r}. {did_you_mean(metric, METRICS)}")
        entry = METRICS[metric]
    elif isinstance(metric, functools.partial) and hasattr(metric.func, "metric"):
        bare: Metric = metric.func.metric
        return bare._replace(measure=functools.partial(bare.measure, **metric.keywords))
    elif callable(metric):
        entry = getattr(metric, "metric", None) or _of_function(metric)
    else:
        raise DataError(f"A metric is a name or a function, got {metric!r}. Names: {_names()}.")
    if entry.name == "accuracy" and loss is binary_cross_entropy:
        return METRICS["binary_accuracy"]._replace(name="accuracy")
    return entry


def _names() -> str:
    return ", ".join(sorted(METRICS))


def _of_function(function: Callable[..., Any]) -> Metric:
    def measure(predictions: Any, targets: Any) -> State:
        n = targets.shape[0]
        return float(function(predictions, targets)) * n, n

    return Metric(getattr(function, "__name__", "metric"), measure, _ratio, _added)


def _times(room: int, size: int) -> int:
    """Return how often a size is added until there is no more room."""
    return -(-room // size) if size else 1


class Tally:
    """Metrics of data that comes in batches.

    Predictions are collected as they come and measured some thousand rows at a time: a step then
    costs an append, not a handful of ops.
    """

    ROWS = 4096
    ELEMENTS = 1 << 20

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)
        self._states: list[State | None] = [None] * len(self._metrics)
        self._parts: list[tuple[Any, Any]] = []
        self._rows = self._elements = 0

    def add(self, predictions: Tensor, targets: Tensor, size: int | None = None) -> None:
        """Take in a batch, or many of ``size`` rows; the arrays must not be written afterwards.

        Many give the bits that each by itself gives.
        """
        if not self._metrics:
            return
        array, wanted = predictions.array, targets.array
        self._device = predictions.device
        size = size or array.shape[0]
        elements = shapes.size((size, *array.shape[1:]))
        while array.shape[0]:
            most = max(1, min(_times(self.ROWS - self._rows, size),
                              _times(self.ELEMENTS - self._elements, elements)))  # fmt: skip
            if most * size < array.shape[0]:
                now, later = slice(most * size), slice(most * size, None)
                self._add(array[now, ...], wanted[now, ...], most * elements)
                array, wanted = array[later, ...], wanted[later, ...]
            else:
                self._add(array, wanted, array.shape[0] // size * elements)
                break

    def _add(self, array: Any, wanted: Any, elements: int) -> None:
        self._parts.append((array, wanted))
        self._rows += array.shape[0]
        self._elements += elements
        if self._rows >= self.ROWS or self._elements >= self.ELEMENTS:
            self._measure(self._device)

    def state(self) -> dict[str, Any]:
        """Return all that was taken in, as `restore` takes it: nothing is measured for it."""
        parts = [self._joined(self._device)] if self._parts else []
        return {"states": [state and list(state) for state in self._states], "parts": parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, the tensors in it on the device that goes on."""
        states = [None if found is None else tuple(found) for found in state["states"]]
        if len(states) != len(self._metrics):
            raise DataError(f"These are the sums of {len(states)} metrics, not of this tally's.")
        self._states = list(states)
        for predictions, targets in state["parts"]:
            self.add(predictions, targets)

    def _joined(self, device: Any) -> list[Tensor]:
        """Return predictions and targets that were not yet measured."""
        concat = device.kernels["concat"]
        return [
            Tensor(column[0] if len(column) == 1 else concat(*column, axis=0), device)
            for column in zip(*self._parts, strict=True)
        ]

    def _measure(self, device: Any) -> None:
        joined = self._joined(device)
        self._parts, self._rows, self._elements = [], 0, 0
        for i, metric in enumerate(self._metrics):
            state, held = metric.measure(*joined), self._states[i]
            self._states[i] = state if held is None else metric.merge(held, state)

    def results(self) -> dict[str, float]:
        """Return what all batches so far amount to, by name."""
        if self._parts:
            self._measure(self._device)
        return {
            metric.name: float("nan") if state is None else metric.finish(state)
            for metric, state in zip(self._metrics, self._states, strict=True)
        }
