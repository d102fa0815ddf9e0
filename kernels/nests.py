"""Groups of eqns as one nest of loops: passes over rows, reductions, stores and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnx import shapes
from nnx.graph import CHECK, FULL, IOTA, Eqn, Var, line, same_shape
from nnx.kernels.expressions import cast_of, constant, written
from nnx.kernels.groups import Group, is_view, without_ones
from nnx.kernels.text import (
    FAILED_CHECK,
    Scope,
    Text,
    cannot_compile,
)


class Nests(Text):
    """Emits groups."""

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
        body = Scope(outer, frozenset(), 1)
        body.fixed = True
        if not flat and rows:
            row_index, row_scope = self._loops(rows, body)
        else:
            row_scope = body
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

    def _is_flat(self, group: Group) -> bool:
        """Return whether all of a group's values lie element beside element."""
        if len(group.domain) < 2 or group.rows:
            return False
        for eqn in group.eqns:
            if eqn.op is not CHECK and self.plan.reduction(eqn) not in ("other", "all"):
                return False
            for x in eqn.vars:
                if not (same_shape(x.shape, group.domain) or not without_ones(x.shape)):
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
            level[eqn.out] = below + (self.plan.reduction(eqn) == "row")
        targets = []
        for eqn in group.eqns:
            kind = self.plan.reduction(eqn)
            below = max((level.get(x, 0) for x, _ in self.plan.sources(eqn)), default=0)
            if kind != "other" or eqn.op is CHECK or eqn.out in self.plan.stored:
                targets.append((below, eqn))
        return targets

    def _is_row_target(self, eqn: Eqn, group: Group) -> bool:
        kind = self.plan.reduction(eqn)
        shape = eqn.inputs[0].shape if kind != "other" or eqn.op is CHECK else eqn.out.shape
        return not same_shape(shape, group.domain) or (kind == "other" and eqn.out in group.rows)

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
        if not without_ones(x.shape):
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
            cannot_compile(maker)
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
        first, added = reducing(eqn, name, self._as(text, eqn), dtype)
        inner.put(f"# {line(eqn, self.names)}")
        if kind == "column":
            pointer, place = self.pointer[eqn.out], self.flat(eqn.inputs[0].shape[-1:], index[-1:])
            n = self.size(shapes.size(eqn.out.shape))
            before.append(f"for c in range({n}):\n        {pointer}[c] = {first}")
            _, added = reducing(eqn, f"{pointer}[{place}]", self._as(text, eqn), dtype)
            inner.put(f"{pointer}[{place}] = {added}")
        elif kind == "all":
            before.append(f"{name} = {first}")
            inner.put(f"{name} = {added}")
            after.append(f"{self.pointer[eqn.out]}[0] = {name}")
        else:
            start.append(f"{name} = {first}")
            inner.put(f"{name} = {added}")
            end.append((eqn, name))

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


def reducing(eqn: Eqn, total: str, text: str, dtype: Any) -> tuple[str, str]:
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
        start = lowest(dtype, low)
    if dtype.kind == "bool":
        return start, f"logical_{'or' if low else 'and'}({total}, {text})"
    return start, f"{name}_reduce({total}, {text})"


def lowest(dtype: Any, low: bool) -> str:
    """Return the lowest number of a type that is not floating, or the highest, as text."""
    bits, signed = dtype.bits, dtype.kind == "int"
    if dtype.kind == "bool":
        return f"b1({not low})"
    bottom = -(2 ** (bits - 1)) if signed else 0
    top = bottom + 2**bits - 1
    return f"{cast_of(dtype)}({bottom if low else top})"
