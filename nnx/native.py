"""How native code is called on arrays, and how what a function assigns is written in place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnx.places import HostArrays, address
from nnx.scalar import names_in, resolve
from nnx.tensor import Tensor

if TYPE_CHECKING:
    from nnx.jit import _Call, _Entry
    from nnx.next_call import Repeat

MISSED = object()
"""What the short way of a call returns for one that it does not serve."""
LARGE = 2**31
"""Whole numbers from here on are part of the trace: sums and products of others fit in 64 bits."""
SCALARS_AT_ONCE = 256
"""Results without axes are cut from one array of so many."""


def _count() -> int:
    """Return the references that an array has whose tensor is its only owner."""
    import numpy as np

    tensor: Any = Tensor(np.empty(1), None)  # type: ignore[arg-type]
    array = tensor.array
    return sys.getrefcount(array)


def _grad_count() -> int:
    """Return the references that a gradient has which only its parameter and a dict refer to."""
    from types import SimpleNamespace

    grad = Tensor(None, None)  # type: ignore[arg-type]
    held, kept = SimpleNamespace(grad=grad), {0: grad}
    count = sys.getrefcount(grad)
    del held, kept
    return count


class _Numbers:
    """Results without axes: views of one element each of an array that is made now and then."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype
        self._ready: list[tuple[Any, int]] = []

    def take(self) -> tuple[Any, int]:
        """Return an array of shape () and its address."""
        if not self._ready:
            import numpy as np

            block = np.empty(SCALARS_AT_ONCE, self._dtype)
            start, step = address(block), block.itemsize
            self._ready = [(block[i, ...], start + i * step) for i in range(len(block))]
        return self._ready.pop()


class _Fresh:
    """An output that gets new memory in every call."""

    def __init__(self, place: int, shape: tuple[Any, ...], dtype: Any, arrays: HostArrays) -> None:
        self.place, self.shape, self.dtype, self._arrays = place, shape, dtype, arrays
        self.varies = any(names_in(shape))
        self._numbers = None if shape or not arrays.on_host else _Numbers(dtype)

    def made(self, env: dict[str, Any]) -> tuple[Any, int]:
        """Return an array for it, and the address."""
        if self._numbers is not None:
            return self._numbers.take()
        array = self._arrays.empty(self.size(env), self.dtype)
        return array, self._arrays.address(array)

    def size(self, env: dict[str, Any]) -> tuple[int, ...]:
        """Return its shape in a call."""
        return resolve(self.shape, env) if self.varies else self.shape


class Native:
    """Runs native code on arrays; what the function assigns is written in place.

    An array is written in place only where its tensor is its one owner; else the tensor first gets
    a copy, so that no other tensor or view of NumPy's changes with it. Addresses are looked up
    again only for an array that is another one than in the call before.
    """

    def __init__(self, entry: _Entry) -> None:
        import numpy as np

        self.entry, self.program = entry, entry.program()
        self.arrays: HostArrays = self.program.arrays
        graph, places = entry.graph, entry.updates()
        self.updated = frozenset(places.values())
        self._last: list[Any] = [None] * len(graph.inputs)
        self._addresses = np.zeros(len(graph.inputs) + len(graph.outputs), np.int64)
        self._alone = _count() + 1  # `_last` refers to it too
        self.fresh = [
            _Fresh(k, tuple(x.shape), np.dtype(x.dtype.name), self.arrays)
            for k, x in enumerate(graph.outputs)
            if k not in places
        ]
        self.effects: list[tuple[str, int, int]] = []
        place = entry.n_results
        for effect in entry.effects:
            if effect.var is None:
                self.effects.append(("none", effect.index, 0))
                continue
            kind = "write" if place in places else effect.kind
            self.effects.append((kind, effect.index, place))
            place += 1
        self.grads: dict[int, Tensor] = {}
        self._graded = {k: index for what, index, k in self.effects if what == "grad"}
        if hasattr(self.program, "moving"):
            self.program.moving = frozenset(range(entry.n_arguments)) - self.updated
            self.program.steady = frozenset(self._graded)
        self._shared = _grad_count()

    def __call__(self, inputs: Sequence[Any], env: dict[str, Any]) -> list[Tensor]:
        """Run a call and assign; return the results."""
        entry, addresses, updated = self.entry, self._addresses, self.updated
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
        for fresh in self.fresh:
            k = fresh.place
            if k in self.grads and self._is_free(k, inputs[self._graded[k]]):
                continue
            out[k], addresses[start + k] = fresh.made(env)
        status = self.program.run_at(addresses, env)
        if status:
            entry.explain(inputs, env)
        for what, index, k in self.effects:
            tensor = inputs[index]
            if what == "write":
                tensor.version += 1
            elif what == "grad":
                if k in out:
                    self.grads[k] = Tensor(out[k], entry.device)
                tensor.grad = self.grads[k]
            elif what == "none":
                tensor.grad = None
            else:
                tensor.assign(out[k])
        return [Tensor(out[k], entry.device) for k in range(entry.n_results)]

    def _is_free(self, k: int, param: Tensor) -> bool:
        """Return whether the gradient of an earlier call is kept by its parameter at most."""
        grad = self.grads[k]
        owners = self._shared - (param.grad is not grad)
        if sys.getrefcount(grad) <= owners and sys.getrefcount(grad.array) <= self._alone - 2:
            return True
        del self.grads[k]
        return False

    def _located(self, i: int, x: Any) -> Any:
        """Look up the address of an input, whose array is a new one, or has other owners."""
        arrays = self.arrays
        array = x.array if isinstance(x, Tensor) else x
        if i in self.updated:
            array = arrays.copied(array)
            x.assign(array)
        elif array.__class__ is not arrays.kind or not array.flags.c_contiguous:
            array = arrays.contiguous(array)
            self._last[i] = None
            self._addresses[i] = arrays.address(array)
            return array
        self._last[i] = array
        self._addresses[i] = arrays.address(array)
        return None

    def repeat(self, call: _Call, args: Sequence[Any], env: dict[str, Any]) -> Repeat | None:
        """Return what serves further calls like this one, which has just been run; None if the
        function does more than such calls can do.
        """
        entry = self.entry
        simple = all(isinstance(x, Tensor | int | float) for x in args)
        if (
            not simple
            or len(args) != len(call.tensors) + len(call.numbers)
            or any(isinstance(x, bool) for x in args)
            or any(x.requires_grad for x in call.tensors)
            or any(what == "array" for what, _, _ in self.effects)
            or any(index < entry.n_arguments for _, index, _ in self.effects)
            or entry.grads
            or entry.owners
            or not entry.watch.is_quick
            or any(entry.needs_grad.values())
            or any(self._last[i] is None for i in range(entry.n_arguments))
        ):
            return None
        from nnx.next_call import Repeat

        return Repeat(self, args, env)
