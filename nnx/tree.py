"""Nested dicts, lists and tuples of tensors, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.errors import DTypeError
from nnx.op import recording
from nnx.tensor import Tensor

Leaves = list[Tensor]
Rebuild = Callable[[list[Any]], Any]


def flatten(tree: Any) -> tuple[Leaves, Rebuild]:
    """Return the tensors of a structure in order, and a function that puts others in their place.

    A module stands for a dict of its parameters by name. Raises: DTypeError for other leaves.
    """
    if isinstance(tree, Tensor):
        if recording.trace is not None:
            recording.trace.lift_all((tree,))
        return [tree], lambda leaves: leaves[0]
    if hasattr(tree, "named_parameters"):
        return flatten(dict(tree.named_parameters()))
    if tree is None:
        return [], lambda leaves: None
    if isinstance(tree, dict):
        return _joined(list(tree.values()), lambda parts: dict(zip(tree, parts, strict=True)))
    if isinstance(tree, list | tuple):
        make = type(tree)
        named = hasattr(tree, "_fields")
        return _joined(list(tree), lambda parts: make(*parts) if named else make(parts))
    raise DTypeError(
        f"Gradients go through tensors, modules, and dicts, lists and tuples of them; got "
        f"{type(tree).__name__}. Convert numbers with nnx.asarray, or leave them out of argnums."
    )


def replace(tree: Any, leaf: Callable[[Tensor], Tensor], inputs: Leaves) -> Any:
    """Return a structure with each tensor replaced, and modules as they are.

    ``inputs`` collects the new tensors and the modules' parameters, in the order of `flatten`.
    """
    if isinstance(tree, Tensor):
        inputs.append(leaf(tree))
        return inputs[-1]
    if hasattr(tree, "named_parameters"):
        inputs += flatten(tree)[0]
        return tree
    if isinstance(tree, dict):
        return {key: replace(item, leaf, inputs) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        items = [replace(item, leaf, inputs) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return flatten(tree)[1]([])


def _joined(items: list[Any], assemble: Rebuild) -> tuple[Leaves, Rebuild]:
    flat = [flatten(item) for item in items]
    leaves = [leaf for part, _ in flat for leaf in part]

    def rebuild(values: list[Any]) -> Any:
        parts, start = [], 0
        for part, inner in flat:
            parts.append(inner(values[start : start + len(part)]))
            start += len(part)
        return assemble(parts)

    return leaves, rebuild
