"""What the loop of `fit` adds to a training step, for data that is held in memory.

A small set of rows stays in the processor's cache, so that reading the data costs next to nothing:
what is left beside the step is the loop. The step alone is the compiled function, called natively
on one batch again and again.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from nnx.benchmarks.harness import quartiles

SIZES, ROWS, BATCH, EPOCHS = (16, 16, 16, 10), 4096, 32, 20
STEPS = EPOCHS * ROWS // BATCH


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the microseconds that a step in `fit` takes beyond the step alone, two ways."""
    import numpy as np

    import nnx
    from nnx import nn, optim

    rng = np.random.default_rng(0)
    x = rng.random((ROWS, SIZES[0]), dtype=np.float32)
    y = rng.integers(0, SIZES[-1], ROWS)
    nnx.random.seed(0)
    model = nn.Sequential(
        *(nn.Dense(n, "relu") for n in SIZES[1:-1]), nn.Dense(SIZES[-1])
    )  # fmt: skip
    model.compile(optim.Adam(1e-3), "cross_entropy", device="numba")

    def fit(epochs: int, shuffle: bool) -> float:
        start = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=shuffle, verbose=0)
        return time.perf_counter() - start

    def a_step(shuffle: bool) -> float:
        """Return the seconds a step, without what a call of `fit` costs once."""
        return (fit(1 + EPOCHS, shuffle) - fit(1, shuffle)) / STEPS

    fit(1, True)
    function = vars(model)["_compiled"].jitted.function
    batch = [nnx.asarray(part[:BATCH], device="numba") for part in (x, y)]

    def alone() -> float:
        kept = function(*batch)  # its results are where the native step writes
        run = function.repeat.setting.run
        start = time.perf_counter()
        for _ in range(STEPS):
            run()
        time_s = time.perf_counter() - start
        del kept
        return time_s / STEPS

    times: dict[str, list[float]] = {"in order": [], "shuffled": [], "alone": []}
    for _ in range(rounds):
        times["alone"].append(1e6 * alone())
        times["in order"].append(1e6 * a_step(False))
        times["shuffled"].append(1e6 * a_step(True))
    step_us = statistics.median(times.pop("alone"))
    return [
        {"contestant": f"rows {name}", "rounds": rounds, "step_us": step_us,
         "added_us": quartiles([t - step_us for t in found])}
        for name, found in times.items()
    ]  # fmt: skip
