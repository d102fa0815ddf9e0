"""The choice of an algorithm for a product on the GPU: by measuring, and kept on disk."""

from __future__ import annotations

import itertools
import json
import os
import sys
import types
import warnings

import pytest

from nnx.kernels import cache, choices, cublaslt, products_gpu
from nnx.kernels.products_gpu import Gpu, NoAlgorithmError, packed
from tests.cublaslt_on_cpu import CublasLtOnCpu
from tests.products import GPU, WORKSPACE, assert_close, operands, product, ready, vector

pytestmark = pytest.mark.usefixtures("cache_folder")


# Choosing


def by_time(cpu, times):
    """Return a timer by which each algorithm takes its time; it lists those that it measured."""
    measured = []

    def one(launch, stream):
        launch()
        measured.append(cpu.ran[-1][0])
        return times[measured[-1]]

    return one, measured


def test_fastest_algorithm_is_taken_with_its_workspace():
    cpu = CublasLtOnCpu(workspaces=(0, 512, 1024))
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    plan = ready(cpu, problem, a, b, c, timer=one)
    assert measured == [0, 1, 2]
    assert plan.choice.time_s == 1.0
    plan.run(a.address, b.address, c.address)
    assert cpu.ran[-1] == (1, WORKSPACE.ctypes.data, 512, 0)
    assert not cpu.faults


def test_first_of_equals_is_taken(cpu):
    problem = packed(3, 7, 5)
    one, _ = by_time(cpu, [2.0, 2.0, 2.0])
    assert ready(cpu, problem, *operands(problem), timer=one).choice.algo[:8] == bytes(8)


def test_algorithm_that_needs_more_workspace_is_not_tried():
    cpu = CublasLtOnCpu(workspaces=(0, 8192, 0))
    problem = packed(3, 7, 5)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    ready(cpu, problem, *operands(problem), timer=one)
    assert measured == [0, 2]


def test_algorithm_that_does_not_run_is_passed_over(cpu):
    problem = packed(3, 7, 5)
    cpu.refused = {1}
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    plan = ready(cpu, problem, *operands(problem), timer=one)
    assert (measured, plan.choice.time_s) == ([0, 2], 2.0)
    cpu.refused = {0, 1, 2}
    with pytest.raises(
        NoAlgorithmError, match=r"proposes runs.*NOT_SUPPORTED.*\(4, 5\) @ \(5, 7\)"
    ):
        ready(cpu, packed(4, 7, 5), *operands(packed(4, 7, 5)), timer=one)


def test_failure_while_measuring_is_told_as_it_is(cpu):
    problem = packed(3, 7, 5)
    cpu.refused, cpu.refusal = {1}, 13
    with pytest.raises(cublaslt.StatusError, match="cublasLtMatmul answered .* \\(13\\)"):
        ready(cpu, problem, *operands(problem))


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (0, ""),
        (15, "GetHeuristic answered CUBLAS_STATUS_NOT_SUPPORTED (15)"),
        (7, "GetHeuristic answered CUBLAS_STATUS_INVALID_VALUE (7)"),
    ],
)
def test_no_algorithm_names_the_problem(cpu, status, answer):
    cpu.algorithms, cpu.heuristic_status = 0, status
    problem = packed(3, 7, 5, epilogue="relu_bias")
    bias = vector(7, "float32")
    with pytest.raises(NoAlgorithmError) as caught:
        ready(cpu, problem, *operands(problem), bias=bias.address)
    assert str(caught.value).startswith(
        "cuBLASLt 131000 has no algorithm for float32 (3, 5) @ (5, 7) -> float32 (3, 7) in "
        "float32, rows of 5, 7, 7, epilogue relu_bias with 4096 bytes of workspace and addresses "
        "aligned to (256, 256, 256, 256, 1) bytes. Without an epilogue it may have one."
    )
    assert answer in str(caught.value)


def test_other_failures_of_the_search_are_told_as_they_are(cpu):
    cpu.heuristic_status = 14
    problem = packed(3, 7, 5)
    with pytest.raises(cublaslt.StatusError, match="GetHeuristic answered CUBLAS_STATUS_INTERNAL"):
        ready(cpu, problem, *operands(problem))


