"""Training from the command line: settings checked first, files written after each epoch."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from nnx import device, nn, optim
from nnx import random as nnx_random
from nnx.callbacks import Checkpoint, Logs
from nnx.cli import options as typed
from nnx.cli import run as runs
from nnx.cli.inference import judge, targets
from nnx.cli.options import UsageError, Where
from nnx.cli.output import Figure, note, print_figures, time_text
from nnx.cli.run import Config
from nnx.cli.sources import CLASSIFY, Source, choose_loss, class_names, hold_out, read_source
from nnx.errors import CheckpointError, DataError
from nnx.files import previous_of

Array = NDArray[Any]
Settings = dict[str, Any]

DEFAULTS: Settings = {
    "hidden": (16, 16), "activation": "relu", "loss": None, "optimizer": "adam", "lr": 1e-3,
    "batch_size": 32, "epochs": 5, "validation_split": 0.0, "seed": 0,
}  # fmt: skip

SAVE_S = 60.0
"""How much time a kill may cost; Ctrl-C costs none."""

FEW_STEPS = 200
"""Below this a network of the default rate has hardly left its initial weights."""

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "hidden": typed.layer_sizes,
    "activation": lambda option, name: typed.one_of(option, name, nn.activations.TABLE),
    "loss": lambda option, name: typed.one_of(option, name, nn.losses.TABLE),
    "optimizer": lambda option, name: typed.one_of(option, name.lower(), optim.TABLE),
    "lr": typed.positive,
    "batch_size": lambda option, n: typed.whole(option, n, 1),
    "epochs": lambda option, n: typed.whole(option, n, 1),
    "validation_split": typed.fraction,
    "seed": lambda option, n: typed.whole(option, n, 0, 2**64 - 1),
}


class Parts(NamedTuple):
    """The rows of a run as its network takes them, and the test targets in their own unit."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


