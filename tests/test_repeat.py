"""A repeated call of a compiled step looks at little; here all that can change between two calls
changes, and the step must do what eager mode does.
"""

import itertools

import numpy as np
import pytest

import nnx
from nnx import nn, optim

ROWS, FEATURES, CLASSES = 6, 5, 3


class Trained:
    """A network, its optimizer, a batch and a step, jitted or not."""

    def __init__(self, jitted):
        nnx.random.seed(3)
        self.model = nn.Sequential(
            nn.Dense(8, "relu", in_features=FEATURES), nn.Dropout(0.5),
            nn.Dense(CLASSES, in_features=8),
        ).to("numba")  # fmt: skip
        self.opt = optim.Adam(self.model.parameters(), lr=0.01)
        model, opt = self.model, self.opt

        def step(x, y, scale):
            opt.zero_grad()
            loss = nn.cross_entropy(model(x), y) * scale
            loss.backward()
            opt.step()
            return loss

        def rebind(other):
            nonlocal model
            model = other

        self.rebind = rebind
        self.step = nnx.jit(step) if jitted else step
        self.batch(0)

    def batch(self, seed, rows=ROWS, order="C"):
        rng = np.random.default_rng(seed)
        x = np.asarray(rng.normal(size=(rows, FEATURES)), np.float32)
        host = np.ascontiguousarray(x.T).T if order == "F" else x
        self.x = nnx.Tensor(host, nnx.device("numba"))
        self.y = nnx.asarray(rng.integers(0, CLASSES, rows), device="numba")
        self.scale = 1.0

    def run(self):
        return float(self.step(self.x, self.y, self.scale))

    def state(self):
        grads = [p.grad.numpy() for p in self.model.parameters()]
        return [*self.model.state_dict().values(), *self.opt.state_dict().values(), *grads]


def _write_a_parameter(t):
    with nnx.no_grad():
        next(iter(t.model.parameters()))[0] = 0.25


def _another_network(t):
    t.rebind(nn.Sequential(t.model[0], t.model[2]))


def _eager(t):
    loss = nn.cross_entropy(t.model(t.x), t.y)
    t.opt.zero_grad()
    loss.backward()
    t.opt.step()


