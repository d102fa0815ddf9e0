"""Products on the GPU: the row-major mapping, and the choice of an algorithm, kept on disk.

Products run on `CublasLtOnCpu`, in host memory; those marked ``gpu`` on the real library.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import sys
import traceback
import types as types
import warnings

import numpy as np
import pytest

from nnx.errors import DeviceError, DTypeError, ShapeError
from nnx.kernels import cache, choices, cublaslt, products_gpu
from nnx.kernels.cublaslt import MatmulDesc, MatmulPref, MatrixLayout
from nnx.kernels.cuda_machine import CupyMachine
from nnx.kernels.cuda_matrices import Matrices
from nnx.kernels.problems_gpu import Description, preference
from nnx.kernels.products_gpu import (
    EPILOGUES,
    WORKSPACE_BYTES,
    Gpu,
    NoAlgorithmError,
    Pointers,
    aux_bytes,
    bias_length,
    check,
    packed,
    prepare,
)
from tests.conftest import why_not
from tests.cublaslt_on_cpu import CublasLtOnCpu, decode, encode, gelu

GPU = Gpu(0, "A GPU", 90, 132)
TYPES = [
    ("float32", "float32", "float32"),
    ("float32", "float32", "tf32"),
    ("float64", "float64", "float64"),
    ("float16", "float16", "float32"),
    ("float16", "float32", "float32"),
    ("bfloat16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float32"),
]
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty directory of choices for each test."""
    path = tmp_path / "cache"
    monkeypatch.setenv("NNX_CACHE_DIR", str(path))
    monkeypatch.setattr(cache, "_warned", set())
    return path


@pytest.fixture
def cpu():
    made = CublasLtOnCpu()
    yield made
    assert not made.faults


@pytest.fixture(scope="session")
def real():
    """The real library, whose descriptors need no driver."""
    try:
        return cublaslt.library()
    except DeviceError as error:
        pytest.skip(f"no cuBLASLt: {error}")


def of_types(dtype_in, dtype_out, compute):
    return {"dtype_in": dtype_in, "dtype_out": dtype_out, "compute": compute}


# Problems


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"m": 0}, "sizes must be from 1"),
        ({"k": 2**31}, "sizes must be from 1"),
        ({"lda": 4}, "lda is 4, and a row has 5 elements"),
        ({"ldb": 6}, "ldb is 6, and a row has 7 elements"),
        ({"transpose_b": True, "ldb": 4}, "ldb is 4, and a row has 5"),
        ({"transpose_a": True, "lda": 2}, "lda is 2, and a row has 3"),
        ({"ldc": 6}, "ldc is 6, and a row has 7 elements"),
        ({"batch": 2, "stride_c": 20}, "one C overlaps the next"),
        ({"batch": 2, "epilogue": "bgradb"}, "a batch has neither aux nor sums"),
        ({"batch": 2, "epilogue": "gelu_aux", "ld_aux": 8}, "a batch has neither"),
        ({"epilogue": "relu_aux", "ld_aux": 8}, "ld_aux is 8, not a multiple of 128"),
        ({"epilogue": "dgelu", "ld_aux": 12}, "ld_aux is 12, not a multiple of 8"),
        ({"epilogue": "dgelu", "ld_aux": 0}, "ld_aux is 0"),
        ({"beta": 2}, "beta is 2, not 0 or 1"),
        ({"epilogue": "relu_bais"}, "No epilogue 'relu_bais'. Did you mean 'relu_bias'?"),
    ],
)
def test_impossible_problem_is_refused(changes, text):
    with pytest.raises(ShapeError, match=re.escape(text)):
        check(packed(3, 7, 5)._replace(**changes))


def test_types_that_do_not_go_together_are_refused():
    problem = packed(3, 7, 5, **of_types("bfloat16", "bfloat16", "tf32"))
    with pytest.raises(DTypeError, match=r"bfloat16 \(3, 5\) @ \(5, 7\).*Allowed:.*bfloat16 -> "):
        check(problem)


def test_sizes_of_what_an_epilogue_has():
    sizes = {
        name: (bias_length(p), aux_bytes(p))
        for name in EPILOGUES
        for p in [packed(3, 130, 5, epilogue=name)]
    }
    assert sizes == {
        "none": (0, 0), "relu": (0, 0), "gelu": (0, 0),
        "bias": (130, 0), "relu_bias": (130, 0), "gelu_bias": (130, 0),
        "relu_aux": (0, 96), "relu_aux_bias": (130, 96), "drelu": (0, 96), "drelu_bgrad": (130, 96),
        "gelu_aux": (0, 1632), "gelu_aux_bias": (130, 1632), "dgelu": (0, 1632),
        "dgelu_bgrad": (130, 1632), "bgrada": (3, 0), "bgradb": (130, 0),
    }  # fmt: skip


# Descriptors of the real library


def kinds():
    """Problems of every kind: types, transposes, epilogues, batches."""
    for one in TYPES:
        yield packed(3, 7, 5, **of_types(*one))
    for a, b in itertools.product([False, True], repeat=2):
        yield packed(3, 7, 5, transpose_a=a, transpose_b=b)._replace(lda=11, ldb=12, ldc=13)
    for name in EPILOGUES:
        yield packed(3, 7, 5, epilogue=name)
    yield packed(3, 7, 5, batch=4)
    yield packed(3, 7, 5, batch=4, transpose_b=True)._replace(stride_b=0, stride_c=2**40)


