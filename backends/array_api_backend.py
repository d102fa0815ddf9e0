"""Any namespace of the array API standard as a device: ``nnx.device("array_api:torch")``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

from nnx.backends.protocol import Backend, Hardware

from nnx import shapes
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
        self.overrides = {"sum": self._sum, "prod": self._prod}
        _ = self.xp

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
            return importlib.import_module(f"array_api_compat.{path}" if path in COMPAT else path)
        except ImportError as error:
            raise DeviceError(f"Device {self.name!r} does not import: {error}.") from error

    def devices(self) -> Sequence[Hardware]:
        """Return the library's default device."""
        return (Hardware(f"{self.namespace} through the array API"),)

    def asarray(self, host: Any, dtype: Any, index: int) -> Any:
        """Return the library's own copy: it may not take read-only or strided memory."""
        import numpy as np

        return self.xp.asarray(np.array(host, order="C", copy=True), dtype=dtype)

    def to_numpy(self, array: Any) -> Any:
        """Return the values as a NumPy array."""
        import numpy as np

        if self.is_torch:
            return array.detach().cpu().numpy()
        try:
            return np.from_dlpack(array)
        except (AttributeError, BufferError, RuntimeError, TypeError):
            return np.asarray(array)

    def _sum(self, x: Any, **settings: Any) -> Any:
        return self.xp.sum(self._counted(x), **settings)

    def _prod(self, x: Any, **settings: Any) -> Any:
        return self.xp.prod(self._counted(x), **settings)

    def _counted(self, x: Any) -> Any:
        """Return booleans as the integers that the standard's sums ask for."""
        return self.xp.astype(x, self.xp.int64) if x.dtype == self.xp.bool else x

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return zeros-with-additions in the way that this library can do it."""
        return self._add_at

    def _add_at(self, shape: tuple[int, ...], key: Any, values: Any) -> Any:
        xp = self.xp
        zeros = xp.zeros(shape, dtype=values.dtype)
        if self.is_jax:
            return zeros.at[key].add(values)
        if not any(item is None or hasattr(item, "dtype") for item in key):
            zeros[key] = values
            return zeros
        places, flat = self._places(shape, key), xp.reshape(values, (-1,))
        if self.is_torch:
            return xp.reshape(zeros.reshape(-1).index_add(0, places, flat), shape)
        # Equal places add up as a product with a matrix of zeros and ones.
        named = xp.expand_dims(places, axis=1) == xp.arange(shapes.size(shape))
        return xp.reshape(xp.matmul(flat, xp.astype(named, values.dtype)), shape)

    def _places(self, shape: tuple[int, ...], key: tuple[Any, ...]) -> Any:
        """Return the flat positions that a key names, worked out on the host."""
        return self.xp.asarray(self._host_places(shape, key).reshape(-1))

    def _host_places(self, shape: tuple[int, ...], key: tuple[Any, ...]) -> Any:
        import numpy as np

        numbered = np.arange(shapes.size(shape)).reshape(shape)
        return numbered[tuple(self.to_numpy(i) if hasattr(i, "dtype") else i for i in key)]

    def index(self, array: Any, key: tuple[Any, ...]) -> Any:
        """Return ``array[key]``; the standard does not mix arrays of integers with slices."""
        arrays = [hasattr(item, "dtype") for item in key]
        if self.is_torch or self.is_jax or not any(arrays) or all(arrays):
            return array[key]
        places = self._host_places(tuple(array.shape), key)
        taken = self.xp.take(
            self.xp.reshape(array, (-1,)), self.xp.asarray(places.reshape(-1)), axis=0
        )
        return self.xp.reshape(taken, places.shape)

    def setitem(self, array: Any, key: Any, value: Any) -> Any:
        """Return a copy of ``array`` with ``value`` at ``key``, written on the host.

        The standard's own assignment takes fewer kinds of keys, and some libraries none.
        """
        host = self.to_numpy(array).copy()
        host[tuple(self.to_numpy(i) if hasattr(i, "dtype") else i for i in key)] = (
            self.to_numpy(value)
        )
        return self.xp.asarray(host)
