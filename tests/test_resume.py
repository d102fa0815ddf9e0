"""Going on exactly: what a checkpoint holds, what is refused, and what faults and kills leave."""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import checkpoint, metrics, nn, optim, rows
from nnx.callbacks import Checkpoint, EarlyStopping, LambdaCallback
from nnx.cli.run import CHECKPOINT
from nnx.errors import CheckpointError, DataError
from nnx.files import previous_of
from nnx.fit import TrainingInterrupted
from nnx.resume import read

X = nnx.random.Generator(5).host_normal(0.0, 1.0, (50, 4))
Y = nnx.random.Generator(6).host_integers(3, shape=50)
SETTINGS = {"batch_size": 8, "epochs": 3, "validation_split": 0.2, "verbose": 0}


def network(last=3):
    nnx.random.seed(11)
    return nn.Sequential(
        nn.Dense(6, "relu", in_features=4), nn.Dropout(0.3), nn.LayerNorm(6), nn.Dense(last)
    )


def compiled(device="numpy", optimizer=None, loss="cross_entropy", model=None):
    model = model or network()
    model.compile(optimizer or optim.Adam(0.01), loss, ["accuracy"], device)
    return model


def everything(model):
    """Return all that a training ends with."""
    state = {f"m.{k}": v for k, v in model.state_dict().items()}
    state |= {f"o.{k}": v for k, v in nnx.fit.compiled(model).optimizer.state_dict().items()}
    bits = {key: (a.dtype.str, a.shape, a.tobytes()) for key, a in state.items()}
    generator = nnx.random.default_generator().state_dict()
    return bits, generator, model.history.epoch, model.history.history


class Stop(Exception):  # noqa: N818
    """Ends a training as a kill would, without a last word."""


def stop_after(n):
    """Return a callback that raises after n steps."""
    left = iter(range(n - 1, -1, -1))

    def count(batch, logs):
        if next(left) == 0:
            raise Stop

    callback = LambdaCallback(on_train_batch_end=count)
    callback.comes_last = True
    return callback


# What comes back


def test_training_stopped_after_any_step_goes_on_bit_for_bit(tmp_path, usable, monkeypatch):
    device = usable
    monkeypatch.setattr(metrics.Tally, "ROWS", 20)
    whole = compiled(device)
    whole.fit(X, Y, **SETTINGS)
    expected = everything(whole)
    for n in range(1, 16) if device == "numpy" else (1, 5, 9):
        path = tmp_path / f"{n}.safetensors"
        with pytest.raises(Stop):
            compiled(device).fit(
                X, Y, **SETTINGS, callbacks=[Checkpoint(path, every_steps=1), stop_after(n)]
            )
        state = read(path).state
        assert (state["epoch"], state["step"] - 1) == divmod(n - 1, 5)
        again = compiled(device)
        nnx.random.uniform(shape=(100,))
        again.fit(X, Y, **SETTINGS, resume=path)
        assert everything(again) == expected, n


def several(device):
    """Return a network of two inputs and two outputs, and what it learns from."""
    nnx.random.seed(11)
    a, b = nn.Input((4,), name="a"), nn.Input((4,), name="b")
    shared = nn.Dense(5, "tanh")
    both = nn.Dropout(0.3)(nnx.concat([shared(a), shared(b)], axis=-1))
    model = nn.Model([a, b], {"kind": nn.Dense(3)(both), "size": nn.Dense(1)(both)})
    model.compile(
        optim.Adam(0.01), {"kind": "cross_entropy", "size": "mse"}, {"kind": "f1", "size": "mae"},
        device, loss_weights={"kind": 1.0, "size": 0.5},
    )  # fmt: skip
    return model, {"a": X, "b": X[::-1]}, {"kind": Y, "size": X[:, :1]}


@pytest.mark.parametrize("device", ["numpy", "numba"])
@pytest.mark.parametrize("n", [1, 4, 5, 9])
def test_training_of_several_outputs_goes_on_bit_for_bit(tmp_path, device, n, monkeypatch):
    monkeypatch.setattr(metrics.Tally, "ROWS", 20)
    whole, x, y = several(device)
    whole.fit(x, y, **SETTINGS)
    stopped, x, y = several(device)
    with pytest.raises(Stop):
        stopped.fit(
            x, y, **SETTINGS,
            callbacks=[Checkpoint(tmp_path / "c", every_steps=1), stop_after(n)],
        )  # fmt: skip
    again, x, y = several(device)
    again.fit(x, y, **SETTINGS, resume=tmp_path / "c")
    assert {"kind_loss", "size_loss", "kind_f1", "size_mae"} <= again.history.history.keys()
    assert everything(again) == everything(whole)
    other, x, y = several(device)
    with pytest.raises(nnx.CheckpointError, match="data is"):
        other.fit({**x, "b": X}, y, **SETTINGS, resume=tmp_path / "c")


