"""Calls of native code that are like the one before: a Python function written out for them.

`nnx.native` takes any call that fits a compiled function and looks at everything. Here the second
call is served, and those after it, with what it would look at bound as constants and written out
line by line, without loops: a tenth of the cost.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from ctypes import addressof
from typing import TYPE_CHECKING, Any

from nnx.native import LARGE, MISSED
from nnx.op import changes, recording
from nnx.places import HOST, element_of
from nnx.scalar import names_in
from nnx.tensor import Tensor, writes
from nnx.watch import ids

if TYPE_CHECKING:
    from nnx.native import Native

WRITTEN_OUT = 16
"""Lists of up to so many items are compared item by item."""

_WORD = re.compile(r"\b(?!(?:and|or|not|if|else|is|True|False|nan|inf)\b)[A-Za-z_]\w*")


class _Text:
    """Lines of a function, and the objects that it names."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"nan": float("nan"), "inf": float("inf")}
        self.lines: list[str] = []

    def name(self, x: Any) -> str:
        """Return a name for an object, the same as before for the same object."""
        for name, known in self.names.items():
            if known is x:
                return name
        name = f"_{len(self.names)}"
        self.names[name] = x
        return name

    def add(self, line: str, depth: int = 1) -> None:
        """Add a line of the body."""
        self.lines.append("    " * depth + line)

    def function(self, parameter: str, places: Sequence[str] = ()) -> Any:
        """Return the function; ``places`` are names that it may set anew, for its next call."""
        head = [f"def make({', '.join(self.names)}):", f"    def call({parameter}):"]
        if places:
            head.append(f"        nonlocal {', '.join(places)}")
        text = "\n".join([*head, *(f"    {line}" for line in self.lines), "    return call"])
        scope: dict[str, Any] = {}
        exec(compile(text, "<nnx.next_call>", "exec"), scope)
        return scope["make"](**self.names)


