"""Symbols: values that are not there yet, of which `nnx.nn.Model` is put together.

Ops and modules called on symbols compute shapes and types alone, note the call, and give symbols.
"""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from nnx import dtypes, shapes
from nnx.device import Device
from nnx.dtypes import DType, as_dtype
from nnx.errors import DataError, DTypeError, ShapeError, TraceError
from nnx.graph import Var, infer
from nnx.host import to_host
from nnx.op import Attrs, Op
from nnx.recorder import Traced
from nnx.scalar import Facts, Scalar, Sizes, variable
from nnx.tensor import Parameter, Tensor, asarray
from nnx.trace import Trace, tracing

if TYPE_CHECKING:
    from nnx.nn.module import Module


class _Unknown(Facts):
    """What is known of the size of a batch that is not there yet: it has a name, B, no value."""

    def require(self, text: str, outcome: bool) -> None:
        """Note nothing: each call computes anew with its own size."""

    def pin(self, scalar: Scalar) -> NoReturn:
        """Refuse to give a value."""
        raise DataError(
            "The size of the batch is not known while a model is put together of symbols, so it is "
            "no Python number. Use it in shapes only, or write an nn.Module, whose forward sees it."
        )

    def shown(self, scalar: Scalar, spec: str = "") -> str:
        """Return the size's name."""
        return scalar.text


FACTS = _Unknown()
# A prime that no layer has: a comparison with another size then finds them different.
BATCH = variable(FACTS, "B", 2**31 - 1)
"""The size of the first axis of every `Input`."""


Form = tuple[Any, DType]
"""Shape and type of a value."""


class Node:
    """A call that made symbols: ``target``, an op or a module, of ``args`` and ``settings``."""

    __slots__ = ("args", "forms", "number", "settings", "target")

    def __init__(self, target: Op | Module, args: Any, settings: dict[str, Any]) -> None:
        self.target, self.args, self.settings = target, args, settings
        self.forms: list[Form] = []
        self.number = _next_number()

    def result(self, shape: Sequence[Any], dtype: DType) -> Symbol:
        """Return the symbol of one more result."""
        self.forms.append((shape, dtype))
        return Symbol(shape, dtype, self, len(self.forms) - 1)

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.target.name if isinstance(self.target, Op) else self.target._label()

    def leaves(self) -> Iterator[Any]:
        """Yield what went in, out of the structures that it came in."""
        return leaves((self.args, self.settings))


_next_number = itertools.count().__next__


