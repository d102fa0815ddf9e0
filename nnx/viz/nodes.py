"""What a picture of a graph shows: a node a value, read from a tape, a network or a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnx import fit, tape
from nnx.batches import Place
from nnx.diagnose import watched
from nnx.dtypes import float32
from nnx.errors import DataError, GradientError
from nnx.graph import Graph, Var, describe, names_of
from nnx.loop import losses_of
from nnx.nn.module import Module
from nnx.op import Attrs, Op
from nnx.outputs import Asked, called, n_rows, named, takes
from nnx.outputs import names_of as output_names
from nnx.tensor import Parameter, Tensor
from nnx.tree import flatten

KEEP = "Keep it with loss.backward(retain_graph=True)"


@dataclass(eq=False)
class Node:
    """A value of a computation: what made it, what it is, and the result's derivative by it."""

    name: str
    kind: str
    """input, parameter, op, or result."""
    op: str = ""
    formula: str = ""
    layer: str = ""
    shape: str = ""
    dtype: str = ""
    value: Any = None
    """A NumPy array, or None where nothing was computed."""
    gradient: Any = None
    inputs: list[Node] = field(default_factory=list)
    place: str = ""


@dataclass
class Computation:
    """The nodes, each behind its inputs, and what is to be said of them all."""

    nodes: list[Node]
    device: str
    result: str
    notes: list[str]


# A tape


class _Kept(dict[tape.Key, Any]):
    """Gradients by key that a sweep adds up, kept when it takes them out."""

    def __init__(self, start: dict[tape.Key, Any]) -> None:
        super().__init__(start)
        self.all = start

    def pop(self, key: tape.Key, *default: Any) -> Any:
        taken = super().pop(key, *default)
        self.all[key] = taken
        return taken


def of_tensor(
    x: Tensor,
    names: Mapping[str, Any] | None,
    gradients: bool | None,
    layers: Mapping[tape.Key, str] | None = None,
) -> Computation:
    """Return the computation on the tape that led to a tensor.

    Raises: GradientError where there is no tape, or it was used up.
    """
    _check_tape(x)
    nodes, leaves = tape.collect([x], set())
    notes: list[str] = []
    wanted = any(leaf.grad is not None for leaf in leaves.values())
    wanted = wanted if gradients is None else gradients
    found: dict[tape.Key, Any] = {}
    if not wanted:
        notes.append("values only: no gradients yet; loss.backward(retain_graph=True) makes them")
    elif x.size != 1:
        notes.append(f"values only: a result of shape {x.shape} has no one gradient")
    else:
        found = _gradients(x, nodes)
        notes += _accumulated(leaves, found)
    return Computation(
        _Reader([x], names, layers or {}, found).read(nodes[::-1]), x.device.name,
        x.name or _name_in(names, x) or "J", notes,
    )  # fmt: skip


def _of_outputs(
    outputs: list[Tensor], names: Mapping[str, Any], layers: Mapping[tape.Key, str]
) -> Computation:
    """Return the computation that led to a network's outputs, without gradients."""
    for x in outputs:
        _check_tape(x)
    nodes, _ = tape.collect(outputs, set())
    found = _Reader(outputs, names, layers, {}).read(nodes[::-1])
    result = _name_in(names, outputs[0]) if len(outputs) == 1 else ""
    notes = ["values only: no gradients without targets; give y too"]
    return Computation(found, outputs[0].device.name, result, notes)


def _check_tape(x: Tensor) -> None:
    if x.node is None:
        raise GradientError(
            "graph: this tensor has no history. Set x.requires_grad = True (or name a parameter "
            "of a model) before computing with it, outside of nnx.no_grad()."
        )
    if x.node is not tape.COMPILED and x.node.arrays is None:
        raise GradientError(
            f"graph: backward() used the tape up, and with it the values between. {KEEP}, or "
            f"draw before it with gradients=True."
        )


def _gradients(x: Tensor, nodes: list[Any]) -> dict[tape.Key, Any]:
    """Return d(x)/d(value) by key, for every value on the tape."""
    grads = _Kept({tape.key_of(x): tape.seed_for(x, None).array})
    with x.device.scope():
        tape.sweep(nodes, grads, over_tensors=False)
    return {**grads.all, **grads}


def _accumulated(leaves: Mapping[tape.Key, Tensor], found: Mapping[tape.Key, Any]) -> list[str]:
    """Say which leaves hold another gradient than this result's: the sum of several."""
    import numpy as np

    others = []
    for key, leaf in leaves.items():
        if leaf.grad is not None and found.get(key) is not None:
            own = leaf.device.backend.to_numpy(found[key])
            if not np.allclose(leaf.grad.numpy(), own, equal_nan=True):
                others.append(leaf.name or "an input")
    if not others:
        return []
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return [f".grad of {', '.join(others[:3])}{more} differs: it sums several backward passes"]


