"""The stand-in's devices, memory, streams and events: what `cupy.cuda` gives, on the host.

Like CuPy: work goes to the current device; a pool keeps what was freed; a copy on a stream other
than the null stream has not happened until something waits for it. Unlike CuPy: kernels run at
once; a freed block is written over, so that who still reads it is found out; the pool has one
arena for all streams and does not split blocks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import types
import weakref

import numpy as np

UNIT = 512  # bytes: ALLOCATION_UNIT_SIZE of cupy.cuda.memory
LEGACY_STREAM = 1


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime, with its number as `status`."""

    def __init__(self, status, text="cudaError"):
        super().__init__(f"{text} {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """What the pool raises; the text is CuPy's."""

    def __init__(self, size, total, limit=0):
        self._size, self._total, self._limit = size, total, limit
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class Machine:
    """The GPUs of this pretended machine, and what was done with them."""

    def __init__(self, count=2, memory_bytes=1 << 30, capability="90"):
        self.count, self.memory_bytes, self.capability = count, memory_bytes, capability
        self.driver, self.built_for, self.error = 13000, 13000, None
        self.log = []
        self.current = threading.local()
        self.pid = os.getpid()
        self.streams = {}
        self.products = []

    def device(self):
        return getattr(self.current, "index", 0)

    def note(self, *what):
        """Write one line into the log."""
        self.log.append(what)


machine = Machine()


# Runtime


def _started():
    if machine.error is not None:
        raise CUDARuntimeError(machine.error)
    if os.getpid() != machine.pid:
        raise CUDARuntimeError(3, "cudaErrorInitializationError: initialization error")


def _set_device(index):
    _started()
    if not 0 <= index < machine.count:
        raise CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")
    machine.current.index = index


def _count():
    _started()
    return machine.count


def _info():
    _started()
    held = sum(chunk.nbytes for chunk in _pool.chunks[machine.device()])
    return machine.memory_bytes - held, machine.memory_bytes


def _properties(index):
    return {"name": b"Pretended GPU", "totalGlobalMem": machine.memory_bytes, "major": 9}


runtime = types.SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    driverGetVersion=lambda: machine.driver,
    runtimeGetVersion=lambda: machine.built_for,
    getDeviceCount=_count,
    getDevice=machine.device,
    setDevice=_set_device,
    getDeviceProperties=_properties,
    memGetInfo=_info,
    CUDA_R_16F=2, CUDA_R_16BF=14, CUDA_R_32F=0, CUDA_R_64F=1,
)  # fmt: skip


class Device:
    """One GPU; `with` makes it current."""

    def __init__(self, index=None):
        self.id = machine.device() if index is None else int(index)
        self._before = []

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None

    def __enter__(self):
        self._before.append(machine.device())
        if self.id != machine.device():
            _set_device(self.id)
        return self

    def __exit__(self, *error):
        _set_device(self._before.pop())

    def use(self):
        _set_device(self.id)
        return self

    def synchronize(self):
        _started()
        for stream in list(machine.streams.values()):
            stream.run()

    @property
    def compute_capability(self):
        return machine.capability

    @property
    def cublas_handle(self):
        _started()
        return 7000 + self.id


# Memory


class Chunk:
    """A block of a device's memory; `bytes` is it as the host sees it."""

    def __init__(self, nbytes, device_id):
        self.bytes = np.full(nbytes, 0xAB, np.uint8)
        self.nbytes, self.device_id = nbytes, device_id
        self.ptr = self.bytes.ctypes.data


class Memory:
    """What an array holds of a block; the block is free again when nothing holds this."""

    def __init__(self, chunk):
        self.chunk, self.ptr, self.device_id = chunk, chunk.ptr, chunk.device_id
        weakref.finalize(self, _pool.take_back, chunk).atexit = False


class MemoryPointer:
    """A place in a device's memory."""

    def __init__(self, mem, offset):
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    def copy_from_host_async(self, mem, size, stream=None):
        """Copy from an address of the host, when the stream comes to it."""
        stream = stream or get_current_stream()
        to = self

        def copy():
            ctypes.memmove(to.ptr, int(mem), size)

        machine.note("copy", stream.name, self.ptr, size, is_pinned(int(mem), size))
        stream.do(copy)


