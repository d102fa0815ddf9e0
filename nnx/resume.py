"""Trainings in files: what a checkpoint holds of one, and how `fit` goes on from it exactly.

A checkpoint has the weights and the optimizer's slots as arrays, and everything else as JSON: the
step count, how far the running epoch is and what it summed up, the history, the state of the random
generators and of the callbacks, and what the training was begun with, so that another one is
refused. The order of the rows is not in it: it is drawn again from the generator's state at the
start of the epoch. Not in it either: attributes of a user's own modules that are no parameters, no
buffers and no generators, and the state of other programs' random generators.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx import checkpoint, random
from nnx.batches import ArrayData, ClassWeight, Data
from nnx.errors import CheckpointError, NnxError
from nnx.files import previous_of
from nnx.metrics import Metric, Tally
from nnx.random import Generator
from nnx.tensor import Tensor, asarray

if TYPE_CHECKING:
    from nnx.callbacks import Callback, History, Hooks
    from nnx.loop import Compiled
    from nnx.nn import Module
    from nnx.optim import Optimizer

Path = str | os.PathLike[str]
Facts = Mapping[str, Any]

VERSION = 1
"""The version of what a training's entry in the metadata holds."""
HASHED_BYTES = 1 << 22
"""How much of each array of a data set goes into its fingerprint."""
PROBED_STEPS = [0, *(n * 10**k for k in range(7) for n in (1, 2, 5))]
"""At which steps the rates of two schedules are compared."""


class Running:
    """The unfinished epoch: its steps done, and what they sum up to."""

    def __init__(self, tally: Tally) -> None:
        self.step, self.rows, self.total = 0, 0, 0.0
        self.tally = tally


