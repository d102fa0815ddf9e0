"""Any namespace of the array API standard as a device: ``nnx.device("array_api:torch")``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

from nnx import shapes
from nnx.backends.protocol import Backend, Hardware
from nnx.dtypes import as_dtype
from nnx.errors import DeviceError

COMPAT = {"numpy", "cupy", "torch", "dask.array"}
"""Libraries whose own namespace needs array-api-compat to follow the standard."""


class ArrayApiBackend(Backend):
    """An array library that nnx does not know by name, through the standard alone."""

    def __init__(self, namespace: str) -> None:
        self.name = f"array_api:{namespace}"
        self.namespace = namespace
        self.is_torch = namespace == "torch"
        self.is_jax = namespace.partition(".")[0] == "jax"
        sums = ("sum", "prod", "cumulative_sum", "cumulative_prod")
        self.overrides = {
            "reshape": self._reshape,
            "broadcast_to": self._broadcast_to,
            "permute_dims": self._permute_dims,
            **{
                name: self._totals(getattr(self.xp, name))
                for name in sums
                if hasattr(self.xp, name)
            },
        }

    @functools.cached_property
    def xp(self) -> Any:  # type: ignore[override]
        """The namespace, wrapped by array-api-compat where it is known there."""
        path = self.namespace
        if not path or util.find_spec(path.partition(".")[0]) is None:
            raise DeviceError(
                f"Device {self.name!r}: there is no module {path!r} here. Install it, or name "
                f"another, as in 'array_api:torch' or 'array_api:array_api_strict'."
            )
        try:
            xp = importlib.import_module(f"array_api_compat.{path}" if path in COMPAT else path)
        except ImportError as error:
            raise DeviceError(f"Device {self.name!r} does not import: {error}.") from error
        if not hasattr(xp, "asarray"):
            raise DeviceError(
                f"Device {self.name!r}: {path!r} has no asarray: it is no namespace of the array "
                f"API standard. Name one that is, as in 'array_api:torch'."
            )
        return xp

    @functools.cached_property
    def places(self) -> tuple[Any, ...]:
        """The library's own devices by index; None, its default, comes first."""
        info = getattr(self.xp, "__array_namespace_info__", None)
        if info is None:
            return (None,)
        with warnings.catch_warnings():  # asking PyTorch 2.13 warns of 'mkldnn'
            warnings.simplefilter("ignore")
            found = [d for d in info().devices() if d is not None and str(d) != "meta"]
        return (None, *found[1:])

    def devices(self) -> Sequence[Hardware]:
        """Return the library's default device and the others that it names."""
        kind = f"{self.namespace} through the array API"
        return [Hardware(kind if d is None else f"{kind}, on {d}") for d in self.places]

    def scope(self, index: int) -> contextlib.AbstractContextManager[Any]:
        """Return NumPy's context without warnings: some namespaces compute with NumPy."""
        import numpy as np

        return np.errstate(all="ignore")

    def prepare(self, kernel: Callable[..., Any], index: int) -> Callable[..., Any]:
        """Return the kernel inside that context."""
        import numpy as np

        return np.errstate(all="ignore")(kernel)

    def creation(self, name: str, index: int) -> Callable[..., Any]:
        """Return the function bound to one of the library's devices."""
        return functools.partial(getattr(self.xp, name), device=self.places[index])

    def asarray(self, host: Any, dtype: Any, index: int) -> Any:
        """Return the library's own copy: it may not take read-only or strided memory."""
        import numpy as np

        copy = np.array(host, order="C", copy=True)
        return self.xp.asarray(copy, dtype=dtype, device=self.places[index])

    def to_numpy(self, array: Any) -> Any:
        """Return the values as a NumPy array."""
        import numpy as np

        if self.is_torch:
            return array.detach().cpu().numpy()
        try:
            return np.from_dlpack(array)
        except (AttributeError, BufferError, RuntimeError, TypeError):
            return np.asarray(array)

    def _totals(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a sum or product that takes booleans and small integers, and widens them."""

        def total(x: Any, **settings: Any) -> Any:
            kind = as_dtype(x.dtype).kind
            if kind == "float":
                return function(x, **settings)
            # PyTorch 2.13 adds up no uint64; the bits of the result are the same.
            unsigned = kind == "uint" and not self.is_torch
            result = function(self._wide(x, "uint64" if unsigned else "int64"), **settings)
            return self._wide(result, "uint64") if kind == "uint" else result

        return total

    def _wide(self, x: Any, name: str) -> Any:
        """Return integers in 64 bits, or in 32 where the library has no more (JAX)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.xp.astype(x, getattr(self.xp, name))

    def _reshape(self, x: Any, shape: Any, copy: bool | None = None) -> Any:
        """Take a single size too, where the standard asks for a tuple."""
        return self.xp.reshape(x, shapes.as_shape(shape), copy=copy)

    def _permute_dims(self, x: Any, axes: Sequence[int]) -> Any:
        """Take axes counted from the end too, which JAX refuses."""
        return self.xp.permute_dims(x, shapes.normalize_axes(tuple(axes), len(x.shape)))

    def _broadcast_to(self, x: Any, shape: Any) -> Any:
        return self.xp.broadcast_to(x, shapes.as_shape(shape))

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return zeros-with-additions in the way that this library can do it."""
        general = super().add_at(index)
        zeros = self.creation("zeros", index)

        def with_index_add(shape: tuple[int, ...], key: Any, values: Any) -> Any:
            flat = zeros((shapes.size(shape),), dtype=values.dtype)
            at = self.xp.asarray(self._numbered(shape, key).reshape(-1), device=values.device)
            return flat.index_add(0, at, values.reshape(-1)).reshape(shape)

        def with_at(shape: tuple[int, ...], key: Any, values: Any) -> Any:
            return zeros(shape, dtype=values.dtype).at[key].add(values)

        return with_index_add if self.is_torch else with_at if self.is_jax else general

    def index(self, array: Any, key: tuple[Any, ...]) -> Any:
        """Return ``array[key]``; the standard does not mix arrays of integers with slices."""
        if self.is_jax:
            _check_bounds(tuple(array.shape), self.host_key(key))
            return array[key]
        arrays = any(hasattr(item, "dtype") for item in key)
        if self.is_torch and not _is_strange_to_torch(key, arrays):
            return array[tuple(i.long() if hasattr(i, "dtype") else i for i in key)]
        if not self.is_torch and not arrays:
            try:
                return array[key if any(item is Ellipsis for item in key) else (*key, ...)]
            except IndexError:
                pass  # slices beyond the end, which the standard leaves open
        axis = _only_array(key)
        if axis is not None and not self.is_torch:
            return self._take(array, key[axis], axis)
        places = self._numbered(tuple(array.shape), key)
        at = self.xp.asarray(places.reshape(-1), device=array.device)
        taken = self.xp.take(self.xp.reshape(array, (-1,)), at, axis=0)
        return self.xp.reshape(taken, places.shape)

    def _take(self, array: Any, at: Any, axis: int) -> Any:
        """Return whole rows along one axis; numbering each element would cost as much as all."""
        xp, shape = self.xp, tuple(array.shape)
        flat = xp.astype(xp.reshape(at, (-1,)), xp.int64)
        # The standard's take does not count from the end, nor say what is outside.
        flat = xp.where(flat < 0, flat + shape[axis], flat)
        if flat.shape[0] and not self.in_range(flat, shape[axis]):
            raise IndexError(f"an index is outside axis {axis} of size {shape[axis]}")
        taken = xp.take(array, flat, axis=axis)
        return xp.reshape(taken, shape[:axis] + tuple(at.shape) + shape[axis + 1 :])

    def _numbered(self, shape: tuple[int, ...], key: tuple[Any, ...]) -> Any:
        """Return the flat positions that a key names, as a NumPy array."""
        import numpy as np

        numbered = np.arange(shapes.size(shape)).reshape(shape)[self.host_key(key)]
        return np.ascontiguousarray(numbered)  # PyTorch takes no negative strides

    def setitem(self, array: Any, key: Any, value: Any) -> Any:
        """Return a copy of ``array`` with ``value`` at ``key``, written on the host.

        The standard's own assignment takes fewer kinds of keys, and some libraries none.
        """
        host = self.to_numpy(array).copy()
        host[self.host_key(key)] = self.to_numpy(value)
        return self.xp.asarray(host, dtype=array.dtype, device=array.device)


def _only_array(key: tuple[Any, ...]) -> int | None:
    """Return the axis of the only array of integers in a key that else takes all, or None."""
    axis = next((i for i, item in enumerate(key) if hasattr(item, "dtype")), None)
    if axis is None or any(isinstance(i, slice) and i != slice(None) for i in key):
        return None
    before, after = key[:axis], key[axis + 1 :]
    whole = all(isinstance(i, slice) for i in before)
    return axis if whole and all(i is Ellipsis or isinstance(i, slice) for i in after) else None


def _check_bounds(shape: tuple[int, ...], key: tuple[Any, ...]) -> None:
    """Raise IndexError for an index outside its axis, which JAX would move inside."""
    import numpy as np

    _ = np.broadcast_to(np.int8(0), shape)[key]


def _is_strange_to_torch(key: tuple[Any, ...], arrays: bool) -> bool:
    """Return whether PyTorch refuses a key (slices backwards) or reads it otherwise than NumPy.

    Beside arrays, an integer takes part in where NumPy puts their axes and in PyTorch does not.
    """
    backwards = any(isinstance(item, slice) and (item.step or 1) < 0 for item in key)
    return backwards or (arrays and any(isinstance(item, int) for item in key))
