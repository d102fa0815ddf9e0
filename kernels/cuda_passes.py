"""Passes for GPUs: in which precision matrices are multiplied, and what is done with the result."""

from __future__ import annotations

from typing import Any

from nnx import dtypes
from nnx.dtypes import DType
from nnx.graph import Eqn, Graph, Var, readers_of, same_shape
from nnx.kernels.cuda_gemm import GEMM
from nnx.kernels.cuda_masks import masked
from nnx.kernels.cuda_narrow import narrowed
from nnx.kernels.groups import is_view
from nnx.op import OPS
from nnx.passes import dead_code, is_zero
from nnx.scalar import Scalar

COMPUTE = {"float16": "float32", "bfloat16": "float32", "float64": "float64"}
"""In which precision products of other types than float32 are summed."""
NARROW = {"medium": dtypes.bfloat16, "float16": dtypes.float16}
"""To which type factors of float32 are rounded."""


def products(graph: Graph, precision: str, machine: Any) -> Graph:
    """Return the graph with its products in the words of cuBLASLt.

    ``precision`` is how float32 is multiplied: "highest" as it is, "high" as TF32, "medium" as
    bfloat16, "float16" as that, each summed in float32; as it is on a machine without
    ``has_narrow_products``. A bias, and relu after it, become part of the product before them,
    where nothing else reads that, and the machine ``fuses`` them. What is between narrow products
    is kept narrow (`nnx.kernels.cuda_narrow`); gradients become part of wide ones
    (`nnx.kernels.cuda_masks`).
    """
    precision = precision if machine.has_narrow_products else "highest"
    found = _Products(graph, precision, machine).run()
    if precision in NARROW:
        found = narrowed(found, NARROW[precision])
    return masked(found, machine)


class _Products:
    def __init__(self, graph: Graph, precision: str, machine: Any) -> None:
        self.graph, self.precision, self.machine = graph, precision, machine
        self.maker = {eqn.out: eqn for eqn in graph.eqns}
        self.readers = readers_of(graph)
        self.cast: dict[Var, Var] = {}
        self.eqns: list[Eqn] = []

    def run(self) -> Graph:
        chains = [self._chain(e) for e in self.graph.eqns if _is_product(e)]
        # Each at the place of its last eqn: what that reads is made by then.
        last = {chain[-1]: chain for chain in chains}
        inner = {eqn for chain in chains for eqn in chain[:-1]}
        for eqn in self.graph.eqns:
            if eqn in last:
                self._product(last[eqn])
            elif eqn not in inner:
                self.eqns.append(eqn)
        return dead_code(self.graph.with_eqns(self.eqns))  # views whose converted twins are read

    def _kind(self, eqn: Eqn) -> tuple[DType, str]:
        """Return the type of a product's factors, and in which precision it is summed."""
        kind = eqn.out.dtype
        if kind is not dtypes.float32:
            return kind, COMPUTE[kind.name]
        if self.precision in NARROW:
            return NARROW[self.precision], "float32"
        return kind, "tf32" if self.precision == "high" else "float32"

    def _chain(self, eqn: Eqn) -> list[Eqn]:
        """Return a product with the eqns that become part of it: a bias, then relu."""
        chain = [eqn]
        length = eqn.inputs[0].shape[-1]
        # A sum of no products is no product, but has a bias.
        some = not isinstance(length, Scalar) and length > 0
        if len(eqn.out.shape) != 2 or eqn.out.dtype is dtypes.float64 or not some:
            return chain
        add = self._only_reader(eqn.out)
        if add is None or add.op.name != "add" or self._bias(add, eqn.out) is None:
            return chain
        chain.append(add)
        relu = self._only_reader(add.out)
        if relu is not None and _is_relu(relu, add.out) and self._fuses_relu(eqn):
            chain.append(relu)
        return chain

    def _fuses_relu(self, product: Eqn) -> bool:
        kind, compute = self._kind(product)
        return bool(self.machine.fuses("relu_bias", kind.name, product.out.dtype.name, compute))

    def _only_reader(self, x: Var) -> Eqn | None:
        readers = self.readers.get(x, [])
        return readers[0] if len(readers) == 1 and x not in self.graph.outputs else None

    def _bias(self, add: Eqn, product: Var) -> Var | None:
        """Return the other term of a sum, if it is a vector in memory as long as a row."""
        for x, y in (add.inputs, add.inputs[::-1]):
            if x is product and isinstance(y, Var) and y.dtype is product.dtype:
                maker = self.maker.get(y)
                if same_shape(y.shape, product.shape[-1:]) and not (maker and is_view(maker)):
                    return y
        return None

    def _product(self, chain: list[Eqn]) -> None:
        eqn, last = chain[0], chain[-1]
        kind, compute = self._kind(eqn)
        inputs = [self._as(x, kind) for x in eqn.inputs]
        if len(chain) > 1:
            bias = self._bias(chain[1], eqn.out)
            assert bias is not None
            inputs.append(bias)
        epilogue = ("none", "bias", "relu_bias")[len(chain) - 1]
        attrs = {"compute": compute, "epilogue": epilogue, "dtype": eqn.out.dtype}
        self.eqns.append(Eqn(GEMM, inputs, attrs, last.out, eqn.place))

    def _as(self, x: Var, kind: DType) -> Var:
        """Return a factor in another type: a view of one is a view of the converted."""
        if x.dtype is kind:
            return x
        if x not in self.cast:
            maker = self.maker.get(x)
            if maker is not None and maker.op.name in ("permute_dims", "reshape"):
                below = self._as(maker.inputs[0], kind)
                eqn = Eqn(maker.op, (below,), maker.attrs, Var(x.shape, kind), maker.place)
            else:
                place = maker.place if maker is not None else ("", 0)
                eqn = Eqn(OPS["astype"], (x,), {"dtype": kind}, Var(x.shape, kind), place)
            self.eqns.append(eqn)
            self.cast[x] = eqn.out
        return self.cast[x]


def _is_product(eqn: Eqn) -> bool:
    return eqn.op.name == "matmul" and eqn.out.dtype.is_floating


def _is_relu(eqn: Eqn, x: Var) -> bool:
    if eqn.op.name != "maximum" or eqn.out.dtype is not x.dtype:
        return False
    return (eqn.inputs[0] is x and is_zero(eqn.inputs[1])) or (
        eqn.inputs[1] is x and is_zero(eqn.inputs[0])
    )
