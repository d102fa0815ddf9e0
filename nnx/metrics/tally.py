"""Metrics of data that comes in batches."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from nnx import shapes
from nnx.errors import DataError
from nnx.metrics.core import Metric, Scores, State
from nnx.tensor import Tensor


class Tally:
    """Metrics of data that comes in batches.

    Predictions are collected as they come and measured many thousand rows at a time: a step then
    costs an append, not a handful of ops.
    """

    ROWS = 16_384
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
        parts = []
        if self._parts:
            parts = [[Tensor(column, self._device) for column in self._joined(self._device)]]
        return {"states": [state and list(state) for state in self._states], "parts": parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, the tensors in it on the device that goes on."""
        states = [None if found is None else tuple(found) for found in state["states"]]
        if len(states) != len(self._metrics):
            raise DataError(f"These are the sums of {len(states)} metrics, not of this tally's.")
        self._states = list(states)
        for predictions, targets in state["parts"]:
            self.add(predictions, targets)

    def _joined(self, device: Any) -> list[Any]:
        """Return the arrays of predictions and of targets that were not yet measured."""
        concat = device.kernels["concat"]
        return [
            column[0] if len(column) == 1 else concat(*column, axis=0)
            for column in zip(*self._parts, strict=True)
        ]

    def _measure(self, device: Any) -> None:
        predictions, targets = self._joined(device)
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


def _times(room: int, size: int) -> int:
    """Return how often a size is added until there is no more room."""
    return -(-room // size) if size else 1


def _work(metric: Metric) -> Any:
    """Return what tells whether two metrics measure the same, to do it once."""
    measure = metric.measure
    if isinstance(measure, functools.partial):
        return measure.func, measure.args, repr(sorted(measure.keywords.items()))
    return measure