class FakeCuda:
    """CuPy's streams and events over a clock; a launch takes 20 us at first, 10 us then."""

    def __init__(self):
        self.now_ms, self.launches, self.captured, self.log = 0.0, 0, None, []
        self.Stream = types.SimpleNamespace(null=self, from_external=self.from_external)
        self.runtime = types.SimpleNamespace(streamCaptureModeThreadLocal=1)

    def ExternalStream(self, address):  # noqa: N802
        warnings.warn("ExternalStream is deprecated.", DeprecationWarning, stacklevel=2)
        return self

    def from_external(self, stream):
        version, address = stream.__cuda_stream__()
        assert version == 0
        self.log.append(address)
        return self

    def Event(self):  # noqa: N802
        event = types.SimpleNamespace(synchronize=lambda: None)
        event.record = lambda stream: setattr(event, "at_ms", self.now_ms)
        return event

    def get_elapsed_time(self, start, end):
        return end.at_ms - start.at_ms

    def begin_capture(self, mode):
        self.captured = 0
        self.log.append(("begin", mode))

    def end_capture(self):
        n, self.captured = self.captured, None

        def launch(stream):
            self.now_ms += 0.01 * n
            self.log.append(("replay", n))

        return types.SimpleNamespace(launch=launch)

    def launch(self):
        if self.captured is not None:
            self.captured += 1
            return
        self.launches += 1
        self.now_ms += 0.02 if self.launches == 1 else 0.01


@pytest.fixture
def cuda(monkeypatch):
    made = FakeCuda()
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=made))
    monkeypatch.setitem(sys.modules, "cupy.cuda", made)
    return made


def test_event_timer_replays_captured_launches(cuda):
    assert products_gpu.event_timer(cuda.launch, 7) == pytest.approx(1e-5)
    assert cuda.log == [7, ("begin", 1), *[("replay", 50)] * 4]
    assert cuda.launches == 2  # one to load the kernel, one to see how many to queue


def test_event_timer_queues_launches_on_the_default_stream(cuda):
    assert products_gpu.event_timer(cuda.launch, 0) == pytest.approx(1e-5)
    assert cuda.log == [] and cuda.launches == 2 + 3 * 50


def test_current_gpu_is_what_cuda_says(cuda):
    cuda.runtime.getDevice = lambda: 2
    cuda.runtime.getDeviceProperties = lambda index: {
        "name": b"GPU %d" % index, "major": 9, "minor": 0, "multiProcessorCount": 132,
    }  # fmt: skip
    assert products_gpu.current_gpu() == Gpu(2, "GPU 2", 90, 132)


# On disk


def the_file(cache_folder):
    (path,) = cache_folder.glob("nnx_*.json")
    return path


