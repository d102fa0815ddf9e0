"""How far numbers are from their targets."""

from __future__ import annotations

from typing import Any

from nnx import shapes
from nnx.metrics.core import State, metric, wide
from nnx.ops import elementwise, reduce


def _squared(predictions: Any, targets: Any) -> Any:
    return elementwise.square(_error(predictions, targets))


def _error(predictions: Any, targets: Any) -> Any:
    shapes.loss(predictions.shape, targets.shape)
    return wide(predictions) - wide(targets)


@metric()
def mse(predictions: Any, targets: Any) -> State:
    """The mean squared error. Shapes: both the same; nothing broadcasts."""
    squared = _squared(predictions, targets)
    return reduce.sum(squared), squared.size


@metric()
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


@metric(_r2_finish, _r2_merge)
def r2(predictions: Any, targets: Any) -> State:
    """The share of the targets' variance that is predicted: 1 - sum (y - p)^2 / sum (y - mean)^2.

    Shapes: both (B,), or both (B, O): the mean over columns.
    """
    residual = reduce.sum(_squared(predictions, targets), axis=0)
    mean = reduce.mean(wide(targets), axis=0)
    spread = reduce.sum(elementwise.square(wide(targets) - mean), axis=0)
    return targets.shape[0], mean, spread, residual
