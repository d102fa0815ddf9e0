"""What emitted source may call, compiled and as plain Python, against NumPy and mpmath."""

import itertools
import os
import re
import subprocess
import sys

import llvmlite.binding as llvm
import mpmath as mp
import numpy as np
import pytest

import nnx
from nnx import philox
from nnx.kernels import blas, runtime

epoch = pytest.importorskip("nnx.kernels.epoch")
shuffle = pytest.importorskip("nnx.kernels.shuffle")
native = pytest.importorskip("nnx.kernels.native")
intrinsics = pytest.importorskip("nnx.kernels.intrinsics")
mp.mp.dps = 40

FLOATS = ("f32", "f64")
INTS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
TYPES = {
    "b1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "f32": np.float32, "f64": np.float64,
}  # fmt: skip

# How many floats may lie between the result and the exact one rounded, by function.
UNARY = {
    "exp": 1, "expm1": 2, "log": 1, "log1p": 2, "tanh": 3,
    "sqrt": 0, "floor": 0, "ceil": 0, "trunc": 0, "round": 0, "abs": 0, "sign": 0,
    "sin": 4, "cos": 4, "tan": 4, "asin": 4, "acos": 4, "atan": 4, "sinh": 4, "cosh": 4,
    "asinh": 4, "acosh": 4, "atanh": 4, "log2": 4, "log10": 4,
}  # fmt: skip
BINARY = {
    "divide": 0, "sum_add": 0, "floor_divide": 0, "remainder": 0, "copysign": 0,
    "atan2": 4, "hypot": 4, "pow": 4,
    "maximum": 0, "minimum": 0, "max_reduce": 0, "min_reduce": 0,
}  # fmt: skip
EXTREMES = ("maximum", "minimum", "max_reduce", "min_reduce")
TESTS = ("isnan", "isinf", "isfinite", "signbit")
INT_BINARY = ("floor_divide", "remainder", "sum_add", *EXTREMES, "shift_left", "shift_right")
LOGIC = ("logical_and", "logical_or", "logical_xor")
NUMPY = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "atan2": np.arctan2, "pow": np.power,
    "round": np.rint, "sum_add": np.add, "max_reduce": np.maximum, "min_reduce": np.minimum,
    "shift_left": np.left_shift, "shift_right": np.right_shift,
}  # fmt: skip
PLAIN, COMPILED = "plain", "compiled"


def numpy_of(name):
    return NUMPY.get(name) or getattr(np, name)


def source_of(body):
    """Return emitted source: imports, and a step of these lines."""
    names = sorted(set(re.findall(r"\w+", body)) & set(intrinsics.TABLE))
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    imports = f"from nnx.kernels.runtime import {', '.join(names)}\n"
    return f"{imports}def step(table):\n{lines}    return 0\n"


def table_of(*entries):
    return np.array([e.ctypes.data if isinstance(e, np.ndarray) else e for e in entries], np.int64)


def made(body):
    native.register(blas.symbols())
    return native.compile_step(source_of(body), "test_kernels.py")


def runner(body, way):
    """Return a function that runs these lines on a table's entries, numbers or arrays."""
    if way == COMPILED:
        step = native.link(made(body))
        return lambda *entries: step.bind(table_of(*entries).ctypes.data)()
    space = {}
    exec(source_of(body), space)

    def run(*entries):
        with np.errstate(all="ignore"):  # of the operators; the functions keep quiet themselves
            space["step"](table_of(*entries))

    return run


def runs(body):
    return {way: runner(body, way) for way in (PLAIN, COMPILED)}


def loop(outputs, inputs):
    """Return lines that fill arrays by (type, expression) from arrays of types; n comes first."""
    lines = ["n = table[0]"]
    for i, t in enumerate(inputs):
        lines.append(f"x{i} = {t}_at(table[{1 + i}])")
    for i, (t, _) in enumerate(outputs):
        lines.append(f"y{i} = {t}_at(table[{1 + len(inputs) + i}])")
    lines.append("for i in range(n):")
    lines += [f"    y{i}[i] = {text}" for i, (_, text) in enumerate(outputs)]
    return "\n".join(lines)


