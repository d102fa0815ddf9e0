"""What a step on a GPU has to do, counted from its own program: bytes, FLOPs, launches."""

from __future__ import annotations

import math
from typing import Any

from nnx.costs import flops
from nnx.kernels.cuda_step import Product
from nnx.scalar import resolve


def counts(program: Any, env: dict[str, Any]) -> dict[str, int]:
    """Return the counts of a `CudaProgram` for the sizes of a call.

    Each kernel reads and writes its arrays once, as each product does its matrices: what goes
    through memory where no cache keeps it. ``launches`` are kernels and products.
    """
    runs = program.emission(env).step.runs
    found = {"flops": 0, "bytes": 0, "launches": len(runs)}
    for run in runs:
        n_flops, n_bytes = (_of_product if isinstance(run, Product) else _of_kernel)(run, env)
        found["flops"] += n_flops
        found["bytes"] += n_bytes
    return found


def epilogues(program: Any, env: dict[str, Any]) -> list[str]:
    """Return what is done with each product of a `CudaProgram`, in their order."""
    runs = program.emission(env).step.runs
    return [run.epilogue for run in runs if isinstance(run, Product)]


def _of_product(product: Any, env: dict[str, Any]) -> tuple[int, int]:
    m, k, n = product.m(env), product.k(env), product.n(env)
    count = math.prod(size(env) for size in product.batch)
    width, out_width = product.dtype.itemsize, product.eqn.out.dtype.itemsize
    return 2 * count * m * k * n, count * (width * (m * k + k * n) + out_width * m * n)


def _of_kernel(launch: Any, env: dict[str, Any]) -> tuple[int, int]:
    def sizes(x: Any) -> tuple[int, ...]:
        return resolve(tuple(x.shape), env)

    parts = launch.parts
    n_flops = sum(
        flops(eqn.op, list(map(sizes, eqn.vars)), sizes(eqn.out))
        for part in parts for eqn in part.eqns
    )  # fmt: skip
    n_bytes = sum(
        math.prod(sizes(x)) * x.dtype.itemsize
        for part in parts for x in (*part.reads, *part.writes)
    )  # fmt: skip
    return n_flops, n_bytes
