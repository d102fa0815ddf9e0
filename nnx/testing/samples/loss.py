"""Samples of losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.errors import DataError, LabelError, ShapeError
from nnx.testing.samples.reduce import _log_softmax, _softmax
from nnx.testing.samples.table import (
    INF,
    NAN,
    Reference,
    add,
    values,
)


def _reduced(losses: Any, reduction: str) -> Any:
    ways: dict[str, Reference] = {"mean": np.mean, "sum": np.sum, "none": np.asarray}
    return ways[reduction](losses)


def _loss(op: str, single: Reference, x: Any, y: Any, **attrs: Any) -> None:
    """Add the rows of a loss that compares element by element."""

    def reference(x: Any, y: Any, reduction: str = "mean", **more: Any) -> Any:
        return _reduced(single(x, y, **more), reduction)

    for reduction in ("mean", "sum", "none"):
        add(op, reduction, [x, y], reference, attrs={**attrs, "reduction": reduction})
    add(op, "0-d", [x[0, 0], y[0, 0]], reference, attrs=attrs)
    add(op, "empty", [x[:0], y[:0]], reference, attrs={**attrs, "reduction": "sum"})
    add(op, "mean of nothing", [x[:0], y[:0]], reference, attrs=attrs, order=0)
    add(op, "NaN", [np.array([NAN, 0.5]), np.array([1.0, 0.0])], reference, attrs=attrs, order=0)
    add(op, "column, row", [np.ones((3, 1)), np.ones(3)], attrs=attrs, raises=ShapeError)
    add(op, "wrong reduction", [x, y], attrs={**attrs, "reduction": "avg"}, raises=DataError)


def _huber(x: Any, y: Any, delta: float = 1.0) -> Any:
    d = np.abs(x - y)
    return np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))


_first, _second = values((2, 3)), values((2, 3))[::-1] * 0.7
_loss("mse", lambda x, y: (x - y) ** 2, _first, _second)
_loss("half_mse", lambda x, y: 0.5 * (x - y) ** 2, _first, _second)
_loss("mae", lambda x, y: np.abs(x - y), _first, _second)
_loss("huber", _huber, _first, _second)
add("huber", "delta", [_first, _second], lambda x, y, delta: np.mean(_huber(x, y, delta)),
     attrs={"delta": 0.4})  # fmt: skip
add("mae", "equal", [np.ones(2), np.ones(2)], lambda x, y: np.array(0.0), order=0,
     slopes=(np.zeros(2), np.zeros(2)))  # fmt: skip


def _binary_cross_entropy(x: Any, y: Any) -> Any:
    return np.maximum(x, 0.0) - x * y + np.log1p(np.exp(-np.abs(x)))


_loss("binary_cross_entropy", _binary_cross_entropy, _first, values((2, 3), 0.1, 0.9))
for _label, _target_value in (("above 1", 1.5), ("below 0", -0.5), ("NaN target", NAN)):
    add("binary_cross_entropy", _label, [np.ones(2), np.array([0.0, _target_value])],
         raises=LabelError)  # fmt: skip


def _cross_entropy(x: Any, labels: Any, reduction: str = "mean") -> Any:
    logs = _log_softmax(x)
    if labels.ndim < x.ndim:
        rows = np.arange(x.shape[-1]) == labels[..., None]
        return _reduced(-np.sum(np.where(rows, logs, 0.0), axis=-1), reduction)
    return _reduced(-np.sum(labels * logs, axis=-1), reduction)


def _classes() -> None:
    """Add the rows of cross_entropy: labels as class numbers, and as rows."""
    logits, labels = values((4, 3)), np.array([0, 2, 1, 2])
    rows = _softmax(values((4, 3))[::-1])
    for reduction in ("mean", "sum", "none"):
        attrs = {"reduction": reduction}
        add("cross_entropy", reduction, [logits, labels], _cross_entropy, attrs=attrs)
        add("cross_entropy", f"{reduction}, rows", [logits, np.eye(3, dtype=np.int64)[labels]],
             _cross_entropy, attrs=attrs)  # fmt: skip
    # Rows that do not sum to 1 are refused, so differences cannot go off the right ones.
    slopes = (_softmax(logits) - rows) / 4, -_log_softmax(logits) / 4
    add("cross_entropy", "probabilities", [logits, rows], _cross_entropy, order=0, slopes=slopes)
    add("cross_entropy", "stack", [values((2, 2, 3)), labels.reshape(2, 2)], _cross_entropy)
    add("cross_entropy", "one row", [values(3), np.array(1)], _cross_entropy)
    add("cross_entropy", "bytes", [logits, labels.astype(np.uint8)], _cross_entropy)
    add("cross_entropy", "no rows", [np.zeros((0, 3)), labels[:0]], _cross_entropy,
         attrs={"reduction": "sum"})  # fmt: skip
    add("cross_entropy", "large", [np.array([[1e4, 0.0, -1e4]]), np.array([0])], _cross_entropy,
         order=0)  # fmt: skip
    add("cross_entropy", "-inf", [np.array([[1.0, -INF, 2.0]]), np.array([0])], _cross_entropy,
         order=0)  # fmt: skip
    add("cross_entropy", "NaN", [np.array([[1.0, NAN]]), np.array([0])], _cross_entropy, order=0)
    for label, wrong in (
        ("above", np.array([0, 1, 2, 3])), ("below", np.array([0, -1, 0, 0])),
        ("too few", labels[:3]), ("too many", np.append(labels, 0)), ("floats", np.ones(4)),
        ("no distribution", np.ones((4, 3))), ("NaN row", np.full((4, 3), NAN)),
    ):  # fmt: skip
        add("cross_entropy", label, [logits, wrong], raises=LabelError)
    add("cross_entropy", "other classes", [logits, np.ones((4, 2))], raises=ShapeError)
    add("cross_entropy", "0-d", [np.ones(()), np.array(0)], raises=ShapeError)
    add("cross_entropy", "wrong reduction", [logits, labels], attrs={"reduction": "avg"},
         raises=DataError)  # fmt: skip


_classes()


def _slope(x: Any, labels: Any) -> Any:
    rows = np.arange(x.shape[-1]) == labels[..., None] if labels.ndim < x.ndim else labels
    return _softmax(x) - rows


def _parts_of_cross_entropy() -> None:
    """Add the rows of the two ops that cross_entropy is made of."""
    labels = np.array([0, 2, 1, 2])
    references: dict[str, Reference] = {
        "cross_entropy_rows": lambda x, labels: _cross_entropy(x, labels, "none"),
        "cross_entropy_slope": _slope,
    }
    for op, reference in references.items():
        add(op, "labels", [values((4, 3)), labels], reference)
        add(op, "stack", [values((2, 2, 3)), labels.reshape(2, 2)], reference)
        add(op, "bytes", [values((4, 3)), labels.astype(np.uint8)], reference)
        add(op, "one row", [values(3), np.array(1)], reference)
        add(op, "no rows", [np.zeros((0, 3)), labels[:0]], reference)
        add(op, "large", [np.array([[1e4, 0.0, -1e4]]), np.array([0])], reference, order=0)
        add(op, "ties", [np.ones((2, 3)), np.array([0, 2])], reference)
        add(op, "NaN", [np.array([[1.0, NAN]]), np.array([0])], reference, order=0)
    add("cross_entropy_slope", "one-hot", [values((4, 3)), np.eye(3, dtype=np.int64)[labels]],
         _slope)  # fmt: skip
    rows = _softmax(values((2, 3), start=0.71))
    add("cross_entropy_slope", "probabilities", [values((2, 3)), rows], _slope)


_parts_of_cross_entropy()
