"""How a traced function's program is run where it takes arrays and returns arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx.native import MISSED
from nnx.op import recording
from nnx.tensor import Tensor

if TYPE_CHECKING:
    from nnx.jit import _Call, _Entry


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

    def repeat(self, call: _Call, args: Sequence[Any], env: dict[str, Any]) -> Again | None:
        """Return what serves further calls like this one; None if it was not given plain values."""
        simple = call.tensors and all(type(x) in (Tensor, int, float) for x in args)
        if not simple or len(args) != len(call.tensors) + len(call.numbers):
            return None
        return Again(self._entry, call, args, env)


class Again:
    """Further calls with arguments of the types and sizes of one that was run.

    ``call`` with the arguments returns the results, or `MISSED` where something else is different;
    nothing has then happened, and the call goes the long way.
    """

    def __init__(
        self, entry: _Entry, call: _Call, args: Sequence[Any], env: dict[str, Any]
    ) -> None:
        self._entry, self._call, self._env = entry, call, dict(env)
        self._known = [
            (x.array.shape, x.array.dtype) if isinstance(x, Tensor) else type(x) for x in args
        ]
        self._recorded = recording.on
        call.tensors, call.statics = [], []

    def call(self, args: tuple[Any, ...]) -> Any:
        """Run a call; return what the function returns, or MISSED."""
        entry, call, env = self._entry, self._call, self._env
        if len(args) != len(self._known) or recording.on != self._recorded:
            return MISSED
        tensors, n_numbers = [], 0
        for x, known in zip(args, self._known):  # noqa: B905 (as many: see above)
            if x.__class__ is Tensor:
                if x.requires_grad or x.device is not entry.device:
                    return MISSED
                if (x.array.shape, x.array.dtype) != known:
                    return MISSED
                tensors.append(x)
            elif x.__class__ is known:
                env[f"a{n_numbers}"] = x
                n_numbers += 1
            else:
                return MISSED
        for name, getter in entry.getters:
            env[name] = getter()
        call.tensors = tensors
        if entry.broken(env, call) is not None:
            return MISSED
        call.tensors = tensors
        try:
            return entry.run(call, env)
        finally:
            call.tensors = []
