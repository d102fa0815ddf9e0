"""Products on the GPU: the row-major mapping, over `CublasLtOnCpu`, in host memory."""

from __future__ import annotations

import gc
import itertools
import os
import re
import traceback

import numpy as np
import pytest

from nnx.errors import DeviceError, DTypeError, ShapeError
from nnx.kernels import cublaslt
from nnx.kernels.cublaslt import MatmulDesc, MatmulPref, MatrixLayout
from nnx.kernels.problems_gpu import Description, preference
from nnx.kernels.products_gpu import (
    EPILOGUES,
    WORKSPACE_BYTES,
    Pointers,
    aux_bytes,
    bias_length,
    check,
    packed,
    prepare,
)
from tests.cublaslt_on_cpu import decode, gelu
from tests.products import (
    GPU,
    TYPES,
    WORKSPACE,
    aligned,
    assert_close,
    derivative,
    of_types,
    operands,
    product,
    ready,
    run,
    timer,
    vector,
)

pytestmark = pytest.mark.usefixtures("cache_folder")


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
def test_real_descriptors_hold_the_problem(real_cublaslt, problem):
    p = problem
    made = Description(real_cublaslt, p)
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
def test_real_preference_holds_workspace_alignment_and_exact_sums(real_cublaslt, dtype_out, mask):
    dtype_in = "bfloat16" if dtype_out == "bfloat16" else "float16"
    problem = packed(3, 7, 5, dtype_in=dtype_in, dtype_out=dtype_out)
    made = preference(real_cublaslt, problem, WORKSPACE_BYTES, (16, 32, 64, 1, 1))
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
