"""The data sets that `load` knows: three that come with the package, and MNIST."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnx.errors import DataError, did_you_mean

from .readers import parse_idx, read_content, read_csv, read_idx

FILES = Path(__file__).with_name("files")
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


class Digest(NamedTuple):
    """SHA-256 of a file as the mirrors pack it, and of its content, however it was packed."""

    packed: str
    content: str


MNIST = {
    "train-images-idx3-ubyte.gz": Digest(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte.gz": Digest(
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte.gz": Digest(
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte.gz": Digest(
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


class Dataset(NamedTuple):
    """A data set in host memory, split for training and testing.

    Shapes: x (B, I), y (B,); y indexes `classes`.
    Dtype: x float32, y int64.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    classes: tuple[str, ...]


def load(name: str) -> Dataset:
    """Return a data set by name: `iris`, `profit`, `digits` or `mnist`.

    `iris`: 4 lengths of a flower in cm, 3 species; 120 to train, 30 to test.
    `profit`: 3 quantities in [0, 10), profit where 4x + 3y - z > 20; 8,000 days and 2,000.
    `digits`: 28 x 28 = 784 pixels in [0, 1], a sample of MNIST; 10,000 images and 2,000.
    `mnist`: the whole of it, 60,000 and 10,000; from the directory NNX_DATA_DIR or its `mnist/`,
    from the cache, or else downloaded into the cache.

    Raises: DataError for another name, and where MNIST cannot be had whole.

    >>> load("iris").x_train.shape
    (120, 4)
    """
    if name not in SETS:
        raise DataError(
            f"There is no data set {name!r}. {did_you_mean(name, SETS)} "
            f"For your own files: nnx.data.read_csv, read_npz, read_idx."
        )
    return SETS[name]()


def _iris() -> Dataset:
    """Fisher's iris; every fifth flower of a species is kept for testing."""
    table = read_csv(FILES / "iris.csv", target="species")
    assert table.y is not None
    # The species take turns, so that a batch, or the last rows, hold all three.
    rows = np.arange(150).reshape(3, 50)
    train, test = np.delete(rows, np.s_[4::5], axis=1).T.ravel(), rows[:, 4::5].T.ravel()
    return Dataset(table.x[train], table.y[train], table.x[test], table.y[test], table.classes)


def _profit() -> Dataset:
    """Days with quantities x, y, z, and whether 4x + 3y - z > 20."""
    # In steps of 10 / 2**16 all of it is exact, in float32 too: no label hangs on a rounding.
    steps = (_splitmix64(20, 30_000) >> np.uint64(48)).astype(np.int64).reshape(10_000, 3)
    x = (steps * (10 / 2**16)).astype(np.float32)
    y = (steps @ np.array([4, 3, -1]) > 2 * 2**16).astype(np.int64)
    return Dataset(x[:8_000], y[:8_000], x[8_000:], y[8_000:], ("loss", "profit"))


def _splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first outputs of SplitMix64, in integers: the same on every machine and NumPy.

    Shapes: (count,).
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014; the
    constants are those of java.util.SplittableRandom.
    """
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _digits() -> Dataset:
    """The sample of MNIST that tools/make_digits.py made."""
    return _images(lambda name: read_idx(FILES / f"digits-{name}"))


def _mnist() -> Dataset:
    """The whole of MNIST."""
    return _images(_mnist_array)


def _images(read: Callable[[str], NDArray[Any]]) -> Dataset:
    """Return the data set of four arrays, read by MNIST's file names; pixels scaled to [0, 1]."""
    x_train, y_train, x_test, y_test = map(read, MNIST)
    return Dataset(
        _scaled_rows(x_train),
        y_train.astype(np.int64),
        _scaled_rows(x_test),
        y_test.astype(np.int64),
        tuple("0123456789"),
    )


def _scaled_rows(images: NDArray[Any]) -> NDArray[np.float32]:
    """Return one row of pixels an image, in [0, 1].

    Shapes: images (B, H, W) -> (B, H*W).
    """
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows /= 255
    return rows


def _mnist_array(name: str) -> NDArray[Any]:
    """Return the array of one MNIST file, its content checked."""
    import hashlib

    path, expected = _mnist_path(name), MNIST[name].content
    content = read_content(path, "a file of MNIST")
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is damaged or not of MNIST: the SHA-256 of its content is {found}, "
            f"expected {expected}. Delete it, and load('mnist') downloads it anew."
        )
    return parse_idx(content, path)


def _mnist_path(name: str) -> Path:
    """Return where a file of MNIST lies, after downloading it if it is nowhere."""
    import platformdirs

    cache = platformdirs.user_cache_path("nnx", appauthor=False) / "mnist"
    places = [cache]
    if folder := os.environ.get("NNX_DATA_DIR"):
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(f"NNX_DATA_DIR is {folder!r}, which is not a directory. Set it right.")
        places = [root, root / "mnist", cache]
    for place in places:
        if (place / name).is_file():
            return place / name
    return _download(name, cache)


def _download(name: str, folder: Path) -> Path:
    """Fetch a file of MNIST from the first mirror that has it whole.

    Raises: DataError with each mirror's fault, if none has.
    """
    import pooch  # type: ignore[import-untyped]

    faults = []
    for mirror in MIRRORS:
        try:
            digest = f"sha256:{MNIST[name].packed}"
            return Path(pooch.retrieve(mirror + name, digest, fname=name, path=folder))
        except (OSError, ValueError) as error:
            faults.append(f"{mirror} ({error})")
    raise DataError(
        f"Cannot download {name} into {folder} from {' or '.join(faults)}. Put the four files "
        f"{', '.join(MNIST)} into a directory and set NNX_DATA_DIR to it, or use load('digits')."
    )


SETS: dict[str, Callable[[], Dataset]] = {
    "iris": _iris,
    "profit": _profit,
    "digits": _digits,
    "mnist": _mnist,
}
