"""Callbacks: what happens beside training, under Keras's hook names, and one for Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from nnx.errors import DataError, did_you_mean, no_attribute
from nnx.files import check_replaceable, checked_path
from nnx.optim.optimizer import checked

Logs = dict[str, float]


class Callback:
    """The base of callbacks: override the hooks that matter, the others cost nothing.

    ``model`` is the network, ``params`` has ``epochs``, ``steps`` (None if not known) and
    ``verbose``. Epochs and batches count from 0. ``logs`` at the end of a batch has ``loss``, the
    mean of the epoch so far; at the end of an epoch all that History keeps of it. Setting
    ``self.model.stop_training = True`` ends training after the running epoch.

    ``training`` is the `nnx.resume.Training` that goes on: ``self.training.save(path)`` writes a
    checkpoint. What a callback keeps between epochs goes into it under the names in ``kept``.
    """

    model: Any = None
    params: Mapping[str, Any] = {}
    training: Any = None
    every_batch: bool = True
    """Whether the batch hooks are to run at every batch; else some batches are passed over."""
    comes_last: bool = False
    """Whether its hooks run after those of the callbacks that do not ask for it."""
    kept: tuple[str, ...] = ()
    """The attributes that a training needs to go on: numbers, texts, arrays, lists, dicts."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this callback."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; run after `on_train_begin`."""
        for name in self.kept:
            setattr(self, name, state[name])

    def due_in(self) -> int | None:
        """Return within how many steps the batch hooks are to run, where some are passed over."""
        return None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run after the last epoch; not where training was interrupted or failed."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run before an epoch's first batch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a step."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a step."""

    def on_interrupt(self, logs: Logs | None = None) -> None:
        """Run when Ctrl-C ends training, after a whole step."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run before a validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Run after a validation; ``logs`` has its results."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch of a validation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch of a validation; ``logs`` has the mean ``loss`` so far."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Run before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Run after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Run before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Run after a batch of a prediction; ``logs`` has its ``outputs``."""

    def close(self) -> None:
        """Give back what is held (files, the terminal); run last, whatever happened."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Hooks:
    """The callbacks of one training: per hook, the functions that do something."""

    def __init__(self, callbacks: Iterable[Callback], model: Any, params: dict[str, Any]) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                _refuse_callback(callback)
            callback.model, callback.params = model, params
        self.callbacks.sort(key=lambda callback: callback.comes_last)
        for hook in HOOKS:
            setattr(self, hook, [getattr(c, hook) for c in self.callbacks if _overrides(c, hook)])
        self._asking = [c for c in self.callbacks if _overrides(c, "due_in")]
        self.every_batch = any(
            c.every_batch
            and (_overrides(c, "on_train_batch_begin") or _overrides(c, "on_train_batch_end"))
            for c in self.callbacks
        )

    on_train_begin: list[Callable[[Logs | None], None]]
    on_train_end: list[Callable[[Logs | None], None]]
    on_interrupt: list[Callable[[Logs | None], None]]
    on_epoch_begin: list[Callable[[int, Logs | None], None]]
    on_epoch_end: list[Callable[[int, Logs | None], None]]
    on_train_batch_begin: list[Callable[[int, Logs | None], None]]
    on_train_batch_end: list[Callable[[int, Logs | None], None]]
    on_test_begin: list[Callable[[Logs | None], None]]
    on_test_end: list[Callable[[Logs | None], None]]
    on_test_batch_begin: list[Callable[[int, Logs | None], None]]
    on_test_batch_end: list[Callable[[int, Logs | None], None]]
    on_predict_begin: list[Callable[[Logs | None], None]]
    on_predict_end: list[Callable[[Logs | None], None]]
    on_predict_batch_begin: list[Callable[[int, Any], None]]
    on_predict_batch_end: list[Callable[[int, Any], None]]

    def check_figures(self, figures: Collection[str]) -> None:
        """Raise DataError for a monitored figure that is not among those of an epoch.

        A user's own callback may add some, so with one it shows at the end of the first epoch.
        """
        if all(_adds_no_figure(callback) for callback in self.callbacks):
            for callback in self.callbacks:
                if isinstance(callback, _Monitor) and callback.monitor:
                    callback.check(figures)

    def due_in(self, most: int) -> int:
        """Return how many steps may be done at once, of those that there are."""
        asked = [c.due_in() for c in self._asking]
        return max(1, min([most, *(n for n in asked if n is not None)]))

    def close(self) -> None:
        """Close all of them, the last first."""
        with contextlib.ExitStack() as stack:
            for callback in self.callbacks:
                stack.callback(callback.close)


def listed(callbacks: Callback | Sequence[Callback] | None) -> list[Callback]:
    """Return what ``callbacks=`` was given as a list: one, several, or none."""
    if callbacks is None:
        return []
    if isinstance(callbacks, str | type) or not isinstance(callbacks, Callback | Iterable):
        _refuse_callback(callbacks)
    return [callbacks] if isinstance(callbacks, Callback) else list(callbacks)


def _refuse_callback(given: Any) -> NoReturn:
    """Raise DataError for what is no callback; a class and a name are told how to become one."""
    hint = "Subclass that, or give a nnx.callbacks.LambdaCallback."
    if isinstance(given, type) and issubclass(given, Callback):
        hint = f"Give an instance, not the class: {given.__name__}()."
    elif isinstance(given, str):
        hint = f"Give an instance, such as EarlyStopping(). {did_you_mean(given, _kinds())}"
    raise DataError(
        f"callbacks has {given!r}, which is no instance of nnx.callbacks.Callback. {hint}"
    )


def _kinds() -> list[str]:
    """Return the names of the callbacks that there are."""
    return [
        name
        for name, kind in globals().items()
        if isinstance(kind, type) and issubclass(kind, Callback) and not name.startswith("_")
    ]


def _adds_no_figure(callback: Callback) -> bool:
    is_own = type(callback).__module__.partition(".")[0] == "nnx"
    return is_own and not isinstance(callback, LambdaCallback)


def _overrides(callback: Callback, hook: str) -> bool:
    return hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook)


class History(Callback):
    """What every epoch gave: ``history["loss"]`` is a list, as long as ``epoch``.

    ``interrupted`` says whether Ctrl-C ended the training. `fit` makes one and returns it.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.interrupted = False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the epoch's figures; a figure is NaN in an epoch that does not have it."""
        figures = _figures_of(logs)
        for name in figures:
            self.history.setdefault(name, [math.nan] * len(self.epoch))
        self.epoch.append(epoch)
        for name, values in self.history.items():
            values.append(figures.get(name, math.nan))

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs{': ' if last else ''}{last}>"

    def _repr_html_(self) -> str:
        from nnx.viz import notebook

        return notebook.of_history(self)


