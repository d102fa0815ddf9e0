"""What a call may change of the objects around a function, kept and put back."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from nnx import random
from nnx.op import changes
from nnx.tensor import Tensor, writes
from nnx.watch import has_settings, reads

MAX_ITEMS = 100_000
"""Lists, dicts and sets of more items are left as they become."""


class Kept:
    """Tensors, modules, optimizers, random generators, objects of the user's own classes, and
    lists, dicts and sets, as far as they can be reached from some values, as they are now.

    Arrays are kept, not copied: while somebody refers to one, nothing writes into it.
    """

    def __init__(self, *roots: Any) -> None:
        self._seen: dict[int, Any] = {}
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._generators: list[tuple[random.Generator, dict[str, int]]] = []
        self.add(random.default_generator(), *roots)

    def add(self, *roots: Any) -> None:
        """Keep what can be reached from more values, where it is not kept already."""
        waiting = list(roots)
        while waiting:
            x = waiting.pop()
            if id(x) not in self._seen:
                self._seen[id(x)] = x
                waiting += self._keep(x)

    def _keep(self, x: Any) -> Iterator[Any]:
        """Note one value; yield those in it."""
        if isinstance(x, list | dict | set | tuple):
            if len(x) <= MAX_ITEMS:
                if not isinstance(x, tuple):
                    self._containers.append((x, x.copy()))
                yield from x.values() if isinstance(x, dict) else x
        elif isinstance(x, random.Generator):
            self._generators.append((x, x.state_dict()))
        elif _is_code(x):
            found, bound = reads(x)
            yield from (read.value() for read in found)
            yield from bound
        elif isinstance(x, Tensor) or _is_of_nnx(x) or has_settings(x, {}):
            attributes = _attributes(x)
            self._attributes.append((x, attributes))
            yield from attributes.values()

    def take(self, name: str, earlier: Kept) -> None:
        """Keep an attribute as it was earlier."""
        before = {id(x): attributes for x, attributes in earlier._attributes if name in attributes}
        for x, attributes in self._attributes:
            if id(x) in before:
                attributes[name] = before[id(x)][name]

    def put_back(self) -> None:
        """Make everything as it was."""
        for generator, state in self._generators:
            generator.load_state_dict(state)
        for container, before in self._containers:
            if not _is_same(container, before):
                container.clear()
                container.extend(before) if isinstance(before, list) else container.update(before)
        for x, before in self._attributes:
            now = _attributes(x)
            if now.keys() == before.keys() and all(now[name] is before[name] for name in now):
                continue
            for name in now.keys() - before.keys():
                object.__delattr__(x, name)
            for name, value in before.items():
                if hasattr(x, "__dict__"):
                    vars(x)[name] = value
                else:
                    setattr(x, name, value)
        # Compiled functions then look again at what they use.
        changes.n += 1
        writes.n += 1


def _is_code(x: Any) -> bool:
    code = (types.FunctionType, types.MethodType, functools.partial)
    return isinstance(x, code) or (callable(x) and hasattr(x, "__wrapped__"))


def _is_of_nnx(x: Any) -> bool:
    """Return whether a value is a module, an optimizer, or its entry for a parameter."""
    if isinstance(x, type | types.ModuleType):
        return False
    is_entry = hasattr(x, "param") and hasattr(x, "slots")
    return hasattr(x, "named_modules") or hasattr(x, "load_state_dict") or is_entry


def _attributes(x: Any) -> dict[str, Any]:
    if hasattr(x, "__dict__"):
        return dict(vars(x))
    return {name: getattr(x, name) for name in type(x).__slots__}


def _is_same(x: Any, before: Any) -> bool:
    """Return whether a container holds the same objects as before, in the same order."""
    if len(x) != len(before):
        return False
    if isinstance(x, set):
        return bool(x == before)
    if isinstance(x, dict) and list(x) != list(before):
        return False
    items = zip(x.values(), before.values(), strict=True) if isinstance(x, dict) else (
        zip(x, before, strict=True))  # fmt: skip
    return all(a is b for a, b in items)
