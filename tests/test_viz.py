"""Pictures: graphs with the tape's numbers, weights in the right places, and what is refused."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import nn, viz
from nnx.callbacks import History
from nnx.cli import main
from nnx.cli.pictures import PICTURES
from nnx.viz.counts import probabilities
from nnx.viz.layout import Box, lay_out
from nnx.viz.picture import colours, png, rgb
from nnx.viz.plots import _curve
from nnx.viz.scene import text_width

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

SVG = "{http://www.w3.org/2000/svg}"

# The lesson's network, on paper: value, and dJ/d of it.
BY_HAND = {
    "x": (1.0, None), "w1": (2.0, 6.0), "t1": (2.0, 6.0), "b1": (0.0, 6.0), "z1": (2.0, 6.0),
    "a1": (2.0, 6.0), "w2": (3.0, 4.0), "t2": (6.0, 2.0), "b2": (1.0, 2.0), "z2": (7.0, 2.0),
    "a2": (7.0, 2.0), "y": (5.0, None), "e": (2.0, 2.0), "s": (4.0, 0.5), "J": (2.0, 1.0),
}  # fmt: skip


def lesson(device="numpy", **changed):
    """Return every value of the lesson's network by name, in float64."""
    given = {"x": 1.0, "w1": 2.0, "b1": 0.0, "w2": 3.0, "b2": 1.0, "y": 5.0} | changed
    v = {name: nnx.asarray(value, dtype="float64", device=device) for name, value in given.items()}
    for name in ("w1", "b1", "w2", "b2"):
        v[name].requires_grad = True
    v["t1"] = v["w1"] * v["x"]
    v["z1"] = v["t1"] + v["b1"]
    v["a1"] = nnx.relu(v["z1"])
    v["t2"] = v["w2"] * v["a1"]
    v["z2"] = v["t2"] + v["b2"]
    v["a2"] = nnx.relu(v["z2"])
    v["e"] = v["a2"] - v["y"]
    v["s"] = v["e"] ** 2
    v["J"] = 0.5 * v["s"]
    return v


def boxes(svg):
    """Return the boxes of an SVG by name: their data, and all of their text."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        texts = [text.text for text in group.iter(f"{SVG}text")]
        found[group.get("data-name")] = {**group.attrib, "texts": texts,
                                         "tooltip": group.findtext(f"{SVG}title")}  # fmt: skip
    return found


def decoded(picture, format="png"):
    """Return a picture's pixels."""
    return np.asarray(Image.open(io.BytesIO(picture.render(format))).convert("RGB"))


def model_of(columns):
    """Return a network of one layer with these weights."""
    model = nn.Sequential(nn.Dense(columns.shape[1], in_features=columns.shape[0]))
    model.load_state_dict({"0.weight": columns, "0.bias": np.zeros(columns.shape[1], "f")})
    return model


# Graphs


@pytest.mark.parametrize("device", ["loops", "numpy", "numba"])
def test_graph_of_the_lesson_has_the_numbers_worked_out_by_hand(device):
    v = lesson(device)
    v["J"].backward(retain_graph=True)
    found = boxes(viz.graph(v["J"], names=v).svg())
    assert found.keys() == BY_HAND.keys()
    for name, (value, gradient) in BY_HAND.items():
        assert float(found[name]["data-value"]) == value, name
        if gradient is None:
            assert "data-gradient" not in found[name]
        else:
            assert float(found[name]["data-gradient"]) == gradient, name
            assert f"dJ/d{name} = {gradient:g}" in found[name]["texts"]


def test_graph_has_all_digits_of_the_tape():
    v = lesson(w1=0.1 + 0.2, b1=1 / 3, w2=2 / 7, x=1.7)
    v["J"].backward(retain_graph=True)
    found = boxes(viz.graph(v["J"], names=v).svg())
    for name, tensor in v.items():
        assert float(found[name]["data-value"]) == tensor.item(), name
    for name in ("w1", "b1", "w2", "b2"):
        assert float(found[name]["data-gradient"]) == v[name].grad.item(), name
    # Values between have no .grad: their gradient is that of the rest of the network.
    e, a1 = v["e"].item(), v["a1"].item()
    assert float(found["a2"]["data-gradient"]) == pytest.approx(e, abs=1e-15)
    assert float(found["w2"]["data-gradient"]) == pytest.approx(e * a1, abs=1e-15)
    assert float(found["z1"]["data-gradient"]) == pytest.approx(e * v["w2"].item(), abs=1e-15)


def test_graph_before_backward_has_values_only_and_says_so():
    v = lesson()
    picture = viz.graph(v["J"], names=v)
    assert not any("data-gradient" in box for box in boxes(picture.svg()).values())
    assert "no gradients yet" in picture.svg()
    assert (
        float(boxes(viz.graph(v["J"], names=v, gradients=True).svg())["w1"]["data-gradient"]) == 6
    )


