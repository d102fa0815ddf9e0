"""A stand-in for the parts of CuPy that nnx's backend uses, over NumPy, for machines without a GPU.

``with installed() as machine:`` puts it into `sys.modules` in CuPy's place, with two pretended
GPUs, and gives nnx a backend that has seen nothing yet. What CuPy does was read in its source,
version 14.2; where a difference remains, the module that has it says so.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from importlib import machinery

import numpy as np

from tests.fake_cupy import cublas, cuda, functions
from tests.fake_cupy.arrays import ndarray

__all__ = ["installed", "modules"]

VERSION = "14.2.0"


def modules():
    """Return the stand-in's modules by the names of CuPy's."""
    found = {}

    def module(name, **members):
        found[name] = types.ModuleType(name)
        found[name].__spec__ = machinery.ModuleSpec(name, None, is_package=True)
        found[name].__path__ = []
        vars(found[name]).update(members)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(found[parent], last, found[name])
        return found[name]

    cupy = module("cupy")
    vars(cupy).update(functions.UFUNCS)
    vars(cupy).update({n: f for n, f in vars(functions).items() if _is_public(n)})
    for name in (
        "bool_ int8 int16 int32 int64 intp uint8 uint16 uint32 uint64 float16 float32 float64 "
        "complex64 complex128 dtype pi e inf nan newaxis finfo iinfo issubdtype isdtype integer "
        "floating complexfloating result_type can_cast promote_types"
    ).split():
        setattr(cupy, name, getattr(np, name))
    cupy.ndarray, cupy.__version__, cupy.abs = ndarray, VERSION, functions.UFUNCS["absolute"]
    cupy.get_default_memory_pool = cuda.get_default_memory_pool
    module(
        "cupy.cuda", Device=cuda.Device, Stream=cuda.Stream, Event=cuda.Event,
        alloc_pinned_memory=cuda.alloc_pinned_memory, runtime=cuda.runtime,
        get_current_stream=cuda.get_current_stream,
    )  # fmt: skip
    module("cupy.cuda.device", Device=cuda.Device)
    module("cupy.cuda.memory", OutOfMemoryError=cuda.OutOfMemoryError)
    module("cupy.linalg", lstsq=None)
    module("cupy.fft")
    module("cupyx", scatter_add=lambda a, key, value: a.scatter_add(key, value))
    module("cupyx.scipy")
    module("cupyx.scipy.special", **{n: functions.UFUNCS[n] for n in ("erf", "erfc")})
    module("cupy_backends")
    module("cupy_backends.cuda")
    module("cupy_backends.cuda.libs")
    found["cupy_backends.cuda.libs.cublas"] = cublas
    found["cupy_backends.cuda.libs"].cublas = cublas
    return found


def _is_public(name):
    return not name.startswith("_") and name not in (
        "np",
        "builtins",
        "math",
        "annotations",
        "ml_dtypes",
    )


PREFIXES = ("cupy", "cupyx", "cupy_backends", "array_api_compat.cupy")


def _is_cupy(name):
    return name.partition(".")[0] in PREFIXES[:3] or name.startswith(PREFIXES[3])


@contextlib.contextmanager
def installed(**settings):
    """Put the stand-in in CuPy's place; what nnx had opened of the real one comes back after."""
    import array_api_compat

    from nnx import backends
    from nnx.backends import cupy_backend

    device_module = sys.modules["nnx.device"]
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_cupy(name)}
    compat = vars(array_api_compat).pop("cupy", None)
    opened, backend = dict(device_module._opened), cupy_backend.BACKEND
    machine = cuda.machine
    machine.__init__(**settings)
    for kept in (*cuda._pool.chunks.values(), *cuda._pool.free.values()):
        kept.clear()
    sys.modules.update(modules())
    cupy_backend.BACKEND = cupy_backend.CupyBackend()
    cupy_backend.BACKEND.machine = _machine
    backends.load.cache_clear()
    _forget(device_module)
    try:
        yield machine
    finally:
        for name in [name for name in sys.modules if _is_cupy(name)]:
            del sys.modules[name]
        sys.modules.update(before)
        vars(array_api_compat).pop("cupy", None)
        if compat is not None:
            array_api_compat.cupy = compat
        cupy_backend.BACKEND = backend
        backends.load.cache_clear()
        device_module._opened.clear()
        device_module._opened.update(opened)


def _machine(index):
    """Return a GPU for compiled steps: their kernels run on the CPU, on the stand-in's arrays."""
    from nnx.backends import cupy_backend
    from nnx.kernels.cuda_machine import DeviceArrays
    from tests.cuda_machine import Machine

    class OfThePool(Machine):
        def memory(self, n):
            assert cuda.machine.device() == index, "memory of another GPU"
            held = cuda._pool.malloc(n)
            held.address = held.ptr
            self.clear(held.address, n)
            return held

    scope = functools.partial(cupy_backend.BACKEND.scope, index)
    return OfThePool("reverse", DeviceArrays(sys.modules["cupy"], index, scope))


def _forget(device_module):
    for name in [name for name in device_module._opened if name.startswith("cupy")]:
        del device_module._opened[name]
