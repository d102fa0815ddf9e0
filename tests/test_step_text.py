"""What the text of a compiled step is made of: loops, products, threads, checks."""

import functools
import itertools
import re

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.kernels import blas
from tests.tracing import WAYS, Form, program_of, run


def small_step(loss, n_out, kind=np.int64):
    """Return a jitted training step of 8 rows, its input, and a function that makes labels."""
    nnx.random.seed(0)
    model = nn.Sequential(nn.Dense(n_out, in_features=3)).to("numba")
    opt = optim.SGD(model.parameters(), lr=0.1)

    def step(x, y):
        opt.zero_grad()
        value = loss(model(x), y)
        value.backward()
        opt.step()
        return value

    compiled = nnx.jit(step)
    x = nnx.asarray(np.ones((8, 3), "f4"), device="numba")
    return compiled, model, x, lambda y: nnx.asarray(np.full(8, y, kind), device="numba")


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

    program = program_of(Form(product, tensors).lowered)
    assert ("gemm" in program.source) == (sizes in OF_BLAS)
    expected = product(*tensors).numpy()
    for way in WAYS:
        (out,) = run(program, way, hosts, {})
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_numbers_of_a_call_do_not_part_loops():
    step, _, x, labels = small_step(nn.cross_entropy, 3)
    source = step.lower(x, labels(2)).source
    assert "divide(f32(1.0), " in source
    assert not re.search(r"w\d+\[0\] = t\d+", source)


def test_gradients_stay_where_a_check_fails():
    step, model, x, labels = small_step(nn.binary_cross_entropy, 1, np.float32)
    good, bad = labels(1).reshape(8, 1), labels(2).reshape(8, 1)
    for _ in range(3):
        step(x, good)
    before = [p.grad.numpy().copy() for p in model.parameters()]
    with pytest.raises(ValueError):
        step(x, bad)
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), old)


def product_program(*sizes, symbolic=False):
    """Return the program of a chain of matrix products, its tensors, and its scalars."""
    tensors = [
        nnx.asarray(np.ones(pair, "f4"), device="numba") for pair in itertools.pairwise(sizes)
    ]
    batch = sizes[0] if symbolic else None
    form = Form(lambda *factors: functools.reduce(nnx.matmul, factors), tensors, batch)
    return program_of(form.lowered), tensors, {"B": batch} if symbolic else {}


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
@pytest.mark.parametrize("sizes", [(9, 8, 8), (300, 256, 256, 8)], ids=str)
def test_step_leaves_blas_the_threads_it_had(limit, sizes):
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


def test_elementwise_loop_writes_over_what_it_reads_last():
    x, w = (nnx.asarray(np.ones((4, 4), "f4"), device="numba") for _ in range(2))
    program = program_of(Form(lambda x, w: nnx.relu(x @ w) @ w, (x, w)).lowered)
    assert len(program.emitted.buffers) == 1
    # Read along rows and columns, or again after a sum of the row, it must stay as it was.
    program = program_of(Form(lambda x, w: nnx.relu((x @ w).T) @ w, (x, w)).lowered)
    assert len(program.emitted.buffers) == 2
    program = program_of(Form(lambda x, w: nnx.softmax(x @ w, axis=-1) @ w, (x, w)).lowered)
    assert len(program.emitted.buffers) == 2


def test_vectors_that_are_replaced_do_not_part_the_loop_over_a_matrix():
    nnx.random.seed(0)
    model = nn.Sequential(nn.Dense(6, in_features=6)).to("numba")
    opt = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        opt.zero_grad()
        value = (model(x) ** 2).sum()
        value.backward()
        opt.step()
        return value

    x = nnx.asarray(np.ones((8, 6), "f4"), device="numba")
    assert "in range(36):" in nnx.jit(step).lower(x).source
