"""The random words of `nnx.philox` and the numbers made of them, as straight-line LLVM code.

Each function repeats its namesake there step by step, in the same order and with no fused
multiply-add, so that the results are equal bit for bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from nnx import philox
from nnx.kernels.elementary import call

Value = Any  # an LLVM value: llvmlite has no types of its own

I32, I64, F32, F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def block(b: ir.IRBuilder, seed: Value, stream: Value, number: Value) -> list[Value]:
    """Return the four words of a stream's block of this number; see `philox.stream_words`."""
    key = _halves(b, seed)
    c = _halves(b, number) + _halves(b, stream)
    for i in range(_ROUNDS):
        k0, k1 = (
            b.add(word, ir.Constant(I32, i * step & 0xFFFFFFFF))
            for word, step in zip(key, _KEY_STEPS, strict=True)
        )
        low0, high0 = _product(b, c[0], _MULTIPLIERS[0])
        low1, high1 = _product(b, c[2], _MULTIPLIERS[1])
        c = [b.xor(b.xor(high1, c[1]), k0), low1, b.xor(b.xor(high0, c[3]), k1), low0]
    return c


def word(b: ir.IRBuilder, seed: Value, stream: Value, first: Value, index: Value) -> Value:
    """Return one word of a stream, counted from the start of its block ``first``."""
    number = b.add(first, b.ashr(index, ir.Constant(I64, 2)))
    words = block(b, seed, stream, number)
    within = b.trunc(index, I32)
    odd = b.trunc(within, ir.IntType(1))
    upper = b.trunc(b.lshr(within, ir.Constant(I32, 1)), ir.IntType(1))
    pairs = [b.select(odd, words[i + 1], words[i]) for i in (0, 2)]
    return b.select(upper, pairs[1], pairs[0])


def _halves(b: ir.IRBuilder, value: Value) -> list[Value]:
    return [b.trunc(value, I32), b.trunc(b.lshr(value, ir.Constant(I64, 32)), I32)]


def _product(b: ir.IRBuilder, x: Value, factor: int) -> list[Value]:
    """Return the low and the high half of a 64-bit product."""
    return _halves(b, b.mul(b.zext(x, I64), ir.Constant(I64, factor)))


def pair(b: ir.IRBuilder, low: Value, high: Value) -> Value:
    """Return the 64-bit integer of two words."""
    return b.or_(b.zext(low, I64), b.shl(b.zext(high, I64), ir.Constant(I64, 32)))


def scaled(b: ir.IRBuilder, low: Value, high: Value, span: Value, start: Value) -> Value:
    """Return start + floor(r span / 2**128), span 0 standing for 2**64; see `philox.scaled`."""
    wide = ir.IntType(128)
    half = ir.Constant(wide, 64)
    low_part, high_part = (b.mul(b.zext(r, wide), b.zext(span, wide)) for r in (low, high))
    total = b.lshr(b.add(high_part, b.lshr(low_part, half)), half)
    whole = b.icmp_unsigned("==", span, ir.Constant(I64, 0))
    return b.add(b.select(whole, high, b.trunc(total, I64)), start)


def uniform32(b: ir.IRBuilder, word: Value) -> Value:
    """Return a float32 in [0, 1); see `philox.uniform32`."""
    # Below 2**24, so also right as a signed integer, whose conversion runs in vectors everywhere.
    whole = b.sitofp(b.lshr(word, ir.Constant(I32, 8)), F32)
    return b.fmul(whole, ir.Constant(F32, 2.0**-24))


def uniform64(b: ir.IRBuilder, low: Value, high: Value) -> Value:
    """Return a float64 in [0, 1); see `philox.uniform64`."""
    whole = b.sitofp(b.lshr(pair(b, low, high), ir.Constant(I64, 11)), F64)
    return b.fmul(whole, ir.Constant(F64, 2.0**-53))


def normal32(b: ir.IRBuilder, word: Value) -> Value:
    """Return a normal number as float64, for the caller to round; see `philox.normal32`."""
    q = b.fsub(b.uitofp(word, F64), ir.Constant(F64, 2.0**31 - 0.5))
    return _normal_quantile(b, b.fmul(q, ir.Constant(F64, 2.0**-32)))


def normal64(b: ir.IRBuilder, low: Value, high: Value) -> Value:
    """Return a normal float64; see `philox.normal64`."""
    whole = b.sitofp(b.lshr(pair(b, low, high), ir.Constant(I64, 12)), F64)
    q = b.fsub(whole, ir.Constant(F64, 2.0**51 - 0.5))
    return _normal_quantile(b, b.fmul(q, ir.Constant(F64, 2.0**-52)))


def _normal_quantile(b: ir.IRBuilder, q: Value) -> Value:
    """Return `philox.normal_quantile`; the centre and both tails are computed for every q."""
    const = _float64
    size = call(b, "fabs", q)
    r = b.fsub(const(0.180625), b.fmul(q, q))
    centre = b.fdiv(b.fmul(_horner(b, philox._CENTRE[0], r), q), _horner(b, philox._CENTRE[1], r))
    p = b.fsub(const(0.5), size)
    r = call(b, "sqrt", b.fneg(_log_exact(b, p)))
    near = _rational(b, philox._TAIL, b.fsub(r, const(1.6)))
    far = _rational(b, philox._FAR_TAIL, b.fsub(r, const(5.0)))
    tail = b.select(b.fcmp_ordered(">", r, const(5.0)), far, near)
    tail = call(b, "copysign", tail, q)
    return b.select(b.fcmp_ordered(">", size, const(0.425)), tail, centre)


def _log_exact(b: ir.IRBuilder, x: Value) -> Value:
    """Return `philox.log_exact`."""
    const = _float64
    shift = ir.Constant(I64, 52)
    bits = b.bitcast(x, I64)
    k = b.ashr(b.sub(bits, ir.Constant(I64, int(philox._SQRT_HALF_BITS))), shift)
    f = b.fsub(b.bitcast(b.sub(bits, b.shl(k, shift)), F64), const(1.0))
    s = b.fdiv(f, b.fadd(const(2.0), f))
    z = b.fmul(s, s)
    series = b.fmul(_horner(b, philox._LOG_SERIES, z), z)
    exponent = b.sitofp(k, F64)
    lower = b.fsub(b.fmul(s, b.fsub(f, series)), b.fmul(exponent, const(philox._LN2_LOW)))
    return b.fsub(b.fmul(exponent, const(philox._LN2_HIGH)), b.fsub(lower, f))


def _rational(b: ir.IRBuilder, ratio: tuple[tuple[float, ...], ...], x: Value) -> Value:
    return b.fdiv(_horner(b, ratio[0], x), _horner(b, ratio[1], x))


def _horner(b: ir.IRBuilder, coefficients: tuple[float, ...], x: Value) -> Value:
    total = _float64(coefficients[0])
    for c in coefficients[1:]:
        total = b.fadd(b.fmul(total, x), _float64(c))
    return total


def _float64(value: float) -> Value:
    return ir.Constant(F64, value)
