"""exp, log and their kin as straight-line LLVM code, which loops over it can use in vectors.

A libm call is scalar: a loop that holds one runs an element at a time. Everything here is
arithmetic, bit operations and selects, so that LLVM can run 4 to 16 elements at once.

Numerics: in float32 and float64 exp and log err by less than 1 ULP, log1p by 1.6, expm1 by 1.9 and
tanh by 2.6, subnormal results included; infinities, NaN and signs of zeros are as in C99. Without
hardware for fused multiply-add it is as exact, but slow. The coefficients are made by
tools/make_exp.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]

Value = Any  # an LLVM value: llvmlite has no types of its own

I1 = ir.IntType(1)


class Format(NamedTuple):
    """A binary floating-point format, and the polynomials that reach its last digit."""

    type: ir.Type
    bits: ir.IntType
    mantissa: int  # how many stored bits
    bias: int
    largest_exp: float  # exp of more than this is infinite ...
    smallest_exp: float  # ... and of less than this 0
    smallest_expm1: float  # expm1 of less than this is -1
    one_tanh: float  # tanh of more than this is 1
    expm1: tuple[float, ...]  # Q, highest power first, in expm1(r) = r + r^2 Q(r)
    log: tuple[float, ...]  # R, highest power first, in log(1 + f) = f - s (f - z R(z))
    ln2: tuple[float, float]  # log(2) in two parts; any exponent times the first is exact


FLOAT32 = Format(
    ir.FloatType(), ir.IntType(32), 23, 127, 89.0, -104.0, -18.0, 9.5,
    (0.00019890990824673653848, 0.001393364999630925043, 0.0083333109254809008349,
     0.041666464925285905408, 0.16666666681623231402, 0.50000000134658092001),
    (0.29580053043188442144, 0.39988778282162807727, 0.66666685045156029067),
    (0.693145751953125, 1.4286068203094172321e-6),
)  # fmt: skip
FLOAT64 = Format(
    ir.DoubleType(), ir.IntType(64), 52, 1023, 710.0, -746.0, -38.0, 20.0,
    (2.0914686968086877233e-9, 2.5105217004720745164e-8, 2.7557273643110295328e-7,
     2.755725540020642443e-6, 0.000024801587325547741216, 0.00019841269874820625271,
     0.0013888888888883748305, 0.0083333333333261351258, 0.041666666666666669755,
     0.16666666666666670991, 0.5),
    (0.14616585424888621989, 0.15331710618210771568, 0.18182889455674946039,
     0.22222211130259877029, 0.28571428626003268742, 0.39999999999899443233,
     0.66666666666666696883),
    (0.69314718055966295651, 2.8235290563031577123e-13),
)  # fmt: skip


def call(builder: ir.IRBuilder, name: str, *args: Value, flags: tuple[str, ...] = ()) -> Value:
    """Return an LLVM intrinsic of arguments and a result of one type, such as ``floor``."""
    one = args[0].type
    kind = ir.FunctionType(one, [one] * len(args))
    function = builder.module.declare_intrinsic(f"llvm.{name}", [one], kind)
    return builder.call(function, args, fastmath=flags)


class Arithmetic:
    """LLVM instructions on values of one float format, with the functions built of them."""

    def __init__(self, builder: ir.IRBuilder, format: Format) -> None:
        self.builder = builder
        self.format = format

    def const(self, value: float) -> Value:
        """Return a float constant."""
        return ir.Constant(self.format.type, value)

    def int_const(self, value: int) -> Value:
        """Return an integer constant as wide as the floats."""
        return ir.Constant(self.format.bits, value)

    def call(self, name: str, *args: Value) -> Value:
        """Return an LLVM intrinsic of floats, such as ``floor``."""
        return call(self.builder, name, *args)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """Return x y + z, rounded once."""
        return self.builder.fma(x, y, z)

    def to_bits(self, x: Value) -> Value:
        """Return the bits of a float as an integer."""
        return self.builder.bitcast(x, self.format.bits)

    def from_bits(self, bits: Value) -> Value:
        """Return the float of these bits."""
        return self.builder.bitcast(bits, self.format.type)

    def polynomial(self, coefficients: tuple[float, ...], x: Value) -> Value:
        """Return the polynomial with these coefficients, highest power first, by Horner's rule."""
        total = self.const(coefficients[0])
        for c in coefficients[1:]:
            total = self.fma(total, x, self.const(c))
        return total

    def at_most(self, x: Value, bound: float) -> Value:
        """Return min(x, bound), and NaN of NaN."""
        limit = self.const(bound)
        return self.builder.select(self.builder.fcmp_ordered(">", x, limit), limit, x)

    def at_least(self, x: Value, bound: float) -> Value:
        """Return max(x, bound), and NaN of NaN."""
        limit = self.const(bound)
        return self.builder.select(self.builder.fcmp_ordered("<", x, limit), limit, x)

    def power_of_two(self, n: Value) -> Value:
        """Return 2**n of an integer n whose power is a normal number."""
        shifted = self.builder.add(n, self.int_const(self.format.bias))
        return self.from_bits(self.builder.shl(shifted, self.int_const(self.format.mantissa)))

    def _reduce(self, x: Value) -> tuple[Value, Value]:
        """Return an integer n and expm1(r) for x = n log(2) + r, |r| <= log(2) / 2."""
        b = self.builder
        # Adding 1.5 2**mantissa rounds to a whole number and leaves it in the low bits. Unlike a
        # conversion to integer, it is defined for NaN, whose n is arbitrary and r is NaN.
        magic = self.const(1.5 * 2.0**self.format.mantissa)
        shifted = self.fma(x, self.const(1.4426950408889634074), magic)
        n = b.sub(self.to_bits(shifted), self.to_bits(magic))
        whole = b.fsub(shifted, magic)
        high, low = self.format.ln2
        r = self.fma(whole, self.const(-high), x)
        r = self.fma(whole, self.const(-low), r)
        return n, self.fma(b.fmul(r, r), self.polynomial(self.format.expm1, r), r)

    def exp(self, x: Value) -> Value:
        """Return exp(x) = 2**n (1 + expm1(r)).

        Numerics: 2**n in two factors, as n reaches past both ends of the exponent's range; the
        second product alone rounds, also to a subnormal number.
        """
        b = self.builder
        x = self.at_most(self.at_least(x, self.format.smallest_exp), self.format.largest_exp)
        n, q = self._reduce(x)
        first = b.ashr(n, self.int_const(1))
        out = b.fmul(b.fadd(q, self.const(1.0)), self.power_of_two(first))
        return b.fmul(out, self.power_of_two(b.sub(n, first)))

    def expm1(self, x: Value) -> Value:
        """Return exp(x) - 1 = 2**n expm1(r) + (2**n - 1), without loss near 0."""
        b = self.builder
        limited = self.at_most(
            self.at_least(x, self.format.smallest_expm1), self.format.largest_exp
        )
        n, q = self._reduce(limited)
        # 2**(bias + 1) is no number: there the sum is taken at half its size, then doubled.
        top = b.icmp_signed(">", n, self.int_const(self.format.bias))
        scale = self.power_of_two(b.select(top, self.int_const(self.format.bias), n))
        out = self.fma(scale, q, b.fsub(scale, self.const(1.0)))
        out = b.fmul(out, b.select(top, self.const(2.0), self.const(1.0)))
        return self.call("copysign", out, x)  # of -0

    def tanh(self, x: Value) -> Value:
        """Return tanh(x) = e / (e + 2) for e = expm1(2 |x|), with the sign of x."""
        b = self.builder
        size = self.at_most(self.call("fabs", x), self.format.one_tanh)
        n, q = self._reduce(b.fadd(size, size))
        scale = self.power_of_two(n)
        e = self.fma(scale, q, b.fsub(scale, self.const(1.0)))
        return self.call("copysign", b.fdiv(e, b.fadd(e, self.const(2.0))), x)

    def log(self, x: Value) -> Value:
        """Return log(x) = k log(2) + log(1 + f) for x = 2**k (1 + f)."""
        b = self.builder
        subnormal = b.fcmp_ordered("<", x, self.const(2.0 ** (1 - self.format.bias)))
        lift = self.format.mantissa + 1
        lifted = b.select(subnormal, b.fmul(x, self.const(2.0**lift)), x)
        k, mantissa = self._split(lifted)
        whole = b.sitofp(k, self.format.type)
        whole = b.fadd(whole, b.select(subnormal, self.const(-float(lift)), self.const(0.0)))
        out = self._log_of_parts(whole, b.fsub(mantissa, self.const(1.0)))
        return self._log_edges(out, x, x)

    def log1p(self, x: Value) -> Value:
        """Return log(1 + x), without loss near 0.

        Numerics: k is that of the rounded 1 + x, but f = 2**-k x + (2**-k - 1) comes from x
        itself and is rounded once.
        """
        b = self.builder
        sum_ = b.fadd(x, self.const(1.0))
        k, mantissa = self._split(sum_)
        # Where k is large, 1 is lost in x, and 2**-k may be too small for a normal number.
        large = b.icmp_signed(">", k, self.int_const(2 * self.format.mantissa))
        scale = self.power_of_two(b.select(large, self.int_const(0), b.neg(k)))
        f = self.fma(scale, x, b.fsub(scale, self.const(1.0)))
        f = b.select(large, b.fsub(mantissa, self.const(1.0)), f)
        out = self._log_of_parts(b.sitofp(k, self.format.type), f)
        out = self._log_edges(out, x, sum_)
        # The general way makes +0 of -0, and loses digits of subnormal numbers.
        tiny = b.fcmp_ordered("<", self.call("fabs", x), self.const(2.0 ** (2 - self.format.bias)))
        return b.select(tiny, x, out)

    def _split(self, x: Value) -> tuple[Value, Value]:
        """Return k and m for x = 2**k m, m in [sqrt(1/2), sqrt(2)); x positive and normal."""
        b, width = self.builder, self.int_const(self.format.mantissa)
        root = self.to_bits(self.const(0.70710678118654752440))
        k = b.ashr(b.sub(self.to_bits(x), root), width)
        return k, self.from_bits(b.sub(self.to_bits(x), b.shl(k, width)))

    def _log_of_parts(self, k: Value, f: Value) -> Value:
        """Return k log(2) + log(1 + f), by s = f / (2 + f): log(1 + f) = 2 atanh(s).

        Source: the form f - s (f - z R(z)), which keeps the leading term f exact, is that of
        fdlibm's e_log.c, Sun Microsystems 1993.
        """
        b = self.builder
        high, low = self.format.ln2
        s = b.fdiv(f, b.fadd(f, self.const(2.0)))
        z = b.fmul(s, s)
        rest = b.fmul(z, self.polynomial(self.format.log, z))
        lower = b.fsub(b.fmul(s, b.fsub(f, rest)), b.fmul(k, self.const(low)))
        return self.fma(k, self.const(high), b.fsub(f, lower))

    def _log_edges(self, out: Value, x: Value, positive: Value) -> Value:
        """Put in the results at 0, below it, and at infinity and NaN."""
        b = self.builder
        infinity = self.const(float("inf"))
        # Unordered: also true of NaN, which is returned as it is.
        out = b.select(b.fcmp_unordered("==", x, infinity), x, out)
        zero = self.const(0.0)
        out = b.select(b.fcmp_ordered("==", positive, zero), self.const(float("-inf")), out)
        return b.select(b.fcmp_ordered("<", positive, zero), self.const(float("nan")), out)
