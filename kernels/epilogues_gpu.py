"""What is done with a product, tried on this GPU; and as kernels, where cuBLASLt cannot do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnx.kernels.cuda_step import THREADS
from nnx.kernels.cuda_text import library
from nnx.kernels.problems_gpu import Problem, packed
from nnx.kernels.products_gpu import NoAlgorithmError, Plan, Pointers

EPILOGUES = ("bias", "relu_bias", "relu_aux_bias", "drelu", "bgradb")
"""Those that have a kernel."""
_TYPES = {"float32": "float", "float16": "nnx::f16", "bfloat16": "nnx::bf16"}
_KERNELS = """
extern "C" __global__ void __launch_bounds__(256) add_bias_%(name)s(
    %(type)s *out, const %(type)s *bias, long long size, long long n, long long relu
) {
    const long long first = 4 * (blockIdx.x * 256LL + threadIdx.x);
    long long column = first %% n;
    for (long long i = first; i < first + 4 && i < size; i++) {
        const float x = float(out[i]) + float(bias[column]);
        out[i] = relu && x < 0.0f ? 0.0f : x;  // NaN is not below 0, and stays
        if (++column == n) column = 0;
    }
}
extern "C" __global__ void __launch_bounds__(256) add_bias_with_mask_%(name)s(
    %(type)s *out, const %(type)s *bias, unsigned char *mask, long long size, long long n
) {
    const long long i = 8 * (blockIdx.x * 256LL + threadIdx.x);
    if (i >= size) return;
    bias += i %% n;  // of eight columns: n is a multiple of 128
    unsigned int bits = 0;
    for (int half = 0; half < 8; half += 4) {
        nnx::Four<%(type)s> x = nnx::four(out, i + half), y = nnx::four(bias, half);
        for (int j = 0; j < 4; j++) {
            const float sum = float(x.at[j]) + float(y.at[j]);
            bits |= (unsigned int)(sum > 0.0f) << (half + j);
            x.at[j] = nnx::maximum(sum, 0.0f);
        }
        nnx::put_four(out, i + half, x);
    }
    mask[i / 8] = (unsigned char)bits;
}
extern "C" __global__ void __launch_bounds__(256) leave_out_%(name)s(
    %(type)s *out, const unsigned char *mask, long long size
) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i < size && !(mask[i / 8] >> i %% 8 & 1)) out[i] = 0.0f;
}
extern "C" __global__ void __launch_bounds__(256) find_number_%(name)s(
    const %(type)s *x, long long size, long long *found
) {
    for (long long i = blockIdx.x * 256LL + threadIdx.x; i < size; i += gridDim.x * 256LL)
        if (float(x[i]) == float(x[i])) *found = 1;
}
"""
_SUMS = """
extern "C" __global__ void __launch_bounds__(256) sum_columns_%(name)s_%(name_out)s(
    %(type_out)s *sums, const %(type)s *x, long long rows, long long n, long long leading
) {
    const long long column = blockIdx.x * 32LL + threadIdx.x %% 32;
    float total = 0.0f;
    if (column < n)
#pragma unroll 8
        for (long long row = threadIdx.x / 32; row < rows; row += 8)
            total += float(x[row * leading + column]);
    total = nnx::over_rows<nnx::Sum, 32>(total);
    if (threadIdx.x < 32 && column < n) sums[column] = total;
}
"""


def source() -> str:
    """Return the text of the kernels, a set for each type."""
    text = library()
    for name, kind in _TYPES.items():
        text += _KERNELS % {"name": name, "type": kind}
        for out in dict.fromkeys((name, "float32")):
            given = {"name": name, "type": kind, "name_out": out, "type_out": _TYPES[out]}
            text += _SUMS % given
    return text


class Apart:
    """A product, then its epilogue as a kernel of its own; runs as a `Plan` does.

    Results of 16 bits are rounded twice: as the product, and with the bias.
    """

    def __init__(
        self,
        plan: Plan,
        problem: Problem,
        kernels: dict[str, Any],
        launch: Callable[[Any, int, Sequence[int]], None],
    ) -> None:
        self.problem = problem
        self._plan, self._kernels, self._launch = plan, kernels, launch

    def run(self, a: int, b: int, c: int, bias: int = 0, aux: int = 0, stream: int = 0) -> None:
        """Queue both; the kernel goes where its machine launches."""
        p = self.problem
        self._plan.run(a, b, c, stream=stream)
        size = p.batch * p.m * p.n
        if p.epilogue == "bgradb":
            types = f"{p.dtype_in}_{p.dtype_out}"
            self._start("sum_columns", types, -(-p.n // 32), [bias, b, p.k, p.n, p.ldb])
        elif p.epilogue == "drelu":
            self._start("leave_out", p.dtype_out, -(-size // THREADS), [c, aux, size])
        elif p.epilogue == "relu_aux_bias":
            blocks = -(-size // (8 * THREADS))
            self._start("add_bias_with_mask", p.dtype_out, blocks, [c, bias, aux, size, p.n])
        else:
            relu = int(p.epilogue == "relu_bias")
            given = [c, bias, size, p.n, relu]
            self._start("add_bias", p.dtype_out, -(-size // (4 * THREADS)), given)

    def _start(self, name: str, types: str, blocks: int, given: Sequence[int]) -> None:
        self._launch(self._kernels[f"{name}_{types}"], blocks, given)


# Trials

SIZE, TERMS = 128, 4096
"""Of the results: the least number of bits that a row of a mask may have. Of their sums: more than
what 16 bits count to.
"""


def is_right(machine: Any, epilogue: str, dtype: str, out_dtype: str, compute: str) -> bool:
    """Return whether cuBLASLt does an epilogue on a machine's GPU just as `Problem` says.

    NVIDIA's text leaves open whether relu keeps NaN, how the bits of a mask lie, and what becomes
    of NaN where there is none. Numbers are whole, and such that each type has the results. Factors
    lie as those of a layer of a network do.
    """
    trial = _Trial(epilogue)
    given = {
        "a": stored(trial.a, dtype), "b": stored(trial.b, dtype),
        "c": stored(np.full_like(trial.wanted, 7.0), out_dtype),
        "bias": stored(trial.bias, out_dtype),
        "aux": trial.mask if epilogue == "drelu" else np.zeros_like(trial.mask),
    }  # fmt: skip
    held = {name: machine.memory(x.nbytes) for name, x in given.items()}
    for name, x in given.items():
        machine.upload(held[name].address, x)
    problem = packed(
        SIZE, SIZE, TERMS, transpose_a=trial.turns_a, transpose_b=trial.turns_b,
        epilogue=epilogue, dtype_in=dtype, dtype_out=out_dtype, compute=compute,
    )  # fmt: skip
    try:
        pointers = {name: memory.address for name, memory in held.items()}
        machine.run_alone(problem, Pointers(**pointers))
    except NoAlgorithmError:
        return False

    def found(name: str) -> Any:
        words = machine.download(held[name].address, given[name].nbytes // 8)
        return words.view(given[name].dtype).reshape(given[name].shape)

    right = _same(found("c"), stored(trial.wanted, out_dtype), out_dtype)
    if epilogue == "bgradb":
        right &= _same(found("bias"), stored(trial.sums, out_dtype), out_dtype)
    if epilogue == "relu_aux_bias":
        # Bits of NaN may be anything.
        right &= bool((found("aux") == trial.mask)[~np.isnan(trial.wanted).any(axis=1)].all())
    return right


class _Trial:
    """A product, its epilogue, and what they are to give."""

    def __init__(self, epilogue: str) -> None:
        rng = np.random.default_rng(0)
        a = rng.integers(-1, 2, (SIZE, TERMS)).astype(np.float32)
        b = rng.integers(-1, 2, (TERMS, SIZE)).astype(np.float32)
        a[0], b[:, 0] = 1, 1  # their product counts the terms
        self.bias = rng.integers(-3, 4, SIZE).astype(np.float32)
        self.bias[0] = 0
        bits = rng.integers(0, 2, (SIZE, SIZE)).astype(bool)
        bits[2], bits[0, 0] = False, True
        if epilogue == "drelu":
            a[2] = np.nan
        elif epilogue.startswith("relu"):
            a[1::3, 0] = np.nan
        self.wanted, self.sums = a @ b, b.sum(axis=0)
        if epilogue.startswith("relu"):
            self.wanted += self.bias
            bits = self.wanted > 0
            self.wanted = np.maximum(self.wanted, 0)
        elif epilogue == "drelu":
            self.wanted[~bits] = 0
        self.mask = np.packbits(bits, axis=1, bitorder="little")
        self.turns_a, self.turns_b = epilogue == "bgradb", epilogue == "drelu"
        self.a = np.ascontiguousarray(a.T) if self.turns_a else a
        self.b = np.ascontiguousarray(b.T) if self.turns_b else b


def stored(x: Any, dtype: str) -> Any:
    """Return numbers that a type has as they are in memory; those of bfloat16 as uint16."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(dtype)


def _same(found: Any, wanted: Any, dtype: str) -> bool:
    """Return whether numbers are equal, 0 and -0 too, and NaN where it is wanted."""
    if dtype == "bfloat16":
        found, wanted = ((x.astype(np.uint32) << 16).view(np.float32) for x in (found, wanted))
    return bool(np.array_equal(found, wanted, equal_nan=True))
