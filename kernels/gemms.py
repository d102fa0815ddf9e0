"""Matrix products: calls of BLAS with transposes as flags, and plain loops for whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnx import shapes
from nnx.errors import TraceError
from nnx.graph import Eqn, Var
from nnx.kernels.blas import ONE_THREAD_BELOW
from nnx.kernels.expressions import cast_of, constant, written
from nnx.kernels.groups import is_view
from nnx.kernels.singles import Singles
from nnx.kernels.text import Scope
from nnx.scalar import Scalar


class Products(Singles):
    """Emits matrix products."""

    def _matmul(self, eqn: Eqn) -> None:
        x, y = eqn.inputs
        a, b = x.shape, y.shape
        if len(a) == 1:
            a = (1, *a)
        if len(b) == 1:
            b = (*b, 1)
        batch = shapes.broadcast(tuple(a[:-2]), tuple(b[:-2]))
        m, k, n = a[-2], a[-1], b[-1]
        if not eqn.out.dtype.is_floating:
            self._plain_product(eqn, a, b, batch)
            return
        outer = Scope(self.top, frozenset(), 1)
        names, scope = self._loops(batch, outer)
        cast = cast_of(eqn.out.dtype)
        left, ta, lda = self._matrix(x, a, names, scope, cast)
        right, tb, ldb = self._matrix(y, b, names, scope, cast)
        out = self.pointer[eqn.out]
        at = self.flat((*batch, m, n), (*names, "0", "0"))
        if at != "0":
            out = f"{cast}_shift({out}, {at})"
        sizes = ", ".join(map(self.size, (m, n, k)))
        self._allow_threads((m, n, k))
        scope.put(
            f"{cast}_gemm({ta}, {tb}, {sizes}, {left}, {lda}, {right}, {ldb}, {out}, "
            f"{self.size(n)})"
        )
        if scope is not outer:
            self._close(scope, outer)
        self.top.lines += outer.lines

    def _allow_threads(self, sizes: Sequence[Any]) -> None:
        """Emit how many threads the next product may use: one, if it is small.

        Where the limit is one, BLAS is told nothing, and so has no reason to look for threads.
        """
        work = shapes.size(sizes)
        if isinstance(work, Scalar):
            count = f"select({self.size(work)} < {ONE_THREAD_BELOW}, 1, threads)"
        else:
            count = "1" if work < ONE_THREAD_BELOW else "threads"
        if count != self.allowed:
            self.top.put("if threads != 1:")
            self.top.put(f"    blas_threads({count})")
            self.allowed = count

    def _matrix(
        self, x: Var, shape: Any, names: list[str], scope: Scope, cast: str
    ) -> tuple[str, int, str]:
        """Return the pointer, whether it is transposed, and the leading size of a factor."""
        transposed = 0
        rows, columns = shape[-2:]
        maker = self.plan.maker.get(x)
        while maker is not None and is_view(maker) and x not in self.pointer:
            name, axes = maker.op.name, maker.attrs.get("axes")
            n = len(x.shape)
            if name == "permute_dims" and n > 1:
                order = [a % n for a in axes]
                if order == [*range(n - 2), n - 1, n - 2]:
                    transposed ^= 1
                elif order != list(range(n)):
                    break
            elif name != "reshape":
                break
            x = maker.inputs[0]
            maker = self.plan.maker.get(x)
        if x not in self.pointer:
            raise TraceError(f"matmul: a factor of shape {shape} has no memory of its own.")
        pointer = self.pointer[x]
        lead = shape[:-2]
        used = names[len(names) - len(lead) :]
        at = self.flat((*lead, rows, columns), (*used, "0", "0")) if lead else "0"
        if at != "0":
            pointer = f"{cast}_shift({pointer}, {at})"
        return pointer, transposed, self.size(rows if transposed else columns)

    def _plain_product(self, eqn: Eqn, a: Any, b: Any, batch: Any) -> None:
        x, y = eqn.inputs
        outer = Scope(self.top, frozenset(), 1)
        names, scope = self._loops((*batch, a[-2], b[-1]), outer)
        lead, i, j = names[:-2], names[-2], names[-1]
        total = f"a{self.count}"
        self.count += 1
        dtype = eqn.out.dtype
        scope.put(f"{total} = {constant(0, dtype)}")
        (k,), inner = self._loops([a[-1]], scope)

        def at(v: Var, shape: Any, row: str, column: str) -> tuple[str, ...]:
            used = lead[len(lead) - len(shape) + 2 :]
            if len(v.shape) == 1:
                return (k,)
            return (*used, row, column)

        left = self.value(x, at(x, a, i, k), inner)
        right = self.value(y, at(y, b, k, j), inner)
        product = written("multiply", [left, right], dtype, dtype)
        inner.put(f"{total} = {written('add', [total, str(product)], dtype, dtype)}")
        if inner is not scope:
            self._close(inner, scope)
        place = self.flat((*batch, a[-2], b[-1]), names)
        scope.put(f"{self.pointer[eqn.out]}[{place}] = {total}")
        self._close(scope, outer)
        self.top.lines += outer.lines
