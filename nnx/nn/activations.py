"""Activations by name: the closed table that layers and model files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.errors import CheckpointError, DataError, DTypeError, did_you_mean
from nnx.ops import elementwise, reduce

Function = Callable[[Any], Any]

TABLE: dict[str, Function | None] = {
    "linear": None,
    "relu": elementwise.relu,
    "leaky_relu": elementwise.leaky_relu,
    "elu": elementwise.elu,
    "sigmoid": elementwise.sigmoid,
    "log_sigmoid": elementwise.log_sigmoid,
    "softplus": elementwise.softplus,
    "tanh": elementwise.tanh,
    "gelu": elementwise.gelu,
    "silu": elementwise.silu,
    "softmax": reduce.softmax,
    "log_softmax": reduce.log_softmax,
}
"""Every activation that has a name; ``linear`` is none at all."""


def get(activation: str | Function | None) -> Function | None:
    """Return the function of a name, a function as it is, None for none.

    Raises: DataError for an unknown name, DTypeError for something that is no function.
    """
    if isinstance(activation, str):
        if activation not in TABLE:
            hint = did_you_mean(activation, TABLE)
            raise DataError(f"There is no activation {activation!r}. {hint}")
        return TABLE[activation]
    if activation is None or callable(activation):
        return activation
    raise DTypeError(
        f"An activation is a name such as 'relu', a function, or None; got {activation!r}."
    )


def name_of(activation: str | Function | None) -> str | None:
    """Return the name under which a model file keeps an activation.

    Raises: CheckpointError for a function without one: no file may name Python code.
    """
    if activation is None or isinstance(activation, str):
        return activation
    for name, function in TABLE.items():
        if function is activation:
            return name
    raise CheckpointError(
        f"The activation {activation!r} has no name, so a model file cannot hold it. Use one of "
        f"{', '.join(TABLE)}; or write a Module of your own and save its state_dict()."
    )