def test_graph_leaves_gradients_and_tape_as_they_were():
    v = lesson()
    viz.graph(v["J"], gradients=True)
    assert v["w1"].grad is None
    v["J"].backward()
    assert v["w1"].grad.item() == 6


def test_graph_says_where_grad_is_a_sum_of_several_passes():
    v = lesson()
    v["J"].backward(retain_graph=True)
    assert viz.graph(v["J"], names=v).notes == []
    v["w1"].name = "w1"
    v["J"].backward(retain_graph=True)
    picture = viz.graph(v["J"], names=v)
    assert "w1" in picture.notes[0] and "several" in picture.notes[0]
    assert float(boxes(picture.svg())["w1"]["data-gradient"]) == 6


def test_graph_used_twice_has_one_box_and_the_sum_of_both_ways():
    x = nnx.asarray(3.0, dtype="float64")
    x.requires_grad = True
    found = boxes(viz.graph(x * x + x, names={"x": x}, gradients=True).svg())
    assert len(found) == 3 and float(found["x"]["data-gradient"]) == 7


def test_graph_of_a_network_has_layers_shapes_and_the_gradients_of_the_tape():
    nnx.random.seed(0)
    model = nn.Sequential(nn.Dense(5, "relu"), nn.Dropout(0.5), nn.Dense(3)).to("numpy")
    x = np.linspace(-1, 1, 8, dtype="f").reshape(2, 4)
    y = np.array([0, 2])
    picture = viz.graph(model, x, y, loss="cross_entropy")
    assert model.training and all(p.grad is None for p in model.parameters())
    loss = nn.cross_entropy(model.eval()(nnx.asarray(x, device="numpy")), y)
    loss.backward()
    nodes = {node.name: node for node in picture.nodes}
    assert nodes["J"].value.item() == loss.item()
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(nodes[name].gradient, parameter.grad.numpy())
        assert nodes[name].shape == str(parameter.shape)
    assert [(n.op, n.layer) for n in picture.nodes if n.op][:2] == [
        ("linear", "0 · Dense"), ("relu", "0 · Dense")
    ]  # fmt: skip
    assert nodes["x"].kind == "input" and nodes["0.weight"].kind == "parameter"
    assert "(2, 5)" in picture.svg() and "2 · Dense" in picture.svg()


def test_graph_does_not_credit_a_layer_with_what_stood_before_it():
    class Two(nn.Module):
        def __init__(self):
            self.a = nn.Dense(2, in_features=2)
            self.b = nn.Dense(2, in_features=2)

        def forward(self, x):
            return self.b(nnx.tanh(self.a(x)))

    nodes = viz.graph(Two(), np.ones((1, 2), "f")).nodes
    assert [(n.op, n.layer) for n in nodes if n.op] == [
        ("linear", "a · Dense"), ("tanh", "Two"), ("linear", "b · Dense")
    ]  # fmt: skip


def test_graph_of_a_model_without_targets_has_values_only():
    picture = viz.graph(model_of(np.ones((4, 2), "f")), np.ones((3, 4), "f"))
    assert all(node.gradient is None for node in picture.nodes)
    assert "no gradients" in picture.notes[0]


def two_inputs_and_two_outputs():
    nnx.random.seed(0)
    left, right = nn.Input((3,), name="left"), nn.Input((2,), name="right")
    both = nn.Dense(4, "tanh")(left) * nn.Dense(4)(right)
    model = nn.Model(
        [left, right], [nn.Dense(3, name="kind")(both), nn.Dense(1, name="size")(both)]
    )
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2, n)).astype("f") for n in (3, 2)]
    return model.to("numpy"), x, [np.array([0, 2]), np.ones((2, 1), "f")]


@pytest.mark.parametrize("form", ["list", "dict", "compiled"])
def test_graph_of_several_inputs_and_outputs_has_the_gradients_of_the_tape(form):
    model, x, y = two_inputs_and_two_outputs()
    losses = ["cross_entropy", "mse"]
    if form == "dict":
        x, y = (
            dict(zip(("left", "right"), x, strict=True)),
            dict(zip(("kind", "size"), y, strict=True)),
        )
        losses = dict(zip(("kind", "size"), losses, strict=True))
    if form == "compiled":
        model.compile("sgd", losses)
        losses = None
    picture = viz.graph(model, x, y, loss=losses)
    targets = list(y.values()) if isinstance(y, dict) else y
    left, right = (nnx.asarray(v, device="numpy") for v in (x.values() if form == "dict" else x))
    kind, size = model(left, right)
    parts = (
        nn.cross_entropy(kind, targets[0]),
        nn.mse(size, nnx.asarray(targets[1], device="numpy")),
    )
    loss = parts[0] + parts[1]
    loss.backward()
    found = {node.name: node for node in picture.nodes}
    assert found["J"].value.item() == loss.item()
    assert found["kind_loss"].value.item() == parts[0].item()
    assert found["left"].gradient.shape == (2, 3) and found["right"].gradient.shape == (2, 2)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(found[name].gradient, parameter.grad.numpy())
    assert boxes(picture.svg())["J"]["texts"][1] == "sum of the losses"


