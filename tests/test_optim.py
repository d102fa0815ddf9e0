"""Optimizers: their formulas, a user's own, schedules, state, bad input; training by hand."""

import math
import warnings

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.optim import schedules

# The rules, written a second time: one number at a time, from the papers and PyTorch's manual


class ByHand:
    """An update rule over single Python floats: ``rule(w, g, t, memory) -> new w``."""

    def __init__(self, rule):
        self.rule = rule

    def run(self, w, gradients):
        memory = [{} for _ in w.flat]
        values = [float(x) for x in w.flat]
        for t, g in enumerate(gradients, 1):
            values = [
                self.rule(x, float(d), t, kept)
                for x, d, kept in zip(values, g.flat, memory, strict=True)
            ]
        return np.array(values).reshape(w.shape)


def sgd(lr, momentum=0.0, nesterov=False, decay=0.0):
    def rule(w, g, t, kept):
        g += decay * w
        if momentum == 0:
            return w - lr * g
        kept["v"] = momentum * kept.get("v", 0.0) + g
        return w - lr * (g + momentum * kept["v"] if nesterov else kept["v"])

    return rule


def adam(lr, b1=0.9, b2=0.999, eps=1e-8, decay=0.0, decoupled=0.0):
    def rule(w, g, t, kept):
        w -= lr * decoupled * w
        g += decay * w
        kept["m"] = b1 * kept.get("m", 0.0) + (1 - b1) * g
        kept["v"] = b2 * kept.get("v", 0.0) + (1 - b2) * g * g
        m_hat, v_hat = kept["m"] / (1 - b1**t), kept["v"] / (1 - b2**t)
        return w - lr * m_hat / (math.sqrt(v_hat) + eps)

    return rule


def rmsprop(lr, alpha=0.99, eps=1e-8, decay=0.0, momentum=0.0):
    def rule(w, g, t, kept):
        g += decay * w
        kept["v"] = alpha * kept.get("v", 0.0) + (1 - alpha) * g * g
        kept["b"] = momentum * kept.get("b", 0.0) + g / (math.sqrt(kept["v"]) + eps)
        return w - lr * kept["b"]

    return rule


def adagrad(lr, eps=1e-10, decay=0.0):
    def rule(w, g, t, kept):
        g += decay * w
        kept["v"] = kept.get("v", 0.0) + g * g
        return w - lr * g / (math.sqrt(kept["v"]) + eps)

    return rule


def lion(lr, b1=0.9, b2=0.99, decay=0.0):
    def rule(w, g, t, kept):
        m = kept.get("m", 0.0)
        direction = math.copysign(1.0, b1 * m + (1 - b1) * g)
        kept["m"] = b2 * m + (1 - b2) * g
        return w - lr * (direction + decay * w)

    return rule


CASES = {
    "sgd": (optim.SGD, {"lr": 0.1}, sgd(0.1)),
    "sgd default": (optim.SGD, {}, sgd(1e-3)),
    "sgd decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.3}, sgd(0.1, decay=0.3)),
    "sgd momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}, sgd(0.1, 0.9)),
    "sgd nesterov": (
        optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        sgd(0.1, 0.9, True, 0.1),
    ),
    "adam": (optim.Adam, {}, adam(1e-3)),
    "adam all": (
        optim.Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        adam(0.05, 0.8, 0.95, 1e-3, 0.2),
    ),
    "adamw": (optim.AdamW, {"lr": 0.05}, adam(0.05, decoupled=0.01)),
    "adamw all": (
        optim.AdamW, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        adam(0.05, 0.8, 0.95, 1e-3, decoupled=0.2),
    ),
    "rmsprop": (optim.RMSprop, {}, rmsprop(0.01)),
    "rmsprop all": (
        optim.RMSprop,
        {"lr": 0.02, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1, "momentum": 0.8},
        rmsprop(0.02, 0.9, 1e-4, 0.1, 0.8),
    ),
    "adagrad": (optim.Adagrad, {}, adagrad(0.01)),
    "adagrad all": (
        optim.Adagrad, {"lr": 0.2, "eps": 1e-2, "weight_decay": 0.1}, adagrad(0.2, 1e-2, 0.1),
    ),
    "lion": (optim.Lion, {}, lion(1e-4)),
    "lion all": (
        optim.Lion, {"lr": 0.01, "betas": (0.7, 0.9), "weight_decay": 0.3},
        lion(0.01, 0.7, 0.9, 0.3),
    ),
}  # fmt: skip


