"""Data sets and readers, against files made by hand, scikit-learn's iris and the whole of MNIST."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import importlib.util
import io
import math
import os
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnx.data import Dataset, load, read_csv, read_idx, read_npz, sets
from nnx.errors import DataError

RAW = Path(os.environ.get("NNX_DATA_DIR") or "nowhere")
RAW = RAW if (RAW / "train-images-idx3-ubyte.gz").is_file() else RAW / "mnist"
needs_mnist = pytest.mark.skipif(
    not all((RAW / name).is_file() for name in sets.MNIST),
    reason="needs the four files of MNIST in NNX_DATA_DIR",
)


def idx_bytes(code, letter, shape, values):
    header = struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape)
    return header + struct.pack(f">{len(values)}{letter}", *values)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make_digits():
    path = Path(__file__).parents[1] / "tools" / "make_digits.py"
    spec = importlib.util.spec_from_file_location("make_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- The sets


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "n_features", "n_classes"),
    [("iris", 120, 30, 4, 3), ("profit", 8_000, 2_000, 3, 2), ("digits", 10_000, 2_000, 784, 10)],
)
def test_load_shapes_dtypes(name, n_train, n_test, n_features, n_classes):
    data = load(name)
    assert isinstance(data, Dataset)
    assert data.x_train.shape == (n_train, n_features)
    assert data.x_test.shape == (n_test, n_features)
    assert data.y_train.shape == (n_train,)
    assert data.y_test.shape == (n_test,)
    assert {data.x_train.dtype, data.x_test.dtype} == {np.dtype("float32")}
    assert {data.y_train.dtype, data.y_test.dtype} == {np.dtype("int64")}
    assert len(data.classes) == n_classes
    assert all(isinstance(label, str) for label in data.classes)
    assert set(data.y_train.tolist()) == set(data.y_test.tolist()) == set(range(n_classes))


def test_load_gives_arrays_of_its_own():
    first = load("iris")
    first.x_train[:] = -1
    assert load("iris").x_train.min() > 0


@pytest.mark.parametrize(("given", "meant"), [("digit", "digits"), ("Iris", "iris")])
def test_load_unknown_name(given, meant):
    with pytest.raises(DataError, match=f"{given!r}.*Did you mean {meant!r}.*read_csv"):
        load(given)


def iris_rows():
    data = load("iris")
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    rows = np.column_stack([x, y])
    return rows[np.lexsort(rows.T)]


def test_iris_is_sklearns():
    bunch = pytest.importorskip("sklearn.datasets").load_iris()
    rows = np.column_stack([bunch.data.astype(np.float32), bunch.target])
    np.testing.assert_array_equal(iris_rows(), rows[np.lexsort(rows.T)])
    assert load("iris").classes == tuple(bunch.target_names)


def test_iris_has_fishers_sums_and_the_corrected_rows():
    rows = iris_rows()
    np.testing.assert_allclose(rows[:, :4].sum(0), [876.5, 458.6, 563.7, 179.9], rtol=1e-6)
    found = {tuple(row) for row in rows.round(1).tolist()}
    assert {(4.9, 3.1, 1.5, 0.2, 0), (4.9, 3.6, 1.4, 0.1, 0)} <= found
    assert load("iris").classes == ("setosa", "versicolor", "virginica")


def test_iris_split_is_stratified_and_mixed():
    data = load("iris")
    assert np.bincount(data.y_train).tolist() == [40, 40, 40]
    assert np.bincount(data.y_test).tolist() == [10, 10, 10]
    assert data.y_train[:6].tolist() == data.y_test[:6].tolist() == [0, 1, 2, 0, 1, 2]


def splitmix64(seed):
    """SplitMix64 in Python's integers, after Vigna's C text."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31


