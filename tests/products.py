"""Problems of products for tests: matrices in memory, and what NumPy makes of them."""

from __future__ import annotations

import numpy as np

from nnx.kernels.products_gpu import Gpu, Pointers, prepare
from tests.cublaslt_on_cpu import decode, encode, gelu

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


def of_types(dtype_in, dtype_out, compute):
    return {"dtype_in": dtype_in, "dtype_out": dtype_out, "compute": compute}


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


def vector(n, dtype, seed=1):
    return Stored((1, 1, n), n, n, dtype, np.random.default_rng(seed).normal(size=(1, 1, n)))


def derivative(x):
    """The derivative of gelu by a complex step."""
    return gelu(x + 1e-30j).imag / 1e-30