CHANGES = {
    "nothing": lambda t: None,
    "the rate": lambda t: setattr(t.opt, "lr", 0.1),
    "a schedule": lambda t: setattr(t.opt, "lr", lambda done: 0.5 / (1 + done)),
    "another batch": lambda t: t.batch(7),
    "a smaller batch": lambda t: t.batch(7, rows=4),
    "one row": lambda t: t.batch(7, rows=1),
    "another layout": lambda t: t.batch(7, order="F"),
    "a number": lambda t: setattr(t, "scale", 2.0),
    "a number's type": lambda t: setattr(t, "scale", 3),
    "a parameter's values": _write_a_parameter,
    "all weights": lambda t: t.model.load_state_dict(
        {k: v + 0.5 for k, v in t.model.state_dict().items()}
    ),
    "the slots": lambda t: t.opt.load_state_dict(
        {k: v * 0.5 if "." in k else v for k, v in t.opt.state_dict().items()}
    ),
    "the step count": lambda t: setattr(t.opt, "step_count", 40),
    "the mode": lambda t: t.model.eval(),
    "a layer's setting": lambda t: setattr(t.model[1], "p", 0.25),
    "the network": _another_network,
    "the seed": lambda t: nnx.random.seed(99),
    "a gradient forgotten": lambda t: t.opt.zero_grad(),
    "a gradient of another": lambda t: setattr(
        next(iter(t.model.parameters())), "grad", nnx.ones((FEATURES, 8), device="numba")
    ),
    "an eager step": _eager,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_calls_is_seen(change):
    states = []
    for jitted in (False, True):
        trained = Trained(jitted)
        losses = [trained.run() for _ in range(3)]
        if jitted:
            assert trained.step.repeat is not None
        CHANGES[change](trained)
        losses += [trained.run() for _ in range(3)]
        states.append([np.array(losses), *trained.state()])
    for eager, compiled in zip(*states, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=2e-5, atol=2e-6)


def _gradients(t):
    return [p.grad for p in t.model.parameters()]


HOLDS = {
    "a parameter's view": lambda t: [p.numpy() for p in t.model.parameters()],
    "a parameter's twin": lambda t: [p.detach() for p in t.model.parameters()],
    "gradients": _gradients,
    "gradients' views": lambda t: [g.numpy() for g in _gradients(t)],
    "slots": lambda t: [s.numpy() for s in t.opt._named_slots().values()],
    "losses": lambda t: [t.step(t.x, t.y, 1.0) for _ in range(3)],
}


@pytest.mark.parametrize("what", HOLDS)
@pytest.mark.parametrize("forget", (False, True))
def test_what_is_held_does_not_change(what, forget):
    trained = Trained(True)
    for _ in range(3):
        trained.run()
    held = HOLDS[what](trained)
    if forget:
        trained.opt.zero_grad()
    before = [np.array(x) for x in held]
    expected = trained.model[0].weight.numpy().copy()
    for _ in range(3):
        trained.run()
    for x, was in zip(held, before, strict=True):
        np.testing.assert_array_equal(np.asarray(x), was)
    assert not np.array_equal(trained.model[0].weight.numpy(), expected)


def test_inputs_are_not_written_and_results_are_new():
    trained = Trained(True)
    x = trained.x.numpy().copy()
    losses = [trained.step(trained.x, trained.y, 1.0) for _ in range(600)]
    assert len({id(loss.array) for loss in losses}) == 600
    assert all(a.item() != b.item() for a, b in itertools.pairwise(losses[:20]))
    np.testing.assert_array_equal(trained.x.numpy(), x)


def test_a_refused_label_changes_nothing_and_the_next_call_runs():
    trained = Trained(True)
    for _ in range(3):
        trained.run()
    before = trained.state()
    good, trained.y = trained.y, nnx.asarray(np.full(ROWS, CLASSES), device="numba")
    with pytest.raises(nnx.LabelError, match="Label 3 at index 0"):
        trained.run()
    for was, now in zip(before, trained.state(), strict=True):
        np.testing.assert_array_equal(was, now)
    trained.y = good
    assert np.isfinite(trained.run())


def test_a_type_that_is_new_goes_the_long_way():
    @nnx.jit
    def f(x):
        return x * 2

    x = nnx.asarray(np.ones((3, 2), np.float32), device="numba")
    f(x), f(x)
    wide = nnx.asarray(np.ones((3, 2)), dtype=nnx.float64, device="numba")
    assert f(wide).dtype is nnx.float64
    assert f(nnx.asarray(np.ones((2, 3), np.float32), device="numba")).shape == (2, 3)


def test_a_tensor_that_now_requires_a_gradient_goes_the_long_way():
    @nnx.jit
    def f(x):
        return x * 2

    x = nnx.asarray(np.ones((3, 2), np.float32), device="numba")
    f(x), f(x)
    x.requires_grad = True
    assert f(x).requires_grad == nnx.jit(lambda x: x * 2)(x).requires_grad


@pytest.mark.parametrize("device", ("numba", "numpy"))
def test_a_rate_that_is_only_read_is_that_of_the_call(device):
    weight = nnx.Parameter(np.ones(3, np.float32), device=device)
    opt = optim.SGD([weight], lr=0.5)

    @nnx.jit
    def scaled(x):
        return x * opt.lr

    x = nnx.asarray(np.full(3, 2.0, np.float32), device=device)
    assert scaled(x).tolist() == [1.0] * 3
    opt.lr = 0.25
    assert [scaled(x).tolist() for _ in range(2)] == [[0.5] * 3] * 2
    assert scaled._traces == 1


def _read_only():
    array = np.arange(6.0)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "array",
    [np.ones((2, 3)), np.ones(6)[1:], np.ones((3, 4)).T, np.empty((0, 3)), np.array(2.0),
     _read_only(), np.ones((4, 4))[::2, 1:3], np.zeros(3, bool)],
    ids=["matrix", "rest", "transposed", "empty", "number", "read-only", "strided", "bool"],
)  # fmt: skip
def test_addresses_are_those_of_numpy(array):
    from nnx.native import address

    assert address(array) == array.ctypes.data


@pytest.mark.parametrize("sizes", [(4, 3), (0, 3)])
def test_results_of_repeated_calls_are_apart(sizes):
    @nnx.jit
    def f(x, n):
        return x + n, nnx.sum(x, axis=0)

    x = nnx.ones(sizes, device="numba")
    kept = [f(x, n) for n in range(5)]
    for n, (sums, columns) in enumerate(kept):
        np.testing.assert_array_equal(sums.numpy(), np.full(sizes, 1.0 + n, np.float32))
        np.testing.assert_array_equal(columns.numpy(), np.full(3, sizes[0], np.float32))


def test_batches_of_two_sizes_in_turn_leave_the_arrays_where_they_are():
    trained = Trained(True)
    places = []
    for i in range(8):
        trained.batch(i, ROWS - 2 * (i % 4 == 3))
        trained.run()
        places.append([p.numpy().ctypes.data for p in trained.model.parameters()])
    assert all(place == places[0] for place in places)
