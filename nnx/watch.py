"""What a trace took for granted of the objects around a function, and whether it still holds."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nnx.op import changes
from nnx.tensor import Tensor

MAX_ITEMS = 256
"""Lists and dicts of more items are not watched."""

_PLAIN = (str, int, float, bool, bytes, type(None))


class Read(NamedTuple):
    """A variable outside a function: a cell of its closure, or a name in its globals."""

    place: Any
    name: str

    def value(self) -> Any:
        """Return what it stands for now; None for a cell that is empty."""
        if isinstance(self.place, dict):
            return self.place.get(self.name)
        try:
            return self.place.cell_contents
        except ValueError:
            return None


def reads(function: Any) -> list[Read]:
    """Return the variables that a function reads, and the functions that it reads, without nnx's.

    Libraries that are imported as modules are passed over.
    """
    found: list[Read] = []
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        f = _unwrapped(waiting.pop())
        if not isinstance(f, types.FunctionType) or id(f) in seen:
            continue
        seen.add(id(f))
        if (f.__module__ or "").partition(".")[0] == "nnx":
            continue
        mine = [Read(cell, name) for cell, name in zip(
            f.__closure__ or (), f.__code__.co_freevars, strict=True)]  # fmt: skip
        mine += [Read(f.__globals__, name) for name in sorted(set(_global_names(f.__code__)))]
        for read in mine:
            value = read.value()
            if isinstance(value, types.ModuleType | types.BuiltinFunctionType | type):
                continue
            if isinstance(read.place, dict) and read.name not in read.place:
                continue  # a name of builtins
            found.append(read)
            waiting.append(value)
    return found


def _unwrapped(f: Any) -> Any:
    """Return the plain function inside of methods, partials and jitted functions."""
    while True:
        if isinstance(f, types.MethodType):
            f = f.__func__
        elif isinstance(f, functools.partial):
            f = f.func
        elif hasattr(f, "__wrapped__"):
            f = f.__wrapped__
        else:
            return f


def _global_names(code: types.CodeType) -> Iterator[str]:
    import dis

    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
        elif isinstance(step.argval, types.CodeType):
            yield from _global_names(step.argval)


# Objects


_VOLATILE = frozenset({
    "_called", "_output_shape", "_path", "history", "stop_training", "_compiled", "device_report",
    "step_count", "_lr", "xp", "_slots_made", "_schedule",
})  # fmt: skip


def _settings(obj: Any) -> dict[str, Any]:
    return {name: _mark(value) for name, value in vars(obj).items() if name not in _VOLATILE}


def _mark(x: Any) -> Any:
    """Return what is compared of a value: plain ones themselves, others as the object they are."""
    if isinstance(x, _PLAIN):
        return type(x), x
    if isinstance(x, tuple):
        return tuple(map(_mark, x))
    return id(getattr(x, "param", x))


def _contents(x: Any) -> Any:
    """Return what is compared of a list, dict or set."""
    if isinstance(x, dict):
        return [(key, _mark(value)) for key, value in x.items()]
    return list(map(_mark, x))


def ids(x: Any) -> list[int]:
    """Return the identities of the items of a list, dict or set, in order."""
    return list(map(id, x.values() if isinstance(x, dict) else x))


def _is_watched(x: Any) -> bool:
    """Return whether a value is an object of nnx whose settings a function may read."""
    return hasattr(x, "named_parameters") or hasattr(x, "load_state_dict")


class _Seen:
    """What an object was, without keeping it alive where that is possible."""

    def __init__(self, value: Any) -> None:
        try:
            self._reference: Any = weakref.ref(value)
        except TypeError:
            self._reference = lambda: value
        self._plain = isinstance(value, (*_PLAIN, tuple))
        self._mark = _mark(value) if self._plain else None

    def is_(self, value: Any) -> bool:
        """Return whether a value is the same object, or an equal plain value."""
        return _mark(value) == self._mark if self._plain else self._reference() is value


class Watch:
    """Modules, optimizers, lists and names that a traced function can read.

    It holds while all of them are as they were in the trace.
    """

    def __init__(self, watched: dict[int, Any], function: Any, statics: list[Any]) -> None:
        self._reads = reads(function)
        self._values = [_Seen(read.value()) for read in self._reads]
        roots = [read.value() for read in self._reads] + statics
        if isinstance(function, types.MethodType):
            roots.append(function.__self__)
        objects = dict(watched)
        for root in _spread(roots):
            for obj in _tree(root):
                objects[id(obj)] = obj
        self._objects = [(weakref.ref(obj), _settings(obj)) for obj in objects.values()]
        parts = [part for obj in objects.values() for name, part in vars(obj).items()
                 if name not in _VOLATILE]  # fmt: skip
        containers = {id(x): x for x in _containers([*roots, *parts])}
        self._containers = [(x, ids(x), _contents(x)) for x in containers.values()]
        self._others = [(x, _settings(x)) for x in statics if _has_settings(x, objects)]
        self._seen = changes.n

    @property
    def is_quick(self) -> bool:
        """Whether counters, names and lists are all that has to be looked at."""
        return not self._others

    def names(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Return what cells and global names stand for now, and the lists with their items' ids."""
        cells, others = [], []
        for read in self._reads:
            if isinstance(read.place, dict):
                others.append((read.place, read.name, read.value()))
            else:
                cells.append((read.place, read.value()))
        return cells, others, [(x, now) for x, now, _ in self._containers]

    def leaks(self, is_leak: Callable[[Any], bool]) -> str | None:
        """Return where a value that must not outlive the trace is kept, None if nowhere."""
        for x, _, _ in self._containers:
            if any(map(is_leak, x.values() if isinstance(x, dict) else x)):
                return f"a {type(x).__name__}"
        for read in self._reads:
            if is_leak(read.value()):
                return f"the variable {read.name!r}"
        return None

    def broken(self) -> str | None:
        """Return what has changed since the trace, None if nothing has."""
        for read, seen in zip(self._reads, self._values, strict=True):
            if not seen.is_(read.value()):
                return f"the name {read.name!r} stands for another object"
        for x, items, contents in self._containers:
            if ids(x) != items and _contents(x) != contents:
                return f"a {type(x).__name__} that the function reads has other items"
        for x, before in self._others:
            if _settings(x) != before:
                return _difference(x, before, _settings(x))
        if changes.n != self._seen:
            for reference, before in self._objects:
                obj = reference()
                now = None if obj is None else _settings(obj)
                if now is None or now != before:
                    return _difference(obj, before, now)
            self._seen = changes.n
        return None


