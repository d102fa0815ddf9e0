"""Gradients inside wide products: which become part of them, and that the numbers stay."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import nnx
from nnx.graph import interpret, typecheck
from nnx.kernels import cuda_masks, cuda_setting
from nnx.kernels.cuda_gemm import GEMM, RELU, SUMS
from nnx.kernels.cuda_passes import products
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_step import Launch, Product
from tests import cuda_on_cpu
from tests.cuda_machine import Machine
from tests.tracing import Form, outputs_for, run_cuda

pytestmark = pytest.mark.skipif(
    cuda_on_cpu.available() is not None, reason=str(cuda_on_cpu.available())
)
ROUND = {"high": np.float32, "medium": ml_dtypes.bfloat16, "float16": np.float16}
N, WIDTH = 37, 128
FUSED = {
    "all": {"relu_bias", "relu_aux_bias", "drelu", "bgradb"},
    "no bits beside relu": {"relu_bias", "drelu", "bgradb"},
    "no relu": {"drelu", "bgradb"},
    "sums": {"bgradb"},
    "bits": {"relu_bias", "relu_aux_bias", "drelu"},
    "none": set(),
}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(cuda_masks, "WIDE", WIDTH)


def machine(fused="all", order="forward"):
    made = Machine(order)
    made.fused = FUSED[fused]
    return made


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def arguments(sizes=(24, WIDTH, 2 * WIDTH, 5)):
    found = [drawn(N, sizes[0])]
    for n_in, n_out in itertools.pairwise(sizes):
        found += [drawn(n_in, n_out) / np.sqrt(n_in).astype("f4"), drawn(n_out)]
    return found


def network(x, *weights):
    """Return the results and the gradients of half the sum of their squares."""
    for w in weights:
        w.requires_grad = True
    out = x
    for i in range(0, len(weights), 2):
        out = (nnx.relu(out) if i else out) @ weights[i] + weights[i + 1]
    (0.5 * out * out).sum().backward()
    return [out, *(w.grad for w in weights)]


def by_hand(kind, x, *weights):
    """The same in float64, each factor of a product rounded, and what has 16 bits."""

    def r(a):
        return a.astype(kind).astype("f8")

    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    values = [r(x)]
    for w, b in pairs[:-1]:
        bias = b if kind is np.float32 else r(b)
        values.append(r(np.maximum(values[-1] @ r(w) + bias, 0)))
    out = values[-1] @ r(pairs[-1][0]) + pairs[-1][1]
    g, grads = r(out), []
    for i in reversed(range(len(pairs))):
        grads[:0] = [values[i].T @ g, g.sum(0)]
        if i:
            g = np.where(values[i] > 0, r(g @ r(pairs[i][0]).T), 0)
    return [out, *grads]


def form_of(function, arrays):
    return Form(function, [nnx.asarray(a, device="numba") for a in arrays])


def program_of(form, precision, on=None, kinds=None):
    nnx.set_matmul_precision(precision)
    try:
        return CudaProgram(form.lowered, {}, kinds or {}, on or machine())
    finally:
        nnx.set_matmul_precision("highest")


def made(function, *arrays, precision="medium", fused="all"):
    graph = products(form_of(function, arrays).lowered, precision, machine(fused))
    typecheck(graph)
    return graph


def epilogues(graph):
    return [eqn.attrs["epilogue"] for eqn in graph.eqns if eqn.op is GEMM]


# Which products have what

EXPECTED = {
    "all": ["bgradb", "bgradb", "bias", "drelu", "drelu", "none", "relu_aux_bias", "relu_aux_bias"],
    "no bits beside relu": ["bgradb", "bgradb", "bias", "bias", "bias", "drelu", "drelu", "none"],
    "no relu": ["bgradb", "bgradb", "bias", "bias", "bias", "drelu", "drelu", "none"],
    "sums": ["bgradb", "bgradb", "bias", "bias", "bias", "none", "none", "none"],
    "bits": ["bias", "drelu", "drelu", "none", "none", "none", "relu_aux_bias", "relu_aux_bias"],
    "none": ["bias", "bias", "bias", *["none"] * 5],
}


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("fused", FUSED)
def test_products_of_wide_layers_do_what_the_machine_can(fused, precision):
    graph = made(network, *arguments(), precision=precision, fused=fused)
    assert sorted(epilogues(graph)) == EXPECTED[fused]
    # A loop of its own where relu is not part of a product, and bits are asked for.
    n_loops = 2 if fused in ("no relu", "no bits beside relu") else 0
    assert sum(eqn.op is RELU for eqn in graph.eqns) == n_loops


@pytest.mark.parametrize("precision", ROUND)
def test_a_step_of_wide_layers_goes_through_no_gradient_by_itself(precision):
    form = form_of(network, arguments())
    step = program_of(form, precision).step
    parts = [p for run in step.runs if isinstance(run, Launch) for p in run.parts]
    shapes = [tuple(x.shape) for p in parts for x in (*p.reads, *p.writes)]
    assert (N, WIDTH) not in shapes and (N, 2 * WIDTH) not in shapes
    assert sum(isinstance(run, Product) for run in step.runs) == 8


def test_narrow_layers_and_float32_are_left_as_they_are():
    for sizes in ((24, 64, 64, 5), (24, WIDTH + 8, WIDTH + 8, 5)):
        graph = made(network, *arguments(sizes))
        assert set(epilogues(graph)) == {"none", "bias", "relu_bias"}
    graph = made(network, *arguments(), precision="highest")
    assert set(epilogues(graph)) == {"none", "bias", "relu_bias"}


X, W, B, V = drawn(N, 24), drawn(24, WIDTH), drawn(WIDTH), drawn(WIDTH, WIDTH)


def gradient(x, w, b, v, g, more=lambda *given: ()):
    """Return relu's result as a factor, the gradient before relu, and what is asked for more."""
    h = nnx.relu(x @ w + b)
    positive = h > 0
    before = g @ v.T
    d = nnx.where(positive, before, 0.0)
    return [h @ v, d @ w.T, *more(h, positive, before, d)]


