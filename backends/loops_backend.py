"""Pure Python loops: the reference that every other device is checked against.

Elementwise ops are not written here: each is its entry's ``eval``, run on Python numbers inside a
loop. Only the sums, products and choices that loops are made of are. NumPy holds the elements and
moves them about; it does no arithmetic.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnx import dtypes, shapes
from nnx.backends.protocol import Backend, Hardware
from nnx.device import Namespace, bind_ops
from nnx.op import OPS, Op

Number = bool | int | float
INF, NAN = math.inf, math.nan


# Python numbers with the answers of IEEE 754 where Python raises instead.


def _ieee(function: Callable[..., float], **at: float) -> Callable[..., float]:
    """Return a function of math that gives inf or NaN where math raises."""

    @functools.wraps(function)
    def safe(*values: float) -> float:
        try:
            return function(*values)
        except OverflowError:
            return at.get("overflow", INF)
        except (ValueError, ZeroDivisionError):
            return at.get("zero", NAN) if values[0] == 0 else at.get("domain", NAN)

    return safe


def _divide(x: float, y: float) -> float:
    try:
        return x / y
    except ZeroDivisionError:
        return NAN if x == 0 or x != x else math.copysign(INF, x) * math.copysign(1.0, y)


def _pow(x: Number, y: Number) -> Number:
    if isinstance(x, int) and isinstance(y, int):
        if y < 0:
            raise ValueError("integers to negative integer powers are not allowed")
        return int(x**y)
    try:
        return math.pow(x, y)
    except OverflowError:
        return -INF if x < 0 and y % 2 == 1 else INF
    except ValueError:
        if x != 0:
            return NAN
        return math.copysign(INF, x) if y % 2 == 1 else INF


def _floor_divide(x: Number, y: Number) -> Number:
    if y == 0:
        return 0 if isinstance(x, int) else _divide(x, y)
    if isinstance(x, int):
        return x // y
    return NAN if math.isinf(x) else math.copysign(1.0, x * y) * 0.0 if x == 0 else x // y


def _remainder(x: Number, y: Number) -> Number:
    if y == 0:
        return 0 if isinstance(x, int) else NAN
    return NAN if isinstance(x, float) and math.isinf(x) else x % y


def _maximum(x: Number, y: Number) -> Number:
    return x if x != x or x > y else y


def _minimum(x: Number, y: Number) -> Number:
    return x if x != x or x < y else y


def _sign(x: Number) -> Number:
    return x if x != x or x == 0 else type(x)(1) if x > 0 else type(x)(-1)


def _whole(function: Callable[[float], int]) -> Callable[[Number], Number]:
    def rounded(x: Number) -> Number:
        if isinstance(x, int) or math.isinf(x) or math.isnan(x):
            return x
        return math.copysign(float(function(x)), x)

    return rounded


def _logaddexp(x: float, y: float) -> float:
    if x == y:
        return x + math.log(2.0)
    top, low = (x, y) if x > y or x != x else (y, x)
    return top + math.log1p(math.exp(low - top)) if low > -INF else top + 0.0 * (low != low)


def _where(condition: bool, x: Number, y: Number) -> Number:
    return x if condition else y


class _Scalars:
    """The namespace of Python numbers: what an ``eval`` sees as ``xp`` inside a loop."""

    add, subtract, multiply = operator.add, operator.sub, operator.mul
    negative, positive, abs = operator.neg, operator.pos, abs
    divide, pow = staticmethod(_divide), staticmethod(_pow)
    floor_divide, remainder = staticmethod(_floor_divide), staticmethod(_remainder)
    reciprocal = staticmethod(lambda x: _divide(1.0, x))
    square = staticmethod(lambda x: x * x)
    sqrt = staticmethod(_ieee(math.sqrt))
    sign = staticmethod(_sign)
    floor, ceil = staticmethod(_whole(math.floor)), staticmethod(_whole(math.ceil))
    trunc, round = staticmethod(_whole(math.trunc)), staticmethod(_whole(round))
    exp, expm1 = staticmethod(_ieee(math.exp)), staticmethod(_ieee(math.expm1))
    log, log2 = staticmethod(_ieee(math.log, zero=-INF)), staticmethod(_ieee(math.log2, zero=-INF))
    log10 = staticmethod(_ieee(math.log10, zero=-INF))
    log1p = staticmethod(lambda x: -INF if x == -1 else _ieee(math.log1p)(x))
    logaddexp = staticmethod(_logaddexp)
    sin, cos, tan = map(staticmethod, map(_ieee, (math.sin, math.cos, math.tan)))
    asin, acos, atan = staticmethod(_ieee(math.asin)), staticmethod(_ieee(math.acos)), math.atan
    atan2, hypot = math.atan2, math.hypot
    sinh = staticmethod(lambda x: _ieee(math.sinh, overflow=math.copysign(INF, x))(x))
    cosh, tanh, asinh = staticmethod(_ieee(math.cosh)), math.tanh, math.asinh
    acosh = staticmethod(_ieee(math.acosh))
    atanh = staticmethod(lambda x: math.copysign(INF, x) if abs(x) == 1 else _ieee(math.atanh)(x))
    equal, not_equal = operator.eq, operator.ne
    less, less_equal, greater, greater_equal = operator.lt, operator.le, operator.gt, operator.ge
    logical_and = staticmethod(lambda x, y: bool(x) and bool(y))
    logical_or = staticmethod(lambda x, y: bool(x) or bool(y))
    logical_xor = staticmethod(lambda x, y: bool(x) != bool(y))
    logical_not = operator.not_
    isnan, isinf, isfinite = math.isnan, math.isinf, math.isfinite
    signbit = staticmethod(lambda x: math.copysign(1.0, x) < 0)
    bitwise_and, bitwise_or, bitwise_xor = operator.and_, operator.or_, operator.xor
    bitwise_invert = staticmethod(lambda x: not x if isinstance(x, bool) else ~x)
    bitwise_left_shift, bitwise_right_shift = operator.lshift, operator.rshift
    maximum, minimum = staticmethod(_maximum), staticmethod(_minimum)
    copysign = math.copysign
    where = staticmethod(_where)
    # A Python float has 53 bits already.
    widen = staticmethod(lambda x: x)
    narrow = staticmethod(lambda x, like: x)
    ones_like = staticmethod(lambda x: 1.0)


@functools.cache
def _scalar_kernels() -> dict[str, Callable[..., Any]]:
    kernels = bind_ops(Namespace(_Scalars))
    return {name: kernel for name, kernel in kernels.items() if OPS[name].kind == "elementwise"}


# Arrays that are looped over


class LoopArray:
    """An array whose arithmetic is a Python loop; ``data`` only holds the elements."""

    __slots__ = ("data",)
    __array_ufunc__ = None

    def __init__(self, data: Any) -> None:
        self.data = np.asarray(data)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        """NumPy's type of the elements."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim  # type: ignore[no-any-return]

    @property
    def T(self) -> LoopArray:  # noqa: N802
        """The axes reversed."""
        return LoopArray(self.data.T)

    def __getitem__(self, key: Any) -> LoopArray:
        items = key if isinstance(key, tuple) else (key,)
        return LoopArray(self.data[tuple(_data(item) for item in items)])

    def __bool__(self) -> bool:
        return bool(self.data)


