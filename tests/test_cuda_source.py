"""Emitted CUDA text as NVRTC sees it: it compiles for GPUs of three kinds, and nothing spills."""

import concurrent.futures
import functools
import re

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.errors import DeviceError, TraceError
from nnx.kernels import cache, cuda_library, epilogues_gpu, nvrtc
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_short import WARP_TURNS
from nnx.kernels.cuda_text import library
from tests.cuda_machine import Machine, cuda_program, emulation
from tests.cuda_on_cpu import CompileError
from tests.cuda_on_cpu.nvrtc import available, compile_only
from tests.test_compiled_ops import PLAINEST, task
from tests.test_lessons_jit import ONCE, train
from tests.test_random_graphs import Case
from tests.tracing import Form

ARCHS = ("sm_80", "sm_90", "sm_100")
SEEDS = range(300, 303)
BUNDLE = 28
"""Ops in one text."""


def needs(arch):
    reason = available(arch)
    return pytest.param(arch, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


def joined(sources):
    """Return one text of several, whose kernels get names of their own, with one library."""
    parts = [library()]
    for i, source in enumerate(sources):
        own = source.removeprefix(library())
        assert own != source
        parts.append(re.sub(r"\b((?:k|part)\d+\()", rf"of{i}_\1", own))
    return "\n".join(parts)


def of_op(row):
    """Return the text of an op and its derivatives, by themselves."""
    function, tensors = task(row)
    return cuda_program(Form(function, tensors).lowered).source


def of_lesson(network, optimizer, warp_turns=0):
    """Return the text of a lesson's step, without a run of it; with short products as loops."""
    with emulation() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaProgram, "run_at", lambda self, addresses, env: 0)
        patch.setattr(Machine, "warp_turns", warp_turns)
        train(network, optimizer, "numba", 1, jit=True)
    return made[0].source


def of_norms():
    """Return the text of a step with more sums of columns than a block has shared memory for."""
    norms = [nn.LayerNorm(256) for _ in range(3)]
    model = nn.Sequential(nn.Dense(256, in_features=4), *norms).to("numba").to(nnx.float64)

    def step(x):
        loss = sum(nnx.sum(norm(model(x))) for norm in norms)
        loss.backward()
        return [p.grad for p in model.parameters()]

    x = nnx.asarray(np.ones((8, 4)), device="numba")
    with emulation() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaProgram, "run_at", lambda self, addresses, env: 0)
        nnx.jit(step)(x)
    return made[0].source


@functools.cache
def texts():
    """Return each text that is compiled, by what it is of."""
    ops = [PLAINEST[k : k + BUNDLE] for k in range(0, len(PLAINEST), BUNDLE)]
    found = {f"ops from {rows[0].op.name}": joined(map(of_op, rows)) for rows in ops}
    found["epilogues"] = epilogues_gpu.source()
    found["lessons"] = joined(of_lesson(*pair) for pair in ONCE)
    found["short products"] = joined(of_lesson(*pair, WARP_TURNS) for pair in ONCE[::4])
    found["norms"] = joined([of_norms()])
    found["programs"] = joined(Case(seed).compiled("cuda in place").source for seed in SEEDS)
    return found


@functools.cache
def compiled():
    """Return what ptxas says of each text for each GPU, or what is wrong; two at a time."""

    def one(source, arch):
        try:
            return compile_only(source, arch, nvrtc.OPTIONS[1:])
        except CompileError as error:
            return error

    jobs = [(name, arch) for name in texts() for arch in ARCHS if available(arch) is None]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda job: one(texts()[job[0]], job[1]), jobs)
        return dict(zip(jobs, results, strict=True))


@pytest.mark.parametrize("arch", [needs(arch) for arch in ARCHS])
def test_every_kernel_compiles_and_nothing_spills(arch):
    faults = []
    for name, text in texts().items():
        found = compiled()[name, arch]
        if isinstance(found, CompileError):
            faults.append(f"{name}: {str(found)[:2000]}")
            continue
        kernels = set(re.findall(r"__launch_bounds__\(256(?:, [12])?\) (\w+)\(", text))
        assert set(found.registers) == kernels
        faults += [f"{name}, {k}: {n} bytes" for k, n in found.spilled_bytes.items() if n]
        faults += [f"{name}, {k}: {n} of stack" for k, n in found.stack_bytes.items() if n]
    assert not faults, "\n".join(faults)


# NVRTC itself, and the cubins that are kept

TEXT = 'extern "C" __global__ void f(float *x) { x[0] = 1; }'


class Small:
    """A compiler whose cubins are a few bytes."""

    version, architectures = (13, 0), (80, 89, 90, 100)

    def __init__(self):
        self.compilations = []

    def compiled(self, source, options):
        self.compilations.append((source, options))
        return b"cubin %d" % len(self.compilations)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NNX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_warned", set())
    return tmp_path


@pytest.fixture
def small(folder, monkeypatch):
    made = Small()
    monkeypatch.setattr(nvrtc, "compiler", lambda: made)
    return made


