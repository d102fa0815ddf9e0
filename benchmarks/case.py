"""The words of the suite: a case is one thing to compute, a contestant computes it in its way.

A suite is a module with ``CASES`` and two functions:

- ``variants(case, contestant)`` returns what makes the contestant's `Work`, by name of the setting;
  where a library has several usual settings, the fastest in the case is measured;
- ``expected(case)`` returns the results by plain NumPy in float64, to which all are held.

`harness` measures the cases of a suite, each contestant in a process of its own; the tests of a
suite file are the same works under pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

DEVICES = ("loops", "numpy", "numba", "cupy")
"""The contestants that are nnx: eager arithmetic on loops and numpy, `nnx.jit` on the others."""
PEERS = {
    "numpy-by-hand": "numpy",
    "torch": "torch",
    "torch-compile": "torch",
    "torch-cuda": "torch",
    "torch-compile-cuda": "torch",
    "jax": "jax",
    "jax-cuda": "jax",
}
"""The other contestants, and the library that each needs."""
ALIASES = {"numpy": "numpy-by-hand"}
"""Among peers, ``numpy`` is the arithmetic written by hand; among devices it is nnx's."""
WITH_LOOPS = "textbook"
"""Takes part where loops do: the layer as a textbook writes it, in plain Python."""
UNCHECKED = ("products", "products-cuda", "copy")
"""No contestants, and without results: a part of the work, as a floor."""


class Case(NamedTuple):
    """One thing to compute.

    ``problem`` is what the suite's functions make data of; ``contestants`` are those that can take
    part; each time is reported as a ratio to that of ``reference`` too. ``work`` is the number of
    scalar operations, by which the time of loops is guessed before they are run. ``flops`` and
    ``n_bytes`` are what the arithmetic needs at least, 0 if unknown. Results may differ from
    `expected` by ``tolerance`` times the largest of them. ``threads`` limits the BLAS.
    """

    suite: str
    group: str
    name: str
    problem: Any
    contestants: tuple[str, ...]
    reference: str
    work: int
    quick: bool = False
    flops: int = 0
    n_bytes: int = 0
    tolerance: float = 1e-5
    threads: int | None = None


Clock = Callable[[], Callable[[], float | None]]


class Work(NamedTuple):
    """A case as one contestant does it, ready to be timed.

    ``run`` does it once and returns when it is done: it waits for a device that works on by itself.
    ``values`` returns the results of a fresh start as arrays; ``reset`` goes back to the start.
    Where ``seconds`` is given, it does the work once in another process and returns its time.

    Where ``clock`` is given, ``run`` only starts the work. ``clock`` waits until the device is idle
    and starts a clock there; what it returns waits again, and returns the device's own seconds, or
    None where it keeps no time. A call of ``run`` counts as ``units`` in the figures.
    """

    run: Callable[[], object]
    values: Callable[[], list[Any]]
    reset: Callable[[], object] = bool
    seconds: Callable[[], float] | None = None
    stats: Callable[[], dict[str, Any]] = dict
    clock: Clock | None = None
    units: int = 1


class UnavailableError(Exception):
    """A contestant cannot take part on this machine; the text says why."""


Variants = dict[str, Callable[[], Work]]


def nothing() -> list[Any]:
    """Return the results of a work that has none to be checked."""
    return []


def on_device(name: str, function: Callable[..., Any], arrays: list[Any]) -> Work:
    """Return a function of tensors as a work on a device of nnx, under `nnx.jit` but for two.

    Loops and numpy compute eagerly, so that the reader sees what each of vectors and compilation
    gives. The device has done all when ``run`` returns.
    """
    import numpy as np

    import nnx

    device = nnx.device(name)
    args = [nnx.asarray(a, device=name) for a in arrays]
    compiled = name not in ("loops", "numpy")
    call = nnx.jit(function) if compiled else function

    def run() -> Any:
        result = call(*args)
        device.synchronize()
        return result

    def values() -> list[Any]:
        result = run()
        found = result if isinstance(result, tuple | list) else [result]
        return [np.array(x.numpy()) for x in found]

    def stats() -> dict[str, int]:
        return call.lower(*args).stats() if compiled else {}  # type: ignore[union-attr]

    return Work(run, values, stats=stats)


SAMPLED = 1 << 16


def sampled(array: Any) -> Any:
    """Return at most SAMPLED elements of an array, evenly spread, as float64."""
    import numpy as np

    flat = np.ravel(np.asarray(array))
    return flat[:: max(flat.size // SAMPLED, 1)].astype(np.float64)


def difference(found: list[Any], expected: list[Any]) -> float:
    """Return the largest difference of results, in units of the largest of each; inf for NaN.

    Fewer results than expected are compared as far as they go: slow contestants give a part.
    """
    import numpy as np

    worst = 0.0
    for a, b in zip(found, map(sampled, expected), strict=False):
        if a.shape != b.shape:
            return float("inf")
        scale = float(np.max(np.abs(b), initial=0.0)) or 1.0
        off = float(np.max(np.abs(a - b), initial=0.0)) / scale
        worst = max(worst, off if off == off else float("inf"))
    return worst
