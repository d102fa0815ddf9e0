"""The CuPy backend: each cause for there being no GPU told apart; a smoke test where there is one.

The causes are made with a stand-in for the CUDA runtime, so that they are tested on any machine.
"""

import importlib.util
import sys
import types

import numpy as np
import pytest

import nnx
from nnx.backends import Unavailable
from nnx.backends.cupy_backend import CupyBackend, count_gpus


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
        ({"driver": 0, "error": 35}, None, "there is no NVIDIA driver"),
        ({"driver": 12020, "error": 35}, None, r"CUDA 12\.2 .* CUDA 13\.0.*nnx-array\[cuda12\]"),
        ({"error": 100}, None, "finds no GPU"),
        ({"error": 100}, "", "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        ({"count": 0}, "-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        ({"error": 999}, None, "CUDA does not start: cuda error 999"),
    ],
    ids=["no driver", "old driver", "no device", "hidden", "hidden by -1", "other"],
)
def test_cause_is_told_apart(monkeypatch, settings, visible, text):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(Unavailable, match=text):
        count_gpus(runtime(**settings))


def test_missing_cupy_names_the_extra(monkeypatch):
    monkeypatch.setattr("nnx.backends.cupy_backend.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"CuPy is not installed.*nnx-array\[cuda13\]"):
        CupyBackend().devices()


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


@pytest.mark.gpu
def test_training_on_the_gpu_equals_numpy():
    reason = _gpu_reason()
    if reason:
        pytest.skip(f"no GPU: {reason}")
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
