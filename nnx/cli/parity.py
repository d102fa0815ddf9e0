"""`nnx parity`: the first batches of a run on several devices, and where their numbers part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nnx.cli.options import UsageError, choose_device, whole
from nnx.cli.output import note, on_terminal, print_json, print_rows

KINDS = ("activation", "loss", "gradient", "weight")


def parity(
    run: str, devices: str | None, data: str | None, steps: int, seed: int, *, as_json: bool
) -> None:
    """Compare the devices and print what differs."""
    import nnx
    from nnx.cli.inference import load_model, training_rows
    from nnx.cli.run import read_config
    from nnx.parity import parity as compare

    folder = Path(run)
    config = read_config(folder)
    whole("--steps", steps, 1)
    names = _devices(devices)
    x, y = training_rows(config, data or config.data)
    size = config.batch_size
    if len(x) < size:
        size = len(x)
    batches = [
        (x[start : start + size], y[start : start + size])
        for start in range(0, min(steps * size, len(x) - size + 1), size)
    ]
    if len(batches) < steps:
        note(f"the data has {len(batches)} whole batches of {size} rows: so many steps are taken.")
    nnx.random.seed(seed)
    model = load_model(folder, choose_device(names[0], measure=False))
    optimizer = nnx.optim.get(config.optimizer, config.lr)
    found = compare(model, batches, loss=config.loss, optimizer=optimizer, devices=names)
    if as_json:
        print_json(_document(found, len(batches)))
        return
    _print(found, len(batches), size)


def _devices(given: str | None) -> list[str]:
    """Return the devices named, or all built-in ones that are here, checked."""
    import nnx

    if given is None:
        usable = [info.name for info in nnx.devices() if info.available]
        return [name for name in ("numpy", "numba", "cupy") if name in usable]
    names = [word.strip() for word in given.split(",") if word.strip()]
    found = [choose_device(name, measure=False).name for name in names]
    if len(set(found)) < 2:
        raise UsageError(
            f"--devices {given} names {len(set(found))} device: parity compares two or more, such "
            f"as numpy,numba."
        )
    return found


def _document(found: Any, steps: int) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "steps": steps,
        "devices": {
            name: {
                "first": None if found.first(name) is None else found.first(name)._asdict(),
                "largest": [d._asdict() for d in found.worst(name)],
            }
            for name in found.devices
        },
    }


def _print(found: Any, steps: int, size: int) -> None:
    print(
        f"{steps} training step{'s' * (steps != 1)} of {size} rows; reference {found.reference}",
        file=sys.stderr if not on_terminal() else sys.stdout,
    )
    rows = [
        (name, d.kind, d.name, _short(d.absolute), _short(d.relative), _short(d.ulp))
        for name in found.devices
        for d in sorted(found.worst(name), key=lambda d: KINDS.index(d.kind))
    ]
    columns = ("device", "of", "layer", "absolute", "relative", "ulp")
    print_rows(columns, rows, "the largest differences over all steps")
    for name in found.devices:
        first = found.first(name)
        if first is None:
            note(f"{name} has the bits of {found.reference} everywhere.")
            continue
        where = f"the {first.kind} {first.name}".rstrip()
        note(
            f"{name} parts from {found.reference} first in step {first.step}, in {where}: "
            f"{_short(first.ulp)} ulp, {_short(first.absolute)} absolute."
        )


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if value < 1e5 else f"{value:.1e}"
