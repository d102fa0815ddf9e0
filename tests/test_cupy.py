"""The CuPy backend: each cause for there being no GPU told apart; a smoke test where there is one.

The causes are made with a stand-in for the CUDA runtime, so that they are tested on any machine.
"""

import builtins
import importlib.util
import re
import sys
import types

import numpy as np
import pytest

import nnx
from nnx import nn, optim, rows
from nnx.backends import Unavailable, cuda_reasons
from nnx.backends.cuda_reasons import count_gpus
from nnx.backends.cupy_backend import CupyBackend
from nnx.testing import check_backend


class FakeError(Exception):
    def __init__(self, status):
        super().__init__(f"cuda error {status}")
        self.status = status


def runtime(driver=13000, built_for=13000, count=1, error=None):
    def device_count():
        if error is not None:
            raise FakeError(error)
        return count

    return types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: built_for,
        getDeviceCount=device_count,
        CUDARuntimeError=FakeError,
    )


def test_gpus_are_counted():
    assert count_gpus(runtime(count=3)) == 3


@pytest.mark.parametrize(
    ("settings", "visible", "text"),
    [
        ({"driver": 0, "error": 35}, None, r"no NVIDIA driver .* CuPy is built for CUDA 13\.0"),
        ({"driver": 12020, "error": 35}, None, r"CUDA 12\.2 .* CUDA 13\.0.*nnx-array\[cuda12\]"),
        ({"error": 100}, None, r"\(up to CUDA 13\.0\) but finds no GPU"),
        ({"error": 100}, "", "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        ({"count": 0}, "-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        (
            {"driver": 12080, "error": 999},
            None,
            r"CUDA does not start: cuda error 999\. .* CUDA 12\.8, CuPy is built for CUDA 13\.0",
        ),
    ],
    ids=["no driver", "old driver", "no device", "hidden", "hidden by -1", "other"],
)
def test_cause_is_told_apart(monkeypatch, settings, visible, text):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(Unavailable, match=text):
        count_gpus(runtime(**settings))


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        (0, r"not installed \(no driver was found\)\. .*nnx-array\[cuda13\]"),
        (12040, r"not installed \(the driver goes up to CUDA 12\.4\)\. .*nnx-array\[cuda12\]"),
        (13010, r"goes up to CUDA 13\.1\)\. .*nnx-array\[cuda13\]"),
        (14000, r"goes up to CUDA 14\.0\)\. .*nnx-array\[cuda13\]"),
    ],
)
def test_missing_cupy_names_the_extra_of_the_driver(monkeypatch, driver, text):
    monkeypatch.setattr("nnx.backends.cupy_backend.util.find_spec", lambda name: None)
    monkeypatch.setattr(cuda_reasons, "driver_version", lambda: driver)
    with pytest.raises(Unavailable, match=text):
        CupyBackend().devices()


BANNER = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels, make sure that the package matches with the version of CUDA.

Original error:
  ImportError: libnvrtc.so.12: cannot open shared object file
