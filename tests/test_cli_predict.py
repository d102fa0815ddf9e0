"""`nnx evaluate` and `nnx predict`: a trained network, by its run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx.cli import main
from tests.commands import NNX, QUICK, on_terminal, pairs, write_csv

pytestmark = pytest.mark.usefixtures("empty_directory")


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
