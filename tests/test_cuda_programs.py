"""Programs as kernels, run on the CPU: random ones, and those whose shapes GPUs take another way.

One program serves all batch sizes. Threads and blocks run in several orders, which must make no
difference to a bit.
"""

import itertools

import numpy as np
import pytest

import nnx
from nnx.kernels.cuda_matrices import matrices
from nnx.kernels.cuda_short import WARP_TURNS
from nnx.kernels.cuda_step import Launch, Product
from tests import cuda_on_cpu
from tests.cuda_machine import Machine, cuda_program
from tests.cuda_on_cpu import ORDERS
from tests.random_graphs import BATCH, OTHER_BATCH
from tests.reference import bounds, wrong
from tests.test_jit_random import DRAWS, SIZES
from tests.test_jit_updates import CASES, hosts
from tests.test_random_graphs import AT_A_TIME, COMPILED, Case
from tests.tracing import Form, outputs_for, run, run_cuda

pytestmark = [
    pytest.mark.skipif(cuda_on_cpu.available() is not None, reason=str(cuda_on_cpu.available())),
    pytest.mark.usefixtures("apart"),
]


def pytest_generate_tests(metafunc):
    if "seeds" in metafunc.fixturenames:
        n = metafunc.config.getoption("graphs")
        n, length = (min(n, COMPILED), 5) if n <= 200 else (n, 8)
        parts = [range(k, min(k + AT_A_TIME, n)) for k in range(0, n, AT_A_TIME)]
        given = [[(seed, length) for seed in p] for p in parts]
        metafunc.parametrize("seeds", given, ids=[f"{p.start}-{p.stop - 1}" for p in parts])


def test_random_programs_as_kernels(seeds, monkeypatch):
    faults = []
    for seed, length in seeds:
        case = Case(seed, length)
        # Products as loops in every other pair.
        monkeypatch.setattr(Machine, "warp_turns", WARP_TURNS if seed % 4 < 2 else 0)
        way = "cuda in place" if seed % 2 else "cuda"
        program = case.compiled(way)
        for order in (ORDERS[seed % 2], seed + 1):
            program.machine.order = order
            faults += case.faults(way, BATCH) + case.faults(way, OTHER_BATCH)
    assert not faults, "\n\n".join(faults)


# Shapes that are taken each in its own way: functions of rows, whose number is symbolic


def rows(narrow, middle, long, wide, whole, small, truth, number):
    """Rows taken by a warp each, and by a block where they are long."""
    return [
        nnx.softmax(middle), nnx.log_softmax(long), nnx.sum(long, axis=1), nnx.max(wide, axis=1),
        nnx.argmax(long, axis=1), nnx.var(wide, axis=1, keepdims=True), nnx.sum(whole, axis=1),
        nnx.min(whole, axis=1), nnx.sum(small, axis=1), nnx.any(truth, axis=1),
        nnx.all(truth, axis=1), nnx.prod(narrow, axis=1), nnx.sum(middle * number),
        nnx.sum(nnx.max(long, axis=1)), nnx.layer_norm(middle),
    ]  # fmt: skip


def columns(narrow, middle, long, wide, whole, small, truth, number):
    """Sums down columns: alone, with a sum of all, and within loops over rows."""
    likely = nnx.softmax(middle)
    return [
        nnx.sum(narrow * number, axis=0), nnx.sum(likely, axis=0), likely,
        nnx.sum(nnx.softmax(wide), axis=0), nnx.sum(long, axis=0), nnx.sum(wide, axis=0),
        nnx.sum(wide), nnx.sum(whole, axis=0), nnx.sum(small, axis=0), nnx.any(truth, axis=0),
        nnx.all(truth, axis=0), nnx.sum(narrow[:, :1], axis=0), nnx.sum(whole),
        nnx.sum(nnx.exp(narrow)), nnx.any(truth), nnx.prod(nnx.sign(narrow), axis=0),
    ]  # fmt: skip


