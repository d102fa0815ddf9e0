"""What drives a GPU, on a stand-in for CuPy and the driver: a queue of work on host memory.

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
import pytest

import nnx
from nnx.kernels import cublaslt, nvrtc, products_gpu
from nnx.kernels.cuda_machine import RING_BYTES, CupyMachine
from nnx.kernels.cuda_matrices import Matrices
from nnx.kernels.cuda_passes import products
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.products_gpu import Gpu
from nnx.places import HostArrays
from tests import cuda_on_cpu
from tests.cublaslt_on_cpu import RELU, CublasLtOnCpu, decode, encode
from tests.cuda_on_cpu import Module
from tests.test_cuda_training import Small, batch, same
from tests.tracing import Form, outputs_for, run_cuda

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
        self.end_error = None

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
        return types.SimpleNamespace(launch=lambda: host.queues[MAIN].extend(noted))

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


@pytest.fixture
def host(monkeypatch):
    """Put the stand-in into `sys.modules`."""
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
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


@pytest.fixture
def lt(host, monkeypatch):
    """Let products run on `CublasLtOnCpu`, in their turn."""
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
    yield cpu
    assert not cpu.faults


class Arrays(HostArrays):
    """The host's arrays as if they were on the GPU, whose work is done before they are read."""

    on_host = False

    def scope(self):
        return contextlib.nullcontext()


@pytest.fixture
def machine(host):
    made = CupyMachine(host.cupy, 0)
    made.arrays = Arrays()
    return made


def words(n, first=0):
    return np.arange(first, first + n, dtype=np.int64)


def read(address, n):
    return np.frombuffer((ctypes.c_int64 * n).from_address(address), np.int64).copy()


# Memory


def test_memory_is_zero_when_it_is_used(host, machine):
    memory = machine.memory(64)
    assert read(memory.address, 8).any()  # not yet
    assert not machine.download(memory.address, 8).any()


def test_what_is_uploaded_arrives_in_order(host, machine):
    memory = machine.memory(80)
    given = words(8)
    machine.upload(memory.address, given)
    given[:] = -1  # the host goes on at once
    machine.copy(memory.address + 16, memory.address, 64)
    machine.clear(memory.address, 16)
    machine.copy(memory.address, memory.address, 0), machine.clear(memory.address, 0)
    machine.upload(memory.address, np.empty(0, np.int64))
    assert machine.download(memory.address, 10).tolist() == [0, 0, *range(8)]


def test_a_full_ring_is_waited_for_and_not_before(host, machine):
    n = 1000
    each = 8 * n
    fits = RING_BYTES // each
    memory = machine.memory(2 * fits * each)
    for i in range(fits):
        machine.upload(memory.address + i * each, words(n, i))
    assert host.waits == 0
    for i in range(fits, 2 * fits):
        machine.upload(memory.address + i * each, words(n, i))
    assert host.waits == 1
    host.wait()
    for i in range(2 * fits):
        assert (read(memory.address + i * each, n) == words(n, i)).all(), i


def test_what_is_larger_than_the_ring_is_copied_before_the_host_goes_on(host, machine):
    given = words(200_000)
    memory = machine.memory(given.nbytes)
    machine.upload(memory.address, given)
    given[:] = -1
    host.wait()
    assert (read(memory.address, 200_000) == words(200_000)).all()


def test_numbers_of_odd_lengths_stay_aligned(host, machine):
    memory = machine.memory(64)
    machine.upload(memory.address, np.ones(3, np.uint8))
    machine.upload(memory.address + 8, words(2, 5))
    assert machine._at % 8 == 0
    assert machine.download(memory.address, 3).tolist() == [0x010101, 5, 6]


# Kernels

KERNELS = """
extern "C" __global__ void __launch_bounds__(256, 2) noted(
    long long *out, long long a, long long b, const long long *in
) {
    out[blockIdx.x * 256 + threadIdx.x] = a * in[0] + b;
}
"""


def test_arguments_are_packed_as_the_driver_reads_them(host, machine):
    kernels = machine.load(KERNELS)
    memory, given = machine.memory(8 * 512), machine.memory(8)
    machine.upload(given.address, words(1, 3))
    machine.launch(kernels["noted"], 2, [memory.address, 2**40, -7, given.address])
    ((name, blocks, threads, values),) = host.launches
    assert (name, blocks, threads) == ("noted", 2, 256)
    assert values == [memory.address, 2**40, -7, given.address]
    assert (machine.download(memory.address, 512) == 3 * 2**40 - 7).all()
    assert kernels["noted"] is kernels["noted"]


