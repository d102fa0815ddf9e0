"""Compiled training as CUDA graphs, run on the CPU: as near the truth as native code, and as safe.

Functions of the device "numba" become kernels here (the fixture ``emulated``); what stays as it is
runs on NumPy, so the same trainings on the CPU are what they are compared with.
"""

import warnings

import numpy as np
import pytest

import nnx
from nnx import nn, optim, random
from nnx.kernels import cuda_program, cuda_setting
from nnx.kernels.cuda_step import Launch
from tests import cuda_on_cpu
from tests.cuda_machine import Machine
from tests.cuda_on_cpu import ORDERS
from tests.test_fit_jit import ROWS, X, Y, agree, bursts, trained
from tests.test_lessons_jit import ONCE, check

pytestmark = pytest.mark.skipif(
    cuda_on_cpu.available() is not None, reason=str(cuda_on_cpu.available())
)
STEPS = 6


def replays(made):
    return sum(program.machine.replays for program in made)


def graphs(program):
    """Return how many graphs a step is: up to its last check, and the rest."""
    return 2 if 0 < program.step.checked < len(program.step.runs) else 1


@pytest.mark.parametrize(("network", "optimizer"), ONCE)
def test_steps_of_each_lesson_are_as_near_the_truth(network, optimizer, emulated):
    check(network, optimizer, STEPS)
    # Batches of two sizes, each launched once, and captured when it comes again.
    (program,) = emulated
    assert program.machine.replays == (STEPS - 2) * graphs(program)


# fit

FITS = {
    "as it is": {},
    "in order": {"shuffle": False},
    "weights": {"sample_weight": np.linspace(0.0, 2.0, ROWS)},
    "rows of targets": {"data": (X, np.eye(3, dtype=np.float32)[Y])},
    "a schedule": {"optimizer": lambda: optim.SGD(lambda done: 0.1 / (1 + done), momentum=0.9)},
    "clipped": {"optimizer": lambda: optim.Adam(0.05, clip_norm=0.2)},
}


@pytest.mark.parametrize("name", FITS)
def test_fit_is_that_of_the_cpu(name, request):
    settings = dict(FITS[name])
    make = settings.pop("optimizer", lambda: None)
    results, states = [], []
    for jit in (False, True):
        made = request.getfixturevalue("emulated") if jit else []
        results.append(trained(jit, optimizer=make(), **settings))
        states.append(random.default_generator().state_dict())
    assert agree(*results) == (None, None)
    assert states[0] == states[1]
    # Each epoch has 18 whole batches and a smaller one, and all but the first few are replayed.
    assert replays(made) > 3


def test_the_smaller_last_batch_of_an_epoch_costs_no_new_captures(emulated, monkeypatch):
    captured = []
    capture = Machine.capture

    def counted(self, function):
        captured.append(function)
        return capture(self, function)

    monkeypatch.setattr(Machine, "capture", counted)
    trained(True, epochs=6)
    # Steps of both sizes, and blocks of one step and of several; how long blocks are is not fixed.
    assert len(captured) <= 6  # a step is two graphs where it is alone


def test_gradients_after_whole_blocks_are_those_of_the_last_step(request):
    grads = []
    for jit in (False, True):
        if jit:
            request.getfixturevalue("emulated")
        model, _ = trained(jit, batch_size=10, shuffle=False)
        kept = [p.grad for p in model.parameters()]
        grads.append([np.array(g.numpy()) for g in kept])
        model.fit(X, Y, batch_size=10, shuffle=False, jit=jit)
        # Those that the caller keeps stay as they are.
        grads[-1] += [g.numpy() for g in kept] + [p.grad.numpy() for p in model.parameters()]
    for one, two in zip(*grads, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-5)


def test_first_weights_masks_and_shuffles_have_the_bits_of_the_cpu(emulated):
    """Without products and sums every bit is the CPU's: rows come shuffled, weights masked."""

    class Masked(nn.Module):
        def __init__(self):
            self.weight = nnx.Parameter(random.normal(shape=(4,)))
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.weight * x)

    def first(out, y):
        return nnx.sum(out[0] * y[0])

    weights = []
    for jit in (False, True):
        model, _ = fitted(Masked, first, X, X, jit)
        weights.append(model.weight.numpy())
    assert weights[0].tobytes() == weights[1].tobytes()
    assert replays(emulated) > 0


