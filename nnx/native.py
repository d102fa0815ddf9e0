"""How native code is called on host arrays: in place, and again with as little as can be between.

`Native` takes any call that fits a compiled function. `Repeat` takes the next call if it is like
the one before, and looks only at what can have changed: it costs a tenth.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

from nnx.op import changes, recording
from nnx.scalar import Scalar, resolve
from nnx.tensor import Tensor, writes
from nnx.watch import ids

if TYPE_CHECKING:
    from nnx.jit import _Call, _Entry

MISSED = object()
"""What `Repeat` returns for a call that it does not serve."""
LARGE = 2**31
"""Whole numbers from here on are part of the trace: sums and products of others fit in 64 bits."""
SCALARS_AT_ONCE = 256
"""Results without axes are cut from one array of so many."""


def varies(x: Any) -> bool:
    """Return whether a value has a number in it that each call brings."""
    if isinstance(x, tuple | list):
        return any(map(varies, x))
    if isinstance(x, slice):
        return varies((x.start, x.stop, x.step))
    return isinstance(x, Scalar)


def address(array: Any) -> int:
    """Return where a NumPy array's elements begin."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


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

    def __init__(self, place: int, shape: tuple[Any, ...], dtype: Any) -> None:
        self.place, self.shape, self.dtype = place, shape, dtype
        self.varies = varies(shape)
        self._numbers = None if shape else _Numbers(dtype)

    def made(self, env: dict[str, Any]) -> tuple[Any, int]:
        """Return an array for it, and the address."""
        if self._numbers is not None:
            return self._numbers.take()
        import numpy as np

        array = np.empty(self.size(env), self.dtype)
        return array, address(array)

    def size(self, env: dict[str, Any]) -> tuple[int, ...]:
        """Return its shape in a call."""
        return resolve(self.shape, env) if self.varies else self.shape


