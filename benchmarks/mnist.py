"""A whole program on full MNIST, timed from outside: import, reading, training, testing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nnx.benchmarks.harness import quartiles

PROGRAMS = {"nnx": "nnx.benchmarks.mnist_nnx", "torch": "nnx.benchmarks.mnist_torch"}
"""784-16-16-10 relu, Adam with 1e-3, batches of 32, 5 epochs with shuffling, test accuracy."""


def data_folder(given: Path | None) -> Path:
    """Return where the four IDX files lie: the given folder, NNX_DATA_DIR, or nnx's data cache."""
    import platformdirs

    root = given or os.environ.get("NNX_DATA_DIR")
    cache = platformdirs.user_cache_path("nnx", appauthor=False)
    places = [Path(root), Path(root) / "mnist"] if root else [cache / "mnist"]
    for place in places:
        if (place / "train-images-idx3-ubyte.gz").is_file():
            return place.resolve()
    raise SystemExit(
        f"MNIST's four .gz files are not in {places[0]}. Give --data-dir, or set NNX_DATA_DIR."
    )


def run(name: str, folder: Path) -> tuple[float, float]:
    """Return the seconds of one process, and the test accuracy that it printed."""
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", PROGRAMS[name]],
        env={**os.environ, "NNX_DATA_DIR": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    time_s = time.perf_counter() - start
    if result.returncode:
        raise SystemExit(f"{name} stopped:\n{result.stderr[-3000:]}")
    return time_s, json.loads(result.stdout)["accuracy"]


def measure(names: list[str], runs: int, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of each program; they take turns, after one run each that fills caches."""
    kept: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        run(name, folder)
    for _ in range(runs):
        for name in names:
            kept[name].append(run(name, folder))
    return [
        {
            "contestant": name,
            "runs": runs,
            "seconds": quartiles([time_s for time_s, _ in results]),
            "accuracy": quartiles([accuracy for _, accuracy in results]),
        }
        for name, results in kept.items()
    ]
