"""Products of few and short sums as loops of kernels: which, and that the numbers stay."""

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.kernels import cuda_short
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_step import Launch, Product
from tests import cuda_on_cpu
from tests.cuda_machine import Machine
from tests.test_fit_jit import agree, trained
from tests.test_lessons_jit import ONCE, check
from tests.tracing import Form, outputs_for, run_cuda

pytestmark = pytest.mark.skipif(
    cuda_on_cpu.available() is not None, reason=str(cuda_on_cpu.available())
)
TURNS = 1 << 15


@pytest.fixture
def short(emulated, monkeypatch):
    monkeypatch.setattr(Machine, "warp_turns", TURNS)
    return emulated


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def program_of(function, arrays, batch=None, order="forward", turns=TURNS):
    form = Form(function, [nnx.asarray(a, device="numba") for a in arrays], batch=batch)
    machine = Machine(order)
    machine.warp_turns = turns
    return form, CudaProgram(form.lowered, {}, dict.fromkeys(form.lowered.scalars, True), machine)


def n_products(emission):
    return sum(isinstance(run, Product) for run in emission.step.runs)


# Which


@pytest.mark.parametrize(
    ("shapes", "is_loop"),
    [
        (((32, 784), (784, 16)), True),
        (((1024, 784), (784, 16)), False),  # many turns
        (((1024, 16), (16, 16)), True),
        (((10, 1024), (1024, 3)), True),
        (((10, 1025), (1025, 3)), False),  # long sums
        (((2, 4, 5), (5, 6)), False),
        (((4, 0), (0, 6)), False),
        (((5,), (5, 6)), False),
    ],
)
def test_products_of_few_and_short_sums_are_loops(shapes, is_loop):
    _, program = program_of(lambda x, y: x @ y, [drawn(*s) for s in shapes])
    assert (n_products(program.emission({})) == 0) is is_loop


@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_products_of_other_types_are_left(dtype):
    arrays = [np.ones((3, 4), dtype), np.ones((4, 5), dtype)]
    form = Form(lambda x, y: x @ y, [nnx.asarray(a) for a in arrays])
    assert not cuda_short.short_products(form.lowered, {}, TURNS)


def test_a_small_step_has_no_product_and_few_kernels(short):
    nnx.random.seed(0)
    model = nn.Sequential(nn.Dense(16, "relu"), nn.Dense(16, "relu"), nn.Dense(10)).to("numba")
    model(nnx.zeros((1, 784), device="numba"))
    optimizer = optim.Adam(0.01).bind(model.parameters())

    @nnx.jit
    def step(x, y):
        optimizer.zero_grad()
        nn.cross_entropy(model(x), y).backward()
        optimizer.step()

    x = nnx.asarray(drawn(32, 784), device="numba")
    step(x, nnx.asarray(np.arange(32) % 10, device="numba"))
    runs = short[-1].emission({"B": 32}).step.runs
    assert all(isinstance(run, Launch) for run in runs)
    # Forward 3, the loss, back 3, the last weights.
    assert len(runs) == 8


def test_each_size_has_the_form_that_suits_it():
    function = lambda x, w, v: nnx.relu(x @ w) @ v  # noqa: E731
    arrays = [drawn(32, 300), drawn(300, 40), drawn(40, 3)]
    form, program = program_of(function, arrays, batch=32)
    found = {}
    for n in (32, 900, 7, 40_000, 33):
        given = [drawn(n, 300), *arrays[1:]]
        out = outputs_for(form.lowered, {"B": n})
        assert run_cuda(program, given + form.literals, out, {"B": n}) == 0
        wanted = np.maximum(given[0].astype("f8") @ given[1], 0) @ given[2]
        np.testing.assert_allclose(out[0], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        found[n] = n_products(program.emission({"B": n}))
    assert found == {32: 0, 900: 1, 7: 0, 40_000: 2, 33: 0}
    assert len(program._emissions) == 3


def test_a_warp_takes_a_sum_over_the_rows_of_a_call():
    _, program = program_of(lambda x, g: x.T @ g, [drawn(32, 9), drawn(32, 5)], batch=32)
    body = "".join(program.emission({"B": 32}).step.runs[0].parts[0].body)
    assert "over_warp" in body and "over_block" not in body
    # It is a product where that is too long for one.
    assert n_products(program.emission({"B": 2000})) == 1


def test_the_text_that_is_shown_is_that_of_the_call_it_was_traced_for(short):
    w = nnx.asarray(drawn(300, 40), device="numba")
    for n, is_loop in ((32, True), (2000, False)):
        lowered = nnx.jit(lambda x, w: x @ w).lower(nnx.asarray(drawn(n, 300), device="numba"), w)
        assert ("multiply(" in lowered.source) is is_loop


# The numbers

SHAPES = [((5, 7), (7, 3)), ((1, 33), (33, 1)), ((70, 1), (1, 9)), ((3, 1000), (1000, 2))]


@pytest.mark.parametrize("order", cuda_on_cpu.ORDERS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_they_are_numpy_s_however_factors_lie(dtype, order):
    arrays = [drawn(*shape).astype(dtype) for shapes in SHAPES for shape in shapes]

    def products(*xs):
        pairs = list(zip(xs[::2], xs[1::2], strict=True))
        return [x @ y for x, y in pairs] + [y.T @ x.T for x, y in pairs]

    form, program = program_of(products, arrays, order=order)
    assert n_products(program.emission({})) == 0
    out = outputs_for(form.lowered, {})
    assert run_cuda(program, arrays + form.literals, out, {}) == 0
    wanted = [x.astype("f8") @ y for x, y in zip(arrays[::2], arrays[1::2], strict=True)]
    wanted += [w.T for w in wanted]
    rounding = 1e-5 if dtype == "f4" else 1e-13
    for one, two in zip(out, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=rounding * np.abs(two).max())


@pytest.mark.parametrize(("network", "optimizer"), ONCE)
def test_steps_of_each_lesson_are_as_near_the_truth(network, optimizer, short):
    check(network, optimizer, 4)
    for program in short:
        flat = [i for i, eqn in enumerate(program._lowered.eqns) if eqn.op.name == "matmul"
                and all(len(x.shape) == 2 for x in eqn.vars)]  # fmt: skip
        assert set(program._emissions) == {frozenset(flat)}


def test_fit_is_that_of_the_cpu(request):
    wanted = trained(False)
    short = request.getfixturevalue("short")
    assert agree(wanted, trained(True)) == (None, None)
    assert short
