"""`fit` compiles its step: it must learn, refuse and stop exactly as it does without."""

import copy
import signal

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.callbacks import Callback
from nnx.epoch import Epoch
from nnx.loop import JittedStep, TrainingInterrupted

ROWS = 150
RNG = np.random.default_rng(11)
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
Y = RNG.integers(0, 3, ROWS)
DEVICES = ("numba", "numpy", "array_api:array_api_strict")


@pytest.fixture
def many(monkeypatch):
    """Return a list that collects how many steps each native block did."""
    done = []
    run = Epoch.run

    def counted(self, *args, **settings):
        steps = run(self, *args, **settings)
        done.append(0 if steps is None else steps.done)
        return steps

    monkeypatch.setattr(Epoch, "run", counted)
    return done


def trained(jit, device="numba", optimizer=None, metrics=("accuracy",), layers=None, **settings):
    nnx.random.seed(2)
    model = nn.Sequential(
        *(layers or (nn.Dense(6, "tanh"), nn.Dropout(0.3), nn.Dense(3)))
    )  # fmt: skip
    model.compile(optimizer or optim.Adam(0.02), "cross_entropy", metrics, device)
    x, y = settings.pop("data", (X, Y))
    settings = {"batch_size": 8, "epochs": 3, **settings}
    error = None
    try:
        model.fit(x, y, jit=jit, **settings)
    except (nnx.NnxError, KeyboardInterrupt) as caught:
        error = caught
    return model, error


def agree(first, second, rtol=2e-5):
    """Assert that two trainings ended alike: weights, slots, history and random numbers."""
    (one, error_one), (two, error_two) = first, second
    assert type(error_one) is type(error_two)
    states = [{**m.state_dict(), **vars(m)["_compiled"].optimizer.state_dict()} for m in (one, two)]
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=rtol, atol=2e-6, err_msg=name)
    for name, values in one.history.history.items():
        np.testing.assert_allclose(two.history.history[name], values, rtol=rtol)
    return error_one, error_two


class Seen(Callback):
    """Notes what the batch hooks get."""

    def __init__(self, every=True):
        self.every_batch = every
        self.begun, self.ended = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append((batch, logs["loss"]))


SETTINGS = {
    "as it is": {},
    "in order": {"shuffle": False},
    "whole batches": {"batch_size": 10},
    "one batch": {"batch_size": 500},
    "weights": {"sample_weight": np.linspace(0.0, 2.0, ROWS)},
    "classes": {"class_weight": {0: 2.0, 2: 0.5}},
    "validated": {"validation_split": 0.2},
    "a schedule": {"optimizer": "schedule"},
    "no metrics": {"metrics": ()},
    "rows of targets": {"data": (X, np.eye(3, dtype=np.float32)[Y])},
    "every batch": {"callbacks": "every"},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SETTINGS)
def test_jitted_training_equals_eager(name, device):
    results = []
    for jit in (False, True):
        settings = dict(SETTINGS[name])
        seen = Seen()
        if settings.get("optimizer") == "schedule":
            settings["optimizer"] = optim.SGD(lambda done: 0.1 / (1 + done))
        if settings.get("callbacks") == "every":
            settings["callbacks"] = [seen]
        results.append(trained(jit, device, **settings))
        state = nnx.random.default_generator().state_dict()
        results[-1][0].noted = (state, seen)
    assert agree(*results) == (None, None)
    (one, seen_one), (two, seen_two) = (r[0].noted for r in results)
    assert one == two
    assert seen_one.begun == seen_two.begun
    for (i, a), (j, b) in zip(seen_one.ended, seen_two.ended, strict=True):
        assert i == j and a == pytest.approx(b, rel=1e-5)


def test_steps_run_natively_many_at_once(many):
    trained(True)
    # Of 19 steps in an epoch, the first and the last, smaller one are done alone.
    assert sum(many) == 3 * 17
    assert len(many) < 3 * 17 / 2


def test_batch_hooks_run_at_every_batch_unless_they_need_not(many):
    seen = Seen()
    trained(True, callbacks=[seen])
    assert seen.begun == list(range(19)) * 3 and len(seen.ended) == 57 and not many
    seen = Seen(every=False)
    trained(True, callbacks=[seen])
    assert sum(many) == 51 and seen.ended[-1][0] == 18 and 3 <= len(seen.ended) < 57


def bursts(rate_of, at):
    """Return a schedule that goes wrong at a step."""
    return lambda done: rate_of if done == at else 0.02


@pytest.mark.parametrize("device", ("numba", "numpy"))
@pytest.mark.parametrize("at", (0, 1, 5, 18))
def test_a_loss_that_is_not_finite_stops_as_in_eager_mode(at, device, many):
    settings = {
        "optimizer": optim.SGD(bursts(1e38, at)), "shuffle": True, "metrics": (),
        "layers": (nn.Dense(6, "relu"), nn.Dropout(0.3), nn.Dense(3)),
    }  # fmt: skip
    eager = trained(False, device, **settings)
    drawn = nnx.random.default_generator().state_dict()
    settings["optimizer"] = optim.SGD(bursts(1e38, at))
    settings["layers"] = (nn.Dense(6, "relu"), nn.Dropout(0.3), nn.Dense(3))
    first, second = agree(eager, trained(True, device, **settings), rtol=1e-3)
    assert isinstance(first, nnx.NonFiniteError) and "step" in str(first)
    assert str(first).split("First bad")[0] == str(second).split("First bad")[0]
    assert nnx.random.default_generator().state_dict() == drawn


