"""Devices: a backend and an index, with everything looked up once that ops need at each call."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx import dtypes
from nnx.dtypes import DType
from nnx.errors import DeviceError, DTypeError, OutOfMemoryError
from nnx.locks import hold_at_fork
from nnx.op import OPS, recording

if TYPE_CHECKING:
    from nnx.backends import Backend


class DeviceInfo(NamedTuple):
    """What `devices` says of one device."""

    name: str
    available: bool
    reason: str
    description: str
    memory_bytes: int | None


class Namespace:
    """The ``xp`` of one device: what evals and gradient rules are run against.

    Every op of the table is here under its name, beside the library's own functions (``raw``).
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def bind_ops(
    namespace: Namespace, overrides: Any = None, adapt: Any = None
) -> dict[str, Callable[..., Any]]:
    """Put every op into a namespace and return the kernels: op name to function.

    An op is the library's own function where it is a primitive, the backend's override where there
    is one, else its ``eval`` over this same namespace; ``adapt`` is `Backend.adapt`.
    """
    overrides = overrides or {}
    kernels: dict[str, Callable[..., Any]] = {}
    for name, op in OPS.items():
        if name in overrides:
            kernel = overrides[name]
        elif op.primitive:
            kernel = getattr(namespace.raw, name, None) or functools.partial(op.eval, namespace)
        else:
            kernel = functools.partial(op.eval, namespace)
        if adapt is not None:
            kernel = adapt(name, kernel)
        kernels[name] = kernel
        # The standard's concat and stack take a list; only `apply` calls them with open inputs.
        if name not in ("concat", "stack"):
            setattr(namespace, name, kernel)
    return kernels


