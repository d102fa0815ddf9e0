"""The sample table: what goes into each op, and what NumPy in float64 says comes out.

It is shipped because `nnx.testing.check_backend` runs it on anyone's backend; nnx's own suite runs
the same rows. References are formulas in NumPy or `math`, never an op of nnx.

The float64 arrays of a sample stand for each type under test; other arrays keep their type; Python
numbers stay Python numbers. A new op needs a row here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnx import dtypes
from nnx.errors import DataError, DTypeError, LabelError, ShapeError

INF, NAN = math.inf, math.nan
FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
BOOLS = ("bool",)

Reference = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """One row of the table.

    ``order``: up to which derivative it is smooth, 0 for none. ``slopes``: the gradients of the
    result's sum, where a convention and no limit says them. ``raises``: the error that every
    device must raise. ``ulps``: the error allowed, in units of the result's last place.
    """

    op: str
    label: str
    inputs: tuple[Any, ...]
    reference: Reference | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = FLOATS
    order: int = 2
    slopes: tuple[Any, ...] | None = None
    raises: type[Exception] | None = None
    ulps: float = 8.0


SAMPLES: dict[str, list[Sample]] = {}
"""The rows of each op, the plainest first."""


def _add(
    op: str, label: str, inputs: Sequence[Any], reference: Reference | None = None, **settings: Any
) -> None:
    SAMPLES.setdefault(op, []).append(Sample(op, label, tuple(inputs), reference, **settings))


def _values(
    shape: int | tuple[int, ...], low: float = -2.0, high: float = 2.0, start: float = 0.29
) -> Any:
    """Return numbers from low to high in no order, all of them different."""
    n = math.prod(shape) if isinstance(shape, tuple) else shape
    places = (np.arange(n) * 0.6180339887 + start) % 1.0
    return (low + (high - low) * places).reshape(shape)


LIMITS = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 30.0, -30.0, 1e-30, -1e-30, INF, -INF, NAN])


# Elementwise


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
    _add(op, "matrix", [_values((2, 3), low, high)], reference, order=order, **common)
    _add(op, "0-d", [_values((), low, high)], reference, order=order, **common)
    _add(op, "empty", [np.zeros((0, 3))], reference, **common)
    _add(op, "limits", [limits], reference, order=0, **common)
    if kinds:
        whole = np.array([0.0, 1.0, 2.0, 3.0])
        _add(op, "whole", [whole], reference, dtypes=kinds, order=0, **common)


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
_add(
    "leaky_relu", "slope 0.2", [_values((2, 3))],
    lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    attrs={"negative_slope": 0.2},
)  # fmt: skip
_add(
    "elu", "alpha 0.5", [_values((2, 3))],
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
    attrs={"alpha": 0.5},
)  # fmt: skip
for _name, _slope in (
    ("abs", 0.0), ("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0), ("sqrt", INF),
):  # fmt: skip
    _add(
        _name, "kink at 0", [np.array([0.0])], lambda x: np.zeros(1),
        order=0, slopes=(np.array([_slope]),),
    )  # fmt: skip

_unary("isnan", np.isnan)
_unary("isinf", np.isinf)
_unary("isfinite", np.isfinite)
_add("signbit", "matrix", [np.array([0.0, -0.0, 1.0, -1.0, INF, -INF])], np.signbit)
_add("logical_not", "flags", [np.array([True, False])], np.logical_not)
_add("bitwise_invert", "flags", [np.array([True, False])], np.invert, dtypes=BOOLS)
_add("bitwise_invert", "whole", [np.array([0.0, 1.0, 5.0])], np.invert, dtypes=INTEGERS)
_add("bitwise_invert", "empty", [np.zeros((0, 3))], np.invert, dtypes=INTEGERS)
_add("logical_not", "empty", [np.zeros((0, 3), bool)], np.logical_not)
_add("signbit", "empty", [np.zeros((0, 3))], np.signbit)
_add("bitwise_invert", "floats", [np.ones(2)], raises=DTypeError)


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
        return [_values(first, low[0], high[0]), _values(second, low[1], high[1], start=0.71)]

    _add(op, "matrices", pair((2, 3), (2, 3)), reference, order=order)
    _add(op, "column, row", pair((2, 1), (1, 3)), reference, order=order)
    _add(op, "row, matrix", pair((3,), (2, 3)), reference, order=order)
    _add(op, "0-d, row", pair((), (3,)), reference, order=order)
    _add(op, "row, 0-d", pair((3,), ()), reference, order=order)
    _add(op, "empty", [np.zeros((0, 3)), np.ones(3)], reference)
    _add(op, "wrong shapes", [np.ones((2, 3)), np.ones((2, 4))], raises=ShapeError)
    if number is not None:
        _add(op, "matrix, number", [pair((2, 3), (1,))[0], number], reference, order=order)
        _add(op, "number, matrix", [number, pair((1,), (2, 3))[1]], reference, order=order)
    if limits is not None:
        with np.errstate(all="ignore"):
            x, y = np.meshgrid(limits, limits)
        _add(op, "limits", [x.ravel(), y.ravel()], reference, order=0)
    if kinds:
        x, y = np.array([7.0, 5.0, 4.0, 0.0]), np.array([2.0, 3.0, 4.0, 1.0])
        _add(op, "whole", [x, y], reference, dtypes=kinds, order=0)
        _add(op, "whole, number", [x, 2], reference, dtypes=kinds, order=0)


# Mixed types: a float wins over an integer, the wider float over the narrower, an integer over a flag.
_MIXED = (np.array([1, -2, 3]), np.array([True, False, True]), np.float32([0.5, 1.5, -2.0]))
for _name, _function in (("add", np.add), ("multiply", np.multiply), ("maximum", np.maximum)):
    for _other in _MIXED:
        _label = f"with {_other.dtype}"
        _add(_name, _label, [_values((2, 3)), _other], _function)
        _add(_name, f"{_label}, first", [_other, _values((2, 3))], _function)
    _add(_name, "whole with flags", [np.arange(3.0), _MIXED[1]], _function, dtypes=INTEGERS)
    _add(_name, "bytes of both signs", [np.uint8([1, 2]), np.int8([3, -4])], _function)
    _add(_name, "whole, fraction", [np.arange(3.0), 0.5], _function, dtypes=INTEGERS)
    _add(_name, "flag, fraction", [_MIXED[1], 0.5], _function)
    _add(_name, "flag, whole", [_MIXED[1], 2], _function)

_FEW = np.array([0.0, -0.0, 1.0, -1.5, 2.0, INF, -INF, NAN])

_binary("add", np.add, limits=_FEW)
_binary("subtract", np.subtract, limits=_FEW)
_binary("multiply", np.multiply, limits=_FEW)
_binary("divide", np.divide, (-2.0, 0.5), (2.0, 2.0), limits=_FEW)
_binary("floor_divide", np.floor_divide, (0.6, 0.7), (5.0, 2.0), limits=None, number=0.7)
_binary("remainder", np.remainder, (0.6, 0.7), (5.0, 2.0), limits=None, number=0.7)
for _name, _function in (("floor_divide", np.floor_divide), ("remainder", np.remainder)):
    _add(
        _name, "signs", [np.array([5.5, -5.5, 5.5, -5.5, 6.0]), np.array([2.0, 2.0, -2.0, -2.0, -3.0])],
        _function, order=0,
    )  # fmt: skip
_binary("pow", np.power, (0.5, -1.5), (2.0, 2.5), limits=_FEW)
_add("pow", "cube of both signs", [_values((2, 3)), 3], np.power)
_add("pow", "exponent 0", [_values((2, 3)), 0], np.power)
_add(
    "pow", "base 0", [np.zeros(3), np.array([0.0, 1.0, 2.0])], np.power,
    order=0, slopes=(np.array([0.0, 1.0, 0.0]), np.zeros(3)),
)  # fmt: skip
_add("pow", "0 to a number", [np.zeros(2), 2], np.power, order=0, slopes=(np.zeros(2),))
_add("pow", "0 to the 1", [np.zeros(2), 1], np.power, order=0, slopes=(np.ones(2),))
_binary("logaddexp", np.logaddexp, limits=_FEW)
_binary("atan2", np.arctan2, (0.5, -2.0), (2.0, 2.0), limits=_FEW)
_binary("hypot", np.hypot, (0.5, -2.0), (2.0, 2.0), limits=_FEW)
_add(
    "hypot", "both 0", [np.zeros(2), np.zeros(2)], np.hypot,
    order=0, slopes=(np.zeros(2), np.zeros(2)),
)  # fmt: skip
_binary("maximum", np.maximum, limits=_FEW)
_binary("minimum", np.minimum, limits=_FEW)
for _name in ("maximum", "minimum"):
    _add(
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
    _add(_name, "flags", _flags, _function)
    _add(_name, "column, row", [_flags[0][:, None], _flags[1]], _function)
    _add(_name, "empty", [np.zeros((0, 3), bool), _flags[0][:1]], _function)
    _add(_name, "wrong shapes", [np.ones((2, 3), bool), np.ones(2, bool)], raises=ShapeError)
for _name, _function in (
    ("bitwise_and", np.bitwise_and), ("bitwise_or", np.bitwise_or),
    ("bitwise_xor", np.bitwise_xor), ("bitwise_left_shift", np.left_shift),
    ("bitwise_right_shift", np.right_shift),
):  # fmt: skip
    _whole = np.array([5.0, 12.0, 0.0]), np.array([3.0, 1.0, 2.0])
    _add(_name, "whole", _whole, _function, dtypes=INTEGERS)
    _add(_name, "whole, number", [_whole[0], 2], _function, dtypes=INTEGERS)
    _add(_name, "column, row", [_whole[0][:, None], _whole[1]], _function, dtypes=INTEGERS)
    _add(_name, "nothing", [np.zeros((0, 3)), _whole[1]], _function, dtypes=INTEGERS)
    _add(_name, "floats", [np.ones(2), np.ones(2)], raises=DTypeError)

_mask = np.array([[True, False, True], [False, False, True]])
_add("where", "matrices", [_mask, _values((2, 3)), _values((2, 3))[::-1]], np.where)
_add("where", "column, row", [_mask, _values((2, 1)), _values((1, 3))], np.where)
_add("where", "row mask", [_mask[0], _values((2, 3)), _values(())], np.where)
_add("where", "number right", [_mask, _values((2, 3)), 0.0], np.where)
_add("where", "number left", [_mask, -1.5, _values((2, 3))], np.where)
_add("where", "whole", [_mask[0], np.arange(3.0), np.ones(3)], np.where, dtypes=NUMBERS, order=0)
_add(
    "where", "NaN not chosen", [_mask[0], np.array([1.0, NAN, 2.0]), np.array([INF, 3.0, NAN])],
    np.where, order=0, slopes=(np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])),
)  # fmt: skip
_add("where", "numbers", [_mask, 1.0, 0.0], np.where)
_add("where", "empty", [np.zeros((0, 3), bool), np.zeros((0, 3)), 1.0], np.where)
_add("where", "wrong shapes", [_mask, np.ones((2, 3)), np.ones(2)], raises=ShapeError)


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


_add("clip", "numbers", [_values((2, 3)), -0.5, 0.75], _clip)
_add("clip", "arrays", [_values((2, 3)), _values((2, 1), -1.0, -0.4), _values(3, 0.3, 0.9)], _clip)
_add("clip", "low only", [_values((2, 3)), -0.5], _clip)
_add("clip", "high only", [_values((2, 3)), None, 0.5], _clip)
_add("clip", "0-d", [_values(()), -0.1, 0.1], _clip)
_add("clip", "empty", [np.zeros((0, 3)), -1.0, 1.0], _clip)
_add("clip", "limits", [LIMITS, -1.0, 2.0], _clip, order=0)
_add("clip", "bounds crossed", [_values((2, 3)), np.array(1.0), np.array(-1.0)], _clip)
_add("clip", "whole", [np.arange(5.0), 1, 3], _clip, dtypes=INTEGERS, order=0)
_add(
    "clip", "at the bounds", [np.array([-1.0, 1.0]), np.array(-1.0), np.array(1.0)], _clip,
    order=0, slopes=(np.ones(2), np.array(0.0), np.array(0.0)),
)  # fmt: skip
_add("clip", "wrong shapes", [np.ones((2, 3)), np.ones(2), 1.0], raises=ShapeError)


# Products


def _products() -> None:
    for label, x, y in (
        ("matrices", (2, 3), (3, 4)),
        ("vector, matrix", (3,), (3, 2)),
        ("matrix, vector", (2, 3), (3,)),
        ("vectors", (3,), (3,)),
        ("stack, matrix", (2, 2, 3), (3, 2)),
        ("matrix, stack", (2, 3), (2, 3, 2)),
        ("stacks both ways", (2, 1, 2, 3), (2, 3, 2)),
        ("vector, stack", (3,), (2, 3, 2)),
        ("stack, vector", (2, 2, 3), (3,)),
        ("nothing inside", (2, 0), (0, 3)),
        ("nothing outside", (0, 2), (2, 3)),
    ):
        _add("matmul", label, [_values(x), _values(y)], np.matmul)
    whole = np.arange(6.0).reshape(2, 3)
    _add("matmul", "whole", [whole, whole.T], np.matmul, dtypes=("int32", "int64"), order=0)
    _add("matmul", "NaN", [np.array([[1.0, NAN], [2.0, 3.0]]), np.eye(2)], np.matmul, order=0)
    for label, x, y in (
        ("wrong inner", (2, 3), (2, 3)), ("scalar", (), (3,)), ("wrong stack", (2, 2, 3), (3, 3, 2)),
    ):  # fmt: skip
        _add("matmul", label, [np.ones(x), np.ones(y)], raises=ShapeError)


_products()


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    return x @ weight if bias is None else x @ weight + bias


_add("linear", "rows", [_values((2, 3)), _values((3, 4)), _values(4)], _linear)
_add("linear", "no bias", [_values((2, 3)), _values((3, 4))], _linear)
_add("linear", "one row", [_values(3), _values((3, 4)), _values(4)], _linear)
_add("linear", "stack", [_values((2, 2, 3)), _values((3, 2)), _values(2)], _linear)
_add("linear", "no rows", [np.zeros((0, 3)), _values((3, 2)), _values(2)], _linear)
_add("linear", "no features", [np.zeros((2, 0)), np.zeros((0, 2)), _values(2)], _linear)
for _label, _shapes in (
    ("wrong weight", ((2, 3), (4, 2), (2,))), ("wrong bias", ((2, 3), (3, 2), (3,))),
    ("0-d", ((), (3, 2), (2,))),
):  # fmt: skip
    _add("linear", _label, [np.ones(shape) for shape in _shapes], raises=ShapeError)


def _vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    return np.sum(x * y, axis=axis)


_add("vecdot", "rows", [_values((2, 3)), _values((2, 3), start=0.71)], _vecdot)
_add("vecdot", "vectors", [_values(3), _values(3)[::-1]], _vecdot)
_add("vecdot", "broadcast", [_values((2, 1, 3)), _values((2, 3))], _vecdot)
_add("vecdot", "axis -2", [_values((3, 2)), _values((3, 1))], _vecdot, attrs={"axis": -2})
_add("vecdot", "axis 0", [_values((3, 2)), _values((3, 2))], _vecdot, attrs={"axis": 0})
_add("vecdot", "empty", [np.zeros((2, 0)), np.zeros((2, 0))], _vecdot)
_add("vecdot", "whole", [np.arange(3.0), np.ones(3)], _vecdot, dtypes=("int32", "int64"), order=0)
_add("vecdot", "wrong shapes", [np.ones((2, 3)), np.ones((2, 1))], raises=ShapeError)
_add("vecdot", "0-d", [np.ones(()), np.ones(())], raises=ShapeError)

for _label, _x, _y, _axes in (
    ("two axes", (2, 3, 2), (3, 2, 2), 2), ("one axis", (2, 3), (3, 2), 1),
    ("outer", (2,), (3,), 0), ("named", (2, 3, 4), (4, 2), ((0, 2), (1, 0))),
    ("crossed", (2, 3, 4), (3, 4, 2), ((2, 0, 1), (1, 2, 0))),
    ("negative", (2, 3), (2, 3), ((-1,), (-1,))), ("empty", (2, 0), (0, 3), 1),
):  # fmt: skip
    _add("tensordot", _label, [_values(_x), _values(_y)], np.tensordot, attrs={"axes": _axes})
_add("tensordot", "wrong sizes", [np.ones((2, 3)), np.ones((2, 3))], attrs={"axes": 1},
     raises=ShapeError)  # fmt: skip
_add("tensordot", "too many axes", [np.ones(2), np.ones(2)], attrs={"axes": 2}, raises=ShapeError)


# Reductions


def _reduction(
    op: str,
    reference: Reference,
    *,
    low: float = -1.0,
    kinds: tuple[str, ...] = INTEGERS,
    order: int = 2,
    of_nothing: bool = True,
    many: bool = True,
    **attrs: Any,
) -> None:
    """Add the rows that every reduction needs."""

    def sample(label: str, x: Any, /, **more: Any) -> None:
        settings = {"dtypes": more.pop("dtypes", FLOATS), "order": more.pop("order", order)}
        _add(op, label, [x], reference, attrs={**attrs, **more}, **settings)

    sample("all", _values((2, 3), low))
    sample("axis 1", _values((2, 3), low), axis=1)
    sample("kept", _values((2, 3), low), axis=-2, keepdims=True)
    sample("0-d", _values((), low))
    sample("no rows", np.zeros((0, 3)), axis=1)
    if many:
        sample("two axes", _values((2, 3, 2), low), axis=(0, 2))
        sample("two axes kept", _values((2, 3, 2), low), axis=(-1, 0), keepdims=True)
    if of_nothing:
        sample("of nothing", np.zeros((0, 3)), axis=0, order=0)
    else:
        _add(op, "of nothing", [np.zeros((0, 3))], attrs={**attrs, "axis": 0}, raises=ShapeError)
    sample("limits", np.array([[1.0, INF], [INF, -INF], [NAN, 1.0]]), axis=1, order=0)
    if kinds:
        sample("whole", np.array([[3.0, 1.0], [2.0, 3.0]]), axis=0, dtypes=kinds, order=0)
    _add(op, "no such axis", [np.ones((2, 3))], attrs={**attrs, "axis": 2}, raises=ShapeError)


def _wide_sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.sum(x, axis=axis, keepdims=keepdims)


_reduction("sum", _wide_sum)
_reduction("prod", lambda x, axis=None, keepdims=False: np.prod(x, axis=axis, keepdims=keepdims))
for _zeros in (1, 2):
    _row = np.array([0.5, 0.0, -1.5, 0.0 if _zeros == 2 else 2.0])
    _add("prod", f"{_zeros} zeros", [_row], np.prod)
    _add("cumulative_prod", f"{_zeros} zeros", [_row], np.cumprod)
_add("sum", "flags", [np.array([True, True, False])], np.sum)
_add("sum", "no axis", [_values((2, 3))], np.sum, attrs={"axis": ()})
_reduction("mean", np.mean)
_reduction("max", np.max, of_nothing=False)
_reduction("min", np.min, of_nothing=False)
for _name in ("max", "min"):
    _add(
        _name, "ties", [np.array([[1.0, 1.0, 1.0, 1.0]])], lambda x, axis: x[:, 0],
        attrs={"axis": 1}, order=0, slopes=(np.full((1, 4), 0.25),),
    )  # fmt: skip
_reduction("var", np.var)
_reduction("std", np.std, order=2)
for _name, _function in (("var", np.var), ("std", np.std)):
    _add(
        _name, "correction", [_values((3, 2))],
        lambda x, axis, correction, function=_function: function(x, axis=axis, ddof=correction),
        attrs={"axis": 0, "correction": 1},
    )  # fmt: skip
    _add(_name, "of one", [np.ones((1, 2))], lambda x, axis, correction: np.full(2, NAN),
         attrs={"axis": 0, "correction": 1}, order=0)  # fmt: skip
SAMPLES["std"] = [s for s in SAMPLES["std"] if s.label != "0-d"]
_add("std", "0-d", [_values(())], np.std, order=0, slopes=(np.array(0.0),))
_add("std", "all equal", [np.ones(3)], np.std, order=0, slopes=(np.zeros(3),))


def _chosen(function: Reference) -> Reference:
    def choose(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return np.asarray(function(x, axis=axis, keepdims=keepdims), np.int64)

    return choose


_reduction("argmax", _chosen(np.argmax), of_nothing=False, many=False)
_reduction("argmin", _chosen(np.argmin), of_nothing=False, many=False)
for _name, _function in (("any", np.any), ("all", np.all)):
    _reduction(_name, _function)
    _add(_name, "flags", [_mask], _function, attrs={"axis": 0})
    _add(_name, "no flags", [np.zeros((0,), bool)], _function)


def _running(op: str, function: Reference, start: float) -> None:
    def reference(x: Any, axis: int = 0, include_initial: bool = False) -> Any:
        result = function(x, axis=axis)
        first = np.full_like(np.take(result, [], axis=axis), start)
        sizes = list(result.shape)
        sizes[axis] = 1
        first = np.full(sizes, start, result.dtype)
        return np.concatenate([first, result], axis=axis) if include_initial else result

    _add(op, "row", [_values(4)], reference)
    _add(op, "axis 0", [_values((3, 2))], reference, attrs={"axis": 0})
    _add(op, "axis -1", [_values((2, 3))], reference, attrs={"axis": -1})
    _add(op, "initial", [_values((2, 3))], reference, attrs={"axis": 1, "include_initial": True})
    _add(op, "empty", [np.zeros((2, 0))], reference, attrs={"axis": 1})
    _add(op, "whole", [np.arange(1.0, 5.0)], reference, dtypes=INTEGERS, order=0)
    _add(op, "limits", [np.array([1.0, INF, -INF, NAN, 1.0])], reference, order=0)
    _add(op, "no axis named", [np.ones((2, 3))], raises=ShapeError)
    _add(op, "no such axis", [np.ones((2, 3))], attrs={"axis": 2}, raises=ShapeError)


_running("cumulative_sum", np.cumsum, 0.0)
_running("cumulative_prod", np.cumprod, 1.0)


def _logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    top = np.max(x, axis=axis, keepdims=True, initial=-INF)
    top = np.where(np.isinf(top), 0.0, top)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else np.sum(total, axis=axis)


def _softmax(x: Any, axis: Any = -1) -> Any:
    x = np.asarray(x, np.float64)
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-INF))
    return e / np.sum(e, axis=axis, keepdims=True)


def _log_softmax(x: Any, axis: Any = -1) -> Any:
    return x - _logsumexp(x, axis, True)


_reduction("logsumexp", _logsumexp, of_nothing=False)
_add("logsumexp", "of -inf", [np.array([[-INF, -INF], [-INF, 1.0]])], _logsumexp,
     attrs={"axis": 1}, order=0)  # fmt: skip
_add("logsumexp", "one -inf", [np.array([-INF, 1.0])], _logsumexp,
     order=0, slopes=(np.array([0.0, 1.0]),))  # fmt: skip
for _name, _function in (("softmax", _softmax), ("log_softmax", _log_softmax)):
    _add(_name, "rows", [_values((2, 3))], _function)
    _add(_name, "vector", [_values(4)], _function)
    _add(_name, "axis 0", [_values((3, 2))], _function, attrs={"axis": 0})
    _add(_name, "two axes", [_values((2, 3, 2))], _function, attrs={"axis": (0, 2)})
    _add(_name, "all axes", [_values((2, 3))], _function, attrs={"axis": None})
    _add(_name, "one class", [_values((2, 1))], _function)
    _add(_name, "no rows", [np.zeros((0, 3))], _function)
    _add(_name, "large", [np.array([[1e4, 1.0, -1e4]])], _function, order=0)
    _add(_name, "NaN", [np.array([[1.0, NAN], [1.0, 2.0]])], _function, order=0)
    _add(_name, "-inf", [np.array([[1.0, -INF, 2.0]])], _function, order=0)
    _add(_name, "whole", [np.array([[1.0, 2.0]])], _function, dtypes=INTEGERS, order=0)
    _add(_name, "no such axis", [np.ones((2, 3))], attrs={"axis": 2}, raises=ShapeError)


def _layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    d = x - x.mean(axis=-1, keepdims=True)
    rows = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + eps)
    rows = rows if weight is None else rows * weight
    return rows if bias is None else rows + bias


_add("layer_norm", "rows", [_values((2, 4)), _values(4, 0.5, 1.5), _values(4)], _layer_norm)
_add("layer_norm", "plain", [_values((2, 4))], _layer_norm)
_add("layer_norm", "weight only", [_values((2, 4)), _values(4, 0.5, 1.5)], _layer_norm)
_add("layer_norm", "bias only", [_values((2, 4)), None, _values(4)], _layer_norm)
_add("layer_norm", "stack", [_values((2, 2, 3)), _values(3), _values(3)], _layer_norm)
_add("layer_norm", "vector", [_values(4)], _layer_norm, attrs={"eps": 0.1})
_add("layer_norm", "no rows", [np.zeros((0, 3)), np.ones(3), np.ones(3)], _layer_norm)
_add("layer_norm", "offset", [np.array([[10001.0, 10002.0, 10003.0, 10004.0]])], _layer_norm)
_add("layer_norm", "NaN", [np.array([[1.0, NAN], [1.0, 2.0]])], _layer_norm, order=0)
_add("layer_norm", "wrong weight", [np.ones((2, 3)), np.ones(2)], raises=ShapeError)
_add("layer_norm", "0-d", [np.ones(())], raises=ShapeError)


# Layout


def _layout() -> None:
    """Add the rows of ops that move elements."""
    for label, x, shape in (
        ("matrix", (2, 3), (3, 2)), ("flat", (2, 3), (-1,)), ("number", (2, 3), 6),
        ("to 0-d", (1, 1), ()), ("from 0-d", (), (1, 1)), ("empty", (0, 3), (3, -1, 2)),
    ):  # fmt: skip
        if label == "empty":
            shape = (3, 0, 2)
        _add("reshape", label, [_values(x)], lambda x, shape: x.reshape(shape),
             attrs={"shape": shape})  # fmt: skip
    _add("reshape", "wrong size", [np.ones((2, 3))], attrs={"shape": (4, 2)}, raises=ShapeError)
    _add("reshape", "two unknown", [np.ones((2, 3))], attrs={"shape": (-1, -1)}, raises=ShapeError)
    for label, shape, axes in (
        ("cycle", (2, 3, 4), (2, 0, 1)), ("negative", (2, 3), (-1, 0)), ("0-d", (), ()),
        ("empty", (0, 3), (1, 0)),
    ):  # fmt: skip
        _add("permute_dims", label, [_values(shape)], lambda x, axes: np.transpose(x, axes),
             attrs={"axes": axes})  # fmt: skip
    for axes in ((0,), (0, 0), (0, 2)):
        _add("permute_dims", f"wrong axes {axes}", [np.ones((2, 3))], attrs={"axes": axes},
             raises=ShapeError)  # fmt: skip
    for shape in ((2, 3), (2, 3, 4), (0, 3)):
        _add("matrix_transpose", str(shape), [_values(shape)], lambda x: np.swapaxes(x, -1, -2))
    _add("matrix_transpose", "vector", [np.ones(3)], raises=ShapeError)
    for axis in (0, -1, 2, (0, 2)):
        _add("expand_dims", f"axis {axis}", [_values((2, 3))], np.expand_dims, attrs={"axis": axis})
    _add("expand_dims", "0-d", [_values(())], np.expand_dims, attrs={"axis": 0})
    _add("expand_dims", "empty", [np.zeros((0, 3))], np.expand_dims, attrs={"axis": 1})
    _add("expand_dims", "no such axis", [np.ones((2, 3))], attrs={"axis": 3}, raises=ShapeError)
    for axis in (1, -1, (1, 3)):
        _add("squeeze", f"axis {axis}", [_values((2, 1, 3, 1))], np.squeeze, attrs={"axis": axis})
    _add("squeeze", "empty", [np.zeros((0, 1))], np.squeeze, attrs={"axis": 1})
    _add("squeeze", "not 1", [np.ones((2, 3))], attrs={"axis": 0}, raises=ShapeError)
    for label, x, shape in (
        ("row", (3,), (2, 3)), ("column", (2, 1), (2, 3)), ("0-d", (), (2,)),
        ("same", (2, 3), (2, 3)), ("to nothing", (1, 3), (0, 3)), ("nothing", (0, 1), (2, 0, 3)), ("both", (1, 2, 1), (3, 2, 2)),
    ):  # fmt: skip
        _add("broadcast_to", label, [_values(x)], np.broadcast_to, attrs={"shape": shape})
    _add("broadcast_to", "wrong", [np.ones(3)], attrs={"shape": (2, 4)}, raises=ShapeError)
    _add("broadcast_to", "fewer", [np.ones((2, 3))], attrs={"shape": (3,)}, raises=ShapeError)


_layout()


def _joins() -> None:
    """Add the rows of ops that join arrays."""

    def joined(*arrays: Any, axis: int | None = 0) -> Any:
        return np.concatenate(arrays, axis=axis)

    def stacked(*arrays: Any, axis: int = 0) -> Any:
        return np.stack(arrays, axis=axis)

    _add("concat", "rows", [_values((2, 3)), _values((1, 3))], joined)
    _add("concat", "columns", [_values((2, 1)), _values((2, 3))], joined, attrs={"axis": -1})
    _add("concat", "flat", [_values((2, 1)), _values(3)], joined, attrs={"axis": None})
    _add("concat", "one", [_values((2, 3))], joined)
    _add("concat", "with nothing", [np.zeros((0, 3)), _values((2, 3))], joined)
    _add("concat", "types", [_values((1, 3)), np.array([[1, 2, 3]])], joined)
    _add("concat", "wrong sizes", [np.ones((2, 3)), np.ones((2, 4))], raises=ShapeError)
    _add("concat", "wrong axes", [np.ones((2, 3)), np.ones(3)], raises=ShapeError)
    _add("concat", "no such axis", [np.ones(3)], attrs={"axis": 1}, raises=ShapeError)
    _add("stack", "rows", [_values(3), _values(3)[::-1]], stacked)
    _add(
        "stack", "last", [_values((2, 3)), _values((2, 3), start=0.71)], stacked, attrs={"axis": -1}
    )
    _add("stack", "middle", [_values((2, 3))] * 2, stacked, attrs={"axis": 1})
    _add("stack", "0-d", [_values(()), np.ones(())], stacked)
    _add("stack", "empty", [np.zeros((0, 3))] * 2, stacked)
    _add("stack", "wrong sizes", [np.ones(2), np.ones(3)], raises=ShapeError)
    _add("stack", "no such axis", [np.ones(2)], attrs={"axis": 2}, raises=ShapeError)


_joins()


def _moves() -> None:
    """Add the rows of ops that reorder, repeat, or cut off."""
    for op in ("flip", "roll", "tile", "repeat", "pad"):
        attrs = {"roll": {"shift": 1}, "tile": {"repetitions": (2,)}, "repeat": {"repeats": 2},
                 "pad": {"pad_width": 1}}.get(op, {})  # fmt: skip
        reference = {"flip": np.flip, "roll": np.roll, "tile": _tile, "repeat": np.repeat,
                     "pad": _pad}[op]  # fmt: skip
        _add(op, "matrix", [_values((2, 3))], reference, attrs=attrs)
        _add(op, "whole", [np.arange(3.0)], reference, attrs=attrs, dtypes=INTEGERS, order=0)
        _add(op, "flags", [np.array([True, False])], reference, attrs=attrs)
        _add(op, "empty", [np.zeros((0, 3))], reference, attrs=attrs)
    for axis in (1, -2, (0, 2)):
        _add("flip", f"axis {axis}", [_values((2, 3, 2))], np.flip, attrs={"axis": axis})
    _add("flip", "0-d", [_values(())], np.flip)
    _add("flip", "no such axis", [np.ones(2)], attrs={"axis": 1}, raises=ShapeError)
    for shift, axis in ((2, 1), (-1, 0), ((1, 2), (0, 1)), (5, -1)):
        _add("roll", f"{shift} along {axis}", [_values((2, 3))], np.roll,
             attrs={"shift": shift, "axis": axis})  # fmt: skip
    _add("roll", "no such axis", [np.ones(2)], attrs={"shift": 1, "axis": 1}, raises=ShapeError)
    for repetitions in ((2, 1), (2, 1, 2), (3,), (0, 1)):
        _add("tile", str(repetitions), [_values((2, 3))], _tile, attrs={"repetitions": repetitions})
    _add("tile", "0-d", [_values(())], _tile, attrs={"repetitions": (2, 2)})
    _add("tile", "negative", [np.ones(2)], attrs={"repetitions": (-1,)}, raises=ShapeError)
    for axis in (0, -1):
        _add("repeat", f"axis {axis}", [_values((2, 3))], np.repeat,
             attrs={"repeats": 2, "axis": axis})  # fmt: skip
    _add("repeat", "none", [_values((2, 3))], np.repeat, attrs={"repeats": 0, "axis": 0})
    _add("repeat", "negative", [np.ones(2)], attrs={"repeats": -1}, raises=ShapeError)
    for width in ((1, 0), ((1, 2), (0, 1)), 0):
        _add("pad", f"{width}", [_values((2, 3))], _pad, attrs={"pad_width": width, "value": 1.5})
    _add("pad", "nothing", [np.zeros((0, 2))], _pad, attrs={"pad_width": ((2, 1), (1, 1))})
    _add("pad", "negative", [np.ones(2)], attrs={"pad_width": (-1, 0)}, raises=ShapeError)
    for op, function in (("tril", np.tril), ("triu", np.triu)):
        for k in (0, 1, -1):
            _add(op, f"k {k}", [_values((3, 4))], function, attrs={"k": k})
        _add(op, "stack", [_values((2, 2, 3))], function)
        _add(op, "empty", [np.zeros((0, 3))], function)
        _add(op, "whole", [np.arange(4.0).reshape(2, 2)], function, dtypes=INTEGERS, order=0)
        _add(op, "NaN", [np.array([[1.0, NAN], [NAN, 2.0]])], function, order=0)
        _add(op, "vector", [np.ones(3)], raises=ShapeError)


def _tile(x: Any, repetitions: tuple[int, ...]) -> Any:
    return np.tile(x, repetitions)


def _pad(x: Any, pad_width: Any, value: float = 0) -> Any:
    return np.pad(x, pad_width, constant_values=value)


_moves()

for _target in (dtypes.float64, dtypes.float32, dtypes.int32, dtypes.bool_):
    _add(
        "astype", f"to {_target}", [np.array([[0.0, 1.5, -2.0]])],
        lambda x, dtype: x.astype(dtype.name), attrs={"dtype": _target},
        dtypes=(*FLOATS, "int64"), order=2 if _target is dtypes.float64 else 0,
    )  # fmt: skip
_add("astype", "flags", [_mask], lambda x, dtype: x.astype(dtype.name),
     attrs={"dtype": dtypes.float32})  # fmt: skip
_add("astype", "empty", [np.zeros((0, 3))], lambda x, dtype: x.astype(dtype.name),
     attrs={"dtype": dtypes.int32})  # fmt: skip


# Indexing


def _filled(key: tuple[Any, ...], indices: Sequence[Any]) -> tuple[Any, ...]:
    """Return a key with its k-th array in the place of "#k"."""
    return tuple(indices[int(item[1:])] if isinstance(item, str) else item for item in key)


def _indexing() -> None:
    """Add the rows of indexing and of its gradient, which are each other's."""

    def read(x: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
        return x[_filled(key, indices)]

    def added(x: Any, *indices: Any, key: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        total = np.zeros(shape, x.dtype)
        np.add.at(total, _filled(key, indices), x)
        return total

    all_, row, column = slice(None), np.array([1, 0, 1]), np.array([[2], [-1]])
    for label, shape, indices, key in (
        ("integer", (3, 4), [], (1,)), ("negative", (3, 4), [], (-1, 2)),
        ("slices", (3, 4), [], (slice(1, 3), slice(None, None, 2))),
        ("backwards", (3, 4), [], (slice(None, None, -1),)),
        ("ellipsis", (2, 3, 4), [], (..., 1)), ("new axis", (3,), [], (None, all_)),
        ("nothing", (3, 4), [], (slice(2, 2),)), ("whole", (), [], ()),
        ("array", (3, 4), [row], ("#0",)), ("array behind", (3, 4), [row], (all_, "#0")),
        ("pairs", (3, 4), [row, row], ("#0", "#1")), ("grid", (3, 4), [column, row], ("#0", "#1")),
        ("array and integer", (3, 4), [row], ("#0", 1)),
        ("integer apart", (2, 3, 4), [row], (0, all_, "#0")),
        ("integer beside", (2, 3, 4), [row], (all_, 1, "#0")),
        ("arrays apart", (2, 3, 4), [row, row], ("#0", all_, "#1")),
        ("array between", (2, 3, 4), [row], (all_, "#0", slice(0, 2))),
        ("array after ellipsis", (2, 3, 4), [row], (..., "#0")),
        ("no entries", (3, 4), [np.zeros(0, np.int64)], ("#0",)),
    ):  # fmt: skip
        x = _values(shape)
        _add("getitem", label, [x, *indices], read, attrs={"key": key})
        _add("scatter_add", label, [_values(x[_filled(key, indices)].shape), *indices], added,
             attrs={"key": key, "shape": shape})  # fmt: skip
    for label, key in (("too many", (0, 0, 0)), ("outside", (3,)), ("below", (-4, 0))):
        _add("getitem", label, [np.ones((3, 4))], attrs={"key": key}, raises=ShapeError)
    _add("getitem", "arrays do not fit", [np.ones((3, 4)), np.array([0, 1]), np.array([0, 1, 2])],
         attrs={"key": ("#0", "#1")}, raises=ShapeError)  # fmt: skip
    numbers = np.arange(12.0).reshape(3, 4)
    _add("getitem", "whole numbers", [numbers, row], read, attrs={"key": ("#0",)}, dtypes=INTEGERS,
         order=0)  # fmt: skip


_indexing()

_places = np.array([2, 0, 2, -1])
_add("take", "rows", [_values((3, 2)), _places], np.take, attrs={"axis": 0})
_add("take", "columns", [_values((2, 3)), _places], np.take, attrs={"axis": -1})
_add("take", "vector", [_values(3), _places], np.take)
_add("take", "grid", [_values((3, 2)), _places.reshape(2, 2)], np.take, attrs={"axis": 0})
_add("take", "0-d index", [_values((3, 2)), np.array(1)], np.take, attrs={"axis": 0})
_add("take", "no entries", [_values((3, 2)), np.zeros(0, np.int64)], np.take, attrs={"axis": 0})
_add("take", "narrow index", [_values((3, 2)), _places.astype(np.int32)], np.take,
     attrs={"axis": 0})  # fmt: skip
_add("take", "no axis named", [np.ones((2, 3)), _places], raises=ShapeError)
_add("take", "no such axis", [np.ones((2, 3)), _places], attrs={"axis": 2}, raises=ShapeError)
_order = np.array([[2, 0, -1], [1, 1, 0]])
_add("take_along_axis", "rows", [_values((2, 3)), _order], np.take_along_axis)
_add("take_along_axis", "columns", [_values((2, 3)), _order % 2], np.take_along_axis,
     attrs={"axis": 0})  # fmt: skip
_add("take_along_axis", "fewer", [_values((2, 3)), _order[:, :1]], np.take_along_axis)
_add("take_along_axis", "vector", [_values(3), _order[0]], np.take_along_axis)
_add("take_along_axis", "stack", [_values((2, 2, 3)), _order[:, None, :].repeat(2, 1)],
     np.take_along_axis)  # fmt: skip
_add("take_along_axis", "none", [_values((2, 3)), _order[:, :0]], np.take_along_axis)
_add("take_along_axis", "of nothing", [np.zeros((0, 3)), _order[:0]], np.take_along_axis)
_add("take_along_axis", "other axes", [np.ones((2, 3)), _places], raises=ShapeError)


def _one_hot(x: Any, num_classes: int, dtype: Any = None) -> Any:
    return (x[..., None] == np.arange(num_classes)).astype(
        "float32" if dtype is None else dtype.name
    )


_add("one_hot", "labels", [np.array([0, 2, 1])], _one_hot, attrs={"num_classes": 3})
_add("one_hot", "grid", [np.array([[0], [2]])], _one_hot, attrs={"num_classes": 4})
_add("one_hot", "0-d", [np.array(1)], _one_hot, attrs={"num_classes": 2})
_add("one_hot", "none", [np.zeros(0, np.int64)], _one_hot, attrs={"num_classes": 2})
_add("one_hot", "integers", [np.array([1, 0], np.uint8)], _one_hot,
     attrs={"num_classes": 2, "dtype": dtypes.int32})  # fmt: skip
for _label, _wrong in (
    ("above", np.array([0, 3])), ("below", np.array([0, -1])), ("floats", np.ones(2)),
):  # fmt: skip
    _add("one_hot", _label, [_wrong], attrs={"num_classes": 3}, raises=LabelError)


# Losses


def _reduced(losses: Any, reduction: str) -> Any:
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)


def _loss(op: str, single: Reference, x: Any, y: Any, **attrs: Any) -> None:
    """Add the rows of a loss that compares element by element."""

    def reference(x: Any, y: Any, reduction: str = "mean", **more: Any) -> Any:
        return _reduced(single(x, y, **more), reduction)

    for reduction in ("mean", "sum", "none"):
        _add(op, reduction, [x, y], reference, attrs={**attrs, "reduction": reduction})
    _add(op, "0-d", [x[0, 0], y[0, 0]], reference, attrs=attrs)
    _add(op, "empty", [x[:0], y[:0]], reference, attrs={**attrs, "reduction": "sum"})
    _add(op, "mean of nothing", [x[:0], y[:0]], reference, attrs=attrs, order=0)
    _add(op, "NaN", [np.array([NAN, 0.5]), np.array([1.0, 0.0])], reference, attrs=attrs, order=0)
    _add(op, "column, row", [np.ones((3, 1)), np.ones(3)], attrs=attrs, raises=ShapeError)
    _add(op, "wrong reduction", [x, y], attrs={**attrs, "reduction": "avg"}, raises=DataError)


def _huber(x: Any, y: Any, delta: float = 1.0) -> Any:
    d = np.abs(x - y)
    return np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))


