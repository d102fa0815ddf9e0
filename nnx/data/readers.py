"""Readers of IDX, CSV and npz files; a file that is not whole raises, and no pickle is opened."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnx.errors import DataError, did_you_mean

IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MISSING = {"", "na", "n/a", "nan", "null"}
FLOAT32_MAX = float(np.finfo(np.float32).max)

StrPath = str | os.PathLike[str]


class Table(NamedTuple):
    """What `read_csv` returns: numbers, and the names of what they stand for.

    Shapes: x (B, I), y (B,), features I names; `classes` is empty unless y was text.
    Dtype: x float32; y int64 for class names and whole numbers, float32 for other numbers,
    None where no target was named.
    """

    x: NDArray[np.float32]
    y: NDArray[Any] | None
    features: tuple[str, ...]
    classes: tuple[str, ...]


def read_idx(path: StrPath) -> NDArray[Any]:
    """Return the array in an IDX file (the format of MNIST), plain or gzip.

    Shapes: what the header says. Dtype: the file's, in the machine's byte order.
    Raises: DataError if the file is missing, damaged, or longer or shorter than its header says.
    Source: LeCun, Cortes, Burges, "The MNIST database", section "The IDX file format".
    """
    return parse_idx(read_content(path, "an IDX file, plain or .gz"), path)


def read_csv(path: StrPath, target: str | None = None) -> Table:
    """Return the columns of a comma-separated file: `target` as y, all others as x.

    The first row names the columns. Features are numbers. A target of words becomes integers that
    index `classes`, the sorted words.

    Raises: DataError with the line and column of a cell that is missing or not a number, of a row
    of another length, of a damaged header, or for an unknown target.
    """
    header, rows, lines = _csv_rows(path)
    if target is not None and target not in header:
        raise DataError(f"{path} has no column {target!r}. {did_you_mean(target, header)}")
    features = tuple(name for name in header if name != target)
    if not features:
        raise DataError(
            f"{path} has no column beside the target {target!r}: nothing to learn from."
        )
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    x = np.array([_numbers(cells[name], lines, path, name) for name in features], np.float32)
    y, classes = _target(cells[target], lines, path, target) if target is not None else (None, ())
    return Table(np.ascontiguousarray(x.T), y, features, classes)


def read_npz(path: StrPath) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file by name; checksums are verified, pickled objects refused.

    Raises: DataError if the file is missing, damaged, not an npz, or holds Python objects.
    """
    import zipfile

    content = read_content(path, "a file that numpy.savez wrote")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # Whole members, because zipfile compares the checksum only at a member's end.
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception as error:
        # On damage zipfile lets through whatever its decompressors and struct raise.
        raise DataError(
            f"{path} is damaged or not an npz file: {error}. Write it anew with numpy.savez."
        ) from error
    return {name.removesuffix(".npy"): _npy(data, name, path) for name, data in members.items()}


def read_content(path: StrPath, wanted: str) -> bytes:
    """Return the bytes of a file, unpacked if they are gzip; `wanted` says what it should be.

    Raises: DataError if it cannot be read, or its gzip stream is damaged.
    """
    import gzip
    import zlib

    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"There is no file {os.fspath(path)!r}. Give the path of {wanted}."
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. It should be {wanted}.") from error
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged: {error} ({len(content)} bytes of gzip). Get the file anew."
        ) from error


