"""Elementwise kernels on a GPU beside a device-to-device copy of as many bytes.

`kernel` is what nnx emits for the function, on memory that stays; `cupy` is the call of the jitted
function with all that belongs to it: copies into fixed memory and out of it, a new result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnx.benchmarks import contestants
from nnx.benchmarks.case import Case, Variants, Work, nothing, sampled

KERNEL, CALL, COPY = "kernel", "cupy", "copy"
ELEMENTS = 1 << 26
"""So many that no cache holds them."""
TILE = 1_000_003
"""Numbers that are drawn, and repeated; a prime, so that spread samples are of different ones."""


class Problem(NamedTuple):
    """A function of tensors, which NumPy's arrays know too; how many arguments; of what size."""

    function: Callable[..., Any]
    n_arguments: int
    elements: int = ELEMENTS


def _relu(x: Any) -> Any:
    return x * (x > 0)


def _relu_gradient(x: Any, g: Any) -> Any:
    return g * (x > 0)


def _momentum(w: Any, v: Any) -> Any:
    return w - 0.01 * (0.9 * v + 0.1 * w)


def _long(x: Any, y: Any) -> Any:
    z = x * y + 0.5 * x
    return z * z - y * (z + 1.0) + x


FUNCTIONS = {
    "relu": Problem(_relu, 1),
    "gradient of relu": Problem(_relu_gradient, 2),
    "update with momentum": Problem(_momentum, 2),
    "a chain of eight": Problem(_long, 2),
}
CASES = tuple(
    Case(
        "gpu elementwise", "elementwise", f"{name}, {problem.elements >> 20} Mi", problem,
        (KERNEL, CALL, COPY), KERNEL, work=problem.elements, quick=name == "gradient of relu",
        flops=problem.elements, n_bytes=4 * problem.elements * (problem.n_arguments + 1),
        tolerance=1e-6,
    )
    for name, problem in FUNCTIONS.items()
)  # fmt: skip


def arguments(problem: Problem) -> list[Any]:
    """Return the arguments: the same at each call."""
    rng = np.random.default_rng(0)
    tiles = [rng.standard_normal(TILE, dtype=np.float32) for _ in range(problem.n_arguments)]
    return [np.resize(tile, problem.elements) for tile in tiles]


def expected(case: Case) -> list[Any]:
    """Return the result in float64, of what is sampled: each element is of its own arguments."""
    return [case.problem.function(*map(sampled, arguments(case.problem)))]


def variants(case: Case, contestant: str) -> Variants:
    """Return a function as its kernel, as a call, or a copy of as many bytes."""
    make = {KERNEL: kernel, CALL: call, COPY: copy}[contestant]
    return {contestant: lambda: make(case)}


def call(case: Case, device: str = "cupy") -> Work:
    """Return the jitted function."""
    import nnx

    given = [nnx.asarray(x, device=device) for x in arguments(case.problem)]
    function = nnx.jit(case.problem.function)

    def values() -> list[Any]:
        return [np.array(function(*given).numpy())]

    return Work(
        lambda: function(*given), values, clock=contestants.nnx_clock(device),
        stats=lambda: contestants.program_stats(function, given),
    )  # fmt: skip


def kernel(case: Case) -> Work:
    """Return what the function's program starts, without a call around it."""
    import cupy  # type: ignore[import-not-found, unused-ignore]

    import nnx

    problem = case.problem
    given = [nnx.asarray(x, device="cupy") for x in arguments(problem)]
    lowered = nnx.jit(problem.function).lower(*given)
    program, env = lowered._entry.program(), lowered._entry.example
    out = cupy.empty(problem.elements, np.float32)
    run = alone(program, env, [*(x.array.data.ptr for x in given), out.data.ptr])

    def values() -> list[Any]:
        run()
        return [cupy.asnumpy(out)]

    def start(kept: Any = given) -> None:
        run()

    return Work(start, values, clock=contestants.cuda_clock())


def alone(program: Any, env: dict[str, Any], addresses: Sequence[int]) -> Callable[[], None]:
    """Return what starts a program's kernels on the memory at these addresses, and nothing else."""
    setting = program.setting(env)
    program.fill(setting, env)
    places = program.named(addresses) | setting._places
    program.machine.upload(places["call"], setting.emission.numbers_of(setting.env(setting.table)))
    return lambda: setting.enqueue(places)


def copy(case: Case) -> Work:
    """Return a copy that reads and writes as many bytes as the function, half of them each."""
    import cupy

    n = case.n_bytes // 2
    source, target = cupy.ones(n // 4, np.float32), cupy.empty(n // 4, np.float32)
    runtime = cupy.cuda.runtime

    def run() -> None:
        runtime.memcpyAsync(
            target.data.ptr, source.data.ptr, n, runtime.memcpyDeviceToDevice,
            cupy.cuda.get_current_stream().ptr,
        )  # fmt: skip

    return Work(run, nothing, clock=contestants.cuda_clock())
