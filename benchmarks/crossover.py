"""Where each device starts to win: a training step against the width and the batch.

The network is w-w-10 with relu and cross-entropy, and SGD: for each width and batch the step of
every device.
"""

from __future__ import annotations

from typing import Any

from nnx.benchmarks import contestants
from nnx.benchmarks.case import DEVICES, Case
from nnx.benchmarks.problems import Cell

WIDTHS = (1, 4, 16, 64, 256, 1024)
BATCHES = (1, 8, 64, 512)
QUICK_WIDTHS, QUICK_BATCHES = (4, 64, 256), (1, 64)


def _case(width: int, batch: int) -> Case:
    cell = Cell((width, width, 10), "relu", "cross_entropy", batch, "sgd")
    quick = width in QUICK_WIDTHS and batch in QUICK_BATCHES
    return contestants.case("crossover", cell, DEVICES, "numpy", quick=quick)._replace(
        group="training step of w-w-10", name=f"width {width}, batch {batch}"
    )


CASES = tuple(_case(width, batch) for width in WIDTHS for batch in BATCHES)


variants, expected = contestants.variants, contestants.expected


def test_step(benchmark: Any, work: Any) -> None:
    """Time a step under pytest-benchmark."""
    work.reset()
    benchmark(work.run)
