"""The command line on files of the user's own: what is read, guessed and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnx import nn
from tests.commands import QUICK, pairs, prices, write_csv

pytestmark = pytest.mark.usefixtures("empty_directory")


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


def test_predict_of_a_csv_without_a_column_names_it(price_run, fail):
    write_csv("new.csv", ["area"], [(100,)])
    assert "'year'" in fail(1, "predict", price_run[0], "new.csv")