def test_graph_of_several_outputs_without_targets_ends_in_each():
    model, x, _ = two_inputs_and_two_outputs()
    picture = viz.graph(model, x)
    assert [node.name for node in picture.nodes if node.kind == "result"] == ["kind", "size"]
    assert "no gradients" in picture.notes[0]


def test_graph_of_numbers_at_the_end_of_their_range():
    x = nnx.asarray([1e308, 1e308, -1e308], dtype="float64")
    x.requires_grad = True
    assert "1e+308" in viz.graph(nnx.sum(x * 0.5), gradients=True).svg()


def test_graph_of_a_trace_has_shapes_and_no_values():
    lowered = nnx.jit(lambda x: nnx.exp(x) + 1.0).lower(nnx.ones((2, 3)))
    picture = viz.graph(lowered)
    assert [node.op for node in picture.nodes] == ["", "exp", "add"]
    assert all(node.value is None for node in picture.nodes)
    assert lowered.graph._repr_html_().count("<svg") == 1


def test_graph_shows_what_is_not_finite():
    x = nnx.asarray([1.0, float("nan"), float("inf")])
    x.requires_grad = True
    assert "2 of 3 NaN or infinite" in viz.graph(x * 2.0).svg()


def test_graph_escapes_names():
    x = nnx.asarray(1.0)
    x.requires_grad = True
    found = boxes(viz.graph(x * 2.0, names={"<script>&\x01": x}).svg())
    assert any(name.startswith("<script>&") for name in found)


def test_graph_svg_is_text_follows_the_system_and_is_self_contained():
    v = lesson()
    svg = viz.graph(v["J"], names=v).svg()
    assert "prefers-color-scheme:dark" in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    for dark in (True, False):
        assert "prefers-color-scheme" not in viz.graph(v["J"], names=v, dark=dark).svg()
    assert "z1 = t1 + b1" in boxes(svg)["z1"]["tooltip"]


@pytest.mark.parametrize("dark", [False, True])
def test_graph_as_png_and_pdf(tmp_path, dark):
    v = lesson()
    picture = viz.graph(v["J"], names=v, dark=dark)
    pixels = decoded(picture)
    assert (pixels[2, 2].mean() < 60) == dark
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    svg = ElementTree.fromstring(picture.svg())
    ratio = float(svg.get("width")) / float(svg.get("height"))
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(ratio, rel=0.01)
    assert picture.save(tmp_path / "a.PDF").read_bytes()[:4] == b"%PDF"


@pytest.mark.parametrize("dark", [False, True])
def test_graph_has_the_same_text_in_the_same_places_as_png_and_as_svg(dark):
    v = lesson()
    v["J"].backward(retain_graph=True)
    picture = viz.graph(v["J"], names=v, dark=dark)
    pixels = decoded(picture).astype(int)
    svg = ElementTree.fromstring(picture.svg())
    scale = pixels.shape[1] / float(svg.get("width"))
    texts = list(svg.iter(f"{SVG}text"))
    assert len(texts) > 3 * len(BY_HAND)
    edge = np.abs(pixels - rgb(colours(dark)["edge"]).astype(int)).sum(axis=-1) < 40
    level = next(
        p for p in svg.iter(f"{SVG}path") if p.get("d").count("L") == 1 and "C" not in p.get("d")
    )
    (x0, y0), (x1, _) = (
        map(float, p.split(",")) for p in level.get("d").replace("M", "").split(" L")
    )
    assert (
        2
        <= edge[int(scale * (y0 - 5)) : int(scale * (y0 + 5)), int(scale * (x0 + x1) / 2)].sum()
        <= 4
    )
    for text in texts:
        x, y, size = (float(text.get(name)) for name in ("x", "y", "font-size"))
        width = text_width(text.text, size)
        left = x - width if text.get("text-anchor") == "end" else x
        place = np.array([y - size, y, left, left + width]) * scale
        top, bottom, first, last = place.astype(int)
        colour = rgb(colours(dark)[text.get("class").removeprefix("nnx-f-")]).astype(int)
        near = np.abs(pixels[top:bottom, first:last] - colour).sum(axis=-1) < 40
        assert near.sum() > 3, text.text
        # Above the letters there is room, and then another line.
        assert not near[: int(0.1 * size * scale)].any(), text.text


