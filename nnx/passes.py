"""Passes: pure functions from graph to graph, between tracing and emitting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnx import dtypes
from nnx.device import Device
from nnx.graph import CHECK, EFFECTS, Eqn, Graph, Var, same_shape
from nnx.op import OPS, Rule
from nnx.recorder import Recorder, Traced
from nnx.scalar import Scalar

KEPT = frozenset({"concat", "tile", "repeat", "astype", "getitem", "scatter_add"})
"""Ops that are no primitives of the standard and yet are left for the emitters."""


VIEWS = frozenset({
    "reshape", "permute_dims", "broadcast_to", "flip", "roll", "tile", "repeat", "getitem",
})  # fmt: skip
"""Ops that emitters may do by reading their input elsewhere."""


def dead_code(graph: Graph) -> Graph:
    """Return the graph without eqns that neither an output nor a check depends on."""
    needed = set(graph.outputs)
    kept = []
    for eqn in reversed(graph.eqns):
        if eqn.out in needed or eqn.op in EFFECTS:
            kept.append(eqn)
            needed.update(eqn.vars)
    return graph.with_eqns(kept[::-1])


def common_subexpressions(graph: Graph) -> Graph:
    """Return the graph with each value computed once, and with identities folded away."""
    known: dict[Any, Var] = {}
    renamed: dict[Var, Var] = {}
    eqns: list[Eqn] = []
    for eqn in graph.eqns:
        inputs = tuple(renamed.get(x, x) if isinstance(x, Var) else x for x in eqn.inputs)
        same = _folded(eqn, inputs, eqns)
        if same is None:
            key = (eqn.op.name, tuple(map(key_of, inputs)), key_of(tuple(eqn.attrs.items())))
            same = known.get(key)
            if same is None:
                known[key] = eqn.out
                eqns.append(Eqn(eqn.op, inputs, eqn.attrs, eqn.out, eqn.place))
                continue
        renamed[eqn.out] = same
    return graph.with_eqns(eqns, [renamed.get(x, x) for x in graph.outputs])


def key_of(x: Any) -> Any:
    """Return what tells an input or an attribute from others, in every call."""
    if isinstance(x, tuple | list):
        return tuple(map(key_of, x))
    if isinstance(x, slice):
        return ("slice", *map(key_of, (x.start, x.stop, x.step)))
    if isinstance(x, Var):
        return id(x)
    if isinstance(x, Scalar):
        return ("scalar", x.text)
    return (type(x).__name__, repr(x))


def _folded(eqn: Eqn, inputs: tuple[Any, ...], before: list[Eqn]) -> Var | None:
    """Return an earlier value that an eqn only repeats, if there is one."""
    if eqn.op.name in ("positive", "astype", "reshape", "broadcast_to", "permute_dims"):
        x = inputs[0]
        axes = eqn.attrs.get("axes")
        in_order = axes is None or tuple(a % len(axes) for a in axes) == tuple(range(len(axes)))
        if isinstance(x, Var) and same_shape(x.shape, eqn.out.shape) and x.dtype is eqn.out.dtype:
            return x if in_order else None
    return None


def lower(
    graph: Graph,
    device: Device,
    keep: Callable[[str], bool] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> Graph:
    """Return the graph in the ops to ``keep``: each other op by its rule, else by its ``eval``.

    Without these, in the few ops that an emitter knows.
    """
    recorder = Recorder(device, lowering=keep or _is_kept)
    for name, rule in (_RULES if rules is None else rules).items():
        recorder.kernels[name] = _bound(rule, recorder.namespace)
        setattr(recorder.namespace, name, recorder.kernels[name])
    values: dict[Var, Traced] = {x: Traced(recorder, x) for x in graph.inputs}
    for eqn in graph.eqns:
        recorder.place = eqn.place
        inputs = [values[x] if isinstance(x, Var) else x for x in eqn.inputs]
        if eqn.op.name in OPS:
            values[eqn.out] = recorder.kernels[eqn.op.name](*inputs, **eqn.attrs)
        else:
            values[eqn.out] = recorder.record(eqn.op, inputs, eqn.attrs)
    return graph.with_eqns(recorder.eqns, [values[x].var for x in graph.outputs])


def _is_kept(name: str) -> bool:
    return OPS[name].primitive or name in KEPT


def _bound(rule: Callable[..., Any], xp: Any) -> Callable[..., Any]:
    return lambda *inputs, **attrs: rule(xp, *inputs, **attrs)


def _stack(xp: Any, *arrays: Any, axis: int = 0) -> Any:
    """Arrays along a new axis: each gets the axis, then they are laid end to end."""
    return xp.concat(
        [xp.expand_dims(x, axis=axis) for x in arrays], axis=axis % (arrays[0].ndim + 1)
    )


def _triangle(keep_low: bool) -> Callable[..., Any]:
    def rule(xp: Any, x: Any, k: int = 0) -> Any:
        rows, columns = x.shape[-2:]
        recorder = x.trace
        i = xp.reshape(recorder.iota(rows, dtypes.int64), (rows, 1))
        j = recorder.iota(columns, dtypes.int64)
        inside = j - i <= k if keep_low else j - i >= k
        return xp.where(inside, x, xp.zeros_like(x))

    return rule


def _take_along_axis(xp: Any, x: Any, indices: Any, axis: int = -1) -> Any:
    """Entries along an axis; one of the last axis a row is a sum in which the others count 0."""
    last = axis in (-1, x.ndim - 1)
    if not last or indices.shape[-1] != 1 or indices.shape[:-1] != x.shape[:-1]:
        return OPS["take_along_axis"].eval(xp, x, indices, axis=axis)
    n = x.shape[-1]
    if indices.dtype.kind == "int":
        low = indices < 0
        xp.found(xp.logical_or(indices < -n, indices >= n))
        indices = xp.where(low, indices + n, indices)
    else:
        xp.found(indices >= n)
    chosen = indices == xp.arange_like(indices, n)
    kind = x.dtype
    picked = xp.sum(xp.where(chosen, x, xp.zeros_like(x)), axis=-1, keepdims=True)
    return picked if picked.dtype is kind else xp.convert(picked, kind)


_RULES: dict[str, Rule] = {
    "stack": _stack,
    "tril": _triangle(True),
    "triu": _triangle(False),
    "take_along_axis": _take_along_axis,
}


def simplified(graph: Graph) -> Graph:
    """Return the graph with values found in a simpler way that gives the same bits.

    What a check refuses is taken to be false: nothing that follows from it is ever returned.
    """
    maker: dict[Var, Eqn] = {}
    renamed: dict[Var, Var] = {}
    eqns: list[Eqn] = []
    known = _Known(maker)
    for eqn in graph.eqns:
        inputs = [renamed.get(x, x) if isinstance(x, Var) else x for x in eqn.inputs]
        eqn = Eqn(eqn.op, inputs, eqn.attrs, eqn.out, eqn.place)
        same = known.same(eqn)
        if same is not None:
            renamed[eqn.out] = same
            continue
        eqn = known.simpler(eqn)
        known.note(eqn)
        maker[eqn.out] = eqn
        eqns.append(eqn)
    return graph.with_eqns(eqns, [renamed.get(x, x) for x in graph.outputs])


class _Known:
    """What is known of values: which are false, and which are max(x, 0) of others."""

    def __init__(self, maker: dict[Var, Eqn]) -> None:
        self._maker = maker
        self._false: set[Any] = set()
        self._not_negative: dict[Var, Var] = {}

    def same(self, eqn: Eqn) -> Var | None:
        """Return an earlier value that equals an eqn's, if one is known."""
        name = eqn.op.name
        if name in ("greater", "not_equal") and is_zero(eqn.inputs[1]):
            below = self._maker.get(eqn.inputs[0])
            if below is not None and below.op.name == "astype":
                flag = below.inputs[0]
                return flag if flag.dtype is dtypes.bool_ else None
        if name == "where" and self._test(eqn.inputs[0]) in self._false:
            other = eqn.inputs[2]
            fits = isinstance(other, Var) and other.dtype is eqn.out.dtype
            return other if fits and same_shape(other.shape, eqn.out.shape) else None
        return None

    def simpler(self, eqn: Eqn) -> Eqn:
        """Return an eqn of the same value that needs less."""
        name = eqn.op.name
        if name == "abs":
            below = self._maker.get(eqn.inputs[0])
            if below is not None and below.op.name == "negative":
                return _with_inputs(eqn, below.inputs)
        if name == "greater" and is_zero(eqn.inputs[1]) and eqn.inputs[0] in self._not_negative:
            # The same for every x, NaN too; x itself then need not be kept.
            return _with_inputs(eqn, (self._not_negative[eqn.inputs[0]], eqn.inputs[1]))
        return eqn

    def note(self, eqn: Eqn) -> None:
        """Learn from an eqn."""
        if eqn.op.name == "maximum":
            for x, bound in (eqn.inputs, eqn.inputs[::-1]):
                if isinstance(x, Var) and is_zero(bound) and x.dtype is eqn.out.dtype:
                    self._not_negative[x] = eqn.out
        elif eqn.op is CHECK:
            self._refuse(eqn.inputs[0])

    def _refuse(self, x: Any) -> None:
        self._false.add(self._test(x))
        below = self._maker.get(x)
        if below is not None and below.op.name == "logical_or":
            for part in below.inputs:
                self._refuse(part)

    def _test(self, x: Any) -> Any:
        """Return what tells whether a test is the same but for the shape of what is tested."""
        eqn = self._maker.get(x)
        while eqn is not None and eqn.op.name == "reshape":
            x = eqn.inputs[0]
            eqn = self._maker.get(x)
        if eqn is None or eqn.op.name not in ("less", "greater_equal"):
            return x
        return (eqn.op.name, self._test(eqn.inputs[0]), key_of(eqn.inputs[1]))


