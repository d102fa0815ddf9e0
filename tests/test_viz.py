"""What pictures refuse and need, and what notebooks show."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest

import nnx
from nnx import nn, viz
from nnx.callbacks import History
from nnx.viz.picture import png
from tests.pictures import Image, decoded, lesson, model_of, trained, two_inputs_and_two_outputs

# What is refused


def never_run():
    return nn.Sequential(nn.Dense(3))


REFUSED = {
    "graph of a model never run": (lambda: viz.graph(never_run()), "was never run"),
    "graph of a model alone": (lambda: viz.graph(model_of(np.eye(2))), r"viz\.graph\(model, x"),
    "graph without tape": (lambda: viz.graph(nnx.ones(2)), "has no history"),
    "graph of a number": (lambda: viz.graph(3), "got int"),
    "graph of a loss unknown": (lambda: viz.graph(*trained(), loss="mes"), "Did you mean 'mse'"),
    "graph without a loss": (lambda: viz.graph(*trained()), "not compiled"),
    "weights of a model never run": (lambda: viz.weights(never_run()), "no parameters yet"),
    "weights without weights": (lambda: viz.weights(nn.Sequential(nn.Flatten())), "no layer"),
    "activations of a model never run": (
        lambda: viz.activations(never_run(), np.ones(3)), "no parameters yet"
    ),
    "activations of many": (lambda: viz.activations(trained()[0], trained()[1]), "40 examples"),
    "activations without layers": (
        lambda: viz.activations(nn.Sequential(nn.Flatten()), np.ones((1, 4))), "no layers"
    ),
    "history of nothing": (lambda: viz.history(History()), "no epoch"),
    "confusion of other rows": (lambda: viz.confusion(np.eye(3), [0, 1]), "3 predictions"),
    "confusion of no class": (lambda: viz.confusion(np.eye(3), [0, 1, 3]), "Target 3"),
    "too few names": (lambda: viz.confusion(np.eye(3), [0, 1, 2], classes="ab"), "2 names"),
    "confusion of NaN": (lambda: viz.confusion(np.full((2, 3), np.nan), [0, 1]), "has a NaN"),
    "mistakes of none": (
        lambda: viz.mistakes(np.eye(3), [1, 2, 0], np.ones((3, 4)), n=0), "n is 0"
    ),
    "weights of another shape": (
        lambda: viz.weights(model_of(np.ones((20, 2))), shape=(3, 5)), "15 numbers, .* 20"
    ),
    "graph of one input of two": (
        lambda: viz.graph(two_inputs_and_two_outputs()[0], np.ones((2, 3))), "takes 2 inputs"
    ),
    "activations of two rows of several inputs": (
        lambda: viz.activations(*two_inputs_and_two_outputs()[:2]), "x is 2 examples"
    ),
    "mistakes of other rows": (
        lambda: viz.mistakes(np.eye(3), [0, 1, 2], np.ones((2, 4))), "2 examples"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "told"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_way_out(call, told):
    with pytest.raises(nnx.NnxError, match=told):
        call()


def test_used_up_tape_is_refused_with_the_way_out():
    v = lesson()
    v["J"].backward()
    with pytest.raises(nnx.GradientError, match="retain_graph=True"):
        viz.graph(v["J"])


def test_format_and_place_are_checked(tmp_path):
    picture = viz.graph(lesson()["J"])
    with pytest.raises(nnx.DataError, match="Did you mean 'png'"):
        picture.save(tmp_path / "a.pgn")
    with pytest.raises(OSError, match="Cannot save"):
        picture.save(tmp_path / "none" / "a.svg")


def test_without_matplotlib_the_extra_is_named_and_a_graph_is_still_drawn(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(nnx.DataError, match=r"nnx-array\[plot\]"):
        viz.weights(model_of(np.eye(2)))
    picture = viz.graph(lesson()["J"])
    assert picture.save(tmp_path / "a.svg").stat().st_size > 1000
    with pytest.raises(nnx.DataError, match=r"nnx-array\[plot\]"):
        picture.save(tmp_path / "a.png")


def test_pictures_need_no_display_and_pyplot_is_left_alone():
    code = (
        "import sys, numpy as np\nfrom nnx import nn, viz\n"
        "assert 'matplotlib' not in sys.modules\n"
        "viz.weights(nn.Sequential(nn.Dense(2, in_features=4)))._repr_png_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)


def test_drawing_leaves_matplotlibs_settings_alone():
    import matplotlib

    with matplotlib.rc_context({"savefig.facecolor": "red", "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        pixels = decoded(viz.history({"loss": [1.0]}, dark=True))
        assert dict(matplotlib.rcParams) == before
    assert pixels[1, 1].mean() < 60 and pixels.shape[1] == round(4.6 * 144)


# Notebooks


def test_reprs_of_notebooks_escape():
    x = nnx.asarray([[1.0, -2.0]])
    x.name = "<b>&"
    h = History()
    h.on_epoch_end(0, {"<i>loss": 1.0})
    model = nn.Sequential(nn.Dense(2, in_features=2))
    model.layers[0].__class__ = type("<u>", (nn.Dense,), {})
    for shown, markup in ((x, "<b>&"), (h, "<i>loss"), (model, "<u>")):
        found = shown._repr_html_()
        assert markup not in found and "&lt;" in found


def test_tensors_show_numbers_heat_maps_or_a_summary():
    small = nnx.asarray([[1.0, -2.5]])._repr_html_()
    assert "-2.5" in small and "<table>" in small and "rgb(" in small
    large = nnx.asarray(np.random.default_rng(0).normal(size=(2000, 700)))._repr_html_()
    assert "data:image/png;base64," in large and "least … mean … largest" in large
    assert len(large) < 400_000
    assert "<b>3.0</b>" in nnx.asarray(3.0)._repr_html_()
    for empty in (nnx.zeros((0,)), nnx.zeros((0, 3)), nnx.zeros((3, 0))):
        assert "code" in empty._repr_html_()
    nan = nnx.asarray([[float("nan"), 1.0]])
    assert "nan" in nan._repr_html_()


def test_tensors_at_the_ends_of_their_range_keep_their_colours():
    import re

    def colours_of(x, dtype="float64"):
        html = nnx.asarray([x], dtype=dtype)._repr_html_()
        return [tuple(map(int, c.split(","))) for c in re.findall(r"rgb\(([\d,]+)\)", html)]

    ordinary = colours_of([1.0, -1.0])
    assert colours_of([1e308, -1e308]) == colours_of([np.inf, -np.inf]) == ordinary
    grey, _ = colours_of([np.nan, 1.0])
    assert min(grey) > 190  # its letters are black
    both = np.where(np.arange(300 * 300).reshape(300, 300) % 2, np.inf, -np.inf)
    assert "data:image/png" in nnx.asarray(both)._repr_html_()


def test_hand_made_png_is_read_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_modules_and_histories_show_tables(monkeypatch):
    assert "Total parameters: 123" in trained()[0]._repr_html_()
    shown = History()
    assert "History of 0 epochs" in shown._repr_html_()
    for epoch in range(12):
        shown.on_epoch_end(epoch, {"loss": float(epoch)})
    assert "<img" in shown._repr_html_() and "the last 10 of 12" in shown._repr_html_()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "<img" not in shown._repr_html_() and "<td>12</td>" in shown._repr_html_()
