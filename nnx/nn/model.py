"""Model: a network put together of symbols, in the functional style."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from nnx.dtypes import DType
from nnx.errors import DataError, DTypeError, ShapeError, did_you_mean
from nnx.nn.module import Module, Part
from nnx.nn.symbol import Form, Input, Node, Symbol, checked_name, leaves, mapped
from nnx.op import Op, apply
from nnx.scalar import resolve
from nnx.tensor import Parameter, Tensor


class At(NamedTuple):
    """The place of a value among all that a model computes: its inputs, then step by step."""

    place: int


def places(tree: Any) -> Iterator[At]:
    """Yield the places in a structure, in order."""
    if type(tree) is At:
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from places(item)


class Step(NamedTuple):
    """One call of a model: an op or a module on values at their places, and what it gives."""

    name: str
    target: Op | Module
    args: Any
    settings: Any
    forms: list[Form]

    def run(self, values: list[Any], env: dict[str, Any]) -> Any:
        """Return what the op or the module gives."""
        if isinstance(self.target, Op):
            inputs = tuple(values[x.place] if type(x) is At else x for x in self.args)
            attrs = {name: resolve(value, env) for name, value in self.settings.items()}
            return apply(self.target, inputs, attrs)
        args, settings = filled((self.args, self.settings), values)
        return self.target(*args, **settings)


def filled(tree: Any, values: Sequence[Any]) -> Any:
    """Return a structure with the values in their places."""
    if type(tree) is At:
        return values[tree.place]
    if isinstance(tree, dict):
        return {key: filled(item, values) for key, item in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(filled(item, values) for item in tree)
    return tree


class Plan:
    """The calls of a model in order, what they start from, and what is given back."""

    def __init__(
        self, inputs: list[tuple[str, Any, DType]], steps: list[Step], takes: Any, gives: Any
    ) -> None:
        self.inputs, self.steps, self.takes, self.gives = inputs, steps, takes, gives
        self._symbols: list[Symbol] | None = None

    def __reduce__(self) -> Any:
        # Symbols refer to one another as deep as the network is; a copy makes its own.
        return Plan, (self.inputs, self.steps, self.takes, self.gives)

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs."""
        return [name for name, _, _ in self.inputs]

    def symbols(self) -> list[Symbol]:
        """Return the symbol of each value; a copy of a model has symbols of its own layers."""
        if self._symbols is None:
            made: list[Symbol] = [Input(shape, dtype, name) for name, shape, dtype in self.inputs]
            for step in self.steps:
                node = Node(step.target, *filled((step.args, step.settings), made))
                made += [node.result(*form) for form in step.forms]
            self._symbols = made
        return self._symbols

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """Return the outputs for tensors."""
        values: list[Any] = list(inputs)
        env = {"B": inputs[0].array.shape[0]}
        for step in self.steps:
            self.go_on(step, values, env)
        return filled(self.gives, values)

    def go_on(self, step: Step, values: list[Any], env: dict[str, Any]) -> None:
        """Add to the values what a step makes of them."""
        out = step.run(values, env)
        if isinstance(out, Tensor):
            values.append(out)
        else:
            values += leaves(out)


