"""`nnx train`: what it prints, going on, and the files of a run."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.cli.run import FILES
from tests.commands import NNX, QUICK, pairs, prices, write_csv

pytestmark = pytest.mark.usefixtures("empty_directory")


# Training


def test_train_without_options_writes_a_run_that_loads(succeed):
    out = pairs(succeed("train", "iris"))
    folder = Path("runs/iris")
    assert {*FILES, "curves.svg"} - {"curves.svg"} <= {path.name for path in folder.iterdir()}
    assert out["model"] == str(folder / "model.safetensors")
    assert set(out) == {"device", "device_reason", "test_accuracy", "test_loss", "epochs",
                        "time_s", "rows_per_second", "model"}  # fmt: skip
    assert nn.load(out["model"]).predict(np.ones((2, 4), np.float32)).shape == (2, 3)


def test_train_digits_learns_in_one_epoch(nnx_command):
    status, out, err = nnx_command("train", "digits", "--epochs", "1", "--device", "numpy")
    figures = pairs(out)
    assert status == 0
    assert float(figures["test_accuracy"]) > 0.8
    assert float(figures["images_per_second"]) > 0
    assert figures["device"] == "numpy" and figures["device_reason"] == "named by --device"
    assert "784-16-16-10: 13,002 parameters" in err


@pytest.mark.parametrize(
    ("words", "env", "device", "reason"),
    [
        (["--device", "loops"], {}, "loops", "named by --device"),
        (["--device", "numpy"], {"NNX_DEVICE": "loops"}, "numpy", "named by --device"),
        ([], {"NNX_DEVICE": "loops"}, "loops", "named by NNX_DEVICE"),
        ([], {}, str(nnx.device("cpu")), "cpu: Numba "),
        (["--device", "auto"], {}, None, "auto: numpy "),
    ],
)
def test_train_says_the_device_and_why(succeed, monkeypatch, words, env, device, reason):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    out = pairs(succeed("train", "iris", "--epochs", "1", *words))
    assert out["device"] == device if device else out["device"] in {d.name for d in nnx.devices()}
    assert out["device_reason"].startswith(reason)


def test_train_json_is_one_document_of_the_same_figures(succeed):
    document = json.loads(succeed("train", "iris", *QUICK, "--json"))
    out = pairs(succeed("train", "iris", *QUICK))
    assert document.keys() == out.keys()
    assert document["test_loss"] == float(out["test_loss"])


def test_history_has_a_row_an_epoch_with_validation(nnx_command):
    words = ["train", "iris", *QUICK, "--epochs", "3", "--validation-split", "0.25"]
    status, _, err = nnx_command(*words)
    assert status == 0
    rows = list(csv.DictReader(Path("runs/iris/history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert "90 rows to train, 30 to validate, 30 to test" in err
    assert rows[0].keys() == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])


def test_same_command_gives_the_same_model_and_another_seed_another(succeed):
    models = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        succeed("train", "iris", *QUICK, "--seed", seed, "--out", name)
        models.append(Path(name, "model.safetensors").read_bytes())
    assert models[0] == models[1] != models[2]


def test_options_make_the_network(succeed):
    succeed("train", "iris", *QUICK, "--hidden", "7,5", "--activation", "tanh")
    model = nn.load("runs/iris/model.safetensors")
    assert [layer.units for layer in model] == [7, 5, 3]
    assert [layer.activation for layer in model] == ["tanh", "tanh", None]
    succeed("train", "iris", *QUICK, "--hidden", "none")
    assert [layer.units for layer in nn.load("runs/iris/model.safetensors")] == [3]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "adagrad", "lion"])
def test_every_optimizer_trains(succeed, optimizer):
    out = pairs(succeed("train", "iris", *QUICK, "--optimizer", optimizer))
    assert np.isfinite(float(out["test_loss"]))


def test_loss_that_becomes_nan_fails_and_leaves_the_earlier_run(succeed, fail):
    succeed("train", "iris", *QUICK)
    before = {path: path.read_bytes() for path in Path("runs/iris").iterdir()}
    wild = ["--lr", "1e30", "--optimizer", "sgd", "--activation", "linear"]
    assert "lower the learning rate" in fail(1, "train", "iris", *QUICK, *wild)
    assert {path: path.read_bytes() for path in Path("runs/iris").iterdir()} == before


def test_curves_are_drawn_the_same_each_time(succeed):
    pytest.importorskip("matplotlib")
    drawn = []
    for name in "ab":
        succeed("train", "iris", *QUICK, "--out", name)
        drawn.append(Path(name, "curves.svg").read_bytes())
    assert b"<svg" in drawn[0] and drawn[0] == drawn[1]


def test_without_matplotlib_one_line_says_what_to_install(nnx_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = nnx_command("train", "iris", *QUICK)
    assert status == 0 and not Path("runs/iris/curves.svg").exists()
    assert err.count("nnx-array[plot]") == 1


# Going on


def test_resume_gives_the_bits_of_an_unbroken_run(succeed):
    common = ["train", "iris", "--device", "numpy", "--validation-split", "0.2"]
    succeed(*common, "--epochs", "5", "--out", "whole")
    succeed(*common, "--epochs", "2", "--out", "parts")
    first = Path("parts/model.safetensors").read_bytes()
    succeed("train", "iris", "--epochs", "5", "--out", "parts", "--resume")
    for name in ("model.safetensors", "history.csv", "config.json"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert first != Path("whole/model.safetensors").read_bytes()


DIFFERENT = {
    "--hidden": "8", "--activation": "tanh", "--optimizer": "sgd", "--lr": "0.01", "--seed": "1",
    "--batch-size": "16", "--loss": "binary_cross_entropy", "--validation-split": "0.5",
}  # fmt: skip


@pytest.mark.parametrize(("option", "value"), DIFFERENT.items())
def test_resume_refuses_another_setting_and_names_it(succeed, fail, option, value):
    data = "profit" if option == "--loss" else "iris"
    succeed("train", data, *QUICK, "--epochs", "1")
    before = {path: path.read_bytes() for path in Path("runs", data).iterdir()}
    err = fail(2, "train", data, "--epochs", "2", "--resume", option, value)
    assert f"{option} differs" in err and value in err
    assert {path: path.read_bytes() for path in Path("runs", data).iterdir()} == before


def test_resume_refuses_other_data(succeed, fail):
    write_csv("p.csv", ["area", "year", "price"], prices())
    succeed("train", "p.csv", "--target", "price", *QUICK)
    write_csv("p.csv", ["area", "year", "price"], prices(shift=1.0))
    assert "data differs" in fail(2, "train", "p.csv", "--resume", "--epochs", "3")


def test_resume_of_a_run_that_has_all_its_epochs_changes_nothing(nnx_command, succeed):
    succeed("train", "iris", *QUICK)
    before = Path("runs/iris/model.safetensors").read_bytes()
    status, out, err = nnx_command("train", "iris", "--resume")
    assert status == 0 and "2 epochs already" in err
    assert pairs(out)["rows_per_second"] == ""
    assert Path("runs/iris/model.safetensors").read_bytes() == before


def test_resume_refuses_fewer_epochs_than_there_are(succeed, fail):
    succeed("train", "iris", *QUICK)
    assert "2 already" in fail(2, "train", "iris", "--resume", "--epochs", "1")


@pytest.mark.parametrize(
    "names",
    [["config.json"], ["checkpoint.safetensors", "checkpoint.safetensors.previous"]],
)
def test_resume_from_damaged_files_fails_and_names_them(succeed, nnx_command, names):
    succeed("train", "iris", *QUICK)
    for name in names:
        path = Path("runs/iris", name)
        path.write_bytes(path.read_bytes()[:-20])
    status, _, err = nnx_command("train", "iris", "--resume", "--epochs", "3")
    assert status == 1 and all(name in err for name in names) and "Traceback" not in err


@pytest.mark.filterwarnings("default")
def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one(succeed, nnx_command):
    succeed("train", "iris", "--device", "numpy", "--epochs", "4", "--out", "whole")
    succeed("train", "iris", *QUICK)
    path = Path("runs/iris/checkpoint.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    status, _, err = nnx_command("train", "iris", "--resume", "--epochs", "4")
    assert status == 0 and f"{path} is damaged" in err and f"{path}.previous" in err
    for name in ("model.safetensors", "history.csv"):
        assert Path("runs/iris", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_resume_without_the_checkpoint_does_not_begin_anew(succeed, fail):
    succeed("train", "iris", *QUICK)
    Path("runs/iris/checkpoint.safetensors").unlink()
    Path("runs/iris/checkpoint.safetensors.previous").unlink()
    assert "checkpoint.safetensors is gone" in fail(1, "train", "iris", "--resume", "--epochs", "3")


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(succeed, fail):
    command = ["train", "iris", "--device", "numpy", "--out", "my run"]
    child = subprocess.Popen(
        [*NNX, *command, "--epochs", "1000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not Path("my run/checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and out == "" and "Traceback" not in err
    assert "nnx train iris --out 'my run' --resume" in err
    assert "--resume" in fail(2, *command, "--epochs", "1")
    nn.load("my run/model.safetensors")
    done = len(Path("my run/history.csv").read_text().splitlines()) - 1
    assert f"stopped after {done} of 1000000 epochs" in err
    succeed(*command, "--resume", "--epochs", str(done + 2))
    succeed(*command[:-1], "whole", "--epochs", str(done + 2))
    assert (
        Path("my run/model.safetensors").read_bytes()
        == Path("whole/model.safetensors").read_bytes()
    )


# The directory of a run


def test_finished_run_is_replaced_and_other_files_stay(nnx_command, succeed):
    succeed("train", "iris", *QUICK)
    Path("runs/iris/notes.txt").write_text("mine")
    Path("runs/iris/curves.svg").write_text("old")
    before = Path("runs/iris/model.safetensors").read_bytes()
    status, _, err = nnx_command("train", "iris", *QUICK, "--seed", "1")
    assert status == 0 and "replaced the earlier run in runs/iris" in err
    assert Path("runs/iris/notes.txt").read_text() == "mine"
    assert Path("runs/iris/model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("name", "content"),
    [("history.csv", "mine"), ("config.json", '{"mine": 1}'), ("config.json", "not json")],
)
def test_directory_with_anothers_file_is_refused_and_left(fail, name, content):
    Path("out").mkdir()
    Path("out", name).write_text(content)
    assert name in fail(2, "train", "iris", *QUICK, "--out", "out")
    assert [path.name for path in Path("out").iterdir()] == [name]
    assert Path("out", name).read_text() == content


def test_out_that_is_a_file_is_refused(fail):
    Path("out").write_text("mine")
    assert "is a file" in fail(2, "train", "iris", *QUICK, "--out", "out")


def test_disk_that_refuses_the_first_save_leaves_an_earlier_run_whole(succeed, fail, monkeypatch):
    from nnx.resume import Training

    succeed("train", "iris", "--epochs", "2")
    before = {path.name: path.read_bytes() for path in Path("runs/iris").iterdir()}

    def full(*_, **__):
        raise nnx.CheckpointError("Cannot save: no space left on device.")

    monkeypatch.setattr(Training, "save", full)
    assert "no space left" in fail(1, "train", "iris", "--epochs", "3", "--lr", "0.1")
    assert {p.name: p.read_bytes() for p in Path("runs/iris").iterdir()} == before


def test_unfinished_run_is_not_replaced_by_another(succeed, fail):
    succeed("train", "iris", "--epochs", "2")
    folder = Path("runs/iris")
    config = (folder / "config.json").read_text().replace('"epochs": 2', '"epochs": 9')
    (folder / "config.json").write_text(config)
    told = fail(2, "train", "iris", "--epochs", "3", "--batch-size", "7")
    assert "another run, of iris, stopped after 2 of 9 epochs" in told
