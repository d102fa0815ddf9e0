"""NumPy arrays with compiled steps: eager ops are NumPy's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata, util
from typing import Any

from nnx.backends.numpy_backend import NumpyBackend, host_memory_bytes
from nnx.backends.protocol import Hardware, Unavailable

SHUFFLED_BY_NUMPY = 2048
"""Fewer rows are shuffled by NumPy."""


class NumbaBackend(NumpyBackend):
    """The CPU with Numba at hand; Numba itself is imported when something is compiled."""

    name = "numba"

    def devices(self) -> Sequence[Hardware]:
        """Return the CPU. Raises: Unavailable where Numba is not installed."""
        if util.find_spec("numba") is None:
            raise Unavailable(
                "Numba is not installed. Install it: python -m pip install numba; or use 'numpy'."
            )
        version = metadata.version("numba")
        return (Hardware(f"Numba {version} on the CPU", host_memory_bytes()),)

    def compile(self, graph: Any, updates: dict[int, int], kinds: dict[str, bool]) -> Any:
        """Return a graph as one native function."""
        from nnx.kernels.program import Program

        return Program(graph, updates, kinds)

    def permutation(self, generator: Any, n: int) -> Any:
        """Return the order of n shuffled rows; by native code where that is worth its loading."""
        if n < SHUFFLED_BY_NUMPY:
            return super().permutation(generator, n)
        from nnx.kernels import shuffle

        return shuffle.permutation(generator, n)


BACKEND = NumbaBackend()
