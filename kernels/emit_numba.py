"""The Numba emitter: a lowered graph becomes the text of one function, ``step(table)``.

``table`` holds 64-bit integers: its own address, then the scalars, then the addresses of inputs,
outputs and work buffers. The text is plain scalar loops, so that it also runs uncompiled; it
allocates nothing, all arrays are contiguous, and an output may be the memory of the input that it
replaces. It returns 0, or the number of the check that failed before anything was replaced.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.errors import TraceError
from nnx.graph import CHECK, DRAW, FULL, IOTA, Eqn, Graph, Var, line, names_of
from nnx.kernels.blas import ONE_THREAD_BELOW
from nnx.kernels.draws import KINDS as DRAWS
from nnx.kernels.draws import drawn, order
from nnx.kernels.expressions import CAST, cast_of, constant, written
from nnx.kernels.groups import Group, Plan, is_view
from nnx.kernels.memory import Buffer, Life, lifetimes, shared
from nnx.scalar import Scalar, text_of

FAILED_CHECK, FAILED_INDEX = 2, 3

_EMPTY = {
    "sum": "0", "prod": "1", "any": "False", "all": "True",
}  # fmt: skip


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


class Emitted:
    """The text of a step, and what its table holds where."""

    def __init__(self) -> None:
        """``threads`` is the slot of the most threads a product may use, 0 without products."""
        self.source = ""
        self.scalars: dict[str, int] = {}
        self.whole: set[str] = set()
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.buffers: list[Buffer] = []
        self.first = self.last = self.size = 0
        self.threads = 0


def emit(graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> Emitted:
    """Return the text for a graph. ``updates`` maps outputs to the inputs that they replace;
    ``kinds`` says of each scalar whether it is a whole number.
    """
    return _Emitter(graph, updates, kinds).run()


class _Emitter:
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

    # The whole

    def run(self) -> Emitted:
        for eqn in self.graph.eqns:
            if eqn.out.dtype.name not in CAST:
                _unknown(eqn)
        out = self.out
        slot = 1
        for name in self._scalar_names():
            out.scalars[name] = slot
            slot += 1
        for x in self.graph.inputs:
            out.inputs.append(slot)
            self._declare(x, f"x{len(out.inputs) - 1}", slot)
            slot += 1
        out.first = out.inputs[0] if out.inputs else slot
        self.copies: list[tuple[str, Var]] = []
        for k, x in enumerate(self.graph.outputs):
            out.outputs.append(slot)
            old = self.graph.inputs[self.updates[k]] if k in self.updates else None
            if self._writes_directly(k, x):
                if old is None:
                    self._declare(x, f"y{k}", slot)
                else:
                    # One name for one memory: LLVM's test whether two overlap then says no.
                    self.pointer[x] = self.pointer[old]
            elif old is not None:
                self.copies.append((self.pointer[old], x))
            else:
                self.copies.append((f"y{k}", x))
                self.head.append("    " + self._pointer_line(x.dtype, f"y{k}", slot))
            slot += 1
        out.last = slot
        for buffer in shared(self._lives(), self.plan.heirs()):
            buffer.slot = slot
            out.buffers.append(buffer)
            for x in buffer.vars:
                self.pointer[x] = f"w{len(out.buffers) - 1}"
            self.head.append("    " + self._pointer_line(buffer.dtype, self.pointer[x], slot))
            slot += 1
        if any(eqn.op.name == "matmul" and eqn.out.dtype.is_floating for eqn in self.graph.eqns):
            out.threads, slot = slot, slot + 1
            self.head.append(f"    threads = table[{out.threads}]")
        out.size = slot
        for group in self.plan.groups:
            if group.alone:
                self._alone(group.eqns[0])
            else:
                self._group(group)
        # First what may still read an input, then what replaces inputs.
        for name, x in sorted(self.copies, key=lambda copy: copy[0].startswith("x")):
            self._copy(name, x)
        self._leave(0, self.top)
        out.source = self._text()
        return out

    def _text(self) -> str:
        body = "\n".join([*self.head, *self.top.lines])
        words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
        from nnx.kernels import runtime

        names = sorted(w for w in words if w.isidentifier() and hasattr(runtime, w))
        imports = "\n".join(f"    {name}," for name in names)
        return (
            f"from nnx.kernels.runtime import (\n{imports}\n)\n\n"
            f"inf = 1e999\nnan = inf - inf\n\n\ndef step(table):\n{body}\n"
        )

    def _scalar_names(self) -> list[str]:
        return sorted(self.kinds)

    def _declare(self, x: Var, name: str, slot: int) -> None:
        if x in self.pointer:
            return
        self.pointer[x] = name
        self.head.append("    " + self._pointer_line(x.dtype, name, slot))

    def _pointer_line(self, dtype: Any, name: str, slot: int) -> str:
        return f"{name} = {cast_of(dtype)}_slot(table, {slot})"

    def _writes_directly(self, k: int, x: Var) -> bool:
        """Return whether an output is written where it is computed, and not copied at the end."""
        if x in self.pointer or x not in self.plan.maker:
            return False
        if self.plan.is_free(self.plan.maker[x]):
            return False
        if self.graph.outputs.index(x) != k:
            return False
        if k not in self.updates:
            return True
        old = self.graph.inputs[self.updates[k]]
        mine = self.plan.group_of[x]
        if x not in self.plan.late:
            return False  # a check after it may fail, or something read what it replaces
        once = self._in_one_pass(mine, old)
        order = {id(g): i for i, g in enumerate(self.plan.groups)}
        for eqn in self.graph.eqns:
            if self.plan.is_free(eqn):
                continue
            for y, own in self.plan.sources(eqn):
                if y is old:
                    theirs = self.plan.group_of[eqn.out]
                    if order[id(theirs)] > order[id(mine)] or (
                        theirs is mine and not (own and once)
                    ):
                        return False
        return not any(self._view_of(o, old) for o in self.graph.outputs)

    def _in_one_pass(self, group: Group, old: Var) -> bool:
        """Return whether all that needs an input in a group is worked out in one pass over it.

        Another pass would read it again, when it has been replaced.
        """
        needing = {old}
        for eqn in group.eqns:
            if any(x in needing for x, _ in self.plan.sources(eqn)):
                needing.add(eqn.out)
        targets = [(level, eqn) for level, eqn in self._levels(group) if eqn.out in needing]
        return len({(level, self._is_row_target(eqn, group)) for level, eqn in targets}) <= 1

    def _view_of(self, x: Var, old: Var) -> bool:
        if x is old:
            return True
        maker = self.plan.maker.get(x)
        return bool(maker and is_view(maker) and any(self._view_of(y, old) for y in maker.vars))

    def _lives(self) -> list[Life]:
        """Return when each value that needs work memory is in use."""
        steps = [
            [x for eqn in group.eqns for x in (eqn.out, *(y for y, _ in self.plan.sources(eqn)))]
            for group in self.plan.groups
        ]
        steps.append([y for _, x in self.copies for y in self._roots(x)])
        return lifetimes(steps, [x for x in self.plan.stored if x not in self.pointer])

    # Numbers

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

    # Values

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
            _unknown(eqn)
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
        _unknown(eqn)

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
        for item, n in _expanded(eqn.attrs["key"], x):
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

    # Loops

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

    def _group(self, group: Group) -> None:
        outer = Scope(self.top, frozenset(), 1)
        domain = group.domain
        rows = list(domain[:-1])
        after: list[str] = []
        before: list[str] = []
        flat = self._is_flat(group)
        if flat:
            row_index: list[str] = []
            row_scope = outer
            index_shape: Sequence[Any] = (shapes.size(domain),)
        else:
            row_index, row_scope = [], outer
            index_shape = domain[-1:]
        opened: list[tuple[Scope, Scope]] = []
        body = Scope(outer, frozenset(), 1)
        body.fixed = True
        if not flat and rows:
            row_index, row_scope = self._loops_lazy(rows, body)
        else:
            row_scope = body
        del opened
        levels = self._levels(group)
        top = max((lv for lv, _ in levels), default=0)
        for level in range(top + 1):
            targets = [eqn for lv, eqn in levels if lv == level]
            full = [e for e in targets if not self._is_row_target(e, group)]
            if full:
                self._phase(group, full, row_index, row_scope, index_shape, flat, before, after)
            stores: list[str] = []  # at the end: they may replace what others read
            for eqn in targets:
                if self._is_row_target(eqn, group):
                    self._row_target(eqn, row_index, row_scope, stores, before, after)
            for text in stores:
                row_scope.put(text)
        self._close(row_scope, body)
        for text in before:
            self.top.put(text)
        self.top.lines += body.lines
        for text in after:
            self.top.put(text)
        self.ready |= {eqn.out for eqn in group.eqns if eqn.out in self.pointer}

    def _loops_lazy(self, sizes: Sequence[Any], scope: Scope) -> tuple[list[str], Scope]:
        return self._loops(sizes, scope)

    def _is_flat(self, group: Group) -> bool:
        """Return whether all of a group's values lie element beside element."""
        if len(group.domain) < 2 or group.rows:
            return False
        for eqn in group.eqns:
            if eqn.op is not CHECK and self.plan.reduction(eqn) not in ("other", "all"):
                return False
            for x in eqn.vars:
                if not (_same(x.shape, group.domain) or not _real(x.shape)):
                    return False
                maker = self.plan.maker.get(x)
                while maker is not None and is_view(maker):
                    if maker.op is IOTA or (maker.op is not FULL and maker.op.name != "reshape"):
                        return False
                    if maker.op is FULL:
                        break
                    maker = self.plan.maker.get(maker.inputs[0])
        return True

    def _levels(self, group: Group) -> list[tuple[int, Eqn]]:
        """Return the eqns that leave something behind, each with the pass over the row it needs."""
        level: dict[Var, int] = {}
        for eqn in group.eqns:
            below = max((level.get(x, 0) for x, _ in self.plan.sources(eqn)), default=0)
            level[eqn.out] = below + (self.plan.reduction(eqn) == "row" and not self._flat_row(eqn))
        targets = []
        for eqn in group.eqns:
            kind = self.plan.reduction(eqn)
            below = max((level.get(x, 0) for x, _ in self.plan.sources(eqn)), default=0)
            if kind != "other" or eqn.op is CHECK or eqn.out in self.plan.stored:
                targets.append((below, eqn))
        return targets

    def _flat_row(self, eqn: Eqn) -> bool:
        return False

    def _is_row_target(self, eqn: Eqn, group: Group) -> bool:
        kind = self.plan.reduction(eqn)
        shape = eqn.inputs[0].shape if kind != "other" or eqn.op is CHECK else eqn.out.shape
        return not _same(shape, group.domain) or (kind == "other" and eqn.out in group.rows)

    def _phase(
        self, group: Group, targets: list[Eqn], row_index: list[str], row_scope: Scope,
        index_shape: Sequence[Any], flat: bool, before: list[str], after: list[str],
    ) -> None:  # fmt: skip
        """Emit one pass over a row: reductions and stores."""
        start: list[str] = []
        end: list[tuple[Eqn, str]] = []
        inner_names, inner = self._loops(index_shape, row_scope)
        if inner is row_scope:
            inner = Scope(row_scope, row_scope.loops, row_scope.depth)
        stores: list[str] = []
        for eqn in targets:
            index = self._domain_index(group, row_index, inner_names, flat)
            kind = self.plan.reduction(eqn)
            if kind == "other" and eqn.op is not CHECK:
                text = self._element(eqn, index, inner, flat, group)
                place = inner_names[0] if flat else self.flat(eqn.out.shape, index)
                stores.append(f"{self.pointer[eqn.out]}[{place}] = {text}")
                inner.known[(eqn.out, index)] = text
                continue
            x = eqn.inputs[0]
            text = self._operand(x, index, inner, flat)
            self._reduce(eqn, kind, text, index, inner, row_scope, start, end, before, after)
        for text in stores:
            inner.put(text)
        for text in start:
            row_scope.put(text)
        self._close(inner, row_scope)
        for eqn, name in end:
            row_scope.known[(eqn.out, None)] = name
            self.deps[name] = row_scope.loops
            if eqn.out in self.plan.stored:
                index = tuple(row_index) + ("0",) * (len(eqn.out.shape) - len(row_index))
                row_scope.put(
                    f"{self.pointer[eqn.out]}[{self.flat(eqn.out.shape, index)}] = {name}"
                )

    def _domain_index(
        self, group: Group, row_index: list[str], inner: list[str], flat: bool
    ) -> tuple[str, ...]:
        if flat:
            return (inner[0],)
        return (*row_index, *inner)

    def _operand(self, x: Any, index: tuple[str, ...], scope: Scope, flat: bool) -> str:
        if not flat or not isinstance(x, Var):
            return self.value(x, index, scope)
        return self._flat_value(x, index[0], scope)

    def _element(
        self, eqn: Eqn, index: tuple[str, ...], scope: Scope, flat: bool, group: Group
    ) -> str:
        if flat:
            return self._flat_value(eqn.out, index[0], scope)
        return self.value(eqn.out, index, scope)

    def _flat_value(self, x: Any, i: str, scope: Scope, dtype: Any = None) -> str:
        """Return an element by its place in memory, where all arrays of a loop lie alike."""
        if not isinstance(x, Var):
            return self.value(x, (), scope, dtype)
        if not _real(x.shape):
            return self.value(x, ("0",) * len(x.shape), scope, dtype)
        key = (x, (i,))
        found = scope.find(key)
        if found is not None:
            return found
        maker = self.plan.maker.get(x)
        if x in self.ready and x in self.pointer:
            return self._name(f"{self.pointer[x]}[{i}]", key, scope, None)
        assert maker is not None
        if maker.op is FULL:
            return self.value(x, ("0",) * len(x.shape), scope)
        if is_view(maker):
            return self._flat_value(maker.inputs[0], i, scope)
        held = [
            y.dtype for k, y in enumerate(maker.inputs)
            if k in maker.op.values and isinstance(y, Var)
        ]  # fmt: skip
        common = held[0] if held else maker.out.dtype
        texts = [
            self._flat_value(y, i, scope, common if k in maker.op.values else None)
            for k, y in enumerate(maker.inputs)
        ]
        if maker.op.name == "astype":
            source = maker.inputs[0].dtype
            if maker.out.dtype.kind == "bool":
                text: str | None = f"({texts[0]} != {constant(0, source)})"
            else:
                text = f"{cast_of(maker.out.dtype)}({texts[0]})"
        else:
            text = written(maker.op.name, texts, common, maker.out.dtype)
        if text is None:
            _unknown(maker)
        return self._name(text, key, scope, maker)

    def _reduce(
        self, eqn: Eqn, kind: str, text: str, index: tuple[str, ...], inner: Scope,
        row_scope: Scope, start: list[str], end: list[tuple[Eqn, str]], before: list[str],
        after: list[str],
    ) -> None:  # fmt: skip
        """Emit how one element goes into a reduction."""
        if eqn.op is CHECK:
            name = f"bad{self.count}"
            self.count += 1
            before.append(f"{name} = b1(False)")
            inner.put(f"# {line(eqn, self.names)}")
            inner.put(f"{name} = logical_or({name}, {text})")
            leaving = Scope(None, frozenset(), 2)
            self._leave(FAILED_CHECK, leaving)
            after.append("\n".join([f"if {name}:", *leaving.lines]))
            return
        name = f"a{self.count}"
        self.count += 1
        dtype = eqn.out.dtype
        first, added = _reducing(eqn, name, self._as(text, eqn), dtype)
        inner.put(f"# {line(eqn, self.names)}")
        if kind == "column":
            pointer, place = self.pointer[eqn.out], self.flat(eqn.inputs[0].shape[-1:], index[-1:])
            n = self.size(shapes.size(eqn.out.shape))
            before.append(f"for c in range({n}):\n        {pointer}[c] = {first}")
            _, added = _reducing(eqn, f"{pointer}[{place}]", self._as(text, eqn), dtype)
            inner.put(f"{pointer}[{place}] = {added}")
        elif kind == "all":
            before.append(f"{name} = {first}")
            inner.put(f"{name} = {added}")
            after.append(f"{self.pointer[eqn.out]}[0] = {name}")
        else:
            start.append(f"{name} = {first}")
            inner.put(f"{name} = {added}")
            end.append((eqn, name))

    def _as(self, text: str, eqn: Eqn) -> str:
        """Return an element in the type of its reduction."""
        source, out = eqn.inputs[0].dtype, eqn.out.dtype
        if source is out:
            return text
        if out.kind == "bool":
            return f"({text} != {constant(0, source)})"
        return f"{cast_of(out)}({text})"

    def _row_target(
        self, eqn: Eqn, row_index: list[str], scope: Scope, stores: list[str], before: list[str],
        after: list[str],
    ) -> None:  # fmt: skip
        """Emit what is done once a row: a store, a sum of all rows, a check."""
        kind = self.plan.reduction(eqn)
        x = eqn.inputs[0] if kind != "other" or eqn.op is CHECK else eqn.out
        index = tuple(row_index) + ("0",) * (len(x.shape) - len(row_index))
        text = self.value(x, index, scope)
        if kind == "other" and eqn.op is not CHECK:
            stores.append(f"{self.pointer[x]}[{self.flat(x.shape, index)}] = {text}")
            return
        self._reduce(eqn, "all", text, index, scope, scope, [], [], before, after)

    # Loops of their own

    def _alone(self, eqn: Eqn) -> None:
        self.top.put(f"# {line(eqn, self.names)}")
        name = eqn.op.name
        if name == "matmul":
            self._matmul(eqn)
        elif name == "concat":
            self._concat(eqn)
        elif name in ("getitem", "scatter_add"):
            self._indexed(eqn)
        elif name in ("cumulative_sum", "cumulative_prod"):
            self._cumulative(eqn)
        elif eqn.op is DRAW:
            self._draw(eqn)
        elif name in ("argmax", "argmin") or name in ("sum", "prod", "max", "min", "any", "all"):
            self._general_reduction(eqn)
        else:
            _unknown(eqn)
        self.ready.add(eqn.out)

    def _store(self, x: Var, index: Sequence[str], text: str, scope: Scope) -> None:
        scope.put(f"{self.pointer[x]}[{self.flat(x.shape, index)}] = {text}")

    def _copy(self, name: str, x: Var) -> None:
        outer = Scope(self.top, frozenset(), 1)
        index, inner = self._loops(x.shape, outer)
        text = self.value(x, tuple(index), inner)
        inner.put(f"{name}[{self.flat(x.shape, index)}] = {text}")
        self._close(inner, outer)
        self.top.lines += outer.lines

    def _roots(self, x: Var) -> Iterator[Var]:
        maker = self.plan.maker.get(x)
        if maker is not None and is_view(maker):
            for y in maker.vars:
                yield from self._roots(y)
        else:
            yield x

    def _concat(self, eqn: Eqn) -> None:
        axis = eqn.attrs.get("axis", 0)
        out = eqn.out
        start: Any = 0
        for x in eqn.inputs:
            outer = Scope(self.top, frozenset(), 1)
            index, inner = self._loops(x.shape, outer)
            text = self.value(x, tuple(index), inner)
            if axis is None:
                place = f"{self.size(start)} + {self.flat(x.shape, index)}"
                start = start + shapes.size(x.shape)
            else:
                at = axis % len(out.shape)
                moved = list(index)
                moved[at] = f"({self.size(start)} + {index[at]})"
                place = self.flat(out.shape, moved)
                start = start + x.shape[at]
            inner.put(f"{self.pointer[out]}[{place}] = {text}")
            self._close(inner, outer)
            self.top.lines += outer.lines

    def _cumulative(self, eqn: Eqn) -> None:
        x, out = eqn.inputs[0], eqn.out
        axis = shapes.normalize_axis(eqn.attrs.get("axis") or 0, len(x.shape))
        initial = eqn.attrs.get("include_initial", False)
        outer = Scope(self.top, frozenset(), 1)
        rest = [n for a, n in enumerate(x.shape) if a != axis]
        names, scope = self._loops(rest, outer)
        adds = eqn.op.name == "cumulative_sum"
        total = f"a{self.count}"
        self.count += 1
        # What leaves -0 as it is.
        start = (-0.0 if out.dtype.is_floating else 0) if adds else 1
        scope.put(f"{total} = {constant(start, out.dtype)}")
        if initial:
            at = (*names[:axis], "0", *names[axis:])
            self._store(out, at, constant(0 if adds else 1, out.dtype), scope)
        name = self._loop_name()
        self.deps[name] = frozenset({name})
        header = f"for {name} in range({self.size(x.shape[axis])}):"
        inner = Scope(scope, scope.loops | {name}, scope.depth + 1, header)
        at = (*names[:axis], name, *names[axis:])
        text = self._as(self.value(x, at, inner), eqn)
        op = "+" if adds else "*"
        inner.put(f"{total} = {cast_of(out.dtype)}({total} {op} {text})")
        place = f"({name} + 1)" if initial else name
        self._store(out, (*names[:axis], place, *names[axis:]), total, inner)
        self._close(inner, outer)
        self.top.lines += outer.lines

    def _general_reduction(self, eqn: Eqn) -> None:
        x, out = eqn.inputs[0], eqn.out
        axes = shapes.normalize_axes(eqn.attrs.get("axis"), len(x.shape))
        outer = Scope(self.top, frozenset(), 1)
        kept = [a for a in range(len(x.shape)) if a not in axes]
        names, scope = self._loops([x.shape[a] for a in kept], outer)
        chooses = eqn.op.name in ("argmax", "argmin")
        total, place = f"a{self.count}", f"p{self.count}"
        self.count += 1
        if chooses:
            low = "-inf" if eqn.op.name == "argmax" else "inf"
            start = (
                _lowest(x.dtype, eqn.op.name == "argmax")
                if not x.dtype.is_floating
                else (f"{cast_of(x.dtype)}({low})")
            )
            scope.put(f"{total} = {start}")
            scope.put(f"{place} = i64(-1)")
        else:
            scope.put(f"{total} = {_reducing(eqn, total, '', out.dtype)[0]}")
        inner_names, inner = self._loops([x.shape[a] for a in axes], scope)
        index = [""] * len(x.shape)
        for a, i in zip([*kept, *axes], [*names, *inner_names], strict=True):
            index[a] = i
        text = self.value(x, tuple(index), inner)
        if chooses:
            at = self.flat([x.shape[a] for a in axes], inner_names)
            sign = ">" if eqn.op.name == "argmax" else "<"
            better = f"{text} {sign} {total} or {place} < 0"
            if x.dtype.is_floating:
                better = f"{total} == {total} and ({better} or {text} != {text})"
            inner.put(f"if {better}:")
            inner.put(f"    {total} = {text}")
            inner.put(f"    {place} = i64({at})")
        else:
            added = _reducing(eqn, total, self._as(text, eqn), out.dtype)[1]
            inner.put(f"{total} = {added}")
        result = place if chooses else total
        parts = iter(names)
        if eqn.attrs.get("keepdims"):
            at_out = ["0" if a in axes else next(parts) for a in range(len(x.shape))]
        else:
            at_out = list(parts)
        if inner is not scope:
            self._close(inner, scope)
        scope.put(f"{self.pointer[out]}[{self.flat(out.shape, at_out)}] = {result}")
        self._close(scope, outer)
        self.top.lines += outer.lines

    def _indexed(self, eqn: Eqn) -> None:
        """Emit x[key] with arrays of integers, or the addition of values at such a key."""
        adds = eqn.op.name == "scatter_add"
        x, *indices = eqn.inputs
        full = eqn.attrs["shape"] if adds else x.shape
        key = _expanded(eqn.attrs["key"], full)
        outer = Scope(self.top, frozenset(), 1)
        outer.fixed = True  # an index is tested here before anything is read with it
        if adds:
            n = self.size(shapes.size(eqn.out.shape))
            self.top.put(f"for c in range({n}):")
            self.top.put(f"    {self.pointer[eqn.out]}[c] = {constant(0, eqn.out.dtype)}")
        taken = x.shape if adds else eqn.out.shape
        names, scope = self._loops(taken, outer)
        lead, together, rest = _layout(key, indices)
        shared = names[lead : lead + len(together)]
        plain = iter([*names[:lead], *names[lead + len(together) :]])
        place: list[str] = []
        for item, n in key:
            if item is None:
                next(plain)
            elif isinstance(item, slice):
                i = next(plain)
                start, _, step = (0, 0, 1) if item == slice(None) else shapes.span(item, n)
                same = shapes.is_zero(start) and step == 1
                place.append(i if same else f"({self.size(start)} + {i} * {step})")
            elif isinstance(item, str):
                array = indices[int(item[1:])]
                at = shared[len(shared) - len(array.shape) :]
                text = self.value(array, tuple(at), scope)
                place.append(self._checked_index(text, n, scope, array.dtype.kind == "int"))
            else:
                place.append(f"({self.size(n)} + {item})" if item < 0 else str(item))
        del rest
        if adds:
            at_out = f"{self.pointer[eqn.out]}[{self.flat(full, place)}]"
            value = self.value(x, tuple(names), scope)
            total = written("add", [at_out, value], eqn.out.dtype, eqn.out.dtype)
            scope.put(f"{at_out} = {total}")
        else:
            text = self.value(x, tuple(place), scope)
            self._store(eqn.out, names, text, scope)
        self._close(scope, outer)
        self.top.lines += outer.lines

    def _checked_index(self, text: str, n: Any, scope: Scope, signed: bool) -> str:
        """Emit the test of an index before memory is read with it."""
        name = f"j{self.count}"
        self.count += 1
        self.deps[name] = scope.loops
        scope.put(f"{name} = i64({text})")
        if signed:
            scope.put(f"if {name} < 0:")
            scope.put(f"    {name} += {self.size(n)}")
        scope.put(f"if {name} < 0 or {name} >= {self.size(n)}:")
        leaving = Scope(None, frozenset(), scope.depth + 1)
        self._leave(FAILED_INDEX, leaving)
        scope.lines += leaving.lines
        return name

    def _draw(self, eqn: Eqn) -> None:
        attrs, out = eqn.attrs, eqn.out
        kind = attrs["kind"]
        if kind not in DRAWS:
            _unknown(eqn)
        seed, stream, block = (self.number(attrs[k].text) for k in ("seed", "stream", "block"))
        n, place = self.size(shapes.size(out.shape)), self.pointer[out]
        sorts = kind == "permutation"
        keys = self._scratch(out.shape, dtypes.uint64) if sorts else place
        lines = drawn(kind, attrs["settings"], out.dtype, keys, n, (seed, stream, block))
        if sorts:
            lines += order(place, keys, self._scratch(out.shape, dtypes.int64), n)
        for text in lines:
            self.top.put(text)

    def _scratch(self, shape: Any, dtype: Any) -> str:
        """Return the name of work memory that only this step uses."""
        buffer = Buffer(dtype, shapes.size(shape))
        buffer.slot = self.out.size
        self.out.size += 1
        self.out.buffers.append(buffer)
        name = f"w{len(self.out.buffers) - 1}"
        self.head.append("    " + self._pointer_line(dtype, name, buffer.slot))
        return name

    # Products

    def _matmul(self, eqn: Eqn) -> None:
        x, y = eqn.inputs
        a, b = x.shape, y.shape
        if len(a) == 1:
            a = (1, *a)
        if len(b) == 1:
            b = (*b, 1)
        batch = shapes.broadcast(tuple(a[:-2]), tuple(b[:-2]))
        m, k, n = a[-2], a[-1], b[-1]
        if not eqn.out.dtype.is_floating:
            self._plain_product(eqn, a, b, batch)
            return
        outer = Scope(self.top, frozenset(), 1)
        names, scope = self._loops(batch, outer)
        cast = cast_of(eqn.out.dtype)
        left, ta, lda = self._matrix(x, a, names, scope, cast)
        right, tb, ldb = self._matrix(y, b, names, scope, cast)
        out = self.pointer[eqn.out]
        at = self.flat((*batch, m, n), (*names, "0", "0"))
        if at != "0":
            out = f"{cast}_shift({out}, {at})"
        sizes = ", ".join(map(self.size, (m, n, k)))
        self._allow_threads((m, n, k))
        scope.put(
            f"{cast}_gemm({ta}, {tb}, {sizes}, {left}, {lda}, {right}, {ldb}, {out}, "
            f"{self.size(n)})"
        )
        if scope is not outer:
            self._close(scope, outer)
        self.top.lines += outer.lines

    def _allow_threads(self, sizes: Sequence[Any]) -> None:
        """Emit how many threads the next product may use: one, if it is small.

        Where the limit is one, BLAS is told nothing, and so has no reason to look for threads.
        """
        work = shapes.size(sizes)
        if isinstance(work, Scalar):
            count = f"select({self.size(work)} < {ONE_THREAD_BELOW}, 1, threads)"
        else:
            count = "1" if work < ONE_THREAD_BELOW else "threads"
        if count != self.allowed:
            self.top.put("if threads != 1:")
            self.top.put(f"    blas_threads({count})")
            self.allowed = count

    def _leave(self, status: int, scope: Scope) -> None:
        """Emit a return, which leaves BLAS with the threads it had."""
        if self.allowed != "threads":
            scope.put("if threads != 1:")
            scope.put("    blas_threads(threads)")
        scope.put(f"return {status}")

    def _matrix(
        self, x: Var, shape: Any, names: list[str], scope: Scope, cast: str
    ) -> tuple[str, int, str]:
        """Return the pointer, whether it is transposed, and the leading size of a factor."""
        transposed = 0
        rows, columns = shape[-2:]
        maker = self.plan.maker.get(x)
        while maker is not None and is_view(maker) and x not in self.pointer:
            name, axes = maker.op.name, maker.attrs.get("axes")
            n = len(x.shape)
            if name == "permute_dims" and n > 1:
                order = [a % n for a in axes]
                if order == [*range(n - 2), n - 1, n - 2]:
                    transposed ^= 1
                elif order != list(range(n)):
                    break
            elif name != "reshape":
                break
            x = maker.inputs[0]
            maker = self.plan.maker.get(x)
        if x not in self.pointer:
            raise TraceError(f"matmul: a factor of shape {shape} has no memory of its own.")
        pointer = self.pointer[x]
        lead = shape[:-2]
        used = names[len(names) - len(lead) :]
        at = self.flat((*lead, rows, columns), (*used, "0", "0")) if lead else "0"
        if at != "0":
            pointer = f"{cast}_shift({pointer}, {at})"
        return pointer, transposed, self.size(rows if transposed else columns)

    def _plain_product(self, eqn: Eqn, a: Any, b: Any, batch: Any) -> None:
        x, y = eqn.inputs
        outer = Scope(self.top, frozenset(), 1)
        names, scope = self._loops((*batch, a[-2], b[-1]), outer)
        lead, i, j = names[:-2], names[-2], names[-1]
        total = f"a{self.count}"
        self.count += 1
        dtype = eqn.out.dtype
        scope.put(f"{total} = {constant(0, dtype)}")
        (k,), inner = self._loops([a[-1]], scope)

        def at(v: Var, shape: Any, row: str, column: str) -> tuple[str, ...]:
            used = lead[len(lead) - len(shape) + 2 :]
            if len(v.shape) == 1:
                return (k,)
            return (*used, row, column)

        left = self.value(x, at(x, a, i, k), inner)
        right = self.value(y, at(y, b, k, j), inner)
        product = written("multiply", [left, right], dtype, dtype)
        inner.put(f"{total} = {written('add', [total, str(product)], dtype, dtype)}")
        if inner is not scope:
            self._close(inner, scope)
        place = self.flat((*batch, a[-2], b[-1]), names)
        scope.put(f"{self.pointer[eqn.out]}[{place}] = {total}")
        self._close(scope, outer)
        self.top.lines += outer.lines


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


