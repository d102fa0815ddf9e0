"""`nnx show` and `nnx graph`: the pictures of a run as files, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.cli import main
from nnx.cli.pictures import PICTURES
from tests.pictures import Image, boxes

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a run of digits and one of iris."""
    folder = tmp_path_factory.mktemp("runs")
    for data, rows in (("digits", ["--hidden", "9"]), ("iris", [])):
        words = ["train", data, "--device", "numpy", "--epochs", "1", *rows]
        assert main([*words, "--out", str(folder / data)]) == 0
    return folder


@pytest.mark.parametrize("what", PICTURES)
def test_show_writes_each_picture_and_prints_its_path(nnx_command, runs, what):
    status, out, err = nnx_command("show", what, runs / "digits", "--device", "numpy", "--json")
    assert status == 0, err
    path = Path(json.loads(out)["picture"])
    assert path == runs / "digits" / f"{what}.png"
    with Image.open(path) as image:
        assert image.size[0] > 300


def test_show_without_a_word_is_weights(nnx_command, runs):
    status, out, _ = nnx_command("show", runs / "digits", "-o", "w.png", "--dark")
    assert status == 0 and out.splitlines()[0] == "picture\tw.png"
    assert np.asarray(Image.open("w.png").convert("RGB"))[1, 1].mean() < 60


def test_show_activations_is_of_the_image_named(nnx_command, runs):
    data = nnx.data.load("digits")
    for image in (0, 5):
        _, out, _ = nnx_command("show", "activations", runs / "digits", "--image", image, "--json")
        assert f"truth {data.y_test[image]}" in json.loads(out)["shows"]


def test_graph_of_a_run_has_its_loss(nnx_command, runs):
    status, _, err = nnx_command("graph", runs / "digits", "-o", "g.svg", "--image", "3")
    assert status == 0, err
    found = boxes(Path("g.svg").read_text(encoding="utf-8"))
    data = nnx.data.load("digits")
    model = nn.load(runs / "digits" / "model.safetensors")
    loss = nn.cross_entropy(model(data.x_test[3:4]), nnx.asarray(data.y_test[3:4]))
    assert float(found["J"]["data-value"]) == pytest.approx(loss.item(), rel=1e-6)
    assert {"x", "y", "0.weight", "1.bias"} <= found.keys()
    assert "grad" in "".join(found["0.weight"]["texts"])


def test_pictures_of_a_table(nnx_command, runs):
    for words in (["weights"], ["activations", "--image", "2"], ["roc"]):
        status, _, err = nnx_command("show", words[0], runs / "iris", *words[1:])
        assert status == 0, err
    assert nnx_command("graph", runs / "iris", "-o", "g.png")[0] == 0


WRONG = {
    "unknown picture": (["show", "wieghts", "RUN"], "Did you mean 'weights'?"),
    "no run": (["show", "history"], "history of which run?"),
    "nothing": (["show"], "Of which run?"),
    "no such run": (["show", "weights", "none"], "none is not a run"),
    "image out of range": (["show", "activations", "RUN", "--image", "2000"], "0 to 1999"),
    "image below 0": (["graph", "RUN", "--image", "-1"], "--image is -1"),
    "image of what has none": (["show", "roc", "RUN", "--image", "1"], "goes with activations"),
    "unknown format": (["show", "RUN", "-o", "w.bmp"], "Allowed: pdf, png, svg"),
    "unknown folder": (["graph", "RUN", "-o", "none/g.svg"], "no directory none"),
    "unknown device": (["graph", "RUN", "--device", "nunpy"], "Did you mean 'numpy'?"),
    "no image layer": (["show", "mistakes", "IRIS"], "iris has none"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_command_exits_2_with_the_way_out(nnx_command, runs, words, told, tmp_path):
    named = {"RUN": runs / "digits", "IRIS": runs / "iris"}
    status, out, err = nnx_command(*(named.get(word, word) for word in words))
    assert status == 2 and out == "" and told in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_unwritable_output_and_missing_matplotlib_fail_without_traceback(
    nnx_command, runs, monkeypatch
):
    Path("taken").write_text("")
    Path("w.png").mkdir()
    Path("w.png/weights.png").mkdir()
    status, out, err = nnx_command("show", runs / "digits", "-o", "w.png")
    assert status == 1 and out == "" and "Cannot save" in err and "Traceback" not in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = nnx_command("show", runs / "digits")
    assert status == 1 and "nnx-array[plot]" in err and "Traceback" not in err


def test_history_of_a_run_without_epochs_is_told(nnx_command, runs, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").write_bytes((runs / "iris/config.json").read_bytes())
    status, _, err = nnx_command("show", "history", "r")
    assert status == 1 and "not one epoch" in err
    (tmp_path / "r/history.csv").write_text("epoch,loss\n")
    status, _, err = nnx_command("show", "history", "r")
    assert status == 1 and "not one was finished" in err


DAMAGED = {
    "no number": (b"epoch,loss\n1,0.5\n2,x\n", "line 3 has 'x' as its loss"),
    "a short line": (b"epoch,loss\n1\n", "line 2 has 1 cells of 2"),
    "a long line": (b"epoch,loss\n1,2,3\n", "line 2 has 3 cells of 2"),
    "no text": (b"\x00\xff\n1,2", "damaged, or of something else"),
    "empty": (b"", "is empty"),
    "another file": (b"a,b\n1,2\n", "starts with 'a,b'"),
}


@pytest.mark.parametrize(("content", "told"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_history_is_told_with_its_line(nnx_command, runs, tmp_path, content, told):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").write_bytes((runs / "iris/config.json").read_bytes())
    (tmp_path / "r/history.csv").write_bytes(content)
    status, out, err = nnx_command("show", "history", "r")
    assert status == 1 and out == "" and "r/history.csv" in err and told in err
    assert "--resume" in err and "fault in nnx" not in err


def test_file_of_another_network_is_told(nnx_command, runs, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").write_bytes((runs / "digits/config.json").read_bytes())
    (tmp_path / "r/model.safetensors").write_bytes((runs / "iris/model.safetensors").read_bytes())
    for words in (["show", "r"], ["graph", "r"], ["show", "confusion", "r"]):
        status, _, err = nnx_command(*words)
        assert status == 1 and "from 4 numbers to 3" in err and "from 784 to 10" in err, err


@pytest.mark.parametrize("backend", ["TkAgg", "nonsense"])
def test_pictures_need_no_backend_and_a_wrong_one_is_told(runs, tmp_path, backend):
    env = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"MPLBACKEND": backend}
    words = ["show", str(runs / "iris"), "-o", "w.png"]
    code = f"import sys; from nnx.cli import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, timeout=120,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == (backend == "nonsense"), done.stderr
    told = "MPLBACKEND is 'nonsense': unset it" in done.stderr
    assert told == (backend == "nonsense") and "fault in nnx" not in done.stderr
