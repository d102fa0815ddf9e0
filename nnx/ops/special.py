"""The error function and its complement, which the array API standard does not have.

The coefficients are made by tools/make_erfc.py.
"""

from __future__ import annotations

import math
from typing import Any

from nnx import shapes
from nnx.op import op

TWO_OVER_ROOT_PI = 2.0 / math.sqrt(math.pi)

# fmt: off
ERF_SMALL = (
    1.1283791670955125739,
    -0.37612638903183752379,
    0.11283791670955120236,
    -0.026866170645129840806,
    0.0052239776254232983087,
    -0.00085483270219348295955,
    0.0001205533290288873541,
    -0.000014925647567519332125,
    1.6462045441468418937e-6,
    -1.6364642158167615302e-7,
    1.4792401209404813002e-8,
    -1.2164560057283450081e-9,
    8.7090451290531066896e-11,
    -4.2309458242953378173e-12,
)
ERFC_LARGE = (
    1.2375126308378275818,
    -0.14024059858554701899,
    0.0035854154854636915497,
    0.082276738490151099691,
    -0.10880393014170753889,
    0.092304321160195604189,
    -0.058693398590545785838,
    0.028362277421561449101,
    -0.0097465795476404853163,
    0.0017556258319879621988,
    0.00029371359494706953847,
    -0.00029015397673060640841,
    0.00005164940716054603385,
    0.000022383902048770411751,
    -0.000011445047333414064465,
    -9.728229167464297538e-7,
    1.7534398492983323515e-6,
    -5.8312272417966876451e-8,
    -2.611421267797011697e-7,
    2.4353458155081289904e-8,
    4.0966696513670463067e-8,
    -4.4451412320571298314e-9,
    -6.5428610761367575453e-9,
    5.7753271634168100163e-10,
    9.0127775785465464718e-10,
    -4.8144805017310763531e-11,
    -7.3251091951694614681e-11,
    1.573356801108121934e-12,
)
# fmt: on


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Return the sum of c_k x^k by Horner's rule."""
    total = x * coefficients[-1] + coefficients[-2]
    for c in coefficients[-3::-1]:
        total = total * x + c
    return total


def _erf_small(x: Any) -> Any:
    """Return erf(x) for |x| <= 1 as x P(x^2): no digits are lost near 0."""
    return x * _polynomial(ERF_SMALL, x * x)


def _erfc_large(xp: Any, x: Any) -> Any:
    """Return erfc(x) for x >= 1.

    Numerics: exp(-x^2) is taken in two factors, one at x rounded to 1/16 so that its square is
    exact; the error of x^2 would otherwise be multiplied by x^2.
    Source: Shepherd and Laframboise, Math. Comp. 36 (1981) 249-253.
    """
    x = xp.minimum(x, 30.0)
    coarse = xp.floor(x * 16.0) / 16.0
    decay = xp.exp(-coarse * coarse) * xp.exp((coarse - x) * (coarse + x))
    t = (x - 3.75) / (x + 3.75)
    return decay * _polynomial(ERFC_LARGE, t) / (1.0 + 2.0 * x)


def _erf_slope(xp: Any, x: Any) -> Any:
    """Return 2/sqrt(pi) exp(-x^2); squared in float64: its error goes into the exponent."""
    wide = xp.widen(x)
    return xp.narrow(TWO_OVER_ROOT_PI * xp.exp(-wide * wide), x)


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x: g * _erf_slope(xp, x),),
    shape=shapes.elementwise,
    dtype="float",
)
def erf(xp: Any, x: Any, /) -> Any:
    """The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    wide = xp.widen(x)
    size = xp.abs(wide)
    far = xp.sign(wide) * (1.0 - _erfc_large(xp, xp.maximum(size, 1.0)))
    near = _erf_small(xp.clip(wide, -1.0, 1.0))
    return xp.narrow(xp.where(size <= 1.0, near, far), x)


@op(
    "elementwise",
    vjp=(lambda xp, g, out, x: -g * _erf_slope(xp, x),),
    shape=shapes.elementwise,
    dtype="float",
)
def erfc(xp: Any, x: Any, /) -> Any:
    """1 - erf(x), with all its digits where erf(x) is near 1."""
    wide = xp.widen(x)
    size = xp.abs(wide)
    tail = _erfc_large(xp, xp.maximum(size, 0.5))
    far = xp.where(wide < 0, 2.0 - tail, tail)
    near = 1.0 - _erf_small(xp.clip(wide, -1.0, 1.0))
    return xp.narrow(xp.where(size <= 0.5, near, far), x)
