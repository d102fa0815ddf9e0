"""Groups of eqns, and eqns by themselves, as loops that the threads of a GPU share.

A group of eqns, which the Numba emitter writes as one nest of loops, is a part of a kernel here.
How the threads of a part go over its values depends on what is summed:

- nothing, or all of it: each thread takes elements in turn;
- rows: a warp, or a block where rows are long, takes a row, and its lanes the columns;
- columns: a thread takes one column of a tile, and some of the rows.

Sums over blocks are finished by the block that arrives last, in an order that never changes, so
that a step gives the same bits each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.graph import CHECK, Eqn, Graph, line, same_shape
from nnx.kernels.cuda_step import (
    MOST_BLOCKS,
    THREADS,
    WARPS,
    Count,
    CudaStep,
    Number,
    blocks_for,
    count_of,
    summing_blocks,
)
from nnx.kernels.cuda_text import TYPES
from nnx.kernels.draws import drawn, merge
from nnx.kernels.emit_numba import Emitter
from nnx.kernels.expressions import HALF, cast_of
from nnx.kernels.groups import Group, Plan
from nnx.kernels.nests import lowest, reducing
from nnx.kernels.text import Scope
from nnx.scalar import Env, Scalar, evaluator

ROW_BY_BLOCK = 1024
"""Rows from this length on are taken by a block each."""
SHARED_COLUMNS, SHARED_BYTES = 256, 24 << 10
"""Up to so many columns are summed in the same loops as rows, and in so much shared memory."""


class GpuPlan(Plan):
    """Groups as GPUs take them: long columns are not summed in loops over rows."""

    def _joins(self, eqn: Eqn, group: Group) -> bool:
        if not group.alone and self._mixes(eqn, group):
            return False
        return super()._joins(eqn, group)

    def _mixes(self, eqn: Eqn, group: Group) -> bool:
        """Return whether an eqn would bring loops over rows and too many sums of columns together.

        What such loops sum down the columns is in memory that the block shares.
        """
        eqns = (*group.eqns, eqn)
        summed = [e for e in eqns if self.reduction(e) == "column"]
        if not summed or not any(self.is_by_rows(e, group) for e in eqns):
            return False
        columns = group.domain[-1] if group.domain else 1
        if isinstance(columns, Scalar) or columns > SHARED_COLUMNS:
            return True
        return _shared_bytes(summed, columns) > SHARED_BYTES

    def shared_bytes(self, group: Group) -> int:
        """Return about how many bytes a part keeps in memory that its block shares."""
        summed = [e for e in group.eqns if self.reduction(e) == "column"]
        kept = sum(THREADS * e.out.dtype.itemsize for e in summed)  # for sums over threads
        if summed and any(self.is_by_rows(e, group) for e in group.eqns):
            kept += _shared_bytes(summed, group.domain[-1])
        return kept

    def is_by_rows(self, eqn: Eqn, group: Group) -> bool:
        """Return whether an eqn needs loops over the rows of its group."""
        kind = self.reduction(eqn)
        shape = eqn.inputs[0].shape if kind != "other" or eqn.op is CHECK else eqn.out.shape
        return kind == "row" or not same_shape(shape, group.domain)


def _shared_bytes(summed: Sequence[Eqn], columns: int) -> int:
    return sum(WARPS * columns * max(4, eqn.out.dtype.itemsize) for eqn in summed)


class CudaNests(Emitter):
    """Emits kernels; what it shares with the Numba emitter is how elements are written."""

    def __init__(self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> None:
        super().__init__(graph, updates, kinds)
        self.plan: GpuPlan = GpuPlan(graph, updates)
        self.step = CudaStep()
        self.scratch: list[tuple[str, Count, int]] = []
        self.n_parts = 0
        self._start()

    def _start(self) -> None:
        """Begin the text of a part."""
        self.top = Scope(None, frozenset(), 1)
        self.shared_lines: list[str] = []
        self.blocks: Count = lambda env: 1
        self.clears: list[tuple[str, Count]] = []  # what is 0 before the part runs, in bytes

    # Numbers of a call

    def number(self, text: str, dtype: Any = None) -> str:
        """Return the name of a scalar expression, which the host works out."""
        key = f"{cast_of(dtype)}({text})" if dtype is not None else text
        if key.isdigit():
            return key
        if key not in self.numbers:
            value = evaluator(text)
            example = {name: 3 if whole else 2.5 for name, whole in self.kinds.items()}
            whole = isinstance(value(example), int)
            self.numbers[key] = f"k{len(self.numbers)}"
            at = f"call[{1 + len(self.step.numbers)}]"
            names = frozenset(re.findall(r"[A-Za-z_]\w*", text)) & self.kinds.keys()
            self.step.numbers.append(Number(whole, value, names))
            read = at if whole else f"nnx::f64_of({at})"
            if dtype is not None:
                read = f"nnx::cast<nnx::{cast_of(dtype)}>({read})"
            self.head.append(f"const auto {self.numbers[key]} = {read};")
        return self.numbers[key]

    def _given(self, value: Count) -> str:
        """Return the name of a whole number of the call that is no expression of its scalars."""
        name = f"k{len(self.numbers)}"
        self.numbers[f"={name}"] = name
        at = f"call[{1 + len(self.step.numbers)}]"
        self.step.numbers.append(Number(True, value))
        self.head.append(f"const auto {name} = {at};")
        return name

    # Loops

    def _loops(self, sizes: Sequence[Any], scope: Scope) -> tuple[list[str], Scope]:
        """Open nested loops; the outermost are shared among the threads of a part."""
        if scope.parent is not self.top:
            return super()._loops(sizes, scope)
        mine, before = blocks_for(count_of(shapes.size(sizes)), THREADS), self.blocks
        self.blocks = lambda env: max(mine(env), before(env))
        return self._spread("grid", sizes, scope)

    def _spread(
        self, kind: str, sizes: Sequence[Any], scope: Scope, *more: str
    ) -> tuple[list[str], Scope]:
        """Open one loop over all places of a shape; return the variables of its axes."""
        n = self.size(shapes.size(sizes))
        name = self._loop_name()
        self.deps[name] = frozenset({name})
        inside = ", ".join([n, *more])
        scope = Scope(
            scope, scope.loops | {name}, scope.depth + 1, f"for {name} in {kind}({inside}):"
        )
        return self._axes(name, sizes, scope), scope

    def _axes(self, name: str, sizes: Sequence[Any], scope: Scope) -> list[str]:
        """Return the variables of a shape's axes, from the number of an element."""
        real = [a for a, n in enumerate(sizes) if not shapes.is_one(n)]
        if len(real) == 1:
            return [name if a in real else "0" for a in range(len(sizes))]
        names = []
        strides = self._strides(sizes)
        for a, n in enumerate(sizes):
            if a not in real:
                names.append("0")
                continue
            part = name if shapes.is_one(strides[a]) else f"{name} // {self.size(strides[a])}"
            if a != real[0]:
                part = f"({part}) % {self.size(n)}"
            i = self._loop_name()
            self.deps[i] = self.deps[name]
            scope.put(f"{i} = {part}")
            names.append(i)
        return names

    def _leave(self, status: int, scope: Scope) -> None:
        """Emit what a failed check does."""
        scope.put(f"fail(call, status, {status})")
        scope.put("return 0")

    def _scratch(self, shape: Any, dtype: Any) -> str:
        n = shapes.size(shape)
        return self._work(dtype, count_of(n))

    def _work(self, dtype: Any, n: Count) -> str:
        name = f"s{len(self.scratch)}"
        self.scratch.append((name, n, dtype.itemsize))
        self.step.pointers[name] = cast_of(dtype)
        return name

    def _ticket(self, n: Count) -> str:
        """Return the name of tickets, one each for n."""
        self.step.tickets.append(n)
        self.step.pointers[f"tickets{len(self.step.tickets) - 1}"] = "u32"
        return f"tickets{len(self.step.tickets) - 1}"

    # Groups

    def _group(self, group: Group) -> None:
        if any(self.plan.is_by_rows(eqn, group) for eqn in group.eqns):
            self._by_rows(group)
        elif any(self.plan.reduction(eqn) == "column" for eqn in group.eqns):
            self._by_columns(group)
        else:
            self._by_elements(group)
        self.ready |= {eqn.out for eqn in group.eqns if eqn.out in self.pointer}

    def _by_elements(self, group: Group) -> None:
        flat = self._is_flat(group)
        body = self._body()
        sums = _Sums(self)
        domain = (shapes.size(group.domain),) if flat else group.domain
        targets = [eqn for _, eqn in self._levels(group)]
        ends = any(self.plan.reduction(eqn) == "all" for eqn in targets)
        n = count_of(shapes.size(group.domain))
        self.blocks = summing_blocks(n) if ends else blocks_for(n, THREADS)
        index, inner = self._spread("grid", domain, body)
        self._elements(group, targets, tuple(index), inner, flat, sums)
        alone = len(domain) == 1 and index[0] != "0" and not sums.before
        if alone and _moves_in_step(inner.lines, index[0]):
            self.blocks = blocks_for(n, 4 * THREADS)
            self._by_fours(inner, body, index[0], self.size(domain[0]))
            return
        self._finish(inner, body, sums)

    def _by_fours(self, inner: Scope, body: Scope, q: str, n: str) -> None:
        """Emit a loop in which a thread reads and writes four elements that lie side by side."""
        lines = [text.strip() for text in inner.lines]
        code = "\n".join(text for text in lines if not text.startswith("#"))
        written = dict.fromkeys(re.findall(rf"^(\w+)\[{q}\] = ", code, re.MULTILINE))
        read = re.findall(rf"^\w+ = (\w+)\[{q}\]$", code, re.MULTILINE)
        both = dict.fromkeys([*read, *written])
        top, body_lines = self.top, body.lines
        top.lines += body_lines  # what does not depend on the element
        top.put("fours = i64(0)")
        top.put(f"if {' and '.join(f'in_fours({name})' for name in both)}:")
        top.put(f"    fours = {n} // 4")
        top.put("for f in grid(fours):")
        for name in dict.fromkeys(read):
            top.put(f"    in_{name} = four({name}, 4 * f)")
        for name in written:
            top.put(f"    out_{name} = any_four({name})")
        top.put("    for j in quad():")
        for text in lines:
            text = re.sub(rf"^(\w+)\[{q}\] = ", r"out_\1.at[j] = ", text)
            text = re.sub(rf"\b(\w+)\[{q}\]", r"in_\1.at[j]", text)
            top.put(f"        {text}")
        for name in written:
            top.put(f"    put_four({name}, 4 * f, out_{name})")
        top.put(f"for {q} in rest(4 * fours, {n}):")
        for text in lines:
            top.put(f"    {text}")

    def _body(self) -> Scope:
        body = Scope(Scope(self.top, frozenset(), 1), frozenset(), 1)
        body.fixed = True
        return body

    def _elements(
        self, group: Group, targets: Sequence[Eqn], index: tuple[str, ...], inner: Scope,
        flat: bool, sums: _Sums, column: Callable[[Eqn, str, Scope], None] | None = None,
        row: Callable[[Eqn, str, Scope], None] | None = None,
    ) -> None:  # fmt: skip
        """Emit what is done with one element of the domain."""
        stores: list[str] = []  # at the end: they may replace what others read
        for eqn in targets:
            kind = self.plan.reduction(eqn)
            if kind == "other" and eqn.op is not CHECK:
                text = self._element(eqn, index, inner, flat, group)
                place = index[0] if flat else self.flat(eqn.out.shape, index)
                stores.append(f"{self.pointer[eqn.out]}[{place}] = {text}")
                inner.known[(eqn.out, index)] = text
                continue
            text = self._operand(eqn.inputs[0], index, inner, flat)
            inner.put(f"# {line(eqn, self.names)}")
            if eqn.op is CHECK:
                sums.check(text, inner)
            elif kind == "all":
                sums.add(eqn, text, inner)
            elif kind == "column":
                assert column is not None
                column(eqn, text, inner)
            else:
                assert row is not None
                row(eqn, text, inner)
        for text in stores:
            inner.put(text)

    def _finish(self, inner: Scope, body: Scope, sums: _Sums) -> None:
        """Put the lines of a part together: starts, loops, and what is done at the end."""
        for text in sums.before:
            self.top.put(text)
        self._close(inner, body)
        self.top.lines += body.lines
        sums.end(self.top)

    def _by_rows(self, group: Group) -> None:
        domain = group.domain
        rows, columns = domain[:-1], domain[-1]
        long = isinstance(columns, Scalar) or columns > ROW_BY_BLOCK
        team = "block" if long else "warp"
        sums = _Sums(self)
        n_rows = count_of(shapes.size(rows))
        summing = any(self.plan.reduction(e) in ("all", "column") for e in group.eqns)
        per = 1 if long else WARPS
        self.blocks = blocks_for(n_rows, per, MOST_BLOCKS if summing else None)
        body = self._body()
        columns_of = _SharedColumns(self, columns, 1 if long else WARPS, sums)
        index, row_scope = self._spread("block_rows" if long else "rows", rows, body)
        levels = self._levels(group)
        for level in range(1 + max((lv for lv, _ in levels), default=0)):
            targets = [eqn for lv, eqn in levels if lv == level]
            full = [e for e in targets if not self._is_row_target(e, group)]
            if full:
                self._row_pass(group, full, index, row_scope, team, sums, columns_of)
            self._row_values(group, targets, index, row_scope, team, sums)
        self._finish(row_scope, body, sums)

    def _row_pass(
        self, group: Group, targets: Sequence[Eqn], index: list[str], row_scope: Scope,
        team: str, sums: _Sums, columns: _SharedColumns,
    ) -> None:  # fmt: skip
        """Emit one pass of a team over its row."""
        name = self._loop_name()
        self.deps[name] = frozenset({name})
        n = self.size(group.domain[-1])
        kind = "lanes" if team == "warp" else "threads"
        header = f"for {name} in {kind}({n}):"
        inner = Scope(row_scope, row_scope.loops | {name}, row_scope.depth + 1, header)
        ends: list[tuple[Eqn, str]] = []

        def row(eqn: Eqn, text: str, scope: Scope) -> None:
            total = self._total()
            start, added = self._reducing(eqn, total, text)
            row_scope.put(f"{total} = {start}")
            scope.put(f"{total} = {added}")
            ends.append((eqn, total))

        at = "0" if shapes.is_one(group.domain[-1]) else name
        self._elements(group, targets, (*index, at), inner, False, sums, columns.add, row)
        self._close(inner, row_scope)
        for eqn, total in ends:
            row_scope.put(f"{total} = over_{team}_{eqn.op.name}({total})")
            if self._summed(eqn) is not eqn.out.dtype:
                wide, total = total, self._total()
                row_scope.put(f"{total} = {cast_of(eqn.out.dtype)}({wide})")
            row_scope.known[(eqn.out, None)] = total
            self.deps[total] = row_scope.loops
            if eqn.out in self.plan.stored:
                place = (*index, *["0"] * (len(eqn.out.shape) - len(index)))
                row_scope.put(f"if {self._first(team)} == 0:")
                at = f"{self.pointer[eqn.out]}[{self.flat(eqn.out.shape, place)}]"
                row_scope.put(f"    {at} = {total}")

    @staticmethod
    def _first(team: str) -> str:
        return "lane()" if team == "warp" else "thread()"

    def _summed(self, eqn: Eqn) -> Any:
        """Return the type in which a reduction is worked out: that of 16 bits would lose digits."""
        return dtypes.float32 if eqn.out.dtype.name in HALF else eqn.out.dtype

    def _reducing(self, eqn: Eqn, total: str, text: str) -> tuple[str, str]:
        """Return the start of a reduction, and its value with one more element."""
        kind = self._summed(eqn)
        text = self._as(text, eqn) if kind is eqn.out.dtype else f"{cast_of(kind)}({text})"
        return reducing(eqn, total, text, kind)

    def _joined(self, eqn: Eqn, total: str, text: str) -> tuple[str, str]:
        """Return the same for an element that is a reduction of others."""
        return reducing(eqn, total, text, self._summed(eqn))

    def _total(self) -> str:
        self.count += 1
        return f"a{self.count - 1}"

    def _row_values(
        self, group: Group, targets: Sequence[Eqn], index: list[str], row_scope: Scope,
        team: str, sums: _Sums,
    ) -> None:  # fmt: skip
        """Emit what is done once a row: stores, sums of all rows, checks."""
        stores: list[str] = []
        for eqn in targets:
            if not self._is_row_target(eqn, group):
                continue
            kind = self.plan.reduction(eqn)
            x = eqn.inputs[0] if kind != "other" or eqn.op is CHECK else eqn.out
            place = tuple(index) + ("0",) * (len(x.shape) - len(index))
            text = self.value(x, place, row_scope)
            if kind == "other" and eqn.op is not CHECK:
                stores.append(f"{self.pointer[x]}[{self.flat(x.shape, place)}] = {text}")
                continue
            row_scope.put(f"# {line(eqn, self.names)}")
            if eqn.op is CHECK:
                sums.check(text, row_scope)
                continue
            row_scope.put(f"if {self._first(team)} == 0:")
            sums.add(eqn, text, row_scope, "    ")
        if stores:
            row_scope.put(f"if {self._first(team)} == 0:")
            for text in stores:
                row_scope.put(f"    {text}")

    def _by_columns(self, group: Group) -> None:
        domain = group.domain
        rows, columns = domain[:-1], domain[-1]
        width = 32
        if not isinstance(columns, Scalar):
            while width > 1 and width // 2 >= columns:
                width //= 2
        n_rows, n_columns = count_of(shapes.size(rows)), count_of(columns)

        def tiles(env: Env) -> int:
            return max(-(-n_columns(env) // width), 1)

        def per_chunk(env: Env) -> int:
            """Return how many rows a block takes: fewer where there are few blocks."""
            height = THREADS // width
            most = max(2 * 128 // tiles(env), 1)
            return max(-(-n_rows(env) // most), 4 * height)

        def chunks(env: Env) -> int:
            return max(-(-n_rows(env) // per_chunk(env)), 1)

        self.blocks = lambda env: tiles(env) * chunks(env)
        n_tiles, per, n_chunks = map(self._given, (tiles, per_chunk, chunks))
        n = self.size(columns)
        top = self.top
        top.put(f"tile = block % {n_tiles}")
        top.put(f"chunk = block // {n_tiles}")
        column = self._loop_name()
        top.put(f"{column} = tile * {width} + thread() % {width}")
        top.put(f"first = chunk * {per}")
        total_rows = self.size(shapes.size(rows))
        top.put(f"last = minimum(first + {per}, i64({total_rows}))")
        self.deps[column] = frozenset({column})
        body = Scope(Scope(top, frozenset(), 1), frozenset(), 1)
        body.fixed = True
        in_column = Scope(body, frozenset({column}), 2, f"if {column} < {n}:")
        row = self._loop_name()
        self.deps[row] = frozenset({row})
        header = f"for {row} in tile(first, last, {width}):"
        inner = Scope(in_column, in_column.loops | {row}, 3, header)
        index = self._axes(row, rows, inner)
        sums = _Sums(self)
        ends: list[tuple[Eqn, str]] = []

        def add(eqn: Eqn, text: str, scope: Scope) -> None:
            total = self._total()
            start, added = self._reducing(eqn, total, text)
            sums.before.append(f"{total} = {start}")
            scope.put(f"{total} = {added}")
            ends.append((eqn, total))

        at = "0" if shapes.is_one(columns) else column
        targets = [eqn for _, eqn in self._levels(group)]
        self._elements(group, targets, (*index, at), inner, False, sums, add)
        self._close(inner, body)
        for text in sums.before:
            top.put(text)
        top.lines += body.lines
        places = []
        for eqn, total in ends:
            top.put(f"{total} = over_rows_{eqn.op.name}({total}, {width})")
            sized = self._work(self._summed(eqn), lambda env: chunks(env) * n_columns(env))
            places.append(sized)
            top.put(f"if thread() < {width} and {column} < {n}:")
            top.put(f"    {sized}[chunk * {n} + {column}] = {total}")
        ticket = self._ticket(tiles)
        top.put(f"if is_last({ticket} + tile, {n_chunks}):")
        for (eqn, total), sized in zip(ends, places, strict=True):
            start, added = self._joined(eqn, total, f"fresh({sized}, c * {n} + {column})")
            top.put(f"    {total} = {start}")
            top.put(f"    if {column} < {n}:")
            top.put(f"        for c in tile(0, {n_chunks}, {width}):")
            top.put(f"            {total} = {added}")
            top.put(f"    {total} = over_rows_{eqn.op.name}({total}, {width})")
            top.put(f"    if thread() < {width} and {column} < {n}:")
            top.put(f"        {self.pointer[eqn.out]}[{column}] = {total}")
        sums.end(top)

    # Eqns of their own

    def _general_reduction(self, eqn: Eqn) -> None:
        """Emit a reduction over any axes: a warp takes a result, its lanes what goes into it."""
        x, out, chooses = eqn.inputs[0], eqn.out, eqn.op.name in ("argmax", "argmin")
        axes = shapes.normalize_axes(eqn.attrs.get("axis"), len(x.shape))
        kept = [a for a in range(len(x.shape)) if a not in axes]
        body = self._body()
        sizes = [x.shape[a] for a in kept]
        self.blocks = blocks_for(count_of(shapes.size(sizes)), WARPS)
        names, scope = self._spread("rows", sizes, body)
        total, place = self._total(), f"p{self.count}"
        largest = eqn.op.name == "argmax"
        if chooses:
            scope.put(f"{total} = {_worst(x.dtype, largest)}")
            scope.put(f"{place} = i64(-1)")
        else:
            scope.put(f"{total} = {self._joined(eqn, total, '')[0]}")
        inner_names, inner = self._spread("lanes", [x.shape[a] for a in axes], scope)
        at_of = dict(zip([*kept, *axes], [*names, *inner_names], strict=True))
        text = self.value(x, tuple(at_of[a] for a in range(len(x.shape))), inner)
        if chooses:
            if x.dtype.name in HALF:
                text = f"f32({text})"
            at = self.flat([x.shape[a] for a in axes], inner_names)
            inner.put(f"if is_better_{eqn.op.name}({text}, i64({at}), {total}, {place}):")
            inner.put(f"    {total} = {text}")
            inner.put(f"    {place} = i64({at})")
        else:
            inner.put(f"{total} = {self._reducing(eqn, total, text)[1]}")
        self._close(inner, scope)
        if chooses:
            scope.put(f"{place} = place_over_warp_{eqn.op.name}({total}, {place})")
        else:
            scope.put(f"{total} = over_warp_{eqn.op.name}({total})")
        parts = iter(names)
        if eqn.attrs.get("keepdims"):
            at_out = ["0" if a in axes else next(parts) for a in range(len(x.shape))]
        else:
            at_out = list(parts)
        result = place if chooses else total
        scope.put("if lane() == 0:")
        scope.put(f"    {self.pointer[out]}[{self.flat(out.shape, at_out)}] = {result}")
        self._close(scope, body)
        self.top.lines += body.lines

    def _zeros(self, eqn: Eqn) -> None:
        n, width = count_of(shapes.size(eqn.out.shape)), eqn.out.dtype.itemsize
        self.clears.append((self.pointer[eqn.out], lambda env: n(env) * width))

    def _places(
        self, sizes: Sequence[Any], together: range, scope: Scope, adds: bool
    ) -> tuple[list[str], Scope]:
        if not adds:
            return self._loops(sizes, scope)
        # What may go to the same place is added by one thread, in order.
        rest = [a for a in range(len(sizes)) if a not in together]
        own, scope = self._loops([sizes[a] for a in rest], scope)
        inner, scope = self._loops([sizes[a] for a in together], scope)
        names = dict(zip([*rest, *together], [*own, *inner], strict=True))
        return [names[a] for a in range(len(sizes))], scope

    def _draw(self, eqn: Eqn) -> None:
        attrs, out = eqn.attrs, eqn.out
        kind = attrs["kind"]
        seed, stream, block = (self.number(attrs[k].text) for k in ("seed", "stream", "block"))
        n, place = self.size(shapes.size(out.shape)), self.pointer[out]
        count = count_of(shapes.size(out.shape))
        sorts = kind == "permutation"
        keys = self._scratch(out.shape, dtypes.uint64) if sorts else place
        lines = drawn(kind, attrs["settings"], out.dtype, keys, n, (seed, stream, block))
        head = re.fullmatch(r"for q in range\((.*)\):", lines[0])
        assert head is not None
        shared_by = "threads" if sorts else "grid"
        self.top.put(f"for q in {shared_by}({head[1]}):")
        for text in lines[1:]:
            self.top.put(text)
        self.blocks = (lambda env: 1) if sorts else blocks_for(count, THREADS)
        if sorts:
            spare = self._scratch(out.shape, dtypes.int64)
            for text in _sorted(place, keys, spare, n):
                self.top.put(text)


class _Sums:
    """Sums of all elements of a part, and its checks."""

    def __init__(self, emitter: CudaNests) -> None:
        self.emitter = emitter
        self.before: list[str] = []
        self.totals: list[tuple[Eqn, str]] = []
        self.columns: list[Callable[[Scope], None]] = []
        self.bad: list[str] = []

    def add(self, eqn: Eqn, text: str, scope: Scope, indent: str = "") -> None:
        """Emit how one element goes into the sum of all."""
        total = self.emitter._total()
        start, added = self.emitter._reducing(eqn, total, text)
        self.before.append(f"{total} = {start}")
        scope.put(f"{indent}{total} = {added}")
        self.totals.append((eqn, total))

    def check(self, text: str, scope: Scope) -> None:
        """Emit a test that stops the step where it is true."""
        name = f"bad{self.emitter.count}"
        self.emitter.count += 1
        self.before.append(f"{name} = b1(False)")
        scope.put(f"{name} = logical_or({name}, {text})")
        self.bad.append(name)

    def end(self, top: Scope) -> None:
        """Emit what is done after all loops."""
        for name in self.bad:
            top.put(f"if {name}:")
            top.put("    fail(call, status, 2)")
        if not self.totals and not self.columns:
            return
        emitter = self.emitter
        blocks = emitter.blocks
        parts = []
        for eqn, total in self.totals:
            parts.append(emitter._work(emitter._summed(eqn), blocks))
            top.put(f"{total} = over_block_{eqn.op.name}({total})")
            top.put("if thread() == 0:")
            top.put(f"    {parts[-1]}[block] = {total}")
        ends = [column(top) for column in self.columns]
        top.put(f"if is_last({emitter._ticket(lambda env: 1)}, blocks):")
        for (eqn, total), part in zip(self.totals, parts, strict=True):
            start, added = emitter._joined(eqn, total, f"fresh({part}, c)")
            top.put(f"    {total} = {start}")
            top.put("    for c in threads(blocks):")
            top.put(f"        {total} = {added}")
            top.put(f"    {total} = over_block_{eqn.op.name}({total})")
            top.put("    if thread() == 0:")
            top.put(f"        {emitter.pointer[eqn.out]}[0] = {total}")
        for lines in ends:
            for text in lines or ():
                top.put(f"    {text}")


class _SharedColumns:
    """Sums down the columns of a part that goes by rows: kept in the memory that a block shares."""

    def __init__(self, emitter: CudaNests, columns: Any, teams: int, sums: _Sums) -> None:
        self.emitter, self.columns, self.teams, self.sums = emitter, columns, teams, sums

    def add(self, eqn: Eqn, text: str, scope: Scope) -> None:
        """Emit how one element goes into the sum of its column."""
        emitter, n, teams = self.emitter, self.columns, self.teams
        name = f"c{emitter.count}"
        emitter.count += 1
        dtype = emitter._summed(eqn)
        kind = TYPES[cast_of(dtype)]
        emitter.shared_lines.append(f"    __shared__ {kind} {name}[{teams} * {n}];")
        start = emitter._joined(eqn, name, "")[0]
        self.sums.before += [
            f"for c in threads({teams * n}):",
            f"    {name}[c] = {start}",
            "sync()",
        ]
        column = next(iter(scope.header.split()[1:2]))
        place = f"(thread() // 32) * {n} + {column}" if teams > 1 else column
        at = f"{name}[{place}]"
        scope.put(f"{at} = {emitter._reducing(eqn, at, text)[1]}")
        self.sums.columns.append(lambda top: self._end(eqn, name, top))

    def _end(self, eqn: Eqn, name: str, top: Scope) -> list[str]:
        """Emit the sums of a block; return the lines that sum those of all blocks."""
        emitter, n = self.emitter, self.columns
        blocks = emitter.blocks
        part = emitter._work(emitter._summed(eqn), lambda env: blocks(env) * n)
        start = emitter._joined(eqn, "total", "")[0]
        top.put("sync()")
        top.put(f"for c in threads({n}):")
        top.put(f"    total = {start}")
        top.put(f"    for team in range({self.teams}):")
        top.put(f"        total = {emitter._joined(eqn, 'total', f'{name}[team * {n} + c]')[1]}")
        top.put(f"    {part}[block * {n} + c] = total")
        width = 1
        while width < n:
            width *= 2
        added = emitter._joined(eqn, "total", f"fresh({part}, b * {n} + column)")[1]
        return [
            f"column = thread() % {width}",
            f"total = {start}",
            f"if column < {n}:",
            f"    for b in tile(0, blocks, {width}):",
            f"        total = {added}",
            f"total = over_rows_{eqn.op.name}(total, {width})",
            f"if thread() < {n}:",
            f"    {emitter.pointer[eqn.out]}[thread()] = total",
        ]


def _worst(dtype: Any, largest: bool) -> str:
    """Return what every number of a type is better than, or as good."""
    if not dtype.is_floating:
        return lowest(dtype, largest)
    kind = dtypes.float32 if dtype.name in HALF else dtype
    return f"{cast_of(kind)}({'-' if largest else ''}inf)"


def _moves_in_step(lines: Sequence[str], q: str) -> bool:
    """Return whether a loop uses its variable only as the place of elements, with one to a line."""
    code = "\n".join(text.strip() for text in lines if not text.strip().startswith("#"))
    places = len(re.findall(rf"^\w+\[{q}\] = |^\w+ = \w+\[{q}\]$", code, re.MULTILINE))
    return bool(code) and len(re.findall(rf"\b{q}\b", code)) == places


def _sorted(out: str, keys: str, spare: str, n: str) -> list[str]:
    """Return lines by which a block sorts n keys: their order, equal ones by index.

    A merge sort, whose merges of one width are shared among the threads.
    """
    return [
        f"for c in threads({n}):",
        f"    {out}[c] = c",
        "sync()",
        "width = 1",
        f"while width < {n}:",
        f"    for q in threads(({n} + 2 * width - 1) // (2 * width)):",
        *(f"        {text}" for text in merge(out, keys, spare, n)),
        "    sync()",
        f"    for c in threads({n}):",
        f"        {out}[c] = {spare}[c]",
        "    sync()",
        "    width *= 2",
    ]
