"""The command line: what it prints where, its exit statuses, and the files of a run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.cli import main
from nnx.cli.app import COMMANDS
from nnx.cli.run import FILES

NNX = [sys.executable, "-c", "import sys; from nnx.cli import main; sys.exit(main())"]
QUICK = ["--device", "numpy", "--epochs", "2"]


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Every test stands in a directory of its own, on a machine without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("NNX_DEVICE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nnx_command(capsys):
    """Run a command in this process; return its status, stdout and stderr."""

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


def process(*words, **settings):
    return subprocess.run(
        [*NNX, *words], capture_output=True, text=True, timeout=60, check=False, **settings
    )


def on_terminal(words, **env):
    """Run a command on a terminal of 80 columns; return its status and what it wrote there."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", **env}
    child = subprocess.Popen([*NNX, *words], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    # Linux ends a terminal that nobody holds any more with an error.
    while chunk := _read(master):
        written += chunk
    os.close(master)
    return child.wait(timeout=60), written.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def pairs(out):
    """Return the keys and values that a command printed into a pipe."""
    return dict(line.split("\t") for line in out.splitlines())


def write_csv(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def prices(n_rows=60, shift=0.0):
    """Return rows of area, year and a price that is linear in both, of very different scales."""
    rng = np.random.default_rng(5)
    area, year = rng.uniform(40, 200, n_rows), rng.integers(1950, 2020, n_rows)
    return [
        (f"{a:.1f}", y, round(2000 * a + 500 * (y - 1950) + shift))
        for a, y in zip(area, year, strict=True)
    ]


# Help, and what is said of the devices


def test_help_lists_the_commands_that_exist_and_no_others(succeed):
    listed = succeed("--help").partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == list(COMMANDS)


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_fits_80_columns_and_cuts_nothing_off(succeed, words):
    out = succeed(*words, "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "..." not in out.replace("[ARGS]...", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_is_a_command(succeed, name):
    assert f"Example:  nnx {name} " in succeed(name, "--help")


def test_help_imports_no_array_library():
    code = "import sys; from nnx.cli import main; main(['--help']); print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "numba", "rich", "matplotlib", "safetensors"} & set(found.stdout.split())


def test_version_is_the_packages(succeed):
    assert succeed("--version") == f"nnx {nnx.__version__}\n"


def test_devices_are_those_of_the_library(succeed):
    expected = [device._asdict() for device in nnx.devices()]
    assert json.loads(succeed("devices", "--json")) == expected


def test_devices_in_a_pipe_are_a_table_with_tabs(succeed):
    header, *rows = [line.split("\t") for line in succeed("devices").splitlines()]
    assert header == ["device", "available", "description", "memory_bytes"]
    assert ["numpy", "yes"] in [row[:2] for row in rows]
    assert {len(row) for row in rows} == {4}


def test_devices_succeeds_and_says_so_where_the_default_is_wrong(nnx_command, monkeypatch):
    monkeypatch.setenv("NNX_DEVICE", "nunpy")
    status, out, err = nnx_command("devices")
    assert status == 0
    assert "numpy\tyes" in out and "nunpy" in err


def test_warnings_are_one_line_on_stderr(nnx_command, monkeypatch):
    def warns():
        warnings.warn("planted\nhere", stacklevel=1)
        return []

    monkeypatch.setattr("nnx.cli.devices.devices", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, _, err = nnx_command("devices")
    assert status == 0 and "nnx: warning: planted here" in err.splitlines()


# Wrong commands: status 2, and nothing written


WRONG = {
    "no such command": (["trian", "iris"], "train"),
    "no such option": (["train", "iris", "--hiden", "3"], "--hidden"),
    "no data": (["train"], "DATA"),
    "unknown data": (["train", "irs"], "Did you mean 'iris'?"),
    "unknown file": (["train", "none.csv", "--target", "y"], "none.csv does not exist"),
    "unknown device": (["train", "iris", "--device", "nunpy"], "Did you mean 'numpy'?"),
    "empty device": (["train", "iris", "--device", ""], "no device ''"),
    "unknown loss": (["train", "iris", "--loss", "mes"], "Did you mean 'mse'?"),
    "unknown activation": (["train", "iris", "--activation", "rely"], "Did you mean 'relu'?"),
    "unknown optimizer": (["train", "iris", "--optimizer", "Adm"], "Did you mean 'adam'?"),
    "no epochs": (["train", "iris", "--epochs", "0"], "--epochs is 0"),
    "epochs not a number": (["train", "iris", "--epochs", "two"], "--epochs"),
    "lr below 0": (["train", "iris", "--lr", "-1"], "--lr is -1"),
    "lr 0": (["train", "iris", "--lr", "0"], "--lr is 0"),
    "lr nan": (["train", "iris", "--lr", "nan"], "--lr is nan"),
    "lr inf": (["train", "iris", "--lr", "inf"], "--lr is inf"),
    "batch size 0": (["train", "iris", "--batch-size", "0"], "--batch-size is 0"),
    "seed below 0": (["train", "iris", "--seed", "-1"], "--seed is -1"),
    "seed too large": (["train", "iris", "--seed", str(2**64)], "--seed is"),
    "layer of size 0": (["train", "iris", "--hidden", "16,0"], "16,0"),
    "layers not numbers": (["train", "iris", "--hidden", "16;16"], "16;16"),
    "split of all": (["train", "iris", "--validation-split", "1"], "--validation-split is 1"),
    "split of nothing": (["train", "iris", "--validation-split", "0.999"], "one part empty"),
    "target of a set": (["train", "iris", "--target", "species"], "--target"),
    "loss of quantities": (["train", "iris", "--loss", "mse"], "--loss cross_entropy"),
    "loss of two classes": (["train", "iris", "--loss", "binary_cross_entropy"], "has 3"),
    "no run to resume": (["train", "iris", "--resume"], "not a run"),
    "no run to evaluate": (["evaluate", "runs/none"], "runs/none is not a run"),
    "no run to predict with": (["predict", "runs/none", "x.npy"], "runs/none is not a run"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_command_exits_2_with_the_way_out_and_writes_nothing(fail, words, told, tmp_path):
    assert told in fail(2, *words)
    assert not list(tmp_path.iterdir())


def test_wrong_device_in_the_environment_is_named_as_from_there(fail, monkeypatch):
    monkeypatch.setenv("NNX_DEVICE", "nunpy")
    assert "NNX_DEVICE" in fail(2, "train", "iris")


def test_device_that_is_known_but_not_here_exits_2_with_the_cause(fail, tmp_path):
    missing = [device for device in nnx.devices() if not device.available]
    if not missing:
        pytest.skip("every device is available here")
    assert missing[0].reason in fail(2, "train", "iris", "--device", missing[0].name)
    assert not list(tmp_path.iterdir())


def test_process_failure_is_short_on_stderr_and_a_traceback_only_with_debug():
    plain = process("train", "iris", "--epochs", "0")
    assert plain.returncode == 2 and plain.stdout == ""
    assert len(plain.stderr.splitlines()) <= 3 and "Traceback" not in plain.stderr
    debug = process("train", "iris", "--epochs", "0", "--debug")
    assert debug.returncode == 2 and "Traceback" in debug.stderr


def test_fault_of_nnx_itself_is_told_in_two_lines(fail, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("planted\nhere")

    monkeypatch.setattr("nnx.cli.devices.devices", broken)
    err = fail(1, "devices")
    assert "ZeroDivisionError: planted here" in err and "--debug" in err


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


# Files of the user's own


@pytest.fixture
def price_run(succeed):
    """A run on p.csv, of quantities on very different scales."""
    write_csv("p.csv", ["area", "year", "price"], prices())
    out = succeed("train", "p.csv", "--target", "price", "--device", "numpy", "--epochs", "60",
                  "--lr", "0.02", "--hidden", "8")  # fmt: skip
    return Path("runs/p"), pairs(out)


def test_csv_of_quantities_is_standardised_there_and_back(price_run, succeed):
    folder, out = price_run
    assert float(out["test_r2"]) > 0.95
    assert float(out["test_loss"]) > 1000  # in squared units of the price, not in deviations
    tested = pairs(succeed("evaluate", folder))
    assert tested["rows"] == "12"
    assert float(tested["loss"]) == pytest.approx(float(out["test_loss"]), rel=1e-5)
    rows = prices()[:5]
    write_csv("new.csv", ["year", "extra", "area"], [(y, 0, a) for a, y, _ in rows])
    header, *values = [
        line.split("\t") for line in succeed("predict", folder, "new.csv").splitlines()
    ]
    assert header == ["row", "price"]
    for (_, value), (_, _, price) in zip(values, rows, strict=True):
        assert float(value) == pytest.approx(price, rel=0.15)


def test_predictions_are_those_of_the_saved_model_and_config(price_run, succeed):
    folder, _ = price_run
    config = json.loads(Path(folder, "config.json").read_text())
    x = np.array([[100.0, 2000.0]])
    inside = (x - config["x_mean"]) / config["x_scale"]
    model = nn.load(folder / "model.safetensors")
    expected = model.predict(inside.astype(np.float32)) * config["y_scale"] + config["y_mean"]
    np.save("x.npy", x)
    found = json.loads(succeed("predict", folder, "x.npy", "--json"))
    assert found == [{"value": pytest.approx(float(expected[0, 0]), rel=1e-5)}]


def test_evaluate_on_new_rows_takes_all_of_them(price_run, succeed):
    folder, _ = price_run
    write_csv("new.csv", ["year", "area", "price"], [(y, a, p) for a, y, p in prices(30)])
    tested = json.loads(succeed("evaluate", folder, "--data", "new.csv", "--json"))
    assert tested["rows"] == 30 and tested["r2"] > 0.95


def test_csv_of_words_names_its_classes(succeed):
    rows = [(i % 3 + 0.1 * (i % 5), ["no", "perhaps", "yes"][i % 3]) for i in range(90)]
    write_csv("w.csv", ["x", "answer"], rows)
    succeed("train", "w.csv", "--target", "answer", "--device", "numpy", "--epochs", "100",
            "--lr", "0.02")  # fmt: skip
    found = json.loads(succeed("predict", "runs/w", "w.csv", "--json"))
    right = [row["class"] == word for row, (_, word) in zip(found, rows, strict=True)]
    assert np.mean(right) > 0.9
    assert found[0]["probabilities"].keys() == {"no", "perhaps", "yes"}
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_evaluate_refuses_a_class_that_training_did_not_have(succeed, fail):
    write_csv("w.csv", ["x", "answer"], [(i, "ab"[i % 2]) for i in range(10)])
    succeed("train", "w.csv", "--target", "answer", *QUICK)
    write_csv("v.csv", ["x", "answer"], [(1, "a"), (2, "c")])
    assert "'c'" in fail(1, "evaluate", "runs/w", "--data", "v.csv")


@pytest.mark.parametrize(
    ("y", "loss", "outputs"),
    [
        (np.arange(20) % 4, "cross_entropy", 4),
        (np.arange(20) % 4 + 3, "mse", 1),
        (np.arange(20) / 7, "mse", 1),
        ((np.arange(20) % 2).reshape(20, 1), "cross_entropy", 2),
    ],
)
def test_npz_targets_are_classes_if_they_count_from_0(succeed, y, loss, outputs):
    np.savez("d.npz", x=np.random.default_rng(0).normal(size=(20, 3)), y=y)
    succeed("train", "d.npz", *QUICK)
    config = json.loads(Path("runs/d/config.json").read_text())
    assert (config["loss"], config["outputs"], config["x_mean"]) == (loss, outputs, [])


def test_npz_classes_that_do_not_count_from_0_keep_their_names(succeed):
    x = np.repeat(np.eye(2), 20, axis=0)
    np.savez("d.npz", x=x, y=np.repeat([-1, 1], 20), x_test=x[::10], y_test=[-1, -1, 1, 1])
    out = pairs(succeed("train", "d.npz", "--loss", "binary_cross_entropy", "--epochs", "60",
                        "--lr", "0.05", "--device", "numpy"))  # fmt: skip
    assert float(out["test_accuracy"]) == 1
    np.save("x.npy", np.eye(2))
    found = json.loads(succeed("predict", "runs/d", "x.npy", "--json"))
    assert [row["class"] for row in found] == ["-1", "1"]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones((9, 2))}, "x and y are needed"),
        ({"x": np.ones((9, 2)), "y": np.ones(8)}, "(9,)"),
        ({"x": np.ones(9), "y": np.ones(9)}, "shape (9,)"),
        ({"x": np.ones((9, 2)), "y": np.full(9, np.nan)}, "y[0] is nan"),
        ({"x": np.full((9, 2), np.inf), "y": np.ones(9)}, "row 0"),
        ({"x": np.full((9, 2), "a"), "y": np.ones(9)}, "numbers are needed"),
        ({"x": np.ones((9, 2)), "y": np.ones(9), "x_test": np.ones((1, 2))}, "x_test and y_test"),
        ({"x": np.ones((4, 2)), "y": np.arange(4)}, "too few"),
        ({"x": np.ones((9, 2)), "y": np.zeros(9, int)}, None),
    ],
)
def test_npz_that_cannot_be_trained_on_says_why(nnx_command, arrays, told):
    np.savez("d.npz", **arrays)
    status, _, err = nnx_command("train", "d.npz", *QUICK)
    if told is None:
        assert status == 0  # one value is a quantity that never changes
    else:
        assert status == 1 and told in err and not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n3\n", "line 3"),
        ("a,b\n1,x\n2,3\n", "line 2, column 'b'"),
        ("a,b\n", "1 rows"),
        ("", "no column names"),
    ],
)
def test_csv_that_is_wrong_names_the_place(nnx_command, text, told):
    Path("d.csv").write_text(text)
    target = "b" if text else "a"
    status, out, err = nnx_command("train", "d.csv", "--target", target, *QUICK)
    assert status == 1 and out == "" and told in err and len(err.splitlines()) <= 3


def test_csv_target_is_asked_for_and_guessed_at(fail):
    write_csv("p.csv", ["area", "year", "price"], prices())
    assert "--target price" in fail(2, "train", "p.csv")
    assert "Did you mean 'price'?" in fail(2, "train", "p.csv", "--target", "prize")


# A trained network


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A run on digits, trained for one epoch."""
    folder = tmp_path_factory.mktemp("digits")
    assert (
        main(["train", "digits", "--epochs", "1", "--device", "numpy", "--out", str(folder)]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def seven():
    """An image of the test part, as bytes."""
    data = nnx.data.load("digits")
    assert data.y_test[0] == 7
    return np.uint8(np.rint(data.x_test[0].reshape(28, 28) * 255))


def test_evaluate_gives_the_figures_of_training(succeed):
    trained = pairs(succeed("train", "iris", *QUICK))
    tested = json.loads(succeed("evaluate", "runs/iris", "--json", "--device", "loops"))
    assert tested["device"] == "loops" and tested["rows"] == 30
    assert tested["accuracy"] == float(trained["test_accuracy"])
    assert tested["loss"] == pytest.approx(float(trained["test_loss"]), rel=1e-4)


def test_evaluate_tells_programs_how_each_class_is_told(succeed):
    succeed("train", "iris", *QUICK)
    found = json.loads(succeed("evaluate", "runs/iris", "--json"))
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == 30 and matrix.trace() / 30 == pytest.approx(found["accuracy"])
    assert list(found["classes"]) == ["setosa", "versicolor", "virginica"]
    assert [row["support"] for row in found["classes"].values()] == matrix.sum(axis=1).tolist()
    plain = pairs(succeed("evaluate", "runs/iris"))
    assert plain.keys() == found.keys() - {"classes", "confusion_matrix"}
    assert float(plain["f1_macro"]) == found["f1_macro"]


def test_evaluate_shows_people_the_report_and_the_confusions(succeed):
    succeed("train", "iris", *QUICK)
    status, shown = on_terminal(["evaluate", "runs/iris"], NO_COLOR="1")
    assert status == 0 and "weighted avg" in shown and "right / guessed" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_evaluate_of_one_logit_has_both_classes(succeed):
    succeed("train", "profit", "--loss", "binary_cross_entropy", "--hidden", "none", *QUICK)
    found = json.loads(succeed("evaluate", "runs/profit", "--json"))
    assert np.trace(found["confusion_matrix"]) == round(found["accuracy"] * found["rows"])
    assert len(found["classes"]) == 2


def test_evaluate_on_data_of_another_size_fails(digits_run, fail):
    err = fail(1, "evaluate", digits_run, "--data", "iris")
    assert "rows of 4 numbers" in err and "784" in err


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_model_fails_in_a_line(succeed, fail, damage):
    succeed("train", "iris", *QUICK)
    path = Path("runs/iris/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes({"cut": content[:500], "flip": content, "empty": b""}[damage])
    assert "model.safetensors" in fail(1, "evaluate", "runs/iris")


def test_run_that_was_killed_before_its_end_is_read_from_its_checkpoint(nnx_command, succeed):
    trained = pairs(succeed("train", "iris", *QUICK))
    Path("runs/iris/model.safetensors").unlink()
    status, out, err = nnx_command("evaluate", "runs/iris")
    assert status == 0 and "cut off" in err
    assert pairs(out)["loss"] == trained["test_loss"]


def arrays_of_seven(seven):
    unit = np.float32(seven) / np.float32(255)
    return {
        "rows.npy": unit.reshape(1, 784),
        "image.npy": unit,
        "alone.npy": unit.reshape(784),
        "bytes.npy": seven[np.newaxis],
        "big_endian.npy": unit.reshape(1, 784).astype(">f8"),
    }


def test_predict_takes_an_array_in_every_form(digits_run, succeed, seven):
    found = []
    for name, array in arrays_of_seven(seven).items():
        np.save(name, array)
        found.append(json.loads(succeed("predict", digits_run, name, "--json")))
    np.savez("x.npz", x=seven[np.newaxis])
    found.append(json.loads(succeed("predict", digits_run, "x.npz", "--json")))
    assert all(one == found[0] for one in found)
    assert found[0][0]["class"] == "7"


def test_predict_in_a_pipe_is_a_table_of_all_probabilities(digits_run, succeed, seven):
    np.save("x.npy", np.stack([seven, seven]))
    header, *rows = [
        line.split("\t") for line in succeed("predict", digits_run, "x.npy").splitlines()
    ]
    assert header == ["row", "class", *(f"p({digit})" for digit in range(10))]
    assert [row[:2] for row in rows] == [["0", "7"], ["1", "7"]]
    assert sum(map(float, rows[0][2:])) == pytest.approx(1, abs=1e-5)


@pytest.fixture
def picture(seven):
    """Return a function that writes the digit 7 as an image, and what to read it with."""
    image = pytest.importorskip("PIL.Image")

    def write(name, *, mode="L", dark=False, size=28, pad=0):
        made = image.fromarray(seven).resize((size, size))
        page = image.new("L", (size + 2 * pad, size + 3 * pad), 0)
        page.paste(made, (pad, pad))
        if dark:
            page = page.point(lambda value: 255 - value)
        page.convert(mode).save(name)
        return name

    return write


PICTURES = {
    "as trained": ({}, []),
    "in colour": ({"mode": "RGB"}, []),
    "dark on light": ({"dark": True}, ["inverted"]),
    "large, off the centre": ({"size": 140, "pad": 40}, ["centred in 28 x 28"]),
    "on paper": ({"dark": True, "size": 140, "pad": 60, "mode": "RGBA"}, ["inverted", "centred"]),
}


@pytest.mark.parametrize(("how", "told"), PICTURES.values(), ids=PICTURES)
def test_predict_reads_an_image_and_says_what_it_changed(
    digits_run, nnx_command, picture, how, told
):
    status, out, err = nnx_command("predict", digits_run, picture("seven.png", **how), "--json")
    assert status == 0, err
    assert json.loads(out)[0]["class"] == "7"
    assert all(word in err for word in told)
    assert ("inverted" in err, "centred" in err) == ("inverted" in told, len("".join(told)) > 8)


def test_predict_of_an_image_as_trained_equals_its_pixels(digits_run, succeed, picture, seven):
    np.save("x.npy", seven)
    from_pixels = json.loads(succeed("predict", digits_run, "x.npy", "--json"))
    assert json.loads(succeed("predict", digits_run, picture("x.png"), "--json")) == from_pixels


def test_predict_refuses_what_it_cannot_read(digits_run, succeed, fail, picture):
    np.save("wide.npy", np.zeros((2, 785)))
    assert "(2, 785)" in fail(1, "predict", digits_run, "wide.npy")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    assert "objects.npy" in fail(1, "predict", digits_run, "objects.npy")
    Path("broken.png").write_bytes(Path(picture("x.png")).read_bytes()[:60])
    assert "broken.png" in fail(1, "predict", digits_run, "broken.png")
    assert "does not exist" in fail(2, "predict", digits_run, "none.png")
    assert "no known kind" in fail(2, "predict", digits_run, "x.txt")
    write_csv("wide.csv", ["a", "b"], [(1, 2)])
    assert "(1, 2)" in fail(1, "predict", digits_run, "wide.csv")
    succeed("train", "iris", *QUICK)
    assert "has none" in fail(2, "predict", "runs/iris", "x.png")


def test_predict_of_a_csv_without_a_column_names_it(price_run, fail):
    write_csv("new.csv", ["area"], [(100,)])
    assert "'year'" in fail(1, "predict", price_run[0], "new.csv")


# Pipes and terminals


def test_process_prints_data_on_stdout_and_messages_on_stderr():
    found = process("train", "iris", *QUICK)
    assert found.returncode == 0
    assert pairs(found.stdout)["device"] == "numpy"
    assert "\x1b" not in found.stdout + found.stderr
    assert all(line.startswith("nnx: ") for line in found.stderr.splitlines())


@pytest.mark.parametrize("n_rows", [2, 3000])
def test_reader_that_leaves_is_no_error(digits_run, n_rows):
    np.save("x.npy", np.zeros((n_rows, 784), np.float32))
    # Without a buffer the first line fails, with one the last flush.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*NNX, "predict", str(digits_run), "x.npy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=buffered,
    ) as child:
        child.stdout.close()
        err = child.stderr.read().decode()
    assert [line for line in err.splitlines() if not line.startswith("nnx: x.npy: ")] == []


def test_terminal_shows_a_table_within_its_width():
    status, shown = on_terminal(["train", "iris", *QUICK])
    lines = shown.replace("\r", "\n").splitlines()
    assert status == 0 and "test accuracy" in shown and "named by --device" in shown
    assert any("╭" in line for line in lines)
    assert "\x1b[1m" in shown


def test_terminal_without_colour_gets_none():
    status, shown = on_terminal(["devices"], NO_COLOR="1")
    assert status == 0 and "╭" in shown
    assert "\x1b[" not in shown
    assert max(map(len, shown.splitlines())) <= 80


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


def test_file_of_a_run_is_told_from_the_run(succeed, fail):
    succeed("train", "iris", "--epochs", "1")
    assert "name its directory, runs/iris" in fail(2, "evaluate", "runs/iris/model.safetensors")


def test_evaluate_says_when_its_file_has_changed(succeed, nnx_command):
    write_csv("w.csv", ["a", "y"], [[i % 7, 3 * (i % 7) + 1.5] for i in range(40)])
    succeed("train", "w.csv", "--target", "y", "--epochs", "1")
    assert "has changed" not in nnx_command("evaluate", "runs/w")[2]
    with open("w.csv", "a") as file:
        file.write("3,10.5\n")
    status, _, err = nnx_command("evaluate", "runs/w")
    assert status == 0 and "w.csv has changed since training" in err
