"""The registry of backends: built in, installed by others, or any array API namespace."""

from __future__ import annotations

import functools
import importlib
import warnings

from nnx.backends.protocol import Backend, Hardware, Unavailable
from nnx.errors import DeviceError, did_you_mean

BUILTIN = {
    "loops": "nnx.backends.loops_backend",
    "numpy": "nnx.backends.numpy_backend",
    "numba": "nnx.backends.numba_backend",
    "cupy": "nnx.backends.cupy_backend",
}
ALIASES = {"cuda": "cupy", "gpu": "cupy"}
ENTRY_POINTS = "nnx.backends"
ARRAY_API = "array_api"

__all__ = ["ALIASES", "Backend", "Hardware", "Unavailable", "broken", "load", "names"]

_broken: dict[str, str] = {}


@functools.cache
def _plugins() -> dict[str, object]:
    """Return the entry points of the group by name; read once, when a name is not built in."""
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}


def names() -> list[str]:
    """Return the names of all registered backends, the built-in ones first."""
    return [*BUILTIN, *(name for name in _plugins() if name not in BUILTIN)]


def broken() -> dict[str, str]:
    """Return the backends that could not be loaded, each with the cause."""
    return dict(_broken)


@functools.cache
def load(name: str) -> Backend:
    """Return a backend by name, importing its array library only now.

    Raises: DeviceError for an unknown name, or a plug-in that does not load.
    """
    if name in BUILTIN:
        builtin: Backend = importlib.import_module(BUILTIN[name]).BACKEND
        return builtin
    if name.startswith(f"{ARRAY_API}:"):
        from nnx.backends.array_api_backend import ArrayApiBackend

        return ArrayApiBackend(name.partition(":")[2])
    if name not in _plugins():
        known = [*names(), *ALIASES, "cpu", "auto", f"{ARRAY_API}:<namespace>"]
        raise DeviceError(f"There is no device {name!r}. {did_you_mean(name, known)}")
    return _load_plugin(name)


def _load_plugin(name: str) -> Backend:
    """Return another package's backend; what is wrong with it is said and remembered."""
    try:
        backend = _plugins()[name].load()  # type: ignore[attr-defined]
        if not isinstance(backend, Backend):
            raise TypeError(f"it names {backend!r}, not an instance of nnx.backends.Backend")
        backend.xp  # noqa: B018 (a backend without an array namespace is broken too)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        _broken[name] = cause
        warnings.warn(f"The nnx backend {name!r} does not load: {cause}", stacklevel=3)
        raise DeviceError(
            f"The backend {name!r} is installed but does not load: {cause}. "
            f"Mend or uninstall the package that brings it."
        ) from error
    return backend
