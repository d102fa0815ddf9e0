"""Fusion: which eqns of a lowered graph share one loop nest, and in which order the nests run.

A group has a domain, the shape that its loops run over. Of each row, the last axis, it holds full
values, values of the row, sums down the rows, and sums of all. What a group makes for others is
stored; everything else lives in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnx import shapes
from nnx.graph import CHECK, FULL, IOTA, Eqn, Graph, Var, readers_of, same_shape
from nnx.kernels.expressions import is_elementwise

REDUCTIONS = frozenset({"sum", "prod", "max", "min", "any", "all"})
VIEWS = frozenset({
    "reshape", "permute_dims", "broadcast_to", "flip", "roll", "tile", "repeat",
})  # fmt: skip


def is_view(eqn: Eqn) -> bool:
    """Return whether an eqn only says where elements are found."""
    if eqn.op.name == "getitem":
        return len(eqn.inputs) == 1
    if eqn.op.name == "reshape":
        return True
    return eqn.op.name in VIEWS or eqn.op in (FULL, IOTA)


def without_ones(shape: Any) -> list[Any]:
    """Return the sizes that are not 1."""
    return [n for n in shape if not shapes.is_one(n)]


Places = dict[int, int] | None
"""For each axis of a value that is not 1, the axis of a loop that it is read along; None where
elements are found otherwise."""


def places_of(x: Var, loops: Any) -> Places:
    """Return a value's axes that are not 1, each with its loop."""
    return {a: i for a, i in enumerate(loops) if not shapes.is_one(x.shape[a])}


def through(view: Eqn, x: Var, places: Places) -> Places:
    """Return along which loops a view's input is read, from those along which the view is."""
    name, out = view.op.name, view.out.shape
    if places is None or name not in ("broadcast_to", "reshape"):
        return None
    if name == "broadcast_to":
        ahead = len(out) - len(x.shape)
        axes = [a for a, n in enumerate(x.shape) if not shapes.is_one(n)]
        return {a: places[a + ahead] for a in axes}
    if not same_shape(without_ones(x.shape), without_ones(out)):
        return None
    loops = iter(places.values())
    return {a: next(loops) for a, n in enumerate(x.shape) if not shapes.is_one(n)}


class Group:
    """Eqns that run in one loop nest over ``domain``, or one eqn that is a loop of its own."""

    def __init__(self, domain: Any, alone: bool = False) -> None:
        self.domain, self.alone = domain, alone
        self.eqns: list[Eqn] = []
        self.rows: set[Var] = set()

    @property
    def row_shapes(self) -> tuple[Any, ...]:
        """The shapes of a value of each row."""
        lead = self.domain[:-1]
        return (lead, (*lead, 1))