class Device:
    """One place where arrays live and arithmetic runs; ``with device:`` makes it the default."""

    def __init__(self, name: str, backend: Backend, index: int) -> None:
        self.name = name
        self.backend = backend
        self.index = index
        self._native = dict(_native_types(backend, index))
        self._dtype_of = {native: dtype for dtype, native in self._native.items()}
        self.floating = {native for dtype, native in self._native.items() if dtype.is_floating}
        self.numeric = set(self._dtype_of) - {self._native[dtypes.bool_]}
        self._wide = self._native.get(dtypes.float64) or self._native[dtypes.float32]
        self.namespace = self._make_namespace()
        raw = bind_ops(self.namespace, backend.overrides, backend.adapt)
        self.kernels = {
            name: kernel if name in backend.trusted else backend.prepare(kernel, index)
            for name, kernel in raw.items()
        }

    def _make_namespace(self) -> Namespace:
        xp = Namespace(self.backend.xp)
        xp.native = self.native
        xp.dtype_of = self.dtype_of
        xp.convert = self.backend.astype
        xp.to_numpy = self.backend.to_numpy
        xp.in_range = self.backend.in_range
        xp.found = self._found
        xp.create = lambda name: self.backend.creation(name, self.index)
        xp.from_host = self._from_host
        xp.widen = self._widen
        xp.narrow = self._narrow
        xp.arange_like = self._arange_like
        xp.index = self.backend.index
        xp.add_at = self.backend.add_at(self.index)
        return xp

    def _found(self, bad: Any) -> bool:
        """Return whether any element is true."""
        return bool(self.backend.to_numpy(self.namespace.any(bad)))

    def _from_host(self, host: Any, dtype: DType) -> Any:
        return self.backend.asarray(host, self.native(dtype), self.index)

    def resolve(self) -> Device:
        """Return the device that is meant now; inside a trace another one stands for this."""
        trace = recording.trace
        return trace.device if trace is not None and trace.real is self else self

    def adopt(self, tensor: Any) -> None:
        """Move a tensor here, in place."""
        moved = tensor.to(self).array
        tensor.device = self
        tensor.assign(moved)

    def _widen(self, array: Any) -> Any:
        """Return a float array as float64 where the device has it, else as float32."""
        return array if array.dtype == self._wide else self.backend.astype(array, self._wide)

    def _narrow(self, array: Any, like: Any) -> Any:
        return array if array.dtype == like.dtype else self.backend.astype(array, like.dtype)

    def _arange_like(self, array: Any, n: int) -> Any:
        """Return 0 to n - 1 in the type of an integer array."""
        return self.backend.creation("arange", self.index)(n, dtype=array.dtype)

    def dtype_of(self, array: Any) -> DType:
        """Return the data type of one of this device's arrays."""
        return self._dtype_of[array.dtype]

    def native(self, dtype: DType | Any) -> Any:
        """Return the library's own type. Raises: DTypeError where the device lacks it."""
        if not isinstance(dtype, DType):
            return dtype
        found = self._native.get(dtype)
        if found is None:
            has = ", ".join(map(str, self._native))
            raise DTypeError(
                f"Device {self.name!r} has no {dtype}. It has {has}."
                + (" Set JAX_ENABLE_X64=1 before the start." if "jax" in self.name else "")
            )
        return found

    def nearest(self, dtype: DType) -> DType:
        """Return the type; where the device lacks it, the next wider one, or the widest."""
        if dtype in self._native:
            return dtype
        same = [d for d in self._native if d.kind == dtype.kind]
        wider = [d for d in same if d.bits >= dtype.bits and d is not dtypes.bfloat16]
        if wider:
            return min(wider, key=lambda d: d.bits)
        return max(same, key=lambda d: d.bits, default=dtype)

    def has(self, dtype: DType) -> bool:
        """Return whether arrays of this type can be on the device."""
        return dtype in self._native

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """The data types that the device has."""
        return tuple(self._native)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context for arithmetic on raw arrays of the device."""
        return self.backend.scope(self.index)  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""
        self.backend.synchronize(self.index)

    def memory(self) -> dict[str, int]:
        """Return figures in bytes, such as used and total; empty where they are not known."""
        return self.backend.memory(self.index)  # type: ignore[no-any-return]

    def release(self) -> None:
        """Give memory that is kept for reuse back to the system."""
        self.backend.release(self.index)

    def out_of_memory(self, what: str, error: BaseException) -> OutOfMemoryError:
        """Return the error for what found no memory: bytes asked and free, and what would help."""
        if isinstance(error, OutOfMemoryError):
            return error
        found = OutOfMemoryError()
        found.asked = self.backend.asked_bytes(error)
        with contextlib.suppress(Exception):  # figures are asked of a device in distress
            found.free = self.memory().get("free")
        asked = f"asked for {found.asked:,} bytes" if found.asked else "found no memory"
        free = f", {found.free:,} are free" if found.free is not None else ""
        found.args = (
            f"{what} {asked} on {self.name!r}{free}. Take a smaller batch, or a type of fewer "
            f"bits; drop tensors that are no longer needed; end what else uses the device.",
        )
        # Their frames hold what the failed call had made.
        error.__traceback__ = error.__context__ = None
        return found

    def __repr__(self) -> str:
        return f"nnx.device({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str) and _canonical(other) == self.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.name,)

    def __deepcopy__(self, memo: Any) -> Device:
        return self

    def __enter__(self) -> Device:
        _defaults.stack.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _defaults.stack.pop()


def _native_types(backend: Backend, index: int) -> list[tuple[DType, Any]]:
    """Return the types that the library has and keeps (JAX narrows float64 unless told not to)."""
    import warnings

    found = []
    empty = backend.creation("zeros", index)
    for dtype in dtypes.ALL:
        native = getattr(backend.xp, dtype.name, None)
        if native is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                held = empty((), dtype=native).dtype
        except (TypeError, ValueError):
            continue
        if dtypes._name_of(held) == dtype.name:
            found.append((dtype, held))
    return found


class _Defaults(threading.local):
    def __init__(self) -> None:
        self.stack: list[Device] = []


_defaults = _Defaults()
_process_default: Device | None = None


def _canonical(name: str) -> str:
    """Return a device's own name for an alias, a trailing ":0", or another case."""
    import nnx.backends as backends

    text = name.strip()
    base, colon, rest = text.partition(":")
    if base == "cpu":
        base = "numba" if _numba_imports() else "numpy"
    if base == backends.ARRAY_API:
        return text
    base = backends.ALIASES.get(base, base)
    return base if rest == "0" or not colon else f"{base}:{rest}"