_first, _second = _values((2, 3)), _values((2, 3))[::-1] * 0.7
_loss("mse", lambda x, y: (x - y) ** 2, _first, _second)
_loss("half_mse", lambda x, y: 0.5 * (x - y) ** 2, _first, _second)
_loss("mae", lambda x, y: np.abs(x - y), _first, _second)
_loss("huber", _huber, _first, _second)
_add("huber", "delta", [_first, _second], lambda x, y, delta: np.mean(_huber(x, y, delta)),
     attrs={"delta": 0.4})  # fmt: skip
_add("mae", "equal", [np.ones(2), np.ones(2)], lambda x, y: np.array(0.0), order=0,
     slopes=(np.zeros(2), np.zeros(2)))  # fmt: skip


def _binary_cross_entropy(x: Any, y: Any) -> Any:
    return np.maximum(x, 0.0) - x * y + np.log1p(np.exp(-np.abs(x)))


_loss("binary_cross_entropy", _binary_cross_entropy, _first, _values((2, 3), 0.1, 0.9))
for _label, _target_value in (("above 1", 1.5), ("below 0", -0.5), ("NaN target", NAN)):
    _add("binary_cross_entropy", _label, [np.ones(2), np.array([0.0, _target_value])],
         raises=LabelError)  # fmt: skip


