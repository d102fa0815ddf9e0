"""Training: what is learned, from which rows, with which weights; and predicting."""

from __future__ import annotations

import numpy as np
import pytest

import nnx
from nnx import data, nn, optim
from nnx.callbacks import LambdaCallback
from nnx.errors import DataError
from tests.training import T, X, Y, classifier, network, regressor, same

DEVICES = ["loops", "numpy", "numba", "array_api:array_api_strict"]


def recorded_loss(seen):
    """Return mse that keeps the targets of every training step; a target names its row."""

    def loss(prediction, target, reduction="mean"):
        if nnx.op.recording.on:
            seen.append(target.numpy()[:, 0].tolist())
        return nnx.mse(prediction, target, reduction=reduction)

    return loss


NUMBERED = np.arange(50, dtype=np.float32)[:, np.newaxis]


def steps_of(model=None, **settings):
    """Return the rows of every step of a fit over numbered rows."""
    seen = []
    model = model or network(nn.Dense(1, in_features=1))
    model.compile(optim.SGD(1e-6), recorded_loss(seen), device="numpy")
    nnx.random.seed(7)
    model.fit(NUMBERED, NUMBERED, jit=False, **settings)
    return seen


# Learning


def test_iris_learns_in_five_epochs():
    flowers = data.load("iris")
    model = network(nn.Dense(20, "tanh"), nn.Dense(10, "tanh"), nn.Dense(3))
    model.compile(optim.Adam(0.02), "cross_entropy", ["accuracy"], "numpy")
    history = model.fit(
        flowers.x_train, flowers.y_train, batch_size=8, epochs=5,
        validation_data=(flowers.x_test, flowers.y_test),
    )  # fmt: skip
    assert history is model.history
    assert history.epoch == [0, 1, 2, 3, 4]
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert history.history["val_accuracy"][-1] >= 0.8
    figures = model.evaluate(flowers.x_test, flowers.y_test)
    assert figures["loss"] == history.history["val_loss"][-1]
    assert figures["accuracy"] == history.history["val_accuracy"][-1]


def test_profit_learns_in_five_epochs():
    days = data.load("profit")
    model = network(nn.Dense(1))
    model.compile(optim.Adam(0.05), "binary_cross_entropy", ["accuracy"])
    y = days.y_train[:2000, np.newaxis]
    history = model.fit(days.x_train[:2000], y, epochs=5)
    assert history.history["accuracy"][-1] > 0.93


@pytest.mark.parametrize("device", DEVICES)
def test_history_and_weights_are_equal_on_all_devices(device):
    def run(device):
        seen = []

        def loss(prediction, target):
            if nnx.op.recording.on:
                seen.append(target.numpy().tolist())
            return nnx.cross_entropy(prediction, target)

        model = network(nn.Dense(6, "tanh"), nn.Dropout(0.2), nn.Dense(3))
        model.compile(optim.Adam(0.02), loss, ["accuracy"], device)
        history = model.fit(X, Y, batch_size=16, epochs=2, validation_split=0.2, jit=False)
        assert model.device == device
        return seen, history.history, model.predict(X)

    seen, history, predictions = run(device)
    expected_seen, expected, expected_predictions = run("numpy")
    assert seen == expected_seen
    assert history == {name: pytest.approx(values, rel=1e-5) for name, values in expected.items()}
    np.testing.assert_allclose(predictions, expected_predictions, rtol=1e-4, atol=1e-5)


def test_fit_equals_the_explicit_loop_bit_for_bit():
    model = classifier(optimizer=optim.Adam(0.02))
    nnx.random.seed(5)
    history = model.fit(X, Y, batch_size=16, epochs=3)

    other = network().to("numpy")
    optimizer = optim.Adam(other.parameters(), lr=0.02)
    generator, losses = nnx.random.Generator(5), []
    for _ in range(3):
        order, total = generator.host_permutation(50), 0.0
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            optimizer.zero_grad()
            loss = nn.cross_entropy(other(X[rows]), nnx.asarray(Y[rows], device="numpy"))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 50)
    assert same(model.state_dict(), other.state_dict())
    assert history.history["loss"] == losses


