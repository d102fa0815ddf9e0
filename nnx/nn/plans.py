"""The arguments of a model's calls as plain data for a file, and back.

Numbers, texts and lists stand for themselves; all else is an object of one key that says what it
is. Nothing in it is a name that Python would look up, nor an expression.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from nnx.dtypes import DType, as_dtype
from nnx.errors import CheckpointError, DTypeError
from nnx.nn.model import At
from nnx.nn.symbol import BATCH, Symbol, leaves
from nnx.scalar import Scalar
from nnx.tensor import Tensor


def written(x: Any, names: Mapping[int, str]) -> Any:
    """Return a structure as data; ``names`` are those of the model's arrays, by id.

    Raises: CheckpointError for what no file can describe.
    """
    if isinstance(x, At):
        return {"at": x.place}
    if isinstance(x, Tensor):
        return {"array": names[id(x)]}
    if x is None or isinstance(x, str | bool):
        return x
    if isinstance(x, Scalar):
        return {"batch": _line(x)}
    if isinstance(x, numbers.Integral):
        return int(x)
    if isinstance(x, numbers.Real):
        return float(x)
    if isinstance(x, DType):
        return {"dtype": x.name}
    if isinstance(x, slice):
        return {"slice": [written(part, names) for part in (x.start, x.stop, x.step)]}
    if x is Ellipsis:
        return {"ellipsis": True}
    if isinstance(x, dict):
        return {"dict": {str(key): written(item, names) for key, item in x.items()}}
    if isinstance(x, tuple):
        return {"tuple": [written(item, names) for item in x]}
    if isinstance(x, list):
        return [written(item, names) for item in x]
    raise CheckpointError(
        f"A model file cannot hold {x!r}, which a layer is called with. Save the weights alone: "
        f"state_dict(), then load_state_dict()."
    )


def _line(size: Scalar) -> list[int]:
    """Return a size as [a, b] of a B + b."""
    terms = size.polynomial
    if terms is None or terms.keys() - {(), ("B",)}:
        raise CheckpointError(f"A model file cannot hold a shape with the size {size.text}.")
    return [terms.get(("B",), 0), terms.get((), 0)]


def read(x: Any, values: Sequence[Symbol], arrays: Mapping[str, Tensor]) -> Any:
    """Return the structure that was written, with symbols where values stood.

    Raises: CheckpointError for anything else.
    """
    if x is None or isinstance(x, str | bool | int | float):
        return x
    if isinstance(x, list):
        return [read(item, values, arrays) for item in x]
    if not isinstance(x, dict) or len(x) != 1:
        raise CheckpointError(f"An argument of a model's call is described as {str(x)[:60]!r}.")
    ((kind, given),) = x.items()
    if kind == "at" and type(given) is int and 0 <= given < len(values):
        return values[given]
    if kind == "array" and given in arrays:
        return arrays[given]
    if kind == "batch" and isinstance(given, list) and [*map(type, given)] == [int, int]:
        return given[0] * BATCH + given[1]
    if kind == "dtype":
        return as_dtype(given)
    if kind == "slice" and isinstance(given, list) and len(given) == 3:
        return slice(*read(given, values, arrays))
    if kind == "ellipsis":
        return Ellipsis
    if kind == "tuple" and isinstance(given, list):
        return tuple(read(given, values, arrays))
    if kind == "dict" and isinstance(given, dict):
        return {key: read(item, values, arrays) for key, item in given.items()}
    raise CheckpointError(f"An argument of a model's call is described as {str(x)[:60]!r}.")


def results(made: Any) -> list[Symbol]:
    """Return the symbols that a call gave, in order."""
    found = list(leaves(made))
    if not all(isinstance(x, Symbol) for x in found):
        raise DTypeError("a call of a model gives symbols")
    return found
