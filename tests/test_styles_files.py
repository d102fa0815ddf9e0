"""Networks of every style in files."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.errors import CheckpointError
from tests.styles import (
    LOSSES,
    Subclass,
    T,
    X,
    Y,
    Z,
    functional,
    same,
    two,
    two_functional,
    weights,
)


def networks():
    """Return networks of every form that a file holds."""
    x, p, q = nn.Input((4,), name="x"), nn.Input((4,), name="p"), nn.Input((4,), name="q")
    layer, flat = nn.Dense(4, "relu", name="rows"), nn.Flatten()
    encoder = nn.Model(x, nn.LayerNorm(eps=1e-3)(layer(x)))
    inside = nn.Model(q, layer(q) * nn.Parameter([1.0, 2.0, 3.0, 4.0]))
    return {
        "chain": (functional(), (X,)),
        "shared in Sequential": (
            nn.Sequential(flat, layer, nn.Activation("tanh"), nn.Sequential(layer, flat)), (X,),
        ),
        "two and two": (two_functional(), (X, Z)),
        "nested and shared": (
            nn.Model([p, q], (encoder(p) - inside(q), [layer(encoder(q))])), (X, X[::-1].copy()),
        ),
        "Sequential of Model": (nn.Sequential(encoder, nn.Dense(2), nn.Dropout(0.5)), (X,)),
        "slices and constants": (
            nn.Model([p], {"out": (p[:, ::2] + np.ones(2)).reshape(p.shape[0], -1) ** 3}), (X,),
        ),
    }  # fmt: skip


def outputs(model, x):
    return list(nn.symbol.leaves(model(*x)))


@pytest.mark.parametrize("name", networks())
def test_networks_come_back_from_a_file_bit_for_bit(name, tmp_path):
    model, x = networks()[name]
    model.eval()
    expected = outputs(model, x)
    model.save(tmp_path / "m.safetensors")
    state = nnx.random.default_generator().state_dict()
    again = nn.load(tmp_path / "m.safetensors").eval()
    assert nnx.random.default_generator().state_dict() == state
    assert list(again.state_dict()) == list(model.state_dict())
    assert same(weights(again), weights(model))
    assert same(outputs(again, x), expected)
    assert len(again.parameters()) == len(model.parameters())
    assert json.dumps(nn.to_config(again)) == json.dumps(nn.to_config(model))
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.assign(p.array * 0)
    other.load(tmp_path / "m.safetensors")
    assert same(weights(other), weights(model))


def test_a_loaded_functional_model_trains_on_with_the_same_bits(tmp_path):
    model = two(two_functional)
    model.save(tmp_path / "m")
    again = nn.load(tmp_path / "m")
    results = []
    for m in (model, again):
        nnx.random.seed(8)
        m.compile(optim.Adam(0.02), **LOSSES)
        results.append(m.fit([X, Z], [Y, T], epochs=2, batch_size=8).history)
    assert results[0] == results[1] and same(weights(model), weights(again))


def test_a_training_of_several_outputs_goes_on_exactly(tmp_path):
    def trained(epochs, **more):
        model = two(two_functional)
        model.compile(optim.Adam(0.02), **LOSSES)
        history = model.fit([X, Z], [Y, T], epochs=epochs, batch_size=8, **more)
        return weights(model), history.history

    whole = trained(3)
    trained(1, callbacks=[nnx.callbacks.Checkpoint(tmp_path / "run")])
    resumed = trained(3, resume=tmp_path / "run")
    assert same(resumed[0], whole[0]) and resumed[1] == whole[1]


def test_a_functional_model_with_own_code_keeps_its_weights_alone(tmp_path):
    def make():
        x = nn.Input((4,))
        return nn.Model(x, Subclass()(x))

    model, other = make(), make()
    model.save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"weights of Model.*model\.load"):
        nn.load(tmp_path / "m")
    other.load(tmp_path / "m")
    assert next(iter(model.state_dict())) == "subclass.first.weight"
    assert same(weights(model), weights(other))


def changed(change):
    config = json.loads(json.dumps(nn.to_config(two_functional())))
    change(config)
    return config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("steps"), "steps is 'None'"),
        (lambda c: c.update(code="import os"), "no 'code'"),
        (lambda c: c["steps"][0].update(op="__import__"), "no op '__import__'"),
        (lambda c: c["steps"][0].update(op="concta"), "Did you mean 'concat'"),
        (lambda c: c["steps"][0].update(args={"tuple": ["os"]}), "is not called so"),
        (lambda c: c["steps"][0].update(settings={"dict": {"dim": 1}}), "is not called so"),
        (lambda c: c["steps"][0].update(settings=["a"]), "cannot be built"),
        (lambda c: c["steps"][0].pop("args"), "cannot be built"),
        (lambda c: c["steps"][1].update(layer="forward"), "cannot be built"),
        (lambda c: c["steps"][1].update(args={"tuple": [{"at": 9}]}), "described as"),
        (lambda c: c["steps"][1].update(args={"tuple": [{"at": -1}]}), "described as"),
        (lambda c: c["steps"][1].update(args={"tuple": [{"at": True}]}), "described as"),
        (lambda c: c["steps"][1].update(args={"tuple": [{"call": "x"}]}), "described as"),
        (lambda c: c["steps"][1].update(args={"tuple": [{"at": 0}]}), "takes 6 features"),
        (lambda c: c["steps"][1].update(args={"batch": ["B", 1]}), "described as"),
        (lambda c: c["steps"][1].update(settings={"dict": {"x": 1}}), "cannot be built"),
        (lambda c: c["inputs"][0].update(shape=[-4]), "whole numbers"),
        (lambda c: c["inputs"][0].update(dtype="object"), "cannot be built"),
        (lambda c: c["inputs"].pop(), "described as"),
        (lambda c: c["layers"].update(dense={"kind": "Shared", "of": 0}), "earlier part"),
        (lambda c: c["layers"].update(dense={"kind": "Shared", "of": "0"}), "earlier part"),
        (lambda c: c["layers"].update(dense={"kind": "os.system"}), "no layer kind"),
        (lambda c: c["arrays"].update(a={"kind": "array", "shape": [-1], "dtype": "float32",
                                         "learned": False}), "an array has shape"),
        (lambda c: c.update(gives={"at": 0}), "never used"),
        (lambda c: c.update(takes={"at": 3}), "no input"),
    ],
)  # fmt: skip
def test_a_damaged_description_of_a_model_is_refused(change, words):
    with pytest.raises(CheckpointError, match=words):
        nn.from_config(changed(change))


def test_a_description_is_names_and_numbers_alone():
    text = json.dumps(nn.to_config(networks()["slices and constants"][0]))
    found = set(re.findall(r'"([^"]*)"', text))
    assert not [name for name in found if hasattr(__builtins__, name) and name not in
                {"slice", "tuple", "dict", "pow"}]  # fmt: skip
    x = nn.Input((4,))
    pairs = nnx.reshape(x @ x.mT, (x.shape[0] * x.shape[0],))
    with pytest.raises(CheckpointError, match="cannot hold a shape with the size"):
        nn.to_config(nn.Model(x, pairs))