class Training:
    """One call of `fit`, as its checkpoints see it; callbacks find it in ``self.training``.

    It stands in ``epoch``, from 0, after ``running.step`` steps of it. ``saved`` tells the last
    file that was written, and the epoch and step it holds.
    """

    def __init__(
        self, model: Module, setup: Compiled, hooks: Hooks, history: History, data: Data,
        facts: Facts,
    ) -> None:  # fmt: skip
        self._model, self._setup, self._hooks = model, setup, hooks
        self._history, self._data, self._facts = history, data, facts
        self._resumed: dict[str, Any] | None = None
        self._written: set[str] = set()
        self.saved: tuple[str, int, int] | None = None
        self.enter(0)

    def enter(self, epoch: int) -> None:
        """Stand at the start of an epoch."""
        self.epoch, self.running = epoch, Running(Tally(self._setup.metrics))

    # Saving

    def save(self, path: Path) -> None:
        """Write all that ``fit(..., resume=path)`` needs to go on exactly from here.

        The file that it replaces is kept, with ``.previous`` after its name.
        Costs a copy, the hash, and what the disk takes: see ``python -m benchmarks.checkpoint``.
        Raises: CheckpointError where the system refuses; the file of before is then as it was.
        """
        import nnx

        model, optimizer = self._model, self._setup.optimizer
        arrays = {f"model.{key}": array for key, array in model.state_dict().items()}
        arrays |= {f"optimizer.{key}": array for key, array in optimizer.state_dict().items()}
        state = _packed("state", self._state(), arrays)
        texts = {
            "architecture": _architecture(model),
            "class": type(model).__name__,
            "version": f"{VERSION}, nnx {nnx.__version__}",
        }
        target = os.path.realpath(path)
        # What an earlier program left may be damaged, and must not take a sound one's place.
        keep = target in self._written or checkpoint.is_sound(path)
        texts = checkpoint.texts_of("training", training=json.dumps(state), **texts)
        checkpoint.write_tensors(path, arrays, texts, keep_previous=keep)
        self._written.add(target)
        self.saved = (os.fspath(path), self.epoch, self.running.step)

    @property
    def is_saved(self) -> bool:
        """Whether a file has the training as it stands."""
        return self.saved is not None and self.saved[1:] == (self.epoch, self.running.step)

    def _state(self) -> dict[str, Any]:
        running, history = self.running, self._history
        return {
            "facts": self.facts,
            "device": self._model.device.name,
            "epoch": self.epoch,
            "step": running.step,
            "rows": running.rows,
            "total": running.total,
            "tally": running.tally.state(),
            "start": dict(self._data.start) if running.step and self._data.start else None,
            "random": {name: g.state_dict() for name, g in self._generators().items()},
            "epochs": history.epoch,
            "history": history.history,
            "stop": bool(vars(self._model).get("stop_training")),
            "callbacks": [
                [type(callback).__name__, state]
                for callback in self._hooks.callbacks
                if (state := callback.state_dict())
            ],
        }

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the training was begun with; the slow ones are looked at when first needed."""
        return {name: fact() if callable(fact) else fact for name, fact in self._facts.items()}

    def _generators(self) -> dict[str, Generator]:
        """Return the random generators that the training draws from, by where they are held."""
        found = {"": random.default_generator()}
        for path, module in self._model.named_modules():
            found |= _generators_in(path or "model", vars(module))
        return found | _generators_in("optimizer", vars(self._setup.optimizer))

    # Going on

    def take(self, saved: Saved) -> None:
        """Put the model, its optimizer and the history where they were, all or nothing.

        Raises: CheckpointError for another training, naming everything that differs.
        """
        try:
            self._refuse_differences(saved)
            self._take(saved)
        except CheckpointError:
            raise
        except NnxError as error:
            raise CheckpointError(f"{saved.path} does not fit this model: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{saved.path} is no training of nnx: {error!r}.") from error

    def _refuse_differences(self, saved: Saved) -> None:
        there, here = saved.state["facts"], self.facts
        differing = [name for name in here if there.get(name) != here[name]]
        if "optimizer" in differing:
            differing = [name for name in differing if not name.startswith("optimizer's")]
        if "parameter type" in differing:  # data is converted to it
            differing = [n for n in differing if "data" not in n and n != "sample_weight"]
        if not random.seed_was_chosen() and "seed" in differing:
            differing.remove("seed")
        if differing:
            named = "; ".join(
                f"{name} is {there.get(name)} there and {here[name]} here" for name in differing
            )
            raise CheckpointError(
                f"{saved.path} is of another training: {named}. To go on, give the same as when it "
                f"was begun; else train anew."
            )

    def _take(self, saved: Saved) -> None:
        model, state = self._model, saved.state
        epoch, step = _count(state["epoch"]), _count(state["step"])
        running = Running(Tally(self._setup.metrics))
        running.step, running.rows = step, _count(state["rows"])
        running.total = float(state["total"])
        running.tally.restore(_on_device(state["tally"], model.device))
        epochs, figures = list(state["epochs"]), dict(state["history"])
        generators, weights = self._generators(), model.state_dict()
        before = {name: generator.state_dict() for name, generator in generators.items()}
        if state["random"].keys() != before.keys():
            held = sorted(before.keys() ^ state["random"].keys())
            raise CheckpointError(f"{saved.path}: the generators {held} are in one of both only.")
        try:
            for name, generator in generators.items():
                generator.load_state_dict(state["random"][name])
            if step:
                Generator(0).load_state_dict(state["start"])
            model.load_state_dict(checkpoint.within("model.", saved.arrays))
            self._setup.optimizer.load_state_dict(checkpoint.within("optimizer.", saved.arrays))
        except BaseException:
            for name, generator in generators.items():
                generator.load_state_dict(before[name])
            model.load_state_dict(weights)
            raise
        self._history.epoch, self._history.history = epochs, figures
        self.epoch, self.running, self._resumed = epoch, running, state
        self._data.begin_again()

    def restore(self) -> bool:
        """Put callbacks and generators where they were, after the callbacks have begun.

        Returns whether the training had been stopped. Raises: CheckpointError for the state of
        another callback.
        """
        state = self._resumed
        if state is None:
            return False
        pairs, lost = self._partners(state["callbacks"])
        if lost:
            warnings.warn(
                f"The checkpoint has the state of {', '.join(lost)}, which this fit does without: "
                f"it may go on otherwise than the training that was stopped.",
                stacklevel=2,
            )
        settings = vars(self._model)
        settings["stop_training"] = bool(state["stop"]) and not lost
        for callback, kept in pairs:
            try:
                callback.load_state_dict(kept)
            except (KeyError, TypeError, AttributeError) as error:
                kind = type(callback).__name__
                raise CheckpointError(f"{kind} cannot go on from {kept!r}: {error!r}.") from error
        self._set_generators(state)
        return not self.running.step and bool(settings["stop_training"])

    def _partners(self, states: list[Any]) -> tuple[list[tuple[Callback, Any]], list[str]]:
        """Return each callback with its state, the first of a kind with the first; and the rest."""
        left = list(self._hooks.callbacks)
        pairs, lost = [], []
        for kind, state in states:
            partner = next((c for c in left if type(c).__name__ == kind), None)
            if partner is None:
                lost.append(kind)
            else:
                left.remove(partner)
                pairs.append((partner, state))
        return pairs, lost

    def _set_generators(self, state: Mapping[str, Any]) -> None:
        for name, generator in self._generators().items():
            generator.load_state_dict(state["random"][name])

    def begin_pass(self, shuffle: bool) -> Any:
        """Begin the epoch's pass through the data, or the one that was stopped, in its order."""
        state, self._resumed = self._resumed, None
        if state is None or not self.running.step:
            return self._data.begin(shuffle)
        random.default_generator().load_state_dict(state["start"])
        order = self._data.begin(shuffle, self.running.step)
        # Last: an iterable may have drawn from them too.
        self._set_generators(state)
        return order


