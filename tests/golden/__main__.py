"""The emitted text of three steps, for the CPU and for GPUs, kept in this folder.

python -m tests.golden    writes them anew, after a change of the emitter that is meant
"""

import functools
from pathlib import Path

import numpy as np

import nnx
from nnx import nn, optim, random
from nnx.kernels.cuda_text import library
from tests.cuda_machine import emulation

FOLDER = Path(__file__).parent


def stepped(model, optimizer, loss, x, y):
    """Return the text of a training step."""

    def step(x, y):
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value

    given = (nnx.asarray(a, device="numba") for a in (x, y))
    return nnx.jit(step).lower(*given).source


def classifier():
    """Two layers, cross-entropy, gradient descent."""
    random.seed(0)
    model = nn.Sequential(nn.Dense(8, "relu", in_features=5), nn.Dense(3, in_features=8))
    model = model.to("numba")
    x, y = np.ones((4, 5), "f4"), np.zeros(4, "i8")
    return stepped(model, optim.SGD(model.parameters(), lr=0.1), nn.cross_entropy, x, y)


def regularised():
    """Layer norm, dropout, Adam."""
    random.seed(0)
    model = nn.Sequential(
        nn.Dense(8, "gelu", in_features=5), nn.LayerNorm(8), nn.Dropout(0.25),
        nn.Dense(3, in_features=8),
    )  # fmt: skip
    model = model.to("numba")
    x, y = np.ones((4, 5), "f4"), np.zeros(4, "i8")
    return stepped(model, optim.Adam(model.parameters(), lr=1e-3), nn.cross_entropy, x, y)


def regression():
    """Tanh in float64, momentum."""
    random.seed(0)
    model = nn.Sequential(nn.Dense(6, "tanh", in_features=2), nn.Dense(1, in_features=6))
    model = model.to("numba").to(nnx.float64)
    x, y = np.ones((4, 2)), np.ones((4, 1))
    return stepped(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9), nn.mse, x, y)


def kernels(step):
    """Return a step's text for GPUs, without the library before it."""
    with emulation():
        return step().removeprefix(library()).lstrip()


STEPS = {f.__name__: f for f in (classifier, regularised, regression)}
TEXTS = {
    **{f"{name}.py": step for name, step in STEPS.items()},
    **{f"{name}.cu": functools.partial(kernels, step) for name, step in STEPS.items()},
}


def main():
    for name, text in TEXTS.items():
        path = FOLDER / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(text(), encoding="utf-8")
        print(f"{path}: {'as it was' if path.read_text(encoding='utf-8') == before else 'changed'}")


if __name__ == "__main__":
    main()
