"""How many threads the CPU's matrix products may use."""

from __future__ import annotations

import numbers
from typing import Any

from nnx.errors import DataError

__all__ = ["get_num_threads", "set_num_threads"]


def set_num_threads(n: int) -> None:
    """Let the CPU's matrix products use up to n threads, in eager and in compiled steps.

    Without it they use all cores that this process may run on, or as many as the environment's
    OPENBLAS_NUM_THREADS or OMP_NUM_THREADS says; more than there are cores count as all. Products
    that are too small to gain from threads use one.
    Raises: DataError unless n is a whole number of 1 or more.
    """
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1:
        raise DataError(f"set_num_threads takes a whole number of 1 or more, got {n!r}.")
    import threadpoolctl  # type: ignore[import-untyped]

    threadpoolctl.threadpool_limits(int(n), user_api="blas")
    if blas := _compiled_blas():
        blas.set_threads(int(n))


def get_num_threads() -> int:
    """Return how many threads the CPU's matrix products may use."""
    if blas := _compiled_blas():
        return blas.threads()  # type: ignore[no-any-return]
    import threadpoolctl

    return max((pool["num_threads"] for pool in threadpoolctl.threadpool_info()), default=1)


def _compiled_blas() -> Any:
    """Return the BLAS of compiled steps, None where its package is not installed."""
    from importlib import util

    if util.find_spec("scipy_openblas32") is None:
        return None
    from nnx.kernels import blas

    return blas
