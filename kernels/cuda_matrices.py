"""Products of a step as calls on memory: matrices, one after the other at even steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnx.kernels.cuda_step import Factor, Product
from nnx.scalar import Env


class Matrices(NamedTuple):
    """One or more products of the same sizes, row-major: out (m, n) = left (m, k) right (k, n).

    ``left`` and ``right`` are addresses, ``*_leading`` lengths of stored rows in elements,
    ``*_step`` elements from one product's matrix to the next one's. ``out`` has rows of n, and so
    has a mask ``aux``, in bits. The types, and what is done with ``bias`` (n,) and ``aux``, are
    those of `nnx.kernels.problems_gpu.Problem`.
    """

    dtype: str
    count: int
    m: int
    k: int
    n: int
    left: int
    left_transposed: bool
    left_leading: int
    left_step: int
    right: int
    right_transposed: bool
    right_leading: int
    right_step: int
    out: int
    out_dtype: str = "float32"
    compute: str = "float32"
    epilogue: str = "none"
    bias: int = 0
    aux: int = 0


def matrices(product: Product, places: dict[str, int], env: Env) -> list[Matrices]:
    """Return a product as calls that each go through matrices at even steps."""
    batch = [n(env) for n in product.batch]
    m, k, n = product.m(env), product.k(env), product.n(env)
    width, out_width = product.dtype.itemsize, product.eqn.out.dtype.itemsize
    strides = [_strides(f, batch, env) for f in (product.left, product.right)]
    # The last axes along which both factors move evenly are one axis of a call.
    even = len(batch)
    while even and all(_goes_on(s, batch, even) for s in strides):
        even -= 1
    count = int(np.prod(batch[even:], dtype=np.int64))
    found = []
    for number, place in enumerate(itertools.product(*map(range, batch[:even]))):
        at = [
            places[f.pointer] + width * sum(i * s for i, s in zip(place, steps, strict=False))
            for f, steps in zip((product.left, product.right), strides, strict=True)
        ]
        left_step, right_step = (s[-1] if len(batch) > even else 0 for s in strides)
        found.append(Matrices(
            product.dtype.name, count, m, k, n,
            at[0], product.left.transposed, product.left.leading(env), left_step,
            at[1], product.right.transposed, product.right.leading(env), right_step,
            places[product.out] + out_width * number * count * m * n,
            product.eqn.out.dtype.name, product.compute, product.epilogue,
            places[product.bias] if product.bias else 0,
            places[product.aux] if product.aux else 0,
        ))  # fmt: skip
    return found


def _goes_on(strides: Sequence[int], batch: Sequence[int], axis: int) -> bool:
    """Return whether the axis before one may be part of the same even walk."""
    return axis == len(batch) or strides[axis - 1] == strides[axis] * batch[axis]


def _strides(factor: Factor, batch: Sequence[int], env: Env) -> list[int]:
    """Return by how many elements a factor moves along each axis of the batch."""
    sizes = [n(env) for n in factor.lead]
    step, found = factor.step(env), []
    for n in reversed(sizes):
        found.append(0 if n == 1 else step)
        step *= n
    return [0] * (len(batch) - len(found)) + found[::-1]