def fitted(module, loss, x, y, jit=True, optimizer=None, **settings):
    """Return a network and the error that its training ended with."""
    random.seed(2)
    model = module()
    model.compile(optimizer or optim.SGD(0.125), loss, (), "numba")
    try:
        model.fit(x, y, jit=jit, **{"batch_size": 8, "epochs": 2, **settings})
    except nnx.NnxError as error:
        return model, error
    return model, None


@pytest.mark.parametrize("at", (0, 1, 5, 18))
def test_a_loss_that_is_not_finite_is_found_on_its_step(at, request):
    results = []
    for jit in (False, True):
        if jit:
            request.getfixturevalue("emulated")
        results.append(
            trained(
                jit, optimizer=optim.SGD(bursts(1e38, at)), metrics=(),
                layers=(nn.Dense(6, "relu"), nn.Dropout(0.3), nn.Dense(3)),
            )
        )  # fmt: skip
    first, second = agree(*results, rtol=1e-3)
    assert isinstance(first, nnx.NonFiniteError)
    assert str(first).split("First bad")[0] == str(second).split("First bad")[0]


# Steps of one function


class Small:
    """A step of a small classifier, whose rows are checked; compiled when it is made."""

    def __init__(self, optimizer=None, seed=1):
        random.seed(seed)
        self.model = nn.Sequential(
            nn.Dense(5, "tanh", in_features=4), nn.Dense(3, in_features=5)
        ).to("numba")  # fmt: skip
        self.optimizer = (optimizer or optim.Adam(0.01)).bind(self.model.parameters())
        self.step = nnx.jit(self._step)

    def _step(self, x, y):
        self.optimizer.zero_grad()
        loss = nn.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def __call__(self, x, y):
        return self.step(nnx.asarray(x, device="numba"), nnx.asarray(y, device="numba")).item()

    def state(self):
        held = {**self.model.state_dict(), **self.optimizer.state_dict()}
        return {name: np.array(value) for name, value in held.items()}


def same(one, two):
    return one.keys() == two.keys() and all(one[k].tobytes() == two[k].tobytes() for k in one)


def batch(i, n=8):
    at = np.arange(i * n, (i + 1) * n) % ROWS
    return X[at], Y[at]


def test_large_arguments_are_read_where_they_are(emulated, monkeypatch):
    copied, copy = [], Machine.copy
    monkeypatch.setattr(
        Machine, "copy", lambda self, *given: (copied.append(given), copy(self, *given))
    )
    found = {}
    for most in (0, 1 << 20):
        monkeypatch.setattr(cuda_setting, "MOST_COPIED_BYTES", most)
        small = Small()
        losses = [small(*batch(i)) for i in range(STEPS)]
        with pytest.raises(nnx.LabelError):
            small(batch(0)[0], batch(0)[1] + 3)
        found[most] = small.state() | {"losses": np.array(losses)}
        # Neither rows and labels, nor the loss.
        assert bool(copied) == bool(most)
    assert same(*found.values())
    direct, copying = emulated
    assert direct.machine.replays == 0 < copying.machine.replays


def test_a_first_launch_that_fails_is_launched_once_more_before_a_capture(emulated, monkeypatch):
    multiply, capture, failing, captured = Machine.multiply, Machine.capture, [True], []

    def multiplied(self, product):
        if failing:
            raise MemoryError("no workspace")
        multiply(self, product)

    def noted(self, start):
        captured.append(start)
        return capture(self, start)

    monkeypatch.setattr(Machine, "multiply", multiplied)
    monkeypatch.setattr(Machine, "capture", noted)
    small = Small()
    before = small.state()
    told = r"largest result is that of matmul of float32 \(8, 4\), float32 \(4, 5\).*\(160 bytes\)"
    with pytest.raises(nnx.OutOfMemoryError, match=told):
        small(*batch(0))
    assert same(small.state(), before)
    failing.clear()
    small(*batch(0))
    assert not captured
    small(*batch(1))
    assert captured