def turned(narrow, middle, long, wide, whole, small, truth, number):
    """The symbolic size as that of columns, and within products."""
    return [
        nnx.sum(narrow.T, axis=1), nnx.sum(nnx.exp(middle.T), axis=0),
        middle.T @ narrow, narrow @ narrow.T,
        narrow.T @ middle @ nnx.ones((70, 2), device=narrow.device), whole.T @ whole,
        nnx.cumulative_sum(narrow, axis=0), nnx.roll(whole, 2, axis=0),
        nnx.flip(middle, axis=0) + middle, nnx.concat([narrow, narrow]), nnx.exp(number),
        nnx.reshape(wide, (-1,)) * 2.0, nnx.sum(small.T, axis=0),
    ]  # fmt: skip


def extremes(narrow, middle, long, wide, whole, small, truth, number):
    """What no rows have not."""
    return [
        nnx.max(narrow, axis=0), nnx.argmin(middle, axis=0), nnx.max(whole), nnx.min(wide),
        nnx.mean(middle, axis=0), nnx.var(narrow, axis=0), nnx.std(wide),
        nnx.max(nnx.relu(middle), axis=0) + nnx.sum(middle, axis=0), nnx.min(small, axis=0),
        nnx.softmax(middle.T), nnx.sum(nnx.softmax(narrow.T), axis=0),
    ]  # fmt: skip


def given(n):
    """Return n rows of several widths and types, and one number."""
    rng = np.random.default_rng(n)
    return [
        rng.normal(size=(n, 3)).astype("f4"), rng.normal(size=(n, 70)).astype("f4"),
        rng.normal(size=(n, 1100)).astype("f4"), rng.normal(size=(n, 300)),
        rng.integers(-100, 100, (n, 33)), rng.integers(0, 256, (n, 5)).astype("u1"),
        rng.random((n, 40)) < 0.9, np.asarray(rng.normal(), "f4"),
    ]  # fmt: skip


TRACED = 19
FUNCTIONS = {rows: (0, 1, 9, 150), columns: (0, 1, 40, 700), turned: (0, 1, 60),
             extremes: (1, 2, 500)}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_one_program_serves_every_number_of_rows(function):
    form = Form(function, [nnx.asarray(a, device="numba") for a in given(TRACED)], TRACED)
    program = cuda_program(form.lowered)
    for n in (TRACED, *FUNCTIONS[function]):
        assert form.serves(n), f"traced again for {n} rows"
        arrays = [np.array(a, order="C") for a in given(n)] + form.literals
        limits = bounds(form.lowered, arrays, {"B": n})
        first = None
        for order in ORDERS if n < 100 else ORDERS[1:3]:
            program.machine.order = order
            outputs = run(program, "cuda", arrays, {"B": n})
            for k, (x, limit) in enumerate(zip(outputs, limits, strict=True)):
                bad = wrong(x, *limit)
                assert not len(bad), (n, order, k, bad[:3], x[tuple(bad[0])])
            bits = [x.tobytes() for x in outputs]
            assert first is None or bits == first, (n, order)
            first = bits


def launches(function, n, *arrays):
    """Return the kernels of a function for n rows, each as (its text, how many blocks)."""
    form = Form(function, [nnx.asarray(a, device="numba") for a in arrays], TRACED)
    found = []
    for launch in cuda_program(form.lowered).step.runs:
        assert isinstance(launch, Launch)
        text = "\n".join(text for part in launch.parts for text in part.body)
        found.append((text, sum(part.blocks({"B": n}) for part in launch.parts)))
    return found


def test_tall_matrices_are_summed_by_many_blocks():
    ((text, blocks),) = launches(lambda x: nnx.sum(x, axis=0), 100_000, np.ones((TRACED, 33), "f4"))
    assert "over_rows" in text and blocks == 2 * 128
    ((text, blocks),) = launches(lambda x: nnx.sum(x), 100_000, np.ones((TRACED, 33), "f4"))
    assert "over_block" in text and blocks == 1024


