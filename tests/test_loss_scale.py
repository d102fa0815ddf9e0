"""Loss scaling: the same training, but for steps whose gradients leave the range."""

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.errors import DataError
from nnx.optim import scaling

WAYS = [("loops", False), ("numpy", False), ("numpy", True), ("numba", True)]
START, LARGE = 2.0**24, np.float32(1e33)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 6)).astype("f4"), np.arange(48) % 3


class Line:
    """One weight whose gradient is `LARGE` before it is scaled."""

    def __init__(self, device, jitted, optimizer=optim.SGD, **settings):
        self.w = nnx.Parameter(nnx.asarray(np.float32([1.0, 2.0]), device=device))
        self.opt = optimizer([self.w], lr=float(np.float32(1e-34)), loss_scale=START, **settings)
        self.x = nnx.asarray(np.full(2, LARGE), device=device)
        w, opt = self.w, self.opt

        def step(x):
            opt.zero_grad()
            opt.scaled((w * x).sum()).backward()
            opt.step()

        self.step = nnx.jit(step) if jitted else step

    def scale(self):
        return float(self.opt.state_dict()["loss_scale.scale"])


@pytest.mark.parametrize(("device", "jitted"), WAYS)
def test_steps_that_overflow_change_nothing_and_halve_the_scale(device, jitted):
    line = Line(device, jitted, momentum=0.5)
    # LARGE times 2**18 is the largest below the end of float32.
    for k in range(6):
        line.step(line.x)
        assert line.w.tolist() == [1.0, 2.0] and line.scale() == 2.0 ** (23 - k)
        assert not line.opt.state_dict()["0.velocity"].any()
    line.step(line.x)
    assert line.scale() == 2.0**18
    moved = np.float32([1.0, 2.0]) - np.float32(1e-34) * LARGE
    np.testing.assert_array_equal(line.w.numpy(), moved)


@pytest.mark.parametrize(("device", "jitted"), WAYS)
def test_finite_steps_double_the_scale(device, jitted, monkeypatch):
    monkeypatch.setattr(scaling, "GROWTH_INTERVAL", 3)
    line = Line(device, jitted)
    small = line.x * np.float32(1e-33)
    line.step(line.x)  # overflows, and so begins to count anew
    scales = []
    for _ in range(7):
        line.step(small)
        scales.append(line.scale())
    assert scales == [2.0**23] * 2 + [2.0**24] * 5  # not above the largest


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.3}, {"clip_value": 0.01}])
@pytest.mark.parametrize(("device", "jitted"), WAYS)
def test_finite_steps_are_those_without_a_scale(device, jitted, settings):
    def trained(scale):
        nnx.random.seed(0)
        model = nn.Sequential(nn.Dense(8, "tanh", in_features=6), nn.Dense(3, in_features=8))
        model.to(device)
        opt = optim.Adam(model.parameters(), 0.01, weight_decay=0.1, loss_scale=scale, **settings)
        x, y = (nnx.asarray(a[:8], device=device) for a in (X, Y))

        def step(x, y):
            opt.zero_grad()
            loss = nn.cross_entropy(model(x), y)
            opt.scaled(loss).backward()
            opt.step()
            return loss

        step = nnx.jit(step) if jitted else step
        losses = [step(x, y).item() for _ in range(4)]
        return losses, [p.numpy() for p in model.parameters()]

    losses, weights = trained(None)
    scaled_losses, scaled = trained(2.0**10)
    if settings.get("clip_norm"):  # the norm is divided once more
        np.testing.assert_allclose(scaled_losses, losses, rtol=1e-6)
    else:  # by a power of two, so to the bit
        assert scaled_losses == losses and all(map(np.array_equal, scaled, weights))


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_fit_scales_and_goes_on_from_a_checkpoint(device, tmp_path):
    def trained(epochs, **more):
        nnx.random.seed(0)
        model = nn.Sequential(nn.Dense(8, "relu", in_features=6), nn.Dense(3, in_features=8))
        model.compile(optim.SGD(0.1, loss_scale=2.0**12), "cross_entropy", device=device)
        history = model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, **more)
        return history.history["loss"], [p.numpy() for p in model.parameters()]

    path = tmp_path / "run.safetensors"
    losses, weights = trained(4)
    trained(2, callbacks=[nnx.callbacks.Checkpoint(path)])
    again, resumed = trained(4, resume=path)
    assert again == losses and all(map(np.array_equal, resumed, weights))
    nnx.random.seed(0)
    plain = nn.Sequential(nn.Dense(8, "relu", in_features=6), nn.Dense(3, in_features=8))
    plain.compile(optim.SGD(0.1), "cross_entropy", device=device)
    assert plain.fit(X, Y, batch_size=8, epochs=4, verbose=0).history["loss"] == losses


def test_state_has_the_scale_and_takes_it_back():
    line, other = Line("numpy", False), Line("numpy", False)
    line.step(line.x)
    other.opt.load_state_dict(line.opt.state_dict())
    assert other.scale() == line.scale() == START / 2
    with pytest.raises(nnx.ShapeError, match=r"unknown: \['loss_scale\.scale'"):
        optim.SGD([nnx.Parameter([1.0, 2.0])]).load_state_dict(line.opt.state_dict())


@pytest.mark.parametrize("scale", [0, 3.0, 2.0**25, -2.0, float("nan"), True, "dynamic", 0.5])
def test_scale_that_loses_digits_or_range_is_refused(scale):
    with pytest.raises(DataError, match=r"loss_scale is a power of two from 1 to 2\*\*24"):
        optim.SGD([nnx.Parameter([1.0])], loss_scale=scale)


def test_misspelt_setting_has_a_hint():
    with pytest.raises(DataError, match="Did you mean 'loss_scale'"):
        optim.SGD([nnx.Parameter([1.0])], los_scale=2.0)


def test_scaled_without_a_scale_is_the_loss_itself():
    loss = nnx.asarray(2.0)
    assert optim.SGD([nnx.Parameter([1.0])]).scaled(loss) is loss
