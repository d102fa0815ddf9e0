"""Threads of the CPU's matrix products: what sets their number, and what takes it over."""

import os
import subprocess
import sys

import pytest

import nnx

SCRIPT = """
import nnx, threadpoolctl
print(nnx.get_num_threads())
import sys
if len(sys.argv) > 1:
    nnx.set_num_threads(int(sys.argv[1]))
    print(nnx.get_num_threads())
    print(sorted({pool["num_threads"] for pool in threadpoolctl.threadpool_info()}))
"""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
NAMES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def printed(*arguments, **env):
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], env={**clean, **env}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return found.stdout.split("\n")[:-1]


def test_the_number_is_that_of_the_cores_or_of_the_environment():
    assert printed() == [str(CORES)]
    for name in NAMES:
        assert printed(**{name: "1"}) == ["1"]


def test_a_number_that_is_set_counts_for_every_library():
    assert printed("1") == [str(CORES), "1", "[1]"]
    assert printed("1000")[:2] == [str(CORES), str(CORES)]
    assert printed("1", OPENBLAS_NUM_THREADS="1")[1] == "1"


@pytest.mark.parametrize("n", (0, -1, 1.5, True, "2", None))
def test_other_numbers_are_refused(n):
    before = nnx.get_num_threads()
    with pytest.raises(nnx.DataError, match="whole number of 1 or more"):
        nnx.set_num_threads(n)
    assert nnx.get_num_threads() == before
