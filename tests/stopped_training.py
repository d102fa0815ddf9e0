"""A training for tests of going on, all that it ends with, and what stops it."""

from __future__ import annotations

import nnx
from nnx import nn, optim
from nnx.callbacks import LambdaCallback

X = nnx.random.Generator(5).host_normal(0.0, 1.0, (50, 4))
Y = nnx.random.Generator(6).host_integers(3, shape=50)
SETTINGS = {"batch_size": 8, "epochs": 3, "validation_split": 0.2, "verbose": 0}


def network(last=3):
    nnx.random.seed(11)
    return nn.Sequential(
        nn.Dense(6, "relu", in_features=4), nn.Dropout(0.3), nn.LayerNorm(6), nn.Dense(last)
    )


def compiled(device="numpy", optimizer=None, loss="cross_entropy", model=None):
    model = model or network()
    model.compile(optimizer or optim.Adam(0.01), loss, ["accuracy"], device)
    return model


def everything(model):
    """Return all that a training ends with."""
    state = {f"m.{k}": v for k, v in model.state_dict().items()}
    state |= {f"o.{k}": v for k, v in nnx.fit.compiled(model).optimizer.state_dict().items()}
    bits = {key: (a.dtype.str, a.shape, a.tobytes()) for key, a in state.items()}
    generator = nnx.random.default_generator().state_dict()
    return bits, generator, model.history.epoch, model.history.history


class Stop(Exception):  # noqa: N818
    """Ends a training as a kill would, without a last word."""


def stop_after(n):
    """Return a callback that raises after n steps."""
    left = iter(range(n - 1, -1, -1))

    def count(batch, logs):
        if next(left) == 0:
            raise Stop

    callback = LambdaCallback(on_train_batch_end=count)
    callback.comes_last = True
    return callback