def _figures_of(logs: Logs | None) -> Logs:
    """Return the figures of an epoch as floats. Raises: DataError for what is no number."""
    figures = {}
    for name, value in (logs or {}).items():
        try:
            figures[name] = float(value)
        except (TypeError, ValueError):
            raise DataError(
                f"A callback put {value!r} into the logs as {name!r}; a figure is one number."
            ) from None
    return figures


class LambdaCallback(Callback):
    """Functions as hooks: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs))``."""

    def __init__(self, **hooks: Callable[..., None]) -> None:
        for name, function in hooks.items():
            if name not in HOOKS:
                raise DataError(f"There is no hook {name!r}. {did_you_mean(name, HOOKS)}")
            if not callable(function):
                raise DataError(
                    f"LambdaCallback: {name} is a function such as lambda *_: None, got "
                    f"{function!r}."
                )
            setattr(self, name, function)


RISING = ("accuracy", "precision", "recall", "f1", "auc", "r2")
"""How the figures end that are the better the larger they are."""


class _Monitor(Callback):
    """A callback that follows one figure of the logs and knows when it is at its best."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise DataError(f"mode={mode!r}. {did_you_mean(mode, ('auto', 'min', 'max'))}")
        if not isinstance(monitor, str):
            raise DataError(
                f"{self._kind}: monitor is the name of a figure, such as 'val_loss', got "
                f"{monitor!r}."
            )
        rises = monitor.endswith(RISING)
        self.monitor = monitor
        self._sign = -1.0 if mode == "max" or (mode == "auto" and rises) else 1.0
        self._min_delta = abs(checked(self._kind, "min_delta", min_delta, -math.inf, math.inf))
        self._best = math.inf

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def check(self, figures: Collection[str]) -> None:
        """Raise DataError unless its figure is among those that an epoch gives."""
        if self.monitor not in figures:
            raise DataError(
                f"{self._kind} monitors {self.monitor!r}, which the epoch does not give. "
                f"{did_you_mean(self.monitor, figures)} val_ needs validation data."
            )

    def _improved(self, logs: Logs | None) -> bool:
        """Return whether the figure is better than ever before, and keep it; NaN never is."""
        self.check(logs or {})
        value = self._sign * _figures_of(logs)[self.monitor]
        if not value < self._best - self._min_delta:
            return False
        self._best = value
        return True


class EarlyStopping(_Monitor):
    """Stops when a figure has not improved for ``patience`` epochs, 0 as 1.

    ``mode`` is "min", "max", or "auto": accuracies, precision, recall, f1,
    areas under a curve and r2 are to rise, all else to fall. With ``restore_best_weights`` the
    network ends with those of its best epoch, the first of equal ones.
    """

    kept = ("_best", "_waited", "_weights", "stopped_epoch")

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = _whole(self._kind, "patience", patience)
        self.restore_best_weights = restore_best_weights
        self.stopped_epoch: int | None = None
        self._waited = 0
        self._weights: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start anew."""
        self._best, self._waited, self._weights = math.inf, 0, None
        self.stopped_epoch = None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; with more patience than before also where it had stopped."""
        super().load_state_dict(state)
        if self.stopped_epoch is not None:
            self.model.stop_training = self._waited >= self.patience

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the figure."""
        if self._improved(logs):
            self._waited = 0
            if self.restore_best_weights:
                self._weights = self.model.state_dict()
            return
        self._waited += 1
        if self._waited >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Put the best weights back."""
        if self._weights is not None:
            self.model.load_state_dict(self._weights)


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by ``factor`` where a figure has not improved for some epochs.

    After ``patience`` epochs without an improvement of more than ``min_delta`` the rate falls, to
    no less than ``min_lr``; for ``cooldown`` epochs after that none is counted. ``mode`` as in
    `EarlyStopping`. Source: Keras, whose names and defaults these are.
    """

    kept = ("_best", "_waited", "_cooling")

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = checked(self._kind, "factor", factor, 0.0, 1.0)
        self.patience = _whole(self._kind, "patience", patience)
        self.cooldown = _whole(self._kind, "cooldown", cooldown)
        self.min_lr = checked(self._kind, "min_lr", min_lr, 0.0, math.inf)
        self._waited = self._cooling = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start anew. Raises: DataError where a schedule sets the rate."""
        self._best, self._waited, self._cooling = math.inf, 0, 0
        if _optimizer_of(self.model).has_schedule:
            raise DataError(
                "ReduceLROnPlateau sets the learning rate, and so does the optimizer's schedule. "
                "Give the optimizer a number: optim.Adam(1e-3)."
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the figure, and lower the rate where it is due."""
        cooling, self._cooling = self._cooling > 0, max(0, self._cooling - 1)
        if self._improved(logs) or cooling:
            self._waited = 0
            return
        self._waited += 1
        optimizer = _optimizer_of(self.model)
        if self._waited >= self.patience and optimizer.lr > self.min_lr:
            optimizer.lr = max(self.min_lr, optimizer.lr * self.factor)
            self._waited, self._cooling = 0, self.cooldown