def _name_in(names: Mapping[str, Any] | None, x: Tensor) -> str:
    return next((name for name, value in (names or {}).items() if _same(value, x)), "")


def _same(value: Any, x: Tensor) -> bool:
    return isinstance(value, Tensor) and tape.key_of(value) is tape.key_of(x)


class _Reader:
    """Makes nodes of what is on the tape."""

    def __init__(
        self,
        results: list[Tensor],
        names: Mapping[str, Any] | None,
        layers: Mapping[tape.Key, str],
        gradients: Mapping[tape.Key, Any],
    ) -> None:
        self.results = {
            tape.key_of(x): x.name or ("J" if len(results) == 1 else "") for x in results
        }
        self.layers, self.gradients = layers, gradients
        self.backend = results[0].device.backend
        tensors = {name: x for name, x in (names or {}).items() if isinstance(x, Tensor)}
        self.names = {tape.key_of(x): name for name, x in reversed(tensors.items())}
        self.made: dict[tape.Key, Node] = {}
        self.ops: list[Node] = []
        self.n_unnamed = 0

    def read(self, nodes: list[Any]) -> list[Node]:
        """Return a node for each on the tape, oldest first, after the tensors they start from."""
        for on_tape in nodes:
            inputs = [self._input(x) for x in on_tape.inputs]
            kind = "result" if on_tape in self.results else "op"
            formula = _formula(on_tape.op, inputs, on_tape.attrs)
            layer = self.layers.get(on_tape, "")
            # A result's own name comes first, and what the caller calls it before a mere J.
            given = self.results.get(on_tape, "")
            name = given if given not in ("", "J") else self.names.get(on_tape) or given
            if not name:
                name = on_tape.op.name if layer else self._next_name("v")
            made = self._node(on_tape, name, kind, on_tape.out)
            made.op, made.formula, made.layer = on_tape.op.name, formula, layer
            made.inputs = [x for x in inputs if isinstance(x, Node)]
            self.ops.append(made)
        leaves = [node for node in self.made.values() if not node.op]
        return [*leaves, *self.ops]

    def _input(self, x: Any) -> Any:
        """Return an op's input as a node, or as it is where it is no tensor."""
        if not isinstance(x, Tensor):
            return x
        key = tape.key_of(x)
        if key not in self.made:
            name = self.names.get(key) or x.name or self._next_name("c")
            learned = isinstance(x, Parameter) or (x.requires_grad and not self.layers)
            self._node(key, name, "parameter" if learned else "input", x.array)
        return self.made[key]

    def _next_name(self, letter: str) -> str:
        self.n_unnamed += 1
        return f"{letter}{self.n_unnamed}"

    def _node(self, key: tape.Key, name: str, kind: str, array: Any) -> Node:
        gradient = self.gradients.get(key)
        value = self.backend.to_numpy(array)
        made = Node(
            name, kind, shape=_shape(value.shape), dtype=str(value.dtype), value=value,
            gradient=None if gradient is None else self.backend.to_numpy(gradient),
        )  # fmt: skip
        self.made[key] = made
        return made


