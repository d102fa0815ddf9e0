"""The Numba emitter: a lowered graph becomes the text of one function, ``step(table)``.

``table`` holds 64-bit integers: its own address, then the scalars, then the addresses of inputs,
outputs and work buffers. The text is plain scalar loops, so that it also runs uncompiled; it
allocates nothing, all arrays are contiguous, and an output may be the memory of the input that it
replaces. It returns 0, or the number of the check that failed before anything was replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nnx.graph import DRAW, Eqn, Graph, Var, line
from nnx.kernels.expressions import HALF
from nnx.kernels.gemms import Products
from nnx.kernels.groups import Group, is_view
from nnx.kernels.memory import Life, lifetimes, shared
from nnx.kernels.text import Emitted, Kernel, Scope, cannot_compile


def emit(graph: Graph, updates: dict[int, int], kinds: dict[str, bool]) -> Emitted:
    """Return the text for a graph. ``updates`` maps outputs to the inputs that they replace;
    ``kinds`` says of each scalar whether it is a whole number.
    """
    return Emitter(graph, updates, kinds).run()


def alone(emitted: Emitted, i: int) -> str:
    """Return the text of a function that does on a step's table what its i-th kernel does."""
    before = [text for kernel in emitted.kernels[:i] for text in kernel.lines]
    # Names that an earlier kernel gives to numbers may be read in later ones.
    names = [text for text in before if _NAMED.match(text)]
    return _text([*emitted.head, *names, *emitted.kernels[i].lines, "    return 0"])


_NAMED = re.compile(r"    [A-Za-z_]\w* = .*\Z")


def _text(lines: list[str]) -> str:
    """Return lines as a function, with what they call imported."""
    from nnx.kernels import runtime

    body = "\n".join(lines)
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    names = sorted(w for w in words if w.isidentifier() and hasattr(runtime, w))
    imports = "\n".join(f"    {name}," for name in names)
    return (
        f"from nnx.kernels.runtime import (\n{imports}\n)\n\n"
        f"inf = 1e999\nnan = inf - inf\n\n\ndef step(table):\n{body}\n"
    )


