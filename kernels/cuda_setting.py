"""A step on a GPU for one set of sizes: its memory, its launches, and their replay.

A step is first launched kernel by kernel, which also loads and tunes them. When it comes again
with the same parameters it is captured as CUDA graphs, and from then on replayed: what changes
between calls lies in memory that does not move, numbers in a row of their own, arguments and
results in buffers that are copied to and from. Where those copies would take longer than launches,
nothing is captured. Many steps over rows on the device are one replay after the other, without a
look at the host.

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
- ``warp_turns`` is the most work of a product that is done as a loop (`nnx.kernels.cuda_short`);
- ``has_narrow_products`` tells whether TF32, bfloat16 and float16 products are faster there;
- ``fuses(epilogue, dtype, out_dtype, compute)`` tells whether products do what is meant by one;
- ``seconds(function)`` times what a function starts;
- ``scope()`` is the context in which its device is current, ``aside()`` one in which what is
  started waits for what was, and for nothing else; ``lock`` is held while a step is started: steps
  share streams, captures and the memory of products, also where the caller's stream is another
  than before, after ``take_turn()``;
- ``arrays`` makes arrays and tells where they are: see `nnx.places.HostArrays`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnx import dtypes
from nnx.kernels.cuda_matrices import matrices
from nnx.kernels.cuda_step import THREADS, Launch
from nnx.scalar import Env, resolve

if TYPE_CHECKING:
    from nnx.kernels.cuda_program import CudaProgram

ALIGNMENT = 256
CAPTURES_KEPT = 8
"""How many graphs are kept."""
MOST_COPIED_BYTES = 32 << 20
"""Of arguments and results to and from buffers: about 20 us of copies on a GPU with 3 TB/s."""
STEPS_AT_ONCE = 16
"""Steps in one graph, where the rows are on the device."""
STATUS_WORDS = 2
"""Why a check failed, 0 where none did; and in which step."""


class Column(NamedTuple):
    """An argument cut from rows on the device: where they are, the bytes of one, its input."""

    source: int
    width: int
    index: int


class Setting:
    """A step for one set of sizes: its table, and the memory between its kernels."""

    def __init__(self, program: CudaProgram, env: Env) -> None:
        self.program, self.emission = program, program.emission(env)
        step, machine, graph = self.emission.step, program.machine, program.graph
        slots = program.emitted
        self.table = np.zeros(slots.size, np.int64)
        self.numbers = self.table.view(np.float64)
        self.sizes = {name: env[name] for name in program.sized}
        self._bytes = [_bytes_of(x, env) for x in (*graph.inputs, *graph.outputs)]
        self._n_inputs = len(graph.inputs)
        wanted = [(name, n(env) * width) for name, n, width in step.buffers]
        wanted += [(f"tickets{i}", 4 * n(env)) for i, n in enumerate(step.tickets)]
        wanted += [("call", 8 * self.emission.row), ("status", 8 * STATUS_WORDS)]
        self.memory, self._places = self._laid_out(wanted)
        self._fixed: Any = None
        self._blocks = [
            sum(p.blocks(env) for p in run.parts) if isinstance(run, Launch) else 0
            for run in step.runs
        ]
        self._words, self._given = self.emission.numbers_of(env), b""
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
            self._machine.take_turn()
            return self._run()

    def _run(self) -> int:
        machine, slots = self._machine, self.program.emitted
        self._number()
        addresses = self.table[slots.first : slots.last].tolist()
        key, starts, moved_in, moved_out = self._replay(addresses)
        for target, i in moved_in:
            machine.copy(target, addresses[i], self._bytes[i])
        status = None
        for k, start in enumerate(starts):
            start()
            if k == 0 and self.emission.step.has_checks:
                # The host waits for the checks alone; the rest of the step goes on meanwhile.
                status = machine.mark(self._places["status"], STATUS_WORDS)
        for source, i in moved_out:
            machine.copy(addresses[i], source, self._bytes[i])
        if key is not None:  # only now: what failed halfway is not ready for a capture
            self._seen.setdefault(key, None)
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
        for i in range(len(self.emission.step.runs)) if which is None else which:
            self.start(i, places)

    def start(self, i: int, places: dict[str, int]) -> None:
        """Start the i-th kernel or product of a step."""
        machine, run = self._machine, self.emission.step.runs[i]
        if isinstance(run, Launch):
            given = [places[name] for name in ("call", "status", *run.params)]
            for name, size in (clear for part in run.parts for clear in part.clears):
                machine.clear(places[name], size(self.sizes))
            machine.launch(self.emission.kernels()[run.name], self._blocks[i], given)
            return
        for product in matrices(run, places, self.sizes):
            if product.k == 0:
                width = dtypes.as_dtype(product.out_dtype).itemsize
                machine.clear(product.out, product.count * product.m * product.n * width)
                if product.epilogue == "bgradb":
                    machine.clear(product.bias, product.n * width)
            elif product.m and product.n and product.count:
                machine.multiply(product)

    def ready(self) -> dict[str, int]:
        """Return where everything is in the call that the table describes, its numbers written."""
        program, slots = self.program, self.program.emitted
        self._number()
        return program.named(self.table[slots.first : slots.last].tolist()) | self._places

    def _number(self) -> None:
        """Give the GPU the numbers of the call that the table describes, where it has others."""
        self.emission.renew(self._words, self.env(self.table))
        words = self._words.tobytes()
        if words != self._given:
            self._machine.upload(self._places["call"], self._words)
            self._given = words

    # Replays

    def _replay(self, addresses: list[int]) -> Any:
        """Return a step's key, what starts it in turn, and what to copy to it and from it.

        A step that has come before is two graphs, if it could be captured: of what comes up to the
        last check, and of the rest. One without a key is never captured.
        """
        program = self.program
        if self._copied_bytes > MOST_COPIED_BYTES:
            return None, self._starts(program.named(addresses) | self._places), (), ()
        n = self._n_inputs
        moving = program.moving
        held = [addresses[i] for i in range(n) if i not in moving]
        key = (tuple(held), tuple(addresses[n + k] for k in sorted(program.steady)))
        if key not in self._seen:
            while len(self._seen) >= CAPTURES_KEPT:
                self._seen.pop(next(iter(self._seen)))
            # Launched where the capture will have it: products are tuned for these addresses.
            return (key, *self._moved(addresses))
        if self._seen[key] is None:
            starts, *moves = self._moved(addresses)
            graphs = list(itertools.takewhile(bool, map(self._machine.capture, starts)))
            self._seen[key] = (graphs if len(graphs) == len(starts) else starts, *moves)
        return (key, *self._seen[key])

    def fixed(self) -> dict[str, int]:
        """Return where arguments and results are while a graph runs."""
        if self._fixed is None:
            n, program = self._n_inputs, self.program
            wanted = [(f"x{i}", self._bytes[i]) for i in sorted(program.moving)]
            wanted += [(f"y{k}", self._bytes[n + k]) for k in self._results()]
            before = self.bytes
            self._fixed = self._laid_out(wanted)
            self.bytes += before
        return self._fixed[1]  # type: ignore[no-any-return]

    def _moved(self, addresses: list[int]) -> Any:
        """Return what starts the step in buffers, and what to copy to it and from it."""
        program, n, fixed = self.program, self._n_inputs, self.fixed()
        moved_in = [(fixed[f"x{i}"], i) for i in sorted(program.moving)]
        moved_out = [(fixed[f"y{k}"], n + k) for k in self._results()]
        places = list(addresses)
        for at, i in (*moved_in, *moved_out):
            places[i] = at
        return self._starts(program.named(places) | self._places), moved_in, moved_out

    def _starts(self, places: dict[str, int]) -> list[Callable[[], None]]:
        """Return what starts the step up to its last check, and what starts the rest."""
        step = self.emission.step
        parts = [range(step.checked), range(step.checked, len(step.runs))]
        return [functools.partial(self.enqueue, places, part) for part in parts if part]

    def _results(self) -> list[int]:
        """Return the outputs that are neither new values of inputs nor steady."""
        program = self.program
        elsewhere = {*program.updates, *program.steady}
        return [k for k in range(len(self._bytes) - self._n_inputs) if k not in elsewhere]

    @functools.cached_property
    def _copied_bytes(self) -> int:
        """The bytes of arguments and results that a replay copies."""
        results = [self._n_inputs + k for k in self._results()]
        return sum(self._bytes[i] for i in (*self.program.moving, *results))

    # Many steps

    def run_steps(
        self, n: int, batch: int, order: Any, columns: Sequence[Column],
        results: Sequence[tuple[int, int, int]], words: Any, slots: Sequence[int],
    ) -> tuple[int, int]:  # fmt: skip
        """Run n steps over batches of the rows ``order``; return how many were done, the status.

        ``results`` names outputs: position, address of the first step's, bytes of one; row s of
        ``words`` has what the table's ``slots`` hold in step s.
        """
        machine = self._machine
        with machine.lock, machine.scope():
            machine.take_turn()
            with machine.aside():
                return self._run_steps(n, batch, order, columns, results, words, slots)

    def _run_steps(
        self, n: int, batch: int, order: Any, columns: Sequence[Any],
        results: Sequence[tuple[int, int, int]], words: Any, slots: Sequence[int],
    ) -> tuple[int, int]:  # fmt: skip
        machine, table = self._machine, self.table.copy()
        rows = np.zeros((n, self.emission.row), np.int64)
        for s in range(n):
            table[slots] = words[s]
            self.emission.renew(self._words, self.env(table), s)
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
        return self.program.named(addresses) | self._places | self.fixed()

    def gather(self, target: int, column: Column, order: int, n: int) -> None:
        """Start the copy of n rows, whose numbers are at ``order``."""
        width = next(w for w in (16, 8, 4, 1) if column.width % w == 0)
        blocks = max(1, -(-n * (column.width // width) // THREADS))
        gather = self.emission.kernels()["gather"]
        given = [target, column.source, order, n, column.width]
        self._machine.launch(gather, blocks, given)


class _Many:
    """Steps on rows of the device, one after the other: graphs of one, and of several."""

    def __init__(
        self, setting: Setting, addresses: Sequence[int], batch: int, columns: Sequence[Column],
        results: Sequence[tuple[int, int, int]],
    ) -> None:  # fmt: skip
        self._setting, self._columns, self._batch = setting, columns, batch
        row = 8 * setting.emission.row
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
        setting, places, row = self._setting, self._places, 8 * self._setting.emission.row
        for s in range(count):
            for column in self._columns:
                target = places[f"x{column.index}"]
                setting.gather(target, column, self.order + 8 * s * self._batch, self._batch)
            setting.enqueue(places | {"call": self.rows + s * row})
            for (k, size), start in zip(self._outputs, self.results, strict=True):
                setting._machine.copy(start + s * size, places[f"y{k}"], size)


def _bytes_of(x: Any, env: Env) -> int:
    n = 1
    for size in resolve(tuple(x.shape), env):
        n *= size
    return n * int(x.dtype.itemsize)
