"""The share of right answers."""

from __future__ import annotations

import math
from typing import Any

from nnx import creation, dtypes, shapes
from nnx.errors import DataError, ShapeError
from nnx.metrics.core import State, added, best, checked_count, metric, ratio, top
from nnx.ops import elementwise, layout, reduce
from nnx.ops.loss import check_classes


def _merge(first: State, second: State) -> State:
    return *added(first[:2], second[:2]), elementwise.maximum(first[2], second[2])


def _finish(state: State) -> float:
    """Return the share of right answers; NaN where a score is NaN, which says nothing."""
    return math.nan if math.isnan(float(state[2])) else ratio(state[:2])


@metric(_finish, _merge)
def accuracy(predictions: Any, targets: Any) -> State:
    """The share of right answers; NaN where a score is NaN.

    Shapes: scores (..., C) against class numbers (...,) or rows (..., C): the largest counts;
    scores (B,) or (B, 1) against 0 and 1: logits, a positive one says 1; integers against
    integers of the same shape: equal ones are right.

    >>> accuracy([[0.1, 2.0], [3.0, 1.0]], [1, 1])
    0.5
    """
    same_shape = predictions.shape == targets.shape
    if same_shape and not predictions.dtype.is_floating:
        return *_counted(predictions == targets), 0.0
    if same_shape and (predictions.ndim < 2 or predictions.shape[-1] == 1):
        return _answered(predictions, targets)
    check_scores(predictions, targets)
    if same_shape:
        targets = reduce.argmax(targets, axis=-1)
    return *_counted(best(predictions) == targets), top(predictions)


@metric(_finish, _merge)
def binary_accuracy(predictions: Any, targets: Any) -> State:
    """The share of right answers, each by itself: a positive logit says 1; NaN where one is NaN.

    Shapes: both the same. ``"accuracy"`` means this one beside binary cross-entropy.
    """
    shapes.loss(predictions.shape, targets.shape)
    return _answered(predictions, targets)


def _answered(logits: Any, targets: Any) -> State:
    return *_counted((logits > 0) == (targets > 0.5)), top(logits)


@metric()
def top_k_accuracy(predictions: Any, targets: Any, k: int = 5) -> State:
    """The share of rows whose class is among the k highest scores; of equal ones the first lead.

    Shapes: scores (..., C), class numbers (...,) or rows (..., C). Raises: DataError unless
    1 <= k <= C.
    """
    check_scores(predictions, targets)
    n_classes = predictions.shape[-1]
    if not checked_count("top_k_accuracy: k", k) <= n_classes:
        raise DataError(f"top_k_accuracy: k is from 1 to the {n_classes} classes, got {k}.")
    if targets.ndim == predictions.ndim:
        targets = reduce.argmax(targets, axis=-1)
    check_classes(targets.device.namespace, targets.array, n_classes)
    place = layout.expand_dims(targets.astype(targets.device.nearest(dtypes.int64)), axis=-1)
    own = layout.take_along_axis(predictions, place, axis=-1)
    classes: Any = creation.arange(n_classes, device=predictions.device)
    # A NaN is never below: it counts as ahead, so that no row with one is right by accident.
    behind = (predictions < own) | ((predictions == own) & (classes >= place))
    ahead = reduce.sum(elementwise.logical_not(behind), axis=-1)
    return _counted(ahead < k)


def check_scores(predictions: Any, targets: Any) -> None:
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
