"""A suite of made-up contestants, for the tests of the harness; its workers find it by its name."""

import os
import sys
import time
from pathlib import Path

import numpy as np

from nnx.benchmarks.case import Case, UnavailableError, Work

UNIT_S = 0.002
UNITS = 4
NAMES = ("plain", "twice", "wrong", "nan", "empty", "crash", "late", "fails", "absent", "loops",
         "queued", "halves")  # fmt: skip


def _case(name, work=0):
    return Case("fakes", "all", name, name, NAMES, "plain", work=work, quick=True)


CASES = (_case("first"), _case("second"), _case("huge", work=10**12))


class Clock:
    """A time that goes on only where work is done, so that figures do not depend on the machine."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.now


CLOCK = Clock()


def _spend(time_s):
    """Let time pass: made up in a worker that has this clock, else the real one."""
    if os.environ.get("BENCH_FAKES_CLOCK") == "real":
        end = time.perf_counter() + time_s
        while time.perf_counter() < end:
            pass
    else:
        CLOCK.now += time_s


def _noted(text):
    if path := os.environ.get("BENCH_FAKES_LOG"):
        with Path(path).open("a") as file:
            file.write(text + "\n")


def variants(case, contestant):
    if os.environ.get("BENCH_FAKES_CLOCK") != "real" and hasattr(sys.modules["__main__"], "timed"):
        sys.modules["__main__"].time = CLOCK  # that of the worker
    values = {"wrong": [1.0, 2.5], "nan": [1.0, np.nan], "empty": None}.get(contestant, [1.0, 2.0])

    def run():
        _noted(f"run {contestant}")
        if contestant == "crash" and case.name == "first":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if contestant == "fails":
            raise ValueError("this cannot be computed")
        if contestant == "late":
            time.sleep(60)
        _spend(UNIT_S * (1 + (contestant == "twice")))

    def make():
        if contestant == "absent":
            raise UnavailableError("no such device here")
        return Work(
            run,
            lambda: [] if values is None else [np.array(values)],
            lambda: _noted(f"block {contestant}"),
        )

    def queued():
        """Only start the work, four units at a time; the device keeps half of the time."""

        def clock():
            start = CLOCK.now
            return lambda: (CLOCK.now - start) / 2

        return make()._replace(clock=clock, units=UNITS)

    def broken():
        raise RuntimeError("no such setting\nafter all")

    if contestant == "queued":
        return {"only": queued}
    return {"bad": broken, "only": make} if contestant == "halves" else {"only": make}


def expected(case):
    return [np.array([1.0, 2.0])]
