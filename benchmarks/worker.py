"""One contestant in a process of its own: it gets a case ready, and times it, when it is told to.

    python -m nnx.benchmarks.worker CONTESTANT

It reads commands and prints an answer to each, as lines of JSON; `harness` is the other end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import statistics
import sys
import time
from typing import Any, NamedTuple

from nnx.benchmarks.case import Case, UnavailableError, Work, sampled

TRIAL_BLOCKS = 7
SLOW_S = 0.1
"""A call that takes so long needs no warm-up call before each block."""

Answer = dict[str, Any]


class Block(NamedTuple):
    """The seconds of a number of calls, those that their threads computed, and the device's own."""

    time_s: float
    cpu_s: float
    device_s: float | None = None


def block(work: Work, calls: int, slow: bool) -> Block:
    """Return the seconds that a number of calls take.

    Each block is the same computation, from a fresh start: long training would end in denormal
    numbers, which are slow.
    Half as many calls go before, for the process comes from sleep.
    """
    if work.seconds is not None:
        return Block(sum(work.seconds() for _ in range(calls)), 0.0)
    run = work.run
    work.reset()
    gc.collect()
    gc.disable()
    for _ in range(0 if slow else max(calls // 2, 1)):
        run()
    read = work.clock() if work.clock else lambda: None
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(calls):
        run()
    device_s = read()
    time_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    gc.enable()
    return Block(time_s, cpu_s, device_s)


def block_s(work: Work, calls: int, slow: bool) -> float:
    """Return the seconds of a `block`."""
    return block(work, calls, slow).time_s


class Ready:
    """A case that is ready: its variants, then the fastest of them and its calls a block."""

    def __init__(self, case: Case, variants: dict[str, Work]) -> None:
        self.case, self.variants = case, variants
        self.work: Work = next(iter(variants.values()))
        self.calls, self.slow = 1, False


def opened(module: str, name: str, contestant: str, values: str) -> tuple[Ready, Answer]:
    """Make a case; run each variant once, and once more for its results, kept in a .npz file.

    A variant that fails is left out, with its reason, while there is another.
    """
    import numpy as np

    suite = importlib.import_module(module)
    case = next(case for case in suite.CASES if case.name == name)
    works, reports, kept = {}, {}, {}
    left_out: dict[str, str] = {}
    chosen = suite.variants(case, contestant)
    for setting, make in chosen.items():
        try:
            work = make()
            first_s = None
            if work.seconds is None:
                start = time.perf_counter()
                work.run()
                first_s = time.perf_counter() - start
            results = work.values()
        except UnavailableError:
            raise
        except Exception as error:
            if len(left_out) + 1 == len(chosen):
                raise
            left_out[setting] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
            continue
        works[setting] = work
        reports[setting] = {"first_call_s": first_s}
        for i, array in enumerate(results):
            kept[f"{i}/{setting}"] = sampled(array)
    np.savez(values, **kept)
    return Ready(case, works), {"variants": reports, "left_out": left_out}


def calls_in_block(work: Work, length_s: float) -> tuple[int, bool]:
    """Return how many calls take a block's length, by the best of a few; and if each is slow."""
    first = block_s(work, 1, slow=True)
    if work.seconds is not None or first >= max(length_s, SLOW_S):
        return 1, True
    calls = 1
    while (time_s := min(block_s(work, calls, False) for _ in range(3))) < length_s / 2:
        calls *= 2
    return max(math.ceil(calls * length_s / time_s), 2), False


def calibrated(ready: Ready, length_s: float) -> Answer:
    """Choose the fastest variant, by the median of a few blocks each."""
    gc.collect()
    gc.freeze()
    sizes = {name: calls_in_block(work, length_s) for name, work in ready.variants.items()}
    best, trials = next(iter(sizes)), {}
    if len(sizes) > 1:
        times: dict[str, list[float]] = {name: [] for name in sizes}
        for _ in range(TRIAL_BLOCKS):
            for name, (calls, slow) in sizes.items():
                times[name].append(block_s(ready.variants[name], calls, slow) / calls)
        trials = {
            name: 1e6 * statistics.median(found) / ready.variants[name].units
            for name, found in times.items()
        }
        best = min(trials, key=lambda name: trials[name])
    ready.work = ready.variants[best]
    ready.calls, ready.slow = sizes[best]
    stats: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # a figure for the report, which can do without
        stats = ready.work.stats()
    calls = ready.calls * ready.work.units
    return {"setting": best, "calls": calls, "trial_us": trials, "stats": stats}


def timed(ready: Ready) -> Answer:
    """Return the seconds of one block."""
    return block(ready.work, ready.calls, ready.slow)._asdict()


def _limited(threads: int | None) -> contextlib.AbstractContextManager[Any]:
    if threads is None:
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(threads)


def main(contestant: str) -> None:
    """Answer commands until there are no more."""
    # What a library prints goes to stderr: stdout is the pipe.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ready: Ready | None = None
    for line in sys.stdin:
        command = json.loads(line)
        answer: Answer
        if command["do"] == "open":
            ready = None
            gc.unfreeze()
            try:
                ready, answer = opened(
                    command["module"], command["case"], contestant, command["values"]
                )
            except UnavailableError as error:
                answer = {"unavailable": str(error)}
        else:
            assert ready is not None
            with _limited(ready.case.threads):
                answer = (
                    calibrated(ready, command["length_s"])
                    if command["do"] == "calibrate"
                    else timed(ready)
                )
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