# Captures


def test_a_capture_starts_nothing_and_its_graph_all_of_it(host, machine):
    memory = machine.memory(24)
    machine.upload(memory.address, words(1, 9))

    def start():
        machine.copy(memory.address + 8, memory.address, 8)
        machine.clear(memory.address, 8)

    graph = machine.capture(start)
    assert machine.download(memory.address, 2).tolist() == [9, 0]
    graph()
    assert machine.download(memory.address, 2).tolist() == [0, 9]
    machine.upload(memory.address, words(1, 4))
    graph()
    assert machine.download(memory.address, 2).tolist() == [0, 4]


@pytest.mark.parametrize("where", ["what is started", "the end"])
def test_a_capture_that_fails_is_told_and_leaves_nothing_behind(where, host, machine):
    memory = machine.memory(8)

    def start():
        machine.clear(memory.address, 8)
        if where == "what is started":
            raise RuntimeError("it went wrong")

    host.end_error = RuntimeError("it went wrong") if where == "the end" else None
    with pytest.warns(UserWarning, match=r"could not be captured .*\(it went wrong\)") as told:
        assert machine.capture(start) is None
    assert len(told) == 1
    # The machine works as before, and captures again.
    host.end_error = None
    machine.upload(memory.address, words(1, 5))
    assert machine.download(memory.address, 1)[0] == 5
    assert machine.capture(lambda: machine.clear(memory.address, 8)) is not None


# Products


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


def test_a_product_is_prepared_once_for_a_problem_and_an_alignment(lt, host, machine):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 4, 3)).astype("f4"), rng.normal(size=(2, 3, 6)).astype("f4")
    given, out, held = product(machine, left, right)
    for _ in range(3):
        machine.clear(out.address, 4 * 48)
        machine.multiply(given)
        np.testing.assert_allclose(result(machine, out, 2, 4, 6), left @ right, rtol=1e-5)
        assert len(machine._plans) == 1
    moved = given._replace(left=given.left + 16)
    machine.upload(moved.left, left)
    machine.multiply(moved)
    assert len(machine._plans) == 2
    np.testing.assert_allclose(result(machine, out, 2, 4, 6), left @ right, rtol=1e-5)
    machine.multiply(given._replace(count=1))
    assert len(machine._plans) == 3
    assert held


def test_transposed_factors_repeated_ones_and_a_bias(lt, host, machine):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(3, 5, 4)).astype("f4"), rng.normal(size=(1, 6, 5)).astype("f4")
    bias = rng.normal(size=6).astype("f4")
    given, out, held = product(machine, left, right)
    place = machine.memory(24)
    machine.upload(place.address, bias)
    turned = given._replace(
        m=4, k=5, n=6, left_transposed=True, left_leading=4, left_step=20,
        right_transposed=True, right_leading=5, right_step=0, epilogue="relu_bias",
        bias=place.address,
    )  # fmt: skip
    out = machine.memory(4 * 3 * 24)
    wanted = np.maximum(left.swapaxes(1, 2) @ right[0].T + bias, 0)
    for _ in range(2):
        machine.multiply(turned._replace(out=out.address))
        np.testing.assert_allclose(result(machine, out, 3, 4, 6), wanted, rtol=1e-4, atol=1e-6)
    assert held


def test_a_product_cannot_be_prepared_in_a_capture(lt, host, machine):
    ones = np.ones((1, 2, 2), "f4")
    given, out, held = product(machine, ones, ones)
    with pytest.warns(UserWarning, match="was not prepared before the capture"):
        assert machine.capture(lambda: machine.multiply(given)) is None
    machine.multiply(given)
    graph = machine.capture(lambda: machine.multiply(given))
    machine.clear(out.address, 16)
    graph()
    assert (result(machine, out, 1, 2, 2) == 2).all()
    assert held


BIASED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def stored(values, dtype):
    """Return numbers as they are in memory."""
    return encode(values, True) if dtype == "bfloat16" else values.astype(dtype)


def biased(machine, dtype, epilogue):
    """Return a product of a 5 by 4 and a 4 by 70 matrix and a bias, each of a type; its result."""
    rng = np.random.default_rng(0)
    given = [stored(rng.normal(size=n), dtype) for n in ((5, 4), (4, 70), (70,))]
    x, weight, bias = (decode(a, dtype == "bfloat16") for a in given)
    places = [machine.memory(a.nbytes) for a in given]
    for place, a in zip(places, given, strict=True):
        machine.upload(place.address, a)
    out = machine.memory(5 * 70 * given[0].itemsize)
    made = Matrices(
        dtype, 1, 5, 4, 70, places[0].address, False, 4, 20, places[1].address, False, 70, 280,
        out.address, dtype, "float32", epilogue, places[2].address,
    )  # fmt: skip
    wanted = x @ weight + bias
    return made, np.maximum(wanted, 0) if epilogue == "relu_bias" else wanted, (places, out)


