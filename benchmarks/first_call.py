"""The first call of a compiled 784-16-16-10 step in a fresh process, with and without its cache.

    python -m benchmarks.first_call CONTESTANT      one process: prints the seconds

The clock starts when the libraries are imported and the model and its data are made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import contestants
from benchmarks.problems import CELLS
from benchmarks.rounds import ROOT, quartiles

CELL = CELLS["784-16-16-10/32/sgd"]
LIBRARIES = {"nnx": "numba", "torch-compile": "torch", "jax": "jax"}
"""The contestants that compile, and what each imports before the clock starts."""


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


def seconds(name: str, cache: Path) -> float:
    """Return the seconds of a contestant's first call in a process started now."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_call", name],
        cwd=ROOT, env=environment(cache), capture_output=True, text=True,
    )  # fmt: skip
    if result.returncode:
        raise SystemExit(f"{name} stopped:\n{result.stderr[-3000:]}")
    return float(result.stdout.split()[-1])


def measure(names: list[str], runs: int) -> list[dict[str, Any]]:
    """Return the figures of each contestant, cold and warm; the contestants take turns."""
    times: dict[tuple[str, str], list[float]] = {
        (n, c): [] for n in names for c in ("cold", "warm")
    }
    with tempfile.TemporaryDirectory() as kept:
        for name in names:
            seconds(name, Path(kept))
        for _ in range(runs):
            for name in names:
                times[name, "warm"].append(seconds(name, Path(kept)))
                with tempfile.TemporaryDirectory() as empty:
                    times[name, "cold"].append(seconds(name, Path(empty)))
    return [
        {"contestant": name, "cache": cache, "runs": runs, "seconds": quartiles(values)}
        for (name, cache), values in times.items()
    ]


def main(name: str) -> None:
    """Print the seconds of the first call in this process."""
    __import__(LIBRARIES[name])
    variants = contestants.TABLE[name](CELL)
    variant = next(iter(variants.values()))()
    start = time.perf_counter()
    variant.step()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
