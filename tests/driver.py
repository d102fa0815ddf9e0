"""A stand-in for CuPy and CUDA's driver: a queue of work on host memory.

Nothing that is started has happened until something waits for it, and what is started while a
stream captures happens at each launch of its graph. Kernels run as `tests.cuda_on_cpu` does,
products as `tests.cublaslt_on_cpu` does.
"""

import contextlib
import ctypes
import struct
import sys
import types

import numpy as np

from nnx.kernels import cublaslt, nvrtc, products_gpu
from nnx.kernels.cuda_machine import CupyMachine
from nnx.kernels.cuda_matrices import Matrices
from nnx.kernels.products_gpu import Gpu
from nnx.places import HostArrays
from tests.cublaslt_on_cpu import CublasLtOnCpu
from tests.cuda_on_cpu import Module

MAIN, FIRST = 0, 77
"""The number of the default stream, and that of the first one that is made."""


class Host:
    """The stand-in's state: work that waits, the work that a capture notes, and what was done.

    Streams know nothing of each other, but for events: the default one waits for none either.
    """

    def __init__(self):
        self.queues, self.noted = {MAIN: []}, None
        self.capturing = None
        self.launches, self.waits, self.timed, self.held = [], 0, 0, []
        self.end_error, self.replayed_on = None, []

    def do(self, stream, work):
        if stream == self.capturing:
            self.noted.append(work)
        else:
            self.queues[stream].append(work)

    def wait(self, stream=MAIN):
        assert self.noted is None, "the host waits in a capture"
        self.waits += 1
        queue = self.queues[stream]
        while queue:
            queue.pop(0)()

    def wait_for_all(self):
        for stream in self.queues:
            self.wait(stream)

    def alloc(self, n):
        assert self.noted is None, "memory is taken in a capture"
        held = np.full(n + 256, 0xAB, np.uint8)
        self.held.append(held)
        start = held.ctypes.data
        return types.SimpleNamespace(ptr=start + -start % 256, held=held)

    # runtime and driver

    def memset(self, target, value, n, stream):
        self.do(stream, lambda: ctypes.memset(target, value, n))

    def memcpy(self, target, source, n, kind, stream):
        self.do(stream, lambda: ctypes.memmove(target, source, n))

    def launch(self, kernel, gx, gy, gz, bx, by, bz, shared, stream, places, extra):
        assert (gy, gz, by, bz, shared, extra) == (1, 1, 1, 1, 0, 0)
        module, name = kernel
        n = len(_parameters(module, name))
        # As the driver does: the values are read before the call returns.
        pointers = struct.unpack(f"<{n}Q", ctypes.string_at(places, 8 * n))
        values = [ctypes.c_int64.from_address(p).value for p in pointers]
        self.launches.append((name, gx, bx, values))
        self.do(stream, lambda: module.launch(name, gx, bx, values))


def _parameters(module, name):
    return module._entry(name).parameters


class Stream:
    def __init__(self, host, ptr=None):
        self._host, self.ptr = host, FIRST + len(host.queues) - 1 if ptr is None else ptr
        host.queues.setdefault(self.ptr, [])

    def begin_capture(self, mode):
        assert mode == "thread local" and self._host.noted is None and self.ptr != MAIN
        self._host.noted, self._host.capturing = [], self.ptr

    def end_capture(self):
        host, noted = self._host, self._host.noted
        host.noted = host.capturing = None
        if host.end_error:
            raise host.end_error

        def launch(stream=None):
            host.replayed_on.append(MAIN if stream is None else stream.ptr)
            host.queues[host.replayed_on[-1]].extend(noted)

        return types.SimpleNamespace(launch=launch)

    def record(self):
        event = Event(self._host)
        event.record(self)
        return event

    def wait_event(self, event):
        self._host.do(self.ptr, event.reach)


class Event:
    def __init__(self, host):
        self._host, self._reached, self._stream = host, True, MAIN

    def record(self, stream=None):
        self._reached, self._stream = False, stream.ptr if stream else MAIN
        self._host.do(self._stream, self._mark)

    def _mark(self):
        self._reached = True

    def synchronize(self):
        assert self._host.noted is None, "the host waits in a capture"
        self.reach()

    def reach(self):
        """Do the work of its stream up to it."""
        while not self._reached:
            self._host.queues[self._stream].pop(0)()


