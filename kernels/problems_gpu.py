"""Products of row-major matrices in the words of cuBLASLt, which reads memory by columns.

A row-major matrix read by columns is its transpose. So the operands are exchanged:
C = op(A) op(B) by rows is C^T = op(B)^T op(A)^T by columns, and no matrix is moved. What cuBLASLt
does along the rows of its result (bias, masks) is then along the columns of ours.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from nnx.errors import DTypeError, ShapeError, did_you_mean
from nnx.kernels import cublaslt
from nnx.kernels.cublaslt import (
    Compute,
    DataType,
    Epilogue,
    Library,
    MatmulDesc,
    MatmulPref,
    MatrixLayout,
    Operation,
    ReductionScheme,
)


class _Kind(NamedTuple):
    """An epilogue: its number in cuBLASLt, and what it has besides the three matrices."""

    number: Epilogue
    bias: str = ""  # "n": read; "sums n", "sums m": written
    aux: str = ""  # "mask" or "values"


EPILOGUES = {
    "none": _Kind(Epilogue.DEFAULT),
    "bias": _Kind(Epilogue.BIAS, "n"),
    "relu": _Kind(Epilogue.RELU),
    "relu_bias": _Kind(Epilogue.RELU_BIAS, "n"),
    "relu_aux": _Kind(Epilogue.RELU_AUX, "", "mask"),
    "relu_aux_bias": _Kind(Epilogue.RELU_AUX_BIAS, "n", "mask"),
    "drelu": _Kind(Epilogue.DRELU, "", "mask"),
    "drelu_bgrad": _Kind(Epilogue.DRELU_BGRAD, "sums n", "mask"),
    "gelu": _Kind(Epilogue.GELU),
    "gelu_bias": _Kind(Epilogue.GELU_BIAS, "n"),
    "gelu_aux": _Kind(Epilogue.GELU_AUX, "", "values"),
    "gelu_aux_bias": _Kind(Epilogue.GELU_AUX_BIAS, "n", "values"),
    "dgelu": _Kind(Epilogue.DGELU, "", "values"),
    "dgelu_bgrad": _Kind(Epilogue.DGELU_BGRAD, "sums n", "values"),
    # Exchanged, as the operands are.
    "bgrada": _Kind(Epilogue.BGRADB, "sums m"),
    "bgradb": _Kind(Epilogue.BGRADA, "sums n"),
}

_ELEMENTS = {
    "float16": (DataType.R_16F, 2),
    "bfloat16": (DataType.R_16BF, 2),
    "float32": (DataType.R_32F, 4),
    "float64": (DataType.R_64F, 8),
}
# What products are made in, with the type of alpha and beta.
COMPUTE = {
    "float32": (Compute.COMPUTE_32F, DataType.R_32F, ctypes.c_float),
    "tf32": (Compute.COMPUTE_32F_FAST_TF32, DataType.R_32F, ctypes.c_float),
    "float64": (Compute.COMPUTE_64F, DataType.R_64F, ctypes.c_double),
}
_TYPES = {
    ("float32", "float32", "float32"), ("float32", "float32", "tf32"),
    ("float64", "float64", "float64"),
    ("float16", "float16", "float32"), ("float16", "float32", "float32"),
    ("bfloat16", "bfloat16", "float32"), ("bfloat16", "float32", "float32"),
}  # fmt: skip


class Problem(NamedTuple):
    """The row-major product C = epilogue(op(A) op(B) + beta C), each matrix in ``batch`` copies.

    Shapes: op(A) (m, k), op(B) (k, n), C (m, n); A is stored as (k, m) with ``transpose_a``, B as
    (n, k) with ``transpose_b``. ``lda, ldb, ldc`` are elements from one stored row to the next,
    ``stride_*`` from one matrix of a batch to the next (0 repeats A or B). None is empty.

    Epilogues: ``bias`` (n,) is added to each row, then relu or gelu (the tanh form) is applied.
    ``*_aux`` also writes to ``aux`` what the gradient needs: for gelu its input, (m, n) of
    ``dtype_out`` with rows of ``ld_aux`` elements, a multiple of 8; for relu a mask of bits with
    rows of ``ld_aux`` bits, a multiple of 128; NVIDIA's text does not say how they lie, and
    `nnx.kernels.epilogues_gpu` tries whether the first of a byte is the lowest. ``drelu`` and
    ``dgelu`` read it, and write the product times the derivative; ``*_bgrad`` also writes the sums
    of that over m to ``bias`` (n,). ``bgradb`` writes the sums of op(B) over k to ``bias`` (n,):
    with dW = x^T g it is the gradient of the bias. ``bgrada`` sums op(A) over k, (m,).
    cuBLASLt's BGRADA and BGRADB are the other way round, as it has the operands exchanged.
    A batch has one bias for all, and neither aux nor sums.

    Dtype: bias and sums have ``dtype_out``; sums along k are made in ``compute``.
    """

    m: int
    n: int
    k: int
    batch: int
    transpose_a: bool
    transpose_b: bool
    lda: int
    ldb: int
    ldc: int
    stride_a: int
    stride_b: int
    stride_c: int
    dtype_in: str = "float32"
    dtype_out: str = "float32"
    compute: str = "float32"
    epilogue: str = "none"
    ld_aux: int = 0
    beta: int = 0

    def __str__(self) -> str:
        a = f"({self.k}, {self.m}).T" if self.transpose_a else f"({self.m}, {self.k})"
        b = f"({self.n}, {self.k}).T" if self.transpose_b else f"({self.k}, {self.n})"
        copies = f"{self.batch} times " if self.batch > 1 else ""
        rows = f"{self.lda}, {self.ldb}, {self.ldc}"
        return (
            f"{copies}{self.dtype_in} {a} @ {b} -> {self.dtype_out} ({self.m}, {self.n}) in "
            f"{self.compute}, rows of {rows}, epilogue {self.epilogue}"
            + (f" with rows of {self.ld_aux}" if self.ld_aux else "")
            + (", added to C" if self.beta else "")
        )


def packed(
    m: int,
    n: int,
    k: int,
    *,
    batch: int = 1,
    transpose_a: bool = False,
    transpose_b: bool = False,
    epilogue: str = "none",
    **types: Any,
) -> Problem:
    """Return the problem whose matrices lie in order, without gaps between rows or copies."""
    aux = EPILOGUES[epilogue].aux if epilogue in EPILOGUES else ""
    multiple = {"mask": 128, "values": 8}.get(aux)
    return Problem(
        m, n, k, batch, transpose_a, transpose_b,
        m if transpose_a else k, k if transpose_b else n, n, m * k, k * n, m * n,
        epilogue=epilogue, ld_aux=-(-n // multiple) * multiple if multiple else 0, **types,
    )  # fmt: skip


def aux_bytes(problem: Problem) -> int:
    """Return the size of a problem's ``aux``, 0 where it has none."""
    aux = EPILOGUES[problem.epilogue].aux
    if aux == "mask":
        return problem.m * problem.ld_aux // 8
    return problem.m * problem.ld_aux * _ELEMENTS[problem.dtype_out][1] if aux else 0


