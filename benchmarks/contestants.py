"""The contestants of training steps: one step each, of the same problem.

One step is forward, loss, backward and update, and the loss as a Python float. Each library is
imported only by its own function: a contestant runs in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnx.benchmarks import problems
from nnx.benchmarks.by_hand import Trainer
from nnx.benchmarks.case import (
    DEVICES,
    PEERS,
    Case,
    Clock,
    UnavailableError,
    Variants,
    Work,
    nothing,
)
from nnx.benchmarks.problems import LEARNING_RATE, Cell, Problem

PRODUCTS = "products"
"""No contestant: the matrix products of the step alone, by the BLAS that nnx uses."""
NAMES = (*DEVICES, *PEERS, PRODUCTS)
WHOLE = (PRODUCTS,)
"""Whose makers return a work."""
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
    return {
        setting: lambda make=make: make() if contestant in WHOLE else work_of(make())
        for setting, make in makers(case.problem, contestant).items()
    }


def makers(cell: Cell, contestant: str) -> dict[str, Callable[[], Any]]:
    """Return what makes a contestant's `Steps` by setting; of `WHOLE` ones, what makes a work."""
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


class Steps(NamedTuple):
    """A training step: ``start`` does one, or starts one on its device, and returns its loss.

    ``clock`` is that of `Work`. The first ``checked`` losses after a ``reset`` are compared.
    """

    start: Callable[[], Any]
    reset: Callable[[], object]
    clock: Clock
    checked: int = CHECKED_STEPS
    stats: Callable[[], dict[str, Any]] = dict


Makers = dict[str, Callable[[], Steps]]


def work_of(steps: Steps, queued: bool = False) -> Work:
    """Return a step as a work whose results are its first losses.

    The loss of each step is read before the next one; or the steps are queued, and waited for at
    the end of a block.
    """

    def values() -> list[Any]:
        steps.reset()
        return [np.array(float(steps.start())) for _ in range(steps.checked)]

    if queued:
        return Work(steps.start, values, steps.reset, stats=steps.stats, clock=steps.clock)
    return Work(lambda: float(steps.start()), values, steps.reset, stats=steps.stats)


def waiting_clock(wait: Callable[[], object]) -> Clock:
    """Return the clock of a device that keeps no time."""

    def read() -> None:
        wait()

    def clock() -> Callable[[], None]:
        wait()
        return read

    return clock


# nnx


def _nnx(cell: Cell, device: str) -> Steps:
    """A step in nnx: eager on loops and numpy, under `nnx.jit` on the others."""
    compiled = device not in ("loops", "numpy")
    set_precision(cell)
    step, batch, model, opt = make_step(cell, device, compiled)
    weights = {key: np.array(value) for key, value in model.state_dict().items()}
    slots = opt.state_dict()

    def reset() -> None:
        model.load_state_dict(weights)
        opt.load_state_dict(slots)

    checked = CHECKED_LOOPED_STEPS if device == "loops" else CHECKED_STEPS
    more = {"stats": lambda: program_stats(step, batch)} if compiled else {}
    return Steps(lambda: step(*batch), reset, nnx_clock(device), checked, **more)


def set_precision(cell: Cell) -> None:
    """Let nnx form products as a cell asks. Raises: UnavailableError where it cannot."""
    import nnx

    if hasattr(nnx, "set_matmul_precision"):
        nnx.set_matmul_precision(cell.precision)
    elif cell.precision != "highest":
        raise UnavailableError("this nnx has no set_matmul_precision")


def nnx_clock(device: str) -> Clock:
    """Return the clock of a device of nnx: a GPU's events."""
    import nnx

    found = nnx.device(device)
    return cuda_clock() if found.name.startswith("cupy") else waiting_clock(found.synchronize)


def cuda_clock() -> Clock:
    """Return the clock of CuPy's current stream."""
    import cupy  # type: ignore[import-not-found, unused-ignore]

    def clock() -> Callable[[], float]:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        cupy.cuda.Device().synchronize()
        start.record()

        def read() -> float:
            end.record()
            end.synchronize()
            return 1e-3 * float(cupy.cuda.get_elapsed_time(start, end))

        return read

    return clock


def program_stats(function: Any, arguments: list[Any]) -> dict[str, Any]:
    """Return the counts of a jitted call; on a GPU those of its program's own parts, and what is
    done with its products.
    """
    from nnx.benchmarks.gpu_parts import counts, epilogues

    lowered = function.lower(*arguments)
    program, env = lowered._entry.program(), lowered._entry.example
    if not hasattr(program, "step"):
        return lowered.stats()  # type: ignore[no-any-return]
    return lowered.stats() | counts(program, env) | {"epilogues": epilogues(program, env)}


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


def numpy_by_hand(cell: Cell) -> Makers:
    """The step written by hand in NumPy, with NumPy's own BLAS and its threads."""

    def make() -> Steps:
        trainer = Trainer(cell, problems.make(cell))
        return Steps(trainer.step, trainer.reset, waiting_clock(bool))

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