class Model(Module):
    """A network from inputs to outputs, both symbols: one, or a list, tuple or dict of them.

    Takes as many arrays as it has inputs, one list of them, or a dict or keywords by their names;
    returns what ``outputs`` is, with tensors. A layer that was called twice has its weights once;
    models of the same layers share them; a model is a layer of others. Parts have keys of their
    names (``nn.Dense(3, name="out")``), else of their kind and number: ``dense``, ``dense_1``.
    Raises: DataError for outputs that need another `Input`, inputs that no output needs, and names
    that are there twice; DTypeError for what is no symbol.

    >>> from nnx import nn
    >>> x = nn.Input((4,))
    >>> model = nn.Model(x, nn.Dense(3)(nn.Dense(5, "tanh", name="hidden")(x)))
    >>> list(model.state_dict())
    ['hidden.weight', 'hidden.bias', 'dense.weight', 'dense.bias']
    """

    def __init__(self, inputs: Any, outputs: Any, *, name: str | None = None) -> None:
        self._name = checked_name("Model", name)
        starts = list(leaves(inputs))
        ends = list(leaves(outputs))
        _check_ends(starts, ends)
        nodes = _nodes_behind(ends)
        _check_connected(starts, ends, nodes)
        self._graph = _planned(inputs, starts, nodes, outputs)
        self._parts = _named_parts(self._graph.steps)
        self.output_names = _output_names(outputs, ends, self._graph)
        self._name_tree()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the outputs. Raises: ShapeError and DTypeError for what an input does not take."""
        given = self._ordered(inputs, named)
        for x, (name, shape, dtype) in zip(given, self._graph.inputs, strict=True):
            if not isinstance(x, Tensor) or tuple(x.array.shape[1:]) != shape or not x.ndim:
                _refuse_shape(self, name, shape, x)
            if x.dtype.is_floating is not dtype.is_floating:
                raise DTypeError(
                    f"{self._label()}: input {name!r} is of type {dtype}, got {x.dtype}. Convert "
                    f"it: x.astype({str(dtype)!r})."
                )
            if x.array.shape[0] != given[0].array.shape[0]:
                raise ShapeError(
                    f"{self._label()}: input {name!r} has {x.shape[0]} rows and "
                    f"{self.input_names[0]!r} {given[0].shape[0]}. Give both the same."
                )
        return self._graph.run(given)

    def _enter(self, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        return super()._enter(tuple(self._ordered(inputs, settings)), {})

    def _ordered(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Sequence[Any]:
        """Return the arguments of a call in the order of the inputs."""
        names = self.input_names
        if len(inputs) == 1 and not named:
            first = inputs[0]
            if isinstance(first, dict):
                inputs, named = (), first
            elif isinstance(first, list | tuple) and len(names) > 1:
                inputs = tuple(first)
        if named and not inputs:
            for name in named:
                if name not in names:
                    raise DataError(
                        f"{self._label()} has no input {name!r}. {did_you_mean(name, names)}"
                    )
            inputs, named = tuple(named[name] for name in names if name in named), {}
        if named or len(inputs) != len(names):
            raise DataError(
                f"{self._label()} takes {len(names)} input{'s' * (len(names) > 1)} "
                f"({', '.join(names)}), got {len(inputs) + len(named)}."
            )
        return inputs

    def _members(self) -> Iterator[Part]:
        yield from self._parts.items()
        for name, part in super()._members():
            if not name.startswith("_parts."):
                yield name, part

    @property
    def input_names(self) -> list[str]:
        """The names under which the inputs are given."""
        return self._graph.input_names

    @property
    def inputs(self) -> Any:
        """The symbols that the model starts from, as it was made with them."""
        return filled(self._graph.takes, self._graph.symbols())

    @property
    def outputs(self) -> Any:
        """The symbols that the model ends in, as it was made with them."""
        return filled(self._graph.gives, self._graph.symbols())

    @property
    def layers(self) -> list[Module]:
        """The modules that the model calls, each once, in the order of their first call."""
        return [part for part in self._parts.values() if isinstance(part, Module)]


# Putting a model together


def _check_ends(starts: list[Any], ends: list[Any]) -> None:
    for what, items in (("inputs", starts), ("outputs", ends)):
        if not items:
            raise DataError(f"Model: there are no {what}. Give at least one symbol.")
        for x in items:
            if not isinstance(x, Symbol):
                raise DTypeError(
                    f"Model: {what} are symbols, which nn.Input makes and layers called on it; got "
                    f"{type(x).__name__}."
                )
    for x in starts:
        if not isinstance(x, Input):
            raise DataError(
                f"Model: {x!r} is no input. A model starts from nn.Input; to go on from the middle "
                f"of another one, make an nn.Input of this shape and call the layers on it."
            )
    if len({id(x) for x in starts}) < len(starts):
        raise DataError("Model: one nn.Input is given twice among the inputs. Give it once.")


def _nodes_behind(ends: Iterable[Symbol]) -> list[Node]:
    """Return all calls that outputs need, in the order in which they were made."""
    found: dict[int, Node] = {}
    waiting = list(ends)
    while waiting:
        node = waiting.pop().node
        if node is not None and node.number not in found:
            found[node.number] = node
            waiting += [x for x in node.leaves() if isinstance(x, Symbol)]
    return [found[number] for number in sorted(found)]


def _check_connected(starts: list[Any], ends: list[Any], nodes: list[Node]) -> None:
    known = {id(x) for x in starts}
    used = {id(x) for x in ends}
    for node in nodes:
        for x in node.leaves():
            used.add(id(x))
            if isinstance(x, Input) and id(x) not in known:
                raise DataError(
                    f"Model: the outputs need {x!r} (in {node.label}), which is not among the "
                    f"inputs. Add it to them."
                )
    for i, x in enumerate(ends):
        if isinstance(x, Input) and id(x) not in known:
            raise DataError(f"Model: output {i} is {x!r}, which is not among the inputs.")
    for x in starts:
        if id(x) not in used:
            raise DataError(
                f"Model: {x!r} is never used: no output depends on it. Leave it out of the inputs, "
                f"or use it."
            )


def _planned(inputs: Any, starts: list[Any], nodes: list[Node], outputs: Any) -> Plan:
    """Return calls and structures with the values' places where symbols stood."""
    first: dict[int, int] = {}  # the place of a call's first result, by its number
    inputs_at = {id(x): i for i, x in enumerate(starts)}

    def at(x: Any) -> Any:
        if not isinstance(x, Symbol):
            return x
        return At(inputs_at[id(x)] if x.node is None else first[x.node.number] + x.place)

    names, steps, n = _step_names(nodes), [], len(starts)
    for node, name in zip(nodes, names, strict=True):
        args, settings = mapped((node.args, node.settings), at)
        steps.append(Step(name, node.target, args, settings, node.forms))
        first[node.number] = n
        n += len(node.forms)
    heads = [
        (name, tuple(x.shape[1:]), x.dtype)
        for name, x in zip(_input_names(inputs, starts), starts, strict=True)
    ]
    return Plan(heads, steps, mapped(inputs, at), mapped(outputs, at))


