"""The architecture of a network as plain data: the closed table of layer kinds.

A configuration holds names from closed tables, numbers and lists, so that it can be JSON in a file
that strangers send: nothing in it names Python code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnx.errors import CheckpointError, NnxError, did_you_mean
from nnx.nn import activations, init
from nnx.nn.layers import Activation, Dense, Dropout, Flatten, Layer, LayerNorm, Reshape, Sequential
from nnx.nn.module import Module

KINDS: dict[str, type[Module]] = {
    kind.__name__: kind
    for kind in (Sequential, Dense, Activation, Dropout, Flatten, Reshape, LayerNorm)
}
"""Every kind of layer that a file may name."""

MAX_DEPTH = 64


def to_config(module: Module) -> dict[str, Any]:
    """Return a network's architecture as data for JSON: its kind, its settings, its layers.

    An initialiser that is a function of the user's is left out, as only a new network needs it.
    Raises: CheckpointError for a module or an activation that has no name in the closed tables.

    >>> from nnx import nn
    >>> to_config(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))["layers"]
    [{'kind': 'Flatten'}, {'kind': 'Dropout', 'rate': 0.5}]
    """
    kind = type(module).__name__
    if KINDS.get(kind) is not type(module):
        raise CheckpointError(
            f"{module._label()} is not one of the layers that a model file can describe "
            f"({', '.join(KINDS)}). Save its weights: state_dict(), then load_state_dict()."
        )
    if isinstance(module, Sequential):
        _check_apart(module)
        return {"kind": kind, "layers": [to_config(layer) for layer in module.layers]}
    assert isinstance(module, Layer)
    values = {name: _plain(name, getattr(module, name)) for name in module.settings}
    return {"kind": kind} | {k: v for k, v in values.items() if v is not _LEFT_OUT}


def _check_apart(model: Sequential) -> None:
    """Refuse a layer that stands in two places: a file would give it two sets of weights."""
    seen: dict[int, int] = {}
    for place, layer in enumerate(model.layers):
        if id(layer) in seen and layer.parameters():
            raise CheckpointError(
                f"Layers {seen[id(layer)]} and {place} are one {type(layer).__name__} with shared "
                f"weights, which a model file cannot describe. Save its weights: state_dict(), "
                f"then load_state_dict()."
            )
        seen[id(layer)] = place


_LEFT_OUT = object()


def _plain(name: str, value: Any) -> Any:
    if name == "activation":
        return activations.name_of(value)
    if name.endswith("_init"):
        named = [key for key, function in init.TABLE.items() if function is value]
        return named[0] if named else _LEFT_OUT if callable(value) else value
    return list(value) if isinstance(value, tuple) else value


def from_config(config: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> Module:
    """Return the network that `to_config` described, new, or with the weights of a `state_dict`.

    With ``weights`` nothing is drawn from the random generator.
    Raises: CheckpointError for anything that `to_config` could not have written.
    """
    try:
        if weights is None:
            return _made(config, 0)
        with init.blank():
            model = _made(config, 0)
        model.load_state_dict(weights)
    except CheckpointError:
        raise
    except (NnxError, TypeError, ValueError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"This architecture cannot be built: {error}") from error
    return model


def _made(config: Any, depth: int) -> Module:
    if not isinstance(config, Mapping) or not isinstance(config.get("kind"), str):
        raise CheckpointError(f"A layer's description has a 'kind', got {str(config)[:60]!r}.")
    kind, settings = config["kind"], {k: v for k, v in config.items() if k != "kind"}
    if kind not in KINDS:
        raise CheckpointError(f"There is no layer kind {kind!r}. {did_you_mean(kind, KINDS)}")
    if depth > MAX_DEPTH:
        raise CheckpointError(f"Layers are nested more than {MAX_DEPTH} deep.")
    if kind == "Sequential":
        _check_names(kind, settings, ("layers",))
        layers = settings.get("layers")
        if not isinstance(layers, list):
            raise CheckpointError(f"Sequential: layers is a list, got {layers!r}.")
        return Sequential(*(_made(layer, depth + 1) for layer in layers))
    layer = KINDS[kind]
    assert issubclass(layer, Layer)
    _check_names(kind, settings, layer.settings)
    return layer(**settings) if layer is not Reshape else Reshape(*settings.get("shape", ()))


def _check_names(kind: str, settings: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for name, value in settings.items():
        if name not in allowed:
            raise CheckpointError(f"{kind} has no setting {name!r}. {did_you_mean(name, allowed)}")
        if not isinstance(value, str | int | float | bool | list | None):
            raise CheckpointError(f"{kind}: {name} is {type(value).__name__}, not plain data.")