def _data(x: Any) -> Any:
    return x.data if isinstance(x, LoopArray) else x


def _elements(x: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return the elements in order, repeated to a shape, as Python numbers."""
    return np.broadcast_to(_data(x), shape).ravel().tolist()  # type: ignore[no-any-return]


def _packed(values: list[Any], shape: tuple[int, ...], dtype: Any) -> LoopArray:
    """Return numbers as an array, rounded to its type; integers wrap as in every library."""
    with np.errstate(all="ignore"):
        try:
            return LoopArray(np.array(values, dtype=dtype).reshape(shape))
        except OverflowError:
            bits = 8 * np.dtype(dtype).itemsize
            wrapped = np.array([v & ((1 << bits) - 1) for v in values], dtype=f"uint{bits}")
            return LoopArray(wrapped.astype(dtype).reshape(shape))


def _common(op: Op, arrays: Sequence[Any]) -> Any:
    kinds = [dtypes.as_dtype(x.dtype) if isinstance(x, LoopArray) else x for x in arrays]
    return np.dtype(op.result_dtype(kinds, {}).name)


def looped(op: Op) -> Callable[..., LoopArray]:
    """Return an elementwise op as a loop over elements: its own ``eval`` is the body."""

    def kernel(*arrays: Any, **attrs: Any) -> LoopArray:
        given = [x for x in arrays if x is not None]
        common = _common(op, arrays)
        _check_numbers(op, given, common)
        shape = shapes.broadcast(*(x.shape if isinstance(x, LoopArray) else () for x in given))
        body = _scalar_kernels()[op.name]
        columns = [
            [None] * shapes.size(shape) if x is None else _elements(x, shape) for x in arrays
        ]
        values = []
        for element in zip(*columns, strict=True):
            values.append(body(*element, **attrs))
        return _packed(values, shape, common)

    return kernel


def _check_numbers(op: Op, given: list[Any], common: Any) -> None:
    """Raise where NumPy does and Python's numbers do not: they have no types of a few bits."""
    if common == np.bool_ and op.name in ("negative", "subtract", "sign"):
        raise TypeError("booleans have no difference and no sign; use ^ or ~")
    if common.kind in "iu":
        for x in given:
            if type(x) is int and not np.iinfo(common).min <= x <= np.iinfo(common).max:
                raise OverflowError(f"Python integer {x} is out of bounds for {common}")


def _operators() -> None:
    names = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow",
        "and": "bitwise_and", "or": "bitwise_or",
    }  # fmt: skip
    for short, name in names.items():
        kernel = looped(OPS[name])
        setattr(LoopArray, f"__{short}__", lambda x, y, kernel=kernel: kernel(x, y))
        setattr(LoopArray, f"__r{short}__", lambda x, y, kernel=kernel: kernel(y, x))
    compare = ("lt", "less"), ("le", "less_equal"), ("gt", "greater"), ("ge", "greater_equal")
    for short, name in (*compare, ("eq", "equal"), ("ne", "not_equal")):
        kernel = looped(OPS[name])
        setattr(LoopArray, f"__{short}__", lambda x, y, kernel=kernel: kernel(x, y))
    for short, name in (("neg", "negative"), ("abs", "abs"), ("invert", "bitwise_invert")):
        kernel = looped(OPS[name])
        setattr(LoopArray, f"__{short}__", lambda x, kernel=kernel: kernel(x))


