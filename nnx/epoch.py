"""Many steps of a compiled function in one native call, over rows that are held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nnx.native import Repeat, address

__all__ = ["Epoch", "Steps"]


class Steps(NamedTuple):
    """Steps that were done: how many, each result of all of them, and the rows they went through.

    ``results`` has an array for each result of the function, with a first axis of steps; ``rows``
    has an array for each argument, of the gathered rows.
    """

    done: int
    refused: bool
    results: list[Any]
    rows: list[Any]


class _Marks:
    """What the steps' numbers were before each of them, to go back to."""

    def __init__(self, repeat: Repeat) -> None:
        self._entry = repeat.entry
        self._before: list[list[Any]] = []
        self._claims: list[list[tuple[Any, int, int]]] = []

    def note(self) -> None:
        """Note the numbers before a step."""
        self._before.append([vars(obj)[name] for obj, name, _ in self._entry.setters])

    def claim(self, claims: list[tuple[Any, int, int]]) -> None:
        """Note the random numbers of a step."""
        self._claims.append(claims)

    def go_back(self, step: int) -> None:
        """Set the numbers as they were before a step."""
        if step >= len(self._before):
            return
        for (obj, name, _), value in zip(self._entry.setters, self._before[step], strict=True):
            vars(obj)[name] = value
        for claims in reversed(self._claims[step:]):
            for generator, first, n in claims:
                generator.give_back(first, n)


class Epoch:
    """Steps of the function of a repeated call whose arguments are batches of rows.

    ``columns`` are host arrays, C-contiguous, one an argument, with as many rows each.
    """

    def __init__(self, repeat: Repeat, columns: Sequence[Any], batch: int) -> None:
        self._repeat, self._columns, self._batch = repeat, columns, batch

    def run(self, first: int, n: int, order: Any, kept: Sequence[int]) -> Steps | None:
        """Run up to n steps from step ``first`` on; None if a call has to go the long way first.

        ``order`` is the order of the rows, None for the order they have. The rows of the arguments
        ``kept`` are returned; of the others only the last batch is. After a step that was refused
        everything is as before it.
        Raises: what a schedule raises, when the steps before it are done.
        """
        repeat = self._repeat
        if not repeat.unchanged():
            return None
        marks = _Marks(repeat)
        scalars, slots, error = self._numbers(n, marks)
        if not len(scalars):
            if error is not None:
                raise error
            return None
        steps = self._steps(first, order, kept, scalars, slots)
        repeat.count(steps.done)
        marks.go_back(steps.done)
        if error is not None and not steps.refused:
            raise error
        return steps

    def _numbers(self, n: int, marks: _Marks) -> tuple[Any, list[int], Exception | None]:
        """Return the numbers of each step, one row a step, and their places in the table.

        There are fewer than n rows where a number makes the trace not hold, or is an error.
        """
        import numpy as np

        repeat = self._repeat
        env, setters = repeat.env, repeat.entry.setters
        slots = [slot for *_, slot in repeat.scalars] + repeat.draw_slots()
        words = np.zeros((n, len(slots)), np.int64)
        whole: Any = memoryview(words)  # type: ignore[arg-type]
        real: Any = memoryview(words.view(np.float64))  # type: ignore[arg-type]
        columns = [
            (name, getter, whole if is_whole else real, k)
            for k, (name, getter, is_whole, _) in enumerate(repeat.scalars)
        ]
        for s in range(n):
            try:
                for name, getter, view, k in columns:
                    env[name] = view[s, k] = getter()
                if not repeat.holds(env):
                    return words[:s], slots, None
                marks.note()
                claims = repeat.claim(env)
            except Exception as error:
                return words[:s], slots, error
            if claims:
                marks.claim(claims)
                words[s, len(columns) :] = repeat.draw_words(env)
            for obj, name, value in setters:
                vars(obj)[name] = value(env)
        return words, slots, None

    def _steps(
        self, first: int, order: Any, kept: Sequence[int], scalars: Any, slots: list[int]
    ) -> Steps:
        import numpy as np

        from nnx.kernels.epoch import Column, Result, run

        repeat, batch, n = self._repeat, self._batch, len(scalars)
        start, stop = first * batch, (first + n) * batch
        columns, rows = [], []
        for i, array in enumerate(self._columns):
            width = array[:1].nbytes
            source = address(array) + (0 if order is not None else start * width)
            if order is None:
                columns.append(Column(source, width, 0, 0, repeat.slots_in[i]))
                rows.append(array[start:stop])
                continue
            many = i in kept
            gathered = np.empty((n * batch if many else batch, *array.shape[1:]), array.dtype)
            stride = batch * width if many else 0
            columns.append(Column(source, width, address(gathered), stride, repeat.slots_in[i]))
            rows.append(gathered)
        results, arrays = [], []
        for fresh in repeat.fresh:
            made = np.empty((n, *fresh.size(repeat.env)), fresh.dtype)
            arrays.append(made)
            step_bytes = made[:1].nbytes
            results.append(Result(repeat.slots_out[fresh.place], address(made), step_bytes))
        places = None
        if order is not None:
            places = np.ascontiguousarray(order[start:stop], np.int64)
        done, status = repeat.run_many(
            run, n, batch, places, columns, results, np.ascontiguousarray(scalars), slots
        )
        return Steps(
            done, bool(status), [a[:done] for a in arrays],
            [r if len(r) < n * batch else r[: done * batch] for r in rows],
        )  # fmt: skip
