"""Single operations: products, activations and their gradients, softmax, sums; by device and size.

The sizes go from what a call costs to arrays that leave the caches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nnx
from nnx.benchmarks.case import DEVICES, Case, Variants, on_device

Array = NDArray[Any]


class Op(NamedTuple):
    """An operation in nnx, and by plain NumPy in float64; of some also the derivative.

    ``cost`` is how many scalar operations an element is worth in Python loops.
    """

    function: Callable[..., Any]
    exact: Callable[..., Any]
    slope: Callable[[Array], Array] | None = None
    cost: int = 1


def _erf(x: Array) -> Array:
    return np.frompyfunc(math.erf, 1, 1)(x).astype(np.float64)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gelu_slope(x: Array) -> Array:
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + _erf(x / math.sqrt(2))) + x * density


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


OPS = {
    "matmul": Op(nnx.matmul, np.matmul),
    "relu": Op(nnx.relu, lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float64)),
    "sigmoid": Op(nnx.sigmoid, _sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x)), 4),
    "tanh": Op(nnx.tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, 2),
    "gelu": Op(nnx.gelu, lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))), _gelu_slope, 8),
    "softmax": Op(nnx.softmax, _softmax, cost=6),
    "sum": Op(nnx.sum, np.sum),
    "sum of columns": Op(lambda x: nnx.sum(x, axis=0), lambda x: np.sum(x, axis=0)),
    "largest of rows": Op(lambda x: nnx.max(x, axis=-1), lambda x: np.max(x, axis=-1)),
}
GRADIENT = " gradient"


class Problem(NamedTuple):
    """An operation, whether its gradient, and the shapes of its arrays."""

    op: str
    gradient: bool
    shapes: tuple[tuple[int, ...], ...]


def _arrays(problem: Problem) -> list[Array]:
    """Return the inputs: the same bits at each call; a gradient's come with its weights."""
    rng = np.random.default_rng(0)
    shapes = problem.shapes * 2 if problem.gradient else problem.shapes
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _case(op: str, gradient: bool, *shapes: tuple[int, ...], quick: bool = False) -> Case:
    n = [math.prod(shape) for shape in shapes]
    group = op + GRADIENT * gradient
    size = "x".join(map(str, shapes[0]))
    cost = OPS[op].cost
    flops, n_bytes = n[0], 8 * n[0]
    work = n[0] * cost
    if op == "matmul":
        rows, inner, columns = *shapes[0], shapes[1][1]
        flops = 2 * rows * inner * columns
        work, n_bytes = flops // 2, 4 * (sum(n) + rows * columns)
    elif op in ("sum", "sum of columns", "largest of rows"):
        n_bytes = 4 * n[0]
    elif gradient:
        flops, work, n_bytes = 2 * flops, 2 * work, 12 * n[0]
    return Case(
        "ops", group, f"{group} {size}", Problem(op, gradient, shapes), DEVICES, "numpy",
        work=work, quick=quick, flops=flops, n_bytes=n_bytes,
    )  # fmt: skip


SIZES = (1_000, 100_000, 10_000_000)
CASES = (
    *(_case("matmul", False, (n, n), (n, n), quick=n < 1000) for n in (32, 256, 1024)),
    *(
        _case(op, gradient, (n,), quick=n == 100_000 and op in ("relu", "tanh"))
        for op in ("relu", "sigmoid", "tanh", "gelu")
        for gradient in (False, True)
        for n in SIZES
    ),
    *(
        _case(op, False, shape, quick=shape == (1000, 100) and op in ("softmax", "sum"))
        for op in ("softmax", "sum", "sum of columns", "largest of rows")
        for shape in ((32, 10), (1000, 100), (4000, 2500))
    ),
)


def _function(problem: Problem) -> Callable[..., Any]:
    function = OPS[problem.op].function
    if not problem.gradient:
        return function

    def gradient(x: Any, weights: Any) -> Any:
        return nnx.vjp(function, x)[1](weights)

    return gradient


def variants(case: Case, contestant: str) -> Variants:
    """Return the operation on a device, on arrays that lie there."""
    problem = case.problem
    return {contestant: lambda: on_device(contestant, _function(problem), _arrays(problem))}


def expected(case: Case) -> list[Array]:
    """Return the result by NumPy in float64."""
    problem: Problem = case.problem
    op = OPS[problem.op]
    arrays = [a.astype(np.float64) for a in _arrays(problem)]
    if not problem.gradient:
        return [op.exact(*arrays)]
    assert op.slope is not None
    return [op.slope(arrays[0]) * arrays[1]]


def test_op(benchmark: Any, work: Any) -> None:
    """Time an operation under pytest-benchmark."""
    benchmark(work.run)
