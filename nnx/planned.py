"""A graph as a list of calls: for devices that have no compiler of their own.

The calls are written out once as a Python function, and bound for each set of sizes to buffers that
`nnx.memory` has planned. What leaves the function is never in such a buffer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.device import Device
from nnx.errors import TraceError
from nnx.graph import (
    EFFECTS,
    CheckError,
    Eqn,
    Graph,
    Var,
    interpret,
    kernel_of,
    line,
    names_of,
    same_shape,
)
from nnx.memory import Span, placed
from nnx.op import OPS
from nnx.passes import KEPT, common_subexpressions, dead_code, key_of, lower, simplified
from nnx.scalar import Env, names_in, resolve

LINE_BYTES = 64
SETTINGS_KEPT = 16
"""For how many sets of sizes the bound calls are kept."""

_OF_THE_LIBRARY = KEPT | {"stack", "tril", "triu"}
"""Ops that are no primitives and whose ``eval`` needs real arrays."""

Step = Callable[[Sequence[Any], Env], list[Any]]


def runnable(graph: Graph, device: Device) -> Graph:
    """Return the graph to run; where results can be written into buffers, in ops that do so."""
    graph = common_subexpressions(dead_code(graph))
    backend = device.backend
    if not backend.into:
        return graph

    def keep(name: str) -> bool:
        named = (backend.overrides, backend.into, _OF_THE_LIBRARY)
        return OPS[name].primitive or any(name in names for names in named)

    lowered = common_subexpressions(lower(graph, device, keep, {}))
    return dead_code(common_subexpressions(simplified(lowered)))


class Planned:
    """A graph as one function of its inputs' arrays and the scalars of a call.

    Allocates: what it returns; the buffers are made once for each set of sizes and used by one call
    at a time. Aliasing: a result may be an input, or a view of one, as in eager mode.
    """

    def __init__(self, graph: Graph, device: Device) -> None:
        self.graph = runnable(graph, device)
        self._traced, self._device = graph, device
        self._sizes = _sizes(self.graph)
        self._text = Text(self.graph, device, self._sizes)
        self.source = self._text.source
        self._bind = _function(self.source)
        self._steps: dict[tuple[Any, ...], Step] = {}
        self._memory: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, arrays: Sequence[Any], env: Env) -> list[Any]:
        """Return the outputs' arrays."""
        with self._lock:
            key = tuple([env[name] for name in self._sizes])
            step = self._steps.get(key)
            if step is None:
                step = self._bound(key, env)
            try:
                return step(arrays, env)
            except CheckError:  # which knows less than eager mode
                found_no_memory = False
            except MemoryError:  # op by op it is said which one, or goes through
                found_no_memory = True
            if found_no_memory:
                return self._interpreted(arrays, env)
        interpret(self._traced, self._device, arrays, env)
        raise TraceError("A check of the compiled function failed that eager mode does not make.")

    def _interpreted(self, arrays: Sequence[Any], env: Env) -> list[Any]:
        """Run op by op, in no memory but that of the results. Raises: OutOfMemoryError."""
        self._steps.clear()
        self._memory.clear()
        self._device.release()
        return interpret(self._traced, self._device, arrays, env)

    @property
    def calls(self) -> list[Eqn]:
        """The eqns that each call runs, in order; others are done once for a set of sizes."""
        return self._text.calls

    def with_kernels(self, wrap: Callable[[Any], Any], env: Env) -> Step:
        """Return the step for these sizes in memory of its own, with each kernel wrapped."""
        with self._device.scope():
            names = self._text.bindings(env, {})
        names |= {name: wrap(kernel) for name, kernel in self._text.kernels.items()}
        step = self._device.backend.prepare(self._bind(**names), self._device.index)
        return step  # type: ignore[no-any-return]

    def _bound(self, key: tuple[Any, ...], env: Env) -> Step:
        if len(self._steps) >= SETTINGS_KEPT:
            self._steps.pop(next(iter(self._steps)))
        with self._device.scope():
            names = self._text.bindings(env, self._memory)
        step = self._device.backend.prepare(self._bind(**names), self._device.index)
        self._steps[key] = step
        return step  # type: ignore[no-any-return]


