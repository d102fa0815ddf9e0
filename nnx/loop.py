"""The loop of training: steps, epochs, what stops them, and measuring without learning."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from nnx import diagnose
from nnx.batches import ArrayData, Batch, Data, StreamData
from nnx.callbacks import History, Hooks, Logs
from nnx.epoch import Epoch
from nnx.errors import (
    DataError,
    DTypeError,
    LabelError,
    NonFiniteError,
    OutOfMemoryError,
    ShapeError,
    told_in,
)
from nnx.graph import CheckError
from nnx.jit import Function, jit
from nnx.metrics import Metric, Tally
from nnx.nn.losses import Loss
from nnx.nn.module import Module
from nnx.op import recording
from nnx.ops import reduce
from nnx.optim import Optimizer
from nnx.outputs import Asked, Form, Several, SeveralTally, Totals, called, form_of, n_rows
from nnx.resume import Training
from nnx.rows import RowData
from nnx.tape import enable_grad, no_grad
from nnx.tensor import Tensor
from nnx.tree import flatten

EVALUATION_ROWS = 256
"""The batch size without a tape, where more rows at once cost only memory."""


OF_DATA = (DataError, DTypeError, LabelError, ShapeError)
"""What a batch that does not fit raises."""


Done = tuple[float, Tensor, Any, list[Tensor]]
"""The loss of a step as a number and as a tensor, the predictions, the loss of each output."""
Step = Callable[[Any, Any, Tensor | None], Done]
"""From a batch to what a step gives."""


class Compiled:
    """What `nnx.fit.compile_model` set: how a model is trained and measured."""

    def __init__(
        self, optimizer: Optimizer, loss: Any, metrics: tuple[Metric, ...], auto: bool,
        asked: Asked | None = None,
    ) -> None:  # fmt: skip
        self.optimizer = optimizer
        self.loss = loss
        self.metrics = metrics
        self.auto = auto
        self.asked = asked
        self.jitted: JittedStep | None = None
        self.outputs: int | None = None

    def settle(self, names: tuple[str, ...] | None) -> None:
        """Set loss and metrics for outputs of these names, None for one without."""
        known = self.loss.names if isinstance(self.loss, Several) else None
        if self.asked is None or (names == known and self.loss is not None):
            return
        self.jitted = None
        if names is None:
            self.loss, self.metrics = self.asked.single()
        else:
            self.loss, self.metrics = self.asked.several(names), ()

    def figures(self) -> list[str]:
        """Return the names of all that an epoch gives."""
        if not isinstance(self.loss, Several):
            return ["loss", *(metric.name for metric in self.metrics)]
        each = [f"{name}_loss" for name in self.loss.names]
        return ["loss", *each, *(m.name for found in self.loss.metrics for m in found)]

    def tally(self) -> Tally | SeveralTally:
        """Return what sums up the metrics batch by batch."""
        return self.loss.tally() if isinstance(self.loss, Several) else Tally(self.metrics)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's network is another one, and so is its step.
        return {**vars(self), "jitted": None}

    def step(self, model: Module, jit: bool) -> Step | JittedStep:
        """Return the step of training; the compiled one is kept for the next `fit`."""
        if not jit:
            return functools.partial(train_step, model, self.loss, self.optimizer)
        if self.jitted is None or self.jitted.model is not model:
            self.jitted = JittedStep(model, self.loss, self.optimizer)
        return self.jitted


class TrainingInterrupted(KeyboardInterrupt):
    """A first Ctrl-C ended training after a whole step; the message says how to go on.

    ``history`` has the finished epochs.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