# Reading


class Saved(NamedTuple):
    """What a checkpoint holds, and the file that it came from."""

    path: str
    arrays: dict[str, Any]
    state: dict[str, Any]

    @property
    def device(self) -> str:
        """The device that the training ran on."""
        return str(self.state.get("device"))


def read(path: Path) -> Saved:
    """Return what a checkpoint holds, or the previous one where the newest is damaged or gone.

    A warning then names both. Raises: CheckpointError where neither is sound, and for a file that
    is no training, or one of a newer nnx.
    """
    named, found = os.fspath(path), previous_of(path)
    try:
        content = checkpoint.read_tensors(path)
    except CheckpointError as error:
        if not os.path.exists(found):
            raise
        try:
            content = checkpoint.read_tensors(found)
        except CheckpointError as second:
            raise CheckpointError(f"{error} The one before it fails too: {second}") from error
        warnings.warn(f"{error} Training goes on from the one before it, {found}.", stacklevel=2)
        named = found
    arrays, texts = content
    checkpoint.check_kind(named, texts, ("training",))
    version = texts.get("version", "0, an older nnx")
    number, _, writer = version.partition(", ")
    if number != str(VERSION):
        raise CheckpointError(
            f"{named} is a training in form {number}, written by {writer}; this nnx goes on from "
            f"form {VERSION}. Use the nnx that wrote it; nnx.nn.load reads its network."
        )
    try:
        state = _unpacked(json.loads(texts["training"]), arrays)
        if not isinstance(state, dict) or not isinstance(state["facts"], dict):
            raise TypeError("no facts")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{named} is no training of nnx: {error!r}.") from error
    return Saved(named, arrays, state)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} counts nothing")
    return value


# What a training was begun with