def problem(steps=20):
    rng = np.random.default_rng(5)
    starts = [rng.normal(size=(3, 4)), rng.normal(size=(4,)), np.array(0.7)]
    return starts, [[rng.normal(size=w.shape) * 3 for w in starts] for _ in range(steps)]


def run(optimizer, starts, gradients, device, dtype):
    params = [nnx.Parameter(nnx.asarray(w, dtype=dtype, device=device)) for w in starts]
    optimizer.bind(params)
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = nnx.asarray(g, dtype=dtype, device=device)
        optimizer.step()
    return [p.numpy() for p in params]


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_the_formula(case, device):
    kind, settings, rule = CASES[case]
    starts, gradients = problem()
    wide = device.has(nnx.float64)
    results = run(kind(**settings), starts, gradients, device, "float64" if wide else "float32")
    for i, (w, result) in enumerate(zip(starts, results, strict=True)):
        expected = ByHand(rule).run(w, [step[i] for step in gradients])
        np.testing.assert_allclose(result, expected, rtol=1e-12 if wide else 1e-4, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32_and_close(case, device):
    kind, settings, rule = CASES[case]
    starts, gradients = problem()
    results = run(kind(**settings), starts, gradients, device, "float32")
    for i, (w, result) in enumerate(zip(starts, results, strict=True)):
        assert result.dtype == np.float32
        expected = ByHand(rule).run(w, [step[i] for step in gradients])
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("lion")])
def test_twenty_steps_equal_pytorch(case):
    torch = pytest.importorskip("torch")
    kind, settings, _ = CASES[case]
    starts, gradients = problem()
    mine = run(kind(**settings), starts, gradients, "numpy", "float64")
    params = [torch.nn.Parameter(torch.tensor(w)) for w in starts]
    theirs = getattr(torch.optim, kind.__name__)(params, **settings)
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = torch.tensor(g)
        theirs.step()
    for a, b in zip(mine, params, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_built_in_rules_run_over_tensors_too(case):
    kind, settings, _ = CASES[case]
    starts, gradients = problem()
    over_tensors = type(kind.__name__, (kind,), {"over_arrays": False})
    arrays = run(kind(**settings), starts, gradients, "numpy", "float64")
    tensors = run(over_tensors(**settings), starts, gradients, "numpy", "float64")
    for a, b in zip(arrays, tensors, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


# A training run by hand

SIZES = (784, 16, 16, 10)


def network():
    layers = [nn.Dense(n, "relu" if n == 16 else None) for n in SIZES[1:]]
    return nn.Sequential(*layers)


def batches(n, size=4):
    rng = np.random.default_rng(9)
    for _ in range(n):
        yield rng.random((size, 784), dtype=np.float32), rng.integers(0, 10, size)


def train_by_hand(weights, lr, dtype, steps=20):
    """Gradient descent of cross-entropy in plain NumPy, its gradients worked out on paper."""
    values = [w.astype(dtype) for w in weights]
    losses = []
    for x, y in batches(steps):
        x, rows = x.astype(dtype), np.arange(len(y))
        activations, sums = [x], []
        for i in range(3):
            sums.append(activations[-1] @ values[2 * i] + values[2 * i + 1])
            activations.append(np.maximum(sums[-1], 0) if i < 2 else sums[-1])
        z = sums[-1] - sums[-1].max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        losses.append(-np.log(p[rows, y]).mean())
        d = p.copy()
        d[rows, y] -= 1
        d /= len(y)
        for i in (2, 1, 0):
            grad_weight, grad_bias = activations[i].T @ d, d.sum(axis=0)
            if i:
                d = (d @ values[2 * i].T) * (sums[i - 1] > 0)
            values[2 * i] = values[2 * i] - dtype(lr) * grad_weight
            values[2 * i + 1] = values[2 * i + 1] - dtype(lr) * grad_bias
    return losses, values


def train(model, lr, device, steps=20):
    optimizer = optim.SGD(model.parameters(), lr=lr)
    losses = []
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = nn.cross_entropy(model(x), nnx.asarray(y, device=device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.numpy() for p in model.parameters()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twenty_steps_of_training_equal_the_calculation_by_hand(device, dtype):
    if not device.has(nnx.asarray(dtype(0), device="numpy").dtype):
        pytest.skip(f"{device} has no float64")
    nnx.random.seed(0)
    model = network().to(device).to(nnx.float32 if dtype is np.float32 else nnx.float64)
    model(np.zeros((1, 784), dtype))
    weights = [p.numpy().copy() for p in model.parameters()]
    losses, values = train(model, 0.1, device)
    expected_losses, expected = train_by_hand(weights, 0.1, np.float64)
    tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype is np.float64 else {"rtol": 0, "atol": 3e-6}
    np.testing.assert_allclose(losses, expected_losses, **tolerance)
    for mine, by_hand in zip(values, expected, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, by_hand, **tolerance)
    assert losses[-1] != losses[0] and not np.array_equal(values[0], weights[0])


def test_training_in_float32_is_as_exact_as_numpy():
    nnx.random.seed(0)
    model = network().to("numpy")
    model(np.zeros((1, 784), np.float32))
    weights = [p.numpy().copy() for p in model.parameters()]
    _, mine = train(model, 0.1, "numpy")
    _, narrow = train_by_hand(weights, 0.1, np.float32)
    _, exact = train_by_hand(weights, 0.1, np.float64)

    def error(values):
        return max(np.abs(a - b).max() for a, b in zip(values, exact, strict=True))

    assert error(mine) <= 2 * error(narrow)


# Clipped gradients


def clipped_by_hand(gradients, clip_norm=None, clip_value=None):
    """Return the gradients of each step as an optimizer is to see them."""
    if clip_value is not None:
        return [[np.clip(g, -clip_value, clip_value) for g in step] for step in gradients]
    norms = [math.sqrt(sum(float((g * g).sum()) for g in step)) for step in gradients]
    return [
        [g * min(1.0, clip_norm / (norm + 1e-6)) for g in step]
        for norm, step in zip(norms, gradients, strict=True)
    ]


# The norms of the gradients of `problem` are from 8 to 18: some steps are clipped, some are not.
@pytest.mark.parametrize("clip", [{"clip_norm": 12.0}, {"clip_norm": 0.5}, {"clip_value": 2.0}])
@pytest.mark.parametrize("case", ["sgd nesterov", "adamw all", "rmsprop", "adagrad all", "lion"])
def test_gradients_are_clipped_before_anything_else(case, clip, device):
    kind, settings, rule = CASES[case]
    starts, gradients = problem()
    wide = device.has(nnx.float64)
    results = run(
        kind(**settings, **clip), starts, gradients, device, "float64" if wide else "float32"
    )
    for i, (w, result) in enumerate(zip(starts, results, strict=True)):
        seen = [step[i] for step in clipped_by_hand(gradients, **clip)]
        expected = ByHand(rule).run(w, seen)
        np.testing.assert_allclose(result, expected, rtol=1e-12 if wide else 1e-4, atol=1e-12)


def test_clip_norm_equals_pytorch():
    torch = pytest.importorskip("torch")
    starts, gradients = problem()
    mine = run(optim.Adam(0.05, clip_norm=12.0), starts, gradients, "numpy", "float64")
    params = [torch.nn.Parameter(torch.tensor(w)) for w in starts]
    theirs = torch.optim.Adam(params, lr=0.05)
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(params, 12.0)
        theirs.step()
    for a, b in zip(mine, params, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_clipping_leaves_grad_and_large_squares_do_not_overflow():
    w, v = with_gradients([0.0, 0.0], [1.0])
    w.grad = nnx.asarray(np.array([3e30, 4e30], np.float32), device="numpy")
    optim.SGD([w, v], 1.0, clip_norm=5.0).step()
    assert w.grad.tolist() == pytest.approx([3e30, 4e30])
    assert w.tolist() == pytest.approx([-3.0, -4.0]) and v.item() == 1.0


@pytest.mark.parametrize("clip", [{"clip_norm": 12.0}, {"clip_value": 2.0}])
def test_a_users_own_optimizer_is_clipped(clip):
    starts, gradients = problem()
    mine = Heavy(0.1)
    mine.clip_norm, mine.clip_value = clip.get("clip_norm"), clip.get("clip_value")
    results = run(mine, starts, gradients, "numpy", "float64")
    theirs = run(optim.SGD(0.1, 0.9, **clip), starts, gradients, "numpy", "float64")
    for a, b in zip(results, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


# A user's own


class Heavy(optim.Optimizer):
    """SGD with momentum, in nnx ops."""

    def __init__(self, params=None, lr=None, momentum=0.9):
        super().__init__(params, lr)
        self.momentum = momentum

    def init_slots(self, param):
        return {"velocity": nnx.zeros_like(param) * self.momentum}

    def update(self, param, grad, slots):
        assert isinstance(param, nnx.Tensor) and isinstance(slots["velocity"], nnx.Tensor)
        slots["velocity"] = self.momentum * slots["velocity"] + grad
        return param - self.lr * slots["velocity"]


def test_own_optimizer_equals_the_built_in_one(device):
    starts, gradients = problem()
    mine = run(Heavy(0.1), starts, gradients, device, "float32")
    theirs = run(optim.SGD(0.1, 0.9), starts, gradients, device, "float32")
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_own_optimizer_counts_steps_and_reads_the_schedule():
    seen = []

    class Watch(optim.Optimizer):
        def update(self, param, grad, slots):
            seen.append((self.step_count, self.lr))
            return param

    starts, gradients = problem(3)
    run(Watch(lambda step: 1.0 / (step + 1)), starts[:1], [g[:1] for g in gradients], "numpy", None)
    assert seen == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_own_optimizer_over_arrays_sees_the_device_library():
    class Signs(optim.Optimizer):
        over_arrays = True

        def update(self, param, grad, slots):
            assert isinstance(param, np.ndarray)
            return param - self.lr * self.xp.sign(grad)

    w = parameter([1.0, 2.0])
    w.grad = nnx.asarray([3.0, -3.0], device="numpy")
    optimizer = Signs([w], 0.5)
    optimizer.step()
    assert w.tolist() == [0.5, 2.5] and optimizer.xp is nnx


def parameter(values, device="numpy"):
    return nnx.Parameter(nnx.asarray(values, device=device))


def with_gradients(*values, device="numpy"):
    params = [parameter(v, device) for v in values]
    for p in params:
        p.grad = nnx.ones_like(p)
    return params


# Steps


def test_a_step_leaves_no_tape_and_the_same_parameters(device):
    (w,) = with_gradients([1.0, 2.0], device=device)
    for kind in (optim.Adam, Heavy):
        kind([w], 0.1).step()
        assert w.node is None and w.requires_grad and w.device is device
        out = w * w
        assert out.requires_grad  # recording goes on after the step


def test_parameters_without_a_gradient_are_left_alone():
    first, second = with_gradients([1.0], [2.0])
    second.grad = None
    version = second.version
    optim.Adam([first, second], 0.1).step()
    assert second.tolist() == [2.0] and second.version == version and first.tolist() != [1.0]


def test_a_step_is_noticed_by_an_older_tape():
    (w,) = with_gradients([1.0, 2.0])
    loss = nnx.sum(w * w)
    optim.SGD([w], 0.1).step()
    with pytest.raises(nnx.GradientError, match="written in place"):
        loss.backward()


def test_zero_grad_forgets():
    params = with_gradients([1.0], [2.0])
    optim.SGD(params, 0.1).zero_grad()
    assert [p.grad for p in params] == [None, None]


def test_a_parameter_given_twice_is_updated_once():
    (w,) = with_gradients([1.0])
    optimizer = optim.SGD([w, w], 0.25)
    optimizer.step()
    assert w.tolist() == [0.75] and w.version == 1 and len(optimizer.params) == 1


def test_slots_follow_a_model_that_moves(device):
    model = nn.Sequential(nn.Dense(1, in_features=2)).to("numpy")
    for optimizer in (optim.Adam(model, 0.1), Heavy(model, 0.1)):
        for where in ("numpy", device, "numpy"):
            model.to(where)
            optimizer.zero_grad()
            nnx.sum(model([[1.0, 2.0]])).backward()
            optimizer.step()
            optimizer.state_dict()
            assert {p.device for p in model.parameters()} == {nnx.device(where)}


def test_parameters_on_several_devices_step_together():
    a, b = with_gradients([1.0])[0], with_gradients([2.0], device="loops")[0]
    optim.Adam([a, b], 0.5).step()
    assert a.item() == pytest.approx(0.5) and b.item() == pytest.approx(1.5)
    assert (a.device.name, b.device.name) == ("numpy", "loops")


def test_clip_norm_of_parameters_on_several_devices_is_refused():
    a, b = with_gradients([1.0])[0], with_gradients([2.0], device="loops")[0]
    with pytest.raises(nnx.DeviceError, match="'loops' and 'numpy'|'numpy' and 'loops'"):
        optim.SGD([a, b], 0.5, clip_norm=1.0).step()
    assert a.item() == 1.0


def test_overflow_in_a_step_does_not_warn():
    (w,) = with_gradients([3e38])
    w.grad = nnx.asarray([3e38], device="numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in (optim.Adam([w], 1.0), Heavy([w], 10.0)):
            optimizer.step()


class Failing(optim.Optimizer):
    """Goes wrong at the second parameter."""

    def __init__(self, params, result):
        super().__init__(params, 0.1)
        self.result = result

    def init_slots(self, param):
        return {"n": nnx.zeros_like(param)}

    def update(self, param, grad, slots):
        slots["n"] = slots["n"] + 1
        return self.result(param, slots) if param.shape == (2,) else param - grad


class FailingOverArrays(Failing):
    over_arrays = True


def boom(param, slots):
    raise ZeroDivisionError("user's own")


@pytest.mark.parametrize("kind", [Failing, FailingOverArrays])
@pytest.mark.parametrize(
    ("result", "error", "told"),
    [
        (boom, ZeroDivisionError, "user's own"),
        (lambda p, s: None, nnx.DTypeError, "update returned None for parameter of shape"),
        (lambda p, s: p[:1], nnx.ShapeError, r"update made shape \(1,\)"),
        (lambda p, s: p == p, nnx.ShapeError, "type bool"),
        (lambda p, s: (s.update(m=p), p)[1], nnx.DataError, r"slots \['m'\].*init_slots"),
        (lambda p, s: (s.clear(), p)[1], nnx.DataError, r"slots \['n'\]"),
        (lambda p, s: (s.update(n=p[:1]), p)[1], nnx.ShapeError, "for slot 'n'"),
        (lambda p, s: (s.update(n=1.0), p)[1], nnx.DTypeError, "1.0 for slot 'n'"),
    ],
)
def test_a_failed_step_changes_nothing(kind, result, error, told):
    params = with_gradients([1.0], [2.0, 3.0], [4.0])
    optimizer = kind(params, result)
    versions = [p.version for p in params]
    state = optimizer.state_dict()
    with pytest.raises(error, match=told):
        optimizer.step()
    assert [p.tolist() for p in params] == [[1.0], [2.0, 3.0], [4.0]]
    assert [p.version for p in params] == versions
    assert optimizer.step_count == 0
    for key, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    assert (params[0] * 2).requires_grad  # recording is on again


# How it is made


def test_parameters_or_rate_may_come_first():
    model = nn.Dense(1, in_features=2)
    assert optim.SGD(model.parameters(), 0.5).lr == 0.5
    assert optim.SGD(model, lr=0.5).params == model.parameters()
    assert optim.SGD(p for p in model.parameters()).lr == 1e-3
    assert not optim.SGD(0.5).bound and optim.SGD(0.5).lr == 0.5
    assert optim.SGD(np.float32(0.5)).lr == 0.5 and optim.SGD(1).lr == 1.0
    optimizer = optim.SGD(0.5, 0.9, True, 0.1)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, True, 0.1)
    assert optim.Adam(1e-2, (0.5, 0.6)).betas == (0.5, 0.6)
    assert Heavy(0.5, 0.7).momentum == 0.7 and Heavy(model, 0.5).bound
    assert optim.Adam(schedules.constant(0.3)).lr == 0.3
    with pytest.raises(TypeError, match="lr"):
        optim.SGD(0.5, lr=0.1)


def test_bind_happens_once():
    model, other = nn.Dense(1, in_features=2), nn.Dense(1, in_features=2)
    optimizer = optim.Adam(1e-3)
    assert optimizer.bind(model) is optimizer and optimizer.bound
    assert optimizer.bind(model.parameters()) is optimizer
    with pytest.raises(nnx.DataError, match="other parameters already"):
        optimizer.bind(other)
    assert optimizer.params == model.parameters()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lion"])
def test_get_by_name(name):
    optimizer = optim.get(name, lr=0.125)
    assert type(optimizer).__name__.lower() == name and optimizer.lr == 0.125
    assert optim.get(optimizer) is optimizer
    assert type(optim.get(name.upper())) is type(optimizer)


def test_get_refuses():
    with pytest.raises(nnx.DataError, match="Did you mean 'adam'"):
        optim.get("adan")
    with pytest.raises(nnx.DTypeError, match="name such as 'adam'"):
        optim.get(optim.Adam)


def test_repr_tells_what_it_does():
    optimizer = optim.SGD(with_gradients([1.0], [2.0]), 0.5)
    optimizer.step()
    assert repr(optimizer) == "SGD(lr=0.5, 2 parameters, step 1)"


# Rates


def test_the_rate_can_be_set_to_a_number_or_a_function():
    (w,) = with_gradients([8.0])
    optimizer = optim.SGD([w], 1.0)
    optimizer.step()
    optimizer.lr = 2
    optimizer.step()
    optimizer.lr = lambda step: step  # two steps are done
    assert optimizer.lr == 2.0
    optimizer.step()
    optimizer.step()
    assert w.item() == 8 - 1 - 2 - 2 - 3 and optimizer.lr == 3.0


def test_schedules_are_their_formulas():
    assert [schedules.constant(0.5)(i) for i in (0, 9)] == [0.5, 0.5]
    step = schedules.step(1.0, 3)
    assert [step(i) for i in (0, 2, 3, 6)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    cosine = schedules.cosine(2.0, 8, final=1.0)
    assert [cosine(i) for i in (0, 2, 4, 8, 100)] == pytest.approx(
        [2.0, 1.5 + math.sqrt(0.5) / 2, 1.5, 1.0, 1.0]
    )
    warm = schedules.warmup(schedules.step(1.0, 2, 0.5), 4)
    assert [warm(i) for i in range(9)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("lr", [-1e-9, math.nan, math.inf, -math.inf, "0.1", True, None])
def test_rates_out_of_range(lr):
    (w,) = with_gradients([1.0])
    optimizer = optim.SGD([w], 0.5)
    with pytest.raises(nnx.DataError, match="SGD: lr is a finite number of 0 or more, got"):
        optimizer.lr = lr
    assert optimizer.lr == 0.5
    if lr is not None:
        with pytest.raises(nnx.DataError, match="lr"):
            optim.Adam([w], lr=lr)
    if not isinstance(lr, str):
        with pytest.raises(nnx.DataError, match="lr"):
            optim.Adam(lambda step: lr)
    optimizer.lr = lambda step: lr if step else 0.5
    optimizer.step()
    with pytest.raises(nnx.DataError, match="lr"):
        optimizer.step()
    assert w.tolist() == [0.5] and optimizer.step_count == 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: optim.SGD(0.1, momentum=1.0), "SGD: momentum.*from 0 to below 1"),
        (lambda: optim.SGD(0.1, momentum=-0.1), "SGD: momentum"),
        (lambda: optim.SGD(0.1, momentum=math.nan), "SGD: momentum"),
        (lambda: optim.SGD(0.1, weight_decay=-1), "SGD: weight_decay.*of 0 or more"),
        (lambda: optim.SGD(0.1, nesterov=True), "momentum=0.9"),
        (lambda: optim.Adam(betas=(0.9, 1.0)), "Adam: beta2"),
        (lambda: optim.Adam(betas=(-0.1, 0.9)), "Adam: beta1"),
        (lambda: optim.Adam(betas=0.9), "Adam: betas are two numbers"),
        (lambda: optim.Adam(eps=-1e-8), "Adam: eps"),
        (lambda: optim.AdamW(weight_decay=math.inf), "AdamW: weight_decay"),
        (lambda: optim.RMSprop(alpha=1.0), "RMSprop: alpha"),
        (lambda: optim.RMSprop(momentum=2), "RMSprop: momentum"),
        (lambda: optim.Adagrad(eps="small"), "Adagrad: eps"),
        (lambda: optim.Lion(betas=(0.9, 0.99, 0.999)), "Lion: betas"),
        (lambda: optim.SGD(0.1, clip_norm=0), "SGD: clip_norm=0 would leave no gradient"),
        (lambda: optim.Adam(clip_norm=-1.0), "Adam: clip_norm is a finite number of 0 or more"),
        (lambda: optim.AdamW(clip_value=0.0), "AdamW: clip_value=0 would leave no gradient"),
        (lambda: optim.Lion(clip_value=math.nan), "Lion: clip_value"),
        (lambda: optim.RMSprop(clip_value=-2), "RMSprop: clip_value"),
        (lambda: optim.Adagrad(clip_norm=math.inf), "Adagrad: clip_norm"),
        (lambda: Heavy.__mro__[1](clip_norm="1"), "Optimizer: clip_norm"),
        (lambda: optim.SGD(clip_norm=1.0, clip_value=1.0), "not both"),
        (lambda: schedules.constant(-1), "constant: lr"),
        (lambda: schedules.step(0.1, 0), "step: every is a whole number"),
        (lambda: schedules.step(0.1, 5, factor=math.nan), "step: factor"),
        (lambda: schedules.cosine(0.1, 2.5), "cosine: steps"),
        (lambda: schedules.cosine(0.1, 5, final=-1), "cosine: final"),
        (lambda: schedules.warmup(math.nan, 5), "lr"),
        (lambda: schedules.warmup(0.1, True), "warmup: steps"),
    ],
)
def test_settings_out_of_range(make, told):
    with pytest.raises(nnx.DataError, match=told):
        make()


# What it refuses to work on


@pytest.mark.parametrize(
    ("params", "error", "told"),
    [
        ([], nnx.DataError, "no parameters"),
        ([np.zeros(3)], nnx.DTypeError, "takes parameters.*ndarray"),
        ("weights", nnx.DTypeError, "a module or a list"),
        ({"w": 1}, nnx.DTypeError, "a module or a list"),
        (parameter([1.0]), nnx.DTypeError, r"or \[parameter\]"),
        ([parameter([1])], nnx.DTypeError, "int64"),
        ([parameter([1.0]) * 2], nnx.DTypeError, "computed from no other"),
    ],
)
def test_what_is_not_a_list_of_parameters(params, error, told):
    with pytest.raises(error, match=told):
        optim.SGD(params, lr=0.1)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(nnx.DataError, match="no parameters yet"):
        optim.SGD(nn.Sequential(nn.Dense(3)), lr=0.1)


def test_steps_that_cannot_be():
    with pytest.raises(nnx.DataError, match=r"no parameters to work on.*bind\(params\)"):
        optim.SGD(0.1).step()
    w = parameter([1.0])
    optimizer = optim.SGD([w], 0.1)
    with pytest.raises(nnx.DataError, match=r"none of its 1 parameters.*loss\.backward\(\)"):
        optimizer.step()
    assert optimizer.step_count == 0
    w.grad = nnx.ones((1,), device="loops")
    with pytest.raises(nnx.DeviceError, match=r"gradient of parameter.*on 'loops'"):
        optimizer.step()
    w.grad = np.ones(1, np.float32)
    with pytest.raises(nnx.DTypeError, match="a ndarray, not a tensor"):
        optimizer.step()
    w.grad = nnx.ones((2, 1), device="numpy")
    with pytest.raises(nnx.ShapeError, match=r"made shape \(2, 1\)"):
        optimizer.step()
    with pytest.raises(NotImplementedError, match="Optimizer has no update"):
        w.grad = nnx.ones((1,), device="numpy")
        optim.Optimizer([w]).step()
    assert w.tolist() == [1.0]


# State


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.RMSprop, optim.Lion, Heavy])
def test_state_goes_on_exactly(kind, device):
    starts, gradients = problem(10)
    settings = {"lr": 0.05} | ({"momentum": 0.9} if kind in (optim.SGD, Heavy) else {})
    whole = run(kind(**settings), starts, gradients, device, "float32")
    half = kind(**settings)
    middle = run(half, starts, gradients[:5], device, "float32")
    state = half.state_dict()
    assert all(isinstance(value, np.ndarray) for value in state.values())
    again = kind(0.7)
    if "momentum" in settings:
        again.momentum = 0.9
    params = [nnx.Parameter(nnx.asarray(w, device=device)) for w in middle]
    again.bind(params).load_state_dict(state)
    assert again.step_count == 5 and again.lr == 0.05
    for step in gradients[5:]:
        for p, g in zip(params, step, strict=True):
            p.grad = nnx.asarray(g, dtype="float32", device=device)
        again.step()
    for a, p in zip(whole, params, strict=True):
        np.testing.assert_array_equal(a, p.numpy())


def test_state_is_a_copy_and_a_schedule_is_kept():
    (w,) = with_gradients([1.0])
    optimizer = optim.Adam([w], schedules.step(0.5, 1))
    optimizer.step()
    state = optimizer.state_dict()
    assert "lr" not in state and sorted(state) == ["0.mean", "0.square", "step_count"]
    state["0.mean"][:] = 7
    assert optimizer.state_dict()["0.mean"] != 7
    optimizer.load_state_dict(state | {"lr": np.array(9.0)})
    assert optimizer.state_dict()["0.mean"] == 7
    optimizer.step()
    assert optimizer.lr == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda s: s.pop("0.mean"), nnx.ShapeError, r"Missing: \['0.mean'\]"),
        (lambda s: s.update(x=1.0), nnx.ShapeError, r"unknown: \['x'\]"),
        (lambda s: s.update({"0.mean": np.zeros(3)}), nnx.ShapeError, r"0.mean is \(1,\), got"),
        (lambda s: s.pop("step_count"), nnx.ShapeError, "step_count"),
        (lambda s: s.update(step_count=-1), nnx.DataError, "step_count"),
        (lambda s: s.update(step_count=1.5), nnx.DataError, "step_count"),
        (lambda s: s.update(lr=math.nan), nnx.DataError, "lr"),
        (lambda s: s.update({"0.square": [None]}), nnx.DataError, "0.square"),
    ],
)
def test_load_state_dict_is_all_or_nothing(change, error, told):
    (w,) = with_gradients([1.0])
    optimizer = optim.Adam([w], 0.5)
    optimizer.step()
    before = optimizer.state_dict()
    state = {key: value + 1 for key, value in before.items()}
    change(state)
    with pytest.raises(error, match=told):
        optimizer.load_state_dict(state)
    for key, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_state_of_another_kind_is_refused():
    state = optim.SGD(with_gradients([1.0]), 0.1, momentum=0.5).state_dict()
    with pytest.raises(nnx.ShapeError, match="not of a Adam"):
        optim.Adam(with_gradients([1.0])).load_state_dict(state)
    with pytest.raises(nnx.DataError, match="bind"):
        optim.Adam().load_state_dict({})


def test_state_asked_before_bind_does_not_lose_the_slots():
    w = nnx.Parameter(np.ones(2, np.float32))
    optimizer = optim.Adam(0.1)
    optimizer.state_dict()
    optimizer.bind([w])
    nnx.sum(w * w).backward()
    optimizer.step()
    np.testing.assert_allclose(w.numpy(), [0.9, 0.9], rtol=1e-5)