@pytest.mark.parametrize("problem", list(kinds()), ids=str)
def test_real_descriptors_hold_the_problem(real, problem):
    p = problem
    made = Description(real, p)
    operation = made.operation
    compute = {"float32": 68, "tf32": 77, "float64": 70}[p.compute]
    number = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}
    assert operation[MatmulDesc.COMPUTE_TYPE] == compute
    assert operation[MatmulDesc.SCALE_TYPE] == (1 if p.compute == "float64" else 0)
    assert operation[MatmulDesc.POINTER_MODE] == 0
    assert operation[MatmulDesc.TRANSA] == p.transpose_b
    assert operation[MatmulDesc.TRANSB] == p.transpose_a
    assert operation[MatmulDesc.EPILOGUE] == EPILOGUES[p.epilogue].number
    assert operation[MatmulDesc.EPILOGUE_AUX_LD] == p.ld_aux
    operation[MatmulDesc.BIAS_POINTER] = 2**47 + 256
    operation[MatmulDesc.EPILOGUE_AUX_POINTER] = 2**47 + 512
    assert operation[MatmulDesc.BIAS_POINTER] == 2**47 + 256
    assert operation[MatmulDesc.EPILOGUE_AUX_POINTER] == 2**47 + 512
    expected = [
        (p.dtype_in, (5, 7) if p.transpose_b else (7, 5), p.ldb, p.stride_b),
        (p.dtype_in, (3, 5) if p.transpose_a else (5, 3), p.lda, p.stride_a),
        (p.dtype_out, (7, 3), p.ldc, p.stride_c),
    ]
    for layout, (dtype, shape, ld, stride) in zip(made.layouts, expected, strict=True):
        assert layout[MatrixLayout.TYPE] == number[dtype]
        assert layout[MatrixLayout.ORDER] == 0
        assert (layout[MatrixLayout.ROWS], layout[MatrixLayout.COLS]) == shape
        assert layout[MatrixLayout.LD] == ld
        assert layout[MatrixLayout.BATCH_COUNT] == p.batch
        assert layout[MatrixLayout.STRIDED_BATCH_OFFSET] == (stride if p.batch > 1 else 0)


@pytest.mark.parametrize(
    ("dtype_out", "mask"), [("float32", 7), ("float16", 2), ("bfloat16", 2)]
)  # fmt: skip
def test_real_preference_holds_workspace_alignment_and_exact_sums(real, dtype_out, mask):
    dtype_in = "bfloat16" if dtype_out == "bfloat16" else "float16"
    problem = packed(3, 7, 5, dtype_in=dtype_in, dtype_out=dtype_out)
    made = preference(real, problem, WORKSPACE_BYTES, (16, 32, 64, 1, 1))
    assert made[MatmulPref.MAX_WORKSPACE_BYTES] == 32 << 20
    assert made[MatmulPref.REDUCTION_SCHEME_MASK] == mask
    # The operands are exchanged: cuBLASLt's A is our B.
    found = [made[attribute] for attribute in list(MatmulPref)[2:]]
    assert found == [32, 16, 64, 64]


def test_descriptors_are_destroyed_with_their_problem(cpu):
    before = len(cpu.objects)
    made = Description(cpu.library, packed(3, 7, 5))
    assert len(cpu.objects) == before + 4
    del made
    gc.collect()
    assert len(cpu.objects) == before


# Products, against float64 by rows


def aligned(n, kind, offset=0):
    """Return n numbers, the first at a multiple of 256 bytes and the offset."""
    size = n * np.dtype(kind).itemsize
    raw = np.zeros(size + 512, np.uint8)
    start = -raw.ctypes.data % 256 + offset
    return raw[start : start + size].view(kind)


