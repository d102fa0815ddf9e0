"""Where CUDA's libraries are: NVIDIA's wheels, where cuda-pathfinder looks, and the system."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nnx.errors import DeviceError

MAJORS = (13, 12)
"""The major versions of CUDA whose libraries have the functions that are called."""

Loaded = TypeVar("Loaded")


class Name(NamedTuple):
    """A library: its title, its name, its folder in wheels of CUDA 12, and its file on Windows."""

    title: str
    stem: str
    folder: str
    dll: str

    def file(self, major: int) -> str:
        """Return the name of its file for a major version of CUDA."""
        windows = sys.platform == "win32"
        return self.dll.format(major) if windows else f"lib{self.stem}.so.{major}"


def load(name: Name, use: str, made: Callable[[Any], Loaded]) -> Loaded:
    """Return what is made of the first library that loads and has its functions.

    Raises: DeviceError with what is missing, for which CUDA, and the line that installs it.
    """
    fitting, faults = majors(), []
    for major in fitting:
        for path in places(name, major):
            try:
                return made(ctypes.CDLL(path))
            except (OSError, AttributeError) as error:
                faults.append(str(error))
    wanted = " or ".join(map(str, fitting))
    raise DeviceError(
        f"{use} need {name.title} for CUDA {wanted} ({name.file(fitting[0])}), which cannot be "
        f"loaded here ({'; '.join(faults)}). Install it: python -m pip install "
        f'"nnx-array[cuda{fitting[0]}]".'
    )


def majors() -> tuple[int, ...]:
    """Return the major versions of CUDA that fit: that of CuPy's build where CuPy imports."""
    try:
        from cupy.cuda import runtime  # type: ignore[import-not-found, unused-ignore]

        return (int(runtime.runtimeGetVersion()) // 1000,)
    except Exception:  # CuPy's own backend tells why it does not import
        return MAJORS


def places(name: Name, major: int) -> Iterator[str]:
    """Yield the paths at which to try to load a library, the last one a name for the system."""
    file = name.file(major)
    inside = (f"cu{major}/lib", f"cu{major}/bin/x86_64", f"{name.folder}/lib", f"{name.folder}/bin")
    for folder in wheels():
        for part in inside:
            if (path := folder / part / file).is_file():
                yield str(path)
    if found := pathfinder(name.stem):
        # It may be of another version: one that is loaded already goes first there.
        if Path(found).name.startswith(file):
            yield found
    yield file


def wheels() -> list[Path]:
    """Return the folders that NVIDIA's wheels share."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    folders = None if spec is None else spec.submodule_search_locations
    return [Path(folder) for folder in dict.fromkeys(folders or ())]


def pathfinder(stem: str) -> str:
    """Return where cuda-pathfinder, which CuPy installs, finds a library; "" where not."""
    try:
        from cuda import pathfinder  # type: ignore[import-not-found, unused-ignore]

        return pathfinder.load_nvidia_dynamic_lib(stem).abs_path or ""
    except Exception:  # its errors are several, and a name for the system is tried next
        return ""
