"""What is told of networks: their tables, and mistakes in them."""

from __future__ import annotations

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.errors import DataError, DTypeError, ShapeError
from tests.styles import STYLES, Halving, Subclass, X, Z, built, same, sequential, weights

# The table


def summary(model, capsys):
    assert model.summary() is None
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def test_summary_counts_the_same_in_the_three_styles(capsys):
    ends = {tuple(summary(built(style), capsys)[-2:]) for style in STYLES}
    n_flops = 2 * (4 * 5 + 5 * 4 + 4 * 3) + 2 * 5 + 2 * 4 + 3
    n_bytes = 4 * (64 + 2 * 5 + 2 * 4 + 3)
    assert ends == {
        ("Total parameters: 64", f"A sample: {n_flops:,} FLOPs, {n_bytes:,} bytes")
    }  # fmt: skip


def test_summary_of_a_model_says_what_is_connected(capsys):
    model = nn.Model(p := nn.Input((4,), name="p"), (layer := nn.Dense(4))(layer(p) * 2.0) + p)
    lines = summary(model, capsys)
    assert lines[0].split()[-2:] == ["connected", "to"]
    assert [line.split() for line in lines[2:-3]] == [
        ["p", "Input", "(B,", "4)", "0", "0", "0"],
        ["dense", "Dense", "(B,", "4)", "20", "36", "96", "p"],
        ["multiply", "(B,", "4)", "0", "4", "16", "dense"],
        ["dense", "Dense", "(B,", "4)", "shared", "36", "16", "multiply"],
        ["add", "(B,", "4)", "0", "4", "16", "dense,", "p"],
    ]
    assert lines[-2:] == ["Total parameters: 20", "A sample: 80 FLOPs, 144 bytes"]


def test_summary_of_long_names_stays_narrow(capsys):
    x = nn.Input((4,), name="an_input_with_a_name_that_is_long")
    h = nn.Dense(3, name="a_layer_with_a_name_that_is_long_as_well")(x)
    summary(nn.Model(x, nnx.concat([h, x, nnx.tanh(h)], axis=-1)), capsys)


def test_summary_says_where_it_cannot_count(capsys):
    model = Halving()
    model(X)
    lines = summary(model, capsys)
    assert lines[-1] == "FLOPs and bytes are not known: its forward needs values."
    assert "call the model on an example" in summary(sequential(), capsys)[-1]


def test_summary_of_a_file_has_its_flops(tmp_path, capsys):
    model = nn.Sequential(nn.Sequential(nn.Dense(5, "relu")), nn.Dense(3))
    model(np.ones((2, 4), "f"))
    before = summary(model, capsys)
    model.save(tmp_path / "m.safetensors")
    assert summary(nn.load(tmp_path / "m.safetensors"), capsys) == before
    assert "FLOPs" in before[-1] and not any("?" in line for line in before)


def test_summary_changes_nothing(capsys):
    model = built("sequential")
    before, state = weights(model), nnx.random.default_generator().state_dict()
    model[0].training = False
    summary(model, capsys)
    assert same(weights(model), before) and model.training and not model[0].training
    assert nnx.random.default_generator().state_dict() == state


# Errors


