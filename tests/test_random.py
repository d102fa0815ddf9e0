"""Random numbers: the published words, the written rules bit by bit, the statistics, bad input.

`reference_*` below say the rules of `nnx.random` a second time, one number at a time, in Python's
own integers and floats; a device's kernel has to agree with them too.
"""

from __future__ import annotations

import copy
import math
import pickle
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnx import philox
from nnx import random as nnx_random
from nnx.errors import DataError, DTypeError, NnxError, ShapeError
from nnx.random import Generator

MASK = 2**32 - 1
SEED = 0x9E3779B97F4A7C15
# Random123, examples/kat_vectors, "philox4x32 10": counter, key, output.
KNOWN_ANSWERS = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def hex_words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def column(words: list[int]) -> np.ndarray:
    return np.array(words, np.uint32)[:, None]


def reference_block(counter: int, key: int) -> int:
    """Philox4x32-10 on a 128-bit counter and a 64-bit key as Python ints."""
    c0, c1, c2, c3 = (counter >> 32 * i & MASK for i in range(4))
    k0, k1 = key & MASK, key >> 32
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = right >> 32 ^ c1 ^ k0, right & MASK, left >> 32 ^ c3 ^ k1, left & MASK
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return c0 | c1 << 32 | c2 << 64 | c3 << 96


def reference_bits(n: int, bits: int, block: int = 0, stream: int = 0) -> Iterator[int]:
    """The first n integers of so many bits from a block on, low words first."""
    for i in range(n):
        number, place = divmod(i * bits, 128)
        yield reference_block(block + number | stream << 64, SEED) >> place & 2**bits - 1


def reference_horner(coefficients: tuple[float, ...], x: float) -> float:
    out = coefficients[0]
    for coefficient in coefficients[1:]:
        out = out * x + coefficient
    return out


def reference_log(x: float) -> float:
    """fdlibm's logarithm by frexp, where the library uses the bits."""
    m, k = math.frexp(x)
    if m < math.sqrt(0.5):
        m, k = 2 * m, k - 1
    f = m - 1
    s = f / (2 + f)
    series = reference_horner(philox._LOG_SERIES, s * s) * (s * s)
    return k * philox._LN2_HIGH - ((s * (f - series) - k * philox._LN2_LOW) - f)


def reference_quantile(q: float) -> float:
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        top, bottom = (reference_horner(c, r) for c in philox._CENTRE)
        return top * q / bottom
    r = math.sqrt(-reference_log(0.5 - abs(q)))
    pair, shift = (philox._TAIL, 1.6) if r <= 5 else (philox._FAR_TAIL, 5.0)
    top, bottom = (reference_horner(c, r - shift) for c in pair)
    return math.copysign(top / bottom, q)


def same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.view(np.uint8), expected.view(np.uint8))


# The words.


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter: str, key: str, expected: str) -> None:
    block = philox.philox4x32(column(hex_words(counter)), column(hex_words(key)))
    assert block.dtype == np.uint32
    assert block[:, 0].tolist() == hex_words(expected)


@pytest.mark.parametrize("one_key", [True, False])
def test_philox_agrees_with_big_integers(one_key: bool) -> None:
    bits = np.random.RandomState(1).randint(0, 2**32, (6, 300), np.uint64)
    bits[:, :3] = [[0, MASK, 1]] * 6
    counter, key = bits[:4], bits[4:, :1] if one_key else bits[4:]
    keys = np.broadcast_to(key, (2, 300))
    before = bits.copy()
    blocks = philox.philox4x32(counter, key)
    for i in range(300):
        number = sum(int(word) << 32 * j for j, word in enumerate(counter[:, i]))
        expected = reference_block(number, int(keys[0, i]) | int(keys[1, i]) << 32)
        assert sum(int(word) << 32 * j for j, word in enumerate(blocks[:, i])) == expected
    np.testing.assert_array_equal(bits, before)


def test_stream_words_carry_from_the_low_to_the_high_counter_word() -> None:
    words = philox.stream_words(SEED, 2**63 + 5, 2**32 - 2, 4)
    assert words.tolist() == list(reference_bits(16, 32, 2**32 - 2, 2**63 + 5))


