"""How a traced function's program is run where it takes arrays and returns arrays: op by op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx.device import Device
from nnx.graph import Graph, Var, kernel_of, operand
from nnx.native import varies
from nnx.passes import common_subexpressions, dead_code
from nnx.scalar import resolve
from nnx.tensor import Tensor

if TYPE_CHECKING:
    from nnx.jit import _Entry


class Interpreted:
    """A graph run eqn by eqn with a device's own kernels; values go after their last use."""

    def __init__(self, graph: Graph, device: Device) -> None:
        self.graph = common_subexpressions(dead_code(graph))
        self.device = device
        last: dict[Var, int] = {}
        for i, eqn in enumerate(self.graph.eqns):
            for x in eqn.vars:
                last[x] = i
        kept = set(self.graph.outputs)
        self._steps = [
            (
                kernel_of(eqn.op, device), eqn, any(map(varies, eqn.attrs.values())),
                [x for x in {*eqn.vars, eqn.out} if last.get(x, i) == i and x not in kept],
            )
            for i, eqn in enumerate(self.graph.eqns)
        ]  # fmt: skip

    def __call__(self, arrays: Sequence[Any], env: dict[str, Any]) -> list[Any]:
        """Return the outputs' arrays."""
        values: dict[Var, Any] = dict(zip(self.graph.inputs, arrays, strict=True))
        with self.device.scope():
            for kernel, eqn, varies, done in self._steps:
                attrs = eqn.attrs
                if varies:
                    attrs = {name: resolve(value, env) for name, value in attrs.items()}
                inputs = [operand(x, values, env) for x in eqn.inputs]
                values[eqn.out] = kernel(*inputs, **attrs)
                for x in done:
                    values.pop(x, None)
        return [values[x] for x in self.graph.outputs]


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
