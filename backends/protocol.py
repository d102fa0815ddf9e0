"""What a backend is: the one file that the author of a backend reads.

A backend brings an array library to nnx. Subclass `Backend`, set ``name`` and ``xp``, and name an
instance in the entry-point group ``nnx.backends``:

    [project.entry-points."nnx.backends"]
    mylib = "my_package.nnx_backend:BACKEND"

``xp`` is a namespace of the array API standard (2024.12 or later). Everything else has a default.
No gradient lives in a backend: gradients are nnx's, over the functions of ``xp``.
Check the result with ``nnx.testing.check_backend("mylib")``: it returns the rows that fail.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHARE = 0.25
"""Of the memory of its device a data set may take this part."""


@dataclass(frozen=True)
class Hardware:
    """One device as its backend sees it: what it is, and its memory in bytes if known."""

    description: str
    memory_bytes: int | None = None


class Unavailable(Exception):  # noqa: N818 (a state, told by `nnx.devices()`, before it is an error)
    """Raised by `Backend.devices`: why nothing can run here, and what to do about it."""


class Backend:
    """An array library with its kernels; one instance serves all its devices."""

    name: str = ""

    overrides: Mapping[str, Callable[..., Any]] = {}
    """Kernels by op name, called as ``kernel(*arrays, **attrs)`` instead of the op's ``eval``.

    Each is tested against the entry that it replaces.
    """

    on_host: bool = True
    """Whether arrays are in the host's memory, so that a NumPy array may join them in an op."""

    trusted: frozenset[str] = frozenset()
    """Ops whose kernels need no `scope`: they only move elements, or never warn."""

    compile: Callable[..., Any] | None = None
    """``compile(graph, updates, kinds) -> program``; without it a graph runs call by call.

    ``graph`` is lowered (`nnx.passes.prepared`); ``updates`` maps outputs to the inputs that they
    replace; ``kinds`` says of each scalar whether it is a whole number. The program is called as
    ``program(arrays, env)`` with the scalars by name, and returns the outputs' arrays.
    """

    compiled: frozenset[str] = frozenset()
    """Ops that ``compile`` takes as they are, beside the primitives of the standard."""

    into: Mapping[str, Callable[..., Any]] = {}
    """Kernels that write, by op name: ``kernel(*arrays, out=array, **attrs)``.

    With them a graph that is not compiled runs in buffers planned ahead; an op that is not here
    makes a new array. Each returns ``out``, which has the shape and type of the result, its
    elements in order (C). For an elementwise op it may be one of the arrays; else it shares no
    memory with them. The values are those of the op without ``out``, to the bit; ``dtype`` among
    the attributes may be nnx's. A library whose arrays cannot be written, or whose slices are
    copies, has none.
    """

    views: frozenset[str] = frozenset()
    """Of a backend with ``into``: ops that always give a view of their one array.

    ``reshape`` may be among them: only where the elements lie in order is it taken for one.
    """

    @property
    def xp(self) -> Any:
        """The array namespace. Imported on first use, never before."""
        raise NotImplementedError(f"backend {self.name!r} must name its array namespace")

    def adapt(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Return the kernel of one op as it is to be called; done once an op and device."""
        return kernel

    def devices(self) -> Sequence[Hardware]:
        """Return what can run now, one entry an index. Raises: Unavailable with the reason."""
        return (Hardware(f"{self.name} on the CPU"),)

    def asarray(self, host: Any, dtype: Any, index: int) -> Any:
        """Return this library's array with the values of a NumPy array.

        ``dtype`` is one of ``xp``'s. The host array is never written, and may be shared.
        """
        return self.xp.asarray(host, dtype=dtype)

    def to_numpy(self, array: Any) -> Any:
        """Return a NumPy array with an array's values; it may share memory."""
        import numpy as np

        return np.asarray(array)

    def astype(self, array: Any, dtype: Any) -> Any:
        """Return an array's values in another of ``xp``'s types."""
        return self.xp.astype(array, dtype)

    def creation(self, name: str, index: int) -> Callable[..., Any]:
        """Return ``xp.<name>`` (zeros, arange, ...) so bound that it creates on one device."""
        return getattr(self.xp, name)  # type: ignore[no-any-return]

    def fresh(self, shape: tuple[int, ...], dtype: Any, index: int) -> Callable[[], Any]:
        """Return a function that gives an array to write a result into, one that nobody holds."""
        return functools.partial(self.creation("empty", index), shape, dtype=dtype)

    def index(self, array: Any, key: tuple[Any, ...]) -> Any:
        """Return ``array[key]`` for integers, slices, None and arrays of integers."""
        return array[key]

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return ``f(shape, key, values)``: zeros with values added at key, repeats summed.

        It is the gradient of indexing. This one adds on the host, which any library allows.
        """

        def add(shape: tuple[int, ...], key: tuple[Any, ...], values: Any) -> Any:
            import numpy as np

            added = self.to_numpy(values)
            total = np.zeros(shape, added.dtype)
            np.add.at(total, self.host_key(key), added)
            return self.asarray(total, values.dtype, index)

        return add

    def host_key(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return an index whose arrays are NumPy's."""
        return tuple(self.to_numpy(item) if hasattr(item, "dtype") else item for item in key)

    def setitem(self, array: Any, key: Any, value: Any) -> Any:
        """Return a copy of ``array`` with ``value`` at ``key``."""
        result = self.xp.asarray(array, copy=True)
        result[key] = value
        return result

    def in_range(self, labels: Any, stop: int) -> bool:
        """Return whether all of a non-empty integer array lies in 0 to stop - 1."""
        xp = self.xp
        return bool(xp.min(labels) >= 0) and bool(xp.max(labels) < stop)

    def permutation(self, generator: Any, n: int) -> Any:
        """Return ``generator.host_permutation(n)``, a host array; the same bits, made faster."""
        return generator.host_permutation(n)

    def synchronize(self, index: int) -> None:
        """Wait until everything asked of a device is done."""

    def memory(self, index: int) -> dict[str, int]:
        """Return figures in bytes, such as ``{"used": ..., "total": ...}``; empty if unknown."""
        return {}

    def resident(self, size_bytes: int, index: int) -> bool:
        """Return whether a data set of this size is to be held on the device as a whole.

        Else its batches come from the host one by one. This one allows a quarter of the memory.
        """
        hardware = self.devices()[index]
        return size_bytes <= SHARE * (hardware.memory_bytes or float("inf"))

    def release(self, index: int) -> None:
        """Give memory that is kept for reuse back to the system."""

    def asked_bytes(self, error: BaseException) -> int | None:
        """Return the bytes that the allocation behind a MemoryError asked for, None if unknown."""
        return None

    def uploads(
        self, batches: Iterable[Sequence[Any]], dtypes: Sequence[Any], index: int
    ) -> Iterator[list[Any]]:
        """Yield batches of NumPy arrays as arrays on the device, each column in its type.

        A device of its own memory may send the next batch while one is used; this one does not.
        """
        for hosts in batches:
            yield [self.asarray(h, d, index) for h, d in zip(hosts, dtypes, strict=True)]

    def from_dlpack(self, x: Any, index: int) -> Any:
        """Return an array over the memory of another library's ``x``; None if it is elsewhere.

        What lies on the host comes through `asarray`.
        """
        return None

    def dlpack_index(self, kind: int, index: int) -> int | None:
        """Return which of these devices DLPack's ``(kind, index)`` is, None if it is not one."""
        return None

    def scope(self, index: int) -> contextlib.AbstractContextManager[Any]:
        """Return a context for arithmetic on one device: it is current, and inf is no warning."""
        return contextlib.nullcontext()

    def prepare(self, kernel: Callable[..., Any], index: int) -> Callable[..., Any]:
        """Return a kernel made to run inside `scope`; done once a kernel, not once a call."""
        return kernel
