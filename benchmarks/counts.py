"""What a training step does, counted: traces, calls, products, memory. No clock, so no noise.

    python -m nnx.benchmarks.counts      prints the figures as one line of JSON

The step is that of 784-16-16-10 at batch 32 with SGD. It is counted in a process of its own, whose
compiled code is kept nowhere: `measured` starts one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import nnx
from nnx.benchmarks import contestants, parts
from nnx.benchmarks.problems import CELLS
from nnx.kernels import cache, native
from nnx.kernels.program import ALIGNMENT

CELL = CELLS["784-16-16-10/32/sgd"]
OTHER_BATCH = 8
WARM = 10
"""Calls before any count: the first ones look for what the further ones know."""
CALLS = 100
MANY_CALLS = 1024
"""A whole number of the blocks from which losses are cut."""
TRIES = 3
Call = Callable[[], object]


# Counters: each calls a function many times, and returns what one call does


def warmed(call: Call) -> Call:
    """Return a function after some calls of it."""
    for _ in range(WARM):
        call()
    return call


def python_calls(call: Call) -> int:
    """Return the calls of Python and C functions in a call, as the interpreter reports them."""
    n = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal n
        n += event in ("call", "c_call")

    warmed(call)
    sys.setprofile(count)
    for _ in range(CALLS):
        call()
    sys.setprofile(None)
    return round(n / CALLS) - 1  # the call of `call`


def peak_bytes(call: Call) -> int:
    """Return the most bytes that a call holds of Python's and NumPy's memory; the median call."""
    tracemalloc.start()
    warmed(call)
    found = []
    for _ in range(CALLS):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        found.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return sorted(found)[CALLS // 2]


def blocks_kept(call: Call) -> int:
    """Return the blocks of Python's memory that a call leaves behind; the least of some tries."""
    found = []
    for _ in range(TRIES):
        warmed(call)
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(MANY_CALLS):
            call()
        gc.collect()
        found.append(round((sys.getallocatedblocks() - before) / MANY_CALLS))
    return max(min(found), 0)


def cyclic_garbage(call: Call) -> int:
    """Return the objects that a call leaves to the garbage collector, for they form cycles."""
    warmed(call)
    gc.collect()
    gc.disable()
    for _ in range(CALLS):
        call()
    n = gc.collect()
    gc.enable()
    return round(n / CALLS)


def arrays(call: Call, calls: int = CALLS) -> tuple[int, int]:
    """Return how often so many calls take memory for NumPy's arrays, and how many bytes."""
    count = _array_count()
    warmed(call)
    count.start()
    for _ in range(calls):
        call()
    return count.stop()


@contextlib.contextmanager
def calls_of(owner: Any, name: str) -> Iterator[Callable[[], int]]:
    """Count the calls of a function of a module or a class, for a while.

    Raises: AttributeError if it has none of this name, so that no count is of something gone.
    """
    ticks, original = Ticks(), getattr(owner, name)
    setattr(owner, name, ticks.before(original))
    try:
        yield ticks.so_far
    finally:
        setattr(owner, name, original)


class Ticks:
    """How often a function runs. `nnx.jit` does not see that it changes, and traces no more."""

    def __init__(self) -> None:
        self._next, self._read = itertools.count().__next__, 0

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts, and then does the same."""
        tick = self._next

        def counted(*args: Any, **kwargs: Any) -> Any:
            tick()
            return function(*args, **kwargs)

        return counted

    def so_far(self) -> int:
        """Return the count."""
        self._read += 1
        return self._next() - self._read + 1


# The memory of arrays: NumPy asks a handler for it, which can be another (its enhancement
# proposal 49). That is C's part of NumPy, so the handler is native code.


class _Functions(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("context", "malloc", "calloc", "realloc", "free")
    ]


class _Handler(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("functions", _Functions),
    ]


SET_HANDLER = 304
"""The place of PyDataMem_SetHandler in the table of NumPy's C functions, the same in all of 2.x."""


def _raw(name: str, *kinds: Any) -> Any:
    """Return one of Python's functions for memory that need no lock: the result's kind first."""
    place = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    return ctypes.CFUNCTYPE(*kinds)(place)


def _native_functions() -> list[Any]:
    """Return malloc, calloc, realloc and free that count blocks and bytes in their context."""
    from numba import cfunc, types

    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    take = _raw("PyMem_RawMalloc", pointer, size)
    take_zeros = _raw("PyMem_RawCalloc", pointer, size, size)
    take_again = _raw("PyMem_RawRealloc", pointer, pointer, size)
    give_back = _raw("PyMem_RawFree", None, pointer)
    context, block, n = types.CPointer(types.int64), types.voidptr, types.uintp

    @cfunc(block(context, n))
    def malloc(counts, n_bytes):  # type: ignore[no-untyped-def]
        counts[0] += 1
        counts[1] += n_bytes
        return take(n_bytes)

    @cfunc(block(context, n, n))
    def calloc(counts, n_items, item_bytes):  # type: ignore[no-untyped-def]
        counts[0] += 1
        counts[1] += n_items * item_bytes
        return take_zeros(n_items, item_bytes)

    @cfunc(block(context, block, n))
    def realloc(counts, old, n_bytes):  # type: ignore[no-untyped-def]
        counts[0] += 1
        counts[1] += n_bytes
        return take_again(old, n_bytes)

    @cfunc(types.void(context, block, n))
    def free(counts, old, n_bytes):  # type: ignore[no-untyped-def]
        give_back(old)

    return [malloc, calloc, realloc, free]


