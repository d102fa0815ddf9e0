"""What the training-step benchmark computes: the networks, their data, their first weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nnx
from nnx import nn, optim

LEARNING_RATE = 1e-3


class Cell(NamedTuple):
    """One network, batch and optimizer: what all contestants are set to."""

    sizes: tuple[int, ...]
    activation: str
    loss: str
    batch: int
    optimizer: str
    precision: str = "highest"
    """Of products of float32, in the words of `nnx.set_matmul_precision`."""

    @property
    def net(self) -> str:
        """The network and the batch, as in 784-16-16-10/32."""
        return f"{'-'.join(map(str, self.sizes))}/{self.batch}"

    @property
    def name(self) -> str:
        """The network, the batch and the optimizer, as in 784-16-16-10/32/sgd."""
        other = f"/{self.precision}" if self.precision != "highest" else ""
        return f"{self.net}/{self.optimizer}{other}"


class Problem(NamedTuple):
    """The data of a cell and the weights that training starts from.

    Shapes: x (B, I); y (B,) of int64, or (B, 1) of float32 for binary cross-entropy; each weight
    (in, out), each bias (out,).
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    weights: list[NDArray[np.float32]]
    biases: list[NDArray[np.float32]]


CELLS = {
    cell.name: cell
    for sizes, activation, loss, batches in (
        ((784, 16, 16, 10), "relu", "cross_entropy", (32, 128)),
        ((784, 128, 10), "relu", "cross_entropy", (128,)),
        ((784, 512, 512, 10), "relu", "cross_entropy", (128, 1024)),
        ((4, 20, 10, 3), "tanh", "cross_entropy", (16,)),
        ((3, 1), "sigmoid", "binary_cross_entropy", (10_000,)),
    )
    for batch in batches
    for optimizer in ("sgd", "adam")
    for cell in [Cell(sizes, activation, loss, batch, optimizer)]
}
"""Every cell by name. The sigmoid of 3-1 is inside of its loss, which takes logits."""


def select(prefixes: list[str]) -> list[Cell]:
    """Return the cells whose names start with one of the prefixes; all of them for no prefix."""
    chosen = [c for c in CELLS.values() if not prefixes or c.name.startswith(tuple(prefixes))]
    unknown = [p for p in prefixes if not any(name.startswith(p) for name in CELLS)]
    if unknown:
        raise SystemExit(f"No cell starts with {', '.join(unknown)}. Cells: {', '.join(CELLS)}.")
    return chosen


def make_model(cell: Cell, device: str) -> nn.Sequential:
    """Return the network in nnx with its first weights: the same bits at each call."""
    nnx.random.seed(0)
    pairs = list(zip(cell.sizes, cell.sizes[1:], strict=False))
    with nnx.device(device):
        hidden = [nn.Dense(n_out, cell.activation, in_features=n_in) for n_in, n_out in pairs[:-1]]
        return nn.Sequential(*hidden, nn.Dense(pairs[-1][1], in_features=pairs[-1][0]))


def make_optimizer(cell: Cell, model: nn.Module) -> optim.Optimizer:
    """Return the optimizer of a cell, over the parameters of a model."""
    rule = {"sgd": optim.SGD, "adam": optim.Adam}[cell.optimizer]
    return rule(model.parameters(), lr=LEARNING_RATE)


def make(cell: Cell) -> Problem:
    """Return the problem of a cell: the same bits at each call, in every process."""
    rng = np.random.default_rng(0)
    x = rng.random((cell.batch, cell.sizes[0]), dtype=np.float32)
    if cell.loss == "cross_entropy":
        y = rng.integers(0, cell.sizes[-1], cell.batch)
    else:
        y = (x @ np.float32([[4], [3], [-1]]) > 2).astype(np.float32)
    state = [np.array(p.numpy()) for p in make_model(cell, "numpy").parameters()]
    return Problem(x, y, state[0::2], state[1::2])
