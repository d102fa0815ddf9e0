"""Philox4x32-10 and the exact rules that turn its words into numbers, as pure NumPy functions.

A *word* is 32 random bits; a *block* is the four words that one counter gives. Every number below
comes from a fixed count of words through integer arithmetic or through float64 ``+ - * / sqrt``
in the order written, each rounded once as IEEE 754 says. No libm, no fused multiply-add: a kernel
that repeats the order (in CUDA with ``__dmul_rn``, ``__dadd_rn`` and so on, or ``-fmad=false``)
gives the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Floats = NDArray[np.float64]
U64 = NDArray[np.uint64]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
# What is added to the key in each of the ten rounds: two Weyl sequences, of the golden ratio and
# of sqrt(3) - 1 as fractions of 2**32.
_KEY_STEPS = np.arange(10, dtype=np.uint64)[:, None, None] * np.array(
    [[0x9E3779B9], [0xBB67AE85]], np.uint64
)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[Any], key: NDArray[Any]) -> Words:
    """Return the block of four words of each counter under a key.

    A round: (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)),
    after which the key words grow by their Weyl steps; ten rounds, all modulo 2**32.
    Shapes: counter (4, n), key (2, n) or (2, 1), all words below 2**32 -> (4, n).
    Dtype: unsigned integers -> uint32.
    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    >>> block = philox4x32(np.zeros((4, 1), np.uint32), np.zeros((2, 1), np.uint32))
    >>> [hex(word) for word in block[:, 0]]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    # The two multiplied words and the two carried ones go through each step as one array.
    multiplied, carried = counter[0::2].astype(np.uint64), counter[1::2].astype(np.uint64)
    product, spare = np.empty_like(multiplied), np.empty_like(multiplied)
    for round_key in (key + _KEY_STEPS) & _LOW:
        np.multiply(multiplied, _MULTIPLIERS, out=product)
        np.bitwise_and(product[::-1], _LOW, out=spare)
        np.right_shift(product, _HALF, out=product)
        np.bitwise_xor(product[::-1], carried, out=multiplied)
        np.bitwise_xor(multiplied, round_key, out=multiplied)
        carried, spare = spare, carried
    out = np.empty(counter.shape, np.uint32)
    out[0::2], out[1::2] = multiplied, carried
    return out


def stream_words(seed: int, stream: int, block: int, n_blocks: int) -> Words:
    """Return the words of consecutive blocks of one stream, in order.

    Key = (low, high) half of ``seed``; counter = (low, high) half of the block's number, then of
    ``stream``: word i is word i % 4 of block ``block + i // 4``.
    Shapes: -> (4 n_blocks,). All three integers are below 2**64.
    """
    counter = np.empty((4, n_blocks), np.uint64)
    numbers = np.arange(n_blocks, dtype=np.uint64)
    numbers += np.uint64(block)
    np.bitwise_and(numbers, _LOW, out=counter[0])
    np.right_shift(numbers, _HALF, out=counter[1])
    counter[2:] = _column(stream)
    return philox4x32(counter, _column(seed)).T.ravel()


def _column(value: int) -> U64:
    return np.array(_halves(value), np.uint64)[:, None]


def _halves(value: int) -> tuple[int, int]:
    return value & 0xFFFFFFFF, value >> 32


def pair(words: Words) -> U64:
    """Return 64-bit integers of two words each, the low half first."""
    # Little-endian views put the halves together without arithmetic; big-endian hosts swap.
    return words.astype("<u4", copy=False).view("<u8").astype(np.uint64, copy=False)


def uniform32(words: Words) -> NDArray[np.float32]:
    """Return (word >> 8) / 2**24 in [0, 1): every float32 multiple of 2**-24 is equally likely."""
    out = (words >> np.uint32(8)).astype(np.float32)
    out *= np.float32(2.0**-24)
    return out


def uniform64(words: Words) -> Floats:
    """Return (pair >> 11) / 2**53 in [0, 1), from two words each."""
    out = (pair(words) >> np.uint64(11)).astype(np.float64)
    out *= 2.0**-53
    return out


def normal32(words: Words) -> Floats:
    """Return the normal quantile of (word + 1/2) / 2**32, in float64 for the caller to round.

    Numerics: the half keeps 0 and 1 out, so |z| < 6.34; word - (2**31 - 1/2) is exact.
    """
    q = words.astype(np.float64)
    q -= 2.0**31 - 0.5
    q *= 2.0**-32
    return normal_quantile(q)


def normal64(words: Words) -> Floats:
    """Return the normal quantile of ((pair >> 12) + 1/2) / 2**52, from two words each.

    Numerics: 52 bits and not 53, so that the half is exact and 1 cannot be reached; |z| < 8.21.
    """
    q = (pair(words) >> np.uint64(12)).astype(np.float64)
    q -= 2.0**51 - 0.5
    q *= 2.0**-52
    return normal_quantile(q)