def _optimizer_of(model: Any) -> Any:
    from nnx.fit import compiled

    return compiled(model).optimizer


def _whole(kind: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise DataError(f"{kind}: {name} is a whole number of 0 or more, got {value!r}.")
    return int(value)


class Checkpoint(_Monitor):
    """Saves the training after every epoch, or with ``monitor`` after each that was the best.

    Without ``monitor`` it saves also after every ``every_steps`` steps and every ``every_s``
    seconds, and on Ctrl-C. ``fit(..., resume=path)`` goes on from the file exactly, and
    `nnx.nn.load` reads its network. The file that it replaces stays as ``<path>.previous``, and
    `fit` goes on from that one where the newest is damaged.
    Raises: DataError for settings that do not fit; CheckpointError where a file cannot be written,
    which ends the training.
    """

    every_batch = False
    comes_last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        monitor: str | None = None,
        mode: str = "auto",
        every_steps: int | None = None,
        every_s: float | None = None,
    ) -> None:
        super().__init__("" if monitor is None else monitor, mode)
        if monitor and (every_steps is not None or every_s is not None):
            raise DataError("Checkpoint: monitor keeps the best epoch; every_steps and every_s "
                            "save what is newest. Use two, with a path each.")  # fmt: skip
        if every_steps is not None and _whole(self._kind, "every_steps", every_steps) < 1:
            raise DataError(f"Checkpoint: every_steps is a whole number from 1 on, "
                            f"got {every_steps!r}.")  # fmt: skip
        if every_s is not None:
            every_s = checked(self._kind, "every_s", every_s, 0.0, math.inf)
        self.path = checked_path(path)
        self.kept = ("_best",) if monitor else ()
        self._every_steps, self._every_s = every_steps, every_s
        self._step, self._time_s = 0, time.monotonic()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Look whether a file can be made there. Raises: CheckpointError where not."""
        check_replaceable(self.path)

    def save(self) -> None:
        """Save the training as it stands."""
        self.training.save(self.path)
        self._step, self._time_s = self.training.running.step, time.monotonic()

    def due_in(self) -> int | None:
        """Return how many steps are left until the next save."""
        if self._every_steps is None:
            return None
        return self._step + self._every_steps - int(self.training.running.step)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Count steps from here: the start of the epoch, or where it goes on."""
        self._step = self.training.running.step

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save if it is due."""
        left = self.due_in()
        late = self._every_s is not None and time.monotonic() - self._time_s >= self._every_s
        if late or (left is not None and left <= 0):
            self.save()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save, if it was the best or none is asked for."""
        if not self.monitor or self._improved(logs):
            self.save()

    def on_interrupt(self, logs: Logs | None = None) -> None:
        """Save the step that Ctrl-C came after."""
        if not self.monitor and not self.training.is_saved:
            self.save()


