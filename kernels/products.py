"""Matrix products with one long size, written as sums of elementwise products.

They then share loops with what is before and after them, and are not calls of BLAS, which is slower
at these sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnx.graph import Eqn, Graph, Var, infer
from nnx.kernels.blas import LOOPS_UP_TO
from nnx.op import OPS
from nnx.scalar import Scalar


def short_products_as_sums(graph: Graph) -> Graph:
    """Return the graph with its smallest matrix products in elementwise ops and sums.

    Only where the innermost loop is then the long one.
    """
    maker = {eqn.out: eqn for eqn in graph.eqns}
    eqns: list[Eqn] = []
    for eqn in graph.eqns:
        eqns += _Writer(eqn, maker).written() if _is_short(eqn) else [eqn]
    return graph.with_eqns(eqns)


def _is_short(eqn: Eqn) -> bool:
    if eqn.op.name != "matmul" or not eqn.out.dtype.is_floating:
        return False
    x, y = (v.shape for v in eqn.inputs)
    if len(x) != 2 or len(y) != 2:
        return False
    m, k, n = x[0], x[1], y[1]
    (a, b), long = _two_smaller(m, k, n), _largest(m, k, n)
    if a is None or b is None or 0 in (a, b) or a * b > LOOPS_UP_TO:
        return False
    # A loop over two to four columns in each row would be slower than BLAS.
    return long != 0 or n == 1


def _largest(*sizes: Any) -> int:
    """Return which size is the largest; one that is known in a call only counts as that."""
    return max(range(len(sizes)), key=lambda i: _rank(sizes[i]))


def _rank(n: Any) -> float:
    return float("inf") if isinstance(n, Scalar) else n


def _two_smaller(*sizes: Any) -> tuple[Any, Any]:
    long = _largest(*sizes)
    a, b = (n for i, n in enumerate(sizes) if i != long)
    return (None, None) if isinstance(a, Scalar) or isinstance(b, Scalar) else (a, b)


class _Writer:
    """Writes one product as other eqns."""

    def __init__(self, eqn: Eqn, maker: dict[Var, Eqn]) -> None:
        self._eqn, self._maker = eqn, maker
        self._eqns: list[Eqn] = []

    def written(self) -> list[Eqn]:
        """Return the eqns; the last has the product's own result."""
        x, y = self._eqn.inputs
        m, k, n = x.shape[0], x.shape[1], y.shape[1]
        if _largest(m, k, n) == 1:
            self._sums(x, y)
        else:
            self._terms(x, y, k)
        last = self._eqns.pop()
        return [*self._eqns, Eqn(last.op, last.inputs, last.attrs, self._eqn.out, last.place)]

    def _put(self, name: str, inputs: Sequence[Any], **attrs: Any) -> Var:
        op = OPS[name]
        out = infer(op, inputs, attrs)
        self._eqns.append(Eqn(op, inputs, attrs, out, self._eqn.place))
        return out

    def _terms(self, x: Var, y: Var, k: int) -> None:
        """Write the product as x[:, 0:1] y[0:1, :] + x[:, 1:2] y[1:2, :] + ..."""
        total: Var | None = None
        for i in range(k):
            part = self._put("multiply", (self._cut(x, 1, i), self._cut(y, 0, i)))
            total = part if total is None else self._put("add", (total, part))

    def _sums(self, x: Var, y: Var) -> None:
        """Write each element of the product as a sum over the long size."""
        m, n = x.shape[0], y.shape[1]
        sums = []
        for i in range(m):
            for j in range(n):
                row, column = self._cut_across(x, i), self._cut(y, 1, j)
                sums.append(self._put("sum", (self._put("multiply", (row, column)),), axis=None))
        if len(sums) > 1:
            parts = [self._put("reshape", (s,), shape=(1,)) for s in sums]
            sums = [self._put("concat", parts, axis=0)]
        self._put("reshape", (sums[0],), shape=(m, n))

    def _cut(self, x: Var, axis: int, i: int) -> Var:
        """Return x[:, i:i+1], or x[i:i+1, :] for axis 0; x itself where it has no more."""
        if not isinstance(x.shape[axis], Scalar) and x.shape[axis] == 1:
            return x
        key = (slice(None), slice(i, i + 1)) if axis else (slice(i, i + 1), slice(None))
        return self._put("getitem", (x,), key=key)

    def _cut_across(self, x: Var, i: int) -> Var:
        """Return row i of x as a column; that of a transposed matrix is a column of its own."""
        below = self._maker.get(x)
        if below is not None and below.op.name == "permute_dims":
            return self._cut(below.inputs[0], 1, i)
        return self._put("permute_dims", (self._cut(x, 0, i),), axes=(1, 0))
