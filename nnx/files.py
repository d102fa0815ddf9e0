"""Replacing a file so that a reader, or a power cut, finds the old bytes or the new ones."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from nnx.errors import CheckpointError, DataError


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text. Raises: DataError for what names no file.

    A number would be the descriptor of an open file, 1 that of standard output.
    """
    named = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(named, str) or "\0" in named:
        raise DataError(
            f"A path is a text or a pathlib.Path, such as 'model.safetensors', got {path!r}."
        )
    return named


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError where `replace_file` could put no file, as far as one sees before."""
    target = os.path.realpath(checked_path(path))
    folder = os.path.dirname(target)
    if is_endless(target):
        raise _refusal(path, OSError(0, _ENDLESS), target)
    if os.path.isdir(target) or not os.path.isdir(folder):
        raise _refusal(path, OSError(), target)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refusal(path, OSError(0, f"no file can be made in the folder {folder!r}"), target)


def is_endless(path: str) -> bool:
    """Return whether a device or a pipe is there: one may read from it for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


_ENDLESS = "it is a device or a pipe, and no file"


def replace_file(
    path: str | os.PathLike[str], blocks: list[memoryview], *, keep_previous: bool = False
) -> None:
    """Put a file of these bytes in the place of ``path``: all of it, or nothing.

    Written under one fixed temporary name, through to the disk, then renamed. With
    ``keep_previous`` the file that it replaces stays, under the name of `previous_of`.
    Raises: CheckpointError where that fails; a file that was there before is as it was.
    """
    target = os.path.realpath(checked_path(path))
    if is_endless(target):  # the rename would put a file in the place of /dev/null
        raise _refusal(path, OSError(0, _ENDLESS), target)
    temporary = f"{target}.tmp"
    try:
        with _removed_on_error(temporary):
            _write_through(temporary, blocks)
            if keep_previous:
                _keep(target)
            os.replace(temporary, target)
    except OSError as error:
        raise _refusal(path, error, target) from error
    try:
        _sync_folder(os.path.dirname(target))
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)!r} was saved, but its folder could not be written through to the "
            f"disk: {error.strerror}. It may be gone after a power cut: save it again."
        ) from error


def previous_of(path: str | os.PathLike[str]) -> str:
    """Return the name under which `replace_file` keeps what it replaced."""
    return f"{os.path.realpath(path)}.previous"


def _keep(target: str) -> None:
    """Give a file its second name; it keeps its first until another file takes that."""
    previous = previous_of(target)
    second = f"{previous}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(second)  # of a program that was killed
    with _removed_on_error(second):
        try:
            os.link(target, second)
        except FileNotFoundError:
            return  # nothing to keep
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(target, "rb") as file:
                _write_through(second, [memoryview(file.read())])
        os.replace(second, previous)
    # Where both were one file already, the rename has done nothing.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(second)


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""What file systems without hard links answer, such as those of memory cards."""


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


def _refusal(path: str | os.PathLike[str], error: OSError, target: str) -> CheckpointError:
    return CheckpointError(
        f"Cannot save {os.fspath(path)!r}: {_cause(error, target)}. A file that was there before "
        f"is as it was."
    )


def _cause(error: OSError, target: str) -> str:
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        return "it is a folder; name a file in it, such as model.safetensors"
    if not os.path.isdir(folder):
        return f"there is no folder {folder!r}; make it first"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}; free some, or name another disk"
    return f"{error.strerror}"
