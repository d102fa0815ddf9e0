"""Graphs run call by call in planned buffers: as eager to the bit, and nothing held changes."""

import contextlib
import gc
import itertools
import random
import threading
import time
import tracemalloc

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.device import Device
from nnx.memory import placed
from nnx.op import OPS, apply
from nnx.passes import key_of
from nnx.planned import Planned
from nnx.scalar import Facts, variable
from nnx.testing import check_backend
from nnx.testing.conformance import Row
from nnx.testing.samples import SAMPLES
from nnx.trace import Trace, batch_size

NUMPY = nnx.device("numpy")


def planned(function, arrays, sized=0, device=NUMPY):
    """Return a planned graph, and it as a function of arrays; some have rows of any number."""
    tensors = [nnx.asarray(x, device=device) for x in arrays]
    with Trace(device) as trace:
        twins = []
        for i, x in enumerate(tensors):
            shape = list(x.shape)
            if i < sized:
                shape[0] = batch_size(trace.facts, "B", shape[0])
            twins.append(trace.argument(x, shape, f"x{i}"))
        result = function(*twins)
        results = [result] if isinstance(result, nnx.Tensor) else list(result)
        graph = trace.graph([r.array.var for r in results])
    graph.scalars = ["B"] if sized else []
    program = Planned(graph, device)
    return program, lambda *given: program(given, {"B": len(given[0])} if sized else {})


