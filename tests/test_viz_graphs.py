"""Pictures of graphs: the tape's numbers in their boxes, and no box or edge over another."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import nnx
from nnx import nn, viz
from nnx.viz.layout import Box, lay_out
from nnx.viz.picture import colours, rgb
from nnx.viz.scene import text_width
from tests.pictures import SVG, boxes, decoded, lesson, model_of, two_inputs_and_two_outputs

# The lesson's network, on paper: value, and dJ/d of it.
BY_HAND = {
    "x": (1.0, None), "w1": (2.0, 6.0), "t1": (2.0, 6.0), "b1": (0.0, 6.0), "z1": (2.0, 6.0),
    "a1": (2.0, 6.0), "w2": (3.0, 4.0), "t2": (6.0, 2.0), "b2": (1.0, 2.0), "z2": (7.0, 2.0),
    "a2": (7.0, 2.0), "y": (5.0, None), "e": (2.0, 2.0), "s": (4.0, 0.5), "J": (2.0, 1.0),
}  # fmt: skip


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


# Layout


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
