"""Random numbers in compiled functions: the bits of eager draws, and the same counters after."""

import numpy as np
import pytest

import nnx
from nnx import philox, random
from nnx.kernels import blas, draws
from nnx.kernels.native import compile_step, link, register
from tests.tracing import Form, program_of, run_text

SIZES = (7, 1, 2, 64, 1000, 0)

DRAWS = {
    "normal": lambda g, n: g.normal(shape=(n, 3), device="numba"),
    "normal of one": lambda g, n: g.normal(device="numba"),
    "normal moved": lambda g, n: g.normal(-1, 2, (n,), device="numba"),
    "normal of float64": lambda g, n: g.normal(2.5, 0.3, (n,), dtype="float64", device="numba"),
    "uniform": lambda g, n: g.uniform(shape=(5, n), device="numba"),
    "uniform moved": lambda g, n: g.uniform(-1.5, 0.1, (n, 2), device="numba"),
    "uniform of float64": lambda g, n: g.uniform(shape=(n,), dtype="float64", device="numba"),
    "uniform of float64 moved": lambda g, n: g.uniform(
        -1.5, 0.1, (n, 2), dtype="float64", device="numba"
    ),
    "integers": lambda g, n: g.integers(-3, 9, (n,), device="numba"),
    "integers below": lambda g, n: g.integers(7, None, (n, 2), device="numba"),
    "integers of 32 bits": lambda g, n: g.integers(0, 2**32, (n,), device="numba"),
    "integers beyond": lambda g, n: g.integers(-5, 2**40, (n, 3), device="numba"),
    "integers of 64 bits": lambda g, n: g.integers(-(2**63), 2**63, (n,), device="numba"),
    "permutation": lambda g, n: g.permutation(n, device="numba"),
    "permutation of five": lambda g, n: g.permutation(5, device="numba"),
    "bernoulli": lambda g, n: g.bernoulli(0.3, (n,), device="numba"),
}


def test_compiled_draws_have_the_bits_of_eager_ones():
    eager, compiled = random.Generator(5).fork(2**63 + 1), random.Generator(5).fork(2**63 + 1)

    @nnx.jit
    def all_of(x):
        return [draw(compiled, x.shape[0]) for draw in DRAWS.values()]

    for n in SIZES:
        got = all_of(nnx.zeros((n,), device="numba"))
        for (name, draw), out in zip(DRAWS.items(), got, strict=True):
            wanted = draw(eager, n)
            assert (out.shape, out.dtype) == (wanted.shape, wanted.dtype), name
            assert out.numpy().tobytes() == wanted.numpy().tobytes(), (name, n)
        assert compiled.state_dict() == eager.state_dict()


@pytest.mark.parametrize("name", DRAWS)
def test_text_of_a_draw_has_the_bits_of_an_eager_one(name):
    x = nnx.zeros((9,), device="numba")
    generator = random.Generator(11)
    form = Form(lambda x: DRAWS[name](generator, x.shape[0]), [x], 9)
    program = program_of(form.lowered)
    wanted = DRAWS[name](random.Generator(11), 9).numpy()
    out = np.zeros(wanted.shape, wanted.dtype)
    assert run_text(program, [x.numpy()], [out], form.env(9, generator)) == 0
    assert out.tobytes() == wanted.tobytes()


SPANS = (1, 2, 3, 10, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 7, 2**63, 2**64 - 1, 2**64)


@pytest.mark.parametrize("span", SPANS)
def test_whole_numbers_are_scaled_exactly(span):
    """Against Python's integers, at the words where a carry or the last place decides."""
    edge = np.array([0, 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    words = np.array(np.meshgrid(edge, edge, edge, edge)).reshape(4, -1)
    each = philox.words_per_scaled(span)
    start = -(2**63) if span > 2**63 else -9
    _, text = draws._element("integers", (start, start + span), nnx.int64)
    for i in range(each):
        text = text.replace(f"WORD{i}", f"w{i}[i]")
    n = words.shape[1]
    out = np.zeros(n, np.int64)
    heads = [f"    w{i} = u32_at(table[{i}])\n" for i in range(4)]
    source = (
        "from nnx.kernels.runtime import i64_at, pair_u64, scaled_i64, u32_at, u64\n"
        f"def step(table):\n{''.join(heads)}    y = i64_at(table[4])\n"
        f"    for i in range({n}):\n        y[i] = {text}\n    return 0\n"
    )
    table = np.array([*(w.ctypes.data for w in words), out.ctypes.data], np.int64)
    values = [[int(w[i]) for w in words[:each]] for i in range(n)]
    numbers = [sum(w << 32 * k for k, w in enumerate(v)) for v in values]
    wanted = [(r * span >> 32 * each) + start for r in numbers]
    space = {}
    exec(source, space)
    space["step"](table)
    assert out.tolist() == wanted
    out[:] = 0
    register(blas.symbols())
    assert link(compile_step(source, "scaled")).bind(table.ctypes.data)() == 0
    assert out.tolist() == wanted


def test_equal_keys_keep_their_order():
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 3, 8, 31, 32, 33):
        keys = rng.integers(0, 4, n).astype(np.uint64)
        out, spare = np.zeros((2, n), np.int64)
        space = {"out": out, "keys": keys, "spare": spare, "n": n}
        exec("\n".join(draws.order("out", "keys", "spare", "n")), space)
        np.testing.assert_array_equal(out, np.argsort(keys, kind="stable"))


def test_shuffled_batches_are_those_of_eager_mode():
    data = np.arange(60.0).reshape(20, 3)

    def shuffled(x, generator):
        return x[generator.permutation(x.shape[0], device=x.device)]

    eager, compiled = random.Generator(3), random.Generator(3)
    f = nnx.jit(lambda x: shuffled(x, compiled))
    for _ in range(3):
        wanted = shuffled(nnx.asarray(data, device="numpy"), eager).numpy()
        np.testing.assert_array_equal(f(nnx.asarray(data, device="numba")).numpy(), wanted)
        assert sorted(wanted[:, 0]) == sorted(data[:, 0])
