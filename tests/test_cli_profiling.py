"""`nnx bench --profile`: a table for each device, figures as JSON, and what is refused."""

import importlib
import json

import pytest

from nnx.cli import main


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Stand in an empty directory; repeat little, on a machine that is not measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNX_DEVICE", raising=False)
    for name in ("nnx.profile", "nnx.profile_native", "nnx.profile_ops"):
        monkeypatch.setattr(importlib.import_module(name), "BUDGET_S", 0.0)
    rates = {"products": {"all threads": 100.0}, "memory": [[1000.0, 20.0]]}
    monkeypatch.setattr("nnx.rates.of_device", lambda device: rates)


def run(capsys, *words):
    capsys.readouterr()
    return main(["bench", "--profile", *words]), *capsys.readouterr()


def test_sizes_are_profiled_on_the_compiled_device(capsys):
    status, out, err = run(capsys, "6-5-3")
    assert status == 0, err
    assert out.startswith("step on numba: ")
    assert "a step of 6-5-3 on numba: batch 32, cross_entropy, sgd." in err
    assert out.count("matmul") == 5
    assert "the whole call from Python" in out
    assert max(map(len, out.splitlines())) <= 80


def test_each_device_has_a_table(capsys):
    status, out, _ = run(capsys, "6-3", "--devices", "numpy,numba")
    assert status == 0
    tables = [line.partition(":")[0] for line in out.splitlines() if line.startswith("step on ")]
    assert tables == ["step on numpy", "step on numba"]


@pytest.mark.parametrize("file", ["-", "found.json"])
def test_figures_are_written(capsys, tmp_path, file):
    status, out, err = run(capsys, "6-3", "--devices", "numba", "--json", file)
    assert status == 0, err
    found = json.loads(out if file == "-" else (tmp_path / file).read_text())
    assert found["machine"]["cores"]
    assert (found["model"], found["batch_size"]) == ("6-3", 32)
    (profile,) = found["profiles"]
    assert profile["device"] == "numba"
    assert profile["call_s"] > 0
    products = [row for row in profile["rows"] if row["name"] == "matmul"]
    assert [row["flops"] for row in products] == [2 * 32 * 6 * 3] * 2
    assert profile["total_s"] == sum(row["time_s"] or 0 for row in profile["rows"])


@pytest.mark.parametrize(
    "settings",
    [["--optimizer", "adam"], ["--loss", "mse", "--optimizer", "rmsprop", "--hidden", "none"]],
)
def test_a_run_is_profiled_with_its_loss_and_optimizer(capsys, settings):
    data = "iris" if "mse" not in settings else "table.csv"
    if data != "iris":
        rows = "\n".join(f"{i},{i * i % 7},{i / 3}" for i in range(60))
        with open(data, "w", encoding="utf-8") as file:
            file.write(f"a,b,c\n{rows}\n")
        settings = [*settings, "--target", "c"]
    train = ["train", data, "--device", "numpy", "--epochs", "2", "--out", "run", *settings]
    assert main(train) == 0
    status, out, err = run(capsys, "run", "--json", "-")
    assert status == 0, err
    found = json.loads(out)
    optimizer = settings[settings.index("--optimizer") + 1]
    loss = "mse" if "mse" in settings else "cross_entropy"
    assert (found["model"], found["loss"], found["optimizer"]) == ("run", loss, optimizer)
    products = sum(row["name"] == "matmul" for row in found["profiles"][0]["rows"])
    assert products == (8 if loss == "cross_entropy" else 0)  # 2 by 1 is a loop


@pytest.mark.parametrize("model", ["784", "6-0", "6--3", "nothing", "6-x", "-3"])
def test_what_is_no_model_is_a_usage_error(capsys, model):
    status, out, err = run(capsys, model)
    assert (status, out) == (2, "")
    if model != "-3":  # which looks like an option
        assert "neither a directory of nnx train nor the sizes" in err
        assert "784-16-16-10" in err


def test_a_directory_that_is_no_run_is_a_usage_error(capsys, tmp_path):
    status, out, err = run(capsys, str(tmp_path))
    assert (status, out) == (2, "")
    assert "is not a run: it holds no config.json" in err


def test_devices_that_are_not_here_are_told(capsys):
    status, out, err = run(capsys, "6-3", "--devices", "numba,nmpy")
    assert (status, out) == (2, "")
    assert "Did you mean 'numpy'?" in err
    status, out, err = run(capsys, "6-3", "--devices", "numba,cupy:99")
    assert (status, out) == (2, "")
    assert "`nnx devices` lists what can run here." in err
    status, _, err = run(capsys, "6-3", "--devices", ",")
    assert status == 2
    assert "--devices is empty" in err


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = run(capsys, "6-3", "--json", "file/found.json")
    assert (status, out) == (2, "")
    assert "cannot be written to" in err
