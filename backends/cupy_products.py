"""Products of matrices on the GPU: cuBLAS on the arrays as they lie in memory.

CuPy's own matmul copies transposed matrices of a batch, computes those of float16 in float32 and
refuses bfloat16; its TF32 is a variable of the environment. Here a transpose is a flag, a matrix
that is repeated along the batch has a stride of 0, and what is computed in follows
`nnx.set_matmul_precision`. Sums of 16-bit products are formed in float32 and rounded once.

Promises: the result is a new array in C order on the current device; nothing else is written; an
operand is copied only where its elements have no order that cuBLAS knows. The work goes to CuPy's
current stream.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nnx import shapes
from nnx.precision import get_matmul_precision

# cudaDataType and cublasComputeType_t, from library_types.h and cublas_api.h of CUDA 13.
TYPES = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}
IN_FLOAT64, IN_FLOAT32 = 70, 68
FAST = {"highest": IN_FLOAT32, "high": 77, "medium": 75, "float16": 74}
"""What float32 is computed in: CUBLAS_COMPUTE_32F, _FAST_TF32, _FAST_16BF, _FAST_16F."""
FIRST_WITH_TF32 = 80
"""The compute capability, times 10, of the first GPUs that have TF32 and bfloat16 units."""
NO_NARROW_SUMS = 16
"""CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, which goes with any other mode.