def _same(x: Sequence[Any], y: Sequence[Any]) -> bool:
    from nnx.graph import same_shape

    return same_shape(x, y)


def _real(shape: Sequence[Any]) -> list[Any]:
    return [n for n in shape if not shapes.is_one(n)]


def _lowest(dtype: Any, low: bool) -> str:
    bits, signed = dtype.bits, dtype.kind == "int"
    if dtype.kind == "bool":
        return f"b1({not low})"
    bottom = -(2 ** (bits - 1)) if signed else 0
    top = bottom + 2**bits - 1
    return f"{cast_of(dtype)}({bottom if low else top})"


def _reducing(eqn: Eqn, total: str, text: str, dtype: Any) -> tuple[str, str]:
    """Return the start of a reduction, and its value with one more element."""
    name, cast = eqn.op.name, cast_of(dtype)
    if name == "sum":
        return constant(0, dtype), f"sum_add({total}, {text})"
    if name == "prod":
        product = f"({total} * {text})"
        return constant(1, dtype), product if dtype.is_floating else f"{cast}{product}"
    if name == "any":
        return "b1(False)", f"logical_or({total}, {text})"
    if name == "all":
        return "b1(True)", f"logical_and({total}, {text})"
    low = name == "max"
    if dtype.is_floating:
        start = f"{cast}({'-' if low else ''}inf)"
    else:
        start = _lowest(dtype, low)
    if dtype.kind == "bool":
        return start, f"logical_{'or' if low else 'and'}({total}, {text})"
    return start, f"{name}_reduce({total}, {text})"


def _expanded(key: tuple[Any, ...], shape: Any) -> list[tuple[Any, Any]]:
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


def _layout(key: list[tuple[Any, Any]], indices: Sequence[Var]) -> tuple[int, Any, int]:
    """Return where the axes of index arrays come out, and those axes."""
    together = shapes.broadcast(*(tuple(i.shape) for i in indices)) if indices else ()
    lead, starts, previous, n = 0, [], False, 0
    for item, _ in key:
        advanced = isinstance(item, str) or (bool(indices) and isinstance(item, int))
        if advanced and not previous:
            starts.append(n)
        previous = advanced
        if item is None or isinstance(item, slice):
            n += 1
    lead = starts[0] if len(starts) == 1 else 0
    return lead, together, n


def _unknown(eqn: Eqn) -> Any:
    file, number = eqn.place
    raise TraceError(
        f"{file}, line {number}: op {eqn.op.name!r} with {eqn.attrs}, which gives {eqn.out.dtype}, "
        f"cannot be compiled for the CPU. Leave this function un-jitted (jit=False in fit), or use "
        f"another op."
    )
