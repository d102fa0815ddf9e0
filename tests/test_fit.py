"""Training: what is learned, what is refused before anything changes, and what stops it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import nnx
from nnx import calibrate, data, nn, optim
from nnx.callbacks import (
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    ProgressBar,
)
from nnx.errors import (
    DataError,
    DeviceError,
    DTypeError,
    LabelError,
    NonFiniteError,
    ShapeError,
)
from nnx.fit import TrainingInterrupted

DEVICES = ["loops", "numpy", "numba", "array_api:array_api_strict"]

X = nnx.random.Generator(1).host_normal(0.0, 1.0, (50, 4))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
T = X @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)


def network(*layers, seed=3):
    nnx.random.seed(seed)
    return nn.Sequential(
        *(layers or (nn.Dense(6, "tanh", in_features=4), nn.Dense(3, in_features=6)))
    )


def classifier(device="numpy", optimizer=None, metrics=("accuracy",), seed=3):
    model = network(seed=seed)
    model.compile(optimizer or optim.Adam(0.02), "cross_entropy", metrics, device)
    return model


def regressor(*layers, loss="mse", optimizer=None, metrics=(), device="numpy"):
    nnx.random.seed(3)
    model = nn.Sequential(*(layers or (nn.Dense(1, in_features=4),)))
    model.compile(optimizer or optim.SGD(0.05), loss, metrics, device)
    return model


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


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


class Batches:
    def __iter__(self):
        for i in range(0, 50, 16):
            yield X[i : i + 16], Y[i : i + 16]


@pytest.mark.parametrize("source", [Batches(), list(Batches())])
def test_batches_of_an_iterable_train_as_arrays_do(source):
    model, expected = classifier(), classifier()
    model.fit(source, epochs=2, validation_data=source)
    expected.fit(X, Y, batch_size=16, epochs=2, shuffle=False, validation_data=(X, Y))
    assert same(model.state_dict(), expected.state_dict())
    assert model.history.history["accuracy"] == expected.history.history["accuracy"]
    for name in ("loss", "val_loss"):
        assert model.history.history[name] == pytest.approx(expected.history.history[name])
    assert model.evaluate(source) == pytest.approx(expected.evaluate(X, Y))
    assert np.array_equal(model.predict(source), model.predict(X, batch_size=16))


def test_generator_serves_one_epoch_whole_and_says_so_at_the_second():
    model = classifier()
    model.fit(iter(Batches()), epochs=1)
    expected = classifier()
    expected.fit(X, Y, batch_size=16, shuffle=False)
    assert same(model.state_dict(), expected.state_dict())
    with pytest.raises(DataError, match="used up after one pass"):
        model.fit(iter(Batches()), epochs=2)


def test_iterable_that_fills_its_memory_again_is_measured_right():
    x, y = np.empty((16, 4), np.float32), np.empty(16, np.int64)

    def reusing():
        for i in range(0, 48, 16):
            x[:], y[:] = X[i : i + 16], Y[i : i + 16]
            yield x, y

    model, expected = classifier(optimizer=optim.SGD(0.0)), classifier(optimizer=optim.SGD(0.0))
    history = model.fit(reusing())
    assert history.history["accuracy"] == [expected.evaluate(X[:48], Y[:48])["accuracy"]]


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


# Callbacks


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda *args: self.calls.append((name, *args))
        return super().__getattribute__(name)


for _hook in nnx.callbacks.HOOKS:
    setattr(Recorder, _hook, lambda self, *args: None)


def test_hooks_run_in_order_with_their_logs():
    recorder = Recorder()
    model = classifier()
    model.fit(X, Y, batch_size=25, epochs=2, validation_split=0.5, callbacks=[recorder])
    epoch = ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_test_begin",
             "on_test_batch_begin", "on_test_batch_end", "on_test_end", "on_epoch_end"]  # fmt: skip
    assert [call[0] for call in recorder.calls] == [
        "on_train_begin", *epoch, *epoch, "on_train_end",
    ]  # fmt: skip
    assert recorder.params == {"epochs": 2, "steps": 1, "verbose": "auto"}
    assert recorder.model is model
    last = next(c for c in reversed(recorder.calls) if c[0] == "on_epoch_end")
    assert last[1] == 1
    assert last[2] == {name: values[1] for name, values in model.history.history.items()}
    assert recorder.calls[3][2] == {"loss": model.history.history["loss"][0]}


def test_stop_training_ends_after_the_epoch():
    model = classifier()

    def stop(batch, logs):
        model.stop_training = True

    history = model.fit(X, Y, epochs=9, callbacks=[LambdaCallback(on_train_batch_end=stop)])
    assert history.epoch == [0]
    assert model.fit(X, Y, epochs=2).epoch == [0, 1]


def test_initial_epoch_counts_from_there():
    seen = []
    note = LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    history = classifier().fit(X, Y, epochs=5, initial_epoch=3, callbacks=[note])
    assert seen == history.epoch == [3, 4]
    assert classifier().fit(X, Y, epochs=3, initial_epoch=3).epoch == []


def test_early_stopping_stops_and_puts_the_best_weights_back():
    model, kept = classifier(optimizer=optim.SGD(0.1)), []
    figures = iter([3.0, 2.0, 2.5, float("nan"), 1.0])

    class Figures(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = next(figures)
            kept.append(model.state_dict())

    stopping = EarlyStopping(patience=2, restore_best_weights=True)
    history = model.fit(X, Y, epochs=9, callbacks=[Figures(), stopping])
    assert history.epoch == [0, 1, 2, 3] and stopping.stopped_epoch == 3
    assert same(model.state_dict(), kept[1]) and not same(kept[1], kept[3])


def test_early_stopping_lets_accuracy_rise():
    values, stopping = iter([0.1, 0.2, 0.2]), EarlyStopping("accuracy")
    rising = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(accuracy=next(values)))
    assert classifier().fit(X, Y, epochs=9, callbacks=[rising, stopping]).epoch == [0, 1, 2]


def test_checkpoint_with_monitor_keeps_the_best(tmp_path):
    path, kept = tmp_path / "best", []
    values = iter([3.0, 1.0, 2.0])
    model = classifier()
    figures = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(x=next(values)))
    states = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(model.state_dict()))
    model.fit(X, Y, epochs=3, callbacks=[figures, Checkpoint(path, monitor="x"), states])
    assert same(nn.load(path).state_dict(), kept[1])


def test_csv_logger_writes_the_history(tmp_path):
    path = tmp_path / "h.csv"
    model = classifier()
    model.fit(X, Y, epochs=3, callbacks=[CSVLogger(path)])
    rows = np.genfromtxt(path, delimiter=",", names=True)
    assert rows.dtype.names == ("epoch", "loss", "accuracy")
    assert rows["loss"].tolist() == model.history.history["loss"]
    with pytest.raises(DataError, match="cannot write"):
        classifier().fit(X, Y, callbacks=[CSVLogger(tmp_path / "none" / "h.csv")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LambdaCallback(on_epoch_edn=print), "'on_epoch_edn'.*Did you mean 'on_epoch_end'"),
        (lambda: EarlyStopping(mode="mim"), "Did you mean 'min'"),
        (lambda: EarlyStopping, "Subclass it; give an instance"),
        (lambda: EarlyStopping("val_los"), r"'val_los'.*Did you mean"),
        (lambda: EarlyStopping(), "val_ needs validation data"),
    ],
)
def test_wrong_callback_is_refused(make, words):
    with pytest.raises(DataError, match=words):
        classifier().fit(X, Y, callbacks=[make()])


# What is shown


def test_output_is_silent_without_a_terminal(capsys):
    classifier().fit(X, Y)
    classifier().fit(X, Y, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_verbose_lines(capsys):
    for verbose in (1, 2):
        classifier().fit(X, Y, epochs=2, verbose=verbose)
        out, err = capsys.readouterr()
        assert [line.split()[:2] for line in out.splitlines()] == [
            ["Epoch", "1/2"], ["Epoch", "2/2"],
        ]  # fmt: skip
        assert "accuracy" in out and err == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("source", [(X, Y), (iter(list(Batches())),)])
def test_progress_bar_on_a_terminal(monkeypatch, source):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(ProgressBar, "REFRESH_S", 0.0)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    model = classifier()
    model.fit(*source)
    text = sys.stderr.getvalue()
    steps = 2 if len(source) == 2 else 4
    assert "Epoch 1/1" in text and f"{steps}/{steps}" in text
    assert f"loss {model.history.history['loss'][0]:.4g}" in text


# Bad input: refused before anything changes

NAN_LABELS = np.where(np.arange(50) == 17, np.nan, Y)
RAGGED = [[1.0, 2.0, 3.0, 4.0], [1.0]]
PAIR = (X, Y)
BAD = [
    (PAIR, {"batch_size": 0}, DataError, "batch_size is a whole number of 1 or more, got 0"),
    (PAIR, {"batch_size": 2.5}, DataError, "batch_size"),
    (PAIR, {"epochs": 0}, DataError, "epochs is a whole number of 1 or more"),
    (PAIR, {"epochs": True}, DataError, "epochs"),
    (PAIR, {"initial_epoch": -1}, DataError, "initial_epoch"),
    (PAIR, {"validation_split": 1.0}, DataError, "validation_split is from 0 to below 1"),
    (PAIR, {"validation_split": -0.1}, DataError, "validation_split"),
    (PAIR, {"validation_split": 0.99}, DataError, "leaves 0 to train with and 50"),
    (PAIR, {"validation_split": 0.99, "validation_data": PAIR}, DataError, "not both"),
    (PAIR, {"validation_data": (X[:, :3], Y)}, ShapeError, "takes 4 features"),
    (PAIR, {"validation_data": (X[:, :3], Y)}, ShapeError, "In the validation data"),
    (PAIR, {"validation_data": (X, Y[:, np.newaxis])}, ShapeError, "In the validation data"),
    (PAIR, {"validation_data": (X, Y[:40])}, LabelError, "x has 50 rows and y 40"),
    (PAIR, {"validation_split": 0.2, "validation_data": PAIR}, DataError, "not both"),
    (PAIR, {"validation_split": float("nan")}, DataError, "validation_split is from 0"),
    (PAIR, {"validation_data": (X, Y + 1)}, LabelError, "Label 3 at index"),
    (PAIR, {"validation_data": X}, DataError, "validation_data is"),
    (PAIR, {"validation_data": (X[:0], Y[:0])}, DataError, "is empty"),
    (PAIR, {"verbose": "loud"}, DataError, "verbose"),
    (PAIR, {"class_weight": {3: 1.0}}, DataError, "class 3, which does not exist: .* 0 to 2"),
    (PAIR, {"class_weight": {"a": 1.0}}, DataError, "class 'a'"),
    (PAIR, {"class_weight": {0: -1.0}}, DataError, r"class_weight\[0\] is -1.0"),
    (PAIR, {"class_weight": {1: float("nan")}}, DataError, r"class_weight\[1\] is nan"),
    (PAIR, {"class_weight": {}}, DataError, "class_weight is a dict"),
    (PAIR, {"sample_weight": -np.ones(50)}, DataError, "-1.0 at row 0"),
    (PAIR, {"class_weight": [1, 2, 3]}, DataError, "class_weight is a dict"),
    (PAIR, {"sample_weight": np.ones(49)}, DataError, r"shape \(49,\), x has 50 rows"),
    (PAIR, {"sample_weight": np.where(np.arange(50) == 4, np.nan, 1)}, DataError, "nan at row 4"),
    ((X, None), {}, DataError, "y is missing"),
    ((X, Y[:49]), {}, LabelError, "x has 50 rows and y 49: row 49 is the first"),
    ((X[:0], Y[:0]), {}, DataError, r"x of shape \(0, 4\) is empty"),
    ((X, Y + 1), {}, LabelError, f"Label 3 at index {np.argmax(Y == 2)}"),
    ((X, np.where(np.arange(50) == 41, -1, Y)), {}, LabelError, "Label -1 at index 41"),
    ((X, NAN_LABELS), {}, LabelError, "Label nan at index 17"),
    ((X, Y + 0.25), {}, LabelError, "Label .*25 at index 0"),
    ((X, Y.astype(float)), {}, LabelError, "at index 0 .*astype"),
    ((X, Y[:, np.newaxis]), {}, ShapeError, r"\(32, 3\)"),
    ((X, 2 * np.eye(3)[Y]), {}, LabelError, "at index"),
    ((X, "labels"), {}, DTypeError, "y: got data of type"),
    ((np.zeros((50, 4), np.uint8), Y), {}, DTypeError, r"astype\('float32'\) / 255"),
    ((np.zeros((50, 4), int), Y), {}, DTypeError, "floating"),
    ((np.array([{}] * 50), Y), {}, DataError, "x: got an array of Python objects"),
    ((RAGGED, [0, 1]), {}, DataError, "x: the rows do not form an array"),
    ((1.0, 1), {}, DataError, "x is a single value"),
    ((X[:, :3], Y), {}, ShapeError, r"Dense '0' takes 4 features, got x of shape \(32, 3\)"),
    ((X.reshape(50, 2, 2), Y), {}, ShapeError, "Flatten it first"),
    (([(X, Y)], Y), {}, DataError, "belong into them"),
    (([(X, Y)],), {"validation_split": 0.2}, DataError, "validation_split cuts"),
    (([(X,)],), {}, DataError, "Batch 0 of the iterable has 1 parts"),
    ((iter([]),), {}, DataError, "gave no batches"),
    ((iter([(X, Y + 1)]),), {}, LabelError, "Label 3"),
    ((iter([(X, Y[:9])]),), {}, LabelError, "row 9 is the first"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "settings", "error", "words"), BAD)
def test_bad_input_is_refused_before_anything_changes(args, settings, error, words):
    model = classifier()
    before, state = model.state_dict(), nnx.random.default_generator().state_dict()
    with pytest.raises(error, match=words):
        model.fit(*args, **settings)
    assert same(model.state_dict(), before)
    assert nnx.random.default_generator().state_dict() == state


@pytest.mark.parametrize(("layers", "y", "loss"), [
    ((), T[:, 0], "mse"),
    ((), T, lambda p, y: (p - y[:, 0]).mean(axis=1)),
    ((nn.Dense(1, in_features=4), nn.Reshape()), T, "mae"),
    ((), (T[:, 0] > 0).astype(np.float32), "binary_cross_entropy"),
])  # fmt: skip
def test_one_column_against_a_vector_is_an_error(layers, y, loss):
    model = regressor(*layers, loss=loss)
    before = model.state_dict()
    with pytest.raises(ShapeError):
        model.fit(X, y)
    assert same(model.state_dict(), before)


def test_binary_targets_are_checked_in_the_whole_data_first():
    model = regressor(loss="binary_cross_entropy")
    y = np.zeros((50, 1), np.float32)
    y[44] = 1.5
    with pytest.raises(LabelError, match=r"1.5 at index \(44, 0\)"):
        model.fit(X, y)


def test_metric_that_does_not_fit_is_refused_first():
    model = classifier(metrics=["mse"])
    before = model.state_dict()
    with pytest.raises(ShapeError):
        model.fit(X, Y)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"optimizer": "adma"}, DataError, "'adma'.*Did you mean 'adam'"),
        ({"loss": "cross_entrpy"}, DataError, "'cross_entrpy'.*Did you mean 'cross_entropy'"),
        ({"metrics": ["acuracy"]}, DataError, "'acuracy'.*Did you mean 'accuracy'"),
        ({"metrics": ["rocauc"]}, DataError, "Did you mean 'roc_auc'"),
        ({"metrics": ["confusion_matrix"]}, DataError, "not one number"),
        ({"metrics": ["mse", "mse"]}, DataError, "Two figures would be called 'mse'"),
        ({"device": "nunpy"}, DeviceError, "'nunpy'.*Did you mean 'numpy'"),
        ({"optimizer": optim.Adam}, DTypeError, "optimizer"),
    ],
)
def test_compile_refuses_unknown_names(settings, error, words):
    model = network()
    with pytest.raises(error, match=words):
        model.compile(**({"optimizer": "adam", "loss": "mse"} | settings))
    with pytest.raises(DataError, match=r"is not compiled.*model\.compile\("):
        model.fit(X, Y)
    with pytest.raises(DataError, match="is not compiled"):
        model.evaluate(X, Y)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), "fast"])
def test_learning_rate_out_of_range_is_refused(rate):
    with pytest.raises((DataError, DTypeError)):
        network().compile(optim.Adam(lr=rate), "mse")


def test_predict_and_evaluate_refuse_what_fit_refuses():
    model = classifier()
    with pytest.raises(DTypeError, match="uint8"):
        model.predict(np.zeros((5, 4), np.uint8))
    with pytest.raises(DataError, match="is empty"):
        model.predict(X[:0])
    with pytest.raises(DataError, match="batch_size"):
        model.predict(X, batch_size=0)
    with pytest.raises(LabelError, match="row 49"):
        model.evaluate(X, Y[:49])
    with pytest.raises(LabelError, match="Label 3"):
        model.evaluate(X, Y + 1)


def test_weighted_loss_of_the_users_own_without_rows_is_refused():
    model = regressor(loss=lambda p, y: nnx.mse(p, y))
    before = model.state_dict()
    with pytest.raises(DataError, match="reduction='none'"):
        model.fit(X, T, sample_weight=np.ones(50))
    assert same(model.state_dict(), before)


# NaN and infinity


class Boom(nn.Module):
    """Gives infinities for rows whose first number is large."""

    def forward(self, x):
        return nnx.exp(nnx.abs(x[:, :1]) - 50.0) * x


def plain():
    return (nn.Dense(1, in_features=4),)


def booming():
    return nn.Dense(4, in_features=4), Boom(), nn.Dense(1, in_features=4)


def seeded(layers):
    nnx.random.seed(3)
    return layers()


def bad_data(row, value=np.nan, of=X):
    changed = of.copy()
    changed[row, 0] = value
    return changed


@pytest.mark.parametrize(
    ("x", "y", "layers", "words"),
    [
        (bad_data(37), T, plain, ["x itself at row 17 of the batch, which is row 37 of x"]),
        (X, bad_data(41, np.inf, T), plain, ["y itself at row 1 of the batch, which is row 41"]),
        (
            bad_data(39, 1e5),
            T,
            booming,
            ["Boom '1'", "made by op 'exp' from finite inputs of up to", "index (19, 0)"],
        ),
        (bad_data(39, 1e30), T, plain, ["the loss, in op 'mse' from finite inputs of up to"]),
    ],
)
def test_first_loss_that_is_not_finite_stops_the_run_there(x, y, layers, words):
    settings = {"batch_size": 20, "shuffle": False, "epochs": 3}
    step = 3 if "row 41" in words[0] else 2
    expected = regressor(*seeded(layers))
    expected.fit(x[: 20 * (step - 1)], y[: 20 * (step - 1)], batch_size=20, shuffle=False)
    model = regressor(*seeded(layers))
    with pytest.raises(NonFiniteError) as caught:
        model.fit(x, y, **settings)
    text = str(caught.value)
    assert f"in epoch 1 of 3, step {step} of 3 (rows {20 * (step - 1)}, " in text
    assert "in all)" in text and "learning rate (now 0.05)" in text
    assert all(word in text for word in words), text
    assert same(model.state_dict(), expected.state_dict())
    assert not any("forward" in vars(module) for _, module in model.named_modules())


def test_shuffled_rows_are_named_as_they_stand_in_the_data():
    model = regressor()
    with pytest.raises(NonFiniteError, match="which is row 23 of x"):
        model.fit(bad_data(23), T, batch_size=5, validation_split=0.1)


def test_parameter_that_is_not_finite_is_named():
    model = regressor()
    with nnx.no_grad():
        model[0].weight[2, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"parameter '0.weight' \(nan index \(2, 0\)"):
        model.fit(X, T)


def test_gradient_that_overflows_in_the_last_step_is_noticed():
    model = regressor(optimizer=optim.SGD(1e38))
    with pytest.raises(
        NonFiniteError, match=r"every loss was finite, but now parameter '0.weight'"
    ):
        model.fit(100 * X, T, batch_size=50)


def test_bad_row_of_an_iterable_is_named_by_its_batch():
    batches = [(X[:20], T[:20]), (bad_data(3), T)]
    with pytest.raises(NonFiniteError, match=r"the 50 rows of batch 1 of the iterable.*x itself"):
        regressor().fit(batches)


# Ctrl-C


def interrupt_at(model, epoch, batch, hook="on_train_batch_end", times=1):
    """Return a callback that sends Ctrl-C in an epoch, after a batch or at the hook."""

    def send(number, logs=None):
        here = len(model.history.epoch)
        if here == epoch and (batch is None or number == batch):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return LambdaCallback(**{hook: send})


def test_ctrl_c_ends_after_the_running_step_and_says_how_to_go_on():
    before = signal.getsignal(signal.SIGINT)
    model = classifier()
    with pytest.raises(KeyboardInterrupt) as caught:
        model.fit(X, Y, batch_size=10, epochs=4, callbacks=[interrupt_at(model, 2, 1)])
    assert signal.getsignal(signal.SIGINT) is before
    assert type(caught.value) is TrainingInterrupted
    assert "after 2 of 4 epochs and 2 of 5 steps" in str(caught.value)
    assert "epochs=4, initial_epoch=2" in str(caught.value)
    assert caught.value.history is model.history and model.history.interrupted
    assert model.history.epoch == [0, 1] and len(model.history.history["loss"]) == 2
    # All of what it learned: two epochs of five steps, and the two steps that were done.
    assert nnx.fit.compiled(model).optimizer.step_count == 12
    history = model.fit(X, Y, batch_size=10, epochs=4, initial_epoch=2)
    assert history.epoch == [2, 3] and not history.interrupted


def test_ctrl_c_in_validation_or_the_last_step_finishes_the_epoch():
    for batch, hook in ((4, "on_train_batch_end"), (None, "on_epoch_end")):
        model = classifier()
        callback = interrupt_at(model, 0 if batch else 1, batch, hook)
        with pytest.raises(TrainingInterrupted, match=r"after 1 of 4 epochs\..*initial_epoch=1"):
            model.fit(X, Y, batch_size=8, epochs=4, validation_split=0.2, callbacks=[callback])
        assert model.history.epoch == [0] and len(model.history.history["val_loss"]) == 1


def test_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    model, ended = classifier(), []
    callbacks = [
        interrupt_at(model, 0, 0, times=2),
        LambdaCallback(on_train_batch_end=lambda batch, logs: ended.append(batch)),
    ]
    with pytest.raises(KeyboardInterrupt) as caught:
        model.fit(X, Y, callbacks=callbacks)
    assert type(caught.value) is KeyboardInterrupt and ended == []
    assert signal.getsignal(signal.SIGINT) is before and model.history.interrupted


def test_signal_handler_is_put_back_after_success_and_failure():
    def own(number, frame):
        raise AssertionError("not while fit runs")

    before = signal.signal(signal.SIGINT, own)
    try:
        classifier().fit(X, Y)
        assert signal.getsignal(signal.SIGINT) is own
        with pytest.raises(NonFiniteError):
            regressor().fit(bad_data(1), T)
        assert signal.getsignal(signal.SIGINT) is own
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        model = classifier()
        model.fit(X, Y, callbacks=[interrupt_at(model, 0, 0)])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_fit_in_another_thread_leaves_signals_alone():
    model, failures = classifier(), []

    def work():
        try:
            model.fit(X, Y)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures and model.history.epoch == [0]


SCRIPT = """
import os, signal, sys
import numpy as np
import nnx
from nnx import nn
from nnx.callbacks import LambdaCallback
model = nn.Sequential(nn.Dense(3))
model.compile("adam", "cross_entropy", ["accuracy"], "numpy")
stop = LambdaCallback(on_train_batch_end=lambda b, logs: os.kill(os.getpid(), signal.SIGINT))
model.fit(np.ones((9, 2), "float32"), np.zeros(9, int))
print(sorted({"numba", "rich", "safetensors"} & set(sys.modules)), flush=True)
model.fit(np.ones((9, 2), "float32"), np.zeros(9, int), batch_size=3, epochs=5, callbacks=[stop])
print("not reached")
"""


def test_ctrl_c_ends_a_script_that_does_not_catch_it():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == "[]\n"
    last = done.stderr.strip().splitlines()[-1]
    assert "TrainingInterrupted" in last and "epochs=5, initial_epoch=0" in last


# device="auto"


@pytest.fixture(autouse=True)
def figures(monkeypatch, tmp_path):
    """Keep the figures of device="auto" in a folder of the test's own, and return it."""
    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path / "devices")
    return tmp_path / "devices"


