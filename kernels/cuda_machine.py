"""A GPU as steps see it (`nnx.kernels.cuda_setting`): CuPy's memory and streams, CUDA's driver."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nnx import dtypes
from nnx.backends.cupy_products import FIRST_WITH_TF32
from nnx.kernels import epilogues_gpu, nvrtc
from nnx.kernels.cuda_matrices import Matrices
from nnx.kernels.cuda_short import WARP_TURNS
from nnx.kernels.cuda_step import MOST_BLOCKS, THREADS
from nnx.kernels.epilogues_gpu import Apart
from nnx.kernels.problems_gpu import Problem
from nnx.kernels.products_gpu import (
    WORKSPACE_BYTES,
    NoAlgorithmError,
    Plan,
    Pointers,
    event_timer,
    is_faster,
    prepare,
)
from nnx.locks import renew_at_fork
from nnx.places import HostArrays

MARKED_BYTES = 64
COMPARED_FROM = 1 << 20
"""From so many results on, an epilogue is compared with a kernel after the product."""
RING_BYTES = 1 << 20
"""Pinned memory from which numbers of calls are copied; when it is full, the GPU is waited for."""


class DeviceArrays(HostArrays):
    """CuPy's arrays on one GPU."""

    on_host = False

    def __init__(self, cupy: Any, index: int, scope: Callable[[], Any] | None = None) -> None:
        self._cupy = cupy
        self.scope = scope or functools.partial(cupy.cuda.Device, index)
        self.kind = cupy.ndarray

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Return new memory."""
        with self.scope():
            return self._cupy.empty(shape, dtype)

    @staticmethod
    def address(array: Any) -> int:  # type: ignore[override]
        """Return where an array's elements begin."""
        return array.data.ptr  # type: ignore[no-any-return]

    def copied(self, array: Any) -> Any:
        """Return a copy, its elements in order."""
        with self.scope():
            return self._cupy.array(array, order="C")

    def contiguous(self, array: Any) -> Any:
        """Return the elements in order, as they are where they are so already."""
        with self.scope():
            return self._cupy.ascontiguousarray(array)

    def rows(self, array: Any, order: Any) -> Any:
        """Return rows by number."""
        with self.scope():
            return array[self._cupy.asarray(order)]


class Memory:
    """Bytes of the GPU at an address; they are given back when this object goes."""

    def __init__(self, cupy: Any, n: int, stream: int) -> None:
        self._held = cupy.cuda.alloc(n)
        self.address: int = self._held.ptr
        cupy.cuda.runtime.memsetAsync(self.address, 0, n, stream)