def mistakes():
    """Return calls that are wrong, with what is told."""
    a, b, c = nn.Input((4,), name="a"), nn.Input((2,), name="b"), nn.Input((3,))
    h = nn.Dense(3, name="h")(a)
    model = nn.Model([a, b], nnx.concat([h, b], axis=1))
    return {
        "never used": (lambda: nn.Model([a, b], h), DataError, "'b'.* is never used"),
        "not connected": (lambda: nn.Model(b, nnx.tanh(h)), DataError, "need <input 'a'.*Dense"),
        "other input": (lambda: nn.Model(a, [h, c]), DataError, "output 1 is <input: float32"),
        "twice": (lambda: nn.Model([a, a], h), DataError, "given twice"),
        "middle": (lambda: nn.Model(h, nnx.tanh(h)), DataError, "is no input"),
        "array": (lambda: nn.Model(X, h), DTypeError, "inputs are symbols.*got ndarray"),
        "layer": (lambda: nn.Model(a, nn.Dense(2)), DTypeError, "outputs are symbols.*got Dense"),
        "none": (lambda: nn.Model([], h), DataError, "there are no inputs"),
        "nested": (lambda: nn.Model([[a]], h), DataError, "not nested"),
        "layer names": (
            lambda: nn.Model(a, nn.Dense(2, name="h")(h)), DataError, "two layers have the name 'h'"
        ),
        "input names": (
            lambda: nn.Model([a, nn.Input((4,), name="a")], h), DataError, "name 'a'|never used"
        ),
        "dotted": (lambda: nn.Dense(2, name="a.b"), DataError, "text without dots"),
        "count": (lambda: model(X), DataError, r"takes 2 inputs \(a, b\), got 1"),
        "name": (lambda: model(a=X, d=Z), DataError, "no input 'd'.*Allowed: a, b"),
        "rows": (lambda: model(X, Z[:3]), ShapeError, "'b' has 3 rows and 'a' 36"),
        "shape": (lambda: model(X, X), ShapeError, r"'b' takes \(B, 2\), got shape \(36, 4\)"),
        "type": (
            lambda: model(X, Z.astype(np.int64)), DTypeError, "'b' is of type float32, got int64"
        ),
        "features": (
            lambda: nn.Dense(2, in_features=7, name="q")(h), ShapeError,
            r"Dense 'q' takes 7 features, got x of shape \(B, 3\)",
        ),
        "reshape": (lambda: nn.Reshape(2, 2)(h), ShapeError, r"\(2, 2\), got x of shape \(B, 3\)"),
        "add": (lambda: a + b, ShapeError, r"add: shapes \(B, 4\) and \(B, 2\)"),
        "float": (lambda: float(h), DTypeError, r"float\(\).*<symbol of Dense 'h'.*nn\.Model"),
        "numpy": (lambda: h.numpy(), DTypeError, r"\.numpy needs values.*is a symbol"),
        "asarray": (lambda: np.asarray(h), DTypeError, "Converting to NumPy needs values"),
        "nnx.asarray": (lambda: nnx.asarray(h), DTypeError, "needs values"),
        "branch": (lambda: h if h else a, DTypeError, "A branch .*needs values"),
        "loop": (lambda: list(h), DTypeError, "A loop over the rows needs values"),
        "len": (lambda: len(h), DTypeError, r"len\(\) needs values"),
        "write": (lambda: h.__setitem__(0, 1.0), DTypeError, "= value needs values"),
        "fit": (lambda: Subclass().predict(a), DTypeError, "needs values"),
        "mask": (lambda: h[np.array([True, False])], DTypeError, "How many booleans are true"),
        "size": (lambda: range(h.shape[0]), DataError, "size of the batch is not known"),
        "gradient": (
            lambda: h * nnx.tanh(nn.Parameter([1.0])), DataError, "computed with its gradient"
        ),
        "input shape": (lambda: nn.Input((None, 4)), DataError, "shape is that of one example"),
        "activation": (lambda: nn.Dense(2, "rleu")(a), DataError, "Did you mean 'relu'"),
        "nn": (lambda: nn.Dens, AttributeError, "Did you mean 'Dense'"),
    }  # fmt: skip


@pytest.mark.parametrize("name", mistakes())
def test_mistakes_are_told(name):
    call, error, words = mistakes()[name]
    with pytest.raises(error, match=words):
        call()


def test_a_layer_that_is_refused_is_not_built():
    layer = nn.Sequential(nn.Dense(3), nn.Dense(2, in_features=7))
    state = nnx.random.default_generator().state_dict()
    with pytest.raises(ShapeError, match=r"Dense '1' takes 7 features, got x of shape \(B, 3\)"):
        layer(nn.Input((4,)))
    assert not layer.built and nnx.random.default_generator().state_dict() == state
