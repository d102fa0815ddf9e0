"""Plain data as JSON with its arrays beside it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnx.errors import CheckpointError
from nnx.tensor import Tensor, asarray


def packed(place: str, value: Any, arrays: dict[str, Any]) -> Any:
    """Return a value as JSON; its arrays go into ``arrays`` and leave their name.

    Raises: CheckpointError for what is not plain data.
    """
    import numpy as np

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [packed(f"{place}.{i}", item, arrays) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": packed(place, list(value), arrays)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {k: packed(f"{place}.{k}", item, arrays) for k, item in value.items()}}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        arrays[place] = np.array(value.numpy() if isinstance(value, Tensor) else value)
        return {"number" if isinstance(value, np.generic) else kind: place}
    raise CheckpointError(
        f"A checkpoint cannot hold {place}, a {type(value).__name__}. What it holds are None, "
        f"numbers, texts, arrays, and lists, tuples and dicts with texts as keys of these."
    )


def unpacked(value: Any, arrays: Mapping[str, Any]) -> Any:
    """Return what `packed` was given; its tensors are on the host."""
    if isinstance(value, list):
        return [unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "dict":
        return {key: unpacked(item, arrays) for key, item in held.items()}
    if kind == "tuple":
        return tuple(unpacked(held, arrays))
    if kind == "tensor":
        return asarray(arrays[held], device="numpy")
    return arrays[held][()] if kind == "number" else arrays[held]


def on_device(value: Any, device: Any) -> Any:
    """Return a value with its tensors on a device, in the nearest types that it has."""
    if isinstance(value, Tensor):
        return asarray(value.numpy(), dtype=device.nearest(value.dtype), device=device)
    if isinstance(value, list | tuple):
        return type(value)(on_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    return value
