"""Where buffers stand in one memory, planned ahead by when each of them is needed."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]
"""The first and the last step at which a buffer is needed, both included."""


def placed(sizes: Sequence[int], spans: Sequence[Span]) -> tuple[list[int], int]:
    """Return where each buffer starts, and the size of the memory that holds all of them.

    Buffers that are never needed at the same time share memory: each goes to the lowest place that
    is free while it lives, the largest first.

    >>> placed([4, 2, 4], [(0, 1), (1, 2), (2, 3)])
    ([0, 4, 0], 6)
    """
    offsets = [0] * len(sizes)
    done: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        first, last = spans[i]
        taken = sorted(
            (offsets[j], offsets[j] + sizes[j])
            for j in done
            if spans[j][0] <= last and first <= spans[j][1]
        )
        at = 0
        for low, high in taken:
            if at + sizes[i] <= low:
                break
            at = max(at, high)
        offsets[i] = at
        done.append(i)
    return offsets, max((offsets[i] + sizes[i] for i in done), default=0)
