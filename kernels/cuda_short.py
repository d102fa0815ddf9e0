"""A pass for GPUs: products of few and short sums as loops.

cuBLASLt takes some microseconds for the smallest product, and its results go through memory. As
elementwise products that are summed along rows, such a one is a part of a kernel: a warp takes an
element of the result, a bias and relu are done on the way, and other parts run beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nnx import dtypes
from nnx.graph import Eqn, Graph, Var, infer
from nnx.op import OPS, Op
from nnx.scalar import Env, resolve

LONGEST_SUM = 1024
"""Terms of a sum that one warp takes."""
WARP_TURNS = 1 << 15
"""Steps of all warps together, each of 32 terms: about 2 us on 132 multiprocessors, counting 64
sectors of cache read a step, and 4 a cycle of each multiprocessor."""

_SUM = OPS["sum"]
SHORT_SUM = Op("sum", "reduce", _SUM.shape, _SUM.eval, None, _SUM.doc, dtype="sum")
"""A sum along rows that are no longer than `LONGEST_SUM`, whatever their length is written as."""


def short_products(graph: Graph, env: Env, most_turns: int) -> frozenset[int]:
    """Return the positions of the products that are short for the sizes of a call."""
    return frozenset(i for i, eqn in enumerate(graph.eqns) if _is_short(eqn, env, most_turns))


def _is_short(eqn: Eqn, env: Env, most_turns: int) -> bool:
    if eqn.op.name != "matmul" or eqn.out.dtype not in (dtypes.float32, dtypes.float64):
        return False
    if any(len(x.shape) != 2 for x in eqn.vars):
        return False
    (m, k), (_, n) = (resolve(tuple(x.shape), env) for x in eqn.inputs)
    return bool(k <= LONGEST_SUM and 0 < m * n * -(-k // 32) <= most_turns)


def as_loops(graph: Graph, positions: Collection[int]) -> Graph:
    """Return a graph with the products at some positions as sums of elementwise ones."""
    eqns: list[Eqn] = []

    def put(op: Op, inputs: tuple[Any, ...], place: Any, **attrs: Any) -> Var:
        out = infer(op, inputs, attrs)
        eqns.append(Eqn(op, inputs, attrs, out, place))
        return out

    for i, eqn in enumerate(graph.eqns):
        if i not in positions:
            eqns.append(eqn)
            continue
        x, y = eqn.inputs
        (m, k), n = x.shape, y.shape[1]
        turned = put(OPS["permute_dims"], (y,), eqn.place, axes=(1, 0))
        rows = put(OPS["reshape"], (x,), eqn.place, shape=(m, 1, k))
        columns = put(OPS["reshape"], (turned,), eqn.place, shape=(1, n, k))
        terms = put(OPS["multiply"], (rows, columns), eqn.place)
        eqns.append(Eqn(SHORT_SUM, (terms,), {"axis": -1}, eqn.out, eqn.place))
    return graph.with_eqns(eqns)
