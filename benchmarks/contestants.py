"""The contestants of training steps: one step each, of the same problem.

One step is forward, loss, backward and update, and the loss as a Python float. Each library is
imported only by its own function: a contestant runs in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from nnx.benchmarks import problems
from nnx.benchmarks.by_hand import Trainer
from nnx.benchmarks.case import (
    DEVICES,
    PEERS,
    Case,
    UnavailableError,
    Variants,
    Work,
    nothing,
)
from nnx.benchmarks.problems import LEARNING_RATE, Cell, Problem

PRODUCTS = "products"
"""No contestant: the matrix products of the step alone, by the BLAS that nnx uses."""
NAMES = (*DEVICES, *PEERS, PRODUCTS)
AGREEMENT = 1e-3
CHECKED_STEPS, CHECKED_LOOPED_STEPS = 10, 2


def case(
    suite: str, cell: Cell, names: tuple[str, ...], reference: str, quick: bool = False
) -> Case:
    """Return the training step of a cell as a case; FLOPs and bytes are counted from its graph."""
    pairs = zip(cell.sizes, cell.sizes[1:], strict=False)
    work = 3 * cell.batch * sum(a * b for a, b in pairs)
    return Case(
        suite, cell.net, cell.name, cell, names, reference, work=work, quick=quick,
        tolerance=AGREEMENT,
    )  # fmt: skip


def variants(case: Case, contestant: str) -> Variants:
    """Return the step of a case by a contestant, in each of its usual settings."""
    cell = case.problem
    if contestant in DEVICES:
        return {contestant: lambda: _nnx(cell, contestant)}
    return TABLE[contestant](cell)


def expected(case: Case) -> list[Any]:
    """Return the losses of the first steps, by the step by hand in float64."""
    cell: Cell = case.problem
    problem = problems.make(cell)
    exact = problem._replace(
        x=problem.x.astype(np.float64),
        y=problem.y if cell.loss == "cross_entropy" else problem.y.astype(np.float64),
        weights=[w.astype(np.float64) for w in problem.weights],
        biases=[b.astype(np.float64) for b in problem.biases],
    )
    trainer = Trainer(cell, exact)
    return [np.array(trainer.step()) for _ in range(CHECKED_STEPS)]


def _work(step: Callable[[], float], reset: Callable[[], object], **more: Any) -> Work:
    """Return a step as a work whose results are its first losses."""

    def values(n: int = more.pop("checked", CHECKED_STEPS)) -> list[Any]:
        reset()
        return [np.array(step()) for _ in range(n)]

    return Work(step, values, reset, **more)


# nnx


def _nnx(cell: Cell, device: str) -> Work:
    """A step in nnx: eager on loops and numpy, under `nnx.jit` on the others."""
    compiled = device not in ("loops", "numpy")
    step, batch, model, opt = make_step(cell, device, compiled)
    weights = {key: np.array(value) for key, value in model.state_dict().items()}
    slots = opt.state_dict()

    def reset() -> None:
        model.load_state_dict(weights)
        opt.load_state_dict(slots)

    checked = CHECKED_LOOPED_STEPS if device == "loops" else CHECKED_STEPS
    more = {"stats": lambda: step.lower(*batch).stats()} if compiled else {}
    return _work(lambda: float(step(*batch)), reset, checked=checked, **more)


def make_step(
    cell: Cell, device: str = "numba", compiled: bool = True
) -> tuple[Any, list[Any], Any, Any]:
    """Return a cell's step, under `nnx.jit` or not, its batch, its network and its optimizer."""
    import nnx
    from nnx import nn

    problem = problems.make(cell)
    model = problems.make_model(cell, device)
    opt = problems.make_optimizer(cell, model)
    loss_of = getattr(nn, cell.loss)

    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    batch = [nnx.asarray(part, device=device) for part in (problem.x, problem.y)]
    return nnx.jit(step) if compiled else step, batch, model, opt


# Peers


def numpy_by_hand(cell: Cell) -> Variants:
    """The step written by hand in NumPy, with NumPy's own BLAS and its threads."""

    def make() -> Work:
        trainer = Trainer(cell, problems.make(cell))
        return _work(trainer.step, trainer.reset)

    return {"default threads": make}


def products(cell: Cell) -> Variants:
    """The matrix products of the step alone, on one thread and on all cores."""
    from nnx.benchmarks.floor import Floor
    from nnx.kernels.blas import set_threads

    def make(threads: int) -> Work:
        floor = Floor(cell)

        def reset() -> None:
            set_threads(threads)

        reset()
        return Work(floor.step, nothing, reset)

    counts = sorted({1, os.cpu_count() or 1})
    return {f"{n} threads" if n > 1 else "1 thread": lambda n=n: make(n) for n in counts}


# PyTorch


def torch_eager(cell: Cell, device: str = "cpu") -> Variants:
    """PyTorch as its tutorials write it; its fused optimizer is the other usual setting."""
    return {
        "default optimizer": lambda: _torch(cell, fused=None, compiled=(), device=device),
        "fused optimizer": lambda: _torch(cell, fused=True, compiled=(), device=device),
    }


def torch_compile(cell: Cell) -> Variants:
    """`torch.compile` of the network with its loss, and of the optimizer's step or a fused one."""
    return {
        "compiled loss, fused optimizer": lambda: _torch(cell, fused=True, compiled=("loss",)),
        "compiled loss, compiled optimizer": lambda: _torch(
            cell, fused=None, compiled=("loss", "optimizer")
        ),
    }


def _torch(cell: Cell, fused: bool | None, compiled: tuple[str, ...], device: str = "cpu") -> Work:
    import torch
    from torch import nn
    from torch.nn import functional

    check_torch(device)
    problem = problems.make(cell)
    layers: list[Any] = []
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Identity}[cell.activation]
    for n_in, n_out in zip(cell.sizes, cell.sizes[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), activation()]
    model = nn.Sequential(*layers[:-1]).to(device)
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[cell.optimizer]
    opt = rule(model.parameters(), lr=LEARNING_RATE, fused=fused)
    x, y = (torch.from_numpy(part).to(device) for part in (problem.x, problem.y))
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
    return _work(step, reset)


def check_torch(device: str) -> None:
    """Raise UnavailableError where PyTorch has no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("this PyTorch sees no GPU")


# JAX


def jax_device(platform: str) -> Any:
    """Return the first device of a platform. Raises: UnavailableError where there is none."""
    import jax

    try:
        return jax.devices(platform)[0]
    except RuntimeError:
        raise UnavailableError(f"this JAX sees no {platform}") from None


def jax_jit(cell: Cell, platform: str = "cpu") -> Variants:
    """One function of `jax.jit` for the whole step, its state donated."""
    return {"donated state": lambda: _jax(cell, platform)}


def _jax(cell: Cell, platform: str) -> Work:
    import jax

    jax.config.update("jax_default_device", jax_device(platform))
    problem = problems.make(cell)
    x, y = jax.device_put(problem.x), jax.device_put(problem.y)
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
    return _work(step, reset)


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
    "numpy-by-hand": numpy_by_hand,
    "torch": torch_eager,
    "torch-cuda": lambda cell: torch_eager(cell, "cuda"),
    "torch-compile": torch_compile,
    "jax": jax_jit,
    "jax-cuda": lambda cell: jax_jit(cell, "gpu"),
    PRODUCTS: products,
}
