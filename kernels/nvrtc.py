"""CUDA C++ compiled at run time, for one GPU, and kept on disk.

An entry is a cubin in the directory of compiled steps (`nnx.kernels.cache`), with a SHA-256 over
it that is checked before it is loaded. Its name follows from text, options and compiler.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

from nnx.errors import TraceError
from nnx.kernels import cache

OPTIONS = ("--std=c++17", "--fmad=false", "--diag-suppress=177,550")
"""Arithmetic is never contracted, and subnormal numbers are kept."""
MAGIC = b"nnx\x00cubin1"
DIGEST_BYTES = hashlib.sha256().digest_size


def cubin(source: str, capability: int) -> bytes:
    """Return the machine code of a text for GPUs of a compute capability, such as 90.

    Raises: TraceError with the compiler's messages; DeviceError where there is no compiler.
    """
    nvrtc = compiler()
    arch = architecture(capability, nvrtc.getSupportedArchs())
    options = (*OPTIONS, f"--gpu-architecture={arch}")
    key = hashlib.sha256(repr((source, options, nvrtc.getVersion())).encode())
    folder = cache.directory()
    path = None if folder is None else folder / f"nnx_{key.hexdigest()[:40]}.bin"
    if path is not None:
        found = _kept(path, key.digest())
        if found is not None:
            return found
    code = compiled(source, options)
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


def compiler() -> Any:
    """Return CuPy's binding of NVRTC. Raises: DeviceError with the line that installs it."""
    from nnx.errors import DeviceError

    try:
        from cupy_backends.cuda.libs import nvrtc  # type: ignore[import-not-found, unused-ignore]

        nvrtc.getVersion()
    except Exception as error:
        raise DeviceError(
            f"CUDA's run-time compiler (NVRTC) is missing: {error}. Install it: python -m pip "
            f'install "nnx-array[cuda13]", or [cuda12] for an older driver.'
        ) from error
    return nvrtc


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


def compiled(source: str, options: tuple[str, ...]) -> bytes:
    """Return the cubin of a text. Raises: TraceError with the compiler's messages."""
    nvrtc = compiler()
    program = nvrtc.createProgram(source, "step.cu", [], [])
    try:
        try:
            nvrtc.compileProgram(program, list(options))
        except nvrtc.NVRTCError as error:
            raise TraceError(
                f"The CUDA text of a step does not compile ({error}):\n"
                f"{nvrtc.getProgramLog(program)}\nThis is a fault of nnx: please report it."
            ) from None
        code: bytes = nvrtc.getCUBIN(program)
        return code
    finally:
        nvrtc.destroyProgram(program)