def parse_idx(content: bytes, path: StrPath) -> NDArray[Any]:
    """Return the array that the bytes of an IDX file spell; `path` is for the messages."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES:
        types = " ".join(f"{code:02x}" for code in IDX_DTYPES)
        raise DataError(
            f"{path} is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}, "
            f"expected 00 00, a type (one of {types}), and the number of dimensions."
        )
    dtype, n_dims = np.dtype(IDX_DTYPES[content[2]]), content[3]
    header_bytes = 4 + 4 * n_dims
    if len(content) < header_bytes:
        raise DataError(
            f"{path} is cut short: a header of {n_dims} dimensions takes {header_bytes} bytes, "
            f"found {len(content)}. Get the file anew."
        )
    sizes = np.frombuffer(content, ">u4", n_dims, offset=4) if n_dims else ()
    shape = tuple(int(size) for size in sizes)
    expected_bytes = header_bytes + math.prod(shape) * dtype.itemsize
    if len(content) != expected_bytes:
        fault = "is cut short" if len(content) < expected_bytes else "has bytes left over"
        raise DataError(
            f"{path} {fault}: its header says shape {shape} of {dtype.name}, {expected_bytes} "
            f"bytes in all, found {len(content)}. Get the file anew."
        )
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, content, header_bytes)
    except ValueError as error:
        raise DataError(f"{path}: its header is damaged ({error}). Get the file anew.") from error
    return array.astype(dtype.newbyteorder("="))


def _npy(content: bytes, name: str, path: StrPath) -> NDArray[Any]:
    """Return the array of one member of an npz file."""
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:
        # A header is parsed as Python source, which fails in as many ways.
        raise DataError(
            f"{path}: member {name!r} is no array of numbers: {error}. "
            f"Convert it, array.astype(numpy.float32), and write the file with numpy.savez."
        ) from error


def _csv_rows(path: StrPath) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the column names, the rows of cells, and the line each row ends on."""
    import csv

    content = read_content(path, "a comma-separated file whose first row names the columns")
    try:
        # utf-8-sig, because spreadsheets put a byte order mark before the first name.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error
    lines, rows = [line for line, _ in numbered], [row for _, row in numbered]
    if len(rows) < 2:
        raise DataError(f"{path} has {len(rows)} rows: one of names and one of data are needed.")
    header = rows[0]
    _check_header(header, path)
    for line, row in zip(lines[1:], rows[1:], strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}, column {min(len(row), len(header)) + 1}: the row has "
                f"{len(row)} cells, the header names {len(header)} columns."
            )
    return header, rows[1:], lines[1:]


def _check_header(header: Sequence[str], path: StrPath) -> None:
    """Refuse names that are missing or double, and a first row that is data."""
    if all(_is_number(name) for name in header):
        raise DataError(f"{path}: the first row, {', '.join(header)}, must name the columns.")
    for position, name in enumerate(header):
        if not name:
            raise DataError(
                f"{path}, line 1, column {position + 1}: the column has no name. "
                f"Name it, or leave it out (pandas: to_csv(index=False))."
            )
        if name in header[:position]:
            raise DataError(f"{path}, line 1, column {position + 1}: a second column {name!r}.")


def _is_number(cell: str) -> bool:
    """Say whether a cell spells a number; Python's 1_000 is none."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _numbers(cells: Sequence[str], lines: Sequence[int], path: StrPath, name: str) -> list[float]:
    """Return the numbers of a column, or raise at the first cell that is not a finite one."""
    for cell, line in zip(cells, lines, strict=True):
        if cell.lower() in MISSING:
            fault = "is a missing value. Fill it in or leave the row out."
        elif not _is_number(cell):
            fault = "is not a number. Numbers look like -1.5e3; encode words as numbers first."
        elif not abs(float(cell)) <= FLOAT32_MAX:
            fault = f"is not a finite float32, at most {FLOAT32_MAX:.3g} in size."
        else:
            continue
        raise DataError(f"{path}, line {line}, column {name!r}: {cell!r} {fault}")
    return [float(cell) for cell in cells]


def _target(
    cells: Sequence[str], lines: Sequence[int], path: StrPath, name: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return y and the class names; one number among the cells makes the column one of numbers."""
    if any(_is_number(cell) and cell.lower() not in MISSING for cell in cells):
        numbers = _numbers(cells, lines, path, name)
        # From 2**53 on a float64 skips integers, so such a column stays one of floats.
        whole = all(cell.lstrip("+-").isdecimal() for cell in cells)
        whole = whole and max(map(abs, numbers)) < 2**53
        return np.array(numbers, np.int64 if whole else np.float32), ()
    for cell, line in zip(cells, lines, strict=True):
        if cell.lower() in MISSING:
            raise DataError(
                f"{path}, line {line}, column {name!r}: {cell!r} is a missing value. "
                f"Fill it in or leave the row out."
            )
    classes = tuple(sorted(set(cells)))
    index = {word: number for number, word in enumerate(classes)}
    return np.array([index[cell] for cell in cells], np.int64), classes
