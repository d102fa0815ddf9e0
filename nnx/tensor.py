"""Tensor: an array, the device it is on, and the node of the tape that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nnx import dtypes, ops, shapes
from nnx.device import Device, default_device, device
from nnx.dtypes import DType
from nnx.errors import DataError, DeviceError, DTypeError, GradientError, ShapeError
from nnx.host import is_python, to_host
from nnx.op import Node, bind_tensor, recording
from nnx.ops import contract, elementwise, layout
from nnx.shapes import Shape


class _Writes:
    n = 0


writes = _Writes()
"""How often any tensor was given another array: compiled functions then look up addresses again."""


_backward: Callable[..., None]


def bind_backward(backward: Callable[..., None]) -> None:
    """Tell `Tensor.backward` what does it (tape.py stands above this file)."""
    global _backward
    _backward = backward


class Tensor:
    """An array on a device, with the methods and operators of the array API standard.

    A tensor's values change only by ``t[key] = value`` and by an optimizer, which count up
    ``version``; no other tensor changes with it. Make one with `nnx.asarray`.
    """

    grad: Tensor | None = None
    node: Node | None = None
    requires_grad: bool = False
    version: int = 0
    name: str | None = None

    # NumPy leaves operators with a Tensor to Tensor, and its functions do not convert in silence.
    __array_ufunc__ = None

    def __init__(self, array: Any, device: Device) -> None:
        self.array = array
        self.device = device

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def shape(self) -> Shape:
        """The sizes of the axes."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self.device.dtype_of(self.array)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.array.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return shapes.size(self.shape)

    @property
    def T(self) -> Tensor:  # noqa: N802 (the standard's name)
        """A matrix with its two axes exchanged."""
        if self.ndim != 2:
            raise ShapeError(f".T is for matrices, this has shape {self.shape}. Use .mT.")
        return layout.permute_dims(self, (1, 0))

    @property
    def mT(self) -> Tensor:  # noqa: N802 (the standard's name)
        """Matrices with their last two axes exchanged."""
        return layout.matrix_transpose(self)

    # Values

    def numpy(self) -> Any:
        """The values as a NumPy array, read-only: it may share the tensor's memory."""
        if recording.trace is not None:
            recording.trace.lift_all((self,))
        view = self.device.backend.to_numpy(self.array).view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        host = self.numpy()
        if dtype is not None and host.dtype != dtype:
            return host.astype(dtype)
        return host.copy() if copy else host

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self.numpy().tolist()

    def item(self) -> Any:
        """The one value as a Python number. Raises: ShapeError if there is not exactly one."""
        if recording.trace is None:
            host = self.device.backend.to_numpy(self.array)
            if host.size == 1:
                return host.item()
        if self.size != 1:
            raise ShapeError(f"A tensor of shape {self.shape} is not one number. Use .tolist().")
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if recording.trace is not None:
            recording.trace.refuse_branch()
        return bool(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in ("int", "uint"):
            raise DTypeError(f"Only an integer tensor is an index, this is {self.dtype}.")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a tensor without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        import numpy as np

        text = np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=200)
        kind = "" if self.dtype is dtypes.float32 else f", dtype={self.dtype}"
        tape = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({text}{kind}, device={self.device.name!r}{tape})"

    def _repr_html_(self) -> str | None:
        from nnx.viz import notebook

        return notebook.of_tensor(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec or not self.shape else str(self)

    __hash__ = object.__hash__

    # Moving and copying

    def to(self, target: str | Device | DType | Any) -> Tensor:
        """The same values on another device, or in another data type."""
        if isinstance(target, DType | type):
            return self.astype(target)  # type: ignore[no-any-return]
        where = device(target)
        if where is self.device:
            return self
        self._check_untracked("to")
        return asarray(self.numpy(), device=where, copy=True)

    def _check_untracked(self, what: str) -> None:
        """Refuse to copy values to where no gradient would flow back from."""
        if self.requires_grad and recording.on:
            raise GradientError(
                f"{what}: gradients do not flow from one device to another, and would end here in "
                f"silence. Move the inputs before computing, or x.detach() first."
            )

    def to_device(self, target: str | Device, /, *, stream: Any = None) -> Tensor:
        """The standard's name for `to`."""
        return self.to(target)

    def detach(self) -> Tensor:
        """The same values without their history: no gradient flows through the result."""
        if recording.trace is not None:
            recording.trace.lift_all((self,))
        return Tensor(self.array, self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.node is not None:
            raise GradientError("A tensor with a history is not copied deeply: x.detach() first.")
        result = object.__new__(type(self))
        result.__dict__.update(self.__dict__)
        with self.device.scope():
            result.array = self.device.namespace.raw.asarray(self.array, copy=True)
        memo[id(self)] = result
        return result

    def __dlpack__(self, **options: Any) -> Any:
        with self.device.scope():
            return _with_dlpack(self.array).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _with_dlpack(self.array).__dlpack_device__()  # type: ignore[no-any-return]

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        import nnx

        return nnx

    # Indexing

    def __getitem__(self, key: Any) -> Tensor:
        return layout.getitem(self, key)  # type: ignore[no-any-return]

    def index_arrays(self, item: Any) -> list[Tensor]:
        """Return the integer arrays that an index means; booleans become the places they mark."""
        index = item if isinstance(item, Tensor) else asarray(item, device=self.device)
        if index.device is not self.device:
            raise DeviceError(
                f"An array on {self.device.name!r} is indexed by one on {index.device.name!r}. "
                f"Move the index: i.to({self.device.name!r})."
            )
        if index.dtype is dtypes.bool_:
            return [asarray(places, device=self.device) for places in index.numpy().nonzero()]
        if index.dtype.kind not in ("int", "uint"):
            if not index.size:
                return [index.astype(self.device.nearest(dtypes.int64))]
            raise DTypeError(f"An index is of integers or booleans, got {index.dtype}.")
        return [index]

    def __setitem__(self, key: Any, value: Any) -> None:
        if recording.on and (self.requires_grad or getattr(value, "requires_grad", False)):
            raise GradientError(
                "A tensor that gradients go through cannot be written in place, nor into another. "
                "Use nnx.where(mask, value, x) or nnx.stack(values), or write inside "
                "`with nnx.no_grad():`."
            )
        if isinstance(value, Tensor) and value.device is not self.device:
            raise DeviceError(
                f"A value on {value.device.name!r} cannot be written into a tensor on "
                f"{self.device.name!r}. Move it: value.to({self.device.name!r})."
            )
        value = asarray(value, dtype=self.dtype, device=self.device)
        items = key if isinstance(key, tuple) else (key,)
        raw = tuple(
            self._raw_index(item) if isinstance(item, Tensor | list) else item for item in items
        )
        try:
            written = self.device.backend.setitem(self.array, raw, value.array)
        except (ValueError, IndexError, RuntimeError) as error:
            raise ShapeError(
                f"x[key] = value with x {self.shape}, value {value.shape}: {error}"
            ) from None
        self.assign(written)

    def _raw_index(self, item: Any) -> Any:
        return (item if isinstance(item, Tensor) else asarray(item, device=self.device)).array

    def assign(self, array: Any) -> None:
        """Give this tensor another array of the same shape, and count the write."""
        self.array = array
        self.version += 1
        writes.n += 1

    # Gradients

    def backward(self, gradient: Tensor | None = None, *, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to ``.grad`` of every leaf that requires a gradient.

        Raises: GradientError for a tensor without history, one of several elements and no
        ``gradient``, a tape that was used up, or inputs that were written since.
        """
        _backward(self, gradient, retain_graph=retain_graph)

    # Operators: a Python number is weak, an array of the host joins the tensor's device.

    def __add__(self, other: Any) -> Tensor:
        return elementwise.add(self, other)  # type: ignore[no-any-return]

    def __radd__(self, other: Any) -> Tensor:
        return elementwise.add(other, self)  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> Tensor:
        return elementwise.subtract(self, other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> Tensor:
        return elementwise.subtract(other, self)  # type: ignore[no-any-return]

    def __mul__(self, other: Any) -> Tensor:
        return elementwise.multiply(self, other)  # type: ignore[no-any-return]

    def __rmul__(self, other: Any) -> Tensor:
        return elementwise.multiply(other, self)  # type: ignore[no-any-return]

    def __matmul__(self, other: Any) -> Tensor:
        return contract.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return contract.matmul(other, self)

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)  # type: ignore[no-any-return]

    def __pow__(self, other: Any) -> Tensor:
        if type(other) in (int, float) and other == 2:
            return elementwise.square(self)  # type: ignore[no-any-return]
        return elementwise.pow(self, other)  # type: ignore[no-any-return]

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise.pow(other, self)  # type: ignore[no-any-return]

    def __pos__(self) -> Tensor:
        return elementwise.positive(self)  # type: ignore[no-any-return]

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)  # type: ignore[no-any-return]

    def __invert__(self) -> Tensor:
        return elementwise.bitwise_invert(self)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return elementwise.equal(self, other)  # type: ignore[no-any-return]

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return elementwise.not_equal(self, other)  # type: ignore[no-any-return]


def _with_dlpack(array: Any) -> Any:
    """Return an array that can be exported: NumPy's scalars, and read-only memory, cannot."""
    if hasattr(array, "__dlpack__"):
        return array
    import numpy as np

    return np.asarray(array).copy()


def _operator(name: str, function: Any, reflected: bool) -> None:
    def forward(self: Tensor, other: Any) -> Tensor:
        return function(self, other)  # type: ignore[no-any-return]

    def backward(self: Tensor, other: Any) -> Tensor:
        return function(other, self)  # type: ignore[no-any-return]

    setattr(Tensor, f"__{name}__", forward)
    if reflected:
        setattr(Tensor, f"__r{name}__", backward)


for _name, _function in {
    "truediv": elementwise.divide, "floordiv": elementwise.floor_divide,
    "mod": elementwise.remainder, "lshift": elementwise.bitwise_left_shift,
    "rshift": elementwise.bitwise_right_shift, "and": elementwise.bitwise_and,
    "or": elementwise.bitwise_or, "xor": elementwise.bitwise_xor,
}.items():  # fmt: skip
    _operator(_name, _function, reflected=True)
for _name, _function in {
    "lt": elementwise.less, "le": elementwise.less_equal,
    "gt": elementwise.greater, "ge": elementwise.greater_equal,
}.items():  # fmt: skip
    _operator(_name, _function, reflected=False)


def _method(function: Any) -> Any:
    def method(self: Tensor, *arguments: Any, **attrs: Any) -> Any:
        return function(self, *arguments, **attrs)

    method.__name__, method.__doc__ = function.__name__, function.__doc__
    return method


for _name in (
    "sum", "mean", "prod", "max", "min", "var", "std", "argmax", "argmin", "any", "all",
    "astype", "clip", "squeeze", "take", "exp", "log", "sqrt", "abs", "square", "sign",
    "relu", "sigmoid", "tanh", "softmax", "log_softmax", "cumulative_sum", "round", "flip", "roll",
):  # fmt: skip
    _entry = next(getattr(module, _name) for module in ops.MODULES if hasattr(module, _name))
    setattr(Tensor, _name, _method(_entry))


def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape, given as one tuple or as numbers; one may be -1."""
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return layout.reshape(self, shapes.as_shape(sizes))


def _transpose(self: Tensor, *axes: Any) -> Tensor:
    """The axes in another order, reversed if none is given."""
    order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
    return layout.permute_dims(self, tuple(order) or tuple(reversed(range(self.ndim))))


def _flatten(self: Tensor) -> Tensor:
    """The elements in one axis."""
    return layout.reshape(self, (-1,))


Tensor.reshape = _reshape  # type: ignore[attr-defined]
Tensor.transpose = _transpose  # type: ignore[attr-defined]
Tensor.flatten = _flatten  # type: ignore[attr-defined]


class Parameter(Tensor):
    """A tensor that is learned: a leaf of the tape, found by `Module.parameters`."""

    requires_grad = True

    def __init__(self, array: Any, device: str | Device | None = None) -> None:
        if not isinstance(device, Device):
            made = asarray(array, device=device, copy=True)
            array, device = made.array, made.device
        super().__init__(array, device)

    def __repr__(self) -> str:
        return super().__repr__().replace("Tensor(", "Parameter(", 1)


def asarray(
    obj: Any,
    dtype: Any = None,
    device: str | Device | None = None,
    copy: bool | None = None,
) -> Tensor:
    """Return a tensor with the values of an array, a number, or nested lists.

    Python floats become float32 and ints int64; arrays keep their type unless ``dtype`` says
    otherwise. The caller's array is never written; its memory is shared where it fits and ``copy``
    is not True, so write to it no more or pass ``copy=True``.
    Raises: DataError for ragged or object data; DTypeError for text and complex numbers.

    >>> asarray([1.0, 2.0], device="numpy")
    Tensor([1., 2.], device='numpy')
    """
    where = _device_of(obj, device)
    wanted = None if dtype is None else dtypes.as_dtype(dtype)
    if isinstance(obj, Tensor):
        same = where is obj.device and (wanted is None or wanted is obj.dtype)
        if same and not copy:
            return obj
        if where is obj.device:
            changed = obj if wanted is None else layout.astype(obj, wanted)
            return changed if changed is not obj else elementwise.positive(obj)
        obj._check_untracked("asarray")
        obj = obj.numpy()
    elif isinstance(obj, list | tuple) and recording.on:
        _check_untracked(obj)
    elif (home := elsewhere(obj)) is not None:
        return _adopted(obj, home, wanted, where, copy)
    if recording.trace is not None:
        obj = recording.trace.host(obj)
    host = to_host(obj)
    if wanted is None:
        # Only a type that was named must be had; JAX without its 64-bit mode narrows the rest.
        given = dtypes.as_dtype(host.dtype)
        weak = given is dtypes.float64 and is_python(obj)
        wanted = dtypes.float32 if weak else where.nearest(given)
    if wanted.is_floating is False and host.dtype.kind == "f" and wanted.kind != "bool":
        _check_whole(host, wanted)
    native = where.native(wanted)
    if host.dtype.kind in "iu" and wanted.kind in ("int", "uint") and dtype is None:
        _check_fits(host, wanted, where)
    try:
        array = where.backend.asarray(host.copy() if copy else host, native, where.index)
    except MemoryError as error:
        raise where.out_of_memory(f"A copy of {host.dtype} {host.shape}", error) from None
    if copy is False and getattr(array, "base", None) is not obj and array is not obj:
        raise DataError(
            f"asarray(copy=False): data of type {host.dtype} cannot be shared with "
            f"{where.name!r} as {wanted}. Leave copy out, or pass an array of that type."
        )
    return Tensor(array, where)


def _check_untracked(items: Any) -> None:
    """Refuse to copy the values out of tensors whose gradients would stop here in silence."""
    for item in items:
        if isinstance(item, Tensor) and item.requires_grad:
            raise GradientError(
                "asarray: the list holds tensors that gradients go through, and a copy of their "
                "values would end them. Use nnx.stack([...]), or x.detach()."
            )
        if isinstance(item, list | tuple):
            _check_untracked(item)


def _check_whole(host: Any, wanted: DType) -> None:
    """Refuse to make integers of NaN and infinity, which every library does differently."""
    import numpy as np

    if not np.isfinite(host).all():
        raise DTypeError(f"asarray: NaN or infinity has no value as {wanted}. Keep a float type.")


def _check_fits(host: Any, wanted: DType, where: Device) -> None:
    """Refuse integers that the device's widest type would wrap."""
    low = -(2 ** (wanted.bits - 1)) if wanted.kind == "int" else 0
    if 8 * host.dtype.itemsize > wanted.bits and host.size:
        if int(host.min()) < low or int(host.max()) >= low + 2**wanted.bits:
            raise DTypeError(
                f"asarray: {where.name!r} has no {host.dtype}, and the values do not fit {wanted}: "
                f"they reach from {host.min()} to {host.max()}. Choose another device."
            )


def _device_of(obj: Any, named: str | Device | None) -> Device:
    if named is None:
        return obj.device if isinstance(obj, Tensor) else elsewhere(obj) or default_device()
    return device(named)


HOST_TYPES = (1, 3, 11)
"""DLPack's types of memory that the host reads: its own, and what CUDA and ROCm have pinned."""


def elsewhere(obj: Any) -> Device | None:
    """Return the device whose memory another library's array lies in; None for the host's.

    Raises: DeviceError where no device of nnx reads that memory, or the one that does cannot be
    used.
    """
    if type(obj).__module__ == "numpy" or isinstance(obj, _HOST_CLASSES):
        return None
    if not hasattr(obj, "__dlpack_device__"):
        return None
    kind, index = (int(part) for part in obj.__dlpack_device__())
    if kind in HOST_TYPES:
        return None
    import nnx.backends as backends

    for name in backends.names():
        if name not in backends.broken():
            at = backends.load(name).dlpack_index(kind, index)
            if at is not None:
                return device(f"{name}:{at}")
    raise DeviceError(
        f"An array of {type(obj).__module__} lies on a device of DLPack's type {kind}, whose "
        f"memory no device of nnx reads. Copy it to the host first."
    )


_HOST_CLASSES = (Tensor, list, tuple, float, int)


def _adopted(
    obj: Any, home: Device, wanted: DType | None, where: Device, copy: bool | None
) -> Tensor:
    """Return another library's array as a tensor: its memory on its device, else a copy."""
    array = home.backend.from_dlpack(obj, home.index)
    found = Tensor(array, home)
    if copy is False and (where is not home or wanted not in (None, found.dtype)):
        raise DataError(
            f"asarray(copy=False): an array of {found.dtype} on {home.name!r} cannot be shared "
            f"with {where.name!r} as {wanted or found.dtype}. Leave copy out."
        )
    if where is not home:
        found = found.to(where)
    elif copy:
        found = elementwise.positive(found)
    return found if wanted in (None, found.dtype) else layout.astype(found, wanted)


def _joining(obj: Any, where: Device | None) -> Tensor:
    """Return host data as a tensor beside the others of an op; it may not cross to a GPU."""
    crosses = where is not None and not where.backend.on_host and len(getattr(obj, "shape", ()))
    if where is not None and crosses and elsewhere(obj) is not where:
        raise DeviceError(
            f"An array of the host met one on {where.name!r}. Arrays never move between devices "
            f"inside an operation: nnx.asarray(x, device={where.name!r}) first."
        )
    return asarray(obj, device=where)


bind_tensor(Tensor, _joining)
