"""Callbacks that write files, watch a figure, or follow validation and prediction."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.callbacks import (
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    History,
    JSONLinesLogger,
    LambdaCallback,
    ReduceLROnPlateau,
    TensorBoard,
)
from nnx.errors import DataError
from nnx.fit import compiled

X = nnx.random.Generator(1).host_normal(0.0, 1.0, (50, 4))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def classifier(optimizer=None, device="numpy", metrics=("accuracy",)):
    nnx.random.seed(3)
    model = nn.Sequential(nn.Dense(6, "tanh", in_features=4), nn.Dense(3, in_features=6))
    model.compile(optimizer or optim.SGD(0.1), "cross_entropy", metrics, device)
    return model


def figure(values, name="val_loss"):
    """Return a callback that puts made-up figures into the logs."""
    left = iter(values)
    return LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update({name: next(left)}))


# The learning rate


def rates(values, device="numpy", **settings):
    """Return the rate after each epoch."""
    model, seen = classifier(device=device), []
    optimizer = compiled(model).optimizer
    model.fit(X, Y, epochs=len(values), callbacks=[
        figure(values),
        ReduceLROnPlateau(**settings),
        LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(optimizer.lr)),
    ])  # fmt: skip
    return seen


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"patience": 2}, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ({"patience": 1, "factor": 0.5}, [0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]),
        ({"patience": 1, "cooldown": 2}, [0.1, 0.01, 0.01, 0.01, 0.001, 0.001]),
        ({"patience": 1, "min_lr": 0.004}, [0.1, 0.01, 0.004, 0.004, 0.004, 0.004]),
        ({"patience": 1, "min_delta": 2.0}, [0.1, 0.01, 0.001, 0.0001, 1e-5, 1e-6]),
        ({"patience": 9}, [0.1] * 6),
    ],
)
def test_rate_falls_on_a_plateau(settings, expected):
    assert rates([3.0, 3.0, 3.0, 3.0, float("nan"), 3.0], **settings) == pytest.approx(expected)


def test_rate_stays_while_the_figure_improves():
    assert rates([3.0, 2.0, 1.0, 0.99995], patience=1) == pytest.approx([0.1, 0.1, 0.1, 0.01])


def test_lowered_rate_counts_in_compiled_steps():
    model = classifier(device="numba")
    plateau = ReduceLROnPlateau("loss", patience=1, factor=0.0, min_delta=99.0)
    model.fit(X, Y, batch_size=5, epochs=2, callbacks=[plateau])
    before = model.state_dict()
    model.fit(X, Y, batch_size=5, epochs=1)
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())


def test_rate_of_a_schedule_is_not_lowered():
    model = classifier(optim.SGD(optim.schedules.step(0.1, 5)))
    with pytest.raises(DataError, match="so does the optimizer's schedule"):
        model.fit(X, Y, callbacks=[ReduceLROnPlateau("loss")])


# The best epoch


@pytest.mark.parametrize("name", ["val_f1", "roc_auc", "val_top_k_accuracy", "precision", "r2"])
def test_figures_that_are_to_rise(name):
    model = classifier()
    stopping = EarlyStopping(name)
    history = model.fit(X, Y, epochs=9, callbacks=[figure([0.1, 0.2, 0.3, 0.3], name), stopping])
    assert history.epoch == [0, 1, 2, 3]


def test_the_first_of_equal_epochs_is_the_best(tmp_path):
    model, states = classifier(), []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: states.append(model.state_dict()))
    path = tmp_path / "best"
    model.fit(X, Y, epochs=3, callbacks=[
        figure([2.0, 1.0, 1.0]), keep, Checkpoint(path, monitor="val_loss"),
        EarlyStopping(patience=5, restore_best_weights=True),
    ])  # fmt: skip
    for state in (model.state_dict(), nn.load(path).state_dict()):
        assert all(np.array_equal(states[1][k], v) for k, v in state.items())
    assert not np.array_equal(states[1]["0.weight"], states[2]["0.weight"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EarlyStopping(patience=-1), "EarlyStopping: patience is a whole number"),
        (lambda: EarlyStopping(patience=1.5), "patience"),
        (lambda: EarlyStopping(min_delta=float("nan")), "EarlyStopping: min_delta"),
        (lambda: ReduceLROnPlateau(factor=1.0), "factor is a finite number from 0 to below 1"),
        (lambda: ReduceLROnPlateau(cooldown=-1), "cooldown"),
        (lambda: ReduceLROnPlateau(min_lr=-1.0), "min_lr"),
        (lambda: ReduceLROnPlateau(mode="maximum"), "Did you mean 'max'"),
        (lambda: ReduceLROnPlateau("val_los"), r"'val_los'.*Did you mean 'val_loss'"),
        (lambda: Checkpoint("never", monitor="acuracy"), "Did you mean 'accuracy'"),
        (lambda: LambdaCallback(on_batch_end=print), "Did you mean 'on_t"),
        (lambda: LambdaCallback(on_predict_ends=print), "Did you mean 'on_predict_end'"),
        (lambda: TensorBoard(histogram_freq=-1), "histogram_freq"),
    ],
)
def test_wrong_setting_is_told(make, words):
    with pytest.raises(DataError, match=words):
        classifier().fit(X, Y, validation_data=(X, Y), callbacks=[make()])


# Hooks of validation and prediction


def test_hooks_of_evaluate_and_predict_run_in_order():
    calls, model = [], classifier()

    def noting(name):
        return lambda *args: calls.append((name, *args))

    note = LambdaCallback(**{name: noting(name) for name in nnx.callbacks.HOOKS})
    closed = []
    note.close = lambda: closed.append(True)
    found = model.evaluate(X, Y, batch_size=30, callbacks=[note])
    batch = ["on_test_batch_begin", "on_test_batch_end"]
    assert [call[0] for call in calls] == ["on_test_begin", *batch, *batch, "on_test_end"]
    assert calls[4] == ("on_test_batch_end", 1, {"loss": found["loss"]})
    assert calls[5] == ("on_test_end", found) and note.params["steps"] == 2
    calls.clear()
    outputs = model.predict(X, batch_size=30, callbacks=note)
    batch = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert [call[0] for call in calls] == ["on_predict_begin", *batch, *batch, "on_predict_end"]
    assert np.array_equal(calls[4][2]["outputs"], outputs[30:])
    assert closed == [True, True]


# Files


def test_json_lines_are_the_history(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("of an older training")
    model, lines = classifier(), []
    read = LambdaCallback(on_epoch_end=lambda e, logs: lines.append(path.read_text().count("\n")))
    model.fit(X, Y, epochs=3, callbacks=[JSONLinesLogger(path), read])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [1, 2, 3] and [row["epoch"] for row in rows] == [0, 1, 2]
    for name, values in model.history.history.items():
        assert [row[name] for row in rows] == values


def test_json_lines_have_null_for_nan_and_go_on(tmp_path):
    path, kept = tmp_path / "log.jsonl", tmp_path / "kept"
    callbacks = [figure([float("nan")] * 4, "x"), JSONLinesLogger(path)]
    classifier().fit(X, Y, epochs=2, callbacks=[*callbacks, Checkpoint(kept)])
    assert [json.loads(line)["x"] for line in path.read_text().splitlines()] == [None, None]
    model = classifier()
    model.fit(X, Y, epochs=4, callbacks=callbacks, resume=kept)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["loss"] for row in rows] == model.history.history["loss"] and len(rows) == 4
    with pytest.raises(DataError, match="JSONLinesLogger cannot write"):
        classifier().fit(X, Y, callbacks=[JSONLinesLogger(tmp_path / "none" / "log")])


class Writer:
    """What tensorboardX has, kept in lists."""

    def __init__(self, folder):
        self.folder, self.scalars, self.histograms, self.closed = folder, [], [], False

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def add_histogram(self, tag, values, step):
        self.histograms.append((tag, values.shape, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_has_scalars_and_histograms(tmp_path, monkeypatch):
    made = []

    def make(folder):
        made.append(Writer(folder))
        return made[-1]

    monkeypatch.setattr(nnx.callbacks, "_summary_writer", lambda: make)
    model = classifier(optim.SGD(optim.schedules.step(0.1, 4, 0.5)))
    board = TensorBoard(tmp_path, histogram_freq=2)
    model.fit(X, Y, batch_size=25, epochs=3, validation_data=(X, Y), callbacks=[board])
    train, validation = made
    assert train.folder == str(tmp_path / "train") and train.closed and validation.closed
    assert validation.folder == str(tmp_path / "validation")
    history = model.history.history
    for writer, start in ((train, ""), (validation, "val_")):
        for name in ("loss", "accuracy"):
            found = [(v, at) for tag, v, at in writer.scalars if tag == f"epoch_{name}"]
            assert found == [(v, i) for i, v in enumerate(history[start + name])]
    lrs = [value for tag, value, _ in train.scalars if tag == "epoch_learning_rate"]
    assert lrs == pytest.approx([0.1, 0.1, 0.05])
    assert train.histograms == [
        ("0.weight", (4, 6), 1), ("0.bias", (6,), 1), ("1.weight", (6, 3), 1), ("1.bias", (3,), 1),
    ]  # fmt: skip


def test_tensorboard_writes_files_of_events(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path / "logs", histogram_freq=1)
    classifier().fit(X, Y, validation_data=(X, Y), callbacks=[board])
    for part, tag in (("train", b"epoch_accuracy"), ("validation", b"epoch_loss")):
        (file,) = (tmp_path / "logs" / part).iterdir()
        assert "tfevents" in file.name and tag in file.read_bytes()


def test_tensorboard_without_its_module_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(DataError, match=r"nnx-array\[tensorboard\]"):
        TensorBoard()


def test_importing_callbacks_imports_no_tensorboard():
    import subprocess

    code = (
        "import sys, nnx.callbacks; print(sorted({'tensorboardX', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_history_and_csv_have_the_new_metrics(tmp_path):
    path, kept = tmp_path / "h.csv", History()
    model = classifier(metrics=["f1", "roc_auc"])
    model.fit(X, Y, epochs=2, validation_split=0.5, callbacks=[kept, CSVLogger(path)])
    rows = np.genfromtxt(path, delimiter=",", names=True)
    assert rows.dtype.names == ("epoch", "loss", "f1", "roc_auc", "val_loss", "val_f1",
                                "val_roc_auc")  # fmt: skip
    assert rows["val_roc_auc"].tolist() == kept.history["val_roc_auc"]
