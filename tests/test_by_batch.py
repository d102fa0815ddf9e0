"""One batch at a time: the steps, figures and refusals of `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.errors import DataError, LabelError, NonFiniteError, ShapeError
from nnx.fit import compiled

X = nnx.random.Generator(1).host_normal(0.0, 1.0, (48, 4))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
DEVICES = ["numpy", "numba", "loops", "array_api:array_api_strict"]


def classifier(device="numpy", built=True, dropout=0.3):
    nnx.random.seed(3)
    n_in, n_hidden = (4, 6) if built else (None, None)
    layers = nn.Dense(6, "tanh", in_features=n_in), nn.Dense(3, in_features=n_hidden)
    model = nn.Sequential(layers[0], nn.Dropout(dropout), layers[1])
    model.compile(optim.Adam(0.02), "cross_entropy", ["accuracy", "f1"], device)
    return model


def batches(*columns):
    for start in range(0, 48, 16):
        yield tuple(column[start : start + 16] for column in columns)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("jit", [True, False])
def test_steps_are_those_of_fit(device, jit):
    by_batch, whole = classifier(device, built=False), classifier(device, built=False)
    nnx.random.seed(5)
    found = [by_batch.train_on_batch(*batch, jit=jit) for batch in batches(X, Y)]
    nnx.random.seed(5)
    whole.fit(X, Y, batch_size=16, shuffle=False, jit=jit)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(by_batch.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    history = whole.history.history
    for name in ("loss", "accuracy"):
        assert np.mean([figures[name] for figures in found]) == pytest.approx(history[name][0])
    assert by_batch.training and compiled(by_batch).optimizer.step_count == 3


@pytest.mark.parametrize("settings", [{"class_weight": {0: 3.0, 2: 0.5}}, {}])
def test_weights_are_those_of_fit(settings):
    weight = np.arange(48) % 5
    by_batch, whole = classifier(dropout=0.0), classifier(dropout=0.0)
    for x, y, w in batches(X, Y, weight):
        by_batch.train_on_batch(x, y, w, **settings)
    whole.fit(X, Y, batch_size=16, shuffle=False, sample_weight=weight, **settings)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(by_batch.state_dict()[name], value, rtol=1e-6)


def test_figures_and_outputs_are_those_of_evaluate_and_predict():
    model, weight = classifier(), np.arange(48) % 5
    model.train_on_batch(X, Y)
    assert model.test_on_batch(X, Y) == model.evaluate(X, Y)
    assert model.test_on_batch(X, Y, weight) == model.evaluate(X, Y, sample_weight=weight)
    assert np.array_equal(model.predict_on_batch(X), model.predict(X))
    assert model.predict_on_batch(X[:1].tolist()).shape == (1, 3)


@pytest.mark.parametrize("jit", [True, False])
def test_layers_run_as_in_training_and_the_mode_stays(jit):
    losses = []
    for training in (True, False):
        model = classifier().train(training)
        nnx.random.seed(5)
        losses.append(model.train_on_batch(X, Y, jit=jit)["loss"])
        assert model.training is training
    assert losses[0] == losses[1] != classifier().test_on_batch(X, Y)["loss"]


def test_the_step_is_compiled_once():
    model = classifier("numba")
    for _ in range(3):
        for batch in batches(X, Y):
            model.train_on_batch(*batch)
    model.train_on_batch(X[:5], Y[:5])
    assert compiled(model).jitted.function._traces == 1


def test_auto_is_settled_at_the_first_batch(monkeypatch, tmp_path):
    from nnx import calibrate

    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path)
    model = classifier("auto")
    model.train_on_batch(X, Y)
    assert model.device_report.choice == model.device.name


@pytest.mark.parametrize(
    ("args", "settings", "error", "words"),
    [
        ((X, Y + 1), {}, LabelError, "Label 3"),
        ((X, Y[:5]), {}, LabelError, "row 5 is the first"),
        ((X[:, :3], Y), {}, ShapeError, "takes 4 features"),
        ((X[:0], Y[:0]), {}, DataError, "is empty"),
        ((X, Y), {"class_weight": {3: 1.0}}, DataError, "class 3, which does not exist"),
        ((X, Y), {"class_weight": {0: float("nan")}}, DataError, "is nan"),
        ((X, Y), {"sample_weight": -np.ones(48)}, DataError, "-1.0 at row 0"),
        ((np.where(X == X[7, 1], np.nan, X), Y), {}, NonFiniteError, "is row 7 of x "),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_bad_batch_is_refused_before_anything_changes(args, settings, error, words, first):
    model = classifier()
    if not first:
        model.train_on_batch(X, Y)
    before = model.state_dict()
    with pytest.raises(error, match=words):
        model.train_on_batch(*args, **settings)
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_that_is_not_compiled_says_so():
    with pytest.raises(DataError, match="is not compiled"):
        nn.Sequential(nn.Dense(3)).train_on_batch(X, Y)
