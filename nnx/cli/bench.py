"""`nnx bench`: choose and check what is measured, show it going on, print and write the results."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnx.cli.options import UsageError, one_of
from nnx.cli.output import note, print_json
from nnx.errors import DeviceError, did_you_mean

ALL = "all"


def words_of(given: str) -> list[str]:
    """Return the words of a list with commas, each once."""
    return list(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))


def _chosen(option: str, given: str | None, allowed: Iterable[str]) -> list[str] | None:
    """Return the words of a list, None where it is not given. Raises: UsageError."""
    if given is None:
        return None
    allowed = list(allowed)
    if given.strip() == "none":
        return []
    return [one_of(option, word, allowed) for word in words_of(given)]


def check_writable(folder: Path) -> None:
    """Raise UsageError unless files can be made in a folder, which may be a new one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to ({error.strerror}). Nothing was measured."
        ) from None


def check_json(json_file: str | None) -> None:
    """Raise UsageError unless the file of figures can be written; - is stdout."""
    if json_file in (None, "-"):
        return
    path = Path(str(json_file))
    if path.is_dir():
        raise UsageError(f"--json {path} is a directory: name a file. Nothing was measured.")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"--json {path} cannot be written to. Nothing was measured.")
    check_writable(path.absolute().parent)


def _check_devices(named: list[str]) -> None:
    """Raise DeviceError where all the devices that were named are not here."""
    import nnx

    known = {info.name: info for info in nnx.devices()}
    reasons = [f"{name}: {known[name].reason}" for name in named
               if not (name in known and known[name].available)]  # fmt: skip
    if named and len(reasons) == len(named):
        raise DeviceError(f"None of the devices named can be used here. {' '.join(reasons)}")


def bench(
    suite: str,
    *,
    devices: str | None,
    peers: str | None,
    quick: bool,
    rounds: int | None,
    report: str | None,
    json_file: str | None,
) -> None:
    """Check what was typed, measure, print a table, write what was asked for."""
    from nnx.benchmarks import harness
    from nnx.benchmarks import suite as suites
    from nnx.benchmarks.case import ALIASES, DEVICES, PEERS

    if suite not in (ALL, *suites.SUITES):
        hint = did_you_mean(suite, [ALL, *suites.SUITES])
        raise UsageError(f"There is no suite {suite!r}. {hint}")
    names = _chosen("--devices", devices, DEVICES)
    others = _chosen("--peers", peers, [*PEERS, *ALIASES])
    if names == [] and not others:
        raise UsageError("--devices none leaves nothing to measure but peers: name some.")
    _check_devices(names or [])
    if report is not None:
        check_writable(Path(report))
        _check_plots()
    check_json(json_file)
    settings = harness.QUICK if quick else harness.Settings()
    if rounds is not None:
        if rounds < 1:
            raise UsageError(f"--rounds is {rounds}: it takes a whole number of at least 1.")
        settings = settings._replace(rounds=rounds)
    chosen = list(suites.SUITES) if suite == ALL else [suite]
    taking_part = suites.contestants(
        DEVICES if names is None else names,
        suites.default_peers(quick) if others is None else others,
    )
    if not suites.chosen(chosen, quick, taking_part):
        raise UsageError(
            f"No case of {suite} can be done by what was named. Name devices, or another suite."
        )
    with _Progress() as progress:
        results = suites.run(
            chosen, DEVICES if names is None else names, others, quick, settings,
            progress.start, progress.turn,
        )  # fmt: skip
    _show(results, json_file, report)


def _check_plots() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError(
            'The pictures of --report need Matplotlib: python -m pip install "nnx-array[plot]"'
        )


def _show(results: dict[str, Any], json_file: str | None, report: str | None) -> None:
    from nnx.benchmarks import report as reports
    from nnx.benchmarks import suite as suites

    # Files first: a fault in showing them must not lose the figures.
    if json_file not in (None, "-"):
        suites.write(results, Path(str(json_file)))
        note(f"the figures are in {json_file}")
    if json_file == "-":
        print_json(results)
    else:
        print(reports.text(results))
    if report is not None:
        note(f"the report is {reports.write(results, Path(report))}")


class _Progress:
    """A bar on stderr; nothing where no one watches."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty() and "NNX_NO_PROGRESS" not in os.environ:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn(),
                TextColumn("{task.description}"), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
        return self

    def start(self, n_turns: int) -> None:
        """Show how much there is to do."""
        if self._bar is not None:
            self._task = self._bar.add_task("the rates of this machine", total=n_turns)

    def turn(self, name: str) -> None:
        """Go on by one round of a case."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=name)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
