"""jit: compiled equals interpreted equals eager; guards; what a traced function may not do."""

import gc
import itertools

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.graph import interpret, pretty
from nnx.op import OPS, apply
from nnx.testing.conformance import Row
from nnx.testing.samples import SAMPLES
from tests.tracing import Form, program_of, run

DEVICES = ("numpy", "numba")


def close(got, expected, ulps):
    """Assert that two arrays agree to a number of units in the last place of the larger values."""
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    eps = np.finfo(expected.dtype).eps
    finite = np.abs(expected[np.isfinite(expected)])
    scale = finite.max(initial=0.0)
    np.testing.assert_allclose(got, expected, rtol=ulps * eps, atol=ulps * eps * min(scale, 1.0))


ROWS = [
    pytest.param(sample, id=f"{sample.op}-{sample.label}")
    for op in OPS
    for sample in SAMPLES[op]
    if sample.raises is None and any(isinstance(x, np.ndarray) for x in sample.inputs)
]


@pytest.mark.parametrize("sample", ROWS)
def test_emitted_text_of_every_op_equals_eager(sample):
    row = Row(sample, sample.dtypes[0], nnx.device("numba"))
    given = row.place(row.hosts)
    tensors = [x for x in given if isinstance(x, nnx.Tensor)]

    def call(*twins):
        rest = iter(twins)
        inputs = tuple(next(rest) if isinstance(x, nnx.Tensor) else x for x in given)
        return apply(row.op, inputs, dict(sample.attrs))

    expected = call(*tensors).numpy()
    form = Form(call, tensors)
    arrays = [np.array(x.numpy(), order="C") for x in tensors]
    (out,) = run(program_of(form.lowered), "text", arrays, {})
    interpreted = interpret(form.lowered, nnx.device("numba"), arrays, {})[0]
    close(out, expected, 16 + 4 * sample.ulps)
    close(np.asarray(interpreted), expected, 16 + 4 * sample.ulps)


def network(device, *, dropout=0.0, seed=3):
    nnx.random.seed(seed)
    layers = [nn.Dense(8, "tanh", in_features=6), nn.LayerNorm(8), nn.Dense(3, in_features=8)]
    if dropout:
        layers.insert(1, nn.Dropout(dropout))
    return nn.Sequential(*layers).to(device)


def batch(device, rows=12, seed=0):
    r = np.random.default_rng(seed)
    x = nnx.asarray(r.normal(size=(rows, 6)).astype("f4"), device=device)
    return x, nnx.asarray(r.integers(0, 3, rows), device=device)


def stepper(model, opt, loss=nn.cross_entropy):
    def step(x, y):
        opt.zero_grad()
        value = loss(model(x), y)
        value.backward()
        opt.step()
        return value

    return step


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=optim.schedules.cosine(0.1, 15), momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=1e-2),
    "adamw": lambda p: optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.5),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2),
    "lion": lambda p: optim.Lion(p, lr=1e-3),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_equal_eager(device, name):
    runs = []
    for compiled in (False, True):
        model = network(device, dropout=0.25)
        opt = OPTIMIZERS[name](model.parameters())
        step = stepper(model, opt)
        step = nnx.jit(step) if compiled else step
        losses = [step(*batch(device, rows=12 - i % 3, seed=i)).item() for i in range(20)]
        grads = [p.grad.numpy().copy() for p in model.parameters()]
        runs.append((losses, list(model.state_dict().values()), grads, opt.step_count, opt.lr))
    eager, jitted = runs
    np.testing.assert_allclose(jitted[0], eager[0], rtol=2e-5)
    for got, expected in zip(jitted[1] + jitted[2], eager[1] + eager[2], strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-5)
    assert jitted[3:] == eager[3:]


@pytest.mark.parametrize("device", DEVICES)
def test_a_new_batch_size_does_not_trace_again_and_a_new_type_does(device):
    count = itertools.count(1)
    seen = []

    @nnx.jit
    def f(x):
        seen.append(next(count))
        return nnx.mean(nnx.exp(x), axis=0)

    for n in (5, 16, 3, 2):
        x = np.linspace(0, 1, 4 * n, dtype="f4").reshape(n, 4)
        got = f(nnx.asarray(x, device=device)).numpy()
        np.testing.assert_allclose(got, np.exp(x).mean(axis=0), rtol=1e-6)
    assert seen == [1]
    f(nnx.asarray(np.ones((5, 4)), device=device))
    assert seen == [1, 2]