# Data


def test_shuffle_takes_every_row_once_in_the_order_of_nnx_random():
    generator = nnx.random.Generator(7)
    expected = [
        order[i : i + 20].tolist()
        for order in (generator.host_permutation(50), generator.host_permutation(50))
        for i in (0, 20, 40)
    ]
    assert steps_of(batch_size=20, epochs=2) == expected


def test_without_shuffle_rows_come_in_order_and_no_number_is_drawn():
    state = nnx.random.Generator(7).state_dict()
    assert steps_of(batch_size=30, shuffle=False) == [list(range(30)), list(range(30, 50))]
    assert nnx.random.default_generator().state_dict() == state


def test_validation_split_keeps_the_last_part_before_shuffling():
    model = network(nn.Dense(1, in_features=1))
    trained = sorted(row for step in steps_of(model, validation_split=0.3) for row in step)
    assert trained == list(range(35))
    rest = model.evaluate(NUMBERED[35:], NUMBERED[35:])["loss"]
    assert model.history.history["val_loss"] == [pytest.approx(rest, rel=1e-6)]


def test_evaluate_weighs_a_smaller_last_batch_by_its_rows():
    model = regressor(metrics=["mae", "mse", "r2"])
    model.fit(X, T, epochs=1)
    p = model.predict(X).astype(np.float64)
    expected = {
        "loss": np.mean((p - T) ** 2),
        "mae": np.abs(p - T).mean(),
        "mse": np.mean((p - T) ** 2),
        "r2": 1 - ((p - T) ** 2).sum() / ((T - T.mean()) ** 2).sum(),
    }
    for size in (7, 50, 1000):
        assert model.evaluate(X, T, batch_size=size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [
    np.asfortranarray,
    lambda x: np.repeat(x, 2, axis=0)[::2],
    lambda x: x.astype(x.dtype.newbyteorder(">")),
    lambda x: x.astype(np.float64) if x.dtype.kind == "f" else x.astype(np.int32),
    lambda x: x.tolist(),
    lambda x: nnx.asarray(x, device="loops"),
    lambda x: nnx.asarray(x, device="numpy"),
])  # fmt: skip
def test_layout_and_home_of_the_data_do_not_matter(make):
    expected, model = classifier(), classifier()
    for m, x, y in ((expected, X, Y), (model, make(X), make(Y))):
        nnx.random.seed(1)
        m.fit(x, y, epochs=2, shuffle=False, validation_data=(x, y))
    assert same(model.state_dict(), expected.state_dict())
    assert model.history.history == expected.history.history
    assert np.array_equal(model.predict(make(X)), expected.predict(X))


def test_caller_arrays_are_not_written():
    x, y = X.copy(), Y.copy()
    x.flags.writeable = y.flags.writeable = False
    classifier().fit(x, y, epochs=1)
    assert np.array_equal(x, X) and np.array_equal(y, Y)


def test_zero_stride_rows_train():
    x = np.broadcast_to(X[:1], (50, 4))
    expected, model = classifier(), classifier()
    expected.fit(x.copy(), Y, shuffle=False)
    model.fit(x, Y, shuffle=False)
    assert same(model.state_dict(), expected.state_dict())


# Weights


def test_sample_weight_multiplies_each_rows_loss():
    weight = np.arange(50) % 3
    model = regressor()
    model.fit(X, T, batch_size=50, shuffle=False, sample_weight=weight)

    nnx.random.seed(3)
    other = nn.Dense(1, in_features=4).to("numpy")
    optimizer = optim.SGD(other.parameters(), lr=0.05)
    w = nnx.asarray(weight.astype(np.float32)[:, np.newaxis], device="numpy")
    t = nnx.asarray(T, device="numpy")
    loss = (nnx.square(other(X) - t) * w).mean()
    loss.backward()
    optimizer.step()
    for key, value in other.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[f"0.{key}"], value, rtol=1e-5)
    assert model.history.history["loss"] == [pytest.approx(loss.item(), rel=1e-6)]


