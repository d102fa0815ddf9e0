"""What parts of CUDA kernels are written with: numbers of a call, loops that threads share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.graph import Eqn, Graph
from nnx.kernels.cuda_gemm import RIDERS
from nnx.kernels.cuda_plan import GpuPlan
from nnx.kernels.cuda_step import THREADS, Count, CudaStep, Number, blocks_for, count_of
from nnx.kernels.emit_numba import Emitter
from nnx.kernels.expressions import HALF, cast_of
from nnx.kernels.nests import reducing
from nnx.kernels.text import Scope
from nnx.scalar import evaluator


class CudaLoops(Emitter):
    """What every part is written with: numbers of a call, loops of threads, work memory."""

    def __init__(self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> None:
        super().__init__(graph, updates, kinds)
        self.plan: GpuPlan = GpuPlan(graph, updates)
        self.step = CudaStep()
        self.riders = {e.inputs[-1]: e.out for e in graph.eqns if e.op in RIDERS}
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

    def _body(self) -> Scope:
        body = Scope(Scope(self.top, frozenset(), 1), frozenset(), 1)
        body.fixed = True
        return body

    # Reductions

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