def with_times(monkeypatch, **times):
    """Let each device take a made-up time for its steps; None fails."""

    def median(step, name):
        step()
        if times.get(name) is None:
            raise RuntimeError("out of memory")
        return times[name]

    monkeypatch.setattr(calibrate, "_median_s", median)


@pytest.mark.parametrize(
    ("times", "choice", "reason"),
    [
        ({"numpy": 3e-3, "numba": 1e-3}, "numba", "the fastest"),
        ({"numpy": 1.05e-3, "numba": 1e-3}, "numpy", "as fast as numba within 10%"),
        ({"numpy": 1e-3, "numba": 1e-3}, "numpy", "the fastest"),
        ({"numpy": None, "numba": 1e-3}, "numba", "the only device"),
    ],
)
def test_auto_takes_the_fastest_and_says_why(monkeypatch, times, choice, reason):
    with_times(monkeypatch, **times)
    model = network(nn.Dense(3))
    model.compile("adam", "cross_entropy", device="auto")
    assert model.device_report is None
    model.fit(X, Y, validation_data=(X, Y))
    report = model.device_report
    assert model.device == report.choice == choice and reason in report.reason
    assert report.step_s == {name: t for name, t in times.items() if t is not None}
    assert "slow on purpose" in report.skipped["loops"]
    assert ("numpy" in report.skipped) == (times["numpy"] is None)
    assert choice in str(report)


