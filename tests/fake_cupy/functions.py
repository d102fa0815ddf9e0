"""The stand-in's functions: ufuncs with CuPy's own loops, reductions, creation, indexing.

The loops are those that CuPy 14.2 lists as `ufunc.types`, E being bfloat16; a test compares them
where CuPy is installed. A loop of 16 bits computes in float32 and rounds, as CuPy's kernels do.
Results are in C order.
"""

from __future__ import annotations

import builtins
import math

import numpy as np

from tests.fake_cupy.arrays import SCALARS, ndarray, new, operand, seen, usable

try:
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
except ImportError:
    BFLOAT16 = None

INTEGERS = "bBhHiIlLqQ"


def _same(n, characters):
    return [f"{c * n}->{c}" for c in characters]


_ARITHMETIC = _same(2, "?" + INTEGERS + "eEfd")
_INTEGER_FIRST = _same(2, INTEGERS + "eEfd")
_ONE = _same(1, "?" + INTEGERS + "eEfd")
_COMPARED = ["??->?", "qq->?", "QQ->?", "qQ->?", "Qq->?", "ee->?", "EE->?", "ff->?", "dd->?"]

_DIVIDED = ["qq->d", "qQ->d", "Qq->d", "QQ->d", *_same(2, "eEfd")]
_FLOATING = _same(1, "eEfd")
_PAIRS = _same(2, "eEfd")
_ASKED = [f"{c}->?" for c in "eEfd"]
_BITS = _same(2, "?" + INTEGERS)

_GROUPS = {
    "add subtract multiply maximum minimum": _ARITHMETIC,
    "divide true_divide": _DIVIDED,
    "floor_divide remainder fmod": _INTEGER_FIRST,
    "power": ["??->b", *_INTEGER_FIRST],
    "negative positive absolute abs floor ceil trunc": _ONE,
    "sign square reciprocal": _ONE[1:],
    "sqrt rint exp expm1 log log1p log2 log10 sin cos tan arcsin arccos arctan sinh cosh tanh "
    "arcsinh arccosh arctanh": _FLOATING,
    "logaddexp arctan2 hypot copysign nextafter": _PAIRS,
    "equal not_equal less less_equal greater greater_equal logical_and logical_or": _COMPARED,
    "logical_xor": [f"{c * 2}->?" for c in "?" + INTEGERS + "efd"],
    "logical_not": [f"{c}->?" for c in "?" + INTEGERS + "efd"],
    "isnan isinf isfinite signbit": _ASKED,
    "bitwise_and bitwise_or bitwise_xor": _BITS,
    "invert": _same(1, "?" + INTEGERS),
    "left_shift right_shift": _BITS[1:],
    "_where_ufunc": ["???->?", *(f"?{c * 2}->{c}" for c in INTEGERS + "efd")],
    "erf erfc": ["e->d", "f->f", "d->d"],
}
LOOPS = {name: loops for names, loops in _GROUPS.items() for name in names.split()}


def _dtype(char):
    return BFLOAT16 if char == "E" else np.dtype(char)


def _floor_divide(x, y):
    if np.issubdtype(np.result_type(x, y), np.integer):
        return np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y)))
    return np.floor(x / y)


def _remainder(x, y):
    product = _floor_divide(x, y) * y  # the formula of CuPy's kernel, NaN for a finite x and inf
    return (x - product) * (y != 0) if np.issubdtype(product.dtype, np.integer) else x - product


def _logaddexp(x, y):
    tail = np.log1p(np.exp(-np.abs(x - y)))
    return np.where(x == y, x + np.log(2.0, dtype=x.dtype), np.fmax(x, y) + tail)


def _erf(function):
    return np.vectorize(function, otypes=[np.float64])


FORMULAS = {
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "logaddexp": _logaddexp,
    "_where_ufunc": np.where,
    "erf": _erf(math.erf),
    "erfc": _erf(math.erfc),
}