def facts_of(
    model: Module, setup: Compiled, *, size: int, shuffle: bool, data: Data,
    validation: Data | None, class_weight: ClassWeight | None, weight: Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what decides a training, by the name it has in messages.

    ``weight`` is sample_weight as it was given. The data is told apart by the shapes, the types and
    a SHA-256 of each of its arrays: of all of an array to 4 MiB, of rows spread evenly over a
    larger one. That catches another data set, split, order or scale, and rows added or lost; not a
    few values changed in a large one. Of an iterable only the shapes of its batches are known.
    """
    optimizer = setup.optimizer
    facts: dict[str, Any] = {
        "network": _architecture(model) or _without_addresses(repr(model)),
        "parameter type": ", ".join(sorted({str(p.dtype) for p in model.parameters()})),
        "optimizer": type(optimizer).__name__,
        "optimizer's lr": _rate_text(optimizer),
    }
    facts |= {f"optimizer's {k}": repr(v) for k, v in vars(optimizer).items() if _is_setting(k, v)}
    return facts | {
        "loss": _described(setup.loss),
        "metrics": ", ".join(map(_metric_text, setup.metrics)) or "none",
        "batch_size": size,
        "shuffle": shuffle,
        "data": _data_fact(data),
        "validation data": "none" if validation is None else _data_fact(validation),
        "class_weight": repr(sorted(class_weight.items())) if class_weight else "none",
        "sample_weight": "none" if weight is None else functools.partial(_fingerprint, weight),
        "seed": random.default_generator().state_dict()["seed"],
    }


def _architecture(model: Module) -> str:
    """Return a network's description; empty for a user's own module, which code builds again."""
    from nnx.nn import to_config

    try:
        return json.dumps(to_config(model))
    except CheckpointError:
        return ""


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
        return functools.partial(_columns_text, data.x, data.y)
    batch = data.head(1)
    shapes = [f"({', '.join(['B', *map(str, p.shape[1:])])})" for p in batch if p is not None]
    return f"batches of {', '.join(shapes)}, {data.steps(1) or 'it is not known how'} many"


def _columns_text(x: Tensor, y: Tensor | None) -> str:
    return f"x {_fingerprint(x)}" + ("" if y is None else f" with y {_fingerprint(y)}")


def _fingerprint(column: Tensor) -> str:
    """Return shape, kind and SHA-256 of an array's rows, the same for every device."""
    import numpy as np

    rows = column.shape[0]
    # Of 8 bytes each, so that a type of the device's own makes no difference.
    n = max(64, HASHED_BYTES // (column.size // rows * 8))
    if n < rows:
        at = asarray(np.linspace(0, rows - 1, n).astype(np.int64), device=column.device)
        column = Tensor(
            column.device.kernels["take"](column.array, at.array, axis=0), column.device
        )
    host = np.ascontiguousarray(column.numpy())
    # Devices without 64-bit integers hold classes in narrower ones.
    host = host.astype(np.int64) if host.dtype.kind in "iu" else host
    digest = hashlib.sha256(host.tobytes()).hexdigest()[:16]
    return f"{(rows, *host.shape[1:])} of {host.dtype.name}, SHA-256 {digest}"


def _generators_in(path: str, held: Mapping[str, Any]) -> dict[str, Generator]:
    return dict(_walk_generators(path, held))


def _walk_generators(path: str, value: Any) -> Iterator[tuple[str, Generator]]:
    if isinstance(value, Generator):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk_generators(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _walk_generators(f"{path}.{i}", item)


# Values as JSON and arrays


def _packed(place: str, value: Any, arrays: dict[str, Any]) -> Any:
    """Return a value as JSON; its arrays go into ``arrays`` and leave their name.

    Raises: CheckpointError for what is not plain data.
    """
    import numpy as np

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_packed(f"{place}.{i}", item, arrays) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": _packed(place, list(value), arrays)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _packed(f"{place}.{k}", item, arrays) for k, item in value.items()}}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        arrays[place] = np.array(value.numpy() if isinstance(value, Tensor) else value)
        return {"number" if isinstance(value, np.generic) else kind: place}
    raise CheckpointError(
        f"A checkpoint cannot hold {place}, a {type(value).__name__}. What it holds are None, "
        f"numbers, texts, arrays, and lists, tuples and dicts with texts as keys of these."
    )


def _unpacked(value: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "dict":
        return {key: _unpacked(item, arrays) for key, item in held.items()}
    if kind == "tuple":
        return tuple(_unpacked(held, arrays))
    if kind == "tensor":
        return asarray(arrays[held], device="numpy")
    return arrays[held][()] if kind == "number" else arrays[held]


def _on_device(value: Any, device: Any) -> Any:
    """Return a value with its tensors on a device, in the nearest types that it has."""
    if isinstance(value, Tensor):
        return asarray(value.numpy(), dtype=device.nearest(value.dtype), device=device)
    if isinstance(value, list | tuple):
        return type(value)(_on_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    return value
