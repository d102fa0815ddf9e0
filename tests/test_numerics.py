"""Hard values: within 4 units of the last place of an 80-digit reference, in float32.

The places are where the plain formulas lose their digits: far tails, near 0, near 1, large offsets.
"""

import mpmath as mp
import numpy as np
import pytest

import nnx

ULPS = 4
# JAX and CUDA flush numbers below 1.2e-38 to 0; a product of two factors may pass through there.
FLUSHED = 8 * float(np.finfo(np.float32).tiny)
FLUSHES = ("array_api:jax.numpy", "cupy")
mp.mp.dps = 80

POINTS = (
    0.0, 1e-30, 1e-20, 1e-10, 3e-8, 1e-5, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.54, 0.9, 1.0, 1.1, 1.5,
    2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 6.7, 8.0, 9.0, 9.3, 9.5, 10.0, 12.0, 15.0, 17.0, 20.0, 30.0,
    44.0, 60.0, 80.0, 87.0, 88.5, 100.0, 1e3, 1e10, 1e30,
)  # fmt: skip
X = np.float32(sorted({*POINTS, *(-x for x in POINTS)}))


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def gelu(x):
    return x * mp.erfc(-x / mp.sqrt(2)) / 2


def density(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


# value, derivative
SCALAR = {
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), sigmoid),
    "log_sigmoid": (lambda x: -mp.log1p(mp.exp(-x)), lambda x: sigmoid(-x)),
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "silu": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "gelu": (gelu, lambda x: mp.erfc(-x / mp.sqrt(2)) / 2 + x * density(x)),
    "erf": (mp.erf, lambda x: 2 * mp.exp(-x * x) / mp.sqrt(mp.pi)),
    "erfc": (mp.erfc, lambda x: -2 * mp.exp(-x * x) / mp.sqrt(mp.pi)),
}


def rounded(x):
    """Return an 80-digit number as the float32 nearest to it."""
    return np.float32(float(x))


def assert_close(result, wanted, inputs, ulps_allowed=ULPS):
    """Compare a float32 tensor with 80-digit numbers, in units of the last place."""
    slack = FLUSHED if result.device.name in FLUSHES else 0.0
    for x, a, b in zip(inputs, np.ravel(result.numpy()), wanted, strict=True):
        near = rounded(b)
        error = abs(mp.mpf(float(a)) - b)
        if a == near or error <= slack:
            continue
        ulps = error / mp.mpf(float(np.spacing(np.abs(near))))
        assert ulps <= ulps_allowed, (
            f"at {x}: {a!r}, should be {mp.nstr(b, 12)}: {mp.nstr(ulps, 3)} ULP"
        )


@pytest.fixture
def on(usable):
    return nnx.device(usable)


def needs_float64(on):
    if not on.has(nnx.float64):
        pytest.skip("these need float64 inside, which JAX has with JAX_ENABLE_X64=1")


def points(name):
    """Return the places for one function; a product with a sigmoid below 1e-38 has few digits."""
    return X[X > -87] if name == "silu" else X


def exact(function, values):
    return [function(mp.mpf(float(x))) for x in values]


@pytest.mark.parametrize("name", SCALAR)
def test_activation_is_right_to_its_last_digits(name, on):
    if name in ("gelu", "erf", "erfc"):
        needs_float64(on)
    x = points(name)
    got = getattr(nnx, name)(nnx.asarray(x, device=on))
    assert_close(got, exact(SCALAR[name][0], x), x)


@pytest.mark.parametrize("name", SCALAR)
def test_derivative_is_right_to_its_last_digits(name, on):
    if name in ("gelu", "erf", "erfc"):
        needs_float64(on)
    function = getattr(nnx, name)
    x = points(name)
    got = nnx.grad(lambda x: nnx.sum(function(x)))(nnx.asarray(x, device=on))
    # The slope of silu is 0 at -1.28, a difference on both sides of it.
    assert_close(got, exact(SCALAR[name][1], x), x, 8 if name == "silu" else ULPS)


@pytest.mark.parametrize("name", ["erf", "erfc", "gelu", "tanh", "sigmoid"])
def test_float64_is_right_to_fifteen_digits(name, on):
    needs_float64(on)
    x = X[np.abs(X) < 26].astype(np.float64)
    got = getattr(nnx, name)(nnx.asarray(x, device=on)).numpy()
    wanted = np.array([float(y) for y in exact(SCALAR[name][0], x)])
    # In gelu's tail the rounding of x / sqrt 2 is multiplied by x^2.
    rtol = 1e-13 if name == "gelu" else 2e-15
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=5e-324)


def test_gelu_far_below_zero_has_a_value():
    """1 + erf has no digit left at -10; the right value is -7.6e-23, not -0."""
    assert nnx.gelu(nnx.asarray(-10.0, device="numpy")).item() == pytest.approx(-7.619853e-23)


def test_slope_of_tanh_far_from_zero_is_not_zero():
    slope = nnx.grad(nnx.tanh)(nnx.asarray(20.0, device="numpy")).item()
    assert slope == pytest.approx(1.6993417e-17)


ROWS = [
    [0.0, 0.0], [0.0, -40.0], [0.0, -16.0, -17.0], [1e-3, -1e-3], [100.0, -100.0, 0.0],
    [50.0, 50.0, 10.0], [1e4, 1e4 - 1, 1e4 - 20], [-1e4, -1e4 - 0.5], [88.0, 89.0, 90.0],
    [3.0, 1.0, -2.0, 0.5], [-103.0, 0.0], [1e30, 0.0], [20.0], [700.0, -700.0],
]  # fmt: skip


