"""CUDA C++ text, compiled for a GPU that need not be there, and what ptxas says about it."""

import ctypes
import functools
import hashlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cuda_on_cpu import CompileError, folder, put

OPTIONS = ("--std=c++17",)
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Compiled:
    """A cubin, and by kernel: registers a thread, bytes spilled, of stack, and of shared memory.

    An array of a thread that is indexed at run time is stack and no spill, and as slow.
    """

    cubin: bytes
    registers: dict[str, int]
    spilled_bytes: dict[str, int]
    stack_bytes: dict[str, int]
    shared_bytes: dict[str, int]


def available(arch="sm_80"):
    """Return why nothing can be compiled for an architecture; None where it can."""
    if _nvrtc() is None and shutil.which("nvcc") is None:
        return "there is neither NVRTC (the cuda13 extra brings it) nor nvcc"
    if _number(arch) not in _architectures():
        return f"this CUDA {_version()} does not compile for {arch}"
    return None


def compile_only(source, arch, options=()):
    """Compile a text for "sm_80" and so on, with NVRTC, or with nvcc where that is missing.

    Raises: CompileError; RuntimeError where neither is there.
    """
    if reason := available(arch):
        raise RuntimeError(reason)
    content = "\0".join((source, arch, *OPTIONS, *options, _version()))
    path = folder() / f"{arch}_{hashlib.sha256(content.encode()).hexdigest()[:40]}.cubin"
    log_path = path.with_suffix(".log")
    if not (path.exists() and log_path.exists()):
        compile_with = _with_nvcc if _nvrtc() is None else _with_nvrtc
        cubin, log = compile_with(source, arch, (*OPTIONS, *options))
        put(path, cubin)
        put(log_path, log.encode())
    return _read(path.read_bytes(), log_path.read_text())


def _read(cubin, log):
    """Return what ptxas says of each kernel, its lines being in the order of its work."""
    registers, spilled, stack, shared = {}, {}, {}, {}
    name = None
    for line in log.splitlines():
        if found := ENTRY.search(line):
            name = found[1]
        elif (found := SPILL.search(line)) and name not in stack:
            stack[name] = int(found[1])
            spilled[name] = int(found[2]) + int(found[3])
        elif found := USED.search(line):
            registers[name] = int(found[1])
            shared[name] = int(used[1]) if (used := SHARED.search(line)) else 0
    return Compiled(cubin, registers, spilled, stack, shared)


def _number(arch):
    return int(re.fullmatch(r"sm_(\d+)[af]?", arch)[1])


# NVRTC


@functools.cache
def _nvrtc():
    """Return the library of NVIDIA's wheels, else the system's, else None."""
    found = importlib.util.find_spec("nvidia")
    places = [] if found is None else found.submodule_search_locations
    paths = [str(p) for place in places for p in Path(place).glob("*/lib/libnvrtc.so.*")]
    for path in [*sorted(paths, reverse=True), "libnvrtc.so"]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


@functools.cache
def _version():
    library = _nvrtc()
    if library is None:
        told = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
        return re.search(r"release (\S+),", told.stdout)[1]
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@functools.cache
def _architectures():
    library = _nvrtc()
    if library is None:
        told = subprocess.run(
            ["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True
        )
        return {int(n) for n in re.findall(r"sm_(\d+)", told.stdout)}
    n = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(n))
    numbers = (ctypes.c_int * n.value)()
    library.nvrtcGetSupportedArchs(numbers)
    return set(numbers)


def _with_nvrtc(source, arch, options):
    library = _nvrtc()
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"module.cu", 0, None, None)
    try:
        words = [f"--gpu-architecture={arch}", "--ptxas-options=-v", *options]
        outcome = library.nvrtcCompileProgram(
            program, len(words), (ctypes.c_char_p * len(words))(*(w.encode() for w in words))
        )
        log = _text(library, "ProgramLog", program).rstrip(b"\0").decode()
        if outcome:
            raise CompileError(log)
        return _text(library, "CUBIN", program), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library, what, program):
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, text)
    return text.raw


def _with_nvcc(source, arch, options):
    with tempfile.TemporaryDirectory() as place:
        text, cubin = Path(place, "module.cu"), Path(place, "module.cubin")
        text.write_text(source)
        command = ["nvcc", f"-arch={arch}", "-cubin", "-Xptxas", "-v", *options]
        done = subprocess.run(
            [*command, "-o", str(cubin), str(text)], capture_output=True, text=True
        )
        if done.returncode:
            raise CompileError(done.stderr)
        return cubin.read_bytes(), done.stderr
