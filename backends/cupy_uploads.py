"""Batches on their way to the GPU while the step before them runs.

A batch is gathered into pinned memory of the host and copied from there on a stream of its own.
Events order it, and nobody waits but the streams:

- the copy waits for what the step's stream did before the array was made, since the pool may have
  given it memory that this work still uses;
- the step's stream waits for the copy before the batch is handed out;
- the host waits for the last copy out of a piece of pinned memory before it fills that again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

AHEAD = 2
"""Pieces of pinned memory a column: one is copied from, the other is filled."""


class _Slot:
    """Pinned memory for one batch, a piece a column, and the event of its last copy."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._pieces: dict[int, Any] = {}
        self.copied: Any = None

    def filled(self, column: int, host: Any, dtype: Any) -> Any:
        """Return a host array's values as pinned memory in another type."""
        size = host.size * dtype.itemsize
        piece = self._pieces.get(column)
        if piece is None or piece.nbytes < size:
            memory = self._cupy.cuda.alloc_pinned_memory(max(size, 1))
            piece = self._pieces[column] = np.frombuffer(memory, np.uint8)
        pinned = piece[:size].view(dtype).reshape(host.shape)
        np.copyto(pinned, host, casting="unsafe")
        return pinned


def upload(
    cupy: Any,
    scope: Callable[[], Any],
    batches: Iterable[Sequence[Any]],
    dtypes: Sequence[Any],
) -> Iterator[list[Any]]:
    """Yield batches of host arrays as arrays of ``dtypes`` on the GPU of ``scope``.

    Batches are taken one ahead of those handed out. The arrays are new ones each time.
    """
    kinds = [np.dtype(dtype) for dtype in dtypes]
    with scope():
        stream = cupy.cuda.Stream(non_blocking=True)
    slots = [_Slot(cupy) for _ in range(AHEAD)]

    def mark(on: Any) -> Any:
        return on.record(cupy.cuda.Event(disable_timing=True))

    def send(slot: _Slot, hosts: Sequence[Any]) -> list[Any]:
        if slot.copied is not None:
            slot.copied.synchronize()
        pinned = [slot.filled(i, h, d) for i, (h, d) in enumerate(zip(hosts, kinds, strict=True))]
        with scope():
            arrays = [cupy.empty(part.shape, part.dtype) for part in pinned]
            stream.wait_event(mark(cupy.cuda.get_current_stream()))
            for array, part in zip(arrays, pinned, strict=True):
                if part.size:
                    array.data.copy_from_host_async(part.ctypes.data, part.nbytes, stream)
            slot.copied = mark(stream)
        return arrays

    def ready(slot: _Slot) -> None:
        with scope():
            cupy.cuda.get_current_stream().wait_event(slot.copied)

    try:
        waiting: tuple[_Slot, list[Any]] | None = None
        for n, hosts in enumerate(batches):
            slot = slots[n % AHEAD]
            sent = send(slot, hosts)
            if waiting is not None:
                ready(waiting[0])
                yield waiting[1]
            waiting = slot, sent
        if waiting is not None:
            ready(waiting[0])
            yield waiting[1]
    finally:
        # An array that nobody took goes back to the pool: not before its copy is done.
        stream.synchronize()
