"""The suites under pytest: `pytest benchmarks --benchmark-only`, one test a case and contestant."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from nnx.benchmarks import harness, machine
from nnx.benchmarks.case import UNCHECKED, Case, UnavailableError, difference, sampled
from nnx.benchmarks.suite import SUITES

FILES = {f"{module.rpartition('.')[2]}.py": module for module in SUITES.values()}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files that are no suites: they may import a peer that is not here."""
    return True if collection_path.suffix == ".py" and collection_path.name not in FILES else None


def pytest_collect_file(file_path: Path, parent: Any) -> Any:
    """Collect the suites, whose names are not those of tests."""
    if file_path.name in FILES and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of cases, for there are many."""
    group = parser.getgroup("nnx")
    group.addoption("--quick", action="store_true", help="the cases of `nnx bench --quick` only")
    group.addoption(
        "--looped", type=float, default=0.5, metavar="S",
        help="skip loops that would take more than S seconds a call (0.5)",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case and contestant of a suite's file."""
    if "work" not in metafunc.fixturenames:
        return
    module = FILES[Path(metafunc.module.__file__).name]
    quick = metafunc.config.getoption("--quick")
    pairs = [
        pytest.param((module, case, name), id=f"{case.name}, {name}")
        for case in import_module(module).CASES
        for name in case.contestants
        if case.quick or not quick
    ]
    metafunc.parametrize("work", pairs, indirect=True)


@pytest.fixture
def work(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Any]:
    """Make the work of a case by a contestant, warm it, and check what it computes."""
    module, case, name = request.param
    _skip_what_cannot_run(case, name, request.config.getoption("--looped"))
    suite = import_module(module)
    try:
        made = next(iter(suite.variants(case, name).values()))()
    except UnavailableError as error:
        pytest.skip(str(error))
    if name not in UNCHECKED:
        off = difference([sampled(a) for a in made.values()], suite.expected(case))
        assert off <= case.tolerance, f"{name} computes something else: off by {off:.1e}"
    benchmark.group = f"{case.suite}: {case.name}"
    benchmark.extra_info.update(
        suite=case.suite, case=case.name, contestant=name, flops=case.flops, bytes=case.n_bytes
    )
    with threadpool_limits(case.threads):
        yield made


def _skip_what_cannot_run(case: Case, name: str, looped_s: float) -> None:
    missing = harness.absent([name])
    if missing:
        pytest.skip(missing[name])
    if name in ("loops", "textbook") and harness.looped_guess_s(case, {}) > looped_s:
        pytest.skip(f"loops would take more than {looped_s:g} s a call")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    """Say in the file of results what the figures depend on."""
    machine_info["nnx"] = machine.describe()