@pytest.mark.parametrize("device", DEVICES)
def test_bad_labels_leave_parameters_as_they_were(device):
    model = network(device)
    opt = optim.Adam(model.parameters(), lr=1e-2)
    step = nnx.jit(stepper(model, opt))
    x, y = batch(device)
    step(x, y)
    before = [v.copy() for v in model.state_dict().values()]
    bad = nnx.asarray(np.where(np.arange(12) == 7, 3, y.numpy()), device=device)
    with pytest.raises(nnx.LabelError, match="Label 3 at index 7"):
        step(x, bad)
    for a, b in zip(model.state_dict().values(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert opt.step_count == 1


@pytest.mark.parametrize("device", DEVICES)
def test_views_of_parameters_do_not_change_with_a_step(device):
    model = network(device)
    step = nnx.jit(stepper(model, optim.SGD(model.parameters(), lr=0.5)))
    x, y = batch(device)
    step(x, y)
    weight = model[0].weight
    view, alias, grad = weight.numpy(), weight.detach(), weight.grad
    kept = view.copy(), grad.numpy().copy()
    step(x, y)
    np.testing.assert_array_equal(view, kept[0])
    np.testing.assert_array_equal(alias.numpy(), kept[0])
    np.testing.assert_array_equal(grad.numpy(), kept[1])
    assert np.abs(weight.numpy() - kept[0]).max() > 0


def test_settings_that_change_are_noticed():
    model = network("numpy", dropout=0.5)
    opt = optim.SGD(model.parameters(), lr=0.1)
    step, eager = nnx.jit(stepper(model, opt)), stepper(model, opt)
    x, y = batch("numpy")
    forward = nnx.jit(lambda x: model(x))
    model.eval()
    plain = forward(x).numpy().copy()
    np.testing.assert_array_equal(plain, model(x).numpy())
    model.train()
    assert (forward(x).numpy() != plain).any()
    step(x, y)
    opt.lr, opt.weight_decay = 0.3, 0.1
    model.eval()
    state = model.state_dict()
    step(x, y)
    jitted = model.state_dict()
    model.load_state_dict(state)
    eager(x, y)
    for a, b in zip(jitted.values(), model.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_gradient_functions_trace_to_any_order():
    def f(x):
        return nnx.sum(nnx.tanh(x) * nnx.sin(x))

    def third(x):
        inner = nnx.grad(lambda x: nnx.sum(nnx.grad(f)(x)))
        return f(x), nnx.grad(f)(x), inner(x), nnx.grad(lambda x: nnx.sum(inner(x)))(x)

    x = np.linspace(-1, 1, 7)
    for got, expected in zip(
        nnx.jit(third)(nnx.asarray(x, device="numba")),
        third(nnx.asarray(x, device="numpy")),
        strict=True,
    ):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x.sum()),
        lambda x: nnx.asarray(x.numpy()),
        lambda x: print(x),
        lambda x: x[0].item(),
        lambda x: x + np.ones(3, "f4"),
    ],
)
def test_what_needs_values_is_refused_with_the_line(use):
    with pytest.raises(nnx.TraceError, match=r"test_jit.py, line \d+"):
        nnx.jit(use)(nnx.asarray([1.0, 2.0, 3.0], device="numpy"))


def test_an_op_that_cannot_be_compiled_is_named():
    @nnx.jit
    def f(x):
        return x.astype("float16") * 2.0

    with pytest.raises(nnx.TraceError, match=r"test_jit.py, line \d+: op 'astype'.*float16"):
        f(nnx.asarray([1.0, 2.0, 3.0], device="numba"))


def test_shapes_that_do_not_fit_are_told_as_in_eager_mode():
    a, b = nnx.zeros((2, 3), device="numpy"), nnx.zeros((2, 4), device="numpy")
    for f in (nnx.add, nnx.matmul, nn.mse, nn.cross_entropy):
        with pytest.raises(nnx.NnxError) as eager:
            f(a, b)
        with pytest.raises(nnx.NnxError) as jitted:
            nnx.jit(lambda x, y, f=f: f(x, y))(a, b)
        assert str(jitted.value) == str(eager.value)
        assert type(jitted.value) is type(eager.value)


def test_an_index_out_of_range_is_not_read():
    f = nnx.jit(lambda x, i: nnx.take(x, i, axis=0))
    x = nnx.asarray(np.arange(6.0), device="numba")
    assert f(x, nnx.asarray([-1, 0, 5], device="numba")).tolist() == [5.0, 0.0, 5.0]
    with pytest.raises((nnx.NnxError, IndexError)):
        f(x, nnx.asarray([-1, 0, 6], device="numba"))


def test_retracing_is_reported_after_the_third_time():
    f = nnx.jit(lambda x: x + 1.0)
    for n in range(3):
        f(nnx.zeros((2, n + 2), device="numpy"))
    with pytest.warns(UserWarning, match="traced 4 times"):
        f(nnx.zeros((2, 9), device="numpy"))


def test_the_text_of_a_step_names_every_eqn():
    form = Form(
        lambda x, w: nnx.relu(x @ w).sum(axis=0),
        [nnx.zeros((4, 3), device="numba"), nnx.zeros((3, 2), device="numba")],
    )
    source = program_of(form.lowered).source
    for name in ("matmul", "maximum", "sum"):
        assert f"= {name}(" in pretty(form.lowered) and f"= {name}(" in source


def test_many_steps_do_not_grow_memory():
    import resource

    model = network("numba")
    step = nnx.jit(stepper(model, optim.Adam(model.parameters(), lr=1e-3)))
    x, y = batch("numba")
    for _ in range(500):
        step(x, y)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20_000):
        step(x, y)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048