@pytest.mark.parametrize("n", [1, 7])
def test_training_on_rows_of_a_file_goes_on_bit_for_bit(tmp_path, n, monkeypatch):
    monkeypatch.setattr(rows, "MAPPED_BYTES", 0)
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = compiled()
    whole.fit(x, Y, **SETTINGS)
    path = tmp_path / "c"
    with pytest.raises(Stop):
        compiled().fit(x, Y, **SETTINGS, callbacks=[Checkpoint(path, every_steps=1), stop_after(n)])
    again = compiled()
    again.fit(x, Y, **SETTINGS, resume=path)
    assert everything(again) == everything(whole)


def test_training_goes_on_elsewhere_with_the_same_shuffles_and_masks(tmp_path, usable):
    path = tmp_path / "run"
    whole = compiled("numpy")
    whole.fit(X, Y, **SETTINGS)
    _, generator, _, history = everything(whole)
    with pytest.raises(Stop):
        compiled("numpy").fit(
            X, Y, **SETTINGS, callbacks=[Checkpoint(path, every_steps=1), stop_after(7)]
        )
    again = compiled(usable)
    again.fit(X, Y, **SETTINGS, resume=path)
    assert again.device == usable
    assert nnx.random.default_generator().state_dict() == generator
    for name, values in history.items():
        assert np.allclose(again.history.history[name], values, rtol=1e-4), name
    other = compiled(usable)
    nnx.random.seed(12)
    other.fit(X, Y, **SETTINGS)
    assert not np.allclose(other.history.history["loss"], history["loss"], rtol=1e-4)


def test_device_auto_goes_on_where_the_training_was(tmp_path):
    path = tmp_path / "run"
    compiled("loops").fit(X, Y, **SETTINGS, callbacks=[Checkpoint(path)])
    again = compiled("auto")
    again.fit(X, Y, **SETTINGS, resume=path)
    assert again.device == "loops" and again.device_report is None


@pytest.mark.parametrize("rate", [0.01, optim.schedules.cosine(0.01, 12)])
def test_rate_set_by_a_callback_and_schedule_go_on(tmp_path, rate):
    path, current, lr = tmp_path / "run", [], []

    def make():
        current[:] = [compiled(optimizer=optim.Adam(rate))]
        return current[0]

    def optimizer():
        return nnx.fit.compiled(current[0]).optimizer

    def lower(epoch, logs):
        optimizer().lr *= 0.5

    extra = [] if callable(rate) else [LambdaCallback(on_epoch_end=lower)]
    whole = make()
    whole.fit(X, Y, **SETTINGS, callbacks=extra)
    expected = everything(whole)
    with pytest.raises(Stop):
        make().fit(X, Y, **SETTINGS, callbacks=[*extra, Checkpoint(path), stop_after(11)])
    again = make()
    seen = LambdaCallback(on_epoch_begin=lambda *_: lr.append(optimizer().lr))
    again.fit(X, Y, **SETTINGS, callbacks=[*extra, seen], resume=path)
    assert everything(again) == expected
    assert lr[0] == (rate(9) if callable(rate) else 0.01 / 4)


class Looks(LambdaCallback):
    """Keeps what it saw, as a user's callback would."""

    kept = ("seen",)

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append({"epoch": epoch, "loss": logs["loss"], "at": (epoch, np.arange(2))})


@pytest.mark.parametrize("first", [True, False])
def test_callbacks_go_on_with_what_they_knew(tmp_path, first):
    """Whether the checkpoint comes before them in the list or after."""

    def callbacks(*more):
        stop = EarlyStopping("loss", patience=2, restore_best_weights=True)
        best = Checkpoint(tmp_path / "best", monitor="val_loss")
        return [*more, best, stop, Looks()] if first else [stop, Looks(), best, *more]

    settings = SETTINGS | {"epochs": 12}
    whole, kept = compiled(), callbacks()
    whole.fit(X, Y, **settings, callbacks=kept)
    expected, best = everything(whole), (tmp_path / "best").read_bytes()
    n_epochs = len(whole.history.epoch)
    assert 3 < n_epochs < 12
    for epochs in range(1, n_epochs + 1):
        path = tmp_path / f"run{epochs}"
        (tmp_path / "best").unlink(missing_ok=True)
        stop = LambdaCallback(on_epoch_begin=functools.partial(raise_at, epochs),
                              on_train_end=functools.partial(raise_at, 0, 0))  # fmt: skip
        with pytest.raises(Stop):
            compiled().fit(X, Y, **settings, callbacks=callbacks(stop, Checkpoint(path)))
        again, kept_again = compiled(), callbacks()
        again.fit(X, Y, **settings, callbacks=kept_again, resume=path)
        assert everything(again) == expected, epochs
        looks, looks_again = (next(c for c in list_ if isinstance(c, Looks))
                              for list_ in (kept, kept_again))  # fmt: skip
        assert repr(looks.seen) == repr(looks_again.seen)
        stops = [next(c for c in list_ if isinstance(c, EarlyStopping))
                 for list_ in (kept, kept_again)]  # fmt: skip
        assert stops[0].stopped_epoch == stops[1].stopped_epoch == n_epochs - 1
        assert nn.load(tmp_path / "best").state_dict().keys() == again.state_dict().keys()
        read_best = [checkpoint.read_tensors(tmp_path / "best")[0]]
        (tmp_path / "best").write_bytes(best)
        read_best.append(checkpoint.read_tensors(tmp_path / "best")[0])
        assert all(np.array_equal(read_best[0][k], read_best[1][k]) for k in read_best[1])


