"""A graph as a step on a GPU: its kernels and products in order, over memory planned ahead.

A step is first launched kernel by kernel, which also loads and tunes them. When it comes again
with the same parameters it is captured as one CUDA graph, and from then on replayed: what changes
between calls lies in memory that does not move, numbers in a row of their own, arguments and
results in buffers that are copied to and from. Many steps over rows on the device are one replay
after the other, without a look at the host.

What touches the GPU is a machine (`nnx.kernels.cuda_machine`), so that all of this also runs where
there is none:

- ``load(source)`` returns the kernels of a text by name;
- ``memory(n)`` returns n bytes, all 0, with their ``address``;
- ``launch(kernel, blocks, arguments)`` runs a kernel on addresses;
- ``multiply(product)`` runs a `Matrices`;
- ``copy(target, source, n)`` and ``clear(target, n)`` move and zero bytes on the device;
- ``upload(target, array)`` copies a host array, ``download(source, n)`` returns int64 words, and
  ``mark(source, n)`` a function that does, waiting for no more than was started before it;
- ``capture(function)`` returns a function that starts again all that this one starts, or None;
- ``has_narrow_products`` tells whether TF32, bfloat16 and float16 products are faster there;
- ``seconds(function)`` times what a function starts;
- ``scope()`` is the context in which its device is current, ``lock`` is held while a step is
  started: steps share streams, captures and the memory of products;
- ``arrays`` makes arrays and tells where they are: see `nnx.places.HostArrays`.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnx import dtypes, passes
from nnx.graph import Graph
from nnx.kernels.cuda_passes import products
from nnx.kernels.cuda_step import THREADS, Factor, Launch, Number, Product
from nnx.kernels.emit_cuda import emit
from nnx.locks import renew_at_fork
from nnx.precision import get_matmul_precision
from nnx.scalar import Env, resolve

ALIGNMENT = 256
SIZES_KEPT, CAPTURES_KEPT = 8, 8
"""For how many batch sizes the work memory is kept, and how many graphs of each."""
STEPS_AT_ONCE = 16
"""Steps in one graph, where the rows are on the device."""
STATUS_WORDS = 2
"""Why a check failed, 0 where none did; and in which step."""


class Matrices(NamedTuple):
    """One or more products of the same sizes, row-major: out (m, n) = left (m, k) right (k, n).

    ``left`` and ``right`` are addresses, ``*_leading`` lengths of stored rows in elements,
    ``*_step`` elements from one product's matrix to the next one's. ``out`` has rows of n. The
    types, and what is done with ``bias`` (n,), are those of `nnx.kernels.problems_gpu.Problem`.
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
    out_dtype: str = "float32"
    compute: str = "float32"
    epilogue: str = "none"
    bias: int = 0


class Slots:
    """What a call's table holds where: scalars by name, then addresses of inputs and outputs."""

    def __init__(self, scalars: Sequence[str], n_inputs: int, n_outputs: int) -> None:
        self.scalars = {name: 1 + i for i, name in enumerate(scalars)}
        self.first = 1 + len(scalars)
        self.inputs = [self.first + i for i in range(n_inputs)]
        self.outputs = [self.first + n_inputs + k for k in range(n_outputs)]
        self.last = self.size = self.first + n_inputs + n_outputs


class Column(NamedTuple):
    """An argument cut from rows on the device: where they are, the bytes of one, its input."""

    source: int
    width: int
    index: int


