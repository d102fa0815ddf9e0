"""The report of a run: a table for the terminal, and a page with pictures."""

from __future__ import annotations

import textwrap
from pathlib import Path

from nnx.benchmarks import figures
from nnx.benchmarks.figures import Results

COLUMNS = 80
GAP, HEADER = 2, 9
"""The space before a column, and the letters of its name at most."""
LABEL = 28
"""A longer name of a case stands on a line of its own."""
LISTED = 3
"""So many cases are named beside a reason that holds for several."""

Row = list[str]


def text(results: Results) -> str:
    """Return the figures as plain text of at most 80 columns."""
    parts = [_head(results)]
    parts += [_suite(name, cases) for name, cases in figures.suites_of(results).items()]
    parts.append(_notes(results, parts))
    return "\n\n".join(part for part in parts if part)


def write(results: Results, folder: Path) -> Path:
    """Write report.html and its pictures into a folder; return the path of the page."""
    from nnx.benchmarks import page, pictures

    drawn = pictures.draw(results)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        (folder / f"{picture.name}.svg").write_text(pictures.standalone(picture), encoding="utf-8")
        (folder / f"{picture.name}.png").write_bytes(picture.png)
    path = folder / "report.html"
    path.write_text(page.html(results, drawn), encoding="utf-8")
    return path


def _wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(
        figures.plain(line), COLUMNS, subsequent_indent=indent, break_on_hyphens=False
    )


def _head(results: Results) -> str:
    lines = [figures.machine_text(results), figures.rates_text(results)]
    return "\n".join(map(_wrapped, [*lines, *figures.runs_text(results)]))


# A suite


def _suite(name: str, cases: list[Results]) -> str:
    """Return the table of a suite: as many as the columns need, one below the other."""
    names = figures.names_of(cases)
    rows = [row for case in cases for row in _rows(case, names)]
    header = ["", *map(_short, names)]
    label = max((len(row[0]) for row in rows if len(row[0]) <= LABEL), default=LABEL)
    widths = [max(map(len, column)) + GAP for column in list(zip(header, *rows, strict=True))[1:]]
    title = _wrapped(f"{name}: the median time of a call, and how many times the reference's it is")
    tables = []
    for first, last in _split(widths, COLUMNS - label):
        chosen = [[row[0], *row[1 + first : 1 + last]] for row in [header, *rows]]
        tables.append("\n".join(_line(row, label, widths[first:last]) for row in chosen))
    return "\n".join([title, "\n\n".join(tables)])


def _short(name: str) -> str:
    return figures.short_name(name)[:HEADER]


def _rows(case: Results, names: list[str]) -> list[Row]:
    """Return the lines of a case: times, ratios to the reference, shares of the floor's speed."""
    found = [case["contestants"].get(name, {}) for name in names]
    times = [_time(report) for report in found]
    rows = [[figures.plain(case["name"]), *times]]
    if any("over" in report for report in found):
        rows.append([f"  over {_short(case['reference'])}", *map(_ratio, found)])
    if "floor_us" in case:
        floor = figures.time_text(case["floor_us"])
        rows.append([f"  of the floor, {floor}", *map(_share, found)])
    return rows


def _time(report: Results) -> str:
    if "us" in report:
        return figures.wide_mark(report["us"]) + figures.time_text(report["us"]["median"], "")
    return figures.STATUS.get(report.get("status", ""), "")


def _ratio(report: Results) -> str:
    if "over" not in report:
        return ""
    over = report["over"]
    return f"{figures.wide_mark(over)}{figures.three_figures(over['median'])}x"


def _share(report: Results) -> str:
    return figures.share_text(report["floor_share"]) if "floor_share" in report else ""


def _split(widths: list[int], room: int) -> list[tuple[int, int]]:
    """Return ranges of columns that fit beside the labels, about as many in each."""
    n_tables = 1
    if not widths:
        return []
    while True:
        step = -(-len(widths) // n_tables)
        ranges = [(i, min(i + step, len(widths))) for i in range(0, len(widths), step)]
        if step == 1 or all(sum(widths[first:last]) <= room for first, last in ranges):
            return ranges
        n_tables += 1


def _line(row: Row, label: int, widths: list[int]) -> str:
    name, cells = row[0], [f"{cell:>{n}}" for cell, n in zip(row[1:], widths, strict=True)]
    above = ""
    if len(name) > label:
        above, name = _wrapped(name, "  ") + "\n", ""
    return above + f"{name:{label}}{''.join(cells)}".rstrip()


# What has to be known of the figures


def _notes(results: Results, tables: list[str]) -> str:
    notes = []
    if any("~" in table for table in tables[1:]):
        notes.append(
            f"~ the quartiles lie further apart than {figures.WIDE:.0%} of the median: "
            "the figure is uncertain."
        )
    if any("floor_us" in case for case in results["cases"]):
        notes.append(
            "The floor is the time that FLOPs and bytes take at this machine's rates; "
            "below it stands what share of that speed was reached."
        )
    for name, status, reason, where in figures.missing(results):
        cases = "; ".join(where[:LISTED]) + f"; {len(where) - LISTED} more" * (len(where) > LISTED)
        aside = "" if status == "unavailable" else f" ({cases})"
        notes.append(f"{name}: {status}{aside}: {reason}")
    return "\n".join(_wrapped(note, "  ") for note in notes)