def scaled(words: Words, span: int) -> U64:
    """Return integers 0 <= k < span: floor(r span / 2**b) of b random bits r; span <= 2**64.

    Two words each (b = 64) while span <= 2**32, else four (b = 128), low half first: how many words
    are used depends on the arguments alone, as a rejection loop's count would not.
    Numerics: exact integers; each k has probability 1/span to a relative 2**-32 (b = 64) or 2**-64.
    Source: Lemire, "Fast random integer generation in an interval", ACM TOMACS 29 (2019), without
    its rejection step.
    """
    r = pair(words)
    if span <= 2**32:
        s = np.uint64(span)
        return ((r >> _HALF) * s + ((r & _LOW) * s >> _HALF)) >> _HALF
    low, high = r[0::2], r[1::2]
    if span == 2**64:
        return high.copy()
    carry = _multiply_high(low, span)
    middle = high * np.uint64(span)  # modulo 2**64
    return np.add(_multiply_high(high, span), middle + carry < carry, dtype=np.uint64)


def words_per_scaled(span: int) -> int:
    """Return how many words `scaled` takes for one integer."""
    return 2 if span <= 2**32 else 4


def _multiply_high(x: U64, y: int) -> U64:
    """Return the upper 64 bits of the 128-bit product, by halves."""
    x_low, x_high = x & _LOW, x >> _HALF
    y_low, y_high = (np.uint64(half) for half in _halves(y))
    cross = x_high * y_low + (x_low * y_low >> _HALF)
    carry = (x_low * y_high + (cross & _LOW)) >> _HALF
    out: U64 = x_high * y_high + (cross >> _HALF) + carry
    return out


def below(words: Words, p: float) -> NDArray[np.bool_]:
    """Return word < round(p 2**32): true with probability p to within 2**-33; 0 and 1 are exact."""
    threshold = round(p * 2.0**32)
    if threshold == 2**32:
        return np.ones(words.shape, np.bool_)
    return words < np.uint32(threshold)


# Coefficients of AS241, routine PPND16, highest power first: numerator over denominator in
# r = 0.425**2 - q**2 for |q| <= 0.425, in r - 1.6 for r = sqrt(-log p) <= 5, in r - 5 beyond.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.3871328727963666080),
    (5226.4952788528545610, 28729.085735721942674, 39307.895800092710610, 21213.794301586595867,
     5394.1960214247511077, 687.18700749205790830, 42.313330701600911252, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 0.0227238449892691845833, 0.241780725177450611770,
     1.27045825245236838258, 3.64784832476320460504, 5.76949722146069140550,
     4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 0.0151986665636164571966,
     0.148103976427480074590, 0.689767334985100004550, 1.67638483018380384940,
     2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.00124266094738807843860,
     0.0265321895265761230930, 0.296560571828504891230, 1.78482653991729133580,
     5.46378491116411436990, 6.65790464350110377720),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 0.0148753612908506148525, 0.136929880922735805310,
     0.599832206555887937690, 1.0),
)  # fmt: skip


def normal_quantile(q: Floats) -> Floats:
    """Return z with P(Z < z) = 1/2 + q for a standard normal Z; -1/2 < q < 1/2.

    Shapes: (n,) -> (n,). Numerics: relative error below 1e-15; odd in q to the last bit.
    Source: Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), routine PPND16.
    """
    r = q * q
    np.subtract(0.180625, r, out=r)
    # The central denominator has no root for |q| < 1/2, so the tails may run through it unharmed.
    z = _horner(_CENTRE[0], r)
    z *= q
    z /= _horner(_CENTRE[1], r)
    tail = np.flatnonzero(np.abs(q) > 0.425)
    if tail.size:
        q = q[tail]
        z[tail] = np.copysign(_tail_quantile(0.5 - np.abs(q)), q)
    return z


def _tail_quantile(p: Floats) -> Floats:
    """Return z > 0 with P(Z > z) = p, for p <= 0.075."""
    r = np.sqrt(-log_exact(p))
    z = _rational(_TAIL, r - 1.6)
    far = np.flatnonzero(r > 5.0)
    if far.size:
        z[far] = _rational(_FAR_TAIL, r[far] - 5.0)
    return z


def _rational(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Floats) -> Floats:
    z = _horner(coefficients[0], x)
    z /= _horner(coefficients[1], x)
    return z


def _horner(coefficients: tuple[float, ...], x: Floats) -> Floats:
    first, second, *rest = coefficients
    out = x * first
    out += second
    for coefficient in rest:
        out *= x
        out += coefficient
    return out


_LOG_SERIES = (
    0.1479819860511658591, 0.1531383769920937332, 0.1818357216161805012, 0.2222219843214978396,
    0.2857142874366239149, 0.3999999999940941908, 0.6666666666666735130,
)  # fmt: skip
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # 32 bits: an exponent times it is exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_SQRT_HALF_BITS = np.int64(np.float64(math.sqrt(0.5)).view(np.int64))


def log_exact(x: Floats) -> Floats:
    """Return the natural logarithm, the same to the last bit everywhere; x positive and normal.

    x = 2**k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); s = f / (2 + f);
    log(1 + f) = f - s (f - R(s**2)), R the odd part of 2 atanh(s) as a polynomial.
    Numerics: within 1 ULP; libm is not used because its last bit differs between platforms.
    Source: fdlibm e_log.c, Sun Microsystems 1993 (its polynomial, here by Horner's rule).
    """
    bits = x.view(np.int64)
    k = (bits - _SQRT_HALF_BITS) >> np.int64(52)
    f = (bits - (k << np.int64(52))).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = _horner(_LOG_SERIES, z) * z
    exponent = k.astype(np.float64)
    return exponent * _LN2_HIGH - ((s * (f - series) - exponent * _LN2_LOW) - f)