class Symbol:
    """A value that is not there yet: a shape that begins with the batch B, and a data type.

    It has the operators and methods of a `Tensor`, and nnx's functions and modules take it. An
    array beside it becomes a constant of the model, floats of the host in the symbol's type; a
    `Parameter` is learned. Make the first ones with `Input`, and a network of them with `Model`.
    """

    # NumPy leaves operators with a symbol to it.
    __array_ufunc__ = None

    def __init__(
        self, shape: Sequence[Any], dtype: DType, node: Node | None = None, place: int = 0
    ) -> None:
        self.shape: Any = Sizes(shape)
        self.dtype = dtype
        self.node, self.place = node, place
        self.name: str | None = None

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    else:

        def __getattr__(self, name: str) -> Any:
            if name in _OF_VALUES:
                self._refuse(f".{name}")
            raise AttributeError(f"A symbol has no attribute {name!r}: {self!r}.")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> Any:
        """The number of elements, the batch's size B in it."""
        return shapes.size(self.shape)

    def index_arrays(self, item: Any) -> list[Any]:
        """Return the integer array that an index means."""
        index = item if isinstance(item, Symbol) else asarray(item)
        if index.dtype.kind not in ("int", "uint"):
            raise DTypeError(
                f"A symbol is indexed by numbers, slices and integers, got {index.dtype}. How many "
                f"booleans are true is not known yet: use nnx.where."
            )
        return [index]

    def record_op(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> Symbol:
        """Note an op and return its result; `nnx.op.apply` calls this."""
        args = tuple(_operand(x, inputs, op.weak) for x in inputs)
        kinds = [Var(x.shape, x.dtype) if isinstance(x, Symbol | Tensor) else x for x in args]
        try:
            out = infer(op, kinds, attrs)
        except ShapeError as error:
            told = str(error)
            raise ShapeError(told if told.startswith(op.name) else f"{op.name}: {told}") from None
        return Node(op, args, dict(attrs)).result(out.shape, out.dtype)

    def __repr__(self) -> str:
        of = f" of {self.node.label}" if self.node else f" {self.name!r}" if self.name else ""
        kind = "input" if self.node is None else "symbol"
        return f"<{kind}{of}: {self.dtype}{_text(self.shape)}>"

    __hash__ = object.__hash__

    # What needs values

    def _refuse(self, what: str) -> NoReturn:
        raise DTypeError(
            f"{what} needs values, and this is a symbol: {self!r} stands for a value that is not "
            f"there yet. Make a network, nn.Model(inputs, outputs), and call that on data; or "
            f"compute with nnx's functions, which take symbols."
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("Converting to NumPy")

    def __float__(self) -> NoReturn:
        self._refuse("float() or int()")

    __int__ = __index__ = __complex__ = __float__

    def __bool__(self) -> NoReturn:
        self._refuse("A branch (if, while, and, or, not)")

    def __iter__(self) -> NoReturn:
        self._refuse("A loop over the rows")

    def __len__(self) -> NoReturn:
        self._refuse("len()")

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self._refuse("x[key] = value")


def _text(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


_ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor",
    "lshift", "rshift",
)  # fmt: skip
_OTHERS = ("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
_OF_VALUES = frozenset({
    "numpy", "item", "tolist", "device", "to", "to_device", "detach", "backward", "grad", "array",
    "assign", "version", "requires_grad",
})  # fmt: skip

_OWN = frozenset({"shape", "dtype", "node", "name"})


def _install() -> None:
    """Give symbols the operators and methods of tensors, which all end in ops."""
    names = [f"__{part}{name}__" for name in _ARITHMETIC for part in ("", "r")]
    names += [f"__{name}__" for name in _OTHERS]
    names += [n for n in vars(Tensor) if not n.startswith("_") and n not in _OF_VALUES | _OWN]
    for name in names:
        if name in vars(Tensor) and name not in vars(Symbol):
            setattr(Symbol, name, vars(Tensor)[name])


_install()


class Input(Symbol):
    """What a model starts from: a batch of arrays of one shape and type, float32 if not given.

    ``shape`` is that of one example, a number for a vector; the batch's axis comes before it. By
    ``name`` the model takes it from a dict. Raises: DataError for sizes that are not whole.

    >>> Input((4,), name="flower")
    <input 'flower': float32(B, 4)>
    """

    def __init__(
        self, shape: int | Sequence[int], dtype: Any = None, name: str | None = None
    ) -> None:
        sizes = (shape,) if isinstance(shape, numbers.Integral) else shape
        if not isinstance(sizes, list | tuple) or not all(map(_is_size, sizes)):
            raise DataError(
                f"Input: shape is that of one example, whole numbers of 1 or more without the "
                f"batch, such as (28, 28); got {shape!r}."
            )
        super().__init__(
            (BATCH, *map(int, sizes)), dtypes.float32 if dtype is None else as_dtype(dtype)
        )
        self.name = checked_name("Input", name)


def _is_size(n: Any) -> bool:
    return isinstance(n, numbers.Integral) and not isinstance(n, bool) and int(n) > 0


def checked_name(kind: str, name: Any) -> str | None:
    """Return a name. Raises: DataError for what would spoil the keys of parameters."""
    if name is None or (isinstance(name, str) and name and "." not in name):
        return name
    raise DataError(f"{kind}: name is a text without dots, got {name!r}.")


def _operand(x: Any, beside: Sequence[Any], numbers_stay: bool) -> Any:
    """Return an input of an op as a symbol, as a number, or as a tensor that a model can keep."""
    if x is None or isinstance(x, Symbol):
        return x
    if numbers_stay and isinstance(x, bool | int | float | Scalar):
        return float(x) if isinstance(x, float) else x
    like = next(s.dtype for s in beside if isinstance(s, Symbol))
    return kept(x, like)


def kept(x: Any, like: DType | None = None) -> Any:
    """Return an array as what a model keeps: a parameter as it is, all else as a buffer."""
    from nnx.nn.module import Buffer

    if isinstance(x, Parameter | Buffer):
        return x
    if isinstance(x, Tensor):
        if x.requires_grad:
            raise DataError(
                "A tensor that was computed with its gradient met a symbol. A model would keep its "
                "values and not how they were made: x.detach(), or use an nn.Parameter."
            )
        return Buffer(x.array, x.device)
    host = to_host(x, "an array beside a symbol")
    floating = like if host.dtype.kind == "f" and like is not None and like.is_floating else None
    made = asarray(host, dtype=floating, copy=True)
    return Buffer(made.array, made.device)


# Modules


def found_in(x: Any, depth: int = 3) -> bool:
    """Return whether there is a symbol in arguments of a module."""
    if isinstance(x, list | tuple | dict) and depth:
        return any(found_in(y, depth - 1) for y in (x.values() if isinstance(x, dict) else x))
    return isinstance(x, Symbol)


class Inference(Trace):
    """A trace of which only the shapes and types of the results are used."""

    def __init__(self, real: Device) -> None:
        super().__init__(real)
        self.facts = FACTS

    def twin(self, symbol: Symbol) -> Tensor:
        """Return a tensor without values that stands for a symbol."""
        var = Var(symbol.shape, symbol.dtype, symbol.name or f"x{len(self.inputs)}")
        self.inputs.append(var)
        return Tensor(Traced(self, var), self.device)

    def _check_types(self, op: Op, inputs: Sequence[Any], attrs: Attrs, dtype: DType) -> None:
        """Leave it to the call on data: it would need arrays of the batch's size."""

    def _run_eagerly(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> None:
        """Leave the error as the shape rule tells it, with B for the batch."""


def call(module: Module, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """Return the symbols that a module gives for symbols; its parameters are made if need be.

    Raises: what ``forward`` raises, and TraceError where it needs values.
    """
    arguments = mapped((inputs, settings), lambda x: kept(x) if _is_array(x) else x)
    with tracing, Inference(module.device) as trace:
        given, named = mapped(arguments, lambda x: trace.twin(x) if isinstance(x, Symbol) else x)
        try:
            result = module(*given, **named)
            trace.raise_refused()
        except TraceError as error:
            raise TraceError(
                f"{module._label()} cannot be called on symbols: its forward needs values. Write "
                f"the whole network as an nn.Module and train it with jit=False. ({error})"
            ) from None
        node = Node(module, arguments[0], arguments[1])
        return mapped(result, lambda x: _result(module, x, node))


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor) or (hasattr(x, "__array__") and not isinstance(x, Symbol))


def _result(module: Module, x: Any, node: Node) -> Symbol:
    if not isinstance(x, Tensor):
        raise DTypeError(
            f"{module._label()} returned {type(x).__name__}; on symbols a module returns tensors, "
            f"or lists, tuples and dicts of them."
        )
    return node.result(x.array.shape, x.dtype)


# Structures


def mapped(tree: Any, f: Callable[[Any], Any]) -> Any:
    """Return lists, tuples and dicts with a function applied to what is in them, in order."""
    if isinstance(tree, dict):
        return {key: mapped(item, f) for key, item in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(mapped(item, f) for item in tree)
    return f(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what is in lists, tuples and dicts, in order."""
    if isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(item)
    else:
        yield tree
