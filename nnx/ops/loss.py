"""Losses: how far predictions are from targets; the mean over all of them unless asked otherwise.

Targets are checked before a number is formed: wrong labels must not train.
"""

from __future__ import annotations

from typing import Any

from nnx import shapes
from nnx.errors import DataError, LabelError, did_you_mean
from nnx.op import op
from nnx.ops.reduce import log1p_rest

REDUCTIONS = ("mean", "sum", "none")


def _reduced(xp: Any, losses: Any, reduction: str) -> Any:
    """Return the mean, the sum, or all; the sum of float32 is formed in float64."""
    if reduction == "none":
        return losses
    if reduction not in REDUCTIONS:
        raise DataError(f"reduction={reduction!r}. {did_you_mean(reduction, REDUCTIONS)}")
    total = xp.sum(xp.widen(losses))
    n = shapes.size(losses.shape) or float("nan")
    return xp.narrow(total / n if reduction == "mean" else total, losses)


def _share(g: Any, shape: shapes.Shape, reduction: str) -> Any:
    """Return what of the incoming gradient belongs to each single loss."""
    return g / (shapes.size(shape) or 1) if reduction == "mean" else g


def _pointwise(value: Any, slope: Any) -> Any:
    """Make the eval and the rules of a loss of ``prediction - target``."""

    def evaluate(xp: Any, prediction: Any, target: Any, reduction: str, **attrs: Any) -> Any:
        shapes.loss(prediction.shape, target.shape)
        return _reduced(xp, value(xp, prediction - target, **attrs), reduction)

    def rule(
        xp: Any, g: Any, out: Any, x: Any, y: Any, reduction: str = "mean", **attrs: Any
    ) -> Any:
        return _share(g, x.shape, reduction) * slope(xp, x - y, **attrs)

    def negated(xp: Any, *inputs: Any, **attrs: Any) -> Any:
        return -rule(xp, *inputs, **attrs)

    return evaluate, (rule, negated)


def _huber(xp: Any, d: Any, delta: float = 1.0) -> Any:
    size = xp.abs(d)
    return xp.where(size <= delta, 0.5 * d * d, delta * (size - 0.5 * delta))


_mse, _mse_rules = _pointwise(lambda xp, d: d * d, lambda xp, d: 2.0 * d)
_half, _half_rules = _pointwise(lambda xp, d: 0.5 * d * d, lambda xp, d: d)
_mae, _mae_rules = _pointwise(lambda xp, d: xp.abs(d), lambda xp, d: xp.sign(d))
_hub, _huber_rules = _pointwise(_huber, lambda xp, d, delta=1.0: xp.clip(d, -delta, delta))


@op("reduce", vjp=_mse_rules, shape=shapes.loss, dtype="float")
def mse(xp: Any, prediction: Any, target: Any, /, reduction: str = "mean") -> Any:
    """The mean squared error. Shapes: both the same; nothing broadcasts."""
    return _mse(xp, prediction, target, reduction)


@op("reduce", vjp=_half_rules, shape=shapes.loss, dtype="float")
def half_mse(xp: Any, prediction: Any, target: Any, /, reduction: str = "mean") -> Any:
    """Half the mean squared error: the textbook's loss, whose gradient is the difference."""
    return _half(xp, prediction, target, reduction)


@op("reduce", vjp=_mae_rules, shape=shapes.loss, dtype="float")
def mae(xp: Any, prediction: Any, target: Any, /, reduction: str = "mean") -> Any:
    """The mean absolute error. Gradient: 0 where both are equal."""
    return _mae(xp, prediction, target, reduction)


@op("reduce", vjp=_huber_rules, shape=shapes.loss, dtype="float")
def huber(
    xp: Any, prediction: Any, target: Any, /, reduction: str = "mean", delta: float = 1.0
) -> Any:
    """Half the squared error up to ``delta``, linear beyond. Source: Huber 1964, eq. 1.1."""
    return _hub(xp, prediction, target, reduction, delta=delta)