def rectangles(layout, given):
    sizes = {box.key: box.height for box in given}
    return {key: (x, y, x + w, y + sizes[key]) for key, (x, y, w) in layout.places.items()}


def apart(first, second):
    return (first[2] <= second[0] or second[2] <= first[0]
            or first[3] <= second[1] or second[3] <= first[1])  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_layout_has_no_overlaps_and_no_edge_through_a_box(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    given = [Box(i, *map(float, rng.uniform(40, 200, 2))) for i in range(n)]
    edges = [(int(rng.integers(0, i)), i) for i in range(1, n) for _ in range(rng.integers(1, 4))]
    layout = lay_out(given, edges, max_width=float(rng.choice([500, 1500, 10_000])))
    places = rectangles(layout, given)
    assert all(apart(a, b) for a, b in itertools.combinations(places.values(), 2))
    sides = np.array(list(places.values()))
    assert sides.min() > -1e-6
    assert (sides[:, 2:] <= np.array([layout.width, layout.height]) + 1e-6).all()
    assert {(r.source, r.target) for r in layout.routes} == set(edges)
    for route in layout.routes:
        start, end = route.parts[0][1][0], route.parts[-1][1][-1]
        left, top, _, bottom = places[route.target]
        assert end[0] == left and top <= end[1] <= bottom
        assert start[0] == places[route.source][2]
        for _, points in route.parts:
            for (x0, y0), (x1, y1) in itertools.pairwise(points):
                line = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
                level = y0 == y1 or x0 == x1
                assert not level or all(
                    apart(line, (a + 0.01, b + 0.01, c - 0.01, d - 0.01))
                    for a, b, c, d in places.values()
                )


def test_layout_of_a_chain_is_a_straight_line():
    layout = lay_out([Box(i, 50.0, 30.0) for i in range(5)], [(i, i + 1) for i in range(4)])
    assert len({y for _, y, _ in layout.places.values()}) == 1


def test_boxes_without_inputs_stand_just_before_their_use():
    given = [Box(key, 50.0, 30.0) for key in ("x", "w1", "z1", "w2", "z2")]
    edges = [("x", "z1"), ("w1", "z1"), ("z1", "z2"), ("w2", "z2")]
    places = lay_out(given, edges).places
    assert places["w2"][0] == places["z1"][0] > places["w1"][0] == places["x"][0]


def test_long_graph_wraps_into_bands():
    given = [Box(i, 100.0, 30.0) for i in range(30)]
    layout = lay_out(given, [(i, i + 1) for i in range(29)], max_width=1000.0)
    assert layout.width < 1200
    assert len({y for _, y, _ in layout.places.values()}) == 5


# Weights


def weight_place(picture, neuron, i, j, size):
    """Return the colour of pixel (i, j) of a neuron, from the picture's file."""
    pixels = decoded(picture)
    axes = next(a for a in picture.figure.axes if a.get_label() == f"neuron {neuron}")
    x0, y0, x1, y1 = axes.get_position().extents
    height, width, _ = pixels.shape
    column = (x0 + (j + 0.5) / size * (x1 - x0)) * width
    row = (1 - y1 + (i + 0.5) / size * (y1 - y0)) * height
    return pixels[int(row), int(column)].astype(int)


@pytest.mark.parametrize("dark", [False, True])
def test_weights_are_green_red_and_neutral_in_their_places(dark):
    columns = np.zeros((784, 5), "f")
    columns[3 * 28 + 20, 1] = 1.0
    columns[25 * 28 + 4, 1] = -1.0
    columns[3 * 28 + 20, 4] = 0.25
    picture = viz.weights(model_of(columns), dark=dark)
    red, green, blue = weight_place(picture, 1, 3, 20, 28)
    assert green > red + 60 and green > blue
    red, green, blue = weight_place(picture, 1, 25, 4, 28)
    assert red > green + 60 and red > blue
    neutral = 0 if dark else 255
    assert (weight_place(picture, 1, 20, 3, 28) == neutral).all()  # not transposed
    assert (weight_place(picture, 0, 3, 20, 28) == neutral).all()
    faint, full = weight_place(picture, 4, 3, 20, 28), weight_place(picture, 1, 3, 20, 28)
    assert abs(faint - neutral).sum() < abs(full - neutral).sum() / 2  # one scale for all


def test_weights_of_no_image_stand_in_the_nearest_grid_and_it_is_said():
    picture = viz.weights(model_of(np.eye(13, 3, dtype="f")))
    texts = " ".join(text.get_text() for text in picture.figure.texts)
    assert "13 inputs are no image" in texts and "4 rows of 4" in texts and "3 places" in texts
    red, green, _ = weight_place(picture, 2, 0, 2, 4)
    assert green > red + 60
    assert "no image" not in str(viz.weights(model_of(np.ones((6, 1), "f")), shape=(2, 3)))


def title_of(picture):
    return " ".join(text.get_text() for text in picture.figure.texts)


def test_weights_of_channels_are_shown_as_their_mean_and_it_is_said():
    columns = np.zeros((8, 8, 3, 2), "f")
    columns[2, 5, :, 1] = [3.0, 1.0, 2.0]
    for given, shape in ((columns, (8, 8, 3)), (np.moveaxis(columns, 2, 0), (3, 8, 8))):
        picture = viz.weights(model_of(given.reshape(-1, 2)), shape=shape)
        red, green, _ = weight_place(picture, 1, 2, 5, 8)
        assert green > red + 60 and "the mean of 3 channels" in title_of(picture)
        assert (weight_place(picture, 1, 5, 2, 8) == 255).all()


def test_weights_that_are_not_finite_or_all_zero_are_told():
    columns = np.ones((64, 4), "f")
    columns[9, 1], columns[10, 1], columns[11, 1] = np.nan, np.inf, -np.inf
    picture = viz.weights(model_of(columns))
    assert "3 of 256 weights are NaN (dark) or infinite (full)" in title_of(picture)
    near = [weight_place(picture, 1, 1, j, 8) for j in (1, 2, 3)]
    for pixel, name in zip(near, ("muted", "positive", "negative"), strict=True):
        np.testing.assert_allclose(pixel, rgb(colours(False)[name]), atol=2)
    for value in (np.inf, -np.inf, np.nan):
        viz.weights(model_of(np.full((64, 2), value, "f")))._repr_png_()
    assert "all weights are 0" in title_of(viz.weights(model_of(np.zeros((64, 2), "f"))))


def test_weights_of_a_thin_image_can_be_seen():
    picture = viz.weights(model_of(np.ones((400, 2), "f")), shape=(2, 200))
    axes = next(a for a in picture.figure.axes if a.get_label() == "neuron 0")
    assert axes.get_position().height * picture.figure.get_figheight() > 0.1
    pixels = decoded(picture)
    x0, y0, x1, y1 = axes.get_position().extents
    height, width, _ = pixels.shape
    middle = pixels[int((1 - (y0 + y1) / 2) * height), int((x0 + x1) / 2 * width)]
    np.testing.assert_allclose(middle, rgb(colours(False)["positive"]), atol=2)


def test_weights_of_many_neurons_are_cut_and_it_is_said():
    picture = viz.weights(model_of(np.ones((4, 130), "f")))
    assert "the first 100 of 130" in " ".join(t.get_text() for t in picture.figure.texts)


def test_signs_differ_for_the_colour_blind():
    """The ends of the scale stay apart for deuteranopes. Source: Machado et al. 2009, table 1."""
    from nnx.viz.picture import DARK, LIGHT, rgb

    seen = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]])  # fmt: skip
    for use in (LIGHT, DARK):
        plus, minus = ((rgb(use[k]) / 255) ** 2.2 for k in ("positive", "negative"))
        assert np.abs(seen @ plus - seen @ minus).max() > 0.08


