"""Training steps: eager and under `nnx.jit`, beside NumPy by hand, PyTorch, JAX, and the products.

    python -m benchmarks.train [--cells 784-16-16-10/32 ...] [--peers torch,jax] [--out]
    python -m benchmarks.train --loop | --callbacks | --mnist [--data-dir DIR] [--out]

One step is forward, loss, backward and update, with the loss as a Python number at its end. Run as
a program it sets the compiled step beside the peers, at length, and says which limits are met;
``nnx bench train`` measures the same cases, on the devices that are named.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import util
from pathlib import Path
from typing import Any

from nnx.benchmarks import (
    contestants,
    epoch_callbacks,
    epoch_loop,
    harness,
    machine,
    mnist,
    problems,
)
from nnx.benchmarks.case import PEERS
from nnx.benchmarks.contestants import NAMES, PRODUCTS
from nnx.benchmarks.problems import CELLS, LEARNING_RATE, Cell

OURS = "numba"
QUICK = ("784-16-16-10/32/sgd", "4-20-10-3/16/adam")
CASES = tuple(
    contestants.case("train", cell, NAMES, OURS, quick=cell.name in QUICK)
    for cell in CELLS.values()
)


variants, expected = contestants.variants, contestants.expected


def test_step(benchmark: Any, work: Any) -> None:
    """Time a step under pytest-benchmark."""
    work.reset()
    benchmark(work.run)


# The limits

TIMES_NNX = {
    ("784-16-16-10/32", "torch"): 8.0,
    ("4-20-10-3/16", "torch"): 25.0,
    ("784-16-16-10/32", "numpy-by-hand"): 2.5,
    ("784-512-512-10/1024", PRODUCTS): 0.93,
}
"""How many times nnx's step a contestant's has to take at least; 1 where nothing is said."""
ADDED_US = 2.0
CALLBACKS_SHARE = 0.05
MNIST_S = 2.0
MNIST_ACCURACY = 0.94

RESULTS = Path("benchmarks/results/train.json")
SHORT = {"torch-compile": "compile", "numpy-by-hand": "by hand"}
Verdict = dict[str, Any]
Section = dict[str, Any]


def verdict(figure: str, measured: float, rule: str, limit: float) -> Verdict:
    """Return whether a figure keeps its limit; the rule is "at least" or "at most"."""
    met = measured >= limit if rule == "at least" else measured <= limit
    return {"figure": figure, "measured": measured, "rule": rule, "limit": limit, "met": met}


def step_verdicts(cell: Section) -> list[Verdict]:
    """Return the verdicts of a cell: named limits, and that no contestant is faster than nnx."""
    net = cell["name"].rpartition("/")[0]
    found = []
    for name, report in cell["contestants"].items():
        limit = TIMES_NNX.get((net, name), None if name in (OURS, PRODUCTS) else 1.0)
        if limit is not None and "over" in report:
            figure = f"{cell['name']}: {name} over {OURS}"
            found.append(verdict(figure, report["over"]["median"], "at least", limit))
    return found


def measure(cell: Cell, names: list[str], rounds: int, wait_s: float) -> Section:
    """Return the figures of a cell, in processes of its own. Raises: SystemExit for a wrong one."""
    case = next(case for case in CASES if case.problem is cell)
    settings = harness.Settings(rounds=rounds, wait_s=wait_s)
    report = harness.measure("nnx.benchmarks.train", [case], names, settings)[0]
    for name, found in report["contestants"].items():
        if found["status"] != "ok":
            raise SystemExit(f"{name} at {cell.name}: {found['status']}: {found['reason']}")
    return {**cell._asdict(), **report, "rounds": rounds}


# Printing: 80 columns


def _us(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def print_header(names: list[str]) -> None:
    """Print the columns' names."""
    print("us a step, and how many times nnx's step that is (medians over the rounds)")
    print(f"{'':24}" + "".join(f"{SHORT.get(name, name):>9}" for name in names), flush=True)


def print_cell(cell: Section) -> None:
    """Print the two lines of a cell."""
    found = cell["contestants"].values()
    print(f"{cell['name']:24}" + "".join(f"{_us(c['us']['median']):>9}" for c in found))
    ratios = [c["over"]["median"] if "over" in c else None for c in found]
    shown = "".join(f"{r:>8.2f}x" if r is not None else f"{'':9}" for r in ratios)
    print(f"{'':24}{shown}".rstrip(), flush=True)
    if cell["busy_turns"]:
        print(f"  {cell['busy_turns']} turns began on a busy machine", flush=True)


def print_seconds(row: Section) -> None:
    """Print a line of a whole program."""
    low, high = row["seconds"]["quartiles"]
    name = row["contestant"]
    accuracy = f", accuracy {row['accuracy']['median']:.4f}" if "accuracy" in row else ""
    median = row["seconds"]["median"]
    print(f"{name:20} {median:7.3f} s  (quartiles {low:.3f} to {high:.3f}){accuracy}", flush=True)


