"""Ops that work element by element; inputs broadcast, gradients are summed back by `autodiff`.

Each value stands beside its gradient. Where a derivative has a kink, the docstring says what was
chosen. Where a composition would lose digits, the entry has the stable form.
"""

from __future__ import annotations

import math
from typing import Any

from nnx import shapes
from nnx.op import op, primitive

LN2, LN10 = math.log(2.0), math.log(10.0)
ROOT2, ROOT_2PI = math.sqrt(2.0), math.sqrt(2.0 * math.pi)


def _unary(name: str, doc: str, vjp: Any = None, dtype: str = "same", linear: bool = False) -> Any:
    return primitive(
        name,
        "elementwise",
        lambda xp, x, /: getattr(xp, name)(x),
        doc,
        vjp=vjp and (vjp,),
        shape=shapes.elementwise,
        dtype=dtype,
        linear=linear,
    )


def _binary(name: str, doc: str, vjp: Any = None, dtype: str = "same", linear: bool = False) -> Any:
    return primitive(
        name,
        "elementwise",
        lambda xp, x, y, /: getattr(xp, name)(x, y),
        doc,
        vjp=vjp,
        shape=shapes.elementwise,
        dtype=dtype,
        linear=linear,
    )


def _tie(xp: Any, g: Any, wins: Any, ties: Any) -> Any:
    """Return g where this input wins, half of it where both are equal, else 0."""
    return xp.where(wins, g, xp.where(ties, 0.5 * g, 0.0))


# Arithmetic

add = _binary(
    "add", "x + y.",
    (lambda xp, g, out, x, y: g, lambda xp, g, out, x, y: g), linear=True,
)  # fmt: skip
subtract = _binary(
    "subtract", "x - y.",
    (lambda xp, g, out, x, y: g, lambda xp, g, out, x, y: -g), linear=True,
)  # fmt: skip
multiply = _binary(
    "multiply", "x * y.",
    (lambda xp, g, out, x, y: g * y, lambda xp, g, out, x, y: g * x),
)  # fmt: skip
divide = _binary(
    "divide", "x / y; integers give float32.",
    (lambda xp, g, out, x, y: g / y, lambda xp, g, out, x, y: -g * out / y), dtype="float",
)  # fmt: skip
floor_divide = _binary("floor_divide", "The largest whole number not above x / y.")
remainder = _binary(
    "remainder", "x - y * floor(x / y), with the sign of y.",
    (lambda xp, g, out, x, y: g, lambda xp, g, out, x, y: -g * xp.floor(x / y)),
)  # fmt: skip