# Reductions: a loop over the rows, and a loop along each


def _rows(x: LoopArray, axis: Any) -> tuple[list[list[Any]], tuple[int, ...], tuple[int, ...]]:
    """Return the elements that go into each result, the result's shape, and it with axes kept."""
    axes = shapes.normalize_axes(axis, x.ndim)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    moved = np.transpose(x.data, rest + axes)
    n = shapes.size(tuple(x.shape[a] for a in axes))
    count = shapes.size(tuple(x.shape[a] for a in rest))
    rows = moved.reshape(count, n).tolist()
    return rows, shapes.reduce(x.shape, axis), shapes.reduce(x.shape, axis, True)


def _reduction(name: str, fold: Callable[[list[Any]], Any]) -> Callable[..., LoopArray]:
    def reduce(x: LoopArray, axis: Any = None, keepdims: bool = False) -> LoopArray:
        OPS[name].shape(x.shape, axis=axis, keepdims=keepdims)
        rows, shape, kept = _rows(x, axis)
        values = [fold(row) for row in rows]
        return _packed(values, kept if keepdims else shape, _common(OPS[name], [x]))

    return reduce


def _sum(row: list[Any]) -> Any:
    total = 0
    for x in row:
        total += x
    return total


def _prod(row: list[Any]) -> Any:
    total = 1
    for x in row:
        total *= x
    return total


def _best(better: Callable[[Any, Any], bool]) -> Callable[[list[Any]], int]:
    def find(row: list[Any]) -> int:
        at = 0
        for i, x in enumerate(row):
            if row[at] != row[at]:
                break
            if x != x or better(x, row[at]):
                at = i
        return at

    return find


def _running(name: str, combine: Callable[[Any, Any], Any], start: int) -> Callable[..., LoopArray]:
    def scan(x: LoopArray, axis: int | None = None, include_initial: bool = False) -> LoopArray:
        shape = shapes.cumulative(x.shape, axis, include_initial=include_initial)
        at = shapes.normalize_axis(axis or 0, x.ndim)
        n = shapes.size(x.shape[:at] + x.shape[at + 1 :])
        rows = np.moveaxis(x.data, at, -1).reshape(n, x.shape[at]).tolist()
        values = []
        for row in rows:
            total: Any = start
            values += [total] if include_initial else []
            for element in row:
                total = combine(total, element)
                values.append(total)
        moved = (*shape[:at], *shape[at + 1 :], shape[at])
        packed = _packed(values, moved, _common(OPS[name], [x]))
        return LoopArray(np.moveaxis(packed.data, -1, at))

    return scan


_argmax, _argmin = _best(operator.gt), _best(operator.lt)


