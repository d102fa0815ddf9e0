"""NumPy on the CPU: vectorised, single calls, the memory of the caller shared where possible."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from nnx import shapes
from nnx.backends.protocol import Backend, Hardware
from nnx.op import OPS

BLAS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
"""Types for which a product with ones is a faster sum, and the method `dot` a faster product."""


LONG = 1 << 16
"""Rows beyond which a sum is formed in float64 rather than as a product with ones."""


def matmul(x: Any, y: Any, out: Any = None) -> Any:
    """Return x @ y; for two matrices through the method, which does without a gufunc's set-up."""
    if x.ndim == 2 and y.ndim == 2 and x.dtype in BLAS and x.dtype == y.dtype:
        return x.dot(y, out)
    return np.matmul(x, y, out=out)


def linear(x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
    """Return x @ weight + bias with the bias added in place."""
    out = matmul(x, weight, out)
    if bias is not None:
        if bias.shape != weight.shape[1:]:
            shapes.linear(x.shape, weight.shape, bias.shape)
        out += bias
    return out


def astype(x: Any, dtype: Any, copy: bool = True, out: Any = None) -> Any:
    """Return x in another type."""
    if out is None:
        return x.astype(dtype)
    out[...] = x
    return out


def reshape(x: Any, shape: Any, copy: bool | None = None) -> Any:
    """Return x in another shape, through the method."""
    return x.reshape(shape)


def permute_dims(x: Any, axes: Any) -> Any:
    """Return x with its axes in another order, through the method."""
    return x.transpose(axes)


BITS = {np.dtype(np.float32): np.dtype(np.int32), np.dtype(np.float64): np.dtype(np.int64)}
FEW, MANY = 1 << 10, 1 << 13
"""Elements for which `numpy.where` is fast enough, beside a product and beside bit operations."""


def where(condition: Any, x: Any, y: Any, out: Any = None) -> Any:
    """Return x where the condition holds, else y.

    `numpy.where` waits at each choice that the processor did not foresee, and takes up to 15 times
    as long: so floats become 0 by a product of their bits with 0 or 1, and others are chosen by
    masks of bits.
    """
    if condition.__class__ is np.ndarray and condition.dtype == np.bool_:
        if y.__class__ is float and x.__class__ is np.ndarray:
            big = x.dtype in BITS and (out is not None or x.size > FEW)
            if big and y == 0 and math.copysign(1.0, y) > 0:
                bits = BITS[x.dtype]
                if out is None:
                    return np.multiply(x.view(bits), condition).view(x.dtype)
                np.multiply(x.view(bits), condition, out=out.view(bits))
                return out
        if condition.size > MANY and (found := _masked(condition, x, y)) is not None:
            return found if out is None else astype(found, out.dtype, out=out)
    result = np.where(condition, x, y)
    return result if out is None else astype(result, out.dtype, out=out)


def _masked(condition: Any, x: Any, y: Any) -> Any:
    """Return x where the condition holds, else y, chosen by bits; None where that does not fit.

    It fits for floats of one type: arrays of the condition's shape, or one of them a number.
    """
    arrays = [a for a in (x, y) if a.__class__ is np.ndarray]
    if not arrays or any(a.shape != condition.shape for a in arrays):
        return None
    dtype = arrays[0].dtype
    if dtype not in BITS or arrays[-1].dtype != dtype:
        return None
    if any(a.__class__ not in (float, np.ndarray) for a in (x, y)):
        return None
    bits = BITS[dtype]
    first, second = (
        a.view(bits) if a.__class__ is np.ndarray else dtype.type(a).view(bits) for a in (x, y)
    )
    mask = np.negative(condition.view(np.int8)).astype(bits)
    chosen = np.bitwise_xor(first, second)
    chosen &= mask
    chosen ^= second
    return chosen.view(dtype)


def concat(*arrays: Any, axis: int | None = 0, out: Any = None) -> Any:
    """Return arrays laid end to end."""
    return np.concatenate(arrays, axis, out)


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

    def kernel(x: Any, axis: Any = None, keepdims: bool = False, out: Any = None) -> Any:
        return reduce(x, axis, None, out, keepdims)

    return kernel


def sum(x: Any, axis: Any = None, keepdims: bool = False, out: Any = None) -> Any:
    """Return the sum; that of a matrix over its rows is a product with ones."""
    if axis == 0 and x.ndim == 2 and x.dtype in BLAS and not keepdims:
        n_rows = len(x)
        if n_rows <= LONG:
            return _ones(n_rows, x.dtype).dot(x, out)
        # NumPy adds down the rows one after another, which loses float32's digits.
        return astype(np.add.reduce(x, axis=0, dtype=np.float64), x.dtype, out=out)
    return np.add.reduce(x, axis, None, out, keepdims)


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: Any) -> Any:
    return np.ones(n, dtype)