# Classification


def _first(xp: Any, bad: Any) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(xp.to_numpy(bad))))


def _complain(xp: Any, labels: Any, bad: Any, allowed: str) -> None:
    """Raise for the first label that ``bad`` marks."""
    if not xp.found(bad):
        return
    at = _first(xp, bad)
    value = xp.to_numpy(labels).reshape(xp.to_numpy(bad).shape or (1,))[at]
    index = at[0] if len(at) == 1 else at
    raise LabelError(
        f"Label {value} at index {index} is not allowed: {allowed}. "
        f"Check how the labels were read, and that the last layer has one unit a class."
    )


def check_classes(xp: Any, labels: Any, num_classes: int) -> None:
    """Raise LabelError unless every label is a whole number from 0 to num_classes - 1."""
    if xp.dtype_of(labels).kind not in ("int", "uint"):
        raise LabelError(
            f"Labels of type {xp.dtype_of(labels)} and shape {tuple(labels.shape)}; class numbers "
            f"are integers. Convert them: y.astype('int64'), or give rows of probabilities."
        )
    if shapes.size(labels.shape) and not xp.in_range(labels, num_classes):
        allowed = f"{num_classes} classes are numbered 0 to {num_classes - 1}"
        _complain(xp, labels, (labels < 0) | (labels >= num_classes), allowed)


def _check_rows(xp: Any, rows: Any) -> None:
    """Raise LabelError unless every row is a distribution over the classes."""
    if not xp.dtype_of(rows).is_floating:
        rows = xp.astype(rows, xp.float32)
    outside = ~((rows >= 0) & (rows <= 1))
    _complain(xp, rows, outside, "an entry of a one-hot or probability row is from 0 to 1")
    total = xp.sum(rows, axis=-1)
    _complain(xp, total, xp.abs(total - 1.0) > 1e-3, "the entries of a row sum to 1")


def are_classes(logits: Any, labels: Any) -> bool:
    """Return whether labels are class numbers rather than rows, after checking their shape."""
    classes = len(labels.shape) == len(logits.shape) - 1
    if classes and labels.shape != logits.shape[:-1]:
        raise LabelError(
            f"{tuple(labels.shape)} labels for {tuple(logits.shape)} logits: the labels must have "
            f"shape {tuple(logits.shape[:-1])}, one a row. The first row without a partner is "
            f"{min(labels.shape[0], logits.shape[0])}."
        )
    shapes.cross_entropy(tuple(logits.shape), tuple(labels.shape))
    return classes


def _slope_dx(xp: Any, g: Any, out: Any, logits: Any, labels: Any) -> Any:
    p = xp.softmax(logits, axis=-1)
    return p * (g - xp.sum(g * p, axis=-1, keepdims=True))


@op(
    "reduce",
    vjp=(
        _slope_dx,
        lambda xp, g, out, logits, labels: None if len(labels.shape) < len(logits.shape) else -g,
    ),
    shape=shapes.same,
    dtype="float",
    values=(0,),
)
def cross_entropy_slope(xp: Any, logits: Any, labels: Any, /) -> Any:
    """softmax(logits) - target: the derivative of each row's cross-entropy.

    Shapes: logits (..., C); labels (...,) of integers, or rows (..., C) -> (..., C)
    Numerics: at the label, minus the sum of the other probabilities; 1 is never taken from a
    number near 1.
    """
    p = xp.softmax(logits, axis=-1)
    if len(labels.shape) == len(logits.shape):
        return p - xp.astype(labels, p.dtype)
    target = xp.one_hot(labels, logits.shape[-1]) > 0
    others = xp.where(target, 0.0, p)
    return xp.where(target, -xp.sum(others, axis=-1, keepdims=True), others)


