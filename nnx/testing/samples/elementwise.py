"""Samples of ops that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nnx.errors import DTypeError, ShapeError
from nnx.testing.samples.table import (
    BOOLS,
    INF,
    INTEGERS,
    LIMITS,
    MASK,
    NAN,
    NUMBERS,
    Reference,
    add,
    values,
)

_function: Reference


def _unary(
    op: str,
    reference: Reference,
    low: float = -2.0,
    high: float = 2.0,
    *,
    limits: Any = LIMITS,
    kinds: tuple[str, ...] = INTEGERS,
    order: int = 2,
    ulps: float = 8.0,
    **attrs: Any,
) -> None:
    """Add the rows that every function of one number needs."""
    common: dict[str, Any] = {"attrs": attrs, "ulps": ulps}
    add(op, "matrix", [values((2, 3), low, high)], reference, order=order, **common)
    add(op, "0-d", [values((), low, high)], reference, order=order, **common)
    add(op, "empty", [np.zeros((0, 3))], reference, **common)
    add(op, "limits", [limits], reference, order=0, **common)
    if kinds:
        whole = np.array([0.0, 1.0, 2.0, 3.0])
        add(op, "whole", [whole], reference, dtypes=kinds, order=0, **common)


def _rounded(function: Reference) -> Reference:
    """Return a rounding of NumPy's for integers too, which older versions make floats."""
    return lambda x: x if x.dtype.kind in "iu" else function(x)


def _each(function: Callable[[float], float]) -> Reference:
    """Return a function of `math` for arrays."""
    return lambda x: np.vectorize(function, otypes=[np.float64])(x)


_unary("negative", np.negative, kinds=("int32", "int64"))
_unary("positive", np.positive)
_unary("abs", np.abs, kinds=("int32", "int64"))
_unary("sign", np.sign)
_unary("square", np.square)
_unary("sqrt", np.sqrt, 0.5, 3.0)
_unary("reciprocal", lambda x: 1.0 / x.astype(np.float64), 0.5, 3.0)
for _name, _function in (
    ("floor", np.floor), ("ceil", np.ceil), ("trunc", np.trunc), ("round", np.round)
):  # fmt: skip
    _unary(_name, _rounded(_function), limits=np.append(LIMITS, [2.5, 1.5, -2.5, 1e9 + 0.5]))
_unary("exp", np.exp)
_unary("expm1", np.expm1)
_unary("log", np.log, 0.5, 3.0)
_unary("log1p", np.log1p, -0.5, 3.0)
_unary("log2", np.log2, 0.5, 3.0)
_unary("log10", np.log10, 0.5, 3.0)
_unary("sin", np.sin)
_unary("cos", np.cos)
_unary("tan", np.tan, -1.0, 1.0)
_unary("asin", np.arcsin, -0.8, 0.8)
_unary("acos", np.arccos, -0.8, 0.8)
_unary("atan", np.arctan)
_unary("sinh", np.sinh, ulps=16)
_unary("cosh", np.cosh, ulps=16)
_unary("tanh", np.tanh)
_unary("asinh", np.arcsinh)
_unary("acosh", np.arccosh, 1.5, 4.0)
_unary("atanh", np.arctanh, -0.8, 0.8)
_unary("erf", _each(math.erf))
_unary("erfc", _each(math.erfc))


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x.astype(np.float64)))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


def _gelu(x: Any) -> Any:
    tail = _each(lambda t: math.erfc(-t / math.sqrt(2.0)))(x)
    return np.asarray(0.5 * x * tail)


