"""The devices that tests run on, and what several files of tests start from.

Four devices are everywhere, the others where they are installed.
"""

import os
from importlib import util

import pytest

# JAX has 64-bit types only where this is set before it loads.
os.environ.setdefault("JAX_ENABLE_X64", "1")
# What was asked of this run, such as to share it among processes, is not for those that it starts.
os.environ.pop("PYTEST_ADDOPTS", None)

import nnx
from nnx.op import OPS

EVERYWHERE = ("loops", "numpy", "numba", "array_api:array_api_strict")
ELSEWHERE = {"array_api:torch": "torch", "array_api:jax.numpy": "jax"}


collect_ignore = ["golden"]  # emitted text: tests/test_golden.py compares it


def pytest_addoption(parser):
    """Let ``--graphs 2000`` draw more random programs than the ordinary 200, and compile all."""
    parser.addoption("--graphs", type=int, default=200, help="random programs to draw")


def why_not(name):
    """Return why a device cannot be used here, None where it can."""
    module = ELSEWHERE.get(name)
    if module is not None and util.find_spec(module) is None:
        return f"{module} is not installed"
    try:
        nnx.device(name)
    except nnx.DeviceError as error:
        return str(error)
    return None


def device_params():
    """Return every device as a pytest parameter; those that cannot be used say why."""
    params = [pytest.param(name, id=name) for name in EVERYWHERE]
    for name in (*ELSEWHERE, "cupy"):
        reason = why_not(name)
        marks = [pytest.mark.gpu] if name == "cupy" else []
        if reason is not None:
            marks.append(pytest.mark.skip(reason=reason))
        params.append(pytest.param(name, id=name, marks=marks))
    return params


@pytest.fixture
def device(device_name):
    """Each device in turn."""
    return nnx.device(device_name)


def table_params():
    """Return each op on each device; a device that cannot be used is one row, and says why."""
    return [
        pytest.param(op, *param.values, id=f"{param.id}-{op}", marks=param.marks)
        for param in device_params()
        for op in (["every op"] if is_skipped(param) else OPS)
    ]


def is_skipped(param):
    return any(mark.name == "skip" for mark in param.marks)


def pytest_generate_tests(metafunc):
    """Fill in ``device_name`` (every device) and ``usable`` (those that are here)."""
    if "op_name" in metafunc.fixturenames:
        metafunc.parametrize(("op_name", "device_name"), table_params())
    elif "device_name" in metafunc.fixturenames:
        metafunc.parametrize("device_name", device_params())
    elif "usable" in metafunc.fixturenames:
        metafunc.parametrize("usable", [p for p in device_params() if not is_skipped(p)])


def pytest_collection_modifyitems(config, items):
    """Leave out what is marked slow unless it is asked for: ``pytest -m slow``."""
    if "slow" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; run it with -m slow"))


@pytest.fixture
def apart(monkeypatch):
    """Lay out the memory of CUDA steps so that what leaves its own part is found."""
    from nnx.kernels import cuda_program
    from tests.cuda_machine import Apart

    monkeypatch.setattr(cuda_program, "Setting", Apart)


@pytest.fixture
def emulated():
    """Compile for the device "numba" as CUDA, run on the CPU; return the programs, as they come."""
    from tests import cuda_on_cpu
    from tests.cuda_machine import emulation

    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    with emulation() as made:
        yield made


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A directory of its own, not made yet, for compiled code and choices."""
    from nnx.kernels import cache

    path = tmp_path / "cache"
    monkeypatch.setenv("NNX_CACHE_DIR", str(path))
    monkeypatch.setattr(cache, "_warned", set())
    return path


@pytest.fixture
def cpu():
    """cuBLASLt's functions in host memory; what is asked of them must be in order."""
    from tests.cublaslt_on_cpu import CublasLtOnCpu

    made = CublasLtOnCpu()
    yield made
    assert not made.faults


@pytest.fixture(scope="session")
def real_cublaslt():
    """The real cuBLASLt, whose descriptors need no driver."""
    from nnx.kernels import cublaslt

    try:
        return cublaslt.library()
    except nnx.DeviceError as error:
        pytest.skip(f"no cuBLASLt: {error}")


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """A directory of its own to stand in, on a machine without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("NNX_DEVICE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nnx_command(capsys):
    """Run a command in this process; return its status, stdout and stderr."""
    from nnx.cli import main

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def succeed(nnx_command):
    """Run a command that must succeed, and return its stdout."""

    def run(*words):
        status, out, err = nnx_command(*words)
        assert status == 0, err
        return out

    return run


@pytest.fixture
def fail(nnx_command):
    """Run a command that must fail with a status, and return its stderr: short, no traceback."""

    def run(status, *words):
        found, out, err = nnx_command(*words)
        assert found == status, err
        assert out == ""
        _, error, text = err.partition("nnx: error: ")
        assert error and len(text.splitlines()) <= 3, err
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture
def host(monkeypatch):
    """A stand-in for CuPy and CUDA's driver."""
    from tests import cuda_on_cpu, driver

    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    return driver.stand_in(monkeypatch)


@pytest.fixture
def lt(host, monkeypatch):
    """Products on the stand-in: cuBLASLt over NumPy."""
    from tests import driver

    cpu = driver.cublaslt_on(host, monkeypatch)
    yield cpu
    assert not cpu.faults


@pytest.fixture
def machine(host):
    """What drives the stand-in."""
    from tests import driver

    return driver.machine_on(host)