def same(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


def peak_bytes(call):
    """Return the most memory that a call holds beside what was held before."""
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def poison(program):
    """Fill the buffers with what no call has left there."""
    for array in program._memory.values():
        if isinstance(array, np.ndarray):
            array.view("u1")[...] = 0x7F


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


ROWS = [
    pytest.param(sample, kind, id=f"{sample.op}-{sample.label}-{kind}")
    for op in OPS
    for sample in SAMPLES[op]
    for kind in sample.dtypes
    if sample.raises is None and any(isinstance(x, np.ndarray) for x in sample.inputs)
    if NUMPY.has(kind)
]


@pytest.mark.parametrize("sample, kind", ROWS)
def test_every_op_between_buffers_equals_eager(sample, kind):
    row = Row(sample, kind, NUMPY)
    arrays = [x for x in row.hosts if isinstance(x, np.ndarray)]

    def inner(x):
        """Return a value that has a buffer."""
        return nnx.where(x == x, x, x)

    def call(*tensors):
        rest = iter(map(inner, tensors))
        inputs = tuple(next(rest) if isinstance(x, np.ndarray) else x for x in row.hosts)
        out = apply(row.op, inputs, dict(sample.attrs))
        return out, nnx.where(inner(out) == out, inner(out), out)

    before = [x.copy() for x in arrays]
    expected = [x.numpy() for x in call(*row.place(arrays))]
    program, run = planned(call, arrays)
    first = run(*arrays)
    kept = [np.array(x) for x in first]
    poison(program)
    again = run(*arrays)
    for got in (first, again, kept):
        for a, b in zip(got, expected, strict=True):
            same(a, b)
    for a, b in zip(arrays, before, strict=True):
        same(a, b)


def network(seed=1, width=8):
    nnx.random.seed(seed)
    return nn.Sequential(
        nn.Dense(width, "gelu", in_features=6), nn.LayerNorm(width), nn.Dropout(0.25),
        nn.Dense(width, "relu", in_features=width), nn.Dense(3, in_features=width),
    ).to(NUMPY)  # fmt: skip


def batch(rows, seed=0):
    x = nnx.asarray(floats(rows, 6, seed=seed), device=NUMPY)
    return x, nnx.asarray(np.random.default_rng(seed).integers(0, 3, rows), device=NUMPY)


def stepper(model, opt):
    def step(x, y):
        opt.zero_grad()
        loss = nn.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.AdamW(p, lr=optim.schedules.cosine(0.01, 9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("width", [8, 200])
def test_training_equals_eager_to_the_bit_and_what_it_gave_stays(name, width):
    runs = []
    for compiled in (False, True):
        model = network(width=width)
        opt = OPTIMIZERS[name](model.parameters())
        step = stepper(model, opt)
        step = nnx.jit(step) if compiled else step
        held = []
        for i in range(9):
            loss = step(*batch(12 - i // 3, seed=i))
            held += [loss.array] + [p.array for p in model.parameters()]
            held += [p.grad.array for p in model.parameters()]
            if i % 4 == 1:
                del held[:-3]
            runs.append([np.array(x) for x in held])
        for a, b in zip(held, runs[-1], strict=True):
            same(a, b)
    for eager, jitted in zip(runs[:9], runs[9:], strict=True):
        for a, b in zip(jitted, eager, strict=True):
            same(a, b)


@pytest.mark.parametrize("device", ["loops", "array_api:array_api_strict", "array_api:numpy"])
def test_without_kernels_that_write_training_equals_eager(device):
    runs = []
    for compiled in (False, True):
        model = network().to(device)
        step = stepper(model, optim.Adam(model.parameters(), lr=0.01))
        step = nnx.jit(step) if compiled else step
        for i in range(4):
            x, y = batch(5 - i // 2, seed=i)
            step(x.to(device), y.to(device))
        runs.append([*model.state_dict().values(), *(p.grad.numpy() for p in model.parameters())])
    for eager, jitted in zip(*runs, strict=True):
        same(jitted, eager)


def test_a_large_result_is_given_again_only_when_nobody_holds_it():
    x = floats(300, 300)
    _, run = planned(lambda x: nnx.tanh(x) + 1.0, [x])
    held = [run(x * i)[0][1:3] for i in range(4)]
    for i, part in enumerate(held):
        same(part, (np.tanh(x * i) + np.float32(1.0))[1:3])
    assert peak_bytes(lambda: run(x)) < x.nbytes
    assert not any(np.shares_memory(part, run(x)[0]) for part in held)


def test_a_call_allocates_what_it_returns_and_no_more():
    def f(x):
        for _ in range(4):
            x = nnx.softmax(nnx.relu(x @ x) * 2.0 - 1.0) + nnx.reshape(x.T, x.shape).T
        return nnx.sum(nnx.where(x > 0.5, x, 0.0), axis=0)

    x = floats(256, 256)
    _, run = planned(f, [x])
    run(x)
    assert peak_bytes(lambda: run(x)) < x.nbytes + (1 << 15)  # the one reshape that has to copy


def test_values_that_end_share_buffers():
    def f(x):
        for _ in range(6):
            x = nnx.exp(nnx.tanh(x) * 0.5)
        return nnx.sum(x)

    program, _ = planned(f, [floats(4, 5)])
    assert program.source.count("out=b") > 12
    assert sum(b.var.shape == (4, 5) for b in program._text._buffers) == 1
    # Only elementwise kernels may be given an input to write into.
    program, _ = planned(lambda x: nnx.sum(nnx.softmax(nnx.softmax(nnx.tanh(x)))), [floats(4, 5)])
    assert sum(b.var.shape == (4, 5) for b in program._text._buffers) == 3


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", "i4"])
@pytest.mark.parametrize("other", [0.0, -0.0, 1.0])
def test_choices_are_those_of_numpy(kind, other):
    x = (floats(50, 60) * 9).astype(kind)
    if x.dtype.kind == "f":
        x[0, :3] = np.nan, np.inf, -np.inf
    condition = floats(50, 60, seed=1) > 0
    wanted = np.where(condition, x, other)
    kernels = NUMPY.backend.overrides["where"], NUMPY.backend.into["where"]
    for got in (
        kernels[0](condition, x, other),
        kernels[1](condition, x, other, np.empty_like(wanted)),
    ):
        same(got, wanted)
        if x.dtype.kind == "f":
            same(np.signbit(got), np.signbit(wanted))


def test_a_view_of_a_buffer_keeps_it_from_others():
    def f(x):
        a = nnx.exp(x)
        turned = nnx.reshape(nnx.permute_dims(a, (1, 0)), (-1,))[2:]
        top = nnx.flip(a * 1.0, axis=0)
        b = nnx.tanh(x * 2.0) * nnx.cos(x)
        return nnx.sum(turned * turned) + nnx.sum(b * top), b.T[1]

    for n in (5, 3, 7, 3):
        x = floats(n, 4, seed=n)
        program, run = planned(f, [x])
        run(x * 2.0)
        poison(program)
        for got, wanted in zip(run(x), f(nnx.asarray(x, device=NUMPY)), strict=True):
            same(got, wanted.numpy())


def test_sizes_take_turns():
    def f(x, w):
        h = nnx.relu(x @ w)
        return nnx.softmax(h @ w) / x.shape[0], nnx.sum(h, axis=0)

    w = floats(4, 4)
    _, run = planned(f, [floats(6, 4), w], sized=1)
    for n in (6, 2, 300, 2, 6, *range(3, 25), 6):
        x = floats(n, 4, seed=n)
        wanted = f(nnx.asarray(x, device=NUMPY), nnx.asarray(w, device=NUMPY))
        for got, value in zip(run(x, w), wanted, strict=True):
            same(got, value.numpy())


def test_two_threads_do_not_share_buffers():
    def tanh(x, out):
        np.tanh(x, out=out)
        time.sleep(0.01)  # the other thread has its turn
        return out

    backend = type(NUMPY.backend)()
    backend.into = {**backend.into, "tanh": tanh}
    given = [floats(4, 5, seed=i) for i in range(2)]
    _, run = planned(lambda x: nnx.tanh(x) + x, given[:1], device=Device("slow", backend, 0))
    wanted = [np.tanh(x) + x for x in given]
    wrong = []

    def repeat(i):
        wrong.extend(k for k in range(5) if not np.array_equal(run(given[i])[0], wanted[i]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_refused_label_leaves_everything_and_the_next_call_is_right():
    model = network()
    opt = optim.Adam(model.parameters(), lr=0.01)
    step = nnx.jit(stepper(model, opt))
    x, y = batch(12)
    step(x, y)
    before = model.state_dict()
    for bad in (3, -1):
        with pytest.raises(nnx.LabelError, match=f"Label {bad} at index 5"):
            step(x, nnx.asarray(np.where(np.arange(12) == 5, bad, y.numpy()), device=NUMPY))
    for a, b in zip(model.state_dict().values(), before.values(), strict=True):
        same(a, b)
    assert np.isfinite(step(x, y).item()) and opt.step_count == 2


def test_results_that_are_inputs_views_or_constants_can_be_written_by_their_owner():
    def f(x):
        return x, x.T, nnx.full_like(x, 2.0), nnx.exp(x).T

    x = floats(3, 4)
    _, run = planned(f, [x])
    first = run(x)
    assert np.shares_memory(first[1], x)
    first[2][...] = 9.0
    first[3][...] = 9.0
    second = run(x)
    same(second[2], np.full_like(x, 2.0))
    same(second[3], np.exp(x).T)


def test_a_repeated_call_notices_what_has_changed():
    model, shift, traces = network(), 0.1, []

    @nnx.jit
    def f(x, scale):
        traces.append(x.shape)
        return model(x) * scale + shift

    def check(x, scale):
        state = nnx.random.default_generator().state_dict()
        got = f(x, scale).numpy()
        nnx.random.default_generator().load_state_dict(state)
        same(got, (model(x) * scale + shift).numpy())

    x, _ = batch(12)
    for scale in (2.0, 2.0, 3.0):
        check(x, scale)
    assert len(traces) == 1
    shift = 0.5
    check(x, 4.0)
    check(batch(12, seed=3)[0], 4.0)
    check(batch(5)[0], 4.0)
    model.eval()
    check(x, 4.0)
    check(x, 4.0)
    model[-1].bias.assign(model[-1].bias.array + 1.0)
    check(x, 4.0)
    assert len(traces) == 3
    with pytest.raises(nnx.GradientError):
        f(nnx.tanh(nnx.Parameter(x)), 4.0)
    with pytest.raises((nnx.DeviceError, nnx.TraceError)):
        f(x.to("loops"), 4.0)


def test_a_repeated_call_notices_another_type():
    f = nnx.jit(lambda x, y: x * y)
    x = nnx.asarray(np.arange(12).reshape(3, 4), device=NUMPY)
    for y in (2.0, 2.0, 3, 3, nnx.asarray(floats(3, 4).astype("f8"), device=NUMPY)):
        same(f(x, y).numpy(), (x * y).numpy())


def test_many_steps_do_not_grow_memory():
    import resource

    model = network()
    step = nnx.jit(stepper(model, optim.Adam(model.parameters(), lr=1e-3)))
    x, y = batch(12)
    for _ in range(300):
        step(x, y)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20_000):
        step(x, y)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048


def test_slices_of_sizes_are_told_from_slices_of_numbers():
    n = variable(Facts(), "B", 4)
    assert key_of((slice(0, n),)) != key_of((slice(0, 4),))
    assert key_of((slice(0, n),)) == key_of((slice(0, variable(Facts(), "B", 7)),))


def test_buffers_needed_at_one_time_do_not_overlap():
    draw = random.Random(0)
    for _ in range(200):
        n = draw.randrange(1, 12)
        sizes = [draw.randrange(0, 9) for _ in range(n)]
        spans = [(a, a + draw.randrange(0, 5)) for a in (draw.randrange(10) for _ in range(n))]
        offsets, total = placed(sizes, spans)
        for i, j in itertools.combinations(range(n), 2):
            together = spans[i][0] <= spans[j][1] and spans[j][0] <= spans[i][1]
            apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
            assert apart or not together or not sizes[i] or not sizes[j]
        assert total == max(a + b for a, b in zip(offsets, sizes, strict=True))


@pytest.mark.parametrize("fault", ["value", "array", "input"])
def test_the_conformance_table_finds_a_kernel_that_writes_wrongly(fault):
    def exp(x, out):
        with contextlib.suppress(ValueError):
            np.multiply(x, 1.0 + (fault == "input"), out=x)
        np.exp(x, out=out)
        out += fault == "value"
        return out if fault != "array" else out.copy()

    backend = type(NUMPY.backend)()
    backend.into = {"exp": exp}
    found = [str(failure) for failure in check_backend(Device("faulty", backend, 0))]
    assert found and all(text.startswith("exp") and "into" in text for text in found)
