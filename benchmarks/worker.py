"""One contestant in a process of its own: it runs a block of steps when it is told to.

    python -m benchmarks.worker CONTESTANT CELL

It prints one line of JSON when it is ready, and one for each line that it reads. `rounds` is the
other end of the pipes.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import sys
import time
from typing import Any

from benchmarks import contestants
from benchmarks.contestants import Variant
from benchmarks.problems import CELLS

CHECKED_STEPS = 10
BLOCK_S = 0.01
"""A block of steps takes about this long; before it, half as many are run and not timed."""
TRIAL_BLOCKS = 7


def block_s(variant: Variant, steps: int) -> float:
    """Return the seconds that a number of steps take, from the first weights on.

    Each block is the same computation: long training would end in denormal numbers, which are slow.
    """
    step = variant.step
    variant.reset()
    gc.collect()
    gc.disable()
    for _ in range(max(steps // 2, 1)):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    time_s = time.perf_counter() - start
    gc.enable()
    return time_s


def steps_in_block(variant: Variant) -> int:
    """Return the number of steps that takes BLOCK_S, by the best of a few blocks."""
    steps = 1
    while (time_s := min(block_s(variant, steps) for _ in range(3))) < BLOCK_S / 2:
        steps *= 2
    return max(math.ceil(steps * BLOCK_S / time_s), 2)


def prepared(contestant: str, cell_name: str) -> tuple[Variant, dict[str, Any]]:
    """Return the fastest variant of a contestant, and what is to be reported of all."""
    variants, reports = {}, {}
    for name, make in contestants.TABLE[contestant](CELLS[cell_name]).items():
        variant = make()
        start = time.perf_counter()
        losses = [variant.step()]
        first_call_s = time.perf_counter() - start
        losses += [variant.step() for _ in range(CHECKED_STEPS - 1)]
        variants[name] = variant
        reports[name] = {"first_call_s": first_call_s, "losses": losses}
    gc.collect()
    gc.freeze()
    steps = {name: steps_in_block(variant) for name, variant in variants.items()}
    trials: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(TRIAL_BLOCKS if len(variants) > 1 else 1):
        for name, variant in variants.items():
            trials[name].append(block_s(variant, steps[name]) / steps[name])
    for name, times in trials.items():
        reports[name]["trial_us"] = 1e6 * statistics.median(times)
    best = min(reports, key=lambda name: reports[name]["trial_us"])
    return variants[best], {"setting": best, "steps": steps[best], "variants": reports}


def main(contestant: str, cell_name: str) -> None:
    """Get ready, say so, and time one block for each line that is read."""
    # What a library prints goes to stderr: stdout is the pipe.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    variant, report = prepared(contestant, cell_name)
    print(json.dumps(report), file=answers)
    for _ in sys.stdin:
        time_s = block_s(variant, report["steps"])
        print(json.dumps(time_s), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
