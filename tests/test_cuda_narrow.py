"""Values between narrow products are narrow, where nothing would find another number for it."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import nnx
from nnx import dtypes, nn, optim
from nnx.graph import typecheck
from nnx.kernels.cuda_gemm import GEMM
from nnx.kernels.cuda_passes import NARROW, products
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_step import Product
from tests import cuda_on_cpu
from tests.cuda_machine import Machine
from tests.tracing import Form, outputs_for, run_cuda

pytestmark = pytest.mark.skipif(
    cuda_on_cpu.available() is not None, reason=str(cuda_on_cpu.available())
)
PRECISIONS = ("medium", "float16")
ROUND = {"medium": ml_dtypes.bfloat16, "float16": np.float16}
SIZES = (33, 40, 24, 24, 5)


@pytest.fixture(params=PRECISIONS)
def precision(request):
    nnx.set_matmul_precision(request.param)
    yield request.param
    nnx.set_matmul_precision("highest")


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def made(function, *arrays, precision="medium"):
    """Return a function's graph with its products in the words of cuBLASLt."""
    form = Form(function, [nnx.asarray(a, device="numba") for a in arrays])
    graph = products(form.lowered, precision, Machine())
    typecheck(graph)
    return graph


def types_of(graph):
    """Return the type of each product's result, in order."""
    return [eqn.out.dtype.name for eqn in graph.eqns if eqn.op is GEMM]


def casts(graph):
    return [
        (eqn.inputs[0].dtype.name, eqn.out.dtype.name, len(eqn.out.shape))
        for eqn in graph.eqns if eqn.op.name == "astype"
    ]  # fmt: skip


# Which values


def layers(x, w1, w2, between=lambda h: h):
    return between(nnx.relu(x @ w1)) @ w2


