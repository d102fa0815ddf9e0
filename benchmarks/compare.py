"""Comparing two files of results: what moved beyond the noise; failing where it got much worse.

    python benchmarks/compare.py OLD.json NEW.json [--threshold PERCENT]
    python benchmarks/compare.py OLD.json NEW.json --check [FACTOR] [--all]

A figure moved if the intervals between its quartiles do not overlap and its medians differ by more
than the threshold; a count has no noise, and any change of it is told. Ratios within one run and
counts are judged first: both hold on any machine. Times of two runs, and what follows from them,
are weak evidence on a shared machine, and none where the machine or a version is another.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nnx.benchmarks import suite
from nnx.benchmarks.suite import Results

THRESHOLD = 5.0
FACTOR = 1.5
"""`--check` fails where a figure is worse by half: beyond any machine's noise."""
ONCE = 0.25
"""A time or a ratio that was measured once is taken as sure to a quarter."""
WIDTH = 80
LISTED, RATIO, TIME = "listed", "ratio", "time"
"""What a figure is: one of ``figures``, a case's ratio to its reference, or a time of one run."""
ABSENT = "absent"


class Figure(NamedTuple):
    """A figure of a file. ``case`` and ``contestant`` are empty for those that belong to none."""

    name: str
    kind: str
    value: float
    low: float
    high: float
    better: str = "lower"
    unit: str = "ratio"
    case: str = ""
    contestant: str = ""

    @property
    def is_count(self) -> bool:
        """Whether it has no noise."""
        return self.kind == LISTED and self.low == self.high

    @property
    def text(self) -> str:
        """The value in its unit."""
        return shown(self.value, self.unit)

    @property
    def interval(self) -> tuple[float, float]:
        """Where it may as well have been."""
        if self.low == self.high and not self.is_count:
            return self.low * (1 - ONCE), self.high * (1 + ONCE)
        return self.low, self.high


class Pair(NamedTuple):
    """A figure that is in both files."""

    old: Figure
    new: Figure

    @property
    def is_count(self) -> bool:
        """Whether neither has noise."""
        return self.old.is_count and self.new.is_count

    @property
    def worsening(self) -> float:
        """How many times worse it became, above 1 for worse; anything is infinitely above 0."""
        old, new = self.old.value, self.new.value
        before, now = (old, new) if self.old.better == "lower" else (new, old)
        if before == now:
            return 1.0
        return now / before if before else math.inf

    @property
    def size(self) -> float:
        """How many times better or worse it became, whichever it is."""
        return max(self.worsening, 1 / self.worsening if self.worsening else math.inf)

    def moved(self, threshold: float) -> bool:
        """Return whether it moved beyond the noise, and by more than a share of it."""
        if self.is_count:
            return self.old.value != self.new.value
        (low, high), (new_low, new_high) = self.old.interval, self.new.interval
        return (new_low > high or new_high < low) and self.size > 1 + threshold

    def is_too_bad(self, factor: float) -> bool:
        """Return whether it is worse by more than a factor; a count may not even reach it."""
        return self.worsening > factor or (self.is_count and self.worsening >= factor)

    @property
    def word(self) -> str:
        """What happened to it."""
        if self.is_count:
            return "worse" if self.worsening > 1 else "better"
        return "slower" if self.worsening > 1 else "faster"


# Reading


class File(NamedTuple):
    """What is compared of a file: its figures by name, and the status of each contestant."""

    machine: dict[str, Any]
    figures: dict[tuple[str, str], Figure]
    cases: frozenset[str]
    status: dict[tuple[str, str], str]
    reasons: dict[tuple[str, str], str]

    def lacks(self, figures: Iterable[Figure]) -> list[str]:
        """Return the names of what another file's figures are of and this one has not.

        Of cases and contestants that are gone as a whole no single figure is named; nor is one
        that is not here for its contestant failed, which its status tells.
        """
        found = []
        for figure in figures:
            case, key = figure.case, (figure.case, figure.contestant)
            if case and case not in self.cases:
                found.append(case)
            elif case and key not in self.status:
                found.append(f"{case}, {figure.contestant}")
            elif self.status.get(key, "ok") == "ok":
                found.append(figure.name)
        return list(dict.fromkeys(found))


def read(path: Path) -> File:
    """Return a file's figures. Raises: ValueError, OSError for a file that has none."""
    results = suite.read(path)
    try:
        return _file(results)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged: {told}") from None


def _file(results: Results) -> File:
    figures: dict[tuple[str, str], Figure] = {}
    if "cases" not in results and "figures" not in results:
        raise ValueError("it has neither cases nor figures.")
    for figure in [*map(listed, results.get("figures", [])), *_of_cases(results)]:
        key = figure.name, figure.better
        if key in figures:
            raise ValueError(f"{figure.name!r} is in it twice.")
        numbers = (figure.value, figure.low, figure.high)
        if not all(map(math.isfinite, numbers)) or min(numbers) < 0 or figure.low > figure.high:
            raise ValueError(f"{figure.name!r} has the value {numbers[0]} and quartiles "
                             f"{numbers[1:]}.")  # fmt: skip
        figures[key] = figure
    cases, status, reasons = set(), {}, {}
    for case in results.get("cases", []):
        cases.add(_title(case))
        for name, report in case["contestants"].items():
            status[_title(case), name] = str(report["status"])
            reasons[_title(case), name] = str(report.get("reason", ""))
    return File(dict(results.get("machine", {})), figures, frozenset(cases), status, reasons)


