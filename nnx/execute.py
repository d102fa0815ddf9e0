"""How a traced function's program is run: on arrays, or as native code on arrays in place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx.scalar import Scalar, resolve
from nnx.tensor import Tensor

if TYPE_CHECKING:
    from nnx.jit import _Entry


def _has_scalar(x: Any) -> bool:
    if isinstance(x, tuple | list):
        return any(map(_has_scalar, x))
    if isinstance(x, slice):
        return _has_scalar((x.start, x.stop, x.step))
    return isinstance(x, Scalar)


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


def _count() -> int:
    """Return the references that an array has whose tensor is its only owner."""
    import numpy as np

    tensor: Any = Tensor(np.empty(1), None)  # type: ignore[arg-type]
    array = tensor.array
    return sys.getrefcount(array)


class Native:
    """Runs native code on host arrays; what the function assigns is written in place.

    An array is written in place only where its tensor is its one owner; else the tensor first gets
    a copy, so that no other tensor or view of NumPy's changes with it. Addresses are looked up
    again only for an array that is another one than in the call before.
    """

    def __init__(self, entry: _Entry) -> None:
        import numpy as np

        self._np = np
        self._entry, self._program = entry, entry.program()
        graph, places = entry.graph, entry.updates()
        self._updated = frozenset(places.values())
        self._last: list[Any] = [None] * len(graph.inputs)
        self._addresses = np.zeros(len(graph.inputs) + len(graph.outputs), np.int64)
        self._alone = _count() + 1  # `_last` refers to it too
        self._fresh = [
            (k, tuple(x.shape), _has_scalar(tuple(x.shape)), np.dtype(x.dtype.name))
            for k, x in enumerate(graph.outputs)
            if k not in places
        ]
        self._effects: list[tuple[str, int, int]] = []
        place = entry.n_results
        for effect in entry.effects:
            if effect.var is None:
                self._effects.append(("none", effect.index, 0))
                continue
            kind = "write" if place in places else effect.kind
            self._effects.append((kind, effect.index, place))
            place += 1
        self._grads: dict[int, Tensor] = {}
        self._shared = _grad_count()

    def __call__(self, inputs: Sequence[Any], env: dict[str, Any]) -> list[Tensor]:
        """Run a call and assign; return the results."""
        entry, addresses, updated = self._entry, self._addresses, self._updated
        temporary = []
        for i, x in enumerate(inputs):
            array = x.array if isinstance(x, Tensor) else x
            if array is self._last[i]:
                if i not in updated or sys.getrefcount(array) <= self._alone:
                    continue
            del array
            temporary.append(self._located(i, x))
        out: dict[int, Any] = {}
        start = len(inputs)
        for k, shape, varies, kind in self._fresh:
            grad = self._grads.get(k)
            if grad is not None:
                if sys.getrefcount(grad) <= self._shared and (
                    sys.getrefcount(grad.array) <= self._alone - 1
                ):
                    continue
                del self._grads[k]
            array = self._np.empty(resolve(shape, env) if varies else shape, kind)
            out[k] = array
            addresses[start + k] = array.__array_interface__["data"][0]
        status = self._program.run_at(addresses, env)
        if status:
            entry.explain(inputs, env)
        for what, index, k in self._effects:
            tensor = inputs[index]
            if what == "write":
                tensor.version += 1
            elif what == "grad":
                if k in out:
                    self._grads[k] = Tensor(out[k], entry.device)
                tensor.grad = self._grads[k]
            elif what == "none":
                tensor.grad = None
            else:
                tensor.assign(out[k])
        return [Tensor(out[k], entry.device) for k in range(entry.n_results)]

    def _located(self, i: int, x: Any) -> Any:
        """Look up the address of an input, whose array is a new one, or has other owners."""
        np = self._np
        array = x.array if isinstance(x, Tensor) else x
        if i in self._updated:
            array = np.array(array, order="C")
            x.assign(array)
        elif array.__class__ is not np.ndarray or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
            self._last[i] = None
            self._addresses[i] = array.__array_interface__["data"][0]
            return array
        self._last[i] = array
        self._addresses[i] = array.__array_interface__["data"][0]
        return None


def _grad_count() -> int:
    """Return the references that a gradient has which only its parameter and a dict refer to."""
    from types import SimpleNamespace

    grad = Tensor(None, None)  # type: ignore[arg-type]
    held, kept = SimpleNamespace(grad=grad), {0: grad}
    count = sys.getrefcount(grad)
    del held, kept
    return count
