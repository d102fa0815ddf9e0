"""NVIDIA GPUs through CuPy: eager ops are CuPy's kernels and cuBLAS."""

from __future__ import annotations

import functools
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import util
from typing import Any

from nnx.backends.cuda_reasons import broken_cupy, count_gpus, no_cupy, no_library
from nnx.backends.cupy_kernels import EXACT, READING, adapted, checked, corrections
from nnx.backends.cupy_products import Products
from nnx.backends.cupy_uploads import upload
from nnx.backends.protocol import Backend, Hardware, Unavailable
from nnx.errors import DeviceError

RESIDENT_SHARE = 0.5
"""Of a GPU's free memory a data set may take this part."""
FIRST_WITH_BFLOAT16 = 12020
"""The CUDA runtime from which on CuPy tests its bfloat16."""
CUDA, CUDA_MANAGED = 2, 13
"""Device types of DLPack, from dlpack.h."""


class _Process:
    used = False
    forked = False


_process = _Process()
"""Whether CUDA was started in this process, or in the one that this is a fork of."""


def _mark_child() -> None:
    _process.forked, _process.used = _process.used or _process.forked, False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_child)

FORKED = (
    "this process is a fork of one that used CUDA, and CUDA does not work after a fork. Start "
    "workers by spawn: multiprocessing.get_context('spawn'), or multiprocessing_context='spawn' "
    "for a loader of batches; or use the GPU in one of the processes only"
)


