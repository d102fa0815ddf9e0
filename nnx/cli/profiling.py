"""`nnx bench --profile`: the kernels of one training step of a network, on each device."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx.cli.bench import check_json, words_of
from nnx.cli.options import UsageError, Where, choose_device
from nnx.cli.output import note, print_json
from nnx.files import replace_file

if TYPE_CHECKING:
    from nnx.nn import Module
    from nnx.profile import Profile

BATCH_SIZE = 32
LR = 1e-3


class Plan(NamedTuple):
    """A network to be trained: how it is made on a device, and what a step of it needs.

    ``make`` returns it compiled, with its optimizer and loss.
    """

    name: str
    make: Callable[[Where], Module]
    n_in: int
    n_out: int
    loss: str
    optimizer: str


def profile(model: str, devices: str | None, json_file: str | None) -> None:
    """Measure one training step on each device named, and print or write what was found."""
    plan = _plan(model)
    names = [None] if devices is None else words_of(devices)
    if not names:
        raise UsageError("--devices is empty: it takes names such as numba,numpy.")
    places = [choose_device(name, measure=False) for name in names]
    check_json(json_file)
    found = []
    for where in places:
        note(f"a step of {plan.name} on {where.name}: batch {BATCH_SIZE}, {plan.loss}, "
             f"{plan.optimizer}.")  # fmt: skip
        found.append(measured(plan, where))
        if json_file != "-":
            print(found[-1], end="\n\n" if len(found) < len(places) else "\n")
    if json_file is not None:
        _write(plan, found, json_file)


def _plan(model: str) -> Plan:
    """Return what a directory of `nnx train`, or sizes such as 784-16-16-10, mean."""
    if Path(model).is_dir():
        return _of_run(Path(model))
    if not re.fullmatch(r"[1-9][0-9]*(-[1-9][0-9]*)+", model):
        raise UsageError(
            f"--profile {model!r} is neither a directory of nnx train nor the sizes of a network, "
            f"two or more of at least 1 with hyphens, such as 784-16-16-10."
        )
    sizes = tuple(map(int, model.split("-")))
    return Plan(
        model, lambda where: _dense(sizes, where), sizes[0], sizes[-1], "cross_entropy", "sgd"
    )


def _of_run(folder: Path) -> Plan:
    from nnx.cli.run import read_config

    config = read_config(folder)

    def make(where: Where) -> Module:
        from nnx import checkpoint, optim, resume
        from nnx.cli.inference import load_model
        from nnx.cli.run import CHECKPOINT

        model = load_model(folder, where)
        optimizer = optim.get(config.optimizer, config.lr)
        model.compile(optimizer=optimizer, loss=config.loss, device=where.name)
        if (folder / CHECKPOINT).exists():
            arrays = resume.read(folder / CHECKPOINT).arrays
            model.load_state_dict(checkpoint.within("model.", arrays))
            optimizer.bind(model).load_state_dict(checkpoint.within("optimizer.", arrays))
        return model

    return Plan(str(folder), make, config.n_features, config.outputs, config.loss, config.optimizer)


def _dense(sizes: tuple[int, ...], where: Where) -> Module:
    """Return layers of these sizes with relu between them, SGD and cross-entropy."""
    import itertools

    from nnx import device, nn, optim, random

    random.seed(0)
    pairs = list(itertools.pairwise(sizes))
    with device(where.name):
        hidden = [nn.Dense(n_out, "relu", in_features=n_in) for n_in, n_out in pairs[:-1]]
        model = nn.Sequential(*hidden, nn.Dense(pairs[-1][1], in_features=pairs[-1][0]))
    model.compile(optimizer=optim.SGD(LR), loss="cross_entropy", device=where.name)
    return model


def measured(plan: Plan, where: Where) -> Profile:
    """Return the profile of a training step on random rows."""
    import nnx
    from nnx.fit import compiled

    model = plan.make(where)
    setup = compiled(model)
    optimizer, loss_of = setup.optimizer, setup.loss
    if not optimizer.bound:
        optimizer.bind(model.parameters())

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = (nnx.asarray(part, device=where.name) for part in _batch(plan))
    return nnx.profile(nnx.jit(step), x, y)


def _batch(plan: Plan) -> tuple[Any, Any]:
    """Return random rows, and targets that the loss takes."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.random((BATCH_SIZE, plan.n_in), np.float32)
    if plan.loss == "cross_entropy":
        return x, rng.integers(0, plan.n_out, BATCH_SIZE)
    y = rng.random((BATCH_SIZE, plan.n_out), np.float32)
    return x, np.round(y) if plan.loss == "binary_cross_entropy" else y


def _write(plan: Plan, found: list[Profile], json_file: str) -> None:
    from nnx.benchmarks import machine

    results = {
        "machine": machine.describe(),
        "model": plan.name, "batch_size": BATCH_SIZE, "loss": plan.loss,
        "optimizer": plan.optimizer,
        "profiles": [
            {"device": p.device, "call_s": p.call_s, "total_s": p.total_s,
             "resolution_s": p.resolution_s, "rows": [row._asdict() for row in p.rows]}
            for p in found
        ],
    }  # fmt: skip
    if json_file == "-":
        print_json(results)
        return
    text = json.dumps(results, indent=2)
    replace_file(Path(json_file), [memoryview(f"{text}\n".encode())])
    note(f"the figures are in {json_file}")


__all__ = ["measured", "profile"]