@pytest.mark.parametrize("y", [Y, np.eye(3, dtype=np.float32)[Y]])
def test_class_weight_is_the_sample_weight_of_each_class(y):
    table = {0: 2.0, 2: 0.5}
    first, second, third = classifier(), classifier(), classifier()
    weight = np.array([2.0, 1.0, 0.5])[Y]
    first.fit(X, y, class_weight=table, shuffle=False)
    second.fit(X, y, sample_weight=weight, shuffle=False)
    third.fit([(X[:32], y[:32]), (X[32:], y[32:])], class_weight=table)
    assert same(first.state_dict(), second.state_dict())
    assert same(first.state_dict(), third.state_dict())
    both = classifier()
    both.fit(X, y, class_weight=table, sample_weight=1 / weight, shuffle=False)
    plain = classifier()
    plain.fit(X, y, shuffle=False)
    assert not same(first.state_dict(), plain.state_dict())
    for key, value in plain.state_dict().items():
        np.testing.assert_allclose(both.state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_class_weight_takes_classes_as_floats():
    """As np.unique of labels that were floats gives them."""
    model = classifier()
    model.fit(X, Y, class_weight={0.0: 2.0, np.float64(1.0): 0.5})
    expected = classifier()
    expected.fit(X, Y, class_weight={0: 2.0, 1: 0.5})
    assert same(model.state_dict(), expected.state_dict())
    model.train_on_batch(X, Y, class_weight={2.0: 3.0})


def test_class_weight_of_numbers_that_are_no_classes_is_refused():
    model = regressor(nn.Dense(3, in_features=4))
    before = model.state_dict()
    with pytest.raises(DataError, match="one class a row.*Give sample_weight"):
        model.fit(X, X[:, :3], class_weight={0: 2.0})
    assert same(model.state_dict(), before)


def test_class_weight_of_two_classes_with_one_logit():
    bits = (Y[:, np.newaxis] > 0).astype(np.float32)
    first, second = (regressor(loss="binary_cross_entropy") for _ in range(2))
    first.fit(X, bits, class_weight={1: 3.0}, shuffle=False)
    second.fit(X, bits, sample_weight=1 + 2 * bits[:, 0], shuffle=False)
    assert same(first.state_dict(), second.state_dict())


# Predicting


def test_predict_is_writable_batched_and_without_dropout_or_tape():
    model = network(nn.Dense(8, "relu"), nn.Dropout(0.5), nn.Dense(3))
    whole = model.predict(X)
    parts = model.predict(X, batch_size=7)
    assert whole.shape == (50, 3) and type(whole) is np.ndarray
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    assert np.array_equal(model.predict(X), whole)
    assert model.training and model[1].training
    whole[:] = 0.0
    assert model.predict(X).any()
    model.eval()
    model.predict(X)
    assert not model.training
    assert model.predict([[1.0, 2.0, 3.0, 4.0]]).shape == (1, 3)


def test_fit_trains_with_dropout_and_leaves_the_mode_as_it_was():
    modes = []
    model = network(nn.Dense(8, "relu"), nn.Dropout(0.5), nn.Dense(3))
    model.compile("adam", "cross_entropy")
    note = LambdaCallback(on_train_batch_end=lambda batch, logs: modes.append(model[1].training))
    model.eval()
    model.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[note])
    assert modes == [True] * 4 and not model[1].training
    model.train()
    figures = model.evaluate(X, Y)
    with nnx.no_grad():
        loss = nn.cross_entropy(nnx.asarray(model.predict(X)), nnx.asarray(Y))
    assert figures["loss"] == model.history.history["val_loss"][-1] == loss.item()
    assert not np.isclose(model.history.history["loss"][0], model.evaluate(X, Y)["loss"])
