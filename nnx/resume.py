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
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx import checkpoint, random
from nnx.batches import Data
from nnx.errors import CheckpointError, NnxError
from nnx.facts import Facts, architecture, difference
from nnx.files import checked_path, previous_of
from nnx.outputs import Totals
from nnx.plain import on_device, packed, unpacked
from nnx.random import Generator

if TYPE_CHECKING:
    from nnx.callbacks import Callback, History, Hooks
    from nnx.loop import Compiled
    from nnx.nn import Module

Path = str | os.PathLike[str]

VERSION = 1
"""The version of what a training's entry in the metadata holds."""


class Running:
    """The unfinished epoch: its steps done, and what they sum up to."""

    def __init__(self, setup: Compiled) -> None:
        self.step = 0
        self.totals, self.tally = Totals(setup.loss), setup.tally()


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
        self.epoch, self.running = epoch, Running(self._setup)

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
        state = packed("state", self._state(), arrays)
        texts = {
            "architecture": architecture(model),
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
            "totals": running.totals.state(),
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
        if "seed" in differing and not random.seed_was_chosen():
            here["seed"] = there["seed"]
            differing.remove("seed")
        if differing:
            named = "; ".join(difference(name, there.get(name), here[name]) for name in differing)
            raise CheckpointError(
                f"{saved.path} is of another training: {named}. To go on, give the same as when it "
                f"was begun; else train anew."
            )

    def _take(self, saved: Saved) -> None:
        model, state = self._model, saved.state
        epoch, step = _count(state["epoch"]), _count(state["step"])
        running = Running(self._setup)
        running.step = step
        running.totals.restore(state["totals"])
        running.tally.restore(on_device(state["tally"], model.device))
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
    named, found = checked_path(path), previous_of(path)
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
        state = unpacked(json.loads(texts["training"]), arrays)
        if not isinstance(state, dict) or not isinstance(state["facts"], dict):
            raise TypeError("no facts")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{named} is no training of nnx: {error!r}.") from error
    return Saved(named, arrays, state)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} counts nothing")
    return value


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
