"""Training steps on a GPU beside its peers there: small networks, a wide one, many steps of `fit`.

The steps of a small cell are queued, and waited for once a block; with the smallest batch also the
loss is read after each. The wide cell is set beside its products alone, as cuBLASLt does them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from nnx.benchmarks import contestants, problems
from nnx.benchmarks.case import Case, UnavailableError, Variants, Work, nothing
from nnx.benchmarks.problems import Cell

OURS, FIT, PRODUCTS = "cupy", "nnx-fit", "products-cuda"
PEERS = ("torch-cuda", "torch-compile-cuda", "jax-cuda")
NETWORKS = ((784, 16, 16, 10), (784, 512, 512, 10))
ORDER = tuple(
    (batch, optimizer, queued)
    for optimizer in ("sgd", "adam")
    for batch, queued in ((32, True), (1024, True), (128, True), (32, False))
)
"""Where the time ends, the last are left out."""
WIDE = (4096, 4096, 4096, 4096)
WIDE_BATCH = 16384
QUICK_WIDE = (OURS, PRODUCTS)
AGREEMENT = {"highest": contestants.AGREEMENT, "high": 1e-3, "medium": 5e-3}
"""How far the losses of a precision may be from those of float64, as a share of the largest."""
FIT_ROWS, FIT_STEPS = 1 << 16, 4096
"""About those of MNIST, and as many steps a call as let its own cost hardly count."""
WIDE_CHECKED = 3


class Problem(NamedTuple):
    """A cell, and whether its steps are queued."""

    cell: Cell
    queued: bool


def _case(suite: str, cell: Cell, queued: bool, names: tuple[str, ...], quick: bool) -> Case:
    found = contestants.case(suite, cell, names, OURS, quick)
    name = f"{cell.name}, {'queued' if queued else 'loss read'}"
    tolerance = AGREEMENT[cell.precision]
    return found._replace(name=name, problem=Problem(cell, queued), tolerance=tolerance)


SMALL = tuple(
    _case("gpu steps", Cell(sizes, "relu", "cross_entropy", batch, optimizer), queued,
          (OURS, *((FIT,) if queued else ()), *PEERS, *((PRODUCTS,) if queued else ())),
          quick=(batch, optimizer, queued) == ORDER[0])
    for batch, optimizer, queued in ORDER
    for sizes in NETWORKS
)  # fmt: skip
LARGE = tuple(
    _case("gpu wide", Cell(WIDE, "relu", "cross_entropy", WIDE_BATCH, "sgd", precision), True,
          (OURS, PRODUCTS, "torch-compile-cuda", "jax-cuda"), quick=True)
    for precision in ("high", "medium")
)  # fmt: skip
CASES = (*SMALL, *LARGE)


def variants(case: Case, contestant: str) -> Variants:
    """Return the step of a case by a contestant, in each of its usual settings."""
    cell, queued = case.problem
    if contestant == PRODUCTS:
        return {
            f"{dtype} to {out}": lambda dtype=dtype, out=out: products(cell, dtype, out)
            for dtype, out in KINDS[cell.precision]
        }
    if contestant == FIT:
        return {FIT: lambda: fit(cell)}
    return {
        setting: lambda setting=setting: contestants.work_of(
            _steps(cell, contestant, setting), queued
        )
        for setting in contestants.makers(cell, contestant)
    }


def _steps(cell: Cell, contestant: str, setting: str) -> contestants.Steps:
    """Return a step; a wide one is not kept, for it holds much memory and has one case."""
    if cell.sizes == WIDE:
        made = contestants.makers(cell, contestant)[setting]()
        return made._replace(checked=WIDE_CHECKED)
    return _kept_steps(cell, contestant, setting)


SETTINGS = 2
"""That a contestant has at most."""


@functools.lru_cache(maxsize=len(NETWORKS) * len(ORDER) // 2 * SETTINGS)
def _kept_steps(cell: Cell, contestant: str, setting: str) -> contestants.Steps:
    """Return a step, the same for both cases of a cell: compiling takes most of the time.

    Those of an optimizer are kept: cases whose losses are read come after all that are queued.
    """
    return contestants.makers(cell, contestant)[setting]()


def expected(case: Case) -> list[Any]:
    """Return the first losses in float64."""
    cell = case.problem.cell
    return _expected(cell._replace(precision="highest"))


@functools.lru_cache(maxsize=1)
def _expected(cell: Cell) -> list[Any]:
    if cell.sizes != WIDE:
        return contestants.expected(contestants.case("", cell, (), ""))
    try:
        import cupy as xp  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        xp = np
    losses = exact_losses(xp, problems.make(cell), WIDE_CHECKED)
    if xp is not np:
        xp.get_default_memory_pool().free_all_blocks()
    return losses


def exact_losses(xp: Any, problem: problems.Problem, n: int) -> list[Any]:
    """Return the first losses of SGD on a network of relu layers, in float64 by an array library.

    The steps by hand are NumPy's (`by_hand`), and a wide network would take it minutes.
    """
    x, y = xp.asarray(problem.x, dtype="float64"), xp.asarray(problem.y)
    weights = [xp.asarray(w, dtype="float64") for w in problem.weights]
    biases = [xp.asarray(b, dtype="float64") for b in problem.biases]
    rows = xp.arange(len(y))
    losses = []
    for _ in range(n):
        values = [x]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            values.append(xp.maximum(values[-1] @ w + b, 0))
        z = values[-1] @ weights[-1] + biases[-1]
        z -= z.max(axis=1, keepdims=True)
        d = xp.exp(z)
        total = d.sum(axis=1, keepdims=True)
        losses.append(np.array(float((xp.log(total[:, 0]) - z[rows, y]).mean())))
        d /= total
        d[rows, y] -= 1
        d /= len(y)
        for i in reversed(range(len(weights))):
            slope = (d @ weights[i].T) * (values[i] > 0) if i else None
            weights[i] -= problems.LEARNING_RATE * (values[i].T @ d)
            biases[i] -= problems.LEARNING_RATE * d.sum(axis=0)
            d = slope
    return losses


# The loop of `fit`


def fit(cell: Cell, device: str = OURS, n_rows: int = FIT_ROWS, n_steps: int = FIT_STEPS) -> Work:
    """Return many steps of `fit`, shuffled, from data that is on the device already.

    A call of it counts as its steps; what it costs once is in the figure. Its losses are those of
    epochs of one batch.
    """
    import nnx

    contestants.set_precision(cell)
    batches = n_rows // cell.batch
    epochs = n_steps // batches
    problem = problems.make(cell)
    model = problems.make_model(cell, device)
    optimizer = problems.make_optimizer(cell, model)
    weights = {key: np.array(value) for key, value in model.state_dict().items()}
    slots = optimizer.state_dict()
    model.compile(optimizer, cell.loss, device=device)
    one = [nnx.asarray(part, device=device) for part in (problem.x, problem.y)]
    many = [
        nnx.asarray(np.concatenate([part] * batches), device=device)
        for part in (problem.x, problem.y)
    ]

    def train(data: list[Any], epochs: int, shuffle: bool) -> list[float]:
        history = model.fit(
            *data, batch_size=cell.batch, epochs=epochs, shuffle=shuffle, verbose=0
        )  # fmt: skip
        return list(history.history["loss"])

    def reset() -> None:
        model.load_state_dict(weights)
        optimizer.load_state_dict(slots)

    def values() -> list[Any]:
        reset()
        return [np.array(x) for x in train(one, contestants.CHECKED_STEPS, False)]

    return Work(
        lambda: train(many, epochs, True), values, reset,
        clock=contestants.nnx_clock(device), units=batches * epochs,
    )  # fmt: skip


# The products alone

KINDS = {
    "highest": (("float32", "float32"),),
    "high": (("tf32", "float32"),),
    "medium": (("bfloat16", "bfloat16"), ("bfloat16", "float32")),
}
"""What the products of a precision are made of, and in which type they are stored."""


class Sizes(NamedTuple):
    """A product (m, k) (k, n), whose factors are stored so or transposed."""

    m: int
    k: int
    n: int
    left_transposed: bool = False
    right_transposed: bool = False


def sizes_of(cell: Cell) -> list[Sizes]:
    """Return the products of a step: forward, and backward but for the gradient of x."""
    pairs = list(zip(cell.sizes, cell.sizes[1:], strict=False))
    found = [Sizes(cell.batch, n_in, n_out) for n_in, n_out in pairs]
    for i, (n_in, n_out) in reversed(list(enumerate(pairs))):
        found.append(Sizes(n_in, cell.batch, n_out, left_transposed=True))
        if i:
            found.append(Sizes(cell.batch, n_out, n_in, right_transposed=True))
    return found


def products(cell: Cell, dtype: str, out_dtype: str, machine: Any = None) -> Work:
    """Return the products of a step through cuBLASLt, captured as one CUDA graph."""
    from nnx.kernels.cuda_matrices import Matrices

    clock = None if machine else contestants.cuda_clock()
    machine = machine or _machine()
    stored, compute = ("float32", "tf32") if dtype == "tf32" else (dtype, "float32")
    width = 2 if stored == "bfloat16" else 4
    held, calls = [], []
    for s in sizes_of(cell):
        left, right = (_filled(machine, n, stored) for n in (s.m * s.k, s.k * s.n))
        out = machine.memory(s.m * s.n * (2 if out_dtype == "bfloat16" else 4))
        held += [left, right, out]
        calls.append(Matrices(
            stored, 1, s.m, s.k, s.n,
            left.address, s.left_transposed, s.m if s.left_transposed else s.k, 0,
            right.address, s.right_transposed, s.k if s.right_transposed else s.n, 0,
            out.address, out_dtype, compute,
        ))  # fmt: skip

    def start() -> None:
        for call in calls:
            machine.multiply(call)

    start()
    replay = machine.capture(start) or start

    def run(kept: Any = held) -> None:
        replay()

    flops = sum(2 * s.m * s.k * s.n for s in sizes_of(cell))
    n_bytes = sum(width * (s.m * s.k + s.k * s.n + s.m * s.n) for s in sizes_of(cell))
    return Work(run, nothing, stats=lambda: {"flops": flops, "bytes": n_bytes}, clock=clock)


def _machine() -> Any:
    from nnx.kernels.cuda_machine import CupyMachine

    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UnavailableError(f"CuPy does not import: {error}") from None
    return CupyMachine(cupy, 0)


TILE = 1 << 20


def _filled(machine: Any, n: int, dtype: str) -> Any:
    """Return memory for n numbers that are drawn: of zeros, products would take less power."""
    from nnx.kernels.epilogues_gpu import stored

    tile = stored(np.random.default_rng(0).standard_normal(TILE, dtype=np.float32), dtype)
    memory = machine.memory(n * tile.itemsize)
    first = min(n, TILE) * tile.itemsize
    machine.upload(memory.address, tile[: min(n, TILE)])
    for at in range(first, n * tile.itemsize, first):
        machine.copy(memory.address + at, memory.address, min(first, n * tile.itemsize - at))
    return memory
