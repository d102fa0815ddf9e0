"""How well scores put the right rows before the wrong ones: the ROC curve and the area under it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nnx.errors import DataError, LabelError, ShapeError
from nnx.metrics.classes import refuse_nan
from nnx.metrics.core import Metric, State, entered, one_of, refuse_nothing, tensors
from nnx.tensor import Tensor

AVERAGES = ("auto", "macro", "micro", "weighted", None)
PROBABILITY_TOLERANCE = 1e-4


def _kept(predictions: Any, targets: Any, multilabel: bool = False) -> State:
    """Return the scores and targets themselves: their order shows only when all are there."""
    shape = predictions.shape
    one_score = len(shape) == 1 or shape[1:] == (1,)
    fits = targets.shape == shape or (not one_score and targets.shape == shape[:1])
    if not fits or len(shape) not in (1, 2) or (multilabel and targets.shape != shape):
        raise ShapeError(
            f"roc_auc: scores of shape (B,), (B, 1) or (B, C) take targets of the same shape, or "
            f"(B,) class numbers; got {shape} and {targets.shape}."
        )
    return [predictions], [targets], multilabel


def _joined(first: State, second: State) -> State:
    return first[0] + second[0], first[1] + second[1], first[2]


def _host(parts: list[Tensor]) -> Any:
    import numpy as np

    return np.concatenate([part.numpy() for part in parts])


def _finish(state: State, average: str | None = "auto") -> Any:
    """Return the area, of one question or averaged over all."""
    import numpy as np

    scores, answers = _questions(_host(state[0]).astype(np.float64), _host(state[1]), state[2])
    if average == "micro":
        scores, answers = scores.reshape(-1, 1), answers.reshape(-1, 1)
    areas = np.array([_area(s, a) for s, a in zip(scores.T, answers.T, strict=True)])
    if len(areas) == 1:
        return areas if average is None else float(areas[0])
    if np.isnan(scores).any():
        areas[:] = math.nan
    if average is None:
        return areas
    weight = answers.sum(axis=0) if average == "weighted" else np.ones(len(areas))
    known = ~np.isnan(areas) & (weight > 0)
    if not known.any():
        return math.nan
    return float(np.average(areas[known], weights=weight[known]))


def _questions(scores: Any, targets: Any, multilabel: bool) -> tuple[Any, Any]:
    """Return a column of scores and one of answers, True or False, for each question.

    Two classes are one question. Of more classes each is one against the rest, by its probability.
    """
    import numpy as np

    if scores.ndim == 1 or scores.shape[1] == 1:
        return scores.reshape(-1, 1), _bits(targets).reshape(-1, 1)
    if multilabel:
        return scores, _bits(targets)
    n = scores.shape[1]
    truth = targets.argmax(axis=1) if targets.ndim == 2 else targets
    _check_classes(truth, n)
    if n == 2:
        return scores[:, 1:] - scores[:, :1], (truth == 1)[:, np.newaxis]
    return _probabilities(scores), truth[:, np.newaxis] == np.arange(n)


def _bits(targets: Any) -> Any:
    bad = (targets != 0) & (targets != 1)
    if bad.any():
        raise LabelError(
            f"roc_auc: target {targets[bad][0]} is neither 0 nor 1, and one score says no more. "
            f"Give a score for each class, of shape (B, C)."
        )
    return targets == 1


def _check_classes(truth: Any, n: int) -> None:
    bad = (truth < 0) | (truth >= n) | (truth != truth.astype("int64"))
    if bad.any():
        raise LabelError(f"roc_auc: {n} classes are numbered 0 to {n - 1}, got {truth[bad][0]}.")


def _probabilities(scores: Any) -> Any:
    """Return rows of probabilities as they are, and the softmax of all others."""
    import numpy as np

    total = scores.sum(axis=1)
    if (scores >= 0).all() and (np.abs(total - 1.0) <= PROBABILITY_TOLERANCE).all():
        return scores
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def _area(scores: Any, answers: Any) -> float:
    """Return the area, by ranks in whole numbers; ties share their ranks. NaN if it has none.

    Source: Hanley and McNeil 1982: the share of pairs in the right order, a tie counts half.
    """
    import numpy as np

    n, n_true = len(answers), int(answers.sum())
    if n_true in (0, n) or np.isnan(scores).any():
        return math.nan
    false = np.sort(scores[~answers])
    true = scores[answers]
    before = (
        np.searchsorted(false, true, "left").sum() + np.searchsorted(false, true, "right").sum()
    )
    return int(before) / (2 * n_true * (n - n_true))


def _described(
    predictions: Any, targets: Any, average: str | None = "auto", multilabel: bool = False
) -> Any:
    """The area under the ROC curve: how often a right row scores above a wrong one.

    Shapes: scores (B,) or (B, 1) against 0 and 1; (B, C) against class numbers (B,) or rows: two
    classes are one question, of more each is one against the rest, and rows that are no
    probabilities are logits, of which the softmax is taken; with ``multilabel`` every column is a
    question by itself. ``average`` over the questions: "macro" (which "auto" is), "weighted" by
    how often each is true, "micro" all together, None an array with each.
    Exact, ties count half. NaN where all rows are of one class or a score is NaN; such a class is
    left out of an average.
    Memory: in `fit` and `evaluate` the scores and targets of all rows are kept till the epoch's
    end: 4 C + 8 bytes a row in float32.

    >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """


_described.__name__ = _described.__qualname__ = "roc_auc"
_SETTINGS = {"average": one_of("roc_auc: average", AVERAGES)}
roc_auc = entered(Metric("roc_auc", _kept, _finish, _joined, _SETTINGS), _described)


class RocCurve(NamedTuple):
    """Shares of false and true alarms where scores from each threshold on say 1."""

    false_positive_rate: Any
    true_positive_rate: Any
    thresholds: Any


def roc_curve(predictions: Any, targets: Any, drop_intermediate: bool = True) -> RocCurve:
    """Return the ROC curve of one question as NumPy arrays, thresholds falling from infinity.

    Shapes: scores (B,) or (B, 1) against 0 and 1, or (B, 2) against class numbers, whose score is
    the second less the first. ``drop_intermediate`` leaves out points inside straight lines.
    A rate is NaN where there is nothing to take it of.
    Raises: DataError for scores with a NaN, and for more classes than two.
    """
    import numpy as np

    p, t = tensors(predictions, targets)
    refuse_nothing("roc_curve", p)
    refuse_nan("roc_curve", p)
    state = _kept(p, t)
    if p.ndim == 2 and p.shape[1] > 2:
        raise DataError(
            f"roc_curve is of one question, and there are {p.shape[1]} classes. Take one against "
            f"the rest: roc_curve(scores[:, k], y == k)."
        )
    scores, answers = _questions(_host(state[0]).astype(np.float64), _host(state[1]), False)
    scores, answers = scores[:, 0], answers[:, 0]
    order = np.argsort(-scores, kind="stable")
    scores, answers = scores[order], answers[order]
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    true = np.cumsum(answers)[ends]
    false = 1 + ends - true
    if drop_intermediate and len(ends) > 2:
        bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
        corner = np.concatenate([[True], bends, [True]])
        ends, true, false = ends[corner], true[corner], false[corner]
    with np.errstate(invalid="ignore"):
        return RocCurve(
            np.append(0, false) / np.float64(false[-1]),
            np.append(0, true) / np.float64(true[-1]),
            np.append(np.inf, scores[ends]),
        )
