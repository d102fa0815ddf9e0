"""What nnx costs beside the arithmetic: an eager op, a jitted call, an eager step, the import.

The reference is the same by hand in NumPy. The BLAS has one thread: products this small do not
gain from a second, and the figure is about overhead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from nnx.benchmarks import contestants
from nnx.benchmarks.case import Case, Variants, Work, nothing, on_device
from nnx.benchmarks.problems import Cell

ELEMENTS = 10
IMPORTS = {
    "numpy-by-hand": "numpy",
    "numpy": "numpy, nnx",
    "numba": "numpy, nnx, numba",
    "torch": "torch",
    "jax": "jax",
}
"""What each contestant imports: nnx with NumPy, and with Numba too."""
REFERENCE = "numpy-by-hand"


def _step(batch: int) -> Case:
    cell = Cell((784, 16, 16, 10), "relu", "cross_entropy", batch, "sgd")
    names = ("numpy", "numba", REFERENCE)
    return contestants.case("overhead", cell, names, REFERENCE, quick=batch == 1)._replace(
        group="training step", name=f"step of {cell.net}", threads=1
    )


CASES = (
    Case(
        "overhead", "one op", f"x + y, {ELEMENTS} elements", "add", ("numpy", "numba", REFERENCE),
        REFERENCE, work=ELEMENTS, quick=True,
    ),
    _step(32),
    _step(1),
    Case("overhead", "import", "import in a new process", "import", tuple(IMPORTS), REFERENCE,
         work=0, quick=True),
)  # fmt: skip


def _arrays() -> list[Any]:
    return [np.arange(ELEMENTS, dtype=np.float32), np.ones(ELEMENTS, np.float32)]


def _add(contestant: str) -> Work:
    if contestant != REFERENCE:
        return on_device(contestant, lambda x, y: x + y, _arrays())
    x, y = _arrays()
    return Work(lambda: x + y, lambda: [x + y])


def import_seconds(modules: str) -> float:
    """Return the seconds of an import in a new process, by that process's own clock.

    Bytecode is kept, as at any installation.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(result.stdout)


def _import(contestant: str) -> Work:
    modules = IMPORTS[contestant]
    import_seconds(modules)
    return Work(bool, nothing, seconds=lambda: import_seconds(modules))


def variants(case: Case, contestant: str) -> Variants:
    """Return an op, a step or an import by a contestant."""
    makers: dict[Any, Callable[[str], Work]] = {"add": _add, "import": _import}
    if case.problem in makers:
        return {contestant: lambda: makers[case.problem](contestant)}
    return contestants.variants(case, contestant)


def expected(case: Case) -> list[Any]:
    """Return the results in float64; none of an import."""
    if case.problem == "add":
        return [sum(a.astype(np.float64) for a in _arrays())]
    return [] if case.problem == "import" else contestants.expected(case)


def test_overhead(benchmark: Any, work: Any) -> None:
    """Time an op, a step or an import under pytest-benchmark; an import with its process."""
    work.reset()
    benchmark(work.seconds or work.run)