def test_long_rows_are_taken_by_a_block_each():
    for width, blocks in ((1024, 100 // 8 + 1), (1025, 100)):
        x = np.ones((TRACED, width), "f4")
        ((_, found),) = launches(lambda x: nnx.max(x, axis=1), 100, x)
        assert found == blocks


def test_parts_that_do_not_wait_share_a_kernel():
    a, b = np.ones((TRACED, 3), "f4"), np.ones((5, 7), "f4")
    assert len(launches(lambda x, y: (nnx.sum(x, axis=1), nnx.exp(y)), 4, a, b)) == 1
    found = launches(lambda x, y: (nnx.exp(x - nnx.sum(x)), nnx.exp(y)), 4, a, b)
    assert len(found) == 2


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "uint8", "bool"])
def test_places_of_the_largest_and_the_smallest_are_numpy_s(dtype, axis):
    """Of equal numbers the first counts, and NaN before all; also where all are infinite."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 4, (5, 70, 3)).astype(dtype)
    if x.dtype.kind == "f":
        x[0, 5:9], x[1, ::7, 1], x[2], x[3, :, 0] = np.nan, -np.inf, np.inf, -np.inf
    form = Form(
        lambda x: [
            nnx.argmax(x, axis=axis), nnx.argmin(x, axis=axis),
            nnx.max(x, axis=axis), nnx.sum(x, axis=axis), nnx.any(x, axis=axis),
        ],
        [nnx.asarray(x, device="numba")],
    )  # fmt: skip
    program = cuda_program(form.lowered)
    for order in ORDERS:
        program.machine.order = order
        found = run(program, "cuda", [x, *form.literals], {})
        np.testing.assert_array_equal(found[0], np.argmax(x, axis=axis))
        np.testing.assert_array_equal(found[1], np.argmin(x, axis=axis))
        np.testing.assert_array_equal(found[2], np.max(x, axis=axis))
        with np.errstate(invalid="ignore"):  # inf - inf
            wanted = np.sum(x, axis=axis, dtype=found[3].dtype)
        np.testing.assert_allclose(found[3], wanted, rtol=1e-3 if dtype == "float16" else 1e-6)
        np.testing.assert_array_equal(found[4], np.any(x, axis=axis))


# What is replaced in place


@pytest.mark.parametrize("case", CASES)
def test_what_is_replaced_is_not_read_after(case):
    f, shapes, updates = CASES[case]
    arrays = hosts(*shapes)
    eager = f(*(nnx.asarray(a, device="numpy") for a in arrays))
    eager = [eager] if isinstance(eager, nnx.Tensor) else eager
    form = Form(f, [nnx.asarray(a, device="numba") for a in arrays])
    program = cuda_program(form.lowered, updates)
    for order in ORDERS:
        program.machine.order = order
        found = run(program, "cuda", [*arrays, *form.literals], {})
        for x, wanted in zip(found, eager, strict=True):
            np.testing.assert_allclose(x, wanted.numpy(), rtol=1e-13, atol=1e-14)


# Draws


def test_drawn_numbers_have_the_bits_of_eager_ones(emulated):
    eager, compiled = (
        nnx.random.Generator(5).fork(2**63 + 1),
        nnx.random.Generator(5).fork(2**63 + 1),
    )

    @nnx.jit
    def all_of(x):
        return [draw(compiled, x.shape[0]) for draw in DRAWS.values()]

    for n in SIZES:
        got = all_of(nnx.zeros((n,), device="numba"))
        for (name, draw), out in zip(DRAWS.items(), got, strict=True):
            assert out.numpy().tobytes() == draw(eager, n).numpy().tobytes(), (name, n)
        assert compiled.state_dict() == eager.state_dict()
    assert emulated


# Products


FACTORS = {
    "plain": ((4, 5), (5, 6)),
    "a vector": ((5,), (5, 6)),
    "two vectors": ((5,), (5,)),
    "piles": ((7, 4, 5), (7, 5, 6)),
    "a pile and one": ((7, 4, 5), (5, 6)),
    "spread both ways": ((2, 1, 4, 5), (3, 5, 6)),
    "spread in the middle": ((2, 1, 3, 4, 5), (2, 6, 1, 5, 1)),
    "no terms": ((4, 0), (0, 6)),
    "no rows": ((0, 5), (5, 6)),
    "no piles": ((0, 4, 5), (5, 6)),
}


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8"])
def test_products_of_every_shape(dtype):
    rng = np.random.default_rng(0)
    arrays = []
    for shapes in FACTORS.values():
        arrays += [rng.integers(-9, 9, shape).astype(dtype) for shape in shapes]

    def turn(x):
        return x if x.ndim < 2 else nnx.matrix_transpose(x)

    def both(*xs):
        pairs = list(zip(xs[::2], xs[1::2], strict=True))
        return [x @ y for x, y in pairs] + [
            turn(y) @ turn(x) for x, y in pairs if y.ndim > 1 < x.ndim
        ]

    form = Form(both, [nnx.asarray(a, device="numba") for a in arrays])
    found = run(cuda_program(form.lowered), "cuda", arrays + form.literals, {})
    pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
    wanted = [x @ y for x, y in pairs]
    wanted += [np.swapaxes(x @ y, -1, -2) for x, y in pairs if y.ndim > 1 < x.ndim]
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(x, y)


def test_piles_at_even_steps_are_one_call():
    calls = {}
    for name, shapes in FACTORS.items():
        arrays = [nnx.asarray(np.ones(s, "f4"), device="numba") for s in shapes]
        step = cuda_program(Form(lambda x, y: x @ y, arrays).lowered).step
        (product,) = [r for r in step.runs if isinstance(r, Product)]
        places = dict.fromkeys(step.pointers, 0)
        calls[name] = [(p.count, p.left_step, p.right_step) for p in matrices(product, places, {})]
    assert calls["piles"] == [(7, 20, 30)]
    assert calls["a pile and one"] == [(7, 20, 0)]
    assert calls["spread both ways"] == [(3, 0, 30)] * 2
    assert calls["plain"] == calls["two vectors"] == [(1, 0, 0)]


# Indices and checks


def test_an_index_out_of_range_is_refused_and_nothing_is_replaced():
    def step(x, at, y):
        return x[at] * 2.0, y + 1.0

    x, y = np.arange(12, dtype="f4").reshape(4, 3), np.arange(5, dtype="f4")
    form = Form(step, [nnx.asarray(a, device="numba") for a in (x, np.array([0, 3]), y)])
    program = cuda_program(form.lowered, {1: 2})
    for at, order in itertools.product(([1, -4], [4, 0], [-5, 0], [3, 3]), ORDERS):
        program.machine.order = order
        arrays = [x, np.array(at), y.copy()]
        outputs = outputs_for(program.graph, {})
        status = run_cuda(program, arrays, outputs, {})
        fine = all(-4 <= i < 4 for i in at)
        assert (status == 0) == fine, at
        np.testing.assert_array_equal(arrays[2], y + fine)
        if fine:
            np.testing.assert_array_equal(outputs[0], x[at] * 2)


def test_additions_to_one_place_come_in_order():
    """In float32 the order shows: it is that of the rows, whatever the threads' order is."""
    rng = np.random.default_rng(0)
    x = (10.0 ** rng.uniform(-4, 4, (50, 3))).astype("f4")
    at = rng.integers(0, 4, 50)

    def step(x, at):
        return nnx.grad(lambda zeros: nnx.sum(zeros[at] * x))(nnx.zeros((4, 3), device="numba"))

    wanted = np.zeros((4, 3), "f4")
    np.add.at(wanted, at, x)
    form = Form(step, [nnx.asarray(a, device="numba") for a in (x, at)])
    program = cuda_program(form.lowered)
    for order in ORDERS:
        program.machine.order = order
        (found,) = run(program, "cuda", [x, at, *form.literals], {})
        np.testing.assert_array_equal(found, wanted)