# Each draw against its written rule. The sizes leave a part of a block over and cross a piece.

SIZES = [0, 1, 2, 3, 4, 5, 333]


def drawn(state: dict[str, int] | None = None) -> Generator:
    generator = Generator(SEED)
    if state:
        generator.load_state_dict({**generator.state_dict(), **state})
    return generator


@pytest.mark.parametrize("n", SIZES)
def test_uniform_bits_are_those_of_the_rule(n: int) -> None:
    single = np.array([(w >> 8) / 2**24 for w in reference_bits(n, 32)], np.float32)
    same_bits(drawn().host_uniform(shape=n), single)
    double = np.array([(w >> 11) / 2**53 for w in reference_bits(n, 64)], np.float64)
    same_bits(drawn().host_uniform(shape=n, dtype="float64"), double)


def test_uniform_of_a_range_rounds_each_step_in_its_dtype() -> None:
    low, span = np.float32(0.1), np.float32(0.7) - np.float32(0.1)
    assert span != np.float32(0.7 - 0.1)
    u = drawn().host_uniform(shape=500)
    expected = np.array([np.float32(np.float32(x * span) + low) for x in u])
    same_bits(drawn().host_uniform(0.1, 0.7, 500), expected)


@pytest.mark.parametrize("n", SIZES)
def test_normal_bits_are_those_of_the_rule(n: int) -> None:
    z32 = [reference_quantile((w + 0.5) / 2**32 - 0.5) for w in reference_bits(n, 32)]
    same_bits(drawn().host_normal(shape=n), np.array(z32, np.float32))
    scaled = np.array([z * 0.3 + 1.7 for z in z32], np.float32)
    same_bits(drawn().host_normal(1.7, 0.3, n), scaled)
    z64 = [reference_quantile(((w >> 12) + 0.5) / 2**52 - 0.5) for w in reference_bits(n, 64)]
    same_bits(drawn().host_normal(shape=n, dtype="float64"), np.array(z64, np.float64))


SPANS = [
    (0, 1),
    (1, 7),
    (-5, 2**32 - 5),
    (-5, 2**32 - 4),
    (-3, 3 * 2**61),
    (-(2**63), 2**63 - 1),
    (-(2**63), 2**63),
]


@pytest.mark.parametrize(("low", "high"), SPANS)
@pytest.mark.parametrize("n", [0, 1, 3, 200])
def test_integers_are_those_of_the_rule(low: int, high: int, n: int) -> None:
    bits = 64 if high - low <= 2**32 else 128
    expected = [low + (r * (high - low) >> bits) for r in reference_bits(n, bits)]
    same_bits(drawn().host_integers(low, high, n), np.array(expected, np.int64))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    r=st.lists(st.integers(0, 2**128 - 1) | st.just(2**128 - 1), min_size=1, max_size=4),
    span=st.integers(1, 2**64) | st.integers(2**64 - 2, 2**64) | st.integers(2**32, 2**32 + 2),
)
def test_scaled_is_the_exact_quotient(r: list[int], span: int) -> None:
    bits = 32 * philox.words_per_scaled(span)
    r = [value % 2**bits for value in r]
    words = [value >> shift & MASK for value in r for shift in range(0, bits, 32)]
    expected = [value * span >> bits for value in r]
    assert philox.scaled(np.array(words, np.uint32), span).tolist() == expected


@pytest.mark.parametrize("n", SIZES)
def test_permutation_sorts_the_keys_of_the_rule(n: int) -> None:
    keys = list(reference_bits(n, 64))
    expected = np.array(sorted(range(n), key=keys.__getitem__), np.int64)
    same_bits(drawn().host_permutation(n), expected)