def test_splitmix64_gives_published_outputs():
    published = [  # of seed 1234567, rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert sets._splitmix64(1234567, 5).tolist() == published


def test_profit_is_the_recipe():
    data, stream = load("profit"), splitmix64(20)
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        expected = [10 * (next(stream) >> 48) / 65536 for _ in range(3)]
        assert row == expected
        assert label == (4 * expected[0] + 3 * expected[1] - expected[2] > 20)


def test_profit_stays_the_same():
    data = load("profit")
    np.testing.assert_array_equal(
        data.x_train[:2],
        np.float32([[2.114563, 0.19393921, 2.5184631], [3.613739, 1.0249329, 1.721344]]),
    )
    assert data.y_train[:8].tolist() == [0, 0, 1, 0, 1, 1, 1, 1]
    content = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in data[:4])
    assert hashlib.sha256(content).hexdigest() == PROFIT_SHA256


PROFIT_SHA256 = "2b518f286a3406b68e0b9d6b4f460e800458a0f1cfa5348270702a95e001ed77"


def test_profit_is_uniform():
    x = np.concatenate([load("profit").x_train, load("profit").x_test])
    assert x.min() >= 0
    assert x.max() < 10
    counts = np.array([np.histogram(column, 10, (0, 10))[0] for column in x.T])
    # 1,000 expected in each of the 30 bins, with a deviation of 30.
    assert abs(counts - 1_000).max() < 5 * 30


def test_digits_are_scaled_images():
    data = load("digits")
    for x in (data.x_train, data.x_test):
        assert x.min() == 0
        assert x.max() == 1
        assert np.array_equal(np.rint(x * 255) / np.float32(255), x)
        assert (x.max(axis=1) > 0.5).all()
        assert len(np.unique(x, axis=0)) == len(x)
    assert data.classes == tuple("0123456789")


def test_digits_can_be_told_apart():
    # The nearest mean image is right for about 82% of MNIST: images and labels belong together.
    data = load("digits")
    means = np.array([data.x_train[data.y_train == digit].mean(0) for digit in range(10)])
    distance = ((data.x_test[:, None] - means) ** 2).sum(-1)
    assert 0.75 < (distance.argmin(1) == data.y_test).mean() < 0.9


def test_digits_have_the_shares_of_mnist():
    # The counts of each digit among the 60,000 and the 10,000.
    full_train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    full_test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    data = load("digits")
    assert abs(np.bincount(data.y_train) - np.array(full_train) / 6).max() < 1
    assert abs(np.bincount(data.y_test) - np.array(full_test) / 5).max() < 1


def test_digits_files_are_small_and_say_whose_they_are():
    files = [sets.FILES / f"digits-{name}" for name in sets.MNIST]
    assert sum(file.stat().st_size for file in files) <= 2_500_000
    readme = (sets.FILES / "README.md").read_text()
    for word in ("CC BY-SA 3.0", "Yann LeCun", "Corinna Cortes", "NIST", "sample"):
        assert word in readme


