"""Eqns that are a loop of their own: concatenation, running sums, indexing, random draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.graph import Eqn, Var
from nnx.kernels.draws import KINDS as DRAWS
from nnx.kernels.draws import drawn, order
from nnx.kernels.expressions import cast_of, constant, written
from nnx.kernels.memory import Buffer
from nnx.kernels.nests import Nests, lowest, reducing
from nnx.kernels.text import FAILED_INDEX, Scope, cannot_compile, expanded


class Singles(Nests):
    """Emits eqns that no group holds."""

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
                lowest(x.dtype, eqn.op.name == "argmax")
                if not x.dtype.is_floating
                else (f"{cast_of(x.dtype)}({low})")
            )
            scope.put(f"{total} = {start}")
            scope.put(f"{place} = i64(-1)")
        else:
            scope.put(f"{total} = {reducing(eqn, total, '', out.dtype)[0]}")
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
            added = reducing(eqn, total, self._as(text, eqn), out.dtype)[1]
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
        key = expanded(eqn.attrs["key"], full)
        outer = Scope(self.top, frozenset(), 1)
        outer.fixed = True  # an index is tested here before anything is read with it
        if adds:
            self._zeros(eqn)
        taken = x.shape if adds else eqn.out.shape
        lead, together = _layout(key, indices)
        names, scope = self._places(taken, range(lead, lead + len(together)), outer, adds)
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

    def _zeros(self, eqn: Eqn) -> None:
        """Emit a result of nothing but 0."""
        n = self.size(shapes.size(eqn.out.shape))
        self.top.put(f"for c in range({n}):")
        self.top.put(f"    {self.pointer[eqn.out]}[c] = {constant(0, eqn.out.dtype)}")

    def _places(
        self, sizes: Sequence[Any], together: range, scope: Scope, adds: bool
    ) -> tuple[list[str], Scope]:
        """Open the loops over what is taken, or added; index arrays go along the axes together."""
        return self._loops(sizes, scope)

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
            cannot_compile(eqn)
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

    def _pointer_line(self, dtype: Any, name: str, slot: int) -> str:
        return f"{name} = {cast_of(dtype)}_slot(table, {slot})"


def _layout(key: list[tuple[Any, Any]], indices: Sequence[Var]) -> tuple[int, Any]:
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
    return lead, together
