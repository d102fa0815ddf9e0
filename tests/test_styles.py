"""The three styles of writing a network mean the same: in training, files, tables and errors."""

from __future__ import annotations

import copy
import json
import pickle
import re

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.errors import CheckpointError, DataError, DTypeError, LabelError, ShapeError, TraceError

GENERATOR = nnx.random.Generator(1)
X = GENERATOR.host_normal(0.0, 1.0, (36, 4))
Z = GENERATOR.host_normal(0.0, 1.0, (36, 2))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
T = X[:, :1] - 2 * Z[:, 1:]


def same(first, second):
    """Return whether two lists of arrays have the same bits."""
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def weights(model):
    return list(model.state_dict().values())


# One network in three styles


def sequential():
    return nn.Sequential(nn.Dense(5, "tanh"), nn.Dense(4, "relu"), nn.Dense(3))


def functional():
    x = nn.Input((4,))
    h = nn.Dense(4, "relu")(nn.Dense(5, "tanh")(x))
    return nn.Model(x, nn.Dense(3)(h))


class Subclass(nn.Module):
    def __init__(self):
        self.first, self.second, self.last = nn.Dense(5), nn.Dense(4), nn.Dense(3)

    def forward(self, x):
        h = nnx.relu(self.second(nnx.tanh(self.first(x))))
        return self.last(h)


STYLES = {"sequential": sequential, "functional": functional, "subclass": Subclass}


def built(style):
    """Return a network of a style, its weights drawn from one seed."""
    nnx.random.seed(7)
    model = STYLES[style]()
    model(X[:2])
    nnx.random.seed(8)
    return model


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


class Halving(nn.Module):
    """Halves its output until it is small: how often depends on values."""

    def __init__(self):
        self.out = nn.Dense(3, in_features=4)

    def forward(self, x):
        out = self.out(x)
        while nnx.max(nnx.abs(out)) > 1.0:
            out = out * 0.5
        return out


def test_control_flow_trains_without_jit_and_is_refused_with_it():
    model = Halving()
    model.compile("sgd", "cross_entropy")
    with pytest.raises(TraceError, match=r"test_styles\.py, line .*jit=False in fit"):
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


# Several inputs and outputs


def two_functional():
    a, b = nn.Input((4,), name="a"), nn.Input((2,), name="b")
    h = nn.Dense(6, "tanh")(nnx.concat([a, b], axis=-1))
    return nn.Model([a, b], {"cls": nn.Dense(3)(h), "reg": nn.Dense(1)(h)})


class Two(nn.Module):
    def __init__(self):
        self.hidden, self.cls, self.reg = nn.Dense(6, "tanh"), nn.Dense(3), nn.Dense(1)

    def forward(self, a, b):
        h = self.hidden(nnx.concat([a, b], axis=-1))
        return {"cls": self.cls(h), "reg": self.reg(h)}


def two(make):
    nnx.random.seed(7)
    model = make()
    model(X[:2], Z[:2])
    nnx.random.seed(8)
    return model


LOSSES = {"loss": {"cls": "cross_entropy", "reg": "mse"}, "loss_weights": {"reg": 0.25}}
FORMS = {
    "lists": ([X, Z], [Y, T]),
    "dicts": ({"b": Z, "a": X}, {"reg": T, "cls": Y}),
    "tuples": ((X, Z), (Y, T)),
}


def by_hand(weight=None):
    """Train the network of two outputs in eager mode by a loop; return weights and losses."""
    model = two(Two)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    history = []
    for _ in range(2):
        order = nnx.random.default_generator().host_permutation(36)
        sums = np.zeros(3)
        for at in np.split(order, range(8, 36, 8)):
            optimizer.zero_grad()
            out = model(X[at], Z[at])
            if weight is None:
                cls = nn.cross_entropy(out["cls"], Y[at])
                reg = nn.mse(out["reg"], T[at])
            else:
                w = nnx.asarray(weight[at])
                cls = nnx.mean(nn.cross_entropy(out["cls"], Y[at], reduction="none") * w)
                each = nn.mse(out["reg"], T[at], reduction="none")
                reg = nnx.mean(nnx.mean(each, axis=1) * w)
            loss = cls + reg * 0.25
            loss.backward()
            optimizer.step()
            sums += len(at) * np.array([loss.item(), cls.item(), reg.item()])
        history.append(sums / 36)
    return model, np.array(history)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", (Two, two_functional))