def test_auto_changes_no_parameter_and_draws_nothing():
    def run(device):
        model = network(nn.Dense(6), nn.Dropout(0.5), nn.Dense(3))
        model.compile(optim.Adam(0.01), "cross_entropy", ["accuracy"], device)
        model.fit(X, Y, epochs=2)
        return model

    measured = run("auto")
    named = run(measured.device.name)
    assert same(measured.state_dict(), named.state_dict())
    assert measured.history.history == named.history.history
    assert set(measured.device_report.step_s) >= {"numpy", "numba"}
    assert all(0 < t < 10 for t in measured.device_report.step_s.values())
    assert named.device_report is None


def test_figures_are_kept_for_the_network_and_batch(monkeypatch, figures, capsys):
    def chosen(units=3, rows=16, verbose=2):
        model = network(nn.Dense(units), nn.Dense(3))
        model.compile("adam", "cross_entropy", device="auto")
        model.fit(X, Y, batch_size=rows, verbose=verbose)
        return model.device_report

    with_times(monkeypatch, numpy=3e-3, numba=1e-3)
    first = chosen()
    assert not first.earlier and len(list(figures.iterdir())) == 1
    told = capsys.readouterr().err
    assert "device='auto' chose numba: the fastest" in told and "numpy 3000 us a step" in told
    with_times(monkeypatch, numpy=1e-3, numba=3e-3)
    again = chosen(verbose=0)
    assert again.earlier and again.choice == "numba" and again.step_s == first.step_s
    assert "of an earlier run kept in" in str(again) and not capsys.readouterr().err
    assert chosen(units=4).choice == chosen(rows=8).choice == "numpy"
    assert len(list(figures.iterdir())) == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"step_s": {}}', '{"step_s": {"numpy": -1}, "skipped": {}}',
             '{"step_s": {"nowhere": 1}, "skipped": {}}', '{"step_s": {"numpy": NaN}}']
)  # fmt: skip
def test_damaged_figures_are_told_and_measured_again(text, monkeypatch, figures):
    with_times(monkeypatch, numpy=3e-3, numba=1e-3)
    model = classifier("auto")
    model.fit(X, Y)
    (path,) = figures.iterdir()
    path.write_text(text)
    model = classifier("auto")
    with pytest.warns(UserWarning, match="is damaged"):
        model.fit(X, Y)
    assert model.device_report.choice == "numba" and not model.device_report.earlier
    assert json.loads(path.read_text())["step_s"] == {"numpy": 3e-3, "numba": 1e-3}