def raise_at(wanted, epoch, logs=None):
    if epoch == wanted:
        raise Stop


def test_training_that_a_callback_stopped_is_at_its_end(tmp_path):
    def stop(epoch, logs):
        current[0].stop_training = epoch == 1

    path, current = tmp_path / "run", []
    for more in ([Checkpoint(path)], []):
        current[:] = [compiled()]
        current[0].fit(
            X, Y, **SETTINGS, callbacks=[LambdaCallback(on_epoch_end=stop), *more],
            resume=None if more else path,
        )  # fmt: skip
        assert current[0].history.epoch == [0, 1]
    stopped = LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(current[0], "stop_training", True)
    )
    current[:] = [compiled()]
    with pytest.raises(Stop):
        current[0].fit(
            X, Y, **SETTINGS, callbacks=[stopped, Checkpoint(path, every_steps=1), stop_after(3)]
        )
    assert compiled().fit(X, Y, **SETTINGS, resume=path).epoch == [0]


def test_state_of_a_callback_that_is_gone_is_told(tmp_path):
    path = tmp_path / "run"
    early = EarlyStopping("val_accuracy", patience=1)
    model = compiled()
    model.fit(X, Y, **SETTINGS | {"epochs": 20}, callbacks=[early, Checkpoint(path)])
    n = len(model.history.epoch)
    assert n < 20
    with pytest.warns(UserWarning, match="state of EarlyStopping"):
        assert compiled().fit(X, Y, **SETTINGS | {"epochs": n + 1}, resume=path).epoch[-1] == n
    patient = EarlyStopping("val_accuracy", patience=50)
    history = compiled().fit(X, Y, **SETTINGS | {"epochs": n + 2}, callbacks=[patient], resume=path)
    assert len(history.epoch) == n + 2


def test_callback_with_what_no_file_can_hold_is_named(tmp_path):
    odd = Looks()
    odd.on_epoch_end = lambda *_: odd.seen.append({1})
    with pytest.raises(CheckpointError, match=r"state.callbacks.0.1.seen.0, a set"):
        compiled().fit(X, Y, **SETTINGS, callbacks=[odd, Checkpoint(tmp_path / "run")])
    assert os.listdir(tmp_path) == []


def test_resume_of_a_finished_training_does_nothing(tmp_path):
    path = tmp_path / "run"
    model = compiled()
    model.fit(X, Y, epochs=2, callbacks=[Checkpoint(path)])
    again = compiled()
    assert again.fit(X, Y, epochs=2, resume=path).epoch == [0, 1]
    assert everything(again) == everything(model)
    assert again.fit(X, Y, epochs=1, resume=path).epoch == [0, 1]


def test_training_file_holds_a_network_too(tmp_path):
    path = tmp_path / "run"
    model = compiled()
    model.fit(X, Y, epochs=1, callbacks=[Checkpoint(path)])
    loaded = nn.load(path).state_dict()
    assert all(np.array_equal(loaded[k], v) for k, v in model.state_dict().items())
    saved = read(path)
    assert saved.path == str(path) and saved.device == "numpy"
    assert saved.state["history"] == model.history.history


