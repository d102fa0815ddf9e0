"""The architecture of a network as plain data: the closed table of layer kinds.

A configuration holds names from closed tables, numbers and lists, so that it can be JSON in a file
that strangers send: nothing in it names Python code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnx.creation import zeros
from nnx.errors import CheckpointError, did_you_mean
from nnx.nn import activations, init, plans
from nnx.nn.layers import Activation, Dense, Dropout, Flatten, Layer, LayerNorm, Reshape, Sequential
from nnx.nn.model import Model, Step
from nnx.nn.module import Buffer, Module
from nnx.nn.symbol import Input, Symbol
from nnx.op import OPS, Op, apply
from nnx.tensor import Parameter, Tensor

KINDS: dict[str, type[Module]] = {
    kind.__name__: kind
    for kind in (Sequential, Model, Dense, Activation, Dropout, Flatten, Reshape, LayerNorm)
}
"""Every kind of layer that a file may name."""

SHARED = "Shared"
"""What stands where a module stands once more: ``of`` is its number, counted from the outermost."""

MAX_DEPTH = 64


def to_config(module: Module) -> dict[str, Any]:
    """Return a network's architecture as data for JSON: its kind, its settings, its layers.

    An initialiser that is a function of the user's is left out, as only a new network needs it.
    Raises: CheckpointError for a module or an activation that has no name in the closed tables.

    >>> from nnx import nn
    >>> to_config(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))["layers"]
    [{'kind': 'Flatten'}, {'kind': 'Dropout', 'rate': 0.5}]
    """
    return _Writer().config(module)


class _Writer:
    """Describes the modules of one network, each once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def _again(self, part: Any) -> dict[str, Any] | None:
        """Count a part; return what stands for one that was described before."""
        if id(part) in self._numbers:
            return {"kind": SHARED, "of": self._numbers[id(part)]}
        self._numbers[id(part)] = len(self._numbers)
        return None

    def config(self, module: Module) -> dict[str, Any]:
        """Return the description of a module."""
        kind = type(module).__name__
        if KINDS.get(kind) is not type(module):
            raise CheckpointError(
                f"{module._label()} is not one of the layers that a model file can describe "
                f"({', '.join(KINDS)}). Save its weights: state_dict(), then load_state_dict()."
            )
        again = self._again(module)
        if again is not None:
            return again
        if isinstance(module, Sequential):
            return {"kind": kind, "layers": [self.config(layer) for layer in module.layers]}
        if isinstance(module, Model):
            return {"kind": kind, **self._model(module)}
        assert isinstance(module, Layer)
        values = {name: _plain(name, getattr(module, name)) for name in module.settings}
        return {"kind": kind} | {k: v for k, v in values.items() if v is not _LEFT_OUT}

    def _model(self, model: Model) -> dict[str, Any]:
        graph, parts = model._graph, model._parts
        arrays = {name: x for name, x in parts.items() if not isinstance(x, Module)}
        names = {id(x): name for name, x in arrays.items()}
        return {
            "inputs": [
                {"name": name, "shape": list(shape), "dtype": dtype.name}
                for name, shape, dtype in graph.inputs
            ],
            "layers": {n: self.config(x) for n, x in parts.items() if isinstance(x, Module)},
            "arrays": {
                name: self._again(x) or _array(x) for name, x in arrays.items()
            },
            "steps": [_step(step, names) for step in graph.steps],
            "takes": plans.written(graph.takes, names),
            "gives": plans.written(graph.gives, names),
        }  # fmt: skip


def _array(x: Tensor) -> dict[str, Any]:
    learned = isinstance(x, Parameter)
    return {"kind": "array", "shape": list(x.shape), "dtype": x.dtype.name, "learned": learned}


def _step(step: Step, names: Mapping[int, str]) -> dict[str, Any]:
    what = {"op": step.target.name} if isinstance(step.target, Op) else {"layer": step.name}
    return what | {
        "args": plans.written(step.args, names), "settings": plans.written(step.settings, names),
    }  # fmt: skip


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
            return _Reader().made(config, 0)
        with init.blank():
            model = _Reader().made(config, 0)
        model.load_state_dict(weights)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a file of a stranger leads to
        raise CheckpointError(f"This architecture cannot be built: {error}") from error
    return model


