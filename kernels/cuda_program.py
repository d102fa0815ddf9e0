"""A graph as a step on a GPU: its text, its kernels, and a `Setting` for each set of sizes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from nnx import passes
from nnx.graph import Graph, largest
from nnx.kernels.cuda_passes import products
from nnx.kernels.cuda_setting import ALIGNMENT, Setting
from nnx.kernels.cuda_short import as_loops, short_products
from nnx.kernels.cuda_step import Number
from nnx.kernels.emit_cuda import emit
from nnx.locks import renew_at_fork
from nnx.precision import get_matmul_precision
from nnx.scalar import Env, names_in

SIZES_KEPT = 8
"""For how many batch sizes the work memory is kept."""
FEW_ROWS = 32
"""What is compiled first where the number of rows is one of the call."""


def sizes_in(graph: Graph, scalars: Collection[str]) -> list[str]:
    """Return the scalars of a call that a graph's shapes are written in."""
    values = (*graph.inputs, *(eqn.out for eqn in graph.eqns))
    named = {name for x in values for name in names_in(tuple(x.shape))}
    return sorted(named.intersection(scalars))


class Slots:
    """What a call's table holds where: scalars by name, then addresses of inputs and outputs."""

    def __init__(self, scalars: Sequence[str], n_inputs: int, n_outputs: int) -> None:
        self.scalars = {name: 1 + i for i, name in enumerate(scalars)}
        self.first = 1 + len(scalars)
        self.inputs = [self.first + i for i in range(n_inputs)]
        self.outputs = [self.first + n_inputs + k for k in range(n_outputs)]
        self.last = self.size = self.first + n_inputs + n_outputs


class Emission:
    """A graph as kernels and products, for sizes at which the same products are loops."""

    def __init__(
        self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool], machine: Any
    ) -> None:
        self.graph = passes.replaced_by_values(graph, updates)
        self.step = emit(self.graph, updates, kinds)
        self.source = self.step.source
        self.row = 1 + len(self.step.numbers)
        sized = frozenset(sizes_in(graph, kinds))
        self._varying = [
            (i, number) for i, number in enumerate(self.step.numbers, 1) if number.names - sized
        ]
        self._machine = machine
        self._kernels: Any = None

    def kernels(self) -> Any:
        """Return the compiled kernels by name."""
        if self._kernels is None:
            self._kernels = self._machine.load(self.source)
        return self._kernels

    def numbers_of(self, env: Env) -> Any:
        """Return the numbers of a call as the 64 bits that kernels read; first that of the step."""
        words = np.zeros(self.row, np.int64)
        real = words.view(np.float64)
        for i, number in enumerate(self.step.numbers, 1):
            self._write(words, real, i, number, env)
        return words

    def renew(self, words: Any, env: Env, step: int = 0) -> None:
        """Write into the numbers of a call of the same sizes those that may be others."""
        real = words.view(np.float64)
        words[0] = step
        for i, number in self._varying:
            self._write(words, real, i, number, env)

    @staticmethod
    def _write(words: Any, real: Any, i: int, number: Number, env: Env) -> None:
        found = number.value(env)
        if number.whole:
            found = int(found) % 2**64
            words[i] = found if found < 2**63 else found - 2**64
        else:
            real[i] = found


class CudaProgram:
    """A lowered graph on a GPU; ``updates`` maps outputs to the inputs that they replace.

    The inputs ``moving`` are arguments, other memory at each call: all that replace none, unless
    the caller says less. The outputs ``steady`` are mostly where they were in the call before.
    ``graph``, ``step`` and ``source`` are of its first `Emission`, that for few rows.
    """

    def __init__(
        self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool], machine: Any
    ) -> None:
        self.updates, self.kinds, self.machine = updates, kinds, machine
        self.emitted = Slots(sorted(kinds), len(graph.inputs), len(graph.outputs))
        self.arrays = machine.arrays
        self.moving = frozenset(range(len(graph.inputs))) - frozenset(updates.values())
        self.steady: frozenset[int] = frozenset()
        self.sized = sizes_in(graph, kinds)
        self._lowered, self._precision = graph, get_matmul_precision()
        self._emissions: dict[frozenset[int], Emission] = {}
        self._settings: dict[tuple[Any, ...], Setting] = {}
        self.lock = threading.Lock()
        renew_at_fork(self, "lock")
        # What cannot be compiled is to be told now.
        first = self.emission(dict.fromkeys(self.sized, FEW_ROWS))
        self.graph, self.step, self.source = first.graph, first.step, first.source

    def emission(self, env: Env) -> Emission:
        """Return the kernels and products for the sizes of a call."""
        short = short_products(self._lowered, env, self.machine.warp_turns)
        found = self._emissions.get(short)
        if found is None:
            graph = products(as_loops(self._lowered, short), self._precision, self.machine)
            found = Emission(graph, self.updates, self.kinds, self.machine)
            self._emissions[short] = found
        return found

    def named(self, addresses: Sequence[int]) -> dict[str, int]:
        """Return addresses of inputs, then of outputs, by name; those replaced are the inputs'."""
        names = [*self.step.inputs, *self.step.outputs]
        return dict(reversed([*zip(names, addresses, strict=True)]))

    def setting(self, env: Env) -> Setting:
        """Return the step for the sizes of a call, made at their first one."""
        key = tuple(env[name] for name in self.sized)
        found = self._settings.get(key)
        if found is None:
            if len(self._settings) >= SIZES_KEPT:
                self._settings.pop(next(iter(self._settings)))
            with self.machine.scope():
                found = self._settings[key] = Setting(self, env)
        return found

    def statistics(self, env: Env) -> dict[str, int]:
        """Return how many kernels and products there are, and the bytes of memory between them."""
        step = self.emission(env).step
        sizes = [n(env) * width for _, n, width in step.buffers]
        total = sum(-(-max(n, 1) // ALIGNMENT) * ALIGNMENT for n in sizes)
        return {"kernels": len(step.runs), "buffer_bytes": total}

    def largest(self, env: Env) -> str:
        """Return in words which result takes the most memory; "" where none is kept."""
        return largest(self.emission(env).step.stored, env)

    def run_at(self, addresses: Any, env: Env) -> int:
        """Run on the memory at these addresses, of inputs, then of outputs; return the status."""
        with self.lock:
            setting = self.setting(env)
            self.fill(setting, env)
            setting.table[self.emitted.first : self.emitted.last] = addresses
            return setting.run()

    def fill(self, setting: Setting, env: Env) -> None:
        """Write the scalars of a call into its table."""
        for name, slot in self.emitted.scalars.items():
            value = env[name]
            if self.kinds[name]:
                setting.table[slot] = value if value < 2**63 else value - 2**64
            else:
                setting.numbers[slot] = value