def found_in(machine, made):
    n = made.m * made.n
    words = machine.download(made.out, -(-n * BIASED[made.dtype]().itemsize // 8))
    found = words.view(BIASED[made.dtype])[:n].reshape(made.m, made.n)
    return decode(found, made.dtype == "bfloat16")


ROUNDING = {"float32": 1e-6, "float16": 6e-3, "bfloat16": 5e-2}


@pytest.mark.parametrize("epilogue", ["bias", "relu_bias"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_epilogue_that_cublaslt_has_not_is_a_kernel(dtype, epilogue, lt, host, machine):
    lt.has_epilogues = False
    made, wanted, (places, out) = biased(machine, dtype, epilogue)
    for _ in range(2):
        machine.multiply(made)
        np.testing.assert_allclose(found_in(machine, made), wanted, atol=ROUNDING[dtype])
    n_searched = lt.calls.count("cublasLtMatmulAlgoGetHeuristic")
    assert n_searched == 2  # with the epilogue, and without; the second time neither
    graph = machine.capture(lambda: machine.multiply(made))
    machine.clear(out.address, 8)
    # NaN of a factor stays in its row.
    machine.upload(places[0].address, stored(np.array([np.nan]), dtype))
    graph()
    assert np.isnan(found_in(machine, made)[0]).all()
    np.testing.assert_allclose(found_in(machine, made)[1:], wanted[1:], atol=ROUNDING[dtype])


def test_a_product_that_cublaslt_has_not_is_refused(lt, host, machine):
    made, _, held = biased(machine, "float32", "relu_bias")
    lt.algorithms = 0
    with pytest.raises(products_gpu.NoAlgorithmError, match="epilogue none"):
        machine.multiply(made)
    assert held


def test_products_are_tuned_in_their_turn_on_a_stream_that_can_be_captured(lt, host, machine):
    ones = np.ones((1, 2, 2), "f4")
    given, out, held = product(machine, ones, ones)
    machine.multiply(given)
    assert host.timed == lt.algorithms
    # What comes next on the current stream finds the result.
    assert (result(machine, out, 1, 2, 2) == 2).all()
    assert machine._stream == MAIN
    assert held


def test_what_a_function_starts_is_timed_on_a_stream_that_can_be_captured(
    host, machine, monkeypatch
):
    seen = []

    def timer(launch, stream):
        seen.append(stream)
        launch()
        with machine._timed() as inner:
            assert inner == stream
        return 2.5

    monkeypatch.setattr("nnx.kernels.cuda_machine.event_timer", timer)
    memory = machine.memory(16)
    machine.upload(memory.address, words(2, 7))

    def start():
        assert machine._stream == seen[0] != MAIN
        machine.copy(memory.address + 8, memory.address, 8)

    assert machine.seconds(start) == 2.5
    assert machine.download(memory.address, 2).tolist() == [7, 7]
    assert machine._stream == MAIN


def without_nan(lt, monkeypatch):
    """Let relu take NaN for 0, as where it is the larger of two numbers."""
    whole = lt._epilogue

    def epilogue(op, *given):
        out = whole(op, *given)
        return np.nan_to_num(out) if lt.get(op, 7) & RELU else out

    monkeypatch.setattr(lt, "_epilogue", epilogue)


@pytest.mark.parametrize("loses", [False, True], ids=["keeps", "loses"])
@pytest.mark.parametrize("transposed", [False, True], ids=["x", "x.T"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_products_keep_nan(dtype, transposed, loses, lt, host, machine, monkeypatch):
    if loses:
        without_nan(lt, monkeypatch)
    made, wanted, (places, _) = biased(machine, dtype, "relu_bias")
    if transposed:
        made = made._replace(left_transposed=True, left_leading=5)
        x = machine.download(places[0].address, 5 * 4 * BIASED[dtype]().itemsize // 8)
        machine.upload(places[0].address, x.view(BIASED[dtype]).reshape(5, 4).T.copy())
    machine.multiply(made)
    # The trial leaves nothing behind.
    np.testing.assert_allclose(found_in(machine, made), wanted, atol=ROUNDING[dtype])
    machine.upload(places[0].address, stored(np.array([np.nan]), dtype))
    graph = machine.capture(lambda: machine.multiply(made))
    for again in (lambda: machine.multiply(made), graph):
        machine.clear(made.out, 8)
        again()
        found = found_in(machine, made)
        assert np.isnan(found[0]).all()
        np.testing.assert_allclose(found[1:], wanted[1:], atol=ROUNDING[dtype])


def test_where_one_number_of_a_result_loses_nan_none_does(lt, host, machine, monkeypatch):
    whole = lt._epilogue

    def epilogue(op, *given):
        out = whole(op, *given)
        if lt.get(op, 7) & RELU:
            out[0, -1, -1] = np.nan_to_num(out[0, -1, -1])
        return out

    monkeypatch.setattr(lt, "_epilogue", epilogue)
    made, _, (places, _) = biased(machine, "float32", "relu_bias")
    machine.upload(places[1].address, np.full((4, 70), np.nan, "f4"))
    machine.multiply(made)
    assert np.isnan(found_in(machine, made)).all()


def test_without_memory_to_try_nan_is_kept_all_the_same(lt, host, machine, monkeypatch):
    without_nan(lt, monkeypatch)
    made, _, (places, _) = biased(machine, "float32", "relu_bias")
    machine.upload(places[1].address, np.full((4, 70), np.nan, "f4"))
    assert machine._workspace
    monkeypatch.setattr(host.cupy.cuda, "alloc", no_memory)
    machine.multiply(made)
    assert np.isnan(found_in(machine, made)).all()


def no_memory(n):
    raise MemoryError(f"no {n} bytes")


@pytest.mark.parametrize(("capability", "is_new"), [("75", False), ("80", True), ("90", True)])
def test_gpus_before_ampere_multiply_float32_as_it_is(capability, is_new, host, machine):
    host.cupy.cuda.Device = lambda index: types.SimpleNamespace(compute_capability=capability)
    x = nnx.asarray(np.ones((4, 4), "f4"))
    graph = Form(lambda x: x @ x, [x]).lowered
    assert machine.has_narrow_products is is_new
    found = {}
    for precision in ("highest", "high", "medium", "float16"):
        *casts, product = products(graph, precision, machine).eqns
        found[precision] = (product.attrs["compute"], [eqn.out.dtype.name for eqn in casts])
    plain = ("float32", [])
    assert found == {
        "highest": plain,
        "high": ("tf32", []) if is_new else plain,
        "medium": ("float32", ["bfloat16"]) if is_new else plain,
        "float16": ("float32", ["float16"]) if is_new else plain,
    }


# Whole steps


@pytest.fixture
def driven(host, lt, machine, monkeypatch):
    """Compile for the device "numba" as CUDA, run through the driver; return the programs."""
    from nnx.backends.numba_backend import NumbaBackend

    made = []

    def compile(self, graph, updates, kinds):
        made.append(CudaProgram(graph, updates, kinds, machine))
        return made[-1]

    monkeypatch.setattr(NumbaBackend, "compile", compile)
    return made


def test_a_step_driven_learns_refuses_and_goes_on(driven, host):
    small = Small()

    def state():
        host.wait()
        return small.state()

    def step(x, y):
        return small.step(*(nnx.asarray(a, device="numba") for a in (x, y)))

    for i in range(2):
        step(*batch(i))
    assert driven
    launched, first = len(host.launches), state()
    for i in range(2, 5):
        step(*batch(i))
    assert len(host.launches) == launched  # all of it is in the graph
    before = state()
    assert not same(before, first)
    x, y = batch(5)
    with pytest.raises(nnx.LabelError, match="Label 7 at index 3"):
        step(x, np.where(np.arange(8) == 3, 7, y))
    assert same(state(), before)
    step(x, y)
    assert not same(state(), before)


def test_a_step_outside_of_a_network_is_numpy_s(driven, host, machine):
    x = np.random.default_rng(0).normal(size=(30, 8)).astype("f4")
    form = Form(
        lambda x: (nnx.softmax(x @ x.T), nnx.sum(x, axis=0)), [nnx.asarray(x, device="numba")]
    )
    program = CudaProgram(form.lowered, {}, {}, machine)
    for _ in range(3):
        outputs = outputs_for(program.graph, {})
        assert run_cuda(program, [x], outputs, {}) == 0
        host.wait()
        scores = np.exp(x @ x.T - (x @ x.T).max(axis=1, keepdims=True))
        np.testing.assert_allclose(outputs[0], scores / scores.sum(1, keepdims=True), rtol=1e-4)
        np.testing.assert_allclose(outputs[1], x.sum(axis=0), rtol=1e-4, atol=1e-5)