# The other pictures


def trained():
    nnx.random.seed(1)
    model = nn.Sequential(nn.Dense(6, "tanh", in_features=16), nn.Dense(3, in_features=6))
    x = np.random.default_rng(0).normal(size=(40, 16)).astype("f")
    return model, x, np.arange(40) % 3


def every_picture():
    model, x, y = trained()
    scores = model.predict(x)
    shown = History()
    for epoch in range(3):
        shown.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1), "val_loss": 1.1})
    return {
        "weights": lambda dark: viz.weights(model, shape=(4, 4), dark=dark),
        "activations": lambda dark: viz.activations(
            model, x[0], label="b", classes="abc", shape=(4, 4), dark=dark
        ),
        "history": lambda dark: viz.history(shown, dark=dark),
        "confusion": lambda dark: viz.confusion(scores, y, classes="abc", dark=dark),
        "roc": lambda dark: viz.roc(scores, y, classes="abc", dark=dark),
        "mistakes": lambda dark: viz.mistakes(scores, y, x, shape=(4, 4), dark=dark),
    }


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_decoded_has_its_size_and_is_not_blank(name, dark, tmp_path):
    picture = every_picture()[name](dark)
    path = picture.save(tmp_path / f"{name}.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    width, height = picture.figure.get_size_inches() * picture.figure.dpi
    assert abs(pixels.shape[0] - height) <= 1 and abs(pixels.shape[1] - width) <= 1
    assert (pixels[1, 1].mean() < 60) == dark
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    text = picture.save(tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == f"{SVG}svg" and "<text" in text
    assert picture._repr_html_().startswith("<img alt=") and picture._repr_png_()[1:4] == b"PNG"
    assert picture.text


def texts_of(figure):
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_confusion_counts_rows_of_truth_and_columns_of_predictions():
    predicted, true = np.array([0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 2])
    axes = viz.confusion(predicted, true, classes=["cat", "<dog>", "$x$"]).figure.axes[0]
    cells = {(*map(int, t.get_position()[::-1]),): t.get_text() for t in axes.texts}
    assert cells == {(0, 0): "1", (0, 1): "2", (1, 1): "1", (2, 2): "1"}
    assert "60.00% of 5 right" in texts_of(axes.figure)


def test_names_of_classes_are_no_mathematics():
    picture = viz.confusion([0, 1], [0, 1], classes=["<dog>", "$x_1$"])
    svg = picture.render("svg").decode()
    assert svg.count("&lt;dog&gt;") == 2 and svg.count("$x_1$</text>") == 2


LONG = [f"a very long name of a class that goes on and on, number {i}" for i in range(3)]


def clipped(picture):
    """Return the texts that stand outside of a picture, or over each other in their axes."""
    figure = picture.figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = {}
    draw = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text():
            shown[id(text)] = text
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw(renderer)
    whole = figure.bbox.padded(1.0)
    boxes = [(text, text.get_window_extent(renderer)) for text in shown.values()]
    out = [
        t.get_text()
        for t, box in boxes
        if not (
            whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        )
    ]
    level = [(t, box) for t, box in boxes if not t.get_rotation() and box.width]
    pairs = itertools.combinations(level, 2)
    return out + [
        a.get_text()
        for (a, one), (b, two) in pairs
        if a.get_text() != b.get_text() and one.padded(-2).overlaps(two.padded(-2))
    ]


AWKWARD = {
    "confusion of long names": lambda: viz.confusion(np.eye(3), [0, 1, 2], classes=LONG),
    "confusion of 100 classes": lambda: viz.confusion(np.arange(100), np.arange(100)),
    "confusion of one class": lambda: viz.confusion([0, 0], [0, 0]),
    "roc of long names": lambda: viz.roc(np.eye(3), [0, 1, 2], classes=LONG),
    "roc of 30 classes": lambda: viz.roc(np.eye(30), np.arange(30)),
    "mistakes of long names": lambda: viz.mistakes(np.eye(3), [1, 2, 0], np.eye(3), classes=LONG),
    "mistakes of no image": lambda: viz.mistakes(np.eye(3), [1, 2, 0], np.ones((3, 17))),
    "activations of long names": lambda: viz.activations(
        model_of(np.eye(3, dtype="f")), np.ones(3, "f"), classes=LONG, label=LONG[1]
    ),
    "activations of 30 classes": lambda: viz.activations(
        model_of(np.eye(64, 30, dtype="f")), np.ones(64, "f"), classes=list(range(30))
    ),
    "activations of NaN": lambda: viz.activations(
        nn.Sequential(*model_of(np.full((64, 8), np.nan)).layers,
                      *model_of(np.ones((8, 3), "f")).layers), np.ones(64, "f"), classes="abc"
    ),
    "history of 12 measures": lambda: viz.history(
        {f"a_measure_of_a_long_name_{i}": [1.0, 2.0] for i in range(12)}
    ),
    "history of one epoch": lambda: viz.history({"loss": [1.0]}),
    "weights of 1 input": lambda: viz.weights(model_of(np.ones((1, 1), "f"))),
    "weights of 100 neurons": lambda: viz.weights(model_of(np.ones((17, 101), "f"))),
}  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_no_text_is_cut_off_or_hides_another(name):
    picture = AWKWARD[name]()
    assert clipped(picture) == []
    assert len(np.unique(decoded(picture).reshape(-1, 3), axis=0)) > 20


def test_activations_that_are_no_number_are_dark_and_told():
    for value in (np.nan, np.inf):
        model = nn.Sequential(*model_of(np.full((64, 8), value, "f")).layers,
                              *model_of(np.zeros((8, 3), "f")).layers)  # fmt: skip
        picture = viz.activations(model, np.ones(64, "f"), classes="abc", label="a")
        assert picture.text.startswith("no prediction") or value == np.inf
        assert "answers NaN or infinite" in picture.text
        picture._repr_png_()


def test_lines_of_activations_are_of_what_a_layer_was_given():
    first, second = (
        model_of(np.ones((4, 4), "f")).layers[0],
        model_of(np.eye(4, dtype="f")).layers[0],
    )
    from matplotlib.collections import LineCollection

    def lines(model, x):
        axes = viz.activations(model, x).figure.axes[0]
        return [c for c in axes.collections if isinstance(c, LineCollection)]

    x = np.arange(1, 5, dtype="f")
    assert len(lines(nn.Sequential(first, second), x)) == 2
    left, right = nn.Input((4,)), nn.Input((4,))
    apart = nn.Model([left, right], first(left) + second(right))
    assert len(lines(apart, [x[np.newaxis], 2 * x[np.newaxis]])) == 0


def test_history_says_what_is_not_drawn_and_counts_epochs_from_where_they_began():
    panel = viz.history({"loss": [1.0, float("nan"), float("inf")], "val_loss": [2.0, 3.0, 4.0]}
                        ).figure.axes[0]  # fmt: skip
    assert panel.get_xlabel() == "epoch (not drawn: 2 NaN or infinite)"
    resumed = History()
    for epoch in (5, 6):
        resumed.on_epoch_end(epoch, {"loss": 1.0})
    assert list(viz.history(resumed).figure.axes[0].lines[0].get_xdata()) == [6, 7]
    only = viz.history({"val_loss": [2.0, 1.0]}).figure.axes[0]
    assert only.get_title("left") == "loss" and len(only.lines) == 1


def test_one_epoch_is_marked_once():
    assert list(viz.history({"loss": [1.0]}).figure.axes[0].get_xticks()) == [1]


def test_roc_is_the_area_worked_out_by_hand():
    scores, y = np.array([0.9, 0.8, 0.7, 0.6, 0.2]), np.array([True, False, True, True, False])
    assert _curve(scores, y)[2] == pytest.approx(4 / 6)
    assert _curve(np.ones(4), np.array([True, False, True, False]))[2] == 0.5
    assert "0.6667" in viz.roc(scores, y.astype(int)).text
    with pytest.raises(nnx.DataError, match="one class"):
        viz.roc(scores, np.ones(5, int))


def test_probabilities_of_logits_are_stable_and_of_probabilities_themselves():
    np.testing.assert_allclose(probabilities([[1000.0, 0.0]]), [[1, 0]])
    np.testing.assert_allclose(probabilities([[0.25, 0.75]]), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities([[-800.0], [2.0]])[:, 1], [0, 1 / (1 + np.exp(-2))])
    infinite = probabilities([[np.inf, 0.0, np.inf], [-np.inf, 0.0, 0.0]])
    np.testing.assert_allclose(infinite, [[0.5, 0, 0.5], [0, 0.5, 0.5]])


def test_mistakes_are_the_surest_wrong_ones_first():
    scores = np.array([[0.1, 0.9], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    picture = viz.mistakes(scores, [0, 0, 1, 0], np.zeros((4, 3, 3)))
    shown = [axes.get_title() + axes.get_xlabel() for axes in picture.figure.axes if axes.axison]
    assert [title.rpartition(" ")[2] for title in shown] == ["0", "3"]
    assert "says 1, 90.0% sure" in shown[0] and "truth 0" in shown[0]
    assert "0 of 4 wrong" in viz.mistakes(scores, [1, 0, 1, 1], np.zeros((4, 3, 3))).text


def test_activations_tell_prediction_and_truth_and_change_nothing():
    model, x, _ = trained()
    best = int(model.predict(x[:1]).argmax())
    before = {key: value.copy() for key, value in model.state_dict().items()}
    picture = viz.activations(model, x[0], label="c", classes="abc")
    verdict = "right" if "abc"[best] == "c" else "wrong"
    assert f"prediction {'abc'[best]} (" in picture.text and f"truth c: {verdict}" in picture.text
    assert "forward" not in vars(model) and model.training
    assert all((before[key] == value).all() for key, value in model.state_dict().items())
    written = texts_of(picture.figure)
    assert "0 · Dense · tanh" in written


def test_activations_light_the_neuron_that_answers_most():
    columns = np.zeros((4, 3), "f")
    columns[0] = [0.0, 5.0, -2.0]
    picture = viz.activations(model_of(columns), np.array([1, 0, 0, 0], "f"))
    from matplotlib.collections import EllipseCollection

    layers = [c for c in picture.figure.axes[0].collections if isinstance(c, EllipseCollection)]
    faces, rims = layers[-1].get_facecolor(), layers[-1].get_edgecolor()
    from nnx.viz.picture import LIGHT, rgb

    np.testing.assert_allclose(faces[1, :3], rgb(LIGHT["lit"]) / 255)
    np.testing.assert_allclose(faces[0, :3], 1.0)
    np.testing.assert_allclose(rims[2, :3], rgb(LIGHT["negative"]) / 255)


def test_history_draws_what_was_measured():
    panels = viz.history({"loss": [3.0, 2.0], "val_loss": [4.0, 1.0], "accuracy": [0.1, 0.2]})
    loss, accuracy = panels.figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[3, 2], [4, 1]]
    assert list(accuracy.lines[0].get_ydata()) == [0.1, 0.2]


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


# The commands


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a run of digits and one of iris."""
    folder = tmp_path_factory.mktemp("runs")
    for data, rows in (("digits", ["--hidden", "9"]), ("iris", [])):
        words = ["train", data, "--device", "numpy", "--epochs", "1", *rows]
        assert main([*words, "--out", str(folder / data)]) == 0
    return folder


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNX_DEVICE", raising=False)

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("what", PICTURES)
def test_show_writes_each_picture_and_prints_its_path(command, runs, what):
    status, out, err = command("show", what, runs / "digits", "--device", "numpy", "--json")
    assert status == 0, err
    path = Path(json.loads(out)["picture"])
    assert path == runs / "digits" / f"{what}.png"
    with Image.open(path) as image:
        assert image.size[0] > 300


def test_show_without_a_word_is_weights(command, runs):
    status, out, _ = command("show", runs / "digits", "-o", "w.png", "--dark")
    assert status == 0 and out.splitlines()[0] == "picture\tw.png"
    assert np.asarray(Image.open("w.png").convert("RGB"))[1, 1].mean() < 60


def test_show_activations_is_of_the_image_named(command, runs):
    data = nnx.data.load("digits")
    for image in (0, 5):
        _, out, _ = command("show", "activations", runs / "digits", "--image", image, "--json")
        assert f"truth {data.y_test[image]}" in json.loads(out)["shows"]


def test_graph_of_a_run_has_its_loss(command, runs):
    status, _, err = command("graph", runs / "digits", "-o", "g.svg", "--image", "3")
    assert status == 0, err
    found = boxes(Path("g.svg").read_text(encoding="utf-8"))
    data = nnx.data.load("digits")
    model = nn.load(runs / "digits" / "model.safetensors")
    loss = nn.cross_entropy(model(data.x_test[3:4]), nnx.asarray(data.y_test[3:4]))
    assert float(found["J"]["data-value"]) == pytest.approx(loss.item(), rel=1e-6)
    assert {"x", "y", "0.weight", "1.bias"} <= found.keys()
    assert "grad" in "".join(found["0.weight"]["texts"])


def test_pictures_of_a_table(command, runs):
    for words in (["weights"], ["activations", "--image", "2"], ["roc"]):
        status, _, err = command("show", words[0], runs / "iris", *words[1:])
        assert status == 0, err
    assert command("graph", runs / "iris", "-o", "g.png")[0] == 0


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
def test_wrong_command_exits_2_with_the_way_out(command, runs, words, told, tmp_path):
    named = {"RUN": runs / "digits", "IRIS": runs / "iris"}
    status, out, err = command(*(named.get(word, word) for word in words))
    assert status == 2 and out == "" and told in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_unwritable_output_and_missing_matplotlib_fail_without_traceback(
    command, runs, monkeypatch
):
    Path("taken").write_text("")
    Path("w.png").mkdir()
    Path("w.png/weights.png").mkdir()
    status, out, err = command("show", runs / "digits", "-o", "w.png")
    assert status == 1 and out == "" and "Cannot save" in err and "Traceback" not in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = command("show", runs / "digits")
    assert status == 1 and "nnx-array[plot]" in err and "Traceback" not in err


def test_history_of_a_run_without_epochs_is_told(command, runs, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").write_bytes((runs / "iris/config.json").read_bytes())
    status, _, err = command("show", "history", "r")
    assert status == 1 and "not one epoch" in err
    (tmp_path / "r/history.csv").write_text("epoch,loss\n")
    status, _, err = command("show", "history", "r")
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
def test_damaged_history_is_told_with_its_line(command, runs, tmp_path, content, told):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").write_bytes((runs / "iris/config.json").read_bytes())
    (tmp_path / "r/history.csv").write_bytes(content)
    status, out, err = command("show", "history", "r")
    assert status == 1 and out == "" and "r/history.csv" in err and told in err
    assert "--resume" in err and "fault in nnx" not in err


def test_file_of_another_network_is_told(command, runs, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").write_bytes((runs / "digits/config.json").read_bytes())
    (tmp_path / "r/model.safetensors").write_bytes((runs / "iris/model.safetensors").read_bytes())
    for words in (["show", "r"], ["graph", "r"], ["show", "confusion", "r"]):
        status, _, err = command(*words)
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
