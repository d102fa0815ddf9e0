"""The options that commands share, and the checks of what was typed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Annotated, NamedTuple

import typer

from nnx.errors import did_you_mean

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where to compute: see `nnx devices`; auto measures.  [default: NNX_DEVICE, or cpu]",
    ),
]


class UsageError(Exception):
    """What was typed cannot be meant: exit status 2, before anything is written."""


class Where(NamedTuple):
    """The device to compute on, or `auto`, and why that one."""

    name: str
    reason: str


def choose_device(named: str | None, *, measure: bool) -> Where:
    """Return the device that --device, NNX_DEVICE, or the default means.

    Without `measure`, for a single pass over the data, auto is cpu.
    Raises: UsageError for a name that no device has; nnx.DeviceError for one that cannot be used.
    """
    from nnx.backends import ALIASES, ARRAY_API, names
    from nnx.device import device

    source = "named by --device" if named is not None else "named by NNX_DEVICE"
    name = (named if named is not None else os.environ.get("NNX_DEVICE", "")).strip()
    if named is None and not name:
        name, source = "cpu", ""
    known = [*names(), *ALIASES, "cpu", "auto"]
    base, colon, _ = name.partition(":")
    if base not in known and not (base == ARRAY_API and colon):
        hint = did_you_mean(name, [*known, f"{ARRAY_API}:<namespace>"])
        raise UsageError(f"There is no device {name!r} ({source}). {hint}")
    if name == "auto" and measure:
        return Where(name, source)
    if name == "auto":
        name, source = "cpu", "auto, which only training measures,"
    found = device(name)
    if name == "cpu":
        imports = "is installed" if found.name == "numba" else "is not installed"
        source = f"{source} as cpu: Numba {imports}" if source else f"cpu: Numba {imports}"
    return Where(found.name, source)


def one_of(option: str, given: str, allowed: Iterable[str]) -> str:
    """Return a word that is allowed. Raises: UsageError with the nearest one."""
    words = list(allowed)
    if given not in words:
        raise UsageError(f"{option} {given!r} is not known. {did_you_mean(given, words)}")
    return given


def whole(option: str, given: int, low: int, high: int | None = None) -> int:
    """Return a whole number in its range. Raises: UsageError."""
    if given < low or (high is not None and given > high):
        upper = "" if high is None else f" and at most {high}"
        raise UsageError(f"{option} is {given}: it takes a whole number of at least {low}{upper}.")
    return given


def positive(option: str, given: float) -> float:
    """Return a finite number above 0. Raises: UsageError."""
    if not (math.isfinite(given) and given > 0):
        raise UsageError(f"{option} is {given:g}: it takes a finite number above 0.")
    return given


def fraction(option: str, given: float) -> float:
    """Return a number from 0 up to but not 1. Raises: UsageError."""
    if not 0 <= given < 1:
        raise UsageError(f"{option} is {given:g}: it takes a number from 0 to below 1.")
    return given


def layer_sizes(option: str, given: str) -> tuple[int, ...]:
    """Return the sizes in a list such as 16,16; none for no hidden layer.

    >>> layer_sizes("--hidden", "20, 10")
    (20, 10)
    """
    if given.strip() == "none":
        return ()
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and part.isascii() and int(part) > 0 for part in parts):
        raise UsageError(
            f"{option} is {given!r}: it takes sizes of at least 1 with commas, such as 16,16, "
            f"or none."
        )
    return tuple(map(int, parts))
