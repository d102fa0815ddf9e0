"""What a graph becomes on a GPU: kernels, products, and what the host works out for each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nnx.dtypes import DType
from nnx.graph import Eqn, Var
from nnx.scalar import Env, Scalar, evaluator, text_of

Count = Callable[[Env], int]
"""A number of a call, such as how many blocks a part has."""

THREADS, WARPS = 256, 8
"""Of each block."""
RESIDENT = 2
"""Blocks that a multiprocessor has registers for: told so, the compiler spills none of them."""
MOST_BLOCKS = 1024
"""Of a part whose blocks hand sums on."""


class Part(NamedTuple):
    """A group as a function of a block: its text, its blocks, what it reads and writes.

    ``clears`` names memory that is 0 before it runs, with its size in bytes; ``targets`` are the
    pointers of what it writes.
    """

    name: str
    body: tuple[str, ...]
    blocks: Count
    eqns: tuple[Eqn, ...]
    reads: tuple[Var, ...]
    writes: tuple[Var, ...]
    targets: frozenset[str]
    clears: tuple[tuple[str, Count], ...] = ()


class Launch(NamedTuple):
    """A kernel: its parts, and the names of its parameters, which are pointers."""

    name: str
    parts: tuple[Part, ...]
    params: tuple[str, ...]


class Factor(NamedTuple):
    """A factor of a product, in memory: its pointer, its rows' length, and its step a batch."""

    pointer: str
    transposed: bool
    leading: Count
    step: Count
    lead: tuple[Count, ...]


class Product(NamedTuple):
    """A product of matrices, batch by batch: out (m, n) = left (m, k) right (k, n), row-major.

    ``dtype`` is that of the factors; ``bias`` and ``aux`` are pointers that its epilogue has, read
    or written, as in `nnx.kernels.problems_gpu.Problem`.
    """

    eqn: Eqn
    dtype: DType
    batch: tuple[Count, ...]
    m: Count
    k: Count
    n: Count
    left: Factor
    right: Factor
    out: str
    compute: str = "float32"
    epilogue: str = "none"
    bias: str = ""
    aux: str = ""


class Number(NamedTuple):
    """A number of a call that kernels read: the bits of an int64, or of a float64.

    ``names`` are those of the scalars that it is worked out from, none if from sizes alone.
    """

    whole: bool
    value: Callable[[Env], Any]
    names: frozenset[str] = frozenset()


class CudaStep:
    """What a graph becomes: the text of its kernels, and what runs in which order.

    ``pointers`` maps the name of each pointer to its type; those of inputs, outputs and work
    memory are in ``inputs``, ``outputs`` and ``buffers``. ``tickets`` counts the words of 32 bits,
    zero at first, that blocks arrive at; ``stored`` are the eqns whose results are kept in memory.
    """

    def __init__(self) -> None:
        self.source = ""
        self.runs: list[Launch | Product] = []
        self.pointers: dict[str, str] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.buffers: list[tuple[str, Count, int]] = []
        self.numbers: list[Number] = []
        self.tickets: list[Count] = []
        self.stored: list[Eqn] = []
        self.checked = 0

    @property
    def has_checks(self) -> bool:
        """Whether the step may refuse a value: in one of its first ``checked`` runs."""
        return self.checked > 0


def count_of(n: Any) -> Count:
    """Return a size as a function of a call's scalars."""
    if isinstance(n, Scalar):
        return evaluator(text_of(n))
    return lambda env: int(n)


def blocks_for(n: Count, per: int, most: int | None = None) -> Count:
    """Return how many blocks take n elements, some each; at least one."""

    def blocks(env: Env) -> int:
        found = max(-(-n(env) // per), 1)
        return found if most is None else min(found, most)

    return blocks


def summing_blocks(n: Count) -> Count:
    """Return how many blocks sum n elements: as few as keep a GPU busy, for each hands on a sum."""
    return blocks_for(n, 8 * THREADS, MOST_BLOCKS)
