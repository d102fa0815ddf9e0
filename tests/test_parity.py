"""Parity between devices, and `nnx parity` and `nnx doctor`."""

import json

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.backends.numpy_backend import NumpyBackend
from nnx.cli import doctor, main
from nnx.device import Device
from nnx.parity import parity, ulps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ulps_are_the_floats_between(dtype):
    x = np.array([1.0, -1.0, 0.0, -0.0, 1e-45, np.inf, np.nan, np.nan, 3.0], dtype)
    up = np.nextafter(x, dtype(np.inf))
    found = ulps(x, up)
    np.testing.assert_array_equal(found[[0, 1, 2, 3]], 1)
    assert ulps(x, x).sum() == 0
    assert ulps(np.array([0.0], dtype), np.array([-0.0], dtype)) == 0
    assert ulps(np.array([np.nan], dtype), np.array([1.0], dtype)) == np.inf
    tiny = np.nextafter(dtype(0), dtype(1))
    assert ulps(np.array([-tiny]), np.array([tiny])) == 2
    low, high = np.array([-np.finfo(dtype).max]), np.array([np.finfo(dtype).max])
    assert ulps(low, high) == pytest.approx(2 * (float(ulps(high, np.zeros(1, dtype))[0])))
    with pytest.raises(nnx.DataError, match="differ in kind"):
        ulps(x, x[1:])


def network():
    nnx.random.seed(0)
    return nn.Sequential(
        nn.Dense(5, "tanh", in_features=4), nn.Dropout(0.5), nn.Dense(3, in_features=5)
    ).to("numpy")


def batches(n=2):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 3, 6)) for _ in range(n)]


def test_a_device_beside_itself_has_the_same_bits_and_all_is_compared(monkeypatch):
    twin = Device("twin", NumpyBackend(), 0)
    monkeypatch.setattr("nnx.parity.open_device", lambda name: NAMED.get(name) or nnx.device(name))
    monkeypatch.setattr("nnx.parity.asarray", lambda x, device: nnx.asarray(
        x, device=NAMED.get(device, device)))  # fmt: skip
    NAMED = {"twin": twin}  # noqa: N806
    monkeypatch.setattr(nn.Module, "to", _to(nn.Module.to, NAMED))
    model = network()
    found = parity(
        model, batches(), loss="cross_entropy", optimizer=optim.Adam(0.01),
        devices=["numpy", "twin"],
    )  # fmt: skip
    assert found.first("twin") is None
    kinds = [(d.kind, d.name) for d in found.differences if d.step == 1]
    assert kinds == [
        ("activation", "0"), ("activation", "1"), ("activation", "2"), ("loss", ""),
        ("gradient", "2.bias"), ("gradient", "2.weight"), ("gradient", "0.bias"),
        ("gradient", "0.weight"), ("weight", "0.weight"), ("weight", "0.bias"),
        ("weight", "2.weight"), ("weight", "2.bias"),
    ]  # fmt: skip
    assert {d.step for d in found.differences} == {1, 2}


def _to(original, named):
    return lambda self, target: original(self, named.get(target, target))


def test_devices_agree_and_nothing_is_changed():
    model = network()
    before, state = model.state_dict(), nnx.random.default_generator().state_dict()
    found = parity(
        model, batches(3), loss="cross_entropy", devices=["loops", "numpy", "numba"]
    )  # fmt: skip
    assert found.reference == "loops" and found.devices == ("numpy", "numba")
    assert max(d.absolute for d in found.differences) < 1e-5
    assert all(np.isfinite(d.relative) for d in found.differences)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    assert nnx.random.default_generator().state_dict() == state


class Off(NumpyBackend):
    """Arithmetic that is wrong in one op."""

    name = "off"


def test_the_first_place_is_named(monkeypatch):
    model = network()
    original = nnx.tanh

    class Wrong(nn.Module):
        def __init__(self):
            self.first, self.second = nn.Dense(4, in_features=4), nn.Dense(3, in_features=4)

        def forward(self, x):
            h = self.first(x)
            bend = 1.0 if x.device.name == "numpy" else 1.25
            return self.second(original(h * bend))

    found = parity(Wrong().to("numpy"), batches(1), loss="cross_entropy",
                   devices=["numpy", "loops"])  # fmt: skip
    late = [d for d in found.differences if d.kind == "activation"]
    assert [d.name for d in late] == ["first", "second"]
    assert late[0].absolute < 1e-6 < late[1].absolute
    worst = {(d.kind, d.name): d for d in found.worst("loops")}
    assert worst["activation", "second"].absolute == late[1].absolute
    assert model.built


