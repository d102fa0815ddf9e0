"""`nnx doctor`: what nnx needs on this machine, line by line, and what mends what is broken."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from nnx.cli.output import bytes_text, on_terminal, print_json, print_rows

GOOD, NOTE, BAD = "good", "note", "bad"
LITTLE_SPACE = 1 << 30
NEEDED = ("numpy", "numba", "safetensors", "rich", "typer", "threadpoolctl", "platformdirs")
OPTIONAL = {
    "matplotlib": ("matplotlib", "plot"),
    "PIL": ("pillow", "image"),
    "sklearn": ("scikit-learn", "sklearn"),
    "tensorboardX": ("tensorboardX", "tensorboard"),
}
"""Modules that a part of nnx uses, their packages, and the extra that installs each."""
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


class Line(NamedTuple):
    """One finding: of what, whether it is good, what was found, and the command that mends it."""

    subject: str
    state: str
    found: str
    mend: str = ""


def _pip(what: str) -> str:
    return f'python -m pip install "{what}"'


def _versions() -> Iterator[Line]:
    """Python, nnx and the packages that it needs."""
    import nnx

    version = platform.python_version()
    yield Line("python", GOOD, f"{version}, {sys.executable}")
    yield Line("nnx", GOOD, f"{nnx.__version__}, {Path(nnx.__file__).parent}")
    for name in NEEDED:
        try:
            importlib.import_module(name)
            yield Line(name, GOOD, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Line(name, NOTE, "imports, but is not installed as a package")
        except Exception as error:
            yield Line(name, BAD, f"does not import: {error}", _pip(name))
    for name, (package, extra) in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Line(name, NOTE, "not installed, and needed only for its extra",
                       _pip(f"nnx-array[{extra}]"))  # fmt: skip
            continue
        try:
            yield Line(name, GOOD, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Line(name, GOOD, "installed")


def _compiler() -> Iterator[Line]:
    """The compiler and the BLAS of compiled steps: a product is computed and checked."""
    import numpy as np

    import nnx

    try:
        product = nnx.jit(lambda x: x @ x + 1.0)
        x = nnx.asarray(np.eye(3, dtype=np.float32), device="numba")
        right = np.array_equal(product(x).numpy(), np.eye(3) + 1)
    except Exception as error:
        yield Line("compiled steps", BAD, f"do not run: {error}",
                   _pip("--force-reinstall numba scipy-openblas32"))  # fmt: skip
        return
    if right:
        yield Line("compiled steps", GOOD, "a product was compiled and is right")
    else:
        yield Line("compiled steps", BAD, "a product was compiled and is wrong",
                   _pip("--force-reinstall numba scipy-openblas32"))  # fmt: skip


def _blas() -> Iterator[Line]:
    """The thread pools that are loaded, and what sets their sizes."""
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped, unused-ignore]

    cores = os.cpu_count() or 1
    for pool in threadpool_info():
        found = (
            f"{pool.get('internal_api')} {pool.get('version') or ''}, {pool['num_threads']} threads"
        )
        many = pool["num_threads"] > cores
        yield Line(f"threads of {Path(pool['filepath']).name.partition('-')[0][:24]}",
                   NOTE if many else GOOD, found + (f", {cores} cores" if many else ""),
                   "unset what sets it: " + ", ".join(THREADS) if many else "")  # fmt: skip
    for name in THREADS:
        value = os.environ.get(name)
        if value is None:
            continue
        if not value.isdecimal() or int(value) < 1:
            yield Line(name, BAD, f"is {value!r}, no number of threads", f"unset {name}")
        elif int(value) > cores:
            yield Line(name, NOTE, f"is {value}, more than the {cores} cores", f"unset {name}")
        else:
            yield Line(name, GOOD, f"is {value}")


def _writable(folder: Path) -> str:
    """Return why files cannot be made in a folder; nothing where they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _caches() -> Iterator[Line]:
    """The cache of compiled code and of data, and the room for them."""
    import platformdirs

    from nnx.kernels import cache

    folder = cache.directory()
    if folder is None:
        named = os.environ.get("NNX_CACHE_DIR")
        why = f"NNX_CACHE_DIR is {named!r}, which cannot be used" if named else "no folder is safe"
        yield Line("code cache", NOTE, f"{why}: each process compiles anew",
                   'export NNX_CACHE_DIR="$HOME/.nnx"')  # fmt: skip
    elif fault := _writable(folder):
        yield Line("code cache", NOTE, f"{folder} cannot be written to ({fault}): each process "
                   f"compiles anew", f"chmod u+rwx {folder}")  # fmt: skip
    else:
        sizes = [size for _, size in cache.entries()]
        yield Line("code cache", GOOD, f"{folder}, {len(sizes)} entries, {bytes_text(sum(sizes))}")
    data = Path(os.environ.get("NNX_DATA_DIR") or platformdirs.user_cache_path("nnx", False))
    if data.exists():
        yield Line("data", GOOD, str(data))
    else:
        named = os.environ.get("NNX_DATA_DIR")
        yield Line("data", NOTE, f"{data} does not exist: data sets are downloaded",
                   "unset NNX_DATA_DIR" if named else "")  # fmt: skip
    for name, place in (("disk of the cache", folder), ("disk of this folder", Path.cwd())):
        if place is None:
            continue
        free = shutil.disk_usage(place if place.exists() else Path.cwd()).free
        if free < LITTLE_SPACE:
            mend = "make room: on a full disk only the last good checkpoint is kept"
            yield Line(name, NOTE, f"{bytes_text(free)} free", mend)
        else:
            yield Line(name, GOOD, f"{bytes_text(free)} free")


