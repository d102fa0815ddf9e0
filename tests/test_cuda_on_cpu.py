"""CUDA text on the CPU: right kernels equal NumPy, wrong ones are found, and both compile."""

import gc
import math
import os
import re
import shutil

import numpy as np
import pytest

from nnx import philox
from tests import cuda_on_cpu
from tests.cuda_on_cpu import (
    HERE,
    MAX_THREADS,
    ORDERS,
    CompileError,
    DivergenceError,
    FaultError,
    Guarded,
    GuardError,
    Module,
    nvrtc,
)

REASON = cuda_on_cpu.available()
runs = pytest.mark.skipif(REASON is not None, reason=str(REASON))
ARCHS = ("sm_80", "sm_90", "sm_100")

RIGHT = r"""
extern "C" __global__ void __launch_bounds__(128) softmax(
    const float* __restrict__ x, float* __restrict__ out, long long n_rows, long long n
) {
    long long row = blockIdx.x * 4ll + threadIdx.x / warpSize;
    if (row >= n_rows) return;  // a warp as a whole
    int lane = threadIdx.x % warpSize;
    float top = -1.0f / 0.0f, sum = 0.0f;
    for (long long j = lane; j < n; j += warpSize) top = fmaxf(top, x[row * n + j]);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
    for (long long j = lane; j < n; j += warpSize) sum += exp(x[row * n + j] - top);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    for (long long j = row * n + lane; j < (row + 1) * n; j += warpSize)
        out[j] = exp(x[j] - top) / sum;
}

__device__ __forceinline__ float block_sum(float value) {
    __shared__ float parts[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = (blockDim.x + 31) / 32;
    for (int d = 16; d > 0; d /= 2) value += __shfl_down_sync(0xffffffffu, value, d);
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = lane < n_warps ? parts[lane] : 0.0f;
        for (int d = 16; d > 0; d /= 2) value += __shfl_down_sync(0xffffffffu, value, d);
    }
    __syncthreads();
    return value;
}

extern "C" __global__ void row_sums(const float* x, float* out, long long n) {
    float sum = 0.0f;
    for (long long j = threadIdx.x; j < n; j += blockDim.x) sum += x[blockIdx.x * n + j];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void total(
    const float* x, float* parts, float* out, unsigned* ticket, long long n
) {
    __shared__ bool is_last;
    float sum = 0.0f;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x)
        sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        __threadfence();
        is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    sum = 0.0f;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += __ldcg(parts + i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = sum, ticket[0] = 0;
}

extern "C" __global__ void transpose(
    const float* __restrict__ x, float* __restrict__ out, long long n_rows, long long n_columns
) {
    __shared__ float tile[32][33];
    long long j = blockIdx.x * 32ll + threadIdx.x;
    for (int k = threadIdx.y; k < 32; k += blockDim.y) {
        long long i = blockIdx.y * 32ll + k;
        if (i < n_rows && j < n_columns) tile[k][threadIdx.x] = x[i * n_columns + j];
    }
    __syncthreads();
    long long i = blockIdx.y * 32ll + threadIdx.x;
    for (int k = threadIdx.y; k < 32; k += blockDim.y) {
        j = blockIdx.x * 32ll + k;
        if (i < n_rows && j < n_columns) out[j * n_rows + i] = tile[threadIdx.x][k];
    }
}

extern "C" __global__ void words(
    unsigned* out, unsigned long long seed, unsigned long long stream, unsigned long long first,
    long long n
) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long block = first + i;
    unsigned c0 = block, c1 = block >> 32, c2 = stream, c3 = stream >> 32;
    unsigned k0 = seed, k1 = seed >> 32;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    reinterpret_cast<uint4*>(out)[i] = make_uint4(c0, c1, c2, c3);
}

struct __align__(16) Four { float a, b, c, d; };

extern "C" __global__ void copy(const float* __restrict__ x, float* __restrict__ out, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x, n_whole = n / 4;
    if (i < n_whole)
        reinterpret_cast<Four*>(out)[i] = reinterpret_cast<const Four*>(x)[i];
    else if (i - n_whole < n % 4)
        out[4 * n_whole + i - n_whole] = __ldg(x + 4 * n_whole + i - n_whole);
}
"""


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def right():
    return Module(RIGHT)