================================================================
"""
"""What CuPy 14.2 raises, shortened."""


@pytest.mark.parametrize(
    ("installed", "text"),
    [
        (["cupy-cuda12x 13.6.0"], "uninstall -y cupy-cuda12x, then"),
        (
            ["cupy-cuda12x 13.6.0", "cupy-cuda13x 14.2.0"],
            "cupy-cuda12x 13.6.0, cupy-cuda13x 14.2.0; .* -y cupy-cuda12x cupy-cuda13x, then",
        ),
        ([], "a build without a record; .* -y cupy, then"),
    ],
)
def test_cupy_that_does_not_import_names_builds_and_driver(monkeypatch, installed, text):
    def broken(name, *args, **settings):
        if name == "cupy":
            raise ImportError(BANNER)
        return real(name, *args, **settings)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", broken)
    monkeypatch.setattr("nnx.backends.cupy_backend.util.find_spec", lambda name: object())
    monkeypatch.setattr(cuda_reasons, "driver_version", lambda: 13010)
    monkeypatch.setattr(cuda_reasons, "builds", lambda: installed)
    with pytest.raises(Unavailable) as raised:
        CupyBackend().devices()
    reason = str(raised.value)
    assert "does not import: ImportError: libnvrtc.so.12: cannot open shared object file." in reason
    assert "the driver goes up to CUDA 13.1" in reason and "nnx-array[cuda13]" in reason
    assert re.search(text, reason)


def test_builds_are_read_from_what_is_installed(monkeypatch):
    found = [
        types.SimpleNamespace(metadata={"Name": name}, version="14.2.0")
        for name in ("cupy-cuda13x", "numpy", None)
    ]
    monkeypatch.setattr(cuda_reasons.metadata, "distributions", lambda: found)
    assert cuda_reasons.builds() == ["cupy-cuda13x 14.2.0"]


def test_driver_version_is_asked_of_the_driver(monkeypatch):
    class Driver:
        def cuDriverGetVersion(self, found):  # noqa: N802 (the driver's name)
            found._obj.value = 13010
            return 0

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(cuda_reasons.ctypes, "CDLL", lambda name: Driver())
    assert cuda_reasons.driver_version() == 13010
    monkeypatch.setattr(cuda_reasons.ctypes, "CDLL", missing)
    assert cuda_reasons.driver_version() == 0


def test_index_out_of_range_lists_the_gpus(monkeypatch):
    from nnx import backends
    from nnx.backends.protocol import Backend, Hardware

    class TwoGpus(Backend):
        name = "cupy"

        def devices(self):
            return [Hardware("one"), Hardware("two")]

    monkeypatch.setattr(backends, "load", lambda name: TwoGpus())
    monkeypatch.setattr(sys.modules["nnx.device"], "_opened", {})
    with pytest.raises(nnx.DeviceError, match=r"cupy has 2 device\(s\): 'cupy:0', 'cupy:1'"):
        nnx.device("cuda:5")


def _gpu_reason():
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    return next((info.reason for info in nnx.devices() if info.name == "cupy"), "no cupy")


@pytest.fixture
def gpu():
    """The first GPU; without one the test is skipped, with the reason."""
    reason = _gpu_reason()
    if reason:
        pytest.skip(f"no GPU: {reason}")
    return nnx.device("cupy")


@pytest.mark.gpu
def test_training_on_the_gpu_equals_numpy(gpu):
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    y = np.arange(8) % 3
    results = []
    for name in ("numpy", "cupy"):
        w = nnx.asarray(weight, device=name)
        xs, ys = nnx.asarray(x, device=name), nnx.asarray(y, device=name)
        for _ in range(20):
            w = w - 0.5 * nnx.grad(lambda w, xs=xs, ys=ys: nnx.cross_entropy(xs @ w, ys))(w)
        results.append(w.numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_table_in_16_bits_on_the_gpu(gpu, dtype):
    if not gpu.has(nnx.dtypes.as_dtype(dtype)):
        pytest.skip(f"this CuPy has no {dtype}")
    failures = check_backend(gpu, dtypes=[dtype])
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.gpu
def test_products_as_they_lie_on_the_gpu(gpu):
    draw = np.random.default_rng(2).standard_normal
    for dtype, bound in (("float64", 1e-12), ("float32", 1e-4), ("float16", 3e-2)):
        a, b, c = (
            nnx.asarray(draw(shape), dtype=dtype, device=gpu)
            for shape in ((4, 33, 65), (4, 33, 17), (65, 40))
        )
        for left, right in ((a.mT, b), (b.mT, a), (c.T, a.mT), (a, c), (a[:, ::2, ::2], c[::2])):
            wanted = left.numpy().astype(np.float64) @ right.numpy().astype(np.float64)
            found = (left @ right).numpy()
            np.testing.assert_allclose(found, wanted, rtol=bound, atol=10 * bound)


@pytest.mark.gpu
def test_precision_on_the_gpu(gpu):
    x, y = (
        nnx.asarray(np.random.default_rng(i).standard_normal((256, 256)), "float32", gpu)
        for i in (1, 2)
    )
    exact = x.numpy().astype(np.float64) @ y.numpy().astype(np.float64)
    errors = []
    try:
        for word in ("highest", "high", "medium"):
            nnx.set_matmul_precision(word)
            errors.append(np.abs((x @ y).numpy() - exact).max())
    finally:
        nnx.set_matmul_precision("highest")
    assert errors[0] < 1e-3 and errors[0] <= errors[1] and max(errors) < 1.0


@pytest.mark.gpu
def test_batches_sent_ahead_on_the_gpu(gpu):
    sent = [[np.full((512, 300), n, np.float64), np.arange(512) + n] for n in range(20)]
    found = gpu.backend.uploads(iter(sent), [np.dtype("float32"), np.dtype("int64")], 0)
    for (x, y), (wanted_x, wanted_y) in zip(found, sent, strict=True):
        assert np.array_equal(x.get(), wanted_x) and np.array_equal(y.get(), wanted_y)


@pytest.mark.gpu
def test_no_memory_on_the_gpu_and_afterwards(gpu):
    with pytest.raises(nnx.OutOfMemoryError, match="bytes on 'cupy'"):
        nnx.zeros((1 << 20, 1 << 20), device=gpu)
    with pytest.raises(nnx.LabelError, match="Label 7 at index 1"):
        nnx.cross_entropy(nnx.zeros((2, 3), device=gpu), nnx.asarray([0, 7], device=gpu))
    assert (nnx.ones((2, 2), device=gpu) @ nnx.ones((2, 2), device=gpu)).tolist() == [[2.0] * 2] * 2


@pytest.mark.gpu
def test_dlpack_with_cupy_on_the_gpu(gpu):
    import cupy

    theirs = cupy.arange(6, dtype="float32")
    ours = nnx.from_dlpack(theirs)
    assert ours.device is gpu and ours.array.data.ptr == theirs.data.ptr
    assert cupy.from_dlpack(ours).data.ptr == theirs.data.ptr
    assert np.from_dlpack(ours, device="cpu").tolist() == ours.tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("held", [True, False], ids=["held whole", "sent ahead"])
def test_fit_on_the_gpu_equals_numpy(gpu, held, monkeypatch):
    x = nnx.random.Generator(1).host_normal(0.0, 1.0, (200, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5)
    monkeypatch.setattr(rows, "MAPPED_BYTES", 0)
    monkeypatch.setattr(type(gpu.backend), "resident", lambda self, size, index: held)
    found = []
    for name in ("numpy", "cupy"):
        nnx.random.seed(5)
        model = nn.Sequential(
            nn.Dense(12, "relu", in_features=4), nn.Dropout(0.3), nn.Dense(3, in_features=12)
        ).to(name)  # fmt: skip
        before = model.state_dict()
        model.compile(optim.Adam(0.02), "cross_entropy", ["accuracy"])
        model.fit(x, y, batch_size=16, epochs=3, verbose=0)
        found.append((before, model.state_dict(), model.history.history["loss"]))
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-4)
    for name in found[0][0]:
        np.testing.assert_array_equal(found[1][0][name], found[0][0][name])
        np.testing.assert_allclose(found[1][1][name], found[0][1][name], rtol=1e-3, atol=1e-4)
