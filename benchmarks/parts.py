"""Where the microseconds of a compiled step go: each product, each nest of loops, and the call.

    python -m benchmarks.parts [CELL] [--out]

Each part of the emitted text is compiled alone and run on the step's own memory, which is put back
before each timing. Beside it stands what it should take: a product its multiply-adds at
GEMM_GFLOPS, a nest the bytes that it reads and writes at CACHE_GBS and its functions at what one
costs in a vector. The rates are those of one core of the machine that the figures are from.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import timeit
from pathlib import Path
from typing import Any

from nnx.benchmarks import machine
from nnx.benchmarks.contestants import make_step
from nnx.benchmarks.problems import CELLS

GEMM_GFLOPS = 110.0
CACHE_GBS = 64.0
FUNCTION_NS = {"exp(": 0.25, "log1p(": 0.5, "tanh(": 0.35, "divide(": 0.15, "sqrt(": 0.15}
PYTHON_STEPS, PYTHON_STEP_NS = 100, 40.0
"""A call from Python is about so many steps of the interpreter."""
ROUNDS = 25
RESULTS = Path(__file__).with_name("results") / "parts.json"

Chunk = list[str]


def chunks(source: str) -> tuple[list[str], list[Chunk]]:
    """Return the lines before the body of ``step``, and the body in blocks of top-level lines."""
    lines = source.split("\n")
    start = next(i for i, text in enumerate(lines) if text.startswith("def step")) + 1
    found: list[Chunk] = []
    for text in filter(str.strip, lines[start:]):
        if text.startswith("     "):
            found[-1].append(text)
        else:
            found.append([text])
    return lines[:start], found


def kind_of(chunk: Chunk) -> str:
    """Return what a block is: a product, a nest of loops, or plain lines."""
    if any("gemm(" in text for text in chunk):
        return "product"
    return "nest" if chunk[0].strip().startswith("for ") else "plain"


def title_of(chunk: Chunk) -> str:
    """Return the ops of a block."""
    ops = re.findall(r"# %\d+: .+? = (\w+)\(", "\n".join(chunk))
    if kind_of(chunk) == "product":
        found = re.search(r"gemm\((.*?), [xyw]\d", chunk[-1])
        return f"product ({found[1]})" if found else "product"
    return ", ".join(dict.fromkeys(ops)) or "zeros"


def predicted_us(chunk: Chunk, numbers: dict[str, int]) -> float:
    """Return what a block should take."""
    if kind_of(chunk) == "product":
        found = re.search(r"gemm\(\d, \d, (\w+), (\w+), (\w+),", chunk[-1])
        assert found
        m, n, k = (numbers.get(size) or int(size) for size in found.groups())
        return 2e-3 * m * n * k / GEMM_GFLOPS
    trips, total = [(0, 1)], 0.0
    for text in chunk:
        depth = len(text) - len(text.lstrip())
        while trips and trips[-1][0] >= depth:
            trips.pop()
        around = trips[-1][1] if trips else 1
        loop = re.match(r"\s*for \w+ in range\((\w+)\)", text)
        if loop:
            trips.append((depth, around * (numbers.get(loop[1]) or int(loop[1]))))
            continue
        accesses = len(re.findall(r"\b[xyw]\d+\[", text))
        functions = sum(text.count(name) * ns for name, ns in FUNCTION_NS.items())
        total += around * (4 * accesses / CACHE_GBS + functions) * 1e-3
    return total


class Step:
    """A compiled step of a cell, its memory, and what to call it by."""

    def __init__(self, name: str) -> None:
        cell = CELLS[name]
        step, batch, *self._owners = make_step(cell)
        self.kept = [step(*batch) for _ in range(3)]
        self.call = lambda: float(step(*batch))
        repeat = step.repeat
        self.program, self.setting = repeat.native.program, repeat.setting
        self.batch = cell.batch
        self._saved = []
        for var, slot in zip(self.program.graph.inputs, repeat.slots_in, strict=True):
            count = 1
            for n in var.shape:
                count *= n if isinstance(n, int) else self.batch
            place, size = int(self.setting.table[slot]), count * var.dtype.itemsize
            self._saved.append((place, ctypes.string_at(place, size)))
        self._work = self.setting.work.copy()

    def restore(self) -> None:
        """Put the memory back."""
        for place, content in self._saved:
            ctypes.memmove(place, content, len(content))
        self.setting.work[...] = self._work

    def bind(self, text: str) -> Any:
        """Return a function that runs other text on this step's table."""
        from nnx.kernels import blas, cache

        return cache.load(text, blas.symbols()).bind(self.setting.table.ctypes.data)


def measure(name: str) -> list[dict[str, Any]]:
    """Return the parts of a cell's step, each with predicted and measured microseconds."""
    step = Step(name)
    head, found = chunks(step.program.source)
    plain = [chunk for chunk in found if kind_of(chunk) == "plain"]
    numbers: dict[str, int] = {"B": step.batch}
    for text in (line for chunk in found for line in chunk):
        given = re.match(r"    (k\d+) = \(?B(?: \* (\d+))?\)?$", text)
        if given:
            numbers[given[1]] = step.batch * int(given[2] or 1)
    runs: dict[str, Any] = {"empty": step.bind("def step(table):\n    return 0\n")}
    rows = []
    for i, chunk in enumerate(found):
        if kind_of(chunk) == "plain":
            continue
        mine = [c for c in found if c is chunk or c in plain]
        runs[str(i)] = step.bind("\n".join([*head, *(t for c in mine for t in c)]) + "\n")
        rows.append({"part": title_of(chunk), "key": str(i),
                     "predicted_us": predicted_us(chunk, numbers)})  # fmt: skip
    runs |= {"native": step.setting.run, "call": step.call}
    times = timed(runs, step)
    empty = times.pop("empty")
    for row in rows:
        row["measured_us"] = max(times[row.pop("key")] - empty, 0.0)
    native, call = times["native"], times["call"]
    told = sum(row["predicted_us"] for row in rows)
    return [
        *rows,
        {"part": "the whole native step", "predicted_us": told, "measured_us": native},
        {"part": "the call from Python, with the loss as a number",
         "predicted_us": PYTHON_STEPS * PYTHON_STEP_NS * 1e-3, "measured_us": call - native},
    ]  # fmt: skip


def timed(runs: dict[str, Any], step: Step) -> dict[str, float]:
    """Return the microseconds of each function, the median of the faster half of the rounds."""
    found: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            step.restore()
            run()
            found[key].append(1e6 * timeit.timeit(run, number=200) / 200)
    return {key: statistics.median(sorted(t)[: ROUNDS // 2]) for key, t in found.items()}


def main() -> None:
    """Measure, print a table, write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("cell", nargs="?", default="784-16-16-10/32/sgd", choices=list(CELLS))
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS)
    options = parser.parse_args()
    rows = measure(options.cell)
    print(f"| part of {options.cell} | predicted, us | measured, us |\n|---|---|---|")
    for row in rows:
        part = row["part"] if len(row["part"]) < 60 else row["part"][:57] + "..."
        print(f"| {part} | {row['predicted_us']:.2f} | {row['measured_us']:.2f} |")
    if options.out:
        report = {"machine": machine.describe(), "cell": options.cell, "parts": rows}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
