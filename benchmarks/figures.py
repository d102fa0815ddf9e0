"""What the results of a run say: figures as words, the best peer of a step, which device wins."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from nnx.benchmarks.case import DEVICES, UNCHECKED, WITH_LOOPS
from nnx.cli.output import bytes_text

Results = dict[str, Any]

OURS = (WITH_LOOPS, *DEVICES)
"""What is no peer: the devices of nnx and the textbook's loop, from the slowest on."""
SHORT = {
    "numpy-by-hand": "by hand",
    "torch-compile": "t.compile",
    "torch-cuda": "t.cuda",
    "torch-compile-cuda": "tc.cuda",
    "jax-cuda": "j.cuda",
}
"""The names of contestants that are long, as they stand over a column."""
TITLES = {
    "ops": "Single operations",
    "dense": "One dense layer",
    "train": "Training steps",
    "overhead": "What nnx costs beside the arithmetic",
    "compile": "The first call of a compiled step",
    "crossover": "Training steps by width and batch",
}
"""The names of suites, as headings."""
STATUS = {
    "unavailable": "absent", "not run": "not run", "cut": "cut", "wrong": "wrong",
    "crashed": "crashed",
}  # fmt: skip
"""What stands in place of a time."""
WIDE = 0.2
"""Quartiles further apart than this share of the median mark a figure as uncertain."""
BUSY = 0.5
"""A machine whose load before the run is more than this share of its cores was busy."""
UNITS = ((1e6, "s"), (1e3, "ms"), (1.0, "us"), (1e-3, "ns"))