def kernel(body, parameters="float* x, long long n", before=""):
    """Return the text of one kernel ``k``; its body begins in line 3."""
    return f'{before}\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n'


def run(body, *args, block=64, grid=1, order="forward", **text):
    Module(kernel(body, **text)).launch("k", grid, block, args, order)


# Right kernels


@runs
@pytest.mark.parametrize("order", ORDERS)
class TestRight:
    def test_softmax_by_shuffles(self, right, order):
        x = drawn(10, 77)
        out = Guarded(shape=x.shape)
        right.launch("softmax", 3, 128, [Guarded(x), out, *x.shape], order)
        e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        np.testing.assert_allclose(out.array, e / e.sum(1, keepdims=True), rtol=2e-6)

    def test_block_reduction(self, right, order):
        x = drawn(5, 1000)
        out = Guarded(shape=(5,))
        right.launch("row_sums", 5, 256, [x, out, 1000], order)
        np.testing.assert_allclose(out.array, x.sum(1, dtype=np.float64), rtol=1e-4)

    def test_last_block_adds_up_what_the_others_left(self, right, order):
        x, parts, out = drawn(5000), Guarded(shape=(7,)), Guarded(shape=(1,))
        ticket = Guarded(np.zeros(1, np.uint32))
        for _ in range(2):
            right.launch("total", 7, 128, [x, parts, out, ticket, x.size], order)
            np.testing.assert_allclose(out.array, x.sum(dtype=np.float64), rtol=1e-4)
            assert ticket.array == 0

    def test_transposition_through_shared_memory(self, right, order):
        x = drawn(45, 70)
        out = Guarded(shape=(70, 45))
        right.launch("transpose", (3, 2), (32, 8), [Guarded(x), out, *x.shape], order)
        np.testing.assert_array_equal(out.array, x.T)

    def test_philox_words(self, right, order):
        seed, stream, first = 2**64 - 3, 2**40 + 5, 2**32 - 4
        out = Guarded(shape=(400,), dtype=np.uint32)
        right.launch("words", 4, 32, [out, seed, stream, first, 100], order)
        np.testing.assert_array_equal(out.array, philox.stream_words(seed, stream, first, 100))

    @pytest.mark.parametrize("n", [1, 4, 127, 128])
    def test_vectorised_copy(self, right, order, n):
        x, out = Guarded(drawn(n)), Guarded(shape=(n,))
        right.launch("copy", 2, 32, [x, out, n], order)
        np.testing.assert_array_equal(out.array, x.array)


