"""What a metric is: parts that are measured on the device, merged, and finished once."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nnx import dtypes
from nnx.errors import DataError, did_you_mean
from nnx.ops import reduce
from nnx.tape import no_grad
from nnx.tensor import Tensor, asarray

State = tuple[Any, ...]
Check = Callable[[Any], Any]


class Metric(NamedTuple):
    """A metric in parts: ``finish(merge(measure(p1, t1), measure(p2, t2)))``.

    ``settings`` has a check for each option that only ``finish`` takes.
    """

    name: str
    measure: Callable[..., State]
    finish: Callable[..., Any]
    merge: Callable[[State, State], State]
    settings: Mapping[str, Check] = {}

    def having(self, **options: Any) -> Metric:
        """Return the metric with options set.

        Raises: DataError for one that it does not have, or a value that is not allowed.
        """
        known = [*self.settings, *list(inspect.signature(self.measure).parameters)[2:]]
        for name in options:
            if name not in known:
                raise DataError(f"{self.name} has no option {name!r}. {did_you_mean(name, known)}")
        late = {name: check(options.pop(name)) for name, check in self.settings.items()
                if name in options}  # fmt: skip
        measure = functools.partial(self.measure, **options) if options else self.measure
        finish = functools.partial(self.finish, **late) if late else self.finish
        return self._replace(measure=measure, finish=finish)


METRICS: dict[str, Metric] = {}
"""Every metric of one number, by name."""


def added(first: State, second: State) -> State:
    """Merge by adding part to part."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def ratio(state: State) -> float:
    """Return sum / count; NaN of nothing."""
    total, count = state
    return float(total) / count if count else float("nan")


def metric(
    finish: Callable[[State], float] = ratio, merge: Callable[[State, State], State] = added
) -> Callable[[Callable[..., State]], Callable[..., float]]:
    """Enter the decorated ``measure`` and return the function that users call."""

    def enter(measure: Callable[..., State]) -> Callable[..., float]:
        return entered(Metric(measure.__name__, measure, finish, merge), measure)

    return enter


def entered(entry: Metric, described: Callable[..., Any]) -> Callable[..., Any]:
    """Enter a metric and return what users call, described as a function is."""
    METRICS[entry.name] = entry

    @functools.wraps(described)
    def call(predictions: Any, targets: Any, **options: Any) -> Any:
        chosen = entry.having(**options) if options else entry
        with no_grad():
            return chosen.finish(chosen.measure(*tensors(predictions, targets)))

    call.metric = entry  # type: ignore[attr-defined]
    return call


def tensors(predictions: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return both as tensors of one device: that of the predictions, NumPy's for host data."""
    if isinstance(predictions, Tensor):
        return predictions, asarray(targets, device=predictions.device)
    device = targets.device if isinstance(targets, Tensor) else "numpy"
    return asarray(predictions, device=device), asarray(targets, device=device)


class Scores(Tensor):
    """Predictions that several metrics look at; what they have in common is worked out once."""

    __slots__ = ("_best", "_top")

    def best(self) -> Tensor:
        """Return the number of the highest score of each row."""
        if not hasattr(self, "_best"):
            self._best: Tensor = reduce.argmax(self, axis=-1)
        return self._best

    def top(self) -> Tensor:
        """Return the largest score of all."""
        if not hasattr(self, "_top"):
            self._top: Tensor = reduce.max(self)
        return self._top


def top(scores: Tensor) -> Any:
    """Return the largest score of all, which is NaN where any is; 0 where there is none."""
    if not scores.size or not scores.dtype.is_floating:
        return 0.0
    return scores.top() if isinstance(scores, Scores) else reduce.max(scores)


def best(scores: Tensor) -> Tensor:
    """Return the number of the highest score of each row; of equal ones the first."""
    return scores.best() if isinstance(scores, Scores) else reduce.argmax(scores, axis=-1)


def wide(x: Tensor) -> Tensor:
    """Return x in float64 where its device has that, so that long sums keep their digits."""
    dtype = dtypes.float64 if x.device.has(dtypes.float64) else dtypes.float32
    return x.astype(dtype)  # type: ignore[no-any-return]


def refuse_nothing(what: str, predictions: Tensor) -> None:
    """Raise DataError where there are no rows."""
    if not predictions.size:
        raise DataError(
            f"{what}: the predictions have shape {predictions.shape}, so there is nothing to "
            f"count. Give one row or more."
        )


def checked_count(name: str, value: Any) -> int:
    """Return a whole number of 1 or more. Raises: DataError for another value."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise DataError(f"{name} is a whole number of 1 or more, got {value!r}.")
    return int(value)


def one_of(name: str, allowed: tuple[Any, ...]) -> Check:
    """Return a check that a value is one of those allowed."""

    def check(value: Any) -> Any:
        if value not in allowed:
            hint = did_you_mean(value, [str(a) for a in allowed])
            raise DataError(f"{name}={value!r}. {hint}")
        return value

    return check