def _shape(sizes: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


# How an op is written

INFIX = {"add": "+", "subtract": "−", "multiply": "·", "divide": "/", "matmul": "@", "pow": "^"}


def _formula(op: Op, inputs: list[Any], attrs: Attrs) -> str:
    """Return an op as people write it, with the names of its inputs."""
    words = [x.name if isinstance(x, Node) else _word(x) for x in inputs if x is not None]
    if op.name in INFIX and len(words) == 2:
        text = f" {INFIX[op.name]} ".join(words)
    elif op.name == "square":
        text = f"{words[0]}²"
    elif op.name == "negative":
        text = f"−{words[0]}"
    else:
        given = [f"{k}={_word(v)}" for k, v in attrs.items() if v is not None and v is not False]
        text = f"{op.name}({', '.join(words + given)})"
    return text


def _word(x: Any) -> str:
    return f"{x:g}" if isinstance(x, float) else str(x)


# A network


def of_model(
    model: Module, inputs: tuple[Any, ...], loss: Any, gradients: bool | None
) -> Computation:
    """Return what a network does with an example: forward alone, or with its loss and gradients.

    It runs as for predictions: without dropout, and nothing in the model changes.
    Raises: DataError where there is no example.
    """
    if not inputs:
        state = "was never run" if not model._called else "keeps no values of its last run"
        raise DataError(
            f"graph: this {type(model).__name__} {state}. Give an example to run: "
            f"viz.graph(model, x), or with targets, for gradients, viz.graph(model, x, y)."
        )
    if len(inputs) > 2:
        raise DataError(f"graph: a model takes x, or x and y; got {len(inputs)} arrays.")
    place = place_of(model)
    x = _as_leaves(place.inputs(inputs[0]))
    with _run(model, x) as (out, layers):
        outputs = output_names(model, out)
        names = _labelled("x", x, place.takes.names)
        if len(inputs) == 1:
            names |= _labelled("output", out, outputs)
            return _of_outputs(flatten(out)[0], names, layers)
        y = inputs[1]
        if outputs is not None and isinstance(y, list | tuple) and len(y) == len(outputs):
            y = dict(zip(outputs, y, strict=True))  # a list as long as the rows is one target
        y = place.targets(y, n_rows(x))
        function = _loss_for(model, loss, outputs)
        result, parts = losses_of(function, out, y, None)
        names |= {what: tensor for what, tensor in named("y", y)} | {"J": result}
        names |= {f"{name}_loss": part for name, part in zip(outputs or (), parts, strict=True)}
        single = [] if parts else [result]
        for part, one in zip([*parts, *single], getattr(function, "functions", (function,)),
                             strict=True):  # fmt: skip
            layers[tape.key_of(part)] = f"loss · {getattr(one, '__name__', 'function')}"
        if parts:
            layers[tape.key_of(result)] = "sum of the losses"
        return of_tensor(result, names, gradients is not False, layers)


def place_of(model: Module) -> Place:
    """Return where a network's examples go, and how many it takes at once."""
    first = model._first_parameter()
    return Place(model.device, float32 if first is None else first.dtype, takes(model))


def _as_leaves(x: Any) -> Any:
    """Return inputs as leaves of the tape, so that they get gradients too."""
    tensors, rebuild = flatten(x)
    leaves = [tensor.detach() for tensor in tensors]
    for leaf in leaves:
        leaf.requires_grad = leaf.dtype.is_floating
    return rebuild(leaves)


def _labelled(what: str, tree: Any, names: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the tensors of a structure by name: its keys, or the names known for its places."""
    if isinstance(tree, Tensor):
        return {what: tree}
    if isinstance(tree, dict):
        return dict(tree)
    known = names if names is not None and len(names) == len(tree) else ()
    return dict(zip(known or (f"{what}{i}" for i in range(len(tree))), tree, strict=True))


def _loss_for(model: Module, loss: Any, outputs: tuple[str, ...] | None) -> Any:
    """Return the loss named, or that of `compile`, for one output or for several by name."""
    if loss is None:
        setup = fit.compiled(model)
        setup.settle(outputs)
        return setup.loss
    asked = Asked(loss, None, ()).checked()
    return asked.single()[0] if outputs is None else asked.several(outputs)


@contextlib.contextmanager
def _run(model: Module, x: Any) -> Iterator[tuple[Any, dict[tape.Key, str]]]:
    """Run a network with a tape; give its output, and the layer that made each value."""
    layers: dict[tape.Key, str] = {}

    def watch(path: str, module: Module, inputs: Any, out: Any) -> None:
        label = f"{path} · {type(module).__name__}" if path else type(module).__name__
        # Innermost modules return first, and what they made is theirs.
        given = {tape.key_of(x) for x in inputs if isinstance(x, Tensor)}
        stack = [tensor for _, tensor in named("", out)]
        while stack:
            made = stack.pop()
            if isinstance(made, Tensor) and made.node is not None:
                node = made.node
                if node not in given:
                    given.add(node)
                    layers.setdefault(node, label)
                    stack += node.inputs

    with evaluating(model), tape.enable_grad(), watched(model, watch):
        out = called(model, x)
    yield out, layers


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Put a network in the mode for predictions, and afterwards back as it was."""
    before = [(module, module.training) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


# A traced graph


def of_graph(graph: Graph) -> Computation:
    """Return a traced graph as nodes; it has shapes, and no values."""
    names = names_of(graph)
    made = {
        x: Node(names[x], "parameter" if "." in x.name else "input", shape=describe(x))
        for x in graph.inputs
    }
    ends = set(graph.outputs)
    for eqn in graph.eqns:
        inputs = [made[x] if isinstance(x, Var) else x for x in eqn.inputs]
        file, line = eqn.place
        made[eqn.out] = Node(
            names[eqn.out], "result" if eqn.out in ends else "op", op=eqn.op.name,
            formula=_formula(eqn.op, inputs, eqn.attrs), shape=describe(eqn.out),
            inputs=[x for x in inputs if isinstance(x, Node)],
            place=f"{file}, line {line}" if file else "",
        )  # fmt: skip
    used = {id(x) for node in made.values() for x in node.inputs}
    shown = [node for node in made.values() if node.op or id(node) in used]
    return Computation(shown, "", "", ["a traced graph: shapes, no values"])