def bias_length(problem: Problem) -> int:
    """Return how many elements a problem's ``bias`` has, read or written; 0 where it has none."""
    bias = EPILOGUES[problem.epilogue].bias
    return 0 if not bias else problem.m if bias == "sums m" else problem.n


def check(problem: Problem) -> None:
    """Raise what is wrong with a problem: ShapeError or DTypeError, with what is allowed."""
    p = problem
    if p.epilogue not in EPILOGUES:
        raise ShapeError(f"No epilogue {p.epilogue!r}. {did_you_mean(p.epilogue, EPILOGUES)}")
    if (p.dtype_in, p.dtype_out, p.compute) not in _TYPES:
        allowed = "; ".join(f"{a} -> {c} in {how}" for a, c, how in sorted(_TYPES))
        raise DTypeError(f"cuBLASLt does not multiply {p}. Allowed: {allowed}.")
    kind = EPILOGUES[p.epilogue]
    faults = []
    if not all(0 < size < 2**31 for size in (p.m, p.n, p.k, p.batch)):
        faults.append("sizes must be from 1 to 2**31 - 1")
    for name, ld, least in (
        ("lda", p.lda, p.m if p.transpose_a else p.k),
        ("ldb", p.ldb, p.k if p.transpose_b else p.n),
        ("ldc", p.ldc, p.n),
    ):
        if ld < least:
            faults.append(f"{name} is {ld}, and a row has {least} elements")
    if p.batch > 1 and p.stride_c < (p.m - 1) * p.ldc + p.n:
        faults.append(f"stride_c is {p.stride_c}, and one C overlaps the next")
    if p.batch > 1 and (kind.aux or kind.bias.startswith("sums")):
        faults.append("a batch has neither aux nor sums")
    multiple = {"mask": 128, "values": 8}.get(kind.aux)
    if multiple and (p.ld_aux < p.n or p.ld_aux % multiple):
        faults.append(f"ld_aux is {p.ld_aux}, not a multiple of {multiple} and at least {p.n}")
    if p.beta not in (0, 1):
        faults.append(f"beta is {p.beta}, not 0 or 1")
    if faults:
        raise ShapeError(f"The product {p} cannot be had: {'; '.join(faults)}.")


