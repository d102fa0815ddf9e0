"""A run of the suite: which suites by which contestants, their figures, and the file of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any

from nnx.benchmarks import harness, machine, rates
from nnx.benchmarks.case import ALIASES, DEVICES, PEERS, UNCHECKED, WITH_LOOPS, Case
from nnx.benchmarks.contestants import PRODUCTS

SUITES = {
    "ops": "nnx.benchmarks.ops",
    "dense": "nnx.benchmarks.dense",
    "train": "nnx.benchmarks.train",
    "overhead": "nnx.benchmarks.overhead",
    "compile": "nnx.benchmarks.compile_time",
    "crossover": "nnx.benchmarks.crossover",
}
SCHEMA = "nnx-bench/1"
SLOW_PEERS = ("torch-compile",)
"""Peers that take part only if they are named: they compile for many seconds a case."""

Results = dict[str, Any]


def default_peers(quick: bool) -> list[str]:
    """Return the peers that take part if none is named: those on the CPU that are installed.

    In a quick run only NumPy by hand: others take seconds to load and hundreds of megabytes.
    """
    if quick:
        return ["numpy-by-hand"]
    return [
        name
        for name, library in PEERS.items()
        if name not in SLOW_PEERS and not name.endswith("-cuda") and util.find_spec(library)
    ]


def contestants(devices: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Return all names that may take part, in the order of the tables.

    With loops comes the textbook's loop; with a GPU, the peers that are named on the same GPU.
    """
    import nnx

    usable = {info.name for info in nnx.devices() if info.available}
    peers = [ALIASES.get(name, name) for name in peers]
    on_gpu = [f"{name}-cuda" for name in peers if f"{name}-cuda" in PEERS]
    first = [WITH_LOOPS] if "loops" in devices else []
    gpu = on_gpu if "cupy" in devices and "cupy" in usable else []
    return [*first, *devices, *dict.fromkeys([*peers, *gpu]), PRODUCTS]


def chosen(
    suites: Sequence[str], quick: bool, names: Sequence[str] | None = None
) -> list[tuple[str, list[Case]]]:
    """Return the modules of suites, each with its cases; with names, those that have one of them.

    What no contestant but the products could do is no case.
    """
    found = []
    for name in suites:
        cases = [c for c in import_module(SUITES[name]).CASES if c.quick or not quick]
        if names is not None:
            able = set(names).difference(UNCHECKED)
            cases = [case for case in cases if able.intersection(case.contestants)]
        if cases:
            found.append((SUITES[name], cases))
    return found


def run(
    suites: Sequence[str],
    devices: Sequence[str] = DEVICES,
    peers: Sequence[str] | None = None,
    quick: bool = False,
    settings: harness.Settings | None = None,
    on_start: Callable[[int], object] = lambda n_turns: None,
    on_turn: Callable[[str], object] = lambda name: None,
) -> Results:
    """Measure suites and return the results, as they are written into the file.

    ``on_start`` is given the number of rounds of all cases, and ``on_turn`` after each the name of
    its case.
    """
    settings = settings or (harness.QUICK if quick else harness.Settings())
    peers = default_peers(quick) if peers is None else peers
    names = contestants(devices, peers)
    plan = chosen(suites, quick, names)
    on_start(settings.rounds * sum(len(cases) for _, cases in plan))
    results: Results = {
        "schema": SCHEMA,
        "machine": machine.describe(),
        "settings": {
            "suites": list(suites), "devices": list(devices), "peers": list(peers),
            "quick": quick, **settings._asdict(),
        },
        "rates": rates.measured(quick),
        "unavailable": harness.absent(names),
        "cases": [],
    }  # fmt: skip
    for module, cases in plan:
        results["cases"] += harness.measure(
            module, cases, names, settings, lambda case: on_turn(f"{case.suite}: {case.name}")
        )
    results["rates"] = rates.best(results["rates"], rates.measured(quick))
    for case in results["cases"]:
        _set_beside_floor(case, results["rates"])
    return results


def _set_beside_floor(case: Results, found: rates.Rates) -> None:
    """Add the floor of a case, and what share of its speed each contestant on the CPU reaches."""
    if not case["flops"] or case["suite"] not in ("dense", "train", "crossover"):
        return
    case["floor_us"] = rates.floor_us(found, case["flops"], case["bytes"])
    for name, report in case["contestants"].items():
        if "us" in report and not name.endswith(("cuda", "cupy")) and name != PRODUCTS:
            report["floor_share"] = case["floor_us"] / report["us"]["median"]


def write(results: Results, path: Path) -> None:
    """Write the file of results."""
    path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """Return the results of a file. Raises: ValueError for one that is none."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ValueError(f"{path} has no results of `nnx bench` ({SCHEMA}).")
    return results