def test_what_parity_needs_is_told():
    with pytest.raises(nnx.DataError, match="two devices or more, got numpy"):
        parity(network(), batches(), loss="mse", devices=["numpy"])
    with pytest.raises(nnx.DataError, match="needs a batch"):
        parity(network(), [], loss="mse")


# The commands


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / "iris"
    words = ["train", "iris", "--epochs", "1", "--device", "numpy", "--hidden", "4"]
    assert main([*words, "--out", str(folder)]) == 0
    return folder


def command(capsys, *words):
    capsys.readouterr()
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_parity_of_a_run(run, capsys):
    status, out, err = command(
        capsys, "parity", "--model", run, "--devices", "numpy,numba", "--steps", 2
    )
    assert status == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["device", "of", "layer", "absolute", "relative", "ulp"]
    assert ["numba", "weight", "1.bias"] in [row[:3] for row in rows]
    assert "2 training steps of 32 rows; reference numpy" in err
    assert "numba parts from numpy first in" in err or "has the bits of numpy" in err
    status, out, _ = command(capsys, "parity", "--model", run, "--json", "--devices", "numpy,loops")
    document = json.loads(out)
    assert document["reference"] == "numpy" and set(document["devices"]) == {"loops"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--devices", "numpy"], "names 1 device"),
        (["--devices", "numpy,numpi"], "Did you mean 'numpy'"),
        (["--steps", "0"], "--steps is 0"),
    ],
)
def test_parity_refuses(run, capsys, words, told):
    status, out, err = command(capsys, "parity", "--model", run, *words)
    assert status == 2 and out == "" and told in " ".join(err.split())


def test_doctor_finds_this_machine_good(capsys, monkeypatch):
    for name in doctor.THREADS:
        monkeypatch.delenv(name, raising=False)
    status, out, _ = command(capsys, "doctor")
    assert status == 0, out
    rows = {line.split("\t")[1]: line.split("\t") for line in out.splitlines()}
    assert rows["compiled steps"][0] == rows["device numba"][0] == "good"
    status, out, _ = command(capsys, "doctor", "--json")
    assert {line["state"] for line in json.loads(out)} <= {"good", "note", "bad"}


def test_doctor_names_what_is_broken_and_what_mends_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setenv("NNX_DEVICE", "cpuu")
    monkeypatch.setattr(doctor, "NEEDED", ("numpy", "nnx_needs_this"))

    def fails():
        raise ZeroDivisionError("no")

    monkeypatch.setattr(doctor, "CHECKS", (*doctor.CHECKS, fails))
    status, out, _ = command(capsys, "doctor")
    assert status == 1
    rows = {line.split("\t")[1]: line.split("\t") for line in out.splitlines()}
    assert rows["OMP_NUM_THREADS"][::3] == ["BAD", "unset OMP_NUM_THREADS"]
    assert rows["default device"][::3] == ["BAD", "unset NNX_DEVICE"]
    assert rows["nnx_needs_this"][0] == "BAD" and "pip install" in rows["nnx_needs_this"][3]
    assert rows["fails"][:3] == ["BAD", "fails", "could not be looked at: ZeroDivisionError: no"]


def test_doctor_sees_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("nnx.kernels.cache.directory", lambda: tmp_path / "file")
    line = next(line for line in doctor._caches() if line.subject == "code cache")
    assert line.state == "note" and "cannot be written to" in line.found and line.mend


def test_doctor_names_a_cache_and_data_that_are_not_there(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNX_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("NNX_DATA_DIR", str(tmp_path / "none"))
    with pytest.warns(UserWarning, match="NNX_CACHE_DIR"):
        lines = {line.subject: line for line in doctor._caches()}
    assert f"NNX_CACHE_DIR is {str(tmp_path / 'file')!r}" in lines["code cache"].found
    assert lines["code cache"].mend.startswith('export NNX_CACHE_DIR="$HOME')
    assert lines["data"].mend == "unset NNX_DATA_DIR"


def test_doctor_has_the_version_of_each_extra_that_is_here():
    lines = {line.subject: line for line in doctor._versions()}
    for name in doctor.OPTIONAL:
        assert lines[name].mend or lines[name].found[0].isdecimal(), lines[name]


def test_doctor_sees_a_wrong_product(monkeypatch):
    monkeypatch.setattr(nnx, "jit", lambda f: lambda x: x)
    (line,) = doctor._compiler()
    assert line.state == "bad" and "is wrong" in line.found
