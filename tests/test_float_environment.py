"""Compiled code and the floating-point environment: what it leaves, and what it makes of limits.

Infinities, NaN, both zeros and subnormal numbers go through every elementwise op and the reductions
as in eager mode. The environment of the thread is afterwards as it was before.
"""

import ctypes
import ctypes.util
import warnings

import numpy as np
import pytest

import nnx
from nnx.op import OPS
from tests.test_kernels import dense_floats, hard_floats, ordered
from tests.tracing import Form, program_of, run

FLOATS = (np.float32, np.float64)
EITHER_ZERO = frozenset({"maximum", "minimum", "clip", "relu", "max", "min"})
"""Of +0 and -0, either is the larger."""

PLAIN = ("bitwise_invert", "bitwise_left_shift", "bitwise_right_shift", "bitwise_and",
         "bitwise_or", "bitwise_xor")  # fmt: skip
ELEMENTWISE = [op for op in OPS.values() if op.kind == "elementwise" and op.name not in PLAIN]
UNARY = [op.name for op in ELEMENTWISE if op.n_inputs == 1]
BINARY = [op.name for op in ELEMENTWISE if op.n_inputs == 2]


def compiled(function, arrays):
    form = Form(function, [nnx.asarray(a, device="numba") for a in arrays])
    return run(program_of(form.lowered), "native", [*arrays, *form.literals], {})


def eager(function, arrays):
    return [x.numpy() for x in function(*(nnx.asarray(a, device="numpy") for a in arrays))]


def far(x, wanted, bound, either_zero=False):
    """Return where results are not the same: NaN for NaN, signs of zeros, within some ULP."""
    assert x.dtype == wanted.dtype and x.shape == wanted.shape
    if x.dtype.kind != "f":
        return x != wanted
    wrong = np.isnan(x) != np.isnan(wanted)
    real = ~np.isnan(x) & ~np.isnan(wanted)
    apart = abs(ordered(x[real]) - ordered(wanted[real])) > bound
    if not either_zero:
        apart = apart | (np.signbit(x[real]) != np.signbit(wanted[real]))
    wrong[real] |= apart.astype(bool)
    return wrong


def differences(names, function, arrays, bound=4):
    """Return a line for each op of which compiled and eager results are not the same."""
    found = []
    got, wanted = compiled(function, arrays), eager(function, arrays)
    for name, x, y in zip(names, got, wanted, strict=True):
        x, y = np.atleast_1d(x, y)
        wrong = far(x, y, bound, name in EITHER_ZERO)
        at = np.argwhere(wrong)[:4]
        cases = [([a[tuple(i)] for a in arrays if a.shape == x.shape], x[tuple(i)], y[tuple(i)])
                 for i in at]  # fmt: skip
        if cases:
            found.append(f"{name}: {wrong.sum()} wrong (inputs, compiled, eager): {cases}")
    return found


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_of_one_float_are_those_of_eager_mode(dtype):
    x = np.concatenate([hard_floats(dtype), dense_floats(dtype)])
    tail = (-746.0, -708.3) if dtype is np.float64 else (0.0, 0.0)

    def all_of(x):
        # There, silu has its own test.
        milder = nnx.where((x > tail[0]) & (x < tail[1]), 0.0, x)
        return [getattr(nnx, name)(milder if name == "silu" else x) for name in UNARY]

    found = differences(UNARY, all_of, [x])
    assert not found, "\n".join(found)


def test_silu_where_its_exponential_is_subnormal():
    # x exp(x) has a whole place there for each of the few places that exp(x) has left.
    x = np.linspace(-744.0, -708.5, 999)
    (out,) = compiled(lambda x: [nnx.silu(x)], [x])
    wanted = x.astype(np.longdouble) * np.exp(x.astype(np.longdouble))
    assert (abs(out - wanted) <= abs(x) * 5e-324 + 2 * np.spacing(abs(out))).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_of_two_floats_are_those_of_eager_mode(dtype):
    few = np.concatenate([hard_floats(dtype)[::5], dtype([0.0, -0.0, np.inf, -np.inf, np.nan])])
    x, y = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(few, few))
    names = [name for name in BINARY if name != "where"]
    found = differences(names, lambda x, y: [getattr(nnx, n)(x, y) for n in names], [x, y])
    assert not found, "\n".join(found)