class Stored:
    """Row-major matrices (batch, rows, columns) in memory, with gaps that must not be touched."""

    def __init__(self, shape, ld, stride, dtype, values=None):
        batch, rows, columns = shape
        self.bfloat16 = dtype == "bfloat16"
        kind = np.dtype(np.uint16 if self.bfloat16 else dtype)
        self.raw = aligned((batch - 1) * stride + (rows - 1) * ld + columns, kind)
        self.raw[...] = encode(np.full(self.raw.shape, 77.0), self.bfloat16)
        item = kind.itemsize
        strides = (stride * item, ld * item, item)
        self.view = np.lib.stride_tricks.as_strided(self.raw, shape, strides)
        if values is not None:
            self.view[...] = encode(values, self.bfloat16)
        self.address = self.raw.ctypes.data

    @property
    def values(self):
        return decode(self.view, self.bfloat16)

    def gaps(self):
        """Return whether everything between rows is as it was."""
        kept = self.raw.copy()
        item = kept.itemsize
        strides = tuple(s // item * item for s in self.view.strides)
        np.lib.stride_tricks.as_strided(kept, self.view.shape, strides)[...] = encode(
            np.full(self.view.shape, 77.0), self.bfloat16
        )
        return bool((decode(kept, self.bfloat16) == 77.0).all())


def operands(problem, seed=0):
    """Return A, B and C of a problem, with random values."""
    p, rng = problem, np.random.default_rng(seed)
    shape_a = (p.batch, *((p.k, p.m) if p.transpose_a else (p.m, p.k)))
    shape_b = (p.batch, *((p.n, p.k) if p.transpose_b else (p.k, p.n)))

    def draw(shape, stride):
        return rng.normal(size=shape if stride else (1, *shape[1:]))

    a = Stored(shape_a, p.lda, p.stride_a, p.dtype_in, draw(shape_a, p.stride_a))
    b = Stored(shape_b, p.ldb, p.stride_b, p.dtype_in, draw(shape_b, p.stride_b))
    c = Stored((p.batch, p.m, p.n), p.ldc, p.stride_c, p.dtype_out, draw((p.batch, p.m, p.n), 1))
    return a, b, c


def product(problem, a, b):
    """Return op(A) op(B) in float64, from what is stored."""
    x = a.values.swapaxes(1, 2) if problem.transpose_a else a.values
    y = b.values.swapaxes(1, 2) if problem.transpose_b else b.values
    return x @ y


WORKSPACE = aligned(4096, np.uint8)


def timer(launch, stream):
    launch()
    return 1.0


def ready(cpu, problem, a, b, c, bias=0, aux=0, **settings):
    pointers = Pointers(a.address, b.address, c.address, bias, aux, WORKSPACE.ctypes.data)
    given = {"workspace_bytes": 4096, "gpu": GPU, "timer": timer, "library": cpu.library}
    return prepare(problem, pointers, **given | settings)


def run(cpu, problem, a, b, c, bias=0, aux=0):
    """Prepare a problem with scratch for a result, and run it."""
    scratch = operands(problem)[2]
    plan = ready(cpu, problem, a, b, scratch, bias, aux)
    plan.run(a.address, b.address, c.address, bias, aux, stream=5)
    return plan


def assert_close(found, expected, dtype):
    scale = np.abs(expected).max() or 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


LAYOUTS = [
    {"lda": 0, "ldb": 0, "ldc": 0},
    {"lda": 3, "ldb": 2, "ldc": 4},
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("more", LAYOUTS, ids=["packed", "gaps"])
@pytest.mark.parametrize("transpose_b", [False, True], ids=["b", "b.T"])
@pytest.mark.parametrize("transpose_a", [False, True], ids=["a", "a.T"])
def test_product_is_that_of_numpy(cpu, transpose_a, transpose_b, more, batch):
    problem = packed(3, 7, 5, batch=batch, transpose_a=transpose_a, transpose_b=transpose_b)
    wider = {name: getattr(problem, name) + extra for name, extra in more.items()}
    problem = problem._replace(**wider, stride_a=90, stride_b=95, stride_c=97)
    a, b, c = operands(problem)
    run(cpu, problem, a, b, c)
    assert_close(c.values, product(problem, a, b), "float32")
    assert c.gaps()
    assert cpu.ran[-1] == (0, WORKSPACE.ctypes.data, 0, 5)


@pytest.mark.parametrize("one", TYPES, ids="-".join)
def test_product_has_the_types_of_the_problem(cpu, one):
    problem = packed(4, 6, 40, transpose_b=True, **of_types(*one))
    a, b, c = operands(problem)
    run(cpu, problem, a, b, c)
    assert_close(c.values, product(problem, a, b), problem.dtype_out)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 4), (9, 1, 4), (4, 9, 1)])
def test_product_of_one_row_or_column(cpu, shape):
    problem = packed(*shape)
    a, b, c = operands(problem)
    run(cpu, problem, a, b, c)
    assert_close(c.values, product(problem, a, b), "float32")


@pytest.mark.parametrize("side", ["stride_a", "stride_b"])
def test_batch_may_repeat_an_operand(cpu, side):
    problem = packed(3, 7, 5, batch=4)._replace(**{side: 0})
    a, b, c = operands(problem)
    run(cpu, problem, a, b, c)
    assert_close(c.values, product(problem, a, b), "float32")


@pytest.mark.parametrize("epilogue", ["none", "bias"])
def test_product_is_added_to_what_is_there(cpu, epilogue):
    problem = packed(3, 7, 5, epilogue=epilogue)._replace(beta=1)
    a, b, c = operands(problem)
    bias = vector(7, "float32")
    expected = product(problem, a, b) + c.values + (bias.values if epilogue == "bias" else 0)
    run(cpu, problem, a, b, c, bias.address)
    assert_close(c.values, expected, "float32")


def vector(n, dtype, seed=1):
    return Stored((1, 1, n), n, n, dtype, np.random.default_rng(seed).normal(size=(1, 1, n)))


def derivative(x):
    """The derivative of gelu by a complex step."""
    return gelu(x + 1e-30j).imag / 1e-30


