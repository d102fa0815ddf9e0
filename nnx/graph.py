"""The graph: what tracing returns, what passes change, what compilers read.

A `Graph` is a list of `Eqn`, each one op on `Var` and plain numbers, in an order in which it can be
run. It can always be checked, printed, and interpreted op by op without a compiler.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nnx import shapes
from nnx.dtypes import DType
from nnx.errors import TraceError
from nnx.op import OPS, Attrs, Op, listed
from nnx.scalar import Env, Scalar, Sizes, evaluator, resolve, text_of, value_of

Place = tuple[str, int]
"""The file and line of the user's program that an eqn comes from."""


class Var:
    """A value of a graph: its shape, whose sizes may be scalars, and its data type."""

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, shape: Sequence[Any], dtype: DType, name: str = "") -> None:
        self.shape = Sizes(shape)
        self.dtype = dtype
        self.name = name

    def __repr__(self) -> str:
        return f"<var {self.name or '_'} {describe(self)}>"


class Eqn:
    """One line of a graph: ``out = op(*inputs, **attrs)``; ``place`` is where the user wrote it."""

    __slots__ = ("attrs", "inputs", "op", "out", "place")

    def __init__(
        self, op: Op, inputs: Sequence[Any], attrs: Attrs, out: Var, place: Place = ("", 0)
    ) -> None:
        self.op, self.inputs, self.attrs = op, tuple(inputs), attrs
        self.out, self.place = out, place

    @property
    def vars(self) -> Iterator[Var]:
        """The inputs that are values of the graph."""
        return (x for x in self.inputs if isinstance(x, Var))


class Graph:
    """Inputs, scalars, eqns, outputs. ``scalars`` names the numbers that each call brings."""

    def __init__(
        self,
        inputs: Sequence[Var],
        scalars: Sequence[str],
        eqns: Sequence[Eqn],
        outputs: Sequence[Var],
    ) -> None:
        self.inputs, self.scalars = list(inputs), list(scalars)
        self.eqns, self.outputs = list(eqns), list(outputs)

    def __repr__(self) -> str:
        return pretty(self)

    def _repr_html_(self) -> str:
        from nnx.viz import notebook

        return notebook.of_graph(self)

    def with_eqns(self, eqns: Sequence[Eqn], outputs: Sequence[Var] | None = None) -> Graph:
        """Return a graph of the same inputs with other eqns."""
        return Graph(self.inputs, self.scalars, eqns, self.outputs if outputs is None else outputs)


def readers_of(graph: Graph) -> dict[Var, list[Eqn]]:
    """Return the eqns that read each value, in order; values that none reads are not there."""
    found: dict[Var, list[Eqn]] = {}
    for eqn in graph.eqns:
        for x in dict.fromkeys(eqn.vars):
            found.setdefault(x, []).append(eqn)
    return found


class CheckError(TraceError):
    """A value was met that a check of a graph refuses."""


# Ops that only graphs hold: what eager code does by a call of its own


def _entry(kind: str, shape: Any, dtype: str, evaluate: Any, values: tuple[int, ...] = ()) -> Op:
    name = evaluate.__name__.strip("_")
    return Op(name, kind, shape, evaluate, None, evaluate.__doc__ or "", dtype=dtype, values=values)


def _full(xp: Any, /, *, shape: Any, value: Any, dtype: Any) -> Any:
    """One value at every place of a shape."""
    return xp.create("full")(shape, value, dtype=xp.native(dtype))


def _iota(xp: Any, /, *, n: Any, dtype: Any) -> Any:
    """0 to n - 1."""
    return xp.create("arange")(n, dtype=xp.native(dtype))


def _check(xp: Any, x: Any, /) -> Any:
    """Stop the program where any element is true; the graph before it was lowered says why."""
    if bool(xp.to_numpy(xp.any(x))):
        raise CheckError("check: a value that must not be was met.")
    return x


def _draw(
    xp: Any, /, *, seed: Any, stream: Any, block: Any, kind: str, settings: Any, shape: Any,
    dtype: Any,
) -> Any:  # fmt: skip
    """Random numbers from three counters; see `nnx.random`."""
    from nnx.random import Generator

    generator = Generator(0)
    generator.load_state_dict({"seed": seed, "stream": stream, "block": block})
    host = getattr(generator, f"host_{kind}")(*settings, shape)
    return xp.from_host(host, dtype)


FULL = _entry("layout", lambda *, shape, value, dtype: tuple(shape), "attr", _full)
IOTA = _entry("layout", lambda *, n, dtype: (n,), "attr", _iota)
CHECK = _entry("layout", shapes.same, "bool", _check, (0,))
DRAW = _entry("random", lambda *, shape, **_: tuple(shape), "attr", _draw)
EFFECTS = frozenset({CHECK})
"""Ops that are kept although nothing reads their result."""


def same_shape(x: Sequence[Any], y: Sequence[Any]) -> bool:
    """Return whether two shapes are written alike, and so are equal in every call."""
    return len(x) == len(y) and all(text_of(a) == text_of(b) for a, b in zip(x, y, strict=True))


