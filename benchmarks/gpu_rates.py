"""The rates of a GPU, by its own events: copies, large products, one launch after the other.

With `nnx.rates` they are of one form, so that the floor of a step is worked out alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.benchmarks import gpu_steps, rates
from nnx.benchmarks.problems import Cell

COPIED_KIB = (64, 1024, 4096, 16384, 65536, 1048576)
PRODUCT = 8192
KINDS = {"float32": ("float32", "float32"), "tf32": ("tf32", "float32"),
         "bfloat16": ("bfloat16", "bfloat16")}  # fmt: skip
OF_PRECISION = {"highest": "float32", "high": "tf32", "medium": "bfloat16"}
NODES = 200
"""Of a graph; fewer where they would copy more than COPIED_BYTES."""
COPIED_BYTES = 1 << 30
LEAST_SHARE = 0.1
"""What is left at least of a copy's time where that of an empty kernel is taken away."""
TRIES, TRY_S = 5, 0.02
NOTHING = 'extern "C" __global__ void nothing() {}\n'

Rates = dict[str, Any]


def measured(quick: bool) -> Rates:
    """Return ``products``, GFLOP/s by kind; ``memory``, pairs of the bytes that a copy goes
    through and GB/s read and written; ``launch_us``, a kernel of a CUDA graph that does nothing.

    The time of a copy is without ``launch_us``: the floor of a step counts its launches apart.
    """
    import cupy  # type: ignore[import-not-found, unused-ignore]

    from nnx.benchmarks.contestants import cuda_clock
    from nnx.kernels.cuda_machine import CupyMachine

    how_timed = CupyMachine(cupy, 0), cuda_clock()
    empty_s = launch_s(*how_timed)
    size = PRODUCT // 2 if quick else PRODUCT
    found = {kind: 2e-9 * size**3 / product_s(size, *how) for kind, how in KINDS.items()}
    memory = [
        [2 * n_bytes, 2e-9 * n_bytes / copy_s(n_bytes, empty_s, *how_timed)]
        for n_bytes in (1024 * kib for kib in COPIED_KIB)
    ]
    return {"products": found, "memory": memory, "launch_us": 1e6 * empty_s}


def floor_us(found: Rates, precision: str, flops: int, n_bytes: int, launches: int) -> float:
    """Return the time predicted for a step: FLOPs, bytes and launches, one after another."""
    of_kind = {"products": {"": found["products"][OF_PRECISION[precision]]}}
    time_us = rates.floor_us({**found, **of_kind}, flops, n_bytes)
    return float(time_us + launches * found["launch_us"])


def best_s(run: Callable[[], object], clock: Any) -> float:
    """Return the least seconds of a call on the device, over several tries of many calls."""
    run()
    calls, best = 1, float("inf")
    for _ in range(TRIES):
        read = clock()
        for _ in range(calls):
            run()
        time_s = read() / calls
        best = min(best, time_s)
        calls = max(1, min(int(TRY_S / time_s), 1000))
    return best


def product_s(size: int, dtype: str, out_dtype: str) -> float:
    """Return the seconds of one square product."""
    # A network of one layer has two products, alike here.
    cell = Cell((size, size), "relu", "cross_entropy", size, "sgd")
    work = gpu_steps.products(cell, dtype, out_dtype)
    return best_s(work.run, work.clock) / 2


def node_s(start: Callable[[], object], count: int, machine: Any, clock: Any) -> float:
    """Return the seconds of one of many nodes of a CUDA graph, each of which does the same.

    Started one by one from Python, small ones would take as long as Python's calls.
    """

    def start_all() -> None:
        for _ in range(count):
            start()

    start_all()
    return best_s(machine.capture(start_all) or start_all, clock) / count


def launch_s(machine: Any, clock: Any) -> float:
    """Return the seconds that a kernel without work takes in a graph of many."""
    kernel = machine.load(NOTHING)["nothing"]
    return node_s(lambda: machine.launch(kernel, 1, ()), NODES, machine, clock)


def copy_s(n_bytes: int, empty_s: float, machine: Any, clock: Any) -> float:
    """Return the seconds of a device-to-device copy, without those of an empty node of a graph."""
    source, target = machine.memory(n_bytes), machine.memory(n_bytes)
    count = min(max(COPIED_BYTES // n_bytes, 1), NODES)
    time_s = node_s(
        lambda: machine.copy(target.address, source.address, n_bytes), count, machine, clock
    )
    return max(time_s - empty_s, LEAST_SHARE * time_s)