class Plan:
    """The groups in order, and the values that are stored."""

    def __init__(self, graph: Graph, updates: dict[int, int]) -> None:
        self.graph = graph
        self.maker: dict[Var, Eqn] = {eqn.out: eqn for eqn in graph.eqns}
        self.readers = readers_of(graph)
        self.late = {graph.outputs[i] for i in updates}
        self._inline = self._numbers()
        self._sources: dict[Eqn, list[tuple[Var, bool]]] = {}
        self._stage: dict[Var, int] = {}
        self._set_stages()
        self.group_of: dict[Var, Group] = {}
        self.groups = self._make_groups()
        self.stored = self._stored()

    # What an eqn reads

    def _numbers(self) -> set[Var]:
        """Return the values that are worked out from numbers of the call alone, each where needed.

        Stored, they would part the loops that need them from those before.
        """
        factors = set()
        for eqn in self.graph.eqns:
            if eqn.op.name in ("matmul", "gemm"):
                factors |= {x for y in eqn.vars for x in self._through_views(y)}
        found: set[Var] = set()
        for eqn in self.graph.eqns:
            known = all(x in found or self._is_full(x) for x in eqn.vars)
            if known and not eqn.out.shape and is_elementwise(eqn.op.name):
                found.add(eqn.out)
        return found - factors

    def _is_full(self, x: Var) -> bool:
        return x in self.maker and self.maker[x].op is FULL

    def _through_views(self, x: Var) -> Iterator[Var]:
        yield x
        if x in self.maker and is_view(self.maker[x]):
            for y in self.maker[x].vars:
                yield from self._through_views(y)

    def is_free(self, eqn: Eqn) -> bool:
        """Return whether an eqn's result is found where it is read, without a loop or memory."""
        return is_view(eqn) or eqn.out in self._inline

    def sources(self, eqn: Eqn) -> list[tuple[Var, bool]]:
        """Return the computed values below an eqn, and whether each is read at its own index."""
        if eqn not in self._sources:
            self._sources[eqn] = list(self._found_sources(eqn))
        return self._sources[eqn]

    def _found_sources(self, eqn: Eqn) -> Iterator[tuple[Var, bool]]:
        n = len(eqn.out.shape)
        waiting = []
        for x in eqn.vars:
            # A reduction goes over its input; others read each input aligned at the last axis.
            ahead = n - len(x.shape) if is_elementwise(eqn.op.name) else 0
            waiting.append((x, places_of(x, range(ahead, ahead + len(x.shape)))))
        while waiting:
            x, places = waiting.pop()
            maker = self.maker.get(x)
            if maker is not None and is_view(maker):
                waiting += [(y, through(maker, y, places)) for y in maker.vars]
            elif maker is not None and self.is_free(maker):
                waiting += [(y, places_of(y, ())) for y in maker.vars]
            else:
                yield x, places == places_of(x, range(len(x.shape)))

    def _fuses(self, eqn: Eqn) -> bool:
        return is_elementwise(eqn.op.name) or eqn.op is CHECK or self.reduction(eqn) != "other"

    def reduction(self, eqn: Eqn) -> str:
        """Return how a reduction goes over its input: each row, down the rows, all, or other."""
        if eqn.op.name not in REDUCTIONS:
            return "other"
        x = eqn.inputs[0].shape
        axes = shapes.normalize_axes(eqn.attrs.get("axis"), len(x))
        if not x or not axes:
            return "other"
        if len(axes) == len(x):
            return "all"
        if axes == (len(x) - 1,):
            return "row"
        if axes == tuple(range(len(x) - 1)):
            return "column"
        return "other"

    def _is_barrier(self, x: Var) -> bool:
        """Return whether a value is complete only after its loop has ended."""
        eqn = self.maker.get(x)
        if eqn is None:
            return False
        if is_elementwise(eqn.op.name):
            return False
        return self.reduction(eqn) != "row"

    def _set_stages(self) -> None:
        stage = self._stage
        compute = [eqn for eqn in self.graph.eqns if not self.is_free(eqn)]
        self._order(compute, first=0, early=set())
        checks = [eqn for eqn in compute if eqn.op is CHECK]
        if checks:
            # What no check needs runs after all of them: results may lie where older ones are.
            first = 1 + max(stage[eqn.out] for eqn in checks)
            self._order(compute, first, self._below_all(checks))
        last = self._last = max(stage.values(), default=0) + 1
        self.late = self._final(compute)
        stage.update(dict.fromkeys(self.late, last))
        # As late as its first reader, so that less is stored between.
        latest: dict[Var, int] = {}
        for eqn in reversed(compute):
            x = eqn.out
            if is_elementwise(eqn.op.name) and x not in self.late and x in latest:
                stage[x] = max(stage[x], latest[x])
            fuses = self._fuses(eqn)
            for y, own in self.sources(eqn):
                bound = stage[x] - (0 if fuses and own else 1)
                latest[y] = min(latest.get(y, bound), bound)

    def _order(self, compute: list[Eqn], first: int, early: set[Var]) -> None:
        """Set the stage of each eqn after what it reads; none but ``early`` before ``first``."""
        stage = self._stage
        for eqn in compute:
            alone = not self._fuses(eqn)
            s = 0 if eqn.out in early else first
            for x, own in self.sources(eqn):
                if x in stage:
                    s = max(s, stage[x] + (alone or not own or self._is_barrier(x)))
            stage[eqn.out] = s

    def _below_all(self, eqns: list[Eqn]) -> set[Var]:
        """Return the results of eqns, and all that they are computed from."""
        found = {eqn.out for eqn in eqns}
        for eqn in reversed(self.graph.eqns):
            if eqn.out in found:
                found.update(eqn.vars)
        return found

    def _final(self, compute: list[Eqn]) -> set[Var]:
        """Return the values that replace inputs and can be computed after everything else.

        What reads them must lead to such values alone, in the same loops.
        """
        read_by: dict[Var, list[tuple[Eqn, bool]]] = {}
        for eqn in compute:
            for x, own in self.sources(eqn):
                read_by.setdefault(x, []).append((eqn, own))
        ends: set[Var] = set()
        for eqn in reversed(compute):
            readers = read_by.get(eqn.out, [])
            if not is_elementwise(eqn.op.name) or not (readers or eqn.out in self.late):
                continue
            if all(own and reader.out in ends for reader, own in readers):
                ends.add(eqn.out)
        return ends & self.late

    # Groups

    def _make_groups(self) -> list[Group]:
        order: dict[int, list[Eqn]] = {}
        for eqn in self.graph.eqns:
            if not self.is_free(eqn):
                order.setdefault(self._stage[eqn.out], []).append(eqn)
        groups: list[Group] = []
        for s in sorted(order):
            groups += self._groups_of_stage(order[s])
        return groups

    def _groups_of_stage(self, eqns: list[Eqn]) -> list[Group]:
        """Return the groups of one stage, in an order in which each finds what it reads.

        What fits an open group joins it; the next group is opened for the largest domain, so that
        values of a row find the loops over that row.
        """
        groups: list[Group] = []
        waiting = list(eqns)
        while waiting:
            outs = {eqn.out for eqn in waiting}
            ready = [e for e in waiting if not any(x in outs for x, _ in self.sources(e))]
            joined = [eqn for eqn in ready if self._place(eqn, groups)]
            if not joined:
                eqn = max(ready, key=lambda e: len(self._domain(e)))
                group = Group(self._domain(eqn), alone=not self._fuses(eqn))
                groups.append(group)
                self._enter(eqn, group)
                joined = [eqn]
            waiting = [eqn for eqn in waiting if eqn not in joined]
        return groups

    def _domain(self, eqn: Eqn) -> Any:
        over_input = self.reduction(eqn) != "other" or eqn.op is CHECK
        return eqn.inputs[0].shape if over_input else eqn.out.shape

    def _place(self, eqn: Eqn, groups: list[Group]) -> bool:
        """Put an eqn into the first open group that fits and does not run too early."""
        if not self._fuses(eqn):
            return False
        before = [self.group_of.get(x) for x, _ in self.sources(eqn)]
        first = max((i for i, g in enumerate(groups) if any(g is b for b in before)), default=0)
        for group in groups[first:]:
            if self._joins(eqn, group):
                self._enter(eqn, group)
                return True
        return False

    def _enter(self, eqn: Eqn, group: Group) -> None:
        self._joins(eqn, group)
        group.eqns.append(eqn)
        self.group_of[eqn.out] = group

    def _joins(self, eqn: Eqn, group: Group) -> bool:
        """Return whether an eqn fits a group's loops; notes it if it is a value of each row."""
        if group.alone:
            return False
        kind = self.reduction(eqn)
        shape = eqn.inputs[0].shape if kind != "other" or eqn.op is CHECK else eqn.out.shape
        inside = [x for x, _ in self.sources(eqn) if self.group_of.get(x) is group]
        rows = all(x in group.rows for x in inside)
        if same_shape(shape, group.domain):
            if kind == "row":
                group.rows.add(eqn.out)
            return True
        fits = len(group.domain) > 1 and any(same_shape(shape, s) for s in group.row_shapes)
        if not (fits and rows):
            return False
        if not inside and self._stage[eqn.out] == self._last:
            # A vector to be replaced may be as long as some matrix, and yet have loops of its own.
            return False
        if kind in ("row", "column"):
            return False
        if kind == "other" and eqn.op is not CHECK:
            group.rows.add(eqn.out)
        return True

    # What is stored

    def _stored(self) -> dict[Var, None]:
        """Return the values that are kept in memory, in the order of the eqns: the text that
        follows from them must be the same in every process.
        """
        made = [x for x in self.graph.outputs if x in self.maker]
        # A view has no memory of its own: where it is an output, it is copied there at the end.
        stored = {x for x in made if not self.is_free(self.maker[x])}
        for eqn in self.graph.eqns:
            if self.is_free(eqn):
                continue
            if not self._fuses(eqn) or self.reduction(eqn) in ("column", "all"):
                stored.add(eqn.out)
            group = self.group_of[eqn.out]
            for x, own in self.sources(eqn):
                if x in self.maker and (group.alone or not own or self.group_of[x] is not group):
                    stored.add(x)
        stored |= {x for out in self.graph.outputs for x in self._below(out)}
        return {x: None for x in self.maker if x in stored}

    def _below(self, x: Var) -> list[Var]:
        eqn = self.maker.get(x)
        if eqn is None or not self.is_free(eqn):
            return []
        return [y for y, _ in self.sources(eqn) if y in self.maker]

    def heirs(self) -> dict[Var, set[Var]]:
        """Return for stored values what they may be written over: the loop that makes one reads
        each element of the other for the last time just before.
        """
        found: dict[Var, set[Var]] = {}
        for group in self.groups:
            # Loops over rows may go over a row again.
            if not group.alone and not group.rows:
                found |= self._heirs_in(group)
        return found

    def _heirs_in(self, group: Group) -> dict[Var, set[Var]]:
        own_only: dict[Var, bool] = {}
        for eqn in group.eqns:
            for x, own in self.sources(eqn):
                fits = own and same_shape(x.shape, group.domain)
                own_only[x] = fits and own_only.get(x, True)
        old = [x for x, fits in own_only.items() if fits and self.group_of.get(x) is not group]
        return {
            eqn.out: {x for x in old if x.dtype is eqn.out.dtype}
            for eqn in group.eqns
            if is_elementwise(eqn.op.name) and same_shape(eqn.out.shape, group.domain)
        }