class Repeat:
    """Further calls of the sizes of one that was run: same network, perhaps other batches.

    ``call`` with the arguments returns the results, or `MISSED` where something else is different;
    nothing has then happened, and the call goes the long way. That one counts the owners of arrays,
    so nothing here may refer back to this object: it must go, with what it holds, as it is dropped.
    """

    def __init__(self, native: Native, args: Sequence[Any], env: dict[str, Any]) -> None:
        entry, emitted = native.entry, native.program.emitted
        self.native, self.entry = native, entry
        self.setting = native.program.setting(env)
        self._words = memoryview(self.setting.table)
        self._floats = memoryview(self.setting.numbers)
        self.env = dict(env)
        self.slots_in, self.slots_out = emitted.inputs, emitted.outputs
        self.scalars = [
            (name, getter, entry.kinds[name], emitted.scalars[name])
            for name, getter in entry.getters
        ]
        read = set(re.findall(r"[A-Za-z_]\w*", " ".join(entry.required)))
        self._holds = entry.holds if read & entry.varying else None
        graded = [(index, k) for what, index, k in native.effects if what == "grad"]
        self._grads = [(entry.tensor(index), native.grads[k]) for index, k in graded]
        self._written = [entry.tensor(i) for i in sorted(native.updated)]
        self._forgotten = [entry.tensor(i) for what, i, _ in native.effects if what == "none"]
        own = {k for _, k in graded}
        self.fresh = [fresh for fresh in native.fresh if fresh.place not in own]
        # Written in place: none of these may have another owner.
        self._owned: list[Any] = [x.array for x in self._written]
        self._owned += [grad for _, grad in self._grads]
        self._owned += [grad.array for _, grad in self._grads]
        self._owners: list[int] = []
        conditions = self._conditions()
        self.unchanged: Callable[[], bool] = self._unchanged(conditions)
        self.call: Callable[[tuple[Any, ...]], Any] = self._call(conditions, args)
        del conditions  # counted last: the functions refer to what they compare
        self._owners += map(sys.getrefcount, self._owned)

    # What has to be as it was

    def _conditions(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what has to hold, as texts with a {} for each of the objects beside them."""
        entry = self.entry
        found: list[tuple[str, tuple[Any, ...]]] = [
            (f"{{}}.n == {changes.n}", (changes,)),
            (f"{{}}.n == {writes.n}", (writes,)),
            (f"{{}}.on is {recording.on}", (recording,)),
        ]
        cells, others, containers = entry.watch.names()
        found += [("{}.cell_contents is {}", pair) for pair in cells]
        found += [(f"{{}}[{name!r}] is {{}}", (place, x)) for place, name, x in others]
        for part, items in containers:
            if isinstance(part, list) and len(part) <= WRITTEN_OUT and ids(part) == items:
                found.append((f"len({{}}) == {len(part)}", (part,)))
                found += [(f"{{}}[{i}] is {{}}", (part, x)) for i, x in enumerate(part)]
            else:
                found.append(("{}({}) == {}", (ids, part, items)))
        # Not the slots of optimizers, which no one else touches.
        kept = [i for i in entry.captured
                if entry.tracked[i] or i not in self.native.updated]  # fmt: skip
        found += [(f"{{}}.requires_grad is {entry.tracked[i]}", (entry.tensor(i),)) for i in kept]
        found += [("{}.grad is None", (entry.tensor(i),)) for i in entry.needs_grad]
        found += [("{}.grad is {}", pair) for pair in self._grads]
        owners = (sys.getrefcount, self._owned, self._owners)
        return [*found, ("list(map({}, {})) == {}", owners)]

    @staticmethod
    def _check(text: _Text, conditions: list[tuple[str, tuple[Any, ...]]], missed: str) -> None:
        """Write out the conditions; a name or a cell that is gone does not hold either."""
        text.add("try:")
        lines = [form.format(*map(text.name, objects)) for form, objects in conditions]
        text.add(f"if not ({' and '.join(lines)}):", 2)
        text.add(f"return {missed}", 3)
        text.add("except (KeyError, ValueError, IndexError):")
        text.add(f"return {missed}", 2)

    def _unchanged(self, conditions: list[tuple[str, tuple[Any, ...]]]) -> Callable[[], bool]:
        """Return the function that says whether all but the arguments is as it was."""
        text = _Text()
        self._check(text, conditions, "False")
        text.add("return True")
        return text.function("")  # type: ignore[no-any-return]

    # A call

    def _call(
        self, conditions: list[tuple[str, tuple[Any, ...]]], args: Sequence[Any]
    ) -> Callable[[tuple[Any, ...]], Any]:
        """Return the function of the arguments that runs a call."""
        text = _Text()
        text.names["MISSED"] = MISSED
        text.add(f"if len(args) != {len(args)}:")
        text.add("return MISSED", 2)
        self._check(text, conditions, "MISSED")
        places = self._arguments(text, args)
        self._numbers(text)
        makes = self._results(text)
        env = text.name(self.env)
        if self.entry.draws:
            text.add(f"claims = {text.name(self.entry.claim)}({env})")
            for name, slot in self._draws():
                text.add(f"{text.name(self._words)}[{slot}] = {text.name(_bits)}({env}[{name!r}])")
        text.add(f"if {text.name(self.setting.run)}():")
        claims = "claims" if self.entry.draws else "()"
        text.add(f"{text.name(_explain)}({text.name(self.entry)}, {env}, args, {claims})", 2)
        for x in self._written:
            text.add(f"{text.name(x)}.version += 1")
        for x in self._forgotten:
            text.add(f"{text.name(x)}.grad = None")
        entry = self.entry
        known = {name for name, *_ in self.scalars}
        parts = zip(entry.setters, entry.setter_texts, strict=True)
        for (obj, name, value), expression in parts:
            if set(_WORD.findall(expression)) <= known:
                new = _WORD.sub(lambda word: f"s_{word[0]}", expression)
            else:
                new = f"{text.name(value)}({env})"
            text.add(f"{text.name(vars(obj))}[{name!r}] = {new}")
        text.add(f"return {text.name(entry.results.make)}([{', '.join(makes)}], {env})")
        return text.function("args", places)  # type: ignore[no-any-return]

    def _arguments(self, text: _Text, args: Sequence[Any]) -> list[str]:
        """Write out how the arguments are checked, and put where they are into the table."""
        entry, emitted = self.entry, self.native.program.emitted
        words, device = text.name(self._words), text.name(entry.device)
        find = self.native.arrays.address
        tensors, numbers, places = iter(range(entry.n_arguments)), iter(range(len(args))), []
        for k, x in enumerate(args):
            text.add(f"x = args[{k}]")
            if isinstance(x, Tensor):
                slot = self.slots_in[next(tensors)]
                place = text.name(_Place(x.array))
                array = f"array{k}"
                text.names[array] = x.array
                places.append(array)
                tensor = text.name(Tensor)
                text.add(f"if x.__class__ is not {tensor} or x.requires_grad "
                         f"or x.device is not {device}:")  # fmt: skip
                text.add("return MISSED", 2)
                text.add("x = x.array")
                text.add(f"if x is not {array}:")
                text.add(f"if not {place}.fits(x):", 2)
                text.add("return MISSED", 3)
                text.add(f"{words}[{slot}] = {text.name(find)}(x)", 2)
                text.add(f"{array} = x", 2)
                continue
            name = f"a{next(numbers)}"
            whole = entry.kinds[name]
            kind = text.name(int if whole else float)
            limits = f" or not {-LARGE} < x < {LARGE}" if whole else ""
            text.add(f"if x.__class__ is not {kind}{limits}:")
            text.add("return MISSED", 2)
            self._number(text, name, "x", emitted.scalars[name], whole)
        return places

    def _number(self, text: _Text, name: str, value: str, slot: int, is_whole: bool) -> None:
        view = text.name(self._words if is_whole else self._floats)
        text.add(f"{text.name(self.env)}[{name!r}] = {view}[{slot}] = {value}")

    def _numbers(self, text: _Text) -> None:
        """Write out how the numbers are read that each call brings."""
        for name, getter, is_whole, slot in self.scalars:
            if isinstance(getter, functools.partial) and getter.func is getattr:
                obj, attribute = getter.args
                text.add(f"s_{name} = {text.name(obj)}.{attribute}")
            else:
                text.add(f"s_{name} = {text.name(getter)}()")
            self._number(text, name, f"s_{name}", slot, is_whole)
        if self._holds is not None:
            text.add(f"if not {text.name(self._holds)}({text.name(self.env)}):")
            text.add("return MISSED", 2)

    def _results(self, text: _Text) -> list[str]:
        """Write out how memory for the results is made; return the names of their tensors."""
        made: list[str] = []
        import numpy as np

        for fresh in self.fresh:
            slot = f"{text.name(self._words)}[{self.slots_out[fresh.place]}]"
            tensor, device = text.name(Tensor), text.name(self.entry.device)
            shape = fresh.size(self.env)
            fixed = not self.entry.varying & set(names_in(fresh.shape))
            if self.native.arrays is HOST and shape and 0 not in shape and fixed:
                empty, known = text.name(np.empty), text.name(shape)
                place = f"{text.name(addressof)}({text.name(element_of)}(x))"
                text.add(f"x = {empty}({known}, {text.name(fresh.dtype)})")
                text.add(f"{slot} = {place}")
            else:
                text.add(f"x, {slot} = {text.name(fresh.made)}({text.name(self.env)})")
            text.add(f"t{len(made)} = {tensor}(x, {device})")
            made.append(f"t{len(made)}")
        return made

    # What blocks of steps need

    @property
    def holds_always(self) -> bool:
        """Whether nothing was taken for granted of the numbers that change."""
        return self._holds is None

    def holds(self, env: dict[str, Any]) -> bool:
        """Return whether what the trace took for granted of its numbers holds for these."""
        return self._holds is None or bool(self._holds(env))

    def _draws(self) -> list[tuple[str, int]]:
        """Return the counters of random numbers, and where each stands in the table."""
        places = self.native.program.emitted.scalars
        return [(name, places[name]) for _, names, _ in self.entry.draws for name in names]

    def draw_slots(self) -> list[int]:
        """Return where the counters of random numbers stand in the table."""
        return [slot for _, slot in self._draws()]

    def draw_words(self, env: dict[str, Any]) -> list[int]:
        """Return the counters as the 64 bits that the table holds."""
        return [_bits(env[name]) for name, _ in self._draws()]

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


def _bits(value: int) -> int:
    """Return a whole number of 64 bits as the table holds it."""
    return value if value < 2**63 else value - 2**64


def _explain(entry: Any, env: dict[str, Any], args: tuple[Any, ...], claims: Sequence[Any]) -> None:
    """Raise what eager mode says of values that the step has refused."""
    for generator, first, n in claims:
        generator.give_back(first, n)
    tensors = [x for x in args if isinstance(x, Tensor)]
    entry.explain(entry.inputs(tensors), env)


class _Place:
    """What the array of an argument has to be for the code of a call."""

    __slots__ = ("_dtype", "_kind", "_shape")

    def __init__(self, array: Any) -> None:
        self._shape, self._dtype, self._kind = array.shape, array.dtype, array.__class__

    def fits(self, array: Any) -> bool:
        """Return whether the code takes it as it is."""
        return (
            array.shape == self._shape
            and array.dtype is self._dtype
            and array.__class__ is self._kind
            and bool(array.flags.c_contiguous)
        )
