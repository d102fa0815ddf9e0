"""Initialisers: where the weights of a layer start.

Each is a function ``(shape, generator) -> NumPy array``. It draws on the host, so that a seed gives
bit-equal weights on every device; a layer takes one by name, as a function, or as a number.

Fans: a weight is (..., I, O), as `Dense` has it. With r the product of the leading sizes (the area
of a convolution's kernel, else 1), fan_in = r I and fan_out = r O; of a vector both are its size.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx import random
from nnx.device import Device
from nnx.dtypes import DType
from nnx.errors import DataError, DTypeError, ShapeError, did_you_mean
from nnx.host import to_host
from nnx.random import Generator
from nnx.shapes import Shape
from nnx.tensor import Parameter, asarray

Array = NDArray[Any]
Initializer = Callable[[Shape, Generator], Array]


def fans(shape: Shape) -> tuple[int, int]:
    """Return how many inputs each output has, and how many outputs each input.

    >>> fans((784, 16)), fans((3, 3, 8, 16))
    ((784, 16), (72, 144))
    """
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    area = math.prod(shape[:-2])
    return area * shape[-2], area * shape[-1]


def glorot_uniform(shape: Shape, generator: Generator) -> Array:
    """Uniform in [-a, a), a = sqrt(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio 2010, eq. 16.
    """
    limit = math.sqrt(6.0 / sum(fans(shape)))
    return generator.host_uniform(-limit, limit, shape)


def glorot_normal(shape: Shape, generator: Generator) -> Array:
    """Normal of variance 2 / (fan_in + fan_out). Source: Glorot and Bengio 2010, eq. 12."""
    return generator.host_normal(0.0, math.sqrt(2.0 / sum(fans(shape))), shape)


def he_uniform(shape: Shape, generator: Generator) -> Array:
    """Uniform in [-a, a), a = sqrt(6 / fan_in). Source: He et al. 2015, eq. 10, as a range."""
    limit = math.sqrt(6.0 / fans(shape)[0])
    return generator.host_uniform(-limit, limit, shape)


def he_normal(shape: Shape, generator: Generator) -> Array:
    """Normal of variance 2 / fan_in, for ReLU. Source: He et al. 2015, eq. 10."""
    return generator.host_normal(0.0, math.sqrt(2.0 / fans(shape)[0]), shape)


def lecun_uniform(shape: Shape, generator: Generator) -> Array:
    """Uniform in [-a, a), a = sqrt(3 / fan_in). Source: LeCun et al. 1998, Efficient BackProp."""
    limit = math.sqrt(3.0 / fans(shape)[0])
    return generator.host_uniform(-limit, limit, shape)


def lecun_normal(shape: Shape, generator: Generator) -> Array:
    """Normal of variance 1 / fan_in. Source: LeCun et al. 1998, Efficient BackProp, eq. 16."""
    return generator.host_normal(0.0, math.sqrt(1.0 / fans(shape)[0]), shape)


def orthogonal(shape: Shape, generator: Generator) -> Array:
    """Orthonormal rows or columns, whichever are fewer, of the matrix (all but the last, last).

    Numerics: Q of the QR decomposition of a normal matrix, its columns by the signs of R's
    diagonal, else Q would not be uniform; in float64 by the host's LAPACK, rounded once, so that
    all devices of one machine get the same bits.
    Raises: ShapeError for fewer than two axes.
    Source: Saxe et al. 2014 (arXiv 1312.6120); Mezzadri 2007, section 5.
    """
    if len(shape) < 2:
        raise ShapeError(f"orthogonal: a weight has two axes or more, got shape {shape}.")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    tall = generator.host_normal(0.0, 1.0, (max(rows, columns), min(rows, columns)), "float64")
    q, r = np.linalg.qr(tall)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return (q if rows >= columns else q.T).reshape(shape).astype(np.float32)


def uniform(shape: Shape, generator: Generator, low: float = -0.05, high: float = 0.05) -> Array:
    """Uniform in [low, high); other bounds with functools.partial(uniform, low=..., high=...)."""
    return generator.host_uniform(low, high, shape)


def normal(shape: Shape, generator: Generator, loc: float = 0.0, scale: float = 0.05) -> Array:
    """Normal of mean ``loc`` and deviation ``scale``; others with functools.partial."""
    return generator.host_normal(loc, scale, shape)


def zeros(shape: Shape, generator: Generator) -> Array:
    """0 everywhere."""
    return np.zeros(shape, np.float32)


def ones(shape: Shape, generator: Generator) -> Array:
    """1 everywhere."""
    return np.ones(shape, np.float32)


TABLE: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal,
        orthogonal, uniform, normal, zeros, ones,
    )
}  # fmt: skip
"""Every initialiser that has a name."""


def get(initializer: str | float | Initializer) -> Initializer:
    """Return the function of a name, of a number (that constant), or the function itself.

    Raises: DataError for an unknown name, DTypeError for something else.
    """
    if isinstance(initializer, str):
        if initializer not in TABLE:
            hint = did_you_mean(initializer, TABLE)
            raise DataError(f"There is no initialiser {initializer!r}. {hint}")
        return TABLE[initializer]
    if isinstance(initializer, numbers.Real) and not isinstance(initializer, bool):
        value = float(initializer)
        return lambda shape, generator: np.full(shape, value, np.float32)
    if callable(initializer):
        return initializer
    raise DTypeError(
        f"An initialiser is a name such as 'he_normal', a number, or a function "
        f"(shape, generator) -> array; got {initializer!r}."
    )


class _Blank(threading.local):
    on = False


_blank = _Blank()


@contextlib.contextmanager
def blank() -> Iterator[None]:
    """Make layers with zeros and draw nothing: their weights come from a file."""
    before, _blank.on = _blank.on, True
    try:
        yield
    finally:
        _blank.on = before


def make(
    initializer: str | float | Initializer,
    shape: Shape,
    device: Device | None = None,
    dtype: DType | None = None,
) -> Parameter:
    """Return a parameter drawn from the default generator, float32 unless ``dtype`` is given.

    Raises: ShapeError for an initialiser of one's own that returns another shape.
    """
    if _blank.on:
        host = np.zeros(shape, np.float32)
    else:
        host = _drawn(get(initializer), shape)
    made = asarray(host, dtype=dtype or "float32", device=device)
    return Parameter(made.array, made.device)


def _drawn(function: Initializer, shape: Shape) -> Array:
    drawn = to_host(function(shape, random.default_generator()), "initialiser")
    if drawn.shape != shape:
        raise ShapeError(
            f"The initialiser {function!r} was asked for shape {shape} and gave {drawn.shape}."
        )
    # A copy: what a user's function returns may be an array that it keeps.
    return np.array(drawn)
