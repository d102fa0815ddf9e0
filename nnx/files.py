"""Replacing a file so that a reader, or a power cut, finds the old bytes or the new ones."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from nnx.errors import CheckpointError


def replace_file(path: str | os.PathLike[str], blocks: list[memoryview]) -> None:
    """Put a file of these bytes in the place of ``path``: all of it, or nothing.

    Written under one fixed temporary name, through to the disk, then renamed.
    Raises: CheckpointError where that fails; a file that was there before is as it was.
    """
    target = os.path.realpath(path)
    temporary = f"{target}.tmp"
    try:
        with _removed_on_error(temporary):
            _write_through(temporary, blocks)
            os.replace(temporary, target)
    except OSError as error:
        raise CheckpointError(
            f"Cannot save {os.fspath(path)!r}: {_cause(error, target)}. A file that was there "
            f"before is as it was."
        ) from error
    try:
        _sync_folder(os.path.dirname(target))
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)!r} was saved, but its folder could not be written through to the "
            f"disk: {error.strerror}. It may be gone after a power cut: save it again."
        ) from error


@contextlib.contextmanager
def _removed_on_error(temporary: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write_through(path: str, blocks: list[memoryview]) -> None:
    """Write a file and wait until the disk has it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        for block in blocks:
            while block:
                block = block[os.write(descriptor, block) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    """Wait until the disk knows a rename, on systems where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _cause(error: OSError, target: str) -> str:
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        return "it is a folder; name a file in it, such as model.safetensors"
    if not os.path.isdir(folder):
        return f"there is no folder {folder!r}; make it first"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}; free some, or name another disk"
    return f"{error.strerror}"
