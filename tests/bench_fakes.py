"""A suite of made-up contestants, for the tests of the harness; its workers find it by its name."""

import os
import time
from pathlib import Path

import numpy as np

from nnx.benchmarks.case import Case, Work

UNIT_S = 0.002
NAMES = ("plain", "twice", "wrong", "nan", "empty", "crash", "late", "fails", "loops")


def _case(name, work=0):
    return Case("fakes", "all", name, name, NAMES, "plain", work=work, quick=True)


CASES = (_case("first"), _case("second"), _case("huge", work=10**12))


def _spin(time_s):
    end = time.perf_counter() + time_s
    while time.perf_counter() < end:
        pass


def _noted(text):
    if path := os.environ.get("BENCH_FAKES_LOG"):
        with Path(path).open("a") as file:
            file.write(text + "\n")


def variants(case, contestant):
    values = {"wrong": [1.0, 2.5], "nan": [1.0, np.nan], "empty": None}.get(contestant, [1.0, 2.0])

    def run():
        _noted(f"run {contestant}")
        if contestant == "crash" and case.name == "first":
            print("out of luck", file=os.sys.stderr, flush=True)
            os._exit(3)
        if contestant == "fails":
            raise ValueError("this cannot be computed")
        _spin(60 if contestant == "late" else UNIT_S * (1 + (contestant == "twice")))

    def make():
        return Work(
            run,
            lambda: [] if values is None else [np.array(values)],
            lambda: _noted(f"block {contestant}"),
        )

    return {"only": make}


def expected(case):
    return [np.array([1.0, 2.0])]
