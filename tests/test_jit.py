"""jit: compiled equals interpreted equals eager; guards; what a traced function may not do."""

import gc
import itertools
import re

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.graph import interpret, pretty, typecheck
from nnx.kernels.program import Program
from nnx.op import OPS, apply
from nnx.passes import prepared
from nnx.testing.conformance import Row
from nnx.testing.samples import SAMPLES
from nnx.trace import Trace, batch_size

DEVICES = ("numpy", "numba")


def traced(function, tensors, symbolic=False):
    """Return the graph of a function of tensors, its lowered form, and the scalars of the call."""
    device = tensors[0].device
    with Trace(device) as trace:
        twins = []
        for i, x in enumerate(tensors):
            shape = list(x.shape)
            if symbolic and shape:
                shape[0] = batch_size(trace.facts, "B", shape[0])
            twins.append(trace.argument(x, shape, f"x{i}"))
        result = function(*twins)
    results = [result] if isinstance(result, nnx.Tensor) else list(result)
    graph = trace.graph([r.array.var for r in results])
    env = {"B": tensors[0].shape[0]} if symbolic else {}
    graph.scalars = list(env)
    typecheck(graph)
    lowered = prepared(graph, device)
    typecheck(lowered)
    return graph, lowered, env


def run_text(program, arrays, outputs, env):
    """Run emitted source as plain Python; return the status."""
    from nnx.kernels.program import Setting

    namespace = {}
    exec(program.source, namespace)
    setting = Setting(program.emitted, env, lambda address: lambda: 0)
    program.fill(setting, env)
    emitted = program.emitted
    setting.table[emitted.first : emitted.last] = [a.ctypes.data for a in (*arrays, *outputs)]
    return namespace["step"](setting.table)


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
    _, lowered, env = traced(call, tensors)
    arrays = [np.array(x.numpy(), order="C") for x in tensors]
    before = [a.copy() for a in arrays]
    out = np.empty(expected.shape, expected.dtype)
    with np.errstate(all="ignore"):
        assert run_text(Program(lowered, {}, {}), arrays, [out], env) == 0
        interpreted = interpret(lowered, nnx.device("numba"), arrays, env)[0]
    close(out, expected, 16 + 4 * sample.ulps)
    close(np.asarray(interpreted), expected, 16 + 4 * sample.ulps)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


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
        return x[nnx.random.permutation(3, device=x.device)]

    with pytest.raises(nnx.TraceError, match=r"test_jit.py, line \d+: op 'draw'"):
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
    _, lowered, env = traced(
        lambda x, w: nnx.relu(x @ w).sum(axis=0),
        [nnx.zeros((4, 3), device="numba"), nnx.zeros((3, 2), device="numba")],
    )
    source = Program(lowered, {}, dict.fromkeys(env, True)).source
    for name in ("matmul", "maximum", "sum"):
        assert f"= {name}(" in pretty(lowered) and f"= {name}(" in source


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


# What the text of a step is made of

SHORT = [
    (40, 3, 1), (40, 4, 1), (1, 4, 40), (2, 2, 40), (4, 1, 40), (3, 40, 1), (1, 40, 4), (2, 40, 2),
    (1, 1, 1), (40, 1, 1),
]  # fmt: skip
OF_BLAS = [(40, 2, 2), (40, 1, 4), (40, 5, 1), (3, 40, 2), (5, 6, 7), (2, 1, 2)]


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("sizes", SHORT + OF_BLAS, ids=str)
def test_products_of_one_long_size_are_loops(sizes, transposed):
    m, k, n = sizes
    r = np.random.default_rng(0)
    shapes = [(m, k), (k, n)]
    hosts = [
        r.normal(size=s[::-1] if t else s).astype("f4")
        for s, t in zip(shapes, transposed, strict=True)
    ]
    tensors = [nnx.asarray(h, device="numba") for h in hosts]

    def product(*factors):
        return nnx.matmul(*(f.T if t else f for f, t in zip(factors, transposed, strict=True)))

    _, lowered, env = traced(product, tensors)
    program = Program(lowered, {}, {})
    assert ("gemm" in program.source) == (sizes in OF_BLAS)
    expected = product(*tensors).numpy()
    for run in (run_text, lambda p, a, o, e: p.run(a, e, o)):
        out = np.full(expected.shape, 7, "f4")
        assert run(program, hosts, [out], env) == 0
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_numbers_of_a_call_do_not_part_loops():
    model, data = network("numba"), batch("numba")
    step = nnx.jit(stepper(model, optim.SGD(model.parameters(), lr=0.1)))
    source = step.lower(*data).source
    assert "divide(f32(1.0), " in source
    assert not re.search(r"w\d+\[0\] = t\d+", source)


