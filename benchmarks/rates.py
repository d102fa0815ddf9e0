"""The rates of this machine, for reports: see `nnx.rates`, in a process of its own.

python -m nnx.benchmarks.rates [--quick]      prints one line of JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from nnx import rates
from nnx.rates import Rates, bandwidth

SIZES_KIB = (*rates.SIZES_KIB, 262144)
PRODUCTS = (*rates.PRODUCTS, 2048)
TRIES = 7

__all__ = ["Rates", "bandwidth", "best", "floor_us", "measured"]


def floor_us(found: Rates, flops: float, n_bytes: float) -> float:
    """Return the microseconds that FLOPs and bytes take at the measured rates, one after another.

    A floor for work that fits the rates' machine: FLOPs as products on all threads, each byte moved
    once, at the rate of the cache that holds them all.
    """
    peak = max(found["products"].values())
    return 1e-3 * (flops / peak + n_bytes / bandwidth(found, n_bytes))


def best(first: Rates, second: Rates) -> Rates:
    """Return the higher of two measurements of each rate: another process can only lower it."""
    products = {name: max(rate, second["products"][name])
                for name, rate in first["products"].items()}  # fmt: skip
    pairs = zip(first["memory"], second["memory"], strict=True)
    memory = [[size, max(gbs, again)] for (size, gbs), (_, again) in pairs]
    return {"products": products, "memory": memory}


def measured(quick: bool) -> Rates:
    """Return the rates, measured in a process of its own."""
    arguments = ["--quick"] if quick else []
    result = subprocess.run(
        [sys.executable, "-m", "nnx.benchmarks.rates", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main(quick: bool) -> None:
    """Measure on all cores and print."""
    from nnx.kernels.blas import set_threads

    set_threads(os.cpu_count() or 1)
    found = {
        "products": rates.products(rates.PRODUCTS if quick else PRODUCTS, TRIES),
        "memory": rates.memory(rates.SIZES_KIB if quick else SIZES_KIB, TRIES),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
