"""What saving a training costs beside the disk alone: ``python -m benchmarks.checkpoint [DIR]``.

A checkpoint of 50 MB (weights and Adam's two slots) is saved in turns with a plain write of the
same bytes, fsync and rename, and with their SHA-256. ``--check`` fails above 0.15 s per 50 MB.
DIR is where to write, on the disk that is asked about.

On 2 idle cores (ext4) 50 MB took 0.076 s, of which 0.038 s were the plain write and 0.028 s
the hash; with the cores twice overloaded 0.14 s, of which 0.060 s were the plain write.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnx.benchmarks import machine
from nnx.benchmarks.harness import quartiles

UNITS, LIMIT_S, SIZE = 2048, 0.15, 50e6


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain_write(path: Path, content: bytes) -> None:
    """Write a file through to the disk, and rename it over the one before."""
    with open(f"{path}.new", "wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the size of a checkpoint and the seconds of each part, one a round."""
    import numpy as np

    from nnx import nn, optim
    from nnx.callbacks import LambdaCallback

    path = folder / "run.safetensors"
    times: dict[str, list[float]] = {"save": [], "plain write": [], "sha256": [], "read": []}

    def run(epoch: int, logs: Any) -> None:
        from nnx.resume import read

        training = callback.training
        training.save(path)
        content = path.read_bytes()
        for _ in range(rounds):
            times["plain write"].append(timed(lambda: plain_write(folder / "plain", content)))
            times["save"].append(timed(lambda: training.save(path)))
            times["sha256"].append(timed(lambda: hashlib.sha256(content).digest()))
            times["read"].append(timed(lambda: read(path)))

    callback = LambdaCallback(on_epoch_end=run)
    model = nn.Sequential(nn.Dense(UNITS, in_features=UNITS))
    model.compile(optim.Adam(1e-3), "mse", device="numpy")
    x = np.ones((4, UNITS), np.float32)
    model.fit(x, x, callbacks=[callback], verbose=0)
    return {"size_bytes": path.stat().st_size, "seconds": times}


def main() -> int:
    """Measure, print, and say whether it is within the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="where to write, a folder for temporary files")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true", help="fail above 0.15 s per 50 MB")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.rounds)
    per_50mb = SIZE / found["size_bytes"]
    rows = {name: [per_50mb * s for s in seconds] for name, seconds in found["seconds"].items()}
    rows["save beyond plain write"] = [
        a - b for a, b in zip(rows["save"], rows["plain write"], strict=True)
    ]
    if options.json:
        figures = {name: quartiles(row) for name, row in rows.items()}
        print(json.dumps({"machine": machine.describe(), "seconds_per_50_mb": figures}, indent=2))
    else:
        print(f"{found['size_bytes'] / 1e6:.1f} MB, {options.rounds} rounds; seconds per 50 MB")
        for name, row in rows.items():
            low, middle, high = statistics.quantiles(row, n=4)
            print(f"{name:24} {middle:.3f}  ({low:.3f} to {high:.3f})")
    late = options.check and statistics.median(rows["save"]) > LIMIT_S
    if late:
        print(f"Saving takes more than {LIMIT_S} s per 50 MB.", file=sys.stderr)
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
