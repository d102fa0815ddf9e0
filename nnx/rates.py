"""The rates of this machine: of products by FLOPs a second, of memory by bytes a second.

The rate of products is that of square float32 ones through the BLAS that nnx uses, on all threads
and on one. Memory is read and written by a compiled loop, one thread, over arrays from a few KiB to
many times the caches; the figure counts both ways. Each is the best of several, as a roof is.
On a GPU, and where nothing can be compiled, both are of the array library's own functions.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from importlib import util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnx.device import Device

KIB = 1024
SIZES_KIB = (16, 64, 256, 1024, 4096, 16384, 65536)
PRODUCTS, PRODUCTS_ON_GPU = (256, 512, 1024), (4096,)
TRIES, TRY_S = 5, 0.01
PASS_BYTES = 1 << 20
"""A loop over small arrays goes over them again, so that the call around it does not count."""

Rates = dict[str, Any]
"""``products``, GFLOP/s by "one thread" and "all threads"; ``memory``, pairs of the bytes that are
held and GB/s, the smallest first."""

_HEAD = "from nnx.kernels.runtime import f32_gemm, f32_slot\n\n\ndef step(table):\n"
_PRODUCT = """\
    n = table[4]
    f32_gemm(0, 0, n, n, n, f32_slot(table, 1), n, f32_slot(table, 2), n, f32_slot(table, 3), n)
    return 0
"""
_LOOP = """\
    x = f32_slot(table, 1)
    y = f32_slot(table, 2)
    n = table[3]
    for _ in range(table[4]):
        for i in range(n):
            y[i] = x[i] - y[i]
    return 0
"""


def best_s(run: Callable[[], object], tries: int = TRIES, try_s: float = TRY_S) -> float:
    """Return the least seconds of a call, over several tries of many calls."""
    run()
    calls, best = 1, float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        time_s = (time.perf_counter() - start) / calls
        best = min(best, time_s)
        calls = max(1, min(int(try_s / time_s), 100_000))
    return best


def products(sizes: tuple[int, ...], tries: int = TRIES) -> dict[str, float]:
    """Return the most GFLOP/s of n x n products by the BLAS of compiled steps; the number of its
    threads stays as it is set.
    """
    import numpy as np

    from nnx.kernels import blas

    limit = blas.threads()
    found = {"one thread": 0.0, "all threads": 0.0}
    try:
        for n in sizes:
            x, y, out = (np.ones((n, n), np.float32) for _ in range(3))
            run, _kept = _native(_PRODUCT, [x, y, out], [n])
            for name, threads in (("one thread", 1), ("all threads", limit)):
                blas.set_threads(threads)
                found[name] = max(found[name], 2e-9 * n**3 / best_s(run, tries))
    finally:
        blas.set_threads(limit)
    return found


def memory(sizes_kib: tuple[int, ...], tries: int = TRIES) -> list[list[float]]:
    """Return pairs of bytes held and GB/s, for a loop that writes y = x - y over two arrays.

    It counts what it reads and what it writes. A loop that writes into a third array would be
    slower than a roof is: a processor reads memory before the first write into it.
    """
    import numpy as np

    found = []
    for size in sizes_kib:
        n = size * KIB // 8
        passes = max(PASS_BYTES // (8 * n), 1)
        run, _kept = _native(_LOOP, [np.ones(n, np.float32), np.ones(n, np.float32)], [n, passes])
        found.append([float(8 * n), 12e-9 * n * passes / best_s(run, tries)])
    return found


def _native(body: str, arrays: list[Any], numbers: list[int]) -> tuple[Callable[[], int], Any]:
    """Return a text compiled over arrays and numbers, and what has to stay alive meanwhile."""
    import numpy as np

    from nnx.kernels import blas, cache

    table = np.array([0, *(x.ctypes.data for x in arrays), *numbers], np.int64)
    table[0] = table.ctypes.data
    run = cache.load(_HEAD + body, blas.symbols()).bind(table.ctypes.data)
    return run, (table, arrays)


def bandwidth(rates: Rates, n_bytes: float) -> float:
    """Return the GB/s for a working set: between those of the sizes measured, on a scale of powers;
    beyond them that of the nearest.

    >>> bandwidth({"memory": [[100.0, 40.0], [10_000.0, 10.0]]}, 1000)
    20.0
    """
    (low, fast), *others = rates["memory"]
    for high, slow in others:
        if n_bytes < high:
            place = math.log(max(n_bytes, low) / low) / math.log(high / low)
            return float(round(fast * (slow / fast) ** place, 6))
        low, fast = high, slow
    return float(fast)


def roof_s(rates: Rates, flops: float, n_bytes: float, threads: str = "all threads") -> float:
    """Return the least seconds that a kernel may take: its FLOPs at the rate of products on so many
    threads, or its bytes at the rate of the cache that holds them all, whichever is more.
    """
    peak = rates["products"].get(threads) or max(rates["products"].values())
    return 1e-9 * float(max(flops / peak, n_bytes / bandwidth(rates, n_bytes)))


def of_device(device: Device) -> Rates:
    """Return the rates of where a device computes, measured once a process in about a second.

    Those of all devices of the host are its processor's.
    """
    if device.backend.on_host and _can_compile():
        return _of_host()
    return _of_library(device)


def _can_compile() -> bool:
    return all(util.find_spec(name) is not None for name in ("numba", "scipy_openblas32"))


@functools.cache
def _of_host() -> Rates:
    return {"products": products(PRODUCTS), "memory": memory(SIZES_KIB)}


@functools.cache
def _of_library(device: Device) -> Rates:
    xp, kind = device.namespace, device.native(device.namespace.float32)
    ones = device.backend.creation("ones", device.index)

    def timed(function: Callable[..., Any], *arrays: Any) -> float:
        def run() -> None:
            function(*arrays)
            device.synchronize()

        return best_s(run)

    gflops, found = 0.0, []
    with device.scope():
        for n in PRODUCTS if device.backend.on_host else PRODUCTS_ON_GPU:
            square = ones((n, n), dtype=kind)
            gflops = max(gflops, 2e-9 * n**3 / timed(xp.matmul, square, square))
        for size in SIZES_KIB:
            x = ones((size * KIB // 8,), dtype=kind)
            found.append([float(size * KIB), 1e-9 * size * KIB / timed(xp.negative, x)])
    return {"products": {"all threads": gflops}, "memory": found}