EPILOGUE_TYPES = [one for one in TYPES if one[2] != "tf32"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("one", EPILOGUE_TYPES, ids="-".join)
@pytest.mark.parametrize("epilogue", ["bias", "relu", "relu_bias", "gelu", "gelu_bias"])
def test_activation_epilogue_is_that_of_numpy(cpu, epilogue, one, batch):
    problem = packed(3, 7, 5, epilogue=epilogue, batch=batch, **of_types(*one))
    a, b, c = operands(problem)
    bias = vector(7, problem.dtype_out)
    run(cpu, problem, a, b, c, bias.address)
    x = product(problem, a, b) + (bias.values if "bias" in epilogue else 0)
    expected = np.maximum(x, 0) if "relu" in epilogue else gelu(x) if "gelu" in epilogue else x
    assert_close(c.values, expected, problem.dtype_out)


@pytest.mark.parametrize("n", [7, 128, 130])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", ["relu", "gelu"])
@pytest.mark.parametrize("one", EPILOGUE_TYPES, ids="-".join)
def test_gradient_epilogue_reads_what_the_forward_one_wrote(cpu, one, kind, biased, n):
    forward = packed(
        6, n, 5, epilogue=f"{kind}_aux_bias" if biased else f"{kind}_aux", **of_types(*one)
    )
    out = forward.dtype_out
    a, b, c = operands(forward)
    bias = vector(n, out)
    aux = aligned(aux_bytes(forward), np.uint8)
    run(cpu, forward, a, b, c, bias.address, aux.ctypes.data)
    x = product(forward, a, b) + (bias.values if biased else 0)
    assert_close(c.values, np.maximum(x, 0) if kind == "relu" else gelu(x), out)
    if kind == "gelu":
        stored = aux.view(np.uint16 if out == "bfloat16" else out).reshape(6, forward.ld_aux)
        assert_close(decode(stored, out == "bfloat16")[:, :n], x[0], out)

    backward = packed(
        6,
        n,
        4,
        transpose_b=True,
        epilogue=f"d{kind}_bgrad" if biased else f"d{kind}",
        **of_types(*one),
    )
    g, w, dx = operands(backward, seed=2)
    sums = vector(n, out)
    run(cpu, backward, g, w, dx, sums.address, aux.ctypes.data)
    slope = (x > 0) if kind == "relu" else derivative(x)
    expected = product(backward, g, w) * slope
    assert_close(dx.values, expected, out)
    if biased:
        assert_close(sums.values[0, 0], expected[0].sum(0), out)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("one", EPILOGUE_TYPES, ids="-".join)
def test_sums_of_an_operand_are_those_of_ours(cpu, one, transposed):
    for epilogue in ("bgrada", "bgradb"):
        problem = packed(
            6, 9, 4, transpose_a=not transposed, transpose_b=transposed, epilogue=epilogue,
            **of_types(*one),
        )  # fmt: skip
        a, b, c = operands(problem)
        sums = vector(bias_length(problem), problem.dtype_out)
        run(cpu, problem, a, b, c, sums.address)
        x = a.values[0].T if problem.transpose_a else a.values[0]
        y = b.values[0].T if problem.transpose_b else b.values[0]
        assert_close(c.values[0], x @ y, problem.dtype_out)
        expected = x.sum(1) if epilogue == "bgrada" else y.sum(0)
        assert_close(sums.values[0, 0], expected, problem.dtype_out)


# Running


def test_run_only_multiplies(cpu):
    problem = packed(3, 7, 5, epilogue="bias")
    a, b, c = operands(problem)
    one, other = vector(7, "float32"), vector(7, "float32", seed=9)
    plan = ready(cpu, problem, a, b, c, one.address)
    cpu.calls.clear()
    for _ in range(3):
        plan.run(a.address, b.address, c.address, one.address)
    assert cpu.calls == ["cublasLtMatmul"] * 3
    plan.run(a.address, b.address, c.address, other.address)
    assert cpu.calls[3:] == ["cublasLtMatmulDescSetAttribute", "cublasLtMatmul"]
    assert_close(c.values, product(problem, a, b) + other.values, "float32")


def test_address_that_is_missing_or_less_aligned_is_refused(cpu):
    problem = packed(3, 7, 5, epilogue="relu_bias")
    a, b, c = operands(problem)
    bias = vector(7, "float32")
    plan = ready(cpu, problem, a, b, c, bias.address)
    cpu.calls.clear()
    good = (a.address, b.address, c.address, bias.address)
    for i, name in enumerate(("a", "b", "c", "bias")):
        for wrong, text in ((0, f"address of {name}"), (good[i] + 16, f"{name} at a multiple")):
            with pytest.raises(DeviceError, match=text):
                plan.run(*good[:i], wrong, *good[i + 1 :])
    assert cpu.calls == []
    plan.run(*good, aux=3)  # it has none, so it is not read


def test_alignment_is_what_the_addresses_have(cpu):
    problem = packed(3, 7, 5)
    _, b, c = operands(problem)
    off = aligned(35, np.float32, offset=16)
    pointers = Pointers(off.ctypes.data, b.address, c.address, 0, 0, WORKSPACE.ctypes.data)
    plan = prepare(
        problem, pointers, workspace_bytes=4096, gpu=GPU, timer=timer, library=cpu.library
    )
    assert plan.alignments == (16, 256, 256, 1, 1)
    asked = {i: int.from_bytes(cpu.preference[i], "little") for i in (1, 5, 6, 7, 8)}
    assert asked == {1: 4096, 5: 256, 6: 16, 7: 256, 8: 256}


@pytest.mark.parametrize("address", [0, 0x1008])
def test_workspace_must_be_there_and_aligned(cpu, address):
    problem = packed(3, 7, 5)
    pointers = Pointers(*(x.address for x in operands(problem)), workspace=address)
    with pytest.raises(DeviceError, match=r"workspace of 4096 bytes needs an address"):
        prepare(problem, pointers, workspace_bytes=4096, gpu=GPU, library=cpu.library)


def test_refused_product_names_function_status_and_problem(cpu):
    problem = packed(3, 7, 5, transpose_b=True, epilogue="gelu")
    a, b, c = operands(problem)
    plan = ready(cpu, problem, a, b, c)
    cpu.refused = {0, 1, 2}
    with pytest.raises(cublaslt.StatusError) as caught:
        plan.run(a.address, b.address, c.address)
    assert str(caught.value) == (
        "cublasLtMatmul answered CUBLAS_STATUS_NOT_SUPPORTED (15) for float32 (3, 5) @ (7, 5).T -> "
        "float32 (3, 7) in float32, rows of 5, 5, 7, epilogue gelu."
    )


# Choosing


def by_time(cpu, times):
    """Return a timer by which each algorithm takes its time; it lists those that it measured."""
    measured = []

    def one(launch, stream):
        launch()
        measured.append(cpu.ran[-1][0])
        return times[measured[-1]]

    return one, measured


def test_fastest_algorithm_is_taken_with_its_workspace():
    cpu = CublasLtOnCpu(workspaces=(0, 512, 1024))
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    plan = ready(cpu, problem, a, b, c, timer=one)
    assert measured == [0, 1, 2]
    assert plan.choice.time_s == 1.0
    plan.run(a.address, b.address, c.address)
    assert cpu.ran[-1] == (1, WORKSPACE.ctypes.data, 512, 0)
    assert not cpu.faults


def test_first_of_equals_is_taken(cpu):
    problem = packed(3, 7, 5)
    one, _ = by_time(cpu, [2.0, 2.0, 2.0])
    assert ready(cpu, problem, *operands(problem), timer=one).choice.algo[:8] == bytes(8)


def test_algorithm_that_needs_more_workspace_is_not_tried():
    cpu = CublasLtOnCpu(workspaces=(0, 8192, 0))
    problem = packed(3, 7, 5)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    ready(cpu, problem, *operands(problem), timer=one)
    assert measured == [0, 2]


def test_algorithm_that_does_not_run_is_passed_over(cpu):
    problem = packed(3, 7, 5)
    cpu.refused = {1}
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    plan = ready(cpu, problem, *operands(problem), timer=one)
    assert (measured, plan.choice.time_s) == ([0, 2], 2.0)
    cpu.refused = {0, 1, 2}
    with pytest.raises(
        NoAlgorithmError, match=r"proposes runs.*NOT_SUPPORTED.*\(4, 5\) @ \(5, 7\)"
    ):
        ready(cpu, packed(4, 7, 5), *operands(packed(4, 7, 5)), timer=one)


def test_failure_while_measuring_is_told_as_it_is(cpu):
    problem = packed(3, 7, 5)
    cpu.refused, cpu.refusal = {1}, 13
    with pytest.raises(cublaslt.StatusError, match="cublasLtMatmul answered .* \\(13\\)"):
        ready(cpu, problem, *operands(problem))


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (0, ""),
        (15, "GetHeuristic answered CUBLAS_STATUS_NOT_SUPPORTED (15)"),
        (7, "GetHeuristic answered CUBLAS_STATUS_INVALID_VALUE (7)"),
    ],
)
def test_no_algorithm_names_the_problem(cpu, status, answer):
    cpu.algorithms, cpu.heuristic_status = 0, status
    problem = packed(3, 7, 5, epilogue="relu_bias")
    bias = vector(7, "float32")
    with pytest.raises(NoAlgorithmError) as caught:
        ready(cpu, problem, *operands(problem), bias=bias.address)
    assert str(caught.value).startswith(
        "cuBLASLt 131000 has no algorithm for float32 (3, 5) @ (5, 7) -> float32 (3, 7) in "
        "float32, rows of 5, 7, 7, epilogue relu_bias with 4096 bytes of workspace and addresses "
        "aligned to (256, 256, 256, 256, 1) bytes. Without an epilogue it may have one."
    )
    assert answer in str(caught.value)