def _cross_entropy_dx(
    xp: Any, g: Any, out: Any, logits: Any, labels: Any, reduction: str = "mean"
) -> Any:
    g = _share(g, logits.shape[:-1], reduction)
    if reduction == "none":
        g = xp.expand_dims(g, axis=-1)
    return g * xp.cross_entropy_slope(logits, labels)


def _cross_entropy_dy(
    xp: Any, g: Any, out: Any, logits: Any, labels: Any, reduction: str = "mean"
) -> Any:
    if len(labels.shape) < len(logits.shape):
        return None
    g = _share(g, logits.shape[:-1], reduction)
    return -xp.log_softmax(logits) * (xp.expand_dims(g, axis=-1) if reduction == "none" else g)


@op(
    "reduce",
    vjp=(
        lambda xp, g, out, logits, labels: (
            xp.expand_dims(g, axis=-1) * xp.cross_entropy_slope(logits, labels)
        ),
        None,
    ),
    shape=lambda logits, labels: labels,
    dtype="float",
    values=(0,),
)
def cross_entropy_rows(xp: Any, logits: Any, labels: Any, /) -> Any:
    """The cross-entropy of each row for class numbers that were checked before.

    Shapes: logits (..., C), labels (...,) -> (...,)
    """
    top = xp.max(logits, axis=-1, keepdims=True)
    chosen = xp.take_along_axis(logits, xp.expand_dims(labels, axis=-1), axis=-1)
    return xp.reshape((top - chosen) + log1p_rest(xp, logits, top, -1), labels.shape)


@op(
    "reduce",
    vjp=(_cross_entropy_dx, _cross_entropy_dy),
    shape=shapes.cross_entropy,
    dtype="float",
    values=(0,),
)
def cross_entropy(xp: Any, logits: Any, labels: Any, /, reduction: str = "mean") -> Any:
    """-log of the softmax probability of the right class, from logits.

    Shapes: logits (..., C); labels (...,) of integers, or rows (..., C) -> () or (...,)
    Numerics: (M - x_t) + log1p(s), s the sum of exp(x - M) without the maximum's own term.
    Raises: LabelError for labels that are not class numbers, or rows that are no distribution.
    """
    if are_classes(logits, labels):
        check_classes(xp, labels, logits.shape[-1])
        losses = xp.cross_entropy_rows(logits, labels)
        return _reduced(xp, losses, reduction)
    _check_rows(xp, labels)
    rows = xp.astype(labels, logits.dtype)
    # A class of probability 0 adds nothing, also where its logit is -inf.
    terms = xp.where(rows == 0, 0.0, rows * xp.log_softmax(logits, axis=-1))
    return _reduced(xp, -xp.sum(terms, axis=-1), reduction)


def _bce_dx(xp: Any, g: Any, out: Any, x: Any, y: Any, reduction: str = "mean") -> Any:
    slope = (1.0 - y) * xp.sigmoid(x) - y * xp.sigmoid(-x)
    return _share(g, x.shape, reduction) * slope


@op(
    "reduce",
    vjp=(
        _bce_dx,
        lambda xp, g, out, x, y, reduction="mean": -x * _share(g, x.shape, reduction),
    ),
    shape=shapes.loss,
    dtype="float",
)
def binary_cross_entropy(xp: Any, logits: Any, targets: Any, /, reduction: str = "mean") -> Any:
    """-log of the sigmoid probability of the right answer, from logits.

    Shapes: both the same; targets from 0 to 1.
    Numerics: max(x, 0) - x y + log1p(exp(-|x|)); gradient (1 - y) s(x) - y s(-x).
    Raises: LabelError for a target outside 0 to 1, or NaN.
    """
    shapes.loss(tuple(logits.shape), tuple(targets.shape))
    outside = ~((targets >= 0) & (targets <= 1))
    _complain(xp, targets, outside, "a target of binary cross-entropy is from 0 to 1")
    tail = xp.log1p(xp.exp(-xp.abs(logits)))
    return _reduced(xp, xp.maximum(logits, 0.0) - logits * targets + tail, reduction)