def logsumexp(row):
    top = max(row)
    rest = sorted(row)[:-1]
    return top + mp.log1p(mp.fsum(mp.exp(x - top) for x in rest))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_softmax_family_is_right_to_its_last_digits(row, on):
    x = nnx.asarray(np.float32(row), device=on)
    digits = [mp.mpf(float(np.float32(v))) for v in row]
    total = logsumexp(digits)
    assert_close(nnx.logsumexp(x), [total], [row])
    assert_close(nnx.log_softmax(x), [v - total for v in digits], row)
    assert_close(nnx.softmax(x), [mp.exp(v - total) for v in digits], row)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_cross_entropy_is_right_to_its_last_digits(row, on):
    digits = [mp.mpf(float(np.float32(v))) for v in row]
    total = logsumexp(digits)
    p = [mp.exp(v - total) for v in digits]
    for label in range(len(row)):
        x = nnx.asarray(np.float32([row]), device=on)
        loss, g = nnx.value_and_grad(
            lambda x, label=label: nnx.cross_entropy(x, nnx.asarray([label], device=on))
        )(x)
        assert_close(loss, [total - digits[label]], [row])
        others = mp.fsum(q for i, q in enumerate(p) if i != label)
        wanted = [-others if i == label else q for i, q in enumerate(p)]
        assert_close(g, wanted, row)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_cross_entropy_is_right_to_its_last_digits(target, on):
    sign = 1 if target else -1
    y = nnx.asarray(np.full(X.shape, target, np.float32), device=on)
    x = nnx.asarray(X, device=on)
    losses = nnx.binary_cross_entropy(x, y, reduction="none")
    assert_close(losses, exact(lambda v: mp.log1p(mp.exp(-sign * v)), X), X)
    g = nnx.grad(lambda x: nnx.binary_cross_entropy(x, y, reduction="sum"))(x)
    assert_close(g, exact(lambda v: -sign * sigmoid(-sign * v), X), X)


OFFSETS = [
    [10001.0, 10002.0, 10003.0, 10004.0], [1e7, 1e7 + 1, 1e7 + 2], [1.0, 1.0000001, 1.0000002],
    [-3e4, -3e4 + 0.5], [1e-20, 2e-20, 5e-20], [0.1, 0.2, 0.7, -5.0],
]  # fmt: skip


def variance(digits):
    mean = mp.fsum(digits) / len(digits)
    return mp.fsum((v - mean) ** 2 for v in digits) / len(digits)


@pytest.mark.parametrize("row", OFFSETS, ids=str)
def test_variance_and_layer_norm_keep_their_digits_beside_an_offset(row, on):
    needs_float64(on)
    x = nnx.asarray(np.float32(row), device=on)
    digits = [mp.mpf(float(v)) for v in np.float32(row)]
    mean, var = mp.fsum(digits) / len(row), variance(digits)
    assert_close(nnx.var(x), [var], [row])
    assert_close(nnx.std(x), [mp.sqrt(var)], [row])
    scale = mp.sqrt(var + mp.mpf(1e-5))
    assert_close(nnx.layer_norm(x), [(v - mean) / scale for v in digits], row)


def test_layer_norm_of_ten_thousand_and_one_to_four(on):
    x = nnx.asarray([[10001.0, 10002.0, 10003.0, 10004.0]], device=on)
    np.testing.assert_allclose(
        nnx.layer_norm(x), [[-1.3416353, -0.4472118, 0.4472118, 1.3416353]], rtol=1e-6
    )


def test_mean_loss_of_many_float32_keeps_its_digits(on):
    needs_float64(on)
    n = 3000
    y = nnx.asarray(np.full(n, 0.1, np.float32), device=on)
    got = nnx.mse(y, nnx.zeros(n, device=on), reduction="sum").item()
    wanted = mp.mpf(float(np.float32(float(np.float32(0.1)) ** 2))) * n
    assert abs(got - wanted) / wanted < 1e-7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [100, 5_000, 20_000])
@pytest.mark.parametrize("kinds", ["arrays", "number first", "number second", "strided", "spread"])
def test_where_chooses_bits(dtype, n, kinds):
    from nnx.backends.numpy_backend import where

    rng = np.random.default_rng(0)
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40], dtype)
    x, y = (np.where(rng.random(n) < 0.3, rng.choice(odd, n), rng.normal(size=n)).astype(dtype)
            for _ in range(2))  # fmt: skip
    condition = rng.random(n) < 0.5
    if kinds == "number first":
        x = -0.0
    elif kinds == "number second":
        y = 1.5
    elif kinds == "strided":
        x, y, condition = np.repeat(x, 2)[::2], y[::-1], np.repeat(condition, 3)[::3]
    elif kinds == "spread":
        x = x[:1]
    exact = np.where(condition, x, y)
    assert exact.dtype == dtype
    found, given = where(condition, x, y), np.empty(n, dtype)
    assert where(condition, x, y, out=given) is given
    bits = f"i{exact.itemsize}"
    np.testing.assert_array_equal(found.view(bits), exact.view(bits))
    np.testing.assert_array_equal(given.view(bits), exact.view(bits))
