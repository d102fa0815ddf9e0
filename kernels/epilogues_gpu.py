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
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= size) return;
    const float x = float(out[i]) + float(bias[i %% n]);
    out[i] = relu && x < 0.0f ? 0.0f : x;  // NaN is not below 0, and stays
}
extern "C" __global__ void __launch_bounds__(256) add_bias_with_mask_%(name)s(
    %(type)s *out, const %(type)s *bias, unsigned char *mask, long long size, long long n
) {
    const long long i = 8 * (blockIdx.x * 256LL + threadIdx.x);
    if (i >= size) return;
    for (int j = 0; j < 8; j++) out[i + j] = float(out[i + j]) + float(bias[(i + j) %% n]);
    mask[i / 8] = nnx::relu_of_eight(out + i, out + i);
}
extern "C" __global__ void __launch_bounds__(256) leave_out_%(name)s(
    %(type)s *out, const unsigned char *mask, long long size
) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i < size && !(mask[i / 8] >> i %% 8 & 1)) out[i] = 0.0f;
}
"""
_SUMS = """
extern "C" __global__ void __launch_bounds__(256) sum_columns_%(name)s_%(name_out)s(
    %(type_out)s *sums, const %(type)s *x, long long rows, long long n, long long leading
) {
    const long long column = blockIdx.x * 32LL + threadIdx.x %% 32;
    float total = 0.0f;
    if (column < n)
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
            self._start("add_bias", p.dtype_out, -(-size // THREADS), given)

    def _start(self, name: str, types: str, blocks: int, given: Sequence[int]) -> None:
        self._launch(self._kernels[f"{name}_{types}"], blocks, given)


# Trials

SIZE = 128
"""Of the matrices: the least number of bits that a row of a mask may have."""


def is_right(machine: Any, epilogue: str, dtype: str, out_dtype: str, compute: str) -> bool:
    """Return whether cuBLASLt does an epilogue on a machine's GPU just as `Problem` says.

    NVIDIA's text leaves open whether relu keeps NaN, and how the bits of a mask lie. Numbers are
    whole and small, so that each type has them.
    """
    rng = np.random.default_rng(0)
    shape = (SIZE, SIZE)
    a, b = (rng.integers(-1, 2, shape).astype(np.float32) for _ in range(2))
    bias = rng.integers(-3, 4, SIZE).astype(np.float32)
    bits = rng.integers(0, 2, shape).astype(bool)
    if epilogue.startswith("relu"):
        a[::3, 0] = np.nan
    wanted = a @ b
    sums = b.sum(axis=0)
    if epilogue.startswith("relu"):
        wanted += bias
        bits = wanted > 0
        wanted = np.maximum(wanted, 0)
    elif epilogue == "drelu":
        wanted[~bits] = 0
    mask = np.packbits(bits, axis=1, bitorder="little")
    given = [stored(a, dtype), stored(b, dtype), stored(np.full(shape, 7.0), out_dtype)]
    given += [stored(bias, out_dtype), mask if epilogue == "drelu" else np.zeros_like(mask)]
    held = [machine.memory(x.nbytes) for x in given]
    for memory, x in zip(held, given, strict=True):
        machine.upload(memory.address, x)
    problem = packed(
        *(SIZE,) * 3, epilogue=epilogue, dtype_in=dtype, dtype_out=out_dtype, compute=compute
    )
    try:
        machine.run_alone(problem, Pointers(*(memory.address for memory in held)))
    except NoAlgorithmError:
        return False

    def found(i: int) -> Any:
        words = machine.download(held[i].address, given[i].nbytes // 8)
        return words.view(given[i].dtype).reshape(given[i].shape)

    right = _same(found(2), stored(wanted, out_dtype), out_dtype)
    if epilogue == "bgradb":
        right &= _same(found(3), stored(sums, out_dtype), out_dtype)
    if epilogue == "relu_aux_bias":
        # Bits of NaN may be anything.
        right &= bool((found(4) == mask)[~np.isnan(wanted).any(axis=1)].all())
    return right


def stored(x: Any, dtype: str) -> Any:
    """Return numbers that a type has as they are in memory; those of bfloat16 as uint16."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(dtype)


def is_nan(x: Any, dtype: str) -> Any:
    """Return which numbers are NaN, as they are in memory."""
    return (x & 0x7FFF) > 0x7F80 if dtype == "bfloat16" else np.isnan(x)


def _same(found: Any, wanted: Any, dtype: str) -> bool:
    """Return whether numbers are equal, 0 and -0 too, and NaN where it is wanted."""
    if dtype == "bfloat16":
        found, wanted = ((x.astype(np.uint32) << 16).view(np.float32) for x in (found, wanted))
    return bool(np.array_equal(found, wanted, equal_nan=True))