def test_other_failures_of_the_search_are_told_as_they_are(cpu):
    cpu.heuristic_status = 14
    problem = packed(3, 7, 5)
    with pytest.raises(cublaslt.StatusError, match="GetHeuristic answered CUBLAS_STATUS_INTERNAL"):
        ready(cpu, problem, *operands(problem))


class FakeCuda:
    """CuPy's streams and events over a clock; a launch takes 20 us at first, 10 us then."""

    def __init__(self):
        self.now_ms, self.launches, self.captured, self.log = 0.0, 0, None, []
        self.Stream = types.SimpleNamespace(null=self, from_external=self.from_external)
        self.runtime = types.SimpleNamespace(streamCaptureModeThreadLocal=1)

    def ExternalStream(self, address):  # noqa: N802
        warnings.warn("ExternalStream is deprecated.", DeprecationWarning, stacklevel=2)
        return self

    def from_external(self, stream):
        version, address = stream.__cuda_stream__()
        assert version == 0
        self.log.append(address)
        return self

    def Event(self):  # noqa: N802
        event = types.SimpleNamespace(synchronize=lambda: None)
        event.record = lambda stream: setattr(event, "at_ms", self.now_ms)
        return event

    def get_elapsed_time(self, start, end):
        return end.at_ms - start.at_ms

    def begin_capture(self, mode):
        self.captured = 0
        self.log.append(("begin", mode))

    def end_capture(self):
        n, self.captured = self.captured, None

        def launch(stream):
            self.now_ms += 0.01 * n
            self.log.append(("replay", n))

        return types.SimpleNamespace(launch=launch)

    def launch(self):
        if self.captured is not None:
            self.captured += 1
            return
        self.launches += 1
        self.now_ms += 0.02 if self.launches == 1 else 0.01


@pytest.fixture
def cuda(monkeypatch):
    made = FakeCuda()
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=made))
    monkeypatch.setitem(sys.modules, "cupy.cuda", made)
    return made


