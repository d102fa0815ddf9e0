"""The CUDA emitter: a lowered graph becomes kernels of CUDA C++, products, and their order.

Parts (`nnx.kernels.cuda_nests`, `cuda_singles`) that do not wait for each other share a kernel,
each with blocks of its own. A part that replaces an input does nothing once a check has failed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from nnx import shapes
from nnx.graph import CHECK, Eqn, Graph, Var
from nnx.kernels.cuda_gemm import GEMM, RIDERS
from nnx.kernels.cuda_singles import CudaSingles
from nnx.kernels.cuda_step import (
    RESIDENT,
    THREADS,
    CudaStep,
    Factor,
    Launch,
    Number,
    Part,
    Product,
    count_of,
)
from nnx.kernels.cuda_text import TYPES, library, translated
from nnx.kernels.expressions import CAST, cast_of
from nnx.kernels.groups import Group, is_view
from nnx.kernels.memory import lifetimes, shared
from nnx.kernels.text import cannot_compile

MOST_POINTERS, MOST_SHARED_BYTES = 300, 40 << 10
MOST_TOTALS = 20
"""With more sums at a time a thread needs the registers of two."""


def emit(graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> CudaStep:
    """Return the kernels of a graph; see `nnx.kernels.emit_numba.emit`."""
    return CudaEmitter(graph, updates, kinds).kernels()


class CudaEmitter(CudaSingles):
    """Emits kernels; what it shares with the Numba emitter is how elements are written."""

    # The whole

    def kernels(self) -> CudaStep:
        """Return the kernels and their order."""
        step = self.step
        for eqn in self.graph.eqns:
            if eqn.out.dtype.name not in CAST:
                cannot_compile(eqn)
        for i, x in enumerate(self.graph.inputs):
            step.inputs.append(f"x{i}")
            self._declare(x, f"x{i}", 0)
        self.copies = []
        self._place_outputs()
        step.stored = self.stored
        order = self._scheduled()
        self._place_buffers(order)
        texts: dict[int, Part | Product] = {}
        for i, group in enumerate(self.plan.groups):
            if _is_rider(group):
                self.ready.add(group.eqns[0].out)
            else:
                texts[i] = self._made(group)
        copies = len(self.plan.groups)
        for k, (name, x) in enumerate(self.copies):
            texts[copies + k] = self._copied(name, x)
        for members in order:
            found = [texts[i] for i in members]
            if isinstance(found[0], Product):
                step.runs.append(found[0])
            else:
                parts = tuple(p for p in found if isinstance(p, Part))
                step.runs.append(self._launch(f"k{len(step.runs)}", parts))
        step.buffers += self.scratch
        step.checked = max(
            (i for i, run in enumerate(step.runs, 1) if isinstance(run, Launch) and _checks(run)),
            default=0,
        )
        step.source = self._source()
        return step

    def _declare(self, x: Var, name: str, slot: int) -> None:
        if x not in self.pointer:
            self._point(x, name)

    def _point(self, x: Var, name: str) -> None:
        self.pointer[x] = name
        self.step.pointers[name] = cast_of(x.dtype)

    def _place_outputs(self) -> None:
        for k, x in enumerate(self.graph.outputs):
            old = self.graph.inputs[self.updates[k]] if k in self.updates else None
            name = f"y{k}" if old is None else self.pointer[old]
            self.step.outputs.append(name)
            self.step.pointers[name] = cast_of(x.dtype)
            if self._writes_directly(k, x):
                self._point(x, name)
            else:
                self.copies.append((name, x))
        # First what may still read an input, then what replaces inputs.
        self.copies.sort(key=lambda copy: copy[0].startswith("x"))

    def _place_buffers(self, order: Sequence[Sequence[int]]) -> None:
        """Give values that are kept between kernels their memory."""
        steps = []
        for members in order:
            touched: list[Var] = []
            for i in members:
                touched += self._touched(i)
            steps.append(touched)
        kept = [x for x in self.plan.stored if x not in self.pointer]
        for i, buffer in enumerate(shared(lifetimes(steps, kept))):
            self.step.buffers.append((f"w{i}", count_of(buffer.size), buffer.dtype.itemsize))
            for x in buffer.vars:
                self._point(x, f"w{i}")

    def _scheduled(self) -> list[list[int]]:
        """Return the groups, and then the copies, that share a kernel each, in order."""
        waits = self._waits()
        groups = self.plan.groups
        alone = [g.alone and self._is_blas(g.eqns[0]) for g in groups]
        alone += [False] * len(self.copies)
        kernels: list[list[int]] = []
        place: dict[int, int] = {}
        for i, before in enumerate(waits):
            if i < len(groups) and _is_rider(groups[i]):
                place[i] = max(place[j] for j in before)
                continue
            # The first kernel after all that it waits for.
            first = max((place[j] + 1 for j in before), default=0)
            open_ = (
                k for k in range(first, len(kernels))
                if not alone[kernels[k][0]] and self._fits(i, kernels[k])
            )  # fmt: skip
            found = len(kernels) if alone[i] else next(open_, len(kernels))
            if found == len(kernels):
                kernels.append([])
            kernels[found].append(i)
            place[i] = found
        self._sink(kernels, place, waits, alone)
        return [members for members in kernels if members]

    def _touched(self, i: int) -> set[Var]:
        """Return the values that a group, or a copy, reads or writes."""
        groups = self.plan.groups
        if i >= len(groups):
            return set(self._roots(self.copies[i - len(groups)][1]))
        eqns = groups[i].eqns
        found = {x for e in eqns for x in (e.out, *(y for y, _ in self.plan.sources(e)))}
        return found | {self.riders[x] for x in (eqns[0].out,) if x in self.riders}

    def _fits(self, i: int, members: Sequence[int]) -> bool:
        """Return whether a kernel may take one part more.

        Its parameters have 4 KiB at least, and what its blocks share 48.
        """
        touched = set().union(*map(self._touched, (i, *members)))
        groups = self.plan.groups
        shared = sum(self.plan.shared_bytes(groups[m]) for m in (i, *members) if m < len(groups))
        return len(touched & self._in_memory) <= MOST_POINTERS and shared <= MOST_SHARED_BYTES

    @functools.cached_property
    def _in_memory(self) -> set[Var]:
        return {*self.plan.stored, *self.graph.inputs}

    def _sink(
        self, kernels: list[list[int]], place: dict[int, int], waits: Sequence[set[int]],
        alone: Sequence[bool],
    ) -> None:  # fmt: skip
        """Empty kernels whose parts may all run in later ones."""
        for k in reversed(range(len(kernels))):
            if alone[kernels[k][0]]:
                continue
            moves = {}
            for i in kernels[k]:
                end = min((place[j] for j, w in enumerate(waits) if i in w), default=len(kernels))
                later = [
                    m for m in range(k + 1, end)
                    if kernels[m] and not alone[kernels[m][0]] and self._fits(i, kernels[m])
                ]  # fmt: skip
                if not later:
                    break
                moves[i] = later[0]
            else:
                for i, m in moves.items():
                    kernels[m].append(i)
                    place[i] = m
                kernels[k] = []

    def _waits(self) -> list[set[int]]:
        """Return for each group, then for each copy, those that must have run before."""
        groups = self.plan.groups
        maker = {eqn.out: i for i, group in enumerate(groups) for eqn in group.eqns}
        readers: dict[Var, set[int]] = {}
        for i, group in enumerate(groups):
            for eqn in group.eqns:
                for x, _ in self.plan.sources(eqn):
                    readers.setdefault(x, set()).add(i)
        checks = {i for i, group in enumerate(groups) if any(map(_may_fail, group.eqns))}
        inputs = {self.pointer[x]: x for x in self.graph.inputs}
        found: list[set[int]] = []
        for i, group in enumerate(groups):
            waits = {
                maker[x] for eqn in group.eqns for x, _ in self.plan.sources(eqn) if x in maker
            }
            replaced = [
                inputs[self.pointer[eqn.out]] for eqn in group.eqns
                if self.pointer.get(eqn.out) in inputs
            ]  # fmt: skip
            for x in replaced:
                waits |= readers.get(x, set())
            if replaced:
                waits |= checks
            found.append(waits - {i})
        for name, x in self.copies:
            waits = {maker[y] for y in self._roots(x) if y in maker}
            if name in inputs:
                waits |= set(range(len(found)))  # all that may still read it, and all checks
            found.append(waits)
        return found

    @staticmethod
    def _is_blas(eqn: Eqn) -> bool:
        return eqn.op is GEMM

    # Parts

    def _made(self, group: Group) -> Part | Product:
        if group.alone and self._is_blas(group.eqns[0]):
            self.ready.add(group.eqns[0].out)
            return self._product(group.eqns[0])
        self._start()
        if group.alone:
            self._alone(group.eqns[0])
        else:
            self._group(group)
        read = [
            x for eqn in group.eqns for x, _ in self.plan.sources(eqn)
            if self.plan.group_of.get(x) is not group
        ]  # fmt: skip
        made = [x for eqn in group.eqns for x in (eqn.out, self.riders.get(eqn.out))]
        return self._part(group.eqns, read, [x for x in made if x in self.pointer])

    def _copied(self, name: str, x: Var) -> Part:
        self._start()
        self._copy(name, x)
        part = self._part((), list(self._roots(x)), [])
        body = self._guarded([name], list(part.body))
        return part._replace(body=body, targets=frozenset([name]))

    def _part(self, eqns: Sequence[Eqn], read: Sequence[Var], written: Sequence[Var]) -> Part:
        body = [*self.shared_lines, *translated(self.top.lines)]
        names = [self.pointer[x] for x in written]
        self.n_parts += 1
        return Part(
            f"part{self.n_parts - 1}", self._guarded(names, body), self.blocks, tuple(eqns),
            tuple(dict.fromkeys(read)), tuple(written), frozenset(names), tuple(self.clears),
        )  # fmt: skip

    def _guarded(self, names: Sequence[str], body: list[str]) -> tuple[str, ...]:
        """Return the lines of a part; one that replaces inputs does so only while all is well."""
        if any(name in self.step.inputs for name in names):
            return ("    if (nnx::failed(status)) return;", *body)
        return tuple(body)

    # Products

    def _product(self, eqn: Eqn) -> Product:
        x, y, *given = eqn.inputs
        a, b = tuple(x.shape), tuple(y.shape)
        a = (1, *a) if len(a) == 1 else a
        b = (*b, 1) if len(b) == 1 else b
        batch = shapes.broadcast(a[:-2], b[:-2])
        return Product(
            eqn, x.dtype, tuple(map(count_of, batch)), count_of(a[-2]), count_of(a[-1]),
            count_of(b[-1]), self._factor(x, a), self._factor(y, b), self.pointer[eqn.out],
            eqn.attrs["compute"], eqn.attrs["epilogue"], **self._beside(eqn, given),
        )  # fmt: skip

    def _beside(self, eqn: Eqn, given: Sequence[Var]) -> dict[str, str]:
        """Return the pointers that a product's epilogue has."""
        epilogue, rider = eqn.attrs["epilogue"], self.riders.get(eqn.out)
        written = self.pointer[rider] if rider else ""
        read = self.pointer[given[0]] if given else ""
        if epilogue == "drelu":
            return {"aux": read}
        return {"bias": written} if epilogue == "bgradb" else {"bias": read, "aux": written}

    def _factor(self, x: Var, shape: Any) -> Factor:
        """Return where a factor of a product lies; its pass left it plain or transposed."""
        transposed = False
        rows, columns = shape[-2:]
        maker = self.plan.maker.get(x)
        while maker is not None and is_view(maker) and x not in self.pointer:
            n = len(x.shape)
            if maker.op.name == "permute_dims":
                order = [a % n for a in maker.attrs["axes"]]
                transposed ^= order != list(range(n))
            x = maker.inputs[0]
            maker = self.plan.maker.get(x)
        leading = count_of(rows if transposed else columns)
        step = count_of(rows * columns)
        lead = tuple(map(count_of, shape[:-2]))
        return Factor(self.pointer[x], transposed, leading, step, lead)

    # The text

    def _launch(self, name: str, parts: tuple[Part, ...]) -> Launch:
        words = set(re.findall(r"[A-Za-z_]\w*", "\n".join(t for p in parts for t in _code(p.body))))
        params = [p for p in self.step.pointers if p in words]
        return Launch(name, parts, tuple(params))

    def _source(self) -> str:
        lines = [library()]
        for run in self.step.runs:
            if isinstance(run, Launch):
                lines += self._text_of(run)
        return "\n".join(lines) + "\n"

    def _text_of(self, launch: Launch) -> list[str]:
        lines: list[str] = []
        params = [self._param(name, launch) for name in launch.params]
        fixed = ["const long long *__restrict__ call", "long long *status", *params]
        given = ", ".join(fixed)
        names = ", ".join(["call", "status", *launch.params])
        for part in launch.parts:
            lines.append(
                f"static __device__ __forceinline__ void {part.name}(long long block, "
                f"long long blocks, {given}) {{"
            )
            words = set(re.findall(r"\bk\d+\b", "\n".join(_code(part.body))))
            lines += [f"    {text}" for text in self.head if text.split()[2] in words]
            lines += [*part.body, "}", ""]
        totals = max(sum("auto a" in text for text in part.body) for part in launch.parts)
        bounds = f"__launch_bounds__({THREADS}, {RESIDENT if totals <= MOST_TOTALS else 1})"
        lines.append(f'extern "C" __global__ void {bounds} {launch.name}({given}) {{')
        if len(launch.parts) == 1:
            lines.append(f"    {launch.parts[0].name}(blockIdx.x, gridDim.x, {names});")
        else:
            # Each part has blocks of its own.
            lines.append("    long long block = blockIdx.x, blocks;")
            for i, part in enumerate(launch.parts):
                self.step.numbers.append(Number(True, part.blocks))
                if i:
                    lines.append("    block -= blocks;")
                lines.append(f"    blocks = call[{len(self.step.numbers)}];")
                lines.append(f"    if (block < blocks) return {part.name}(block, blocks, {names});")
        return [*lines, "}", ""]

    def _param(self, name: str, launch: Launch) -> str:
        kind = TYPES[self.step.pointers[name]]
        # Memory of sums is read while other blocks write it.
        own = name.startswith(("s", "ticket"))
        written = own or any(name in part.targets for part in launch.parts)
        return f"{kind} *{name}" if written else f"const {kind} *__restrict__ {name}"


def _checks(launch: Launch) -> bool:
    return any(_may_fail(eqn) for part in launch.parts for eqn in part.eqns)


def _is_rider(group: Group) -> bool:
    """Return whether what a group makes is written by what makes its last input."""
    return group.alone and group.eqns[0].op in RIDERS


def _may_fail(eqn: Eqn) -> bool:
    """Return whether an eqn may refuse a value: a check, or an index in an array."""
    return eqn.op is CHECK or (eqn.op.name in ("getitem", "scatter_add") and len(eqn.inputs) > 1)


def _code(body: Sequence[str]) -> list[str]:
    return [text for text in body if not text.lstrip().startswith("//")]
