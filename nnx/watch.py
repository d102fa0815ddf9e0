"""What a trace took for granted of the objects around a function, and whether it still holds."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nnx.op import changes
from nnx.tensor import Tensor

MAX_ITEMS = 256
"""Lists and dicts of more items are not watched."""

_PLAIN = (str, int, float, bool, bytes, type(None))
_LIBRARIES = frozenset({"nnx", "numpy", "cupy", "scipy", "torch", "jax", "numba"})


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


def reads(function: Any) -> tuple[list[Read], list[Any]]:
    """Return the variables that a function, and what it calls, take from outside.

    Followed are functions of the user: those that are read, methods of objects and modules that are
    read, defaults, partials. Code of nnx and of other libraries is not looked into. The second part
    has values that belong to the functions: defaults, the objects of methods, what partials hold.
    """
    found: list[Read] = []
    bound: list[Any] = [] if isinstance(function, types.FunctionType) else [function]
    seen: set[int] = set()
    waiting: list[Any] = [function]
    while waiting:
        x = waiting.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, types.FunctionType):
            if x is not _plain_function(function) and _is_of_a_library(x.__module__):
                continue
            mine, own = _read_by(x)
            found += mine
            bound += own
            waiting += [read.value() for read in mine] + own
        else:
            inside = list(_callable_parts(x))
            bound += [part for part in inside if not isinstance(part, types.FunctionType)]
            waiting += inside
    return found, bound


def _plain_function(x: Any) -> Any:
    """Return the function inside of methods, partials and wrappers."""
    while not isinstance(x, types.FunctionType):
        inner = getattr(x, "__func__", None) or getattr(x, "__wrapped__", None)
        inner = inner or (x.func if isinstance(x, functools.partial) else None)
        if inner is None:
            return None
        x = inner
    return x


def _read_by(f: types.FunctionType) -> tuple[list[Read], list[Any]]:
    """Return the variables that a function itself reads, and its defaults."""
    mine = [
        Read(cell, name)
        for cell, name in zip(f.__closure__ or (), f.__code__.co_freevars, strict=True)
    ]
    mine += [
        Read(f.__globals__, name)
        for name in sorted(set(_global_names(f.__code__)))
        if name in f.__globals__  # others are builtins
    ]
    skipped = (types.ModuleType, types.BuiltinFunctionType, type)
    own = [*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()]
    return [read for read in mine if not isinstance(read.value(), skipped)], own


def _callable_parts(x: Any) -> Iterator[Any]:
    """Yield what a value can run or hand on: functions, and the objects that these belong to."""
    if isinstance(x, types.MethodType):
        yield from (x.__self__, x.__func__)
    elif isinstance(x, functools.partial):
        yield from (x.func, *x.args, *x.keywords.values())
    elif hasattr(x, "__wrapped__"):
        yield x.__wrapped__
    elif isinstance(x, list | tuple | dict) and len(x) <= MAX_ITEMS:
        yield from x.values() if isinstance(x, dict) else x
    elif hasattr(x, "named_modules"):
        for _, module in x.named_modules():
            yield from _methods(module)
    elif not isinstance(x, (*_PLAIN, Tensor)):
        yield from _methods(x)


def _methods(x: Any) -> Iterator[Any]:
    """Yield the functions that users wrote in the classes of an object."""
    for kind in type(x).__mro__:
        if not _is_of_a_library(kind.__module__):
            yield from (f for f in vars(kind).values() if isinstance(f, types.FunctionType))


def _is_of_a_library(module: str | None) -> bool:
    top = (module or "").partition(".")[0]
    return top in _LIBRARIES or (top in sys.stdlib_module_names and top != "__main__")


def _global_names(code: types.CodeType) -> Iterator[str]:
    import dis

    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
        elif isinstance(step.argval, types.CodeType):
            yield from _global_names(step.argval)


# Objects


# What training itself sets, on modules and on optimizers.
_OF_MODULES = frozenset({
    "_called", "_example", "_graph", "_output_shape", "_path", "history", "stop_training",
    "_compiled", "device_report",
})  # fmt: skip
_OF_OPTIMIZERS = frozenset({"step_count", "_lr", "xp", "_slots_made", "_schedule"})


def _parts(obj: Any) -> dict[str, Any]:
    """Return the attributes of an object that a function may have read."""
    volatile: frozenset[str] = frozenset()
    if hasattr(obj, "named_modules"):
        volatile = _OF_MODULES
    elif hasattr(obj, "load_state_dict"):
        volatile = _OF_OPTIMIZERS
    return {name: value for name, value in vars(obj).items() if name not in volatile}


def _settings(obj: Any) -> dict[str, Any]:
    return {name: _mark(value) for name, value in _parts(obj).items()}


class _Same:
    """An object, to be compared by identity; it stays alive, so that no other gets its place."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def _mark(x: Any) -> Any:
    """Return what is compared of a value: plain ones themselves, others as the object they are."""
    if isinstance(x, _PLAIN):
        return type(x), x
    if isinstance(x, tuple):
        return tuple(map(_mark, x))
    x = getattr(x, "param", x)
    # That a network or a tensor is gone is noticed elsewhere; it must not be kept alive.
    return id(x) if isinstance(x, Tensor) or _is_watched(x) else _Same(x)


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


class Seen:
    """What an object was, without keeping it alive where that is possible."""

    def __init__(self, value: Any) -> None:
        try:
            self._reference: Any = weakref.ref(value)
        except TypeError:
            self._reference = lambda: value
        self._plain = isinstance(value, (*_PLAIN, tuple))
        self._mark = _mark(value) if self._plain else None

    def value(self) -> Any:
        """Return the object; None if it is gone."""
        return self._reference()

    @property
    def is_gone(self) -> bool:
        """Whether the object is no more; a plain value always is there."""
        return not self._plain and self._reference() is None

    def is_(self, value: Any) -> bool:
        """Return whether a value is the same object, or an equal plain value."""
        return _mark(value) == self._mark if self._plain else self._reference() is value


