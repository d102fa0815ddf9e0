"""What a training was begun with, told apart by texts that messages can show.

A checkpoint holds them, and `fit` goes on from one only where they are the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nnx import random
from nnx.batches import ArrayData, ClassWeight, Data
from nnx.errors import CheckpointError
from nnx.metrics import Metric
from nnx.outputs import Several, named
from nnx.tensor import Tensor, asarray
from nnx.tree import flatten

if TYPE_CHECKING:
    from nnx.loop import Compiled
    from nnx.nn import Module
    from nnx.optim import Optimizer

Facts = Mapping[str, Any]
"""By name; a function is one that takes time, and is called when it is first needed."""

HASHED = 1 << 19
"""How many numbers of each array of a data set go into its fingerprint."""
SHOWN = 4
"""How many differences between two networks are told."""
PROBED_STEPS = [0, *(n * 10**k for k in range(7) for n in (1, 2, 5))]
"""At which steps the rates of two schedules are compared."""


def facts_of(
    model: Module, setup: Compiled, *, size: int, shuffle: bool, data: Data,
    validation: Data | None, class_weight: ClassWeight | None, weight: Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what decides a training, by the name it has in messages.

    ``weight`` is sample_weight as it was given. The data is told apart by the shapes, the types and
    a SHA-256 of each of its arrays: of all of an array to half a million numbers, of rows spread
    evenly over a larger one. That catches another data set, split, order or scale, and rows added
    or lost; not a few values changed in a large one. Of an iterable only the shapes of its batches
    are known.
    """
    optimizer = setup.optimizer
    facts: dict[str, Any] = {
        "network": architecture(model) or _without_addresses(repr(model)),
        "parameter type": ", ".join(sorted({str(p.dtype) for p in model.parameters()})),
        "optimizer": type(optimizer).__name__,
        "optimizer's lr": _rate_text(optimizer),
    }
    facts |= {f"optimizer's {k}": repr(v) for k, v in vars(optimizer).items() if _is_setting(k, v)}
    return facts | {
        "loss": _described(setup.loss),
        "metrics": ", ".join(map(_metric_text, _metrics_of(setup))) or "none",
        "batch_size": size,
        "shuffle": shuffle,
        "data": _data_fact(data),
        "validation data": "none" if validation is None else _data_fact(validation),
        "class_weight": repr(sorted(class_weight.items())) if class_weight else "none",
        "sample_weight": "none" if weight is None else functools.partial(_fingerprint, weight),
        "seed": random.default_generator().state_dict()["seed"],
    }


def _metrics_of(setup: Compiled) -> list[Metric]:
    if isinstance(setup.loss, Several):
        return [metric for found in setup.loss.metrics for metric in found]
    return list(setup.metrics)


def architecture(model: Module) -> str:
    """Return a network's description; empty for a user's own module, which code builds again."""
    from nnx.nn import to_config

    try:
        return json.dumps(to_config(model))
    except CheckpointError:
        return ""


def difference(name: str, there: Any, here: Any) -> str:
    """Return how a fact differs; of described networks the first settings that do."""
    if name == "network":
        try:
            found = list(_differing(json.loads(there), json.loads(here)))
        except (TypeError, ValueError):  # code of the user's own
            found = []
        if found:
            more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            return f"network is not the same: {', '.join(found[:SHOWN])}{more}"
    return f"{name} is {there} there and {here} here"


def _differing(there: Any, here: Any, at: str = "") -> Iterator[str]:
    """Yield where two descriptions part."""
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() == here.keys():
        for key in here:
            yield from _differing(there[key], here[key], f"{at}.{key}" if at else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for i, pair in enumerate(zip(there, here, strict=True)):
            yield from _differing(*pair, f"{at}[{i}]")
    elif isinstance(there, list) and isinstance(here, list):
        yield f"{at} has {len(there)} there and {len(here)} here"
    elif there != here:
        yield f"{at} is {_kind(there)} there and {_kind(here)} here"


def _kind(value: Any) -> Any:
    return value.get("kind", value) if isinstance(value, dict) else value


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _is_setting(name: str, value: Any) -> bool:
    if name.startswith("_") or name in ("step_count", "xp"):
        return False
    if isinstance(value, tuple | list):
        return all(_is_setting("", item) for item in value)
    return isinstance(value, bool | int | float | str | None)


def _rate_text(optimizer: Optimizer) -> str:
    """Return the rate, or the rates of a schedule at some steps, which is all one can see of it."""
    schedule = optimizer._schedule
    if schedule is None:
        return repr(optimizer.lr)
    rates = []
    for step in PROBED_STEPS:
        try:
            rates.append(f"{float(schedule(step)):.9g}")
        except Exception:  # past the end of a user's table
            rates.append("-")
    return f"a schedule {', '.join(rates)}"


def _described(function: Any) -> str:
    if isinstance(function, Several):
        parts = zip(function.names, function.functions, function.weights, strict=True)
        return ", ".join(f"{name}: {weight:g} {_described(f)}" for name, f, weight in parts)
    if isinstance(function, functools.partial):
        settings = [*map(repr, function.args)]
        settings += [f"{name}={value!r}" for name, value in sorted(function.keywords.items())]
        text = f"{_described(function.func)}({', '.join(settings)})"
        return _without_addresses(text)
    return str(getattr(function, "__name__", type(function).__name__))


def _metric_text(metric: Metric) -> str:
    options = isinstance(metric.measure, functools.partial)
    return _described(metric.measure) if options else metric.name


def _data_fact(data: Data) -> str | Callable[[], str]:
    if isinstance(data, ArrayData):
        return functools.partial(_columns_text, data)
    shapes = [f"({', '.join(['B', *map(str, p.shape[1:])])})" for p in flatten(data.head(1))[0]]
    return f"batches of {', '.join(shapes)}, {data.steps(1) or 'it is not known how'} many"


def _columns_text(data: ArrayData) -> str:
    x, y = data.sources()
    parts = [(name, part) for what, tree in (("x", x), ("y", y)) if tree is not None
             for name, part in named(what, tree)]  # fmt: skip
    return " with ".join(f"{name} {_fingerprint(part)}" for name, part in parts)


def _fingerprint(column: Any) -> str:
    """Return shape, kind and SHA-256 of an array's rows, the same for every device.

    Of a host array that is read by rows only some are read too.
    """
    import numpy as np

    rows = column.shape[0]
    n = max(64, HASHED // max(column.size // rows, 1))
    if not isinstance(column, Tensor):
        some = column[np.linspace(0, rows - 1, n).astype(np.int64)] if n < rows else column
        column = asarray(np.ascontiguousarray(some), device="numpy")
    elif n < rows:
        at = asarray(np.linspace(0, rows - 1, n).astype(np.int64), device=column.device)
        column = Tensor(
            column.device.kernels["take"](column.array, at.array, axis=0), column.device
        )
    host = np.ascontiguousarray(column.numpy())
    # Devices without 64-bit integers hold classes in narrower ones.
    host = host.astype(np.int64) if host.dtype.kind in "iu" else host
    digest = hashlib.sha256(host.tobytes()).hexdigest()[:16]
    return f"{(rows, *host.shape[1:])} of {host.dtype.name}, SHA-256 {digest}"
