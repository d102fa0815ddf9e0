"""NVIDIA GPUs through CuPy: eager ops are CuPy's kernels and cuBLAS."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

from nnx.backends.protocol import Backend, Hardware, Unavailable

NO_DEVICE, DRIVER_TOO_OLD = 100, 35
"""cudaErrorNoDevice and cudaErrorInsufficientDriver of the CUDA runtime."""


def _version(number: int) -> str:
    """Return 13.1 for CUDA's 13010."""
    return f"{number // 1000}.{number % 1000 // 10}"


def count_gpus(runtime: Any) -> int:
    """Return how many GPUs the CUDA runtime sees. Raises: Unavailable with the cause told apart."""
    try:
        driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            raise Unavailable(
                "there is no NVIDIA driver on this machine. Install one (nvidia-smi must list the "
                "GPU), or choose a CPU device: --device cpu."
            )
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise Unavailable(_cause(error, driver, built_for)) from None
    if count == 0:
        raise Unavailable(_hidden() or "the driver lists no GPU. Check nvidia-smi.")
    return count


def _cause(error: Any, driver: int, built_for: int) -> str:
    if error.status == DRIVER_TOO_OLD:
        return (
            f"the NVIDIA driver is too old: it goes up to CUDA {_version(driver)} and CuPy is "
            f"built for CUDA {_version(built_for)}. Update the driver, or install a CuPy for it: "
            f'python -m pip install "nnx-array[cuda{driver // 1000}]".'
        )
    if error.status == NO_DEVICE:
        return _hidden() or "the driver is there but finds no GPU. Check nvidia-smi."
    return f"CUDA does not start: {error}. Check nvidia-smi."


def _hidden() -> str:
    """Return what to say where the environment hides every GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or visible.strip() not in ("", "-1"):
        return ""
    return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU. Unset it, or name one: 0."


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
            raise Unavailable(
                "CuPy is not installed. Install the build for your CUDA: python -m pip install "
                '"nnx-array[cuda13]", or [cuda12] for an older driver.'
            )
        try:
            import cupy
        except Exception as error:
            raise Unavailable(
                f"CuPy is installed but does not import: {error}. Keep only the build that fits "
                f"the driver: nnx-array[cuda13] or nnx-array[cuda12]."
            ) from error
        return cupy

    @functools.cached_property
    def xp(self) -> Any:  # type: ignore[override]
        """CuPy's namespace, in the standard's form."""
        _ = self._cupy
        from array_api_compat import cupy

        return cupy

    @functools.cached_property
    def overrides(self) -> dict[str, Callable[..., Any]]:  # type: ignore[override]
        """CuPy's own kernels for what the standard lacks."""
        from cupyx.scipy import special

        return {"erf": special.erf, "erfc": special.erfc}

    def devices(self) -> Sequence[Hardware]:
        """Return the GPUs. Raises: Unavailable: no CuPy, no driver, a driver too old, no GPU."""
        runtime = self._cupy.cuda.runtime
        found = []
        for index in range(count_gpus(runtime)):
            properties = runtime.getDeviceProperties(index)
            name = properties["name"].decode()
            version = self._cupy.__version__
            found.append(Hardware(f"{name}, CuPy {version}", int(properties["totalGlobalMem"])))
        return found

    def scope(self, index: int) -> Any:
        """Return the context in which one GPU is current."""
        return self._cupy.cuda.Device(index)

    def prepare(self, kernel: Callable[..., Any], index: int) -> Callable[..., Any]:
        """Return the kernel as it is on GPU 0, which is current anyway; else inside `scope`."""
        if index == 0:
            return kernel

        def on_device(*arrays: Any, **attrs: Any) -> Any:
            with self.scope(index):
                return kernel(*arrays, **attrs)

        return on_device

    def asarray(self, host: Any, dtype: Any, index: int) -> Any:
        """Return a copy of a host array on one GPU."""
        with self.scope(index):
            return self._cupy.asarray(host, dtype=dtype)

    def to_numpy(self, array: Any) -> Any:
        """Return a copy of the values on the host."""
        return self._cupy.asnumpy(array)

    def astype(self, array: Any, dtype: Any) -> Any:
        """Return the values in another type."""
        return array.astype(dtype)

    def creation(self, name: str, index: int) -> Callable[..., Any]:
        """Return a creation function that runs on one GPU."""
        function = getattr(self.xp, name)

        def create(*arguments: Any, **settings: Any) -> Any:
            with self.scope(index):
                return function(*arguments, **settings)

        return create

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return zeros-with-additions; repeated places are added atomically."""

        def add(shape: tuple[int, ...], key: Any, values: Any) -> Any:
            import cupyx

            out = self._cupy.zeros(shape, values.dtype)
            cupyx.scatter_add(out, key, values)
            return out

        return add

    def compile(self, graph: Any, updates: dict[int, int], kinds: dict[str, bool]) -> Any:
        """Return a graph as one CUDA graph of kernels and products, on the current GPU."""
        from nnx.kernels.cuda_machine import CupyMachine
        from nnx.kernels.cuda_program import CudaProgram

        index = int(self._cupy.cuda.runtime.getDevice())
        machine = self._machines.get(index)
        if machine is None:
            machine = self._machines[index] = CupyMachine(index)
        return CudaProgram(graph, updates, kinds, machine)

    def synchronize(self, index: int) -> None:
        """Wait for everything on one GPU."""
        self._cupy.cuda.Device(index).synchronize()

    def memory(self, index: int) -> dict[str, int]:
        """Return the free, total and pooled bytes of one GPU."""
        with self.scope(index):
            free, total = self._cupy.cuda.runtime.memGetInfo()
            pool = self._cupy.get_default_memory_pool()
            return {
                "free": free, "total": total,
                "pool_used": pool.used_bytes(), "pool_total": pool.total_bytes(),
            }  # fmt: skip


BACKEND = CupyBackend()
