"""Compiled steps on disk: the text of one in, its native code out, compiled once for all processes.

An entry is the object code that LLVM wrote for this processor, with a SHA-256 over all of it that
is checked before any byte is used. Loading one needs llvmlite alone: Numba is imported only where
something is compiled. Nothing here is pickled or evaluated.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import stat
import struct
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]

from nnx import philox
from nnx.kernels.native import (
    MissingSymbolError,
    NativeFunction,
    ObjectCode,
    compile_step,
    link,
    register,
)
from nnx.locks import hold_at_fork

__all__ = ["NativeFunction", "clear", "directory", "entries", "load"]

FORMAT = 1
LIMIT_BYTES = 512 << 20
STALE_S = 3600.0
MANY_LINES = 4000
"""A text of more lines takes many seconds to compile, which is told before."""

MAGIC = b"nnx\x00step"
HEADER = struct.Struct("<8sI32sIQ")  # magic, format, key, bytes of names, bytes of object code
DIGEST_BYTES = hashlib.sha256().digest_size
# Entries, their sources, and the choices of nnx.kernels.choices.
FILE_NAME = re.compile(r"nnx_[0-9a-f]{40}\.(bin|py|json)(?P<temporary>\.[0-9a-f-]+\.tmp)?")
# Settings of Numba that change the code it makes.
SETTINGS = (
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_ENABLE_AVX",
    "NUMBA_OPT",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_SLP_VECTORIZE",
)

_lock = hold_at_fork(threading.RLock())  # so no child begins in the middle of compiling
_loaded: dict[str, NativeFunction] = {}
_warned: set[str] = set()


class UnusableError(RuntimeError):
    """A file of this cache that cannot be used; its text says what is wrong with it."""


def load(source: str, symbols: Mapping[str, int] | None = None) -> NativeFunction:
    """Return the native code of ``step(table)`` in this source: from memory, from disk, or new.

    ``symbols`` holds the addresses of outside functions that the source calls by name. A name
    stands for one function: put a version in it. The addresses of the first call are kept.
    Raises: RuntimeError if the code needs a function that neither ``symbols`` nor this process has.
    """
    key = _key(source, symbols or ())
    messages: list[str] = []
    with _lock:
        if key not in _loaded:
            register(symbols or {})
            _loaded[key] = _load(key, source, messages)
        function = _loaded[key]
    # Last, so that a warning that was made an error finds the entry mended.
    for message in messages:
        _warn(message)
    return function


def _load(key: str, source: str, messages: list[str]) -> NativeFunction:
    folder = directory()
    path = None if folder is None else folder / f"nnx_{key[:40]}.bin"
    if path is not None:
        try:
            found = _read(path, key)
            if found is not None:
                return link(found)
        except UnusableError as fault:
            messages.append(f"The compiled step {path} {fault}. It was compiled again.")
        except MissingSymbolError as fault:
            messages.append(f"{path} cannot be used, and was compiled again: {fault}")
    # Before it is compiled: Numba's messages show lines of the file.
    shown = None if path is None else path.with_suffix(".py")
    kept = shown is not None and keep(shown, source.encode())
    n_lines = source.count("\n")
    if n_lines > MANY_LINES:
        _warn(
            f"A compiled step of {n_lines:,} lines takes its time: about {n_lines // 350} s now, "
            f"and none in later runs. jit=False in fit, or leaving out nnx.jit, does without."
        )
    made = compile_step(source, str(shown) if kept else f"<nnx_{key[:40]}>")
    function = link(made)
    if path is not None and kept and keep(path, _packed(made, key)):
        _tidy(path)
    return function


# The key


def _key(source: str, names: Iterable[str]) -> str:
    """Return the digest of everything that the object code follows from."""
    settings = [os.environ.get(name) for name in SETTINGS]
    parts = [source, sorted(names), settings, *_machine(), _texts()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _machine() -> tuple[str, ...]:
    """Return the versions and the processor that object code is good for."""
    return (
        _numba_version(),
        llvmlite.__version__,
        ".".join(map(str, sys.version_info[:2])),
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    )


def _numba_version() -> str:
    """Return what tells one Numba from another, without importing it."""
    spec = importlib.util.find_spec("numba")
    if spec is not None and spec.origin is not None:
        # Its file of the version: importlib.metadata alone takes longer than loading an entry.
        with contextlib.suppress(OSError):
            return Path(spec.origin).with_name("_version.py").read_text()
    from importlib import metadata

    return metadata.version("numba")


@functools.cache
def _texts() -> str:
    """Return the digest of the modules whose functions and constants are compiled into steps."""
    digest = hashlib.sha256()
    for path in _modules():
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def _modules() -> list[Path]:
    return [*sorted(Path(__file__).parent.glob("*.py")), Path(philox.__file__)]


# From object code to a file, and back


def _packed(made: ObjectCode, key: str) -> bytes:
    names = json.dumps({"entry": made.entry, "needs": made.needs}).encode()
    header = HEADER.pack(MAGIC, FORMAT, bytes.fromhex(key), len(names), len(made.code))
    content: bytes = header + names + made.code
    return content + hashlib.sha256(content).digest()


def _unpacked(content: bytes, key: str) -> ObjectCode:
    """Return the entry in a file's bytes.

    Raises: UnusableError if they are not those that were written, or not for this key.
    """
    if not content:
        raise UnusableError("is empty")
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise UnusableError("is damaged: its bytes do not have the SHA-256 that it ends with")
    if len(body) < HEADER.size:
        raise UnusableError("is not one of nnx: it is too short")
    magic, form, found, n_names, n_code = HEADER.unpack_from(body)
    if magic != MAGIC or form != FORMAT:
        raise UnusableError(f"is not one of nnx in format {FORMAT}")
    if found.hex() != key:
        raise UnusableError("is another step's: its key is not the one in its name")
    if len(body) != HEADER.size + n_names + n_code:
        raise UnusableError("is damaged: its parts do not add up to its length")
    start = HEADER.size + n_names
    try:
        names = json.loads(body[HEADER.size : start])
        needs = tuple(str(name) for name in names["needs"])
        return ObjectCode(str(names["entry"]), needs, body[start:])
    except (ValueError, KeyError, TypeError):
        raise UnusableError("is damaged: its list of names cannot be read") from None


def _read(path: Path, key: str) -> ObjectCode | None:
    """Return the entry in a file, None where there is no file.

    Raises: UnusableError if it is no regular file of ours, or damaged.
    """
    content = contents(path)
    return None if content is None else _unpacked(content, key)


def contents(path: Path) -> bytes | None:
    """Return the bytes of a file in the directory, None where there is no file.

    Raises: UnusableError if it is no regular file, or another user can write to it.
    """
    # No link is followed, and a pipe is not waited for.
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
        try:
            if problem := _unfit(os.fstat(descriptor)):
                raise UnusableError(problem)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        link = " (is it a link?)" if path.is_symlink() else ""
        raise UnusableError(f"cannot be read{link}: {error.strerror}") from error


def _unfit(state: os.stat_result) -> str | None:
    """Return why a file is not to be read as an entry, None if it may be."""
    if not stat.S_ISREG(state.st_mode):
        return "is not a regular file"
    if state.st_size > LIMIT_BYTES:
        return f"is too large: {state.st_size} bytes"
    return _exposed(state)


def _exposed(state: os.stat_result) -> str | None:
    """Return what lets another user decide what is in a file or directory, None if nothing."""
    if not hasattr(os, "geteuid"):
        return None
    if state.st_uid != os.geteuid():
        return f"belongs to another user (id {state.st_uid})"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return None


def keep(path: Path, content: bytes) -> bool:
    """Put a file into the directory, and return whether that worked."""
    try:
        _write(path, content)
    except OSError as error:
        _warn_named(f"cannot be written: {error.strerror}. Free some space, or make it writable.")
        return False
    return True


def _write(path: Path, content: bytes) -> None:
    """Put a file in place whole, or not at all.

    Unlike ``nnx.files.replace_file`` under a temporary name of its own: several processes may
    write one entry at a time. A link at ``path`` is replaced, not followed.
    """
    temporary = f"{path}.{os.getpid():x}-{os.urandom(6).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _tidy(written: Path) -> None:
    """Remove temporary files of writers that died, and the oldest files beyond the limit."""
    kept = []
    for path, state in _files(written.parent):
        if not path.name.endswith(".tmp"):
            kept.append((state.st_mtime, state.st_size, path))
        elif time.time() - state.st_mtime > STALE_S:
            _remove(path)
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= LIMIT_BYTES:
            break
        if path.stem != written.stem:
            _remove(path)
            total -= size


def _remove(path: Path) -> None:
    # Another process may have removed it, or have it open on a system that then keeps it.
    with contextlib.suppress(OSError):
        path.unlink()


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the files of this cache in a directory, temporary ones too; no link is followed."""
    found = []
    for item in os.scandir(folder):
        if FILE_NAME.fullmatch(item.name):
            # Another process may remove it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                found.append((Path(item.path), item.stat(follow_symlinks=False)))
    return found