def infer(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Var:
    """Return the result of an op by its shape rule and its type rule."""
    sizes = [x.shape if isinstance(x, Var) else None if x is None else () for x in inputs]
    kinds = [x.dtype if isinstance(x, Var) else value_of(x) for x in inputs]
    return Var(op.shape(*sizes, **attrs), op.result_dtype(kinds, attrs))


def typecheck(graph: Graph) -> None:
    """Raise TraceError unless every eqn has the shape and type that the op table says.

    Inputs must be defined before they are used, and each value once.
    """
    known = set(graph.inputs)
    for eqn in graph.eqns:
        for x in eqn.vars:
            if x not in known:
                raise TraceError(f"{eqn.op.name}: an input is used before it is made: {x!r}.")
        if eqn.out in known:
            raise TraceError(f"{eqn.op.name}: its result is made twice: {eqn.out!r}.")
        known.add(eqn.out)
        expected = infer(eqn.op, eqn.inputs, eqn.attrs)
        if expected.shape != eqn.out.shape or expected.dtype is not eqn.out.dtype:
            raise TraceError(
                f"{eqn.op.name} gives {describe(expected)}, the graph says {describe(eqn.out)}."
            )
    for out in graph.outputs:
        if out not in known:
            raise TraceError(f"An output is never made: {out!r}.")


# Printing


def largest(eqns: Iterable[Eqn], env: Env) -> str:
    """Return in words which of some eqns has the largest result: its op, where it is written, what
    it reads; "" for none. ``env`` has the scalars by name.
    """

    def n_bytes(eqn: Eqn) -> int:
        return int(math.prod(resolve(tuple(eqn.out.shape), env))) * eqn.out.dtype.itemsize

    found = max(eqns, key=n_bytes, default=None)
    if found is None:
        return ""
    read = [f"{x.dtype} {resolve(tuple(x.shape), env)}" for x in found.vars]
    of = f" of {', '.join(read)}" if read else ""
    file, line = found.place
    where = f" in {file}, line {line}" if file else ""
    name = "matmul" if found.op.name == "gemm" else found.op.name
    return f"{name}{of}{where} ({n_bytes(found):,} bytes)"


def describe(x: Var) -> str:
    """Return a value's type and shape, such as f32[B, 16]."""
    short = x.dtype.name.replace("float", "f").replace("uint", "u").replace("int", "i")
    return f"{short}[{', '.join(text_of(n) for n in x.shape)}]"


def names_of(graph: Graph) -> dict[Var, str]:
    """Return the names that printing gives: inputs by their own, the rest by number."""
    names: dict[Var, str] = {}
    taken: set[str] = set()
    for i, x in enumerate(graph.inputs):
        name = x.name or f"in{i}"
        while name in taken:
            name += "_"
        taken.add(name)
        names[x] = name
    for i, eqn in enumerate(graph.eqns):
        names[eqn.out] = f"%{i}"
    return names


def line(eqn: Eqn, names: dict[Var, str]) -> str:
    """Return an eqn as one line of text."""
    inputs = [names[x] if isinstance(x, Var) else text_of(x) for x in eqn.inputs]
    attrs = [f"{name}={_attr(value)}" for name, value in eqn.attrs.items()]
    return f"{names[eqn.out]}: {describe(eqn.out)} = {eqn.op.name}({', '.join(inputs + attrs)})"


def _attr(value: Any) -> str:
    if isinstance(value, tuple):
        inside = ", ".join(_attr(item) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, slice):
        return f"slice({', '.join(map(_attr, (value.start, value.stop, value.step)))})"
    return str(value) if isinstance(value, DType) else text_of(value)


def pretty(graph: Graph) -> str:
    """Return the graph as text, one eqn a line."""
    names = names_of(graph)
    head = [f"{names[x]}: {describe(x)}" for x in graph.inputs]
    numbers = [f"{name}: scalar" for name in graph.scalars]
    lines = [f"  {line(eqn, names)}" for eqn in graph.eqns]
    outputs = ", ".join(names[x] for x in graph.outputs)
    inside = ",\n  ".join(numbers + head)
    return "\n".join([f"graph(\n  {inside}\n):", *lines, f"  return {outputs}"])


# Running without a compiler


def interpret(graph: Graph, device: Any, arrays: Sequence[Any], env: Env) -> list[Any]:
    """Run a graph eqn by eqn with a device's own kernels; return the outputs' arrays.

    ``env`` has the scalars by name. This is the oracle that compiled code is held against.
    """
    values: dict[Var, Any] = dict(zip(graph.inputs, arrays, strict=True))
    with device.scope():
        for eqn in graph.eqns:
            inputs = [operand(x, values, env) for x in eqn.inputs]
            attrs = {name: resolve(value, env) for name, value in eqn.attrs.items()}
            try:
                values[eqn.out] = kernel_of(eqn.op, device)(*inputs, **attrs)
            except MemoryError as error:
                what = f"{eqn.op.name} of {listed(inputs)}"
                raise device.out_of_memory(what, error) from None
    return [values[x] for x in graph.outputs]


def operand(x: Any, values: dict[Var, Any], env: Env) -> Any:
    """Return what an eqn's input is in a call: an array, or a number."""
    if isinstance(x, Var):
        return values[x]
    return evaluator(x.text)(env) if isinstance(x, Scalar) else x


def kernel_of(op: Op, device: Any) -> Any:
    """Return the function that runs an op on a device's arrays."""
    if op.name in OPS:
        return device.kernels[op.name]
    return functools.partial(op.eval, device.namespace)