class Description:
    """A problem in cuBLASLt's words: an operation and the layouts of its A (our B), B (our A), C.

    It needs no driver. Raises: StatusError if the library refuses an attribute.
    """

    def __init__(self, library: Library, problem: Problem) -> None:
        p = problem
        compute, scale, _ = COMPUTE[p.compute]
        kind = EPILOGUES[p.epilogue]
        self.operation = operation = cublaslt.MatmulDescriptor(library, compute, scale)
        operation[MatmulDesc.TRANSA] = Operation.T if p.transpose_b else Operation.N
        operation[MatmulDesc.TRANSB] = Operation.T if p.transpose_a else Operation.N
        operation[MatmulDesc.EPILOGUE] = kind.number
        if kind.aux:
            operation[MatmulDesc.EPILOGUE_AUX_LD] = p.ld_aux
        # A stored row is a column to cuBLASLt: its length is the number of rows there.
        stored_a = (p.m, p.k, p.lda) if p.transpose_a else (p.k, p.m, p.lda)
        stored_b = (p.k, p.n, p.ldb) if p.transpose_b else (p.n, p.k, p.ldb)
        self.layouts = []
        for (rows, columns, ld), stride, dtype in (
            (stored_b, p.stride_b, p.dtype_in),
            (stored_a, p.stride_a, p.dtype_in),
            ((p.n, p.m, p.ldc), p.stride_c, p.dtype_out),
        ):
            layout = cublaslt.LayoutDescriptor(library, _ELEMENTS[dtype][0], rows, columns, ld)
            if p.batch > 1:
                layout[MatrixLayout.BATCH_COUNT] = p.batch
                layout[MatrixLayout.STRIDED_BATCH_OFFSET] = stride
            self.layouts.append(layout)

    def addresses(self) -> tuple[int, ...]:
        """Return the operation and the layouts of A, B, C and D as a call takes them."""
        a, b, c = (layout.address for layout in self.layouts)
        return self.operation.address, a, b, c, c


def preference(
    library: Library, problem: Problem, workspace_bytes: int, alignments: tuple[int, ...]
) -> cublaslt.PreferenceDescriptor:
    """Return what an algorithm must keep to; ``alignments`` are of A, B and C, in bytes."""
    made = cublaslt.PreferenceDescriptor(library)
    made[MatmulPref.MAX_WORKSPACE_BYTES] = workspace_bytes
    if _ELEMENTS[problem.dtype_out][1] == 2:
        # Parts of a sum that are put together in 16 bits would lose digits that float32 keeps.
        made[MatmulPref.REDUCTION_SCHEME_MASK] = ReductionScheme.COMPUTE_TYPE
    a, b, c = alignments[:3]
    made[MatmulPref.MIN_ALIGNMENT_A_BYTES] = b
    made[MatmulPref.MIN_ALIGNMENT_B_BYTES] = a
    made[MatmulPref.MIN_ALIGNMENT_C_BYTES] = c
    made[MatmulPref.MIN_ALIGNMENT_D_BYTES] = c
    return made