def failing(at):
    def rate(done):
        if done == at:
            raise nnx.DataError("no rate for this step")
        return 0.02

    return rate


def test_a_schedule_that_fails_stops_after_the_steps_before(many):
    results = [trained(jit, optimizer=optim.SGD(failing(12)), metrics=()) for jit in (False, True)]
    errors = agree(*results)
    assert all(str(e) == "no rate for this step" for e in errors)
    assert sum(many) == 8  # what ran in the block that raised is not counted


def test_ctrl_c_stops_between_blocks(monkeypatch):
    run = Epoch.run

    def interrupted(self, *args, **settings):
        signal.raise_signal(signal.SIGINT)
        return run(self, *args, **settings)

    monkeypatch.setattr(Epoch, "run", interrupted)
    model, error = trained(True)
    assert isinstance(error, TrainingInterrupted)
    steps = vars(model)["_compiled"].optimizer.step_count
    assert 2 <= steps < 19 and f"and {steps} of 19 steps" in str(error)
    assert model.history.interrupted


def test_a_network_that_needs_values_is_told_what_to_do():
    class Choosy(nn.Module):
        def __init__(self):
            self.layer = nn.Dense(3)

        def forward(self, x):
            h = self.layer(x)
            return h if float(nnx.sum(h)) > 0 else -h

    nnx.random.seed(0)
    model = Choosy()
    model.compile(optim.SGD(0.01), "cross_entropy", (), "numba")
    with pytest.raises(nnx.TraceError, match=r"test_fit_jit\.py, line \d+.*jit=False in fit"):
        model.fit(X, Y)
    model.fit(X, Y, jit=False)
    assert len(model.history.epoch) == 1


def test_rows_that_do_not_lie_in_order_are_trained_with(many):
    wide = np.ascontiguousarray(X.T).T
    assert agree(trained(False, data=(wide, Y)), trained(True, data=(wide, Y))) == (None, None)


def test_iterables_are_trained_with():
    batches = [(X[i : i + 20], Y[i : i + 20]) for i in range(0, ROWS, 20)]
    pair = [trained(jit, data=(batches, None)) for jit in (False, True)]
    assert agree(*pair) == (None, None)
    bad = [*batches, (X[:20], np.full(20, 3))]
    pair = [trained(jit, data=(bad, None)) for jit in (False, True)]
    one, two = agree(*pair)
    assert isinstance(one, nnx.LabelError) and str(one) == str(two)


def test_the_caller_keeps_its_data_and_its_gradients():
    x, y = X.copy(), Y.copy()
    model, _ = trained(True, data=(x, y))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    grads = [p.grad.numpy().copy() for p in model.parameters()]
    eager, _ = trained(False)
    for got, p in zip(grads, eager.parameters(), strict=True):
        np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_a_jitted_step_is_one_function_for_all_epochs():
    nnx.random.seed(2)
    model = nn.Sequential(nn.Dense(6, "tanh", in_features=4), nn.Dense(3, in_features=6)).to(
        "numba"
    )
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = JittedStep(model, nn.cross_entropy, optimizer)
    x, y = nnx.asarray(X[:8], device="numba"), nnx.asarray(Y[:8], device="numba")
    losses = [step(x, y, None)[0] for _ in range(5)]
    step(nnx.asarray(X[:5], device="numba"), nnx.asarray(Y[:5], device="numba"), None)
    assert step.function._traces == 1 and losses[4] < losses[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip", [{"clip_norm": 0.2}, {"clip_value": 0.02}])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_clipped_steps_are_compiled_whole(kind, clip, device, many):
    eager, jitted = (trained(jit, device, kind(0.05, **clip)) for jit in (False, True))
    agree(eager, jitted)
    plain, _ = trained(True, device, kind(0.05))
    assert not np.allclose(plain[0].weight.numpy(), jitted[0][0].weight.numpy(), atol=1e-4)
    assert device != "numba" or sum(many) > 20


def test_a_clip_that_is_changed_counts_in_the_next_fit():
    model, _ = trained(True, "numba", optim.SGD(0.5), shuffle=False, epochs=1)
    before = model[0].weight.numpy().copy()
    vars(model)["_compiled"].optimizer.clip_value = 1e-6
    model.fit(X, Y, batch_size=50)
    assert 0 < np.abs(model[0].weight.numpy() - before).max() <= 3 * 0.5 * 1.1e-6


def test_the_compiled_step_is_kept_for_the_next_fit_and_not_by_copies():
    model, _ = trained(True)
    step = vars(model)["_compiled"].jitted
    model.fit(X, Y, batch_size=8)
    assert vars(model)["_compiled"].jitted is step and step.function._traces == 1
    twin = copy.deepcopy(model)
    twin.fit(X, Y, batch_size=8)
    assert vars(twin)["_compiled"].jitted.model is twin
    assert not np.array_equal(twin[0].weight.numpy(), model[0].weight.numpy())


@pytest.mark.parametrize("rows", (2047, 2048, 3001))
def test_many_rows_are_shuffled_as_by_the_generator(rows):
    backend, generators = nnx.device("numba").backend, [nnx.random.Generator(4) for _ in range(2)]
    for _ in range(2):
        order = backend.permutation(generators[0], rows)
        np.testing.assert_array_equal(order, generators[1].host_permutation(rows))
    assert generators[0].state_dict() == generators[1].state_dict()
