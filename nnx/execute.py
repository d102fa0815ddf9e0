"""How a traced function's program is run where it takes arrays and returns arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx.tensor import Tensor

if TYPE_CHECKING:
    from nnx.jit import _Entry


def assign(entry: _Entry, inputs: Sequence[Any], arrays: Sequence[Any]) -> None:
    """Write the outputs that are assignments back to their tensors."""
    place = entry.n_results
    for effect in entry.effects:
        tensor = inputs[effect.index]
        if effect.var is None:
            tensor.grad = None
            continue
        array = arrays[place]
        place += 1
        if effect.kind == "grad":
            tensor.grad = Tensor(array, entry.device)
        else:
            tensor.assign(array)


class Plain:
    """Runs a program that takes arrays and returns arrays."""

    def __init__(self, entry: _Entry) -> None:
        self._entry, self._program = entry, entry.program()

    def __call__(self, inputs: Sequence[Any], env: dict[str, Any]) -> list[Tensor]:
        """Run a call and assign; return the results."""
        entry = self._entry
        arrays = [x.array if isinstance(x, Tensor) else x for x in inputs]
        outputs = self._program(arrays, env)
        assign(entry, inputs, outputs)
        return [Tensor(array, entry.device) for array in outputs[: entry.n_results]]
