"""`nnx bench`: what it refuses before it begins, what it prints, and the files that it writes."""

import json
import os

import pytest

import nnx
from nnx.benchmarks import harness, suite
from nnx.cli import main

CUPY = next(info for info in nnx.devices() if info.name == "cupy")


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    """Each test stands in a directory of its own and measures as little as can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNX_DEVICE", raising=False)
    tiny = harness.QUICK._replace(rounds=2, length_s=0.001)
    monkeypatch.setattr(harness, "QUICK", tiny)
    rates = {"products": {"one thread": 50.0, "all threads": 90.0}, "memory": [[1e6, 20.0]]}
    monkeypatch.setattr(suite.rates, "measured", lambda quick: rates)


def bench(capsys, *words):
    capsys.readouterr()
    status = main(["bench", *map(str, words)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["opps"], "There is no suite 'opps'. Did you mean 'ops'?"),
        (["ops", "--devices", "numpi"], "--devices 'numpi' is not known. Did you mean 'numpy'?"),
        (["ops", "--peers", "torhc"], "--peers 'torhc' is not known. Did you mean 'torch'?"),
        (["ops", "--rounds", "0"], "--rounds is 0: it takes a whole number of at least 1."),
        (["dense", "--devices", "none", "--peers", "none"], "leaves nothing to measure"),
        (["ops", "--devices", "none", "--peers", "numpy"], "No case of ops can be done"),
        (["dense", "--json", "."], "is a directory: name a file. Nothing was measured."),
        (["--profile", "4-3", "--report", "out"], "--profile measures one network"),
    ],
)
def test_what_cannot_be_meant_is_refused(capsys, words, told):
    status, out, err = bench(capsys, *words)
    assert status == 2 and out == "" and told in " ".join(err.split())


@pytest.mark.skipif(CUPY.available, reason="there is a GPU here")
def test_device_that_is_not_here_alone_is_an_error(capsys):
    status, out, err = bench(capsys, "overhead", "--devices", "cupy")
    assert status == 2 and out == ""
    assert CUPY.reason.split(".")[0] in " ".join(err.split())


@pytest.mark.skipif(CUPY.available, reason="there is a GPU here")
def test_device_that_is_not_here_is_listed_and_the_rest_runs(capsys):
    words = ("dense", "--quick", "--devices", "numpy,cupy", "--peers", "numpy")
    status, out, _ = bench(capsys, *words)
    assert status == 0
    assert CUPY.reason.split(".")[0] in " ".join(out.split())
    assert "784-16" in out


@pytest.mark.skipif(harness.absent(["jax"]) == {}, reason="JAX is installed")
def test_missing_peer_is_a_line_of_the_table(capsys):
    status, out, _ = bench(capsys, "dense", "--quick", "--devices", "numpy", "--peers", "jax")
    assert status == 0 and "jax is not installed" in " ".join(out.split())


def test_file_has_the_figures(capsys, tmp_path):
    words = ("overhead", "--quick", "--devices", "numpy", "--peers", "numpy")
    status, _, err = bench(capsys, *words, "--json", "a.json")
    assert status == 0 and "a.json" in err
    results = suite.read(tmp_path / "a.json")
    assert {case["suite"] for case in results["cases"]} == {"overhead"}
    assert results["settings"]["devices"] == ["numpy"]
    status, out, _ = bench(capsys, *words, "--json", "-")
    assert json.loads(out)["schema"] == suite.SCHEMA


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("option", ["--report", "--json"])
def test_what_cannot_be_written_is_told_before_it_begins(capsys, tmp_path, option):
    tmp_path.chmod(0o500)
    status, out, err = bench(capsys, "dense", option, tmp_path / "new" / "file")
    tmp_path.chmod(0o700)
    assert status == 2 and out == "" and "Nothing was measured" in err


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_folder_that_is_a_file_is_told_before_it_begins(capsys, tmp_path, option):
    (tmp_path / "there").write_text("")
    place = "there" if option == "--report" else "there/file.json"
    status, out, err = bench(capsys, "dense", option, place)
    assert status == 2 and out == "" and "Nothing was measured" in " ".join(err.split())


def test_all_devices_and_peers_are_the_default():
    assert {"loops", "numpy", "numba", "cupy"} == set(suite.DEVICES)
    assert suite.default_peers(quick=True) == ["numpy-by-hand"]
    found = suite.default_peers(quick=False)
    assert found[0] == "numpy-by-hand" and "torch-compile" not in found
    assert ("torch" in found) is (harness.absent(["torch"]) == {})
