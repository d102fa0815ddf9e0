"""CUDA C++ text, run on the CPU with CUDA's semantics: what tests kernels where there is no GPU.

g++ compiles the text behind ``cuda_on_cpu.h``; ``fibers.cpp`` gives each thread of a block a stack
and switches between them at barriers, shuffles and votes. Blocks run one after the other. Shared
memory begins each block as NaN; threads and blocks run in the order that a launch names, so that
a barrier left out shows as a wrong result in one of them.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np

from nnx.errors import did_you_mean
from nnx.kernels import cache

HERE = Path(__file__).parent
MAX_THREADS = 1024
STALE_S = 30 * 86400.0
LIMIT_S = 60.0
"""Processor time after which a launch is taken to hang."""
FLAGS = ("-std=c++17", "-fPIC", "-w")
# Without the library's check of longjmp, which knows of one stack only.
FIBER_FLAGS = (*FLAGS, "-O2", "-shared", "-pthread", "-U_FORTIFY_SOURCE")
MODULE_FLAGS = (
    *FLAGS, "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing",
    "-fno-exceptions", "-fno-rtti", "-fno-asynchronous-unwind-tables", "-fvisibility=hidden",
    "-fstack-clash-protection",
    "-nostdlib", "-shared",
    # Each of these a fault on a GPU, or a wrong value; fibers.cpp reports them.
    "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
)  # fmt: skip
BOUNDS = r"(?:__launch_bounds__\s*\(\s*([^),]*)[^)]*\)\s*)?"
KERNEL = re.compile(rf"__global__\s+{BOUNDS}(?:static\s+)?void\s+{BOUNDS}(\w+)\s*\(")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
ORDERS = ("forward", "reverse", 1, 2)
"""Orders of threads and blocks that tests go through; see `Module.launch`."""

_lock = threading.RLock()  # one launch at a time: the threads of a block are the process's only


class CompileError(Exception):
    """g++ refuses the text; its messages, and the line of the first."""


class LaunchError(Exception):
    """What ended a launch: where, at which kind of call or use, in which line (0: unknown)."""

    def __init__(self, message, block, thread, kind, line):
        super().__init__(message)
        self.block, self.thread, self.kind, self.line = block, thread, kind, line


class DivergenceError(LaunchError):
    """Threads wait for others that cannot come: another collective, another mask, a return."""


class FaultError(LaunchError):
    """A thread used memory that is not there, or did what the processor refuses."""


class GuardError(Exception):
    """A kernel wrote beside an array."""


@functools.cache
def available():
    """Return why no text can be run here; None where it can."""
    if sys.platform != "linux":
        return f"CUDA text runs on the CPU of Linux machines only, and this is {sys.platform}"
    if shutil.which("g++") is None:
        return "there is no g++ to compile CUDA text for the CPU"
    return None


class Module:
    """The kernels of one text, compiled once for all processes.

    Raises: CompileError.
    """

    def __init__(self, source):
        code = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), source)
        found = [(name, before or after) for before, after, name in KERNEL.findall(code)]
        self.source = source
        self.names = [name for name, _ in found]
        self._limits = {name: int(n) if n.isdecimal() else MAX_THREADS for name, n in found}
        self._runtime = _runtime()
        self._library = ctypes.CDLL(str(_compiled(source, self.names)))
        self._shared = _Shared.in_dll(self._library, "cuda_shared_range")

    def launch(self, name, grid, block, args, order="forward"):
        """Run a kernel to its end.

        ``grid`` and ``block`` are an int or (x, y). ``args`` are ints (numbers or addresses) and
        C-contiguous arrays, plain or `Guarded`, of which the address is taken. ``order`` is
        "forward", "reverse", or a seed that shuffles blocks, warps, and lanes between collectives.
        Raises: DivergenceError, FaultError, GuardError.
        """
        entry = self._entry(name)
        grid, block = _pair(grid), _pair(block)
        n_threads = block[0] * block[1]
        if not 0 < n_threads <= self._limits[name]:
            raise ValueError(
                f"{name} takes 1 to {self._limits[name]} threads a block, not {n_threads}."
            )
        if min(grid) < 1 or grid[1] > 65535:
            raise ValueError(f"A grid of {grid} cannot be launched.")
        values = _arguments(name, entry.parameters.decode(), args)
        how, seed = _order(order)
        report = _Report()
        with _lock:
            outcome = self._runtime.cuda_launch(
                entry.run, values, (ctypes.c_uint * 2)(*grid), (ctypes.c_uint * 2)(*block),
                self._shared.start, self._shared.end, how, seed, LIMIT_S,
                ctypes.byref(report),
            )  # fmt: skip
        if outcome:
            raise self._error(name, report)
        for guarded in list(Guarded.live):
            guarded.check()

    def _entry(self, name):
        if name not in self.names:
            raise KeyError(f"No kernel is called {name!r}. {did_you_mean(name, self.names)}")
        return _Entry.in_dll(self._library, f"cuda_entry_{name}")

    def _error(self, name, report):
        kind = DivergenceError if report.outcome == 1 else FaultError
        block, thread = tuple(report.block), tuple(report.thread)
        message = f"{name}, block {_short(block)}: {report.text.decode()}"
        if report.address:
            message += _near(report.address)
        lines = self.source.splitlines()
        if 0 < report.line <= len(lines):
            message += f"\n{report.line}: {lines[report.line - 1].strip()}"
        return kind(message, block, thread, report.kind.decode(), report.line)


class Guarded:
    """An array that a kernel cannot leave unseen.

    Pages that cannot be used lie before and after it. What is left of its own pages, at most
    ``align`` - 1 bytes of them after it, holds a pattern that `check` finds changed. A new array is
    of bytes 0xff: NaN in every format.
    """

    live: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    PATTERN = 0xA5

    def __init__(self, array=None, *, shape=None, dtype=np.float32, align=16):
        given = None if array is None else np.asarray(array, order="C")
        shape, dtype = (shape, np.dtype(dtype)) if given is None else (given.shape, given.dtype)
        n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        size = -(-max(n, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        base = _runtime().cuda_map(size)
        if not base:
            raise MemoryError(f"No memory for an array of {n} bytes.")
        pages = (ctypes.c_uint8 * size).from_address(base)
        weakref.finalize(pages, _runtime().cuda_unmap, base, size)  # views keep it, too
        self._pages = np.frombuffer(pages, np.uint8)
        self._start = (size - n) // align * align
        self._end = self._start + n
        self.address = base + self._start
        self._pages[:] = self.PATTERN
        inside = self._pages[self._start : self._end]
        inside[:] = 0xFF
        self.array = inside.view(dtype).reshape(shape)
        if given is not None:
            self.array[...] = given
        Guarded.live.add(self)

    def check(self):
        """Raise GuardError if anything beside the array was written, and mend it.

        Each launch does this to all guarded arrays, whether it was given them or only addresses.
        """
        for zone, first in (
            (self._pages[: self._start], 0),
            (self._pages[self._end :], self._end),
        ):
            changed = np.flatnonzero(zone != self.PATTERN)
            if changed.size:
                zone[:] = self.PATTERN
                where = self._place(first + changed[0])
                raise GuardError(f"{changed.size} bytes were written, {where}.")

    def distance(self, address):
        """Return how many bytes an address lies outside the array."""
        offset = address - self.address
        return max(-offset, offset - (self._end - self._start) + 1, 0)

    def _place(self, i):
        of = f"an array of {self.array.shape} {self.array.dtype}"
        if i < self._start:
            return f"{self._start - i} bytes before the start of {of}"
        return f"{i - self._end} bytes after the end of {of}"

    def place(self, address):
        """Return in words where an address lies."""
        return self._place(address - self.address + self._start)


def _near(address):
    """Return in words which guarded array an address is beside."""
    found = min(Guarded.live, key=lambda g: g.distance(address), default=None)
    if found is None or not 0 < found.distance(address) <= mmap.PAGESIZE:
        return ""
    return f", {found.place(address)}"


class _Entry(ctypes.Structure):
    _fields_ = (("parameters", ctypes.c_char_p), ("run", ctypes.c_void_p))


class _Shared(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("end", ctypes.c_void_p))


class _Report(ctypes.Structure):
    _fields_ = (
        ("outcome", ctypes.c_int),
        ("block", ctypes.c_uint * 2),
        ("thread", ctypes.c_uint * 3),
        ("line", ctypes.c_int),
        ("address", ctypes.c_uint64),
        ("kind", ctypes.c_char * 32),
        ("text", ctypes.c_char * 416),
    )


def _pair(size):
    return (size, 1) if isinstance(size, int) else (*size, 1)[:2]


def _short(index):
    return str(index[0]) if not any(index[1:]) else str(index)


def _order(order):
    if isinstance(order, int):
        return 2, order % 2**64
    if order not in ("forward", "reverse"):
        raise ValueError(f'order is "forward", "reverse" or a seed, not {order!r}.')
    return int(order == "reverse"), 0


def _arguments(name, parameters, args):
    """Return the 64 bits of each argument."""
    if len(args) != len(parameters):
        raise TypeError(f"{name} takes {len(parameters)} arguments, not {len(args)}.")
    values = (ctypes.c_uint64 * max(1, len(args)))()
    for i, (arg, parameter) in enumerate(zip(args, parameters, strict=True)):
        if isinstance(arg, Guarded):
            arg = arg.array
        if isinstance(arg, np.ndarray):
            if parameter != "p":
                raise TypeError(f"Parameter {i} of {name} is a number, and was given an array.")
            if not arg.flags.c_contiguous:
                raise ValueError(f"Argument {i} of {name} is not C-contiguous.")
            values[i] = arg.ctypes.data
        elif isinstance(arg, int | np.integer):
            values[i] = int(arg) % 2**64
        else:
            raise TypeError(
                f"Argument {i} of {name} is of {type(arg).__name__}; ints and arrays are taken."
            )
    return values


# Compilation


def folder():
    """Return where compiled texts are kept."""
    found = (cache.directory() or _own_folder()) / "cuda_on_cpu"
    found.mkdir(exist_ok=True)
    _tidy(found)
    return found


@functools.cache
def _tidy(found):
    """Remove what was compiled long ago; if it is still run, it is compiled again."""
    for path in found.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process tidies, too
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


@functools.cache
def _own_folder():
    folder = tempfile.mkdtemp(prefix="nnx-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def put(path, content):
    """Write a file whole: no other process finds half of it."""
    temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _built(stem, text, flags, *parts):
    """Return the library of a C++ text: from the cache, or new."""
    content = "\0".join((text, *flags, *parts))
    path = folder() / f"{stem}_{hashlib.sha256(content.encode()).hexdigest()[:40]}.so"
    if not path.exists():
        if reason := available():
            raise RuntimeError(reason)
        with tempfile.TemporaryDirectory() as place:
            made = Path(place, "made.so")
            done = subprocess.run(
                ["g++", "-x", "c++", "-", "-o", str(made), *flags],
                input=text, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
            if done.returncode:
                raise CompileError(_shown(done.stderr, text))
            put(path, made.read_bytes())
    return path


def _shown(messages, text):
    """Return g++'s messages with the line of the text that the first of them is about."""
    found = re.search(r"^module\.cu:(\d+):", messages, re.MULTILINE)
    if found is None:
        return messages
    lines = text[text.index('"module.cu"\n') + len('"module.cu"\n') :].splitlines()
    number = int(found[1])
    return f"{messages}\n{number}: {lines[number - 1]}" if number <= len(lines) else messages