def _sizes(graph: Graph) -> tuple[str, ...]:
    """Return the scalars that the sizes of arrays are made of."""
    known = [*graph.inputs, *(eqn.out for eqn in graph.eqns)]
    used = {name for x in known for n in x.shape for name in names_in(n)}
    return tuple(name for name in graph.scalars if name in used)


def _function(source: str) -> Any:
    names: dict[str, Any] = {"nan": float("nan"), "inf": float("inf")}
    exec(compile(source, "<nnx.planned>", "exec"), names)
    return names["bind"]


# Which values stand in which buffer


class Buffer:
    """Memory for values that follow one another; ``var`` is the first, all are of its size."""

    __slots__ = ("span", "var")

    def __init__(self, var: Var, span: Span) -> None:
        self.var, self.span = var, span


def lifetimes(graph: Graph, sources: dict[Var, frozenset[Var]]) -> dict[Var, int]:
    """Return where each value is used last, itself or through a view of it."""
    last: dict[Var, int] = {}
    for i, eqn in enumerate(graph.eqns):
        for x in (eqn.out, *eqn.vars):
            for source in sources[x]:
                last[source] = i
    return last


def memory_sources(graph: Graph, writes: Callable[[Eqn], bool]) -> dict[Var, frozenset[Var]]:
    """Return for each value whose memory it may stand in: its own, and those it may be a view of.

    An op that moves elements, and does not write them into a buffer, may give a view.
    """
    sources = {x: frozenset({x}) for x in graph.inputs}
    for eqn in graph.eqns:
        views = eqn.op.kind == "layout" and not writes(eqn)
        shared = [sources[x] for x in eqn.vars] if views else []
        sources[eqn.out] = frozenset({eqn.out}).union(*shared)
    return sources


# The text


