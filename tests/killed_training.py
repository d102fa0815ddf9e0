"""A training killed again and again, for tests/test_resume_faults.py to run in a new process.

    python tests/killed_training.py FOLDER DEVICE SEED KILLS [steps|saving]

Each attempt is a fork that goes on from the checkpoint. It is killed with SIGKILL after a random
step, at a random moment (which may be within a block of native steps), or at a random call of the
system while saving. At its end each training is compared with one that was left alone. Prints a
line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import warnings

import numpy as np

import nnx
from nnx import metrics, nn, optim
from nnx.callbacks import Callback, Checkpoint, EarlyStopping
from nnx.resume import read

ROWS, EPOCHS, BATCH = 300, 3, 8
X = nnx.random.Generator(5).host_normal(0.0, 1.0, (ROWS, 4))
Y = np.eye(3, dtype=np.float32)[nnx.random.Generator(6).host_integers(3, shape=ROWS)]
WEIGHT = nnx.random.Generator(7).host_uniform(0.5, 1.5, ROWS)


class Noisy(nn.Module):
    """A module of a user's own, with a random generator of its own."""

    def __init__(self):
        self.hidden = nn.Dense(6, "tanh", in_features=4)
        self.drop = nn.Dropout(0.3)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Dense(3, in_features=6)
        self.generator = nnx.random.Generator(9)

    def forward(self, x):
        x = x + 0.01 * self.generator.normal(0.0, 1.0, x.shape, device=x.device)
        return self.out(self.norm(self.drop(self.hidden(x))))


def begin(device):
    """Return a new model, compiled; the same whenever it is called."""
    nnx.random.seed(11)
    model = Noisy()
    rate = optim.schedules.warmup(optim.schedules.cosine(0.02, 90), 10)
    model.compile(optim.Adam(rate), "cross_entropy", ["accuracy", "mse", "r2"], device)
    return model


def train(model, *callbacks, **settings):
    """Train to the end."""
    stop = EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    return model.fit(
        X, Y, batch_size=BATCH, epochs=EPOCHS, validation_split=0.1, sample_weight=WEIGHT,
        callbacks=[*callbacks, stop], verbose=0, **settings,
    )  # fmt: skip


def ending(model):
    """Return all that a training ends with, as bytes."""
    arrays = {f"model.{k}": v for k, v in model.state_dict().items()}
    arrays |= {f"slot.{k}": v for k, v in nnx.fit.compiled(model).optimizer.state_dict().items()}
    rest = [
        model.history.epoch, model.history.history, model.generator.state_dict(),
        nnx.random.default_generator().state_dict(),
    ]  # fmt: skip
    named = [(key, a.dtype.str, a.shape, a.tobytes().hex()) for key, a in sorted(arrays.items())]
    return json.dumps([named, rest]).encode()


class Bomb(Callback):
    """Kills the process after some steps."""

    comes_last = True

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        """Count."""
        self.steps -= 1
        if self.steps <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at_call(n, after):
    """Kill the process at the n-th call with which a file is saved, before or after it."""
    count = [0]

    def wrapped(real):
        def call(*args, **settings):
            count[0] += 1
            if count[0] == n and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            if real is os_write and count[0] == n:
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            result = real(*args, **settings)
            if count[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os_write = os.write
    for name in ("open", "write", "fsync", "close", "link", "replace", "unlink"):
        setattr(os, name, wrapped(getattr(os, name)))


def attempt(folder, device, draw, kind, length_s):
    """Go on in a fork; return whether it came to the end."""
    path = os.path.join(folder, "run.safetensors")
    every = {"every_steps": draw.choice([1, 2, 3, 7, 40])}
    if draw.random() < 0.3:
        every = {"every_s": draw.choice([0.0, 0.01])}
    way = draw.choice(["step", "moment"]) if kind == "steps" else "call"
    delay_s, steps = draw.random() * length_s, draw.randrange(1, 80)
    call, after = draw.randrange(1, 90), draw.random() < 0.5
    child = os.fork()
    if not child:
        try:
            model = begin(device)
            bombs = [Bomb(steps)] if way == "step" else []
            resume = path if os.path.exists(path) else None
            if way == "call":
                kill_at_call(call, after)
            train(model, *bombs, Checkpoint(path, **every), resume=resume)
            with open(os.path.join(folder, "end"), "wb") as file:
                file.write(ending(model))
            os._exit(0)
        finally:
            os._exit(1)
    if way == "moment":
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if status and os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"an attempt ended with {status}")
    return not status


def main(folder, device, seed, kills, kind):
    """Kill until it is enough; print how often, and whether every training ended alike."""
    warnings.simplefilter("error")
    metrics.Tally.ROWS = 50  # so that there are sums within an epoch
    draw, path = random.Random(int(seed)), os.path.join(folder, "run.safetensors")
    model = begin(device)
    train(model)
    start = time.perf_counter()
    model = begin(device)
    train(model)
    length_s, whole = time.perf_counter() - start, ending(model)
    done = lost = different = trainings = 0
    while done < int(kills):
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        saved = None
        while not attempt(folder, device, draw, kind, length_s):
            done += 1
            if os.path.exists(path):
                try:
                    state = read(path).state
                    now = (state["epoch"], state["step"])
                    lost += saved is not None and now < saved
                    saved = now
                except nnx.CheckpointError:
                    lost += 1
            else:
                lost += saved is not None
        trainings += 1
        with open(os.path.join(folder, "end"), "rb") as file:
            different += file.read() != whole
    found = {"kills": done, "trainings": trainings, "lost": lost, "different": different}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