class _ArrayCount:
    """A handler of NumPy's memory that counts what it is asked for."""

    def __init__(self) -> None:
        api, pointer = ctypes.pythonapi, ctypes.c_void_p
        self._counts = (ctypes.c_int64 * 2)()
        self._functions = _native_functions()
        places = [ctypes.addressof(self._counts), *(f.address for f in self._functions)]
        self._handler = _Handler(b"counted", 1, _Functions(*places))
        new = ctypes.PYFUNCTYPE(ctypes.py_object, pointer, ctypes.c_char_p, pointer)
        self._name = b"mem_handler"
        self._capsule = new(("PyCapsule_New", api))(
            ctypes.addressof(self._handler), self._name, None
        )
        inside = ctypes.PYFUNCTYPE(pointer, ctypes.py_object, ctypes.c_char_p)
        table = inside(("PyCapsule_GetPointer", api))(np._core._multiarray_umath._ARRAY_API, None)  # type: ignore[attr-defined]
        place = ctypes.cast(table, ctypes.POINTER(pointer))[SET_HANDLER]
        self._set = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(place)
        # An array made meanwhile is given back through this, be it at the end of the process.
        api.Py_IncRef(ctypes.py_object(self))

    def start(self) -> None:
        """Count from now on."""
        self._counts[:] = [0, 0]
        self._before = self._set(self._capsule)

    def stop(self) -> tuple[int, int]:
        """Return the blocks and the bytes that were asked for."""
        self._set(self._before)
        return self._counts[0], self._counts[1]


_array_count = functools.cache(_ArrayCount)


# The figures


def _call(step: Any, batch: list[Any]) -> Call:
    return lambda: float(step(*batch))


def of_tracing() -> dict[str, int]:
    """Return traces and compilations for a step and 20 more of another batch size: one of each."""
    plain, batch, *_owners = contestants.make_step(CELL, compiled=False)
    ticks = Ticks()
    step = nnx.jit(ticks.before(plain))
    with calls_of(cache, "compile_step") as compilations:
        step(*batch)
        other = [nnx.asarray(x.numpy()[:OTHER_BATCH], device="numba") for x in batch]
        for _ in range(20):
            step(*other)
        return {
            "runs of Python's step in 21 compiled": ticks.so_far(),
            "compilations in 21 compiled steps": compilations(),
        }


def of_text(step: Any, batch: list[Any]) -> dict[str, int]:
    """Return what a step is made of: eqns, and what the emitted text and the memory plan hold."""
    lowered = step.lower(*batch)
    kinds = [parts.kind_of(chunk) for chunk in parts.chunks(lowered.source)[1]]
    repeat = step.repeat
    return {
        "eqns of a compiled step": lowered.stats()["eqns"],
        "products of a compiled step": kinds.count("product"),
        "nests of loops of a compiled step": kinds.count("nest"),
        "temporaries of a compiled step": len(repeat.native.program.emitted.buffers),
        "bytes of temporaries": repeat.setting.work.nbytes - ALIGNMENT,
    }


def native_calls() -> int:
    """Return how often a compiled step enters native code."""
    ticks, original = Ticks(), native.NativeFunction.bind

    def bind(self: Any, address: int) -> Callable[[], int]:
        return ticks.before(original(self, address))

    native.NativeFunction.bind = bind  # type: ignore[method-assign]
    try:
        step, batch, *_owners = contestants.make_step(CELL)
        call = warmed(_call(step, batch))
    finally:
        native.NativeFunction.bind = original  # type: ignore[method-assign]
    before = ticks.so_far()
    for _ in range(CALLS):
        call()
    return round((ticks.so_far() - before) / CALLS)


def of_compiled_step() -> dict[str, int]:
    """Return the counts of a compiled step that is repeated."""
    step, batch, *_owners = contestants.make_step(CELL)
    call = warmed(_call(step, batch))
    return {
        **of_text(step, batch),
        "entries of native code per compiled step": native_calls(),
        "function calls per compiled step": python_calls(call),
        f"arrays made in {MANY_CALLS} compiled steps": arrays(call, MANY_CALLS)[0],
        "bytes held within a compiled step": peak_bytes(call),
        "blocks kept by a compiled step": blocks_kept(call),
        "cyclic garbage of a compiled step": cyclic_garbage(call),
    }


def of_eager_step() -> dict[str, int]:
    """Return the counts of an eager step."""
    step, batch, *_owners = contestants.make_step(CELL, "numpy", compiled=False)
    call = warmed(_call(step, batch))
    n_arrays, n_bytes = arrays(call)
    return {
        "function calls per eager step": python_calls(call),
        "arrays made per eager step": round(n_arrays / CALLS),
        "bytes of arrays made per eager step": round(n_bytes / CALLS),
        "bytes held within an eager step": peak_bytes(call),
        "blocks kept by an eager step": blocks_kept(call),
        "cyclic garbage of an eager step": cyclic_garbage(call),
    }


def measured() -> dict[str, int]:
    """Return the counts, from a process of its own with an empty cache of compiled steps."""
    with tempfile.TemporaryDirectory(prefix="nnx-bench-") as empty:
        result = subprocess.run(
            [sys.executable, "-m", "nnx.benchmarks.counts"], stdout=subprocess.PIPE, text=True,
            check=True, env={**os.environ, "NNX_CACHE_DIR": empty},
        )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


if __name__ == "__main__":
    print(json.dumps(of_tracing() | of_compiled_step() | of_eager_step()))
