"""The floor of a training step: its matrix products alone, by the BLAS of scipy-openblas32.

The calls are made from one compiled function: through ctypes, eight small products would be timed
with the cost of their arguments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnx.benchmarks.problems import Cell
from nnx.kernels import blas

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


class Product(NamedTuple):
    """One c = a @ b of a step; a, b are arrays or transposed views of arrays."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    c: NDArray[np.float32]


def products(cell: Cell) -> list[Product]:
    """Return the products of a step: forward, and backward but for the gradient of x."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.random(shape, dtype=np.float32)

    pairs = list(zip(cell.sizes, cell.sizes[1:], strict=False))
    values = [drawn(cell.batch, n) for n in cell.sizes]
    weights = [drawn(*pair) for pair in pairs]
    forward = [Product(values[i], w, values[i + 1]) for i, w in enumerate(weights)]
    slopes = [drawn(cell.batch, n) for n in cell.sizes]
    backward = []
    for i in reversed(range(len(weights))):
        backward.append(Product(values[i].T, slopes[i + 1], np.empty_like(weights[i])))
        if i:
            backward.append(Product(slopes[i + 1], weights[i].T, slopes[i]))
    return [*forward, *backward]


def describe(product: Product) -> list[int]:
    """Return a product as the integers that cblas_sgemm takes: flags, sizes, addresses, strides."""
    a, b, c = product
    (m, k), n = a.shape, b.shape[1]
    flags = [PLAIN if array.flags.c_contiguous else TRANSPOSED for array in (a, b)]
    lda = k if flags[0] == PLAIN else m
    ldb = n if flags[1] == PLAIN else k
    return [*flags, m, n, k, a.ctypes.data, lda, b.ctypes.data, ldb, c.ctypes.data, n]


def compiled() -> Any:
    """Return the compiled function that runs a table of products, one row each."""
    import llvmlite.binding
    import numba
    from numba import types

    symbol = blas.symbol("sgemm")
    llvmlite.binding.add_symbol(symbol, blas.symbols()[symbol])
    flag, size, pointer, number = types.int32, types.int32, types.intp, types.float32
    sgemm = types.ExternalFunction(
        symbol,
        types.void(
            *(flag, flag, flag, size, size, size),
            *(number, pointer, size, pointer, size, number, pointer, size),
        ),
    )
    row_major, one, zero = np.int32(ROW_MAJOR), np.float32(1), np.float32(0)

    @numba.njit("void(int64[:, ::1])")  # type: ignore[misc, untyped-decorator, unused-ignore]
    def run(table: Any) -> None:
        for i in range(len(table)):
            r = table[i]
            sgemm(
                row_major, np.int32(r[0]), np.int32(r[1]), np.int32(r[2]), np.int32(r[3]),
                np.int32(r[4]), one, r[5], np.int32(r[6]), r[7], np.int32(r[8]), zero, r[9],
                np.int32(r[10]),
            )  # fmt: skip

    return run


class Floor:
    """The products of a cell's step, ready to be computed."""

    def __init__(self, cell: Cell) -> None:
        self._products = products(cell)  # kept: the table holds their addresses
        self._table = np.array([describe(p) for p in self._products], np.int64)
        self._run = compiled()
        for i, p in enumerate(self._products):
            self._run(self._table[i : i + 1])
            np.testing.assert_allclose(p.c, p.a @ p.b, rtol=1e-3)

    def step(self) -> None:
        """Compute all of them."""
        self._run(self._table)