class Contents:
    """The lists and dicts that a function can reach, as they were before it was traced."""

    def __init__(self, function: Any, statics: list[Any]) -> None:
        self._reads, bound = reads(function)
        roots = [read.value() for read in self._reads] + bound + statics
        parts = [part for root in _spread(roots) for obj in (*_tree(root), *_own(root))
                 for part in vars(obj).values()]  # fmt: skip
        containers = {id(x): x for x in _containers([*roots, *parts])}
        self._kept = [(x, x.copy()) for x in containers.values()]

    def leaked(self, is_leak: Callable[[Any], bool]) -> str | None:
        """Put everything back; return what held a value that must not outlive the trace, if any."""
        found = None
        for x, before in self._kept:
            if ids(x) == ids(before) and list(x) == list(before):
                continue
            if any(map(is_leak, x.values() if isinstance(x, dict) else x)):
                found = f"a {type(x).__name__}"
                x.clear()
                x.extend(before) if isinstance(x, list) else x.update(before)
        for read in self._reads:
            if found is None and is_leak(read.value()):
                found = f"the variable {read.name!r}"
        return found


class Watch:
    """Modules, optimizers, lists and names that a traced function can read.

    It holds while all of them are as they were in the trace.
    """

    def __init__(self, watched: dict[int, Any], function: Any, statics: list[Any]) -> None:
        self._reads, bound = reads(function)
        self._values = [Seen(read.value()) for read in self._reads]
        roots = [read.value() for read in self._reads] + bound + statics
        objects = dict(watched)
        for root in _spread(roots):
            for obj in _tree(root):
                objects[id(obj)] = obj
        self._objects = [(weakref.ref(obj), _settings(obj)) for obj in objects.values()]
        found = {id(x): Seen(x) for x in _containers(roots)}
        self._containers = [(seen.value, ids(seen.value()), _contents(seen.value()))
                            for seen in found.values()]  # fmt: skip
        others = {id(x): x for x in _spread(roots) if has_settings(x, objects)}
        for obj in (*objects.values(), *others.values()):
            for name, part in _parts(obj).items():
                self._containers += _inside(Seen(obj).value, name, part)
        self._others = [(Seen(x), _settings(x)) for x in others.values()]
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
        return cells, others, [(get(), now) for get, now, _ in self._containers]

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors that the function can reach by names, modules and optimizers."""
        for read in self._reads:
            yield from _tensors_of(read.value())
        for reference, _ in self._objects:
            yield from _tensors_of(reference())

    def broken(self) -> str | None:
        """Return what has changed since the trace, None if nothing has."""
        for read, seen in zip(self._reads, self._values, strict=True):
            if not seen.is_(read.value()):
                return f"the name {read.name!r} stands for another object"
        for get, items, contents in self._containers:
            x = get()
            if x is None or (ids(x) != items and _contents(x) != contents):
                return f"a {type(x).__name__} that the function reads has other items"
        for seen, before in self._others:
            now = None if seen.value() is None else _settings(seen.value())
            if now != before:
                return _difference(seen.value(), before, now)
        if changes.n != self._seen:
            for reference, before in self._objects:
                obj = reference()
                now = None if obj is None else _settings(obj)
                if now is None or now != before:
                    return _difference(obj, before, now)
            self._seen = changes.n
        return None


def _inside(owner: Any, name: str, part: Any) -> Iterator[Any]:
    """Yield how to get at the containers in an attribute without keeping its owner alive."""
    for i, x in enumerate(_containers([part])):

        def get(i: int = i) -> Any:
            obj = owner()
            held = [] if obj is None else list(_containers([vars(obj).get(name)]))
            return held[i] if i < len(held) else None

        yield get, ids(x), _contents(x)


def has_settings(x: Any, objects: dict[int, Any]) -> bool:
    """Return whether a value is an object of a user's own class, with attributes to look at."""
    code = (types.FunctionType, types.MethodType, types.ModuleType, type, Tensor, functools.partial)
    if id(x) in objects or isinstance(x, code) or not hasattr(x, "__dict__"):
        return False
    return not _is_of_a_library(type(x).__module__)


def _spread(roots: list[Any]) -> Iterator[Any]:
    """Yield values, and those in lists, tuples and dicts of them."""
    for root in roots:
        if isinstance(root, types.MethodType):
            yield root.__self__
        elif has_settings(root, {}):
            yield root
            yield from vars(root).values()
        elif isinstance(root, list | tuple | dict) and len(root) <= MAX_ITEMS:
            yield from root.values() if isinstance(root, dict) else root
        else:
            yield root


def _tensors_of(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif hasattr(x, "named_parameters"):
        yield from (p for _, p in x.named_parameters())
    elif isinstance(getattr(x, "params", None), list):
        yield from x.params
    elif isinstance(x, list | tuple | dict) and len(x) <= MAX_ITEMS:
        for item in x.values() if isinstance(x, dict) else x:
            if isinstance(item, Tensor):
                yield item


def device_of(function: Any) -> Any:
    """Return the device of the first tensor or module that a function can reach, None without."""
    found, bound = reads(function)
    for root in _spread([*(read.value() for read in found), *bound]):
        for x in _tensors_of(root):
            return x.device
    return None


def _own(root: Any) -> list[Any]:
    return [root] if has_settings(root, {}) else []


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
