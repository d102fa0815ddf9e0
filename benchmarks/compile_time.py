"""The first call of a compiled training step in a new process, with and without its cache.

    python -m nnx.benchmarks.compile_time CONTESTANT CELL      one process: prints the seconds

The clock starts when the libraries are imported and the model and its data are made.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from nnx.benchmarks import contestants
from nnx.benchmarks.case import Case, Variants, Work, nothing
from nnx.benchmarks.problems import CELLS

IMPORTED = {"numba": "numba", "torch-compile": "torch", "jax": "jax"}
"""The contestants that compile, and what each imports before the clock starts."""


class Problem(NamedTuple):
    """The cell of a step, and whether its compiled code is on the disk."""

    cell: str
    warm: bool


CASES = tuple(
    Case(
        "compile", "first call, cached" if warm else "first call", f"{cell}, {cache}",
        Problem(cell, warm), tuple(IMPORTED), "numba", work=0, quick=cell.startswith("784-16"),
    )
    for cell in ("784-16-16-10/32/sgd", "784-512-512-10/128/adam")
    for warm, cache in ((False, "cold"), (True, "warm"))
)  # fmt: skip


def environment(cache: Path) -> dict[str, str]:
    """Return the environment in which each library keeps its compiled code in a directory.

    JAX keeps only slow compilations unless told otherwise.
    """
    return {
        **os.environ,
        "NNX_CACHE_DIR": str(cache / "nnx"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def first_call_s(contestant: str, cell: str, cache: Path) -> float:
    """Return the seconds of a contestant's first call in a process started now."""
    result = subprocess.run(
        [sys.executable, "-m", "nnx.benchmarks.compile_time", contestant, cell],
        env=environment(cache), capture_output=True, text=True,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{contestant} stopped: {result.stderr[-300:]}")
    return float(result.stdout.split()[-1])


def _work(contestant: str, problem: Problem) -> Work:
    kept = Path(tempfile.mkdtemp(prefix="nnx-bench-"))
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    if problem.warm:
        first_call_s(contestant, problem.cell, kept)

    def seconds() -> float:
        if problem.warm:
            return first_call_s(contestant, problem.cell, kept)
        with tempfile.TemporaryDirectory(prefix="nnx-bench-") as empty:
            return first_call_s(contestant, problem.cell, Path(empty))

    return Work(bool, nothing, seconds=seconds)


def variants(case: Case, contestant: str) -> Variants:
    """Return the first call by a contestant."""
    return {contestant: lambda: _work(contestant, case.problem)}


def expected(case: Case) -> list[Any]:
    """Return no results: the steps are checked where they are timed, in `train`."""
    return []


def test_first_call(benchmark: Any, work: Any) -> None:
    """Time new processes under pytest-benchmark: imports and data as well as the first call."""
    benchmark.pedantic(work.seconds, rounds=3)


def main(contestant: str, cell: str) -> None:
    """Print the seconds of the first call in this process."""
    __import__(IMPORTED[contestant])
    case = contestants.case("compile", CELLS[cell], (contestant,), contestant)
    work = next(iter(contestants.variants(case, contestant).values()))()
    start = time.perf_counter()
    work.run()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
