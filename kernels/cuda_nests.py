"""Groups of eqns as loops that the threads of a GPU share.

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

from nnx import shapes
from nnx.graph import CHECK, Eqn, line
from nnx.kernels.cuda_loops import CudaLoops
from nnx.kernels.cuda_short import SHORT_SUM
from nnx.kernels.cuda_step import (
    MOST_BLOCKS,
    THREADS,
    WARPS,
    blocks_for,
    count_of,
    summing_blocks,
)
from nnx.kernels.cuda_text import TYPES
from nnx.kernels.expressions import cast_of
from nnx.kernels.groups import Group
from nnx.kernels.text import Scope
from nnx.scalar import Env, Scalar

ROW_BY_BLOCK = 1024
"""Rows from this length on are taken by a block each."""


class CudaNests(CudaLoops):
    """Emits groups."""

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
        short = any(eqn.op is SHORT_SUM for eqn in group.eqns)
        long = not short and (isinstance(columns, Scalar) or columns > ROW_BY_BLOCK)
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
            """Return how many rows a block takes: so few that the blocks fill a GPU, for memory
            answers late; but the last block is to add no more than 16 sums a thread.
            """
            height = THREADS // width
            most = max(min(MOST_BLOCKS // tiles(env), 16 * height), 1)
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


def _moves_in_step(lines: Sequence[str], q: str) -> bool:
    """Return whether a loop uses its variable only as the place of elements, with one to a line."""
    code = "\n".join(text.strip() for text in lines if not text.strip().startswith("#"))
    places = len(re.findall(rf"^\w+\[{q}\] = |^\w+ = \w+\[{q}\]$", code, re.MULTILINE))
    return bool(code) and len(re.findall(rf"\b{q}\b", code)) == places
