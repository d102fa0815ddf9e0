"""The text of one function: numbers at its top, elements of values, views and loops.

A value is written where it is needed, under the outermost loops that it depends on.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, NamedTuple

from nnx import shapes
from nnx.errors import TraceError
from nnx.graph import FULL, IOTA, Eqn, Graph, Var, line, names_of
from nnx.kernels.expressions import cast_of, constant, written
from nnx.kernels.groups import Plan, is_view
from nnx.kernels.memory import Buffer
from nnx.scalar import Scalar, text_of

FAILED_CHECK, FAILED_INDEX = 2, 3


class Scope:
    """A block of emitted lines under some loops, with the values that are known in it."""

    def __init__(
        self, parent: Scope | None, loops: frozenset[str], depth: int, header: str = ""
    ) -> None:
        self.parent, self.loops, self.depth, self.header = parent, loops, depth, header
        self.lines: list[str] = []
        self.known: dict[Any, str] = {}
        self.fixed = False  # whether nothing may move out of it

    def put(self, text: str) -> None:
        """Add a line."""
        self.lines.append("    " * self.depth + text)

    def find(self, key: Any) -> str | None:
        """Return the name of a value that is known here or around."""
        scope: Scope | None = self
        while scope is not None:
            if key in scope.known:
                return scope.known[key]
            scope = scope.parent
        return None

    def holder(self, loops: frozenset[str]) -> Scope:
        """Return the outermost block in which all these loop variables are known."""
        scope = self
        while scope.parent is not None and not scope.fixed and loops <= scope.parent.loops:
            scope = scope.parent
        return scope


class Kernel(NamedTuple):
    """A loop nest or a product of a step: its eqns, the arrays it reads and writes, its lines.

    One without eqns is a copy.
    """

    eqns: tuple[Eqn, ...]
    reads: tuple[Var, ...]
    writes: tuple[Var, ...]
    lines: tuple[str, ...]


class Emitted:
    """The text of a step, and what its table holds where."""

    def __init__(self) -> None:
        """``threads`` is the slot of the most threads a product may use, 0 without products.

        ``source`` is ``head``, in which pointers and numbers get names, then the kernels in order;
        ``stored`` are the eqns whose results are kept in memory.
        """
        self.source = ""
        self.head: list[str] = []
        self.kernels: list[Kernel] = []
        self.scalars: dict[str, int] = {}
        self.whole: set[str] = set()
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.buffers: list[Buffer] = []
        self.stored: list[Eqn] = []
        self.first = self.last = self.size = 0
        self.threads = 0


class Text:
    """What every part of the emitter writes with; see `nnx.kernels.emit_numba`."""

    def __init__(self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> None:
        self.graph, self.updates, self.kinds = graph, updates, kinds
        self.plan = Plan(graph, updates)
        self.names = names_of(graph)
        self.top = Scope(None, frozenset(), 1)
        self.head: list[str] = []
        self.out = Emitted()
        self.pointer: dict[Var, str] = {}
        self.ready: set[Var] = set(graph.inputs)
        self.deps: dict[str, frozenset[str]] = {}
        self.numbers: dict[str, str] = {}
        self.count = 0
        self.n_loops = 0
        self.allowed = "threads"

    def number(self, text: str, dtype: Any = None) -> str:
        """Return the name of a scalar expression, worked out once at the top."""
        key = f"{cast_of(dtype)}({text})" if dtype is not None else text
        if key.isdigit():
            return key
        if key not in self.numbers:
            for name in self.kinds:
                self._scalar(name, text)
            name = f"k{len(self.numbers)}"
            self.numbers[key] = name
            self.head.append(f"    {name} = {_with_calls_of_pow(key)}")
        return self.numbers[key]

    def _scalar(self, name: str, text: str) -> None:
        import re

        if re.search(rf"\b{name}\b", text) and f"={name}" not in self.numbers:
            slot = self.out.scalars[name]
            if self.kinds[name]:
                self.head.append(f"    {name} = table[{slot}]")
            else:
                self.head.append(f"    {name} = f64_at(table[0])[{slot}]")
            self.numbers[f"={name}"] = name

    def size(self, n: Any) -> str:
        """Return a size as text: a constant, or the name of its number."""
        return self.number(text_of(n)) if isinstance(n, Scalar) else str(n)

    def _strides(self, shape: Sequence[Any]) -> list[Any]:
        strides: list[Any] = []
        step: Any = 1
        for n in reversed(shape):
            strides.append(step)
            step = n * step
        return strides[::-1]

    def flat(self, shape: Sequence[Any], index: Sequence[str]) -> str:
        """Return the place of an element in contiguous memory."""
        parts = []
        for n, stride, i in zip(shape, self._strides(shape), index, strict=True):
            if shapes.is_one(n) or i == "0":
                continue
            parts.append(i if shapes.is_one(stride) else f"{i} * {self.size(stride)}")
        return " + ".join(parts) or "0"

    def value(self, x: Any, index: tuple[str, ...], scope: Scope, dtype: Any = None) -> str:
        """Return an expression for one element of a value; lines it needs are put before."""
        if isinstance(x, Scalar):
            return self.number(x.text, dtype)
        if not isinstance(x, Var):
            return constant(x, dtype)
        index = tuple("0" if shapes.is_one(n) else i for n, i in zip(x.shape, index, strict=True))
        key = (x, index)
        found = scope.find(key) or scope.find((x, None))
        if found is not None:
            return found
        maker = self.plan.maker.get(x)
        if x in self.ready and x in self.pointer:
            text = f"{self.pointer[x]}[{self.flat(x.shape, index)}]"
            return self._name(text, key, scope, None)
        assert maker is not None
        if maker.op is FULL:
            value = maker.attrs["value"]
            return (
                self.number(value.text, x.dtype)
                if isinstance(value, Scalar)
                else constant(value, x.dtype)
            )
        if maker.op is IOTA:
            return self._name(f"{cast_of(x.dtype)}({index[0]})", key, scope, None)
        if is_view(maker):
            y = maker.inputs[0]
            return self.value(y, self._through(maker, index, scope), scope)
        return self._computed(maker, index, key, scope)

    def _computed(self, eqn: Eqn, index: tuple[str, ...], key: Any, scope: Scope) -> str:
        given = [x for i, x in enumerate(eqn.inputs) if i in eqn.op.values and x is not None]
        held = [x.dtype for x in given if isinstance(x, Var)]
        common = held[0] if held else eqn.out.dtype
        texts = []
        for i, x in enumerate(eqn.inputs):
            lead = len(eqn.out.shape) - len(x.shape) if isinstance(x, Var) else 0
            kind = common if i in eqn.op.values else None
            texts.append(self.value(x, index[lead:], scope, kind))
        if eqn.op.name == "astype":
            source = eqn.inputs[0].dtype
            same = source is eqn.out.dtype
            if eqn.out.dtype.kind == "bool":
                text = f"({texts[0]} != {constant(0, source)})"
            else:
                text = texts[0] if same else f"{cast_of(eqn.out.dtype)}({texts[0]})"
        else:
            text = written(eqn.op.name, texts, common, eqn.out.dtype) or ""
        if not text:
            cannot_compile(eqn)
        return self._name(text, key, scope, eqn)

    def _name(self, text: str, key: Any, scope: Scope, eqn: Eqn | None) -> str:
        """Give an expression a name in the outermost block that has all it needs."""
        import re

        loops: frozenset[str] = frozenset()
        for word in set(re.findall(r"[A-Za-z_]\w*", text)):
            loops |= self.deps.get(word, frozenset())
        where = scope.holder(loops)
        name = f"t{self.count}"
        self.count += 1
        self.deps[name] = loops
        if eqn is not None:
            where.put(f"# {line(eqn, self.names)}")
        where.put(f"{name} = {text}")
        where.known[key] = name
        return name

    def _through(self, eqn: Eqn, index: tuple[str, ...], scope: Scope) -> tuple[str, ...]:
        """Return where a view finds the element of an index in its input."""
        name, x, out = eqn.op.name, eqn.inputs[0].shape, eqn.out.shape
        if name == "broadcast_to":
            return index[len(out) - len(x) :]
        if name == "permute_dims":
            axes = [a % len(x) for a in eqn.attrs["axes"]]
            return tuple(index[axes.index(a)] for a in range(len(x)))
        if name == "reshape":
            return self._reshaped(x, out, index, scope)
        if name in ("flip", "roll"):
            axes = shapes.normalize_axes(eqn.attrs.get("axis"), len(x))
            if name == "flip":
                return tuple(
                    f"({self.size(n)} - 1 - {i})" if a in axes else i
                    for a, (n, i) in enumerate(zip(x, index, strict=True))
                )
            return self._rolled(eqn, x, index, axes)
        if name == "tile":
            lead = len(out) - len(x)
            return tuple(f"({i} % {self.size(n)})" for n, i in zip(x, index[lead:], strict=True))
        if name == "repeat":
            axis, times = eqn.attrs.get("axis"), eqn.attrs["repeats"]
            if axis is None:
                flat = f"({index[0]} // {self.size(times)})"
                return self._unflattened(x, flat)
            axis = axis % len(x)
            return tuple(
                f"({i} // {self.size(times)})" if a == axis else i for a, i in enumerate(index)
            )
        if name == "getitem":
            return self._sliced(eqn, x, index)
        cannot_compile(eqn)

    def _reshaped(self, x: Any, out: Any, index: tuple[str, ...], scope: Scope) -> tuple[str, ...]:
        real_out = [i for n, i in zip(out, index, strict=True) if not shapes.is_one(n)]
        kept = [n for n in out if not shapes.is_one(n)]
        real_in = [n for n in x if not shapes.is_one(n)]
        if [text_of(n) for n in kept] == [text_of(n) for n in real_in]:
            rest = iter(real_out)
            return tuple("0" if shapes.is_one(n) else next(rest) for n in x)
        flat = self._name(self.flat(out, index), ("flat", out, index), scope, None)
        return self._unflattened(x, flat)

    def _unflattened(self, shape: Any, flat: str) -> tuple[str, ...]:
        result = []
        for n, stride in zip(shape, self._strides(shape), strict=True):
            part = flat if shapes.is_one(stride) else f"({flat} // {self.size(stride)})"
            result.append("0" if shapes.is_one(n) else f"({part} % {self.size(n)})")
        return tuple(result)

    def _rolled(self, eqn: Eqn, x: Any, index: tuple[str, ...], axes: Any) -> tuple[str, ...]:
        shift, axis = eqn.attrs["shift"], eqn.attrs.get("axis")
        if axis is None:
            flat = f"(({self.flat(x, index)}) - {shift}) % {self.size(shapes.size(x))}"
            return self._unflattened(x, f"({flat})")
        shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
        by = dict(zip(axes, shifts, strict=True))
        return tuple(
            f"(({i} - {by[a]}) % {self.size(x[a])})" if a in by else i for a, i in enumerate(index)
        )

    def _sliced(self, eqn: Eqn, x: Any, index: tuple[str, ...]) -> tuple[str, ...]:
        result: list[str] = []
        places = iter(index)
        for item, n in expanded(eqn.attrs["key"], x):
            if item is None:
                next(places)
            elif isinstance(item, slice):
                i = next(places)
                if item != slice(None):
                    start, _, step = shapes.span(item, n)
                    start = self.size(start)
                    i = f"({start} + {i} * {step})" if step != 1 else f"({start} + {i})"
                result.append(i)
            else:
                result.append(f"({self.size(n)} + {item})" if item < 0 else str(item))
        return tuple(result)

    def _loops(self, sizes: Sequence[Any], scope: Scope) -> tuple[list[str], Scope]:
        """Open nested loops; return their variables and the innermost block."""
        names = []
        for n in sizes:
            if shapes.is_one(n):
                names.append("0")
                continue
            name = self._loop_name()
            header = f"for {name} in range({self.size(n)}):"
            self.deps[name] = frozenset({name})
            scope = Scope(scope, scope.loops | {name}, scope.depth + 1, header)
            names.append(name)
        return names, scope

    def _loop_name(self) -> str:
        """Return a new variable's name, but for i8 to i64, which are types."""
        self.n_loops += 1 + (self.n_loops in (8, 16, 32, 64))
        return f"i{self.n_loops - 1}"

    def _close(self, inner: Scope, outer: Scope) -> None:
        """Put the lines of nested blocks into the block around them."""
        scope = inner
        while scope is not outer:
            parent = scope.parent
            assert parent is not None
            if scope.header:
                parent.put(scope.header)
                if not scope.lines:
                    scope.put("pass")
            parent.lines += scope.lines
            scope = parent

    def _as(self, text: str, eqn: Eqn) -> str:
        """Return an element in the type of its reduction."""
        source, out = eqn.inputs[0].dtype, eqn.out.dtype
        if source is out:
            return text
        if out.kind == "bool":
            return f"({text} != {constant(0, source)})"
        return f"{cast_of(out)}({text})"

    def _leave(self, status: int, scope: Scope) -> None:
        """Emit a return, which leaves BLAS with the threads it had."""
        if self.allowed != "threads":
            scope.put("if threads != 1:")
            scope.put("    blas_threads(threads)")
        scope.put(f"return {status}")

    def _store(self, x: Var, index: Sequence[str], text: str, scope: Scope) -> None:
        scope.put(f"{self.pointer[x]}[{self.flat(x.shape, index)}] = {text}")


