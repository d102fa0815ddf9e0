"""The command line: what it prints where, its help, and its exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

import nnx
from nnx.cli.app import COMMANDS
from tests.commands import NNX, QUICK, on_terminal, pairs

pytestmark = pytest.mark.usefixtures("empty_directory")


def process(*words, **settings):
    return subprocess.run(
        [*NNX, *words], capture_output=True, text=True, timeout=60, check=False, **settings
    )


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


# Pipes and terminals


def test_process_prints_data_on_stdout_and_messages_on_stderr():
    found = process("train", "iris", *QUICK)
    assert found.returncode == 0
    assert pairs(found.stdout)["device"] == "numpy"
    assert "\x1b" not in found.stdout + found.stderr
    assert all(line.startswith("nnx: ") for line in found.stderr.splitlines())


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
