"""Arrays without values, and what notes the ops that meet them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from nnx import dtypes, shapes
from nnx.device import Device, Namespace
from nnx.dtypes import DType
from nnx.errors import TraceError
from nnx.graph import CHECK, FULL, IOTA, Eqn, Place, Var, infer
from nnx.op import OPS, Attrs, Op, recording
from nnx.scalar import Scalar, value_of
from nnx.tensor import Tensor

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def user_place() -> Place:
    """Return the file and line of the innermost caller outside of nnx."""
    frame = sys._getframe(1)
    found: Any = frame
    while found is not None and found.f_code.co_filename.startswith((_PACKAGE, "<string>")):
        found = found.f_back
    found = found or frame
    return found.f_code.co_filename, found.f_lineno


def refuse(what: str) -> NoReturn:
    """Raise TraceError for code that needs a value; it names the user's line."""
    file, number = user_place()
    if recording.trace is None:
        raise TraceError(
            f"{file}, line {number}: this tensor has no values. It was kept from a function while "
            f"that was traced by nnx.jit; return it from the function instead."
        )
    error = TraceError(
        f"{file}, line {number}: {what} needs the values of an array, and this function is being "
        f"traced by nnx.jit, where only its shape and type are known. Choose with nnx.where "
        f"instead of a branch, return the array and look at it outside, or leave this function "
        f"un-jitted (jit=False in fit)."
    )
    recording.trace.refused = error
    raise error


class Traced:
    """The array of a traced tensor: a value of the graph, with the operators of an array."""

    __slots__ = ("trace", "var")
    __array_ufunc__ = None

    def __init__(self, trace: Recorder, var: Var) -> None:
        self.trace, self.var = trace, var

    @property
    def shape(self) -> Any:
        """The sizes of the axes; the batch's may be a scalar."""
        return self.var.shape

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self.var.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.var.shape)

    @property
    def size(self) -> Any:
        """The number of elements."""
        return shapes.size(self.var.shape)

    @property
    def T(self) -> Any:  # noqa: N802 (the standard's name)
        """The axes in reverse."""
        axes = tuple(reversed(range(self.ndim)))
        return self.trace.call("permute_dims", self, axes=axes)

    def __getitem__(self, key: Any) -> Any:
        return self.trace.index(self, key if isinstance(key, tuple) else (key,))

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """The same values in another type."""
        return self.trace.call("astype", self, dtype=dtypes.as_dtype(dtype))

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> Any:
        return self.trace.call("equal", self, other)

    def __ne__(self, other: object) -> Any:
        return self.trace.call("not_equal", self, other)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        refuse("converting to NumPy")

    def __bool__(self) -> NoReturn:
        refuse("a branch on an array (if, while, and, or, not)")

    def __float__(self) -> NoReturn:
        refuse("float() or int()")

    __int__ = __index__ = __float__

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self.shape[0]))


def _install() -> None:
    names = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide",
        "floordiv": "floor_divide", "mod": "remainder", "pow": "pow", "and": "bitwise_and",
        "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "bitwise_left_shift",
        "rshift": "bitwise_right_shift", "matmul": "matmul",
    }  # fmt: skip
    comparisons = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
    unary = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}

    def forward(name: str) -> Any:
        return lambda self, other: self.trace.call(name, self, other)

    def reflected(name: str) -> Any:
        return lambda self, other: self.trace.call(name, other, self)

    def alone(name: str) -> Any:
        return lambda self: self.trace.call(name, self)

    for method, name in names.items():
        setattr(Traced, f"__{method}__", forward(name))
        setattr(Traced, f"__r{method}__", reflected(name))
    for method, name in comparisons.items():
        setattr(Traced, f"__{method}__", forward(name))
    for method, name in unary.items():
        setattr(Traced, f"__{method}__", alone(name))


_install()


