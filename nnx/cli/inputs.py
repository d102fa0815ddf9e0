"""What `nnx predict` classifies: an image, a table, or an array, made into rows of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.cli.options import UsageError
from nnx.cli.output import note
from nnx.cli.run import Config
from nnx.cli.sources import IMAGE_SETS, as_rows, csv_header, must_exist
from nnx.errors import DataError, ShapeError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
INK_SIZE = 20  # MNIST scaled each digit into 20 x 20 before it centred it in 28 x 28.

Array = NDArray[Any]


def read_input(path: str, config: Config) -> Array:
    """Return the rows of a file, as they were before any standardising.

    Shapes: (B, I). Dtype: float32.
    Raises: UsageError for a file that is not there or of no known kind, DataError for one that is
    damaged, ShapeError for one of another size than the run's samples.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*IMAGES, ".csv", ".npy", ".npz"):
        raise UsageError(f"{path} is of no known kind. Give a .png, .csv, .npy or .npz file.")
    must_exist(path)
    if suffix == ".csv":
        return read_features(path, config, config.target)
    if suffix == ".npz":
        return _fitted(_only_x(path), path, config)
    if suffix == ".npy":
        return _fitted(_npy(path), path, config)
    return _image(path, config)


def read_features(path: str, config: Config, target: str | None) -> Array:
    """Return the columns of a .csv that a run was trained on, found by name, in its order."""
    from nnx.data import read_csv

    header = csv_header(path)
    table = read_csv(path, target if target in header else None)
    if not config.features:
        return _fitted(table.x, path, config)
    missing = [name for name in config.features if name not in table.features]
    if missing:
        raise ShapeError(
            f"{path} has no column {', '.join(map(repr, missing))}. The network was trained on "
            f"{', '.join(config.features)}."
        )
    extra = [name for name in table.features if name not in config.features]
    if extra:
        note(f"{path}: not used: {', '.join(extra)}.")
    return table.x[:, [table.features.index(name) for name in config.features]]


def _only_x(path: str) -> Array:
    """Return `x` of an npz file, or its only array."""
    from nnx.data import read_npz

    arrays = read_npz(path)
    if "x" in arrays:
        return arrays["x"]
    if len(arrays) != 1:
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; an array x is needed.")
    return next(iter(arrays.values()))


def _npy(path: str) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except Exception as error:
        # A header is parsed as Python source, which fails in as many ways.
        raise DataError(f"{path} is damaged or not an array of numbers: {error}.") from error
    return array


def _fitted(array: Array, path: str, config: Config) -> Array:
    """Return an array as rows: samples along the first axis, or one sample alone."""
    n_in = config.n_features
    one = array.ndim > 0 and array.size == n_in and array.shape[0] != 1
    if one and (array.ndim == 1 or math.prod(array.shape[1:]) != n_in):
        array = array[np.newaxis]
    if array.ndim < 2 or math.prod(array.shape[1:]) != n_in:
        shape = " x ".join(map(str, config.sample_shape))
        raise ShapeError(
            f"{path} has shape {array.shape}; the network takes samples of {shape} = {n_in} "
            f"numbers: give (rows, {n_in}), or one sample."
        )
    return as_rows(array, path)


def _image(path: str, config: Config) -> Array:
    """Return an image in grey, 0 black to 1 white, in the size of the run's images."""
    if len(config.sample_shape) != 2:
        raise UsageError(
            f"{path} is an image, and the network was trained on {config.data}, which has none. "
            f"Give a .csv, .npy or .npz file."
        )
    grey = _grey(path)
    height, width = config.sample_shape
    if config.data in IMAGE_SETS:
        grey = _light_on_dark(grey, path)
    if grey.shape == (height, width):
        return grey.reshape(1, -1)
    if config.data in IMAGE_SETS:
        note(f"{path}: {_size(grey)}, cropped, scaled and centred in {width} x {height} as in "
             f"MNIST.")  # fmt: skip
        return _framed_as_mnist(grey, path).reshape(1, -1)
    note(f"{path}: {_size(grey)}, scaled to {width} x {height}.")
    return _scaled(grey, height, width).reshape(1, -1)


def _size(grey: Array) -> str:
    return f"{grey.shape[1]} x {grey.shape[0]} pixels"


def _grey(path: str) -> Array:
    """Return the pixels of an image in [0, 1]; what is transparent shows white paper.

    Shapes: (H, W). Dtype: float32.
    """
    try:
        from PIL import Image  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise DataError(
            "Images are read with Pillow, which is not installed: "
            "python -m pip install 'nnx-array[image]'."
        ) from None
    try:
        with Image.open(path) as image:
            # In 16 bits a conversion to L would cut off, not scale.
            if image.mode.startswith(("I", "F")):
                deep = np.asarray(image, np.float32)
                return deep / max(float(deep.max()), 1.0)
            coloured = image.convert("RGBA")
            paper = Image.new("RGBA", coloured.size, "white")
            grey = Image.alpha_composite(paper, coloured).convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is damaged or not an image: {error}.") from error
    return np.asarray(grey, np.float32) / 255


def _light_on_dark(grey: Array, path: str) -> Array:
    """Return the image inverted if its border is light: MNIST is written in white on black."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) <= 0.5:
        return grey
    note(f"{path}: dark on light, inverted: the network was trained on light digits on dark.")
    return 1 - grey


def _scaled(grey: Array, height: int, width: int) -> Array:
    """Return an image in another size.

    Shapes: (H, W) -> (height, width).
    """
    from PIL import Image

    image = Image.fromarray(np.uint8(np.rint(grey * 255)))
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32) / 255


def _framed_as_mnist(grey: Array, path: str) -> Array:
    """Return a digit in 20 x 20 pixels with its centre of mass in the middle of 28 x 28.

    Source: LeCun, Cortes, Burges, "The MNIST database", on how its images were made.
    """
    low, high = float(grey.min()), float(grey.max())
    if high - low < 0.1:
        raise DataError(f"{path} is blank: there is nothing to read.")
    ink = (grey - low) / (high - low)
    rows, columns = np.nonzero(ink > 0.25)
    ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = INK_SIZE / max(ink.shape)
    height, width = (max(1, round(size * scale)) for size in ink.shape)
    ink = _scaled(ink, height, width)
    framed = np.zeros((28, 28), np.float32)
    top, left = (_start(ink.sum(axis), size) for axis, size in ((1, height), (0, width)))
    framed[top : top + height, left : left + width] = ink
    return framed


def _start(mass: Array, size: int) -> int:
    """Return where ink starts along an axis so that its centre of mass is at the middle of 28."""
    centre = float((mass * (np.arange(size) + 0.5)).sum() / mass.sum())
    return min(max(round(14 - centre), 0), 28 - size)