class CupyMachine:
    """One GPU. Work goes to CuPy's current stream or `aside`; into a capture while there is one."""

    def __init__(self, cupy: Any, index: int, scope: Callable[[], Any] | None = None) -> None:
        """``scope`` gives the context in which the GPU is current, CuPy's own if not given."""
        self._cupy, self._runtime, self.index = cupy, cupy.cuda.runtime, index
        self.arrays = DeviceArrays(cupy, index, scope)
        self.lock = threading.RLock()
        renew_at_fork(self, "lock", threading.RLock)
        self._capturing: Any = None
        self._own: Any = None
        self._before: Any = None
        self._plans: dict[tuple[Any, ...], Plan | Apart] = {}
        self._fused: dict[tuple[str, ...], bool] = {}

    warp_turns = WARP_TURNS

    # What is made once

    @functools.cached_property
    def _driver(self) -> Any:
        from cupy_backends.cuda.api import driver  # type: ignore[import-not-found, unused-ignore]

        return driver

    @functools.cached_property
    def _capability(self) -> int:
        return int(self._cupy.cuda.Device(self.index).compute_capability)

    @functools.cached_property
    def _epilogues(self) -> dict[str, Any]:
        return self.load(epilogues_gpu.source())

    @functools.cached_property
    def _workspace(self) -> Memory:
        return self.memory(WORKSPACE_BYTES)

    @functools.cached_property
    def _ring(self) -> Any:
        self._at = 0
        return self._cupy.cuda.alloc_pinned_memory(RING_BYTES)

    def scope(self) -> Any:
        """Return the context in which this GPU is current."""
        return self.arrays.scope()

    @property
    def _stream(self) -> int:
        stream = self._capturing or self._own or self._cupy.cuda.get_current_stream()
        return stream.ptr  # type: ignore[no-any-return]

    @functools.cached_property
    def _own_stream(self) -> Any:
        return self._cupy.cuda.Stream(non_blocking=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[int]:
        """Let what is started go to a stream of its own, in its turn on the current one.

        It waits for no other stream; and it can be captured, as the default stream cannot be.
        """
        if self._own is not None:
            yield self._own.ptr
            return
        current, own = self._cupy.cuda.get_current_stream(), self._own_stream
        own.wait_event(current.record())
        self._own = own
        try:
            yield own.ptr
        finally:
            self._own = None
            current.wait_event(own.record())

    def take_turn(self) -> None:
        """Let the current stream wait for the one before it: both use the memory of steps."""
        current, before = self._cupy.cuda.get_current_stream(), self._before
        if before is not None and before.ptr != current.ptr:
            current.wait_event(before.record())
        self._before = current

    def load(self, source: str) -> dict[str, Any]:
        """Return the kernels of a text by name."""
        from cupy.cuda import function  # type: ignore[import-not-found, unused-ignore]

        module = function.Module()
        module.load(nvrtc.cubin(source, self._capability))
        return _Kernels(module)

    def memory(self, n: int) -> Memory:
        """Return n bytes, all 0."""
        return Memory(self._cupy, n, self._stream)

    @property
    def has_narrow_products(self) -> bool:
        """Whether the GPU has units for TF32 and for products of 16 bits."""
        return self._capability >= FIRST_WITH_TF32

    # What is started on the stream

    def launch(self, kernel: Any, blocks: int, arguments: Sequence[int]) -> None:
        """Run a kernel on addresses and whole numbers."""
        values = (ctypes.c_int64 * len(arguments))(*arguments)
        start = ctypes.addressof(values)
        places = (ctypes.c_void_p * len(arguments))(
            *range(start, start + 8 * len(arguments), 8)
        )  # the driver copies the values before it returns
        self._driver.launchKernel(
            kernel.ptr, blocks, 1, 1, THREADS, 1, 1, 0, self._stream,
            ctypes.addressof(places), 0,
        )  # fmt: skip

    def multiply(self, product: Matrices) -> None:
        """Run a product of matrices with the algorithm that was found the fastest."""
        p = product
        problem = Problem(
            p.m, p.n, p.k, p.count, p.left_transposed, p.right_transposed,
            p.left_leading, p.right_leading, p.n, p.left_step, p.right_step, p.m * p.n,
            p.dtype, p.out_dtype, p.compute, p.epilogue, p.n if p.aux else 0,
        )  # fmt: skip
        # The choice holds for the alignment that it was measured at.
        low = tuple(min(x & -x, 256) for x in (p.left, p.right, p.out, p.bias, p.aux))
        plan = self._plans.get((problem, low))
        if plan is None:
            if self._capturing is not None:
                raise RuntimeError(f"the product {problem} was not prepared before the capture")
            workspace = self._workspace.address
            pointers = Pointers(p.left, p.right, p.out, p.bias, p.aux, workspace)
            with self.aside() as stream:
                plan = self._plans[problem, low] = self._prepared(problem, pointers, stream)
        plan.run(p.left, p.right, p.out, p.bias, p.aux, stream=self._stream)

    def fuses(self, epilogue: str, dtype: str, out_dtype: str, compute: str) -> bool:
        """Return whether products do what is meant by an epilogue; it is tried once."""
        key = (epilogue, dtype, out_dtype, compute)
        if key not in self._fused:
            with self.lock, self.scope():
                self._fused[key] = epilogues_gpu.is_right(self, *key)
        return self._fused[key]

    def run_alone(self, problem: Problem, pointers: Pointers) -> None:
        """Run a product by cuBLASLt alone, in its turn. Raises: NoAlgorithmError."""
        pointers = pointers._replace(workspace=self._workspace.address)
        with self.aside() as stream:
            plan = prepare(problem, pointers, stream)
            plan.run(*pointers[:5], stream=stream)  # after those that it was chosen from

    def _prepared(self, problem: Problem, pointers: Pointers, stream: int) -> Plan | Apart:
        """Return a problem ready to run: by cuBLASLt alone, or its epilogue by a kernel."""
        if problem.epilogue not in epilogues_gpu.EPILOGUES:
            return prepare(problem, pointers, stream)
        whole = self._whole(problem, pointers, stream)
        if whole is not None and problem.batch * problem.m * problem.n < COMPARED_FROM:
            return whole
        plan = prepare(problem._replace(epilogue="none"), pointers, stream)
        apart = Apart(plan, problem, self._epilogues, self.launch)
        if whole is None:
            return apart
        run = functools.partial(apart.run, *pointers[:5], stream=stream)
        return apart if is_faster(run, "apart", whole, stream) else whole

    def _whole(self, problem: Problem, pointers: Pointers, stream: int) -> Plan | None:
        """Return a product with its epilogue by cuBLASLt; None where it has none that keeps NaN."""
        try:
            plan = prepare(problem, pointers, stream)
        except NoAlgorithmError:
            return None
        loses = problem.epilogue.startswith("relu") and not self._shows_nan(plan, pointers, stream)
        return None if loses else plan

    def _shows_nan(self, plan: Plan, pointers: Pointers, stream: int) -> bool:
        """Return whether NaN of a factor reaches all of a product's result, which is written.

        cuBLASLt does not say whether relu takes NaN for 0, and each of its kernels may differ.
        """
        p = plan.problem
        rows, columns = (p.k, p.m) if p.transpose_a else (p.m, p.k)
        n = (p.batch - 1) * p.stride_a + (rows - 1) * p.lda + columns
        size = n * dtypes.as_dtype(p.dtype_in).itemsize
        try:
            factor, number = self.memory(size), self.memory(8)
        except MemoryError:
            return False  # the sure way needs no more memory
        # All bits set: NaN in each type.
        self._runtime.memsetAsync(factor.address, 0xFF, size, stream)
        plan.run(factor.address, *pointers[1:5], stream=stream)
        n_results = p.batch * p.m * p.n
        kernel = self._epilogues[f"find_number_{p.dtype_out}"]
        blocks = min(-(-n_results // THREADS), MOST_BLOCKS)
        self.launch(kernel, blocks, [pointers.c, n_results, number.address])
        return not self.download(number.address, 1)[0]

    def copy(self, target: int, source: int, n: int) -> None:
        """Copy bytes on the GPU."""
        if n:
            self._runtime.memcpyAsync(
                target, source, n, self._runtime.memcpyDeviceToDevice, self._stream
            )

    def clear(self, target: int, n: int) -> None:
        """Set bytes to 0."""
        if n:
            self._runtime.memsetAsync(target, 0, n, self._stream)

    def upload(self, target: int, array: Any) -> None:
        """Copy a host array by way of pinned memory, without waiting."""
        n, ring = array.nbytes, self._ring
        if not n:
            return
        if n > RING_BYTES:
            source, stream = np.ascontiguousarray(array), self._stream
            self._runtime.memcpyAsync(
                target, source.ctypes.data, n, self._runtime.memcpyHostToDevice, stream
            )
            self._runtime.streamSynchronize(stream)
            return
        if self._at + n > RING_BYTES:
            self._cupy.cuda.Device(self.index).synchronize()
            self._at = 0
        place = ring.ptr + self._at
        ctypes.memmove(place, np.ascontiguousarray(array).ctypes.data, n)
        self._at += -(-n // 8) * 8
        self._runtime.memcpyAsync(target, place, n, self._runtime.memcpyHostToDevice, self._stream)

    @functools.cached_property
    def _marked(self) -> Any:
        return self._cupy.cuda.alloc_pinned_memory(MARKED_BYTES)

    @functools.cached_property
    def _event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)

    def mark(self, source: int, n: int) -> Callable[[], Any]:
        """Return a function that waits for what was started before, and returns int64 words.

        One at a time: the next mark takes the place of this one.
        """
        kind = self._runtime.memcpyDeviceToHost
        self._runtime.memcpyAsync(self._marked.ptr, source, 8 * n, kind, self._stream)
        self._event.record()

        def words() -> Any:
            self._event.synchronize()
            return np.array((ctypes.c_int64 * n).from_address(self._marked.ptr), np.int64)

        return words

    def download(self, source: int, n: int) -> Any:
        """Return int64 words, when all that was started before is done."""
        words = np.empty(n, np.int64)
        stream = self._stream
        self._runtime.memcpyAsync(
            words.ctypes.data, source, words.nbytes, self._runtime.memcpyDeviceToHost, stream
        )
        self._runtime.streamSynchronize(stream)
        return words

    def seconds(self, start: Callable[[], None]) -> float:
        """Return the seconds that what a function starts takes on the GPU."""
        with self.aside() as stream:
            return event_timer(start, stream)

    # Captures

    def capture(self, start: Callable[[], None]) -> Callable[[], None] | None:
        """Return what starts again, as one CUDA graph, all that a function starts.

        None, with a warning, where that cannot be; the function then has to be called each time.
        """
        stream = self._cupy.cuda.Stream(non_blocking=True)
        stream.begin_capture(self._runtime.streamCaptureModeThreadLocal)
        self._capturing = stream
        collects = gc.isenabled()
        gc.disable()  # what is given back to the GPU meanwhile would end the capture
        try:
            start()
        except Exception as error:
            fault: Exception | None = error
        else:
            fault = None
        finally:
            self._capturing = None
            try:
                graph = stream.end_capture()
            except Exception as error:
                graph, fault = None, error
            if collects:
                gc.enable()
        if fault is not None:
            warnings.warn(
                f"A step could not be captured as a CUDA graph ({fault}). Its kernels are launched "
                f"one by one, which is slower for small networks.",
                stacklevel=2,
            )
            return None
        return lambda: graph.launch(self._own)  # on the current stream where that is None


class _Kernels(dict[str, Any]):
    """Kernels of a module, looked up when they are first asked for."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        found = self[name] = self._module.get_function(name)
        return found
