"""Functions that make arrays from nothing but a shape, on the default device unless named."""

from __future__ import annotations

from typing import Any

from nnx import dtypes, shapes
from nnx.device import Device
from nnx.device import device as find
from nnx.dtypes import DType
from nnx.errors import DataError
from nnx.tensor import Tensor

Where = str | Device | None


def _create(name: str, where: Where, dtype: Any, *arguments: Any, **settings: Any) -> Tensor:
    on = find(where)
    native = on.native(dtypes.float32 if dtype is None else dtypes.as_dtype(dtype))
    function = on.backend.creation(name, on.index)
    try:
        return Tensor(function(*arguments, dtype=native, **settings), on)
    except MemoryError as error:
        raise on.out_of_memory(f"{name}{arguments} of {native}", error) from None


def _checked(shape: Any) -> shapes.Shape:
    sizes = shapes.as_shape(shape)
    if any(n < 0 for n in sizes):
        raise DataError(f"A shape has sizes of 0 or more, got {sizes}.")
    return sizes


def zeros(shape: Any, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return zeros of a shape; float32 unless ``dtype`` says otherwise."""
    return _create("zeros", device, dtype, _checked(shape))


def ones(shape: Any, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return ones of a shape; float32 unless ``dtype`` says otherwise."""
    return _create("ones", device, dtype, _checked(shape))


def empty(shape: Any, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return zeros: memory is never handed out with what was left in it."""
    return zeros(shape, dtype=dtype, device=device)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return one value at every place of a shape."""
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    on = find(device)
    of_value = on.nearest(dtypes.of_scalar(value)) if type(value) in (bool, int) else None
    return _create("full", on, of_value if dtype is None else dtype, _checked(shape), value)


def eye(
    n: int, m: int | None = None, *, k: int = 0, dtype: Any = None, device: Where = None
) -> Tensor:
    """Return the matrix with ones on diagonal ``k``. Shapes: (n, m), m equal to n if None."""
    return _create("eye", device, dtype, n, n if m is None else m, k=k)


def arange(
    start: float, /, stop: float | None = None, step: float = 1, *,
    dtype: Any = None, device: Where = None,
) -> Tensor:  # fmt: skip
    """Return start, start + step, ... below stop; integers if all three are."""
    start, stop = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise DataError("arange: step is 0; the end is never reached.")
    whole = all(isinstance(n, int) for n in (start, stop, step))
    on = find(device)
    default = on.nearest(dtypes.int64) if whole else dtypes.float32
    return _create("arange", on, default if dtype is None else dtype, start, stop, step)


def linspace(
    start: float, stop: float, /, num: int, *,
    dtype: Any = None, device: Where = None, endpoint: bool = True,
) -> Tensor:  # fmt: skip
    """Return ``num`` evenly spaced numbers from start to stop."""
    return _create("linspace", device, dtype, start, stop, num, endpoint=endpoint)


def _like(name: str, x: Tensor, dtype: DType | None, where: Where) -> Tensor:
    on = x.device if where is None else where
    return globals()[name](x.shape, dtype=x.dtype if dtype is None else dtype, device=on)  # type: ignore[no-any-return]


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return zeros with the shape, type and device of x."""
    return _like("zeros", x, dtype, device)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return ones with the shape, type and device of x."""
    return _like("ones", x, dtype, device)


def empty_like(x: Tensor, /, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return zeros with the shape, type and device of x."""
    return _like("zeros", x, dtype, device)


def full_like(x: Tensor, /, fill_value: Any, *, dtype: Any = None, device: Where = None) -> Tensor:
    """Return one value with the shape, type and device of x."""
    on = x.device if device is None else device
    return full(x.shape, fill_value, dtype=x.dtype if dtype is None else dtype, device=on)