def torch_eager(cell: Cell, device: str = "cpu") -> Makers:
    """PyTorch as its tutorials write it; its fused optimizer is the other usual setting."""
    return {
        "default optimizer": lambda: _torch(cell, fused=None, compiled=(), device=device),
        "fused optimizer": lambda: _torch(cell, fused=True, compiled=(), device=device),
    }


def torch_compile(cell: Cell, device: str = "cpu") -> Makers:
    """`torch.compile` of the network with its loss, and of the optimizer's step or a fused one.

    On a GPU it captures both as CUDA graphs.
    """
    return {
        "compiled loss, fused optimizer": lambda: _torch(
            cell, fused=True, compiled=("loss",), device=device
        ),
        "compiled loss, compiled optimizer": lambda: _torch(
            cell, fused=None, compiled=("loss", "optimizer"), device=device
        ),
    }


def _torch(cell: Cell, fused: bool | None, compiled: tuple[str, ...], device: str = "cpu") -> Steps:
    import torch
    from torch import nn
    from torch.nn import functional

    check_torch(device)
    on_gpu = device == "cuda"
    in_bfloat16 = cell.precision == "medium"
    torch.set_float32_matmul_precision("highest" if in_bfloat16 else cell.precision)
    problem = problems.make(cell)
    layers: list[Any] = []
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Identity}[cell.activation]
    for n_in, n_out in zip(cell.sizes, cell.sizes[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), activation()]
    model = nn.Sequential(*layers[:-1]).to(device)
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[cell.optimizer]
    # A captured Adam counts its steps on the GPU.
    more = {"capturable": True} if on_gpu and compiled and cell.optimizer == "adam" else {}
    opt = rule(model.parameters(), lr=LEARNING_RATE, fused=fused, **more)
    x, y = (torch.from_numpy(part).to(device) for part in (problem.x, problem.y))
    criterion = {
        "cross_entropy": functional.cross_entropy,
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    }[cell.loss]

    def loss_of(x: Any, y: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=in_bfloat16):
            z = model(x)
        return criterion(z.float(), y)

    update, begin = opt.step, bool
    if compiled:
        # Each cell is other code to it; after 8 of them it would go back to eager mode, unasked.
        torch._dynamo.config.recompile_limit = 1000
        mode = "reduce-overhead" if on_gpu else "default"
        begin = torch.compiler.cudagraph_mark_step_begin if on_gpu else bool
    if "loss" in compiled:
        loss_of = torch.compile(loss_of, mode=mode)
    if "optimizer" in compiled:
        update = torch.compile(opt.step, mode=mode)

    def step() -> Any:
        begin()
        opt.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        update()
        return loss.detach()

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
    return Steps(step, reset, _torch_clock() if on_gpu else waiting_clock(bool))


def _torch_clock() -> Clock:
    import torch

    def clock() -> Callable[[], float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()

        def read() -> float:
            end.record()
            end.synchronize()
            return 1e-3 * float(start.elapsed_time(end))

        return read

    return clock


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
        cure = ': pip install "jax[cuda13]"' if platform == "gpu" else ""
        raise UnavailableError(f"this JAX sees no {platform}{cure}") from None


def jax_jit(cell: Cell, platform: str = "cpu") -> Makers:
    """One function of `jax.jit` for the whole step, its state donated."""
    return {"donated state": lambda: _jax(cell, platform)}


def _jax(cell: Cell, platform: str) -> Steps:
    import jax

    jax.config.update("jax_default_device", jax_device(platform))
    # On GPUs its default is TF32.
    precision = {"high": "default"}.get(cell.precision, "highest")
    jax.config.update("jax_default_matmul_precision", precision)
    problem = problems.make(cell)
    x, y = jax.device_put(problem.x), jax.device_put(problem.y)
    step_of = jax.jit(_jax_step(cell), donate_argnums=0)
    state: Any = None

    def reset() -> None:
        nonlocal state
        state = _jax_state(problem, cell)

    def step() -> Any:
        nonlocal state
        state, loss = step_of(state, x, y)
        return loss

    reset()
    return Steps(step, reset, waiting_clock(lambda: jax.block_until_ready(state)))


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

    def product(x: Any, w: Any) -> Any:
        if cell.precision != "medium":
            return x @ w
        narrow = (part.astype(jnp.bfloat16) for part in (x, w))
        return jnp.matmul(*narrow).astype(jnp.float32)

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for w, b in params[:-1]:
            x = product(x, w) + b
            x = jax.nn.relu(x) if cell.activation == "relu" else jnp.tanh(x)
        w, b = params[-1]
        z = product(x, w) + b
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


TABLE: dict[str, Callable[[Cell], Any]] = {
    "numpy-by-hand": numpy_by_hand,
    "torch": torch_eager,
    "torch-cuda": lambda cell: torch_eager(cell, "cuda"),
    "torch-compile": torch_compile,
    "torch-compile-cuda": lambda cell: torch_compile(cell, "cuda"),
    "jax": jax_jit,
    "jax-cuda": lambda cell: jax_jit(cell, "gpu"),
    PRODUCTS: products,
}