class CSVLogger(Callback):
    """Keeps History in a CSV file, one row an epoch, after each epoch whole."""

    def __init__(self, path: str | os.PathLike[str], *, separator: str = ",") -> None:
        self.path = checked_path(path)
        if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
            raise DataError(
                f"CSVLogger: separator is one character such as ',' or ';', got {separator!r}."
            )
        self.separator = separator

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Look whether the file can be written. Raises: DataError where not."""
        _check_writable("CSVLogger", self.path)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the file."""
        import csv

        history = self.model.history
        target = os.path.realpath(self.path)
        # Beside it first: a full disk then leaves the rows that it has. Not beside a pipe.
        beside = f"{target}.tmp" if os.path.isfile(target) else target
        try:
            try:
                with open(beside, "w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file, delimiter=self.separator)
                    writer.writerow(["epoch", *history.history])
                    writer.writerows(zip(history.epoch, *history.history.values(), strict=True))
                if beside != target:
                    os.replace(beside, target)
            except BaseException:
                if beside != target:
                    with contextlib.suppress(OSError):
                        os.unlink(beside)
                raise
        except OSError as error:
            raise DataError(f"CSVLogger cannot write {self.path}: {error.strerror}.") from error


class JSONLinesLogger(Callback):
    """Adds a line to a file after each epoch: a JSON object with ``epoch`` and its figures.

    What is not finite, which JSON lacks, becomes null. The file begins anew with each training; one
    that goes on begins with the epochs that it had.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checked_path(path)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Write the epochs that a training had which goes on."""
        history = self.model.history
        columns = history.history.items()
        self._write("w", [
            (epoch, {name: values[i] for name, values in columns if i < len(values)})
            for i, epoch in enumerate(history.epoch)
        ])  # fmt: skip

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the epoch's line."""
        self._write("a", [(epoch, _figures_of(logs))])

    def _write(self, how: str, rows: list[tuple[int, Logs]]) -> None:
        import json

        lines = [
            {"epoch": epoch, **{k: v if math.isfinite(v) else None for k, v in logs.items()}}
            for epoch, logs in rows
        ]
        try:
            with open(self.path, how, encoding="utf-8") as file:
                file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        except OSError as error:
            raise DataError(
                f"JSONLinesLogger cannot write {self.path}: {error.strerror}."
            ) from error


def _check_writable(kind: str, path: str) -> None:
    """Open a file as it is; one that this makes is taken away again."""
    made = not os.path.exists(path)
    try:
        with open(path, "a", encoding="utf-8"):
            pass
        if made:
            os.unlink(path)
    except OSError as error:
        raise DataError(f"{kind} cannot write {path}: {error.strerror}.") from error


class TensorBoard(Callback):
    """Writes figures for TensorBoard, as Keras does: ``tensorboard --logdir logs`` shows them.

    ``<log_dir>/train`` has ``epoch_loss``, the metrics and ``epoch_learning_rate``,
    ``<log_dir>/validation`` the same figures of the validation data, so that both share a chart.
    With ``histogram_freq`` every so many epochs histograms of the parameters are added.
    Raises: DataError without tensorboardX, which the extra ``tensorboard`` installs.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] = "logs", *, histogram_freq: int = 0
    ) -> None:
        self.log_dir = checked_path(log_dir)
        self.histogram_freq = _whole("TensorBoard", "histogram_freq", histogram_freq)
        self._writers: dict[str, Any] = {}
        _summary_writer()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begin the file of the training figures. Raises: DataError where it cannot be made."""
        self._writer("train")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the epoch's figures."""
        figures = {**_figures_of(logs), "learning_rate": _optimizer_of(self.model).lr}
        for name, value in figures.items():
            part = "validation" if name.startswith("val_") else "train"
            tag = f"epoch_{name.removeprefix('val_')}"
            self._writer(part).add_scalar(tag, value, epoch)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for name, parameter in self.model.named_parameters():
                self._writer("train").add_histogram(name, parameter.numpy(), epoch)
        for writer in self._writers.values():
            writer.flush()

    def _writer(self, part: str) -> Any:
        if part not in self._writers:
            try:
                folder = os.path.join(self.log_dir, part)
                self._writers[part] = _summary_writer()(folder)
            except OSError as error:
                raise DataError(
                    f"TensorBoard cannot write {self.log_dir}: {error.strerror}."
                ) from error
        return self._writers[part]

    def close(self) -> None:
        """Close the files."""
        while self._writers:
            self._writers.popitem()[1].close()


def _summary_writer() -> Any:
    try:
        from tensorboardX import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            SummaryWriter,
        )
    except ImportError:
        raise DataError(
            "TensorBoard's files are written with tensorboardX, which is not installed: "
            "python -m pip install 'nnx-array[tensorboard]'."
        ) from None
    return SummaryWriter