def _with_inputs(eqn: Eqn, inputs: Sequence[Any]) -> Eqn:
    return Eqn(eqn.op, inputs, eqn.attrs, eqn.out, eqn.place)


def is_zero(x: Any) -> bool:
    """Return whether an input is the number 0."""
    return type(x) in (int, float) and x == 0


def factors_in_memory(graph: Graph) -> Graph:
    """Return the graph with a copy before each matrix product whose factor is no plain matrix.

    A product takes its factors as they lie in memory, or with the last two axes exchanged.
    """
    maker = {eqn.out: eqn for eqn in graph.eqns}
    eqns: list[Eqn] = []
    for eqn in graph.eqns:
        if eqn.op.name == "matmul":
            inputs = list(eqn.inputs)
            for i, x in enumerate(inputs):
                if not _is_plain(x, maker):
                    copy = Eqn(OPS["positive"], (x,), {}, Var(x.shape, x.dtype), eqn.place)
                    eqns.append(copy)
                    inputs[i] = copy.out
            eqn = Eqn(eqn.op, inputs, eqn.attrs, eqn.out, eqn.place)
        eqns.append(eqn)
    return graph.with_eqns(eqns)


def _is_plain(x: Var, maker: dict[Var, Eqn]) -> bool:
    eqn, reshaped = maker.get(x), False
    while eqn is not None and eqn.op.name in ("permute_dims", "reshape"):
        n = len(eqn.out.shape)
        if eqn.op.name == "permute_dims":
            order = [a % n for a in eqn.attrs["axes"]]
            if reshaped or n < 2 or order != [*range(n - 2), n - 1, n - 2]:
                return False
        else:
            reshaped = True
        eqn = maker.get(eqn.inputs[0])
    views = ("broadcast_to", "flip", "roll", "tile", "repeat", "full", "iota")
    return eqn is None or not (
        eqn.op.name in views or (eqn.op.name == "getitem" and len(eqn.inputs) == 1)
    )


def replaced_by_values(graph: Graph, updates: dict[int, int]) -> Graph:
    """Return the graph with a copy of each input, or view of one, that replaces an input.

    Written straight from where it is, it might be overwritten halfway: x = flip(x), or x, y = y, x.
    """
    maker = {eqn.out: eqn for eqn in graph.eqns}
    eqns, outputs = list(graph.eqns), list(graph.outputs)
    for k in updates:
        x, root = outputs[k], outputs[k]
        while root in maker and maker[root].op.name in VIEWS:
            root = maker[root].inputs[0]
        if root not in maker:
            outputs[k] = Var(x.shape, x.dtype)
            eqns.append(Eqn(OPS["positive"], (x,), {}, outputs[k]))
    return graph.with_eqns(eqns, outputs)


def prepared(graph: Graph, device: Device) -> Graph:
    """Return the graph as the emitters take it."""
    graph = common_subexpressions(dead_code(graph))
    whole = device.backend.compiled
    kept = (lambda name: _is_kept(name) or name in whole) if whole else None
    lowered = common_subexpressions(lower(graph, device, kept))
    lowered = common_subexpressions(simplified(lowered))
    return factors_in_memory(dead_code(lowered))
