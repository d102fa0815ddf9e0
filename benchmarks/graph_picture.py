"""What drawing the graph of a 20-layer network costs: ``python -m benchmarks.graph_picture``.

`nnx graph` is run as a command, each time in a new process, for each format in turns: the start of
Python and the reading of the network are in it. ``--check`` fails where a median is above 2 s.

On 2 cores (AMD EPYC, Zen 4) that others used too, seconds of the processor: svg 0.77, png 1.46,
pdf 1.92 (before pieces were drawn without artists, png 2.7).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nnx.benchmarks import machine
from nnx.benchmarks.harness import quartiles

LAYERS, UNITS, LIMIT_S = 20, 32, 2.0
FORMATS = ("svg", "png", "pdf")


def nnx(folder: Path, *words: str) -> tuple[float, float]:
    """Run a command of nnx; return the seconds that passed, and those of the processor."""
    code = f"import sys; from nnx.cli import main; sys.exit(main({list(words)!r}))"
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    passed, after = time.perf_counter() - start, os.times()
    children = after.children_user + after.children_system
    return passed, children - before.children_user - before.children_system


def measure(folder: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each round by format, the first of all left out: it fills caches."""
    hidden = ",".join([str(UNITS)] * (LAYERS - 1))
    nnx(folder, "train", "digits", "--epochs", "1", "--hidden", hidden, "--out", "run")
    found: dict[str, list[tuple[float, float]]] = {format: [] for format in FORMATS}
    for _ in range(rounds + 1):
        for format, times in found.items():
            times.append(nnx(folder, "graph", "run", "--device", "numpy", "-o", f"g.{format}"))
    return {format: times[1:] for format, times in found.items()}


def main() -> int:
    """Measure, print, and say whether it is within the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--check", action="store_true", help="fail where a median is above 2 s")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rounds)
    rows = {
        f"{format}, {what}": [times[i] for times in rounds]
        for format, rounds in found.items()
        for i, what in enumerate(("passed", "processor"))
    }
    if options.json:
        figures = {name: quartiles(row) for name, row in rows.items()}
        print(json.dumps({"machine": machine.describe(), "seconds": figures}, indent=2))
    else:
        print(f"{LAYERS} layers, {options.rounds} rounds; seconds of `nnx graph` as a whole")
        for name, row in rows.items():
            low, middle, high = statistics.quantiles(row, n=4)
            print(f"{name:16} {middle:.2f}  ({low:.2f} to {high:.2f})")
    medians = {format: statistics.median(rows[f"{format}, passed"]) for format in FORMATS}
    late = [format for format in FORMATS if options.check and medians[format] > LIMIT_S]
    if late:
        print(f"nnx graph takes more than {LIMIT_S} s as {', '.join(late)}.", file=sys.stderr)
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
