"""OpenBLAS of the package scipy-openblas32, as addresses that compiled code can call.

Measured against MKL, NumPy's and SciPy's own BLAS, it is as fast as the first and faster than the
others on the shapes of small networks.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from nnx.errors import DeviceError

# Products of fewer multiply-adds (M N K) are to use one thread. Best times in microseconds with one
# and two threads, AMD EPYC (Zen 4) with two cores, otherwise idle, OpenBLAS 0.3.34, float32:
# 2**19 9 and 9; 2**20.6 39 and 24; 2**22 84 and 53; 2**23.6 257 and 165; 2**25.6 1,060 and 640;
# 2**28.6 8,300 and 4,400. But the threads wait for each other in a loop: where another process is
# busy, a product of any size above 2**18 with two threads took 4,000 to 24,000, as the other thread
# has lost its core for a slice of time or several. Below 2**22 the gain is too small for that risk.
ONE_THREAD_BELOW = 2**22

# Where the product of the two smaller sizes is at most this, plain loops compiled for these sizes
# are faster: 10000x3 @ 3x1 takes 1.6 microseconds against 14, 2000x2 @ 2x2 0.4 against 2.6,
# 1x2000 @ 2000x4 1.5 against 4.0. Elsewhere, down to 16x20 @ 20x10, BLAS is as fast or faster:
# 16x4 @ 4x20 0.1 for both, 32x16 @ 16x10 0.2 against 1.6, 128x16 @ 16x4 0.7 against 0.9.
LOOPS_UP_TO = 4


@functools.cache
def _package() -> tuple[ctypes.CDLL, str]:
    """Load the library once; return it, and its version as letters, digits and underscores."""
    try:
        import scipy_openblas32  # type: ignore[import-untyped]
    except ImportError:
        raise DeviceError(
            "Compiled steps multiply matrices with the package scipy-openblas32, which is not "
            "installed here. Install it: python -m pip install scipy-openblas32. Or take "
            "device='numpy', which does without."
        ) from None
    folder = Path(scipy_openblas32.get_lib_dir())
    found = sorted(
        path
        for pattern in ("*.so*", "*.dylib", "*.dll")
        for path in folder.glob(f"libscipy_openblas{pattern}")
    )
    if not found:
        raise DeviceError(
            f"The package scipy-openblas32 has no library in {folder}. Install it again: "
            "python -m pip install --force-reinstall scipy-openblas32."
        )
    try:
        library = ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise DeviceError(
            f"OpenBLAS cannot be loaded from {found[0]}: {error}. Install it again: "
            "python -m pip install --force-reinstall scipy-openblas32."
        ) from error
    version = "".join(c if c.isalnum() else "_" for c in scipy_openblas32.__version__)
    return library, version


def symbol(name: str) -> str:
    """Return the name under which compiled code calls a routine, such as ``sgemm``.

    It holds the library's version: code compiled against another one must not find it, as a
    routine's meaning may have changed.
    """
    return f"nnx_{name}_{_package()[1]}"


def symbols() -> dict[str, int]:
    """Return the address of each routine by its `symbol`, for ``llvmlite.binding.add_symbol``.

    Raises: DeviceError where the package is missing or its library cannot be loaded.
    """
    library, _ = _package()
    return {symbol(name): _address(library, routine) for name, routine in _ROUTINES.items()}


_ROUTINES = {
    "sgemm": "scipy_cblas_sgemm",
    "dgemm": "scipy_cblas_dgemm",
    "set_num_threads": "scipy_openblas_set_num_threads",
}


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def threads() -> int:
    """Return how many threads a matrix product may use.

    At first as many as this process may run on, or fewer where the environment says so:
    OPENBLAS_NUM_THREADS or OMP_NUM_THREADS, which OpenBLAS reads as it is loaded.
    """
    return _limit[0] if _limit else set_threads(_package()[0].scipy_openblas_get_num_threads())


def set_threads(n: int) -> int:
    """Let matrix products use up to n threads, at least 1 and at most as many as there are cores.

    Returns how many that is. It is a limit for all the process; a compiled step may choose fewer
    for one product (``blas_threads`` in its source), so OpenBLAS's own number is not the limit.
    """
    _limit[:] = [max(1, min(int(n), _cores()))]
    _package()[0].scipy_openblas_set_num_threads(_limit[0])
    return _limit[0]


# The limit, once OpenBLAS was asked for it.
_limit: list[int] = []


def _cores() -> int:
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