def test_gradients_stay_where_a_check_fails():
    nnx.random.seed(0)
    model = nn.Sequential(nn.Dense(1, in_features=3)).to("numba")
    opt = optim.SGD(model.parameters(), lr=0.1)
    step = nnx.jit(stepper(model, opt, nn.binary_cross_entropy))
    x = nnx.asarray(np.ones((8, 3), "f4"), device="numba")
    good = nnx.asarray(np.ones((8, 1), "f4"), device="numba")
    bad = nnx.asarray(np.full((8, 1), 2, "f4"), device="numba")
    for _ in range(3):
        step(x, good)
    before = [p.grad.numpy().copy() for p in model.parameters()]
    with pytest.raises(ValueError):
        step(x, bad)
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), old)


def product_program(*sizes, symbolic=False):
    """Return the program of a chain of matrix products, and its tensors."""
    tensors = [
        nnx.asarray(np.ones(pair, "f4"), device="numba") for pair in itertools.pairwise(sizes)
    ]

    def chain(x, *factors):
        for factor in factors:
            x = x @ factor
        return x

    graph, lowered, env = traced(chain, tensors)
    if symbolic:
        with Trace(tensors[0].device) as trace:
            rows = batch_size(trace.facts, "B", sizes[0])
            x = trace.argument(tensors[0], (rows, sizes[1]), "x0")
            rest = [trace.argument(t, t.shape, f"x{i + 1}") for i, t in enumerate(tensors[1:])]
            out = chain(x, *rest)
        graph = trace.graph([out.array.var])
        graph.scalars, env = ["B"], {"B": sizes[0]}
        lowered = prepared(graph, tensors[0].device)
    return Program(lowered, {}, dict.fromkeys(env, True)), tensors, env


def test_small_products_use_one_thread_and_large_ones_the_limit():
    small = product_program(8, 8, 8)[0].source
    assert small.count("blas_threads(1)") == 1 and "select" not in small
    large = product_program(256, 256, 256, 256)[0].source
    assert "blas_threads" not in large
    mixed = product_program(256, 256, 256, 8)[0].source
    assert mixed.count("blas_threads(1)") == 1
    assert mixed.count("blas_threads(threads)") == 1
    symbolic = product_program(8, 64, 64, 64, symbolic=True)[0].source
    assert symbolic.count("blas_threads(select(") == 1


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("sizes", [(8, 8, 8), (256, 256, 256, 8)], ids=str)
def test_step_leaves_blas_the_threads_it_had(limit, sizes):
    from nnx.kernels import blas

    program, tensors, env = product_program(*sizes, symbolic=True)
    before = blas.threads()
    number = blas._package()[0].scipy_openblas_get_num_threads
    out = np.empty((sizes[0], sizes[-1]), "f4")
    try:
        for allowed in (limit, 3 - limit):
            allowed = blas.set_threads(allowed)
            program.run([t.numpy() for t in tensors], env, [out])
            assert number() == allowed
            (setting,) = program._settings.values()
            assert setting.table[program.emitted.threads] == allowed
    finally:
        blas.set_threads(before)
    assert (out == np.prod(sizes[1:-1])).all()