def test_own_module_resumes_with_its_own_generator(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            self.a = nn.Dense(3, in_features=4)
            self.held = {"noise": [nnx.random.Generator(4)]}

        def forward(self, x):
            noise = self.held["noise"][0].normal(0.0, 1.0, x.shape, device=x.device)
            return self.a(x + noise)

    def make():
        nnx.random.seed(1)
        return compiled(model=Own())

    whole = make()
    whole.fit(X, Y, **SETTINGS)
    expected = everything(whole)
    with pytest.raises(Stop):
        make().fit(X, Y, **SETTINGS, callbacks=[Checkpoint(tmp_path / "run"), stop_after(8)])
    again = make()
    again.fit(X, Y, **SETTINGS, resume=tmp_path / "run")
    assert everything(again) == expected
    with pytest.raises(CheckpointError, match="weights of Own"):
        nn.load(tmp_path / "run")
    other = make()
    other.held["noise"].append(nnx.random.Generator(1))
    with pytest.raises(CheckpointError, match=r"model.held.noise.1"):
        other.fit(X, Y, **SETTINGS, resume=tmp_path / "run")


class Batches:
    """Batches in another order in every pass, drawn from nnx.random."""

    def __iter__(self):
        order = nnx.random.default_generator().host_permutation(48)
        for part in order.reshape(6, 8):
            noise = nnx.random.default_generator().host_normal(0.0, 0.1, (8, 4))
            yield X[part] + noise, Y[part]


@pytest.mark.parametrize("kind", ["list", "object"])
def test_iterables_go_on_past_the_batches_that_were_done(tmp_path, kind):
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]
    source = batches if kind == "list" else Batches()
    settings = {"epochs": 3, "verbose": 0}
    whole = compiled()
    whole.fit(source, **settings)
    expected = everything(whole)
    for n in (1, 5, 6, 7, 13):
        path = tmp_path / str(n)
        with pytest.raises(Stop):
            compiled().fit(
                source, **settings, callbacks=[Checkpoint(path, every_steps=1), stop_after(n)]
            )
        again = compiled()
        again.fit(source, **settings, resume=path)
        assert everything(again) == expected, n
    if kind == "list":
        with pytest.raises(CheckpointError, match="data is batches .* 6 many there"):
            compiled().fit(batches[:3], **settings, resume=tmp_path / "5")
        short = (batch for batch in batches[:3])
        plain = {"epochs": 1, "verbose": 0}
        with pytest.raises(Stop):
            compiled().fit((b for b in batches), **plain,
                           callbacks=[Checkpoint(path, every_steps=1), stop_after(5)])  # fmt: skip
        with pytest.raises(DataError, match="gave 3 batches, and 5 of the epoch"):
            compiled().fit(short, **plain, resume=path)
        again, unbroken = compiled(), compiled()
        unbroken.fit((b for b in batches), **plain)
        expected = everything(unbroken)
        again = compiled()
        again.fit((b for b in batches), **plain, resume=path)
        assert everything(again) == expected


# When it saves


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_blocks_of_steps_end_where_a_save_is_due(tmp_path, device, monkeypatch):
    saves, size = [], 2

    def save(self):
        saves.append((self.training.epoch, self.training.running.step))
        real(self)

    real = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", save)
    plain, kept = compiled(device), compiled(device)
    nnx.random.seed(3)
    plain.fit(X, Y, batch_size=size, epochs=2)
    nnx.random.seed(3)
    kept.fit(X, Y, batch_size=size, epochs=2, callbacks=[Checkpoint(tmp_path / "r", every_steps=7)])
    assert saves == [(0, 7), (0, 14), (0, 21), (1, 0), (1, 7), (1, 14), (1, 21), (2, 0)]
    assert everything(kept) == everything(plain)


def test_figures_do_not_depend_on_how_many_steps_are_done_at_once(monkeypatch):
    monkeypatch.setattr(metrics.Tally, "ROWS", 20)
    rows = np.eye(3, dtype=np.float32)[Y]
    found = []
    for block_s in (1e-9, 1e-4, 1.0):
        monkeypatch.setattr(nnx.loop, "BLOCK_S", block_s)
        model = network()
        model.compile("adam", "cross_entropy", ["mse", "r2"], "numba")
        found.append(model.fit(np.tile(X, (9, 1)), np.tile(rows, (9, 1)), batch_size=3).history)
    assert found[0] == found[1] == found[2]