class MemoryPool:
    """Blocks kept for reuse. As in CuPy what does not fit is freed before an error is raised."""

    def __init__(self):
        self.chunks = {i: [] for i in range(16)}
        self.free = {i: [] for i in range(16)}

    def malloc(self, size):
        _started()
        device_id, nbytes = machine.device(), -(-max(size, 1) // UNIT) * UNIT
        for i, chunk in enumerate(self.free[device_id]):
            if nbytes <= chunk.nbytes < 2 * nbytes:
                return MemoryPointer(Memory(self.free[device_id].pop(i)), 0)
        if self.total_bytes() + nbytes > machine.memory_bytes:
            self.free_all_blocks()
        if self.total_bytes() + nbytes > machine.memory_bytes:
            gc.collect()
            self.free_all_blocks()
        if self.total_bytes() + nbytes > machine.memory_bytes:
            raise OutOfMemoryError(size, self.total_bytes(), machine.memory_bytes)
        chunk = Chunk(nbytes, device_id)
        self.chunks[device_id].append(chunk)
        return MemoryPointer(Memory(chunk), 0)

    def take_back(self, chunk):
        if any(chunk is one for one in self.chunks[chunk.device_id]):  # else of a machine before
            chunk.bytes[:] = 0xAB
            self.free[chunk.device_id].append(chunk)

    def free_all_blocks(self, stream=None):
        i = machine.device()
        held = {id(chunk) for chunk in self.free[i]}
        self.chunks[i] = [chunk for chunk in self.chunks[i] if id(chunk) not in held]
        self.free[i].clear()

    def total_bytes(self):
        return sum(chunk.nbytes for chunk in self.chunks[machine.device()])

    def free_bytes(self):
        return sum(chunk.nbytes for chunk in self.free[machine.device()])

    def used_bytes(self):
        return self.total_bytes() - self.free_bytes()


_pool = MemoryPool()


def get_default_memory_pool():
    return _pool


_pinned = {}


def alloc_pinned_memory(size):
    """Return page-locked memory of the host: a buffer with its address as `ptr`, as CuPy's."""
    _started()
    machine.note("pinned", size)
    # A ctypes array has its size in its type.
    buffer = type("PinnedMemoryPointer", (ctypes.c_uint8 * max(size, 1),), {})()
    buffer.ptr = ctypes.addressof(buffer)
    _pinned[buffer.ptr] = size
    weakref.finalize(buffer, _pinned.pop, buffer.ptr, None)
    return buffer


def is_pinned(address, size):
    return any(at <= address and address + size <= at + held for at, held in _pinned.items())


# Streams


class Event:
    """A mark in a stream's work: it is done when all before it is."""

    def __init__(self, block=False, disable_timing=False):
        self.name = f"event {len(machine.log)}"
        self.stream, self.place = None, 0

    def record(self, stream=None):
        self.stream = stream or get_current_stream()
        self.place = self.stream.asked
        machine.note("record", self.name, self.stream.name)

    def synchronize(self):
        machine.note("host waits", self.name)
        if self.stream is not None:
            self.stream.run(self.place)

    @property
    def done(self):
        return self.stream is None or self.stream.finished >= self.place


class Stream:
    """Work in order; that of the null stream is done at once."""

    null = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        _started()
        self.device_id = -1 if null else machine.device()
        self.ptr = 0 if null else 100 + len(machine.streams)
        self.name = "null" if null else f"stream {self.ptr}"
        self.waiting, self.asked, self.finished = [], 0, 0
        self._before = []
        if not null:
            machine.streams[self.ptr] = self

    def do(self, work):
        self.asked += 1
        self.waiting.append(work)
        if self.ptr == 0:
            self.run()

    def run(self, until=None):
        while self.waiting and (until is None or self.finished < until):
            self.waiting.pop(0)()
            self.finished += 1

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        machine.note("wait", self.name, event.name)
        other, place = event.stream, event.place
        if other is not None and other is not self:
            self.do(lambda: other.run(place))

    def synchronize(self):
        _started()
        machine.note("synchronize", self.name)
        self.run()

    @property
    def done(self):
        return not self.waiting

    def __enter__(self):
        if self.device_id not in (-1, machine.device()):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with "
                f"the current device ({machine.device()})"
            )
        self._before.append(get_current_stream())
        machine.current.stream = self
        return self

    def __exit__(self, *error):
        machine.current.stream = self._before.pop()


Stream.null = Stream(null=True)


def get_current_stream():
    return getattr(machine.current, "stream", Stream.null)
