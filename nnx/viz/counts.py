"""What the pictures of classes count: probabilities, confusions, and the points of ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.errors import DataError, LabelError, ShapeError
from nnx.tensor import Tensor

Array = NDArray[Any]


def host(x: Any) -> Array:
    """Return a tensor or anything like an array as a NumPy array."""
    return np.asarray(x.numpy() if isinstance(x, Tensor) else x)


def probabilities(scores: Any) -> Array:
    """Return the probability of each class, for logits or for what is one already.

    Shapes: scores (B, C) -> (B, C); (B,) or (B, 1), of the second of two classes, -> (B, 2).
    Rows that sum to 1, and single scores from 0 to 1, are probabilities; others are logits.
    Raises: DataError for a NaN, which says no class.
    """
    given = host(scores).astype(np.float64)
    if (bad := np.argwhere(np.isnan(given))).size:
        raise DataError(
            f"Row {bad[0][0]} of the scores has a NaN, {len(bad)} in all; it says no class. Find "
            f"where the network makes it: model.predict on that row alone."
        )
    if given.ndim == 1:
        given = given[:, np.newaxis]
    if given.ndim != 2 or not given.size:
        raise ShapeError(f"Scores are (rows, classes), got shape {given.shape}.")
    shares = bool((given >= 0).all() and (given <= 1).all())
    if given.shape[1] == 1:
        second = given if shares else _logistic(given)
        return np.concatenate([1 - second, second], axis=1)
    if shares and np.allclose(given.sum(axis=1), 1, atol=1e-3):
        return given
    # Not inf - inf, which is no number: of several infinite logits each takes an equal share.
    top = given.max(axis=1, keepdims=True)
    raised = np.exp(np.subtract(given, top, out=np.zeros_like(given), where=given != top))
    result: Array = raised / raised.sum(axis=1, keepdims=True)
    return result


def _logistic(x: Array) -> Array:
    # Of -|x|, as exp of a large number overflows.
    small = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, small) / (1 + small)
    return result


def labels(targets: Any, n_rows: int, n_classes: int) -> Array:
    """Return targets as class numbers; rows of C become their largest.

    Raises: ShapeError for another number of rows, LabelError for a number that is no class.
    """
    given = host(targets)
    if given.ndim == 2 and given.shape[1] == n_classes and n_classes > 1:
        given = given.argmax(axis=1)
    given = given.reshape(-1)
    if len(given) != n_rows:
        raise ShapeError(f"{n_rows} predictions take as many targets, got {len(given)}.")
    whole = given.astype(np.int64)
    wrong = (whole != given) | (whole < 0) | (whole >= n_classes)
    if wrong.any():
        raise LabelError(f"Target {given[wrong][0]} is no class: they are 0 to {n_classes - 1}.")
    return whole


def class_names(classes: Sequence[Any] | None, n: int) -> list[str]:
    """Return the names of the classes, their numbers where none are given."""
    names = [str(i) for i in range(n)] if not classes else [str(name) for name in classes]
    if len(names) != n:
        raise DataError(f"{len(names)} names were given for {n} classes.")
    return names


def shortened(name: str, length: int = 22) -> str:
    """Return a name without its middle where it is too long for a label.

    >>> shortened("iris setosa of the northern meadows", 16)
    'iris set…meadows'
    """
    if len(name) <= length:
        return name
    return f"{name[: length // 2]}…{name[len(name) - (length - 1) // 2 :]}"