def train(
    data: str,
    target: str | None,
    options: Settings,
    *,
    named: str | None,
    out: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train, write the run directory, and print how good the network is.

    ``options`` holds None for what was not typed: it comes from the run, or else from DEFAULTS;
    ``named`` is the device.
    """
    given = {
        name: CHECKS[name](f"--{name.replace('_', '-')}", value)
        for name, value in options.items()
        if value is not None
    }
    folder = Path("runs", Path(data).stem) if out is None else Path(out)
    earlier = runs.read_config(folder) if resume else None
    settings = {**DEFAULTS, **given}
    if earlier is not None:
        settings = {**{name: getattr(earlier, name) for name in DEFAULTS}, **given}
        target = earlier.target if target is None else target
    if earlier is not None and named is None:
        where = Where(earlier.device, "as the run began")
    else:
        where = typed.choose_device(named, measure=True)
    if earlier is None:
        runs.check_room(folder)
    config, parts = configure(read_source(data, target), data, target, settings, where)
    if earlier is None:
        _refuse_unfinished(folder, config)
    else:
        _refuse_differences(earlier, config, folder)
        if where.name != earlier.device:
            note(f"the run began on {earlier.device}: from here on last digits may differ.")
    figures = _fit(folder, config, parts, where, anew=earlier is None)
    print_figures(figures, as_json=as_json, title=f"{config.data}, trained")


def configure(
    source: Source, data: str, target: str | None, settings: Settings, where: Where
) -> tuple[Config, Parts]:
    """Return all that decides a run, and its rows. Raises: UsageError for what does not fit."""
    loss = settings["loss"] or choose_loss(source)
    classes = class_names(source) if loss in CLASSIFY else ()
    _check_classes(loss, classes, source)
    split = hold_out(source, settings["seed"])
    _check_split(settings["validation_split"], len(split.x))
    x_mean, x_scale = _scale(split.x) if source.is_table else ((), ())
    y_mean, y_scale = 0.0, 1.0
    if source.is_table and not classes:
        (y_mean,), (y_scale,) = _scale(split.y[:, np.newaxis])
    config = Config(
        data=data, kind=source.kind, target=target, data_sha256=source.digest(), classes=classes,
        features=source.features, sample_shape=source.sample_shape, unit=source.unit,
        x_mean=x_mean, x_scale=x_scale, y_mean=y_mean, y_scale=y_scale,
        outputs=len(classes) if loss == "cross_entropy" else 1, device=where.name,
        **{**settings, "loss": loss},
    )  # fmt: skip
    assert split.x_test is not None and split.y_test is not None
    y = targets(config, split.y, source.classes)
    if not classes:
        y = ((y - y_mean) / y_scale).astype(np.float32)
    return config, Parts(
        config.standardise(split.x),
        y,
        config.standardise(split.x_test),
        targets(config, split.y_test, source.classes),
    )


def _check_classes(loss: str, classes: tuple[str, ...], source: Source) -> None:
    """Refuse a loss for another number of classes than the target has."""
    if loss not in CLASSIFY and source.classes:
        raise UsageError(
            f"--loss {loss} is for quantities, and the target is one of {len(source.classes)} "
            f"classes: {', '.join(source.classes[:5])}. Try --loss cross_entropy."
        )
    if loss == "binary_cross_entropy" and len(classes) != 2:
        raise UsageError(
            f"--loss {loss} is for 2 classes, and the target has {len(classes)}: "
            f"{', '.join(classes[:5])}. Try --loss cross_entropy."
        )
    if loss == "cross_entropy" and len(classes) < 2:
        raise DataError(f"Every row is of the class {classes[0]!r}: there is nothing to learn.")


def _n_trained(validation_split: float, n_rows: int) -> int:
    """Return how many rows are left to train on, as `nnx.fit.fit` has it."""
    return int(n_rows * (1 - validation_split))


def _check_split(part: float, n_rows: int) -> None:
    if part and not 0 < _n_trained(part, n_rows) < n_rows:
        raise UsageError(f"--validation-split {part:g} of {n_rows} rows leaves one part empty.")


def _scale(rows: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each column; 1 for a column that never changes.

    Shapes: (B, I) -> (I,), (I,).
    """
    wide = rows.astype(np.float64)
    # Equal numbers may have a deviation of a rounding error, and not 0.
    varies = wide.min(axis=0) < wide.max(axis=0)
    deviation = np.where(varies, wide.std(axis=0), 1.0)
    return tuple(wide.mean(axis=0).tolist()), tuple(deviation.tolist())


def _refuse_unfinished(folder: Path, config: Config) -> None:
    """Refuse to begin anew what was stopped and could go on."""
    done = runs.epochs_in(folder)
    if not done and not runs.has_checkpoint(folder):
        return
    earlier = runs.read_config(folder)
    same = dataclasses.replace(earlier, epochs=config.epochs, device=config.device) == config
    if done >= earlier.epochs:
        return
    which = "this run" if same else f"another run, of {earlier.data},"
    go_on = "Add --resume to go on" if same else f"To go on: nnx train {earlier.data} --resume"
    raise UsageError(
        f"{folder} holds {which} stopped after {done} of {earlier.epochs} epochs. {go_on}; to "
        f"begin anew remove the directory, or name another with --out."
    )


def _refuse_differences(earlier: Config, config: Config, folder: Path) -> None:
    """Refuse to go on with a run under other settings than it began with."""
    begun, now = dataclasses.asdict(earlier), dataclasses.asdict(config)
    for name in (*DEFAULTS, "target"):
        if name != "epochs" and begun[name] != now[name]:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} differs: the run in {folder} began with {_said(begun[name])}, not "
                f"{_said(now[name])}. Leave {option} out, or begin another run with --out."
            )
    if begun["data_sha256"] != now["data_sha256"]:
        raise UsageError(
            f"The data differs: the run in {folder} began with {earlier.data}, and {config.data} "
            f"has other numbers. Begin another run with --out."
        )
    done = runs.epochs_in(folder)
    if done and not runs.has_checkpoint(folder):
        raise CheckpointError(
            f"{folder / runs.CHECKPOINT} is gone: the run cannot be gone on with."
        )
    if config.epochs == done:
        note(f"{folder} has its {done} epochs already; --epochs takes the number in all.")
    if config.epochs < done:
        raise UsageError(
            f"--epochs counts from the beginning: the run in {folder} has {done} already."
        )


