"""How long `nnx train` takes from the start of its process to the end of its first step.

    python -m nnx.benchmarks.gpu_first_step ARGUMENTS OF nnx

This process is the command itself, which stops after the first step of `fit` with its loss in hand
and prints the system's monotonic clock; who started it knows when.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARK = "first step ended at"


class FirstStepError(Exception):
    """The command ended before its first step; the text is what it said last."""


def seconds(arguments: Sequence[str], data: Path | None, limit_s: float) -> float:
    """Return the seconds of a fresh process. Raises: FirstStepError."""
    environment = dict(os.environ) | ({"NNX_DATA_DIR": str(data)} if data else {})
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        try:
            result = subprocess.run(
                [sys.executable, "-m", "nnx.benchmarks.gpu_first_step", *arguments,
                 "--out", str(Path(folder) / "run")],
                env=environment, capture_output=True, text=True, timeout=limit_s,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise FirstStepError(f"no first step within {limit_s:.0f} s") from None
    for line in result.stdout.splitlines():
        if line.startswith(MARK):
            return float(line.removeprefix(MARK)) - start
    said = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    raise FirstStepError(" ".join(said[-2:])[:300] if said else f"exit status {result.returncode}")


def main(arguments: list[str]) -> int:
    """Run the command up to the end of its first step."""
    from nnx import cli
    from nnx.loop import Loop

    one = Loop._one

    def first(*given: Any) -> None:
        one(*given)
        print(MARK, repr(time.monotonic()), flush=True)
        os._exit(0)

    Loop._one = first  # type: ignore[assignment, method-assign, unused-ignore]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
