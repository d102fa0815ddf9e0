"""Small steps that run every kind of emitted kernel: what compute-sanitizer looks at.

python -m nnx.benchmarks.gpu_checked [DEVICE]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

CALLS = 3
"""Launched, captured, replayed."""
ROWS = 70


def functions() -> list[Any]:
    """Return functions of a tensor (70, 33) that need one kind of kernel or another."""
    import nnx

    return [
        lambda x: nnx.tanh(x) * nnx.exp(-x) + x,
        lambda x: nnx.softmax(x, axis=1),
        lambda x: nnx.sum(x, axis=0),
        lambda x: nnx.sum(x, axis=1),
        lambda x: nnx.sum(x * x),
        lambda x: nnx.max(x, axis=0),
        lambda x: nnx.argmax(x, axis=1),
        lambda x: nnx.cumulative_sum(x, axis=1),
        lambda x: nnx.permute_dims(x, (1, 0)) + 1.0,
        lambda x: x[1::2, ::-1] * 2.0,
        lambda x: nnx.concat([x, x], axis=1),
        lambda x: x @ nnx.permute_dims(x, (1, 0)),
        lambda x: nnx.grad(lambda z: nnx.sum(nnx.logsumexp(z, axis=1)))(x),
    ]


def models() -> list[Any]:
    """Return networks with an optimizer each."""
    from nnx import nn, optim

    return [
        (lambda: nn.Sequential(nn.Dense(16, "relu", in_features=33), nn.Dense(5, in_features=16)),
         optim.SGD(0.1, momentum=0.9)),
        (lambda: nn.Sequential(
            nn.Dense(20, "tanh", in_features=33), nn.LayerNorm(20), nn.Dropout(0.25),
            nn.Dense(12, "gelu", in_features=20), nn.Dense(5, in_features=12)),
         optim.Adam(1e-2)),
        (lambda: nn.Sequential(nn.Dense(300, "sigmoid", in_features=33),
                               nn.Dense(5, in_features=300)),
         optim.RMSprop(1e-3)),
    ]  # fmt: skip


def main(device: str = "cupy") -> int:
    """Run everything, and print how many results there were; none is looked at."""
    import nnx

    if device == "cupy":
        import cupy  # type: ignore[import-not-found, unused-ignore]

        # Each array by itself, so that what lies beside it is nobody's.
        cupy.cuda.set_allocator(None)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 33), dtype=np.float32)
    y = rng.integers(0, 5, ROWS)
    n = 0
    for function in functions():
        jitted, given = nnx.jit(function), nnx.asarray(x, device=device)
        for _ in range(CALLS):
            jitted(given).numpy()
            n += 1
    for build, optimizer in models():
        nnx.random.seed(0)
        model = build()
        model.compile(optimizer, "cross_entropy", metrics=["accuracy"], device=device)
        # The last batch is smaller, and the second epoch goes many steps at once.
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)
        model.predict(x)
        n += 1
    nnx.device(device).synchronize()
    print(f"{n} results")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
