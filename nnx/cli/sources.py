"""What a command trains on or is tested on: a data set by name, a .csv, or a .npz."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.cli.options import UsageError
from nnx.errors import DataError, did_you_mean

IMAGE_SETS = ("digits", "mnist")
CLASSIFY = ("cross_entropy", "binary_cross_entropy")

Array = NDArray[Any]


@dataclass(frozen=True)
class Source:
    """Rows with their targets; the test part is empty where the data has none of its own.

    Shapes: x (B, I), y (B,). Dtype: x float32, y integers or floats.
    """

    kind: str  # set, csv or npz
    name: str
    x: Array
    y: Array
    x_test: Array | None = None
    y_test: Array | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    sample_shape: tuple[int, ...] = ()
    target: str | None = None

    @property
    def unit(self) -> str:
        """What one row is called."""
        return "images" if self.name in IMAGE_SETS or len(self.sample_shape) > 1 else "rows"

    @property
    def is_table(self) -> bool:
        """Whether the columns are quantities, each with its own scale."""
        return self.kind == "csv" or (self.kind == "set" and self.name not in IMAGE_SETS)

    def digest(self) -> str:
        """Return the SHA-256 of all the numbers, which tells whether data has changed."""
        sha = hashlib.sha256()
        for array in (self.x, self.y, self.x_test, self.y_test):
            if array is not None:
                sha.update(repr((array.dtype.str, array.shape)).encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def read_source(data: str, target: str | None = None) -> Source:
    """Return the data of a name or a path.

    Raises: UsageError for an unknown name, a file that is not there, a wrong target; DataError
    for a file that cannot be trained on.
    """
    suffix = Path(data).suffix.lower()
    if suffix == ".csv":
        return _csv(data, target)
    if target is not None:
        raise UsageError(f"--target names a column of a .csv file, and {data} is none.")
    return _npz(data) if suffix == ".npz" else _named(data)


def _named(name: str) -> Source:
    from nnx.data import load
    from nnx.data.sets import SETS

    if name not in SETS:
        if Path(name).is_file():
            raise UsageError(f"{name} is not a .csv or .npz file. Convert it, or rename it.")
        raise UsageError(f"There is no data set {name!r}. {did_you_mean(name, SETS)} Or a file: "
                         f"name.csv, name.npz.")  # fmt: skip
    x, y, x_test, y_test, classes = load(name)
    shape = (28, 28) if name in IMAGE_SETS else x.shape[1:]
    return Source("set", name, x, y, x_test, y_test, classes, sample_shape=shape)


def _csv(path: str, target: str | None) -> Source:
    from nnx.data import read_csv

    header = csv_header(path)
    if target is None:
        raise UsageError(f"Which column of {path} is to be learned? --target {header[-1]}, say.")
    if target not in header:
        raise UsageError(f"--target: {path} has no column {target!r}. "
                         f"{did_you_mean(target, header)}")  # fmt: skip
    table = read_csv(path, target)
    assert table.y is not None
    return Source("csv", Path(path).stem, table.x, table.y, None, None, table.classes,
                  table.features, table.x.shape[1:], target)  # fmt: skip


def csv_header(path: str) -> tuple[str, ...]:
    """Return the column names of a file. Raises: UsageError if there is no such file."""
    import csv

    from nnx.data.readers import read_content

    must_exist(path)
    content = read_content(path, "a comma-separated file")
    text = content.decode("utf-8-sig", errors="replace")
    try:
        first = next(csv.reader(text.splitlines(), strict=True), [])
    except csv.Error as error:
        raise DataError(f"{path}, line 1: {error}.") from error
    if not any(cell.strip() for cell in first):
        raise DataError(f"{path} starts with no column names. The first row must hold them.")
    return tuple(cell.strip() for cell in first)


def _npz(path: str) -> Source:
    from nnx.data import read_npz

    must_exist(path)
    arrays = read_npz(path)
    for name in ("x", "y"):
        if name not in arrays:
            raise DataError(
                f"{path} holds {', '.join(arrays) or 'nothing'}; x and y are needed, x_test and "
                f"y_test are used. Write it with numpy.savez(path, x=x, y=y)."
            )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{path} holds only one of x_test and y_test. Give both or neither.")
    x, y = _checked(arrays["x"], arrays["y"], path, "x", "y")
    source = Source("npz", Path(path).stem, x, y, sample_shape=arrays["x"].shape[1:])
    if "x_test" not in arrays:
        return source
    x_test, y_test = _checked(arrays["x_test"], arrays["y_test"], path, "x_test", "y_test")
    if x_test.shape[1] != x.shape[1]:
        raise DataError(f"{path}: x has rows of {x.shape[1]} numbers, x_test of {x_test.shape[1]}.")
    return replace(source, x_test=x_test, y_test=y_test)


def _checked(x: Array, y: Array, path: str, x_name: str, y_name: str) -> tuple[Array, Array]:
    """Return x as rows of float32 and y as one number a row."""
    if x.ndim < 2 or not x.size:
        raise DataError(f"{path}: {x_name} has shape {x.shape}; rows of numbers are needed.")
    if y.shape not in ((len(x),), (len(x), 1)):
        raise DataError(
            f"{path}: {y_name} has shape {y.shape}; one number for each of the {len(x)} rows of "
            f"{x_name} is needed: ({len(x)},)."
        )
    y = y.reshape(-1)
    if y.dtype.kind not in "biuf":
        raise DataError(f"{path}: {y_name} is of type {y.dtype}; numbers are needed.")
    if not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        raise DataError(f"{path}: {y_name}[{row}] is {y[row]}. Leave the row out.")
    return as_rows(x, f"{path}: {x_name}"), y.astype(
        np.float32 if y.dtype.kind == "f" else np.int64
    )


def as_rows(x: Array, what: str) -> Array:
    """Return one row of float32 a sample; bytes are pixels, and become 0 to 1.

    Shapes: (B, ...) -> (B, I).
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} is of type {x.dtype}; numbers are needed.")
    rows = x.reshape(len(x), -1).astype(np.float32)
    if x.dtype == np.uint8:
        rows /= 255
    if not np.isfinite(rows).all():
        row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(rows)))
        raise DataError(f"{what}: row {row}, number {column} is not a finite float32.")
    return rows


