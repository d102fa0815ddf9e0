"""Kernels and products of a step on a GPU, each timed by itself on copies of a call's arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnx import costs
from nnx.graph import Var
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_setting import Setting
from nnx.kernels.cuda_step import Launch, Product
from nnx.op import OPS
from nnx.profile import Part
from nnx.scalar import Env, resolve


class DeviceKernels:
    """The runs of a program, on copies of a call's arrays: the call's own are never written."""

    def __init__(self, program: CudaProgram, arrays: Sequence[Any], env: Env) -> None:
        import numpy as np

        self._program, self._env = program, env
        with program.machine.scope():
            self._arrays = [program.arrays.copied(x) for x in arrays]
            self._arrays += [
                program.arrays.empty(self.sizes(x), np.dtype(x.dtype.name))
                for x in program.graph.outputs
            ]
            self._setting = Setting(program, env)
        program.fill(self._setting, env)
        slots = program.emitted
        places = [program.arrays.address(x) for x in self._arrays]
        self._setting.table[slots.first : slots.last] = places

    def sizes(self, x: Var) -> tuple[int, ...]:
        """Return the shape of a value in this call."""
        return tuple(resolve(x.shape, self._env))

    def measured(self) -> tuple[list[Part], float]:
        """Return kernels and products with their times in order, and 0: none is too short."""
        parts = []
        machine, setting = self._program.machine, self._setting
        with machine.scope():
            places = setting.ready()
            setting.enqueue(places)  # each finds memory as those before it leave it
            for i, run in enumerate(self._setting.emission.step.runs):
                time_s = machine.seconds(lambda i=i: setting.start(i, places))
                parts.append(self._part(run, time_s))
        return parts, 0.0

    def _part(self, run: Launch | Product, time_s: float) -> Part:
        if isinstance(run, Product):
            x, y = run.eqn.inputs[:2]
            out = self.sizes(run.eqn.out)
            flops = costs.flops(OPS["matmul"], [self.sizes(x), self.sizes(y)], out)
            values = {*run.eqn.vars, run.eqn.out}
            shapes = f"{self.sizes(x)} {self.sizes(y)}"
            return Part("matmul", shapes, time_s, flops, self._bytes(values), 1, "all threads")
        eqns = [eqn for part in run.parts for eqn in part.eqns]
        values = {x for part in run.parts for x in (*part.reads, *part.writes)}
        flops = sum(
            costs.flops(e.op, list(map(self.sizes, e.vars)), self.sizes(e.out)) for e in eqns
        )
        title = ", ".join(dict.fromkeys(eqn.op.name for eqn in eqns)) or "copy"
        largest = max(map(self.sizes, values), key=lambda n: (math.prod(n), len(n)), default=())
        return Part(title, str(largest), time_s, flops, self._bytes(values), 1, "all threads")

    def _bytes(self, values: set[Var]) -> int:
        return sum(math.prod(self.sizes(x)) * x.dtype.itemsize for x in values)