def test_a_thousand_replays_take_no_memory(emulated):
    small = Small()
    for i in range(3):
        small(*batch(i))
    (program,) = emulated
    machine = program.machine
    allocated, launched, replayed = machine.allocated, machine.launches, machine.replays
    machine.uploaded = 0
    for i in range(1000):
        small(*batch(i))
    assert machine.replays == replayed + 1000 * graphs(program)
    assert machine.allocated == allocated
    kernels = sum(isinstance(run, Launch) for run in program.step.runs)
    assert machine.launches == launched + 1000 * kernels
    # The host gives each call its numbers, and nothing else.
    assert machine.uploaded == 1000 * 8 * program.emission({"B": 8}).row


@pytest.mark.parametrize("warp_turns", [0, 1 << 15], ids=["products", "loops"])
def test_arguments_have_numbers_of_rows_of_their_own(warp_turns, emulated, monkeypatch):
    monkeypatch.setattr(Machine, "warp_turns", warp_turns)
    rng = np.random.default_rng(0)
    function = nnx.jit(lambda x, y, n: (nnx.sum(x @ y.T, axis=0) * n, nnx.max(x, axis=1)))
    for rows in ((4, 5, 2), (6, 7, 3), (8, 3, 2), (1, 70, 5)):
        x, y = (rng.normal(size=(n, 9)).astype("f4") for n in rows[:2])
        given = (nnx.asarray(a, device="numba") for a in (x, y))
        sums, largest = function(*given, rows[2])
        wanted = (x.astype("f8") @ y.T).sum(axis=0) * rows[2]
        np.testing.assert_allclose(sums.numpy(), wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(largest.numpy(), x.max(axis=1))
    assert len(emulated) <= 2


def test_numbers_that_do_not_change_are_given_once(emulated):
    small, other = Small(optim.SGD(0.1)), Small(optim.SGD(lambda done: 0.1 / (1 + done)))
    uploaded = []
    for step in (small, other):
        for i in range(3):
            step(*batch(i))
        machine = emulated[-1].machine
        machine.uploaded = 0
        for i in range(5):
            step(*batch(i))
        uploaded.append(machine.uploaded)
    assert uploaded[0] == 0 < uploaded[1]


def test_a_replay_reads_no_memory_of_the_call_it_was_captured_in(emulated):
    small, other = Small(), Small()
    kept = [tuple(np.array(a) for a in batch(i)) for i in range(5)]
    for i in range(5):
        x, y = (nnx.asarray(a, device="numba") for a in batch(i))
        found = small.step(x, y)
        # What the earlier arguments and results lay in holds something else by now.
        x.assign(nnx.full(x.shape, np.nan, device="numba"))
        loss = float(found.numpy())
        found.array[...] = np.nan
        assert loss == other(*kept[i])
    assert emulated[0].machine.replays == 4 * graphs(emulated[0])


def test_bits_are_the_same_in_every_order_of_threads(emulated):
    states = []
    for order in ORDERS:
        small = Small(optim.Adam(0.01, weight_decay=0.01))
        for i in range(4):
            small(*batch(i, 40))
            emulated[-1].machine.order = order
        states.append(small.state())
    assert len(emulated) == len(ORDERS)
    assert all(same(states[0], state) for state in states[1:])


def test_a_capture_that_fails_is_tried_once_and_steps_are_launched(emulated, monkeypatch):
    tried = []

    def fails(function):
        tried.append(function)
        warnings.warn("no capture", stacklevel=2)

    small, replayed = Small(), Small()
    small(*batch(0))
    machine = emulated[0].machine
    monkeypatch.setattr(machine, "capture", fails)
    with pytest.warns(UserWarning, match="no capture") as told:
        losses = [small(*batch(i)) for i in range(1, 6)]
    assert len(tried) == len(told) == 1
    assert machine.replays == 0
    replayed(*batch(0))
    assert losses == [replayed(*batch(i)) for i in range(1, 6)]
    assert same(small.state(), replayed.state())


def test_another_batch_size_has_its_own_memory_and_no_other_text(emulated):
    small, wanted = Small(), Small()
    sizes = (8, 8, 8, 3, 3, 8, 3, 2, 13, 8)
    losses = [small(*batch(i, n)) for i, n in enumerate(sizes)]
    (program,) = emulated
    assert program.machine.replays == 6 * graphs(program)  # all but the first of each size
    assert len({id(s) for s in program._settings.values()}) == 4
    emulated.clear()
    # Launched only: what was replayed must be the same.
    for i, (n, loss) in enumerate(zip(sizes, losses, strict=True)):
        if emulated:
            emulated[0]._settings.clear()
        assert wanted(*batch(i, n)) == loss
    assert emulated[0].machine.replays == 0
    assert same(small.state(), wanted.state())


def test_the_settings_and_captures_that_are_kept_are_few(emulated):
    small = Small()
    for n in range(2, cuda_program.SIZES_KEPT + 5):
        small(*batch(0, n))
    (program,) = emulated
    assert len(program._settings) == cuda_program.SIZES_KEPT
    for _ in range(cuda_setting.CAPTURES_KEPT + 3):
        small.model.load_state_dict(small.model.state_dict())
        small(*batch(0, 5))
    assert all(len(s._seen) <= cuda_setting.CAPTURES_KEPT for s in program._settings.values())


def test_parameters_in_other_memory_are_captured_anew(emulated):
    small, wanted = Small(), Small()
    for i in range(9):
        if i % 3 == 2:  # other arrays with the same values, and the old ones spoiled
            for p in small.model.parameters():
                old = p.array
                p.assign(np.array(p.numpy()))
                old[...] = np.nan
        assert small(*batch(i)) == wanted(*batch(i))
    assert same(small.state(), wanted.state())


def test_two_models_of_one_function_are_kept_apart(emulated):
    first, second = Small(seed=1), Small(seed=5)
    alone = [Small(seed=1), Small(seed=5)]
    for i in range(6):
        for both, one in zip((first, second), alone, strict=True):
            assert both(*batch(i)) == one(*batch(i))
    assert same(first.state(), alone[0].state())
    assert not same(first.state(), second.state())

    @nnx.jit
    def scores(model, x):
        return model(x)

    x = nnx.asarray(X[:8], device="numba")
    for _ in range(4):
        found = [scores(s.model, x).numpy() for s in (first, second)]
        for f, s in zip(found, (first, second), strict=True):
            np.testing.assert_allclose(f, s.model(x).numpy(), rtol=1e-5, atol=1e-6)


# Refused values


@pytest.mark.parametrize("at", (0, 1, 4))
@pytest.mark.parametrize("label", (3, -1))
def test_a_label_out_of_range_changes_nothing(label, at, request):
    def spoilt(i):
        x, y = batch(i)
        y = y.copy()
        y[5] = label
        return x, y

    with pytest.raises(nnx.LabelError) as wanted:
        nn.cross_entropy(nnx.zeros((8, 3)), nnx.asarray(spoilt(at)[1]))
    made = request.getfixturevalue("emulated")
    small, untouched = Small(), Small()
    for i in range(at):
        small(*batch(i)), untouched(*batch(i))
    before = small.state()
    with pytest.raises(nnx.LabelError) as found:
        small(*spoilt(at))
    assert str(found.value) == str(wanted.value)
    assert same(small.state(), before)
    # The step goes on, and has forgotten what was wrong.
    for i in range(at, at + 3):
        assert small(*batch(i)) == untouched(*batch(i))
    assert same(small.state(), untouched.state())
    assert made


@pytest.mark.parametrize("row", (3, 100, 143, 149))
def test_in_a_block_of_steps_those_before_the_refused_one_are_done(row, request):
    """`fit` does not know that this loss takes labels, and so does not look at them first."""

    def loss(out, y):
        return nn.cross_entropy(out, y)

    labels = Y.copy()
    labels[row] = 3

    def build():
        return nn.Sequential(nn.Dense(5, "tanh", in_features=4), nn.Dense(3, in_features=5))

    results = []
    for jit in (False, True):
        if jit:
            made = request.getfixturevalue("emulated")
        model, error = fitted(build, loss, X, labels, jit, optim.Adam(0.02), shuffle=False)
        results.append((model, error, random.default_generator().state_dict()))
    (one, first, drawn), (two, second, drawn_too) = results
    assert isinstance(first, nnx.LabelError) and str(first) == str(second)
    steps = [vars(m)["_compiled"].optimizer.step_count for m in (one, two)]
    assert steps == [row // 8, row // 8]
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4, atol=1e-6)
    assert drawn == drawn_too
    assert row < 16 or replays(made)
