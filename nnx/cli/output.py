"""What the commands print: data on stdout, for people or for programs; messages on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """One result: its key and value for programs, its label and text for people.

    One without a label is told to programs alone.
    """

    key: str
    value: Any
    label: str
    text: str


def note(text: str) -> None:
    """Print a message on stderr."""
    print(f"nnx: {text}", file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Return whether a person reads stdout."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print one JSON document; NaN, which JSON lacks, becomes null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def print_figures(figures: Sequence[Figure], *, as_json: bool, title: str = "") -> None:
    """Print results: a JSON object, a table on a terminal, or a key, a tab and a value a line."""
    if as_json:
        print_json({figure.key: figure.value for figure in figures})
    elif on_terminal():
        _print_rich(None, [(label, text) for _, _, label, text in figures if label], title)
    else:
        _print_tabs((figure.key, figure.value) for figure in figures)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table: drawn on a terminal, else one line of names and tabs between the cells."""
    if on_terminal():
        _print_rich(columns, rows, title)
    else:
        _print_tabs([columns, *rows])


def cell_text(value: Any) -> str:
    """Return a cell for people: numbers short, absence empty."""
    if value is None:
        return ""
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def bytes_text(size_bytes: int | None) -> str:
    """Return a size in the unit that fits.

    >>> bytes_text(25_276_502_016)
    '23.5 GiB'
    """
    if size_bytes is None:
        return ""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def time_text(time_s: float) -> str:
    """Return a duration with three figures, in minutes or hours where they fit.

    >>> time_text(0.01234), time_text(75), time_text(7300)
    ('0.0123 s', '1 min 15 s', '2 h 1 min')
    """
    if time_s < 60:
        return f"{time_s:.3g} s"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    is_finite = not isinstance(value, float) or value - value == 0
    return value if is_finite else None


def _print_tabs(rows: Iterable[Sequence[Any]]) -> None:
    for row in rows:
        # A tab or a line end inside a cell would make two of it.
        print("\t".join(" ".join(_exact(cell).split()) for cell in row))


def _exact(cell: Any) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return "" if cell is None else str(cell)


def _print_rich(columns: Sequence[str] | None, rows: Sequence[Sequence[Any]], title: str) -> None:
    from rich.box import ROUNDED
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=ROUNDED,
        show_header=columns is not None,
        header_style="bold",
    )
    for index, name in enumerate(columns or ("", "")):
        numeric = columns is not None and all(isinstance(row[index], int | float) for row in rows)
        first = "cyan" if index == 0 else None
        table.add_column(
            Text(name), justify="right" if numeric else "left", style=first, overflow="fold"
        )
    for row in rows:
        # Text, because a class name may hold what rich would read as markup.
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    # rich drops only the colours under NO_COLOR; with no colour system bold goes too.
    quiet = bool(os.environ.get("NO_COLOR"))
    console = Console(color_system=None) if quiet else Console()
    console.print(table)
