"""The contestants of the training-step benchmark: one training step each, of the same problem.

A contestant is a function from a cell to its variants, by name of the setting. Where a library has
several usual settings, the fastest in the cell is measured. Each library is imported only by its
own function: a contestant runs in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import problems
from benchmarks.problems import LEARNING_RATE, Cell, Problem


class Variant(NamedTuple):
    """One setting of a contestant.

    ``step`` takes one training step and returns the loss before it as a Python float (None where
    there is no loss); ``reset`` goes back to the first weights and a fresh optimizer.
    """

    step: Callable[[], float | None]
    reset: Callable[[], object]


Variants = dict[str, Callable[[], Variant]]


def nnx_jit(cell: Cell) -> Variants:
    """`nnx.jit` on the device "numba"."""
    return {"numba": lambda: _nnx(cell)}


def _nnx(cell: Cell) -> Variant:
    import numpy as np

    step, batch, model, opt = compiled_step(cell)
    weights = {key: np.array(value) for key, value in model.state_dict().items()}
    slots = opt.state_dict()

    def reset() -> None:
        model.load_state_dict(weights)
        opt.load_state_dict(slots)

    return Variant(lambda: float(step(*batch)), reset)


def compiled_step(cell: Cell) -> tuple[Any, list[Any], Any, Any]:
    """Return a cell's step under `nnx.jit`, its batch, its network and its optimizer."""
    import nnx
    from nnx import nn

    problem = problems.make(cell)
    model = problems.make_model(cell, "numba")
    opt = problems.make_optimizer(cell, model)
    loss_of = getattr(nn, cell.loss)

    @nnx.jit
    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step, [nnx.asarray(part, device="numba") for part in (problem.x, problem.y)], model, opt


def numpy_by_hand(cell: Cell) -> Variants:
    """The step written by hand in NumPy, with NumPy's own BLAS and its threads."""
    from benchmarks.by_hand import Trainer

    def make() -> Variant:
        trainer = Trainer(cell, problems.make(cell))
        return Variant(trainer.step, trainer.reset)

    return {"default threads": make}


def floor(cell: Cell) -> Variants:
    """The matrix products of the step alone, on one thread and on all cores."""
    from benchmarks.floor import Floor
    from nnx.kernels.blas import set_threads

    def make(threads: int) -> Variant:
        products = Floor(cell)

        def reset() -> None:
            set_threads(threads)

        reset()
        return Variant(products.step, reset)

    counts = sorted({1, os.cpu_count() or 1})
    return {f"{n} threads" if n > 1 else "1 thread": lambda n=n: make(n) for n in counts}


# PyTorch


def torch_eager(cell: Cell) -> Variants:
    """PyTorch as its tutorials write it; its fused optimizer is the other usual setting."""
    return {
        "default optimizer": lambda: _torch(cell, fused=None, compiled=()),
        "fused optimizer": lambda: _torch(cell, fused=True, compiled=()),
    }


def torch_compile(cell: Cell) -> Variants:
    """`torch.compile` of the network with its loss, and of the optimizer's step or a fused one."""
    return {
        "compiled loss, fused optimizer": lambda: _torch(cell, fused=True, compiled=("loss",)),
        "compiled loss, compiled optimizer": lambda: _torch(
            cell, fused=None, compiled=("loss", "optimizer")
        ),
    }


def _torch(cell: Cell, fused: bool | None, compiled: tuple[str, ...]) -> Variant:
    import torch
    from torch import nn
    from torch.nn import functional

    problem = problems.make(cell)
    layers: list[Any] = []
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Identity}[cell.activation]
    for n_in, n_out in zip(cell.sizes, cell.sizes[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), activation()]
    model = nn.Sequential(*layers[:-1])
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[cell.optimizer]
    opt = rule(model.parameters(), lr=LEARNING_RATE, fused=fused)
    x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)
    criterion = {
        "cross_entropy": functional.cross_entropy,
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    }[cell.loss]

    def loss_of(x: Any, y: Any) -> Any:
        return criterion(model(x), y)

    update = opt.step
    if "loss" in compiled:
        loss_of = torch.compile(loss_of)
    if "optimizer" in compiled:
        update = torch.compile(opt.step)

    def step() -> float:
        opt.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        update()
        return loss.item()

    @torch.no_grad()
    def reset() -> None:
        linears = [layer for layer in model if isinstance(layer, nn.Linear)]
        for linear, w, b in zip(linears, problem.weights, problem.biases, strict=True):
            linear.weight.copy_(torch.from_numpy(w.T))
            linear.bias.copy_(torch.from_numpy(b))
        for slots in opt.state.values():
            for slot in slots.values():
                if torch.is_tensor(slot):
                    slot.zero_()

    reset()
    return Variant(step, reset)


# JAX


def jax_jit(cell: Cell) -> Variants:
    """One function of `jax.jit` for the whole step, its state donated."""
    return {"donated state": lambda: _jax(cell)}


def _jax(cell: Cell) -> Variant:
    import jax
    import jax.numpy as jnp

    problem = problems.make(cell)
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    step_of = jax.jit(_jax_step(cell), donate_argnums=0)
    state: Any = None

    def reset() -> None:
        nonlocal state
        state = _jax_state(problem, cell)

    def step() -> float:
        nonlocal state
        state, loss = step_of(state, x, y)
        return float(loss)

    reset()
    return Variant(step, reset)


def _jax_state(problem: Problem, cell: Cell) -> Any:
    """Return the parameters, and for Adam both means and the step count, as fresh arrays."""
    import jax
    import jax.numpy as jnp

    pairs = zip(problem.weights, problem.biases, strict=True)
    params = [(jnp.array(w), jnp.array(b)) for w, b in pairs]
    if cell.optimizer == "sgd":
        return params

    def zeros() -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    return params, zeros(), zeros(), jnp.zeros((), jnp.float32)


def _jax_step(cell: Cell) -> Callable[..., Any]:
    """Return the training step of a cell as a pure function."""
    import jax
    import jax.numpy as jnp

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for w, b in params[:-1]:
            x = x @ w + b
            x = jax.nn.relu(x) if cell.activation == "relu" else jnp.tanh(x)
        w, b = params[-1]
        z = x @ w + b
        if cell.loss == "binary_cross_entropy":
            return jnp.mean(jax.nn.softplus(z) - z * y)
        picked = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)

    def sgd(params: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads), loss

    def adam(state: Any, x: Any, y: Any) -> Any:
        params, means, squares, count = state
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        count = count + 1
        rate, root = LEARNING_RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, grads)
        squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, grads)
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, means, squares
        )
        return (params, means, squares, count), loss

    return sgd if cell.optimizer == "sgd" else adam


TABLE: dict[str, Callable[[Cell], Variants]] = {
    "nnx": nnx_jit,
    "numpy": numpy_by_hand,
    "torch": torch_eager,
    "torch-compile": torch_compile,
    "jax": jax_jit,
    "floor": floor,
}
PEERS = {"torch": "torch", "torch-compile": "torch", "jax": "jax"}
"""The contestants that are here only where a library is installed, and the library."""