def test_choice_is_reused_from_disk(cache_folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    ready(cpu, problem, a, b, c, timer=one)
    entry = the_file(cache_folder).read_bytes()

    again = CublasLtOnCpu()
    late, measured_late = by_time(again, [1.0, 1.0, 1.0])
    plan = ready(again, problem, a, b, c, timer=late)
    assert (measured, measured_late) == ([0, 1, 2], [])
    assert "cublasLtMatmulAlgoGetHeuristic" not in again.calls
    assert plan.choice.algo[0] == 1
    assert [algorithm for algorithm, *_ in again.ran] == [1]  # once, so that its kernel is loaded
    c.view[...] = 0
    plan.run(a.address, b.address, c.address)
    assert_close(c.values, product(problem, a, b), "float32")
    assert the_file(cache_folder).read_bytes() == entry
    assert list(cache_folder.iterdir()) == [the_file(cache_folder)]  # and no temporary files


def test_choice_says_what_it_is_for(cache_folder, cpu):
    problem = packed(3, 7, 5, epilogue="relu")
    ready(cpu, problem, *operands(problem))
    entry = json.loads("".join(the_file(cache_folder).read_text().splitlines()[:-1]))
    assert entry["for"]["problem"] == problem._asdict()
    assert entry["for"]["gpu"]["name"] == "A GPU"
    assert entry["for"]["cublaslt"] == 131000
    assert len(bytes.fromhex(entry["algo"])) == 64


OTHERS = {
    "shape": {"problem": packed(3, 7, 6)},
    "layout": {"problem": packed(3, 7, 5)._replace(ldc=8)},
    "transpose": {"problem": packed(3, 7, 5, transpose_a=True)},
    "types": {"problem": packed(3, 7, 5, compute="tf32")},
    "epilogue": {"problem": packed(3, 7, 5, epilogue="relu")},
    "version": {"version": 131001},
    "gpu": {"gpu": GPU._replace(name="Another GPU")},
    "capability": {"gpu": GPU._replace(capability=100)},
    "multiprocessors": {"gpu": GPU._replace(multiprocessors=78)},
    "workspace": {"workspace_bytes": 2048},
    "way of timing": {"stream": 7},
}


@pytest.mark.parametrize("other", OTHERS)
def test_choice_for_another_is_not_taken(cache_folder, cpu, other):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    first = the_file(cache_folder)
    changes = dict(OTHERS[other])
    second = CublasLtOnCpu(version=changes.pop("version", 131000))
    problem = changes.pop("problem", problem)
    one, measured = by_time(second, [1.0, 2.0, 3.0])
    a, b, c = operands(problem)
    ready(second, problem, a, b, c, timer=one, **changes)
    assert measured == [0, 1, 2]
    # Nor where it is put under the other's name.
    (path,) = set(cache_folder.glob("nnx_*.json")) - {first}
    path.write_bytes(first.read_bytes())
    measured.clear()
    with pytest.warns(UserWarning, match="was chosen for another product, library or GPU"):
        ready(second, problem, a, b, c, timer=one, **changes)
    assert measured == [0, 1, 2]


def test_choice_is_the_same_on_every_gpu_of_a_kind(cache_folder, cpu):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    one, measured = by_time(cpu, [1.0, 1.0, 1.0])
    ready(cpu, problem, *operands(problem), timer=one, gpu=GPU._replace(index=3))
    assert measured == []


def test_damaged_choice_warns_and_is_measured_again(cache_folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    ready(cpu, problem, a, b, c, timer=one)
    path = the_file(cache_folder)
    content = path.read_bytes()
    for bad in (b"", content[:-1], content + b"\n", content[:100], b"{}\n"):
        path.write_bytes(bad)
        measured.clear()
        with pytest.warns(UserWarning, match=rf"{path.name} is .*\. It was measured again"):
            ready(cpu, problem, a, b, c, timer=one)
        assert measured == [0, 1, 2]
        assert path.read_bytes() == content


def test_every_flipped_byte_of_a_choice_is_found(cache_folder, cpu):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    content = the_file(cache_folder).read_bytes()
    key = json.loads(content[:-65])["for"]
    assert choices.load(key).workspace_bytes == 0
    for i, bit in itertools.product(range(len(content)), (0, 5, 7)):
        bad = bytearray(content)
        bad[i] ^= 1 << bit
        the_file(cache_folder).write_bytes(bytes(bad))
        with pytest.raises(cache.UnusableError, match="is damaged"):
            choices.load(key)


def test_choice_that_the_library_does_not_take_is_measured_again(cache_folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    plan = ready(cpu, problem, a, b, c)
    key = json.loads(the_file(cache_folder).read_bytes()[:-65])["for"]
    unknown = plan.choice._replace(algo=b"\xff" * 64)
    short = plan.choice._replace(algo=plan.choice.algo[:8])
    roomy = plan.choice._replace(workspace_bytes=1 << 40)
    for wrong in (unknown, short, roomy):
        choices.keep(key, wrong)
        with pytest.warns(UserWarning, match="is not taken by cuBLASLt. It was measured again"):
            ready(cpu, problem, a, b, c)
        assert choices.load(key) == plan.choice
    cpu.refused = {0}  # it is taken, and does not run
    with pytest.warns(UserWarning, match="answered CUBLAS_STATUS_NOT_SUPPORTED.*measured again"):
        assert ready(cpu, problem, a, b, c).choice.algo[0] == 1


def test_warning_as_an_error_finds_the_choice_mended(cache_folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    ready(cpu, problem, a, b, c)
    content = the_file(cache_folder).read_bytes()
    the_file(cache_folder).write_bytes(b"{")
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        ready(cpu, problem, a, b, c)
    assert the_file(cache_folder).read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files on this system")
def test_directory_that_others_can_write_to_is_not_used(cache_folder, cpu):
    cache_folder.mkdir()
    cache_folder.chmod(0o777)
    problem = packed(3, 7, 5)
    with pytest.warns(UserWarning, match="can be written by other users"):
        ready(cpu, problem, *operands(problem))
    assert list(cache_folder.iterdir()) == []


def test_clearing_the_cache_removes_choices(cache_folder, cpu):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    cache.clear()
    assert list(cache_folder.iterdir()) == []