_unary("relu", lambda x: np.maximum(x, 0))
_unary("leaky_relu", lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x))
_unary("elu", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))))
_unary("sigmoid", _sigmoid)
_unary("softplus", _softplus)
_unary("log_sigmoid", lambda x: -_softplus(-x.astype(np.float64)))
_unary("silu", lambda x: x * _sigmoid(x), limits=LIMITS[LIMITS != -INF])
_unary("gelu", _gelu, limits=LIMITS[LIMITS != -INF])
add(
    "leaky_relu", "slope 0.2", [values((2, 3))],
    lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    attrs={"negative_slope": 0.2},
)  # fmt: skip
add(
    "elu", "alpha 0.5", [values((2, 3))],
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
    attrs={"alpha": 0.5},
)  # fmt: skip
for _name, _slope in (
    ("abs", 0.0), ("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0), ("sqrt", INF),
):  # fmt: skip
    add(
        _name, "kink at 0", [np.array([0.0])], lambda x: np.zeros(1),
        order=0, slopes=(np.array([_slope]),),
    )  # fmt: skip

_unary("isnan", np.isnan)
_unary("isinf", np.isinf)
_unary("isfinite", np.isfinite)
add("signbit", "matrix", [np.array([0.0, -0.0, 1.0, -1.0, INF, -INF])], np.signbit)
add("logical_not", "flags", [np.array([True, False])], np.logical_not)
add("bitwise_invert", "flags", [np.array([True, False])], np.invert, dtypes=BOOLS)
add("bitwise_invert", "whole", [np.array([0.0, 1.0, 5.0])], np.invert, dtypes=INTEGERS)
add("bitwise_invert", "empty", [np.zeros((0, 3))], np.invert, dtypes=INTEGERS)
add("logical_not", "empty", [np.zeros((0, 3), bool)], np.logical_not)
add("signbit", "empty", [np.zeros((0, 3))], np.signbit)
add("bitwise_invert", "floats", [np.ones(2)], raises=DTypeError)


def _binary(
    op: str,
    reference: Reference,
    low: tuple[float, float] = (-2.0, -2.0),
    high: tuple[float, float] = (2.0, 2.0),
    *,
    limits: Any = LIMITS,
    kinds: tuple[str, ...] = INTEGERS,
    order: int = 2,
    number: float | None = 1.5,
) -> None:
    """Add the rows that every function of two numbers needs."""

    def pair(first: tuple[int, ...], second: tuple[int, ...]) -> list[Any]:
        return [values(first, low[0], high[0]), values(second, low[1], high[1], start=0.71)]

    add(op, "matrices", pair((2, 3), (2, 3)), reference, order=order)
    add(op, "column, row", pair((2, 1), (1, 3)), reference, order=order)
    add(op, "row, matrix", pair((3,), (2, 3)), reference, order=order)
    add(op, "0-d, row", pair((), (3,)), reference, order=order)
    add(op, "row, 0-d", pair((3,), ()), reference, order=order)
    add(op, "empty", [np.zeros((0, 3)), np.ones(3)], reference)
    add(op, "wrong shapes", [np.ones((2, 3)), np.ones((2, 4))], raises=ShapeError)
    if number is not None:
        add(op, "matrix, number", [pair((2, 3), (1,))[0], number], reference, order=order)
        add(op, "number, matrix", [number, pair((1,), (2, 3))[1]], reference, order=order)
    if limits is not None:
        with np.errstate(all="ignore"):
            x, y = np.meshgrid(limits, limits)
        add(op, "limits", [x.ravel(), y.ravel()], reference, order=0)
    if kinds:
        x, y = np.array([7.0, 5.0, 4.0, 0.0]), np.array([2.0, 3.0, 4.0, 1.0])
        add(op, "whole", [x, y], reference, dtypes=kinds, order=0)
        add(op, "whole, number", [x, 2], reference, dtypes=kinds, order=0)


# Of two types a float wins over an integer, the wider float over the narrower, both over a flag.
_MIXED = (
    np.array([1, -2, 3]),
    np.array([True, False, True]),
    np.array([0.5, 1.5, -2.0], np.float32),
)
for _name, _function in (("add", np.add), ("multiply", np.multiply), ("maximum", np.maximum)):
    for _other in _MIXED:
        _label = f"with {_other.dtype}"
        add(_name, _label, [values((2, 3)), _other], _function)
        add(_name, f"{_label}, first", [_other, values((2, 3))], _function)
    add(_name, "whole with flags", [np.arange(3.0), _MIXED[1]], _function, dtypes=INTEGERS)
    add(
        _name,
        "bytes of both signs",
        [np.array([1, 2], np.uint8), np.array([3, -4], np.int8)],
        _function,
    )
    add(_name, "whole, fraction", [np.arange(3.0), 0.5], _function, dtypes=INTEGERS)
    add(_name, "flag, fraction", [_MIXED[1], 0.5], _function)
    add(_name, "flag, whole", [_MIXED[1], 2], _function)

_FEW = np.array([0.0, -0.0, 1.0, -1.5, 2.0, INF, -INF, NAN])

_binary("add", np.add, limits=_FEW)
_binary("subtract", np.subtract, limits=_FEW)
_binary("multiply", np.multiply, limits=_FEW)
_binary("divide", np.divide, (-2.0, 0.5), (2.0, 2.0), limits=_FEW)
_binary("floor_divide", np.floor_divide, (0.6, 0.7), (5.0, 2.0), limits=None, number=0.7)
_binary("remainder", np.remainder, (0.6, 0.7), (5.0, 2.0), limits=None, number=0.7)
for _name, _function in (("floor_divide", np.floor_divide), ("remainder", np.remainder)):
    add(
        _name, "signs",
        [np.array([5.5, -5.5, 5.5, -5.5, 6.0]), np.array([2.0, 2.0, -2.0, -2.0, -3.0])],
        _function, order=0,
    )  # fmt: skip
_binary("pow", np.power, (0.5, -1.5), (2.0, 2.5), limits=_FEW)
add("pow", "cube of both signs", [values((2, 3)), 3], np.power)
add("pow", "exponent 0", [values((2, 3)), 0], np.power)
add(
    "pow", "base 0", [np.zeros(3), np.array([0.0, 1.0, 2.0])], np.power,
    order=0, slopes=(np.array([0.0, 1.0, 0.0]), np.zeros(3)),
)  # fmt: skip
add("pow", "0 to a number", [np.zeros(2), 2], np.power, order=0, slopes=(np.zeros(2),))
add("pow", "0 to the 1", [np.zeros(2), 1], np.power, order=0, slopes=(np.ones(2),))
_binary("logaddexp", np.logaddexp, limits=_FEW)
_binary("atan2", np.arctan2, (0.5, -2.0), (2.0, 2.0), limits=_FEW)
_binary("hypot", np.hypot, (0.5, -2.0), (2.0, 2.0), limits=_FEW)
add(
    "hypot", "both 0", [np.zeros(2), np.zeros(2)], np.hypot,
    order=0, slopes=(np.zeros(2), np.zeros(2)),
)  # fmt: skip
_binary("maximum", np.maximum, limits=_FEW)
_binary("minimum", np.minimum, limits=_FEW)
for _name in ("maximum", "minimum"):
    add(
        _name, "ties", [np.ones(2), np.ones(2)], lambda x, y: x,
        order=0, slopes=(np.full(2, 0.5), np.full(2, 0.5)),
    )  # fmt: skip
_binary("copysign", np.copysign, limits=_FEW[:-1])
for _name, _function in (
    ("equal", np.equal), ("not_equal", np.not_equal), ("less", np.less),
    ("less_equal", np.less_equal), ("greater", np.greater),
    ("greater_equal", np.greater_equal),
):  # fmt: skip
    _binary(_name, _function, limits=_FEW, number=0.5)
for _name, _function in (
    ("logical_and", np.logical_and), ("logical_or", np.logical_or),
    ("logical_xor", np.logical_xor), ("bitwise_and", np.bitwise_and),
    ("bitwise_or", np.bitwise_or), ("bitwise_xor", np.bitwise_xor),
):  # fmt: skip
    _flags = np.array([True, True, False, False]), np.array([True, False, True, False])
    add(_name, "flags", _flags, _function)
    add(_name, "column, row", [_flags[0][:, None], _flags[1]], _function)
    add(_name, "empty", [np.zeros((0, 3), bool), _flags[0][:1]], _function)
    add(_name, "wrong shapes", [np.ones((2, 3), bool), np.ones(2, bool)], raises=ShapeError)
for _name, _function in (
    ("bitwise_and", np.bitwise_and), ("bitwise_or", np.bitwise_or),
    ("bitwise_xor", np.bitwise_xor), ("bitwise_left_shift", np.left_shift),
    ("bitwise_right_shift", np.right_shift),
):  # fmt: skip
    _whole = np.array([5.0, 12.0, 0.0]), np.array([3.0, 1.0, 2.0])
    add(_name, "whole", _whole, _function, dtypes=INTEGERS)
    add(_name, "whole, number", [_whole[0], 2], _function, dtypes=INTEGERS)
    add(_name, "column, row", [_whole[0][:, None], _whole[1]], _function, dtypes=INTEGERS)
    add(_name, "nothing", [np.zeros((0, 3)), _whole[1]], _function, dtypes=INTEGERS)
    add(_name, "floats", [np.ones(2), np.ones(2)], raises=DTypeError)

add("where", "matrices", [MASK, values((2, 3)), values((2, 3))[::-1]], np.where)
add("where", "column, row", [MASK, values((2, 1)), values((1, 3))], np.where)
add("where", "row mask", [MASK[0], values((2, 3)), values(())], np.where)
add("where", "number right", [MASK, values((2, 3)), 0.0], np.where)
add("where", "number left", [MASK, -1.5, values((2, 3))], np.where)
add("where", "whole", [MASK[0], np.arange(3.0), np.ones(3)], np.where, dtypes=NUMBERS, order=0)
add(
    "where", "NaN not chosen", [MASK[0], np.array([1.0, NAN, 2.0]), np.array([INF, 3.0, NAN])],
    np.where, order=0, slopes=(np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])),
)  # fmt: skip
add("where", "numbers", [MASK, 1.0, 0.0], np.where)
add("where", "empty", [np.zeros((0, 3), bool), np.zeros((0, 3)), 1.0], np.where)
add("where", "wrong shapes", [MASK, np.ones((2, 3)), np.ones(2)], raises=ShapeError)


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


add("clip", "numbers", [values((2, 3)), -0.5, 0.75], _clip)
add("clip", "arrays", [values((2, 3)), values((2, 1), -1.0, -0.4), values(3, 0.3, 0.9)], _clip)
add("clip", "low only", [values((2, 3)), -0.5], _clip)
add("clip", "high only", [values((2, 3)), None, 0.5], _clip)
add("clip", "0-d", [values(()), -0.1, 0.1], _clip)
add("clip", "empty", [np.zeros((0, 3)), -1.0, 1.0], _clip)
add("clip", "limits", [LIMITS, -1.0, 2.0], _clip, order=0)
add("clip", "bounds crossed", [values((2, 3)), np.array(1.0), np.array(-1.0)], _clip)
add("clip", "whole", [np.arange(5.0), 1, 3], _clip, dtypes=INTEGERS, order=0)
add(
    "clip", "at the bounds", [np.array([-1.0, 1.0]), np.array(-1.0), np.array(1.0)], _clip,
    order=0, slopes=(np.ones(2), np.array(0.0), np.array(0.0)),
)  # fmt: skip
add("clip", "wrong shapes", [np.ones((2, 3)), np.ones(2), 1.0], raises=ShapeError)