@functools.cache
def _runtime_path():
    return _built("fibers", (HERE / "fibers.cpp").read_text(), FIBER_FLAGS)


@functools.cache
def _runtime():
    library = ctypes.CDLL(str(_runtime_path()))
    library.cuda_launch.argtypes = (
        ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint),
        ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
        ctypes.c_uint64, ctypes.c_double, ctypes.c_void_p,
    )  # fmt: skip
    library.cuda_map.argtypes, library.cuda_map.restype = (ctypes.c_size_t,), ctypes.c_size_t
    library.cuda_unmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    library.cuda_unmap.restype = None
    return library


def _compiled(source, names):
    header = HERE / "cuda_on_cpu.h"
    table = "".join(f"CUDA_ENTRY({name})\n" for name in names)
    # In a namespace without a name, inline functions may have shared memory in its one section.
    text = (
        f'namespace {{\n#line 1 "module.cu"\n{source}\n#line 1 "table.h"\n}}\n{table}CUDA_SHARED\n'
    )
    # The module finds its runtime by the path it was linked with.
    # -x none: the library after it is no C++ text.
    libraries = (str(_runtime_path()), "-lgcc")
    flags = ("-include", str(header), *MODULE_FLAGS, "-x", "none", *libraries)
    return _built("module", text, flags, header.read_text())
