"""What comes before the first step: settings and data are tried, and the device is chosen."""

from __future__ import annotations

import contextlib
import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any

from nnx import calibrate, creation, dtypes
from nnx.batches import ArrayData, ClassWeight, Data, Place, is_stream
from nnx.device import device as open_device
from nnx.errors import DataError, DeviceError, LabelError, ShapeError, told_in
from nnx.loop import Compiled, losses_of, mode, name_of
from nnx.nn.module import Module
from nnx.ops.loss import binary_cross_entropy, check_classes, cross_entropy
from nnx.outputs import Several, called, names_of, takes
from nnx.resume import Saved
from nnx.tape import no_grad
from nnx.tensor import Tensor, asarray
from nnx.tree import flatten

# Checks


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_split(split: Any, validation_data: Any, x: Any) -> float:
    """Return the share of rows to validate. Raises: DataError for what cannot be cut off."""
    if not (_is_real(split) and 0 <= split < 1):
        raise DataError(f"validation_split is from 0 to below 1, got {split!r}.")
    if split and validation_data is not None:
        raise DataError("Give validation_data or validation_split, not both.")
    if split and is_stream(x):
        raise DataError(
            "validation_split cuts the end off arrays, and x is an iterable of batches. Give "
            "validation_data=(x, y)."
        )
    return float(split)


def check_class_weight(class_weight: Any, n_outputs: int) -> ClassWeight:
    """Return weights of classes that exist; ``n_outputs`` is 0 where the network has several."""
    if not n_outputs:
        raise DataError("class_weight is for one output. Give sample_weight, one weight a row.")
    n_classes = max(2, n_outputs)
    if not isinstance(class_weight, dict) or not class_weight:
        raise DataError(f"class_weight is a dict such as {{0: 1.0, 1: 5.0}}, got {class_weight!r}.")
    for number, value in class_weight.items():
        if not (_is_real(number) and number in range(n_classes)):
            raise DataError(
                f"class_weight has class {number!r}, which does not exist: the classes are 0 to "
                f"{n_classes - 1}."
            )
        if not (_is_real(value) and 0 <= value < math.inf):
            raise DataError(f"class_weight[{number}] is {value!r}; a weight is finite, 0 or more.")
    return class_weight


def _check_labels(loss: Any, prediction: Any, y: Any) -> None:
    """Raise LabelError for the first of all targets that the loss would refuse in some batch."""
    if isinstance(loss, Several):
        pairs = loss.paired(prediction, y)
        for name, function, pair in zip(loss.names, loss.functions, pairs, strict=True):
            with told_in(f"For the output {name!r}"):
                _check_labels(function, *pair)
        return
    if loss is not cross_entropy and loss is not binary_cross_entropy:
        return
    host = asarray(y.numpy(), device="numpy")
    if loss is cross_entropy and y.ndim == prediction.ndim - 1:
        if host.dtype.is_floating:
            _refuse_float_labels(host.numpy())
        check_classes(host.device.namespace, host.array, prediction.shape[-1])
    elif y.shape[1:] == prediction.shape[1:]:
        loss(creation.zeros(y.shape, device="numpy"), host)


def _refuse_float_labels(labels: Any) -> None:
    import numpy as np

    bad = np.argwhere(labels != np.floor(labels))  # NaN differs from itself
    place = tuple(int(i) for i in (bad[0] if len(bad) else (0,) * labels.ndim))
    why = "class numbers are whole" if len(bad) else "class numbers are integers, not floats"
    raise LabelError(
        f"Label {labels[place]} at index {place[0] if len(place) == 1 else place} of type "
        f"{labels.dtype}: {why}. Convert them: y.astype('int64'), or give rows of probabilities."
    )


def probe(model: Module, setup: Compiled, data: Data, size: int) -> Any:
    """Run model, loss and metrics on the first rows, so that what does not fit is told at once.

    Builds the model if it was not built. Returns the predictions.
    """
    x, y, _ = data.head(size)
    with no_grad(), mode(model, training=False):
        prediction = called(model, x)
        setup.settle(names_of(model, prediction))
        if isinstance(data, ArrayData) and data.y is not None:
            _check_labels(setup.loss, prediction, data.y)
        value, parts = losses_of(setup.loss, prediction, y, None)
        for metric in setup.metrics:
            metric.finish(metric.measure(prediction, y))
        if parts:
            setup.loss.measure(prediction, y)
    for one, function in zip([value, *parts], [setup.loss, *_functions(setup)], strict=True):
        _check_number(one, function)
    return prediction


def _functions(setup: Compiled) -> Sequence[Any]:
    return setup.loss.functions if isinstance(setup.loss, Several) else ()


def _check_number(value: Any, loss: Any) -> None:
    if not isinstance(value, Tensor) or value.size != 1 or value.shape:
        shape = getattr(value, "shape", None)
        raise ShapeError(
            f"The loss {name_of(loss)} returned {type(value).__name__} of shape {shape}; it "
            f"must return one number. Reduce it: losses.mean()."
        )


# Where


def place_of(model: Module) -> Place:
    """Return where the data of a network goes."""
    first = model._first_parameter()
    dtype = first.dtype if first is not None else model._target_dtype or dtypes.float32
    return Place(model.device, dtype, takes(model))


def settle_device(
    model: Module, setup: Compiled, data: Data, size: int, jit: bool, verbose: Any
) -> None:
    """Do what device="auto" asked for: measure, move the model and the data, keep the report."""
    tensors, rebuild = flatten(data.head(size))
    host = [tensor.numpy() for tensor in tensors]

    def make_step(name: str) -> calibrate.Step:
        twin, optimizer = calibrate.copied(model, setup.optimizer)
        twin.to(name).train()
        optimizer.bind(twin)
        batch = rebuild([asarray(part, device=name) for part in host])
        step = Compiled(optimizer, setup.loss, (), False).step(twin, jit)
        return lambda: step(*batch)

    about = [
        repr(model), [[list(p.shape), str(p.dtype)] for p in model.parameters()],
        name_of(setup.loss), type(setup.optimizer).__name__, jit,
        [[list(part.shape), str(part.dtype)] for part in host],
    ]  # fmt: skip
    report = calibrate.choose(make_step, about)
    vars(model)["device_report"] = report
    if verbose in (1, 2) or (verbose == "auto" and sys.stderr.isatty()):
        print(f"device='auto' chose {report}", file=sys.stderr)
    setup.auto = False
    model.to(report.choice)
    data.to(place_of(model))


def go_where_it_was(model: Module, setup: Compiled, saved: Saved) -> None:
    """Go on with the device that device="auto" chose, where it is here too."""
    with contextlib.suppress(DeviceError):
        model.to(open_device(saved.device))
        setup.auto = False