def must_exist(path: str) -> None:
    """Check a file that was named. Raises: UsageError if it is not there."""
    if not Path(path).is_file():
        fault = "is a directory" if Path(path).is_dir() else "does not exist"
        raise UsageError(f"The file {path} {fault}.")


def choose_loss(source: Source) -> str:
    """Return the loss for a target that came without one.

    Words, and whole numbers 0, 1, ... without a gap, are classes; other numbers are quantities.
    """
    if source.classes:
        return "cross_entropy"
    found = np.unique(source.y)
    whole = source.y.dtype.kind == "i" and np.array_equal(found, np.arange(len(found)))
    return "cross_entropy" if whole and len(found) > 1 else "mse"


def class_names(source: Source) -> tuple[str, ...]:
    """Return the classes of a target: its words, or its whole numbers in order.

    Raises: UsageError for numbers that are not whole.
    """
    if source.classes:
        return source.classes
    y = source.y if source.y_test is None else np.concatenate([source.y, source.y_test])
    found = np.unique(y)
    if not np.array_equal(found, np.floor(found)):
        number = float(found[found != np.floor(found)][0])
        raise UsageError(
            f"--loss: this loss needs classes, and the target has numbers such as {number:g}. "
            f"For quantities: --loss mse."
        )
    return tuple(str(int(number)) for number in found)


def encode(y: Array, words: tuple[str, ...], classes: tuple[str, ...]) -> Array:
    """Return targets as indices into `classes`; `words` names y's own numbers, if they are named.

    Shapes: (B,) -> (B,). Dtype: int64.
    Raises: DataError for a class that is not among them.
    """
    if words == classes:
        return y.astype(np.int64)
    found, where = np.unique(y, return_inverse=True)
    names = [words[int(number)] if words else f"{number:g}" for number in found.tolist()]
    for name in names:
        if name not in classes:
            raise DataError(f"The target has the class {name!r}. {did_you_mean(name, classes)}")
    index: Array = np.array([classes.index(name) for name in names], np.int64)[where]
    return index


def split_rows(n_rows: int, seed: int) -> tuple[Array, Array]:
    """Return the rows to train on, in a drawn order, and the fifth of them kept for the test.

    The order matters where the last of them become the validation part.
    """
    from nnx.random import Generator

    if n_rows < 5:
        raise DataError(f"{n_rows} rows are too few: one in five is kept for the test.")
    # A stream of its own, so that no other draw of the seed moves the split.
    order = Generator(seed).fork(1).host_permutation(n_rows)
    n_test = n_rows // 5
    return order[n_test:], np.sort(order[:n_test])


def hold_out(source: Source, seed: int) -> Source:
    """Return data with a test part: its own, or a fifth of the rows, drawn with the seed."""
    if source.x_test is not None:
        return source
    train, test = split_rows(len(source.x), seed)
    return replace(source, x=source.x[train], y=source.y[train], x_test=source.x[test],
                   y_test=source.y[test])  # fmt: skip
