"""Learning rates that change: functions of the number of steps done, 0 before the first.

Any function of that kind is a schedule; these make the usual ones.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from nnx.errors import DataError, no_attribute
from nnx.optim.optimizer import Rate, Schedule, checked


def constant(lr: float) -> Schedule:
    """lr at every step."""
    rate = checked("constant", "lr", lr, 0.0, math.inf)
    return lambda step: rate


def step(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr factor^k after k times ``every`` steps.

    >>> rate = step(1.0, every=10, factor=0.5)
    >>> rate(0), rate(9), rate(10), rate(25)
    (1.0, 1.0, 0.5, 0.25)
    """
    rate = checked("step", "lr", lr, 0.0, math.inf)
    shrink = checked("step", "factor", factor, 0.0, math.inf)
    length = _steps("step", "every", every)
    return lambda step: rate * shrink ** (step // length)


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """From lr down to ``final`` along half a cosine, in ``steps`` steps; ``final`` from then on.

    final + (lr - final) (1 + cos(pi step / steps)) / 2.
    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983), eq. 5.
    """
    start = checked("cosine", "lr", lr, 0.0, math.inf)
    end = checked("cosine", "final", final, 0.0, math.inf)
    length = _steps("cosine", "steps", steps)

    def rate(step: int) -> float:
        if step >= length:
            return end
        return end + (start - end) * (1.0 + math.cos(math.pi * step / length)) / 2.0

    return rate


def warmup(rate: Rate, steps: int) -> Schedule:
    """Up to a rate in ``steps`` equal steps, then that rate, or that schedule from its beginning.

    The first step has 1 / steps of it, as a rate of 0 would learn nothing.

    >>> [warmup(0.8, 4)(step) for step in range(6)]
    [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8]
    """
    after = rate if callable(rate) else constant(rate)
    length = _steps("warmup", "steps", steps)
    top = after(0)
    return lambda step: top * ((step + 1) / length) if step < length else after(step - length)


def _steps(kind: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise DataError(f"{kind}: {name} is a whole number of 1 or more, got {value!r}.")
    return int(value)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise no_attribute(__name__, name, ("constant", "step", "cosine", "warmup"))
