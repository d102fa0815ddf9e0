"""The training step as one writes it by hand in NumPy, for any of the benchmark's networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.benchmarks.problems import LEARNING_RATE, Cell, Problem

Array = NDArray[Any]
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Trainer:
    """A network, its gradients and its optimizer in plain NumPy, in the type of its arrays.

    Temporaries are written over where that needs no second thought; no arenas, no flat buffers.
    Sums call the ufunc's `reduce`, which saves what the method `sum` costs around it.
    """

    def __init__(self, cell: Cell, problem: Problem) -> None:
        self.relu = cell.activation == "relu"
        self.adam = cell.optimizer == "adam"
        self.loss = cross_entropy if cell.loss == "cross_entropy" else binary_cross_entropy
        self.problem = problem
        self.reset()

    def reset(self) -> None:
        """Go back to the first weights, and to an optimizer that has done no step."""
        self.weights = [w.copy() for w in self.problem.weights]
        self.biases = [b.copy() for b in self.problem.biases]
        self.params = [*self.weights, *self.biases]
        self.means = [np.zeros_like(p) for p in self.params]
        self.squares = [np.zeros_like(p) for p in self.params]
        self.step_count = 0

    def step(self) -> float:
        """Take one training step; return the loss before it."""
        x, y = self.problem.x, self.problem.y
        activations = [x]
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = activations[-1] @ w
            z += b
            activations.append(np.maximum(z, 0, out=z) if self.relu else np.tanh(z, out=z))
        z = activations[-1] @ self.weights[-1]
        z += self.biases[-1]
        loss, d = self.loss(z, y)
        dws, dbs = [], []
        for i in reversed(range(len(self.weights))):
            a = activations[i]
            dws.append(a.T @ d)
            dbs.append(np.add.reduce(d, axis=0))
            if i:
                d = d @ self.weights[i].T
                d *= (a > 0) if self.relu else 1 - a * a
        self.update([*reversed(dws), *reversed(dbs)])
        return loss

    def update(self, grads: Sequence[Array]) -> None:
        """Write the new weights, by SGD or Adam; the gradients are written over."""
        if not self.adam:
            for p, g in zip(self.params, grads, strict=True):
                g *= LEARNING_RATE
                p -= g
            return
        self.step_count += 1
        root = (1 - BETA2**self.step_count) ** 0.5
        rate = LEARNING_RATE / (1 - BETA1**self.step_count)
        for p, m, v, g in zip(self.params, self.means, self.squares, grads, strict=True):
            m *= BETA1
            m += (1 - BETA1) * g
            v *= BETA2
            g *= g
            g *= 1 - BETA2
            v += g
            s = np.sqrt(v)
            s /= root
            s += EPS
            np.divide(m, s, out=s)
            s *= rate
            p -= s


def cross_entropy(z: Array, y: Array) -> tuple[float, Array]:
    """Return the mean cross-entropy of logits, and its gradient. Shapes: z (B, C), y (B,)."""
    rows = np.arange(len(y))
    z -= np.maximum.reduce(z, axis=1, keepdims=True)
    picked = z[rows, y]
    p = np.exp(z, out=z)
    s = np.add.reduce(p, axis=1, keepdims=True)
    loss = float(np.add.reduce(np.log(s[:, 0]) - picked)) / len(y)
    p /= s
    p[rows, y] -= 1
    p /= len(y)
    return loss, p


def binary_cross_entropy(z: Array, y: Array) -> tuple[float, Array]:
    """Return the mean binary cross-entropy of logits, and its gradient. Shapes: z, y (B, 1)."""
    e = np.exp(-np.abs(z))
    loss = float(np.add.reduce(np.maximum(z, 0) - z * y + np.log1p(e), axis=None)) / len(y)
    d = np.where(z >= 0, 1, e)
    e += 1
    d /= e
    d -= y
    d /= len(y)
    return loss, d
