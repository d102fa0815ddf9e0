"""Data that is larger than memory: read by rows, with the results of data that is held whole."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import nnx
from nnx import nn, optim, rows
from nnx.backends import Backend
from nnx.batches import ArrayData
from nnx.errors import DTypeError, LabelError, NonFiniteError, ShapeError
from nnx.prepare import place_of

X = nnx.random.Generator(1).host_normal(0.0, 1.0, (50, 4))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
DEVICES = ["numpy", "numba", "loops", "array_api:array_api_strict"]


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """Return a function that puts an array into a file and maps that; each counts as large."""
    monkeypatch.setattr(rows, "MAPPED_BYTES", 0)
    names = iter(range(99))

    def put(array):
        path = tmp_path / f"{next(names)}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    return put


def trained(x, y, device="numpy", loss="cross_entropy", outputs=3, **settings):
    nnx.random.seed(3)
    model = nn.Sequential(nn.Dense(6, "tanh"), nn.Dense(outputs))
    model.compile(optim.Adam(0.02), loss, ["accuracy"] if outputs == 3 else [], device)
    model.fit(x, y, **{"batch_size": 16, "epochs": 2, **settings})
    return model


def agree(first, second):
    assert first.history.history == {
        name: pytest.approx(values, rel=1e-6) for name, values in second.history.history.items()
    }
    for name, value in second.state_dict().items():
        np.testing.assert_allclose(first.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_train_as_the_whole(mapped, device, shuffle):
    pair = mapped(X), mapped(Y)
    settings = {"device": device, "shuffle": shuffle}
    model = trained(*pair, validation_data=pair, **settings)
    agree(model, trained(X, Y, validation_data=(X, Y), **settings))
    assert model.evaluate(*pair, batch_size=7) == pytest.approx(model.evaluate(X, Y, batch_size=7))
    assert np.array_equal(model.predict(pair[0]), model.predict(X))


@pytest.mark.parametrize("kind", [">f4", "f8", "<f4"])
def test_rows_of_other_types_are_converted_batch_by_batch(mapped, kind):
    x = mapped(X.astype(kind))
    assert isinstance(rows.array_data(place_of(nn.Sequential()), x), rows.RowData)
    agree(trained(x, Y), trained(X, Y))


@pytest.mark.parametrize("settings", [
    {"validation_split": 0.3},
    {"sample_weight": np.arange(50) % 3},
    {"class_weight": {0: 2.0, 2: 0.5}},
    {"class_weight": {0: 2.0}, "sample_weight": np.arange(50) % 3, "validation_split": 0.2},
])  # fmt: skip
def test_split_and_weights_are_those_of_the_whole(mapped, monkeypatch, settings):
    monkeypatch.setattr(rows, "BLOCK", 7)
    agree(trained(mapped(X), mapped(Y), **settings), trained(X, Y, **settings))


def test_targets_may_be_as_large(mapped):
    x = mapped(X)
    agree(trained(x, x, loss="mse", outputs=4), trained(X, X, loss="mse", outputs=4))


def test_auto_moves_what_is_read_by_rows(mapped, monkeypatch, tmp_path):
    from nnx import calibrate

    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path / "devices")
    model = trained(mapped(X), Y, device="auto")
    agree(model, trained(X, Y, device=model.device.name))


def test_no_more_than_a_batch_is_read_at_once(mapped, monkeypatch):
    taken = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            part = super().__getitem__(key)
            taken.append(len(part))
            return np.array(part)

    trained(mapped(X).view(Watched), Y, epochs=1)
    assert max(taken) == 16 and sum(taken[-4:]) == 50


def test_a_quarter_of_the_memory_may_be_taken(monkeypatch):
    backend = nnx.device("numpy").backend
    hardware = backend.devices()[0]
    monkeypatch.setattr(type(backend), "devices", lambda self: [hardware.__class__("", 400)])
    assert backend.resident(100, 0) and not backend.resident(101, 0)


def test_what_is_read_by_rows(tmp_path):
    big = np.lib.format.open_memmap(tmp_path / "b.npy", "w+", np.float32, (5000, 4096))  # sparse
    place = place_of(nn.Sequential(nn.Dense(2, in_features=4)))
    assert big.nbytes > rows.MAPPED_BYTES
    assert rows.reads_by_rows(place, big) and rows.reads_by_rows(place, np.asarray(big)[5:])
    assert not rows.reads_by_rows(place, big[:100]) and not rows.reads_by_rows(place, X)
    held = np.empty((5000, 4096), np.float32)
    assert not rows.reads_by_rows(place, held)
    assert type(rows.array_data(place, X, Y)) is ArrayData


def test_a_copy_that_would_not_fit_is_not_made(monkeypatch):
    monkeypatch.setattr(rows, "MAPPED_BYTES", 0)
    monkeypatch.setattr(Backend, "resident", lambda self, size, index: size < X.nbytes)
    place = place_of(nn.Sequential(nn.Dense(2, in_features=4)))
    assert not rows.reads_by_rows(place, X)  # no copy at all
    assert rows.reads_by_rows(place, X.astype(np.float64))
    assert rows.reads_by_rows(place, np.asfortranarray(X))
    agree(trained(X.astype(np.float64), Y), trained(X, Y))
    monkeypatch.setattr(Backend, "resident", lambda self, size, index: size <= X.nbytes)
    assert not rows.reads_by_rows(place, X.astype(np.float64))


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (X.astype(np.uint8), Y, DTypeError, "uint8"),
        (X, Y[:49], LabelError, "x has 50 rows and y 49"),
        (X, np.where(np.arange(50) == 44, 3, Y), LabelError, "Label 3 at index"),
        (X[:, :3], Y, ShapeError, "takes 4 features"),
        (np.where(np.arange(200).reshape(50, 4) == 151, np.nan, X), Y, NonFiniteError,
         "which is row 37 of x"),
    ],
)  # fmt: skip
def test_bad_rows_are_told(mapped, x, y, error, words):
    nnx.random.seed(3)
    model = nn.Sequential(nn.Dense(6, "tanh", in_features=4), nn.Dense(3))
    model.compile("sgd", "cross_entropy")
    with pytest.raises(error, match=words):
        model.fit(mapped(x), mapped(y))


def test_label_that_does_not_exist_is_found_in_its_batch(mapped):
    x, y = mapped(X), mapped(np.where(np.arange(len(Y)) == 41, 9, Y))
    with pytest.raises(LabelError, match=r"epoch 1 of 1, step 6 \(rows 40, 41, .*\): Label 9"):
        trained(x, y, batch_size=8, epochs=1, shuffle=False)


def test_infinity_that_the_loss_hides_is_found_in_its_batch(mapped):
    x = X.copy()
    x[29, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"row 29 of x.*The loss hides it"):
        trained(mapped(x), Y, shuffle=False)


LARGE = """
import resource, sys
import numpy as np
from nnx import nn
from nnx.callbacks import LambdaCallback

path, rows, width = sys.argv[1], 512, 1 << 19
x = np.lib.format.open_memmap(path, "w+", np.float64, (rows, width))  # 2 GiB, sparse
x[7, 0] = 1.0
y = np.zeros((rows, 1), np.float32)
model = nn.Sequential(nn.Dense(1))
model.compile("sgd", "mse", device=sys.argv[2])
model.fit(x[:16], y[:16], batch_size=8, verbose=0)  # what is loaded and compiled once
data = 1 << 10
for line in open("/proc/self/status"):
    if line.startswith("VmData"):
        data *= int(line.split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (data + (256 << 20), resource.RLIM_INFINITY))
try:
    np.ones(512 << 20, np.uint8)
except MemoryError:
    print("limited")
history = model.fit(x, y, batch_size=8, validation_data=(x[:32], y[:32]), verbose=0)
print(len(history.history["val_loss"]), model.predict(x[-32:], batch_size=8).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("device", [pytest.param("numpy", marks=pytest.mark.slow), "numba"])
def test_a_file_of_2_gib_trains_in_256_mib(tmp_path, device):
    command = [sys.executable, "-c", LARGE, str(tmp_path / "x.npy"), device]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "limited\n1 (32, 1)\n", done.stderr
