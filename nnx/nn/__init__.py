"""Networks: modules, layers, initialisers, losses, and their architecture as plain data."""

from __future__ import annotations

import os
from typing import Any

from nnx.errors import no_attribute
from nnx.nn import activations, init, losses
from nnx.nn.config import from_config, to_config
from nnx.nn.layers import Activation, Dense, Dropout, Flatten, LayerNorm, Reshape, Sequential
from nnx.nn.model import Model
from nnx.nn.module import Buffer, Module
from nnx.nn.symbol import Input
from nnx.ops.loss import binary_cross_entropy, cross_entropy, half_mse, huber, mae, mse
from nnx.tensor import Parameter

__all__ = [
    "Activation", "Buffer", "Dense", "Dropout", "Flatten", "Input", "LayerNorm", "Model", "Module",
    "Parameter", "Reshape", "Sequential", "activations", "binary_cross_entropy", "cross_entropy",
    "from_config", "half_mse", "huber", "init", "load", "losses", "mae", "mse", "to_config",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    raise no_attribute(__name__, name, __all__)


def load(path: str | os.PathLike[str]) -> Module:
    """Return the network that ``model.save(path)`` wrote, on the default device.

    Raises: CheckpointError for a file that is missing, damaged, or not one of nnx.
    """
    from nnx import checkpoint

    return checkpoint.load(path)