class CupyBackend(Backend):
    """CuPy on one or several GPUs; an index names the GPU."""

    name = "cupy"
    on_host = False
    compiled = frozenset({"erf", "erfc"})

    def __init__(self) -> None:
        self._machines: dict[int, Any] = {}

    @functools.cached_property
    def _cupy(self) -> Any:
        if util.find_spec("cupy") is None:
            raise no_cupy()
        try:
            import cupy
        except Exception as error:
            raise broken_cupy(error) from error
        return cupy

    @functools.cached_property
    def _bfloat16(self) -> Any:
        """NumPy's bfloat16 where CuPy takes it, else None.

        CuPy 14 does where ml_dtypes and NumPy 2.1.2 are installed; its kernels need CUDA 12.2.
        """
        cupy = self._cupy
        has_loops = "EE->E" in map(str, cupy.add.types)
        if not has_loops or cupy.cuda.runtime.runtimeGetVersion() < FIRST_WITH_BFLOAT16:
            return None
        import ml_dtypes

        return cupy.dtype(ml_dtypes.bfloat16)

    @functools.cached_property
    def xp(self) -> Any:  # type: ignore[override]
        """CuPy's namespace in the standard's form, with bfloat16 where there is one."""
        _ = self._cupy
        from array_api_compat import cupy

        namespace = types.ModuleType("nnx.backends.cupy_namespace")
        vars(namespace).update(vars(cupy))
        if self._bfloat16 is not None:
            vars(namespace)["bfloat16"] = self._bfloat16
        return namespace

    @functools.cached_property
    def overrides(self) -> dict[str, Callable[..., Any]]:  # type: ignore[override]
        """cuBLAS for products, and what CuPy lacks."""
        products = Products(self._cupy)
        return {
            **corrections(self._cupy, self.xp, self._bfloat16),
            "matmul": products.matmul,
            "linear": products.linear,
        }

    def adapt(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Return an op's kernel for bfloat16 too, and with its indices looked at."""
        if name in READING:
            return checked(self._cupy, name, kernel)
        if self._bfloat16 is None or name in EXACT:
            return kernel
        return adapted(kernel, self._bfloat16)

    def devices(self) -> Sequence[Hardware]:
        """Return the GPUs.

        Raises: Unavailable: no CuPy, one that does not import, no driver, a driver too old, no
        GPU, or a process forked from one that used CUDA.
        """
        if _process.forked:
            raise Unavailable(f"{FORKED}.")
        runtime = self._cupy.cuda.runtime
        found = []
        n_gpus = count_gpus(runtime)
        _process.used = True
        for index in range(n_gpus):
            properties = runtime.getDeviceProperties(index)
            name = properties["name"].decode()
            version = self._cupy.__version__
            found.append(Hardware(f"{name}, CuPy {version}", int(properties["totalGlobalMem"])))
        return found

    def scope(self, index: int) -> Any:
        """Return the context in which one GPU is current. Raises: DeviceError after a fork."""
        if _process.forked:
            raise DeviceError(f"Device {_name(index)!r}: {FORKED}.")
        return self._cupy.cuda.Device(index)

    def prepare(self, kernel: Callable[..., Any], index: int) -> Callable[..., Any]:
        """Return the kernel inside `scope`, entered only where another GPU is current."""
        current, process = self._cupy.cuda.runtime.getDevice, _process

        def on_device(*arrays: Any, **attrs: Any) -> Any:
            try:
                if not process.forked and current() == index:
                    return kernel(*arrays, **attrs)
                with self.scope(index):
                    return kernel(*arrays, **attrs)
            except (ImportError, RuntimeError) as error:
                if isinstance(error, ImportError) or "failed to load lib" in str(error):
                    raise self._no_library(error) from error
                raise

        return on_device

    def _no_library(self, error: Exception) -> DeviceError:
        """Return the error for a library of CUDA that is not there when a kernel first needs it."""
        built_for = self._cupy.cuda.runtime.runtimeGetVersion()
        return DeviceError(no_library(error, self._cupy.__version__, built_for))

    def asarray(self, host: Any, dtype: Any, index: int) -> Any:
        """Return a copy of a host array on one GPU."""
        with self.scope(index):
            return self._cupy.asarray(host, dtype=dtype)

    def to_numpy(self, array: Any) -> Any:
        """Return a copy of the values on the host."""
        with self.scope(array.data.device_id):
            return self._cupy.asnumpy(array)

    def astype(self, array: Any, dtype: Any) -> Any:
        """Return the values in another type."""
        return array.astype(dtype)

    def creation(self, name: str, index: int) -> Callable[..., Any]:
        """Return a creation function that runs on one GPU."""
        function = getattr(self.xp, name)

        def create(*arguments: Any, **settings: Any) -> Any:
            narrow = settings.get("dtype")
            if name == "linspace" and narrow is not None and narrow == self._bfloat16:
                settings["dtype"] = "float32"
                return create(*arguments, **settings).astype(narrow)
            with self.scope(index):
                return function(*arguments, **settings)

        return create

    def setitem(self, array: Any, key: Any, value: Any) -> Any:
        """Return a copy of ``array`` with ``value`` at ``key``."""
        with self.scope(array.data.device_id):
            result = array.copy()
            result[key] = value
        return result

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return zeros-with-additions; repeated places are added atomically, in any order.

        Types that a GPU does not add atomically are added in float32 or int64 and then rounded.
        """

        def add(shape: tuple[int, ...], key: Any, values: Any) -> Any:
            import cupyx

            name = values.dtype.name
            wide = _ATOMIC.get(name, "float32" if name == "bfloat16" else "int64")
            with self.scope(index):
                out = self._cupy.zeros(shape, wide)
                cupyx.scatter_add(out, key, values.astype(wide, copy=False))
                return out.astype(values.dtype, copy=False)

        return add

    def compile(self, graph: Any, updates: dict[int, int], kinds: dict[str, bool]) -> Any:
        """Return a graph as one CUDA graph of kernels and products, on the current GPU."""
        from nnx.kernels.cuda_program import CudaProgram

        index = int(self._cupy.cuda.runtime.getDevice())
        if index not in self._machines:
            self._machines[index] = self.machine(index)
        return CudaProgram(graph, updates, kinds, self._machines[index])

    def machine(self, index: int) -> Any:
        """Return one GPU as compiled steps see it."""
        from nnx.kernels.cuda_machine import CupyMachine

        return CupyMachine(self._cupy, index, functools.partial(self.scope, index))

    def in_range(self, labels: Any, stop: int) -> bool:
        """Return whether all of a non-empty integer array lies in 0 to stop - 1.

        One answer comes back, before a kernel uses the labels as places: beyond an axis CuPy's
        kernels wrap around in silence.
        """
        with self.scope(labels.data.device_id):
            if labels.dtype.kind == "i":  # a negative one, seen as unsigned, is above any class
                labels = labels.view(f"uint{8 * labels.dtype.itemsize}")
            return bool(labels.max() < stop)

    def synchronize(self, index: int) -> None:
        """Wait for everything on one GPU."""
        with self.scope(index) as gpu:
            gpu.synchronize()

    # Memory

    def memory(self, index: int) -> dict[str, int]:
        """Return bytes: free, total, used of one GPU; of these in CuPy's pool, and held there."""
        with self.scope(index):
            free, total = self._cupy.cuda.runtime.memGetInfo()
            pool = self._cupy.get_default_memory_pool()
            return {
                "free": free, "total": total, "used": total - free,
                "pool_used": pool.used_bytes(), "pool_total": pool.total_bytes(),
                "pool_free": pool.free_bytes(),
            }  # fmt: skip

    def resident(self, size_bytes: int, index: int) -> bool:
        """Return whether a data set fits into a share of what is free, the pool's part included."""
        figures = self.memory(index)
        return size_bytes <= RESIDENT_SHARE * (figures["free"] + figures["pool_free"])

    def release(self, index: int) -> None:
        """Give memory that the pool keeps back to the driver."""
        with self.scope(index):
            self._cupy.get_default_memory_pool().free_all_blocks()

    def asked_bytes(self, error: BaseException) -> int | None:
        """Return the bytes that an allocation asked for, from CuPy's error; None if not told."""
        found = re.search(r"allocating ([\d,]+) bytes", str(error))
        return int(found[1].replace(",", "")) if found else None

    # Data from elsewhere

    def uploads(
        self, batches: Iterable[Sequence[Any]], dtypes: Sequence[Any], index: int
    ) -> Iterator[list[Any]]:
        """Yield host batches as arrays, the next one on its way while one is used."""
        return upload(self._cupy, functools.partial(self.scope, index), batches, dtypes)

    def from_dlpack(self, x: Any, index: int) -> Any:
        """Return an array over another library's memory on this GPU; None if it is elsewhere.

        CuPy hands its current stream over, so that the other library's work on x comes first.
        """
        kind, where = x.__dlpack_device__()
        if int(kind) not in (CUDA, CUDA_MANAGED) or where != index:
            return None
        with self.scope(index):
            return self._cupy.from_dlpack(x)

    def dlpack_index(self, kind: int, index: int) -> int | None:
        """Return the GPU that DLPack's device means, None for a device of another type."""
        return index if kind in (CUDA, CUDA_MANAGED) else None


_ATOMIC = {
    name: name for name in ("int32", "int64", "uint32", "uint64", "float16", "float32", "float64")
}


def _name(index: int) -> str:
    return f"cupy:{index}" if index else "cupy"


BACKEND = CupyBackend()