OTHERS = {
    "the bits": lambda h, positive, before, d: (positive,),
    "the gradient as it was": lambda h, positive, before, d: (before * 2.0,),
    "other numbers by the bits": lambda h, positive, before, d: (nnx.where(positive, d, 1.0),),
}


@pytest.mark.parametrize("reader", OTHERS)
def test_what_something_else_reads_is_left_as_it_is(reader):
    arrays = (X, W, B, V, drawn(N, WIDTH))
    assert "drelu" in epilogues(made(gradient, *arrays))
    graph = made(lambda *given: gradient(*given, OTHERS[reader]), *arrays)
    assert "drelu" not in epilogues(graph)


def test_sums_that_no_product_stands_beside_are_loops():
    def function(x, w, g):
        return x.T @ g, g.sum(axis=0), g.sum(axis=1), (g * g).sum(axis=0)

    graph = made(function, X, W, drawn(N, WIDTH), precision="high")
    assert [eqn.op for eqn in graph.eqns].count(SUMS) == 1
    assert [eqn.op.name for eqn in graph.eqns].count("sum") == 2
    # One product makes the sums of one factor.
    graph = made(
        lambda x, g: (x.T @ g, g.sum(axis=0), g.sum(axis=0, keepdims=True)), X, drawn(N, WIDTH),
        precision="high",
    )  # fmt: skip
    assert [eqn.op for eqn in graph.eqns].count(SUMS) == 1


def test_sums_that_the_product_itself_needs_are_loops():
    def centred(x):
        return (x - x.sum(axis=0) / N).T @ x

    def crossed(x, g):
        one, two = x.sum(axis=0), g.sum(axis=0)
        return (x * two).T @ x, (g * one).T @ g

    x, g = drawn(N, WIDTH), drawn(N + 0, 2 * WIDTH)[:, :WIDTH]
    graph = made(centred, x, precision="high")
    assert SUMS not in [eqn.op for eqn in graph.eqns]
    # Of two that would wait for each other one is a loop.
    graph = made(crossed, x, g, precision="high")
    assert [eqn.op for eqn in graph.eqns].count(SUMS) == 1