def test_saves_after_seconds(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(Checkpoint, "save", lambda self: saves.append(1))
    never, always = (Checkpoint(tmp_path / "r", every_s=s) for s in (1e9, 0))
    compiled().fit(X, Y, batch_size=10, callbacks=[never])
    assert len(saves) == 1
    compiled().fit(X, Y, batch_size=10, callbacks=[always], jit=False)
    assert len(saves) == 1 + 6


def test_checkpoint_refuses_settings_that_do_not_fit(tmp_path):
    for settings, words in (
        ({"every_steps": 0}, "every_steps"), ({"every_steps": 2.5}, "every_steps"),
        ({"every_s": -1}, "every_s"), ({"monitor": "loss", "every_s": 1}, "Use two"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            Checkpoint(tmp_path / "r", **settings)


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_ctrl_c_saves_the_step_it_came_after(tmp_path, device):
    path = tmp_path / "run"
    settings = SETTINGS | {"batch_size": 1}
    whole = compiled(device)
    whole.fit(X, Y, **settings)
    expected = everything(whole)

    def interrupt(batch, logs):
        if batch == 17 and len(model.history.epoch) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model = compiled(device)
    stop = LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(TrainingInterrupted, match=r"18 of 40 steps.*resume='.*run'"):
        model.fit(X, Y, **settings, callbacks=[Checkpoint(path), stop])
    state = read(path).state
    assert (state["epoch"], state["step"]) == (1, 18)
    again = compiled(device)
    again.fit(X, Y, **settings, resume=path)
    assert everything(again) == expected
    with pytest.raises(TrainingInterrupted, match="initial_epoch=1"):
        model = compiled(device)
        model.fit(X, Y, **settings, callbacks=[stop])


# What is refused


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A checkpoint within an epoch."""
    path = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(Stop):
        compiled().fit(
            X, Y, **SETTINGS, sample_weight=np.ones(50), class_weight={0: 2.0},
            callbacks=[Checkpoint(path, every_steps=1), stop_after(7)],
        )  # fmt: skip
    return path


def network_of_seed(seed):
    model = network()
    nnx.random.seed(seed)
    return compiled(model=model)


def changed(array):
    array = array.copy()
    array[3] += 1
    return array


DIFFERENT = {
    "network": (lambda: compiled(model=network(4)), {}),
    "parameter type": (lambda: compiled(model=network().to(nnx.float64)), {}),
    "optimizer": (lambda: compiled(optimizer=optim.SGD(0.01)), {}),
    "optimizer's lr": (lambda: compiled(optimizer=optim.Adam(0.02)), {}),
    "optimizer's betas": (lambda: compiled(optimizer=optim.Adam(0.01, betas=(0.8, 0.9))), {}),
    "loss": (lambda: compiled(loss=lambda p, y, reduction="mean":
                              nn.cross_entropy(p, y, reduction=reduction)), {}),
    "batch_size": (compiled, {"batch_size": 9}),
    "shuffle": (compiled, {"shuffle": False}),
    "data": (compiled, {"x": changed(X)}),
    "validation data": (compiled, {"validation_split": 0.0, "validation_data": (X[:9], Y[:9])}),
    "class_weight": (compiled, {"class_weight": {0: 3.0}}),
    "sample_weight": (compiled, {"sample_weight": np.full(50, 2.0)}),
    "seed": (lambda: network_of_seed(12), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_training_is_refused_and_what_differs_named(begun, name):
    make, other = DIFFERENT[name]
    model = make()
    settings = SETTINGS | {
        "x": X, "y": Y, "sample_weight": np.ones(50), "class_weight": {0: 2.0}, **other
    }  # fmt: skip
    model(X[:1])
    nnx.fit.compiled(model).optimizer.bind(model)
    before = model.state_dict(), nnx.random.default_generator().state_dict()
    with pytest.raises(CheckpointError) as caught:
        model.fit(**settings, resume=begun)
    told = str(caught.value)
    assert "is of another training" in told
    for fact in DIFFERENT:
        assert (f" {fact} is " in told) == (fact == name or (name, fact) in ALSO), told
    after = model.state_dict()
    assert all(np.array_equal(before[0][k], after[k]) for k in after)
    assert nnx.random.default_generator().state_dict() == before[1]
    assert "history" not in vars(model)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Dense(4, "tanh"), nn.Dense(3)],
         r"layers\[0\]\.units is 5 there and 4 here, layers\[1\]\.in_features is 5 there"),
        ([nn.Dense(5, "relu"), nn.Dense(3)], r"activation is tanh there and relu here\. To go on"),
        ([nn.Dense(5, "tanh"), nn.Dropout(0.5), nn.Dense(3)], "layers has 2 there and 3 here"),
        ([nn.Dense(5, "tanh"), nn.Sequential(nn.Dense(3))],
         r"layers\[1\] is Dense there and Sequential here"),
    ],
)  # fmt: skip
def test_another_network_is_told_by_the_settings_that_differ(layers, words, tmp_path):
    def fitted(*layers, **settings):
        nnx.random.seed(1)
        return compiled(model=nn.Sequential(*layers)).fit(X, Y, epochs=2, **settings)

    path = tmp_path / "run"
    fitted(nn.Dense(5, "tanh"), nn.Dense(3), callbacks=Checkpoint(path))
    with pytest.raises(CheckpointError, match=f"network is not the same: .*{words}"):
        fitted(*layers, resume=path)


ALSO = {("validation data", "data"), ("validation data", "sample_weight")}


def test_what_is_the_same_is_not_refused(begun):
    given = {"sample_weight": np.ones(50), "class_weight": {0: 2.0}}
    compiled().fit(X, Y, **SETTINGS | {"epochs": 4}, **given, resume=begun)


def test_seed_that_nobody_chose_is_taken_from_the_file(begun, tmp_path, monkeypatch):
    model = network_of_seed(12)
    monkeypatch.setattr(nnx.random, "_chosen", False)
    given = {"sample_weight": np.ones(50), "class_weight": {0: 2.0}}
    path = tmp_path / "run"
    model.fit(X, Y, **SETTINGS, **given, resume=begun, callbacks=[Checkpoint(path)])
    assert nnx.random.default_generator().state_dict()["seed"] == 11
    compiled().fit(X, Y, **SETTINGS, **given, resume=path)


def test_schedule_that_differs_is_refused(tmp_path):
    path = tmp_path / "run"
    schedules = optim.schedules
    make = lambda rate: compiled(optimizer=optim.SGD(rate))  # noqa: E731
    make(schedules.cosine(0.1, 100)).fit(X, Y, callbacks=[Checkpoint(path)])
    make(schedules.cosine(0.1, 100)).fit(X, Y, resume=path)
    with pytest.raises(CheckpointError, match="optimizer's lr is a schedule"):
        make(schedules.cosine(0.1, 200)).fit(X, Y, resume=path)
    with pytest.raises(CheckpointError, match="optimizer's lr is a schedule .* and 0.1 here"):
        make(0.1).fit(X, Y, resume=path)


def test_large_data_is_told_apart_by_rows_spread_over_it(tmp_path):
    rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(np.int64)

    def model():
        nnx.random.seed(1)
        made = nn.Sequential(nn.Dense(2, in_features=64))
        made.compile(optim.SGD(0.1), "cross_entropy")
        return made

    model().fit(rows, labels, batch_size=5000, callbacks=[Checkpoint(tmp_path / "run")])
    model().fit(rows, labels, batch_size=5000, resume=tmp_path / "run")
    for other in (rows * 2, rows[::-1], rows[:-1], np.roll(rows, 1, axis=0)):
        with pytest.raises(CheckpointError, match="data is x"):
            model().fit(other, labels[: len(other)], batch_size=5000, resume=tmp_path / "run")


def rewritten(path, change):
    arrays, texts = checkpoint.read_tensors(path)
    change(arrays, texts)
    checkpoint.write_tensors(path, arrays, texts)


def edit(*keys, value=None):
    """Return a change of the state's JSON, which is dicts within dicts."""

    def change(arrays, texts):
        state = json.loads(texts["training"])
        place = state["dict"]
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        texts["training"] = json.dumps(state)

    return change


@pytest.mark.parametrize(("change", "words"), [
    (lambda a, t: t.update(version="2, nnx 9.0"), "form 2, written by nnx 9.0"),
    (lambda a, t: t.pop("version"), "older nnx"),
    (lambda a, t: t.update(format="nnx 2"), "Update nnx"),
    (lambda a, t: t.update(kind="model"), "holds a model"),
    (lambda a, t: t.update(training="{"), "no training of nnx"),
    (lambda a, t: t.update(training="[1]"), "no training of nnx"),
    (lambda a, t: a.update({"optimizer.0.extra": np.zeros(3)}), "0.extra"),
    (lambda a, t: a.pop("model.0.bias"), "0.bias"),
    (edit("epoch"), "epoch"), (edit("step", value=-1), "-1"), (edit("tally", value=3), "training"),
    (edit("random", "dict", "", "dict", "block", value=-1), "block"),
    (edit("start", value=7), "start|state|int"),
    (edit("device", value={"tensor": "none"}), "none"),
])  # fmt: skip
def test_sound_file_of_something_else_is_refused(tmp_path, begun, change, words):
    path = tmp_path / "run"
    path.write_bytes(begun.read_bytes())
    rewritten(path, change)
    model = compiled()
    model(X[:1])
    nnx.fit.compiled(model).optimizer.bind(model)
    before = model.state_dict(), nnx.random.default_generator().state_dict()
    given = {"sample_weight": np.ones(50), "class_weight": {0: 2.0}}
    with pytest.raises(CheckpointError, match=words):
        model.fit(X, Y, **SETTINGS, **given, resume=path)
    after = model.state_dict()
    assert all(np.array_equal(before[0][k], after[k]) for k in after)
    assert nnx.random.default_generator().state_dict() == before[1]


def test_missing_file_is_said_before_anything_else(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        compiled().fit(X, Y, resume=tmp_path / "none")


# Damage


def test_previous_generation_is_kept_and_taken_where_the_newest_is_damaged(tmp_path):
    path = tmp_path / "run"
    whole = compiled()
    whole.fit(X, Y, **SETTINGS)
    expected = everything(whole)
    with pytest.raises(Stop):
        compiled().fit(X, Y, **SETTINGS, callbacks=[Checkpoint(path, every_steps=2), stop_after(9)])
    assert sorted(os.listdir(tmp_path)) == ["run", "run.previous"]
    newest, previous = path.read_bytes(), Path(previous_of(path)).read_bytes()
    assert [read(p).state["step"] for p in (path, previous_of(path))] == [4, 2]
    for damage in (lambda: path.write_bytes(newest[:-1]), path.unlink):
        path.write_bytes(newest)
        Path(previous_of(path)).write_bytes(previous)
        damage()
        again = compiled()
        with pytest.warns(UserWarning, match=r"run.*goes on from the one before it, .*\.previous"):
            again.fit(X, Y, **SETTINGS, resume=path)
        assert everything(again) == expected
    path.write_bytes(newest[:-1])
    Path(previous_of(path)).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"damaged.*one before it fails too.*it is empty"):
        compiled().fit(X, Y, **SETTINGS, resume=path)


def test_damaged_file_never_takes_the_place_of_the_last_good_one(tmp_path):
    """A kill between two renames would then leave none."""
    path = tmp_path / "run"
    compiled().fit(X, Y, **SETTINGS, callbacks=[Checkpoint(path)])
    good = Path(previous_of(path)).read_bytes()
    path.write_bytes(path.read_bytes()[:-1])
    saves = []

    def after(*_):
        saves.append(Path(previous_of(path)).read_bytes())

    with pytest.warns(UserWarning, match="goes on from"):
        compiled().fit(
            X, Y, **SETTINGS | {"epochs": 5}, resume=path,
            callbacks=[Checkpoint(path), LambdaCallback(on_epoch_begin=after)],
        )  # fmt: skip
    assert saves[0] == good and saves[1] == good and saves[2] != good
    assert read(previous_of(path)).state["epoch"] == 4


def test_damage_is_never_silent(tmp_path, begun):
    """2,000 flipped bits, cut ends and added bytes: each is noticed, and the other file taken."""
    path = tmp_path / "run"
    whole = begun.read_bytes()
    other = Path(previous_of(begun)).read_bytes()
    Path(previous_of(path)).write_bytes(other)
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    header = 8 + int.from_bytes(whole[:8], "little")
    silent = 0
    for i in range(2000):
        damaged = bytearray(whole)
        if i % 4 == 3:
            del damaged[draw.randrange(len(whole)) :]
        elif i % 50 == 1:
            damaged += draw.randbytes(draw.randrange(1, 9))
        else:
            place = draw.randrange(8 * (header if i % 2 else len(whole)))
            damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            saved = read(path)
        noticed = len(told) == 1 and f"{path}.previous" in str(told[0].message)
        silent += not noticed or saved.path != previous_of(path)
    assert silent == 0
    path.write_bytes(whole)
    assert read(path).path == str(path)


# Faults

CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink")


class Faulty:
    """Counts the calls of os that saving makes, and lets the n-th fail."""

    def __init__(self, monkeypatch, n=None, error=None):
        self.log, self.n, self.error = [], n, error
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(*args, **settings):
            self.log.append(name)
            if len(self.log) == self.n:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if name == "close":
                    real(*args)
                raise self.error
            return real(*args, **settings)

        return call


def small(device="numpy"):
    nnx.random.seed(2)
    model = nn.Sequential(nn.Dense(3, in_features=4))
    model.compile(optim.Adam(0.1), "cross_entropy", device=device)
    return model


SMALL = {"batch_size": 4, "epochs": 2, "jit": False, "verbose": 0}


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
])  # fmt: skip
def test_fault_at_every_call_of_a_training_leaves_a_good_file(tmp_path, error):
    x, y = X[:12], Y[:12]
    whole = small()
    whole.fit(x, y, **SMALL)
    expected = everything(whole)
    path = tmp_path / "run"
    keep = functools.partial(Checkpoint, path, every_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        log = Faulty(patch).log
        small().fit(x, y, **SMALL, callbacks=[keep()])
        log = list(log)
    assert log.count("replace") == 2 * 4 - 1  # four saves, of which three keep the one before
    failed = 0
    for n in range(1, len(log) + 1):
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        with pytest.MonkeyPatch.context() as patch:
            Faulty(patch, n, error)
            try:
                small().fit(x, y, **SMALL, callbacks=[keep()])
            except (CheckpointError, KeyboardInterrupt):
                failed += 1
        there = log[:n].count("fsync") > 1
        assert path.exists() >= there, n
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")], n
        again = small()
        again.fit(x, y, **SMALL, resume=path if path.exists() else None)
        assert everything(again) == expected, n
    # Only to remove what an earlier program left may fail without a word.
    assert failed >= len(log) - log.count("unlink")


def test_file_systems_without_links_keep_the_previous_one_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "run"
    compiled().fit(X, Y, **SETTINGS, callbacks=[Checkpoint(path)])
    assert sorted(os.listdir(tmp_path)) == ["run", "run.previous"]
    assert [read(p).state["epoch"] for p in (path, previous_of(path))] == [3, 2]


def test_full_disk_leaves_the_last_good_file(tmp_path):
    """The limit of a file's size stands for the disk's: the n-th byte is refused."""
    path = tmp_path / "run"
    x, y = X[:12], Y[:12]
    whole = small()
    whole.fit(x, y, **SMALL)
    expected = everything(whole)
    small().fit(x, y, **SMALL | {"epochs": 1}, callbacks=[Checkpoint(path)])
    before, size = path.read_bytes(), path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room in (0, 1, 100, size // 2, size - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(CheckpointError, match="too large"):
                small().fit(x, y, **SMALL, resume=path, callbacks=[Checkpoint(path)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert path.read_bytes() == before and os.listdir(tmp_path) == ["run"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = small()
    again.fit(x, y, **SMALL, resume=path)
    assert everything(again) == expected


# Kills


def killed(tmp_path, device, kills, kind):
    """Return what tests/killed_training.py found; its seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    program = Path(__file__).with_name("killed_training.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), device, str(seed), str(kills), kind],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_training_that_is_killed_at_random_steps_ends_with_the_same_bits(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 5, "steps")
    assert found["kills"] >= 5 and found["lost"] == found["different"] == 0


def test_kill_while_saving_never_loses_the_training(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 8, "saving")
    assert found["kills"] >= 8 and found["lost"] == found["different"] == 0


@pytest.mark.slow
def test_fifty_kills_at_random_steps(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 50, "steps")
    assert found["lost"] == found["different"] == 0


@pytest.mark.slow
def test_hundred_kills_while_saving(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 100, "saving")
    assert found["lost"] == found["different"] == 0


@pytest.fixture(params=["numpy", "numba"])
def usable_native(request):
    """The devices whose steps run one by one, and in native blocks."""
    return request.param


# The command


TRAIN = """
import sys
from nnx.cli import main, training
training.SAVE_S = 0.02
sys.exit(main())
"""


def nnx_train(folder, *more):
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, "train", "iris", "--device", "numpy", "--epochs", "100",
         "--batch-size", "3", "--validation-split", "0.2", "--out", str(folder), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_files(folder):
    return {name: (folder / name).read_bytes()
            for name in ("model.safetensors", "history.csv", "config.json")}  # fmt: skip


def killed_run(folder, signals, draw):
    """Train with the command, sending it signals; return how many it got before its end."""
    sent, resumed = 0, False
    while True:
        process = nnx_train(folder, *(["--resume"] if resumed else []))
        number = signals[sent] if sent < len(signals) else None
        if number is not None:
            path, before = folder / CHECKPOINT, (folder / CHECKPOINT).exists()
            start = path.stat().st_mtime_ns if before else 0
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if path.exists() and path.stat().st_mtime_ns > start:
                    break
                time.sleep(0.005)
            time.sleep(draw.random() * 0.3)
            process.send_signal(number)
        _, err = process.communicate(timeout=120)
        if process.returncode == 0:
            return sent
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), err
        assert "Traceback" not in err
        sent, resumed = sent + 1, True


def test_nnx_train_goes_on_after_kills_and_ctrl_c(tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)
    process = nnx_train(tmp_path / "whole")
    assert process.communicate(timeout=120) and process.returncode == 0
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    assert killed_run(tmp_path / "parts", signals, random.Random(seed)) == 3
    assert run_files(tmp_path / "parts") == run_files(tmp_path / "whole")


SLOW = ["--device", "loops", "--hidden", "48", "--batch-size", "1", "--epochs", "1"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nnx_train_goes_on_when_it_was_stopped_in_its_first_epoch(tmp_path, number):
    command = [sys.executable, "-c", "import sys; from nnx.cli import main; sys.exit(main())",
               "train", "iris", *SLOW, "--out"]  # fmt: skip
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    process = subprocess.Popen([*command, str(parts)], stderr=subprocess.PIPE, text=True)
    while not (parts / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else -number), err
    if number == signal.SIGINT:
        state = read(parts / CHECKPOINT).state
        assert state["epoch"] == 0 and 0 < state["step"] < 120
        assert f"stopped after 0 of 1 epochs and {state['step']} steps" in err
        again = subprocess.run([*command, str(parts)], capture_output=True, text=True)
        assert again.returncode == 2 and "--resume" in again.stderr
    else:
        assert not (parts / CHECKPOINT).exists()
    for more in ([str(parts), "--resume"], [str(whole)]):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert run_files(parts) == run_files(whole)