class Native:
    """Runs native code on host arrays; what the function assigns is written in place.

    An array is written in place only where its tensor is its one owner; else the tensor first gets
    a copy, so that no other tensor or view of NumPy's changes with it. Addresses are looked up
    again only for an array that is another one than in the call before.
    """

    def __init__(self, entry: _Entry) -> None:
        import numpy as np

        self._np = np
        self.entry, self.program = entry, entry.program()
        graph, places = entry.graph, entry.updates()
        self.updated = frozenset(places.values())
        self._last: list[Any] = [None] * len(graph.inputs)
        self._addresses = np.zeros(len(graph.inputs) + len(graph.outputs), np.int64)
        self._alone = _count() + 1  # `_last` refers to it too
        self.fresh = [
            _Fresh(k, tuple(x.shape), np.dtype(x.dtype.name))
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
        np = self._np
        array = x.array if isinstance(x, Tensor) else x
        if i in self.updated:
            array = np.array(array, order="C")
            x.assign(array)
        elif array.__class__ is not np.ndarray or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
            self._last[i] = None
            self._addresses[i] = address(array)
            return array
        self._last[i] = array
        self._addresses[i] = address(array)
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
        return Repeat(self, args, env)


class _Argument:
    """What an argument of a repeated call has to be."""

    __slots__ = ("array", "dtype", "name", "shape", "slot")

    def __init__(self, slot: int, array: Any = None, name: str = "") -> None:
        self.slot, self.array, self.name = slot, array, name
        if array is not None:
            self.shape, self.dtype = array.shape, array.dtype


class Repeat:
    """Further calls of the sizes of one that was run: same network, perhaps other batches.

    Called with the arguments it returns the results, or `MISSED` where something else is different;
    nothing has then happened, and the call goes the long way.
    """

    def __init__(self, native: Native, args: Sequence[Any], env: dict[str, Any]) -> None:
        entry, emitted = native.entry, native.program.emitted
        self.native, self.entry = native, entry
        self.setting = native.program.setting(env)
        self._words = memoryview(self.setting.table)
        self._floats = memoryview(self.setting.numbers)
        self._run = self.setting.run
        self.env = dict(env)
        self._writes, self._changes = writes.n, changes.n
        self._cells, self._globals, containers = entry.watch.names()
        self._lists = [(x, items) for x, items in containers if isinstance(x, list)]
        self._others = [(x, items) for x, items in containers if not isinstance(x, list)]
        self._n = len(args)
        self.slots_in, self.slots_out = emitted.inputs, emitted.outputs
        self._arguments: list[_Argument] = []
        tensors = iter(range(entry.n_arguments))
        numbers = iter(range(len(args)))
        for x in args:
            if isinstance(x, Tensor):
                i = next(tensors)
                self._arguments.append(_Argument(self.slots_in[i], x.array))
            else:
                name = f"a{next(numbers)}"
                self._arguments.append(_Argument(emitted.scalars[name], name=name))
        self.scalars = [
            (name, getter, entry.kinds[name], emitted.scalars[name])
            for name, getter in entry.getters
        ]
        self._getters = [
            (name, getter, self._view(name), slot) for name, getter, _, slot in self.scalars
        ]
        read = set(re.findall(r"[A-Za-z_]\w*", " ".join(entry.required)))
        self._holds = entry.holds if read & entry.varying else None
        self._recorded = recording.on
        # Not the slots of optimizers, which no one else touches.
        kept = [i for i in entry.captured
                if entry.tracked[i] or i not in native.updated]  # fmt: skip
        self._leaves = [entry.tensor(i) for i in kept]
        self._tracked = [entry.tracked[i] for i in kept]
        self._written = [entry.tensor(i) for i in sorted(native.updated)]
        graded = [(index, k) for what, index, k in native.effects if what == "grad"]
        self._params = [entry.tensor(index) for index, _ in graded]
        self._grads = [native.grads[k] for _, k in graded]
        self._forgotten = [entry.tensor(i) for what, i, _ in native.effects if what == "none"]
        self._ungraded = [entry.tensor(i) for i in entry.needs_grad]
        own = {k for _, k in graded}
        self.fresh = [fresh for fresh in native.fresh if fresh.place not in own]
        # Written in place: none of these may have another owner.
        self._owned = [
            *(x.array for x in self._written), *self._grads, *(g.array for g in self._grads)
        ]  # fmt: skip
        self._owners = list(map(sys.getrefcount, self._owned))

    def _view(self, name: str) -> Any:
        return self._words if self.entry.kinds[name] else self._floats

    def unchanged(self) -> bool:
        """Return whether all but the arguments is as it was in the call before."""
        if changes.n != self._changes or writes.n != self._writes:
            return False
        if recording.on != self._recorded:
            return False
        for cell, value in self._cells:
            if cell.cell_contents is not value:
                return False
        for place, name, value in self._globals:
            if place.get(name) is not value:
                return False
        for part, items in self._lists:
            if list(map(id, part)) != items:
                return False
        for part, items in self._others:
            if ids(part) != items:
                return False
        if self._ungraded and any(x.grad is not None for x in self._ungraded):
            return False
        if list(map(_REQUIRES_GRAD, self._leaves)) != self._tracked:
            return False
        if not all(map(is_, map(_GRAD, self._params), self._grads)):
            return False
        return list(map(sys.getrefcount, self._owned)) == self._owners

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """Run a call; return what the function returns, or MISSED."""
        if len(args) != self._n or not self.unchanged() or not self._takes(args):
            return MISSED
        env = self.env
        for name, getter, view, slot in self._getters:
            env[name] = view[slot] = getter()
        if self._holds is not None and not self._holds(env):
            return MISSED
        entry, words = self.entry, self._words
        claims = self.claim(env) if entry.draws else None
        if claims:
            for slot, word in zip(self.draw_slots(), self.draw_words(env), strict=True):
                words[slot] = word
        device, tensors = entry.device, []
        for fresh in self.fresh:
            array, words[self.slots_out[fresh.place]] = fresh.made(env)
            tensors.append(Tensor(array, device))
        if self._run():
            for generator, first, n in claims or ():
                generator.give_back(first, n)
            entry.explain(entry.inputs([x for x in args if isinstance(x, Tensor)]), env)
        self.count(1)
        for obj, name, value in entry.setters:
            vars(obj)[name] = value(env)
        return entry.results.make(tensors, env)

    def _takes(self, args: tuple[Any, ...]) -> bool:
        """Return whether the arguments fit, and write where they are into the table."""
        device, words = self.entry.device, self._words
        for x, known in zip(args, self._arguments):  # noqa: B905 (as many: the caller knows)
            if known.array is None:
                if type(x) is not (int if self.entry.kinds[known.name] else float):
                    return False
                if type(x) is int and not -LARGE < x < LARGE:
                    return False
                self.env[known.name] = self._view(known.name)[known.slot] = x
                continue
            if x.__class__ is not Tensor or x.requires_grad or x.device is not device:
                return False
            array = x.array
            if array is known.array:
                continue
            if (
                array.shape != known.shape
                or array.dtype is not known.dtype
                or array.__class__ is not known.array.__class__
                or not array.flags.c_contiguous
            ):
                return False
            words[known.slot] = address(array)
            known.array = array
        return True

    @property
    def holds_always(self) -> bool:
        """Whether nothing was taken for granted of the numbers that change."""
        return self._holds is None

    def holds(self, env: dict[str, Any]) -> bool:
        """Return whether what the trace took for granted of its numbers holds for these."""
        return self._holds is None or bool(self._holds(env))

    def claim(self, env: dict[str, Any]) -> list[tuple[Any, int, int]]:
        """Claim the random numbers of a call; return generators, first blocks and counts."""
        return self.entry.claim(env)

    def draw_slots(self) -> list[int]:
        """Return where the counters of random numbers stand in the table."""
        places = self.native.program.emitted.scalars
        return [places[name] for _, names, _ in self.entry.draws for name in names]

    def draw_words(self, env: dict[str, Any]) -> list[int]:
        """Return the counters as the 64 bits that the table holds."""
        values = [env[name] for _, names, _ in self.entry.draws for name in names]
        return [value if value < 2**63 else value - 2**64 for value in values]

    def run_many(self, run: Any, n: int, batch: int, order: Any, columns: Any, results: Any,
                 scalars: Any, slots: Any) -> tuple[int, int]:  # fmt: skip
        """Run a loop over steps on this call's table, whose arguments are then as they were."""
        words = self._words
        before = [(column.slot, words[column.slot]) for column in columns]
        found: tuple[int, int] = run(
            self.native.program.native, self.setting.table, n, batch, order, columns, results,
            scalars, slots,
        )  # fmt: skip
        for slot, word in before:
            words[slot] = word
        return found

    def count(self, n_steps: int) -> None:
        """Note that what the function assigns was written."""
        for x in self._written:
            x.version += n_steps
        for x in self._forgotten:
            x.grad = None


_GRAD, _REQUIRES_GRAD = attrgetter("grad"), attrgetter("requires_grad")