class _Reader:
    """Makes the modules of one network from their descriptions."""

    def __init__(self) -> None:
        self._made: list[Any] = []

    def made(self, config: Any, depth: int) -> Module:
        """Return the module of a description."""
        if not isinstance(config, Mapping) or not isinstance(config.get("kind"), str):
            raise CheckpointError(f"A layer's description has a 'kind', got {str(config)[:60]!r}.")
        kind, settings = config["kind"], {k: v for k, v in config.items() if k != "kind"}
        if kind == SHARED:
            shared: Module = self._earlier(settings, Module)
            return shared
        if kind not in KINDS:
            raise CheckpointError(f"There is no layer kind {kind!r}. {did_you_mean(kind, KINDS)}")
        if depth > MAX_DEPTH:
            raise CheckpointError(f"Layers are nested more than {MAX_DEPTH} deep.")
        number = len(self._made)
        self._made.append(None)
        if kind == "Model":
            module: Module = self._model(settings, depth)
        elif kind == "Sequential":
            _check_names(kind, settings, ("layers",))
            layers = settings.get("layers")
            if not isinstance(layers, list):
                raise CheckpointError(f"Sequential: layers is a list, got {layers!r}.")
            module = Sequential(*(self.made(layer, depth + 1) for layer in layers))
        else:
            layer = KINDS[kind]
            assert issubclass(layer, Layer)
            _check_names(kind, settings, layer.settings)
            is_reshape = layer is Reshape
            module = Reshape(*settings.get("shape", ())) if is_reshape else layer(**settings)
        self._made[number] = module
        return module

    def _earlier(self, settings: Mapping[str, Any], kind: type) -> Any:
        number: Any = settings.get("of")
        made = self._made
        is_there = type(number) is int and 0 <= number < len(made)
        if not is_there or not isinstance(made[number], kind):
            raise CheckpointError(f"What is shared is the number of an earlier part, got {number}.")
        return made[number]

    def _model(self, settings: Mapping[str, Any], depth: int) -> Model:
        fields = {"inputs": list, "layers": dict, "arrays": dict, "steps": list, "takes": object,
                  "gives": object}  # fmt: skip
        for name, form in fields.items():
            if not isinstance(settings.get(name), form):
                raise CheckpointError(f"Model: {name} is {str(settings.get(name))[:60]!r}.")
        if settings.keys() - fields:
            raise CheckpointError(f"Model has no {sorted(settings.keys() - fields)[0]!r}.")
        values: list[Symbol] = [
            Input(item["shape"], item["dtype"], item["name"]) for item in settings["inputs"]
        ]
        layers = {name: self.made(x, depth + 1) for name, x in settings["layers"].items()}
        arrays = {name: self._array(x) for name, x in settings["arrays"].items()}
        for step in settings["steps"]:
            args = plans.read(step["args"], values, arrays)
            named = plans.read(step["settings"], values, arrays)
            values += plans.results(_called(step, layers, args, named))
        for name, layer in layers.items():
            layer._name = name
        takes = plans.read(settings["takes"], values, arrays)
        return Model(takes, plans.read(settings["gives"], values, arrays))

    def _array(self, config: Mapping[str, Any]) -> Any:
        if config["kind"] == SHARED:
            return self._earlier(config, Tensor)
        shape = tuple(config["shape"])
        if not all(type(n) is int and n >= 0 for n in shape):
            raise CheckpointError(f"Model: an array has shape {shape}.")
        made = zeros(shape, dtype=config["dtype"])
        kind = Parameter if config["learned"] else Buffer
        self._made.append(kind(made.array, made.device))
        return self._made[-1]


def _called(step: Mapping[str, Any], layers: Mapping[str, Module], args: Any, named: Any) -> Any:
    """Return what a step of a model gives: of a layer of its own, or of an op of the table."""
    if "layer" in step:
        return layers[step["layer"]](*args, **named)
    op = OPS.get(step["op"])
    if op is None:
        raise CheckpointError(f"There is no op {step['op']!r}. {did_you_mean(step['op'], OPS)}")
    if not any(isinstance(x, Symbol) for x in args) or named.keys() - set(op.attr_names):
        raise CheckpointError(f"Model: {op.name} is not called so: {str(step)[:200]}.")
    return apply(op, args, named)


def _check_names(kind: str, settings: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for name, value in settings.items():
        if name not in allowed:
            raise CheckpointError(f"{kind} has no setting {name!r}. {did_you_mean(name, allowed)}")
        if not isinstance(value, str | int | float | bool | list | None):
            raise CheckpointError(f"{kind}: {name} is {type(value).__name__}, not plain data.")
