"""Training: `compile_model`, `fit`, `evaluate` and `predict`, behind the methods of a module."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnx import optim
from nnx.batches import ArrayData, ClassWeight, Data, Place, StreamData, is_stream, open_data
from nnx.callbacks import Callback, History, Hooks, listed, shown
from nnx.device import Device
from nnx.device import device as open_device
from nnx.errors import DataError, told_in
from nnx.facts import facts_of
from nnx.loop import EVALUATION_ROWS, Compiled, Loop, TrainingInterrupted, measure, mode
from nnx.metrics import Metric
from nnx.nn import losses
from nnx.nn.module import Module
from nnx.outputs import Asked, Several, called, names_of
from nnx.prepare import (
    check_class_weight,
    check_split,
    go_where_it_was,
    place_of,
    probe,
    settle_device,
)
from nnx.resume import Training, read
from nnx.rows import array_data
from nnx.tape import no_grad
from nnx.tree import flatten

__all__ = ["TrainingInterrupted", "compile_model", "compiled", "evaluate", "fit", "predict"]


# Compiling


def compile_model(
    model: Module,
    optimizer: str | optim.Optimizer,
    loss: str | losses.Loss | Sequence[Any] | Mapping[str, Any],
    metrics: str | Iterable[Any] | None = (),
    device: str | Device | None = None,
    *,
    loss_weights: Sequence[float] | Mapping[str, float] | None = None,
) -> None:
    """Set how a model is trained and measured, and move it to a device.

    For several outputs ``loss`` is one for all of them, a list in their order, or a dict by name;
    what is trained is the sum, each times its ``loss_weights``. ``metrics`` are those of every
    output, or a list or dict with those of each. Figures have the outputs' names before their own.

    Without ``device`` the model stays where it is. ``"auto"`` measures training steps on copies of
    the network at the first `fit` and moves it to the fastest device; ``model.device_report`` then
    has the figures and the reason, and they are kept for the next run on the machine.
    Raises: DataError for an unknown name, with the nearest known one; DeviceError for a device
    that cannot be used.
    """
    chosen = optim.get(optimizer)
    if isinstance(metrics, Iterable) and not isinstance(metrics, str | Mapping | Metric):
        metrics = list(metrics)
    asked = Asked(loss, loss_weights, metrics or ()).checked()
    setup = Compiled(chosen, None, (), False, asked)
    outputs = getattr(model, "output_names", None)
    if outputs is not None:
        setup.settle(tuple(outputs) if len(outputs) > 1 else None)
    elif asked.is_plain:
        setup.settle(None)
    auto = isinstance(device, str) and device.strip() == "auto"
    if device is not None and not auto:
        model.to(open_device(device))
    setup.auto = auto
    vars(model)["_compiled"] = setup
    vars(model)["device_report"] = None


def compiled(model: Module) -> Compiled:
    """Return what `compile_model` set. Raises: DataError if it was not called."""
    found = vars(model).get("_compiled")
    if not isinstance(found, Compiled):
        raise DataError(
            f"This {type(model).__name__} is not compiled. First say how to train it: "
            f"model.compile(optimizer='adam', loss='cross_entropy', metrics=['accuracy'])."
        )
    return found


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise DataError(f"{name} is a whole number of {low} or more, got {value!r}.")
    return int(value)


# The four functions


def fit(
    model: Module,
    x: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    epochs: int = 1,
    validation_data: Any = None,
    validation_split: float = 0.0,
    shuffle: bool = True,
    callbacks: Callback | Sequence[Callback] | None = (),
    verbose: Any = "auto",
    initial_epoch: int = 0,
    class_weight: ClassWeight | None = None,
    sample_weight: Any = None,
    resume: Any = None,
    jit: bool = True,
) -> History:
    """Train a compiled model; return its History, which is ``model.history`` too.

    ``x`` and ``y`` are arrays, of the host or of any device, and are moved to the model's device
    once; or ``x`` is an iterable of batches ``(x, y)`` or ``(x, y, weights)``, read once an epoch.
    A large memory-mapped array, or one whose copy would take more than a quarter of the device's
    memory, stays where it is: each batch is read, shuffled too, and moved.
    Several inputs are a list in the order of ``forward``, or a dict by name; so are the targets of
    several outputs, whose losses History has too, as ``name_loss``.
    ``validation_split`` keeps the last part of the arrays, before they are shuffled. Shuffles come
    from nnx.random: one seed gives the same on every device. Training runs over the epochs
    ``initial_epoch`` to ``epochs`` - 1. ``resume`` is a file of `nnx.callbacks.Checkpoint`: goes on
    from the step it was saved after, on the same device bit for bit as if nothing had happened, on
    another with the same shuffles and masks. An iterable's batches of that epoch that were done are
    passed over, so it has to give the same again. Where the file is damaged the one before it is
    taken, with a warning; a file of another training is refused (CheckpointError).
    ``jit`` compiles the training step for the model's device, see `nnx.jit`. Without it each op
    runs by itself: slower, and ``forward`` may print, and branch on values.
    ``sample_weight`` and ``class_weight`` multiply the loss of each row; the mean is over all rows.
    On Ctrl-C the running step ends, what was learned is kept, and the KeyboardInterrupt that is
    raised, a `TrainingInterrupted`, says how to go on; a second Ctrl-C stops at once.
    Raises: before any parameter changes, DataError, LabelError, ShapeError or DTypeError for data
    and settings that do not fit (of iterables and memory-mapped rows, before the step of a batch
    that does not); NonFiniteError at the first loss that is NaN or infinite, with the
    parameters as they were before that step.
    """
    setup = compiled(model)
    size, last = _whole("batch_size", batch_size, 1), _whole("epochs", epochs, 1)
    first = _whole("initial_epoch", initial_epoch, 0)
    if first > last:
        raise DataError(
            f"initial_epoch={first} and epochs={last}: epochs is where training ends, counted from "
            f"0, and not how many follow. For 3 more: epochs={first + 3}."
        )
    saved = None if resume is None else read(resume)
    split = check_split(validation_split, validation_data, x)
    if saved is not None and setup.auto:
        go_where_it_was(model, setup, saved)
    data = open_data(place_of(model), x, y, sample_weight)
    validation: Data | None = None
    if split:
        assert isinstance(data, ArrayData)
        data, validation = data.split(split)
    prediction = probe(model, setup, data, size)
    setup.optimizer.bind(model)
    given = data.weight if isinstance(data, ArrayData) else None
    if class_weight is not None:
        n_classes = 0 if isinstance(setup.loss, Several) else prediction.shape[-1]
        data.weigh(place_of(model), check_class_weight(class_weight, n_classes))
    if setup.auto:
        settle_device(model, setup, data, size, bool(jit), verbose)
        if validation is not None:
            validation.to(place_of(model))
    with told_in("In the validation data"):
        if validation_data is not None:
            validation = _open_pair(place_of(model), validation_data)
        if validation is not None:
            probe(model, setup, validation, size)
    history = History()
    hooks = Hooks(
        [history, *listed(callbacks), *shown(verbose)],
        model,
        {"epochs": last, "steps": data.steps(size), "verbose": verbose},
    )
    hooks.check_figures(_figures(setup, validation))
    facts = facts_of(
        model, setup, size=size, shuffle=bool(shuffle), data=data, validation=validation,
        class_weight=class_weight, weight=given,
    )  # fmt: skip
    training = Training(model, setup, hooks, history, data, facts)
    training.enter(first)
    if saved is not None:
        training.take(saved)
    vars(model)["history"] = history
    loop = Loop(model, setup, hooks, training, data, validation, size, last, bool(jit))
    try:
        for callback in hooks.callbacks:
            callback.training = training
        loop.run(range(training.epoch, last), shuffle=bool(shuffle))
    except KeyboardInterrupt:
        history.interrupted = True
        raise
    finally:
        hooks.close()
        for callback in hooks.callbacks:
            callback.training = None  # it holds the data
    return history


def _figures(setup: Compiled, validation: Data | None) -> list[str]:
    names = setup.figures()
    return names if validation is None else [*names, *(f"val_{name}" for name in names)]


def _open_pair(place: Place, validation_data: Any) -> Data:
    """Return validation data given as (x, y), (x, y, weights) or an iterable of batches."""
    several = isinstance(validation_data, tuple) and place.takes.high > 1
    if is_stream(validation_data) and not several:
        return StreamData(place, validation_data)
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        given = type(validation_data).__name__
        if isinstance(validation_data, tuple | list):
            given += f" of {len(validation_data)}"
        raise DataError(
            f"validation_data is (x, y), (x, y, weights) or an iterable of batches, got a {given}."
        )
    return open_data(place, *validation_data)


def evaluate(
    model: Module,
    x: Any,
    y: Any = None,
    batch_size: int = EVALUATION_ROWS,
    *,
    sample_weight: Any = None,
    callbacks: Callback | Sequence[Callback] | None = (),
) -> dict[str, float]:
    """Return the loss and the metrics of a compiled model, by name, over all rows.

    The data is as for `fit`. Nothing is learned or recorded. Of the callbacks the hooks of a test
    run.
    Raises: as `fit`, for what does not fit.
    """
    setup = compiled(model)
    size = _whole("batch_size", batch_size, 1)
    data = open_data(place_of(model), x, y, sample_weight)
    probe(model, setup, data, size)
    params = {"epochs": 1, "steps": data.steps(size), "verbose": 0}
    hooks = Hooks(listed(callbacks), model, params)
    with contextlib.closing(hooks):
        return measure(model, setup, data, size, hooks)


def predict(
    model: Module,
    x: Any,
    batch_size: int = EVALUATION_ROWS,
    *,
    callbacks: Callback | Sequence[Callback] | None = (),
) -> Any:
    """Return the model's outputs as a new NumPy array, one row a row of x; of several outputs as
    the list, tuple or dict of arrays that the model returns.

    ``x`` is an array, or an iterable of batches ``x`` or ``(x, ...)``. Nothing is recorded, and
    layers run as in `Module.eval`. Of the callbacks the hooks of a prediction run.
    """
    import numpy as np

    size = _whole("batch_size", batch_size, 1)
    place = place_of(model)
    data: Data = StreamData(place, x, needs_targets=False) if is_stream(x) else array_data(place, x)
    params = {"epochs": 1, "steps": data.steps(size), "verbose": 0}
    hooks = Hooks(listed(callbacks), model, params)
    parts = []
    with contextlib.closing(hooks), no_grad(), mode(model, training=False):
        for call in hooks.on_predict_begin:
            call(None)
        for step, (batch, _, _) in enumerate(data.batches(size)):
            for call_at in hooks.on_predict_batch_begin:
                call_at(step, None)
            out = called(model, batch)
            names_of(model, out)
            tensors, rebuild = flatten(out)
            # A copy at once: a compiled step may fill the same memory again.
            parts.append([np.array(tensor.numpy()) for tensor in tensors])
            for call_at in hooks.on_predict_batch_end:
                call_at(step, {"outputs": rebuild(parts[-1])})
        for call in hooks.on_predict_end:
            call(None)
    columns = [list(column) for column in zip(*parts, strict=True)]
    return rebuild([np.concatenate(c) if len(c) > 1 else c[0] for c in columns])