def _row_sums(rows: Any) -> Any:
    """Return the sum of each row of a matrix."""
    if rows.dtype in BLAS:
        return rows.dot(_ones(rows.shape[1], rows.dtype))
    return np.add.reduce(rows, axis=1)


def softmax(x: Any, axis: Any = -1, out: Any = None) -> Any:
    """Return exp(x) over its sum, in one buffer."""
    if x.ndim == 2 and axis in (-1, 1) and x.shape[1]:
        e = np.subtract(x, _row_maxima(x)[1][:, None], out=out)
        np.exp(e, out=e)
        e /= _row_sums(e)[:, None]
        return e
    e = np.asarray(np.subtract(x, np.maximum.reduce(x, axis=axis, keepdims=True), out=out))
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


def cross_entropy_slope(logits: Any, labels: Any, out: Any = None) -> Any:
    """Return softmax(logits) - target, in one buffer."""
    sizes = (-1, logits.shape[-1])
    rows = softmax(logits.reshape(sizes), out=None if out is None else out.reshape(sizes))
    if labels.ndim == logits.ndim:
        rows -= labels.reshape(rows.shape)
    else:
        at = _label_places(labels, rows)
        rows.put(at, 0)
        rows.put(at, -_row_sums(rows))
    return rows.reshape(logits.shape) if out is None else out


LARGE_BYTES = 1 << 16
"""Size from which on the system would be asked for new pages at every call."""

_held = [np.empty(1)]
_ALONE = sys.getrefcount(_held[0])
"""References to an array that only a list holds."""


class Recycled:
    """Gives arrays to write into; one that it gave before, when nobody refers to it any more.

    Every view of an array refers to it, and so does what shares its memory with another library.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._shape, self._dtype = shape, dtype
        self._given: list[Any] = []

    def __call__(self) -> Any:
        """Return an array that nobody holds."""
        given = self._given
        for i in range(len(given)):
            if sys.getrefcount(given[i]) == _ALONE:
                return given[i]
        if len(given) == 2:  # one is held from call to call, and one is written meanwhile
            given.pop(0)
        given.append(np.empty(self._shape, self._dtype))
        return given[-1]


def _writing() -> dict[str, Callable[..., Any]]:
    """Return NumPy's own functions that write into ``out``, under the names of their ops."""
    found = {name: getattr(np, name) for name, op in OPS.items() if op.primitive}
    return {name: f for name, f in found.items() if isinstance(f, np.ufunc)}


class NumpyBackend(Backend):
    """NumPy, the array library of this process."""

    name = "numpy"
    overrides: ClassVar = {
        "linear": linear,
        "matmul": matmul,
        "sum": sum,
        "any": _reduction(np.logical_or),
        "all": _reduction(np.logical_and),
        "max": _reduction(np.maximum),
        "min": _reduction(np.minimum),
        "where": where,
        "reshape": reshape,
        "permute_dims": permute_dims,
        "softmax": softmax,
        "cross_entropy_rows": cross_entropy_rows,
        "cross_entropy_slope": cross_entropy_slope,
    }
    into: ClassVar = {
        **_writing(),
        "linear": linear,
        "matmul": matmul,
        "sum": sum,
        "any": overrides["any"],
        "all": overrides["all"],
        "max": overrides["max"],
        "min": overrides["min"],
        "where": where,
        "softmax": softmax,
        "cross_entropy_slope": cross_entropy_slope,
        "astype": astype,
        "concat": concat,
    }
    views = frozenset({"reshape", "permute_dims", "broadcast_to", "getitem", "flip"})
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

    def fresh(self, shape: tuple[int, ...], dtype: Any, index: int) -> Callable[[], Any]:
        """Return a function that gives an array that nobody holds: a large one is given again."""
        if math.prod(shape) * np.dtype(dtype).itemsize < LARGE_BYTES:
            return functools.partial(np.empty, shape, dtype)
        return Recycled(shape, dtype)

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