def _cross_entropy(x: Any, labels: Any, reduction: str = "mean") -> Any:
    logs = _log_softmax(x)
    if labels.ndim < x.ndim:
        rows = np.arange(x.shape[-1]) == labels[..., None]
        return _reduced(-np.sum(np.where(rows, logs, 0.0), axis=-1), reduction)
    return _reduced(-np.sum(labels * logs, axis=-1), reduction)


def _classes() -> None:
    """Add the rows of cross_entropy: labels as class numbers, and as rows."""
    logits, labels = _values((4, 3)), np.array([0, 2, 1, 2])
    rows = _softmax(_values((4, 3))[::-1])
    for reduction in ("mean", "sum", "none"):
        attrs = {"reduction": reduction}
        _add("cross_entropy", reduction, [logits, labels], _cross_entropy, attrs=attrs)
        _add("cross_entropy", f"{reduction}, rows", [logits, np.eye(3, dtype=np.int64)[labels]],
             _cross_entropy, attrs=attrs)  # fmt: skip
    # Rows that do not sum to 1 are refused, so differences cannot go off the right ones.
    slopes = (_softmax(logits) - rows) / 4, -_log_softmax(logits) / 4
    _add("cross_entropy", "probabilities", [logits, rows], _cross_entropy, order=0, slopes=slopes)
    _add("cross_entropy", "stack", [_values((2, 2, 3)), labels.reshape(2, 2)], _cross_entropy)
    _add("cross_entropy", "one row", [_values(3), np.array(1)], _cross_entropy)
    _add("cross_entropy", "bytes", [logits, labels.astype(np.uint8)], _cross_entropy)
    _add("cross_entropy", "no rows", [np.zeros((0, 3)), labels[:0]], _cross_entropy,
         attrs={"reduction": "sum"})  # fmt: skip
    _add("cross_entropy", "large", [np.array([[1e4, 0.0, -1e4]]), np.array([0])], _cross_entropy,
         order=0)  # fmt: skip
    _add("cross_entropy", "-inf", [np.array([[1.0, -INF, 2.0]]), np.array([0])], _cross_entropy,
         order=0)  # fmt: skip
    _add("cross_entropy", "NaN", [np.array([[1.0, NAN]]), np.array([0])], _cross_entropy, order=0)
    for label, wrong in (
        ("above", np.array([0, 1, 2, 3])), ("below", np.array([0, -1, 0, 0])),
        ("too few", labels[:3]), ("too many", np.append(labels, 0)), ("floats", np.ones(4)),
        ("no distribution", np.ones((4, 3))), ("NaN row", np.full((4, 3), NAN)),
    ):  # fmt: skip
        _add("cross_entropy", label, [logits, wrong], raises=LabelError)
    _add("cross_entropy", "other classes", [logits, np.ones((4, 2))], raises=ShapeError)
    _add("cross_entropy", "0-d", [np.ones(()), np.array(0)], raises=ShapeError)
    _add("cross_entropy", "wrong reduction", [logits, labels], attrs={"reduction": "avg"},
         raises=DataError)  # fmt: skip