# The directory


def directory() -> Path | None:
    """Return the directory of compiled steps, made if need be; None where it cannot be used.

    ``NNX_CACHE_DIR`` names another than the user's cache directory. One that other users can write
    to is not used, for its files are run.
    """
    named = os.environ.get("NNX_CACHE_DIR")
    folder = Path(os.path.expanduser(named)).absolute() if named else _default()
    if not folder.is_absolute():
        return None
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        state = os.stat(folder)
    except OSError as error:
        _warn_named(f"cannot be used: {error.strerror}. Name a directory that you can write to.")
        return None
    if problem := _exposed(state):
        _warn_once(
            f"Compiled steps are not kept in {folder}: it {problem}, who could put code there that "
            f"you run. Use `chmod go-w` on it, or set NNX_CACHE_DIR to a directory of your own."
        )
        return None
    return folder


def _default() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("nnx", appauthor=False) / "kernels"


def entries() -> list[tuple[str, int]]:
    """Return the name and the size in bytes of each compiled step on disk."""
    folder = directory()
    found = [] if folder is None else _files(folder)
    return sorted((path.name, state.st_size) for path, state in found if path.suffix == ".bin")


def clear() -> None:
    """Remove all compiled steps, from disk and from memory, and all choices of algorithms.

    Those in use go on working.
    """
    with _lock:
        _loaded.clear()
    folder = directory()
    for path, _ in [] if folder is None else _files(folder):
        _remove(path)


def _warn_named(problem: str) -> None:
    """Warn of a directory that the user chose; the default one may be missing or read-only."""
    if named := os.environ.get("NNX_CACHE_DIR"):
        _warn_once(f"NNX_CACHE_DIR is {named!r}, which {problem} Compiled steps are not kept.")


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _warn(message)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