X, W1, W2 = drawn(6, 8), drawn(8, 8), drawn(8, 4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_only_products_read_is_narrow(precision):
    kind = NARROW[precision].name
    graph = made(layers, X, W1, W2, precision=precision)
    assert types_of(graph) == [kind, "float32"]
    # The three arguments are converted, and nothing else.
    assert casts(graph) == [("float32", kind, 2)] * 3


STAYS = {
    "an output": lambda x, v, w: ((h := nnx.relu(x @ v)) @ w, h),
    "a sum": lambda x, v, w: layers(x, v, w, lambda h: h + 1.0),
    "a residual": lambda x, v, w: (h := nnx.relu(x @ v)) + h @ w @ nnx.ones((4, 8), device="numba"),
    "a mean": lambda x, v, w: ((h := nnx.relu(x @ v)) @ w, h.mean(axis=0)),
    "a comparison": lambda x, v, w: ((h := nnx.relu(x @ v)) @ w, h > 0.5),
    "another number instead": lambda x, v, w: layers(x, v, w, lambda h: nnx.where(x > 0, h, 0.3)),
    "a product of another type": lambda x, v, w: (
        (h := x @ v) @ w, h.astype("float64") @ w.astype("float64")
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", STAYS)
def test_what_something_else_reads_is_float32(reader):
    graph = made(STAYS[reader], X, W1, W2)
    assert types_of(graph)[0] == "float32"


KEPT = {
    "a comparison with 0": lambda x, v, w: ((h := nnx.relu(x @ v)) @ w, h > 0),
    "0 instead": lambda x, v, w: layers(x, v, w, lambda h: nnx.where(x > 0, h, 0.0)),
    "the other way round": lambda x, v, w: layers(x, v, w, lambda h: nnx.where(x > 0, 0, h)),
    "a transposed factor": lambda x, v, w: w.T @ (x @ v).T,
}


@pytest.mark.parametrize("reader", KEPT)
def test_what_gives_the_same_of_rounded_numbers_leaves_them_narrow(reader):
    assert types_of(made(KEPT[reader], X, W1, W2))[0] == "bfloat16"


def test_sums_of_rows_read_narrow_numbers_beside_a_product_that_sums_them():
    def gradients(x, v, w):
        g = x @ v
        return g, w.T @ g, g.sum(axis=0)

    graph = made(lambda x, v, w: gradients(x, v, w)[1:], X, W1, drawn(6, 4))
    assert types_of(graph) == ["bfloat16", "float32"]
    # Not by other axes, and not where the product sums others.
    for reduce in (nnx.sum, nnx.max):
        for axis in (1, None, 0)[: 2 if reduce is nnx.sum else 3]:

            def function(x, v, w, reduce=reduce, axis=axis):
                return w.T @ (g := x @ v), reduce(g, axis=axis)

            assert types_of(made(function, X, W1, drawn(6, 4)))[0] == "float32"
    graph = made(lambda x, v, w: ((x @ v) @ w, (x @ v).sum(axis=0)), X, W1, W2)
    assert types_of(graph)[0] == "float32"


def test_a_factor_that_was_wider_before_is_narrow_again():
    narrow = X.astype(ml_dtypes.bfloat16)
    graph = made(lambda x, w: (x.astype("float32") * 1.0) @ w + x.astype("float32") @ w, narrow, W1)
    assert types_of(graph) == ["float32"] * 2
    for eqn in graph.eqns:
        assert eqn.op.name != "astype" or eqn.out.dtype is eqn.attrs["dtype"]


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_other_precisions_have_nothing_narrow(precision):
    assert types_of(made(layers, X, W1, W2, precision=precision)) == ["float32"] * 2


# The numbers


def network(x, w1, b1, w2, b2, w3, b3):
    """Return the results and the gradients of half the sum of their squares."""
    weights = [w1, b1, w2, b2, w3, b3]
    for w in weights:
        w.requires_grad = True
    out = nnx.relu(nnx.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3
    (0.5 * out * out).sum().backward()
    return [out, *(w.grad for w in weights)]


def by_hand(x, w1, b1, w2, b2, w3, b3, kind):
    """The same in float64, each factor of a product rounded, and what has 16 bits."""

    def r(a):
        return a.astype(kind).astype("f8")

    h1 = r(np.maximum(r(x) @ r(w1) + r(b1), 0))
    h2 = r(np.maximum(h1 @ r(w2) + r(b2), 0))
    out = h2 @ r(w3) + b3
    g3 = r(out)
    g2 = np.where(h2 > 0, r(g3 @ r(w3).T), 0)
    g1 = np.where(h1 > 0, r(g2 @ r(w2).T), 0)
    return [out, r(x).T @ g1, g1.sum(0), h1.T @ g2, g2.sum(0), h2.T @ g3, g3.sum(0)]


def arguments():
    n, *sizes = SIZES
    found = [drawn(n, sizes[0])]
    for n_in, n_out in itertools.pairwise(sizes):
        found += [drawn(n_in, n_out) / np.sqrt(n_in).astype("f4"), drawn(n_out)]
    return found


@pytest.mark.parametrize("order", cuda_on_cpu.ORDERS)
def test_gradients_are_those_of_rounded_factors(order, precision):
    arrays = arguments()
    form = Form(network, [nnx.asarray(a, device="numba") for a in arrays])
    program = CudaProgram(form.lowered, {}, {}, Machine(order))
    results = outputs_for(form.lowered, {})
    assert run_cuda(program, arrays + form.literals, results, {}) == 0
    for found, wanted in zip(results, by_hand(*arrays, ROUND[precision]), strict=True):
        # Sums in another order may round a factor to its neighbour.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=4e-3 * np.abs(wanted).max())


def test_a_step_keeps_nothing_wide_between_its_products(precision):
    arrays = arguments()
    form = Form(network, [nnx.asarray(a, device="numba") for a in arrays])
    step = CudaProgram(form.lowered, {}, {}, Machine()).step
    kind = NARROW[precision]
    made = [run.eqn.out.dtype for run in step.runs if isinstance(run, Product)]
    # Forward, then of each layer the gradients of its weights and of what it is given.
    assert sorted(map(str, made)) == sorted(map(str, [kind] * 4 + [dtypes.float32] * 4))
    kept = {x for run in step.runs if not isinstance(run, Product) for p in run.parts
            for x in p.writes if len(x.shape) == 2 and x.shape[0] > 1}  # fmt: skip
    assert {x.dtype for x in kept} == {kind}


def test_sums_read_narrow_numbers_from_memory_and_leave_nothing_wide_there(precision):
    def gradients(x, w):
        p = nnx.softmax(x @ w, axis=-1)
        return x.T @ p, p.sum(axis=0)

    arrays = [drawn(9, 20), drawn(20, 300)]
    form = Form(gradients, [nnx.asarray(a, device="numba") for a in arrays])
    program = CudaProgram(form.lowered, {}, {}, Machine())
    parts = [p for run in program.step.runs if not isinstance(run, Product) for p in run.parts]
    made = {x.dtype for p in parts for x in p.writes if tuple(x.shape) == (9, 300)}
    assert made == {NARROW[precision]}
    results = outputs_for(form.lowered, {})
    assert run_cuda(program, arrays + form.literals, results, {}) == 0
    kind = ROUND[precision]
    x, w = (a.astype(kind).astype("f8") for a in arrays)
    e = np.exp(x @ w - (x @ w).max(axis=1, keepdims=True))
    p = (e / e.sum(axis=1, keepdims=True)).astype(kind).astype("f8")
    for found, wanted in zip(results, (x.T @ p, p.sum(axis=0)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def test_training_in_bfloat16_comes_as_far_as_in_float32(emulated):
    losses = {}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 20)).astype("f4")
    y = (x[:, 0] + x[:, 1] > 0).astype("i8")
    for word in ("highest", "medium"):
        nnx.set_matmul_precision(word)
        try:
            nnx.random.seed(0)
            model = nn.Sequential(nn.Dense(32, "relu"), nn.Dense(32, "relu"), nn.Dense(2))
            model.compile(optim.SGD(0.2), "cross_entropy", device="numba")
            history = model.fit(x, y, batch_size=16, epochs=12, verbose=0, jit=True)
            losses[word] = history.history["loss"]
        finally:
            nnx.set_matmul_precision("highest")
    assert losses["medium"][-1] < 0.5 * losses["medium"][0]
    assert losses["medium"] != losses["highest"]
    np.testing.assert_allclose(losses["medium"], losses["highest"], atol=0.05)