def _devices() -> Iterator[Line]:
    """Each device of nnx, and the driver of a GPU."""
    import nnx

    for info in nnx.devices():
        if info.available:
            yield Line(f"device {info.name}", GOOD, info.description)
        else:
            yield Line(f"device {info.name}", NOTE, info.reason)
    yield _driver()


def _driver() -> Line:
    name = ctypes.util.find_library("cuda") or ("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    try:
        library = ctypes.CDLL(name)
        version = ctypes.c_int()
        library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return Line("driver of NVIDIA", NOTE, "none is installed, which only a GPU needs")
    major, minor = divmod(version.value, 1000)
    if major < 12:
        return Line("driver of NVIDIA", NOTE, f"for CUDA {major}.{minor // 10}: too old for CuPy",
                    "install a driver for CUDA 12 or later")  # fmt: skip
    return Line("driver of NVIDIA", GOOD, f"for CUDA {major}.{minor // 10}")


def _environment() -> Iterator[Line]:
    """The variables that nnx reads, and the arithmetic of this process."""
    import numpy as np

    from nnx.device import default_device
    from nnx.errors import DeviceError

    try:
        yield Line("default device", GOOD, default_device().name)
    except DeviceError as error:
        yield Line("default device", BAD, str(error), "unset NNX_DEVICE")
    tiny = np.float32(1e-40)
    if tiny / np.float32(2) == 0:
        yield Line("denormal numbers", NOTE, "are flushed to zero by a library in this process")
    else:
        yield Line("denormal numbers", GOOD, "are kept")


CHECKS: tuple[Callable[[], Iterator[Line]], ...] = (
    _versions, _compiler, _blas, _caches, _devices, _environment,
)  # fmt: skip


def examine() -> list[Line]:
    """Return all findings; a check that fails is a finding too."""
    found: list[Line] = []
    for check in CHECKS:
        try:
            found += check()
        except Exception as error:
            name = check.__name__.strip("_")
            found.append(
                Line(name, BAD, f"could not be looked at: {type(error).__name__}: {error}")
            )
    return found


def doctor(*, as_json: bool) -> int:
    """Print the findings; return 1 where one is bad."""
    lines = examine()
    if as_json:
        print_json([line._asdict() for line in lines])
    else:
        marks = {GOOD: "good", NOTE: "note", BAD: "BAD"}
        rows = []
        for line in lines:
            mend = f"\nmend: {line.mend}" if line.mend and on_terminal() else ""
            row = [marks[line.state], line.subject, line.found + mend]
            rows.append(row if on_terminal() else [*row, line.mend])
        columns = ("", "of", "found") if on_terminal() else ("state", "of", "found", "mend")
        print_rows(columns, rows)
    return int(any(line.state == BAD for line in lines))
