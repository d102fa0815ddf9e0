"""One dense layer, forward and backward: as a textbook loops it, on each device, and by peers.

Forward is y = x W + b. Backward has the gradients of x, W and b for given ones of y: two products
and a sum. Shapes: x (B, I), W (I, O), b (O,), y (B, O).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nnx
from nnx.benchmarks.case import DEVICES, WITH_LOOPS, Case, Variants, Work, on_device
from nnx.benchmarks.contestants import check_torch, jax_device

Array = NDArray[Any]
Row = list[float]


class Problem(NamedTuple):
    """The sizes of a layer and its batch, and whether its gradients are asked for."""

    n_in: int
    n_out: int
    batch: int
    backward: bool


PEERS = ("numpy-by-hand", "torch", "torch-cuda", "jax", "jax-cuda")


def _case(n_in: int, n_out: int, batch: int, backward: bool) -> Case:
    group = "dense layer, backward" if backward else "dense layer, forward"
    work = n_in * n_out * batch * (2 if backward else 1)
    n_bytes = 4 * (batch * n_in + n_in * n_out + batch * n_out) * (2 if backward else 1)
    return Case(
        "dense", group, f"{n_in}-{n_out}, batch {batch}, {'backward' if backward else 'forward'}",
        Problem(n_in, n_out, batch, backward), (WITH_LOOPS, *DEVICES, *PEERS), "numpy",
        work=work, quick=n_out == 16, flops=2 * work, n_bytes=n_bytes, tolerance=1e-6,
    )  # fmt: skip


CASES = tuple(
    _case(*sizes, backward)
    for sizes in ((784, 16, 32), (784, 128, 128), (784, 512, 1024))
    for backward in (False, True)
)


def _arrays(problem: Problem) -> list[Array]:
    """Return x, W, b and the gradients of y, in float32: the same bits at each call."""
    rng = np.random.default_rng(0)
    n_in, n_out, batch, _ = problem
    x = rng.random((batch, n_in))
    w = rng.uniform(-1, 1, (n_in, n_out)) / n_in**0.5
    b = rng.uniform(-1, 1, n_out) / n_in**0.5
    g = rng.uniform(-1, 1, (batch, n_out)) / batch
    return [a.astype(np.float32) for a in (x, w, b, g)]


def _forward(x: Any, w: Any, b: Any, g: Any) -> Any:
    return x @ w + b


def _backward(x: Any, w: Any, b: Any, g: Any) -> Any:
    return nnx.vjp(lambda x, w, b: x @ w + b, x, w, b)[1](g)


def textbook_forward(x: list[Row], w: list[Row], b: Row) -> list[Row]:
    """Return the layer's values, one example, one unit and one input at a time."""
    y = []
    for row in x:
        units = []
        for j in range(len(b)):
            z = b[j]
            for i in range(len(row)):
                z += row[i] * w[i][j]
            units.append(z)
        y.append(units)
    return y


def textbook_backward(
    x: list[Row], w: list[Row], b: Row, g: list[Row]
) -> tuple[list[Row], list[Row], Row]:
    """Return the gradients of x, w and b, by the same loops the other way."""
    dx = [[0.0] * len(w) for _ in x]
    dw = [[0.0] * len(b) for _ in w]
    db = [0.0] * len(b)
    for n in range(len(x)):
        for j in range(len(b)):
            d = g[n][j]
            db[j] += d
            for i in range(len(w)):
                dw[i][j] += x[n][i] * d
                dx[n][i] += w[i][j] * d
    return dx, dw, db


def _textbook(problem: Problem) -> Work:
    x, w, b, g = (a.tolist() for a in _arrays(problem))

    def run() -> Any:
        return textbook_backward(x, w, b, g) if problem.backward else textbook_forward(x, w, b)

    def values() -> list[Any]:
        return [np.array(a) for a in run()] if problem.backward else [np.array(run())]

    return Work(run, values)


def _numpy(problem: Problem) -> Work:
    x, w, b, g = _arrays(problem)

    def run() -> Any:
        if problem.backward:
            return g @ w.T, x.T @ g, g.sum(axis=0)
        return x @ w + b

    return Work(run, lambda: list(run()) if problem.backward else [run()])


def _torch(problem: Problem, device: str) -> Work:
    import torch

    check_torch(device)
    x, w, b, g = (torch.from_numpy(a).to(device) for a in _arrays(problem))
    inputs = [x, w, b]
    for tensor in inputs if problem.backward else ():
        tensor.requires_grad = True

    def run() -> Any:
        y = torch.addmm(b, x, w)
        out = torch.autograd.grad(y, inputs, g) if problem.backward else (y,)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    def values() -> list[Any]:
        return [np.array(t.detach().cpu().numpy()) for t in run()]

    return Work(run, values)


def _jax(problem: Problem, platform: str) -> Work:
    import jax

    device = jax_device(platform)
    args = [jax.device_put(a, device) for a in _arrays(problem)]

    def forward(x: Any, w: Any, b: Any, g: Any) -> Any:
        return (x @ w + b,)

    def backward(x: Any, w: Any, b: Any, g: Any) -> Any:
        return jax.vjp(lambda x, w, b: x @ w + b, x, w, b)[1](g)

    call = jax.jit(backward if problem.backward else forward)

    def run() -> Any:
        return jax.block_until_ready(call(*args))

    return Work(run, lambda: [np.array(a) for a in run()])


def variants(case: Case, contestant: str) -> Variants:
    """Return the layer by a contestant."""
    problem: Problem = case.problem
    makers: dict[str, Callable[[], Work]] = {
        WITH_LOOPS: lambda: _textbook(problem),
        "numpy-by-hand": lambda: _numpy(problem),
        "torch": lambda: _torch(problem, "cpu"),
        "torch-cuda": lambda: _torch(problem, "cuda"),
        "jax": lambda: _jax(problem, "cpu"),
        "jax-cuda": lambda: _jax(problem, "gpu"),
    }
    function = _backward if problem.backward else _forward
    return {
        contestant: makers.get(
            contestant, lambda: on_device(contestant, function, _arrays(problem))
        )
    }


def expected(case: Case) -> list[Array]:
    """Return the values, or the gradients of x, W and b, by NumPy in float64."""
    x, w, b, g = (a.astype(np.float64) for a in _arrays(case.problem))
    return [g @ w.T, x.T @ g, g.sum(axis=0)] if case.problem.backward else [x @ w + b]


def test_dense_layer(benchmark: Any, work: Any) -> None:
    """Time a dense layer under pytest-benchmark."""
    benchmark(work.run)