class Recorder:
    """What makes eqns: the ops by name, and the namespace of rules and evals over it.

    ``lowering`` says which ops are kept; the others are worked out by their ``eval`` here.
    """

    def __init__(self, real: Device, lowering: Callable[[str], bool] | None = None) -> None:
        self.real = real
        self.eqns: list[Eqn] = []
        self.place: Place = ("", 0)
        self.lowering = lowering
        self.kernels: dict[str, Callable[..., Any]] = {}
        self.namespace = self._make_namespace()

    def record(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> Traced:
        """Note an op and return its result."""
        arrays = [x.var if isinstance(x, Traced) else x for x in inputs]
        out = infer(op, arrays, attrs)
        place = self.place if self.lowering else user_place()
        self.eqns.append(Eqn(op, arrays, attrs, out, place))
        return Traced(self, out)

    def call(self, name: str, *inputs: Any, **attrs: Any) -> Any:
        """Apply an op of the table to arrays and numbers, brought to one type as in eager mode."""
        op = OPS[name]
        if not all(isinstance(x, Traced) or _is_number(x) for x in inputs if x is not None):
            return NotImplemented
        if op.unifies:
            inputs = self._unified(op, inputs)
        return self.kernels[name](*inputs, **attrs)

    def _unified(self, op: Op, inputs: Sequence[Any]) -> tuple[Any, ...]:
        at = [i for i, x in enumerate(inputs) if i in op.values and x is not None]
        held = [inputs[i].dtype for i in at if isinstance(inputs[i], Traced)]
        numbers = [value_of(inputs[i]) for i in at if not isinstance(inputs[i], Traced)]
        if not held:
            return tuple(inputs)
        common = dtypes.result_dtype(held, numbers)
        if op.dtype == "float" and not common.is_floating:
            common = dtypes.float32
        return tuple(
            x.astype(common) if i in at and isinstance(x, Traced) and x.dtype is not common else x
            for i, x in enumerate(inputs)
        )

    def index(self, x: Traced, key: tuple[Any, ...]) -> Traced:
        """Return x at a key of numbers, slices, None, dots and arrays of integers."""
        template: list[Any] = []
        indices: list[Traced] = []
        for item in key:
            if isinstance(item, Traced):
                template.append(f"#{len(indices)}")
                indices.append(item)
            else:
                template.append(item)
        return self.kernels["getitem"](x, *indices, key=tuple(template))  # type: ignore[no-any-return]

    def full(self, shape: Any, value: Any, dtype: DType) -> Traced:
        """Return one value at every place."""
        return self.record(FULL, (), {"shape": tuple(shape), "value": value, "dtype": dtype})

    def iota(self, n: Any, dtype: DType) -> Traced:
        """Return 0 to n - 1."""
        return self.record(IOTA, (), {"n": n, "dtype": dtype})

    def scatter(self, shape: Any, key: tuple[Any, ...], values: Traced) -> Traced:
        """Return zeros with values added at a key."""
        template = tuple(f"#{i}" if isinstance(k, Traced) else k for i, k in _numbered(key))
        indices = [k for k in key if isinstance(k, Traced)]
        return self.record(
            OPS["scatter_add"], (values, *indices), {"key": template, "shape": tuple(shape)}
        )

    def found(self, bad: Traced) -> bool:
        """Note that no element may be true; see `nnx.ops.loss`."""
        self.record(CHECK, (bad,), {})
        return False

    def expect_finite(self, x: Tensor) -> None:
        """Note that no element may be NaN or infinite: else nothing of the call is assigned."""
        finite = self.call("isfinite", x.array)
        self.found(self.call("logical_not", finite))

    def in_range(self, labels: Traced, stop: Any) -> bool:
        """Note that whole numbers lie in 0 to stop - 1."""
        bad = self.call("greater_equal", labels, stop)
        if labels.dtype.kind == "int":
            bad = self.call("logical_or", self.call("less", labels, 0), bad)
        return not self.found(bad)

    def _make_namespace(self) -> Namespace:
        xp = Namespace(_NoLibrary())
        for name, op in OPS.items():
            if self.lowering is None or self.lowering(name):
                kernel = _recording(self, op)
            else:
                kernel = _evaluating(xp, op)
            self.kernels[name] = kernel
            if name not in ("concat", "stack"):
                setattr(xp, name, kernel)
        for name in ("concat", "stack"):
            setattr(xp, name, _listed(self.kernels[name]))
        xp.native = dtypes.as_dtype
        xp.float32 = dtypes.float32
        xp.dtype_of = lambda x: x.dtype
        xp.convert = lambda x, dtype: self.call("astype", x, dtype=dtypes.as_dtype(dtype))
        xp.astype = xp.convert
        xp.widen = self._widen
        xp.narrow = lambda x, like: x if x.dtype is like.dtype else xp.convert(x, like.dtype)
        xp.arange_like = lambda x, n: self.iota(n, x.dtype)
        xp.full_like = lambda x, value, dtype=None: self.full(x.shape, value, dtype or x.dtype)
        xp.ones_like = lambda x: self.full(x.shape, 1, x.dtype)
        xp.zeros_like = lambda x: self.full(x.shape, 0, x.dtype)
        xp.index, xp.add_at = self.index, self.scatter
        xp.in_range, xp.found = self.in_range, self.found
        xp.to_numpy = refuse_reading
        return xp

    def _widen(self, x: Traced) -> Traced:
        wide = dtypes.float64 if self.real.has(dtypes.float64) else dtypes.float32
        return x if x.dtype is wide else x.astype(wide)


def _numbered(key: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
    """Yield the items of a key, each with the number of arrays before it."""
    n = 0
    for item in key:
        yield n, item
        n += isinstance(item, Traced)


def _recording(recorder: Recorder, op: Op) -> Callable[..., Any]:
    n = op.n_inputs

    def kernel(*inputs: Any, **attrs: Any) -> Traced:
        if n is not None and len(inputs) > n:
            attrs = {**dict(zip(op.attr_names, inputs[n:], strict=False)), **attrs}
            inputs = inputs[:n]
        return recorder.record(op, inputs, attrs)

    return kernel


def _evaluating(xp: Namespace, op: Op) -> Callable[..., Any]:
    return lambda *inputs, **attrs: op.eval(xp, *inputs, **attrs)


def _listed(kernel: Callable[..., Any]) -> Callable[..., Any]:
    return lambda arrays, axis=0: kernel(*arrays, axis=axis)


def refuse_reading(array: Any) -> NoReturn:
    """Raise TraceError for an array that is taken to the host."""
    refuse("reading values (float(), .item(), .numpy(), printing, nnx.sort, nnx.unique_values)")


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | Scalar)


class _NoLibrary:
    """Stands where a device has its array library; there is none under tracing."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name!r} is no op that can be traced")
