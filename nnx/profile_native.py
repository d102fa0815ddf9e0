"""The kernels of a step's native code, each compiled alone and timed on copies of its arrays."""

from __future__ import annotations

import math
import statistics
import time
import timeit
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx import costs
from nnx.graph import Var
from nnx.kernels import blas, cache
from nnx.kernels.emit_numba import alone
from nnx.kernels.program import Program, Setting
from nnx.kernels.text import Kernel
from nnx.profile import Part
from nnx.scalar import Env, resolve

ROUNDS, MIN_ROUNDS = 25, 5
BUDGET_S = 1.0
"""After so long, rounds beyond the fewest are not begun."""
BLOCK_S, MAX_CALLS = 2e-4, 200
SHORTEST_S = 2e-9


class Kernels:
    """The kernels of a program, on copies of a call's arrays: the call's own are never written."""

    def __init__(self, program: Program, arrays: Sequence[Any], env: Env) -> None:
        self.program, self.env = program, env
        program.setting(env)  # which loads the code
        emitted, updates = program.emitted, program.updates
        self._arrays = [np.array(x, order="C") for x in arrays]
        made = [
            np.empty(0 if k in updates else self.sizes(x), x.dtype.name)
            for k, x in enumerate(program.graph.outputs)
        ]
        self.setting = Setting(emitted, env, program.native.bind)
        program.fill(self.setting, env)
        places = [x.ctypes.data for x in (*self._arrays, *made)]
        self.setting.table[emitted.first : emitted.last] = places
        self._written = [self._arrays[i] for i in updates.values()]
        self._written += [*made, self.setting.work]
        self.kernels = emitted.kernels

    def sizes(self, x: Var) -> tuple[int, ...]:
        """Return the shape of a value in this call."""
        return tuple(resolve(x.shape, self.env))

    def _bound(self, text: str) -> Any:
        native = cache.load(text, blas.symbols())
        return native.bind(self.setting.table.ctypes.data)

    def _memory(self) -> list[Any]:
        return [x.copy() for x in self._written]

    def _put_back(self, memory: Sequence[Any]) -> None:
        for x, before in zip(self._written, memory, strict=True):
            x[...] = before

    def times_s(self) -> tuple[list[float], float, float]:
        """Return the seconds of each kernel and of the whole native step, and the least that can be
        told from nothing.

        Each time is the median over the rounds, less that of a step that does nothing. In a round
        the kernels run in order; each finds the memory as those before it leave it, in which it is
        first called a number of times in a row to be timed.
        """
        runs = [self._bound(alone(self.program.emitted, i)) for i in range(len(self.kernels))]
        empty = self._bound("def step(table):\n    return 0\n")
        n_calls = [0] * len(runs)
        found: list[list[float]] = [[] for _ in runs]
        nothing: list[float] = []
        whole: list[float] = []
        start, end = self._memory(), time.perf_counter() + BUDGET_S
        try:
            for _ in range(ROUNDS):
                if len(whole) >= MIN_ROUNDS and time.perf_counter() > end:
                    break
                self._put_back(start)
                for i, run in enumerate(runs):
                    before = self._memory()
                    n_calls[i] = n_calls[i] or _n_calls(run)
                    run()
                    found[i].append(timeit.timeit(run, number=n_calls[i]) / n_calls[i])
                    self._put_back(before)
                    run()
                nothing.append(timeit.timeit(empty, number=MAX_CALLS) / MAX_CALLS)
                self._put_back(start)
                n = _n_calls(self.setting.run)
                whole.append(timeit.timeit(self.setting.run, number=n) / n)
        finally:
            self._put_back(start)
            blas.set_threads(blas.threads())  # a small product has set one
        low, median, high = statistics.quantiles(nothing, n=4)
        times = [statistics.median(x) - median for x in found]
        return times, statistics.median(whole) - median, max(high - low, SHORTEST_S)

    def measured(self) -> tuple[list[Part], float]:
        """Return the kernels with their times, and the time below which they are too short."""
        times, _, resolution_s = self.times_s()
        parts = [
            self._part(kernel, time_s if time_s >= resolution_s else None)
            for kernel, time_s in zip(self.kernels, times, strict=True)
        ]
        return parts, resolution_s

    def _part(self, kernel: Kernel, time_s: float | None) -> Part:
        arrays = {*kernel.reads, *kernel.writes}
        n_bytes = sum(math.prod(self.sizes(x)) * x.dtype.itemsize for x in arrays)
        flops = sum(
            costs.flops(eqn.op, list(map(self.sizes, eqn.vars)), self.sizes(eqn.out))
            for eqn in kernel.eqns
        )
        threads = "all threads" if flops >= 2 * blas.ONE_THREAD_BELOW else "one thread"
        threads = threads if is_product(kernel) else "one thread"
        return Part(title_of(kernel), self.shapes(kernel), time_s, flops, n_bytes, 1, threads)

    def shapes(self, kernel: Kernel) -> str:
        """Return the factors of a product, or the largest array of a nest."""
        values = [x for eqn in kernel.eqns for x in (*eqn.vars, eqn.out)] or list(kernel.writes)
        if is_product(kernel):
            return " ".join(str(self.sizes(x)) for x in kernel.eqns[0].vars)
        return str(max(map(self.sizes, values), key=lambda n: (math.prod(n), len(n))))


def is_product(kernel: Kernel) -> bool:
    """Return whether a kernel is one matrix product."""
    return [eqn.op.name for eqn in kernel.eqns] == ["matmul"]


def title_of(kernel: Kernel) -> str:
    """Return the ops of a kernel, each once."""
    return ", ".join(dict.fromkeys(eqn.op.name for eqn in kernel.eqns)) or "copy"


def _n_calls(run: Any) -> int:
    """Return how many calls make a block; a few are made to see."""
    run()
    once_s = timeit.timeit(run, number=1)
    if once_s < BLOCK_S:
        once_s = timeit.timeit(run, number=10) / 10
    return max(1, min(int(BLOCK_S / once_s), MAX_CALLS))
