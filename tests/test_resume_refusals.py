"""What going on refuses: another training, files of something else, and damage."""

from __future__ import annotations

import json
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import checkpoint, nn, optim
from nnx.callbacks import Checkpoint, LambdaCallback
from nnx.errors import CheckpointError
from nnx.files import previous_of
from nnx.resume import read
from tests.stopped_training import SETTINGS, Stop, X, Y, compiled, everything, network, stop_after

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