class ufunc:  # noqa: N801 (CuPy's name)
    """An elementwise kernel."""

    def __init__(self, name):
        self.name = name
        self.types = [loop for loop in LOOPS[name] if "E" not in loop or BFLOAT16 is not None]
        self.formula = FORMULAS.get(name) or getattr(np, name)

    def __call__(self, *args, out=None, dtype=None):
        if len(args) != len(self.types[0].partition("->")[0]):
            raise TypeError(f"Wrong number of arguments for {self.name!r}")
        hosts = [operand(x) for x in args]
        given, result = self._loop(hosts)
        wide = [np.dtype(np.float32) if d.itemsize == 2 and d.kind in "fV" else d for d in given]
        with np.errstate(all="ignore"):
            cast = [np.asarray(x).astype(d) for x, d in zip(hosts, given, strict=True)]
            cast = [x.astype(d) for x, d in zip(cast, wide, strict=True)]
            values = np.asarray(self.formula(*cast)).astype(result)
        if out is None:
            return new(values)
        usable(out)[...] = values
        return out

    def _loop(self, hosts):
        """Return the types of the first loop that holds all operands."""
        arrays = [x.dtype for x in hosts if isinstance(x, np.ndarray | np.generic)]
        for loop in self.types:
            taken, _, made = loop.partition("->")
            types = [_dtype(c) for c in taken]
            if builtins.all(_fits(x, d) for x, d in zip(hosts, types, strict=True)):
                return types, _dtype(made)
        raise TypeError(f"Wrong type ({arrays}) of arguments for {self.name}")


def _fits(x, dtype):
    """Return whether a loop's type holds an operand: `_guess_routine_from_in_types`."""
    if isinstance(x, np.ndarray | np.generic):
        return np.can_cast(x.dtype, dtype)
    if np.can_cast(np.result_type(type(x)), dtype):
        return True
    try:
        # A Python float beside bfloat16 is a float64, as ml_dtypes has it.
        return np.result_type(type(x)(0), dtype) == dtype
    except TypeError:
        return False


UFUNCS = {name: ufunc(name) for name in LOOPS}


def where(condition, x, y):
    return UFUNCS["_where_ufunc"](condition.astype("?", copy=False), x, y)


# Operators


def _operator(name, reflected=False):
    kernel = UFUNCS[name]

    def apply(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            if getattr(other, "__array_ufunc__", 0) is None:
                return NotImplemented
            raise TypeError(f"Unsupported type {type(other)}")
        return kernel(other, self) if reflected else kernel(self, other)

    return apply


def _in_place(name):
    def apply(self, other):
        return UFUNCS[name](self, other, out=self)

    return apply


for _op, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
    "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_op}__", _operator(_name))
    setattr(ndarray, f"__r{_op}__", _operator(_name, reflected=True))
    setattr(ndarray, f"__i{_op}__", _in_place(_name))
for _op, _name in {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_op}__", _operator(_name))


def _unary_operator(name):
    return lambda self: UFUNCS[name](self)


for _op, _name in {
    "neg": "negative",
    "pos": "positive",
    "abs": "absolute",
    "invert": "invert",
}.items():
    setattr(ndarray, f"__{_op}__", _unary_operator(_name))


# Reductions: those of 16 bits accumulate in float32 and round at the end


def _reduction(name, types, kind=None):
    formula = getattr(np, name)

    def reduce(a, axis=None, dtype=None, out=None, keepdims=False):
        host = usable(a)
        if host.dtype.name not in types:
            raise TypeError(f"Wrong type ({host.dtype}) of arguments for cupy_{name}")
        half = host.dtype.itemsize == 2 and host.dtype.kind in "fV"
        settings = {"keepdims": keepdims}
        if dtype is not None:
            settings["dtype"] = dtype
        with np.errstate(all="ignore"):
            found = formula(host.astype(np.float32) if half else host, axis, **settings)
        found = np.asarray(found)
        if half and kind is None:
            found = found.astype(host.dtype)
        return new(found if kind is None else found.astype(kind))

    reduce.__name__ = name
    return reduce


_WHOLE = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_FLOATS = {"float16", "float32", "float64"}
_WITH_BFLOAT16 = _WHOLE | _FLOATS | {"bfloat16"}

sum = _reduction("sum", _WITH_BFLOAT16)
prod = _reduction("prod", _WITH_BFLOAT16)
max = amax = _reduction("max", _WITH_BFLOAT16)
min = amin = _reduction("min", _WITH_BFLOAT16)
any = _reduction("any", _WHOLE | _FLOATS, bool)
all = _reduction("all", _WHOLE | _FLOATS, bool)
argmax = _reduction("argmax", _WHOLE | _FLOATS, np.int64)
argmin = _reduction("argmin", _WHOLE | _FLOATS, np.int64)


