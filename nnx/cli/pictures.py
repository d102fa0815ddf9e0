"""`nnx graph` and `nnx show`: pictures of a run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnx import viz
from nnx.cli.inference import load_model, outputs, test_rows
from nnx.cli.options import UsageError, choose_device
from nnx.cli.output import Figure, print_figures
from nnx.cli.run import HISTORY, Config, read_config
from nnx.errors import DataError, did_you_mean
from nnx.viz.picture import FORMATS, Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

OF_CLASSES = ("confusion", "roc", "mistakes")


class _Asked:
    """A run, and what was typed about the picture of it."""

    def __init__(
        self, run: str, data: str | None, target: str | None, image: int | None,
        device: str | None, dark: bool,
    ) -> None:  # fmt: skip
        self.folder, self.data, self.target = Path(run), data, target
        self.image, self.device, self.dark = image, device, dark or None
        self.config: Config = read_config(self.folder)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Height and width, and channels if there are, where the samples are images."""
        shape = self.config.sample_shape
        return shape if len(shape) in (2, 3) else None

    def model(self) -> Any:
        return load_model(self.folder, choose_device(self.device, measure=False))

    def rows(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return rows that training has not seen, the same as the network takes them, targets."""
        config = self.config
        rows, y, _ = test_rows(config, self.data or config.data, self.target or config.target)
        return rows, config.standardise(rows), y

    def one(self, n_rows: int) -> int:
        """Return which row --image means. Raises: UsageError for one that is not there."""
        image = self.image or 0
        if not 0 <= image < n_rows:
            raise UsageError(
                f"--image is {image}: {self.data or self.config.data} has {n_rows:,} "
                f"{self.config.unit} to show, 0 to {n_rows - 1}."
            )
        return image


def show(
    words: list[str], *, output: str | None, data: str | None, target: str | None,
    image: int | None, device: str | None, dark: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw a picture of a run, write it, and print its path."""
    what, run = _what_and_run(words)
    if image is not None and what != "activations":
        raise UsageError(f"--image goes with activations, and this is {what}.")
    path = _output(output, run, f"{what}.png")
    asked = _Asked(run, data, target, image, device, dark)
    if what in OF_CLASSES and not asked.config.classifies:
        raise UsageError(
            f"{what} is of classes, and {run} tells a quantity, {asked.config.target}."
        )
    if what == "mistakes" and asked.shape is None:
        raise UsageError(
            f"mistakes are shown as images, and {asked.config.data} has none. "
            f"`nnx show confusion {run}` counts them."
        )
    _write(PICTURES[what](asked), path, as_json=as_json)


def _what_and_run(words: list[str]) -> tuple[str, str]:
    """Return which picture and which run were typed; weights where only a run was."""
    if not words:
        raise UsageError("Of which run? nnx show runs/digits, say.")
    if len(words) == 1 and words[0] in PICTURES and not Path(words[0]).is_dir():
        raise UsageError(f"{words[0]} of which run? nnx show {words[0]} runs/digits, say.")
    if len(words) == 1:
        return "weights", words[0]
    if words[0] not in PICTURES:
        raise UsageError(f"There is no picture {words[0]!r}. {did_you_mean(words[0], PICTURES)}")
    return words[0], words[1]


def _output(named: str | None, run: str, default: str) -> Path:
    """Return where the picture goes. Raises: UsageError for a suffix of no format."""
    path = Path(run) / default if named is None else Path(named)
    if path.is_dir():
        path = path / default
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise UsageError(
            f"--output {path}: the suffix names the format. {did_you_mean(suffix, FORMATS)}"
        )
    if not path.parent.is_dir() and path.parent != Path(run):
        raise UsageError(f"--output {path}: there is no directory {path.parent}.")
    return path


def _write(picture: Picture, path: Path, *, as_json: bool) -> None:
    picture.save(path)
    print_figures(
        [Figure("picture", str(path), "picture", str(path)),
         Figure("shows", picture.text, "shows", picture.text)],
        as_json=as_json,
    )  # fmt: skip


# The pictures


def _weights(asked: _Asked) -> Picture:
    return viz.weights(asked.model(), shape=asked.config.sample_shape, dark=asked.dark)


def _activations(asked: _Asked) -> Picture:
    config = asked.config
    rows, x, y = asked.rows()
    i = asked.one(len(rows))
    label = config.classes[int(y[i].item())] if config.classes else None
    return viz.activations(
        asked.model(), x[i], label=label, classes=config.classes or None,
        shape=config.sample_shape, dark=asked.dark,
    )  # fmt: skip


def _history(asked: _Asked) -> Picture:
    return viz.history(read_history(asked.folder), dark=asked.dark)


def read_history(folder: Path) -> dict[str, list[float]]:
    """Return the columns of history.csv. Raises: DataError where there are none."""
    path = folder / HISTORY
    if not path.is_file():
        raise DataError(f"{folder} has no {HISTORY}: not one epoch was finished. Train on.")
    mend = "nnx train --resume writes it anew from the checkpoint"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged, or of something else: {error}. {mend}.") from error
    except ValueError:
        raise DataError(f"{path} is empty. {mend}.") from None
    if head[:1] != ["epoch"] or len(head) < 2:
        raise DataError(
            f"{path} starts with {','.join(head)[:60]!r}, not with epoch and what was measured in "
            f"each. {mend}."
        )
    if not rows:
        raise DataError(f"{path} has no epoch: not one was finished. Train on.")
    return {
        name: [_number(path, line, row, head, i) for line, row in enumerate(rows, start=2)]
        for i, name in enumerate(head)
        if i
    }


def _number(path: Path, line: int, row: list[str], head: list[str], i: int) -> float:
    """Return one cell of a history. Raises: DataError for what is none."""
    try:
        if len(row) == len(head):
            return float(row[i])
        fault = f"has {len(row)} cells of {len(head)}"
    except ValueError:
        fault = f"has {row[i]!r} as its {head[i]}, and that is no number"
    raise DataError(
        f"{path} is damaged: line {line} {fault}. nnx train --resume writes it anew from the "
        f"checkpoint."
    )


def _predicted(asked: _Asked) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rows, x, y = asked.rows()
    return outputs(asked.model(), asked.config, x), y.reshape(-1), rows


def _confusion(asked: _Asked) -> Picture:
    scores, y, _ = _predicted(asked)
    return viz.confusion(scores, y, classes=asked.config.classes, dark=asked.dark)


def _roc(asked: _Asked) -> Picture:
    scores, y, _ = _predicted(asked)
    return viz.roc(scores, y, classes=asked.config.classes, dark=asked.dark)


def _mistakes(asked: _Asked) -> Picture:
    scores, y, rows = _predicted(asked)
    return viz.mistakes(
        scores, y, rows, classes=asked.config.classes, shape=asked.shape, dark=asked.dark
    )


PICTURES: dict[str, Callable[[_Asked], Picture]] = {
    "weights": _weights, "activations": _activations, "history": _history,
    "confusion": _confusion, "roc": _roc, "mistakes": _mistakes,
}  # fmt: skip


def graph(
    run: str, *, output: str | None, data: str | None, target: str | None, image: int | None,
    device: str | None, dark: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw the computation graph of a run over some rows, write it, and print its path."""
    path = _output(output, run, "graph.svg")
    asked = _Asked(run, data, target, image, device, dark)
    config = asked.config
    _, x, y = asked.rows()
    first = asked.one(len(x))
    chosen = slice(0, config.batch_size) if image is None else slice(first, first + 1)
    if not config.classes:
        y = ((y - config.y_mean) / config.y_scale).astype("float32")
    picture = viz.graph(asked.model(), x[chosen], y[chosen], loss=config.loss, dark=asked.dark)
    _write(picture, path, as_json=as_json)
