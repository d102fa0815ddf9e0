"""What tests of pictures draw, and how they read it."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import nnx
from nnx import nn

# What imports this file is skipped where one of the two is not installed.
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

SVG = "{http://www.w3.org/2000/svg}"


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


def trained():
    nnx.random.seed(1)
    model = nn.Sequential(nn.Dense(6, "tanh", in_features=16), nn.Dense(3, in_features=6))
    x = np.random.default_rng(0).normal(size=(40, 16)).astype("f")
    return model, x, np.arange(40) % 3
