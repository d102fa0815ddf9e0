"""Running the command line for tests: in a process, on a terminal, on files of their own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

NNX = [sys.executable, "-c", "import sys; from nnx.cli import main; sys.exit(main())"]
QUICK = ["--device", "numpy", "--epochs", "2"]


def on_terminal(words, **env):
    """Run a command on a terminal of 80 columns; return its status and what it wrote there."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", **env}
    child = subprocess.Popen([*NNX, *words], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    # Linux ends a terminal that nobody holds any more with an error.
    while chunk := _read(master):
        written += chunk
    os.close(master)
    return child.wait(timeout=60), written.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def pairs(out):
    """Return the keys and values that a command printed into a pipe."""
    return dict(line.split("\t") for line in out.splitlines())


def write_csv(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def prices(n_rows=60, shift=0.0):
    """Return rows of area, year and a price that is linear in both, of very different scales."""
    rng = np.random.default_rng(5)
    area, year = rng.uniform(40, 200, n_rows), rng.integers(1950, 2020, n_rows)
    return [
        (f"{a:.1f}", y, round(2000 * a + 500 * (y - 1950) + shift))
        for a, y in zip(area, year, strict=True)
    ]