def _said(value: Any) -> str:
    """Return a setting as it is typed."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def build(config: Config) -> nn.Sequential:
    """Return the network of a run: hidden layers with the activation, and one of outputs."""
    sizes = (config.n_features, *config.hidden)
    hidden = [
        nn.Dense(n_out, config.activation, in_features=n_in)
        for n_in, n_out in itertools.pairwise(sizes)
    ]
    return nn.Sequential(*hidden, nn.Dense(config.outputs, in_features=sizes[-1]))


class _Keeper(Checkpoint):
    """Writes the files of a run: the checkpoint each minute and after each epoch, then the others.

    An earlier run is replaced only when the first checkpoint is written: until then a loss that
    becomes NaN, or a power cut, leaves it as it was.
    """

    def __init__(self, folder: Path, config: Config, *, anew: bool) -> None:
        super().__init__(folder / runs.CHECKPOINT, every_s=SAVE_S)
        self.folder, self.config, self.anew = folder, config, anew
        self.begun = False
        self.start_s = 0.0
        self.n_epochs = 0
        self.saved_step = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        note(f"trains on {self.model.device.name}.")
        self.start_s = time.perf_counter()
        if self.anew and not (self.folder / runs.CONFIG).exists():
            self.begin()  # so that --resume finds a run, however soon this one is stopped

    def save(self) -> None:
        # First: where the disk refuses it, an earlier run is still whole.
        super().save()
        self.saved_step = self.training.running.step
        self.begin()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.n_epochs += 1
        runs.write_history(self.folder, self.model.history.history)

    def begin(self) -> None:
        """Write the settings, once, in place of an earlier run."""
        if self.begun:
            return
        self.begun = True
        if self.anew and runs.clear(self.folder):
            note(f"replaced the earlier run in {self.folder}.")
        # Where auto chose, going on must not choose again.
        config = dataclasses.replace(self.config, device=self.model.device.name)
        runs.write_config(self.folder, config)
        if self.anew:
            Path(previous_of(self.path)).unlink(missing_ok=True)  # of the earlier run


def _fit(folder: Path, config: Config, parts: Parts, where: Where, *, anew: bool) -> list[Figure]:
    """Train in a directory and return what to tell of it. Raises: typer.Exit after Ctrl-C."""
    nnx_random.seed(config.seed)
    with device("cpu" if where.name == "auto" else where.name):
        model = build(config)
    n_parameters = sum(parameter.size for parameter in model.parameters())
    n_rows = _n_trained(config.validation_split, len(parts.x))
    rows = f"{n_rows:,} {config.unit} to train"
    if n_rows < len(parts.x):
        rows += f", {len(parts.x) - n_rows:,} to validate"
    note(f"{config.data}: {rows}, {len(parts.x_test):,} to test.")
    sizes = "-".join(map(str, (config.n_features, *config.hidden, config.outputs)))
    note(f"{sizes}: {n_parameters:,} parameters, {config.loss}, {config.optimizer}, "
         f"lr {config.lr:g}.")  # fmt: skip
    model.compile(
        optimizer=optim.get(config.optimizer, config.lr),
        loss=config.loss,
        metrics=["accuracy"] if config.classes else [],
        device=where.name,
    )
    keeper = _Keeper(folder, config, anew=anew)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / runs.CHECKPOINT
    try:
        model.fit(
            parts.x,
            parts.y,
            batch_size=config.batch_size,
            epochs=config.epochs,
            validation_split=config.validation_split,
            callbacks=[keeper],
            resume=None if anew or not runs.has_checkpoint(folder) else kept,
        )
    except KeyboardInterrupt:
        if not keeper.start_s:
            raise
        keeper.begin()
        model.save(folder / runs.MODEL)
        runs.write_history(folder, vars(model)["history"].history)
        _say_how_to_go_on(folder, config, keeper.saved_step)
        _draw(folder, model)
        raise typer.Exit(130) from None
    time_s = time.perf_counter() - keeper.start_s
    model.save(folder / runs.MODEL)
    # A kill may have come between the checkpoint and this file.
    runs.write_history(folder, vars(model)["history"].history)
    _draw(folder, model)
    n_steps = keeper.n_epochs * -(-n_rows // config.batch_size)
    if 0 < n_steps < FEW_STEPS:
        note(f"{n_steps} steps are few to learn in. More: --epochs {10 * config.epochs} --resume")
    return [
        *_place_figures(model, where),
        *_test_figures(judge(model, config, parts.x_test, parts.y_test)),
        *_time_figures(config, time_s, keeper.n_epochs, n_rows),
        Figure("model", str(folder / runs.MODEL), "model", str(folder / runs.MODEL)),
    ]


def _draw(folder: Path, model: nn.Module) -> None:
    history = vars(model)["history"].history
    if history and not runs.write_curves(folder, history):
        note(f"no {runs.CURVES}: it takes matplotlib. python -m pip install 'nnx-array[plot]'")


def _say_how_to_go_on(folder: Path, config: Config, n_steps: int) -> None:
    command = ["nnx", "train", config.data, "--out", str(folder), "--resume"]
    done = f"{runs.epochs_in(folder)} of {config.epochs} epochs"
    done += f" and {n_steps} steps" if n_steps else ""
    note(f"stopped after {done}; what was learned is in "
         f"{folder / runs.MODEL}.")  # fmt: skip
    note(f"to go on:  {shlex.join(command)}")


def _place_figures(model: Any, where: Where) -> list[Figure]:
    """Return the device and why it is that one."""
    name, reason = model.device.name, where.reason
    report = model.device_report
    if report is not None:
        times = [f"{device} {1e6 * step_s:.0f} us a step" for device, step_s in
                 report.step_s.items()]  # fmt: skip
        reason = f"auto: {', '.join(times)}"
    return [
        Figure("device", name, "device", f"{name} ({reason})"),
        Figure("device_reason", reason, "", ""),
    ]


def _test_figures(figures: list[Figure]) -> list[Figure]:
    """Return figures as those of the test part, the one that people ask for first."""
    named = [
        Figure(f"test_{figure.key}", figure.value, f"test {figure.label}", figure.text)
        for figure in figures
    ]
    return named[::-1]


def _time_figures(config: Config, time_s: float, n_epochs: int, n_rows: int) -> list[Figure]:
    """Return the time, and the rate at which rows went through, validation included."""
    rate = n_epochs * n_rows / time_s if n_epochs else None
    shown = "-" if rate is None else f"{rate:,.0f}"
    return [
        Figure("epochs", config.epochs, "", ""),
        Figure("time_s", round(time_s, 3), f"time, {n_epochs} epochs", time_text(time_s)),
        Figure(f"{config.unit}_per_second", rate and round(rate), f"{config.unit} a second", shown),
    ]
