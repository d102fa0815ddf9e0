"""A machine without a GPU: kernels run as `tests.cuda_on_cpu` does, products are NumPy's."""

import contextlib
import threading
import timeit

import numpy as np

from nnx.backends.numba_backend import NumbaBackend
from nnx.kernels import cuda_setting
from nnx.kernels.cuda_program import CudaProgram
from nnx.places import HostArrays
from tests.cuda_on_cpu import Guarded, Module

THREADS = 256


class Memory:
    """Bytes of the host at an address."""

    def __init__(self, n):
        self.bytes = np.zeros(n + 256, np.uint8)
        start = self.bytes.ctypes.data
        self.address = start + -start % 256


class Apart(cuda_setting.Setting):
    """A step whose memory is laid out part by part, so that what leaves its own part is found.

    What is not said to be 0 at first is NaN.
    """

    def _laid_out(self, wanted):
        held = {name: Guarded(shape=size, dtype=np.uint8, align=32) for name, size in wanted}
        for name, memory in held.items():
            if name.startswith(("tickets", "status")):
                memory.array[...] = 0
        self.bytes = sum(size for _, size in wanted)
        return held, {name: memory.address for name, memory in held.items()}


def cuda_program(graph, updates=None, order="forward"):
    """Return a lowered graph as kernels, to be run by `tests.tracing.run`."""
    return CudaProgram(graph, updates or {}, dict.fromkeys(graph.scalars, True), Machine(order))


@contextlib.contextmanager
def emulation(order="reverse"):
    """Compile for the device "numba" as CUDA, run on the CPU; give the programs, as they come."""
    made, before = [], NumbaBackend.compile

    def compile(self, graph, updates, kinds):
        made.append(CudaProgram(graph, updates, kinds, Machine(order)))
        return made[-1]

    NumbaBackend.compile = compile
    try:
        yield made
    finally:
        NumbaBackend.compile = before


class Arrays(HostArrays):
    """NumPy's arrays as if they were in another memory."""

    on_host = False


class Machine:
    """Runs a step on the host. ``order`` is that of `Module.launch`; ``launches`` and so on count.

    A capture notes what is started, and its replay starts that again with the same arguments.
    """

    has_narrow_products, warp_turns = True, 0
    fused = frozenset({"relu_bias", "relu_aux_bias", "drelu", "bgradb"})
    """What `multiply` does with a product, besides a bias."""

    def fuses(self, epilogue, dtype, out_dtype, compute):
        return epilogue in self.fused

    def __init__(self, order="forward", arrays=None):
        self.order, self.launches, self.products, self.replays = order, 0, 0, 0
        self.arrays = arrays or Arrays()
        self.lock = threading.RLock()
        self.noted = None
        self.allocated = self.uploaded = 0

    def seconds(self, start):
        return timeit.timeit(start, number=1)

    def take_turn(self):
        pass

    def aside(self):
        return contextlib.nullcontext()

    def scope(self):
        return self.arrays.scope() if hasattr(self.arrays, "scope") else contextlib.nullcontext()

    def capture(self, function):
        assert self.noted is None
        self.noted = noted = []
        function()
        self.noted = None

        def replay():
            self.replays += 1
            for start, arguments in noted:
                start(*arguments)

        return replay

    def _later(self, start, *arguments):
        """Return whether a call is part of a capture, and so not run now."""
        if self.noted is not None:
            self.noted.append((start, arguments))
        return self.noted is not None

    def load(self, source):
        module = Module(source)
        return {name: (module, name) for name in module.names}

    def memory(self, n):
        assert self.noted is None, "memory is taken in a capture"
        self.allocated += n
        return Memory(n)

    def launch(self, kernel, blocks, arguments):
        if self._later(self.launch, kernel, blocks, arguments):
            return
        module, name = kernel
        module.launch(name, blocks, THREADS, arguments, order=self.order)
        self.launches += 1

    def multiply(self, p):
        """Multiply in the precision of the factors, and sum in float32 or wider."""
        if self._later(self.multiply, p):
            return
        self.products += 1
        wide = "float64" if p.dtype == "float64" else "float32"
        for i in range(p.count):
            left = _matrix(
                p.left, i * p.left_step, p.m, p.k, p.left_leading, p.left_transposed, p.dtype
            )
            right = _matrix(
                p.right, i * p.right_step, p.k, p.n, p.right_leading, p.right_transposed, p.dtype
            )
            with np.errstate(all="ignore"):
                factors = _values(left, p.dtype, wide), _values(right, p.dtype, wide)
                out = _finished(p, factors[0] @ factors[1], factors[1])
            place = _matrix(p.out, i * p.m * p.n, p.m, p.n, p.n, False, p.out_dtype)
            place[...] = _bits(out, p.out_dtype)

    def copy(self, target, source, n):
        if self._later(self.copy, target, source, n):
            return
        _bytes(target, n)[:] = _bytes(source, n)

    def clear(self, target, n):
        if self._later(self.clear, target, n):
            return
        _bytes(target, n)[:] = 0

    def upload(self, target, array):
        assert self.noted is None, "the host's memory is read in a capture"
        self.uploaded += array.nbytes
        _bytes(target, array.nbytes)[:] = np.ravel(array).view(np.uint8)

    def mark(self, source, n):
        words = self.download(source, n)
        return lambda: words

    def download(self, source, n):
        assert self.noted is None, "the host waits in a capture"
        return _bytes(source, 8 * n).view(np.int64).copy()


def _finished(p, out, right):
    """Return what the epilogue makes of a product; write what it has besides."""
    if p.epilogue == "none":
        return out
    if p.epilogue == "bgradb":
        _vector(p.bias, p.n, p.out_dtype)[:] = _bits(right.sum(axis=0), p.out_dtype)
        return out
    mask = _bytes(p.aux, p.m * p.n // 8).reshape(p.m, p.n // 8) if p.aux else None
    if p.epilogue == "drelu":
        return np.where(np.unpackbits(mask, axis=1, bitorder="little"), out, out.dtype.type(0))
    out = out + _values(_vector(p.bias, p.n, p.out_dtype), p.out_dtype, out.dtype)
    if p.epilogue == "relu_aux_bias":
        mask[:] = np.packbits(out > 0, axis=1, bitorder="little")
    return out if p.epilogue == "bias" else np.maximum(out, 0)


class _At:
    def __init__(self, address, n):
        self.__array_interface__ = {
            "version": 3, "shape": (n,), "typestr": "|u1", "data": (int(address), False),
        }  # fmt: skip


def _bytes(address, n):
    return np.asarray(_At(address, n))


STORED = {"bfloat16": np.dtype(np.uint16)}


def _stored(dtype):
    return STORED.get(dtype) or np.dtype(dtype)


def _vector(address, n, dtype):
    return _bytes(address, n * _stored(dtype).itemsize).view(_stored(dtype))


def _matrix(address, offset, rows, columns, leading, transposed, dtype):
    if transposed:
        return _matrix(address, offset, columns, rows, leading, False, dtype).T
    width = _stored(dtype).itemsize
    n = (rows - 1) * leading + columns
    flat = _vector(address + offset * width, n, dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (leading * width, width))


def _values(array, dtype, wide):
    """Return stored numbers as floats."""
    if dtype == "bfloat16":
        array = (np.ascontiguousarray(array).astype(np.uint32) << 16).view(np.float32)
    return array.astype(wide)


def _bits(array, dtype):
    """Return floats as they are stored, rounded to even."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
