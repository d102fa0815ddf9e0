"""Where the microseconds of a compiled step go: each product, each nest of loops, and the call.

    python -m nnx.benchmarks.parts [CELL] [--out]

The parts are the kernels of `nnx.profile`. Beside what is measured stands what each should take: a
product its multiply-adds at GEMM_GFLOPS, a nest the bytes that it reads and writes at CACHE_GBS and
its functions at what one costs in a vector. The rates are those of one core of the machine that the
figures are from.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from nnx.benchmarks import contestants, machine
from nnx.benchmarks.contestants import make_step
from nnx.benchmarks.problems import CELLS, Cell
from nnx.benchmarks.worker import block_s
from nnx.kernels.text import Kernel
from nnx.profile_native import Kernels, is_product, title_of

GEMM_GFLOPS = 110.0
CACHE_GBS = 64.0
FUNCTION_NS = {"exp(": 0.25, "log1p(": 0.5, "tanh(": 0.35, "divide(": 0.15, "sqrt(": 0.15}
PYTHON_STEPS, PYTHON_STEP_NS = 100, 40.0
"""A call from Python is about so many steps of the interpreter."""
ROUNDS, CALLS = 25, 200
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


def predicted_us(kernel: Kernel, numbers: dict[str, int]) -> float:
    """Return what a kernel should take; ``numbers`` are those that its text names."""
    lines = "\n".join(kernel.lines).split("\n")
    if is_product(kernel):
        found = re.search(r"gemm\(\d, \d, (\w+), (\w+), (\w+),", lines[-1])
        assert found
        m, n, k = (numbers.get(size) or int(size) for size in found.groups())
        return 2e-3 * m * n * k / GEMM_GFLOPS
    trips, total = [(0, 1)], 0.0
    for text in lines:
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


def named_numbers(head: list[str], batch: int) -> dict[str, int]:
    """Return the sizes that the text of a step names."""
    numbers = {"B": batch}
    for text in head:
        given = re.match(r"    (k\d+) = \(?B(?: \* (\d+))?\)?$", text)
        if given:
            numbers[given[1]] = batch * int(given[2] or 1)
    return numbers


def measure(name: str) -> list[dict[str, Any]]:
    """Return the parts of a cell's step, each with predicted and measured microseconds."""
    cell = CELLS[name]
    step, batch, *_owners = make_step(cell)
    call_s = call_seconds(cell)
    for _ in range(2):  # the second makes what serves the next
        step(*batch)
    kernels = of_step(step, batch)
    times, native_s, _ = kernels.times_s()
    numbers = named_numbers(kernels.program.emitted.head, cell.batch)
    rows = [
        {"part": f"{title_of(kernel)} {kernels.shapes(kernel)}",
         "predicted_us": predicted_us(kernel, numbers), "measured_us": 1e6 * max(time_s, 0.0)}
        for kernel, time_s in zip(kernels.kernels, times, strict=True)
    ]  # fmt: skip
    told = sum(row["predicted_us"] for row in rows)
    return [
        *rows,
        {"part": "the whole native step", "predicted_us": told, "measured_us": 1e6 * native_s},
        {"part": "the call from Python, with the loss as a number",
         "predicted_us": PYTHON_STEPS * PYTHON_STEP_NS * 1e-3,
         "measured_us": 1e6 * (call_s - native_s)},
    ]  # fmt: skip


def call_seconds(cell: Cell) -> float:
    """Return the seconds of a call with the loss as a number, the median of blocks.

    Each block starts from the first weights: the kernels are measured there, too, and long training
    slows the step.
    """
    case = contestants.case("parts", cell, ("numba",), "numba")
    work = contestants.variants(case, "numba")["numba"]()
    blocks = [block_s(work, CALLS, slow=False) / CALLS for _ in range(ROUNDS)]
    return statistics.median(blocks)


def of_step(step: Any, batch: list[Any]) -> Kernels:
    """Return the kernels of a compiled step that was called with this batch."""
    native = step.repeat.native
    arrays = [getattr(x, "array", x) for x in native.entry.inputs(batch)]
    return Kernels(native.program, arrays, step.repeat.env)


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