def _has_settings(x: Any, objects: dict[int, Any]) -> bool:
    plain = isinstance(x, (types.FunctionType, types.MethodType, types.ModuleType, type))
    return id(x) not in objects and not plain and hasattr(x, "__dict__")


def _spread(roots: list[Any]) -> Iterator[Any]:
    """Yield values, and those in lists, tuples and dicts of them."""
    for root in roots:
        if isinstance(root, types.MethodType):
            yield root.__self__
        elif isinstance(root, list | tuple | dict) and len(root) <= MAX_ITEMS:
            yield from root.values() if isinstance(root, dict) else root
        else:
            yield root


def _tree(root: Any) -> Iterator[Any]:
    """Yield a module with all modules in it, or an optimizer."""
    if hasattr(root, "named_modules"):
        yield from (module for _, module in root.named_modules())
    elif _is_watched(root) and not isinstance(root, Tensor) and hasattr(root, "__dict__"):
        yield root


def _containers(values: list[Any], depth: int = 3) -> Iterator[Any]:
    """Yield lists, dicts and sets among values, and those in them, but for long ones."""
    for x in values:
        if isinstance(x, list | dict | set) and len(x) <= MAX_ITEMS:
            yield x
            if depth:
                yield from _containers(list(x.values() if isinstance(x, dict) else x), depth - 1)


def _difference(obj: Any, before: dict[str, Any], now: dict[str, Any] | None) -> str:
    if now is None:
        return "an object that the function used is gone"
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    return f"{type(obj).__name__}.{', '.join(changed)} changed"
