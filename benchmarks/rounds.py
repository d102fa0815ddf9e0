"""Rounds: contestants in processes of their own take turns at blocks of steps.

In one process the thread pools of several libraries disturb one another, for their threads spin
for a while after each call. Here the others sleep while one runs, and the turn passes only after
a pause in which the last one's threads fall asleep.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import problems
from benchmarks.by_hand import Trainer
from benchmarks.problems import Cell
from benchmarks.worker import CHECKED_STEPS

ROOT = Path(__file__).parents[1]
PAUSE_S = 0.15
"""OpenBLAS's threads spin for 2^28 ticks after a call, measured as 105 ms at 2.6 GHz."""
LOOK_S = 0.05
QUIET_SHARE = 0.15
"""Where others keep more than this share of the cores busy, steps of several threads stall."""
AGREEMENT = 1e-3


class Contestant:
    """A worker process, which has built its contestant and waits for its turns."""

    def __init__(self, name: str, cell: Cell) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, cell.name],
            cwd=ROOT, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        try:
            self.report: dict[str, Any] = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"{self.name} stopped:\n{self._errors.read()[-3000:]}")
        return json.loads(line)

    def block_us(self) -> float:
        """Return the microseconds a step in one block, run now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return 1e6 * self._read() / self.report["steps"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def check_losses(contestant: Contestant, cell: Cell) -> None:
    """Stop unless each variant's first losses are those of the step by hand in float64."""
    problem = problems.make(cell)
    exact = problem._replace(
        x=problem.x.astype(np.float64),
        y=problem.y if cell.loss == "cross_entropy" else problem.y.astype(np.float64),
        weights=[w.astype(np.float64) for w in problem.weights],
        biases=[b.astype(np.float64) for b in problem.biases],
    )
    trainer = Trainer(cell, exact)
    expected = [trainer.step() for _ in range(CHECKED_STEPS)]
    for setting, report in contestant.report["variants"].items():
        losses = report.pop("losses")
        if losses[0] is None:  # the floor, which has none
            continue
        if not np.allclose(losses, expected, rtol=AGREEMENT, atol=0):
            raise SystemExit(
                f"{contestant.name} ({setting}) computes something else at {cell.name}: losses "
                f"{losses} of the first steps, expected {expected}."
            )


def busy_share(time_s: float) -> float:
    """Return the share of all cores that is busy while this process sleeps; 0 but on Linux."""

    def ticks() -> tuple[int, int]:
        line = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
        counts = [int(field) for field in line.split()[1:9]]
        return sum(counts) - counts[3] - counts[4], sum(counts)

    if not Path("/proc/stat").exists():
        time.sleep(time_s)
        return 0.0
    busy, total = ticks()
    time.sleep(time_s)
    busy_now, total_now = ticks()
    return (busy_now - busy) / max(total_now - total, 1)


def wait_for_quiet(deadline: float) -> bool:
    """Let the last contestant's threads fall asleep, and others finish; return whether all did."""
    time.sleep(PAUSE_S)
    while busy_share(LOOK_S) > QUIET_SHARE:
        if time.monotonic() > deadline:
            return False
    return True


def quartiles(values: list[float]) -> dict[str, Any]:
    """Return the median and the quartiles of figures."""
    if len(values) < 2:
        return {"median": values[0], "quartiles": [values[0], values[0]]}
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "quartiles": [low, high]}


def measure(cell: Cell, names: list[str], rounds: int, wait_s: float) -> dict[str, Any]:
    """Return the figures of a cell: of each contestant its microseconds and its ratio to nnx.

    Turns wait for a quiet machine, up to `wait_s` in all; those that began without are counted.
    """
    running: list[Contestant] = []
    times: dict[str, list[float]] = {name: [] for name in names}
    busy_turns = 0
    try:
        for name in names:
            running.append(Contestant(name, cell))
            check_losses(running[-1], cell)
        for i in range(rounds):
            start = i % len(running)
            for contestant in running[start:] + running[:start]:
                before = time.monotonic()
                busy_turns += not wait_for_quiet(before + wait_s)
                wait_s -= max(time.monotonic() - before - PAUSE_S - LOOK_S, 0)
                times[contestant.name].append(contestant.block_us())
        found = {c.name: c.report | {"us": summary(times[c.name])} for c in running}
    finally:
        for contestant in running:
            contestant.close()
    if "nnx" in times:
        for name in names:
            pairs = zip(times[name], times["nnx"], strict=True)
            found[name]["over_nnx"] = quartiles([theirs / ours for theirs, ours in pairs])
    turns = {"turns": rounds * len(names), "busy_turns": busy_turns}
    return {"name": cell.name, **cell._asdict(), **turns, "contestants": found}


def summary(times: list[float]) -> dict[str, Any]:
    """Return the median, the quartiles and the best of times."""
    return quartiles(times) | {"best": min(times)}