def results(run, outputs, *inputs):
    """Run a `loop` and return its output arrays."""
    n = len(inputs[0])
    out = [np.full(n, 77).astype(TYPES[t]) for t, _ in outputs]
    run(n, *inputs, *out)
    return out


def hard_floats(dtype):
    """Return values where formulas fail, of both signs."""
    info = np.finfo(dtype)
    near = [1.0, 0.5, 2.0, 0.25, 3.0, 0.625, 10.0, 9.4, 20.0, 0.34657359, 0.70710678, 1.41421356]
    edges = [
        0.0, info.smallest_subnormal, info.smallest_subnormal * 3, info.tiny, info.tiny / 3,
        info.tiny * 2, info.max, info.max / 2, info.eps, info.eps / 4, np.inf, np.nan,
        88.72283, 88.8, 87.3, 103.2, 103.97, 104.0, 709.782712893384, 709.79, 708.3, 744.4,
        745.1332191019412, 745.2, 1e-5, 1e-10, 1e4, 1e10, 1e30, 0.1, 1.5, 2.5, 16.6, 37.4,
        2.0**23, 2.0**52 + 1, 2.0**24 + 1, 1.5707963267948966, 100.7,
    ]  # fmt: skip
    with np.errstate(over="ignore"):
        x = np.array(near + edges, np.float64).astype(dtype)
        x = np.concatenate([x, np.nextafter(x, dtype(0)), np.nextafter(x, dtype(np.inf))])
    return np.concatenate([x, -x])


def dense_floats(dtype):
    """Return random values of all sizes."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, 3000).astype(np.uint64) << np.uint64(1)
    any_bits = bits.view(dtype)[:3000]
    spread = np.concatenate([rng.uniform(-s, s, 1000) for s in (1.0, 3.0, 20.0, 100.0, 800.0)])
    return np.concatenate([any_bits, spread.astype(dtype)])


def ordered(x):
    """Return integers in the order of floats, neighbours differing by 1; both zeros are 0."""
    bits = x.view(np.int32 if x.dtype == np.float32 else np.int64).astype(object)
    lowest = -(2 ** (8 * x.itemsize - 1))
    return np.array([b if b >= 0 else lowest - b for b in bits], object)


def assert_near(name, out, wanted, bound, *inputs):
    """Compare floats: NaN and infinities equal, the rest within a number of neighbours."""
    assert out.dtype == wanted.dtype
    far = np.isnan(out) != np.isnan(wanted)
    both = ~np.isnan(out) & ~np.isnan(wanted)
    far[both] |= np.array(abs(ordered(out[both]) - ordered(wanted[both])) > bound, bool)
    if name not in EXTREMES:  # of +0 and -0, either is the larger
        far[both] |= np.signbit(out[both]) != np.signbit(wanted[both])
    cases = [(*(x[i] for x in inputs), out[i], wanted[i]) for i in np.flatnonzero(far)[:5]]
    assert not cases, f"{name}: {far.sum()} wrong (inputs, result, wanted): {cases}"


def exact(name, *inputs):
    """Return the results rounded from more digits: float64 for float32, else mpmath's 40."""
    dtype = inputs[0].dtype.type
    function = numpy_of(name)
    with np.errstate(all="ignore"):
        if name in ("divide", "sum_add", "floor_divide", "remainder"):
            return function(*inputs)  # rounded once, or defined by their steps
        if dtype == np.float32:
            return function(*(x.astype(np.float64) for x in inputs)).astype(dtype)
        out = function(*inputs)
        if name in ("exp", "expm1", "log", "log1p", "tanh"):
            (x,) = inputs
            for i in np.flatnonzero(np.isfinite(out) & np.isfinite(x) & (x != 0)):
                out[i] = float(getattr(mp, name)(mp.mpf(float(x[i]))))
    return out


