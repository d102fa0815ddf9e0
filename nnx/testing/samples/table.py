"""One row of the sample table, the table itself, and the numbers that rows are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INF, NAN = math.inf, math.nan
FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
BOOLS = ("bool",)

Reference = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """One row of the table.

    ``order``: up to which derivative it is smooth, 0 for none. ``slopes``: the gradients of the
    result's sum, where a convention and no limit says them. ``raises``: the error that every
    device must raise. ``ulps``: the error allowed, in units of the result's last place.
    """

    op: str
    label: str
    inputs: tuple[Any, ...]
    reference: Reference | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = FLOATS
    order: int = 2
    slopes: tuple[Any, ...] | None = None
    raises: type[Exception] | None = None
    ulps: float = 8.0


SAMPLES: dict[str, list[Sample]] = {}
"""The rows of each op, the plainest first."""


def add(
    op: str, label: str, inputs: Sequence[Any], reference: Reference | None = None, **settings: Any
) -> None:
    """Enter one row; ``settings`` are the further fields of `Sample`."""
    SAMPLES.setdefault(op, []).append(Sample(op, label, tuple(inputs), reference, **settings))


def values(
    shape: int | tuple[int, ...], low: float = -2.0, high: float = 2.0, start: float = 0.29
) -> Any:
    """Return numbers from low to high in no order, all of them different."""
    n = math.prod(shape) if isinstance(shape, tuple) else shape
    places = (np.arange(n) * 0.6180339887 + start) % 1.0
    return (low + (high - low) * places).reshape(shape)


LIMITS = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 30.0, -30.0, 1e-30, -1e-30, INF, -INF, NAN])

MASK = np.array([[True, False, True], [False, False, True]])
