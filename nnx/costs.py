"""What an op costs at least: floating-point operations, by its name, its kind and its sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnx.op import Op

Sizes = Sequence[int]


def flops(op: Op, inputs: Sequence[Sizes], out: Sizes) -> int:
    """Return the FLOPs of an op: 2 m n k for a product, one for each element of its largest array
    for elementwise ops and reductions, whatever the function, and none where elements only move.

    >>> from nnx.op import OPS
    >>> flops(OPS["matmul"], [(32, 784), (784, 16)], (32, 16))
    802816
    """
    counts = [math.prod(shape) for shape in (out, *inputs)]
    if op.kind == "contract":
        return _of_product(op.name, inputs, counts)
    return max(counts) if op.kind in ("elementwise", "reduce") else 0


def _of_product(name: str, inputs: Sequence[Sizes], counts: Sequence[int]) -> int:
    if name == "vecdot":
        return 2 * max(counts)
    if name == "tensordot":
        # Both factors have the summed axes, the result neither.
        return 2 * math.isqrt(math.prod(counts))
    bias = counts[0] if len(inputs) > 2 else 0
    return 2 * counts[0] * inputs[0][-1] + bias
