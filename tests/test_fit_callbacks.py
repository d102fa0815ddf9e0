"""Callbacks of a training, and what it shows."""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.callbacks import (
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    JSONLinesLogger,
    LambdaCallback,
    ProgressBar,
    TensorBoard,
)
from nnx.errors import CheckpointError, DataError
from tests.training import Batches, X, Y, classifier, same


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
        (lambda: EarlyStopping(5), "monitor is the name of a figure, such as 'val_loss', got 5"),
        (lambda: LambdaCallback(on_epoch_end=5), "on_epoch_end is a function .*, got 5"),
        (lambda: CSVLogger("h.csv", separator=";;"), "separator is one character"),
        (lambda: Checkpoint("m", every_s="5"), "every_s is a finite number"),
        (lambda: EarlyStopping, r"an instance, not the class: EarlyStopping\(\)"),
        (lambda: EarlyStopping("val_los"), r"'val_los'.*Did you mean"),
        (lambda: EarlyStopping(), "val_ needs validation data"),
    ],
)
def test_wrong_callback_is_refused(make, words):
    with pytest.raises(DataError, match=words):
        classifier().fit(X, Y, callbacks=[make()])


def test_one_callback_needs_no_list():
    model = classifier()
    kept = nnx.callbacks.History()
    model.fit(X, Y, callbacks=kept)
    assert kept.history["loss"]


def test_csv_that_cannot_be_written_keeps_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    model = classifier()
    model.fit(X, Y, epochs=2, callbacks=[CSVLogger(path)])
    before = path.read_text()

    class FullDisk:
        def __init__(self, *args, **kwargs):
            pass

        def writerow(self, row):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("csv.writer", FullDisk)
    with pytest.raises(DataError, match="No space left"):
        model.fit(X, Y, epochs=3, initial_epoch=2, callbacks=[CSVLogger(path)])
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("make", [Checkpoint, CSVLogger, JSONLinesLogger, TensorBoard])
def test_a_place_that_cannot_be_written_is_told_before_training(make, tmp_path):
    (tmp_path / "file").write_text("")
    model = classifier()
    before = model.state_dict()
    with pytest.raises((DataError, CheckpointError), match=r"[Cc]annot (write|save) .*"):
        model.fit(X, Y, callbacks=make(tmp_path / "file" / "out"))
    assert same(model.state_dict(), before) and os.listdir(tmp_path) == ["file"]


def test_looking_whether_a_file_can_be_written_leaves_it_as_it_was(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("an earlier run")
    seen = []

    def look(epoch, logs):
        seen.append((old.read_text(), new.exists()))

    loggers = [CSVLogger(old), CSVLogger(new), LambdaCallback(on_epoch_begin=look)]
    classifier().fit(X, Y, callbacks=loggers)
    assert seen == [("an earlier run", False)] and new.exists()


def test_figure_that_a_users_callback_adds_can_be_monitored():
    model = classifier()
    adds = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(mine=1.0))
    assert model.fit(X, Y, callbacks=[adds, EarlyStopping("mine")], epochs=9).epoch == [0, 1]
    with pytest.raises(DataError, match="'yours', which the epoch does not give"):
        model.fit(X, Y, callbacks=[adds, EarlyStopping("yours")])


def adding(value, first=0):
    """Return a callback that puts a figure into the logs of a validation, from an epoch on."""

    class Adding(Callback):
        def on_test_end(self, logs=None):
            if len(self.model.history.epoch) >= first:
                logs["mine"] = value

    return Adding()


@pytest.mark.parametrize("value", [2, np.float32(2.0), nnx.asarray(2.0), np.array(2.0)])
def test_figures_that_a_callback_adds_are_numbers_everywhere(value, tmp_path):
    path, kept = tmp_path / "m", tmp_path / "h.jsonl"
    callbacks = [
        adding(value), CSVLogger(tmp_path / "h.csv"), JSONLinesLogger(kept), TensorBoard(tmp_path),
        Checkpoint(path, monitor="val_mine"), EarlyStopping("val_mine"),
    ]  # fmt: skip
    model = classifier()
    model.fit(X, Y, validation_split=0.2, callbacks=callbacks, verbose=2)
    assert model.history.history["val_mine"] == [2.0]
    assert json.loads(kept.read_text())["val_mine"] == 2.0


def test_a_figure_is_nan_in_epochs_without_it(tmp_path):
    loggers = [adding(1.0, first=1), CSVLogger(tmp_path / "h.csv")]
    history = classifier().fit(X, Y, validation_split=0.2, epochs=3, callbacks=loggers)
    assert np.isnan(history.history["val_mine"][0]) and history.history["val_mine"][1:] == [1, 1]
    rows = np.genfromtxt(tmp_path / "h.csv", delimiter=",", names=True)
    assert np.isnan(rows["val_mine"][0]) and rows["val_mine"][1:].tolist() == [1, 1]


def test_a_figure_that_is_no_number_is_told():
    with pytest.raises(DataError, match="'text' into the logs as 'val_mine'; a figure is one"):
        classifier().fit(X, Y, validation_split=0.2, callbacks=adding("text"))


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
