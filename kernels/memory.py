"""Work memory: which values of a step are kept in the same place.

Values that are never needed at the same time share a slot, and with it a name in the text: what has
two names is two memories, so that LLVM may move the accesses of one past those of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nnx import shapes
from nnx.dtypes import DType
from nnx.graph import Var
from nnx.scalar import Scalar, text_of


class Life:
    """A value that needs memory, from one step of the text to another."""

    def __init__(self, var: Var, first: int) -> None:
        self.var, self.first, self.last = var, first, first


class Buffer:
    """Memory for values of one type, one after the other; ``size`` counts elements."""

    def __init__(self, dtype: DType, size: Any) -> None:
        self.dtype, self.size = dtype, size
        self.vars: list[Var] = []
        self.busy_until = -1
        self.slot = -1


def lifetimes(steps: Iterable[Iterable[Var]], kept: Sequence[Var]) -> list[Life]:
    """Return the lives of the values ``kept``, from what each step touches, in order of birth."""
    lives: dict[Var, Life] = {}
    wanted = set(kept)
    for number, touched in enumerate(steps):
        for x in touched:
            if x in wanted:
                lives.setdefault(x, Life(x, number)).last = number
    order = {x: i for i, x in enumerate(kept)}
    return sorted(lives.values(), key=lambda life: (life.first, order[life.var]))


def shared(
    lives: Sequence[Life], heirs: Mapping[Var, Collection[Var]] = MappingProxyType({})
) -> list[Buffer]:
    """Return buffers in which each value has a place of its own for as long as it lives.

    ``heirs`` maps values to those that they may replace in the last step of these: element by
    element, each read before its place is written.
    """
    buffers: list[Buffer] = []
    for life in lives:
        size = shapes.size(life.var.shape)
        same = [b for b in buffers if b.dtype is life.var.dtype]
        left = [b for b in same if b.busy_until == life.first]
        taken = [b for b in left if b.vars[-1] in heirs.get(life.var, ())]
        free = taken or [b for b in same if b.busy_until < life.first]
        fits = [b for b in free if at_least(b.size, size)]
        grows = [b for b in free if at_least(size, b.size)]
        # What is too large first: the largest are asked for rarely.
        exact = [b for b in fits if b in grows]
        found = (exact or fits or grows or [None])[-1]
        if found is None:
            found = Buffer(life.var.dtype, size)
            buffers.append(found)
        elif found in grows:
            found.size = size
        found.vars.append(life.var)
        found.busy_until = life.last
    return buffers


def at_least(x: Any, y: Any) -> bool:
    """Return whether x >= y for all sizes, which are never negative; False where unknown."""
    if not isinstance(x, Scalar) and not isinstance(y, Scalar):
        return bool(x >= y)
    if text_of(x) == text_of(y):
        return True
    p, q = _terms(x), _terms(y)
    return p is not None and q is not None and all(p.get(t, 0) >= q.get(t, 0) for t in p | q)


def _terms(x: Any) -> dict[tuple[str, ...], int] | None:
    return x.polynomial if isinstance(x, Scalar) else {(): x}
