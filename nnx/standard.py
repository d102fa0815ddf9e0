"""The rest of the array API standard: inspection, sorting, searching, sets.

Functions whose result's shape depends on values (nonzero, unique_*) work on the host and put the
result back on the device of their input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from nnx import dtypes, shapes
from nnx.device import Device, default_device, devices
from nnx.dtypes import DType
from nnx.errors import DataError, DTypeError, did_you_mean
from nnx.ops import elementwise, layout, reduce
from nnx.tensor import Tensor, asarray

e, pi, inf, nan, newaxis = math.e, math.pi, math.inf, math.nan, None

_KINDS: dict[str, tuple[str, ...]] = {
    "bool": ("bool",),
    "signed integer": ("int",),
    "unsigned integer": ("uint",),
    "integral": ("int", "uint"),
    "real floating": ("float",),
    "complex floating": (),
    "numeric": ("int", "uint", "float"),
}


class FloatInfo(NamedTuple):
    """The limits of a floating type."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


class IntInfo(NamedTuple):
    """The limits of an integer type."""

    bits: int
    max: int
    min: int
    dtype: DType


_MANTISSA_AND_EXPONENT = {
    "bfloat16": (7, 8), "float16": (10, 5), "float32": (23, 8), "float64": (52, 11),
}  # fmt: skip


def _dtype_of(x: Any) -> DType:
    return x.dtype if isinstance(x, Tensor) else dtypes.as_dtype(x)


def finfo(dtype: Any, /) -> FloatInfo:
    """Return the limits of a floating type. Source: IEEE 754."""
    kind = _dtype_of(dtype)
    if not kind.is_floating:
        raise DTypeError(f"finfo is for floating types, got {kind}. Use nnx.iinfo.")
    mantissa, exponent = _MANTISSA_AND_EXPONENT[kind.name]
    top = (2.0 - 2.0**-mantissa) * 2.0 ** (2 ** (exponent - 1) - 1)
    return FloatInfo(kind.bits, 2.0**-mantissa, top, -top, 2.0 ** (2 - 2 ** (exponent - 1)), kind)


def iinfo(dtype: Any, /) -> IntInfo:
    """Return the limits of an integer type."""
    kind = _dtype_of(dtype)
    if kind.kind not in ("int", "uint"):
        raise DTypeError(f"iinfo is for integer types, got {kind}. Use nnx.finfo.")
    low = -(2 ** (kind.bits - 1)) if kind.kind == "int" else 0
    return IntInfo(kind.bits, low + 2**kind.bits - 1, low, kind)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Return whether a type is another, or of a kind such as "real floating", or of one of many."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str) and kind not in _KINDS:
        raise DataError(f"There is no kind of types {kind!r}. {did_you_mean(kind, _KINDS)}")
    if isinstance(kind, str):
        return dtypes.as_dtype(dtype).kind in _KINDS[kind]
    return dtypes.as_dtype(dtype) is dtypes.as_dtype(kind)


def result_type(*values: Any) -> DType:
    """Return the type that arrays, types and Python numbers have together."""
    plain = (bool, int, float)
    held = [_dtype_of(v) for v in values if type(v) not in plain]
    return dtypes.result_dtype(held, [v for v in values if type(v) in plain])


def can_cast(from_: Any, to: Any, /) -> bool:
    """Return whether promotion leads from one type to the other."""
    wanted = dtypes.as_dtype(to)
    try:
        return dtypes.promote(_dtype_of(from_), wanted) is wanted
    except DTypeError:
        return False


class ArrayNamespaceInfo:
    """What `__array_namespace_info__` returns: capabilities, devices, types."""

    def capabilities(self) -> dict[str, Any]:
        """Return what optional features there are."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        """Return where new arrays go."""
        return default_device()

    def devices(self) -> list[str]:
        """Return the names of the available devices."""
        return [info.name for info in devices() if info.available]

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        """Return the type of new arrays by kind."""
        return {
            "real floating": dtypes.float32, "integral": dtypes.int64, "indexing": dtypes.int64,
        }  # fmt: skip

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        """Return the types that a device has, of one kind if named."""
        from nnx.device import device as find

        has = find(device).dtypes
        return {d.name: d for d in has if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> ArrayNamespaceInfo:  # noqa: N807 (the standard's name)
    """Return the inspection interface of the standard."""
    return ArrayNamespaceInfo()


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """Return another library's array as a tensor, sharing memory where it can be shared."""
    return asarray(x, device=device, copy=copy)


