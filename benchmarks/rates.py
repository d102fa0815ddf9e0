"""The rates of this machine: of products by FLOPs a second, of memory by bytes a second.

    python -m nnx.benchmarks.rates [--quick]      prints one line of JSON

The rate of products is that of square float32 ones through the BLAS that nnx uses, on all threads
and on one. Memory is read and written by a compiled loop, one thread, over arrays from a few KiB to
many times the caches; the figure counts both ways. Each is the best of several, as a roof is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

KIB = 1024
SIZES_KIB = (16, 64, 256, 1024, 4096, 16384, 65536, 262144)
QUICK_SIZES_KIB = (16, 256, 4096, 65536)
PRODUCT, QUICK_PRODUCT = 2048, 1024
LOOPED_KIB = 4096
"""Small arrays are gone through so often in one call that it moves so much at least."""
TRIES, TRY_S = 7, 0.02

Rates = dict[str, Any]


def _best_s(run: Callable[[], object]) -> float:
    """Return the least seconds of a call, over several tries of many calls."""
    run()
    calls, best = 1, float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        time_s = (time.perf_counter() - start) / calls
        best = min(best, time_s)
        calls = max(1, min(int(TRY_S / time_s), 100_000))
    return best


def products(n: int) -> dict[str, float]:
    """Return the GFLOP/s of n x n products, on one thread and on all."""
    import os

    import numpy as np

    from nnx.benchmarks.floor import Product, compiled, describe
    from nnx.kernels.blas import set_threads

    rng = np.random.default_rng(0)
    a, b = (rng.random((n, n), dtype=np.float32) for _ in range(2))
    product = Product(a, b, np.empty_like(a))
    table = np.array([describe(product)], np.int64)
    run = compiled()
    found = {}
    for name, threads in (("one thread", 1), ("all threads", os.cpu_count() or 1)):
        set_threads(threads)
        found[name] = 2e-9 * n**3 / _best_s(lambda: run(table))
    return found


def memory(sizes_kib: tuple[int, ...]) -> list[list[float]]:
    """Return pairs of bytes held and GB/s, for a loop that writes y = x + 1 over two arrays."""
    import numba
    import numpy as np

    @numba.njit(fastmath=True)  # type: ignore[misc, untyped-decorator, unused-ignore]
    def loop(x: Any, y: Any, times: int) -> None:
        for k in range(times):
            for i in range(x.size):
                y[i] = x[i] + np.float32(k)

    found = []
    for size in sizes_kib:
        n = size * KIB // 8
        times = max(LOOPED_KIB // size, 1)  # so that the call itself costs next to nothing
        x, y = np.ones(n, np.float32), np.ones(n, np.float32)
        time_s = _best_s(lambda x=x, y=y, times=times: loop(x, y, times))  # type: ignore[misc]
        found.append([float(8 * n), 8e-9 * n * times / time_s])
    return found


def best(first: Rates, second: Rates) -> Rates:
    """Return the higher of two measurements of each rate: another process can only lower it."""
    products = {name: max(rate, second["products"][name])
                for name, rate in first["products"].items()}  # fmt: skip
    pairs = zip(first["memory"], second["memory"], strict=True)
    memory = [[size, max(gbs, again)] for (size, gbs), (_, again) in pairs]
    return {"products": products, "memory": memory}


def bandwidth(rates: Rates, n_bytes: float) -> float:
    """Return the GB/s for a working set: of the smallest array measured that is not less."""
    for size, gbs in rates["memory"]:
        if n_bytes <= size:
            return float(gbs)
    return float(rates["memory"][-1][1])


def floor_us(rates: Rates, flops: float, n_bytes: float) -> float:
    """Return the microseconds that FLOPs and bytes take at the measured rates, one after another.

    A floor for work that fits the rates' machine: FLOPs as products on all threads, each byte moved
    once, at the rate of the cache that holds them all.
    """
    peak = max(rates["products"].values())
    return 1e-3 * (flops / peak + n_bytes / bandwidth(rates, n_bytes))


def measured(quick: bool) -> Rates:
    """Return the rates, measured in a process of its own."""
    arguments = ["--quick"] if quick else []
    result = subprocess.run(
        [sys.executable, "-m", "nnx.benchmarks.rates", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main(quick: bool) -> None:
    """Measure and print."""
    sizes = QUICK_SIZES_KIB if quick else SIZES_KIB
    found = {"products": products(QUICK_PRODUCT if quick else PRODUCT), "memory": memory(sizes)}
    print(json.dumps(found))


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