class _Powers(ast.NodeTransformer):
    """Writes powers of floats as calls of the runtime: Numba's own is a function of its library."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        below = list(ast.walk(node.left))
        is_float = any(
            isinstance(n, ast.Div) or (isinstance(n, ast.Constant) and isinstance(n.value, float))
            for n in below
        )
        if isinstance(node.op, ast.Pow) and is_float:
            return ast.Call(ast.Name("pow"), [node.left, node.right], [])
        return node


def _with_calls_of_pow(text: str) -> str:
    if "**" not in text:
        return text
    return ast.unparse(_Powers().visit(ast.parse(text, mode="eval")))


def expanded(key: tuple[Any, ...], shape: Any) -> list[tuple[Any, Any]]:
    """Return the items of a key with dots written out, each with the size of its axis."""
    taken = sum(item is not None and item is not Ellipsis for item in key)
    filled: list[Any] = []
    for item in key:
        if item is Ellipsis:
            filled += [slice(None)] * (len(shape) - taken)
        else:
            filled.append(item)
    if Ellipsis not in [k for k in key if k is Ellipsis]:
        filled += [slice(None)] * (len(shape) - taken)
    sizes = iter(shape)
    return [(item, None if item is None else next(sizes)) for item in filled]


def cannot_compile(eqn: Eqn) -> Any:
    """Raise TraceError for an eqn that has no text here; it names the op and the user's line."""
    file, number = eqn.place
    raise TraceError(
        f"{file}, line {number}: op {eqn.op.name!r} with {eqn.attrs}, which gives {eqn.out.dtype}, "
        f"cannot be compiled for the CPU. Leave this function un-jitted (jit=False in fit), or use "
        f"another op."
    )
