"""The op entry, the tape's node, and `apply`, the one place where an op meets arrays.

An op is defined once for all devices: its name, shape rule, meaning and gradient stand together.
The meaning (``eval``) and the gradient (``vjp``) are written against a namespace ``xp``: arrays of
any library for speed, Python numbers for the looped reference, nnx's own tensors for higher
derivatives, symbols for the compilers.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from nnx import dtypes
from nnx.dtypes import DType
from nnx.errors import DeviceError, DTypeError, NnxError, ShapeError
from nnx.scalar import FloatScalar, IntScalar, value_of

if TYPE_CHECKING:
    from nnx.device import Device
    from nnx.tensor import Tensor

Rule = Callable[..., Any]
Attrs = dict[str, Any]

KINDS = ("elementwise", "reduce", "contract", "layout", "random")
DTYPE_RULES = ("same", "float", "bool", "index", "sum", "attr")

_ALL = range(sys.maxsize)  # positions of the inputs where their number is open

OPS: dict[str, Op] = {}
"""Every op by name: the table."""


class Op:
    """One entry of the table.

    ``eval(xp, *inputs, **attrs)`` is the value. ``vjp`` is the gradient: a tuple with one rule an
    input, each ``rule(xp, g, out, *inputs, **attrs)``, or one rule that returns all of them where
    the number of inputs is open; None where the derivative is zero or has no meaning.
    ``dtype`` says what comes out: the inputs' common type ("same"), the same but never an integer
    ("float"), "bool", "index" (int64), "sum" (integers widen to 64 bits), or "attr" (named by the
    caller). ``values`` are the positions of the inputs that share one type; they stand side by
    side, in the slice ``span``.
    """

    __slots__ = (
        "attr_names", "doc", "dtype", "eval", "input_names", "kind", "linear",
        "n_inputs", "n_positional", "name", "primitive", "shape", "span", "unifies", "values",
        "vjp", "weak",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: str,
        shape: Rule,
        eval: Rule,
        vjp: Rule | tuple[Rule | None, ...] | None,
        doc: str,
        *,
        dtype: str = "same",
        values: tuple[int, ...] | None = None,
        primitive: bool = False,
        linear: bool = False,
    ) -> None:
        code = eval.__code__
        names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        self.name, self.kind, self.doc = name, kind, doc
        self.shape, self.eval, self.vjp = shape, eval, vjp
        self.dtype, self.primitive, self.linear = dtype, primitive, linear
        self.n_inputs = None if code.co_flags & 0x04 else code.co_posonlyargcount - 1
        n_inputs = self.n_inputs or 0
        self.input_names = names[:n_inputs]
        self.attr_names = names[n_inputs:]
        # Of these, the ones before the bare * may be given by position.
        self.n_positional = code.co_argcount - 1 - n_inputs
        every = range(n_inputs) if self.n_inputs is not None else _ALL
        self.values: Sequence[int] = every if values is None else values
        self.span = slice(self.values[0], self.values[-1] + 1) if self.values else slice(0)
        # Only here may a Python number stand for an array; elsewhere it becomes one.
        self.weak = kind == "elementwise"
        # One input of any type needs no common type; `apply` then skips looking for one.
        self.unifies = bool(self.values) and (len(self.values) > 1 or dtype == "float")

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def result_dtype(self, inputs: list[DType | bool | int | float | None], attrs: Attrs) -> DType:
        """Return the data type of the result for inputs given as types or Python numbers."""
        if self.dtype == "bool":
            return dtypes.bool_
        if self.dtype == "index":
            return dtypes.int64
        if self.dtype == "attr":
            named = attrs.get("dtype")
            return dtypes.float32 if named is None else dtypes.as_dtype(named)
        values = [x for i, x in enumerate(inputs) if i in self.values and x is not None]
        common = dtypes.result_dtype(
            [v for v in values if isinstance(v, DType)],
            [v for v in values if isinstance(v, bool | int | float)],
        )
        if self.dtype == "float" and not common.is_floating:
            return dtypes.float32
        if self.dtype == "sum" and not common.is_floating:
            return dtypes.uint64 if common.kind == "uint" else dtypes.int64
        return common


def op(
    kind: str,
    *,
    vjp: Rule | tuple[Rule | None, ...] | None = None,
    shape: Rule,
    dtype: str = "same",
    values: tuple[int, ...] | None = None,
    primitive: bool = False,
    linear: bool = False,
) -> Callable[[Rule], Callable[..., Tensor]]:
    """Enter the decorated ``eval`` into the table and return the function that users call."""

    def enter(evaluate: Rule) -> Callable[..., Tensor]:
        name = evaluate.__name__.strip("_")
        if kind not in KINDS or dtype not in DTYPE_RULES or name in OPS:
            raise ValueError(f"op {name!r}: kind {kind!r}, dtype {dtype!r}, or the name is taken")
        entry = Op(
            name, kind, shape, evaluate, vjp, evaluate.__doc__ or "",
            dtype=dtype, values=values, primitive=primitive, linear=linear,
        )  # fmt: skip
        OPS[name] = entry
        return _public(entry)

    return enter


def primitive(
    name: str,
    kind: str,
    parameters: Rule,
    doc: str,
    *,
    vjp: Rule | tuple[Rule | None, ...] | None = None,
    shape: Rule,
    dtype: str = "same",
    linear: bool = False,
) -> Callable[..., Tensor]:
    """Enter an op that every array library has under the standard's name.

    ``parameters`` is a function with the standard's signature; its body is the call itself.
    """
    parameters.__name__ = name
    parameters.__doc__ = doc
    return op(kind, vjp=vjp, shape=shape, dtype=dtype, primitive=True, linear=linear)(parameters)


def _public(entry: Op) -> Callable[..., Tensor]:
    """Return the function behind ``nnx.<name>``; positional and keyword forms both work."""
    n_inputs = entry.n_inputs

    def call(*inputs: Any, **attrs: Any) -> Tensor:
        if attrs or len(inputs) != n_inputs:
            inputs, attrs = _bind(entry, inputs, attrs)
        return apply(entry, inputs, attrs)

    call.__name__ = call.__qualname__ = entry.name
    call.__doc__ = entry.doc
    call.__module__ = entry.eval.__module__
    call.__wrapped__ = entry.eval  # type: ignore[attr-defined]
    call.op = entry  # type: ignore[attr-defined]
    return call


def _bind(entry: Op, inputs: tuple[Any, ...], attrs: Attrs) -> tuple[tuple[Any, ...], Attrs]:
    """Sort a call's arguments into array inputs and attributes."""
    if entry.n_inputs is not None:
        inputs, attrs = _by_name(entry, inputs, attrs)
    wanted = attrs.pop("dtype", None) if entry.kind == "reduce" else None
    if wanted is not None:
        # The standard lets reductions convert first; that is astype's work.
        to = {"dtype": dtypes.as_dtype(wanted)}
        inputs = (apply(OPS["astype"], inputs[:1], to), *inputs[1:])
    unknown = sorted(attrs.keys() - set(entry.attr_names))
    if unknown:
        allowed = ", ".join(entry.input_names + entry.attr_names)
        hint = _ELSEWHERE.get(unknown[0], "").format(name=entry.name)
        raise TypeError(f"{entry.name}() has no argument {unknown[0]!r}; it takes {allowed}.{hint}")
    if entry.dtype == "attr" and attrs.get("dtype") is not None:
        # A name, such as "int64", means nothing to most libraries.
        attrs["dtype"] = dtypes.as_dtype(attrs["dtype"])
    return inputs, attrs