# The numbers


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("precision", ROUND)
@pytest.mark.parametrize("fused", FUSED)
def test_gradients_are_those_of_loops(fused, precision, order):
    arrays = arguments()
    form = form_of(network, arrays)
    program = program_of(form, precision, machine(fused, order))
    results = outputs_for(form.lowered, {})
    assert run_cuda(program, arrays + form.literals, results, {}) == 0
    rounding = 4e-3 if ROUND[precision] is not np.float32 else 1e-5
    for found, wanted in zip(results, by_hand(ROUND[precision], *arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=rounding * np.abs(wanted).max())


@pytest.mark.parametrize("fused", FUSED)
def test_the_words_of_the_graph_mean_what_it_meant(fused):
    arrays = arguments()
    graph = made(network, *arrays, precision="high", fused=fused)
    form = form_of(network, arrays)
    device = nnx.device("numpy")
    found = interpret(graph, device, arrays + form.literals, {})
    for one, two in zip(found, by_hand(np.float32, *arrays), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(two).max())


@pytest.mark.parametrize("fused", ["all", "no relu"])
def test_nan_stays_and_is_not_above_0(fused):
    arrays = arguments()
    arrays[0][3, 5] = np.nan
    form = form_of(network, arrays)
    program = program_of(form, "high", machine(fused))
    results = outputs_for(form.lowered, {})
    run_cuda(program, arrays + form.literals, results, {})
    out, *grads = results
    assert np.isnan(out[3]).all() and not np.isnan(np.delete(out, 3, 0)).any()
    # Row 5 of the first weights is of the lost number.
    assert np.isnan(grads[0][5]).all() and np.isnan(grads[2]).any() and np.isnan(grads[4]).all()
    # Where relu had no number above 0, no gradient comes back.
    assert not np.isnan(grads[1]).any()


def test_a_batch_of_any_size_and_of_none():
    arrays = arguments()
    tensors = [nnx.asarray(a, device="numba") for a in arrays]
    form = Form(network, tensors, batch=N)
    program = program_of(form, "high", machine(), {"B": True})
    for n in (N, 1, 200, 0):
        given = [drawn(n, 24), *arrays[1:]]
        results = outputs_for(form.lowered, {"B": n})
        assert run_cuda(program, given + form.literals, results, {"B": n}) == 0
        for found, wanted in zip(results, by_hand(np.float32, *given), strict=True):
            bound = 1e-5 * np.abs(wanted).max(initial=0)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)


def test_sums_of_no_rows_are_0(monkeypatch):
    monkeypatch.setattr(cuda_setting, "MOST_COPIED_BYTES", -1)  # written where they are asked for
    tensors = [nnx.asarray(a, device="numba") for a in (drawn(N, 24), drawn(N, WIDTH))]
    form = Form(lambda x, g: (x.T @ g, g.sum(axis=0)), tensors, batch=N)
    program = program_of(form, "high", machine(), {"B": True})
    results = outputs_for(form.lowered, {"B": 0})
    given = [drawn(0, 24), drawn(0, WIDTH)]
    assert run_cuda(program, given + form.literals, results, {"B": 0}) == 0
    assert not any(result.any() for result in results)


@pytest.mark.parametrize("fused", ["all", "no relu"])
def test_where_relu_is_0_there_is_no_gradient(fused):
    x, w, v = np.eye(8, 24, dtype="f4"), drawn(24, WIDTH), drawn(WIDTH, WIDTH)
    w[:, ::2] = 0.0
    b, g = np.zeros(WIDTH, "f4"), drawn(8, WIDTH)
    arrays = [x, w, b, v, g]
    form = form_of(lambda *given: gradient(*given, lambda h, positive, before, d: (d,)), arrays)
    program = program_of(form, "high", machine(fused))
    assert "drelu" in epilogues(program.graph)
    results = outputs_for(form.lowered, {})
    assert run_cuda(program, arrays + form.literals, results, {}) == 0
    wanted = np.where(x @ w > 0, g @ v.T.astype("f8"), 0.0)
    np.testing.assert_allclose(results[2], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