@contextlib.contextmanager
def mode(model: Module, training: bool) -> Iterator[None]:
    """Put all modules in a mode, and back into the one that each was in."""
    before = [(module, module.training) for _, module in model.named_modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def name_of(function: Any) -> str:
    """Return what messages call a function."""
    return getattr(function, "__name__", type(function).__name__)


# Steps


def train_step(
    model: Module, loss: Any, optimizer: Optimizer, x: Any, y: Any, weight: Tensor | None
) -> Done:
    """Do one step of training.

    A loss that is not finite changes no parameter; to know, the loss is read at every step.
    """
    optimizer.zero_grad()
    prediction = called(model, x)
    value, parts = losses_of(loss, prediction, y, weight)
    number: float = value.item()
    if math.isfinite(number):
        optimizer.scaled(value).backward()
        optimizer.step()
    return number, value, prediction, parts


class JittedStep:
    """`train_step` of a network, compiled for its device; ``function`` is the compiled part."""

    def __init__(self, model: Module, loss: Any, optimizer: Optimizer) -> None:
        self.model, self._loss, self._optimizer = model, loss, optimizer
        self._eager = functools.partial(train_step, model, loss, optimizer)
        self._functions: dict[Form, Function] = {}
        self._results: Any = ()

    def _function(self, form: Form, rebuild: Callable[[list[Any]], Any]) -> Function:
        """Return the compiled step for batches of a structure, given as the tensors in it."""
        if form in self._functions:
            return self._functions[form]
        model, loss, optimizer = self.model, self._loss, self._optimizer
        losses = loss.functions if isinstance(loss, Several) else ()

        # As a default they are seen by jit, which watches what a user's own losses read.
        def training_step(
            *columns: Tensor, losses: Sequence[Loss] = losses
        ) -> tuple[Tensor, Any, list[Tensor]]:
            x, y, weight = rebuild(list(columns))
            optimizer.zero_grad()
            prediction = called(model, x)
            value, parts = losses_of(loss, prediction, y, weight)
            recording.trace.expect_finite(value)
            optimizer.scaled(value).backward()
            optimizer.step()
            return value, prediction, parts

        return self._functions.setdefault(form, jit(training_step))

    def __call__(self, x: Any, y: Any, weight: Tensor | None) -> Done:
        """Do one step; what is refused is done once more in eager mode, which says why."""
        columns, rebuild = flatten((x, y, weight))
        self.function = self._function(form_of((x, y, weight)), rebuild)
        try:
            self._results = self.function(*columns)
        except CheckError:
            return self._eager(x, y, weight)
        value, prediction, parts = self._results
        return value.item(), value, prediction, parts

    @property
    def outputs(self) -> tuple[int, Callable[[list[Any]], Any]]:
        """How many tensors the predictions of the last step were, and their structure."""
        tensors, rebuild = flatten(self._results[1])
        return len(tensors), rebuild

    def epoch(self, data: Data, size: int) -> Epoch | None:
        """Return what runs many steps like the last one at once, where its device can."""
        repeat = self.function.repeat
        if not hasattr(repeat, "run_many") or not isinstance(data, ArrayData):
            return None
        columns = [column.array for column in data.columns]
        if not all(array.flags.c_contiguous for array in columns):
            return None
        return Epoch(repeat, columns, size)


def losses_of(
    loss: Any, prediction: Any, y: Any, weight: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss, and, where there are several outputs, that of each."""
    if not isinstance(loss, Several):
        return loss_of(loss, prediction, y, weight), []
    pairs = zip(loss.functions, loss.paired(prediction, y), strict=True)
    parts = [loss_of(function, *pair, weight) for function, pair in pairs]
    return loss.total(parts), parts


def loss_of(loss: Loss, prediction: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean loss, or with weights the mean over the rows of loss times weight.

    Source of the weighted form: Keras, which divides by the rows and not by the weights' sum.
    """
    if weight is None:
        return loss(prediction, y)  # type: ignore[no-any-return]
    try:
        each = loss(prediction, y, reduction="none")
    except TypeError as error:
        raise DataError(
            f"The loss {name_of(loss)} gives no loss for each row, which weights need: {error}. "
            f"Let it take reduction='none', or leave the weights out."
        ) from error
    if each.ndim > 1:
        each = reduce.mean(each, axis=tuple(range(1, each.ndim)))
    return reduce.mean(each * weight)


def measure(
    model: Module, setup: Compiled, data: Data, size: int, hooks: Hooks | None = None
) -> Logs:
    """Return loss and metrics over all rows of the data; a smaller last batch counts as its rows.

    Nothing is recorded, and layers run as in `Module.eval`.
    """
    hooks = hooks or Hooks((), model, {})
    totals, tally = Totals(setup.loss), setup.tally()
    with no_grad(), mode(model, training=False):
        for call in hooks.on_test_begin:
            call(None)
        for step, (x, y, weight) in enumerate(data.batches(size)):
            for call_at in hooks.on_test_batch_begin:
                call_at(step, None)
            try:
                prediction = called(model, x)
                value, parts = losses_of(setup.loss, prediction, y, weight)
            except OF_DATA:
                if not isinstance(data, StreamData):
                    raise
                with told_in(f"Batch {step} of the iterable"):
                    raise
            totals.add([value.item()], [[part.item()] for part in parts], n_rows(x))
            tally.add(prediction, y)
            for call_at in hooks.on_test_batch_end:
                call_at(step, totals.figures())
        logs = {**totals.figures(), **tally.results()}
        for call in hooks.on_test_end:
            call(logs)
    return logs


# Ctrl-C


class _CtrlC:
    """Within it, a first Ctrl-C is only noted, a second one raises KeyboardInterrupt.

    Only the main thread gets signals; elsewhere, and where Ctrl-C is ignored, nothing changes.
    """

    noted = False

    def __enter__(self) -> _CtrlC:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: object) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True


# Epochs

BLOCK_S = 0.02
"""How long steps are done without a look at Ctrl-C."""
ELEMENTS = 1 << 20
"""How many predictions are held at once."""


class Block(NamedTuple):
    """Steps that were done: the loss of each, the rows in each, and all their predictions."""

    losses: list[float]
    size: int
    prediction: Any
    y: Any
    parts: list[list[float]]


class Loop:
    """One call of `fit`, its data checked and moved."""

    def __init__(
        self,
        model: Module,
        setup: Compiled,
        hooks: Hooks,
        training: Training,
        data: Data,
        validation: Data | None,
        size: int,
        last: int,
        jitted: bool,
    ) -> None:
        self._model, self._setup, self._hooks = model, setup, hooks
        self._training, self._data, self._validation = training, data, validation
        self._size, self._last = size, last
        self._step = setup.step(model, jitted)
        self._at_once = 8
        # What is read by rows is looked at batch by batch, not read once more beforehand.
        self._suspect = isinstance(data, RowData) or (
            isinstance(data, ArrayData) and not diagnose.all_finite(data.x)
        )

    def run(self, epochs: range, shuffle: bool) -> None:
        """Train.

        Raises: TrainingInterrupted after Ctrl-C; NonFiniteError at a loss that is not finite.
        """
        model, hooks = self._model, self._hooks
        vars(model)["stop_training"] = False
        logs: Logs = {}
        with _CtrlC() as ctrl_c, mode(model, training=True), enable_grad():
            for call in hooks.on_train_begin:
                call(None)
            if self._training.restore():
                epochs = epochs[:0]
            for epoch in epochs:
                for call_at in hooks.on_epoch_begin:
                    call_at(epoch, None)
                logs = self._steps(epoch, shuffle, ctrl_c)
                logs |= self._validated()
                self._training.enter(epoch + 1)
                for call_at in hooks.on_epoch_end:
                    call_at(epoch, logs)
                if ctrl_c.noted:
                    self._interrupted(epoch + 1, 0)
                if vars(model)["stop_training"]:
                    break
            for call in hooks.on_train_end:
                call(logs)

    def _steps(self, epoch: int, shuffle: bool, ctrl_c: _CtrlC) -> Logs:
        """Go through the data once; return the means over it."""
        model, setup, hooks, data = self._model, self._setup, self._hooks, self._data
        order = self._training.begin_pass(shuffle)
        done = self._training.running
        totals = done.totals
        for block in self._blocks(epoch, order, done.step):
            totals.add(block.losses, block.parts, block.size)
            done.step += len(block.losses)
            done.tally.add(block.prediction, block.y, block.size)
            if hooks.on_train_batch_end:
                logs = totals.figures()
                for call in hooks.on_train_batch_end:
                    call(done.step - 1, logs)
            if ctrl_c.noted and totals.rows != data.rows:
                self._interrupted(epoch, done.step)
        fine = all(map(diagnose.is_finite, setup.optimizer.params))  # without walking the tree
        bad = None if fine else diagnose.bad_parameter(model)
        if bad:
            raise NonFiniteError(
                f"In epoch {epoch + 1} of {self._last} every loss was finite, but now {bad}: a "
                f"gradient overflowed in its last step. {_advice(setup.optimizer)}"
            )
        return {**totals.figures(), **done.tally.results()}

    def _blocks(self, epoch: int, order: Any, first: int) -> Iterator[Block]:
        """Do an epoch's steps from one on: each by itself, or many where nothing is between."""
        data, size = self._data, self._size
        jitted, suspect = self._step, self._suspect
        alone = suspect or self._hooks.every_batch
        if alone or not isinstance(data, ArrayData) or not isinstance(jitted, JittedStep):
            for step, batch in enumerate(data.batches(size, order, first), first):
                yield self._one(epoch, step, order, batch, suspect)
            return
        cut, step, n = data.cutter(size, order), first, data.rows // size
        many = None
        while step < data.steps(size):
            # The first step makes what the others repeat; the last may be smaller.
            block = self._many(many, step, n, order) if many is not None and step < n else None
            if block is None:
                many = None  # it would be one more owner of what the step writes in place
                block = self._one(epoch, step, order, cut(step), False)
                many = jitted.epoch(data, size) if step + 2 < n else None
            yield block
            step += len(block.losses)

    def _one(self, epoch: int, step: int, order: Any, batch: Batch, suspect: bool) -> Block:
        """Do one step. Raises: NonFiniteError where its loss, or what it hides, is not finite."""
        x, y, weight = batch
        for call in self._hooks.on_train_batch_begin:
            call(step, None)
        first = step * self._size
        n = n_rows(x)
        if suspect and not diagnose.all_finite(x):
            self._refuse_input(epoch, step, self._positions(order, first, n), x, y)
        try:
            number, value, prediction, parts = self._step(x, y, weight)
        except MemoryError as error:
            self._no_memory(epoch, step, n, error)
        except OF_DATA:
            if not isinstance(self._data, StreamData | RowData):
                raise  # looked at as a whole beforehand, so it is not of these rows
            rows = _rows_text(self._positions(order, first, n), step, n)
            with told_in(f"In epoch {epoch + 1} of {self._last}, step {step + 1} ({rows})"):
                raise
        if not math.isfinite(number):
            self._not_finite(epoch, step, self._positions(order, first, n), x, y, value)
        return Block([number], n, prediction, y, [[part.item()] for part in parts])

    def _many(self, many: Epoch, step: int, n: int, order: Any) -> Block | None:
        """Do some steps at once; None where the next one has to be done alone."""
        data, jitted = self._data, self._step
        assert isinstance(data, ArrayData) and isinstance(jitted, JittedStep)
        targets, rebuild_y = flatten(data.y)
        n_inputs = len(flatten(data.x)[0])
        kept = range(n_inputs, n_inputs + len(targets))
        start = time.perf_counter()
        steps = many.run(step, self._hooks.due_in(min(self._at_once, n - step)), order, kept)
        if steps is None or not steps.done:
            return None
        time_s = (time.perf_counter() - start) / steps.done
        n_outputs, rebuild = jitted.outputs
        losses, predictions = steps.results[0], steps.results[1 : 1 + n_outputs]
        parts = steps.results[1 + n_outputs :]
        device = self._model.device
        elements = max(1, sum(array[0].size for array in predictions))
        self._at_once = max(1, min(int(BLOCK_S / time_s), 2 * self._at_once, ELEMENTS // elements))
        joined = [Tensor(a.reshape(-1, *a.shape[2:]), device) for a in predictions]
        rows = [Tensor(steps.rows[i], device) for i in kept]
        return Block(
            losses.tolist(), self._size, rebuild(joined), rebuild_y(rows),
            [part.tolist() for part in parts],
        )  # fmt: skip

    def _validated(self) -> Logs:
        if self._validation is None:
            return {}
        size = max(self._size, EVALUATION_ROWS)
        with told_in("In the validation data"):
            logs = measure(self._model, self._setup, self._validation, size, self._hooks)
        return {f"val_{name}": value for name, value in logs.items()}

    # What stops it

    def _interrupted(self, epochs: int, steps: int) -> NoReturn:
        """Say what was done, and how to go on."""
        done = f"after {epochs} of {self._last} epochs"
        if steps:
            done += f" and {steps} of {self._data.steps(self._size) or 'many'} steps"
        for call in self._hooks.on_interrupt:
            call(None)
        go_on = f"initial_epoch={epochs}"
        if self._training.is_saved and self._training.saved is not None:
            go_on = f"resume={self._training.saved[0]!r}"
        raise TrainingInterrupted(
            f"Training was stopped by Ctrl-C {done}. The model keeps what it has learned, and "
            f"model.history the finished epochs. To go on: "
            f"model.fit(..., epochs={self._last}, {go_on}).",
            vars(self._model)["history"],
        )

    def _positions(self, order: Any, start: int, n: int) -> Any:
        """Return where the rows of a batch stand in the data; None for an iterable's."""
        if not isinstance(self._data, ArrayData):
            return None
        return range(start, start + n) if order is None else order[start : start + n]

    def _refuse_input(self, epoch: int, step: int, rows: Any, x: Any, y: Any) -> None:
        """Stop before an infinite input that a layer would hide from the loss spoils the weights.

        A loss that shows it is left to the step itself, which says more.
        """
        with no_grad():
            value, _ = losses_of(self._setup.loss, called(self._model, x), y, None)
        if math.isfinite(value.item()):
            raise NonFiniteError(
                f"In epoch {epoch + 1} of {self._last}, step {step + 1}: "
                f"{diagnose.first_bad(self._model, x, y, rows, value)}. The loss hides it, its "
                f"gradient would not. The parameters are as they were before this step."
            )

    def _no_memory(self, epoch: int, step: int, n: int, error: MemoryError) -> NoReturn:
        """Let go of what the step had made, and say where memory ran out."""
        self._setup.optimizer.zero_grad()
        error.__traceback__ = error.__context__ = None  # their frames hold the tape
        gc.collect()
        self._model.device.release()
        found = OutOfMemoryError(
            f"In epoch {epoch + 1} of {self._last}, step {step + 1}, with a batch of {n} rows: "
            f"{error} The parameters are as they were before this step. Here, batch_size below "
            f"{self._size} takes less."
        )
        found.asked, found.free = getattr(error, "asked", None), getattr(error, "free", None)
        raise found from None

    def _not_finite(
        self, epoch: int, step: int, rows: Any, x: Any, y: Any, value: Tensor
    ) -> NoReturn:
        steps, named = self._data.steps(self._size), _rows_text(rows, step, n_rows(x))
        cause = diagnose.first_bad(self._model, x, y, rows, value)
        raise NonFiniteError(
            f"The loss became {value.item()} in epoch {epoch + 1} of {self._last}, step {step + 1}"
            f"{f' of {steps}' if steps else ''} ({named}). First bad: {cause}. The parameters are "
            f"as they were before this step. {_advice(self._setup.optimizer)}"
        )


def _rows_text(rows: Any, step: int, n: int) -> str:
    """Return what messages call the rows of a step; their positions are None in an iterable."""
    if rows is None:
        return f"the {n} rows of batch {step} of the iterable"
    named = f"rows {', '.join(map(str, rows[:8]))}"
    return named + (f", ... of x, {n} in all" if n > 8 else " of x")


def _advice(optimizer: Optimizer) -> str:
    return f"Check the data, scale it, or lower the learning rate (now {optimizer.lr:g})."
