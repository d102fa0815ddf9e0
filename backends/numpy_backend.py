"""NumPy on the CPU: vectorised, single calls, the memory of the caller shared where possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnx.backends.protocol import Backend, Hardware


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Return x @ weight + bias with the bias added in place."""
    out = np.matmul(x, weight)
    if bias is not None:
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


class NumpyBackend(Backend):
    """NumPy, the array library of this process."""

    name = "numpy"
    overrides = {"linear": linear}
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
            return bool(labels.view(np.uint64).max() < stop)
        return bool(labels.min() >= 0 and labels.max() < stop)

    def quiet(self) -> Any:
        """Return NumPy's own context for arithmetic without warnings."""
        return np.errstate(all="ignore")

    def quietly(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function inside that context; the decorator form costs a third of `with`."""
        return np.errstate(all="ignore")(function)


def host_memory_bytes() -> int | None:
    """Return the memory of this machine in bytes, None where the system does not say."""
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


BACKEND = NumpyBackend()
