"""Why no GPU can be used, told apart: the driver, CuPy, the two together, the environment.

Each reason names the versions that were found and the line that mends it.
"""

from __future__ import annotations

import ctypes
import os
from importlib import metadata
from typing import Any

from nnx.backends.protocol import Unavailable

NO_DEVICE, DRIVER_TOO_OLD, NOT_INITIALIZED = 100, 35, 3
"""cudaErrorNoDevice, cudaErrorInsufficientDriver and cudaErrorInitializationError."""

NEWEST = 13
"""The CUDA version of the newest extra."""


def version_text(number: int) -> str:
    """Return 13.1 for CUDA's 13010."""
    return f"{number // 1000}.{number % 1000 // 10}"


def driver_version() -> int:
    """Return the newest CUDA that the driver runs, as 13010; 0 where there is no driver."""
    found = ctypes.c_int(0)
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if library.cuDriverGetVersion(ctypes.byref(found)) == 0:
            return found.value
    return 0


def install_line(driver: int) -> str:
    """Return the line that installs the CuPy for a driver, or for the newest one."""
    major = min(driver // 1000, NEWEST) if driver else NEWEST
    return f'python -m pip install "nnx-array[cuda{major}]"'


def builds() -> list[str]:
    """Return the builds of CuPy that are installed, each with its version."""
    found = {
        f"{name} {distribution.version}"
        for distribution in metadata.distributions()
        if (name := distribution.metadata["Name"] or "").startswith("cupy")
    }
    return sorted(found)


def no_cupy() -> Unavailable:
    """Return the reason where CuPy is not installed."""
    driver = driver_version()
    seen = f"the driver goes up to CUDA {version_text(driver)}" if driver else "no driver was found"
    return Unavailable(f"CuPy is not installed ({seen}). Install it: {install_line(driver)}.")


def broken_cupy(error: Exception) -> Unavailable:
    """Return the reason where CuPy is installed and does not import."""
    driver, installed = driver_version(), builds()
    seen = f"the driver goes up to CUDA {version_text(driver)}" if driver else "no driver was found"
    names = " ".join(text.partition(" ")[0] for text in installed)
    return Unavailable(
        f"CuPy is installed but does not import: {_first_words(error)}. Installed: "
        f"{', '.join(installed) or 'a build without a record'}; {seen}. Keep one build, that of "
        f"the driver: python -m pip uninstall -y {names or 'cupy'}, then {install_line(driver)}."
    )


def _first_words(error: Exception) -> str:
    """Return the line of an error that says most: CuPy's own stands below a banner."""
    head, found, rest = str(error).partition("Original error:")
    lines = [line.strip(" =.") for line in (rest if found else head).splitlines()]
    return next(filter(None, lines), type(error).__name__)


def no_library(error: Exception, version: str, built_for: int) -> str:
    """Return what to say where CuPy does not find a library of CUDA, such as cuBLAS or NVRTC."""
    major = built_for // 1000
    return (
        f"CuPy {version} does not find a library of CUDA {version_text(built_for)}: "
        f'{_first_words(error)}. Install them: python -m pip install "cupy-cuda{major}x[ctk]".'
    )


def count_gpus(runtime: Any) -> int:
    """Return how many GPUs the CUDA runtime sees. Raises: Unavailable with the cause told apart."""
    driver = built_for = 0
    try:
        driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            raise Unavailable(
                f"there is no NVIDIA driver on this machine; CuPy is built for CUDA "
                f"{version_text(built_for)}. Install a driver (nvidia-smi must list the GPU), or "
                f"choose a CPU device: --device cpu."
            )
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise Unavailable(_cause(error, driver, built_for)) from None
    if count == 0:
        raise Unavailable(_hidden() or "the driver lists no GPU. Check nvidia-smi.")
    return count


def _cause(error: Any, driver: int, built_for: int) -> str:
    if error.status == DRIVER_TOO_OLD:
        major = driver // 1000
        return (
            f"the NVIDIA driver is too old: it goes up to CUDA {version_text(driver)} and CuPy is "
            f"built for CUDA {version_text(built_for)}. Update the driver, or install a CuPy for "
            f'it: python -m pip install "nnx-array[cuda{major}]".'
        )
    if error.status == NO_DEVICE:
        return _hidden() or (
            f"the driver is there (up to CUDA {version_text(driver)}) but finds no GPU. Check "
            f"nvidia-smi."
        )
    return (
        f"CUDA does not start: {error}. The driver goes up to CUDA {version_text(driver)}, CuPy is "
        f"built for CUDA {version_text(built_for)}. Check nvidia-smi."
    )


def _hidden() -> str:
    """Return what to say where the environment hides every GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or visible.strip() not in ("", "-1"):
        return ""
    return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU. Unset it, or name one: 0."
