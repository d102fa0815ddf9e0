"""What metrics and callbacks add to an epoch of `fit`.

Two equal networks are trained in turns on the same rows, one with the loss alone and one with
accuracy, F1, a CSV file and early stopping; which of the two goes first changes with each round.
History is kept in both: `fit` always makes one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from nnx.benchmarks.harness import quartiles

SIZES, ROWS, BATCH, EPOCHS = (784, 16, 16, 10), 60_000, 32, 3


def measure(rounds: int) -> dict[str, Any]:
    """Return the milliseconds of a plain epoch, and what the others add as shares of it."""
    import numpy as np

    import nnx
    from nnx import nn, optim
    from nnx.callbacks import CSVLogger, EarlyStopping

    rng = np.random.default_rng(0)
    x = rng.random((ROWS, SIZES[0]), dtype=np.float32)
    y = rng.integers(0, SIZES[-1], ROWS)

    def network(metrics: list[str]) -> Any:
        nnx.random.seed(0)
        model = nn.Sequential(*(nn.Dense(n, "relu") for n in SIZES[1:-1]), nn.Dense(SIZES[-1]))
        model.compile(optim.Adam(1e-3), "cross_entropy", metrics, device="numba")
        return model

    def epoch_ms(model: Any, callbacks: list[Any]) -> float:
        start = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, callbacks=callbacks, verbose=0)
        return 1e3 * (time.perf_counter() - start) / EPOCHS

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "history.csv")
        runs = {
            "without": (network([]), list),
            "with": (
                network(["accuracy", "f1"]),
                lambda: [CSVLogger(log), EarlyStopping("loss", patience=99)],
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for model, callbacks in runs.values():
            epoch_ms(model, callbacks())
        for i in range(rounds):
            for name in sorted(runs, reverse=i % 2 == 0):
                model, callbacks = runs[name]
                times[name].append(epoch_ms(model, callbacks()))
    shares = [b / a - 1.0 for a, b in zip(times["without"], times["with"], strict=True)]
    return {
        "sizes": SIZES, "rows": ROWS, "batch": BATCH, "rounds": rounds,
        "epoch_ms": statistics.median(times["without"]), "added_share": quartiles(shares),
    }  # fmt: skip
