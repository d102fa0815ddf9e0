"""Traced functions for tests: their graphs, their programs, and every way to run those."""

import numpy as np

from nnx.graph import typecheck
from nnx.kernels.program import Program, Setting
from nnx.passes import prepared
from nnx.scalar import resolve
from nnx.tensor import Tensor
from nnx.trace import Trace, batch_size
from tests.cuda_on_cpu import Guarded

WAYS = ("text", "native")


class Form:
    """A function's graph, its lowered form, and what its trace took for granted."""

    def __init__(self, function, tensors, batch=None):
        device = tensors[0].device
        with Trace(device) as trace:
            size = None if batch is None else batch_size(trace.facts, "B", batch)
            twins = []
            for i, x in enumerate(tensors):
                shape = [size if n == batch and not k else n for k, n in enumerate(x.shape)]
                twins.append(trace.argument(x, shape, f"x{i}"))
            result = function(*twins)
            results = [result] if isinstance(result, Tensor) else list(result)
            outputs = [r.array.var for r in results]
        self.facts = trace.facts
        self.draws = trace.draws
        self.graph = trace.graph(outputs)
        drawn = [name for d in trace.draws.values() for name in d.names]
        self.graph.scalars = drawn if batch is None else ["B", *drawn]
        self.literals = [trace.literals[i] for i in sorted(trace.literals)]
        typecheck(self.graph)
        self.lowered = prepared(self.graph, device)
        typecheck(self.lowered)

    def env(self, batch, generator):
        """Return the scalars of a call that draws from a generator."""
        (draw,) = self.draws.values()
        return {"B": batch, **dict(zip(draw.names, generator.state_dict().values(), strict=True))}

    def serves(self, batch):
        """Return whether this trace is right for another batch size."""
        return not self.facts.pinned and self.facts.holds()({"B": batch})


def program_of(graph, updates=None):
    return Program(graph, updates or {}, dict.fromkeys(graph.scalars, True))


def outputs_for(graph, env):
    """Return memory for a graph's outputs, filled with what no test expects."""
    made = []
    for x in graph.outputs:
        out = np.empty(resolve(tuple(x.shape), env), x.dtype.name)
        out.view(np.uint8 if out.ndim else out.dtype)[...] = 0x5A
        made.append(out)
    return made


def run_text(program, arrays, outputs, env):
    """Run emitted source as plain Python; return the status."""
    namespace = {}
    exec(program.source, namespace)
    setting = Setting(program.emitted, env, lambda address: lambda: 0)
    program.fill(setting, env)
    emitted = program.emitted
    setting.table[emitted.first : emitted.last] = [a.ctypes.data for a in (*arrays, *outputs)]
    with np.errstate(all="ignore"):  # of the operators; the functions keep quiet themselves
        return namespace["step"](setting.table)


def run_cuda(program, arrays, outputs, env):
    """Run a `CudaProgram` of `tests.cuda_machine`; return the status."""
    return program.run_at([a.ctypes.data for a in (*arrays, *outputs)], env)


RUNNERS = {"text": run_text, "native": lambda p, a, o, e: p.run(a, e, o), "cuda": run_cuda}


def run(program, way, arrays, env):
    """Return a program's results, by its text uncompiled, by its native code, or by its kernels.

    No input may change but those that an output replaces; kernels get arrays that they cannot
    leave unseen.
    """
    arrays = [np.array(a, order="C") for a in arrays]
    before = [a.tobytes() for a in arrays]
    outputs = outputs_for(program.graph, env)
    if way == "cuda":
        held = [Guarded(a) for a in (*arrays, *outputs)]
        arrays = [g.array for g in held[: len(arrays)]]
        outputs = [g.array for g in held[len(arrays) :]]
    assert RUNNERS[way](program, arrays, outputs, env) == 0
    replaced = set(program.updates.values())
    for i, (array, old) in enumerate(zip(arrays, before, strict=True)):
        assert i in replaced or array.tobytes() == old, f"input {i} was written"
    return [
        arrays[program.updates[k]] if k in program.updates else x for k, x in enumerate(outputs)
    ]
