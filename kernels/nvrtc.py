"""CUDA C++ compiled at run time, for one GPU, and kept on disk.

An entry is a cubin in the directory of compiled steps (`nnx.kernels.cache`), with a SHA-256 over
it that is checked before it is loaded. Its name follows from text, options and compiler.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import warnings
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int
from ctypes import c_void_p as pointer
from typing import Any

from nnx.errors import DeviceError, TraceError
from nnx.kernels import cache, cuda_library

OPTIONS = ("--std=c++17", "--fmad=false", "--diag-suppress=177,550")
"""Arithmetic is never contracted, and subnormal numbers are kept."""
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "nvrtcVersion": (pointer, pointer),
    "nvrtcGetNumSupportedArchs": (pointer,),
    "nvrtcGetSupportedArchs": (pointer,),
    "nvrtcGetErrorString": (c_int,),
    "nvrtcCreateProgram": (pointer, c_char_p, c_char_p, c_int, pointer, pointer),
    "nvrtcCompileProgram": (pointer, c_int, pointer),
    "nvrtcGetProgramLogSize": (pointer, pointer),
    "nvrtcGetProgramLog": (pointer, pointer),
    "nvrtcGetCUBINSize": (pointer, pointer),
    "nvrtcGetCUBIN": (pointer, pointer),
    "nvrtcDestroyProgram": (pointer,),
}
"""The argument types of each function that is called; results are ints, 0 where all is well."""
MAGIC = b"nnx\x00cubin1"
DIGEST_BYTES = hashlib.sha256().digest_size


def cubin(source: str, capability: int) -> bytes:
    """Return the machine code of a text for GPUs of a compute capability, such as 90.

    Raises: TraceError with the compiler's messages; DeviceError where there is no compiler.
    """
    nvrtc = compiler()
    options = (*OPTIONS, f"--gpu-architecture={architecture(capability, nvrtc.architectures)}")
    key = hashlib.sha256(repr((source, options, nvrtc.version)).encode())
    folder = cache.directory()
    path = None if folder is None else folder / f"nnx_{key.hexdigest()[:40]}.bin"
    if path is not None:
        found = _kept(path, key.digest())
        if found is not None:
            return found
    code = nvrtc.compiled(source, options)
    if path is not None:
        body = MAGIC + key.digest() + code
        cache.keep(path, body + hashlib.sha256(body).digest())
    return code


def _kept(path: Any, key: bytes) -> bytes | None:
    """Return what was kept; one that is damaged is told, and compiled anew."""
    try:
        content = cache.contents(path)
        if content is None:
            return None
        body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        head = MAGIC + key
        if hashlib.sha256(body).digest() == digest and body.startswith(head):
            return body[len(head) :]
        fault = "is damaged: its bytes do not have the SHA-256 that it ends with"
    except cache.UnusableError as error:
        fault = str(error)
    warnings.warn(f"The compiled step {path} {fault}. It is compiled anew.", stacklevel=4)
    return None


def architecture(capability: int, known: Any) -> str:
    """Return the target for a GPU: its own, or the newest that the compiler knows before it."""
    known = sorted(int(x) for x in known)
    if capability in known:
        return f"sm_{capability}"
    # The same major version runs the code of an older minor one.
    fits = [x for x in known if x <= capability and x // 10 == capability // 10]
    if not fits:
        raise TraceError(
            f"This NVRTC compiles for GPUs of compute capability {', '.join(map(str, known))}, and "
            f"this one has {capability}. Install another CUDA: nnx-array[cuda13] or [cuda12]."
        )
    return f"sm_{fits[-1]}"


class Compiler:
    """NVRTC's functions; its version as (major, minor), its architectures as numbers such as 90."""

    def __init__(self, functions: Any) -> None:
        for name, arguments in SIGNATURES.items():
            getattr(functions, name).argtypes = arguments
        functions.nvrtcGetErrorString.restype = c_char_p
        self._functions = functions
        major, minor, n = c_int(), c_int(), c_int()
        self._call("nvrtcVersion", byref(major), byref(minor))
        self._call("nvrtcGetNumSupportedArchs", byref(n))
        known = (c_int * n.value)()
        self._call("nvrtcGetSupportedArchs", known)
        self.version, self.architectures = (major.value, minor.value), tuple(known)

    def compiled(self, source: str, options: Sequence[str]) -> bytes:
        """Return the cubin of a text. Raises: TraceError with the compiler's messages."""
        program = pointer()
        self._call("nvrtcCreateProgram", byref(program), source.encode(), b"step.cu", 0, None, None)
        try:
            words = (c_char_p * len(options))(*(option.encode() for option in options))
            status = self._functions.nvrtcCompileProgram(program, len(options), words)
            if status:
                log = self._text("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
                raise TraceError(
                    f"The CUDA text of a step does not compile ({self._word(status)}):\n{log}\n"
                    f"This is a fault of nnx: please report it."
                )
            return self._text("CUBIN", program)
        finally:
            self._functions.nvrtcDestroyProgram(byref(program))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._functions, name)(*arguments)
        if status:
            raise DeviceError(f"{name} answered {self._word(status)} ({status}).")

    def _word(self, status: int) -> str:
        return (self._functions.nvrtcGetErrorString(status) or b"?").decode()

    def _text(self, what: str, program: Any) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, text)
        return text.raw


NAME = cuda_library.Name("NVRTC", "nvrtc", "cuda_nvrtc", "nvrtc64_{}0_0.dll")


@functools.cache
def compiler() -> Compiler:
    """Return this machine's NVRTC, loaded on first use. Raises: DeviceError without one."""
    return cuda_library.load(NAME, "Steps on the GPU", Compiler)
