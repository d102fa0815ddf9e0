"""The three styles of writing a network mean the same in training; symbols and models of them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.errors import TraceError
from tests.styles import (
    STYLES,
    Halving,
    X,
    Y,
    Z,
    built,
    same,
    two,
    two_functional,
    weights,
)

# One network in three styles


def fitted(style, device, jit):
    model = built(style)
    model.compile(optim.Adam(0.02), "cross_entropy", ["accuracy"], device)
    history = model.fit(X, Y, epochs=1 if device == "loops" else 3, batch_size=8, jit=jit)
    return model, history


def looped(style, device):
    """Train by the explicit loop."""
    model = built(style).to(device)
    optimizer = optim.Adam(model.parameters(), lr=0.02)

    @nnx.jit
    def step(x, y):
        optimizer.zero_grad()
        loss = nn.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = nnx.asarray(X, device=device), nnx.asarray(Y, device=device)
    return model, [step(x[i : i + 8], y[i : i + 8]).item() for i in range(0, 36, 8)]


def test_one_seed_gives_the_three_styles_the_same_bits():
    first = weights(built("sequential"))
    for style in STYLES:
        assert same(weights(built(style)), first), style


@pytest.mark.parametrize("jit", (True, False))
@pytest.mark.parametrize("device", ("loops", "numpy", "numba"))
def test_fit_is_bit_equal_in_the_three_styles(device, jit):
    expected, history = fitted("sequential", device, jit)
    assert not same(weights(expected), weights(built("sequential")))
    for style in ("functional", "subclass"):
        model, other = fitted(style, device, jit)
        assert other.history == history.history
        assert same(weights(model), weights(expected))
        assert model.evaluate(X, Y) == expected.evaluate(X, Y)
        np.testing.assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize("device", ("numpy", "numba"))
def test_the_explicit_loop_is_bit_equal_in_the_three_styles(device):
    expected, losses = looped("sequential", device)
    for style in ("functional", "subclass"):
        model, other = looped(style, device)
        assert other == losses and same(weights(model), weights(expected))


def test_control_flow_trains_without_jit_and_is_refused_with_it():
    model = Halving()
    model.compile("sgd", "cross_entropy")
    with pytest.raises(TraceError, match=r"styles\.py, line .*jit=False in fit"):
        model.fit(X, Y)
    assert len(model.fit(X, Y, jit=False).history["loss"]) == 1
    with pytest.raises(TraceError, match=r"Halving cannot be called on symbols.*jit=False"):
        Halving()(nn.Input((4,)))


# Symbols


def test_a_symbol_has_shape_and_type_and_prints_what_made_it():
    x = nn.Input((28, 28), name="image")
    assert repr(x) == "<input 'image': float32(B, 28, 28)>"
    h = nn.Dense(3, name="scores")(nn.Flatten()(x))
    assert str(h.shape[0]) == "B" and h.shape[1:] == (3,) and h.ndim == 2
    assert repr(h) == "<symbol of Dense 'scores': float32(B, 3)>"
    assert nn.Input(5, "int64").dtype is nnx.int64 and nn.Input(()).ndim == 1


EXPRESSIONS = {
    "arithmetic": lambda a, b: (2 - a) * a / (1 + a * a) + a**2 - a[:, :2].sum() + b.mean(),
    "concat": lambda a, b: nnx.concat([a, b], axis=-1),
    "stack": lambda a, b: nnx.stack([a[:, :2], b], axis=1),
    "matmul": lambda a, b: a @ np.arange(12, dtype=np.float32).reshape(4, 3),
    "reshape": lambda a, b: a.reshape(a.shape[0], 2, 2).sum(axis=1),
    "reshape with -1": lambda a, b: nnx.reshape(a, (-1, 2)).reshape((a.shape[0] * 2, 2)),
    "indexing": lambda a, b: a[:, ::2][:, None, :] * b[..., 0:1, None],
    "integers": lambda a, b: nnx.take(a, np.array([3, 0]), axis=1) + a[:, [1, 2]],
    "reductions": lambda a, b: nnx.max(a, axis=1) - nnx.logsumexp(b, axis=1) + a.var(axis=-1),
    "comparison": lambda a, b: nnx.where(a > 0.1, a, -1.0).astype("float32"),
    "split": lambda a, b: nnx.split(a, 2, axis=1)[1] - b,
    "array first": lambda a, b: np.array([1.0, 2.0], np.float32) / (b * b + 1.0),
    "tensor beside": lambda a, b: nnx.asarray([1.0, 2.0]) + b,
    "softmax": lambda a, b: nnx.softmax(a, axis=-1).T.mT.T,
    "rows": lambda a, b: a.transpose().transpose() * a.shape[1],
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_ops_on_symbols_give_a_model_with_the_bits_of_eager_code(name, tmp_path):
    f = EXPRESSIONS[name]
    a, b = nn.Input((4,), name="a"), nn.Input((2,), name="b")
    out = f(a, b)
    # Both inputs are in use whatever the expression takes.
    model = nn.Model([a, b], [out, a, b])
    tensors = nnx.asarray(X), nnx.asarray(Z)
    expected = f(*tensors)
    got = model(X, Z)[0]
    assert got.dtype is expected.dtype is out.dtype
    assert [str(n) for n in out.shape] == [str(n).replace("36", "B").replace("72", "(B * 2)")
                                           for n in expected.shape]  # fmt: skip
    np.testing.assert_array_equal(got.numpy(), expected.numpy())
    compiled = nnx.jit(lambda x, z: model(x, z)[0])(*tensors)
    np.testing.assert_allclose(compiled.numpy(), expected.numpy(), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(model(X[:5], Z[:5])[0].numpy(), f(*(t[:5] for t in tensors)))
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(nn.load(tmp_path / "m")(X, Z)[0].numpy(), expected.numpy())


def test_a_parameter_beside_symbols_is_learned_and_a_constant_is_not():
    x = nn.Input((4,))
    scale = nn.Parameter([1.0, 2.0, 3.0, 4.0])
    model = nn.Model(x, x * scale + np.ones(4))
    assert list(model.state_dict()) == ["parameter", "constant"]
    assert model(X).dtype is nnx.float32
    assert [p is scale for p in model.parameters()] == [True]
    nnx.sum(model(X)).backward()
    np.testing.assert_allclose(scale.grad.numpy(), X.sum(axis=0), rtol=1e-5)
    moved = model.to("loops")
    assert moved(X[:2]).device.name == "loops"


# Sharing


def test_shared_weights_get_the_sum_of_their_gradients():
    """A layer on both sides of |f(p) - f(q)|, against NumPy in float64."""
    nnx.random.seed(3)
    p, q = nn.Input((3,), "float64"), nn.Input((3,), "float64")
    shared, last = nn.Dense(4), nn.Dense(1)
    model = nn.Model([p, q], last(shared(p) * shared(q))).to(nnx.float64)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3))
    kernel, bias, last_kernel, last_bias = (part.numpy().copy() for part in model.parameters())
    bias += 0.25
    values = (kernel, bias, last_kernel, last_bias)
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    nnx.sum(model(a, b) ** 2).backward()
    f, g = a @ kernel + bias, b @ kernel + bias
    d_out = 2 * ((f * g) @ last_kernel + last_bias)
    d_product = d_out @ last_kernel.T
    expected = [
        a.T @ (d_product * g) + b.T @ (d_product * f),
        (d_product * g).sum(axis=0) + (d_product * f).sum(axis=0),
        (f * g).T @ d_out,
        d_out.sum(axis=0),
    ]
    for param, grad in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(param.grad.numpy(), grad, rtol=1e-12)


def test_models_of_the_same_layers_share_their_weights():
    x = nn.Input((4,))
    h = nn.Dense(5, "tanh")(x)
    model, features = nn.Model(x, nn.Dense(3)(h)), nn.Model(x, h)
    assert [a is b for a, b in zip(features.parameters(), model.parameters()[:2], strict=True)]
    model.compile(optim.SGD(0.5), "cross_entropy")
    before = features.predict(X)
    model.fit(X, Y, epochs=1)
    after = features.predict(X)
    assert not np.array_equal(before, after)
    kernel, bias = (p.numpy() for p in model.parameters()[:2])
    np.testing.assert_allclose(after, np.tanh(X @ kernel + bias), rtol=1e-5, atol=1e-6)


def test_a_model_is_a_layer_of_another_one():
    x, p, q = nn.Input((4,)), nn.Input((4,)), nn.Input((4,))
    encoder = nn.Model(x, nn.Dense(5, "tanh", name="code")(x), name="encoder")
    twins = nn.Model([p, q], nnx.abs(encoder(p) - encoder(q)))
    assert list(twins.state_dict()) == ["encoder.code.weight", "encoder.code.bias"]
    assert twins.parameters()[0] is encoder.parameters()[0]
    np.testing.assert_array_equal(
        twins(X, X[::-1]).numpy(), np.abs(encoder(X).numpy() - encoder(X[::-1]).numpy())
    )
    assert twins.layers == [encoder] and twins.input_names == ["input", "input_1"]


def test_keys_are_given_names_or_kinds_with_numbers():
    x = nn.Input((4,))
    h = nn.Dense(3, name="dense_1")(nn.Dense(4)(nn.Dense(5)(nn.LayerNorm()(x))))
    model = nn.Model(x, nn.Sequential(nn.Dense(2))(h))
    assert [key for key in model.state_dict() if key.endswith("weight")] == [
        "layer_norm.weight", "dense.weight", "dense_2.weight", "dense_1.weight",
        "sequential.0.weight",
    ]  # fmt: skip
    assert [p.name for p in model.parameters()] == list(model.state_dict())


@pytest.mark.parametrize("copied", (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))))
def test_a_copy_of_a_deep_model_shares_nothing(copied):
    x = h = nn.Input((4,))
    layer = nn.Dense(4)
    for _ in range(400):
        h = layer(h)
    model = nn.Model(x, h)
    other = copied(model)
    np.testing.assert_array_equal(other(X).numpy(), model(X).numpy())
    assert other.parameters()[0] is not model.parameters()[0]
    assert other.outputs.node.target is other.layers[0] is not layer


# Calling


def test_a_model_takes_its_inputs_in_every_form(device):
    model = two(two_functional).to(device)
    expected = model(X, Z)["cls"].numpy()
    for args, named in (
        (([X, Z],), {}), (({"b": Z, "a": X},), {}), ((), {"b": Z, "a": X}),
        ((nnx.asarray(X, device=device), nnx.asarray(Z, device=device)), {}),
    ):  # fmt: skip
        np.testing.assert_array_equal(model(*args, **named)["cls"].numpy(), expected)


def test_inputs_and_outputs_come_back_as_they_were_given():
    a, b = nn.Input((4,)), nn.Input((4,))
    out = nnx.tanh(a + b)
    model = nn.Model({"left": a, "right": b}, (out, [a]))
    assert list(model.inputs) == model.input_names == ["left", "right"]
    got = model({"right": X, "left": Z[:, [0, 0, 1, 1]]})
    assert type(got) is tuple and type(got[1]) is list
    np.testing.assert_array_equal(got[1][0].numpy(), Z[:, [0, 0, 1, 1]])
