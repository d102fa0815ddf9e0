"""Compute the coefficients of nnx/ops/special.py with mpmath, and print their errors.

    python tools/make_erfc.py

erf(x) = x P(x^2) for |x| <= 1, and erfc(x) = exp(-x^2) Q(t) / (1 + 2x) for x >= 0 with
t = (x - 3.75) / (x + 3.75). Source of the second form: M. M. Shepherd and J. G. Laframboise,
Chebyshev approximation of (1 + 2x) exp(x^2) erfc x in 0 <= x < inf, Math. Comp. 36 (1981) 249-253.
"""

import mpmath as mp

mp.mp.dps = 60
SHIFT = mp.mpf("3.75")


def chebyshev(function, degree):
    """Return the coefficients of the Chebyshev interpolant of a function on [-1, 1]."""
    n = degree + 1
    angles = [mp.pi * (k + mp.mpf(1) / 2) / n for k in range(n)]
    values = [function(mp.cos(a)) for a in angles]
    return [
        (2 if j else 1)
        * mp.fsum(v * mp.cos(j * a) for v, a in zip(values, angles, strict=True))
        / n
        for j in range(n)
    ]


def monomials(coefficients):
    """Return the same polynomial by powers, lowest first."""
    before, current = [mp.mpf(1)], [mp.mpf(0), mp.mpf(1)]
    total = [mp.mpf(0)] * len(coefficients)
    for j, c in enumerate(coefficients):
        basis = before if j == 0 else current
        for power, b in enumerate(basis):
            total[power] += c * b
        if j:
            following = [mp.mpf(0), *(2 * b for b in current)]
            for power, b in enumerate(before):
                following[power] -= b
            before, current = current, following
    return total


def scaled_erfc(t):
    """Return (1 + 2x) exp(x^2) erfc(x) at the x of t; its limit 2/sqrt(pi) at t = 1."""
    x = SHIFT * (1 + t) / (1 - t)
    return (1 + 2 * x) * mp.exp(x * x) * mp.erfc(x)


def erf_over_x(s):
    """Return erf(x) / x at x^2 = (1 + s) / 2."""
    x = mp.sqrt((1 + s) / 2)
    return mp.erf(x) / x if x else 2 / mp.sqrt(mp.pi)


def in_square(coefficients):
    """Return a polynomial of s = 2 q - 1 as one of q."""
    total = [mp.mpf(0)] * len(coefficients)
    for power, c in enumerate(coefficients):
        for k in range(power + 1):
            total[k] += c * mp.binomial(power, k) * mp.mpf(2) ** k * mp.mpf(-1) ** (power - k)
    return total


for name, coefficients in (
    ("ERF_SMALL", in_square(monomials(chebyshev(erf_over_x, 13)))),
    ("ERFC_LARGE", monomials(chebyshev(scaled_erfc, 27))),
):
    print(f"{name} = (")
    for c in coefficients:
        print(f"    {mp.nstr(c, 20)},")
    print(")")