def _scan(name):
    formula = getattr(np, name)

    def scan(a, axis=None, dtype=None, out=None):
        host = usable(a)
        if host.dtype.name == "bfloat16":
            raise TypeError(f"bfloat16 has no {name}")  # NVRTC does not compile its kernel
        with np.errstate(all="ignore"):
            return new(formula(host, axis, dtype))

    return scan


cumsum, cumprod = _scan("cumsum"), _scan("cumprod")

for _name in ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin"):
    setattr(ndarray, _name, globals()[_name])


# Creation


def _filled(shape, value, dtype):
    made = ndarray(shape, dtype)
    made.fill(value)
    return made


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype)  # with what was left in the memory


def zeros(shape, dtype=float, order="C"):
    return _filled(shape, 0, dtype)


def ones(shape, dtype=float, order="C"):
    return _filled(shape, 1, dtype)


def full(shape, fill_value, dtype=None, order="C"):
    return _filled(shape, fill_value, np.asarray(fill_value).dtype if dtype is None else dtype)


def _like(make):
    def like(a, *arguments, dtype=None, order="K", subok=None, shape=None):
        return make(a.shape if shape is None else shape, *arguments, dtype=dtype or a.dtype)

    return like


empty_like, zeros_like, ones_like, full_like = map(_like, (empty, zeros, ones, full))


def arange(start, stop=None, step=1, dtype=None):
    return new(np.arange(start, stop, step, dtype))


def eye(N, M=None, k=0, dtype=float):  # noqa: N803 (NumPy's name)
    return new(np.eye(N, M, k, dtype))


def linspace(start, stop, num=50, endpoint=True, dtype=None):
    return new(np.linspace(start, stop, num, endpoint, dtype=dtype))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, blocking=False):
    if isinstance(obj, ndarray):
        wanted = obj.dtype if dtype is None else np.dtype(dtype)
        if wanted == obj.dtype and not copy:
            return obj
        with obj.device:
            return obj.astype(wanted)
    host = np.asarray(obj, dtype)
    if not host.dtype.isnative or host.dtype.kind not in "biufV":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    return new(host)


def asarray(a, dtype=None, order=None, *, blocking=False):
    return array(a, dtype, copy=False)


def ascontiguousarray(a, dtype=None):
    if a.flags.c_contiguous and a.ndim and dtype in (None, a.dtype):
        return a
    return new(usable(a))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order) if isinstance(a, ndarray) else np.asarray(a)


def from_dlpack(obj, *, device=None, copy=None):
    kind, _ = obj.__dlpack_device__()
    if kind != 2:
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    theirs = obj.__dlpack__(stream=1, copy=copy).array
    return seen(theirs, theirs._host)


# Layout


def concatenate(arrays, axis=0):
    return new(np.concatenate([usable(a) for a in arrays], axis))


def stack(arrays, axis=0):
    return new(np.stack([usable(a) for a in arrays], axis))


def reshape(a, shape, order="C"):
    return a.reshape(shape)


def transpose(a, axes=None):
    return seen(a, np.transpose(usable(a), axes))


def swapaxes(a, i, j):
    return a.swapaxes(i, j)


def expand_dims(a, axis):
    return seen(a, np.expand_dims(usable(a), axis))


def squeeze(a, axis=None):
    return a.squeeze(axis)


def broadcast_to(a, shape):
    return seen(a, np.broadcast_to(usable(a), shape))


def flip(a, axis=None):
    return seen(a, np.asarray(np.flip(usable(a), axis)))


def roll(a, shift, axis=None):
    return new(np.roll(usable(a), shift, axis))


def tile(a, repetitions):
    return new(np.tile(usable(a), repetitions))


def repeat(a, repeats, axis=None):
    return new(np.repeat(usable(a), repeats, axis))


def tril(a, k=0):
    return new(np.tril(usable(a), k))


def triu(a, k=0):
    return new(np.triu(usable(a), k))


def round(a, decimals=0, out=None):
    return new(np.round(usable(a), decimals))


def sort(a, axis=-1):
    return new(np.sort(usable(a), axis))


def matmul(x, y):
    """Only what is left to CuPy: products of integers."""
    if {x.dtype.kind, y.dtype.kind} - set("biu"):
        raise AssertionError("a product of floats goes through cuBLAS")
    return new(np.matmul(usable(x), usable(y)))


def vecdot(x, y, axis=-1):
    raise AssertionError("nnx forms dot products itself")
