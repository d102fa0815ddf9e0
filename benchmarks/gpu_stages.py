"""What `python -m benchmarks.gpu` does on a GPU: each stage yields its rows as they are made.

A stage runs in a process of its own, which may be ended at any moment: what it has yielded is kept.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnx.benchmarks import gpu_elementwise, gpu_first_step, gpu_rates, gpu_steps, harness
from nnx.benchmarks.case import Case

ROOT = Path(__file__).parents[1]
TOOLS = ("memcheck", "racecheck", "initcheck")
SANITIZER = "compute-sanitizer"
SANITIZER_ERRORS = 86
"""The exit status that compute-sanitizer is asked for where it finds something."""
FOR_TURNS = 0.1
"""The share of a stage's time that is kept for turns: nobody gets ready in it."""
RUNS = 5
"""Of a fresh process, after one that fills caches."""

Row = dict[str, Any]


class Options(NamedTuple):
    """What a stage is told: where to write, how long it may take, and the rates found before it."""

    out: Path
    seconds: float
    quick: bool = False
    mnist: Path | None = None
    rates: Row | None = None


class Deadline:
    """The end of a stage's time. The last part of it is kept for what cannot be cut short."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()


# Tests

RISKY = ("test_cuda_gpu.py", "test_products_on_gpu.py", "test_cupy.py", "test_cupy_jit.py")
"""What would be wrong first goes first: where the time ends, the rest is left."""
QUICK_TESTS = "captured or replays or label_out_of_range"
NOT_COLLECTED = re.compile(r"^ERROR (\S+\.py)(?: - .*)?$", re.MULTILINE)
COLLECTED = re.compile(
    r"^(?:collecting .*)?collected (\d+) items?(?:.* / (\d+) selected)?", re.MULTILINE
)
RESULT = re.compile(r"^(\S+\.py::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


def tests(options: Options) -> Iterator[Row]:
    """Run the tests that are marked `gpu`, the risky ones first; in short, a few of those."""
    yield from _tests(options, "gpu and not slow", "tests.txt")


def slow_tests(options: Options) -> Iterator[Row]:
    """Run the long forms of tests that are marked `gpu`."""
    yield from _tests(options._replace(quick=False), "gpu and slow", "slow-tests.txt")


def _tests(options: Options, marks: str, name: str) -> Iterator[Row]:
    folder = ROOT / "tests"
    if not folder.is_dir():
        yield {"kind": "left out", "what": "tests", "reason": f"there is no {folder.name} beside "
               "the package: run this in a checkout"}  # fmt: skip
        return
    log = options.out / name
    chosen = ["-k", QUICK_TESTS] if options.quick else []
    command = [sys.executable, "-m", "pytest", "-m", marks, *chosen, "-v", "--tb=short", "-p",
               "no:cacheprovider", "--color=no", "--continue-on-collection-errors",
               *map(str, in_order(folder))]  # fmt: skip
    status = logged(command, log, options.seconds - 5, ROOT)
    yield tested(log.read_text(encoding="utf-8", errors="replace"), status, log.name)


def in_order(folder: Path) -> list[Path]:
    """Return the files of tests, the risky ones first.

    Each is named: pytest would leave out files that stand before the folder that they lie in.
    """
    found = sorted(folder.rglob("test_*.py"))
    rank = {name: i for i, name in enumerate(RISKY)}
    return sorted(found, key=lambda path: rank.get(path.name, len(RISKY)))


def logged(
    command: Sequence[str], log: Path, limit_s: float, folder: Path | None = None
) -> int | None:
    """Run a command with its output in a file; return its exit status, None if it was ended."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait(max(limit_s, 1))
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()


