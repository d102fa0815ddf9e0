"""Data and networks for the tests of training."""

from __future__ import annotations

import numpy as np

import nnx
from nnx import nn, optim

X = nnx.random.Generator(1).host_normal(0.0, 1.0, (50, 4))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
T = X @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)


def network(*layers, seed=3):
    nnx.random.seed(seed)
    return nn.Sequential(
        *(layers or (nn.Dense(6, "tanh", in_features=4), nn.Dense(3, in_features=6)))
    )


def classifier(device="numpy", optimizer=None, metrics=("accuracy",), seed=3):
    model = network(seed=seed)
    model.compile(optimizer or optim.Adam(0.02), "cross_entropy", metrics, device)
    return model


def regressor(*layers, loss="mse", optimizer=None, metrics=(), device="numpy"):
    nnx.random.seed(3)
    model = nn.Sequential(*(layers or (nn.Dense(1, in_features=4),)))
    model.compile(optimizer or optim.SGD(0.05), loss, metrics, device)
    return model


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


class Batches:
    def __iter__(self):
        for i in range(0, 50, 16):
            yield X[i : i + 16], Y[i : i + 16]