@pytest.mark.parametrize("weighted", (False, True))
def test_several_inputs_and_outputs_train_as_by_hand(make, form, weighted):
    weight = np.linspace(0.5, 2.0, 36, dtype=np.float32) if weighted else None
    expected, history = by_hand(weight)
    model = two(make)
    model.compile(optim.Adam(0.02), **LOSSES)
    x, y = FORMS[form]
    found = model.fit(x, y, epochs=2, batch_size=8, jit=False, sample_weight=weight).history
    assert list(found) == ["loss", "cls_loss", "reg_loss"]
    np.testing.assert_array_equal(np.array(list(found.values())).T, history)
    assert same(weights(model), weights(expected))
    np.testing.assert_array_equal(model.predict(x)["reg"], expected(X, Z)["reg"].numpy())


@pytest.mark.parametrize("device", ("loops", "numpy", "numba"))
def test_several_outputs_train_compiled_and_are_measured_by_name(device):
    x, y = FORMS["lists"]
    results = []
    for make in (Two, two_functional):
        model = two(make)
        model.compile(
            optim.Adam(0.02), **LOSSES, metrics={"cls": ["accuracy"], "reg": "mae"}, device=device
        )
        history = model.fit(x, y, epochs=2, batch_size=8, validation_data=FORMS["dicts"]).history
        assert list(history) == [
            part + name for part in ("", "val_")
            for name in ("loss", "cls_loss", "reg_loss", "cls_accuracy", "reg_mae")
        ]  # fmt: skip
        figures = model.evaluate(x, y)
        assert figures == {k.removeprefix("val_"): v[-1] for k, v in history.items() if "val" in k}
        out = model.predict(x)
        assert figures["cls_accuracy"] == nnx.metrics.accuracy(out["cls"], Y)
        np.testing.assert_allclose(figures["reg_mae"], np.abs(out["reg"] - T).mean(), rtol=1e-6)
        results.append((weights(model), history))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    np.testing.assert_allclose(results[0][1]["reg_loss"], by_hand()[1][:, 2], rtol=1e-4)


@pytest.mark.parametrize("device", ("numpy", "numba"))
def test_one_model_takes_lists_and_dicts_in_turn(device):
    results = []
    for forms in (("lists", "lists"), ("lists", "dicts")):
        model = two(Two)
        model.compile(optim.Adam(0.02), **LOSSES, device=device)
        for form in forms:
            model.fit(*FORMS[form], batch_size=8)
        results.append(weights(model))
    assert same(*results)


def test_batches_of_several_inputs_come_from_an_iterable():
    model, other = two(Two), two(Two)
    rows = [slice(i, i + 8) for i in range(0, 36, 8)]
    batches = [((X[r], Z[r]), {"cls": Y[r], "reg": T[r]}) for r in rows]
    for m in (model, other):
        m.compile(optim.Adam(0.02), **LOSSES)
    first = model.fit(batches).history
    assert first == other.fit([X, Z], [Y, T], batch_size=8, shuffle=False).history
    assert same(weights(model), weights(other))
    assert model.evaluate(batches) == pytest.approx(model.evaluate([X, Z], [Y, T], batch_size=8))
    one, several = model.predict([(x, y) for x, y in batches]), model.predict([X, Z])
    np.testing.assert_allclose(one["cls"], several["cls"], rtol=1e-5, atol=1e-6)