_ELSEWHERE = {
    "dim": " What PyTorch calls dim is axis.",
    "keepdim": " What PyTorch calls keepdim is keepdims.",
    "ddof": " What NumPy calls ddof is correction.",
    "out": " NumPy's functions do not run on tensors: call nnx.{name}(x).",
}


def _by_name(entry: Op, inputs: tuple[Any, ...], attrs: Attrs) -> tuple[tuple[Any, ...], Attrs]:
    """Move inputs given by keyword, and attributes given by position, to where they belong."""
    n_inputs = len(entry.input_names)
    extra = inputs[n_inputs:]
    if len(extra) > entry.n_positional:
        allowed = ", ".join((*entry.input_names, *entry.attr_names[: entry.n_positional]))
        raise TypeError(
            f"{entry.name}() takes {allowed} by position, got {len(inputs)} arguments. Give a "
            f"shape or several axes as one tuple, and the rest by name."
        )
    attrs = {**dict(zip(entry.attr_names, extra, strict=False)), **attrs}
    given = list(inputs[:n_inputs])
    for name in entry.input_names[len(given) :]:
        given.append(attrs.pop(name, None))
    while len(given) > 1 and given[-1] is None:
        given.pop()
    return tuple(given), attrs


class Node:
    """A record on the tape: the op, what went in, what came out.

    ``tracked`` are the positions of the inputs that gradients flow to; ``version`` is the sum of
    the inputs' versions, which every write raises.
    """

    __slots__ = (
        "arrays",
        "attrs",
        "device",
        "inputs",
        "op",
        "out",
        "sequence",
        "tracked",
        "version",
    )

    def __init__(
        self,
        op: Op,
        inputs: tuple[Any, ...],
        arrays: list[Any],
        attrs: Attrs,
        out: Any,
        device: Device,
        version: int,
        tracked: list[int],
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.arrays: list[Any] | None = arrays
        self.attrs = attrs
        self.out = out
        self.device = device
        self.version = version
        self.tracked = tracked
        self.sequence = _next_sequence()

    def __repr__(self) -> str:
        return f"<node {self.op.name} #{self.sequence}>"


_next_sequence = itertools.count().__next__


class _Recording(threading.local):
    on = True
    depth = 0
    trace: Any = None


class _Changes:
    n = 0


changes = _Changes()
"""How often a setting of any module or optimizer was set: compiled functions then look again."""

recording = _Recording()
"""Whether this thread's ops go on the tape, how many gradient functions enclose them, and the trace
that notes them, if one is open."""

_tensor_class: type[Tensor]
_to_tensor: Callable[[Any, Device | None], Tensor]


def bind_tensor(cls: type[Tensor], convert: Callable[[Any, Device | None], Tensor]) -> None:
    """Tell `apply` the class of its results (tensor.py stands above this file)."""
    global _tensor_class, _to_tensor
    _tensor_class, _to_tensor = cls, convert


def apply(op: Op, inputs: tuple[Any, ...], attrs: Attrs) -> Tensor:
    """Run one op on the device of its inputs and, where a gradient may be asked, record it.

    Raises: DeviceError for inputs of two devices; ShapeError and DTypeError where the array
    library refuses, in the words of the op's shape rule.
    """
    device: Device | None = None
    version = 0
    arrays: list[Any] = []
    tracked: list[int] = []
    if recording.trace is not None:
        recording.trace.lift_all(inputs)
    for x in inputs:
        if isinstance(x, _tensor_class):
            if x.device is not device:
                if device is not None:
                    _raise_mixed(op, inputs)
                device = x.device
            if x.requires_grad:
                tracked.append(len(arrays))
            version += x.version
            arrays.append(x.array)
        elif x is None or (type(x) in _PLAIN and op.weak):
            arrays.append(x)
        else:
            return _apply_to_others(op, inputs, attrs)
    if device is None:
        return apply(op, _as_tensors(op, inputs), attrs)
    if op.unifies:
        arrays = _unify(op, device, arrays)
    try:
        out = device.kernels[op.name](*arrays, **attrs)
    except Exception as error:
        explain(op, inputs, attrs, error)
    result = _tensor_class(out, device)
    if tracked and op.vjp is not None and recording.on:
        result.requires_grad = True
        result.node = Node(op, inputs, arrays, attrs, out, device, version, tracked)
    return result


def _apply_to_others(op: Op, inputs: tuple[Any, ...], attrs: Attrs) -> Tensor:
    """Run an op on what is no tensor: a symbol notes it, host data becomes a tensor first."""
    for x in inputs:
        record = getattr(type(x), "record_op", None)
        if record is not None:
            return record(x, op, inputs, attrs)  # type: ignore[no-any-return]
    return apply(op, _as_tensors(op, inputs), attrs)


_PLAIN = frozenset({float, int, bool, type(None), IntScalar, FloatScalar})


def _as_tensors(op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Bring host arrays, lists and lone numbers to the device of the tensors among the inputs."""
    device = next((x.device for x in inputs if isinstance(x, _tensor_class)), None)
    # numpy.float64 is a Python float, and as weak.
    values = [float(x) if isinstance(x, float) else x for x in inputs]
    lone = device is None and all(type(x) in _PLAIN for x in values)
    keep_numbers = op.weak and not lone
    converted: list[Any] = []
    for x in values:
        if x is None or isinstance(x, _tensor_class) or (keep_numbers and type(x) in _PLAIN):
            converted.append(x)
        else:
            converted.append(_to_tensor(x, device))
            device = converted[-1].device
    return tuple(converted)


def _unify(op: Op, device: Device, arrays: list[Any]) -> list[Any]:
    """Give the value inputs one data type, so that every library computes the same."""
    common = None
    wants_float = op.dtype == "float"
    wants_number = False
    for x in arrays[op.span]:
        kind = type(x)
        if kind not in _PLAIN:
            dtype = x.dtype
            if common is None:
                common = dtype
            elif dtype is not common and dtype != common:
                return _convert(op, device, arrays)
        elif kind is float or kind is FloatScalar:
            wants_float = True
        elif kind is int or kind is IntScalar:
            wants_number = True
    if wants_float:
        return arrays if common in device.floating else _convert(op, device, arrays)
    if common is None or (wants_number and common not in device.numeric):
        return _convert(op, device, arrays)
    return arrays


def _convert(op: Op, device: Device, arrays: list[Any]) -> list[Any]:
    positions = [i for i, x in enumerate(arrays) if i in op.values and x is not None]
    scalars = [value_of(arrays[i]) for i in positions if not hasattr(arrays[i], "dtype")]
    held = [device.dtype_of(arrays[i]) for i in positions if hasattr(arrays[i], "dtype")]
    common = dtypes.result_dtype(held, scalars)
    if op.dtype == "float" and not common.is_floating:
        common = dtypes.float32
    native = device.native(device.nearest(common))
    result = list(arrays)
    for i in positions:
        if hasattr(arrays[i], "dtype"):
            result[i] = device.namespace.astype(arrays[i], native)
        elif not held:
            # A choice between two Python numbers, as in where(condition, 1.0, 0.0).
            like = next(x for x in arrays if hasattr(x, "dtype"))
            result[i] = device.namespace.full_like(like, arrays[i], dtype=native)
    return result


def _describe(x: Any) -> str:
    if not isinstance(x, _tensor_class):
        return repr(x)
    name = getattr(x, "name", None)
    return f"{f'parameter {name!r}' if name else 'array'} of shape {x.shape} on {x.device.name!r}"


def _raise_mixed(op: Op, inputs: tuple[Any, ...]) -> NoReturn:
    tensors = [x for x in inputs if isinstance(x, _tensor_class)]
    first = tensors[0]
    other = next(x for x in tensors if x.device is not first.device)
    raise DeviceError(
        f"{op.name}: {_describe(first)} met {_describe(other)}. Arrays never move between devices "
        f"inside an operation: move one first, as in x.to({first.device.name!r})."
    )


def listed(inputs: Sequence[Any]) -> str:
    """Return the types and shapes of the arrays and tensors among an op's inputs, in words."""
    return ", ".join(f"{x.dtype} {tuple(x.shape)}" for x in inputs if hasattr(x, "dtype"))


def explain(op: Op, inputs: tuple[Any, ...], attrs: Attrs, error: Exception) -> NoReturn:
    """Raise what stopped an op as an nnx error: by its shape rule if that refuses too."""
    if isinstance(error, ShapeError) and not str(error).startswith(op.name):
        raise ShapeError(f"{op.name}: {error}") from None
    if isinstance(error, NnxError):
        raise error
    if isinstance(error, MemoryError):
        where = next(x.device for x in inputs if isinstance(x, _tensor_class))
        raise where.out_of_memory(f"{op.name} of {listed(inputs)}", error) from None
    shapes = [
        x.shape if isinstance(x, _tensor_class) else None if x is None else () for x in inputs
    ]
    try:
        op.shape(*shapes, **attrs)
    except ShapeError as reason:
        raise ShapeError(f"{op.name}: {reason}") from None
    except TypeError:
        pass  # the rule cannot say more about what has no shape
    if isinstance(error, TypeError | OverflowError | NotImplementedError | ValueError):
        given = ", ".join(
            f"{x.dtype} {x.shape}" if isinstance(x, _tensor_class) else repr(x)[:40] for x in inputs
        )
        raise DTypeError(f"{op.name} does not take ({given}) with {attrs}: {error}") from error
    raise error
