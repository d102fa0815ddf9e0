"""A compiled graph as an object: its text, its native code, and its memory for each batch size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnx import passes
from nnx.graph import Graph, largest
from nnx.kernels import blas, cache
from nnx.kernels.emit_numba import Emitted, emit
from nnx.kernels.products import short_products_as_sums
from nnx.locks import renew_at_fork
from nnx.places import HOST
from nnx.scalar import Scalar, evaluator, text_of

ALIGNMENT = 64
SIZES_KEPT = 16
"""For how many batch sizes the work memory is kept."""


class Setting:
    """The table and the work memory of one set of sizes."""

    def __init__(self, emitted: Emitted, env: dict[str, Any], run: Any) -> None:
        self.table = np.zeros(emitted.size, np.int64)
        self.numbers = self.table.view(np.float64)
        self.table[0] = self.table.ctypes.data
        self.threads = 0
        offsets, total = planned(emitted, env)
        self.work = np.empty(total + ALIGNMENT, np.uint8)
        start = -self.work.ctypes.data % ALIGNMENT + self.work.ctypes.data
        for buffer, offset in zip(emitted.buffers, offsets, strict=True):
            self.table[buffer.slot] = start + offset
        self.run: Callable[[], int] = run(self.table.ctypes.data)


def planned(emitted: Emitted, env: dict[str, Any]) -> tuple[list[int], int]:
    """Return where each buffer stands in one work memory, and its size in bytes."""
    offsets, total = [], 0
    for buffer in emitted.buffers:
        n = buffer.size
        n = evaluator(text_of(n))(env) if isinstance(n, Scalar) else n
        offsets.append(total)
        total += -(-max(n, 1) * buffer.dtype.itemsize // ALIGNMENT) * ALIGNMENT
    return offsets, total


class Program:
    """A lowered graph as native code.

    ``updates`` maps positions of outputs to positions of the inputs whose memory they may take.
    """

    def __init__(self, graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> None:
        self.graph = passes.replaced_by_values(short_products_as_sums(graph), updates)
        self.updates, self.kinds = updates, kinds
        self.arrays = HOST
        self.emitted = emit(self.graph, updates, kinds)
        self.source = self.emitted.source
        self.native: Any = None
        self._settings: dict[tuple[Any, ...], Setting] = {}
        self.lock = threading.Lock()
        renew_at_fork(self, "lock")
        self._sizes = [name for name in kinds if any(
            name in text_of(b.size) for b in self.emitted.buffers if isinstance(b.size, Scalar)
        )]  # fmt: skip

    def setting(self, env: dict[str, Any]) -> Setting:
        """Return the memory for these sizes, made at their first call."""
        key = tuple(env[name] for name in self._sizes)
        found = self._settings.get(key)
        if found is None:
            if self.native is None:
                self.native = cache.load(self.source, blas.symbols())
            if len(self._settings) >= SIZES_KEPT:
                self._settings.pop(next(iter(self._settings)))
            found = self._settings[key] = Setting(self.emitted, env, self.native.bind)
        return found

    def statistics(self, env: dict[str, Any]) -> dict[str, int]:
        """Return how many kernels there are, and the bytes of memory between them."""
        return {
            "kernels": len(self.emitted.kernels),
            "buffer_bytes": planned(self.emitted, env)[1],
        }

    def largest(self, env: dict[str, Any]) -> str:
        """Return in words which result takes the most memory; "" where none is kept."""
        return largest(self.emitted.stored, env)

    def run(self, arrays: Sequence[Any], env: dict[str, Any], out: Sequence[Any]) -> int:
        """Run on contiguous arrays, into the arrays of ``out``; return the status.

        An output that replaces an input is written over that input.
        """
        places = [array.__array_interface__["data"][0] for array in (*arrays, *out)]
        return self.run_at(np.array(places, np.int64), env)

    def run_at(self, addresses: Any, env: dict[str, Any]) -> int:
        """Run on the memory at these addresses: of the inputs, then of the outputs."""
        emitted = self.emitted
        with self.lock:
            setting = self.setting(env)
            self.fill(setting, env)
            setting.table[emitted.first : emitted.last] = addresses
            return setting.run()

    def fill(self, setting: Setting, env: dict[str, Any]) -> None:
        """Write the scalars of a call into its table."""
        for name, slot in self.emitted.scalars.items():
            value = env[name]
            if self.kinds[name]:
                setting.table[slot] = value if value < 2**63 else value - 2**64
            else:
                setting.numbers[slot] = value
        if self.emitted.threads and setting.threads != (limit := blas.threads()):
            setting.threads = setting.table[self.emitted.threads] = limit
