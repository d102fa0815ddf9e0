"""`nnx.profile`: rows for all that runs, FLOPs and bytes counted by hand, and nothing changed."""

import importlib
import itertools
import threading

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.device import device as device_of_name
from nnx.op import OPS

profiling = importlib.import_module("nnx.profile")
BATCH, SIZES = 8, (5, 4, 3)
RATES = {"products": {"one thread": 50.0, "all threads": 100.0},
         "memory": [[1000.0, 20.0], [100_000.0, 10.0]]}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few repeats, and rates of a machine that is not measured."""
    for name in ("nnx.profile", "nnx.profile_native", "nnx.profile_ops"):
        monkeypatch.setattr(importlib.import_module(name), "BUDGET_S", 0.0)
    monkeypatch.setattr("nnx.rates.of_device", lambda device: RATES)


def drawn(*shape, device="numpy"):
    return nnx.random.Generator(1).normal(shape=shape, device=device)


class Training:
    """A network with all that training changes: weights, gradients, slots, counts, random state."""

    def __init__(self, device, jitted):
        nnx.random.seed(3)
        pairs = list(itertools.pairwise(SIZES))
        with nnx.device(device):
            layers = [nn.Dense(n_out, "relu", in_features=n_in) for n_in, n_out in pairs]
            self.model = nn.Sequential(layers[0], nn.Dropout(0.5), layers[1])
        self.opt = optim.Adam(self.model.parameters(), lr=lambda n: 0.1 / (n + 1))
        self.batch = (drawn(BATCH, SIZES[0], device=device),
                      nnx.asarray(np.arange(BATCH) % SIZES[-1], device=device))  # fmt: skip
        self.losses = []
        self.step = nnx.jit(self.stepped) if jitted else self.stepped_and_noted

    def stepped(self, x, y):
        self.opt.zero_grad()
        loss = nn.cross_entropy(self.model(x), y)
        loss.backward()
        self.opt.step()
        return loss

    def stepped_and_noted(self, x, y):
        loss = self.stepped(x, y)
        self.losses.append(loss)
        return loss

    def state(self):
        """Return all that may be seen from outside, in bytes and plain numbers."""
        arrays = {**self.model.state_dict(), **self.opt.state_dict()}
        params = list(self.model.parameters())
        return {
            "arrays": {name: np.asarray(x).tobytes() for name, x in arrays.items()},
            "grads": [None if p.grad is None else p.grad.numpy().tobytes() for p in params],
            "versions": [p.version for p in params],
            "random": nnx.random.default_generator().state_dict(),
            "rate": self.opt.lr,
            "losses": len(self.losses),
        }


WAYS = [("numba", True), ("numpy", True), ("numpy", False), ("loops", True), ("loops", False)]


@pytest.mark.parametrize(("device", "jitted"), WAYS)
@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_is_changed(device, jitted, steps):
    found, twin = Training(device, jitted), Training(device, jitted)
    for one in (twin, found):
        nnx.random.seed(7)
        for _ in range(steps):
            one.step(*one.batch)
    before = found.state()
    nnx.profile(found.step, *found.batch)
    assert found.state() == before
    # What comes after is what would have come.
    after = []
    for one in (found, twin):
        nnx.random.default_generator().load_state_dict(before["random"])
        for _ in range(3):
            one.step(*one.batch)
        after.append(one.state())
        del after[-1]["versions"]  # native code copies arrays once more, and counts that
    assert after[0] == after[1]


@pytest.mark.parametrize("jitted", [True, False])
def test_memory_of_others_is_not_written(jitted):
    training = Training("numba", jitted)
    training.step(*training.batch)
    views = [p.numpy() for p in training.model.parameters()]
    copies = [view.copy() for view in views]
    nnx.profile(training.step, *training.batch)
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy)


def what_is_hooked():
    """Return all that stands where a profile of eager calls puts its own."""
    device = device_of_name("numpy")
    methods = [optim.Optimizer._array_change, profiling.Function.__call__,
               nnx.random.Generator.host_bernoulli]  # fmt: skip
    rules = [op.vjp for op in OPS.values()]
    return dict(device.kernels), dict(vars(device.namespace)), rules, methods


def test_a_call_that_fails_changes_nothing():
    training = Training("numpy", False)

    def step(x, y):
        if len(training.losses) == 2:
            raise ValueError("the third")
        return training.step(x, y)

    before = training.state()
    hooked = what_is_hooked()
    with pytest.raises(ValueError, match="the third"):
        nnx.profile(step, *training.batch)
    assert training.state() == before
    assert what_is_hooked() == hooked


def check_shares(found):
    """Check that the rows are parts of one whole; on a busy machine all of them may be short."""
    timed = [row for row in found.rows if row.time_s is not None]
    assert [row.share is None for row in found.rows] == [row.time_s is None for row in found.rows]
    assert found.total_s == sum(row.time_s for row in timed)
    assert sum(row.share for row in timed) == pytest.approx(1 if timed else 0)


def test_each_kernel_of_a_compiled_step_has_a_row():
    training = Training("numba", True)
    found = nnx.profile(training.step, *training.batch)
    stats = training.step.lower(*training.batch).stats()
    assert len(found.rows) == stats["kernels"]
    assert found.device == "numba"
    assert found.call_s > 0
    assert all(row.calls == 1 for row in found.rows)
    check_shares(found)


@pytest.mark.parametrize("device", ["numba", "numpy"])
def test_products_of_a_network_are_counted_as_by_hand(device):
    training = Training(device, True)
    found = nnx.profile(training.step, *training.batch)
    n, (i, h, o) = BATCH, SIZES
    forward, backward = [n * i * h, n * h * o], [n * h * o, n * h * o, n * i * h]
    products = [row for row in found.rows if row.name in ("matmul", "linear")]
    flops = [2 * work for work in forward + backward]
    if device == "numpy":
        flops[:2] = [2 * work + n * n_out for work, n_out in zip(forward, (h, o), strict=True)]
    assert sorted(row.flops for row in products) == sorted(flops)
    first = products[0]
    arrays = n * i + i * h + n * h + (h if device == "numpy" else 0)
    assert (first.n_bytes, first.shapes.split(")")[0]) == (4 * arrays, f"({n}, {i}")


def test_loops_of_a_compiled_function_are_counted_as_by_hand():
    @nnx.jit
    def f(x, y):
        return nnx.exp(x * y) + 1.0

    found = nnx.profile(f, drawn(6, 4, device="numba"), drawn(6, 4, device="numba"))
    (row,) = found.rows
    assert (row.name, row.shapes) == ("multiply, exp, add", "(6, 4)")
    assert (row.flops, row.n_bytes) == (3 * 24, 3 * 24 * 4)


@pytest.mark.parametrize("device", ["numpy", "loops"])
def test_a_graph_without_compiler_has_a_row_a_call(device):
    training = Training(device, True)
    found = nnx.profile(training.step, *training.batch)
    entry = training.step.lower(*training.batch)._entry
    calls = [eqn.op.name for eqn in entry.program().calls]
    assert [row.name for row in found.rows] == calls
    check_shares(found)
    source = training.step.lower(*training.batch).source
    assert len(calls) == source.count("        # %")


def test_eager_ops_are_counted_by_name_and_shapes():
    w = nnx.Parameter(drawn(4, 3))

    def f(x):
        w.grad = None
        y = nnx.relu(nnx.matmul(x, w))
        z = nnx.exp(nnx.relu(nnx.matmul(x, w))) + y
        nnx.sum(z).backward()

    found = nnx.profile(f, drawn(2, 4))
    rows = {(row.name, row.shapes): row for row in found.rows}
    calls = {key: row.calls for key, row in rows.items()}
    assert calls == {
        ("matmul", "(2, 4) (4, 3)"): 2,
        ("relu", "(2, 3)"): 2,
        ("exp", "(2, 3)"): 1,
        ("add", "(2, 3) (2, 3)"): 1,
        ("sum", "(2, 3)"): 1,
        ("sum backward", "(2, 3)"): 1,
        ("add backward", "(2, 3) (2, 3)"): 2,
        ("exp backward", "(2, 3)"): 1,
        ("relu backward", "(2, 3)"): 2,
        ("matmul backward", "(2, 4) (4, 3)"): 2,
        ("add", "(4, 3) (4, 3)"): 1,  # the gradients of w come together
    }
    product = rows["matmul", "(2, 4) (4, 3)"]
    assert (product.flops, product.n_bytes) == (2 * 2 * 24, 2 * 4 * (8 + 12 + 6))
    # A gradient of w reads x and g, and no weights.
    back = rows["matmul backward", "(2, 4) (4, 3)"]
    assert (back.flops, back.n_bytes) == (2 * 2 * 24, 2 * 4 * (6 + 8 + 12))
    handed_on = rows["add backward", "(2, 3) (2, 3)"]
    assert (handed_on.flops, handed_on.n_bytes) == (0, 0)
    assert w.grad is None


def test_updates_draws_and_compiled_functions_are_rows_of_eager_calls():
    training = Training("numpy", False)
    inner, traced = nnx.jit(lambda x: x * 2), Training("numpy", True)

    def f(x, y):
        nnx.jit(traced.stepped).lower(*training.batch)
        training.step(inner(x), y)

    found = nnx.profile(f, *training.batch)
    names = {row.name: row.calls for row in found.rows}
    assert names["<lambda>, compiled"] == 1
    assert names["random.bernoulli"] == 1
    assert "relu backward" in names and names["cross_entropy backward"] == 1  # traced ones are none
    updates = [row for row in found.rows if row.name == "Adam.update"]
    assert sum(row.calls for row in updates) == 4
    assert updates[0].n_bytes == 4 * 20 * 7  # reads w, g and two slots, writes w and the slots


def test_views_move_no_bytes():
    def f(x):
        return nnx.reshape(x, (6,)), nnx.concat([x, x])

    rows = nnx.profile(f, drawn(2, 3)).rows
    assert [(row.name, row.n_bytes) for row in rows] == [("reshape", 0), ("concat", 4 * (6 + 12))]


def test_other_threads_are_not_counted():
    x = drawn(2, 3)

    def other():
        nnx.tanh(x)

    def f():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return nnx.exp(x)

    assert [row.name for row in nnx.profile(f).rows] == ["exp"]


def test_modules_methods_and_keywords_are_functions():
    with nnx.device("numpy"):
        model = nn.Sequential(nn.Dense(3, "tanh", in_features=4))
    found = nnx.profile(model, drawn(2, 4))
    assert [row.name for row in found.rows] == ["linear", "tanh"]
    assert str(found).startswith("Sequential on numpy: ")

    class Owner:
        @nnx.jit
        def twice(self, x, *, by):
            return x * by

    found = nnx.profile(Owner().twice, drawn(2, device="numba"), by=2.0)
    assert [row.name for row in found.rows] == ["multiply"]


def test_a_function_without_arguments_and_without_ops():
    found = nnx.profile(lambda: 1)
    assert found.rows == []
    assert found.total_s == 0
    assert "0 ns in the kernels" in str(found)


def test_what_is_traced_wrongly_raises_as_in_jit():
    @nnx.jit
    def f(x):
        return x if x[0] > 0 else -x

    with pytest.raises(nnx.TraceError, match="where"):
        nnx.profile(f, drawn(2))


def test_not_a_function_is_refused_with_what_is_allowed():
    with pytest.raises(TypeError, match=r"takes a function.*got 3, a int"):
        nnx.profile(3)


def test_profile_inside_of_jit_is_refused():
    with pytest.raises(nnx.TraceError, match="inside of nnx.jit"):
        nnx.jit(lambda x: nnx.profile(nnx.exp, x))(drawn(2))


def test_roofs_are_of_flops_or_of_bytes():
    parts = [
        profiling.Part("product", "", 4e-6, 100_000, 400),
        profiling.Part("product", "", 4e-6, 100_000, 400, threads="one thread"),
        profiling.Part("loop", "", 1e-6, 10, 1000),
        profiling.Part("twice", "", 1e-6, 10, 2000, calls=2),
        profiling.Part("short", "", None, 10, 10),
    ]
    rows = profiling.rows_of(parts, RATES)
    assert [row.roof_share for row in rows] == pytest.approx([0.25, 0.5, 0.05, 0.1, None])
    assert [row.share for row in rows] == pytest.approx([0.4, 0.4, 0.1, 0.1, None])
    assert (rows[0].gflops, rows[2].gbs) == pytest.approx((25.0, 1.0))
    short = rows[-1]
    assert (short.time_s, short.share, short.gflops, short.gbs) == (None, None, None, None)
    text = str(profiling.Profile("f", "numpy", rows, 1e-5, 2e-8))
    assert text.splitlines()[-4].split() == ["short", "1", "short"]
    assert "short: under 20 ns" in text


@pytest.mark.parametrize(("device", "jitted"), WAYS[:3])
def test_tables_fit_a_terminal(device, jitted):
    training = Training(device, jitted)
    found = nnx.profile(training.step, *training.batch)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) >= len(found.rows) + 4
    page = found._repr_html_()
    assert page.count("<tr>") == len(found.rows) + 1
    assert "<lambda>" not in nnx.profile(lambda: 1)._repr_html_()


# The kernels of native code


def rolled(x):
    y = nnx.concat([x, x * 2.0], axis=0)
    return nnx.cumulative_sum(y, axis=0), nnx.argmax(y, axis=1), y[1:], nnx.max(y)


def taken(x):
    order = nnx.random.permutation(5, device="numba")
    rows = nnx.take(x, order[:3], axis=0)
    return nnx.softmax(rows, axis=-1), nnx.sum(rows, axis=0), nnx.mean(x), nnx.mean(x) * 2.0


def joined(x):
    first = x[0, 0]  # a number that two kernels read by one name
    y = nnx.concat([x, nnx.broadcast_to(first, x.shape)])
    return nnx.exp(y) * first


def kernels_of(f, args):
    """Return the kernels of a function that has run, on copies of what it works on."""
    from nnx.profile_native import Kernels

    f(*args)
    call = profiling._Call(args, {}, None)
    entry, env = f._entry(call, (args, {}))
    arrays = [getattr(x, "array", x) for x in entry.inputs(call.tensors)]
    return Kernels(entry.program(), arrays, env)


@pytest.mark.parametrize("name", ["training", "rolled", "taken", "joined"])
def test_kernels_one_after_another_do_what_the_step_does(name):
    from nnx.kernels.emit_numba import alone

    training = Training("numba", True)
    f, args = training.step, training.batch
    if name != "training":
        f, args = nnx.jit(globals()[name]), [drawn(5, 4, device="numba")]
    kernels = kernels_of(f, args)
    for x in kernels._written:
        if not any(x is own for own in kernels._arrays):
            x.fill(1)
    start, before = kernels._memory(), training.state()
    kernels.setting.run()
    assert training.state() == before  # all of it is copies
    whole = [x.tobytes() for x in kernels._memory()]
    kernels._put_back(start)
    for i in range(len(kernels.kernels)):
        assert kernels._bound(alone(kernels.program.emitted, i))() == 0
    assert [x.tobytes() for x in kernels._memory()] == whole
    assert len(kernels.kernels) == f.lower(*args).stats()["kernels"]


def test_measuring_leaves_the_copies_and_the_threads_as_they_were():
    from nnx.kernels import blas

    training = Training("numba", True)
    kernels = kernels_of(training.step, training.batch)
    before, threads = [x.tobytes() for x in kernels._memory()], blas.threads()
    times, _, resolution_s = kernels.times_s()
    assert len(times) == len(kernels.kernels)
    assert resolution_s > 0
    assert [x.tobytes() for x in kernels._memory()] == before
    assert blas.threads() == threads


# The rates of the machine


@pytest.mark.parametrize("device", ["numba", "numpy"])
def test_rates_are_of_products_and_memory(device, monkeypatch):
    from nnx import rates

    monkeypatch.undo()
    monkeypatch.setattr(rates, "PRODUCTS", (32,))
    monkeypatch.setattr(rates, "SIZES_KIB", (4, 16))
    measure = rates._of_host if device == "numba" else lambda: rates._of_library(nnx.device(device))
    getattr(measure, "cache_clear", bool)()
    found = measure()
    rates._of_host.cache_clear()
    rates._of_library.cache_clear()
    assert all(rate > 0 for rate in found["products"].values())
    assert [size for size, _ in found["memory"]] == [4096.0, 16384.0]
    assert all(rate > 0 for _, rate in found["memory"])


def test_bandwidth_is_between_those_measured():
    from nnx.rates import bandwidth

    found = [bandwidth(RATES, n) for n in (0, 1, 1000, 10_000, 100_000, 10**9)]
    assert found == pytest.approx([20, 20, 20, 200**0.5, 10, 10])
    assert bandwidth({"memory": [[1000.0, 20.0]]}, 5) == 20


def test_flops_of_products_and_of_other_ops():
    from nnx.costs import flops

    def counted(name, inputs, out):
        return flops(OPS[name], inputs, out)

    assert counted("matmul", [(2, 3, 4), (4, 5)], (2, 3, 5)) == 2 * 2 * 3 * 4 * 5
    assert counted("matmul", [(4,), (4, 5)], (5,)) == 2 * 4 * 5
    assert counted("linear", [(3, 4), (4, 5), (5,)], (3, 5)) == 2 * 3 * 4 * 5 + 15
    assert counted("tensordot", [(3, 4), (4, 5)], (3, 5)) == 2 * 3 * 4 * 5
    assert counted("vecdot", [(3, 4), (3, 4)], (3,)) == 2 * 12
    assert counted("exp", [(3, 4)], (3, 4)) == 12
    assert counted("sum", [(3, 4)], (3,)) == 12
    assert counted("reshape", [(3, 4)], (12,)) == 0