def matmul(x: LoopArray, y: LoopArray) -> LoopArray:
    """Return x @ y by three loops, added up in double precision."""
    shape = shapes.matmul(x.shape, y.shape)
    left = x.data[None, :] if x.ndim == 1 else x.data
    right = y.data[:, None] if y.ndim == 1 else y.data
    batch = shapes.broadcast(left.shape[:-2], right.shape[:-2])
    n = shapes.size(batch)
    left = np.broadcast_to(left, batch + left.shape[-2:]).reshape(n, *left.shape[-2:])
    right = np.broadcast_to(right, batch + right.shape[-2:]).reshape(n, *right.shape[-2:])
    values = []
    for a, b in zip(left.tolist(), right.mT.tolist(), strict=True):
        for row in a:
            for column in b:
                total = 0
                for i in range(len(row)):
                    total += row[i] * column[i]
                values.append(total)
    return _packed(values, shape, _common(OPS["matmul"], [x, y]))


def _moved(function: Callable[..., Any]) -> Callable[..., LoopArray]:
    """Return a function of NumPy that only moves elements, for loop arrays."""

    def move(x: Any, *arguments: Any, **settings: Any) -> LoopArray:
        if isinstance(x, list | tuple):
            return LoopArray(function([_data(item) for item in x], *arguments, **settings))
        return LoopArray(function(_data(x), *arguments, **settings))

    return move


class _Loops:
    """The array namespace of the looped device."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name, None)
        if found is None or name.startswith("_"):
            raise AttributeError(name)
        return found if isinstance(found, type) else _moved(found)


def _namespace() -> _Loops:
    xp = _Loops()
    for name, op in OPS.items():
        if op.kind == "elementwise" and op.primitive:
            setattr(xp, name, looped(op))
    for name, fold in {
        "sum": _sum, "prod": _prod, "argmax": _argmax, "argmin": _argmin,
        "max": lambda row: row[_argmax(row)], "min": lambda row: row[_argmin(row)],
        "any": lambda row: any(row), "all": lambda row: all(row),
    }.items():  # fmt: skip
        setattr(xp, name, _reduction(name, fold))
    xp.cumulative_sum = _running("cumulative_sum", operator.add, 0)
    xp.cumulative_prod = _running("cumulative_prod", operator.mul, 1)
    xp.matmul = matmul
    return xp


def _astype(x: LoopArray, dtype: Any) -> LoopArray:
    with np.errstate(all="ignore"):
        return LoopArray(x.data.astype(dtype))


class LoopsBackend(Backend):
    """The looped device: slow on purpose, plain enough to be read and believed."""

    name = "loops"

    @functools.cached_property
    def xp(self) -> Any:  # type: ignore[override]
        """Loops under the standard's names."""
        _operators()
        return _namespace()

    @functools.cached_property
    def overrides(self) -> dict[str, Callable[..., Any]]:  # type: ignore[override]
        """Every elementwise op as one loop over its ``eval``."""
        return {name: looped(op) for name, op in OPS.items() if op.kind == "elementwise"}

    def devices(self) -> Sequence[Hardware]:
        """Return the CPU."""
        return (Hardware("pure Python loops on the CPU"),)

    def asarray(self, host: Any, dtype: Any, index: int) -> LoopArray:
        """Return a host array wrapped, converted where its type differs."""
        with np.errstate(all="ignore"):
            return LoopArray(np.asarray(host, dtype=dtype))

    def to_numpy(self, array: Any) -> Any:
        """Return the elements as a NumPy array."""
        return array.data

    def astype(self, array: Any, dtype: Any) -> LoopArray:
        """Return the elements in another type."""
        return _astype(array, dtype)

    def add_at(self, index: int) -> Callable[..., Any]:
        """Return a loop that adds one value after another."""
        return _add_at

    def setitem(self, array: Any, key: Any, value: Any) -> LoopArray:
        """Return a copy of ``array`` with ``value`` at ``key``."""
        result = array.data.copy()
        result[tuple(_data(item) for item in key)] = value.data
        return LoopArray(result)

    def in_range(self, labels: Any, stop: int) -> bool:
        """Return whether all labels lie in 0 to stop - 1."""
        return all(0 <= label < stop for label in labels.data.ravel().tolist())


def _add_at(shape: tuple[int, ...], key: Any, values: LoopArray) -> LoopArray:
    """Return zeros with values added at key, element after element."""
    places = np.arange(shapes.size(shape)).reshape(shape)[tuple(_data(item) for item in key)]
    totals = [0] * shapes.size(shape)
    for place, value in zip(places.ravel().tolist(), values.data.ravel().tolist(), strict=True):
        totals[place] += value
    return _packed(totals, shape, values.dtype)


BACKEND = LoopsBackend()
