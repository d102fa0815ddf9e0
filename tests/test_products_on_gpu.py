"""Products on a real GPU, by cuBLASLt itself."""

from __future__ import annotations

import numpy as np
import pytest

from nnx.kernels import products_gpu
from nnx.kernels.cuda_machine import CupyMachine
from nnx.kernels.cuda_matrices import Matrices
from nnx.kernels.products_gpu import (
    WORKSPACE_BYTES,
    NoAlgorithmError,
    Pointers,
    aux_bytes,
    bias_length,
    packed,
    prepare,
)
from tests.conftest import why_not
from tests.cublaslt_on_cpu import decode, encode, gelu
from tests.products import TYPES, derivative, of_types, operands, product, vector

pytestmark = pytest.mark.usefixtures("cache_folder")


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
