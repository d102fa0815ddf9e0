"""Going on exactly: what a checkpoint holds, and when it is saved."""

from __future__ import annotations

import functools
import os
import signal

import numpy as np
import pytest

import nnx
from nnx import checkpoint, metrics, nn, optim, rows
from nnx.callbacks import Checkpoint, EarlyStopping, LambdaCallback
from nnx.errors import CheckpointError, DataError
from nnx.fit import TrainingInterrupted
from nnx.resume import read
from tests.stopped_training import SETTINGS, Stop, X, Y, compiled, everything, network, stop_after

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
