"""A pass for GPUs: in wide layers, products do what relu's gradient and that of a bias need.

The gradient before relu is a product, with 0 where relu gave none; that product leaves them out
itself, by bits that are written beside relu's result. The gradient of a bias sums the rows that the
product beside it reads. So no loop goes through either. Narrow layers are left as they are: what is
saved there is less than what a plain product is faster by.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nnx import dtypes
from nnx.graph import Eqn, Graph, Var, readers_of, same_shape
from nnx.kernels.cuda_gemm import GEMM, MASK, MASK_MULTIPLE, RELU, SUMS
from nnx.passes import dead_code, is_zero

WIDE = 1024
"""From so many columns on a product has such epilogues."""


def masked(graph: Graph, machine: Any) -> Graph:
    """Return a graph, whose products are in the words of cuBLASLt, with gradients inside them."""
    made = _Masked(graph, machine)
    return made.run() if made.is_wide else graph


class _Masked:
    def __init__(self, graph: Graph, machine: Any) -> None:
        self.graph, self.machine = graph, machine
        self.maker = {eqn.out: eqn for eqn in graph.eqns}
        self.readers = readers_of(graph)
        self.is_wide = any(map(_is_wide_product, graph.eqns))
        self.new: dict[Eqn, list[Eqn]] = {}
        """What comes in the place of an eqn."""

    def run(self) -> Graph:
        for eqn in self.graph.eqns:
            if eqn.op.name == "greater":
                self._mask(eqn)
            elif eqn.op.name == "sum":
                self._sums(eqn)
        eqns = [new for eqn in self.graph.eqns for new in self.new.get(eqn, [eqn])]
        return dead_code(self.graph.with_eqns(_ordered(eqns)))

    # Relu

    def _mask(self, positive: Eqn) -> None:
        """Let products leave out what relu left out, if only gradients ask where it did."""
        h, zero = positive.inputs
        if not isinstance(h, Var) or not is_zero(zero) or h not in self.maker:
            return
        ends = self.readers.get(positive.out, [])
        products = [self._left_out(eqn, positive.out, h) for eqn in ends]
        relu = self.maker[h]
        if not ends or positive.out in self.graph.outputs or not self._is_relu(relu):
            return
        found = [eqn for eqn in products if eqn is not None and self._does("drelu", eqn)]
        if len(found) < len(ends):
            return
        mask = Var((h.shape[0], h.shape[1] // 8), dtypes.uint8)
        self.new[relu] = self._relu_with(relu)
        self.new[positive] = [Eqn(MASK, (h,), {"dtype": dtypes.uint8}, mask, positive.place)]
        for eqn, end in zip(found, ends, strict=True):
            attrs = {**eqn.attrs, "epilogue": "drelu"}
            self.new[eqn] = []
            self.new[end] = [Eqn(GEMM, (*eqn.inputs, mask), attrs, end.out, eqn.place)]

    def _left_out(self, eqn: Eqn, positive: Var, h: Var) -> Eqn | None:
        """Return the product whose elements an eqn leaves out where there is no bit, if it does."""
        if eqn.op.name != "where" or eqn.inputs[0] is not positive or not is_zero(eqn.inputs[2]):
            return None
        product = self.maker.get(eqn.inputs[1])
        if product is None or not self._is_plain(product) or not _is_wide_product(product):
            return None
        x = product.out
        alone = self.readers[x] == [eqn] and x not in self.graph.outputs
        fits = same_shape(x.shape, h.shape) and eqn.out.dtype is x.dtype
        return product if alone and fits and same_shape(eqn.out.shape, x.shape) else None

    def _is_relu(self, eqn: Eqn) -> bool:
        """Return whether an eqn is relu of a product, for products."""
        if eqn.op is GEMM:
            return eqn.attrs["epilogue"] == "relu_bias"
        if eqn.op.name != "maximum" or not is_zero(eqn.inputs[1]):
            return False
        x = self.maker.get(eqn.inputs[0])
        readers = self.readers[eqn.out]
        return x is not None and x.op is GEMM and all(
            reader.op is GEMM or reader.op.name in ("permute_dims", "greater") for reader in readers
        )  # fmt: skip

    def _relu_with(self, relu: Eqn) -> list[Eqn]:
        """Return relu as what can write bits beside its result."""
        if relu.op is not GEMM:
            return [Eqn(RELU, relu.inputs[:1], {}, relu.out, relu.place)]
        if self._does("relu_aux_bias", relu):
            attrs = {**relu.attrs, "epilogue": "relu_aux_bias"}
            return [Eqn(GEMM, relu.inputs, attrs, relu.out, relu.place)]
        before = Var(relu.out.shape, relu.out.dtype)
        attrs = {**relu.attrs, "epilogue": "bias"}
        return [
            Eqn(GEMM, relu.inputs, attrs, before, relu.place),
            Eqn(RELU, (before,), {}, relu.out, relu.place),
        ]

    # Biases

    def _sums(self, eqn: Eqn) -> None:
        """Let the product beside a sum of rows make it, if there is one."""
        x = eqn.inputs[0]
        if len(x.shape) != 2 or eqn.attrs.get("axis") not in (0, (0,)):
            return
        cast = self.maker.get(x)
        if cast is not None and cast.op.name == "astype" and cast.inputs[0].dtype.bits == 16:
            x = cast.inputs[0]
        for product in self.readers.get(x, []):
            beside = product.op is GEMM and product.inputs[1] is x and len(product.out.shape) == 2
            if (
                beside
                and product not in self.new
                and self._is_plain(product)
                and _is_wide_product(product)
                and product.out.dtype is eqn.out.dtype
                and self._does("bgradb", product)
                and not self._depends(product, eqn)
            ):
                attrs = {**product.attrs, "epilogue": "bgradb"}
                self.new[product] = [Eqn(GEMM, product.inputs, attrs, product.out, product.place)]
                given = {"dtype": eqn.out.dtype, "keepdims": len(eqn.out.shape) == 2}
                self.new[eqn] = [Eqn(SUMS, (x, product.out), given, eqn.out, eqn.place)]
                return

    def _depends(self, product: Eqn, other: Eqn) -> bool:
        """Return whether a product needs what another eqn makes, to be made at all."""
        seen, waiting = set(), [product]
        while waiting:
            eqn = waiting.pop()
            if eqn is other:
                return True
            if eqn not in seen:
                seen.add(eqn)
                inputs = [x for new in self.new.get(eqn, [eqn]) for x in new.vars]
                waiting += [self.maker[x] for x in inputs if x in self.maker]
        return False

    # Products

    def _does(self, epilogue: str, product: Eqn) -> bool:
        kind, compute = product.inputs[0].dtype.name, product.attrs["compute"]
        return bool(self.machine.fuses(epilogue, kind, product.out.dtype.name, compute))

    @staticmethod
    def _is_plain(eqn: Eqn) -> bool:
        return eqn.op is GEMM and eqn.attrs["epilogue"] == "none"


def _is_wide_product(eqn: Eqn) -> bool:
    """Return whether an eqn is a product of narrow numbers with long rows, even as masks are."""
    if eqn.op is not GEMM or len(eqn.out.shape) != 2 or eqn.out.dtype is dtypes.float64:
        return False
    n = eqn.out.shape[1]
    narrow = eqn.inputs[0].dtype.bits == 16 or eqn.attrs["compute"] == "tf32"
    return narrow and type(n) is int and n >= WIDE and n % MASK_MULTIPLE == 0


def _ordered(eqns: Iterable[Eqn]) -> list[Eqn]:
    """Return eqns in an order in which each finds what it reads, else as they were."""
    eqns = list(eqns)
    maker = {eqn.out: eqn for eqn in eqns}
    found: dict[Eqn, None] = {}
    for eqn in eqns:
        waiting = [eqn]
        while waiting:
            before = [maker[x] for x in waiting[-1].vars if x in maker and maker[x] not in found]
            if before:
                waiting += before
            else:
                found[waiting.pop()] = None
    return list(found)
