"""Training, measuring and predicting one batch at a time, for loops of the user's own."""

from __future__ import annotations

import math
from typing import Any

from nnx import diagnose
from nnx.batches import ArrayData, ClassWeight
from nnx.errors import NonFiniteError
from nnx.fit import compiled, predict
from nnx.loop import measure, mode
from nnx.nn.module import Module
from nnx.outputs import Totals, n_rows
from nnx.prepare import check_class_weight, place_of, probe, settle_device
from nnx.tape import enable_grad
from nnx.tensor import Tensor


def train_on_batch(
    model: Module,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    class_weight: ClassWeight | None = None,
    *,
    jit: bool = True,
) -> dict[str, float]:
    """Do one step of training; return the loss and the metrics of this batch, before the step.

    The step is that of `nnx.fit.fit`, compiled at the first call and then kept.
    Raises: as `fit`; NonFiniteError for a loss that is not finite, with nothing changed.
    """
    setup = compiled(model)
    data = ArrayData(place_of(model), x, y, sample_weight)
    if setup.outputs is None or not setup.optimizer.bound or setup.auto:
        prediction = probe(model, setup, data, data.rows)
        setup.outputs = prediction.shape[-1] if isinstance(prediction, Tensor) else 0
        setup.optimizer.bind(model)
    if class_weight is not None:
        data.weigh(place_of(model), check_class_weight(class_weight, setup.outputs))
    if setup.auto:
        settle_device(model, setup, data, data.rows, bool(jit), 0)
    inputs, targets, weight = data.head(data.rows)
    with mode(model, training=True), enable_grad():
        step = setup.step(model, bool(jit))
        number, value, prediction, parts = step(inputs, targets, weight)
        if not math.isfinite(number):
            cause = diagnose.first_bad(model, inputs, targets, range(data.rows), value)
            raise NonFiniteError(
                f"The loss of this batch is {number}. First bad: {cause}. The parameters are as "
                f"they were before. Check the data, scale it, or lower the learning rate (now "
                f"{setup.optimizer.lr:g})."
            )
    tally, totals = setup.tally(), Totals(setup.loss)
    tally.add(prediction, targets)
    totals.add([number], [[part.item()] for part in parts], data.rows)
    return {**totals.figures(), **tally.results()}


def test_on_batch(model: Module, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
    """Return the loss and the metrics of a batch; nothing is learned or recorded."""
    setup = compiled(model)
    data = ArrayData(place_of(model), x, y, sample_weight)
    return measure(model, setup, data, data.rows)


def predict_on_batch(model: Module, x: Any) -> Any:
    """Return the outputs for a batch as a new NumPy array."""
    return predict(model, x, batch_size=n_rows(place_of(model).inputs(x)))
