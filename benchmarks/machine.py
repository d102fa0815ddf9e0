"""What the figures of a run depend on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "nnx-array", "numpy", "numba", "llvmlite", "scipy-openblas32", "torch", "jax", "jaxlib",
    "cupy-cuda12x", "cupy-cuda13x",
)  # fmt: skip
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def describe() -> dict[str, Any]:
    """Return processor, GPU, the load before the run, versions, commit and settings of threads."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpu": gpus(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "threads": {name: os.environ.get(name, "default") for name in THREADS},
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(names, platform.processor())


def gpus() -> list[str]:
    """Return the names of the GPUs that nnx can use."""
    import nnx

    return [
        device.description
        for device in nnx.devices()
        if device.available and device.name.startswith("cupy")
    ]


def commit() -> str | None:
    """Return the commit of the source that runs, with a + where files differ; None without git."""
    folder = Path(__file__).parent
    try:
        found = [
            subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "--short=10", "HEAD"],
                          ["status", "--porcelain", "--untracked-files=no"])
        ]  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] + "+" * bool(found[1])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