def entry(folder):
    (path,) = folder.glob("nnx_*.bin")
    return path


def test_a_text_is_compiled_once_for_each_gpu(small, folder):
    assert nvrtc.cubin("a", 90) == nvrtc.cubin("a", 90) == b"cubin 1"
    assert nvrtc.cubin("a", 80) == b"cubin 2"
    assert nvrtc.cubin("b", 90) == b"cubin 3"
    assert small.compilations[1] == ("a", (*nvrtc.OPTIONS, "--gpu-architecture=sm_80"))
    assert len(list(folder.glob("nnx_*.bin"))) == 3
    assert [nvrtc.cubin(*key) for key in (("a", 90), ("a", 80), ("b", 90))] == [
        b"cubin 1", b"cubin 2", b"cubin 3",
    ]  # fmt: skip


def test_another_compiler_and_other_options_compile_anew(small, monkeypatch):
    nvrtc.cubin("a", 90)
    monkeypatch.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, "--use_fast_math"))
    assert nvrtc.cubin("a", 90) == b"cubin 2"
    small.version = (13, 1)
    assert nvrtc.cubin("a", 90) == b"cubin 3"


def test_a_byte_that_changed_is_told_and_mended(small, folder):
    nvrtc.cubin("a", 90)
    path = entry(folder)
    whole = path.read_bytes()
    assert whole.endswith(b"cubin 1" + whole[-nvrtc.DIGEST_BYTES :])
    for damaged in (
        *(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))),
        b"", whole[:5], whole[:-1], whole + b"0", whole[: -nvrtc.DIGEST_BYTES],
    ):  # fmt: skip
        path.write_bytes(damaged)
        small.compilations.clear()
        with pytest.warns(UserWarning, match=r"nnx_\w+\.bin is damaged.*compiled anew"):
            assert nvrtc.cubin("a", 90) == b"cubin 1"
        assert path.read_bytes() == whole


def test_the_entry_of_another_text_is_not_taken(small, folder):
    nvrtc.cubin("a", 90)
    path = entry(folder)
    first = path.read_bytes()
    path.unlink()
    nvrtc.cubin("b", 90)
    entry(folder).write_bytes(first)
    with pytest.warns(UserWarning, match="compiled anew"):
        assert nvrtc.cubin("b", 90) == b"cubin 3"


def test_an_entry_that_others_can_write_is_not_loaded(small, folder):
    nvrtc.cubin("a", 90)
    entry(folder).chmod(0o666)
    with pytest.warns(UserWarning, match="can be written by other users.*compiled anew"):
        assert nvrtc.cubin("a", 90) == b"cubin 2"


def test_a_folder_that_cannot_be_written_is_told_once(small, folder, monkeypatch):
    def refused(*given, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "_write", refused)
    with pytest.warns(UserWarning, match="cannot be written: Permission denied") as told:
        assert nvrtc.cubin("a", 90) == b"cubin 1"
        assert nvrtc.cubin("a", 90) == b"cubin 2"
    assert len(told) == 1


@pytest.mark.parametrize(
    ("capability", "found"),
    [(90, "sm_90"), (80, "sm_80"), (86, "sm_80"), (89, "sm_89"), (103, "sm_100")],
)
def test_a_gpu_newer_than_the_compiler_gets_code_that_it_runs(capability, found):
    assert nvrtc.architecture(capability, Small.architectures) == found


@pytest.mark.parametrize("capability", [70, 75, 121])
def test_a_gpu_that_the_compiler_does_not_know_is_told(capability, small):
    with pytest.raises(
        TraceError, match=f"capability 80, 89, 90, 100, and this one has {capability}"
    ):
        nvrtc.cubin("a", capability)
    assert not small.compilations


HAS_NVRTC = pytest.mark.skipif(available() is not None, reason=str(available()))


@HAS_NVRTC
def test_nvrtc_s_messages_are_told(folder):
    with pytest.raises(TraceError, match=r'step\.cu\(1\): error: identifier "y" is undefined'):
        nvrtc.cubin(TEXT.replace("1;", "y;"), 90)
    assert not list(folder.iterdir())


@HAS_NVRTC
def test_nvrtc_s_options_are_its_own(folder):
    with pytest.raises(TraceError, match="NVRTC_ERROR_INVALID_OPTION"):
        nvrtc.compiler().compiled(TEXT, ["--no-such-option"])
    code = nvrtc.cubin(TEXT, 90)
    assert code.startswith(b"\x7fELF") and code == nvrtc.cubin(TEXT, 90)
    assert code == nvrtc.compiler().compiled(TEXT, [*nvrtc.OPTIONS, "--gpu-architecture=sm_90"])


def test_without_nvrtc_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(cuda_library, "places", lambda name, major: [f"/nowhere/{name.stem}"])
    monkeypatch.setattr(cuda_library, "majors", lambda: (13,))
    with pytest.raises(DeviceError, match=r"NVRTC for CUDA 13 .*nnx-array\[cuda13\]"):
        nvrtc.compiler.__wrapped__()