@pytest.mark.parametrize("t", FLOATS)
def test_functions_of_one_float(t):
    outputs = [(t, f"{name}(x0[i])") for name in UNARY]
    for way, run in runs(loop(outputs, [t])).items():
        x = hard_floats(TYPES[t])
        if way == COMPILED:
            x = np.concatenate([x, dense_floats(TYPES[t])])
        for name, out in zip(UNARY, results(run, outputs, x), strict=True):
            assert_near(name, out, exact(name, x), max(UNARY[name], 4 * (way == PLAIN)), x)


@pytest.mark.parametrize("t", FLOATS)
def test_functions_of_two_floats(t):
    dtype = TYPES[t]
    few = hard_floats(dtype)[::7]
    few = np.concatenate([few, dtype([0, -0.0, 1, -1, 2, 3, -3, 0.5, np.inf, -np.inf, np.nan])])
    x, y = (np.ascontiguousarray(v) for v in np.array(list(itertools.product(few, few))).T)
    outputs = [(t, f"{name}(x0[i], x1[i])") for name in BINARY]
    outputs += [("b1", f"{name}(x0[i])") for name in TESTS]
    outputs += [(t, "logaddexp(x0[i], x1[i])"), (t, "select(x0[i] < x1[i], x0[i], x1[i])")]
    for run in runs(loop(outputs, [t, t])).values():
        out = results(run, outputs, x, y)
        for name in BINARY:
            assert_near(name, out.pop(0), exact(name, x, y), BINARY[name], x, y)
        for name in TESTS:
            np.testing.assert_array_equal(out.pop(0), numpy_of(name)(x), name)
        logaddexp, selected = out
        np.testing.assert_array_equal(selected, np.where(x < y, x, y))
        with np.errstate(all="ignore"):
            wanted = np.logaddexp(x.astype(np.float64), y.astype(np.float64))
            wide = np.maximum(np.maximum(abs(x), abs(y)), dtype(1))
            slack = 4 * np.spacing(np.where(np.isfinite(wide), wide, 1)).astype(np.float64)
            wrong = ~(abs(logaddexp - wanted) <= slack) & (logaddexp != wanted.astype(dtype))
        wrong &= ~(np.isnan(logaddexp) & np.isnan(wanted))
        assert not wrong.any(), (x[wrong][:5], y[wrong][:5], logaddexp[wrong][:5])