class Emitter(Products):
    """Emits a whole graph."""

    def run(self) -> Emitted:
        """Return the text, and what its table holds where."""
        for eqn in self.graph.eqns:
            for x in (eqn.out, *eqn.vars):
                if x.dtype.name in HALF:
                    cannot_compile(eqn)
        out = self.out
        slot = 1
        for name in self._scalar_names():
            out.scalars[name] = slot
            slot += 1
        for x in self.graph.inputs:
            out.inputs.append(slot)
            self._declare(x, f"x{len(out.inputs) - 1}", slot)
            slot += 1
        out.first = out.inputs[0] if out.inputs else slot
        self.copies: list[tuple[str, Var]] = []
        for k, x in enumerate(self.graph.outputs):
            out.outputs.append(slot)
            old = self.graph.inputs[self.updates[k]] if k in self.updates else None
            if self._writes_directly(k, x):
                if old is None:
                    self._declare(x, f"y{k}", slot)
                else:
                    # One name for one memory: LLVM's test whether two overlap then says no.
                    self.pointer[x] = self.pointer[old]
            elif old is not None:
                self.copies.append((self.pointer[old], x))
            else:
                self.copies.append((f"y{k}", x))
                self.head.append("    " + self._pointer_line(x.dtype, f"y{k}", slot))
            slot += 1
        out.last = slot
        out.stored = self.stored
        for buffer in shared(self._lives(), self.plan.heirs()):
            buffer.slot = slot
            out.buffers.append(buffer)
            for x in buffer.vars:
                self.pointer[x] = f"w{len(out.buffers) - 1}"
            self.head.append("    " + self._pointer_line(buffer.dtype, self.pointer[x], slot))
            slot += 1
        if any(eqn.op.name == "matmul" and eqn.out.dtype.is_floating for eqn in self.graph.eqns):
            out.threads, slot = slot, slot + 1
            self.head.append(f"    threads = table[{out.threads}]")
        out.size = slot
        for group in self.plan.groups:
            start = len(self.top.lines)
            if group.alone:
                self._alone(group.eqns[0])
            else:
                self._group(group)
            out.kernels.append(self._kernel_of(group, start))
        # First what may still read an input, then what replaces inputs.
        for name, x in sorted(self.copies, key=lambda copy: copy[0].startswith("x")):
            start = len(self.top.lines)
            self._copy(name, x)
            read = tuple(self._roots(x))
            out.kernels.append(Kernel((), read, (x,), tuple(self.top.lines[start:])))
        self._leave(0, self.top)
        out.head = self.head
        out.source = _text([*self.head, *self.top.lines])
        return out

    def _kernel_of(self, group: Group, start: int) -> Kernel:
        """Return a group as what the lines from ``start`` on do."""
        read = [x for eqn in group.eqns for x, _ in self.plan.sources(eqn)
                if self.plan.group_of.get(x) is not group]  # fmt: skip
        written = [eqn.out for eqn in group.eqns if eqn.out in self.pointer]
        lines = tuple(self.top.lines[start:])
        return Kernel(tuple(group.eqns), tuple(dict.fromkeys(read)), tuple(written), lines)

    def _scalar_names(self) -> list[str]:
        return sorted(self.kinds)

    def _declare(self, x: Var, name: str, slot: int) -> None:
        if x in self.pointer:
            return
        self.pointer[x] = name
        self.head.append("    " + self._pointer_line(x.dtype, name, slot))

    @property
    def stored(self) -> list[Eqn]:
        """The eqns whose results are kept in memory."""
        return [self.plan.maker[x] for x in self.plan.stored]

    def _writes_directly(self, k: int, x: Var) -> bool:
        """Return whether an output is written where it is computed, and not copied at the end."""
        if x in self.pointer or x not in self.plan.maker:
            return False
        if self.plan.is_free(self.plan.maker[x]):
            return False
        if self.graph.outputs.index(x) != k:
            return False
        if k not in self.updates:
            return True
        old = self.graph.inputs[self.updates[k]]
        mine = self.plan.group_of[x]
        if x not in self.plan.late:
            return False  # a check after it may fail, or something read what it replaces
        once = self._in_one_pass(mine, old)
        order = {id(g): i for i, g in enumerate(self.plan.groups)}
        for eqn in self.graph.eqns:
            if self.plan.is_free(eqn):
                continue
            for y, own in self.plan.sources(eqn):
                if y is old:
                    theirs = self.plan.group_of[eqn.out]
                    if order[id(theirs)] > order[id(mine)] or (
                        theirs is mine and not (own and once)
                    ):
                        return False
        return not any(self._view_of(o, old) for o in self.graph.outputs)

    def _in_one_pass(self, group: Group, old: Var) -> bool:
        """Return whether all that needs an input in a group is worked out in one pass over it.

        Another pass would read it again, when it has been replaced.
        """
        needing = {old}
        for eqn in group.eqns:
            if any(x in needing for x, _ in self.plan.sources(eqn)):
                needing.add(eqn.out)
        targets = [(level, eqn) for level, eqn in self._levels(group) if eqn.out in needing]
        return len({(level, self._is_row_target(eqn, group)) for level, eqn in targets}) <= 1

    def _view_of(self, x: Var, old: Var) -> bool:
        if x is old:
            return True
        maker = self.plan.maker.get(x)
        return bool(maker and is_view(maker) and any(self._view_of(y, old) for y in maker.vars))

    def _lives(self) -> list[Life]:
        """Return when each value that needs work memory is in use."""
        steps = [
            [x for eqn in group.eqns for x in (eqn.out, *(y for y, _ in self.plan.sources(eqn)))]
            for group in self.plan.groups
        ]
        steps.append([y for _, x in self.copies for y in self._roots(x)])
        return lifetimes(steps, [x for x in self.plan.stored if x not in self.pointer])

    def _alone(self, eqn: Eqn) -> None:
        self.top.put(f"# {line(eqn, self.names)}")
        name = eqn.op.name
        if name == "matmul":
            self._matmul(eqn)
        elif name == "concat":
            self._concat(eqn)
        elif name in ("getitem", "scatter_add"):
            self._indexed(eqn)
        elif name in ("cumulative_sum", "cumulative_prod"):
            self._cumulative(eqn)
        elif eqn.op is DRAW:
            self._draw(eqn)
        elif name in ("argmax", "argmin") or name in ("sum", "prod", "max", "min", "any", "all"):
            self._general_reduction(eqn)
        else:
            cannot_compile(eqn)
        self.ready.add(eqn.out)

    def _copy(self, name: str, x: Var) -> None:
        outer = Scope(self.top, frozenset(), 1)
        index, inner = self._loops(x.shape, outer)
        text = self.value(x, tuple(index), inner)
        inner.put(f"{name}[{self.flat(x.shape, index)}] = {text}")
        self._close(inner, outer)
        self.top.lines += outer.lines

    def _roots(self, x: Var) -> Iterator[Var]:
        maker = self.plan.maker.get(x)
        if maker is not None and is_view(maker):
            for y in maker.vars:
                yield from self._roots(y)
        else:
            yield x
