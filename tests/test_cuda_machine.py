"""What drives a GPU, on a stand-in for CuPy and the driver (`tests.driver`)."""

import types

import numpy as np
import pytest

import nnx
from nnx.kernels.cuda_machine import RING_BYTES
from nnx.kernels.cuda_passes import products
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_setting import Setting
from tests.driver import MAIN, Stream, product, read, result, words
from tests.test_cuda_training import Small, batch, same
from tests.test_fit_jit import agree, trained
from tests.tracing import Form, outputs_for, run_cuda

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
        with machine.aside() as inner:
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


def test_many_steps_go_to_a_stream_of_their_own_in_their_turn(driven, host, machine, monkeypatch):
    run = Setting.run

    def waited(self):
        # As a GPU's memory is read on its stream, host memory is when the work on it is done.
        status = run(self)
        host.wait()
        return status

    monkeypatch.setattr(Setting, "run", waited)
    wanted, found = trained(False), trained(True)
    assert agree(wanted, found) == (None, None)
    assert driven and set(host.replayed_on) - {MAIN}
    # They come after what was started before, and before what is started next.
    assert machine._stream == MAIN
    memory = machine.memory(24)
    at = memory.address
    machine.upload(at, words(1, 6))
    with machine.aside():
        assert machine._stream != MAIN
        machine.copy(at + 8, at, 8)
        assert machine.download(at + 8, 1)[0] == 6
        machine.copy(at, at + 8, 8)
    machine.copy(at + 16, at, 8)
    assert machine.download(at, 3).tolist() == [6, 6, 6]


def test_steps_on_several_streams_come_one_after_the_other(host, machine, monkeypatch):
    memory = machine.memory(16)
    at = memory.address
    machine.take_turn()
    machine.upload(at, words(1, 6))
    other = Stream(host)
    monkeypatch.setattr(host.cupy.cuda, "get_current_stream", lambda: other)
    machine.take_turn()
    machine.copy(at + 8, at, 8)
    assert machine.download(at, 2).tolist() == [6, 6]


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
