"""The boundary to host data: what users hand over, made into sound NumPy arrays."""

from __future__ import annotations

from typing import Any

from nnx import dtypes
from nnx.errors import DataError, DTypeError, NnxError


def to_host(obj: Any, what: str = "asarray") -> Any:
    """Return a NumPy array in native byte order, without writing or copying the caller's data.

    Python floats come as float64, in which they are exact, and ints as int64; see `is_python`.
    Raises: DataError for ragged or object data, DTypeError for text, complex and other types.
    """
    import numpy as np

    try:
        array = _from_library(np, obj)
    except ValueError as error:
        raise DataError(
            f"{what}: the rows do not form an array: {error}. Give every row the same length."
        ) from None
    except (TypeError, RuntimeError) as error:  # a torch tensor with a gradient, or of bfloat16
        if isinstance(error, NnxError):
            raise
        raise DTypeError(
            f"{what}: this {type(obj).__module__}.{type(obj).__name__} gives no NumPy array: "
            f"{str(error).rstrip('.')}. Convert it first."
        ) from None
    except OverflowError as error:
        raise DTypeError(f"{what}: {error}. Give floats, or dtype='float64'.") from None
    if array.dtype.kind == "O":
        raise DataError(
            f"{what}: got an array of Python objects of shape {array.shape}, first "
            f"{_first(array)!r}. Give numbers; convert with np.asarray(x, dtype='float32')."
        )
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        if dtypes._name_of(array.dtype) != "bfloat16":
            raise DTypeError(
                f"{what}: got data of type {array.dtype}; nnx takes booleans, integers and floats "
                f"up to 64 bits."
            )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def _from_library(np: Any, obj: Any) -> Any:
    if isinstance(obj, np.ndarray) or not hasattr(obj, "__dlpack__"):
        return np.asarray(obj)
    try:
        return np.from_dlpack(obj)
    except (BufferError, TypeError, RuntimeError):
        return np.asarray(obj)


def is_python(obj: Any) -> bool:
    """Return whether data is a Python number or nested lists of them, and no array's own type."""
    import numpy as np

    while isinstance(obj, list | tuple) and obj:
        obj = obj[0]
    return isinstance(obj, list | tuple | float | int) and not isinstance(obj, np.generic)


def _first(array: Any) -> Any:
    return array.flat[0] if array.size else None
