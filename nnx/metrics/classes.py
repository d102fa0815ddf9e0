"""Precision, recall and their mean, and which class is taken for which.

All of them count on the device and divide once. What is a question without an answer is 0, as in
scikit-learn: the precision of a class that was never guessed, the recall of one that never occurs.
Scores with a NaN give NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from nnx import creation, dtypes, shapes
from nnx.errors import DataError, LabelError, ShapeError
from nnx.metrics.accuracy import check_scores
from nnx.metrics.core import (
    Metric,
    State,
    best,
    checked_count,
    entered,
    one_of,
    refuse_nothing,
    tensors,
    top,
)  # fmt: skip
from nnx.ops import elementwise, layout, reduce
from nnx.ops.loss import check_classes
from nnx.tape import no_grad
from nnx.tensor import Tensor

AVERAGES = ("auto", "binary", "macro", "micro", "weighted", None)


MOST_CLASSES = 1 << 22
MOST_IN_MATRIX = 1 << 13
"""A matrix of more classes would take more than half a gigabyte."""


# What was decided


def decided(predictions: Any, targets: Any) -> tuple[Tensor, Tensor, int]:
    """Return guessed and right class of each row as integers in a vector, and the classes' number.

    The forms are those of `nnx.metrics.accuracy`. Of class numbers the largest one tells how many
    classes there are; there are two at least.
    Raises: ShapeError for other shapes, LabelError for a class that does not exist.
    """
    same_shape = predictions.shape == targets.shape
    whole = predictions.device.nearest(dtypes.int64)
    guess: Any
    truth: Any
    if (same_shape and predictions.ndim < 2) or predictions.shape[-1:] == (1,):
        if not same_shape:
            raise ShapeError(
                f"One score a row, of shape {predictions.shape}, takes targets of the same shape; "
                f"got {targets.shape}. Reshape one: targets.reshape({predictions.shape})."
            )
        if predictions.dtype.is_floating:
            guess, truth = predictions > 0, targets > 0.5
            return _flat(guess.astype(whole)), _flat(truth.astype(whole)), 2
    if same_shape and not predictions.dtype.is_floating:
        guess, truth = predictions.astype(whole), _numbers(targets, whole)
        n_classes = max(2, *(1 + int(reduce.max(part).item()) for part in (guess, truth)))
        for part in (guess, truth):
            check_classes(part.device.namespace, part.array, n_classes)
        _refuse_many(n_classes, MOST_CLASSES)
        return _flat(guess), _flat(truth), n_classes
    check_scores(predictions, targets)
    n_classes = predictions.shape[-1]
    if same_shape:
        truth = reduce.argmax(targets, axis=-1).astype(whole)
    else:
        truth = _numbers(targets, whole)
        check_classes(truth.device.namespace, truth.array, n_classes)
    return _flat(_numbers(best(predictions), whole)), _flat(truth), n_classes


def _refuse_many(n_classes: int, most: int) -> None:
    """Raise DataError for more classes than can be counted in memory."""
    if n_classes > most:
        raise DataError(
            f"The largest class number is {n_classes - 1:,}, and so many classes are more than can "
            f"be counted here, {most:,}. Number them from 0 on: "
            f"np.unique(y, return_inverse=True)[1]; or take nnx.metrics.mae for quantities."
        )


def _numbers(targets: Tensor, whole: Any) -> Tensor:
    """Return class numbers as integers. Raises: LabelError where they are floats."""
    if targets.dtype.is_floating:
        raise LabelError(
            f"Targets of type {targets.dtype} and shape {targets.shape}; class numbers are "
            f"integers. Convert them: y.astype('int64')."
        )
    return targets if targets.dtype == whole else targets.astype(whole)


def _flat(x: Any) -> Tensor:
    return x if x.ndim == 1 else x.reshape(-1)  # type: ignore[no-any-return]


def _count(places: Tensor, n: int) -> Tensor:
    """Return how often each of the numbers 0 to n - 1 occurs.

    Numerics: in float64 or float32, whose whole numbers are exact here: GPUs add no int64 at once.
    """
    device = places.device
    floating = dtypes.float64 if device.has(dtypes.float64) else dtypes.float32
    ones = creation.ones(places.shape, dtype=floating, device=device)
    counts = layout.scatter_add(ones, places, key=("#0",), shape=(n,))
    return counts.astype(places.dtype)  # type: ignore[no-any-return]


# Counts of each class: hits, guessed, actual


MATRIX = 64
"""Up to so many classes each pair of a right class and a guess is counted, which is faster."""


def count_classes(predictions: Any, targets: Any, multilabel: bool = False) -> State:
    """Return counts, what they are of, and the largest score, which is NaN where any is.

    "pairs" are counts of each pair of classes, in a vector; "classes" and "labels" are hits,
    guesses and occurrences of each class, or each column, in three rows.
    """
    refuse_nothing("precision, recall and f1", predictions)
    largest = top(predictions)
    if multilabel:
        whole = predictions.device.nearest(dtypes.int64)
        shapes.loss(predictions.shape, targets.shape)
        guess, truth = predictions > 0, targets > 0.5
        if guess.ndim != 2:
            guess, truth = (part.reshape(-1, 1) for part in (guess, truth))
        sums = [reduce.sum(part.astype(whole), axis=0) for part in (guess & truth, guess, truth)]
        return layout.stack(sums), "labels", largest
    guess, truth, n = decided(predictions, targets)
    if n <= MATRIX and predictions.dtype.is_floating:
        return _count(truth * n + guess, n * n), "pairs", largest
    # One count for all three: what was guessed wrong goes to a place behind them.
    hits = elementwise.where(guess == truth, guess, 3 * n)
    places = layout.concat([hits, guess + n, truth + 2 * n])
    return _count(places, 3 * n + 1)[: 3 * n].reshape(3, n), "classes", largest


def _merge_counts(first: State, second: State) -> State:
    (a, kind, largest), (b, _, other) = first, second
    if kind == "classes":  # of class numbers, the largest of which may have been missing
        n = max(a.shape[1], b.shape[1])
        a, b = (x if x.shape[1] == n else layout.pad(x, ((0, 0), (0, n - x.shape[1])))
                for x in (a, b))  # fmt: skip
    return a + b, kind, elementwise.maximum(largest, other)


def _three(state: State) -> Any:
    """Return hits, guesses and occurrences of each class or column, as host arrays."""
    import numpy as np

    counts = np.asarray(state[0].numpy(), np.float64)
    if state[1] == "pairs":
        n = math.isqrt(counts.size)
        pairs = counts.reshape(n, n)
        return np.stack([pairs.diagonal(), pairs.sum(axis=0), pairs.sum(axis=1)])
    if state[1] == "labels" and counts.shape[1] == 1:  # one question: the class 1 of two
        return np.concatenate([np.zeros_like(counts), counts], axis=1)
    return counts


def _finish(score: Callable[..., Any], state: State, average: str | None = "auto") -> Any:
    """Return a score of the counts, averaged."""
    import numpy as np

    counts = _three(state)
    n = counts.shape[1]
    labels = state[1] == "labels" and state[0].shape[1] > 1
    binary = n == 2 and not labels
    if average == "auto":
        average = "binary" if binary else "macro"
    if average == "binary" and not binary:
        raise DataError(
            f"average='binary' is for 2 classes, and there are {n} "
            f"{'columns' if labels else 'classes'}. Take 'macro', 'micro' or 'weighted'."
        )
    if math.isnan(float(state[2])):
        return np.full(n, math.nan) if average is None else math.nan
    if average == "micro":
        counts = counts.sum(axis=1, keepdims=True)
    each = score(*counts)
    if average is None:
        return each
    if average in ("binary", "micro"):
        return float(each[-1])
    _, guessed, actual = counts
    weight = actual
    if average == "macro":
        weight = np.ones(n) if labels else 1.0 * (guessed + actual > 0)
    total = weight.sum()
    return float(each @ weight / total) if total else 0.0


def share(part: Any, whole: Any) -> Any:
    """Return part / whole, 0 where there is nothing to share."""
    import numpy as np

    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _of_counts(score: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(described: Callable[..., Any]) -> Callable[..., Any]:
        finish = functools.partial(_finish, score)
        settings = {"average": one_of(f"{described.__name__}: average", AVERAGES)}
        entry = Metric(described.__name__, count_classes, finish, _merge_counts, settings)
        return entered(entry, described)

    return enter


@_of_counts(lambda hits, guessed, actual: share(hits, guessed))
def precision(
    predictions: Any, targets: Any, average: str | None = "auto", multilabel: bool = False
) -> Any:
    """The share of right guesses: of what was said to be of a class, how much is.

    Shapes: as `accuracy`. ``average``: "binary" is that of class 1, "macro" the mean over the
    classes that occur in guesses or targets, "weighted" their mean by how often they occur,
    "micro" that of all guesses together, None an array with each class; "auto" is "binary" for two
    classes, else "macro". With ``multilabel`` every column is a question by itself, answered by
    the sign of its logit. 0 where nothing was guessed; NaN where a score is NaN.

    >>> precision([2.0, 1.0, -1.0], [1, 0, 1])
    0.5
    """


@_of_counts(lambda hits, guessed, actual: share(hits, actual))
def recall(
    predictions: Any, targets: Any, average: str | None = "auto", multilabel: bool = False
) -> Any:
    """The share that was found: of what is of a class, how much was said to be.

    Shapes and averages: as `precision`. 0 for a class that never occurs; NaN where a score is NaN.
    """


@_of_counts(lambda hits, guessed, actual: share(2.0 * hits, guessed + actual))
def f1(
    predictions: Any, targets: Any, average: str | None = "auto", multilabel: bool = False
) -> Any:
    """The harmonic mean of precision and recall: 2 hits / (guessed + actual).

    Shapes and averages: as `precision`. 0 for a class that was neither guessed nor occurs; NaN
    where a score is NaN.
    """


# The whole table


def confusion_matrix(predictions: Any, targets: Any, n_classes: int | None = None) -> Any:
    """Return how often each class (row) was taken for each (column), as a NumPy array of int64.

    Shapes: predictions and targets as `accuracy` -> (C, C). ``n_classes`` is for class numbers
    whose largest does not occur.
    Raises: DataError for scores with a NaN, which say no class.

    >>> confusion_matrix([0, 1, 1], [0, 1, 0])
    array([[1, 1],
           [0, 1]])
    """
    import numpy as np

    with no_grad():
        p, t = tensors(predictions, targets)
        refuse_nothing("confusion_matrix", p)
        refuse_nan("confusion_matrix", p)
        guess, truth, n = decided(p, t)
        if n_classes is not None:
            n, least = checked_count("confusion_matrix: n_classes", n_classes), n
            if n < least:
                raise DataError(f"confusion_matrix: n_classes={n}, but there are {least} classes.")
        _refuse_many(n, MOST_IN_MATRIX)
        counts = _count(truth * n + guess, n * n)
    return np.asarray(counts.numpy(), np.int64).reshape(n, n)


def refuse_nan(what: str, scores: Tensor) -> None:
    """Raise DataError for the first row with a NaN."""
    import numpy as np

    if scores.dtype.is_floating:
        bad = np.argwhere(np.isnan(scores.numpy()))
        if len(bad):
            raise DataError(
                f"{what}: row {bad[0][0]} of the predictions has a NaN, {len(bad)} in all; it says "
                f"no class. Find where the network makes it: model.predict on that row alone."
            )