# Names


def _numbered(base: str, taken: set[str]) -> str:
    """Return a name with the first number that makes it new; it is then taken."""
    name, n = base, 0
    while name in taken:
        n += 1
        name = f"{base}_{n}"
    taken.add(name)
    return name


def _kind_name(target: Op | Module) -> str:
    """Return what a call is named after: of MultiHeadAttention multi_head_attention."""
    if isinstance(target, Op):
        return target.name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(target).__name__).lower()


def _step_names(nodes: list[Node]) -> list[str]:
    """Return a name for each call; calls of one module have one name."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for node in nodes:
        given = getattr(node.target, "_name", None)
        if given is not None and id(node.target) not in names:
            if given in taken:
                raise DataError(
                    f"Model: two layers have the name {given!r}, and their parameters would have "
                    f"the same keys. Give each its own."
                )
            taken.add(given)
            names[id(node.target)] = given
    found = []
    for node in nodes:
        if isinstance(node.target, Op):
            found.append(_numbered(_kind_name(node.target), taken))
            continue
        if id(node.target) not in names:
            names[id(node.target)] = _numbered(_kind_name(node.target), taken)
        found.append(names[id(node.target)])
    return found


def _input_names(inputs: Any, starts: list[Any]) -> list[str]:
    """Return the inputs' names: the keys of a dict, their own, or numbered."""
    keys = list(inputs) if isinstance(inputs, dict) else [x.name for x in starts]
    one = isinstance(inputs, Symbol)
    items = [inputs] if one else inputs.values() if isinstance(inputs, dict) else inputs
    flat = all(isinstance(x, Symbol) for x in items)
    if not flat or not all(isinstance(key, str | None) for key in keys):
        raise DataError(
            "Model: inputs are one symbol, a list or tuple of them, or a dict by name, and not "
            "nested."
        )
    given = [key for key in keys if key is not None]
    for key in given:
        if given.count(key) > 1:
            raise DataError(f"Model: two inputs have the name {key!r}. Give each its own.")
    taken = set(given)
    return [_numbered("input", taken) if key is None else key for key in keys]


def _output_names(outputs: Any, ends: list[Any], graph: Plan) -> list[str]:
    """Return the outputs' names: the keys of a dict, or what gives them."""
    if isinstance(outputs, dict) and len(outputs) == len(ends):
        return list(map(str, outputs))
    makers = list(graph.input_names)
    for step in graph.steps:
        makers += [step.name] * len(step.forms)
    taken: set[str] = set()
    return [_numbered(makers[at.place], taken) for at in places(graph.gives)]


def _named_parts(steps: list[Step]) -> dict[str, Any]:
    """Return the modules by name, and the arrays that ops use, each once."""
    parts: dict[str, Any] = {s.name: s.target for s in steps if isinstance(s.target, Module)}
    taken, seen = set(parts), set[int]()
    for step in steps:
        for x in leaves((step.args, step.settings)):
            if isinstance(x, Tensor) and id(x) not in seen:
                seen.add(id(x))
                kind = "parameter" if isinstance(x, Parameter) else "constant"
                parts[_numbered(kind, taken)] = x
    return parts


# What a call refuses


def _refuse_shape(model: Model, name: str, shape: Any, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise DTypeError(
            f"{model._label()}: input {name!r} is an array, got {type(x).__name__}. Convert it: "
            f"nnx.asarray(x)."
        )
    wanted = ", ".join(["B", *map(str, shape)])
    raise ShapeError(
        f"{model._label()}: input {name!r} takes ({wanted}), got shape {x.shape}. The first axis "
        f"is the batch."
    )