@pytest.mark.parametrize("t", INTS)
def test_functions_of_integers(t):
    dtype = TYPES[t]
    info = np.iinfo(dtype)
    some = {0, 1, 2, 3, 5, 7, 8, 13, 31, 63, 64, 100, info.max, info.max - 1, info.max // 2}
    some |= {info.min, info.min + 1, *(-s for s in some)} if info.min else set()
    few = [v for v in sorted(some) if info.min <= v <= info.max]
    x, y = (np.ascontiguousarray(v) for v in np.array(list(itertools.product(few, few)), dtype).T)
    outputs = [(t, f"{name}(x0[i], x1[i])") for name in INT_BINARY]
    outputs += [(t, f"{name}(x0[i])") for name in ("abs", "sign")]
    outputs += [(t, "pow(x0[i], x1[i])"), (t, f"{t}(x0[i] * x1[i])")]
    for run in runs(loop(outputs, [t, t])).values():
        out = results(run, outputs, x, y)
        with np.errstate(all="ignore"):
            for name in INT_BINARY:
                np.testing.assert_array_equal(out.pop(0), numpy_of(name)(x, y), name)
            for wanted in (np.abs(x), np.sign(x)):
                np.testing.assert_array_equal(out.pop(0), wanted)
        np.testing.assert_array_equal(out.pop(0), integer_powers(x, y))
        np.testing.assert_array_equal(out.pop(0), x * y)


def integer_powers(x, y):
    """Return x**y modulo 2**bits by Python's integers; 1 / x**-y is cut to a whole number."""
    modulus = 2 ** (8 * x.itemsize)
    powers = [
        pow(a, b, modulus) if b >= 0 else (a if b % 2 else 1) if a in (1, -1) else 0
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]
    return np.array([p % modulus for p in powers], np.uint64).astype(f"u{x.itemsize}").view(x.dtype)


def test_logic():
    x, y = np.array(list(itertools.product([False, True], repeat=2))).T.copy()
    outputs = [("b1", f"{name}(x0[i], x1[i])") for name in LOGIC]
    outputs += [("b1", "logical_not(x0[i])"), ("f32", "select(x0[i], f32(2.0), f32(3.0))")]
    outputs += [("b1", "x0[i] == x1[i]"), ("b1", "maximum(x0[i], x1[i])")]
    for run in runs(loop(outputs, ["b1", "b1"])).values():
        wanted = [numpy_of(name)(x, y) for name in LOGIC]
        wanted += [~x, np.where(x, 2, 3), x == y, x | y]
        for out, right in zip(results(run, outputs, x, y), wanted, strict=True):
            np.testing.assert_array_equal(out, right)


@pytest.mark.parametrize("source", TYPES)
def test_casts(source):
    """A cast gives what astype gives; floats are cast to integers within their range alone."""
    dtype = TYPES[source]
    if source == "b1":
        x = np.array([True, False])
    elif source in FLOATS:
        x = dtype([0, 0.5, 1, 1.5, 2.9, 100.9, 127])
    else:
        info = np.iinfo(dtype)
        x = np.array([0, 1, 100, info.max, info.max - 1, info.min, info.max // 3], dtype)
    outputs = [(t, f"{t}(x0[i])") for t in TYPES]
    for run in runs(loop(outputs, [source])).values():
        for (t, _), out in zip(outputs, results(run, outputs, x), strict=True):
            np.testing.assert_array_equal(out, x.astype(TYPES[t]), t)


def test_casts_at_the_edges():
    x = np.array([-1.9, -128.0, -(2.0**31), 2.0**31 - 1, -(2.0**63), 2.0**62, np.nan, np.inf])
    outputs = [("i64", "i64(x0[i])"), ("f32", "f32(x0[i])"), ("b1", "b1(x0[i])")]
    outputs += [("u64", "u64(f64(1.8e19))"), ("i8", "i8(300)"), ("u64", "u64(-1)")]
    for run in runs(loop(outputs, ["f64"])).values():
        whole, narrow, truth, large, wrapped, ones = results(run, outputs, x)
        np.testing.assert_array_equal(whole[:6], x[:6].astype(np.int64))
        np.testing.assert_array_equal(narrow, x.astype(np.float32))
        assert truth.all()
        assert (large[0], wrapped[0], ones[0]) == (18 * 10**18, 44, 2**64 - 1)


@pytest.mark.parametrize("t", TYPES)
def test_pointers_move(t):
    x = np.array([1, 0, 1, 1, 0, 0, 1, 1]).astype(TYPES[t])
    body = f"""
x = {t}_at(table[0])
y = {t}_shift({t}_at(table[1]), 2)
back = {t}_shift(y, -1)
for i in range(3):
    y[i] = {t}_shift(x, 3)[i]
back[0] = x[2]
"""
    for run in runs(body).values():
        y = np.zeros(6, TYPES[t])
        run(x, y)
        np.testing.assert_array_equal(y, np.array([0, x[2], *x[3:6], 0]).astype(TYPES[t]))


# Matrix products

GEMM_SHAPES = [
    (1, 1, 1), (2, 3, 4), (16, 10, 33), (5, 1, 7), (1, 6, 5), (33, 65, 129), (128, 16, 100),
    (3, 4, 0), (0, 3, 2), (3, 0, 2), (0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("t", FLOATS)
@pytest.mark.parametrize("padding", [0, 3])
def test_gemm(t, padding):
    dtype, rng = TYPES[t], np.random.default_rng(1)
    body = f"""
a = {t}_at(table[5])
b = {t}_at(table[7])
c = {t}_at(table[9])
blas_threads(table[11])
{t}_gemm(table[0], table[1], table[2], table[3], table[4], a, table[6], b, table[8], c, table[10])
"""
    for run in runs(body).values():
        for ta, tb, (m, n, k) in itertools.product((0, 1), (0, 1), GEMM_SHAPES):
            a, b = (_matrix(rng, rows, columns, padding, dtype, flip)
                    for rows, columns, flip in ((m, k, ta), (k, n, tb)))  # fmt: skip
            # What was there before, NaN too, takes no part.
            c = np.full((m, n + padding), np.nan, dtype)
            strides = (a.shape[1], b.shape[1], c.shape[1])
            run(ta, tb, m, n, k, a, strides[0], b, strides[1], c, strides[2], 1 + ta)
            left, right = (
                (x[:, : x.shape[1] - padding].T if flip else x[:, : x.shape[1] - padding]).astype(
                    np.longdouble
                )
                for x, flip in ((a, ta), (b, tb))
            )
            bound = (k + 1) * np.finfo(dtype).eps * (abs(left) @ abs(right))
            assert (abs(c[:, :n] - left @ right) <= bound).all(), (ta, tb, m, n, k)
            assert np.isnan(c[:, n:]).all()
    blas.set_threads(blas.threads())


def _matrix(rng, rows, columns, padding, dtype, flip):
    """Return a matrix as it is stored, its rows longer by some NaN."""
    stored = (columns, rows) if flip else (rows, columns)
    x = rng.normal(size=(stored[0], stored[1] + padding)).astype(dtype)
    x[:, stored[1] :] = np.nan
    return x


def test_gemm_keeps_nan():
    """NaN and infinity of the inputs reach the result, whatever they are multiplied by."""
    body = "f32_gemm(0, 0, 2, 2, 3, f32_at(table[0]), 3, f32_at(table[1]), 2, f32_at(table[2]), 2)"
    a = np.array([[np.nan, 0, 0], [1, np.inf, 1]], np.float32)
    for run in runs(body).values():
        c = np.zeros((2, 2), np.float32)
        run(a, np.zeros((3, 2), np.float32), c)
        assert np.isnan(c).all()


# Threads and the library


def test_threads_have_a_limit():
    before = blas.threads()
    try:
        assert blas.set_threads(1) == blas.threads() == 1
        assert blas.set_threads(10**6) == blas.threads() >= 1
        assert blas.threads() <= (os.cpu_count() or 1)
        assert blas.set_threads(0) == 1
    finally:
        blas.set_threads(before)


@pytest.mark.parametrize("variable", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_threads_follow_the_environment(variable):
    code = "from nnx.kernels import blas; print(blas.threads())"
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    said = subprocess.run(
        [sys.executable, "-c", code], env={**kept, variable: "1"}, capture_output=True, text=True
    )
    assert said.stdout.strip() == "1", said.stderr


def test_symbols_hold_the_version():
    symbols = blas.symbols()
    assert all(address > 0 for address in symbols.values())
    assert set(symbols) == {blas.symbol(n) for n in ("sgemm", "dgemm", "set_num_threads")}
    assert all(re.fullmatch(r"nnx_\w+_\d+_\d+_\w+", name) for name in symbols)


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy_openblas32", None)
    blas._package.cache_clear()
    try:
        with pytest.raises(nnx.DeviceError, match="pip install scipy-openblas32"):
            blas.symbols()
    finally:
        monkeypatch.undo()
        blas._package.cache_clear()


# Random numbers


def test_random_words():
    body = """
n = table[0]
w = u32_at(table[4])
v = u32_at(table[5])
for k in range(n):
    w0, w1, w2, w3 = random_block(table[1], table[2], table[3] + k)
    w[4 * k] = w0
    w[4 * k + 1] = w1
    w[4 * k + 2] = w2
    w[4 * k + 3] = w3
for i in range(4 * n):
    v[i] = random_word(table[1], table[2], table[3], i)
"""
    both = runs(body)
    cases = [(0, 0, 0), (2**64 - 1, 2**63, 2**64 - 50), (1234567, 5, 2**32 - 3), (1, 2, 2**63 - 2)]
    for run, (seed, stream, block) in itertools.product(both.values(), cases):
        n = 37
        w, v = np.zeros(4 * n, np.uint32), np.zeros(4 * n, np.uint32)
        signed = np.array([seed, stream, block], np.uint64).view(np.int64)
        run(n, *signed.tolist(), w, v)
        # Numbers of blocks are modulo 2**64 here; a generator stops before.
        wanted = philox.stream_words(seed, stream, block, n)
        np.testing.assert_array_equal(w, wanted)
        np.testing.assert_array_equal(v, wanted)


def test_random_numbers_have_the_bits_of_philox():
    outputs = [
        ("f32", "uniform_f32(x0[i])"), ("f64", "uniform_f64(x0[i], x1[i])"),
        ("f64", "normal_f32(x0[i])"), ("f64", "normal_f64(x0[i], x1[i])"),
        ("b1", "bernoulli_word(x0[i], 0)"), ("b1", f"bernoulli_word(x0[i], {2**32})"),
        ("b1", f"bernoulli_word(x0[i], {round(0.3 * 2**32)})"),
    ]  # fmt: skip
    edges = [0, 1, 2, 255, 256, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32 - 2, 2**32 - 300]
    for way, run in runs(loop(outputs, ["u32", "u32"])).items():
        words = philox.stream_words(3, 0, 0, 20_000 if way == COMPILED else 50)
        words = np.concatenate([np.repeat(np.array(edges, np.uint32), 2), words])
        x, y = words[0::2].copy(), words[1::2].copy()
        x, y = np.concatenate([x, x]), np.concatenate([y, ~y])
        pairs = np.stack([x, y], 1).ravel()
        wanted = [
            philox.uniform32(x), philox.uniform64(pairs), philox.normal32(x),
            philox.normal64(pairs), philox.below(x, 0.0), philox.below(x, 1.0),
            philox.below(x, 0.3),
        ]  # fmt: skip
        for (_, text), out, right in zip(outputs, results(run, outputs, x, y), wanted, strict=True):
            assert out.tobytes() == right.tobytes(), text


# What the machine code is made of

LIBM = {
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh",
    "atanh", "log2", "log10", "hypot", "pow", "fmod",
}  # fmt: skip


def test_machine_code_needs_libm_and_blas_alone():
    """What is called by name, over every function and type: llvmlite alone must find it."""
    outputs = [(t, f"{name}(x{k}[i])") for k, t in enumerate(FLOATS) for name in UNARY]
    outputs += [
        (t, f"{name}(x{k}[i], x{k}[i])")
        for k, t in enumerate(FLOATS)
        for name in (*BINARY, "logaddexp")
    ]
    body = loop(outputs, FLOATS)
    body += "\n    y0[i] = pow(f32(2.5), x0[i])"
    body += "\nf32_gemm(0, 0, n, n, n, x0, n, x0, n, y0, n)\nblas_threads(1)"
    needs = set(made(body).needs)
    assert needs <= LIBM | {f"{name}f" for name in LIBM} | set(blas.symbols())


@pytest.mark.parametrize("way", [PLAIN, COMPILED])
def test_steps_run_by_address_over_gathered_rows(way):
    step = made("x = f32_at(table[0])\ny = f64_at(table[1])\nn = table[2]\nif n == 9:\n"
                "    return 2\nfor i in range(3):\n    y[i] = f64(x[i]) * n")  # fmt: skip
    native_step = native.link(step)
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)[:, :1].copy()
    assert {"copy_bytes", "call_at"} <= set(re.findall(r"\w+", epoch.SOURCE))
    for order, numbers in ((None, [1, 2]), ([5, 0, 2, 1, 1, 4], [3, 4]), (None, [7, 9])):
        table, batch = np.zeros(3, np.int64), np.full(3, -1.0, np.float32)
        out = np.zeros((2, 3))
        places = None if order is None else np.array(order, np.int64)
        job = epoch.job_of(
            native_step, table, 2, 3, places,
            [epoch.Column(rows.ctypes.data, 4, batch.ctypes.data, 0, 0)],
            [epoch.Result(1, out.ctypes.data, 24)], np.array([[n] for n in numbers]), [2],
        )  # fmt: skip
        if way is PLAIN:
            space = {}
            exec(epoch.SOURCE, space)
            status = space["step"](job)
        else:
            status = epoch.driver().bind(job.ctypes.data)()
        taken = rows[:, 0] if order is None else rows[order, 0]
        done = 1 if 9 in numbers else 2
        expected = taken.reshape(2, 3) * np.array(numbers)[:, None]
        np.testing.assert_array_equal(out[:done], expected[:done])
        assert (status, job[2]) == ((2, 1) if done == 1 else (0, 2))
        assert not out[done:].any()


def test_every_name_has_a_twin_and_a_test():
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    named = {*UNARY, *BINARY, *TESTS, *INT_BINARY, *LOGIC, *TYPES, *re.findall(r"\w+", text)}
    named |= {f"{t}_{end}" for t in TYPES for end in ("at", "slot", "shift")}
    named |= {f"{t}_gemm" for t in FLOATS}
    named |= {"pair_u64", "scaled_i64"}  # tested in test_jit_random.py
    assert set(intrinsics.TABLE) <= named
    public = {name for name, value in vars(runtime).items() if _is_offered(name, value)}
    assert public == set(intrinsics.TABLE)


def _is_offered(name, value):
    from_elsewhere = {"Any", "Callable", "NDArray", "Pointer", "Scalar", "annotations"}
    modules = {"functools", "np", "philox"}
    return callable(value) and not name.startswith("_") and name not in from_elsewhere | modules


def optimised(body):
    """Return the LLVM text that Numba makes of these lines."""
    numba = pytest.importorskip("numba")
    space = {}
    exec(source_of(body), space)
    space.update(intrinsics.TABLE)
    table = numba.types.CPointer(numba.types.int64)
    function = numba.cfunc(numba.types.int64(table), error_model="numpy")(space["step"])
    return function.inspect_llvm()


@pytest.mark.parametrize("t", FLOATS)
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh"])
def test_polynomials_run_in_vectors(name, t):
    text = optimised(loop([(t, f"{name}(x0[i])")], [t]))
    assert re.search(rf"llvm\.fma\.v\d+{t}", text)


def test_reductions_run_in_vectors():
    body = """
n = table[0]
x = f32_at(table[1])
total = f32(0.0)
top = x[0]
for i in range(n):
    total = sum_add(total, x[i])
    top = max_reduce(top, x[i])
x[0] = total
x[1] = top
"""
    text = optimised(body)
    assert re.search(r"fadd reassoc <\d+ x float>", text)
    assert re.search(r"llvm\.maximum\.v\d+f32", text)


# What LLVM makes of loops


def optimized(body, monkeypatch):
    """Return the text of LLVM's that these lines become."""
    seen = []
    plain = native._optimized

    def noted(module):
        code = plain(module)
        seen.append(str(module))
        return code

    monkeypatch.setattr(native, "_optimized", noted)
    made(body)
    return seen[0]


ROWS = """
n = table[0]
x, b = f32_slot(table, 1), f32_slot(table, 2)
y, z = f32_slot(table, 3), f32_slot(table, 4)
for i in range(n):
    for j in range(16):
        t = x[i * 16 + j] + b[j]
        y[i * 16 + j] = t
        z[i * 16 + j] = maximum(t, f32(0.0))
"""


def test_short_rows_are_computed_in_vectors(monkeypatch):
    text = optimized(ROWS, monkeypatch)
    assert re.search(r"store <\d+ x float>", text)
    assert not re.search(r"store float|gather|scatter", text)


def test_memories_of_two_slots_are_not_tested_for_overlap(monkeypatch):
    tested = "diff.check|memcheck"
    assert not re.search(tested, optimized(ROWS, monkeypatch))
    by_address = re.sub(r"_slot\(table, (\d)\)", r"_at(table[\1])", ROWS)
    assert re.search(tested, optimized(by_address, monkeypatch))


def test_sum_in_float64_keeps_full_vectors_of_float32(monkeypatch):
    body = """
x = f32_slot(table, 1)
a = f64(0.0)
for i in range(table[0]):
    a = sum_add(a, f64(exp(x[i])))
f64_at(table[2])[0] = a
"""
    widest = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
    assert f"fma.v{widest}f32" in optimized(body, monkeypatch)


@pytest.mark.parametrize("way", [PLAIN, COMPILED])
def test_rows_by_slot(way):
    x = np.arange(-24, 24, dtype=np.float32)
    b = np.ones(16, np.float32)
    y, z = np.empty_like(x), np.empty_like(x)
    runner(ROWS, way)(3, x, b, y, z)
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(z, np.maximum(x + 1, 0))


def test_function_that_numba_alone_can_link_is_linked():
    run = runner("f64_at(table[1])[0] = f64_at(table[0])[0] ** table[2]", COMPILED)
    x, out = np.array([3.0]), np.zeros(1)
    run(x, out, 4)
    assert out[0] == 81.0


@pytest.mark.parametrize("way", [PLAIN, COMPILED])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 257, 5000])
def test_native_shuffles_have_the_bits_of_the_generator(way, n):
    if way is PLAIN and n > 300:
        n = 300
    for seed, stream, block in ((0, 0, 0), (2**64 - 1, 2**63 + 5, 2**40)):
        state = {"seed": seed, "stream": stream, "block": block}
        generator, expected = nnx.random.Generator(0), nnx.random.Generator(0)
        generator.load_state_dict(state)
        expected.load_state_dict(state)
        if way is PLAIN:
            job, order, memory = shuffle.job_of(*generator.reserve((n + 1) // 2), n)
            space = {}
            exec(shuffle.SOURCE, space)
            assert space["step"](job) == 0 and len(memory) == 5
        else:
            order = shuffle.permutation(generator, n)
        np.testing.assert_array_equal(order, expected.host_permutation(n))
        assert generator.state_dict() == expected.state_dict()


@pytest.mark.parametrize("way", [PLAIN, COMPILED])
def test_keys_with_equal_high_bits_are_sorted_by_the_low_ones(way):
    # With the draw left out, the keys are what is in memory before.
    text = re.sub(r"    for q in range.*?(?=    for i in range\(n\))", "", shuffle.SOURCE,
                  count=1, flags=re.S)  # fmt: skip
    keys = np.array([5, 3, 3, 2**63, 9, 0, 5, 2**63 - 1, 2**31, 2**31 - 1, 3] * 20, np.uint64)
    job, order, memory = shuffle.job_of(0, 0, 0, len(keys))
    memory[0][:] = keys
    if way is PLAIN:
        space = {}
        exec(text, space)
        space["step"](job)
    else:
        native.link(native.compile_step(text, "shuffle")).bind(job.ctypes.data)()
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
