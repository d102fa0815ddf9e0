"""Make the embedded data set `digits` from the four .gz files of MNIST.

    python tools/make_digits.py IDX_DIR [OUT_DIR]

Each digit keeps its share of the full set (largest remainder), and is taken at even steps through
the file, so that all writers are met; there is no random number in it. The same files in give the
same images out, and with the same zlib the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from nnx.data import read_idx

OUT_DIR = Path(__file__).parents[1] / "nnx" / "data" / "files"
SIZES = {"train": 10_000, "t10k": 2_000}


def shares(counts: np.ndarray, total: int) -> np.ndarray:
    """Share out `total` in proportion to `counts`, in whole numbers, by largest remainder."""
    floor, remainder = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainder, kind="stable")[: total - floor.sum()]
    floor[largest] += 1
    return floor


def sample(labels: np.ndarray, total: int) -> np.ndarray:
    """Return the rows to keep, in the file's order."""
    counts = np.bincount(labels)
    rows = [
        np.flatnonzero(labels == digit)[np.arange(share) * count // share]
        for digit, (count, share) in enumerate(zip(counts, shares(counts, total), strict=True))
    ]
    return np.sort(np.concatenate(rows))


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes as a gzip IDX file, with no name and no time in its header."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + array.tobytes())


def main() -> None:
    """Read, sample, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("idx_dir", type=Path)
    parser.add_argument("out_dir", type=Path, nargs="?", default=OUT_DIR)
    args = parser.parse_args()
    for part, total in SIZES.items():
        images, labels = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
        rows = sample(read_idx(args.idx_dir / labels), total)
        for name in (images, labels):
            out = args.out_dir / f"digits-{name}"
            write_idx(out, read_idx(args.idx_dir / name)[rows])
            print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
