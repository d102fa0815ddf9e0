"""Random programs: eager, interpreted, emitted text and native code come to the same.

``pytest tests/test_random_graphs.py --graphs 2000`` draws more of them and compiles them all.
"""

import functools

import numpy as np

import nnx
from nnx.graph import interpret, same_shape
from nnx.kernels import cache
from nnx.op import OPS
from tests.cuda_machine import cuda_program
from tests.random_graphs import BATCH, OTHER_BATCH, Program
from tests.reference import bounds, wrong
from tests.tracing import Form, program_of, run

AT_A_TIME = 10
COMPILED = 40
"""How many programs the ordinary suite compiles, of half the length: that takes 0.5 s each."""


def pytest_generate_tests(metafunc):
    n = metafunc.config.getoption("graphs")
    if "seeds" in metafunc.fixturenames:
        parts = [range(k, min(k + AT_A_TIME, n)) for k in range(0, n, AT_A_TIME)]
        metafunc.parametrize("seeds", parts, ids=[f"{p.start}-{p.stop - 1}" for p in parts])
    if "compiled_seeds" in metafunc.fixturenames:
        short = n <= 200
        n = min(n, COMPILED) if short else n
        parts = [range(k, min(k + AT_A_TIME, n)) for k in range(0, n, AT_A_TIME)]
        given = [[(seed, 4 if short else 8) for seed in p] for p in parts]
        metafunc.parametrize(
            "compiled_seeds", given, ids=[f"{p.start}-{p.stop - 1}" for p in parts]
        )


@functools.cache
def case_of(seed, n_steps=8):
    return Case(seed, n_steps)


class Case:
    """A random program, traced once, and its bounds for two batches."""

    def __init__(self, seed, n_steps=8):
        self.program = Program(seed, n_steps)
        self.numba = nnx.device("numba")
        self.form = Form(self.program, self._tensors(BATCH, "numba"), BATCH)
        self.programs = {}
        self.undecided = self.checked = 0
        self.bounds = {}

    def _tensors(self, batch, device):
        return [nnx.asarray(h, device=device) for h in self.program.inputs(batch)]

    def _updates(self):
        """Return which outputs may be written over which inputs; gradients fit the first."""
        graph, found = self.form.lowered, {}
        for k, out in reversed(list(enumerate(graph.outputs))):
            for i, x in enumerate(graph.inputs[: self.program.n_inputs]):
                fits = same_shape(x.shape, out.shape) and x.dtype is out.dtype
                if fits and i not in found.values() and out not in graph.inputs:
                    found[k] = i
                    break
        return found

    def arrays(self, batch):
        return [np.array(h, order="C") for h in self.program.inputs(batch)] + self.form.literals

    def results(self, way, batch):
        if way == "eager":
            return [x.numpy() for x in self.program(*self._tensors(batch, "numpy"))]
        arrays, env = self.arrays(batch), {"B": batch}
        if way == "interpreted":
            return [np.asarray(x) for x in interpret(self.form.graph, self.numba, arrays, env)]
        return run(self.compiled(way), way.split()[0], arrays, env)

    def compiled(self, way):
        """Return the program of a way such as "native" or "cuda in place"."""
        kind, _, where = way.partition(" ")
        made = cuda_program if kind == "cuda" else program_of
        if (made, where) not in self.programs:
            program = made(self.form.lowered, self._updates() if where else {})
            self.programs[made, where] = program
        return self.programs[made, where]

    def faults(self, way, batch):
        """Return what is wrong with a way's results, one text an output."""
        if batch not in self.bounds:
            self.bounds[batch] = bounds(self.form.lowered, self.arrays(batch), {"B": batch})
        found = []
        outputs = self.results(way, batch)
        assert len(outputs) == len(self.form.graph.outputs)
        for k, (x, (wanted, bound)) in enumerate(zip(outputs, self.bounds[batch], strict=True)):
            if x.shape != wanted.shape or x.dtype.name != self.form.graph.outputs[k].dtype.name:
                found.append(
                    f"{self.program}\n{way}, batch {batch}, output {k}: {x.dtype}{x.shape}"
                )
                continue
            self.undecided += (~np.isfinite(bound)).sum()
            self.checked += x.size
            bad = wrong(x, wanted, bound)
            for at in map(tuple, bad[:1]):
                found.append(
                    f"{self.program}\n{way}, batch {batch}, output {k} at {at}: {x[at]!r}, exact "
                    f"{wanted[at]!r}, bound {bound[at]!r}; {len(bad)} of {x.size} wrong"
                )
        return found


def test_programs_run_by_three_oracles_come_to_the_same(seeds):
    faults, checked, undecided = [], 0, 0
    for seed in seeds:
        case = case_of(seed)
        assert case.form.serves(OTHER_BATCH), f"seed {seed} traces again"
        for way in ("eager", "interpreted"):
            faults += case.faults(way, BATCH) + case.faults(way, OTHER_BATCH)
        faults += case.faults("text", OTHER_BATCH) + case.faults("text in place", OTHER_BATCH)
        checked, undecided = checked + case.checked, undecided + case.undecided
    assert not faults, "\n\n".join(faults)
    assert checked > 500 and undecided < 0.01 * checked


def test_programs_compiled_come_to_the_same(compiled_seeds, monkeypatch):
    monkeypatch.setattr(cache, "_loaded", {})  # so that not all of 2,000 stay in memory
    faults = []
    for seed, n_steps in compiled_seeds:
        case = Case(seed, n_steps)
        way = "native in place" if seed % 2 else "native"
        faults += case.faults(way, BATCH) + case.faults(way, OTHER_BATCH)
    assert not faults, "\n\n".join(faults)


def test_programs_use_the_table():
    used = {eqn.op.name for seed in range(200) for eqn in case_of(seed).form.graph.eqns}
    # A few may be missed by chance; tests/test_jit.py compiles each op by itself.
    assert len(OPS.keys() - used) <= 4


def test_a_bound_is_near_the_rounding_of_its_type():
    # Else a bound of 1e9 would pass anything.
    widths = []
    for seed in range(60):
        case = case_of(seed)
        case.faults("eager", BATCH)
        for (wanted, bound), x in zip(case.bounds[BATCH], case.form.graph.outputs, strict=True):
            if x.dtype.is_floating:
                eps = np.finfo(x.dtype.name).eps
                some = np.isfinite(bound) & (abs(wanted) > 1e-3)
                widths += list((bound[some] / abs(wanted[some]) / eps).astype(float))
    assert np.median(widths) < 60 and np.quantile(widths, 0.9) < 2000