# What the terminal shows


def _figures(logs: Logs | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in _figures_of(logs).items())


class EpochLines(Callback):
    """Prints one line an epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Take the time."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the line."""
        time_s = time.perf_counter() - self._start
        print(f"Epoch {epoch + 1}/{self.params['epochs']}  {time_s:.1f} s  {_figures(logs)}")


class ProgressBar(Callback):
    """A bar an epoch on standard error, made with rich."""

    REFRESH_S = 0.1
    every_batch = False

    def __init__(self) -> None:
        self._bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start the epoch's bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self.close()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed(),
            TextColumn("{task.fields[figures]}"), console=Console(stderr=True),
        )  # fmt: skip
        label = f"Epoch {epoch + 1}/{self.params['epochs']}"
        self._task = self._bar.add_task(label, total=self.params["steps"], figures="")
        self._bar.start()
        self._shown, self._done = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar, a few times a second."""
        now, self._done = time.perf_counter(), batch + 1
        if now - self._shown > self.REFRESH_S:
            self._shown = now
            self._bar.update(self._task, completed=self._done, figures=_figures(logs))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Fill the bar and leave it standing with the epoch's figures."""
        done = self._done
        self._bar.update(self._task, total=done, completed=done, figures=_figures(logs))
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def shown(verbose: Any) -> list[Callback]:
    """Return the callbacks that ``verbose`` means: "auto", 0, 1 (bar) or 2 (a line an epoch).

    A bar needs a terminal on standard error: without one "auto" is silent, and 1 prints lines.
    """
    if not isinstance(verbose, str | int) or verbose not in ("auto", 0, 1, 2):
        raise DataError(f"verbose={verbose!r}; it is 'auto', 0 (silent), 1 (a bar) or 2 (lines).")
    if verbose in (1, "auto") and sys.stderr.isatty():
        return [ProgressBar()]
    return [EpochLines()] if verbose in (1, 2) else []


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise no_attribute(__name__, name, _kinds())
