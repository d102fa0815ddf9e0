"""cuBLASLt by ctypes: products of matrices that a CUDA graph can hold.

CuPy refuses every cuBLAS call while a stream captures. cuBLASLt takes its algorithm, workspace and
stream by hand, so its calls can be captured. Descriptors need no driver; a handle needs one.
Source: cublasLt.h, cublas_api.h and library_types.h of CUDA 12 and 13; a test compares them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from ctypes import c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64
from ctypes import c_void_p as pointer
from enum import IntEnum
from typing import Any

from nnx.errors import DeviceError
from nnx.kernels import cuda_library
from nnx.locks import hold_at_fork

ALGO_BYTES = 64
"""The size of an algorithm's description, which may be kept for the same version of cuBLASLt."""


class Attribute(IntEnum):
    """An attribute of a descriptor: its number, and the C type of its value."""

    c_type: Any

    def __new__(cls, number: int, c_type: Any) -> Attribute:
        """Return the member of a number."""
        member = int.__new__(cls, number)
        member._value_, member.c_type = number, c_type
        return member


class MatmulDesc(Attribute):
    """Attributes of an operation, CUBLASLT_MATMUL_DESC_*."""

    COMPUTE_TYPE = 0, c_int32
    SCALE_TYPE = 1, c_int32
    POINTER_MODE = 2, c_int32
    TRANSA = 3, c_int32
    TRANSB = 4, c_int32
    EPILOGUE = 7, c_uint32
    BIAS_POINTER = 8, pointer
    EPILOGUE_AUX_POINTER = 11, pointer
    EPILOGUE_AUX_LD = 12, c_int64


class MatrixLayout(Attribute):
    """Attributes of a matrix in memory, CUBLASLT_MATRIX_LAYOUT_*; strides in elements."""

    TYPE = 0, c_uint32
    ORDER = 1, c_int32
    ROWS = 2, c_uint64
    COLS = 3, c_uint64
    LD = 4, c_int64
    BATCH_COUNT = 5, c_int32
    STRIDED_BATCH_OFFSET = 6, c_int64


class MatmulPref(Attribute):
    """Attributes of a search for algorithms, CUBLASLT_MATMUL_PREF_*."""

    MAX_WORKSPACE_BYTES = 1, c_uint64
    REDUCTION_SCHEME_MASK = 3, c_uint32
    MIN_ALIGNMENT_A_BYTES = 5, c_uint32
    MIN_ALIGNMENT_B_BYTES = 6, c_uint32
    MIN_ALIGNMENT_C_BYTES = 7, c_uint32
    MIN_ALIGNMENT_D_BYTES = 8, c_uint32


class Epilogue(IntEnum):
    """What is done to the sums before they are written, CUBLASLT_EPILOGUE_*."""

    DEFAULT = 1
    RELU = 2
    BIAS = 4
    RELU_BIAS = 6
    GELU = 32
    GELU_BIAS = 36
    RELU_AUX = 130
    RELU_AUX_BIAS = 134
    DRELU = 136
    DRELU_BGRAD = 152
    GELU_AUX = 160
    GELU_AUX_BIAS = 164
    DGELU = 192
    DGELU_BGRAD = 208
    BGRADA = 256
    BGRADB = 512


class ReductionScheme(IntEnum):
    """How sums split along k are put together, CUBLASLT_REDUCTION_SCHEME_*; a mask."""

    INPLACE = 1
    COMPUTE_TYPE = 2
    OUTPUT_TYPE = 4


class Operation(IntEnum):
    """What is done to an operand before the product, CUBLAS_OP_*."""

    N = 0
    T = 1


class Compute(IntEnum):
    """What products and sums are made in, CUBLAS_COMPUTE_*."""

    COMPUTE_32F = 68
    COMPUTE_64F = 70
    COMPUTE_32F_FAST_TF32 = 77