def listed(entry: dict[str, Any]) -> Figure:
    """Return an entry of ``figures``. Raises: LookupError, TypeError, ValueError if it is none."""
    low, high = entry["quartiles"]
    if entry["better"] not in ("lower", "higher"):
        raise ValueError(f"{entry['name']!r} is better neither lower nor higher.")
    return Figure(str(entry["name"]), LISTED, float(entry["value"]), float(low), float(high),
                  entry["better"], str(entry.get("unit", "")))  # fmt: skip


def _title(case: dict[str, Any]) -> str:
    return f"{case['suite']}: {case['name']}"


def _of_cases(results: Results) -> Iterator[Figure]:
    """Yield the figures of all cases and contestants that were measured."""
    for case in results.get("cases", []):
        for name, report in case["contestants"].items():
            if report["status"] == "ok" and "us" in report:
                yield from _of_contestant(_title(case), name, report)


def _of_contestant(case: str, name: str, report: dict[str, Any]) -> Iterator[Figure]:
    def figure(label: str, kind: str, values: Iterable[float], unit: str) -> Figure:
        middle, low, high = values
        better = "higher" if unit == "share" else "lower"
        return Figure(f"{case}, {label}", kind, middle, low, high, better, unit, case, name)

    us, over = report["us"], report.get("over")
    middle, (low, high) = us["median"], us["quartiles"]
    if over and over["reference"] != name:
        ratios = over["median"], *over["quartiles"]
        yield figure(f"{name} over {over['reference']}", RATIO, ratios, "ratio")
    yield figure(name, TIME, (middle, low, high), "us")
    if "floor_share" in report:
        share = report["floor_share"]
        shares = share, share * middle / high, share * middle / low
        yield figure(f"{name}, share of the floor", TIME, shares, "share")
    first = {k: s for k, s in report.get("first_call_s", {}).items() if s is not None}
    for setting, time_s in first.items():
        label = f"{name}, first call" + (f" ({setting})" if len(first) > 1 else "")
        yield figure(label, TIME, [1e6 * time_s] * 3, "us")


# Comparing


class Comparison:
    """Two files side by side."""

    def __init__(self, old: File, new: File, threshold: float) -> None:
        self.old, self.new = old, new
        self.differences = differences(old.machine, new.machine)
        self.pairs = [Pair(f, new.figures[k]) for k, f in old.figures.items() if k in new.figures]
        self.judged = [p for p in self.pairs if p.old.kind != TIME or not self.differences]
        self.moved = sorted(
            (p for p in self.judged if p.moved(threshold)),
            key=lambda p: (p.worsening < 1, -p.size),
        )
        self.gone = [f for k, f in old.figures.items() if k not in new.figures]
        self.added = [f for k, f in new.figures.items() if k not in old.figures]

    def changed_status(self) -> list[str]:
        """Return a line for each contestant whose status is another; one that is gone has none."""
        lines = []
        for key, now in self.new.status.items():
            before = self.old.status.get(key, ABSENT)
            if before == now or (before == ABSENT and now not in ("crashed", "cut", "wrong")):
                continue
            reason = f" ({self.new.reasons[key]})" if self.new.reasons[key] else ""
            lines.append(f"{key[0]}, {key[1]}: {before} -> {now}{reason}")
        return lines

    def failures(self, factor: float, kinds: tuple[str, ...]) -> list[str]:
        """Return a line for each figure of some kinds that is too bad, or gone."""
        lines = []
        for pair in self.pairs:
            if pair.old.kind in kinds and pair.is_too_bad(factor):
                lines.append(f"{pair.old.name}: {pair.old.text} -> {pair.new.text}, "
                             f"limit {_limit(pair, factor)}")  # fmt: skip
        gone = (f for f in self.gone if f.kind in kinds)
        return lines + [f"{f.name}: {f.text} -> gone" for f in gone]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what of two machines makes their times another matter; not the version of nnx."""
    found = [f"{key} {old.get(key)} -> {new.get(key)}" for key in ("cpu", "cores", "gpu", "python")
             if old.get(key) != new.get(key)]  # fmt: skip
    for key in ("versions", "threads"):
        before, now = old.get(key) or {}, new.get(key) or {}
        found += [f"{name} {before[name]} -> {now[name]}" for name in before.keys() & now.keys()
                  if before[name] != now[name] and name != "nnx-array"]  # fmt: skip
    return found


def _limit(pair: Pair, factor: float) -> str:
    old = pair.old
    limit = shown(old.value * factor if old.better == "lower" else old.value / factor, old.unit)
    return f"{'below' if old.better == 'lower' else 'above'} {limit}" if pair.is_count else limit


# Printing: 80 columns


def shown(x: float, unit: str) -> str:
    """Return a value in its unit, in at most ten columns."""
    if unit == "us":
        scale, unit = (1, "us") if x < 1e4 else (1e-3, "ms") if x < 1e7 else (1e-6, "s")
        return f"{_digits(scale * x)} {unit}"
    if unit == "share":
        return f"{100 * x:.1f} %"
    return f"{x:,.0f}" if unit == "count" and x == int(x) and x < 1e8 else _digits(x)


def _digits(x: float) -> str:
    if x >= 999.5:
        return f"{x:.0f}" if x < 1e6 else f"{x:.3e}"
    return f"{x:#.3g}".rstrip(".")


def _change(pair: Pair) -> str:
    old, new = pair.old.value, pair.new.value
    if not old:
        return "from 0"
    return f"{100 * (new / old - 1):+.0f} %" if new < 10 * old else f"x {min(new / old, 1e6):.0f}"


def _wrapped(head: str, text: str) -> list[str]:
    """Return a text in lines of WIDTH, beside a head."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    ) or [head.rstrip()]  # fmt: skip


