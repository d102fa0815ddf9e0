"""The stand-in's cuBLAS: products over raw addresses, column-major, as the library forms them.

`machine.products` keeps what was asked for. TF32 and bfloat16 internals round the inputs. Where
the math mode allows it, 16-bit products are added up in two parts, each rounded.
"""

from __future__ import annotations

import ctypes

import numpy as np

from tests.fake_cupy.cuda import CUDARuntimeError, _pool, get_current_stream, machine

CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_GEMM_DEFAULT = -1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_16BF, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 75, 77
CUBLAS_COMPUTE_32F_FAST_16F = 74
CUBLAS_COMPUTE_64F = 70


CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
_modes = {}


def getMathMode(handle):  # noqa: N802 (cuBLAS's name)
    return _modes.get(handle, 0)


def setMathMode(handle, mode):  # noqa: N802 (cuBLAS's name)
    _modes[handle] = mode


class CUBLASError(RuntimeError):
    """An error of cuBLAS."""


def _types():
    found = {0: np.float32, 1: np.float64, 2: np.float16}
    try:
        import ml_dtypes
    except ImportError:
        return found
    return {**found, 14: ml_dtypes.bfloat16}


def _at(address, shape, leading, kind, stride=0, n=1):
    """Return n matrices in column-major memory as an array (n, rows, columns)."""
    dtype = np.dtype(_types()[kind])
    rows, columns = shape
    if leading < max(1, rows):
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: leading size {leading} of {shape}")
    last = ((n - 1) * stride + (columns - 1) * leading + rows) * dtype.itemsize
    _check_inside(address, last)
    raw = np.frombuffer((ctypes.c_uint8 * last).from_address(address), np.uint8)
    item = dtype.itemsize
    return np.ndarray(
        (n, rows, columns), dtype, raw, 0, (stride * item, item, leading * item)
    )  # fmt: skip


def _check_inside(address, nbytes):
    """A product that reads outside one block, or on another device, is a defect."""
    for chunk in _pool.chunks[machine.device()]:
        if chunk.ptr <= address and address + nbytes <= chunk.ptr + chunk.nbytes:
            return
    raise CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access")


def gemmEx(  # noqa: N802 (cuBLAS's name)
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc,  # noqa: N803
    computeType, algo,  # noqa: N803
):  # fmt: skip
    gemmStridedBatchedEx(
        handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0,
        beta, C, Ctype, ldc, 0, 1, computeType, algo, name="gemmEx",
    )  # fmt: skip


def gemmStridedBatchedEx(  # noqa: N802 (cuBLAS's name)
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB,  # noqa: N803
    beta, C, Ctype, ldc, strideC, batchCount, computeType, algo,  # noqa: N803
    name="gemmStridedBatchedEx",
):  # fmt: skip
    if handle != 7000 + machine.device():
        raise CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED: a handle of another device")
    if min(m, n, k, batchCount) < 1:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {m, n, k, batchCount}")
    scale = ctypes.c_double if computeType == CUBLAS_COMPUTE_64F else ctypes.c_float
    a, b = (scale.from_address(address).value for address in (alpha, beta))
    left = _at(A, (k, m) if transa else (m, k), lda, Atype, strideA, batchCount)
    right = _at(B, (n, k) if transb else (k, n), ldb, Btype, strideB, batchCount)
    out = _at(C, (m, n), ldc, Ctype, strideC, batchCount)
    machine.products.append(
        (
            name,
            (transa, transb),
            (m, n, k),
            batchCount,
            Atype,
            computeType,
            get_current_stream().name,
        )
    )
    machine.note("product", name)
    wide = np.float64 if computeType == CUBLAS_COMPUTE_64F else np.float32
    x, y = (_rounded(v.astype(wide), computeType) for v in (left, right))
    x = x.transpose(0, 2, 1) if transa else x
    y = y.transpose(0, 2, 1) if transb else y
    with np.errstate(all="ignore"):
        whole = np.matmul(x, y)
        if out.dtype.itemsize == 2 and not (
            getMathMode(handle) & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
        ):
            half = k // 2
            parts = (x[..., :half] @ y[..., :half, :], x[..., half:] @ y[..., half:, :])
            whole = np.add(*(part.astype(out.dtype) for part in parts))
        product = a * whole.astype(wide)
        out[...] = product if b == 0 else product + b * out.astype(wide)


def _rounded(x, compute_type):
    if compute_type == CUBLAS_COMPUTE_32F_FAST_TF32:
        return _cut(x, 13)
    if compute_type == CUBLAS_COMPUTE_32F_FAST_16F:
        return x.astype(np.float16).astype(np.float32)
    return _cut(x, 16) if compute_type == CUBLAS_COMPUTE_32F_FAST_16BF else x


def _cut(x, bits):
    """Return float32 values without their last bits, rounded."""
    whole = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64) + (1 << (bits - 1))
    return (whole >> bits << bits).astype(np.uint32).view(np.float32)
