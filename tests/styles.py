"""Networks in three styles, and of two inputs and outputs, for tests."""

from __future__ import annotations

import numpy as np

import nnx
from nnx import nn

GENERATOR = nnx.random.Generator(1)
X = GENERATOR.host_normal(0.0, 1.0, (36, 4))
Z = GENERATOR.host_normal(0.0, 1.0, (36, 2))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
T = X[:, :1] - 2 * Z[:, 1:]


def same(first, second):
    """Return whether two lists of arrays have the same bits."""
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def weights(model):
    return list(model.state_dict().values())


def sequential():
    return nn.Sequential(nn.Dense(5, "tanh"), nn.Dense(4, "relu"), nn.Dense(3))


def functional():
    x = nn.Input((4,))
    h = nn.Dense(4, "relu")(nn.Dense(5, "tanh")(x))
    return nn.Model(x, nn.Dense(3)(h))


class Subclass(nn.Module):
    def __init__(self):
        self.first, self.second, self.last = nn.Dense(5), nn.Dense(4), nn.Dense(3)

    def forward(self, x):
        h = nnx.relu(self.second(nnx.tanh(self.first(x))))
        return self.last(h)


STYLES = {"sequential": sequential, "functional": functional, "subclass": Subclass}


def built(style):
    """Return a network of a style, its weights drawn from one seed."""
    nnx.random.seed(7)
    model = STYLES[style]()
    model(X[:2])
    nnx.random.seed(8)
    return model


def two_functional():
    a, b = nn.Input((4,), name="a"), nn.Input((2,), name="b")
    h = nn.Dense(6, "tanh")(nnx.concat([a, b], axis=-1))
    return nn.Model([a, b], {"cls": nn.Dense(3)(h), "reg": nn.Dense(1)(h)})


class Two(nn.Module):
    def __init__(self):
        self.hidden, self.cls, self.reg = nn.Dense(6, "tanh"), nn.Dense(3), nn.Dense(1)

    def forward(self, a, b):
        h = self.hidden(nnx.concat([a, b], axis=-1))
        return {"cls": self.cls(h), "reg": self.reg(h)}


def two(make):
    nnx.random.seed(7)
    model = make()
    model(X[:2], Z[:2])
    nnx.random.seed(8)
    return model


LOSSES = {"loss": {"cls": "cross_entropy", "reg": "mse"}, "loss_weights": {"reg": 0.25}}


class Halving(nn.Module):
    """Halves its output until it is small: how often depends on values."""

    def __init__(self):
        self.out = nn.Dense(3, in_features=4)

    def forward(self, x):
        out = self.out(x)
        while nnx.max(nnx.abs(out)) > 1.0:
            out = out * 0.5
        return out