@needs_mnist
def test_digits_come_from_mnist_in_proportion(tmp_path, monkeypatch):
    data = load("digits")
    for part, x, y in [("train", *data[:2]), ("t10k", *data[2:4])]:
        images = gzip.decompress((RAW / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((RAW / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
        pairs = {(images[784 * i : 784 * i + 784], label) for i, label in enumerate(labels)}
        pixels = np.rint(x * 255).astype(np.uint8)
        assert all((row.tobytes(), label) in pairs for row, label in zip(pixels, y, strict=True))
        exact = np.bincount(np.frombuffer(labels, np.uint8)) * len(y) / len(labels)
        assert abs(np.bincount(y) - exact).max() < 1
    monkeypatch.setattr("sys.argv", ["make_digits.py", str(RAW), str(tmp_path)])
    make_digits().main()
    for name in sets.MNIST:
        made, kept = tmp_path / f"digits-{name}", sets.FILES / f"digits-{name}"
        # The content, not the bytes: another zlib packs the same content in other bytes.
        assert gzip.decompress(made.read_bytes()) == gzip.decompress(kept.read_bytes())


def test_make_digits_shares_by_largest_remainder():
    shares = make_digits().shares
    assert shares(np.array([5, 3, 1]), 4).tolist() == [2, 1, 1]  # 2.22, 1.33, 0.44
    assert shares(np.array([50, 30, 20]), 10).tolist() == [5, 3, 2]


def test_make_digits_samples_without_repeats_in_order():
    labels = np.tile([3, 1, 0, 2, 1], 20)
    rows = make_digits().sample(labels, 33)
    assert len(rows) == len(set(rows.tolist())) == 33
    assert rows.tolist() == sorted(rows)
    assert abs(np.bincount(labels[rows]) - np.bincount(labels) * 0.33).max() < 1
    # Even steps: each third of the file gives its part.
    assert np.histogram(rows, 3, (0, 100))[0].min() >= 9


def test_make_digits_writes_the_same_bytes_each_time(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name in ("a", "b"):
        make_digits().write_idx(tmp_path / name, array)
    packed = (tmp_path / "a").read_bytes()
    assert packed == (tmp_path / "b").read_bytes()
    assert packed[3:8] == bytes(5), "a name or a time in the gzip header"
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


# --- MNIST: where it is found, what is refused


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Stand-ins of a few bytes for the four files, their digests, an empty cache, no mirrors."""
    platformdirs = pytest.importorskip("platformdirs")
    pytest.importorskip("pooch")
    source, digests = tmp_path / "source", {}
    source.mkdir()
    for seed, name in enumerate(sets.MNIST):
        shape = (3, 2, 2) if "images" in name else (3,)
        values = [(seed + 51 * i) % 256 for i in range(math.prod(shape))]
        content = idx_bytes(0x08, "B", shape, values)
        write(source / name, gzip.compress(content, mtime=0))
        packed = hashlib.sha256((source / name).read_bytes()).hexdigest()
        digests[name] = sets.Digest(packed, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(sets, "MNIST", digests)
    monkeypatch.setattr(sets, "MIRRORS", ())
    cache = tmp_path / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: cache)
    monkeypatch.delenv("NNX_DATA_DIR", raising=False)
    return source


def check_small(data):
    assert data.x_train.tolist()[0] == np.float32([0, 0.2, 0.4, 0.6]).tolist()
    assert data.y_train.tolist() == [1, 52, 103]
    assert data.x_test.shape == (3, 4)
    assert data.y_test.tolist() == [3, 54, 105]


def test_mnist_reads_nnx_data_dir(small_mnist, monkeypatch):
    monkeypatch.setenv("NNX_DATA_DIR", str(small_mnist))
    check_small(load("mnist"))


def test_mnist_reads_mnist_below_nnx_data_dir(small_mnist, monkeypatch):
    small_mnist.rename(small_mnist.with_name("mnist"))
    monkeypatch.setenv("NNX_DATA_DIR", str(small_mnist.parent))
    check_small(load("mnist"))


@pytest.mark.parametrize("data_dir_is_empty", [False, True])
def test_mnist_reads_the_cache(small_mnist, tmp_path, monkeypatch, data_dir_is_empty):
    (tmp_path / "cache").mkdir()
    small_mnist.rename(tmp_path / "cache" / "mnist")
    if data_dir_is_empty:
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("NNX_DATA_DIR", str(tmp_path / "empty"))
    check_small(load("mnist"))


def test_mnist_takes_files_packed_another_way(small_mnist, monkeypatch):
    for file in small_mnist.iterdir():
        write(file, gzip.compress(gzip.decompress(file.read_bytes()), 1, mtime=7))
    monkeypatch.setenv("NNX_DATA_DIR", str(small_mnist))
    check_small(load("mnist"))


def test_mnist_refuses_a_data_dir_that_is_none(small_mnist, monkeypatch):
    monkeypatch.setenv("NNX_DATA_DIR", str(small_mnist / "typo"))
    with pytest.raises(DataError, match=r"NNX_DATA_DIR.*typo.*not a directory"):
        load("mnist")


def test_mnist_refuses_other_content(small_mnist, monkeypatch):
    monkeypatch.setenv("NNX_DATA_DIR", str(small_mnist))
    name = "t10k-labels-idx1-ubyte.gz"
    content = idx_bytes(0x08, "B", (3,), [3, 54, 104])
    write(small_mnist / name, gzip.compress(content))
    found, expected = hashlib.sha256(content).hexdigest(), sets.MNIST[name].content
    with pytest.raises(DataError, match=f"{name} .*{found}.*expected {expected}"):
        load("mnist")


def test_mnist_refuses_every_flipped_bit_of_the_body(small_mnist, monkeypatch):
    monkeypatch.setenv("NNX_DATA_DIR", str(small_mnist))
    file = small_mnist / "t10k-labels-idx1-ubyte.gz"
    packed = file.read_bytes()
    for bit in range(8 * 10, 8 * len(packed)):  # the ten bytes before hold time, flags, system
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        write(file, bytes(damaged))
        try:
            check_small(load("mnist"))  # a bit that only pads the deflate stream
        except DataError as error:
            assert str(file) in str(error)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(small_mnist, monkeypatch):
    """A web server on this machine that serves the stand-ins."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(small_mnist))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_mnist_is_downloaded_once(small_mnist, mirror, tmp_path, monkeypatch):
    # The first mirror lacks the files, so the second is asked.
    monkeypatch.setattr(sets, "MIRRORS", (mirror + "gone/", mirror))
    check_small(load("mnist"))
    kept = {file.name: file.read_bytes() for file in (tmp_path / "cache" / "mnist").iterdir()}
    assert kept == {file.name: file.read_bytes() for file in small_mnist.iterdir()}
    monkeypatch.setattr(sets, "MIRRORS", ())
    check_small(load("mnist"))


def test_mnist_refuses_a_wrong_download(small_mnist, mirror, tmp_path, monkeypatch):
    name = next(iter(sets.MNIST))
    write(small_mnist / name, gzip.compress(b"something else"))
    monkeypatch.setattr(sets, "MIRRORS", (mirror,))
    with pytest.raises(DataError, match=r"(?s)does not match.*NNX_DATA_DIR"):
        load("mnist")
    assert not (tmp_path / "cache" / "mnist" / name).exists()


def test_mnist_says_what_to_do_without_a_network(small_mnist, mirror, monkeypatch):
    monkeypatch.setattr(sets, "MIRRORS", (mirror + "gone/", "http://127.0.0.1:9/"))
    with pytest.raises(DataError, match=r"404.*127\.0\.0\.1:9.*set NNX_DATA_DIR.*'digits'"):
        load("mnist")


@needs_mnist
def test_mnist_is_the_full_set(monkeypatch):
    data = load("mnist")
    assert data.x_train.shape == (60_000, 784)
    assert data.x_test.shape == (10_000, 784)
    images = gzip.decompress((RAW / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = np.frombuffer(images, np.uint8).reshape(-1, 784) / np.float32(255)
    np.testing.assert_array_equal(data.x_test, expected)
    assert data.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.y_test[:5].tolist() == [7, 2, 1, 0, 4]


# --- IDX

IDX_CASES = [
    (0x08, "B", "uint8", [0, 7, 255, 3, 4, 5]),
    (0x09, "b", "int8", [-128, 127, 0, 1, -1, 5]),
    (0x0B, "h", "int16", [-32768, 258, 0, 1, -1, 5]),
    (0x0C, "i", "int32", [-(2**31), 16909060, 0, 1, -1, 5]),
    (0x0D, "f", "float32", [1.5, -2.25, 0.0, 1e30, -1.0, 5.0]),
    (0x0E, "d", "float64", [1.1, -2.2, 0.0, 1e300, -1.0, 5.0]),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("code", "letter", "dtype", "values"), IDX_CASES)
def test_read_idx_types(tmp_path, code, letter, dtype, values, packed):
    content = idx_bytes(code, letter, (2, 3), values)
    # The content decides, not the name.
    path = write(tmp_path / "data.bin", gzip.compress(content) if packed else content)
    array = read_idx(path)
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert array.flags.writeable
    expected = np.float32(values).tolist() if letter == "f" else values
    assert array.tolist() == [expected[:3], expected[3:]]
    assert read_idx(str(path)).tolist() == array.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (1, 1, 1, 1), (3, 0, 2)])
def test_read_idx_shapes(tmp_path, shape):
    n_values = math.prod(shape)
    path = write(tmp_path / "a.idx", idx_bytes(0x08, "B", shape, [9] * n_values))
    assert read_idx(path).shape == shape
    assert read_idx(path).size == n_values


GOOD_IDX = idx_bytes(0x08, "B", (2, 3), range(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it starts with nothing"),
        (b"\x00\x00\x08", "not an IDX file: it starts with 00 00 08"),
        (b"\x00\x01" + GOOD_IDX[2:], "not an IDX file: it starts with 00 01 08 02"),
        (b"\x00\x00\x0a" + GOOD_IDX[3:], "it starts with 00 00 0a 02.*08 09 0b 0c 0d 0e"),
        (b"\x89PNG\r\n", "not an IDX file: it starts with 89 50 4e 47"),
        (GOOD_IDX[:9], "cut short: a header of 2 dimensions takes 12 bytes, found 9"),
        (GOOD_IDX[:-1], r"cut short.*shape \(2, 3\) of uint8, 18 bytes in all, found 17"),
        (GOOD_IDX + b"\0", "left over.*18 bytes in all, found 19"),
        (idx_bytes(0x08, "B", (3, 3), range(6)), r"cut short.*\(3, 3\).*21 bytes.*found 18"),
        (idx_bytes(0x08, "B", (1, 3), range(6)), r"left over.*\(1, 3\).*15 bytes.*found 18"),
        (b"\x00\x00\x0d" + GOOD_IDX[3:], "cut short.*of float32, 36 bytes"),
        (idx_bytes(0x08, "B", (2**32 - 1,) * 3, []), "cut short.*found 16"),
        (idx_bytes(0x08, "B", (0, 2**32 - 1, 2**32 - 1), []), "header is damaged"),
        (idx_bytes(0x08, "B", (0,) * 65, []), "header is damaged"),
        (gzip.compress(GOOD_IDX, mtime=0)[:-3], "is damaged"),
        (gzip.compress(GOOD_IDX, mtime=0) + b"more", "is damaged"),
        (gzip.compress(GOOD_IDX, mtime=0)[:7], "is damaged"),
        (gzip.compress(GOOD_IDX[:-1], mtime=0), "cut short.*found 17"),
    ],
)
def test_read_idx_refuses(tmp_path, content, message):
    path = write(tmp_path / "broken.idx", content)
    with pytest.raises(DataError, match=rf"broken\.idx.*{message}"):
        read_idx(path)


def flips_that_change(path, content, read):
    """Return the flipped bits of a file that are read as something else, without an error."""
    expected, silent = read(write(path, content)), []
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = read(write(path, bytes(damaged)))
        except DataError:
            continue
        if not np.array_equal(found, expected):
            silent.append(bit)
    return silent


def test_read_idx_gzip_hides_no_flipped_bit(tmp_path):
    content = gzip.compress(idx_bytes(0x0B, "h", (4, 5), range(20)), mtime=0)
    # The first two bytes say that it is gzip at all; without them it is no IDX file either.
    assert flips_that_change(tmp_path / "a.gz", content, read_idx) == []


@pytest.mark.parametrize("read", [read_idx, read_csv, read_npz])
def test_readers_refuse_a_missing_file(tmp_path, read):
    with pytest.raises(DataError, match=r"no file '.*none\.dat'.*Give the path of"):
        read(tmp_path / "none.dat")


@pytest.mark.parametrize("read", [read_idx, read_csv, read_npz])
def test_readers_refuse_a_directory(tmp_path, read):
    with pytest.raises(DataError, match=r"Cannot read .*It should be"):
        read(tmp_path)


# --- CSV

HOUSES = "rooms,area,price\n3,70.5,210\n4,-1e2,250.5\n5, 120 ,300\n"
FLOWERS = "length,kind,width\n1.5,rose,2\n2.5,iris,3\n3.5,rose,4\n"


def test_read_csv_numbers(tmp_path):
    table = read_csv(write(tmp_path / "a.csv", HOUSES), target="price")
    assert table.x.dtype == table.y.dtype == np.float32
    assert table.x.flags.c_contiguous
    assert table.x.tolist() == [[3, 70.5], [4, -100], [5, 120]]
    assert table.y.tolist() == [210, 250.5, 300]
    assert table.features == ("rooms", "area")
    assert table.classes == ()


def test_read_csv_words_become_classes(tmp_path):
    table = read_csv(write(tmp_path / "a.csv", FLOWERS), target="kind")
    assert table.x.tolist() == [[1.5, 2], [2.5, 3], [3.5, 4]]
    assert table.y.dtype == np.int64
    assert table.y.tolist() == [1, 0, 1]
    assert table.classes == ("iris", "rose")
    assert table.features == ("length", "width")


def test_read_csv_without_target(tmp_path):
    table = read_csv(write(tmp_path / "a.csv", HOUSES))
    assert table.x.shape == (3, 3)
    assert table.y is None
    assert table.features == ("rooms", "area", "price")


@pytest.mark.parametrize(
    ("cells", "expected", "dtype"),
    [
        (["0", "-2", "+1"], [0, -2, 1], "int64"),
        (["0", "1.0", "2"], [0, 1, 2], "float32"),
        (["1e2", "1", "2"], [100, 1, 2], "float32"),
        (["9007199254740993", "1", "2"], [2.0**53, 1, 2], "float32"),
    ],
)
def test_read_csv_whole_targets_are_integers(tmp_path, cells, expected, dtype):
    rows = "".join(f"1,{cell}\n" for cell in cells)
    y = read_csv(write(tmp_path / "a.csv", "x,y\n" + rows), target="y").y
    assert y.dtype == np.dtype(dtype)
    assert y.tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + FLOWERS,
        FLOWERS.replace("\n", "\r\n"),
        FLOWERS.removesuffix("\n"),
        FLOWERS + "\n\n",
        FLOWERS.replace("rose", '"rose"').replace(",", ", "),
        gzip.compress(FLOWERS.encode(), mtime=0),
    ],
    ids=["byte order mark", "CRLF", "no last newline", "blank lines", "quotes", "gzip"],
)
def test_read_csv_spellings(tmp_path, text):
    text = text.replace(', "', ',"') if isinstance(text, str) else text
    plain = read_csv(write(tmp_path / "a.csv", FLOWERS), target="kind")
    other = read_csv(write(tmp_path / "b.csv", text), target="kind")
    assert other.x.tolist() == plain.x.tolist()
    assert other.y.tolist() == plain.y.tolist()
    assert other[2:] == plain[2:]


def test_read_csv_quoted_comma_and_newline(tmp_path):
    path = write(tmp_path / "a.csv", 'x,"kind, or\nsort"\n1,"a,b"\n2,c\nz,c\n')
    with pytest.raises(DataError, match="line 5, column 'x': 'z'"):
        read_csv(path, target="kind, or\nsort")
    path = write(tmp_path / "a.csv", 'x,"kind, or\nsort"\n1,"a,b"\n2,c\n')
    assert read_csv(path, target="kind, or\nsort").classes == ("a,b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 rows"),
        ("a,b\n", "has 1 rows"),
        ("1,2\n3,4\n", "first row, 1, 2, must name the columns"),
        ("a,,price\n1,2,3\n", "line 1, column 2: the column has no name.*index=False"),
        ("a,b,a\n1,2,3\n", "line 1, column 3: a second column 'a'"),
        ("a,price\n1,2\n3\n", "line 3, column 2: the row has 1 cells, the header names 2"),
        ("a,price\n1,2\n3,4,5\n", "line 3, column 3: the row has 3 cells"),
        ("a,price\n1,2\n\n3,4,5\n", "line 4, column 3"),
        ("a,price\n1,2\n,4\n", "line 3, column 'a': '' is a missing value"),
        ("a,price\n1,2\nNA,4\n", "line 3, column 'a': 'NA' is a missing value"),
        ("a,price\n1,2\nnan,4\n", "line 3, column 'a': 'nan' is a missing value"),
        ("a,price\n1,2\n2,\n", "line 3, column 'price': '' is a missing value"),
        ("a,price\n1,cat\n2,\n", "line 3, column 'price': '' is a missing value"),
        ("a,price\n1,2\ntwo,4\n", "line 3, column 'a': 'two' is not a number"),
        ('a,price\n1,2\n"1,000",4\n', "line 3, column 'a': '1,000' is not a number"),
        ("a,price\n1,2\n1_000,4\n", "line 3, column 'a': '1_000' is not a number"),
        ("a,price\n1,2\n1,two\n", "line 3, column 'price': 'two' is not a number"),
        ("a,price\n1,2\n-inf,4\n", "line 3, column 'a': '-inf' is not a finite float32"),
        ("a,price\n1,2\n1e39,4\n", "line 3, column 'a': '1e39' is not a finite float32"),
        ("price\n1\n", "no column beside the target 'price'"),
        ("a,cost\n1,2\n", "no column 'price'.*Allowed: a, cost"),
        ("a,Price\n1,2\n", "no column 'price'. Did you mean 'Price'"),
        ('a,price\n1,2\n3,"4\n', "line 3: unexpected end of data"),
        (b"a,price\n1,2\n\xff,4\n", "line 3: not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", "line 1: not UTF-8 text"),
        (gzip.compress(HOUSES.encode(), mtime=0)[:-9], "is damaged"),
    ],
)
def test_read_csv_refuses(tmp_path, text, message):
    path = write(tmp_path / "broken.csv", text)
    with pytest.raises(DataError, match=rf"(?s)broken\.csv.*{message}"):
        read_csv(path, target="price")


# --- npz


def npz_bytes(save=np.savez, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def zip_bytes(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_read_npz_arrays(tmp_path, save):
    arrays = {
        "x": np.arange(6, dtype=">f4").reshape(2, 3),
        "y": np.asfortranarray(np.eye(3)),
        "empty": np.zeros((0, 4), bool),
        "scalar": np.int16(5),
        "words": np.array(["a", "bc"]),
    }
    found = read_npz(write(tmp_path / "a.npz", npz_bytes(save, **arrays)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or not an npz file"),
        (b"a,b\n1,2\n", "damaged or not an npz file"),
        (npz_bytes(x=np.arange(9))[:-5], "damaged or not an npz file"),
        (npz_bytes(x=np.arange(9))[:60], "damaged or not an npz file"),
        (npz_bytes(x=np.array([Bomb()], object)), r"'x\.npy' is no array.*allow_pickle"),
        (zip_bytes(**{"notes.txt": "hello"}), r"member 'notes\.txt' is no array"),
        (zip_bytes(**{"x.npy": b"\x93NUMPY\x01\x00\x04\x00{'a\n"}), r"'x\.npy' is no array"),
    ],
    ids=["empty", "text", "no end", "cut short", "pickle", "no array", "bad header"],
)
def test_read_npz_refuses(tmp_path, content, message):
    path = write(tmp_path / "broken.npz", content)
    with pytest.raises(DataError, match=rf"broken\.npz.*{message}"):
        read_npz(path)


def test_read_npz_refuses_a_single_array(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(DataError, match=r"a\.npy is damaged or not an npz"):
        read_npz(tmp_path / "a.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_read_npz_hides_no_flipped_bit(tmp_path, save):
    content = npz_bytes(save, x=np.arange(12, dtype=np.int16))
    silent = flips_that_change(
        tmp_path / "a.npz", content, lambda path: next(iter(read_npz(path).values()))
    )
    assert silent == []