def test_permutation_keeps_the_order_of_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(philox, "pair", lambda words: np.arange(words.size // 2) // 50 % 2)
    expected = sorted(range(1000), key=lambda i: i // 50 % 2)
    assert Generator(0).host_permutation(1000).tolist() == expected


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("p", [0.0, 0.25, 1 / 3, 1 - 2**-32, 1.0])
def test_bernoulli_is_that_of_the_rule(n: int, p: float) -> None:
    expected = np.array([w < round(p * 2**32) for w in reference_bits(n, 32)], np.bool_)
    same_bits(drawn().host_bernoulli(p, n), expected)


def test_below_is_exact_at_the_ends() -> None:
    words = np.array([0, 1, MASK - 1, MASK], np.uint32)
    assert philox.below(words, 0.0).tolist() == [False] * 4
    assert philox.below(words, 0.7 * 2.0**-32).tolist() == [True, False, False, False]
    assert philox.below(words, 1 - 2.0**-32).tolist() == [True, True, True, False]
    assert philox.below(words, 1.0).tolist() == [True] * 4


DRAWS = {
    "uniform32": (1, lambda g, n: g.host_uniform(shape=n)),
    "uniform64": (2, lambda g, n: g.host_uniform(shape=n, dtype="float64")),
    "normal32": (1, lambda g, n: g.host_normal(shape=n)),
    "normal64": (2, lambda g, n: g.host_normal(shape=n, dtype="float64")),
    "integers64": (2, lambda g, n: g.host_integers(-9, 9, n)),
    "integers128": (4, lambda g, n: g.host_integers(-(2**62), 2**62, n)),
    "permutation": (2, lambda g, n: g.host_permutation(n)),
    "bernoulli": (1, lambda g, n: g.host_bernoulli(0.5, n)),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("n", [*SIZES, 100_003])
def test_draw_uses_whole_blocks(draw: str, n: int) -> None:
    words, function = DRAWS[draw]
    generator = drawn({"block": 7})
    function(generator, n)
    assert generator.state_dict()["block"] == 7 + math.ceil(n * words / 4)


@pytest.mark.parametrize("draw", sorted(set(DRAWS) - {"permutation"}))
def test_draw_in_pieces_equals_one_draw(draw: str) -> None:
    """A large draw is made in cache-sized pieces; multiples of 4 use up their blocks."""
    _, function = DRAWS[draw]
    whole = function(drawn(), 100_003)
    generator = drawn()
    parts = [function(generator, n) for n in (4, 32_768, 65_536, 1_695)]
    same_bits(whole, np.concatenate(parts))


@pytest.mark.parametrize("draw", sorted(set(DRAWS) - {"permutation"}))
def test_draw_shape_only_arranges_the_elements(draw: str) -> None:
    _, function = DRAWS[draw]
    flat = function(drawn(), 24)
    for shape in [(2, 3, 4), [24], (np.int64(4), 6), (24, 1)]:
        out = function(drawn(), shape)
        assert out.shape == tuple(shape)
        np.testing.assert_array_equal(out.ravel(), flat)
    assert function(drawn(), ()).shape == ()
    assert function(drawn(), (3, 0)).shape == (3, 0)


# Normals from exact operations.


def exact_quantile(q: float) -> mpmath.mpf:
    """z with Phi(z) = 1/2 + q, by Newton on mpmath's complementary error function."""
    with mpmath.workdps(50):
        p = mpmath.mpf(0.5) - abs(mpmath.mpf(q))
        z = mpmath.mpf(-statistics.NormalDist().inv_cdf(float(p)))
        for _ in range(6):
            z += (mpmath.erfc(z / mpmath.sqrt(2)) / 2 - p) / mpmath.npdf(z)
        return z if q >= 0 else -z


def quantile_points() -> np.ndarray:
    points = np.random.RandomState(2).uniform(-0.5, 0.5, 300)
    tails = 0.5 - 2.0 ** -np.linspace(3, 53, 300)
    # The seams of the three formulas, and the outermost values of normal32 and normal64.
    seams = [np.nextafter(0.425, 0), 0.425, np.nextafter(0.425, 1), 0.5 - math.exp(-25)]
    ends = [2.0**-33, 2.0**-53, 0.5 - 2.0**-33, 0.5 - 2.0**-53]
    return np.concatenate([points, tails, -tails, seams, ends])


def test_normal_quantile_is_accurate_to_1e15() -> None:
    q = quantile_points()
    z = philox.normal_quantile(q)
    errors = [abs((mpmath.mpf(a) - e) / e) for a, e in zip(z, map(exact_quantile, q), strict=True)]
    assert max(errors) < 1e-15


def test_normal_quantile_is_the_rule_at_its_seams() -> None:
    q = quantile_points()
    same_bits(philox.normal_quantile(q), np.array([reference_quantile(float(x)) for x in q]))


@pytest.mark.parametrize(
    ("coefficients", "checksum"),
    [
        (philox._CENTRE, 55.8831928806149014439),
        (philox._TAIL, 49.3320650330161028904),
        (philox._FAR_TAIL, 47.5258331754928967163),
    ],
)
def test_coefficients_add_up_to_the_checksums_of_the_paper(
    coefficients: tuple[tuple[float, ...], tuple[float, ...]], checksum: float
) -> None:
    """AS 241 prints, against misprints, the sums of the coefficients' significands."""
    significands = [float(f"{c:.17e}".split("e")[0]) for row in coefficients for c in row]
    assert math.fsum(significands) - 1 == pytest.approx(checksum, rel=0, abs=1e-13)


def test_normal_quantile_is_odd_to_the_last_bit() -> None:
    q = quantile_points()
    same_bits(philox.normal_quantile(-q), -philox.normal_quantile(q))


def test_normal_of_the_extreme_words_is_finite() -> None:
    ends = np.array([0, 0, MASK, MASK], np.uint32)
    np.testing.assert_allclose(philox.normal32(ends[1:3]), [-6.3379, 6.3379], rtol=1e-4)
    np.testing.assert_allclose(philox.normal64(ends), [-8.2095, 8.2095], rtol=1e-4)


def test_log_series_has_the_bits_of_fdlibm() -> None:
    """Lg7 ... Lg1, as e_log.c gives them in hexadecimal beside the decimals."""
    expected = (
        "3fc2f112df3e5244 3fc39a09d078c69f 3fc7466496cb03de 3fcc71c51d8e78af "
        "3fd2492494229359 3fd999999997fa04 3fe5555555555593"
    )
    bits = np.array(philox._LOG_SERIES).view(np.uint64)
    assert " ".join(f"{value:016x}" for value in bits.tolist()) == expected


def test_log_is_within_one_ulp() -> None:
    x = np.concatenate([np.random.RandomState(3).uniform(0, 0.075, 500), 2.0 ** -np.arange(1, 60)])
    x = np.concatenate([x, [math.sqrt(0.5), np.nextafter(math.sqrt(0.5), 0), 0.999, 1.5, 1e300]])
    ours = philox.log_exact(x)
    for value, actual in zip(x, ours, strict=True):
        assert abs(mpmath.mpf(actual) - mpmath.log(value)) <= np.spacing(abs(actual))


# What this seed gave on x86-64, Linux, NumPy 2.4. Another platform must give it too.
GOLDEN_NORMALS = [
    "0x1.cadf5af80c8d4p-5",
    "-0x1.119bba2e4b3b8p-1",
    "-0x1.8db6fa5e5d418p-2",
    "0x1.d16ede76f52e6p-1",
    "0x1.29882cccfb5e3p-1",
    "0x1.4cc451c1497f9p+0",
    "0x1.69d698a297e01p+0",
    "0x1.45c31e7c12d85p+0",
    "0x1.06b48528cea51p+3",
    "-0x1.04074bdbf8864p+3",
    "0x1.79cd70d9c27f0p+0",
    "-0x1.dc08bb712897ap+1",
    "0x1.58822453c159ep-29",
]


def test_normals_have_the_recorded_bits() -> None:
    far = np.array([0.5 - 2.0**-53, 2.0**-52 - 0.5, 0.43, -0.4999, 1e-9])
    drawn_now = Generator(2026).host_normal(shape=8, dtype="float64")
    values = np.concatenate([drawn_now, philox.normal_quantile(far)])
    assert [float(value).hex() for value in values] == GOLDEN_NORMALS


# Statistics, with seeds fixed: these pass or fail once and for all.

N = 200_000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (-3.0, 0.5)])
def test_normal_moments(dtype: str, loc: float, scale: float) -> None:
    z = (Generator(11).host_normal(loc, scale, N, dtype).astype(np.float64) - loc) / scale
    # Five standard errors of each sample moment; E[z^8] - E[z^4]^2 = 96.
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean() - mean) < 5 * math.sqrt(variance / N)


def kolmogorov_distance(sample: np.ndarray, cdf: np.ndarray) -> float:
    rank = np.arange(sample.size + 1) / sample.size
    return float(max((cdf - rank[:-1]).max(), (rank[1:] - cdf).max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_and_normal_follow_their_distribution(dtype: str) -> None:
    limit = 1.95 / math.sqrt(N)  # Kolmogorov's statistic at a level of 0.1%
    u = np.sort(Generator(12).host_uniform(2, 5, N, dtype).astype(np.float64))
    assert kolmogorov_distance(u, (u - 2) / 3) < limit
    z = np.sort(Generator(12).host_normal(shape=N, dtype=dtype).astype(np.float64))
    cdf = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
    assert kolmogorov_distance(z, cdf) < limit


def chi_square_fits(counts: np.ndarray) -> bool:
    """Whether equal probabilities give such counts: within 4 sigma, too even counts fail too."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-3, 4), (10, 110), (0, 1000)])
def test_integers_are_equally_likely(low: int, high: int) -> None:
    k = Generator(13).host_integers(low, high, N)
    assert k.min() == low and k.max() == high - 1
    assert chi_square_fits(np.bincount(k - low, minlength=high - low))


def test_wide_integers_are_equally_likely() -> None:
    """Where 64 random bits would hit a third of the values twice and the others three times."""
    k = Generator(14).host_integers(0, 3 * 2**61, N)
    assert chi_square_fits(np.bincount(k // (3 * 2**57), minlength=16))
    assert chi_square_fits(np.bincount(k % 3, minlength=3))


def test_permutation_is_one_and_each_is_equally_likely() -> None:
    generator = Generator(15)
    rows = np.array([generator.host_permutation(4) for _ in range(12_000)])
    assert (np.sort(rows, axis=1) == np.arange(4)).all()
    counts = np.unique(rows @ [64, 16, 4, 1], return_counts=True)[1]
    assert counts.size == 24 and chi_square_fits(counts)


def test_permutation_moves_every_index_evenly() -> None:
    order = Generator(16).host_permutation(60_000)
    assert (np.sort(order) == np.arange(60_000)).all()
    assert abs(np.corrcoef(order, np.arange(60_000))[0, 1]) < 4 / math.sqrt(60_000)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9])
def test_bernoulli_frequency(p: float) -> None:
    hits = Generator(17).host_bernoulli(p, N)
    assert abs(hits.mean() - p) < 4 * math.sqrt(p * (1 - p) / N)


def test_neighbours_seeds_and_streams_are_uncorrelated() -> None:
    base = Generator(18)
    z = base.host_normal(shape=N)
    others = [z[1:], base.host_normal(shape=N), Generator(19).host_normal(shape=N)]
    others += [Generator(18).fork(1).host_normal(shape=N), Generator(18 << 32).host_normal(shape=N)]
    for other in others:
        assert abs(np.corrcoef(z[: other.size], other)[0, 1]) < 4 / math.sqrt(N)


# The ends of a range.


def test_uniform_never_reaches_high() -> None:
    low, high = 1.0, 1.0 + 2.0**-22  # two float32 steps apart: rounding up is frequent
    u = Generator(20).host_uniform(low, high, 1000)
    assert set(u.tolist()) == {1.0, 1.0 + 2.0**-23}


def test_uniform_of_the_extreme_words_stays_inside() -> None:
    ends = np.array([0, 0, MASK, MASK], np.uint32)
    assert philox.uniform32(ends)[::3].tolist() == [0.0, 1 - 2.0**-24]
    assert philox.uniform64(ends).tolist() == [0.0, 1 - 2.0**-53]


def test_degenerate_ranges_are_constant() -> None:
    assert (Generator(0).host_uniform(3, 3, 9) == 3).all()
    assert (Generator(0).host_normal(3, 0, 9) == 3).all()
    assert (Generator(0).host_integers(3, 4, 9) == 3).all()


def test_largest_ranges_do_not_overflow() -> None:
    u = Generator(0).host_uniform(-1.5e38, 1.5e38, 1000)
    assert np.isfinite(u).all() and u.min() < -1e38 and u.max() > 1e38
    assert np.isfinite(Generator(0).host_normal(1e38, 2e37, 1000)).all()


def test_integers_with_one_bound_start_at_zero() -> None:
    same_bits(Generator(5).host_integers(6, shape=50), Generator(5).host_integers(0, 6, 50))


# State.


@pytest.mark.parametrize(
    "clone",
    [
        lambda g: _loaded(g.state_dict()),
        lambda g: _loaded({name: np.uint64(n) for name, n in g.state_dict().items()}),
        lambda g: _loaded({name: np.array(n, np.uint64) for name, n in g.state_dict().items()}),
        copy.deepcopy,
        lambda g: pickle.loads(pickle.dumps(g)),
    ],
)
def test_state_resumes_exactly(clone) -> None:
    generator = Generator(2**64 - 1).fork(2**64 - 1)
    generator.host_normal(shape=5)
    other = clone(generator)
    assert other.state_dict() == {"seed": 2**64 - 1, "stream": 2**64 - 1, "block": 2}
    same_bits(other.host_normal(shape=9), generator.host_normal(shape=9))
    other.host_normal()
    assert other.state_dict() != generator.state_dict()


def _loaded(state: dict[str, int]) -> Generator:
    generator = Generator(0)
    generator.load_state_dict(state)
    return generator


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"seed": 1, "stream": 2},
        {"seed": 1, "stream": 2, "block": 3, "more": 4},
        {"seed": 1, "stream": 2, "block": -1},
        {"seed": 1, "stream": 2.0, "block": 3},
    ],
)
def test_bad_state_changes_nothing(state: dict[str, int]) -> None:
    generator = Generator(9)
    generator.host_normal()
    before = generator.state_dict()
    with pytest.raises(DataError):
        generator.load_state_dict(state)
    assert generator.state_dict() == before


def test_fork_leaves_its_parent_alone() -> None:
    parent = Generator(9)
    parent.host_normal()
    child = parent.fork(3)
    assert child.state_dict() == {"seed": 9, "stream": 3, "block": 0}
    child.host_normal()
    assert parent.state_dict() == {"seed": 9, "stream": 0, "block": 1}


def test_last_block_can_be_drawn_and_no_more() -> None:
    generator = drawn({"block": 2**64 - 2})
    expected = np.array([(w >> 8) / 2**24 for w in reference_bits(8, 32, 2**64 - 2)], np.float32)
    same_bits(generator.host_uniform(shape=8), expected)
    with pytest.raises(DataError, match="0 blocks left"):
        generator.host_uniform()


def test_threads_never_draw_the_same_block() -> None:
    generator, claimed = Generator(0), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def work() -> None:
            mine = [generator.reserve(1)[2] for _ in range(2000)]
            claimed.extend(mine)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(claimed) == list(range(16_000))


class HeldLock:
    """A lock that records what happened while it was held."""

    def __init__(self) -> None:
        self.held = False

    def __enter__(self) -> None:
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


def test_block_is_read_and_written_under_one_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads above rarely meet at the bump; this fails every time it is not locked."""
    lock, seen = HeldLock(), []

    class Watched(Generator):
        def __getattribute__(self, name: str):
            if name == "_block":
                seen.append(lock.held)
            return super().__getattribute__(name)

        def __setattr__(self, name: str, value: object) -> None:
            if name == "_block":
                seen.append(lock.held)
            super().__setattr__(name, value)

    generator = Watched(0)
    monkeypatch.setattr(generator, "_lock", lock)
    seen.clear()
    generator.host_normal()
    generator.load_state_dict(generator.state_dict())
    assert len(seen) >= 4 and all(seen)


@pytest.fixture
def default_state() -> Iterator[Generator]:
    generator = nnx_random.default_generator()
    before = generator.state_dict()
    yield generator
    generator.load_state_dict(before)


def test_seed_restarts_the_default_generator_in_place(default_state: Generator) -> None:
    nnx_random.seed(4)
    first = default_state.host_normal(shape=5)
    nnx_random.seed(4)
    assert nnx_random.default_generator() is default_state
    same_bits(default_state.host_normal(shape=5), first)
    same_bits(Generator(4).host_normal(shape=5), first)


SCRIPT = """
import sys
import numpy
before = set(sys.modules)
from nnx.random import default_generator
print(default_generator().state_dict()["seed"])
default_generator().host_normal(shape=3)
heavy = {"numba", "cupy", "matplotlib", "rich", "safetensors", "scipy", "secrets", "random"}
print(sorted(heavy & (set(sys.modules) - before)))
"""


def test_unseeded_default_differs_between_processes_and_imports_nothing_heavy() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        for _ in range(2)
    ]
    assert outputs[0][0] != outputs[1][0]
    assert outputs[0][1] == "[]"


# Bad input: the class, and what was given and allowed in the text.

BAD = [
    (lambda g: Generator(-1), DataError, "-1"),
    (lambda g: Generator(2**64), DataError, "18446744073709551616"),
    (lambda g: Generator(10**5000), DataError, "too long"),
    (lambda g: Generator(1.5), DataError, "1.5"),
    (lambda g: Generator(True), DataError, "True"),
    (lambda g: Generator("7"), DataError, "'7'"),
    (lambda g: Generator(None), DataError, "None"),
    (lambda g: nnx_random.seed(-3), DataError, "-3"),
    (lambda g: g.fork(-1), DataError, "stream"),
    (lambda g: g.host_uniform(2.0, 1.0), DataError, "low=2.0, high=1.0"),
    (lambda g: g.host_uniform(math.nan, 1), DataError, "low=nan"),
    (lambda g: g.host_uniform(0, math.inf), DataError, "high=inf"),
    (lambda g: g.host_uniform(math.inf, math.inf), DataError, "low=inf"),
    (lambda g: g.host_uniform(-3e38, 3e38), DataError, "float32"),
    (lambda g: g.host_uniform(0, 1e300), DataError, "float32"),
    (lambda g: g.host_uniform("0", 1), DataError, "'0'"),
    (lambda g: g.host_uniform(0, 10**400), DataError, "high"),
    (lambda g: g.host_uniform(np.zeros(3), 1), DataError, "array"),
    (lambda g: g.host_uniform(shape=3, dtype="int64"), DTypeError, "int64"),
    (lambda g: g.host_uniform(shape=3, dtype="float16"), DTypeError, "float16"),
    (lambda g: g.host_uniform(shape=3, dtype="flot32"), DTypeError, "flot32"),
    (lambda g: g.host_uniform(shape=-1), ShapeError, "-1"),
    (lambda g: g.host_uniform(shape=(2, -1)), ShapeError, r"\(2, -1\)"),
    (lambda g: g.host_uniform(shape=2.0), ShapeError, "2.0"),
    (lambda g: g.host_uniform(shape="23"), ShapeError, "'23'"),
    (lambda g: g.host_uniform(shape=(2**40, 2**40)), ShapeError, "1099511627776"),
    (lambda g: g.host_normal(0.0, -1.0), DataError, "scale=-1.0"),
    (lambda g: g.host_normal(0.0, math.nan), DataError, "scale=nan"),
    (lambda g: g.host_normal(math.inf, 1.0), DataError, "loc=inf"),
    (lambda g: g.host_normal(0.0, 1e38), DataError, "float32"),
    (lambda g: g.host_normal(0.0, 1e308, dtype="float64"), DataError, "float64"),
    (lambda g: g.host_normal(0.0, None), DataError, "None"),
    (lambda g: g.host_normal(dtype=np.int32), DTypeError, "int32"),
    (lambda g: g.host_normal(shape=(1, None)), ShapeError, "None"),
    (lambda g: g.host_integers(3, 3), DataError, "low=3, high=3"),
    (lambda g: g.host_integers(4, 3), DataError, "low=4, high=3"),
    (lambda g: g.host_integers(0), DataError, "high=0"),
    (lambda g: g.host_integers(0.0, 3), DataError, "low=0.0"),
    (lambda g: g.host_integers(0, 3.0), DataError, "high=3.0"),
    (lambda g: g.host_integers(0, 2**63 + 1), DataError, "9223372036854775809"),
    (lambda g: g.host_integers(-(2**63) - 1, 0), DataError, "-9223372036854775809"),
    (lambda g: g.host_integers(5, (3,)), DataError, r"high=\(3,\)"),
    (lambda g: g.host_integers(0, 5, -2), ShapeError, "-2"),
    (lambda g: g.host_permutation(-1), DataError, "-1"),
    (lambda g: g.host_permutation(2.0), DataError, "2.0"),
    (lambda g: g.host_permutation([1, 2]), DataError, r"\[1, 2\]"),
    (lambda g: g.host_bernoulli(-0.1), DataError, "p=-0.1"),
    (lambda g: g.host_bernoulli(1.1), DataError, "p=1.1"),
    (lambda g: g.host_bernoulli(math.nan), DataError, "p=nan"),
    (lambda g: g.host_bernoulli("half"), DataError, "'half'"),
    (lambda g: g.host_bernoulli(0.5, -1), ShapeError, "-1"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_input_is_told(call, error: type[NnxError], text: str) -> None:
    generator = Generator(0)
    with pytest.raises(error, match=text):
        call(generator)
    assert generator.state_dict()["block"] == 0


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (None, "float32"),
        (float, "float32"),
        (np.float32, "float32"),
        (np.dtype("float32"), "float32"),
        (np.float64, "float64"),
        (np.dtype("float64"), "float64"),
    ],
)
def test_dtype_is_taken_in_every_form(dtype: object, name: str) -> None:
    for draw in (Generator.host_uniform, Generator.host_normal):
        expected = draw(Generator(1), shape=4, dtype=name)
        same_bits(draw(Generator(1), shape=4, dtype=dtype), expected)


# Tensors: the same bits, moved.

TENSOR_DRAWS = {
    "uniform": ((-1.0, 2.0, (3, 5)), "float32"),
    "normal": ((1.0, 2.0, (3, 5)), "float32"),
    "integers": ((-4, 4, (3, 5)), "int64"),
    "permutation": ((17,), "int64"),
    "bernoulli": ((0.4, (3, 5)), "bool"),
}


def usable_devices() -> list[str]:
    try:
        import nnx

        return [info.name for info in nnx.devices() if info.available]
    except (ImportError, AttributeError):
        return ["numpy"]


@pytest.mark.parametrize("device", [None, *usable_devices()])
@pytest.mark.parametrize("draw", TENSOR_DRAWS)
def test_tensor_has_the_host_bits_on_every_device(draw: str, device: str | None) -> None:
    import nnx

    arguments, dtype = TENSOR_DRAWS[draw]
    expected = getattr(Generator(21), f"host_{draw}")(*arguments)
    tensor = getattr(nnx.random.Generator(21), draw)(*arguments, device=device)
    assert isinstance(tensor, nnx.Tensor)
    assert tensor.dtype == dtype
    assert device is None or tensor.device == nnx.device(device)
    same_bits(tensor.numpy(), expected)


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_tensor_dtype_can_be_asked_for(draw: str) -> None:
    import nnx

    expected = getattr(Generator(22), f"host_{draw}")(shape=7, dtype="float64")
    tensor = getattr(Generator(22), draw)(shape=7, dtype=nnx.float64)
    assert tensor.dtype == nnx.float64
    same_bits(tensor.numpy(), expected)


@pytest.mark.parametrize("draw", TENSOR_DRAWS)
def test_module_functions_draw_from_the_default_generator(
    draw: str, default_state: Generator
) -> None:
    arguments, _ = TENSOR_DRAWS[draw]
    nnx_random.seed(23)
    tensors = [getattr(nnx_random, draw)(*arguments).numpy() for _ in range(2)]
    generator = Generator(23)
    for tensor in tensors:
        same_bits(tensor, getattr(generator, f"host_{draw}")(*arguments))
