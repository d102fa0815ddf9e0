"""Compiled steps on the stand-in for CuPy: what a user of a GPU sees of them."""

import sys
import threading

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.backends import cupy_backend
from tests import fake_cupy
from tests.cuda_on_cpu import available

if reason := available():
    pytest.skip(reason, allow_module_level=True)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 6)).astype("f4"), np.arange(32) % 3


@pytest.fixture(params=["cupy", "cupy:1"])
def device(request):
    with fake_cupy.installed():
        yield request.param


class Trained:
    """A network, its optimizer, and a compiled step."""

    def __init__(self, device):
        nnx.random.seed(0)
        layers = nn.Dense(8, "relu", in_features=6), nn.Dense(3, in_features=8)
        self.model = nn.Sequential(*layers).to(device)
        self.opt = optim.Adam(self.model.parameters(), lr=0.01)
        self.x, self.y = (nnx.asarray(a, device=device) for a in (X, Y))
        model, opt = self.model, self.opt

        @nnx.jit
        def step(x, y):
            opt.zero_grad()
            loss = nn.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        self.step = step

    def weights(self):
        return [p.numpy().copy() for p in self.model.parameters()]


def machine_of(device):
    index = int(device.partition(":")[2] or 0)
    return cupy_backend.BACKEND._machines[index]


def test_step_is_captured_and_equals_the_cpu_s(device):
    here, cpu = Trained(device), Trained("numpy")
    losses = [(here.step(here.x, here.y).item(), cpu.step(cpu.x, cpu.y).item()) for _ in range(6)]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-5)
    for mine, theirs in zip(here.weights(), cpu.weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    assert machine_of(device).replays == 2 * 5  # the first call is launched; a step is two graphs


def test_wrong_label_is_the_cpu_s_error_and_changes_nothing(device):
    here, cpu = Trained(device), Trained("numpy")
    here.step(here.x, here.y)
    before, steps = here.weights(), here.opt.state_dict()["step_count"]
    wrong = np.full(32, 3)
    with pytest.raises(nnx.LabelError) as of_cpu:
        cpu.step(cpu.x, nnx.asarray(wrong, device="numpy"))
    for _ in range(3):  # launched, captured, replayed
        with pytest.raises(nnx.LabelError) as found:
            here.step(here.x, nnx.asarray(wrong, device=device))
        assert str(found.value) == str(of_cpu.value)
    assert all(map(np.array_equal, here.weights(), before))
    assert here.opt.state_dict()["step_count"] == steps
    here.step(here.x, here.y)
    assert not any(map(np.array_equal, here.weights(), before))


def test_precision_is_that_of_the_call(device):
    here = Trained(device)
    forward = nnx.jit(lambda x: here.model(x))
    exact = forward(here.x).numpy()
    try:
        nnx.set_matmul_precision("medium")
        rounded = forward(here.x).numpy()
    finally:
        nnx.set_matmul_precision("highest")
    error = abs(rounded - exact).max()
    assert 1e-4 < error / abs(exact).max() < 2e-2  # bfloat16 keeps 8 bits
    assert np.array_equal(forward(here.x).numpy(), exact)


@pytest.mark.parametrize("jitted", [True, False])
def test_products_in_float16_train_float32_weights_with_a_loss_scale(device, jitted):
    def trained(precision, **settings):
        nnx.random.seed(0)
        model = nn.Sequential(nn.Dense(8, "relu", in_features=6), nn.Dense(3, in_features=8))
        model.compile(optim.SGD(0.1, **settings), "cross_entropy", device=device)
        nnx.set_matmul_precision(precision)
        try:
            history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, jit=jitted)
        finally:
            nnx.set_matmul_precision("highest")
        assert all(p.dtype is nnx.float32 for p in model.parameters())
        return history.history["loss"]

    exact, narrow = trained("highest"), trained("float16", loss_scale=2.0**10)
    assert narrow != exact
    np.testing.assert_allclose(narrow, exact, rtol=2e-3)


def test_float16_is_compiled(device):
    here = Trained(device)
    exact = here.model(here.x).numpy()
    here.model.to(nnx.float16)
    out = nnx.jit(lambda x: here.model(x))(here.x.astype("float16"))
    assert out.dtype is nnx.float16
    np.testing.assert_allclose(out.numpy().astype("f4"), exact, atol=5e-3)


def test_profile_names_kernels_and_products_and_changes_nothing(device, monkeypatch):
    rates = {"products": {"all threads": 1.0}, "memory": [[100.0, 40.0], [10_000.0, 10.0]]}
    monkeypatch.setattr("nnx.rates.of_device", lambda device: rates)
    here = Trained(device)
    here.step(here.x, here.y)
    before = here.weights()
    found = nnx.profile(here.step, here.x, here.y)
    names = [row.name for row in found.rows]
    assert names.count("matmul") == 5 and any("exp" in name for name in names)
    assert all(row.time_s > 0 for row in found.rows)
    product = next(row for row in found.rows if row.name == "matmul")
    assert product.flops == 2 * 32 * 6 * 8
    assert all(map(np.array_equal, here.weights(), before))


def test_lowered_form_tells_kernels_and_shows_their_text(device):
    here = Trained(device)
    lowered = here.step.lower(here.x, here.y)
    assert lowered.stats()["kernels"] == 8
    assert "__global__" in lowered.source and "// %" in lowered.source


def test_forked_process_is_told_to_spawn(device, monkeypatch):
    here = Trained(device)
    here.step(here.x, here.y)
    monkeypatch.setattr(cupy_backend._process, "forked", True)
    with pytest.raises(nnx.DeviceError, match="spawn"):
        here.step(here.x, here.y)


def test_threads_take_turns_on_a_gpu(device):
    def weights_of(here, x):
        for _ in range(12):
            here.step(x, here.y)
        return here.weights()

    def begun():
        made = [Trained(device) for _ in range(3)]
        return [(here, here.x * float(1 + i)) for i, here in enumerate(made)]

    alone = [weights_of(*one) for one in begun()]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        barrier, several, made = threading.Barrier(3), begun(), [None] * 3

        def run(i):
            barrier.wait()
            made[i] = weights_of(*several[i])

        threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(alone, made, strict=True):
        assert all(map(np.array_equal, one, other))