def astype(x: Tensor, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """Return the same values in another data type, moved if a device is named."""
    changed = layout.astype(x, dtypes.as_dtype(dtype))
    return changed if device is None else changed.to(device)


# Shapes


def broadcast_shapes(*given: Sequence[int]) -> shapes.Shape:
    """Return the shape that arrays of these shapes have together."""
    return shapes.broadcast(*(tuple(shape) for shape in given)) if given else ()


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """Return the arrays, each repeated to their common shape."""
    shape = broadcast_shapes(*(x.shape for x in arrays))
    return [layout.broadcast_to(x, shape) for x in arrays]


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Return coordinate arrays from coordinate vectors; "ij" keeps the axes in order."""
    if indexing not in ("xy", "ij"):
        raise DataError(f"indexing={indexing!r}. {did_you_mean(indexing, ('xy', 'ij'))}")
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[:2] = [1, 0]
    spread = [
        layout.reshape(x, tuple(-1 if axis == order[i] else 1 for axis in range(len(arrays))))
        for i, x in enumerate(arrays)
    ]
    return broadcast_arrays(*spread)


# Sorting and searching


def argsort(
    x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """Return the indices that sort x along ``axis``; equal elements keep their order."""
    import numpy as np

    host = x.numpy()
    shapes.normalize_axis(axis, x.ndim)
    if not descending:
        return asarray(np.argsort(host, axis=axis, stable=True), device=x.device)
    # Reversed before and after, so that equal elements keep their order here too.
    back = np.flip(np.argsort(np.flip(host, axis), axis=axis, stable=True), axis)
    return asarray(host.shape[axis] - 1 - back, device=x.device)


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Return x sorted along ``axis``. Gradient: each element's goes back to where it came from."""
    order = argsort(x, axis=axis, descending=descending)
    return layout.take_along_axis(x, order, axis=axis)


def searchsorted(
    x1: Tensor, x2: Any, /, *, side: str = "left", sorter: Tensor | None = None
) -> Tensor:
    """Return where the values of x2 go into the sorted vector x1."""
    import numpy as np

    order = None if sorter is None else sorter.numpy()
    values = asarray(x2, device=x1.device).numpy()
    return asarray(np.searchsorted(x1.numpy(), values, side, order), device=x1.device)  # type: ignore[call-overload]


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """Return the places of elements that are not 0, one index vector an axis."""
    return tuple(asarray(places, device=x.device) for places in x.numpy().nonzero())


def count_nonzero(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return how many elements are not 0."""
    counted = (x != 0).astype(x.device.nearest(dtypes.int64))
    return reduce.sum(counted, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    """Return whether each element of x1 is among those of x2."""
    first = x1 if isinstance(x1, Tensor) else asarray(x1, device=x2.device)
    second = asarray(x2, device=first.device)
    found = reduce.any(layout.expand_dims(first, axis=-1) == second.flatten(), axis=-1)
    return elementwise.logical_not(found) if invert else found  # type: ignore[no-any-return]


def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1,
    prepend: Tensor | None = None, append: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return the differences of neighbours along ``axis``, taken ``n`` times."""
    parts = [part for part in (prepend, x, append) if part is not None]
    x = layout.concat(parts, axis=axis) if len(parts) > 1 else x
    lead = (slice(None),) * shapes.normalize_axis(axis, x.ndim)
    for _ in range(n):
        x = x[(*lead, slice(1, None))] - x[(*lead, slice(None, -1))]
    return x


def outer(x: Tensor, y: Tensor, /) -> Tensor:
    """Return all products of an element of x and one of y. Shapes: (N,), (M,) -> (N, M)."""
    return layout.expand_dims(x, axis=-1) * y


# Sets


class UniqueAll(NamedTuple):
    """What `unique_all` returns."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Tensor, /) -> UniqueAll:
    """Return the distinct elements, where each is first, which each one is, and how many."""
    import numpy as np

    found = np.unique_all(x.numpy())
    return UniqueAll(*(asarray(part, device=x.device) for part in found))


def unique_counts(x: Tensor, /) -> UniqueCounts:
    """Return the distinct elements and how often each occurs."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """Return the distinct elements and, for each element of x, which of them it is."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Tensor, /) -> Tensor:
    """Return the distinct elements."""
    return unique_all(x).values
