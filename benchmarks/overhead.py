"""What nnx costs beside the arithmetic: an eager training step, and the import, as ratios.

    python -m benchmarks.overhead [--json FILE] [--check]

Each figure compares contestants that take turns within one run (A B A B), because these figures
are asked for on shared machines: what slows one down slows the other. The median over the rounds
is reported, with the quartiles; both contestants compute the same step from the same weights,
which is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# One thread: products this small do not gain from a second, and the figure is about overhead.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import nnx
from nnx import nn, optim

SIZES = (784, 16, 16, 10)
LEARNING_RATE = 0.01
LIMITS = {"eager step, batch 32": 2.2, "eager step, batch 1": 3.0, "import, ms over numpy": 60.0}
SLACK = 1.5
"""`--check` fails where a figure is worse than its limit by half: beyond any machine's noise."""


def by_hand(x, y, weights, biases):
    """Return the loss of one SGD step of the network, in plain NumPy; writes the weights."""
    z1 = x @ weights[0] + biases[0]
    a1 = np.maximum(z1, 0)
    z2 = a1 @ weights[1] + biases[1]
    a2 = np.maximum(z2, 0)
    z3 = a2 @ weights[2] + biases[2]
    z3 -= z3.max(axis=1, keepdims=True)
    e = np.exp(z3)
    p = e / e.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).mean()
    p[rows, y] -= 1
    d3 = p / len(y)
    d2 = (d3 @ weights[2].T) * (z2 > 0)
    d1 = (d2 @ weights[1].T) * (z1 > 0)
    grads = [x.T @ d1, a1.T @ d2, a2.T @ d3, d1.sum(axis=0), d2.sum(axis=0), d3.sum(axis=0)]
    for parameter, g in zip([*weights, *biases], grads, strict=True):
        parameter -= LEARNING_RATE * g
    return loss


def contestants(batch: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return the step by hand and the same step in nnx, from equal weights and data."""
    rng = np.random.default_rng(0)
    x = rng.random((batch, SIZES[0]), dtype=np.float32)
    y = rng.integers(0, SIZES[-1], batch)
    nnx.random.seed(0)
    layers = [nn.Dense(n, "relu") for n in SIZES[1:-1]]
    with nnx.device("numpy"):
        model = nn.Sequential(*layers, nn.Dense(SIZES[-1]))
        inputs, labels = nnx.asarray(x), nnx.asarray(y)
        model(inputs)
    state = [np.array(p.numpy()) for p in model.parameters()]
    weights, biases = state[0::2], state[1::2]
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(5):
        np.testing.assert_allclose(float(step()), by_hand(x, y, weights, biases), rtol=1e-4)
    return lambda: by_hand(x, y, weights, biases), step


def in_turns(functions: list[Callable], rounds: int, calls: int) -> list[list[float]]:
    """Return the microseconds a call of each function, one figure a round, in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, kept in zip(functions, times, strict=True):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            kept.append((time.perf_counter() - start) / calls * 1e6)
    return times


def _figure(name: str, values: list[float], shown: str) -> dict:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"name": name, "median": middle, "quartiles": [low, high], "detail": shown}


def measure_step(batch: int, rounds: int) -> dict:
    """Return the ratio of nnx's eager step to the step by hand."""
    hand, ours = in_turns(list(contestants(batch)), rounds, 100)
    ratios = [b / a for a, b in zip(hand, ours, strict=True)]
    shown = f"{statistics.median(ours):.0f} us against {statistics.median(hand):.0f} us by hand"
    return _figure(f"eager step, batch {batch}", ratios, shown)


def measure_import(rounds: int) -> dict:
    """Return the milliseconds that `import nnx` takes beyond `import numpy`, each in a process.

    Bytecode is written by the first, untimed import, as at any installation.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def seconds(statement: str) -> float:
        code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        return float(result.stdout)

    seconds("import numpy, nnx")
    extra = [1e3 * (seconds("import numpy, nnx") - seconds("import numpy")) for _ in range(rounds)]
    return _figure("import, ms over numpy", extra, "both in fresh processes")


def machine() -> dict:
    """Return what the figures depend on."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "nnx": nnx.__version__,
        "openblas_threads": os.environ["OPENBLAS_NUM_THREADS"],
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    """Measure, print, and compare with the limits if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures with the machine to a file")
    parser.add_argument("--check", action="store_true", help="fail where a limit is missed by half")
    options = parser.parse_args()
    figures = [measure_step(batch, options.rounds) for batch in (32, 1)]
    figures.append(measure_import(max(options.rounds // 4, 4)))
    failed = []
    for figure in figures:
        limit = LIMITS[figure["name"]]
        low, high = figure["quartiles"]
        print(
            f"{figure['name']:24} {figure['median']:6.2f}  (quartiles {low:.2f} to {high:.2f}; "
            f"at most {limit:g})  {figure['detail']}"
        )
        if figure["median"] > SLACK * limit:
            failed.append(figure["name"])
    if options.json:
        report = {"machine": machine(), "figures": figures, "limits": LIMITS}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.check and failed:
        print(f"worse than the limit by half: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
