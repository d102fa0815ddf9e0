"""Every op of the table in native code: its value, its gradient, and that one's gradient.

Many ops go into one function, as each compilation costs some tenths of a second. What comes out is
held to the bounds of tests/reference.py, and eager mode is too.
"""

import itertools

import numpy as np
import pytest

import nnx
from nnx.op import OPS, apply
from nnx.testing.conformance import Row
from nnx.testing.samples import SAMPLES
from tests.reference import bounds, wrong
from tests.tracing import Form, program_of, run

AT_A_TIME = 12


def usable(sample):
    return sample.raises is None and any(isinstance(x, np.ndarray) for x in sample.inputs)


def rows_of(op, device="numba"):
    return [Row(s, s.dtypes[0], nnx.device(device)) for s in SAMPLES[op] if usable(s)]


def orders(row):
    """Return how often a row's op is differentiated: not where its value says all."""
    return min(row.sample.order, 2) if row.has_gradient() else 0


def task(row):
    """Return a function of a row's tensors, value and derivatives of it, and these tensors."""
    given = row.place(row.hosts)
    tensors = [x for x in given if isinstance(x, nnx.Tensor)]
    floats = [i for i, x in enumerate(tensors) if x.dtype.is_floating]
    weights = np.random.default_rng(0).uniform(0.5, 1.5, row.expected_shape())

    def value(*twins):
        rest = iter(twins)
        inputs = tuple(next(rest) if isinstance(x, nnx.Tensor) else x for x in given)
        return apply(row.op, inputs, dict(row.sample.attrs))

    def scalar(chosen, twins):
        full = list(twins)
        for i, x in zip(floats, chosen, strict=True):
            full[i] = x
        out = value(*full[:-1])
        return nnx.sum(out * full[-1].astype(out.dtype)).astype("float64")

    def bent(chosen, twins):
        grads = nnx.grad(lambda xs: scalar(xs, twins))(chosen)
        return sum(nnx.sum(nnx.tanh(g)).astype("float64") for g in grads)

    def all_of(*twins):
        results = [value(*twins[:-1])]
        chosen = [twins[i] for i in floats]
        if orders(row) > 0:
            results += nnx.grad(lambda xs: scalar(xs, twins))(chosen)
        if orders(row) > 1:
            results += nnx.grad(lambda xs: bent(xs, twins))(chosen)
        return results

    return all_of, [*tensors, nnx.asarray(weights, device=row.where)]


def native(form, arrays):
    """Yield each way's name and results; `held` takes others in its place."""
    yield "native", run(program_of(form.lowered), "native", arrays, {})


def held(rows, compiled=native):
    """Compile some rows as one function; return what does not hold."""
    tasks = [task(row) for row in rows]
    ends = list(itertools.accumulate(len(tensors) for _, tensors in tasks))

    def everything(*twins):
        parts = []
        for (f, tensors), end in zip(tasks, ends, strict=True):
            parts.append(f(*twins[end - len(tensors) : end]))
        counts[:] = [len(part) for part in parts]
        return [x for part in parts for x in part]

    counts = []
    tensors = [x for _, given in tasks for x in given]
    form = Form(everything, tensors)
    names = [
        f"{r.op.name} ({r.sample.label})"
        for r, n in zip(rows, counts, strict=True)
        for _ in range(n)
    ]
    arrays = [np.array(x.numpy(), order="C") for x in tensors] + form.literals
    limits = bounds(form.lowered, arrays, {})
    found = []
    eager = [x.numpy() for x in everything(*tensors)]
    for way, outputs in (("eager", eager), *compiled(form, arrays)):
        for name, x, (wanted, bound) in zip(names, outputs, limits, strict=True):
            assert x.shape == wanted.shape
            for at in map(tuple, wrong(x, wanted, bound)[:1]):
                found.append((name, way, at, x[at], wanted[at], bound[at]))
    return found


def parts(rows):
    return [rows[k : k + AT_A_TIME] for k in range(0, len(rows), AT_A_TIME)]


PLAINEST = [rows_of(op)[0] for op in OPS]
ALL = [row for op in OPS for row in rows_of(op)]


@pytest.mark.parametrize("rows", parts(PLAINEST), ids=lambda rows: rows[0].op.name)
def test_every_op_and_its_derivatives_compiled(rows):
    assert held(rows) == []


@pytest.mark.slow
@pytest.mark.parametrize("rows", parts(ALL), ids=lambda rows: rows[0].op.name)
def test_every_sample_of_every_op_compiled(rows):
    assert held(rows) == []


def test_the_plainest_samples_have_derivatives_where_the_ops_have():
    smooth = {r.op.name for r in ALL if orders(r) > 0}
    assert len(smooth) > 80
    assert {r.op.name for r in PLAINEST if orders(r) > 0} == smooth
    assert {r.op.name for r in PLAINEST if orders(r) > 1} == {
        r.op.name for r in ALL if orders(r) > 1
    }