def _pow_dx(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    if isinstance(y, int | float):
        return g * (0.0 if y == 0 else y * xp.pow(x, y - 1))
    # y = 0 is constant in x, also at x = 0 where 0 * x^-1 would be NaN.
    flat = y == 0
    return g * xp.where(flat, 0.0, y * xp.pow(x, xp.where(flat, 1.0, y - 1.0)))


def _pow_dy(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    if isinstance(x, int | float):
        x = xp.full_like(y, x)
    # 0^y is 0 for y > 0, hence flat in y; log of a negative base is NaN, as its power would be.
    zero = x == 0
    return g * xp.where(zero, 0.0, out * xp.log(xp.where(zero, 1.0, x)))


pow = _binary(
    "pow", "x raised to the power y.\n\n"
    "Gradient: y x^(y-1) in x, 0 where y = 0; x^y log x in y, 0 at x = 0, NaN for x < 0.",
    (_pow_dx, _pow_dy),
)  # fmt: skip
negative = _unary("negative", "-x.", lambda xp, g, out, x: -g, linear=True)
positive = _unary("positive", "+x.", lambda xp, g, out, x: g, linear=True)
abs = _unary(
    "abs", "The absolute value.\n\nGradient: sign(x), 0 at 0.",
    lambda xp, g, out, x: g * xp.sign(x),
)  # fmt: skip
sign = _unary("sign", "-1, 0 or 1. Gradient: none, as it is flat.")
square = _unary("square", "x * x.", lambda xp, g, out, x: 2.0 * g * x)
sqrt = _unary(
    "sqrt", "The square root; NaN below 0.\n\nGradient: 1 / (2 sqrt x), infinite at 0.",
    lambda xp, g, out, x: 0.5 * g / out, "float",
)  # fmt: skip
reciprocal = _unary("reciprocal", "1 / x.", lambda xp, g, out, x: -g * out * out, "float")
floor = _unary("floor", "The largest whole number not above x. Gradient: none.")
ceil = _unary("ceil", "The smallest whole number not below x. Gradient: none.")
trunc = _unary("trunc", "x without its fraction. Gradient: none.")
round = _unary("round", "The nearest whole number, halves to even. Gradient: none.")

# Exponentials and logarithms

exp = _unary("exp", "e to the power x.", lambda xp, g, out, x: g * out, "float")
expm1 = _unary("expm1", "exp(x) - 1, exact near 0.", lambda xp, g, out, x: g * xp.exp(x), "float")
log = _unary(
    "log", "The natural logarithm; -inf at 0, NaN below.", lambda xp, g, out, x: g / x, "float"
)
log1p = _unary("log1p", "log(1 + x), exact near 0.", lambda xp, g, out, x: g / (1.0 + x), "float")
log2 = _unary("log2", "The logarithm to base 2.", lambda xp, g, out, x: g / (x * LN2), "float")
log10 = _unary("log10", "The logarithm to base 10.", lambda xp, g, out, x: g / (x * LN10), "float")
logaddexp = _binary(
    "logaddexp", "log(exp(x) + exp(y)) without overflow.",
    (
        lambda xp, g, out, x, y: g * xp.sigmoid(x - y),
        lambda xp, g, out, x, y: g * xp.sigmoid(y - x),
    ), "float",
)  # fmt: skip

# Trigonometry

sin = _unary("sin", "The sine of x radians.", lambda xp, g, out, x: g * xp.cos(x), "float")
cos = _unary("cos", "The cosine of x radians.", lambda xp, g, out, x: -g * xp.sin(x), "float")
tan = _unary(
    "tan", "The tangent of x radians.", lambda xp, g, out, x: g * (1.0 + out * out), "float"
)
asin = _unary(
    "asin", "The arc sine in radians.",
    lambda xp, g, out, x: g / xp.sqrt((1.0 - x) * (1.0 + x)), "float",
)  # fmt: skip
acos = _unary(
    "acos", "The arc cosine in radians.",
    lambda xp, g, out, x: -g / xp.sqrt((1.0 - x) * (1.0 + x)), "float",
)  # fmt: skip
atan = _unary(
    "atan", "The arc tangent in radians.", lambda xp, g, out, x: g / (1.0 + x * x), "float"
)
atan2 = _binary(
    "atan2", "The angle of the point (y, x) in radians: atan2(y, x).",
    (
        lambda xp, g, out, x, y: g * y / (x * x + y * y),
        lambda xp, g, out, x, y: -g * x / (x * x + y * y),
    ), "float",
)  # fmt: skip
hypot = _binary(
    "hypot", "sqrt(x^2 + y^2) without overflow.\n\nGradient: 0 where both are 0.",
    (
        lambda xp, g, out, x, y: g * xp.where(out == 0, 0.0, x / xp.where(out == 0, 1.0, out)),
        lambda xp, g, out, x, y: g * xp.where(out == 0, 0.0, y / xp.where(out == 0, 1.0, out)),
    ), "float",
)  # fmt: skip
sinh = _unary("sinh", "The hyperbolic sine.", lambda xp, g, out, x: g * xp.cosh(x), "float")
cosh = _unary("cosh", "The hyperbolic cosine.", lambda xp, g, out, x: g * xp.sinh(x), "float")
tanh = _unary(
    "tanh",
    "The hyperbolic tangent.\n\n"
    "Numerics: its derivative is taken from x as 4 s(2x) s(-2x); 1 - y^2 has no digits left "
    "where y is near 1.",
    lambda xp, g, out, x: 4.0 * g * (xp.sigmoid(2.0 * x) * xp.sigmoid(-2.0 * x)), "float",
)  # fmt: skip
asinh = _unary(
    "asinh", "The inverse hyperbolic sine.",
    lambda xp, g, out, x: g / xp.hypot(x, xp.ones_like(x)), "float",
)  # fmt: skip
acosh = _unary(
    "acosh", "The inverse hyperbolic cosine; NaN below 1.",
    lambda xp, g, out, x: g / xp.sqrt((x - 1.0) * (x + 1.0)), "float",
)  # fmt: skip
atanh = _unary(
    "atanh", "The inverse hyperbolic tangent.",
    lambda xp, g, out, x: g / ((1.0 - x) * (1.0 + x)), "float",
)  # fmt: skip

# Comparison, logic, bits: no gradient

equal = _binary("equal", "x == y.", dtype="bool")
not_equal = _binary("not_equal", "x != y.", dtype="bool")
less = _binary("less", "x < y.", dtype="bool")
less_equal = _binary("less_equal", "x <= y.", dtype="bool")
greater = _binary("greater", "x > y.", dtype="bool")
greater_equal = _binary("greater_equal", "x >= y.", dtype="bool")
logical_and = _binary("logical_and", "Whether both are true.", dtype="bool")
logical_or = _binary("logical_or", "Whether either is true.", dtype="bool")
logical_xor = _binary("logical_xor", "Whether exactly one is true.", dtype="bool")
logical_not = _unary("logical_not", "Whether x is false.", dtype="bool")
isnan = _unary("isnan", "Whether x is not a number.", dtype="bool")
isinf = _unary("isinf", "Whether x is infinite.", dtype="bool")
isfinite = _unary("isfinite", "Whether x is neither infinite nor NaN.", dtype="bool")
signbit = _unary("signbit", "Whether the sign bit of x is set.", dtype="bool")
bitwise_and = _binary("bitwise_and", "x & y.")
bitwise_or = _binary("bitwise_or", "x | y.")
bitwise_xor = _binary("bitwise_xor", "x ^ y.")
bitwise_invert = _unary("bitwise_invert", "~x.")
bitwise_left_shift = _binary("bitwise_left_shift", "x << y.")
bitwise_right_shift = _binary("bitwise_right_shift", "x >> y.")

# Choice

maximum = _binary(
    "maximum", "The larger of x and y; NaN if either is.\n\nGradient: equal values share equally.",
    (
        lambda xp, g, out, x, y: _tie(xp, g, x > y, x == y),
        lambda xp, g, out, x, y: _tie(xp, g, y > x, x == y),
    ),
)  # fmt: skip
minimum = _binary(
    "minimum", "The smaller of x and y; NaN if either is.\n\nGradient: equal values share equally.",
    (
        lambda xp, g, out, x, y: _tie(xp, g, x < y, x == y),
        lambda xp, g, out, x, y: _tie(xp, g, y < x, x == y),
    ),
)  # fmt: skip
copysign = _binary(
    "copysign", "The size of x with the sign of y.",
    (lambda xp, g, out, x, y: g * xp.sign(x) * xp.sign(out), None), "float",
)  # fmt: skip


@op(
    "elementwise",
    vjp=(
        None,
        lambda xp, g, out, condition, x, y: xp.where(condition, g, 0.0),
        lambda xp, g, out, condition, x, y: xp.where(condition, 0.0, g),
    ),
    shape=shapes.elementwise,
    values=(1, 2),
    primitive=True,
)
def where(xp: Any, condition: Any, x: Any, y: Any, /) -> Any:
    """x where the condition holds, else y."""
    return xp.where(condition, x, y)


@op(
    "elementwise",
    vjp=(
        lambda xp, g, out, x, min=None, max=None: xp.where(_inside(xp, x, min, max), g, 0.0),
        lambda xp, g, out, x, min=None, max=None: xp.where(_at_low(xp, x, min, max), g, 0.0),
        lambda xp, g, out, x, min=None, max=None: xp.where(_at_high(xp, x, min, max), g, 0.0),
    ),
    shape=lambda *each: shapes.broadcast(*(s for s in each if s is not None)),
)
def clip(xp: Any, x: Any, min: Any = None, max: Any = None, /) -> Any:
    """x, but not below ``min`` and not above ``max``.

    Gradient: 1 from min to max, both included, else 0. Where min is above max, the result is max.
    """
    if min is not None:
        x = xp.maximum(x, min)
    return x if max is None else xp.minimum(x, max)


def _inside(xp: Any, x: Any, low: Any, high: Any) -> Any:
    """Return where x lies between the bounds; a NaN is inside, so that it stays visible."""
    below = xp.less(x, x) if low is None else xp.less(x, low)
    above = xp.less(x, x) if high is None else xp.greater(x, high)
    return xp.logical_not(xp.logical_or(below, above))


def _at_low(xp: Any, x: Any, low: Any, high: Any) -> Any:
    """Return where the result is the lower bound."""
    below = xp.less(x, low)
    return below if high is None else xp.logical_and(below, xp.less_equal(low, high))


def _at_high(xp: Any, x: Any, low: Any, high: Any) -> Any:
    """Return where the result is the upper bound."""
    above = xp.greater(x, high)
    return above if low is None else xp.logical_or(above, xp.greater(low, high))


# Activations


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x: xp.where(x > 0, g, 0.0),),
    shape=shapes.elementwise,
)
def relu(xp: Any, x: Any, /) -> Any:
    """max(x, 0). Gradient: 1 above 0, else 0; 0 at 0.

    >>> import nnx
    >>> nnx.relu(nnx.asarray([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return xp.maximum(x, 0)


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x, negative_slope=0.01: xp.where(x > 0, g, g * negative_slope),),
    shape=shapes.elementwise,
    dtype="float",
)
def leaky_relu(xp: Any, x: Any, /, negative_slope: float = 0.01) -> Any:
    """x above 0, ``negative_slope`` times x below. Gradient: the slope at 0."""
    return xp.where(x > 0, x, x * negative_slope)


@op(
    "elementwise",
    vjp=(
        lambda xp, g, out, x, alpha=1.0: xp.where(x > 0, g, g * alpha * xp.exp(xp.minimum(x, 0.0))),
    ),
    shape=shapes.elementwise,
    dtype="float",
)
def elu(xp: Any, x: Any, /, alpha: float = 1.0) -> Any:
    """x above 0, alpha (exp(x) - 1) below. Gradient: alpha at 0. Source: arXiv 1511.07289."""
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0.0)))


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x: g * (xp.sigmoid(x) * xp.sigmoid(-x)),),
    shape=shapes.elementwise,
    dtype="float",
)
def sigmoid(xp: Any, x: Any, /) -> Any:
    """1 / (1 + exp(-x)).

    Numerics: with e = exp(-|x|), 1 / (1 + e) or e / (1 + e); nothing overflows. The derivative
    s(x) s(-x) keeps its digits at both ends.
    """
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1.0, e) / (1.0 + e)


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x: g * xp.sigmoid(x),),
    shape=shapes.elementwise,
    dtype="float",
)
def softplus(xp: Any, x: Any, /) -> Any:
    """log(1 + exp(x)). Numerics: max(x, 0) + log1p(exp(-|x|))."""
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x: g * xp.sigmoid(-x),),
    shape=shapes.elementwise,
    dtype="float",
)
def log_sigmoid(xp: Any, x: Any, /) -> Any:
    """log(sigmoid(x)). Numerics: min(x, 0) - log1p(exp(-|x|))."""
    return xp.minimum(x, 0.0) - xp.log1p(xp.exp(-xp.abs(x)))


def _silu_dx(xp: Any, g: Any, out: Any, x: Any) -> Any:
    wide = xp.widen(x)
    return g * xp.narrow(xp.sigmoid(wide) * (1.0 + wide * xp.sigmoid(-wide)), x)


@op("elementwise", vjp=(_silu_dx,), shape=shapes.elementwise, dtype="float")
def silu(xp: Any, x: Any, /) -> Any:
    """x sigmoid(x). Numerics: in float64, its slope has a zero. Source: arXiv 1606.08415."""
    wide = xp.widen(x)
    return xp.narrow(wide * xp.sigmoid(wide), x)


def _gelu_dx(xp: Any, g: Any, out: Any, x: Any) -> Any:
    wide = xp.widen(x)
    density = xp.exp(-0.5 * wide * wide) / ROOT_2PI
    return g * xp.narrow(0.5 * xp.erfc(-wide / ROOT2) + wide * density, x)


@op("elementwise", vjp=(_gelu_dx,), shape=shapes.elementwise, dtype="float")
def gelu(xp: Any, x: Any, /) -> Any:
    """x times the normal distribution function of x.

    Numerics: x/2 erfc(-x / sqrt 2) in float64; 1 + erf would lose every digit below -6.
    Source: arXiv 1606.08415.
    """
    wide = xp.widen(x)
    return xp.narrow(0.5 * wide * xp.erfc(-wide / ROOT2), x)