def tested(text: str, status: int | None, log: str) -> Row:
    """Return the row of a run of pytest, from what it printed of each test."""
    matches = [match for line in text.splitlines() if (match := RESULT.match(line))]
    found = {match[1]: match[2] for match in matches}
    counted = {
        word.lower(): sum(outcome == word for outcome in found.values())
        for word in ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")
    }
    row: Row = {"kind": "tests", **counted, "exit": status, "log": log}
    collected = COLLECTED.search(text)
    n = int(collected[2] or collected[1]) if collected else None
    row["not_run"] = None if n is None else max(n - len(found), 0)
    row["problems"] = [name for name, word in found.items() if word in ("FAILED", "ERROR")]
    row["problems"] += [f"not collected: {name}" for name in NOT_COLLECTED.findall(text)]
    if not found and status is not None:
        row["problems"].append(f"no test was run: {last_line(text)}")
    return row


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was printed"


# compute-sanitizer


def sanitizer_path() -> str | None:
    """Return where compute-sanitizer is: on the path, or in CUDA's folder."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home) / "bin") for home in homes if home] + ["/usr/local/cuda/bin"]
    return shutil.which(SANITIZER) or shutil.which(SANITIZER, path=os.pathsep.join(folders))


def sanitizer(
    options: Options,
    program: Sequence[str] = (sys.executable, "-m", "nnx.benchmarks.gpu_checked"),
) -> Iterator[Row]:
    """Run small steps under compute-sanitizer, one tool after the other while there is time."""
    path = sanitizer_path()
    if path is None:
        yield {"kind": "left out", "what": SANITIZER, "reason": "it is not installed: neither on "
               "the PATH nor in the folder of CUDA_HOME"}  # fmt: skip
        return
    deadline = Deadline(options.seconds)
    for tool in TOOLS[:1] if options.quick else TOOLS:
        if deadline.left_s() < 5:
            yield {"kind": "left out", "what": tool, "reason": "no time was left"}
            continue
        log = options.out / f"{tool}.txt"
        command = [path, "--tool", tool, f"--error-exitcode={SANITIZER_ERRORS}", *program]
        status = logged(command, log, deadline.left_s() - 2)
        yield sanitized(tool, log.read_text(encoding="utf-8", errors="replace"), status, log.name)


def sanitized(tool: str, text: str, status: int | None, log: str) -> Row:
    """Return the row of a tool, from what it printed."""
    row: Row = {"kind": "sanitizer", "tool": tool, "exit": status, "log": log}
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    if status is None:
        return row | {"status": "cut", "reason": "it did not end in its time"}
    if status == 0 and summary:
        return row | {"status": "ok", "errors": int(summary[-1])}
    if summary and int(summary[-1]):
        lines = [line.strip("= ") for line in text.splitlines() if line.startswith("=========")]
        named = (line for line in lines if re.match(r"Invalid|Error|Race|Uninit|Prog", line))
        first = next(named, lines[-1])
        return row | {"status": "ok", "errors": int(summary[-1]), "reason": first[:300]}
    return row | {"status": "failed", "reason": f"exit status {status}: {last_line(text)}"}


# Figures


def rates(options: Options) -> Iterator[Row]:
    """Measure what the GPU can do."""
    yield {"kind": "rates", **gpu_rates.measured(options.quick)}


def small(options: Options) -> Iterator[Row]:
    """Set small training steps beside the peers."""
    settings = harness.Settings(rounds=15, case_s=1.0, limit_s=30.0, open_s=120.0)
    if options.quick:
        settings = settings._replace(rounds=7, case_s=0.3)
    yield from cases("nnx.benchmarks.gpu_steps", gpu_steps.SMALL, options, settings)


def wide(options: Options) -> Iterator[Row]:
    """Set the step of a wide network beside its products alone, and the peers."""
    settings = harness.Settings(
        rounds=5 if options.quick else 9, length_s=0.1, limit_s=30.0,
        open_s=max(60.0, options.seconds / 2),
    )  # fmt: skip
    chosen = gpu_steps.LARGE
    if options.quick:  # the peers take longer to start than there is time
        chosen = tuple(c._replace(contestants=gpu_steps.QUICK_WIDE) for c in chosen)
    yield from cases("nnx.benchmarks.gpu_steps", chosen, options, settings)


def elementwise(options: Options) -> Iterator[Row]:
    """Set elementwise kernels beside copies."""
    settings = harness.Settings(rounds=7 if options.quick else 15, length_s=0.02, limit_s=60.0)
    yield from cases("nnx.benchmarks.gpu_elementwise", gpu_elementwise.CASES, options, settings)


def cases(
    module: str, chosen: Iterable[Case], options: Options, settings: harness.Settings
) -> Iterator[Row]:
    """Measure cases of a suite one by one; those for which no time is left are told."""
    # Else JAX takes most of the memory, where all contestants are.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    deadline = Deadline(options.seconds)
    chosen = [case for case in chosen if case.quick or not options.quick]
    names = list(dict.fromkeys(name for case in chosen for name in case.contestants))
    begun: list[Case] = []
    took_s: dict[bool, list[float]] = {True: [], False: []}

    def left_s() -> float:
        return deadline.left_s() - FOR_TURNS * options.seconds

    def in_time() -> Iterator[Case]:
        for case in chosen:
            # Of a cell one case compiles and the next does not.
            alike = took_s[any(_cell(case) == _cell(other) for other in begun)]
            if left_s() <= 0 or deadline.left_s() < 0.7 * max(alike[-2:], default=0.0):
                continue
            before = deadline.left_s()
            begun.append(case)
            yield case
            alike.append(before - deadline.left_s())

    for report in harness.measuring(module, in_time(), names, settings, left_s=left_s):
        yield {"kind": "case", **beside_floor(report, chosen, options.rates)}
    for case in chosen:
        if case not in begun:
            reason = f"no time was left of {options.seconds:.0f} s"
            yield {"kind": "left out", "what": case.name, "reason": reason}


def _cell(case: Case) -> Any:
    return getattr(case.problem, "cell", case.problem)


def beside_floor(report: Row, chosen: Sequence[Case], found: Row | None) -> Row:
    """Add the time predicted for a case, where rates were measured, and each share of it."""
    if not found or not report["bytes"]:
        return report
    cell = _cell(next(case for case in chosen if case.name == report["name"]))
    precision = getattr(cell, "precision", "highest")
    floor_us = gpu_rates.floor_us(
        found, precision, report["flops"], report["bytes"], report.get("launches", 1)
    )
    report["floor_us"] = floor_us
    for contestant in report["contestants"].values():
        if "us" in contestant:
            contestant["floor_share"] = floor_us / contestant["us"]["median"]
    return report


def first_step(options: Options) -> Iterator[Row]:
    """Time fresh processes of `nnx train mnist` up to the end of their first step."""
    if options.mnist is None:
        yield {"kind": "left out", "what": "first step of nnx train mnist",
               "reason": "no --mnist DIR was given"}  # fmt: skip
        return
    deadline = Deadline(options.seconds)
    command = ["train", "mnist", "--device", "cuda"]
    try:
        first_s = gpu_first_step.seconds(command, options.mnist, deadline.left_s() - 2)
        found: list[float] = []
        while len(found) < RUNS and deadline.left_s() > 2 * max([0.0, *found]) + 2:
            found.append(gpu_first_step.seconds(command, options.mnist, deadline.left_s() - 1))
    except gpu_first_step.FirstStepError as error:
        yield {"kind": "left out", "what": "first step of nnx train mnist", "reason": str(error)}
        return
    if not found:
        yield {"kind": "left out", "what": "first step of nnx train mnist, warm cache",
               "reason": f"no time was left after the first process, {first_s:.1f} s"}  # fmt: skip
        return
    yield {
        "kind": "first step", "command": "nnx " + " ".join(command), "runs": len(found),
        "first_s": first_s, "seconds": harness.quartiles(found),
    }  # fmt: skip