@runs
def test_shuffles_and_votes_are_those_of_cuda():
    body = """
    int lane = threadIdx.x;
    out[lane] = __shfl_sync(mask, lane, 9, 8);
    out[32 + lane] = __shfl_up_sync(mask, (long long)lane, 3, 16);
    out[64 + lane] = (long long)__shfl_down_sync(mask, (double)lane, 5, 16);
    out[96 + lane] = __shfl_xor_sync(mask, lane, 6, 4);
    out[128 + lane] = __ballot_sync(mask, lane % 3 == 0);
    out[160 + lane] = __any_sync(mask, lane == 40) + 2 * __any_sync(mask, lane == 4);
    out[192 + lane] = __all_sync(mask, lane >= 1) + 2 * __all_sync(mask, lane >= 0);
    unsigned own = lane < 16 ? 0xffffu : 0xffff0000u;
    if (lane < 16) out[224 + lane] = __shfl_xor_sync(own, lane, 1);
    else out[224 + lane] = __shfl_down_sync(own, lane, 1);
    out[256 + lane] = __shfl_sync(mask, lane, lane < 32 ? 40 : 0);
    """
    lane = np.arange(32)
    thirds = sum(1 << i for i in range(0, 32, 3))
    expected = [
        lane // 8 * 8 + 1,
        np.where(lane % 16 >= 3, lane - 3, lane),
        np.where(lane % 16 + 5 < 16, lane + 5, lane),
        # A lane of a group before may be read, one of a group after may not.
        np.where((lane ^ 6) <= lane // 4 * 4 + 3, lane ^ 6, lane),
        np.full(32, thirds),
        np.full(32, 2),
        np.full(32, 2),
        np.where(lane < 16, lane ^ 1, np.minimum(lane + 1, 31)),
        np.full(32, 8),
    ]
    for order in ORDERS:
        out = Guarded(shape=(len(expected), 32), dtype=np.int64)
        run(
            body, out, 2**32 - 1, block=32, order=order, parameters="long long* out, long long mask"
        )
        np.testing.assert_array_equal(out.array, expected)


@runs
def test_a_lane_outside_the_mask_gives_nan():
    x = np.ones(32, np.float32)
    run("if (threadIdx.x < 8) x[threadIdx.x] = __shfl_down_sync(0xffu, 2.0f, 4);", x, 0, block=32)
    assert np.isnan(x[:8]).tolist() == [False] * 4 + [True] * 4


@runs
def test_votes_of_a_block():
    body = """
    int t = threadIdx.x + blockDim.x * threadIdx.y;
    out[t] = __syncthreads_count(t % 3 == 0);
    out[t] += 100 * __syncthreads_or(t == n) + 1000 * __syncthreads_and(t != n);
    """
    out = np.zeros(80, np.int64)
    for order in ORDERS:
        run(body, out, 70, block=(10, 8), order=order, parameters="long long* out, long long n")
        assert (out == 127).all()


@runs
@pytest.mark.parametrize("order", ORDERS)
def test_each_thread_of_each_block_runs_once(order):
    body = """
    long long block = blockIdx.x + gridDim.x * blockIdx.y;
    long long t = threadIdx.x + blockDim.x * (threadIdx.y + (long long)blockDim.y * block);
    atomicAdd(x + t, 1u);
    seen[t] = atomicAdd(x + n, 1u);
    """
    n = 5 * 3 * 7 * 11
    x, seen = np.zeros(n + 1, np.uint32), np.zeros(n, np.uint32)
    args, parameters = (x, seen, n), "unsigned* x, unsigned* seen, long long n"
    run(body, *args, grid=(5, 3), block=(7, 11), order=order, parameters=parameters)
    assert (x[:n] == 1).all()
    expected = {"forward": np.arange(n), "reverse": np.arange(n)[::-1]}
    if order in expected:
        np.testing.assert_array_equal(seen, expected[order])
    else:
        assert sorted(seen) == list(range(n))
        again = np.zeros(n + 1, np.uint32), np.zeros(n, np.uint32)
        run(body, *again, n, grid=(5, 3), block=(7, 11), order=order, parameters=parameters)
        np.testing.assert_array_equal(again[1], seen)
        other = np.zeros(n + 1, np.uint32), np.zeros(n, np.uint32)
        run(body, *other, n, grid=(5, 3), block=(7, 11), order=order + 9, parameters=parameters)
        assert (other[1] != seen).any()


@runs
def test_a_block_of_the_most_threads_meets():
    x = np.zeros(MAX_THREADS, np.float32)
    body = """__shared__ float s[1024];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    x[threadIdx.x] = s[n - 1 - threadIdx.x];"""
    run(body, x, MAX_THREADS, block=MAX_THREADS, grid=3)
    np.testing.assert_array_equal(x, np.arange(MAX_THREADS)[::-1])


@runs
def test_arithmetic_is_rounded_after_each_operation():
    a, b = np.float32(1 + 2.0**-12), np.float32(-1 - 2.0**-11)
    out = np.zeros(4, np.float32)
    body = """
    float a = x[0], b = x[1];
    out[0] = a * a + b;
    out[1] = __fadd_rn(__fmul_rn(a, a), b);
    out[2] = fma(a, a, b);
    out[3] = __fdiv_rn(a, 3.0f);
    """
    run(body, np.array([a, b]), out, block=1, parameters="const float* x, float* out")
    assert out.tolist() == [0, 0, 2.0**-24, a / np.float32(3)]


def functions():
    """Return the mathematics that the header declares, by number of arguments."""
    header = (HERE / "cuda_on_cpu.h").read_text()
    return {
        n: [f for f in re.findall(rf"CUDA_MATH{n}\((\w+)\)", header) if f != "NAME"] for n in (1, 2)
    }


def every_name():
    """Return a kernel that calls every function of the header."""
    names = functions()
    lines = [f"out[0] += {f}(x[0]); f[0] += {f}(f[1]) + {f}f(f[1]);" for f in names[1]]
    lines += [f"out[0] += {f}(x[0], x[1]); f[0] += {f}(f[1], f[2]) + {f}f(f[1], f[2]);"
              for f in names[2]]  # fmt: skip
    header = (HERE / "cuda_on_cpu.h").read_text().replace("cuda_u64", "unsigned long long")
    for name, kind in re.findall(r"^inline \S.* (__\w+)\(([\w ]+) x\)", header, re.MULTILINE):
        lines.append(f"out[0] += {name}(({kind})x[0]);")
    for name, kind in re.findall(r"CUDA_CAST\((__\w+), [\w ]+, (\w[\w ]*)\)", header):
        lines.append(f"out[0] += {name}(({kind})x[0]);")
    for kind, v in (("f", "f[1]"), ("d", "x[1]")):
        lines += [f"out[0] += __{kind}{f}_rn({v}, {v});" for f in ("add", "sub", "mul", "div")]
        lines += [f"out[0] += __{kind}{f}_rn({v});" for f in ("rcp", "sqrt")]
        lines += [f"out[0] += {f}({v});" for f in ("isnan", "isinf", "isfinite", "signbit")]
        lines += [f"out[0] += {f}({v}, {v});" for f in ("min", "max")]
        lines += [f"out[0] += rsqrt({v}) + abs({v}) + fma({v}, {v}, {v}) + ldexp({v}, 3);"]
    lines += ["out[0] += __fmaf_rn(f[0], f[1], f[2]) + __fma_rn(x[0], x[1], x[2]);"]
    lines += ["out[0] += __powf(f[0], f[1]) + __fdividef(f[0], f[1]);"]
    for v in ("i", "u", "l", "w"):
        lines += [f"{v}[0] += min({v}[0], {v}[1]) + max({v}[0], {v}[1]);"]
    lines += ["u[0] += __umulhi(u[1], u[2]); i[0] += __mulhi(i[1], i[2]);",
              "w[0] += __umul64hi(w[1], w[2]); l[0] += __mul64hi(l[1], l[2]);"]  # fmt: skip
    for v, one in (("i", "1"), ("u", "1u"), ("w", "1ull")):
        lines += [f"atomic{f}({v}, {one});" for f in ("Add", "Exch", "Min", "Max", "And", "Or")]
        lines += [f"atomicXor({v}, {one}); atomicCAS({v}, {one}, {one});"]
    lines += ["atomicAdd(f, 1.0f); atomicExch(f, 1.0f); atomicAdd(x, 1.0); atomicInc(u, 3u);",
              "atomicSub(i, 1); atomicSub(u, 1u);"]  # fmt: skip
    lines += ["out[0] += __ldg(x) + __ldcg(x) + __ldcs(x); __stcs(x, 2.0); __stcg(f, 2.0f);",
              "__threadfence_block(); __threadfence_system(); __syncwarp();"]  # fmt: skip
    parameters = ("double* x, double* out, float* f, int* i, unsigned* u, long long* l, "
                  "unsigned long long* w")  # fmt: skip
    return kernel("\n".join(lines), parameters)


@runs
def test_every_name_of_the_header_compiles():
    assert Module(every_name()).names == ["k"]


@runs
@pytest.mark.parametrize("kind", ["float", "double"])
def test_mathematics_is_that_of_libm(kind):
    names = [f for f in functions()[1] if hasattr(math, f) and f != "lgamma"]
    dtype = np.dtype({"float": np.float32, "double": np.float64}[kind])
    x = np.array([0.3, 0.9], dtype)
    body = "\n".join(
        f"out[{2 * i} + threadIdx.x] = {f}(x[threadIdx.x] + {int(f == 'acosh')});"
        for i, f in enumerate(names)
    )
    out = np.zeros((len(names), 2), dtype)
    run(body, x, out, block=2, parameters=f"const {kind}* x, {kind}* out")
    for f, found in zip(names, out, strict=True):
        expected = [getattr(math, f)(float(v)) for v in x + dtype.type(f == "acosh")]
        np.testing.assert_allclose(found, expected, rtol=2 * np.finfo(dtype).eps, err_msg=f)


# Wrong kernels


def differs_in_some_order(body, expected, **text):
    """Return whether a kernel gives a wrong result in one of the orders."""
    found = []
    for order in ORDERS:
        x = np.arange(64, dtype=np.float32)
        run(body, x, 0, order=order, **text)
        found.append(np.array_equal(x, expected))
    return not all(found)


FLIP = """
__shared__ float s[64];
s[threadIdx.x] = x[threadIdx.x];
{barrier}
x[threadIdx.x] = s[63 - threadIdx.x];
"""


@runs
def test_a_missing_barrier_shows():
    expected = np.arange(64, dtype=np.float32)[::-1]
    assert differs_in_some_order(FLIP.format(barrier=""), expected)
    assert differs_in_some_order(FLIP.format(barrier="__syncwarp();"), expected)
    assert not differs_in_some_order(FLIP.format(barrier="__syncthreads();"), expected)


@runs
def test_a_missing_barrier_before_the_next_write_shows():
    body = """
    __shared__ float s[64];
    for (int k = 0; k < 2; k++) {{
        s[threadIdx.x] = x[threadIdx.x] + 1;
        __syncthreads();
        x[threadIdx.x] = s[(threadIdx.x + 1) % 64];
        {barrier}
    }}"""
    expected = np.roll(np.arange(64, dtype=np.float32), -2) + 2
    assert differs_in_some_order(body.format(barrier=""), expected)
    assert not differs_in_some_order(body.format(barrier="__syncthreads();"), expected)


@runs
def test_a_result_that_depends_on_the_order_of_blocks_shows():
    found = set()
    for order in ORDERS:
        x = np.zeros(1, np.float32)
        run("x[0] = blockIdx.x;", x, 0, grid=9, block=1, order=order)
        found.add(float(x[0]))
    assert len(found) > 1


@runs
def test_shared_memory_begins_each_block_as_nan():
    body = "__shared__ float s[64]; if (n) s[threadIdx.x] = 1; x[threadIdx.x] = s[threadIdx.x];"
    module = Module(kernel(body))
    x = np.zeros(64, np.float32)
    module.launch("k", 1, 64, [x, 1])
    assert (x == 1).all()
    module.launch("k", 2, 64, [x, 0])
    assert np.isnan(x).all()


DIVERGENT = {
    "some have returned": (
        "if (threadIdx.x < 40)\n__syncthreads();", 64,
        ("__syncthreads", 4, 0), "thread 40 has returned",
    ),
    "two barriers": (
        "if (threadIdx.x < 40)\n__syncthreads();\nelse\n__syncthreads();", 64,
        ("__syncthreads", 4, 0), r"thread 40 waits at __syncthreads \(line 6\)",
    ),
    "two kinds of barrier": (
        "if (threadIdx.x % 32)\n__syncthreads();\nelse\n__syncthreads_or(1);", 64,
        ("__syncthreads_or", 6, 0), r"thread 1 waits at __syncthreads \(line 4\)",
    ),
    "own lane left out": (
        "x[threadIdx.x] = __shfl_xor_sync(0xffffu, x[threadIdx.x], 1);", 64,
        ("__shfl_xor_sync", 3, 16), "mask 0x0000ffff, which leaves its own lane 16 out",
    ),
    "a lane of the mask elsewhere": (
        "if (threadIdx.x < 8)\n__shfl_sync(0xffffffffu, n, 0);\nelse\n__syncthreads();", 64,
        ("__shfl_sync", 4, 0), "thread 8 waits at __syncthreads",
    ),
    "a lane of the mask returned": (
        "if (threadIdx.x == 40) return;\n__syncwarp();", 64,
        ("__syncwarp", 4, 32), "thread 40 has returned",
    ),
    "two masks": (
        "unsigned mask = threadIdx.x < 8 ? 0xffffffffu : 0xffffff00u;\n__any_sync(mask, 1);", 32,
        ("__any_sync", 4, 0), "thread 8 has returned",
    ),
    "two collectives of a warp": (
        "if (threadIdx.x == 9)\n__syncwarp();\nelse\n__ballot_sync(~0u, 1);", 32,
        ("__ballot_sync", 6, 0), r"thread 9 waits at __syncwarp \(line 4\)",
    ),
    "a warp that is not whole": (
        "__syncwarp();", 40, ("__syncwarp", 3, 32), "no lane 8 in this warp",
    ),
    "a width that is no power of two": (
        "__shfl_down_sync(~0u, n, 1, 12);", 32, ("__shfl_down_sync", 3, 0), "width 12",
    ),
}  # fmt: skip


@runs
@pytest.mark.parametrize("case", DIVERGENT)
def test_threads_that_miss_each_other_are_told(case):
    body, block, (kind, line, thread), message = DIVERGENT[case]
    with pytest.raises(DivergenceError, match=message) as caught:
        run(body, np.zeros(64, np.float32), 0, block=block, grid=2)
    error = caught.value
    assert (error.kind, error.line, error.thread) == (kind, line, (thread, 0, 0))
    assert error.block == (0, 0)
    assert str(error).endswith(f"{line}: {kernel(body).splitlines()[line - 1].strip()}")


FAULTS = {
    "after the end": ("x[threadIdx.x + 1] = 1;", "memory", "0 bytes after the end of an array"),
    "far before the start": ("x[-900] = 1;", "memory", "3600 bytes before the start"),
    "a read after the end": ("x[0] = x[64];", "memory", "0 bytes after the end of an array"),
    "no array": ("*(float*)n = 1;", "memory", "memory that is not there: (nil)"),
    "alignment": ("*(float4*)(x + 1) = make_float4(0, 0, 0, 0);", "memory", "multiple of 16"),
    "shared index": (
        "__shared__ float s[8]; s[threadIdx.x] = 1; x[0] = s[n];",
        "memory",
        "index 8",
    ),
    "own index": ("float s[8]; s[n + 8] = x[0]; x[0] = s[0];", "memory", "the index 8"),
    "division": ("x[0] = 1 / n;", "arithmetic", "divides an integer by zero"),
    "shift": ("x[0] = 1 << (n + 32);", "arithmetic", "shifts by 32 bits"),
    "stack": ("volatile float s[70000]; s[n] = 1; x[0] = s[n];", "memory", "256 KiB of local"),
}


@runs
@pytest.mark.parametrize("case", FAULTS)
def test_faults_end_the_launch(case):
    body, kind, message = FAULTS[case]
    module = Module(kernel(body))
    # Aligned to 4 bytes and of whole pages, so that nothing lies between it and the closed ones.
    x = Guarded(np.zeros(1024 if "before" in case else 64, np.float32))
    with pytest.raises(FaultError, match=re.escape(message)) as caught:
        module.launch("k", 1, 64, [x, 0])
    assert caught.value.kind == kind
    run("x[threadIdx.x] = 7;", x, 0)
    assert (x.array[:64] == 7).all()


@runs
def test_writes_beside_an_array_are_told_once():
    x = Guarded(np.zeros(61, np.float32))
    with pytest.raises(GuardError, match=r"12 bytes were written, 0 bytes after the end"):
        run("x[threadIdx.x] = 1;", x.address, 0)
    with pytest.raises(GuardError, match=r"4 bytes were written, 8 bytes before the start"):
        run("if (threadIdx.x == 0) x[-2] = 1;", x, 0)
    run("x[0] = 2;", x, 0)
    assert x.array.tolist() == [2.0] + [1.0] * 60


@runs
def test_a_guarded_array_lives_as_long_as_its_views():
    view = Guarded(shape=(3,), dtype=np.float64).array[1:]
    gc.collect()
    assert np.isnan(view).all()


@runs
def test_a_launch_that_does_not_end_is_told(monkeypatch):
    monkeypatch.setattr(cuda_on_cpu, "LIMIT_S", 0.05)
    with pytest.raises(FaultError, match="thread 0 does not end") as caught:
        run("while (*(volatile float*)x == 0) ;\nx[0] = 2;", np.zeros(1, np.float32), 0)
    assert caught.value.kind == "time"


# Text and arguments


@runs
def test_compile_errors_show_the_line():
    with pytest.raises(CompileError, match=r"(?s)'y' was not declared.*\n3: x\[0\] = y;$"):
        run("x[0] = y;", np.zeros(1, np.float32), 0)


@runs
@pytest.mark.parametrize("parameter", ["float x", "int x", "double x"])
def test_parameters_are_of_64_bits(parameter):
    with pytest.raises(CompileError, match="parameters of kernels are"):
        Module(kernel("", parameter))


@runs
def test_arguments_are_checked(right):
    x = np.zeros((4, 4), np.float32)
    with pytest.raises(KeyError, match="Did you mean 'softmax'"):
        right.launch("sofmax", 1, 32, [])
    with pytest.raises(TypeError, match="copy takes 3 arguments, not 2"):
        right.launch("copy", 1, 32, [x, x])
    with pytest.raises(TypeError, match="Parameter 2 of copy is a number"):
        right.launch("copy", 1, 32, [x, x, x])
    with pytest.raises(TypeError, match="Argument 2 of copy is of float"):
        right.launch("copy", 1, 32, [x, x, 2.0])
    with pytest.raises(ValueError, match="Argument 1 of copy is not C-contiguous"):
        right.launch("copy", 1, 32, [x, x.T, 2])
    with pytest.raises(ValueError, match="softmax takes 1 to 128 threads a block, not 129"):
        right.launch("softmax", 1, 129, [x, x, 1, 1])
    with pytest.raises(ValueError, match=r"grid of \(0, 1\)"):
        right.launch("copy", 0, 32, [x, x, 2])
    with pytest.raises(ValueError, match="not 'backward'"):
        right.launch("copy", 1, 32, [x, x, 2], "backward")


@runs
def test_negative_numbers_and_addresses_arrive():
    out = np.zeros(1, np.int64)
    run("out[0] = n;", out.ctypes.data, np.int64(-5), parameters="long long* out, long long n")
    assert out == -5


@runs
def test_a_text_is_compiled_once(right, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("compiled again")

    monkeypatch.setattr(cuda_on_cpu.subprocess, "run", refuse)
    assert Module(RIGHT).names == right.names
    with pytest.raises(AssertionError, match="compiled again"):
        Module(RIGHT + "// another\n")


@runs
def test_what_was_compiled_long_ago_is_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("NNX_CACHE_DIR", str(tmp_path))
    old, new = tmp_path / "cuda_on_cpu" / "old.so", tmp_path / "cuda_on_cpu" / "new.so"
    old.parent.mkdir()
    old.touch(), new.touch()
    os.utime(old, (0, 0))
    assert cuda_on_cpu.folder() == new.parent
    assert list(new.parent.iterdir()) == [new]


@runs
def test_kernels_in_comments_are_none(right):
    text = kernel("x[0] = 1;", before='/* extern "C" __global__ void a() {\n} */ // __global__ b(')
    assert Module(text).names == ["k"]


@runs
def test_the_fall_back_for_other_processors_runs(monkeypatch):
    flags = (*cuda_on_cpu.FIBER_FLAGS, "-DCUDA_ON_CPU_UCONTEXT")
    monkeypatch.setattr(cuda_on_cpu, "FIBER_FLAGS", flags)
    path = cuda_on_cpu._runtime_path.__wrapped__()
    assert path != cuda_on_cpu._runtime_path()
    monkeypatch.setattr(cuda_on_cpu, "_runtime_path", lambda: path)
    monkeypatch.setattr(cuda_on_cpu, "_runtime", cuda_on_cpu._runtime.__wrapped__)
    x = np.arange(64, dtype=np.float32)
    for order in ORDERS:
        run(FLIP.format(barrier="__syncthreads();"), x, 0, grid=3, order=order)
    np.testing.assert_array_equal(x, np.arange(64))
    with pytest.raises(DivergenceError):
        run("if (threadIdx.x) __syncthreads();", x, 0)


# Compilation for a GPU


def needs(arch):
    reason = nvrtc.available(arch)
    return pytest.param(arch, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


@pytest.mark.parametrize("arch", [needs(arch) for arch in ARCHS])
class TestNvrtc:
    def test_right_kernels_compile_without_spills(self, arch):
        found = nvrtc.compile_only(RIGHT, arch)
        assert found.cubin.startswith(b"\x7fELF")
        names = {"softmax", "row_sums", "total", "transpose", "words", "copy"}
        assert set(found.registers) == set(found.spilled_bytes) == set(found.shared_bytes) == names
        assert not any(found.spilled_bytes.values())
        assert not any(found.stack_bytes.values())
        assert all(8 <= n <= 128 for n in found.registers.values())
        assert found.shared_bytes["transpose"] - found.shared_bytes["copy"] == 32 * 33 * 4

    def test_spills_and_stacks_are_told(self, arch):
        body = """
        float a[64];
#pragma unroll
        for (int i = 0; i < 64; i++) a[i] = x[i * n + threadIdx.x];
        for (int k = 0; k < n; k++)
#pragma unroll
            for (int i = 0; i < 64; i++) a[i] = a[i] * a[(i + 1) % 64] + a[(i + 7) % 64];
#pragma unroll
        for (int i = 0; i < 64; i++) x[i * n + threadIdx.x] = a[i];
        """
        spilling = kernel(body).replace("void k", "void __launch_bounds__(1024, 2) k")
        indexed = kernel("""
        float a[64];
        for (int i = 0; i < 64; i++) a[i] = x[i];
        for (int i = 0; i < n; i++) a[(int)x[i]] += 1;
        for (int i = 0; i < 64; i++) x[i] = a[i];
        """)
        found = nvrtc.compile_only(spilling + indexed.replace("void k", "void indexed"), arch)
        assert found.spilled_bytes["k"] > 100
        assert found.spilled_bytes["indexed"] == 0
        assert found.stack_bytes["indexed"] == 256

    def test_errors_are_told(self, arch):
        with pytest.raises(CompileError, match=r'module.cu\(3\): error: identifier "y"'):
            nvrtc.compile_only(kernel("x[0] = y;"), arch)


@pytest.mark.parametrize("arch", [needs("sm_90")])
def test_every_name_of_the_header_needs_no_include(arch):
    assert nvrtc.compile_only(every_name(), arch).registers["k"] > 0


@pytest.mark.skipif(nvrtc.available() is not None, reason=str(nvrtc.available()))
def test_an_unknown_architecture_is_told():
    assert "does not compile for sm_35" in nvrtc.available("sm_35")
    with pytest.raises(RuntimeError, match="sm_35"):
        nvrtc.compile_only(RIGHT, "sm_35")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_nvcc_stands_in_for_nvrtc(monkeypatch):
    monkeypatch.setattr(nvrtc, "_nvrtc", lambda: None)
    for name in ("_version", "_architectures"):
        monkeypatch.setattr(nvrtc, name, getattr(nvrtc, name).__wrapped__)
    found = nvrtc.compile_only(kernel("x[n] = 1;"), "sm_90")
    assert found.cubin.startswith(b"\x7fELF")
    assert found.registers["k"] > 0
    assert found.spilled_bytes == {"k": 0}
    with pytest.raises(CompileError, match='identifier "y"'):
        nvrtc.compile_only(kernel("x[0] = y;"), "sm_90")


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setattr(cuda_on_cpu.sys, "platform", "linux")
    monkeypatch.setattr(cuda_on_cpu.shutil, "which", lambda name: None)
    assert "no g++" in cuda_on_cpu.available.__wrapped__()
    monkeypatch.setattr(nvrtc, "_nvrtc", lambda: None)
    assert "neither NVRTC" in nvrtc.available()