@functools.cache
def _numba_imports() -> bool:
    from importlib import util

    return util.find_spec("numba") is not None


def device(name: str | Device | None = None) -> Device:
    """Return the device of a name, the default one for None.

    Raises: DeviceError where there is none of that name, or it cannot be used: the cause and the
    way out. Nothing falls back in silence.

    >>> device("numpy")
    nnx.device('numpy')
    """
    if isinstance(name, Device):
        return name.resolve()
    if name is None:
        return default_device()
    if not isinstance(name, str) or not name.strip():
        raise DeviceError(f"A device is a name such as 'numpy' or 'cupy:1', got {name!r}.")
    if name.strip() == "auto":
        raise DeviceError(
            "'auto' is chosen by measuring a network: give it to model.compile(device='auto') or "
            "to nnx train --device auto. Here, name a device, or 'cpu'."
        )
    return _open(_canonical(name)).resolve()


_opening = hold_at_fork(threading.RLock())


def _open(name: str) -> Device:
    """Return the one device of a name, also where several threads ask for it first."""
    found = _opened.get(name)
    if found is None:
        with _opening:
            found = _opened.get(name) or _opened.setdefault(name, _opened_now(name))
    return found


_opened: dict[str, Device] = {}


def _opened_now(name: str) -> Device:
    import nnx.backends as backends

    base, _, rest = name.partition(":")
    if base == backends.ARRAY_API:
        base, _, index_text = name.rpartition(":")
        base, rest = (base, index_text) if index_text.isdigit() else (name, "")
    backend = backends.load(base)
    if rest and not rest.isdigit():
        raise DeviceError(f"{rest!r} in {name!r} is not a device index. Write {base}:0, {base}:1.")
    index = int(rest or 0)
    try:
        hardware = backend.devices()
    except backends.Unavailable as reason:
        raise DeviceError(f"Device {name!r} cannot be used: {reason}") from None
    if index >= len(hardware):
        allowed = ", ".join(f"'{base}:{i}'" for i in range(len(hardware)))
        raise DeviceError(f"There is no {name!r}: {base} has {len(hardware)} device(s): {allowed}.")
    return Device(name, backend, index)


def opened() -> list[Device]:
    """Return the devices that were used in this process."""
    return list(_opened.values())


def default_device() -> Device:
    """Return where new arrays go: the innermost ``with``, `set_default_device`, NNX_DEVICE, cpu."""
    if _defaults.stack:
        return _defaults.stack[-1].resolve()
    if _process_default is not None:
        return _process_default.resolve()
    named = os.environ.get("NNX_DEVICE")
    if not named:
        return _open(_canonical("cpu")).resolve()
    try:
        return device(named)
    except DeviceError as error:
        raise DeviceError(f"From the environment, NNX_DEVICE={named}: {error}") from None


def set_default_device(name: str | Device | None) -> None:
    """Set where new arrays go in this process; None goes back to NNX_DEVICE or cpu."""
    global _process_default
    _process_default = None if name is None else device(name)


def devices() -> list[DeviceInfo]:
    """Return every device that is known, with the reason where one is not available."""
    import nnx.backends as backends

    found: list[DeviceInfo] = []
    for name in backends.names():
        try:
            hardware = backends.load(name).devices()
        except Exception as error:
            found.append(DeviceInfo(name, False, str(error), "", None))
            continue
        for index, one in enumerate(hardware):
            label = name if index == 0 else f"{name}:{index}"
            found.append(DeviceInfo(label, True, "", one.description, one.memory_bytes))
    return found