_classes()


def _slope(x: Any, labels: Any) -> Any:
    rows = np.arange(x.shape[-1]) == labels[..., None] if labels.ndim < x.ndim else labels
    return _softmax(x) - rows


def _parts_of_cross_entropy() -> None:
    """Add the rows of the two ops that cross_entropy is made of."""
    labels = np.array([0, 2, 1, 2])
    references: dict[str, Reference] = {
        "cross_entropy_rows": lambda x, labels: _cross_entropy(x, labels, "none"),
        "cross_entropy_slope": _slope,
    }
    for op, reference in references.items():
        _add(op, "labels", [_values((4, 3)), labels], reference)
        _add(op, "stack", [_values((2, 2, 3)), labels.reshape(2, 2)], reference)
        _add(op, "bytes", [_values((4, 3)), labels.astype(np.uint8)], reference)
        _add(op, "one row", [_values(3), np.array(1)], reference)
        _add(op, "no rows", [np.zeros((0, 3)), labels[:0]], reference)
        _add(op, "large", [np.array([[1e4, 0.0, -1e4]]), np.array([0])], reference, order=0)
        _add(op, "ties", [np.ones((2, 3)), np.array([0, 2])], reference)
        _add(op, "NaN", [np.array([[1.0, NAN]]), np.array([0])], reference, order=0)
    _add("cross_entropy_slope", "one-hot", [_values((4, 3)), np.eye(3, dtype=np.int64)[labels]],
         _slope)  # fmt: skip
    _add("cross_entropy_slope", "probabilities", [_values((2, 3)), _softmax(_values((2, 3), start=0.71))],
         _slope)  # fmt: skip


_parts_of_cross_entropy()
