"""NumPy on the CPU: vectorised, single calls, the memory of the caller shared where possible."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from nnx import shapes
from nnx.backends.protocol import Backend, Hardware

BLAS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
"""Types for which a product with ones is a faster sum, and the method `dot` a faster product."""


LONG = 1 << 16
"""Rows beyond which a sum is formed in float64 rather than as a product with ones."""


def matmul(x: Any, y: Any) -> Any:
    """Return x @ y; for two matrices through the method, which does without a gufunc's set-up."""
    if x.ndim == 2 and y.ndim == 2 and x.dtype in BLAS:
        return x.dot(y)
    return np.matmul(x, y)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Return x @ weight + bias with the bias added in place."""
    out = matmul(x, weight)
    if bias is not None:
        if bias.shape != weight.shape[1:]:
            shapes.linear(x.shape, weight.shape, bias.shape)
        out += bias
    return out


def add_at(shape: tuple[int, ...], key: Any, values: Any) -> Any:
    """Return zeros of ``shape`` with values added at ``key``."""
    out = np.zeros(shape, values.dtype)
    if any(isinstance(item, np.ndarray) for item in key):
        np.add.at(out, key, values)
    else:
        out[key] = values
    return out


def _reduction(ufunc: Any) -> Callable[..., Any]:
    """Return a reduction without the layers of Python that NumPy's functions put before it."""
    reduce = ufunc.reduce

    def kernel(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return reduce(x, axis=axis, keepdims=keepdims)

    return kernel


def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the sum; that of a matrix over its rows is a product with ones."""
    if axis == 0 and x.ndim == 2 and x.dtype in BLAS and not keepdims:
        if len(x) <= LONG:
            return _ones(len(x), x.dtype).dot(x)
        # NumPy adds down the rows one after another, which loses float32's digits.
        return np.add.reduce(x, axis=0, dtype=np.float64).astype(x.dtype)
    return np.add.reduce(x, axis=axis, keepdims=keepdims)


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: Any) -> Any:
    return np.ones(n, dtype)


def _row_sums(rows: Any) -> Any:
    """Return the sum of each row of a matrix."""
    if rows.dtype in BLAS:
        return rows.dot(_ones(rows.shape[1], rows.dtype))
    return np.add.reduce(rows, axis=1)


def softmax(x: Any, axis: Any = -1) -> Any:
    """Return exp(x) over its sum, in one buffer."""
    if x.ndim == 2 and axis in (-1, 1) and x.shape[1]:
        e = x - _row_maxima(x)[1][:, None]
        np.exp(e, out=e)
        e /= _row_sums(e)[:, None]
        return e
    e = np.asarray(x - np.maximum.reduce(x, axis=axis, keepdims=True))
    np.exp(e, out=e)
    e /= np.add.reduce(e, axis=axis, keepdims=True)
    return e


def _row_maxima(rows: Any) -> tuple[Any, Any]:
    """Return the flat places and the values of each row's maximum; NaN counts as the largest."""
    at = rows.argmax(axis=1)
    at += _row_starts(*rows.shape)
    return at, rows.ravel().take(at)


@functools.lru_cache(maxsize=64)
def _row_starts(n_rows: int, n_columns: int) -> Any:
    """Return where each row begins in a matrix laid out in one row."""
    return np.arange(0, n_rows * n_columns, n_columns)


def cross_entropy_rows(logits: Any, labels: Any) -> Any:
    """Return (M - x_t) + log1p(s); the maximum's own term is put to 0 before the sum s."""
    rows = logits.reshape(-1, logits.shape[-1])
    at, top = _row_maxima(rows)
    e = np.exp(rows - top[:, None])
    e.put(at, 0)
    rest = np.log1p(_row_sums(e))
    rest += top - rows.ravel().take(_label_places(labels, rows))
    return rest.reshape(labels.shape)


def _label_places(labels: Any, rows: Any) -> Any:
    """Return where each row's label stands; uint64 with int64 would become a float."""
    return labels.reshape(-1).astype(np.int64, copy=False) + _row_starts(*rows.shape)


def cross_entropy_slope(logits: Any, labels: Any) -> Any:
    """Return softmax(logits) - target, in one buffer."""
    rows = softmax(logits.reshape(-1, logits.shape[-1]))
    if labels.ndim == logits.ndim:
        rows -= labels.reshape(rows.shape)
    else:
        at = _label_places(labels, rows)
        rows.put(at, 0)
        rows.put(at, -_row_sums(rows))
    return rows.reshape(logits.shape)


class NumpyBackend(Backend):
    """NumPy, the array library of this process."""

    name = "numpy"
    overrides: ClassVar = {
        "linear": linear,
        "matmul": matmul,
        "sum": sum,
        "max": _reduction(np.maximum),
        "min": _reduction(np.minimum),
        "softmax": softmax,
        "cross_entropy_rows": cross_entropy_rows,
        "cross_entropy_slope": cross_entropy_slope,
    }
    trusted = frozenset({"relu", "reshape", "permute_dims", "broadcast_to", "getitem"})

    @property
    def xp(self) -> Any:
        """NumPy itself, which follows the array API standard since version 2.1."""
        return np

    def devices(self) -> Sequence[Hardware]:
        """Return the CPU."""
        return (Hardware(f"NumPy {np.__version__} on the CPU", host_memory_bytes()),)

    def asarray(self, host: Any, dtype: Any, index: int) -> Any:
        """Return the host array itself where its type and byte order already fit."""
        return np.asarray(host, dtype=dtype)

    def astype(self, array: Any, dtype: Any) -> Any:
        """Return an array's values in another type; NumPy's function refuses its own scalars."""
        return array.astype(dtype)

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return the function behind gradients of indexing."""
        return add_at

    def setitem(self, array: Any, key: Any, value: Any) -> Any:
        """Return a copy of ``array`` with ``value`` at ``key``."""
        result = np.array(array)
        result[key] = value
        return result

    def in_range(self, labels: Any, stop: int) -> bool:
        """Return whether all of a non-empty integer array lies in 0 to stop - 1.

        A negative number seen as unsigned is larger than any class, so that one pass answers.
        """
        if labels.dtype.itemsize == 8 and labels.dtype.kind == "i":
            return bool(np.maximum.reduce(labels.view(np.uint64), axis=None) < stop)
        return bool(labels.min() >= 0 and labels.max() < stop)

    def scope(self, index: int) -> Any:
        """Return NumPy's own context for arithmetic without warnings."""
        return np.errstate(all="ignore")

    def prepare(self, kernel: Callable[..., Any], index: int) -> Callable[..., Any]:
        """Return the kernel inside that context; its decorator form costs a third of ``with``."""
        return np.errstate(all="ignore")(kernel)


def host_memory_bytes() -> int | None:
    """Return the memory of this machine in bytes, None where the system does not say."""
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


BACKEND = NumpyBackend()
