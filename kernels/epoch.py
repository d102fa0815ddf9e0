"""Many steps in one native call: batches are gathered, numbers and results moved on between them.

The text serves every network: it calls a compiled step by its address.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnx.kernels import cache
from nnx.kernels.native import NativeFunction

SOURCE = """\
from nnx.kernels.runtime import call_at, copy_bytes, i64_at


def step(job):
    table = i64_at(job[0])
    batch, scalars = job[3], i64_at(job[6])
    for s in range(job[2]):
        at = 10
        for c in range(job[7]):
            source, width, target = job[at], job[at + 1], job[at + 2] + s * job[at + 3]
            if job[5] == 0:
                # The rows as they lie: nothing is copied.
                table[job[at + 4]] = source + s * batch * width
            else:
                order = i64_at(job[4])
                for i in range(batch):
                    row = order[s * batch + i]
                    copy_bytes(target + i * width, source + row * width, width)
                table[job[at + 4]] = target
            at += 5
        for r in range(job[8]):
            table[job[at]] = job[at + 1] + s * job[at + 2]
            at += 3
        for k in range(job[9]):
            table[job[at]] = scalars[s * job[9] + k]
            at += 1
        status = call_at(job[1], job[0])
        if status != 0:
            job[2] = s
            return status
    return 0
"""


class Column(NamedTuple):
    """An argument that is cut from rows: gathered into ``target``, which moves on by ``stride``."""

    source: int
    width: int
    target: int
    stride: int
    slot: int


class Result(NamedTuple):
    """A result whose memory moves on by ``stride`` bytes a step."""

    slot: int
    start: int
    stride: int


@functools.cache
def driver() -> NativeFunction:
    """Return the compiled loop."""
    return cache.load(SOURCE, {})


def job_of(
    step: NativeFunction,
    table: Any,
    steps: int,
    batch: int,
    order: Any,
    columns: Sequence[Column],
    results: Sequence[Result],
    scalars: Any,
    scalar_slots: Sequence[int],
) -> Any:
    """Return what the loop works through: steps on a table.

    ``order`` has the rows' numbers in turn, None for the rows as they lie; row s of ``scalars`` has
    the numbers of step s, as the 64 bits that the table holds.
    """
    head = [
        table.ctypes.data, step.address, steps, batch,
        0 if order is None else order.ctypes.data, order is not None, scalars.ctypes.data,
        len(columns), len(results), len(scalar_slots),
    ]  # fmt: skip
    parts = [x for part in (*columns, *results) for x in part]
    return np.array([*head, *parts, *scalar_slots], np.int64)


def run(*job: Any) -> tuple[int, int]:
    """Run a job; return how many steps were done, and the status of one that was refused."""
    words = job_of(*job)
    status = driver().bind(words.ctypes.data)()
    return int(words[2]), status