def test_figures_that_cannot_be_kept_are_used(monkeypatch, figures):
    figures.write_text("a file where the folder should be")
    with_times(monkeypatch, numpy=3e-3, numba=1e-3)
    model = classifier("auto")
    model.fit(X, Y)
    assert model.device_report.choice == "numba" and not model.device_report.file


def test_auto_works_with_a_generator_and_loses_no_batch(monkeypatch):
    with_times(monkeypatch, numpy=2.0, numba=1.0)
    model = classifier("auto")
    model.fit(iter(Batches()))
    expected = classifier("numba")
    expected.fit(X, Y, batch_size=16, shuffle=False)
    assert same(model.state_dict(), expected.state_dict())


def test_auto_where_nothing_can_run_is_an_error(monkeypatch):
    with_times(monkeypatch)
    with pytest.raises(DeviceError, match=r"no device could run.*out of memory"):
        classifier("auto").fit(X, Y)


def test_fault_in_the_validation_data_says_so():
    model = nn.Sequential(nn.Dense(2, in_features=1))
    model.compile("sgd", "cross_entropy")
    x = np.ones((4, 1), np.float32)
    with pytest.raises(nnx.LabelError, match="In the validation data: Label 6"):
        model.fit(x, [0, 1, 0, 1], validation_data=(x, [0, 1, 6, 1]))


def test_infinite_input_that_the_loss_hides_stops_the_run_before_its_step():
    model = nn.Sequential(nn.Dense(3, "tanh", in_features=2), nn.Dense(1))
    model.compile("sgd", "mse")
    x = np.ones((8, 2), np.float32)
    x[5, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"x itself at row 1 .*row 5 of x.*The loss hides it"):
        model.fit(x, np.ones((8, 1), np.float32), batch_size=4, shuffle=False)
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


def test_one_callback_needs_no_list():
    model = classifier()
    kept = nnx.callbacks.History()
    model.fit(X, Y, callbacks=kept)
    assert kept.history["loss"]