Without it cuBLAS may add up the parts of a long 16-bit product in 16 bits.
"""
PLAIN, TRANSPOSED = 0, 1
DEFAULT_ALGORITHM = -1

# cuBLAS reads the factors of the product and of what was there from the host.
_FACTORS = {
    code: (np.array(1.0, dtype), np.array(0.0, dtype))
    for code, dtype in ((IN_FLOAT32, np.float32), (IN_FLOAT64, np.float64))
}


class Side(NamedTuple):
    """A stack of matrices as cuBLAS is told of it; sizes and steps in elements."""

    array: Any
    flag: int
    leading: int
    step: int


def _lies(rows: int, columns: int, down: int, along: int) -> tuple[int, int] | None:
    """Return the flag and leading size of a matrix by its two steps; None where it has none.

    Row-major is what cuBLAS, which counts down columns, calls plain once operands are exchanged.
    """
    if (along == 1 or columns == 1) and (down >= columns or rows == 1):
        return PLAIN, max(down if rows > 1 else columns, columns, 1)
    if (down == 1 or rows == 1) and (along >= rows or columns == 1):
        return TRANSPOSED, max(along if columns > 1 else rows, rows, 1)
    return None


def _one_step(sizes: tuple[int, ...], steps: tuple[int, ...]) -> int | None:
    """Return the step from matrix to matrix of a stack; None where no one step reaches them all."""
    found, span = None, 1
    for size, step in zip(reversed(sizes), reversed(steps), strict=True):
        if size != 1:
            if found is None:
                found = step
            elif step != found * span:
                return None
            span *= size
    return 0 if found is None else found


def _as_it_lies(array: Any, batch: tuple[int, ...]) -> Side | None:
    """Return a stack of matrices as cuBLAS can read it; None where it cannot."""
    size = array.dtype.itemsize
    steps = tuple(n // size for n in array.strides)
    lies = _lies(*array.shape[-2:], *steps[-2:])
    if lies is None:
        return None
    missing = (0,) * (len(batch) - (array.ndim - 2))
    repeated = (0 if n == 1 else step for n, step in zip(array.shape, steps[:-2], strict=False))
    step = _one_step(batch, (*missing, *repeated))
    return None if step is None or step < 0 else Side(array, *lies, step)


def _side(cupy: Any, array: Any, batch: tuple[int, ...]) -> Side:
    """Return a stack of matrices for cuBLAS, copied only where it must be."""
    found = _as_it_lies(array, batch) or _as_it_lies(cupy.ascontiguousarray(array), batch)
    if found is None:  # repeated along some axes of the batch and not along others
        whole = cupy.broadcast_to(array, (*batch, *array.shape[-2:]))
        found = _as_it_lies(cupy.ascontiguousarray(whole), batch)
    assert found is not None
    return found


class Products:
    """`matmul` and `linear` of one CuPy; what is looked up once is looked up here."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._has_tf32: dict[int, bool] = {}

    def matmul(self, x: Any, y: Any) -> Any:
        """Return x @ y. Shapes: x (..., N, I), y (..., I, O) -> (..., N, O), vectors as in NumPy.

        Raises: ShapeError; ImportError where cuBLAS cannot be loaded.
        """
        cupy = self._cupy
        shape = shapes.matmul(x.shape, y.shape)
        if x.dtype != y.dtype:
            common = np.promote_types(x.dtype, y.dtype)
            x, y = x.astype(common, copy=False), y.astype(common, copy=False)
        if x.dtype.name not in TYPES:
            return cupy.matmul(x, y)
        out = cupy.empty(shape, x.dtype)
        if not out.size or not x.size:
            out.fill(0)
            return out
        left = x.reshape(1, -1) if x.ndim == 1 else x
        right = y.reshape(-1, 1) if y.ndim == 1 else y
        if right.ndim == 2 and left.ndim > 2 and left.flags.c_contiguous:
            left = left.reshape(-1, left.shape[-1])  # one product of many rows
        self._multiply(left, right, out)
        return out

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        """Return x @ weight + bias, the bias added in place. Shapes: as the op's."""
        if bias is not None and bias.shape != weight.shape[1:]:
            shapes.linear(x.shape, weight.shape, bias.shape)
        out = self.matmul(x, weight)
        if bias is not None:
            out += bias
        return out

    def _multiply(self, left: Any, right: Any, out: Any) -> None:
        """Write left @ right into out, which is in C order."""
        from cupy_backends.cuda.libs import cublas

        cupy = self._cupy
        batch = shapes.broadcast(left.shape[:-2], right.shape[:-2])
        n_rows, n_inner, n_columns = *left.shape[-2:], right.shape[-1]
        a, b = _side(cupy, left, batch), _side(cupy, right, batch)
        kind, compute = TYPES[out.dtype.name], self._compute(out.dtype.name)
        one, zero = _FACTORS[IN_FLOAT64 if compute == IN_FLOAT64 else IN_FLOAT32]
        handle = cupy.cuda.Device().cublas_handle
        # Counted down columns, out is (columns, rows): its factors change places.
        sizes = (b.flag, a.flag, n_columns, n_rows, n_inner, one.ctypes.data)
        first = (b.array.data.ptr, kind, b.leading)
        second = (a.array.data.ptr, kind, a.leading)
        third = (zero.ctypes.data, out.data.ptr, kind, n_columns)
        n_products = math.prod(batch)
        # The handle is CuPy's, whose own products keep the mode that they had.
        mode = cublas.getMathMode(handle) if out.dtype.itemsize == 2 else None
        if mode is not None:
            cublas.setMathMode(handle, mode | NO_NARROW_SUMS)
        try:
            if n_products == 1:
                cublas.gemmEx(handle, *sizes, *first, *second, *third, compute, DEFAULT_ALGORITHM)
            else:
                cublas.gemmStridedBatchedEx(
                    handle, *sizes, *first, b.step, *second, a.step, *third, n_rows * n_columns,
                    n_products, compute, DEFAULT_ALGORITHM,
                )  # fmt: skip
        finally:
            if mode is not None:
                cublas.setMathMode(handle, mode)

    def _compute(self, name: str) -> int:
        """Return what a type is computed in, as `cublasComputeType_t` has it."""
        if name == "float64":
            return IN_FLOAT64
        precision = get_matmul_precision()
        if name != "float32" or precision == "highest":
            return IN_FLOAT32
        index = self._cupy.cuda.runtime.getDevice()
        if index not in self._has_tf32:
            capability = int(self._cupy.cuda.Device(index).compute_capability)
            self._has_tf32[index] = capability >= FIRST_WITH_TF32
        return FAST[precision] if self._has_tf32[index] else IN_FLOAT32
