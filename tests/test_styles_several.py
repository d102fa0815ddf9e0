"""Several inputs and outputs: trained, measured, and what does not fit them."""

from __future__ import annotations

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.errors import DataError, LabelError
from tests.styles import (
    LOSSES,
    Subclass,
    T,
    Two,
    X,
    Y,
    Z,
    functional,
    same,
    sequential,
    two,
    two_functional,
    weights,
)

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
        (
            [X, Z],
            [np.append(Y[:-1], 9), T],
            {},
            LabelError,
            "For the output 'cls': Label 9 at index 35",
        ),
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