def plain(text: object) -> str:
    """Return text on one line, without the characters by which a terminal is told to do things.

    >>> plain("a\\tb\\x1b[31m")
    'a b [31m'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def short_name(name: str) -> str:
    """Return the name of a contestant as it stands over a column or beside a marker.

    >>> short_name("torch-compile")
    't.compile'
    """
    return plain(SHORT.get(name, name))


def three_figures(value: float) -> str:
    """Return a number with three figures, without an exponent.

    >>> [three_figures(x) for x in (0.01234, 1.2, 9.999, 999.6, 123456)]
    ['0.0123', '1.20', '10.0', '1000', '123000']
    """
    rounded = float(f"{value:.2e}")
    if rounded == 0:
        return "0"
    return f"{rounded:.{max(2 - math.floor(math.log10(abs(rounded))), 0)}f}"


def time_text(us: float, gap: str = " ") -> str:
    """Return microseconds in the unit that fits.

    >>> time_text(0.5), time_text(12.345), time_text(999_600, gap="")
    ('500 ns', '12.3 us', '1.00s')
    """
    rounded = float(f"{us:.2e}")
    size, unit = next((u for u in UNITS if rounded >= u[0]), UNITS[-1])
    return f"{three_figures(rounded / size)}{gap}{unit}"


def share_text(share: float) -> str:
    """Return a share in percent; none that is there is shown as nothing.

    >>> share_text(0.5), share_text(0.001)
    ('50%', '<1%')
    """
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def tick_text(us: float) -> str:
    """Return a time at a tick of an axis, without figures that say nothing.

    >>> tick_text(10000)
    '10 ms'
    """
    return re.sub(r"\.?0+(?= )", "", time_text(us)) if "." in time_text(us) else time_text(us)


def size_text(size_bytes: float) -> str:
    """Return a size in bytes in the unit that fits.

    >>> size_text(16384)
    '16 KiB'
    """
    return bytes_text(round(size_bytes)).replace(".0 ", " ")


def is_wide(spread: Results) -> bool:
    """Return whether the quartiles of a figure lie too far apart to rely on its digits."""
    low, high = spread["quartiles"]
    return bool(high - low > WIDE * spread["median"])


def wide_mark(spread: Results) -> str:
    """Return the mark of a figure whose quartiles lie far apart, else nothing."""
    return "~" if is_wide(spread) else ""


def names_of(cases: list[Results]) -> list[str]:
    """Return the contestants of cases, in the order in which the cases have them."""
    return list(dict.fromkeys(name for case in cases for name in case["contestants"]))


def suites_of(results: Results) -> dict[str, list[Results]]:
    """Return the cases by suite."""
    suites: dict[str, list[Results]] = {}
    for case in results["cases"]:
        suites.setdefault(case["suite"], []).append(case)
    return suites


def timed(case: Results) -> dict[str, Results]:
    """Return the contestants of a case that have times."""
    return {name: found for name, found in case["contestants"].items() if "us" in found}


def machine_text(results: Results) -> str:
    """Return the machine and the day of a run in a line."""
    machine = results["machine"]
    cores = machine["cores"]
    parts = [machine["cpu"] or "unknown processor", f"{cores} core{'s' * (cores != 1)}"]
    return ", ".join(map(plain, [*parts, *machine["gpu"], machine["date"]]))


def rates_text(results: Results) -> str:
    """Return the rates of the machine in a sentence."""
    rates = results["rates"]
    products = [f"{three_figures(rate)} on {name}" for name, rate in rates["products"].items()]
    memory = [f"{three_figures(rate)} at {size_text(size)}" for size, rate in rates["memory"]]
    return f"Products: {', '.join(products)}, GFLOP/s. Memory: {', '.join(memory)}, GB/s."


def runs_text(results: Results) -> list[str]:
    """Return what a reader has to know of how the run went: too short, or on a busy machine."""
    found = []
    if results["settings"]["quick"]:
        found.append("A quick run: few and short rounds, so the figures are rough.")
    load, cores = results["machine"]["load"], results["machine"]["cores"]
    if load and cores and load[0] > BUSY * cores:
        found.append(
            f"The machine was busy before the run, with a load of {load[0]:g} on {cores} cores: "
            "rates and floors may be wrong too."
        )
    if busy := sum(case["busy_turns"] for case in results["cases"]):
        found.append(f"{busy} turns began on a busy machine: repeat the run on a quiet one.")
    return found


def missing(results: Results) -> list[tuple[str, str, str, list[str]]]:
    """Return each contestant's status in place of times, why, and in which cases.

    Reasons that differ in their numbers alone are one, with the first one's numbers.
    """
    found: dict[tuple[str, str, str], tuple[str, list[str]]] = {}
    for case in results["cases"]:
        for name, report in case["contestants"].items():
            if "us" not in report:
                status, reason = report["status"], plain(report.get("reason", ""))
                alike = re.sub(r"\d[\d.e+-]*", "#", reason) if status == "not run" else reason
                first = found.setdefault((name, status, alike), (reason, []))
                first[1].append(f"{case['suite']}: {case['name']}")
    return [(name, status, reason, where) for (name, status, _), (reason, where) in found.items()]


# Training steps


def best_peer(case: Results) -> str | None:
    """Return the fastest contestant that is neither nnx nor a floor; None where there is none."""
    peers = {n: f for n, f in timed(case).items() if n not in OURS and n not in UNCHECKED}
    return min(peers, key=lambda name: float(peers[name]["us"]["median"]), default=None)


def to_best_peer(case: Results) -> dict[str, Results]:
    """Return the median and the quartiles of each contestant's times, the best peer's being 1."""
    peer = best_peer(case)
    if peer is None:
        return {}
    one = timed(case)[peer]["us"]["median"]
    return {
        name: {
            "median": found["us"]["median"] / one,
            "quartiles": [time_us / one for time_us in found["us"]["quartiles"]],
        }
        for name, found in timed(case).items()
    }


def raced(results: Results) -> list[Results]:
    """Return the training steps in which a peer took part."""
    return [case for case in results["cases"] if case["suite"] == "train" and best_peer(case)]


# Widths and batches

Grid = dict[tuple[int, int], dict[str, Results]]


def crossover(results: Results) -> Grid:
    """Return the times of devices by width and batch."""
    grid = {}
    for case in results["cases"]:
        sizes = re.fullmatch(r"width (\d+), batch (\d+)", case["name"])
        if case["suite"] == "crossover" and sizes and timed(case):
            grid[int(sizes[1]), int(sizes[2])] = {n: f["us"] for n, f in timed(case).items()}
    return dict(sorted(grid.items()))


class Win(NamedTuple):
    """The fastest device, how many times the second takes, and if their quartiles overlap."""

    name: str
    factor: float | None
    is_close: bool


def winner(times: dict[str, Results]) -> Win:
    """Return which device wins; without a factor where it was alone."""
    first, *others = sorted(times, key=lambda name: float(times[name]["median"]))
    if not others:
        return Win(first, None, False)
    ours, second = times[first], times[others[0]]
    is_close = ours["quartiles"][1] >= second["quartiles"][0]
    return Win(first, second["median"] / ours["median"], is_close)


def wins_text(grid: Grid) -> list[str]:
    """Return a sentence for each batch: which device wins at which widths."""
    sentences = []
    for batch in sorted({batch for _, batch in grid}):
        row = [(width, winner(times).name) for (width, b), times in grid.items() if b == batch]
        runs: list[list[tuple[int, str]]] = []
        for width, name in row:
            if runs and runs[-1][-1][1] == name:
                runs[-1].append((width, name))
            else:
                runs.append([(width, name)])
        parts = [f"{run[0][1]} {_where(run, len(runs), run is runs[-1])}" for run in runs]
        sentences.append(f"At batch {batch}, {', '.join(parts)}.")
    return sentences


def _where(run: list[tuple[int, str]], n_runs: int, is_last: bool) -> str:
    first, last = run[0][0], run[-1][0]
    if n_runs == 1:
        return "wins at every width measured"
    if is_last:
        return f"wins from width {first} on"
    return f"wins at width {first}" if first == last else f"wins from width {first} to {last}"


# Roofs


class Kernel(NamedTuple):
    """A case on a device, by FLOPs a byte and the GFLOP/s that were reached."""

    suite: str
    group: str
    case: str
    device: str
    intensity: float
    gflops: float


def gflops(case: Results, found: Results) -> float | None:
    """Return the GFLOP/s that a contestant reached; None where the FLOPs are not known."""
    return 1e-3 * case["flops"] / found["us"]["median"] if case["flops"] else None


def kernels(results: Results) -> list[Kernel]:
    """Return all cases with known FLOPs and bytes, on the devices that ran them."""
    return [
        Kernel(case["suite"], case["group"], case["name"], name,
               case["flops"] / case["bytes"], 1e-3 * case["flops"] / found["us"]["median"])
        for case in results["cases"]
        for name, found in timed(case).items()
        if case["flops"] and case["bytes"] and name in OURS
    ]  # fmt: skip