def print_verdicts(verdicts: list[Verdict]) -> None:
    """Print each limit, what was measured, and whether it was met in this run."""
    print("\nlimits")
    for v in verdicts:
        word = "met" if v["met"] else "MISSED"
        print(f"{v['figure']:45} {v['measured']:9.3f}  {v['rule']} {v['limit']:<6g} {word}")


# The modes


def run_steps(options: argparse.Namespace, peers: list[str]) -> Section:
    """Measure the chosen cells with all contestants."""
    names = [OURS, *peers, PRODUCTS]
    cells, verdicts = [], []
    chosen = problems.select(options.cells)
    print_header(names)
    for cell in chosen:
        cells.append(measure(cell, names, options.rounds or 40, options.wait))
        print_cell(cells[-1])
        verdicts += step_verdicts(cells[-1])
    return {"learning_rate": LEARNING_RATE, "cells": cells, "limits": verdicts}


def run_loop(options: argparse.Namespace) -> Section:
    """Measure what the loop of `fit` adds to a step."""
    rows = epoch_loop.measure(options.rounds or 15)
    for row in rows:
        low, high = row["added_us"]["quartiles"]
        median = row["added_us"]["median"]
        print(f"fit, {row['contestant']:15} {median:+6.2f} us beside a step of "
              f"{row['step_us']:.1f} (quartiles {low:+.2f} to {high:+.2f})")  # fmt: skip
    verdicts = [
        verdict(f"loop of fit, {row['contestant']}, us", row["added_us"]["median"], "at most",
                ADDED_US)
        for row in rows
    ]  # fmt: skip
    return {"rows": epoch_loop.ROWS, "figures": rows, "limits": verdicts}


def run_callbacks(options: argparse.Namespace) -> Section:
    """Measure what metrics and callbacks add to an epoch."""
    figures = epoch_callbacks.measure(options.rounds or 15)
    low, high = figures["added_share"]["quartiles"]
    median = figures["added_share"]["median"]
    print(f"accuracy, f1, CSVLogger, EarlyStopping: {median:+.1%} of an epoch of "
          f"{figures['epoch_ms']:.1f} ms (quartiles {low:+.1%} to {high:+.1%})")  # fmt: skip
    limit = verdict("callbacks, share of an epoch", median, "at most", CALLBACKS_SHARE)
    return {"figures": figures, "limits": [limit]}


def run_mnist(options: argparse.Namespace, peers: list[str]) -> Section:
    """Measure the whole program on MNIST."""
    names = ["nnx", *(p for p in peers if p in mnist.PROGRAMS)]
    rows = mnist.measure(names, options.rounds or 5, mnist.data_folder(options.data_dir))
    for row in rows:
        print_seconds(row)
    ours = rows[0]
    verdicts = [
        verdict("MNIST, seconds", ours["seconds"]["median"], "at most", MNIST_S),
        verdict("MNIST, accuracy", ours["accuracy"]["median"], "at least", MNIST_ACCURACY),
    ]
    return {"figures": rows, "limits": verdicts}


def write(path: Path, mode: str, section: Section) -> None:
    """Put a mode's section into a file; the sections of other modes stay."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report[mode] = section
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def chosen_peers(options: argparse.Namespace) -> list[str]:
    """Return the peers asked for, or those on the CPU that are installed."""
    cpu = [name for name in PEERS if not name.endswith("-cuda")]
    if options.peers is None:
        return [name for name in cpu if util.find_spec(PEERS[name])]
    peers = [name for name in options.peers.split(",") if name]
    if unknown := [name for name in peers if name not in cpu]:
        raise SystemExit(f"No peer is named {', '.join(unknown)}; there are {', '.join(cpu)}.")
    return peers


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--loop", action="store_true", help="what the loop of fit adds to a step")
    mode.add_argument("--callbacks", action="store_true", help="what callbacks add to an epoch")
    mode.add_argument("--mnist", action="store_true", help="a whole program on full MNIST")
    parser.add_argument("--cells", nargs="*", default=[], help="cells whose names start so")
    parser.add_argument("--peers", help=f"of {','.join(PEERS)}; default: those installed")
    parser.add_argument("--rounds", type=int, help="rounds of steps (40), or runs of processes (5)")
    parser.add_argument(
        "--wait", type=float, default=60, help="seconds a cell may wait for a quiet machine (60)"
    )
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST's four .gz files")
    parser.add_argument(
        "--out", type=Path, nargs="?", const=RESULTS, help=f"write a JSON file ({RESULTS})"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write if asked."""
    options = parse(arguments)
    before = machine.describe()
    if options.loop:
        mode, section = "loop", run_loop(options)
    elif options.callbacks:
        mode, section = "callbacks", run_callbacks(options)
    elif options.mnist:
        mode, section = "mnist", run_mnist(options, chosen_peers(options))
    else:
        mode, section = "steps", run_steps(options, chosen_peers(options))
    print_verdicts(section["limits"])
    if options.out:
        write(options.out, mode, {"machine": before, **section})
    return 0


if __name__ == "__main__":
    sys.exit(main())
