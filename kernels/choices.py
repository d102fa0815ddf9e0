"""Algorithms that were measured to be the fastest, on disk, so that they are measured once.

A choice is a file of JSON text in the directory of compiled steps (`nnx.kernels.cache`), with a
SHA-256 over the text as its last line. It holds what it was chosen for, and is good for that alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nnx.kernels import cache
from nnx.kernels.cache import UnusableError

FORMAT = 1


class Choice(NamedTuple):
    """An algorithm as the library describes it, the workspace it needs, one product's time."""

    algo: bytes
    workspace_bytes: int
    time_s: float


def path_of(key: Mapping[str, Any]) -> Path | None:
    """Return the file of a choice, None where nothing is kept."""
    folder = cache.directory()
    digest = hashlib.sha256(_text({"format": FORMAT, "for": dict(key)})).hexdigest()
    return None if folder is None else folder / f"nnx_{digest[:40]}.json"


def load(key: Mapping[str, Any]) -> Choice | None:
    """Return what was kept for a key (a mapping of JSON's types), None where nothing was.

    Raises: UnusableError if the file is damaged, or for another key.
    """
    path = path_of(key)
    content = None if path is None else cache.contents(path)
    return None if content is None else _unpacked(content, key)


def keep(key: Mapping[str, Any], choice: Choice) -> None:
    """Put a choice on disk, whole or not at all, in the place of what was there."""
    path = path_of(key)
    if path is not None:
        cache.keep(path, _packed(key, choice))


def _packed(key: Mapping[str, Any], choice: Choice) -> bytes:
    entry = {"format": FORMAT, "for": dict(key), **choice._asdict(), "algo": choice.algo.hex()}
    text = _text(entry)
    return text + hashlib.sha256(text).hexdigest().encode() + b"\n"


def _unpacked(content: bytes, key: Mapping[str, Any]) -> Choice:
    if not content:
        raise UnusableError("is empty")
    text, last = content[: -(64 + 1)], content[-(64 + 1) :]
    if last != hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise UnusableError("is damaged: its text does not have the SHA-256 that it ends with")
    try:
        entry = json.loads(text)
        choice = Choice(bytes.fromhex(entry["algo"]), entry["workspace_bytes"], entry["time_s"])
        known, chosen_for = entry["format"] == FORMAT, entry["for"]
    except (ValueError, KeyError, TypeError):
        raise UnusableError(f"is not one of nnx in format {FORMAT}") from None
    if not known:
        raise UnusableError(f"is not one of nnx in format {FORMAT}")
    if chosen_for != json.loads(_text(key)):
        raise UnusableError("was chosen for another product, library or GPU")
    return choice


def _text(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, indent=1, sort_keys=True) + "\n").encode()
