"""A run directory: the settings a network was trained with, and the files beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnx.cli.options import UsageError
from nnx.errors import CheckpointError, DataError
from nnx.files import previous_of, replace_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "nnx run 1"
CONFIG, MODEL, CHECKPOINT = "config.json", "model.safetensors", "checkpoint.safetensors"
HISTORY, CURVES = "history.csv", "curves.svg"
FILES = (CONFIG, MODEL, CHECKPOINT, HISTORY, CURVES)


@dataclass(frozen=True)
class Config:
    """All that decides what a run computes; config.json holds these names."""

    data: str
    kind: str
    target: str | None
    data_sha256: str
    classes: tuple[str, ...]
    features: tuple[str, ...]
    sample_shape: tuple[int, ...]
    unit: str
    x_mean: tuple[float, ...]
    x_scale: tuple[float, ...]
    y_mean: float
    y_scale: float
    hidden: tuple[int, ...]
    activation: str
    outputs: int
    loss: str
    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    validation_split: float
    seed: int
    device: str

    @property
    def n_features(self) -> int:
        """How many numbers one sample has."""
        import math

        return math.prod(self.sample_shape)

    @property
    def classifies(self) -> bool:
        """Whether the network tells classes, not a quantity."""
        return bool(self.classes)

    def standardise(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return inputs as the network takes them: (x - x_mean) / x_scale where those are kept.

        Shapes: (B, I) -> (B, I). Numerics: in float64, as large means cost float32 its digits.
        """
        import numpy as np

        if not self.x_mean:
            return rows
        scaled = (rows.astype(np.float64) - np.array(self.x_mean)) / np.array(self.x_scale)
        result: NDArray[Any] = scaled.astype(np.float32)
        return result


def write_config(folder: Path, config: Config) -> None:
    """Write config.json."""
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2)
    replace_file(folder / CONFIG, [memoryview(f"{text}\n".encode())])


def read_config(folder: Path) -> Config:
    """Return the settings of a run.

    Raises: UsageError where there is no run; CheckpointError where config.json is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        if folder.is_file() and (folder.parent / CONFIG).is_file():
            raise UsageError(f"{folder} is a file of a run: name its directory, {folder.parent}.")
        fault = "holds no config.json" if folder.is_dir() else "does not exist"
        raise UsageError(f"{folder} is not a run: it {fault}. {_runs_beside(folder)}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Train again.") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise UsageError(f"{path} was not written by nnx train: it is no {FORMAT!r}.")
    return _checked(found, path)


def _checked(found: dict[str, Any], path: Path) -> Config:
    """Return the settings if each is there and of its kind."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(Config)}
    missing, unknown = fields.keys() - found.keys(), found.keys() - fields.keys()
    if missing or unknown:
        raise CheckpointError(
            f"{path} is damaged: missing {sorted(missing)}, unknown {sorted(unknown)}."
        )
    for name, kind in fields.items():
        if not _is_of_kind(found[name], kind):
            raise CheckpointError(f"{path} is damaged: {name} is {found[name]!r}, not {kind}.")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }
    config = Config(**values)
    if {len(config.x_mean), len(config.x_scale)} not in ({0}, {config.n_features}):
        raise CheckpointError(f"{path} is damaged: x_mean and x_scale do not fit sample_shape.")
    return config


def _is_of_kind(value: Any, kind: str) -> bool:
    """Return whether a value read from JSON fits an annotation of `Config`."""
    if kind.startswith("tuple["):
        element = kind.removeprefix("tuple[").partition(",")[0]
        return isinstance(value, list) and all(_is_of_kind(item, element) for item in value)
    if value is None:
        return kind.endswith("| None")
    kind = kind.removesuffix(" | None")
    return type(value).__name__ == kind or (kind == "float" and type(value) is int)


def _runs_beside(folder: Path) -> str:
    """Return a sentence that names the runs that are there instead."""
    try:
        runs = sorted(path.parent for path in folder.parent.glob(f"*/{CONFIG}"))
    except OSError:
        runs = []
    names = ", ".join(str(run) for run in runs[:5])
    return f"Runs beside it: {names}." if runs else "Make one with `nnx train`."


def check_room(folder: Path) -> None:
    """Check that a directory holds nothing, or an earlier run.

    Raises: UsageError where it is something else, or has another's file under a name of a run.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file. Name a directory.")
    present = [name for name in FILES if (folder / name).exists()]
    if not present:
        return
    if CONFIG not in present:
        raise UsageError(
            f"--out {folder} holds a {present[0]} that is of no run. Name another directory."
        )
    try:
        read_config(folder)
    except (UsageError, CheckpointError):
        raise UsageError(
            f"--out {folder} holds a {CONFIG} that is damaged or not of nnx train. Remove it, or "
            f"name another directory."
        ) from None


def clear(folder: Path) -> bool:
    """Remove what an earlier run made but its settings and checkpoint, which the new one replaces.

    Returns whether there was one.
    """
    for name in FILES:
        if name not in (CONFIG, CHECKPOINT):
            (folder / name).unlink(missing_ok=True)
    return (folder / CONFIG).exists()


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is a checkpoint to go on from, or the one before it."""
    path = folder / CHECKPOINT
    return path.exists() or Path(previous_of(path)).exists()


def epochs_in(folder: Path) -> int:
    """Return how many epochs the history of a run has."""
    try:
        return max(len((folder / HISTORY).read_text().splitlines()) - 1, 0)
    except (OSError, UnicodeDecodeError):
        return 0


def write_history(folder: Path, history: dict[str, Sequence[float]]) -> None:
    """Write history.csv: one row an epoch, all digits; none before the first."""
    if not history:
        return
    columns = list(history)
    rows = [
        ",".join([str(epoch), *map(repr, values)])
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=1)
    ]
    lines = [",".join(["epoch", *columns]), *rows]
    replace_file(folder / HISTORY, [memoryview(("\n".join(lines) + "\n").encode())])


def write_curves(folder: Path, history: dict[str, Sequence[float]]) -> bool:
    """Draw curves.svg, a panel for each measure; return whether matplotlib is there to do it."""
    from nnx import viz
    from nnx.viz.picture import library

    try:
        library()
    except DataError:
        return False
    viz.history(history).save(folder / CURVES)
    return True
