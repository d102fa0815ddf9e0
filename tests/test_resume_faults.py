"""Going on after faults and kills: what they leave is a good file."""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nnx
from nnx import nn, optim
from nnx.callbacks import Checkpoint
from nnx.cli.run import CHECKPOINT
from nnx.errors import CheckpointError
from nnx.files import previous_of
from nnx.resume import read
from tests.stopped_training import SETTINGS, X, Y, compiled, everything

# Faults

CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink")


class Faulty:
    """Counts the calls of os that saving makes, and lets the n-th fail."""

    def __init__(self, monkeypatch, n=None, error=None):
        self.log, self.n, self.error = [], n, error
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(*args, **settings):
            self.log.append(name)
            if len(self.log) == self.n:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if name == "close":
                    real(*args)
                raise self.error
            return real(*args, **settings)

        return call


def small(device="numpy"):
    nnx.random.seed(2)
    model = nn.Sequential(nn.Dense(3, in_features=4))
    model.compile(optim.Adam(0.1), "cross_entropy", device=device)
    return model


SMALL = {"batch_size": 4, "epochs": 2, "jit": False, "verbose": 0}


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
])  # fmt: skip
def test_fault_at_every_call_of_a_training_leaves_a_good_file(tmp_path, error):
    x, y = X[:12], Y[:12]
    whole = small()
    whole.fit(x, y, **SMALL)
    expected = everything(whole)
    path = tmp_path / "run"
    keep = functools.partial(Checkpoint, path, every_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        log = Faulty(patch).log
        small().fit(x, y, **SMALL, callbacks=[keep()])
        log = list(log)
    assert log.count("replace") == 2 * 4 - 1  # four saves, of which three keep the one before
    failed = 0
    for n in range(1, len(log) + 1):
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        with pytest.MonkeyPatch.context() as patch:
            Faulty(patch, n, error)
            try:
                small().fit(x, y, **SMALL, callbacks=[keep()])
            except (CheckpointError, KeyboardInterrupt):
                failed += 1
        there = log[:n].count("fsync") > 1
        assert path.exists() >= there, n
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")], n
        again = small()
        again.fit(x, y, **SMALL, resume=path if path.exists() else None)
        assert everything(again) == expected, n
    # Only to remove what an earlier program left may fail without a word.
    assert failed >= len(log) - log.count("unlink")


def test_file_systems_without_links_keep_the_previous_one_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "run"
    compiled().fit(X, Y, **SETTINGS, callbacks=[Checkpoint(path)])
    assert sorted(os.listdir(tmp_path)) == ["run", "run.previous"]
    assert [read(p).state["epoch"] for p in (path, previous_of(path))] == [3, 2]


def test_full_disk_leaves_the_last_good_file(tmp_path):
    """The limit of a file's size stands for the disk's: the n-th byte is refused."""
    path = tmp_path / "run"
    x, y = X[:12], Y[:12]
    whole = small()
    whole.fit(x, y, **SMALL)
    expected = everything(whole)
    small().fit(x, y, **SMALL | {"epochs": 1}, callbacks=[Checkpoint(path)])
    before, size = path.read_bytes(), path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room in (0, 1, 100, size // 2, size - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(CheckpointError, match="too large"):
                small().fit(x, y, **SMALL, resume=path, callbacks=[Checkpoint(path)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert path.read_bytes() == before and os.listdir(tmp_path) == ["run"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = small()
    again.fit(x, y, **SMALL, resume=path)
    assert everything(again) == expected


# Kills


def killed(tmp_path, device, kills, kind):
    """Return what tests/killed_training.py found; its seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    program = Path(__file__).with_name("killed_training.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), device, str(seed), str(kills), kind],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_training_that_is_killed_at_random_steps_ends_with_the_same_bits(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 5, "steps")
    assert found["kills"] >= 5 and found["lost"] == found["different"] == 0


def test_kill_while_saving_never_loses_the_training(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 8, "saving")
    assert found["kills"] >= 8 and found["lost"] == found["different"] == 0


@pytest.mark.slow
def test_fifty_kills_at_random_steps(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 50, "steps")
    assert found["lost"] == found["different"] == 0


@pytest.mark.slow
def test_hundred_kills_while_saving(tmp_path, usable_native):
    found = killed(tmp_path, usable_native, 100, "saving")
    assert found["lost"] == found["different"] == 0


@pytest.fixture(params=["numpy", "numba"])
def usable_native(request):
    """The devices whose steps run one by one, and in native blocks."""
    return request.param


# The command


TRAIN = """
import sys
from nnx.cli import main, training
training.SAVE_S = 0.02
sys.exit(main())
"""


def nnx_train(folder, *more):
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, "train", "iris", "--device", "numpy", "--epochs", "100",
         "--batch-size", "3", "--validation-split", "0.2", "--out", str(folder), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_files(folder):
    return {name: (folder / name).read_bytes()
            for name in ("model.safetensors", "history.csv", "config.json")}  # fmt: skip


def killed_run(folder, signals, draw):
    """Train with the command, sending it signals; return how many it got before its end."""
    sent, resumed = 0, False
    while True:
        process = nnx_train(folder, *(["--resume"] if resumed else []))
        number = signals[sent] if sent < len(signals) else None
        if number is not None:
            path, before = folder / CHECKPOINT, (folder / CHECKPOINT).exists()
            start = path.stat().st_mtime_ns if before else 0
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if path.exists() and path.stat().st_mtime_ns > start:
                    break
                time.sleep(0.005)
            time.sleep(draw.random() * 0.3)
            process.send_signal(number)
        _, err = process.communicate(timeout=120)
        if process.returncode == 0:
            return sent
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), err
        assert "Traceback" not in err
        sent, resumed = sent + 1, True


def test_nnx_train_goes_on_after_kills_and_ctrl_c(tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)
    process = nnx_train(tmp_path / "whole")
    assert process.communicate(timeout=120) and process.returncode == 0
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    assert killed_run(tmp_path / "parts", signals, random.Random(seed)) == 3
    assert run_files(tmp_path / "parts") == run_files(tmp_path / "whole")


SLOW = ["--device", "loops", "--hidden", "48", "--batch-size", "1", "--epochs", "1"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nnx_train_goes_on_when_it_was_stopped_in_its_first_epoch(tmp_path, number):
    command = [sys.executable, "-c", "import sys; from nnx.cli import main; sys.exit(main())",
               "train", "iris", *SLOW, "--out"]  # fmt: skip
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    process = subprocess.Popen([*command, str(parts)], stderr=subprocess.PIPE, text=True)
    while not (parts / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else -number), err
    if number == signal.SIGINT:
        state = read(parts / CHECKPOINT).state
        assert state["epoch"] == 0 and 0 < state["step"] < 120
        assert f"stopped after 0 of 1 epochs and {state['step']} steps" in err
        again = subprocess.run([*command, str(parts)], capture_output=True, text=True)
        assert again.returncode == 2 and "--resume" in again.stderr
    else:
        assert not (parts / CHECKPOINT).exists()
    for more in ([str(parts), "--resume"], [str(whole)]):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert run_files(parts) == run_files(whole)
