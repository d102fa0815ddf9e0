"""Eqns by themselves as loops that the threads of a GPU share: reductions, places, draws."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.graph import Eqn, line
from nnx.kernels.cuda_gemm import RELU
from nnx.kernels.cuda_nests import CudaNests
from nnx.kernels.cuda_step import THREADS, WARPS, blocks_for, count_of
from nnx.kernels.draws import drawn, merge
from nnx.kernels.expressions import HALF, cast_of
from nnx.kernels.nests import lowest
from nnx.kernels.text import Scope


class CudaSingles(CudaNests):
    """Emits eqns that no group holds."""

    def _alone(self, eqn: Eqn) -> None:
        if eqn.op is not RELU:
            super()._alone(eqn)
            return
        x, out = self.pointer[eqn.inputs[0]], self.pointer[eqn.out]
        mask, size = self.pointer[self.riders[eqn.out]], shapes.size(eqn.out.shape)
        self.top.put(f"# {line(eqn, self.names)}")
        self.top.put(f"relu_mask({x}, {out}, {mask}, {self.size(size)}, block, blocks)")
        self.blocks = blocks_for(count_of(size), 8 * THREADS)
        self.ready |= {eqn.out, self.riders[eqn.out]}

    def _general_reduction(self, eqn: Eqn) -> None:
        """Emit a reduction over any axes: a warp takes a result, its lanes what goes into it."""
        x, out, chooses = eqn.inputs[0], eqn.out, eqn.op.name in ("argmax", "argmin")
        axes = shapes.normalize_axes(eqn.attrs.get("axis"), len(x.shape))
        kept = [a for a in range(len(x.shape)) if a not in axes]
        body = self._body()
        sizes = [x.shape[a] for a in kept]
        self.blocks = blocks_for(count_of(shapes.size(sizes)), WARPS)
        names, scope = self._spread("rows", sizes, body)
        total, place = self._total(), f"p{self.count}"
        largest = eqn.op.name == "argmax"
        if chooses:
            scope.put(f"{total} = {_worst(x.dtype, largest)}")
            scope.put(f"{place} = i64(-1)")
        else:
            scope.put(f"{total} = {self._joined(eqn, total, '')[0]}")
        inner_names, inner = self._spread("lanes", [x.shape[a] for a in axes], scope)
        at_of = dict(zip([*kept, *axes], [*names, *inner_names], strict=True))
        text = self.value(x, tuple(at_of[a] for a in range(len(x.shape))), inner)
        if chooses:
            if x.dtype.name in HALF:
                text = f"f32({text})"
            at = self.flat([x.shape[a] for a in axes], inner_names)
            inner.put(f"if is_better_{eqn.op.name}({text}, i64({at}), {total}, {place}):")
            inner.put(f"    {total} = {text}")
            inner.put(f"    {place} = i64({at})")
        else:
            inner.put(f"{total} = {self._reducing(eqn, total, text)[1]}")
        self._close(inner, scope)
        if chooses:
            scope.put(f"{place} = place_over_warp_{eqn.op.name}({total}, {place})")
        else:
            scope.put(f"{total} = over_warp_{eqn.op.name}({total})")
        parts = iter(names)
        if eqn.attrs.get("keepdims"):
            at_out = ["0" if a in axes else next(parts) for a in range(len(x.shape))]
        else:
            at_out = list(parts)
        result = place if chooses else total
        scope.put("if lane() == 0:")
        scope.put(f"    {self.pointer[out]}[{self.flat(out.shape, at_out)}] = {result}")
        self._close(scope, body)
        self.top.lines += body.lines

    def _zeros(self, eqn: Eqn) -> None:
        n, width = count_of(shapes.size(eqn.out.shape)), eqn.out.dtype.itemsize
        self.clears.append((self.pointer[eqn.out], lambda env: n(env) * width))

    def _places(
        self, sizes: Sequence[Any], together: range, scope: Scope, adds: bool
    ) -> tuple[list[str], Scope]:
        if not adds:
            return self._loops(sizes, scope)
        # What may go to the same place is added by one thread, in order.
        rest = [a for a in range(len(sizes)) if a not in together]
        own, scope = self._loops([sizes[a] for a in rest], scope)
        inner, scope = self._loops([sizes[a] for a in together], scope)
        names = dict(zip([*rest, *together], [*own, *inner], strict=True))
        return [names[a] for a in range(len(sizes))], scope

    def _draw(self, eqn: Eqn) -> None:
        attrs, out = eqn.attrs, eqn.out
        kind = attrs["kind"]
        seed, stream, block = (self.number(attrs[k].text) for k in ("seed", "stream", "block"))
        n, place = self.size(shapes.size(out.shape)), self.pointer[out]
        count = count_of(shapes.size(out.shape))
        sorts = kind == "permutation"
        keys = self._scratch(out.shape, dtypes.uint64) if sorts else place
        lines = drawn(kind, attrs["settings"], out.dtype, keys, n, (seed, stream, block))
        head = re.fullmatch(r"for q in range\((.*)\):", lines[0])
        assert head is not None
        shared_by = "threads" if sorts else "grid"
        self.top.put(f"for q in {shared_by}({head[1]}):")
        for text in lines[1:]:
            self.top.put(text)
        self.blocks = (lambda env: 1) if sorts else blocks_for(count, THREADS)
        if sorts:
            spare = self._scratch(out.shape, dtypes.int64)
            for text in _sorted(place, keys, spare, n):
                self.top.put(text)


def _worst(dtype: Any, largest: bool) -> str:
    """Return what every number of a type is better than, or as good."""
    if not dtype.is_floating:
        return lowest(dtype, largest)
    kind = dtypes.float32 if dtype.name in HALF else dtype
    return f"{cast_of(kind)}({'-' if largest else ''}inf)"


def _sorted(out: str, keys: str, spare: str, n: str) -> list[str]:
    """Return lines by which a block sorts n keys: their order, equal ones by index.

    A merge sort, whose merges of one width are shared among the threads.
    """
    return [
        f"for c in threads({n}):",
        f"    {out}[c] = c",
        "sync()",
        "width = 1",
        f"while width < {n}:",
        f"    for q in threads(({n} + 2 * width - 1) // (2 * width)):",
        *(f"        {text}" for text in merge(out, keys, spare, n)),
        "    sync()",
        f"    for c in threads({n}):",
        f"        {out}[c] = {spare}[c]",
        "    sync()",
        "    width *= 2",
    ]
