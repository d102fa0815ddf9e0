"""Metrics of data that comes in batches."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from nnx import shapes
from nnx.metrics.core import Metric, Scores, State
from nnx.tensor import Tensor


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

    def add(self, predictions: Tensor, targets: Tensor) -> None:
        """Take in a batch; its arrays must not be written afterwards."""
        if not self._metrics:
            return
        array = predictions.array
        self._parts.append((array, targets.array))
        self._rows += array.shape[0]
        self._elements += shapes.size(tuple(array.shape))
        if self._rows >= self.ROWS or self._elements >= self.ELEMENTS:
            self._measure(predictions.device)
        self._device = predictions.device

    def _measure(self, device: Any) -> None:
        concat = device.kernels["concat"]
        predictions, targets = (
            column[0] if len(column) == 1 else concat(*column, axis=0)
            for column in zip(*self._parts, strict=True)
        )
        joined = Scores(predictions, device), Tensor(targets, device)
        self._parts, self._rows, self._elements = [], 0, 0
        made: dict[Any, State] = {}
        for i, metric in enumerate(self._metrics):
            work = _work(metric)
            if work not in made:
                state, held = metric.measure(*joined), self._states[i]
                made[work] = state if held is None else metric.merge(held, state)
            self._states[i] = made[work]

    def results(self) -> dict[str, float]:
        """Return what all batches so far amount to, by name."""
        if self._parts:
            self._measure(self._device)
        return {
            metric.name: float("nan") if state is None else metric.finish(state)
            for metric, state in zip(self._metrics, self._states, strict=True)
        }


def _work(metric: Metric) -> Any:
    """Return what tells whether two metrics measure the same, to do it once."""
    measure = metric.measure
    if isinstance(measure, functools.partial):
        return measure.func, measure.args, repr(sorted(measure.keywords.items()))
    return measure
