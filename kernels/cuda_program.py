"""A graph as a step on a GPU: its kernels and products in order, over memory planned ahead.

What touches the GPU is a machine, so that a step also runs where there is none:

- ``load(source)`` returns the kernels of a text by name;
- ``memory(n)`` returns n bytes, all 0, with their ``address``;
- ``launch(kernel, blocks, arguments)`` runs a kernel on addresses;
- ``multiply(product)`` runs a `Matrices`;
- ``copy(target, source, n)`` and ``clear(target, n)`` move and zero bytes on the device;
- ``upload(target, array)`` copies a host array, ``download(source, n)`` returns int64 words.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnx import passes
from nnx.graph import Graph
from nnx.kernels.emit_cuda import Factor, Launch, Product, emit
from nnx.locks import renew_at_fork
from nnx.scalar import Env

ALIGNMENT = 256
SIZES_KEPT = 8
"""For how many batch sizes the work memory is kept."""


class Matrices(NamedTuple):
    """One or more products of the same sizes, row-major: out (m, n) = left (m, k) right (k, n).

    ``left`` and ``right`` are addresses, ``*_leading`` lengths of stored rows in elements,
    ``*_step`` elements from one product's matrix to the next one's. ``out`` has rows of n.
    """

    dtype: str
    count: int
    m: int
    k: int
    n: int
    left: int
    left_transposed: bool
    left_leading: int
    left_step: int
    right: int
    right_transposed: bool
    right_leading: int
    right_step: int
    out: int


class Setting:
    """What runs for one set of sizes: launches and products, and the memory between them."""

    def __init__(self, program: CudaProgram, env: Env) -> None:
        step, machine = program.step, program.machine
        self.places: dict[str, int] = {}
        sizes = [(name, n(env) * width) for name, n, width in step.buffers]
        words = [(f"tickets{i}", 4 * n(env)) for i, n in enumerate(step.tickets)]
        fixed = [("call", 8 * max(len(step.numbers), 1)), ("status", 8)]
        total, offsets = 0, {}
        for name, size in (*fixed, *words, *sizes):
            offsets[name] = total
            total += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        self.bytes = total
        self.memory = machine.memory(total)
        for name, offset in offsets.items():
            self.places[name] = self.memory.address + offset
        self.blocks = [
            sum(p.blocks(env) for p in run.parts) if isinstance(run, Launch) else 0
            for run in step.runs
        ]
        self.env = dict(env)


class CudaProgram:
    """A lowered graph on a GPU; ``updates`` maps outputs to the inputs that they replace."""

    def __init__(
        self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool], machine: Any
    ) -> None:
        self.graph = passes.replaced_by_values(graph, updates)
        self.updates, self.kinds, self.machine = updates, kinds, machine
        self.step = emit(self.graph, updates, kinds)
        self.source = self.step.source
        self._kernels: Any = None
        self._settings: dict[tuple[Any, ...], Setting] = {}
        self.lock = threading.Lock()
        renew_at_fork(self, "lock")

    def numbers(self, env: Env) -> Any:
        """Return the numbers of a call as the 64 bits that kernels read."""
        words = np.zeros(max(len(self.step.numbers), 1), np.int64)
        real = words.view(np.float64)
        for i, (whole, value) in enumerate(self.step.numbers):
            found = value(env)
            if whole:
                found = int(found) % 2**64
                words[i] = found if found < 2**63 else found - 2**64
            else:
                real[i] = found
        return words

    def setting(self, env: Env) -> Setting:
        """Return the memory for the sizes of a call, made at their first one."""
        key = tuple(env[name] for name in self.kinds if name[:1] == "B")
        found = self._settings.get(key)
        if found is None:
            if len(self._settings) >= SIZES_KEPT:
                self._settings.pop(next(iter(self._settings)))
            found = self._settings[key] = Setting(self, env)
        return found

    def run_at(self, addresses: Sequence[int], env: Env) -> int:
        """Run on the memory at these addresses, of inputs, then of outputs; return the status."""
        with self.lock:
            setting = self.setting(env)
            self.machine.upload(setting.places["call"], self.numbers(env))
            self.machine.clear(setting.places["status"], 8)
            self.enqueue(setting, addresses, env)
            if not self.step.has_checks:
                return 0
            return int(self.machine.download(setting.places["status"], 1)[0])

    def enqueue(self, setting: Setting, addresses: Sequence[int], env: Env) -> None:
        """Start every kernel and product of a step."""
        step, machine = self.step, self.machine
        if self._kernels is None:
            self._kernels = machine.load(self.source)
        # An output that replaces an input has that one's name.
        names = [*step.inputs, *step.outputs]
        places = setting.places | dict(
            reversed([*zip(names, addresses, strict=True)])  # inputs last, and so for good
        )
        for run, blocks in zip(step.runs, setting.blocks, strict=True):
            if isinstance(run, Product):
                for product in matrices(run, places, env):
                    if product.k == 0:
                        size = product.count * product.m * product.n
                        machine.clear(product.out, size * np.dtype(product.dtype).itemsize)
                    elif product.m and product.n and product.count:
                        machine.multiply(product)
                continue
            given = [places[name] for name in ("call", "status", *run.params)]
            machine.launch(self._kernels[run.name], blocks, given)


def matrices(product: Product, places: dict[str, int], env: Env) -> list[Matrices]:
    """Return a product as calls that each go through matrices at even steps."""
    batch = [n(env) for n in product.batch]
    m, k, n = product.m(env), product.k(env), product.n(env)
    width = np.dtype(product.dtype).itemsize
    strides = [_strides(f, batch, env) for f in (product.left, product.right)]
    # The last axes over which both factors move evenly are one axis of a call.
    even = len(batch)
    while even and all(
        s[even - 1] == (s[even] * batch[even] if even < len(batch) else s[even - 1])
        for s in strides
    ):
        even -= 1
    count = int(np.prod(batch[even:], dtype=np.int64))
    found = []
    for number, place in enumerate(itertools.product(*map(range, batch[:even]))):
        at = [
            places[f.pointer] + width * sum(i * s for i, s in zip(place, steps, strict=False))
            for f, steps in zip((product.left, product.right), strides, strict=True)
        ]
        left_step, right_step = (s[-1] if len(batch) > even else 0 for s in strides)
        found.append(Matrices(
            product.dtype, count, m, k, n,
            at[0], product.left.transposed, product.left.leading(env), left_step,
            at[1], product.right.transposed, product.right.leading(env), right_step,
            places[product.out] + width * number * count * m * n,
        ))  # fmt: skip
    return found


def _strides(factor: Factor, batch: Sequence[int], env: Env) -> list[int]:
    """Return by how many elements a factor moves along each axis of the batch."""
    sizes = [n(env) for n in factor.lead]
    step, found = factor.step(env), []
    for n in reversed(sizes):
        found.append(0 if n == 1 else step)
        step *= n
    return [0] * (len(batch) - len(found)) + found[::-1]