class Setting:
    """A step for one set of sizes: its table, and the memory between its kernels."""

    def __init__(self, program: CudaProgram, env: Env) -> None:
        self.program = program
        step, machine, graph = program.step, program.machine, program.graph
        slots = program.emitted
        self.table = np.zeros(slots.size, np.int64)
        self.numbers = self.table.view(np.float64)
        self.sizes = {name: env[name] for name in program.sized}
        self._bytes = [_bytes_of(x, env) for x in (*graph.inputs, *graph.outputs)]
        self._n_inputs = len(graph.inputs)
        wanted = [(name, n(env) * width) for name, n, width in step.buffers]
        wanted += [(f"tickets{i}", 4 * n(env)) for i, n in enumerate(step.tickets)]
        wanted += [("call", 8 * program.row), ("status", 8 * STATUS_WORDS)]
        self.memory, self._places = self._laid_out(wanted)
        self._fixed: Any = None
        self._blocks = [
            sum(p.blocks(env) for p in run.parts) if isinstance(run, Launch) else 0
            for run in step.runs
        ]
        self._words = program.numbers_of(env)
        self._seen: dict[Any, Any] = {}
        self._machine = machine

    def _laid_out(self, wanted: Sequence[tuple[str, int]]) -> tuple[Any, dict[str, int]]:
        """Return one memory for parts of these sizes in bytes, and where each is."""
        total, offsets = 0, {}
        for name, size in wanted:
            offsets[name] = total
            total += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        memory = self.program.machine.memory(total)
        self.bytes = total
        return memory, {name: memory.address + at for name, at in offsets.items()}

    def run(self) -> int:
        """Run the step that the table describes; return its status."""
        with self._machine.lock, self._machine.scope():
            return self._run()

    def _run(self) -> int:
        program, machine, slots = self.program, self._machine, self.program.emitted
        program.renew(self._words, self.env(self.table))
        machine.upload(self._places["call"], self._words)
        addresses = self.table[slots.first : slots.last].tolist()
        key, starts, moved_in, moved_out = self._replay(addresses)
        for target, i in moved_in:
            machine.copy(target, addresses[i], self._bytes[i])
        status = None
        for k, start in enumerate(starts):
            start()
            if k == 0 and program.step.has_checks:
                # The host waits for the checks alone; the rest of the step goes on meanwhile.
                status = machine.mark(self._places["status"], STATUS_WORDS)
        for source, i in moved_out:
            machine.copy(addresses[i], source, self._bytes[i])
        self._seen.setdefault(key, None)  # only now: what failed halfway is not ready for a capture
        return 0 if status is None else self._told(status())[0]

    def env(self, table: Any) -> dict[str, Any]:
        """Return the scalars of a call's table."""
        found: dict[str, Any] = {}
        for name, slot in self.program.emitted.scalars.items():
            whole = self.program.kinds[name]
            found[name] = int(table[slot]) if whole else float(table.view(np.float64)[slot])
        return found

    def _told(self, words: Any) -> tuple[int, int]:
        """Return why a check failed, 0 if none did, and in which step; forget it."""
        reason, step = words.tolist()
        if reason:
            self._machine.clear(self._places["status"], 8 * STATUS_WORDS)
        return reason, step

    def enqueue(self, places: dict[str, int], which: range | None = None) -> None:
        """Start kernels and products of a step: every one, or those of some numbers."""
        for i in range(len(self.program.step.runs)) if which is None else which:
            self.start(i, places)

    def start(self, i: int, places: dict[str, int]) -> None:
        """Start the i-th kernel or product of a step."""
        machine, run = self._machine, self.program.step.runs[i]
        if isinstance(run, Launch):
            given = [places[name] for name in ("call", "status", *run.params)]
            for name, size in (clear for part in run.parts for clear in part.clears):
                machine.clear(places[name], size(self.sizes))
            machine.launch(self.program.kernels()[run.name], self._blocks[i], given)
            return
        for product in matrices(run, places, self.sizes):
            if product.k == 0:
                size = product.count * product.m * product.n
                machine.clear(product.out, size * dtypes.as_dtype(product.out_dtype).itemsize)
            elif product.m and product.n and product.count:
                machine.multiply(product)

    def ready(self) -> dict[str, int]:
        """Return where everything is in the call that the table describes, its numbers written."""
        program, slots = self.program, self.program.emitted
        program.renew(self._words, self.env(self.table))
        self._machine.upload(self._places["call"], self._words)
        return program.named(self.table[slots.first : slots.last].tolist()) | self._places

    # Replays

    def _replay(self, addresses: list[int]) -> Any:
        """Return a step's key, what starts it in turn, and what to copy to it and from it.

        A step that has come before is two graphs, if it could be captured: of what comes up to the
        last check, and of the rest.
        """
        program = self.program
        n = self._n_inputs
        moving = program.moving
        outputs = addresses[n:]
        direct = sorted(program.steady)
        held = [addresses[i] for i in range(n) if i not in moving]
        key = (tuple(held), tuple((k, outputs[k]) for k in direct))
        if key not in self._seen:
            while len(self._seen) >= CAPTURES_KEPT:
                self._seen.pop(next(iter(self._seen)))
            # Launched where the capture will have it: products are tuned for these addresses.
            return (key, *self._moved(addresses, direct))
        if self._seen[key] is None:
            starts, *moves = self._moved(addresses, direct)
            graphs = list(itertools.takewhile(bool, map(self._machine.capture, starts)))
            self._seen[key] = (graphs if len(graphs) == len(starts) else starts, *moves)
        return (key, *self._seen[key])

    def fixed(self) -> dict[str, int]:
        """Return where arguments and results are while a graph runs."""
        if self._fixed is None:
            n, program = self._n_inputs, self.program
            wanted = [(f"x{i}", self._bytes[i]) for i in sorted(program.moving)]
            wanted += [
                (f"y{k}", self._bytes[n + k]) for k in range(len(self._bytes) - n)
                if k not in program.updates
            ]  # fmt: skip
            before = self.bytes
            self._fixed = self._laid_out(wanted)
            self.bytes += before
        return self._fixed[1]  # type: ignore[no-any-return]

    def _moved(self, addresses: list[int], direct: Sequence[int]) -> Any:
        """Return what starts the step in buffers, and what to copy to it and from it."""
        program, n, fixed = self.program, self._n_inputs, self.fixed()
        moved_in = [(fixed[f"x{i}"], i) for i in sorted(program.moving)]
        moved_out = [
            (fixed[f"y{k}"], n + k) for k in range(len(addresses) - n)
            if k not in program.updates and k not in direct
        ]  # fmt: skip
        places = list(addresses)
        for at, i in (*moved_in, *moved_out):
            places[i] = at
        named = program.named(places) | self._places
        n_runs, checked = len(program.step.runs), program.step.checked
        parts = [range(checked), range(checked, n_runs)]
        starts = [functools.partial(self.enqueue, named, part) for part in parts if part]
        return starts, moved_in, moved_out

    # Many steps

    def run_steps(
        self, n: int, batch: int, order: Any, columns: Sequence[Column],
        results: Sequence[tuple[int, int, int]], words: Any, slots: Sequence[int],
    ) -> tuple[int, int]:  # fmt: skip
        """Run n steps over batches of the rows ``order``; return how many were done, the status.

        ``results`` names outputs: position, address of the first step's, bytes of one; row s of
        ``words`` has what the table's ``slots`` hold in step s.
        """
        with self._machine.lock, self._machine.scope():
            return self._run_steps(n, batch, order, columns, results, words, slots)

    def _run_steps(
        self, n: int, batch: int, order: Any, columns: Sequence[Any],
        results: Sequence[tuple[int, int, int]], words: Any, slots: Sequence[int],
    ) -> tuple[int, int]:  # fmt: skip
        program, machine = self.program, self._machine
        table = self.table.copy()
        rows = np.zeros((n, program.row), np.int64)
        for s in range(n):
            table[slots] = words[s]
            program.renew(self._words, self.env(table), s)
            rows[s] = self._words
        many = self._many(batch, [Column(*column) for column in columns], results)
        order = np.ascontiguousarray(order, np.int64)
        done = 0
        while done < n:
            count = STEPS_AT_ONCE if n - done >= STEPS_AT_ONCE else 1
            machine.upload(many.rows, rows[done : done + count])
            machine.upload(many.order, order[done * batch : (done + count) * batch])
            many.run(count)
            for (_, target, size), source in zip(results, many.results, strict=True):
                machine.copy(target + done * size, source, count * size)
            done += count
        status = machine.download(self._places["status"], STATUS_WORDS)
        reason, step = self._told(status)
        return (step, reason) if reason else (n, 0)

    def _many(
        self, batch: int, columns: Sequence[Column], results: Sequence[tuple[int, int, int]]
    ) -> _Many:
        program, slots = self.program, self.program.emitted
        addresses = self.table[slots.first : slots.last].tolist()
        held = tuple(addresses[i] for i in range(self._n_inputs) if i not in program.moving)
        held += tuple(addresses[self._n_inputs + k] for k in sorted(program.steady))
        key = ("many", batch, held, tuple(columns), tuple((k, size) for k, _, size in results))
        found = self._seen.get(key)
        if found is None:
            while len(self._seen) >= CAPTURES_KEPT:
                self._seen.pop(next(iter(self._seen)))
            found = self._seen[key] = _Many(self, addresses, batch, columns, results)
        return found  # type: ignore[no-any-return]

    def places_of_step(self, addresses: Sequence[int]) -> dict[str, int]:
        """Return where everything is in a step whose arguments and results are in buffers.

        What is steady, such as gradients, is where it is: the last step's is what the caller finds.
        """
        steady = {f"y{k}" for k in self.program.steady}
        buffers = {name: at for name, at in self.fixed().items() if name not in steady}
        return self.program.named(addresses) | self._places | buffers

    def gather(self, target: int, column: Column, order: int, n: int) -> None:
        """Start the copy of n rows, whose numbers are at ``order``."""
        width = next(w for w in (16, 8, 4, 1) if column.width % w == 0)
        blocks = max(1, -(-n * (column.width // width) // THREADS))
        gather = self.program.kernels()["gather"]
        given = [target, column.source, order, n, column.width]
        self._machine.launch(gather, blocks, given)


class _Many:
    """Steps on rows of the device, one after the other: graphs of one, and of several."""

    def __init__(
        self, setting: Setting, addresses: Sequence[int], batch: int, columns: Sequence[Column],
        results: Sequence[tuple[int, int, int]],
    ) -> None:  # fmt: skip
        self._setting, self._columns, self._batch = setting, columns, batch
        row = 8 * setting.program.row
        wanted = [("rows", STEPS_AT_ONCE * row), ("order", STEPS_AT_ONCE * batch * 8)]
        wanted += [(f"result{k}", STEPS_AT_ONCE * size) for k, _, size in results]
        self._memory, at = setting._laid_out(wanted)
        self.rows, self.order = at["rows"], at["order"]
        self.results = [at[f"result{k}"] for k, _, _ in results]
        self._outputs = [(k, size) for k, _, size in results]
        self._places = setting.places_of_step(addresses)
        self._graphs: dict[int, Any] = {}
        self._warm = False

    def run(self, count: int) -> None:
        """Start so many steps."""
        if not self._warm:
            self._enqueue(count)
            self._warm = True
            return
        if count not in self._graphs:
            self._graphs[count] = self._setting._machine.capture(lambda: self._enqueue(count))
        graph = self._graphs[count]
        if graph is None:
            self._enqueue(count)
        else:
            graph()

    def _enqueue(self, count: int) -> None:
        setting, places, row = self._setting, self._places, 8 * self._setting.program.row
        for s in range(count):
            for column in self._columns:
                target = places[f"x{column.index}"]
                setting.gather(target, column, self.order + 8 * s * self._batch, self._batch)
            setting.enqueue(places | {"call": self.rows + s * row})
            for (k, size), start in zip(self._outputs, self.results, strict=True):
                setting._machine.copy(start + s * size, places[f"y{k}"], size)


class CudaProgram:
    """A lowered graph on a GPU; ``updates`` maps outputs to the inputs that they replace.

    The inputs ``moving`` are arguments, other memory at each call: all that replace none, unless
    the caller says less. The outputs ``steady`` are mostly where they were in the call before.
    """

    def __init__(
        self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool], machine: Any
    ) -> None:
        graph = products(graph, get_matmul_precision(), machine)
        self.graph = passes.replaced_by_values(graph, updates)
        self.updates, self.kinds, self.machine = updates, kinds, machine
        self.step = emit(self.graph, updates, kinds)
        self.source = self.step.source
        self.emitted = Slots(sorted(kinds), len(graph.inputs), len(graph.outputs))
        self.arrays = machine.arrays
        self.moving = frozenset(range(len(graph.inputs))) - frozenset(updates.values())
        self.steady: frozenset[int] = frozenset()
        self.sized = [name for name in kinds if name[:1] == "B"]
        self.row = 1 + len(self.step.numbers)
        sized = frozenset(self.sized)
        self._varying = [
            (i, number) for i, number in enumerate(self.step.numbers, 1) if number.names - sized
        ]
        self._kernels: Any = None
        self._settings: dict[tuple[Any, ...], Setting] = {}
        self.lock = threading.Lock()
        renew_at_fork(self, "lock")

    def kernels(self) -> Any:
        """Return the compiled kernels by name."""
        if self._kernels is None:
            self._kernels = self.machine.load(self.source)
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
        sizes = [n(env) * width for _, n, width in self.step.buffers]
        total = sum(-(-max(n, 1) // ALIGNMENT) * ALIGNMENT for n in sizes)
        return {"kernels": len(self.step.runs), "buffer_bytes": total}

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


def _bytes_of(x: Any, env: Env) -> int:
    n = 1
    for size in resolve(tuple(x.shape), env):
        n *= size
    return n * int(x.dtype.itemsize)


def matrices(product: Product, places: dict[str, int], env: Env) -> list[Matrices]:
    """Return a product as calls that each go through matrices at even steps."""
    batch = [n(env) for n in product.batch]
    m, k, n = product.m(env), product.k(env), product.n(env)
    width, out_width = product.dtype.itemsize, product.eqn.out.dtype.itemsize
    strides = [_strides(f, batch, env) for f in (product.left, product.right)]
    # The last axes along which both factors move evenly are one axis of a call.
    even = len(batch)
    while even and all(_goes_on(s, batch, even) for s in strides):
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
            product.dtype.name, count, m, k, n,
            at[0], product.left.transposed, product.left.leading(env), left_step,
            at[1], product.right.transposed, product.right.leading(env), right_step,
            places[product.out] + out_width * number * count * m * n,
            product.eqn.out.dtype.name, product.compute, product.epilogue,
            places[product.bias] if product.bias else 0,
        ))  # fmt: skip
    return found


def _goes_on(strides: Sequence[int], batch: Sequence[int], axis: int) -> bool:
    """Return whether the axis before one may be part of the same even walk."""
    return axis == len(batch) or strides[axis - 1] == strides[axis] * batch[axis]


def _strides(factor: Factor, batch: Sequence[int], env: Env) -> list[int]:
    """Return by how many elements a factor moves along each axis of the batch."""
    sizes = [n(env) for n in factor.lead]
    step, found = factor.step(env), []
    for n in reversed(sizes):
        found.append(0 if n == 1 else step)
        step *= n
    return [0] * (len(batch) - len(found)) + found[::-1]