def test_event_timer_replays_captured_launches(cuda):
    assert products_gpu.event_timer(cuda.launch, 7) == pytest.approx(1e-5)
    assert cuda.log == [7, ("begin", 1), *[("replay", 50)] * 4]
    assert cuda.launches == 2  # one to load the kernel, one to see how many to queue


def test_event_timer_queues_launches_on_the_default_stream(cuda):
    assert products_gpu.event_timer(cuda.launch, 0) == pytest.approx(1e-5)
    assert cuda.log == [] and cuda.launches == 2 + 3 * 50


def test_current_gpu_is_what_cuda_says(cuda):
    cuda.runtime.getDevice = lambda: 2
    cuda.runtime.getDeviceProperties = lambda index: {
        "name": b"GPU %d" % index, "major": 9, "minor": 0, "multiProcessorCount": 132,
    }  # fmt: skip
    assert products_gpu.current_gpu() == Gpu(2, "GPU 2", 90, 132)


# On disk


def the_file(folder):
    (path,) = folder.glob("nnx_*.json")
    return path


def test_choice_is_reused_from_disk(folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    ready(cpu, problem, a, b, c, timer=one)
    entry = the_file(folder).read_bytes()

    again = CublasLtOnCpu()
    late, measured_late = by_time(again, [1.0, 1.0, 1.0])
    plan = ready(again, problem, a, b, c, timer=late)
    assert (measured, measured_late) == ([0, 1, 2], [])
    assert "cublasLtMatmulAlgoGetHeuristic" not in again.calls
    assert plan.choice.algo[0] == 1
    assert [algorithm for algorithm, *_ in again.ran] == [1]  # once, so that its kernel is loaded
    c.view[...] = 0
    plan.run(a.address, b.address, c.address)
    assert_close(c.values, product(problem, a, b), "float32")
    assert the_file(folder).read_bytes() == entry
    assert list(folder.iterdir()) == [the_file(folder)]  # and no temporary files


def test_choice_says_what_it_is_for(folder, cpu):
    problem = packed(3, 7, 5, epilogue="relu")
    ready(cpu, problem, *operands(problem))
    entry = json.loads("".join(the_file(folder).read_text().splitlines()[:-1]))
    assert entry["for"]["problem"] == problem._asdict()
    assert entry["for"]["gpu"]["name"] == "A GPU"
    assert entry["for"]["cublaslt"] == 131000
    assert len(bytes.fromhex(entry["algo"])) == 64


OTHERS = {
    "shape": {"problem": packed(3, 7, 6)},
    "layout": {"problem": packed(3, 7, 5)._replace(ldc=8)},
    "transpose": {"problem": packed(3, 7, 5, transpose_a=True)},
    "types": {"problem": packed(3, 7, 5, compute="tf32")},
    "epilogue": {"problem": packed(3, 7, 5, epilogue="relu")},
    "version": {"version": 131001},
    "gpu": {"gpu": GPU._replace(name="Another GPU")},
    "capability": {"gpu": GPU._replace(capability=100)},
    "multiprocessors": {"gpu": GPU._replace(multiprocessors=78)},
    "workspace": {"workspace_bytes": 2048},
    "way of timing": {"stream": 7},
}


@pytest.mark.parametrize("other", OTHERS)
def test_choice_for_another_is_not_taken(folder, cpu, other):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    first = the_file(folder)
    changes = dict(OTHERS[other])
    second = CublasLtOnCpu(version=changes.pop("version", 131000))
    problem = changes.pop("problem", problem)
    one, measured = by_time(second, [1.0, 2.0, 3.0])
    a, b, c = operands(problem)
    ready(second, problem, a, b, c, timer=one, **changes)
    assert measured == [0, 1, 2]
    # Nor where it is put under the other's name.
    (path,) = set(folder.glob("nnx_*.json")) - {first}
    path.write_bytes(first.read_bytes())
    measured.clear()
    with pytest.warns(UserWarning, match="was chosen for another product, library or GPU"):
        ready(second, problem, a, b, c, timer=one, **changes)
    assert measured == [0, 1, 2]


def test_choice_is_the_same_on_every_gpu_of_a_kind(folder, cpu):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    one, measured = by_time(cpu, [1.0, 1.0, 1.0])
    ready(cpu, problem, *operands(problem), timer=one, gpu=GPU._replace(index=3))
    assert measured == []


def test_damaged_choice_warns_and_is_measured_again(folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    one, measured = by_time(cpu, [3.0, 1.0, 2.0])
    ready(cpu, problem, a, b, c, timer=one)
    path = the_file(folder)
    content = path.read_bytes()
    for bad in (b"", content[:-1], content + b"\n", content[:100], b"{}\n"):
        path.write_bytes(bad)
        measured.clear()
        with pytest.warns(UserWarning, match=rf"{path.name} is .*\. It was measured again"):
            ready(cpu, problem, a, b, c, timer=one)
        assert measured == [0, 1, 2]
        assert path.read_bytes() == content


def test_every_flipped_byte_of_a_choice_is_found(folder, cpu):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    content = the_file(folder).read_bytes()
    key = json.loads(content[:-65])["for"]
    assert choices.load(key).workspace_bytes == 0
    for i, bit in itertools.product(range(len(content)), (0, 5, 7)):
        bad = bytearray(content)
        bad[i] ^= 1 << bit
        the_file(folder).write_bytes(bytes(bad))
        with pytest.raises(cache.UnusableError, match="is damaged"):
            choices.load(key)


def test_choice_that_the_library_does_not_take_is_measured_again(folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    plan = ready(cpu, problem, a, b, c)
    key = json.loads(the_file(folder).read_bytes()[:-65])["for"]
    unknown = plan.choice._replace(algo=b"\xff" * 64)
    short = plan.choice._replace(algo=plan.choice.algo[:8])
    roomy = plan.choice._replace(workspace_bytes=1 << 40)
    for wrong in (unknown, short, roomy):
        choices.keep(key, wrong)
        with pytest.warns(UserWarning, match="is not taken by cuBLASLt. It was measured again"):
            ready(cpu, problem, a, b, c)
        assert choices.load(key) == plan.choice
    cpu.refused = {0}  # it is taken, and does not run
    with pytest.warns(UserWarning, match="answered CUBLAS_STATUS_NOT_SUPPORTED.*measured again"):
        assert ready(cpu, problem, a, b, c).choice.algo[0] == 1


def test_warning_as_an_error_finds_the_choice_mended(folder, cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    ready(cpu, problem, a, b, c)
    content = the_file(folder).read_bytes()
    the_file(folder).write_bytes(b"{")
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        ready(cpu, problem, a, b, c)
    assert the_file(folder).read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files on this system")
def test_directory_that_others_can_write_to_is_not_used(folder, cpu):
    folder.mkdir()
    folder.chmod(0o777)
    problem = packed(3, 7, 5)
    with pytest.warns(UserWarning, match="can be written by other users"):
        ready(cpu, problem, *operands(problem))
    assert list(folder.iterdir()) == []


def test_clearing_the_cache_removes_choices(folder, cpu):
    problem = packed(3, 7, 5)
    ready(cpu, problem, *operands(problem))
    cache.clear()
    assert list(folder.iterdir()) == []


# Handles


def test_plan_of_a_released_handle_says_so(cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    plan = ready(cpu, problem, a, b, c)
    cpu.library.release(0)
    with pytest.raises(DeviceError, match="cannot run. The handle of GPU 0 was released"):
        plan.run(a.address, b.address, c.address)


def in_child(body):
    """Run a function in a forked child; return what it returned as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(body()).encode())
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_does_not_use_its_parents_handle(cpu):
    problem = packed(3, 7, 5)
    a, b, c = operands(problem)
    plan = ready(cpu, problem, a, b, c)

    def child():
        cpu.calls.clear()
        texts = []
        for work in (
            lambda: plan.run(a.address, b.address, c.address),
            lambda: cpu.library.handle(0),
        ):
            try:
                work()
            except DeviceError as error:
                texts.append("spawn" in str(error) and "forked" in str(error))
        return texts, cpu.calls, plan._handle.address

    assert in_child(child) == str(([True, True], [], 0))
    plan.run(a.address, b.address, c.address)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_of_a_process_without_handles_makes_its_own(cpu):
    assert in_child(lambda: cpu.library.handle(0).address in cpu.handles) == "True"
    assert not cpu.handles


# On a GPU


@pytest.fixture
def cupy():
    reason = why_not("cupy")
    if reason:
        pytest.skip(f"no GPU: {reason}")
    import cupy

    return cupy


class OnGpu:
    """A copy of numbers, or room for some, in the GPU's memory."""

    def __init__(self, cupy, stored):
        self.array = cupy.asarray(stored)
        self.address = self.array.data.ptr

    def values(self, bfloat16=False):
        return decode(self.array.get(), bfloat16)


def gpu_plan(cupy, problem, *places, stream):
    workspace = cupy.empty(WORKSPACE_BYTES, cupy.uint8)
    bias, aux = (places[i].address if len(places) > i else 0 for i in (3, 4))
    pointers = Pointers(*(x.address for x in places[:3]), bias, aux, workspace.data.ptr)
    plan = prepare(problem, pointers, stream)
    plan.run(*pointers[:5], stream=stream)
    cupy.cuda.runtime.streamSynchronize(stream)
    plan.kept = workspace
    return plan


GPU_TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "tf32": 2e-3, "float16": 4e-3, "bfloat16": 2e-2}
FORWARD = ["none", "bias", "relu", "relu_bias", "gelu", "gelu_bias", "relu_aux", "relu_aux_bias",
           "gelu_aux", "gelu_aux_bias", "bgrada", "bgradb"]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("one", TYPES, ids="-".join)
@pytest.mark.parametrize("epilogue", FORWARD)
def test_product_on_the_gpu_is_that_of_numpy(cupy, epilogue, one):
    """Forward, then the gradient's epilogue on what it wrote; where cuBLASLt has an algorithm."""
    stream = cupy.cuda.Stream(non_blocking=True)
    tolerance = GPU_TOLERANCE["tf32" if one[2] == "tf32" else one[1]]
    problem = packed(64, 96, 80, epilogue=epilogue, **of_types(*one))
    a, b, c = operands(problem)
    stored = vector(max(bias_length(problem), 1), problem.dtype_out)
    places = [OnGpu(cupy, x.raw) for x in (a, b, c, stored)]
    places.append(OnGpu(cupy, np.zeros(max(aux_bytes(problem), 1), np.uint8)))
    cupy.cuda.Device().synchronize()
    try:
        gpu_plan(cupy, problem, *places, stream=stream.ptr)
    except NoAlgorithmError as error:
        if epilogue == "none":
            raise
        pytest.skip(str(error))
    x = product(problem, a, b)[0]
    if "bias" in epilogue:
        x = x + stored.values[0]
    expected = np.maximum(x, 0) if "relu" in epilogue else gelu(x) if "gelu" in epilogue else x
    bfloat16 = problem.dtype_out == "bfloat16"
    found = places[2].values(bfloat16).reshape(64, 96)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(x).max())
    if epilogue in ("bgrada", "bgradb"):
        sums = a.values[0].sum(1) if epilogue == "bgrada" else b.values[0].sum(0)
        found = places[3].values(bfloat16)
        np.testing.assert_allclose(found, sums, rtol=0, atol=tolerance * np.abs(sums).max())
    if "aux" not in epilogue:
        return
    kind = "relu" if "relu" in epilogue else "gelu"
    ending = "_bgrad" if "bias" in epilogue else ""
    backward = packed(64, 96, 40, transpose_b=True, epilogue=f"d{kind}{ending}", **of_types(*one))
    g, w, dx = operands(backward, seed=2)
    sums = OnGpu(cupy, vector(96, problem.dtype_out).raw)
    back = [OnGpu(cupy, x.raw) for x in (g, w, dx)]
    cupy.cuda.Device().synchronize()
    try:
        gpu_plan(cupy, backward, *back, sums, places[4], stream=stream.ptr)
    except NoAlgorithmError as error:
        pytest.skip(f"forward is right; {error}")
    # At the kink the two may part by rounding: the slope is taken from the GPU's own result.
    slope = places[2].values(bfloat16).reshape(64, 96) > 0 if kind == "relu" else derivative(x)
    y = product(backward, g, w)[0] * slope
    scale = np.abs(product(backward, g, w)).max()
    found = back[2].values(bfloat16).reshape(64, 96)
    np.testing.assert_allclose(found, y, rtol=0, atol=2 * tolerance * scale)
    if ending:
        total = y.sum(0)
        found = sums.values(bfloat16)
        np.testing.assert_allclose(found, total, rtol=0, atol=8 * tolerance * scale)


@pytest.mark.gpu
@pytest.mark.parametrize("transpose_b", [False, True], ids=["b", "b.T"])
@pytest.mark.parametrize("transpose_a", [False, True], ids=["a", "a.T"])
def test_batches_and_gaps_on_the_gpu(cupy, transpose_a, transpose_b):
    problem = packed(3, 7, 5, batch=4, transpose_a=transpose_a, transpose_b=transpose_b)
    wider = {name: getattr(problem, name) + 3 for name in ("lda", "ldb", "ldc")}
    problem = problem._replace(**wider, stride_a=90, stride_b=95, stride_c=97)
    a, b, c = operands(problem)
    places = [OnGpu(cupy, x.raw) for x in (a, b, c)]
    gpu_plan(cupy, problem, *places, stream=0)
    c.raw[...] = places[2].array.get()
    np.testing.assert_allclose(c.values, product(problem, a, b), rtol=0, atol=1e-4)
    assert c.gaps()


@pytest.mark.gpu
def test_captured_product_is_replayed_with_new_values(cupy):
    problem = packed(32, 48, 64, epilogue="relu_bias")
    a, b, c = operands(problem)
    bias = vector(48, "float32")
    places = [OnGpu(cupy, x.raw) for x in (a, b, c, bias)]
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    plan = gpu_plan(cupy, problem, *places, stream=stream.ptr)
    pool = cupy.get_default_memory_pool().used_bytes()
    stream.begin_capture()
    plan.run(*(x.address for x in places), stream=stream.ptr)
    graph = stream.end_capture()
    assert cupy.get_default_memory_pool().used_bytes() == pool
    other = operands(problem, seed=3)[0]
    places[0].array.set(other.raw)
    cupy.cuda.Device().synchronize()
    graph.launch(stream)
    stream.synchronize()
    expected = np.maximum(product(problem, other, b)[0] + bias.values[0], 0)
    found = places[2].values().reshape(32, 48)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(32, 48, 64), (5, 7, 3), (512, 256, 1024)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_product_with_relu_keeps_nan_on_the_gpu(cupy, dtype, sizes):
    """Whatever cuBLASLt's kernels do: where they take NaN for 0, relu is a kernel of nnx's."""
    m, n, k = sizes
    problem = packed(m, n, k, dtype_in=dtype, dtype_out=dtype)
    a, b, c = operands(problem)
    a.view[0, 4, 1] = encode(np.array(np.nan), dtype == "bfloat16")
    places = [OnGpu(cupy, x.raw) for x in (a, b, c, vector(n, dtype))]
    left, right, out, bias = (x.address for x in places)
    cupy.cuda.Device().synchronize()
    machine = CupyMachine(cupy, 0)
    given = Matrices(
        dtype, 1, m, k, n, left, False, k, m * k, right, False, n, k * n, out, dtype,
        epilogue="relu_bias", bias=bias,
    )  # fmt: skip
    for _ in range(2):
        machine.multiply(given)
    cupy.cuda.Device().synchronize()
    found = places[2].values(dtype == "bfloat16").reshape(m, n)
    assert np.isnan(found[4]).all()
    rest = np.delete(found, 4, axis=0)
    assert (rest >= 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("own", [False, True], ids=["default stream", "own stream"])
def test_event_timer_measures_a_launch(cupy, own):
    stream = cupy.cuda.Stream(non_blocking=True) if own else cupy.cuda.Stream.null
    x = cupy.ones(1 << 20, cupy.float32)
    with stream:
        time_s = products_gpu.event_timer(lambda: cupy.add(x, x, out=x), stream.ptr)
    assert 0 < time_s < 1