class DataType(IntEnum):
    """Types of elements, CUDA_R_*."""

    R_32F = 0
    R_64F = 1
    R_16F = 2
    R_16BF = 14


class Status(IntEnum):
    """The answers of a call that are told apart here, CUBLAS_STATUS_*."""

    SUCCESS = 0
    INVALID_VALUE = 7
    ARCH_MISMATCH = 8
    NOT_SUPPORTED = 15


class Algo(ctypes.Structure):
    """One algorithm, cublasLtMatmulAlgo_t: opaque."""

    _fields_ = [("data", c_uint64 * (ALGO_BYTES // 8))]


class HeuristicResult(ctypes.Structure):
    """One algorithm that was found, cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algo", Algo),
        ("workspace_bytes", c_size_t),
        ("state", c_int),
        ("waves_count", c_float),
        ("reserved", c_int * 4),
    ]


_SET = (c_int, (pointer, c_int, pointer, c_size_t))
_GET = (c_int, (pointer, c_int, pointer, c_size_t, pointer))
_DESTROY = (c_int, (pointer,))
# An operation, the layouts of A, B, C and D.
_PRODUCT = (pointer,) * 5

SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cublasLtGetVersion": (c_size_t, ()),
    "cublasLtGetStatusName": (c_char_p, (c_int,)),
    "cublasLtCreate": (c_int, (pointer,)),
    "cublasLtDestroy": _DESTROY,
    "cublasLtMatmulDescCreate": (c_int, (pointer, c_int, c_int)),
    "cublasLtMatmulDescDestroy": _DESTROY,
    "cublasLtMatmulDescSetAttribute": _SET,
    "cublasLtMatmulDescGetAttribute": _GET,
    "cublasLtMatrixLayoutCreate": (c_int, (pointer, c_int, c_uint64, c_uint64, c_int64)),
    "cublasLtMatrixLayoutDestroy": _DESTROY,
    "cublasLtMatrixLayoutSetAttribute": _SET,
    "cublasLtMatrixLayoutGetAttribute": _GET,
    "cublasLtMatmulPreferenceCreate": (c_int, (pointer,)),
    "cublasLtMatmulPreferenceDestroy": _DESTROY,
    "cublasLtMatmulPreferenceSetAttribute": _SET,
    "cublasLtMatmulPreferenceGetAttribute": _GET,
    "cublasLtMatmulAlgoGetHeuristic": (
        c_int, (pointer, *_PRODUCT, pointer, c_int, pointer, pointer),
    ),
    "cublasLtMatmulAlgoCheck": (c_int, (pointer, *_PRODUCT, pointer, pointer)),
    # handle, operation, alpha, A and its layout, B, beta, C, D, algorithm, workspace, bytes, stream
    "cublasLtMatmul": (c_int, (*(pointer,) * 14, c_size_t, pointer)),
}  # fmt: skip
"""The result and argument types of each function that is called."""


class StatusError(DeviceError):
    """A call of cuBLASLt that did not succeed; ``status`` is the number it answered."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Handle:
    """cuBLASLt on one GPU in this process; its address is 0 once it is ``lost``, which says why."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.lost = ""


class Library:
    """The functions of cuBLASLt, each answer checked; the handles of this process."""

    def __init__(self, functions: Any) -> None:
        self.functions = functions
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
        self.version = int(functions.cublasLtGetVersion())
        self._handles: dict[int, Handle] = {}
        self._parent_used_a_gpu = False
        _libraries.add(self)

    def call(self, name: str, *arguments: Any, about: object = "") -> None:
        """Call a function. Raises: StatusError with its name, its answer, and what it is about."""
        status = getattr(self.functions, name)(*arguments)
        if status != Status.SUCCESS:
            raise self.error(name, status, about)

    def error(self, name: str, status: int, about: object = "") -> StatusError:
        """Return the error for an answer of a function."""
        word = (self.functions.cublasLtGetStatusName(status) or b"?").decode()
        what = f" for {about}" if about else ""
        return StatusError(f"{name} answered {word} ({status}){what}.", status)

    def handle(self, index: int) -> Handle:
        """Return the handle of GPU ``index``, made on first use; that GPU must be current.

        Raises: DeviceError in a process forked from one that had a handle, or without a driver.
        """
        with _lock:
            if self._parent_used_a_gpu:
                raise DeviceError(FORKED)
            if index not in self._handles:
                made = pointer()
                try:
                    self.call("cublasLtCreate", ctypes.byref(made), about=f"GPU {index}")
                except StatusError as error:
                    raise StatusError(
                        f"{error} It needs an NVIDIA driver and a GPU (nvidia-smi lists them) with "
                        f"free memory, and a process that was not forked after CUDA was used.",
                        error.status,
                    ) from None
                self._handles[index] = Handle(made.value or 0)
            return self._handles[index]

    def release(self, index: int) -> None:
        """Destroy the handle of a GPU, if there is one; plans made with it can no longer run."""
        with _lock:
            handle = self._handles.pop(index, None)
        if handle is not None:
            address, handle.address = handle.address, 0
            handle.lost = f"The handle of GPU {index} was released."
            self.call("cublasLtDestroy", address, about=f"GPU {index}")

    def forget_handles(self) -> None:
        """Let no handle be used in a forked child: the driver's state is its parent's."""
        self._parent_used_a_gpu |= bool(self._handles)
        for handle in self._handles.values():
            handle.address, handle.lost = 0, FORKED
        self._handles.clear()


FORKED = (
    "This process was forked from one that had used the GPU, and CUDA does not work in such a "
    "child. Start it anew instead: multiprocessing.get_context('spawn')."
)

_lock = hold_at_fork(threading.Lock())
_libraries: weakref.WeakSet[Library] = weakref.WeakSet()


def _forget_handles() -> None:
    for library in _libraries:
        library.forget_handles()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_handles)


class Descriptor:
    """One of cuBLASLt's descriptors; its attributes are items. Destroyed as it is collected."""

    kind = ""

    def __init__(self, library: Library, *arguments: int) -> None:
        made = pointer()
        library.call(f"cublasLt{self.kind}Create", ctypes.byref(made), *arguments)
        self.address = made.value or 0
        self._library = library
        destroy = getattr(library.functions, f"cublasLt{self.kind}Destroy")
        weakref.finalize(self, destroy, self.address).atexit = False

    def __setitem__(self, attribute: Attribute, value: int) -> None:
        given = attribute.c_type(value)
        self._library.call(
            f"cublasLt{self.kind}SetAttribute",
            self.address, attribute.value, ctypes.byref(given), ctypes.sizeof(given),
            about=f"{attribute.name} = {value}",
        )  # fmt: skip

    def __getitem__(self, attribute: Attribute) -> int:
        found, written = attribute.c_type(), c_size_t()
        self._library.call(
            f"cublasLt{self.kind}GetAttribute",
            self.address, attribute.value, ctypes.byref(found), ctypes.sizeof(found),
            ctypes.byref(written), about=attribute.name,
        )  # fmt: skip
        return int(found.value or 0)


class MatmulDescriptor(Descriptor):
    """An operation: ``(library, Compute, DataType of alpha and beta)``."""

    kind = "MatmulDesc"


class LayoutDescriptor(Descriptor):
    """A matrix in column order: ``(library, DataType, rows, columns, leading dimension)``."""

    kind = "MatrixLayout"


class PreferenceDescriptor(Descriptor):
    """What an algorithm must keep to: ``(library)``."""

    kind = "MatmulPreference"


# The library on this machine


NAME = cuda_library.Name("cuBLASLt", "cublasLt", "cublas", "cublasLt64_{}.dll")


@functools.cache
def library() -> Library:
    """Return this machine's cuBLASLt, loaded on first use. Raises: DeviceError without one."""
    return cuda_library.load(NAME, "Products on the GPU", Library)
