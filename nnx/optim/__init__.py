"""Optimizers: the built-in rules, the base class of a user's own, and learning-rate schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnx.errors import DataError, DTypeError, did_you_mean, no_attribute
from nnx.optim import schedules
from nnx.optim.optimizer import Optimizer, Rate
from nnx.optim.rules import SGD, Adagrad, Adam, AdamW, Lion, RMSprop

__all__ = [
    "SGD", "TABLE", "Adagrad", "Adam", "AdamW", "Lion", "Optimizer", "RMSprop", "get", "schedules",
]  # fmt: skip

TABLE: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind for kind in (SGD, Adam, AdamW, RMSprop, Adagrad, Lion)
}
"""Every optimizer that has a name."""


def get(optimizer: str | Optimizer, lr: Rate | None = None) -> Optimizer:
    """Return a new optimizer of a name, with a rate where one is given, or an optimizer as it is.

    Raises: DataError for an unknown name, DTypeError for something that is no optimizer.
    """
    if isinstance(optimizer, str):
        kind = TABLE.get(optimizer.lower())
        if kind is None:
            hint = did_you_mean(optimizer.lower(), TABLE)
            raise DataError(f"There is no optimizer {optimizer!r}. {hint}")
        return kind(lr=lr)
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise DTypeError(
        f"An optimizer is a name such as 'adam' or an object such as optim.Adam(1e-3), got "
        f"{optimizer!r}."
    )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise no_attribute(__name__, name, __all__)