def test_one_loss_and_one_list_of_metrics_serve_all_outputs():
    class Pair(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Dense(1, in_features=4), nn.Dense(1, in_features=4)

        def forward(self, x):
            return self.a(x), self.b(x)

    model = Pair()
    model.compile("sgd", "mse", ["mae"])
    history = model.fit(X, (T, -T)).history
    assert list(history) == ["loss", "output_0_loss", "output_1_loss", "output_0_mae",
                             "output_1_mae"]  # fmt: skip
    out = model.predict(X)
    assert isinstance(out, tuple) and [part.shape for part in out] == [(36, 1), (36, 1)]


def test_names_of_outputs_are_those_of_their_layers():
    x = nn.Input((4,))
    h = nn.Dense(3, name="out1")(x)
    model = nn.Model(x, [h, nn.Dense(2)(h), nnx.tanh(h), h])
    assert model.output_names == ["out1", "dense", "tanh", "out1_1"]


def test_one_array_returned_twice_trains_on_every_device(usable):
    x = nn.Input((4,))
    h = nn.Dense(1)(x)
    model = nn.Model(x, [h, h, x])
    model.compile(optim.SGD(0.1), "mse", loss_weights=[1, 1, 0], device=usable)
    history = model.fit(X, [T, T, X], epochs=2, batch_size=12).history
    assert history["loss"] == pytest.approx(2 * np.array(history["dense_loss"]))
    assert history["dense_1_loss"] == history["dense_loss"]


def test_a_list_of_rows_is_still_one_input():
    model = sequential()
    model.compile("sgd", "cross_entropy")
    model.fit(list(X), list(Y))
    np.testing.assert_array_equal(model.predict(list(X)), model.predict(X))
    np.testing.assert_array_equal(model.predict([X[0]]), model.predict(X[:1]))
    # As many rows as classes: still rows, and not a target for each of three outputs.
    model.fit(X[:3], list(np.eye(3, dtype=np.float32)))


def test_auto_device_takes_several_inputs():
    model = two(Two)
    model.compile(optim.Adam(0.02), **LOSSES, device="auto")
    model.fit([X, Z], [Y, T], batch_size=8)
    assert model.device_report.choice == model.device.name


@pytest.mark.parametrize(
    ("x", "y", "settings", "error", "words"),
    [
        (X, [Y, T], {}, DataError, r"takes 2 inputs \(a, b\)"),
        ([X, Z[:5]], [Y, T], {}, DataError, r"x\[0\] has 36 rows and x\[1\] 5"),
        ({"a": X, "c": Z}, [Y, T], {}, DataError, "the input 'c'.*Allowed: a, b"),
        ({"a": X}, [Y, T], {}, DataError, r"takes 2 inputs \(a, b\), x has 1"),
        ([X, Z], Y, {}, DataError, r"2 outputs \(cls, reg\), and y is one array"),
        ([X, Z], [Y], {}, DataError, "and y is 1 arrays"),
        ([X, Z], {"cls": Y}, {}, DataError, "y has the keys 'cls'"),
        ([X, Z], [Y, T[:5]], {}, LabelError, r"x has 36 rows and y\[1\] 5"),
        ([X, Z], [np.append(Y[:-1], 9), T], {}, LabelError, "Label 9 at index 35"),
        ([X, Z], [Y, T], {"class_weight": {0: 1.0}}, DataError, "class_weight is for one output"),
    ],
)
@pytest.mark.parametrize("make", (Two, two_functional))
def test_data_that_does_not_fit_is_refused_before_anything_changes(
    make, x, y, settings, error, words
):
    model = two(make)
    model.compile("sgd", **LOSSES)
    before = weights(model)
    with pytest.raises(error, match=words):
        model.fit(x, y, **settings)
    assert same(weights(model), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": ["mse"]}, "the model has 2 outputs: cls, reg"),
        ({"loss": {"cls": "mse", "rge": "mse"}}, "Did you mean 'reg'"),
        ({"loss": {"cls": "mse"}}, "none for the output 'reg'"),
        ({"loss": ["mse", "mes"]}, "no loss 'mes'.*Did you mean 'mse'"),
        ({"loss": "mse", "loss_weights": [1.0, "2"]}, "loss_weights of 'reg' is '2'"),
        ({"loss": "mse", "metrics": {"reg": ["mea"]}}, "no metric 'mea'"),
        ({"loss": "mse", "metrics": [["mae"]]}, "metrics is .*2 outputs"),
        ({"loss": "mse", "metrics": ["mae", "mae"]}, "Two figures would be called 'cls_mae'"),
    ],
)
def test_compile_refuses_what_does_not_fit_the_outputs(settings, words):
    with pytest.raises(DataError, match=words):
        two(two_functional).compile("sgd", **settings)


def test_compile_refuses_settings_of_several_outputs_for_one():
    with pytest.raises(DataError, match="one output, and loss is"):
        functional().compile("sgd", ["mse", "mse"])
    with pytest.raises(DataError, match="loss_weights needs several outputs"):
        functional().compile("sgd", "mse", loss_weights=[1.0])
    model = Subclass()
    model.compile("sgd", {"a": "mse", "b": "mse"})
    with pytest.raises(DataError, match="one output, and loss is"):
        model.fit(X, Y)


def test_a_bad_value_is_named_by_its_input():
    model = two(two_functional)
    model.compile("sgd", **LOSSES)
    bad = Z.copy()
    bad[7, 1] = np.nan
    with pytest.raises(nnx.NonFiniteError, match=r"x\[1\] itself at row 7"):
        model.fit([X, bad], [Y, T], shuffle=False)


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


# Files


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
