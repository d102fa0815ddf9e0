"""Metrics: how good predictions are, all at once or summed up batch by batch.

Every metric takes predictions first and targets second, as the losses do, as tensors of any device
or as host arrays. `Metric` is the form that `fit` and `evaluate` use: what each part of the data
adds is measured on the device, merged, and finished once at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnx.errors import DataError, did_you_mean, no_attribute
from nnx.metrics.accuracy import accuracy, binary_accuracy, top_k_accuracy
from nnx.metrics.classes import confusion_matrix, f1, precision, recall
from nnx.metrics.core import METRICS, Metric, State, added, ratio
from nnx.metrics.ranking import RocCurve, roc_auc, roc_curve
from nnx.metrics.regression import mae, mse, r2
from nnx.metrics.report import Report, classification_report, confusion_text, of_matrix
from nnx.metrics.tally import Tally
from nnx.ops.loss import binary_cross_entropy

__all__ = [
    "METRICS", "Metric", "Report", "RocCurve", "Tally", "accuracy", "binary_accuracy",
    "classification_report", "confusion_matrix", "confusion_text", "f1", "get", "mae", "mse",
    "of_matrix", "precision", "r2", "recall", "roc_auc", "roc_curve", "top_k_accuracy",
]  # fmt: skip

_WHOLE = ("confusion_matrix", "roc_curve", "classification_report", "confusion_text")
"""What is no number: it has no place in a history."""


def get(metric: Any, loss: Any = None) -> Metric:
    """Return the streaming form of a metric given by name or as a function.

    ``functools.partial(top_k_accuracy, k=3)`` sets options. Another function, called as
    ``f(predictions, targets)``, is averaged over the parts of the data by their rows. Beside
    binary cross-entropy every column is a question by itself, which "accuracy" and the metrics of
    classes then count so.
    Raises: DataError for an unknown name, and for what gives more than one number.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric in _WHOLE:
            _refuse_whole(metric)
        if metric not in METRICS:
            raise DataError(f"There is no metric {metric!r}. {did_you_mean(metric, METRICS)}")
        entry, options = METRICS[metric], {}
    elif isinstance(metric, functools.partial) and hasattr(metric.func, "metric"):
        entry, options = metric.func.metric, dict(metric.keywords)
    elif callable(metric):
        if getattr(metric, "__name__", "") in _WHOLE:
            _refuse_whole(metric.__name__)
        entry, options = getattr(metric, "metric", None) or _of_function(metric), {}
    else:
        raise DataError(f"A metric is a name or a function, got {metric!r}. Names: {_names()}.")
    if loss is binary_cross_entropy:
        if entry.name == "accuracy":
            return METRICS["binary_accuracy"]._replace(name="accuracy")
        if "average" in entry.settings:
            options = {"multilabel": True, **options}
    if "average" in options and options["average"] is None:
        raise DataError(
            f"{entry.name} with average=None gives a number for each class, and the history keeps "
            f"one. Take average='macro', or ask afterwards: "
            f"nnx.metrics.{entry.name}(model.predict(x), y, average=None)."
        )
    return entry.having(**options) if options else entry


def _refuse_whole(name: str) -> None:
    raise DataError(
        f"{name} is not one number, which the history keeps. Ask for it after training: "
        f"nnx.metrics.{name}(model.predict(x), y). Metrics to train with: {_names()}."
    )


def _names() -> str:
    return ", ".join(sorted(METRICS))


def _of_function(function: Callable[..., Any]) -> Metric:
    name = getattr(function, "__name__", "metric")

    def measure(predictions: Any, targets: Any) -> State:
        n, value = targets.shape[0], function(predictions, targets)
        try:
            return float(value) * n, n
        except (TypeError, ValueError):
            shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
            raise DataError(
                f"The metric {name} returned {type(value).__name__}{shape}; it must return one "
                f"number. Reduce it: values.mean()."
            ) from None

    return Metric(name, measure, ratio, added)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise no_attribute(__name__, name, __all__)