def _origin(word: str, machine: dict[str, Any]) -> list[str]:
    parts = [machine.get("date"), machine.get("commit")]
    if "cores" in machine:
        parts.append(f"{machine['cores']} cores of {machine.get('cpu')}")
    return _wrapped(f"{word:8}", ", ".join(str(part) for part in parts if part))


def lines(compared: Comparison) -> list[str]:
    """Return all that is to be said of two files."""
    found = [*_origin("before", compared.old.machine), *_origin("after", compared.new.machine)]
    if compared.differences:
        found += _wrapped(
            "", f"other machine: {'; '.join(compared.differences)}. Times are not judged: only "
            f"ratios and counts are.",
        )  # fmt: skip
    changes = compared.changed_status()
    for change in changes:
        found += _wrapped("status  ", change)
    for title, is_time in (
        ("ratios and counts", False),
        ("times of two runs, which are weak evidence", True),
    ):
        pairs = [p for p in compared.moved if (p.old.kind == TIME) == is_time]
        found += [title] if pairs else []
        for pair in pairs:
            head = (f"{pair.word:7}{_change(pair):>8} {pair.old.text:>10} {pair.new.text:>10}"
                    f"  ")  # fmt: skip
            found += _wrapped(head, pair.old.name)
    for word, figures, other in (
        ("gone", compared.gone, compared.new),
        ("new", compared.added, compared.old),
    ):
        for place in other.lacks(figures):
            found += _wrapped(f"{word:8}", place)
    return [*found, *_wrapped("", _summary(compared, len(changes)))]


def _summary(compared: Comparison, n_changes: int) -> str:
    words = Counter(pair.word for pair in compared.moved)
    words["gone"] = len(compared.new.lacks(compared.gone))
    words["new"] = len(compared.old.lacks(compared.added))
    words["of another status"] = n_changes
    said = [f"{n} {word}" for word, n in words.items() if n]
    n_still = len(compared.judged) - len(compared.moved)
    said.append(f"{n_still} figures within the noise" if n_still else "none within the noise")
    n_other = len(compared.pairs) - len(compared.judged)
    return ", ".join(said) + (f", {n_other} times not judged" if n_other else "")


# The program


def _factor(text: str) -> float:
    factor = float(text)
    if not 1 < factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no factor above 1")
    return factor


def _percent(text: str) -> float:
    percent = float(text)
    if not 0 <= percent < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no percentage of at least 0")
    return percent


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument(
        "--threshold", type=_percent, default=THRESHOLD, metavar="PERCENT",
        help=f"changes up to this are not told ({THRESHOLD:g})",
    )  # fmt: skip
    parser.add_argument(
        "--check", type=_factor, nargs="?", const=FACTOR, metavar="FACTOR",
        help=f"after the files: exit with 1 where a figure is worse by more ({FACTOR:g}), or gone",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="check the ratios of cases too")
    options = parser.parse_args(arguments)
    if options.all and options.check is None:
        parser.error("--all is for --check")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Compare and print; return 1 if a check fails, 2 if there is nothing to compare."""
    options = parse(arguments)
    kinds = (LISTED, RATIO) if options.all else (LISTED,)
    try:
        old, new = read(options.old), read(options.new)
        if options.check and not any(f.kind in kinds for f in old.figures.values()):
            raise ValueError(f"{options.old} has no figures to check.")
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    compared = Comparison(old, new, options.threshold / 100)
    print("\n".join(lines(compared)))
    failures = compared.failures(options.check, kinds) if options.check else []
    for failure in failures:
        print("\n".join(_wrapped("FAILED  ", failure)), file=sys.stderr)
    if options.check and not failures:
        print(f"no figure is worse by the factor {options.check:g}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
