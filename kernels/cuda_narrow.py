"""A pass for GPUs: what products make for products is kept in the 16 bits that those read.

Where float32 is multiplied as bfloat16 or float16, each factor is rounded. A value that is read as
a factor, and otherwise only where rounding it earlier changes nothing, is written rounded: half the
bytes, and no loop that converts it. Such readers are relu's gradient, which leaves numbers out and
asks what is above 0 (a number that rounds to 0 is not); and the gradient of a bias, which is a
product like that of the weights beside it, with ones as the other factor.
"""

from __future__ import annotations

from typing import Any

from nnx import dtypes
from nnx.dtypes import DType
from nnx.graph import Eqn, Graph, Var, readers_of, same_shape
from nnx.kernels.cuda_gemm import GEMM
from nnx.op import OPS
from nnx.passes import is_zero

COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})


def narrowed(graph: Graph, kind: DType) -> Graph:
    """Return a graph, whose products are in the words of cuBLASLt, with ``kind`` between them."""
    return _Narrowed(graph, kind).run()


class _Narrowed:
    def __init__(self, graph: Graph, kind: DType) -> None:
        self.graph, self.kind = graph, kind
        self.readers = readers_of(graph)
        self.kept = {eqn.out for eqn in reversed(graph.eqns) if self._has_factor(eqn.out)}
        self.kept = {x for x in self.kept if self._may_be_narrow(x)}
        self.narrow: dict[Var, Var] = {}
        self.eqns: list[Eqn] = []

    def run(self) -> Graph:
        for eqn in self.graph.eqns:
            if self._is_cast(eqn) and eqn.inputs[0] in self.kept:
                self.narrow[eqn.out] = self.narrow[eqn.inputs[0]]
            else:
                self._add(eqn)
        return self.graph.with_eqns(self.eqns)

    # Which values

    def _has_factor(self, x: Var) -> bool:
        """Return whether a value, as it is or with elements left out, is a rounded factor."""
        return x.dtype is dtypes.float32 and any(
            self._is_cast(eqn) or (self._leaves_out(eqn, x) and self._has_factor(eqn.out))
            for eqn in self.readers.get(x, ())
        )

    def _may_be_narrow(self, x: Var) -> bool:
        """Return whether no reader of a value would find another one, were it rounded earlier."""
        if x in self.graph.outputs:
            return False
        return all(
            self._is_cast(eqn)
            or _compares_with_zero(eqn)
            or (self._leaves_out(eqn, x) and eqn.out in self.kept and self._may_be_narrow(eqn.out))
            or self._is_gradient_of_bias(eqn, x)
            for eqn in self.readers[x]
        )

    def _is_cast(self, eqn: Eqn) -> bool:
        return eqn.op.name == "astype" and eqn.out.dtype is self.kind and _is_single(eqn.inputs[0])

    @staticmethod
    def _leaves_out(eqn: Eqn, x: Var) -> bool:
        """Return whether an eqn gives the elements of a value, or 0 instead."""
        if eqn.op.name not in ("where", "maximum", "minimum") or eqn.out.dtype is not x.dtype:
            return False
        given = eqn.inputs[-2:]
        others = [y for y in given if y is not x]
        whole = same_shape(eqn.out.shape, x.shape) and x not in eqn.inputs[:-2]
        return whole and len(others) == 1 and is_zero(others[0])

    def _is_gradient_of_bias(self, eqn: Eqn, x: Var) -> bool:
        """Return whether an eqn sums the rows of a value that a product sums them with."""
        if eqn.op.name != "sum" or len(x.shape) != 2 or eqn.attrs.get("axis") not in (0, (0,)):
            return False
        casts = [reader.out for reader in self.readers[x] if self._is_cast(reader)]
        return any(self._sums_rows(y) for y in casts)

    def _sums_rows(self, factor: Var) -> bool:
        for eqn in self.readers.get(factor, ()):
            if eqn.op is GEMM and eqn.inputs[1] is factor:
                return True
            turned = eqn.op.name == "permute_dims" and len(factor.shape) == 2
            if turned and any(
                reader.op is GEMM and reader.inputs[0] is eqn.out
                for reader in self.readers.get(eqn.out, ())
            ):
                return True
        return False

    # The graph

    def _add(self, eqn: Eqn) -> None:
        """Add an eqn that reads and makes narrow values where they are."""
        if eqn.op.name == "sum" and eqn.inputs[0] in self.kept:
            inputs = [self._cast(self.narrow[eqn.inputs[0]], dtypes.float32, eqn)]
        else:
            inputs = [self.narrow.get(x, x) if isinstance(x, Var) else x for x in eqn.inputs]
        if eqn.out not in self.kept:
            self.eqns.append(Eqn(eqn.op, inputs, eqn.attrs, eqn.out, eqn.place))
            return
        if eqn.op is GEMM:
            attrs = {**eqn.attrs, "dtype": self.kind}
            # A bias has the type of the result.
            inputs[2:] = [self._cast(x, self.kind, eqn) for x in inputs[2:]]
        elif any(x in self.kept and self._leaves_out(eqn, x) for x in eqn.vars):
            attrs = eqn.attrs
        else:
            self.eqns.append(Eqn(eqn.op, inputs, eqn.attrs, eqn.out, eqn.place))
            self.narrow[eqn.out] = self._cast(eqn.out, self.kind, eqn)
            return
        out = self.narrow[eqn.out] = Var(eqn.out.shape, self.kind)
        self.eqns.append(Eqn(eqn.op, inputs, attrs, out, eqn.place))

    def _cast(self, x: Var, kind: DType, reader: Eqn) -> Var:
        out = Var(x.shape, kind)
        self.eqns.append(Eqn(OPS["astype"], (x,), {"dtype": kind}, out, reader.place))
        return out


def _is_single(x: Any) -> bool:
    return isinstance(x, Var) and x.dtype is dtypes.float32


def _compares_with_zero(eqn: Eqn) -> bool:
    return eqn.op.name in COMPARISONS and any(map(is_zero, eqn.inputs))
