"""Model files and training files: what comes back, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

import nnx
from nnx import checkpoint, nn
from nnx.callbacks import Checkpoint, CSVLogger, JSONLinesLogger
from nnx.errors import CheckpointError, DataError

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([True, False, True]),
    "c": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float64),
    "strided": np.arange(20, dtype=np.float64).reshape(4, 5)[::2, ::-1],
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"),
}


def network():
    nnx.random.seed(11)
    return nn.Sequential(
        nn.Dense(6, "relu", in_features=4), nn.Dropout(0.3), nn.LayerNorm(6), nn.Dense(3)
    )


def built():
    model = network()
    model(np.zeros((1, 4), np.float32))
    return model


def same(first, second):
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and np.array_equal(first[k], second[k]) for k in first
    )


# What comes back


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.write_tensors(path, ARRAYS, {"note": 'é "quoted"', "other": "2"})
    arrays, metadata = checkpoint.read_tensors(path)
    assert same(arrays, {k: v.astype(v.dtype.newbyteorder("=")) for k, v in ARRAYS.items()})
    assert metadata == {"note": 'é "quoted"', "other": "2"}
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_stock_safetensors_reads_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.write_tensors(path, ARRAYS, {"note": "1"})
    loaded = safetensors.numpy.load_file(path)
    assert all(np.array_equal(loaded[k], ARRAYS[k]) for k in ARRAYS)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata()["note"] == "1" and len(file.metadata()["sha256"]) == 64


def test_equal_contents_give_equal_bytes(tmp_path):
    for name, items in (("1", ARRAYS.items()), ("2", reversed(ARRAYS.items()))):
        checkpoint.write_tensors(tmp_path / name, dict(items), {"a": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("device", ["numpy", "loops", "array_api:array_api_strict"])
def test_save_and_load_give_the_same_network(tmp_path, device):
    model = built().to(device)
    model.save(tmp_path / "m.safetensors")
    with nnx.device(device):
        loaded = nn.load(tmp_path / "m.safetensors")
    assert loaded.device == device
    assert same(loaded.state_dict(), model.state_dict())
    assert repr(loaded) == repr(model)
    x = nnx.random.Generator(0).host_normal(0.0, 1.0, (5, 4))
    assert np.array_equal(loaded.predict(x), model.predict(x))


def test_load_keeps_float64_and_draws_nothing(tmp_path):
    model = built().to(nnx.float64)
    model[0].weight.assign(model[0].weight.array + 1e-12)
    model.save(tmp_path / "m.safetensors")
    state = nnx.random.default_generator().state_dict()
    assert same(nn.load(tmp_path / "m.safetensors").state_dict(), model.state_dict())
    assert nnx.random.default_generator().state_dict() == state


def test_save_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "real" / "m.safetensors")
    built().save(link)
    assert link.is_symlink() and nn.load(tmp_path / "real" / "m.safetensors")


def test_save_refuses_what_a_file_cannot_hold(tmp_path):
    with pytest.raises(DataError, match="no parameters yet"):
        nn.Sequential(nn.Dense(2)).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="'a' is of type complex64"):
        checkpoint.write_tensors(tmp_path / "m", {"a": np.zeros(2, np.complex64)}, {})
    assert os.listdir(tmp_path) == []


class Own(nn.Module):
    def __init__(self, units=3):
        self.out = nn.Dense(units, in_features=4)

    def forward(self, x):
        return self.out(x)


def test_a_file_of_own_code_is_loaded_into_a_network_that_is_there(tmp_path):
    path = tmp_path / "own.safetensors"
    model = Own()
    model.save(path)
    with pytest.raises(CheckpointError, match=r"weights of Own.*model\.load\("):
        nn.load(path)
    other = Own()
    assert not same(other.state_dict(), model.state_dict())
    other.load(path)
    assert same(other.state_dict(), model.state_dict())
    nn.Sequential(nn.Dense(2, lambda x: 2 * x, in_features=2)).save(path)
    with pytest.raises(CheckpointError, match="weights of Sequential"):
        nn.load(path)


def test_load_into_a_network_names_what_differs_and_changes_nothing(tmp_path):
    path = tmp_path / "own.safetensors"
    Own().save(path)
    other = Own(units=2)
    before = other.state_dict()
    with pytest.raises(CheckpointError, match=r"own.*out\.weight is \(4, 2\), got \(4, 3\)"):
        other.load(path)
    with pytest.raises(CheckpointError, match=r"missing: 0\.weight, 0\.bias"):
        nn.Sequential(nn.Dense(3, in_features=4)).load(path)
    with pytest.raises(DataError, match="no parameters yet"):
        nn.Dense(3).load(path)
    with pytest.raises(CheckpointError, match="There is no file"):
        other.load(tmp_path / "none")
    assert same(other.state_dict(), before)


# Damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    built().save(path)
    return path.read_bytes()


def test_bit_flips_are_never_silent(tmp_path, saved):
    path = tmp_path / "m.safetensors"
    draw = random.Random(1)
    header = 8 + int.from_bytes(saved[:8], "little")
    places = [draw.randrange(8 * header) for _ in range(200)]
    places += [draw.randrange(8 * header, 8 * len(saved)) for _ in range(150)]
    places += list(range(64))
    for place in places:
        damaged = bytearray(saved)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            nn.load(path)
    path.write_bytes(saved)
    assert nn.load(path)


def test_truncation_and_added_bytes_are_never_silent(tmp_path, saved):
    path = tmp_path / "m.safetensors"
    header = 8 + int.from_bytes(saved[:8], "little")
    lengths = [0, 1, 7, 8, 9, 30, 35, 99, 100, header - 1, header, header + 1, header + 64]
    lengths += [len(saved) // 2, len(saved) - 4, len(saved) - 1]
    for length in lengths:
        path.write_bytes(saved[:length])
        with pytest.raises(CheckpointError):
            nn.load(path)
    for more in (b"\0", saved):
        path.write_bytes(saved + more)
        with pytest.raises(CheckpointError, match="damaged"):
            nn.load(path)


def stock(**arrays):
    return safetensors.numpy.save(arrays, metadata={"format": "pt"})


def zipped():
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"hello", "not a file of nnx"),
        (zipped(), "zip archive"),
        (b"\x80\x04\x95\x10\x00\x00\x00", "pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (stock(w=np.ones(3, np.float32)), "safetensors file of another program"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not a file of nnx"),
        ((2**60).to_bytes(8, "little") + b'{"a":1}', "not a file of nnx|another program"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path, content, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        nn.load(path)
    assert "m.safetensors" in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        nn.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is a folder"):
        nn.load(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder"):
        built().save(tmp_path)
    with pytest.raises(CheckpointError, match="there is no folder"):
        built().save(tmp_path / "none" / "m.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [True, 2, None, b"m.safetensors", "a\0b", object()])
def test_what_is_no_path_is_told(path):
    """A number would be the descriptor of an open file: reading would close standard output."""
    model = built()
    for use in (nn.load, model.load, model.save, Checkpoint, CSVLogger, JSONLinesLogger):
        with pytest.raises(DataError, match="A path is a text or a pathlib.Path"):
            use(path)
    if path is not None:
        model.compile("sgd", "mse")
        with pytest.raises(DataError, match="A path is a text or a pathlib.Path"):
            model.fit(np.zeros((2, 4)), np.zeros((2, 3)), resume=path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_devices_and_pipes_are_neither_read_nor_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for use in (nn.load, built().save, built().load):
        with pytest.raises(CheckpointError, match="is a device or a pipe, and no file"):
            use(pipe)
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def rewritten(path, change):
    arrays, metadata = checkpoint.read_tensors(path)
    change(arrays, metadata)
    checkpoint.write_tensors(path, arrays, metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, m: m.update(architecture=m["architecture"].replace("LayerNorm", "LayerNrm")),
         "'LayerNrm'.*Did you mean 'LayerNorm'"),
        (lambda a, m: m.update(architecture="{"), "m.safetensors"),
        (lambda a, m: m.update(architecture='{"kind": "Dense", "units": -1}'), "units"),
        (lambda a, m: m.update(architecture="[" * 100_000), "m.safetensors"),
        (lambda a, m: m.pop("architecture"), "no architecture"),
        (lambda a, m: m.update(format="nnx 2"), "Update nnx"),
        (lambda a, m: m.update(kind="data"), "holds a data"),
        (lambda a, m: m.clear(), "holds a set of arrays"),
        (lambda a, m: a.update({"0.bias": np.zeros(5)}), r"0.bias is \(6,\), got \(5,\)"),
        (lambda a, m: a.pop("0.bias"), "missing: 0.bias"),
        (lambda a, m: a.update(extra=np.zeros(1)), "unknown: extra"),
    ],
)  # fmt: skip
def test_sound_file_of_something_else_is_refused(tmp_path, saved, change, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved)
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=words):
        nn.load(path)


# Faults while writing

CALLS = ("open", "write", "fsync", "close", "replace")


class Faulty:
    """Counts the calls of os that a save makes, and lets the n-th of them fail."""

    def __init__(self, monkeypatch, n=None, error=None, short=False):
        self.log, self.n, self.error = [], n, error
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name), short))

    def wrapped(self, name, real, short):
        def call(*args, **settings):
            self.log.append(name)
            if len(self.log) == self.n:
                if name == "close":
                    real(*args)
                raise self.error
            if name == "write" and short:
                return real(args[0], bytes(args[1])[:100])
            return real(*args, **settings)

        return call


def writer(path, value):
    checkpoint.write_tensors(path, {"w": np.full(100, value), "v": np.full(3, value)}, {})


def held(path):
    arrays, _ = checkpoint.read_tensors(path)
    values = set(arrays["w"]) | set(arrays["v"])
    assert len(values) == 1
    return values.pop()


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
])  # fmt: skip
def test_fault_at_every_call_keeps_a_whole_file(tmp_path, error):
    path = tmp_path / "x.safetensors"
    writer(path, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        log = Faulty(patch).log
        writer(path, 1.0)
        log = list(log)
    assert log == ["open", *["write"] * 3, "fsync", "close", "replace", "open", "fsync", "close"]
    for n, name in enumerate(log, 1):
        with pytest.MonkeyPatch.context() as patch:
            Faulty(patch, n, error)
            expected = KeyboardInterrupt if type(error) is KeyboardInterrupt else CheckpointError
            with pytest.raises(expected) as caught:
                writer(path, 2.0)
        replaced = n > log.index("replace") + 1
        assert held(path) == (2.0 if replaced else 1.0), (n, name)
        assert os.listdir(tmp_path) == ["x.safetensors"], (n, name)
        if expected is CheckpointError:
            assert ("as it was" in str(caught.value)) != replaced
        writer(path, 1.0)


def test_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    Faulty(monkeypatch, 3, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match="No space left on device; free some"):
        writer(tmp_path / "x.safetensors", 1.0)
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    Faulty(monkeypatch, short=True)
    writer(tmp_path / "x.safetensors", 3.0)
    assert held(tmp_path / "x.safetensors") == 3.0


KILLED = """
import sys, numpy as np
from nnx.checkpoint import write_tensors
big = np.empty(500_000)
k = 0.0
while True:
    k += 1
    big[:] = k
    write_tensors(sys.argv[1], {"w": big, "v": big[:5]}, {})
    if k == 1:
        print("ready", flush=True)
"""


def test_kill_while_saving_never_loses_the_file(tmp_path):
    path, draw = tmp_path / "x.safetensors", random.Random(3)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(draw.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        assert held(path) >= 1.0
    writer(path, 1.0)
    assert os.listdir(tmp_path) == ["x.safetensors"]
