"""Compute the coefficients of kernels/elementary.py with mpmath, and print their errors.

    python tools/make_exp.py

expm1(r) = r + r^2 Q(r) for |r| <= log(2) / 2, and log(1 + f) = f - s (f - z R(z)) for
1 + f in [sqrt(1/2), sqrt(2)], with s = f / (2 + f), z = s^2 and z R(z) = 2 atanh(s) / s - 2.
Q and R are Chebyshev interpolants over slightly more than these ranges.
"""

import mpmath as mp

mp.mp.dps = 60


def expm1_rest(r):
    """Return Q(r) = (expm1(r) - r) / r^2; its series near 0, where digits cancel."""
    if abs(r) < mp.mpf("1e-8"):
        return mp.fsum(r**k / mp.factorial(k + 2) for k in range(8))
    return (mp.expm1(r) - r) / r**2


def log_rest(z):
    """Return R(z) = (2 atanh(s) / s - 2) / z at z = s^2; its series, as z is small."""
    return 2 * mp.fsum(z**k / (2 * k + 3) for k in range(45))


def split(value, bits):
    """Return the value's leading bits, and what they leave out."""
    high = mp.floor(mp.ldexp(value, bits)) / mp.mpf(2) ** bits
    return high, value - high


REACH = mp.log(2) / 2 * mp.mpf("1.0001")
Z_MAX = (3 - 2 * mp.sqrt(2)) ** 2 * mp.mpf("1.0001")
# The leading part has so few bits that its product with any exponent is exact.
for name, exp_degree, log_degree, bits in (("32", 5, 2, 15), ("64", 10, 6, 41)):
    q = mp.chebyfit(expm1_rest, [-REACH, REACH], exp_degree + 1)
    r = mp.chebyfit(log_rest, [0, Z_MAX], log_degree + 1)
    grid = [k * REACH / 500 for k in range(-500, 501) if k]
    worst = max(abs((x + x * x * mp.polyval(q, x)) / mp.expm1(x) - 1) for x in grid)
    print(f"# expm1: relative error {mp.nstr(worst, 3)}")
    grid = [k * Z_MAX / 500 for k in range(1, 501)]
    worst = max(abs(z * (mp.polyval(r, z) - log_rest(z)) / 2) for z in grid)
    print(f"# log: relative error {mp.nstr(worst, 3)}")
    for label, values in (("EXPM1", q), ("LOG", r), ("LN2", split(mp.log(2), bits))):
        print(f"{label}_{name} = (")
        for value in values:
            print(f"    {mp.nstr(value, 20)},")
        print(")")
