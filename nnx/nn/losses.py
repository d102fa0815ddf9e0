"""Losses by name, for ``model.compile(loss=...)`` and the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.errors import DataError, DTypeError, did_you_mean
from nnx.ops.loss import binary_cross_entropy, cross_entropy, half_mse, huber, mae, mse

Loss = Callable[..., Any]

TABLE: dict[str, Loss] = {
    "mse": mse,
    "half_mse": half_mse,
    "mae": mae,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy": cross_entropy,
}
"""Every loss that has a name."""


def get(loss: str | Loss) -> Loss:
    """Return the loss of a name, or a function ``(prediction, target) -> number`` as it is.

    Raises: DataError for an unknown name, DTypeError for something that is no function.
    """
    if isinstance(loss, str):
        if loss not in TABLE:
            raise DataError(f"There is no loss {loss!r}. {did_you_mean(loss, TABLE)}")
        return TABLE[loss]
    if callable(loss):
        return loss
    raise DTypeError(f"A loss is a name such as 'cross_entropy' or a function, got {loss!r}.")