class Text:
    """The source of a planned graph, and what its names stand for.

    Names: ``x`` inputs, ``v`` values of a call; made once for a set of sizes are ``b`` buffers and
    views of them, ``k`` constants, ``s`` numbers of a call as arrays, ``fresh`` makers of results.
    """

    def __init__(self, graph: Graph, device: Device, sizes: Sequence[str]) -> None:
        self._graph, self._device, self._backend = graph, device, device.backend
        self._fixed = frozenset((*sizes, "nan", "inf"))
        self._sources = memory_sources(graph, self._writes)
        self._last = lifetimes(graph, self._sources)
        self._leaving = frozenset().union(*(self._sources[x] for x in graph.outputs))
        self._names = {x: f"x{i}" for i, x in enumerate(graph.inputs)}
        self._buffers: list[Buffer] = []
        self._slot: dict[Var, int] = {}
        self._in_order: set[Var] = set()
        self._constant: set[Var] = set()
        self._static: set[Var] = set()
        self._before: list[Eqn] = []
        self.calls: list[Eqn] = []
        self.kernels: dict[str, Any] = {}
        self._fresh: dict[str, Var] = {}
        self._numbers: dict[Any, tuple[str, Any, Any]] = {}
        self._cells: dict[tuple[str, Any], str] = {}
        self._read: set[str] = set()
        self.source = self._written()

    def _writes(self, eqn: Eqn) -> bool:
        return eqn.op.name in self._backend.into

    def _written(self) -> str:
        lines: list[str] = []
        names = names_of(self._graph)
        for i, eqn in enumerate(self._graph.eqns):
            if self._is_done_before(eqn):
                self._do_before(i, eqn)
                continue
            call = self._call(i, eqn)
            self.calls.append(eqn)
            lines += [f"# {line(eqn, names)}", call, *self._forgotten(i, eqn)]
        head = [f"{', '.join(self._names[x] for x in self._graph.inputs)}, = inputs"]
        head = head if self._graph.inputs else []
        head += [f"{name} = env[{name!r}]" for name in self._graph.scalars if name in self._read]
        head += [f"{cell}[...] = {text}" for (text, _), cell in self._cells.items()]
        results = ", ".join(self._names[x] for x in self._graph.outputs)
        body = [*head, *lines, f"return [{results}]"]
        bound = [*self.kernels, *self._fresh, *(name for name, *_ in self._numbers.values())]
        bound += [*self._cells.values(), *(self._names[x] for x in self._bound_values())]
        return "\n".join([
            f"def bind({', '.join(bound)}):", "    def step(inputs, env):",
            *(f"        {text}" for text in body), "    return step", "",
        ])  # fmt: skip

    def _bound_values(self) -> list[Var]:
        return [*self._slot, *(eqn.out for eqn in self._before)]

    # What needs no call: constants, and views of buffers

    def _is_done_before(self, eqn: Eqn) -> bool:
        if eqn.out in self._leaving or eqn.op.kind == "random" or eqn.op in EFFECTS:
            return False
        if not self._is_fixed((*eqn.inputs, *eqn.attrs.values())):
            return False
        return all(x in self._constant for x in eqn.vars) or self._is_static_view(eqn)

    def _is_fixed(self, x: Any) -> bool:
        return self._fixed.issuperset(names_in(x))

    def _is_static_view(self, eqn: Eqn) -> bool:
        if eqn.op.name not in self._backend.views or len(eqn.inputs) != 1:
            return False
        if not eqn.out.shape:  # what has no axes may come as a number
            return False
        x = eqn.inputs[0]
        return x in self._static and (eqn.op.name != "reshape" or x in self._in_order)

    def _do_before(self, i: int, eqn: Eqn) -> None:
        self._before.append(eqn)
        if all(x in self._constant for x in eqn.vars):
            self._names[eqn.out] = f"k{i}"
            self._constant.add(eqn.out)
        else:
            self._names[eqn.out] = f"b{i}"
            self._static.add(eqn.out)
            if eqn.op.name == "reshape":
                self._in_order.add(eqn.out)

    # Calls

    def _call(self, i: int, eqn: Eqn) -> str:
        arguments = [self._operand(eqn, x) for x in eqn.inputs]
        arguments += [f"{name}={self._attr(value)}" for name, value in eqn.attrs.items()]
        if not self._writes(eqn):
            self._names[eqn.out] = f"v{i}"
            kernel = self._kernel(f"new_{eqn.op.name}", _raw_kernel(eqn, self._device))
            return f"v{i} = {kernel}({', '.join(arguments)})"
        kernel = self._kernel(eqn.op.name, self._backend.into[eqn.op.name])
        if eqn.out not in self._leaving:
            self._take_buffer(i, eqn)
            return f"{kernel}({', '.join([*arguments, f'out={self._names[eqn.out]}'])})"
        self._names[eqn.out] = f"v{i}"
        self._fresh[f"fresh{i}"] = eqn.out
        return f"v{i} = {kernel}({', '.join([*arguments, f'out=fresh{i}()'])})"

    def _kernel(self, name: str, kernel: Any) -> str:
        self.kernels[name] = kernel
        return name

    def _take_buffer(self, i: int, eqn: Eqn) -> None:
        """Give a result the buffer of an input that it can replace, or one of its own."""
        out, last = eqn.out, self._last[eqn.out]
        self._names[out] = f"b{i}"
        self._static.add(out)
        self._in_order.add(out)
        x = next((x for x in eqn.vars if self._may_replace(i, eqn, x)), None)
        if x is None:
            self._slot[out] = len(self._buffers)
            self._buffers.append(Buffer(out, (i, last)))
            return
        buffer = self._buffers[self._slot[x]]
        self._slot[out] = self._slot[x]
        buffer.span = (buffer.span[0], max(buffer.span[1], last))

    def _may_replace(self, i: int, eqn: Eqn, x: Var) -> bool:
        alike = same_shape(x.shape, eqn.out.shape) and x.dtype is eqn.out.dtype
        dies = x in self._slot and self._last[x] == i and eqn.op.kind == "elementwise"
        return alike and dies and not any(x in self._sources[y] for y in eqn.vars if y is not x)

    def _forgotten(self, i: int, eqn: Eqn) -> list[str]:
        """Return the line that lets go what only this call made and nothing reads any more."""
        done = [
            self._names[x]
            for x in dict.fromkeys((*eqn.vars, eqn.out))
            if self._names[x].startswith("v") and self._last[x] == i and x not in self._leaving
        ]
        return [f"del {', '.join(done)}"] if done else []

    # Numbers

    def _operand(self, eqn: Eqn, x: Any) -> str:
        if isinstance(x, Var):
            return self._names[x]
        kind = self._kind_of_numbers(eqn)
        if x is None or kind is None:
            return self._attr(x)
        if self._is_fixed(x):
            return self._number(x, kind)
        self._read.update(names_in(x))
        return self._cells.setdefault((x.text, kind), f"s{len(self._cells)}")

    def _kind_of_numbers(self, eqn: Eqn) -> Any:
        """Return the type in which an op takes numbers, where it takes them as arrays too.

        An array without axes is read several times faster than a number of Python's.
        """
        shares = len(eqn.op.values) == len(eqn.inputs)
        if eqn.op.kind != "elementwise" or not shares or not self._writes(eqn):
            return None
        kinds = {x.dtype for x in eqn.vars if x.dtype.is_floating}
        return kinds.pop() if len(kinds) == 1 else None

    def _attr(self, x: Any) -> str:
        if self._is_fixed(x):
            return repr(x) if x is None or type(x) in (bool, int) else self._number(x, None)
        if isinstance(x, tuple | list):
            inside = "".join(f"{self._attr(item)}, " for item in x)
            return f"({inside})" if isinstance(x, tuple) else f"[{inside}]"
        if isinstance(x, slice):
            parts = ", ".join(self._attr(part) for part in (x.start, x.stop, x.step))
            return f"slice({parts})"
        self._read.update(names_in(x))
        return str(x.text)

    def _number(self, x: Any, kind: Any) -> str:
        """Return the name of something that is the same in every call of these sizes."""
        return self._numbers.setdefault((kind, key_of(x)), (f"k_{len(self._numbers)}", x, kind))[0]

    # What the names stand for

    def bindings(self, env: Env, memory: dict[Any, Any]) -> dict[str, Any]:
        """Return what is bound for one set of sizes; ``memory`` is shared by all of them."""
        values: dict[Var, Any] = self._placed(env, memory)
        for eqn in self._before:
            inputs = [values[x] if isinstance(x, Var) else resolve(x, env) for x in eqn.inputs]
            attrs = {name: resolve(x, env) for name, x in eqn.attrs.items()}
            values[eqn.out] = _raw_kernel(eqn, self._device)(*inputs, **attrs)
        found = self.kernels | {self._names[x]: array for x, array in values.items()}
        for name, var in self._fresh.items():
            shape, kind = tuple(resolve(var.shape, env)), self._device.native(var.dtype)
            if (name, shape) not in memory:
                memory[name, shape] = self._backend.fresh(shape, kind, self._device.index)
            found[name] = memory[name, shape]
        for name, x, kind in self._numbers.values():
            value = resolve(x, env)
            found[name] = value if kind is None else self._array(value, kind)
        return found | {cell: self._array(0, kind) for (_, kind), cell in self._cells.items()}

    def _array(self, value: Any, kind: Any) -> Any:
        full = self._backend.creation("full", self._device.index)
        return full((), value, dtype=self._device.native(kind))

    def _placed(self, env: Env, memory: dict[Any, Any]) -> dict[Var, Any]:
        """Return the array of each value that has a buffer; each data type has its own memory."""
        arrays: dict[int, Any] = {}
        empty = self._backend.creation("empty", self._device.index)
        for kind in {buffer.var.dtype for buffer in self._buffers}:
            mine = [i for i, buffer in enumerate(self._buffers) if buffer.var.dtype is kind]
            sizes = [tuple(resolve(self._buffers[i].var.shape, env)) for i in mine]
            counts = [_in_lines(shapes.size(s), kind) for s in sizes]
            offsets, total = placed(counts, [self._buffers[i].span for i in mine])
            if kind not in memory or memory[kind].shape[0] < total:
                memory[kind] = empty((total,), dtype=self._device.native(kind))
            for i, size, offset in zip(mine, sizes, offsets, strict=True):
                part = memory[kind][offset : offset + shapes.size(size)]
                arrays[i] = self._device.namespace.reshape(part, size)
        return {x: arrays[i] for x, i in self._slot.items()}


def _in_lines(n: int, kind: dtypes.DType) -> int:
    """Return a number of elements as whole cache lines."""
    each = max(LINE_BYTES // kind.itemsize, 1)
    return -(-n // each) * each


def _raw_kernel(eqn: Eqn, device: Device) -> Any:
    """Return the function behind an op, without the context that `Planned` opens for all."""
    if eqn.op.name not in OPS:
        return kernel_of(eqn.op, device)
    if eqn.op.name in ("concat", "stack"):
        return device.kernels[eqn.op.name]
    return getattr(device.namespace, eqn.op.name)


__all__ = ["Planned", "runnable"]