class Device:
    compute_capability = "90"

    def __init__(self, host, index):
        self._host, self.id = host, index

    def synchronize(self):
        self._host.wait_for_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class CuModule:
    def load(self, cubin):
        self._module = Module(cubin.decode())

    def get_function(self, name):
        return types.SimpleNamespace(ptr=(self._module, name))


def stand_in(monkeypatch):
    """Put the stand-in into `sys.modules`; return its state."""
    made = Host()
    runtime = types.SimpleNamespace(
        memsetAsync=made.memset, memcpyAsync=made.memcpy, streamSynchronize=made.wait,
        memcpyDeviceToDevice=3, memcpyHostToDevice=1, memcpyDeviceToHost=2,
        streamCaptureModeThreadLocal="thread local",
    )  # fmt: skip
    main = Stream(made, MAIN)
    cuda = types.SimpleNamespace(
        Device=lambda index: Device(made, index), Stream=lambda non_blocking: Stream(made),
        Event=lambda disable_timing: Event(made),
        alloc=made.alloc, alloc_pinned_memory=made.alloc, get_current_stream=lambda: main,
        runtime=runtime, function=types.SimpleNamespace(Module=CuModule),
    )  # fmt: skip
    cupy = types.SimpleNamespace(cuda=cuda, ndarray=np.ndarray)
    api = types.SimpleNamespace(driver=types.SimpleNamespace(launchKernel=made.launch))
    found = {
        "cupy": cupy, "cupy.cuda": cuda, "cupy_backends": types.SimpleNamespace(),
        "cupy_backends.cuda": types.SimpleNamespace(), "cupy_backends.cuda.api": api,
    }  # fmt: skip
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(nvrtc, "cubin", lambda source, capability: source.encode())
    made.cupy = cupy
    return made


def cublaslt_on(host, monkeypatch):
    """Let products run on `CublasLtOnCpu`, in their turn; return it."""
    cpu = CublasLtOnCpu()
    matmul = cpu.functions.cublasLtMatmul

    def enqueued(*arguments):
        # As in the library: descriptors may be changed or destroyed when the call has returned.
        described = {address: dict(values) for address, values in cpu.objects.items()}

        def work():
            now, cpu.objects = cpu.objects, described
            assert matmul(*arguments) == 0
            cpu.objects = now

        host.do(arguments[-1] or MAIN, work)
        return 0

    cpu.library.functions.cublasLtMatmul = enqueued

    def timer(launch, stream):
        assert stream != MAIN, "the default stream cannot be captured: a call would be timed"
        launch()
        host.wait(stream)
        host.timed += 1
        return 1.0

    chosen = {}
    monkeypatch.setattr(cublaslt, "library", lambda: cpu.library)
    monkeypatch.setattr(products_gpu, "current_gpu", lambda: Gpu(0, "A GPU", 90, 132))
    monkeypatch.setattr(products_gpu, "event_timer", timer)
    monkeypatch.setattr(products_gpu.choices, "load", lambda key: chosen.get(str(key)))
    monkeypatch.setattr(
        products_gpu.choices, "keep", lambda key, choice: chosen.__setitem__(str(key), choice)
    )
    return cpu


class Arrays(HostArrays):
    """The host's arrays as if they were on the GPU, whose work is done before they are read."""

    on_host = False

    def scope(self):
        return contextlib.nullcontext()


def machine_on(host):
    """Return the machine that drives the stand-in."""
    made = CupyMachine(host.cupy, 0)
    made.warp_turns = 0  # products stay products
    made.arrays = Arrays()
    return made


def words(n, first=0):
    return np.arange(first, first + n, dtype=np.int64)


def read(address, n):
    return np.frombuffer((ctypes.c_int64 * n).from_address(address), np.int64).copy()


def product(machine, left, right, **settings):
    """Return a product of arrays, and where its result will be."""
    count, m, k = left.shape
    n = right.shape[2]
    places = [machine.memory(a.nbytes + 256) for a in (left, right)]
    for place, a in zip(places, (left, right), strict=True):
        machine.upload(place.address, a)
    out = machine.memory(4 * count * m * n)
    given = Matrices(
        "float32", count, m, k, n, places[0].address, False, k, m * k,
        places[1].address, False, n, k * n, out.address,
    )  # fmt: skip
    return given._replace(**settings), out, places


def result(machine, out, *shape):
    n = int(np.prod(shape))
    return machine.download(out.address, n // 2).view(np.float32).reshape(shape)