ROWS = [
    [np.inf, 1.0, 2.0], [-np.inf, 1.0, 0.0], [np.inf, -np.inf, 1.0], [np.nan, 1.0, 2.0],
    [1.0, 2.0, np.nan], [np.inf, np.nan, -np.inf], [-0.0, -0.0, -0.0], [0.0, -0.0, 0.0],
    [np.nan, np.nan, np.nan], [1e300, 1e300, 1e300], [1e-40, 2e-40, -1e-40], [5e-324, 0.0, 5e-324],
    [-1e-310, 1e-45, 1.0], [3.0, 1.0, 2.0], [np.inf, np.inf, np.inf], [-np.inf, -np.inf, -np.inf],
    [1e38, 3e38, -3e38], [800.0, -800.0, 0.0],
]  # fmt: skip
REDUCTIONS = (
    "sum", "prod", "max", "min", "any", "all", "argmax", "argmin", "mean", "var", "std",
    "logsumexp", "softmax", "log_softmax", "cumulative_sum", "cumulative_prod", "layer_norm",
)  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions_of_limits_are_those_of_eager_mode(dtype):
    with np.errstate(over="ignore"):
        x = np.array(ROWS).astype(dtype)
    calls = []
    for name in REDUCTIONS:
        op = getattr(nnx, name)
        if name == "layer_norm":
            calls.append((name, op))
            continue
        calls += [(name, lambda x, op=op: op(x, axis=1)), (name, lambda x, op=op: op(x, axis=0))]
        if OPS[name].shape is not OPS["cumulative_sum"].shape:
            calls.append((name, lambda x, op=op: op(x[13:14], axis=1)))
            if "softmax" not in name:
                calls.append((name, lambda x, op=op: op(x, axis=None)))
    found = differences([n for n, _ in calls], lambda x: [f(x) for _, f in calls], [x])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("dtype", FLOATS)
def test_choices_of_limits_are_those_of_eager_mode(dtype):
    x = np.concatenate([hard_floats(dtype), dtype([0.0, -0.0])])
    y = x[::-1].copy()
    for out, wanted in zip(
        compiled(lambda x, y: [nnx.where(x > y, x, y), nnx.where(x == x, y, x)], [x, y]),
        (np.where(x > y, x, y), np.where(x == x, y, x)),
        strict=True,
    ):
        assert out.tobytes() == wanted.tobytes()


# The environment


def environment(libm):
    """Return how this thread rounds, and whether it knows subnormal numbers."""
    tiny, one = np.finfo(np.float64).tiny, np.float64(1.0)
    halves = [tiny * np.float64(0.5), np.float32(np.finfo(np.float32).tiny) * np.float32(0.5)]
    rounded = [one + 2.0**-53, one + 2.0**-53 * 1.5, -one - 2.0**-53 * 1.5, one / 3, -one / 3]
    next_up = [np.nextafter(np.float32(0), np.float32(1)), np.nextafter(0.0, 1.0)]
    # In an array, as vectors are added by other instructions.
    spread = np.full(9, 5e-324) + 5e-324
    return (libm.fegetround(), [float(v).hex() for v in (*halves, *rounded, *next_up, *spread)])


@pytest.fixture
def libm():
    name = ctypes.util.find_library("m")
    if name is None:
        pytest.skip("this system has no libm of its own name to ask how it rounds")
    return ctypes.CDLL(name)


def test_the_environment_is_as_it_was(libm):
    before = environment(libm)
    assert float.fromhex(before[1][0]) == 2.0**-1023 and before[0] == 0

    @nnx.jit
    def work(x, w):
        h = nnx.exp(x) @ w + nnx.log(x) + nnx.tanh(x) / (x - x)
        return nnx.sum(h), x * 0.5, nnx.floor(x * 3.7), nnx.cumulative_prod(x, axis=0)

    for dtype in FLOATS:
        x = np.full((64, 64), np.finfo(dtype).tiny, dtype)
        _, halved, *_ = work(nnx.asarray(x, device="numba"), nnx.asarray(x, device="numba"))
        # It knows subnormal numbers inside, too.
        np.testing.assert_array_equal(halved.numpy(), x / 2)
        assert (halved.numpy() > 0).all()
        assert environment(libm) == before


def test_compiled_code_warns_of_nothing_and_leaves_no_flag():
    @nnx.jit
    def work(x):
        return x / 0.0, nnx.log(x), nnx.sqrt(x), nnx.exp(x * 1e4), x * 1e-320, nnx.sum(x / (x - x))

    x = nnx.asarray(np.array([-1.0, 0.0, 1.0, 1e308]), device="numba")
    work(x)  # traced and compiled
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        divided, log, root, power, small, total = (out.numpy() for out in work(x))
        # An operation without fault after it raises nothing for a flag that was left.
        assert np.add(np.float64(1.0), np.float64(2.0)) == 3.0
        assert (np.ones(5) * 2.0).sum() == 10.0
        assert np.geterr() == dict.fromkeys(("divide", "over", "under", "invalid"), "raise")
    assert np.isneginf(divided[0]) and np.isnan(divided[1]) and np.isposinf(divided[2:]).all()
    assert np.isnan(log[0]) and np.isneginf(log[1]) and np.isnan(root[0]) and root[1] == 0
    assert power[0] == 0 and np.isposinf(power[2:]).all() and np.isnan(total)
    assert 0 < small[2] < np.finfo(np.float64).tiny
