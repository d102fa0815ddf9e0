"""Many steps of a compiled function in one native call, over rows that are held in memory."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from nnx.next_call import Repeat
from nnx.places import address

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


class _Numbers:
    """The numbers of some steps, one row a step, as the 64 bits that the table holds."""

    def __init__(self, repeat: Repeat, n: int) -> None:
        import numpy as np

        self._entry, self._repeat = repeat.entry, repeat
        self.slots = [slot for *_, slot in repeat.scalars] + repeat.draw_slots()
        self.words: Any = np.zeros((n, len(self.slots)), np.int64)
        self.error: Exception | None = None

    def go_back(self, step: int) -> None:
        """Set what the steps count as it was before a step; the steps after it are not done."""
        raise NotImplementedError


class _Regular(_Numbers):
    """Numbers that stay, or grow by the same whole number each step: worked out all at once."""

    def __init__(self, repeat: Repeat, n: int, growth: dict[str, int]) -> None:
        import numpy as np

        super().__init__(repeat, n)
        counted = np.arange(n)
        self._starts: list[tuple[Any, str, int, int]] = []
        for k, (name, getter, is_whole, _) in enumerate(repeat.scalars):
            value = getter()
            repeat.env[name] = value
            if not is_whole:
                self.words.view(np.float64)[:, k] = value
                continue
            self.words[:, k] = value + growth[name] * counted
            if growth[name]:
                assert isinstance(getter, functools.partial)
                self._starts.append((*getter.args, value, growth[name]))
        self._claims: list[tuple[Any, int, int]] = []
        k = len(repeat.scalars)
        for generator, _, used in repeat.entry.draws:
            a_step = used(repeat.env)
            words = generator.reserve(n * a_step)
            for value, grows in zip(words, (0, 0, a_step), strict=True):
                start = value if value < 2**63 else value - 2**64
                self.words[:, k] = start + grows * counted
                k += 1
            self._claims.append((generator, words[2], a_step))
        self._n = n

    def go_back(self, step: int) -> None:
        for obj, attribute, start, grows in self._starts:
            vars(obj)[attribute] = start + step * grows
        for generator, first, a_step in self._claims:
            generator.give_back(first + step * a_step, (self._n - step) * a_step)


class _Any(_Numbers):
    """Numbers that Python works out step by step, such as the rates of a schedule.

    There are fewer rows than steps where a number makes the trace not hold, or is an ``error``.
    """

    def __init__(self, repeat: Repeat, n: int) -> None:
        import numpy as np

        super().__init__(repeat, n)
        entry, env = repeat.entry, repeat.env
        self._before: list[list[Any]] = []
        self._claims: list[list[tuple[Any, int, int]]] = []
        whole: Any = memoryview(self.words)
        real: Any = memoryview(self.words.view(np.float64))
        columns = [
            (name, getter, whole if is_whole else real, k)
            for k, (name, getter, is_whole, _) in enumerate(repeat.scalars)
        ]
        done = 0
        try:
            for done in range(n):
                for name, getter, view, k in columns:
                    env[name] = view[done, k] = getter()
                if not repeat.holds(env):
                    break
                self._claims.append(entry.claim(env))
                self.words[done, len(columns) :] = repeat.draw_words(env)
                self._before.append([vars(obj)[name] for obj, name, _ in entry.setters])
                for obj, name, value in entry.setters:
                    vars(obj)[name] = value(env)
            else:
                done = n
        except Exception as error:
            self.error = error
        self.words = self.words[:done]

    def go_back(self, step: int) -> None:
        if step < len(self._before):
            for (obj, name, _), value in zip(self._entry.setters, self._before[step], strict=True):
                vars(obj)[name] = value
        for claims in reversed(self._claims[step:]):
            for generator, first, n in claims:
                generator.give_back(first, n)


def _growth(repeat: Repeat) -> dict[str, int] | None:
    """Return by how much each number grows a step; None where that is not known beforehand."""
    entry = repeat.entry
    if not repeat.holds_always:
        return None
    grows: dict[str, int] = {}
    attributes: dict[tuple[int, str], str] = {}
    for name, getter in entry.getters:
        if isinstance(getter, functools.partial):  # of getattr
            obj, attribute = getter.args
            attributes[id(obj), attribute] = name
        elif not getattr(getter, "steady", False):
            return None
        grows[name] = 0
    for (obj, attribute, _), text in zip(entry.setters, entry.setter_texts, strict=True):
        if (id(obj), attribute) not in attributes:
            return None
        name = attributes[id(obj), attribute]
        added = re.fullmatch(rf"\(?{name} \+ (\d+)\)?", text)
        if added and entry.kinds[name]:
            grows[name] = int(added[1])
        elif text != name and not (text in grows and text not in attributes.values()):
            return None
    return grows


class Epoch:
    """Steps of the function of a repeated call whose arguments are batches of rows.

    ``columns`` are arrays of the device, C-contiguous, one an argument, with as many rows each.
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
        growth = _growth(repeat)
        numbers = _Any(repeat, n) if growth is None else _Regular(repeat, n, growth)
        on_host = self._repeat.native.arrays.on_host
        done = self._steps if on_host else self._steps_elsewhere
        steps = done(first, order, kept, numbers)
        repeat.count(steps.done)
        numbers.go_back(steps.done)
        if numbers.error is not None and not steps.refused:
            raise numbers.error
        return steps

    def _steps(self, first: int, order: Any, kept: Sequence[int], numbers: _Numbers) -> Steps:
        import numpy as np

        from nnx.kernels.epoch import Column, Result, run

        repeat, batch, n = self._repeat, self._batch, len(numbers.words)
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
            run, n, batch, places, columns, results, numbers.words, numbers.slots
        )
        return Steps(
            done, bool(status), [a[:done] for a in arrays],
            [r if len(r) < n * batch else r[: done * batch] for r in rows],
        )  # fmt: skip

    def _steps_elsewhere(
        self, first: int, order: Any, kept: Sequence[int], numbers: _Numbers
    ) -> Steps:
        """Do steps over rows that are not in the host's memory."""
        import numpy as np

        repeat, batch, n = self._repeat, self._batch, len(numbers.words)
        arrays, setting = repeat.native.arrays, repeat.setting
        start, stop = first * batch, (first + n) * batch
        places = np.arange(start, stop) if order is None else np.asarray(order[start:stop])
        columns, rows = [], []
        for i, array in enumerate(self._columns):
            width = array[:1].nbytes
            columns.append((arrays.address(array), width, i))
            rows.append(arrays.rows(array, places) if i in kept else None)
        made = [arrays.empty((n, *fresh.size(repeat.env)), fresh.dtype) for fresh in repeat.fresh]
        results = [
            (fresh.place, arrays.address(a), a[:1].nbytes)
            for fresh, a in zip(repeat.fresh, made, strict=True)
        ]
        done, status = setting.run_steps(
            n, batch, places, columns, results, numbers.words, numbers.slots
        )
        return Steps(
            done, bool(status), [a[:done] for a in made],
            [r if r is None else r[: done * batch] for r in rows],
        )  # fmt: skip
