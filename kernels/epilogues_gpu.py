"""Bias and relu after a product, where cuBLASLt cannot do them with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nnx.kernels.cuda_step import THREADS
from nnx.kernels.cuda_text import library
from nnx.kernels.problems_gpu import Problem
from nnx.kernels.products_gpu import Plan

EPILOGUES = ("bias", "relu_bias")
_TYPES = {"float32": "float", "float16": "nnx::f16", "bfloat16": "nnx::bf16"}
_KERNEL = """
extern "C" __global__ void __launch_bounds__(256) add_bias_%s(
    %s *out, const %s *bias, long long size, long long n, long long relu
) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= size) return;
    const float x = float(out[i]) + float(bias[i %% n]);
    out[i] = relu && x < 0.0f ? 0.0f : x;  // NaN is not below 0, and stays
}
"""


def source() -> str:
    """Return the text of the kernels, one for each type of result."""
    return library() + "".join(_KERNEL % (name, kind, kind) for name, kind in _TYPES.items())


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
        self._plan, self._launch = plan, launch
        self._kernel = kernels[f"add_bias_{problem.dtype_out}"]
        self._size = problem.batch * problem.m * problem.n
        self._relu = int(problem.epilogue == "relu_bias")

    def run(self, a: int, b: int, c: int, bias: int = 0, aux: int = 0, stream: int = 0) -> None:
        """Queue both; the kernel goes where its machine launches."""
        self._plan.run(a, b, c, stream=stream)
        blocks = -(-self._size // THREADS)
        self._launch(self._kernel, blocks, [c, bias, self._size, self.problem.n, self._relu])
