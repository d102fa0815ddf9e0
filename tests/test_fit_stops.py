"""What stops a training: numbers that are not finite, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.callbacks import LambdaCallback
from nnx.errors import NonFiniteError
from nnx.fit import TrainingInterrupted
from tests.training import T, X, Y, classifier, regressor, same

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


def test_infinite_input_that_the_loss_hides_stops_the_run_before_its_step():
    model = nn.Sequential(nn.Dense(3, "tanh", in_features=2), nn.Dense(1))
    model.compile("sgd", "mse")
    x = np.ones((8, 2), np.float32)
    x[5, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"x itself at row 1 .*row 5 of x.*The loss hides it"):
        model.fit(x, np.ones((8, 1), np.float32), batch_size=4, shuffle=False)
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


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
