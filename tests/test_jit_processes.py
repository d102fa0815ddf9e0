"""Compiled functions after a fork, and in several Python threads at once."""

import contextlib
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest

import nnx
from nnx import nn, optim, random
from nnx.kernels import cache

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
LIMIT_S = 60


def in_child(work):
    """Return the status of a forked child that does some work; kill one that hangs."""
    with warnings.catch_warnings():
        # Of forks beside threads, since Python 3.12: that is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def trained(n_in, width, steps, device="numba", step=None):
    """Return a step with its model, after some training."""
    random.seed(0)
    model = nn.Sequential(
        nn.Dense(width, "relu", in_features=n_in), nn.Dropout(0.25), nn.Dense(3, in_features=width)
    ).to(device)
    opt = optim.Adam(model.parameters(), lr=1e-2)

    def plain(x, y):
        opt.zero_grad()
        loss = nn.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    step = nnx.jit(plain)
    rng = np.random.default_rng(0)
    x = nnx.asarray(rng.normal(size=(256, n_in)).astype("f4"), device=device)
    y = nnx.asarray(rng.integers(0, 3, 256), device=device)
    for _ in range(steps):
        step(x, y)
    return lambda: step(x, y).item(), model


@forks
def test_a_child_goes_on_where_the_parent_was():
    # 256 x 700 x 300 multiply-adds: enough for the BLAS to use threads.
    step, _ = trained(700, 300, 2)
    read, write = os.pipe()

    def work():
        os.write(write, repr([step() for _ in range(3)]).encode())

    assert in_child(work) == 0
    here = [step() for _ in range(3)]
    assert os.read(read, 4096).decode() == repr(here)
    assert here[0] > here[2] > 0
    os.close(read)
    os.close(write)


@forks
def test_a_child_compiles_what_the_parent_had_not():
    x = nnx.asarray(np.arange(5.0), device="numba")
    nnx.jit(lambda x: nnx.sum(x * 3.0))(x)
    f = nnx.jit(lambda x: nnx.sum(nnx.exp(x) * 1.25))

    def work():
        assert abs(f(x).item() - 1.25 * np.exp(np.arange(5.0)).sum()) < 1e-9

    assert in_child(work) == 0


@forks
def test_a_fork_waits_for_what_is_being_compiled(monkeypatch):
    """A child would else begin with a compiler in the middle of its work."""
    inside, go_on = threading.Event(), threading.Event()
    load = cache._load

    def slow(*arguments):
        inside.set()
        go_on.wait(LIMIT_S)
        return load(*arguments)

    f = nnx.jit(lambda x: nnx.sum(x * 7.25))
    x = nnx.asarray(np.arange(5.0), device="numba")
    monkeypatch.setattr(cache, "_load", slow)
    thread = threading.Thread(target=lambda: f(x))
    thread.start()
    assert inside.wait(LIMIT_S)
    timer = threading.Timer(0.2, go_on.set)
    timer.start()

    def work():
        monkeypatch.setattr(cache, "_load", load)
        assert go_on.is_set()
        assert f(x).item() == 72.5
        assert nnx.jit(lambda x: nnx.sum(x * 8.5))(x).item() == 85.0

    assert in_child(work) == 0
    thread.join()


@forks
def test_a_child_has_the_locks_of_objects_open():
    f = nnx.jit(lambda x: nnx.sum(x * 2.0))
    x = nnx.asarray(np.arange(4.0), device="numba")
    f(x)
    generator = random.Generator(3)
    (entry,) = next(iter(f._entries.values()))
    locks = [f._lock, generator._lock, entry.program().lock]
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            go_on.wait(LIMIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(LIMIT_S)

    def work():
        assert f(x).item() == 12.0
        assert generator.host_integers(0, 9, 3).shape == (3,)

    try:
        assert in_child(work) == 0
    finally:
        go_on.set()
        thread.join()
    assert f(x).item() == 12.0


# Threads

N_THREADS, CALLS = 8, 40


def in_threads(works):
    """Run functions at once, each in a thread; return their results, or raise what one raised."""
    results, errors = [None] * len(works), []
    start = threading.Barrier(len(works))

    def run(i):
        try:
            start.wait(LIMIT_S)
            results[i] = works[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def inputs_of(i):
    rng = np.random.default_rng(i)
    # Batches of several sizes, so that threads also meet in the choice of work memory.
    return rng.normal(size=(3 + i, 20)).astype("f4"), rng.normal(size=(20, 20)).astype("f4")


def network(x, w):
    h = nnx.tanh(x @ w)
    return nnx.softmax(h @ w, axis=-1), nnx.grad(lambda w: nnx.sum(nnx.tanh(x @ w)))(w)


def test_one_function_in_eight_threads():
    f = nnx.jit(network)
    given = [tuple(nnx.asarray(a, device="numba") for a in inputs_of(i)) for i in range(N_THREADS)]
    serial = nnx.jit(network)
    wanted = [[out.numpy().copy() for out in serial(*pair)] for pair in given]

    def work(i):
        return [[out.numpy().copy() for out in f(*given[i])] for _ in range(CALLS)]

    results = in_threads([lambda i=i: work(i) for i in range(N_THREADS)])
    for right, many in zip(wanted, results, strict=True):
        for outs in many:
            for a, b in zip(outs, right, strict=True):
                np.testing.assert_array_equal(a, b)


def test_eight_functions_in_eight_threads():
    """Each is traced, compiled and run by its own thread; they share a weight."""
    rng = np.random.default_rng(0)
    w = nnx.asarray(rng.normal(size=(20, 20)).astype("f4"), device="numba")
    x = nnx.asarray(rng.normal(size=(6, 20)).astype("f4"), device="numba")

    def made(k):
        return nnx.jit(lambda x, w: nnx.sum(nnx.tanh(x @ w) * float(k + 1), axis=0))

    wanted = [made(k)(x, w).numpy().copy() for k in range(N_THREADS)]
    functions = [made(k) for k in range(N_THREADS)]

    def work(k):
        return [functions[k](x, w).numpy().copy() for _ in range(CALLS)]

    results = in_threads([lambda k=k: work(k) for k in range(N_THREADS)])
    for right, many in zip(wanted, results, strict=True):
        for out in many:
            np.testing.assert_array_equal(out, right)


def test_networks_train_in_threads_as_one_after_another():
    def train(seed):
        generator = np.random.default_rng(seed)
        w = nnx.asarray(generator.normal(size=(6, 4)).astype("f4"), device="numba")
        x = nnx.asarray(generator.normal(size=(32, 6)).astype("f4"), device="numba")
        y = nnx.asarray(generator.integers(0, 4, 32), device="numba")

        @nnx.jit
        def step(w, x, y):
            return w - 0.5 * nnx.grad(lambda w: nnx.cross_entropy(x @ w, y))(w)

        for _ in range(20):
            w = step(w, x, y)
        return w.numpy()

    serial = [train(seed) for seed in range(N_THREADS)]
    results = in_threads([lambda s=s: train(s) for s in range(N_THREADS)])
    for a, b in zip(results, serial, strict=True):
        np.testing.assert_array_equal(a, b)
