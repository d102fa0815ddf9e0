"""Several inputs and outputs: how a network is called on them, their losses and their metrics.

Inputs, outputs and targets are one tensor, or a list, tuple or dict of them.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nnx import metrics as nnx_metrics
from nnx.errors import DataError, DTypeError, did_you_mean
from nnx.metrics import Metric, Tally
from nnx.nn import losses
from nnx.nn.losses import Loss
from nnx.nn.module import Module
from nnx.tensor import Tensor


class Takes(NamedTuple):
    """How many inputs a network takes, and their names where these are known."""

    low: float = 1
    high: float = 1
    names: tuple[str, ...] | None = None


ONE = Takes()


def takes(model: Module) -> Takes:
    """Return what a network's ``forward`` takes."""
    names = getattr(model, "input_names", None)
    if names is not None:
        return Takes(len(names), len(names), tuple(names))
    parameters = inspect.signature(model.forward).parameters.values()
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Takes(
        sum(p.default is p.empty for p in placed),
        math.inf if open_ended else len(placed),
        None if any_name else tuple(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL),
    )


def called(model: Module, x: Any) -> Any:
    """Return a network's outputs for one input, a tuple of them, or a dict by name."""
    if isinstance(x, Tensor):
        return model(x)
    return model(**x) if isinstance(x, dict) else model(*x)


def n_rows(x: Any) -> int:
    """Return the rows of a batch: those of its first tensor."""
    while not isinstance(x, Tensor):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return x.shape[0]


def named(what: str, tree: Any) -> list[tuple[str, Any]]:
    """Return the arrays of a structure, and what messages call them: x, x[0], x['left']."""
    if hasattr(tree, "shape"):
        return [(what, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree or ())
    return [found for key, item in items for found in named(f"{what}[{key!r}]", item)]


def names_of(model: Module, prediction: Any) -> tuple[str, ...] | None:
    """Return the names of several outputs; None for one.

    Raises: DTypeError for what is neither a tensor with rows nor several of them.
    """
    parts = named("", prediction) if isinstance(prediction, dict | list | tuple) else []
    if isinstance(prediction, Tensor) and prediction.shape:
        return None
    if not parts or len(parts) != len(prediction) or not all(t.shape for _, t in parts):
        raise DTypeError(
            f"{type(model).__name__} returned {type(prediction).__name__}; fit needs one tensor "
            f"with a row of predictions for each of x, or a list, tuple or dict of them."
        )
    known = getattr(model, "output_names", None)
    if known is not None and len(known) == len(parts):
        return tuple(known)
    keys = prediction if isinstance(prediction, dict) else range(len(parts))
    return tuple(key if isinstance(key, str) else f"output_{key}" for key in keys)


# What compile was asked for


class Asked(NamedTuple):
    """The loss, its weights, and the metrics as a user gave them to `compile`."""

    loss: Any
    weights: Any
    metrics: Any

    def checked(self) -> Asked:
        """Return it after looking up every name. Raises: DataError for unknown ones."""
        for loss in _each(self.loss) or [self.loss]:
            losses.get(loss)
        for metric in _each(self.metrics):
            nnx_metrics.get(metric)
        return self

    @property
    def is_plain(self) -> bool:
        """Whether nothing in it is for several outputs."""
        nested = isinstance(self.metrics, Mapping) or (
            isinstance(self.metrics, list | tuple)
            and any(isinstance(m, list | tuple) for m in self.metrics)
        )
        return not (isinstance(self.loss, list | tuple | Mapping) or self.weights or nested)

    def single(self) -> tuple[Loss, tuple[Metric, ...]]:
        """Return loss and metrics of a network with one output."""
        if isinstance(self.loss, list | tuple | Mapping) and len(self.loss) != 1:
            raise DataError(
                f"The model has one output, and loss is {self.loss!r}. Give one loss, such as "
                f"loss='cross_entropy'."
            )
        if self.weights:
            raise DataError("loss_weights needs several outputs, and the model has one.")
        function = losses.get(_each(self.loss)[0])
        return function, _looked_up(list(_each(self.metrics)), function, "")

    def several(self, names: tuple[str, ...]) -> Several:
        """Return losses and metrics for outputs of these names."""
        one = isinstance(self.loss, str) or callable(self.loss)
        given = [self.loss] * len(names) if one else _by_name("loss", self.loss, names)
        for name, loss in zip(names, given, strict=True):
            if loss is None:
                raise DataError(f"loss has none for the output {name!r}. Give one for each.")
        functions = tuple(losses.get(loss) for loss in given)
        weights = [1.0] * len(names)
        if self.weights:
            weights = [
                1.0 if w is None else w for w in _by_name("loss_weights", self.weights, names)
            ]
        for name, weight in zip(names, weights, strict=True):
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight):
                raise DataError(f"loss_weights of {name!r} is {weight!r}, and not a finite number.")
        flat = self.metrics if isinstance(self.metrics, list | tuple) else [self.metrics]
        if isinstance(self.metrics, Mapping) or any(isinstance(m, list | tuple) for m in flat):
            wanted = [list(_each(m)) for m in _by_name("metrics", self.metrics, names)]
        else:
            wanted = [list(flat)] * len(names)
        measured = tuple(
            _looked_up(found, function, f"{name}_")
            for name, found, function in zip(names, wanted, functions, strict=True)
        )
        figures = ["loss", *(f"{name}_loss" for name in names)]
        figures += [metric.name for found in measured for metric in found]
        _check_figures(figures)
        return Several(names, functions, tuple(map(float, weights)), measured)


def _each(asked: Any) -> list[Any]:
    """Return the names and functions in what was asked for."""
    if asked is None:
        return []
    if isinstance(asked, list | tuple | Mapping) and not isinstance(asked, Metric):
        items = asked.values() if isinstance(asked, Mapping) else asked
        return [found for item in items for found in _each(item)]
    return [asked]


def _by_name(what: str, asked: Any, names: tuple[str, ...]) -> list[Any]:
    """Return what was given for each output: a list in their order, or a dict."""
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in names:
                raise DataError(f"{what} has {name!r}. {did_you_mean(name, names)}")
        return [asked.get(name) for name in names]
    if not isinstance(asked, list | tuple) or len(asked) != len(names):
        raise DataError(
            f"{what} is {asked!r}, and the model has {len(names)} outputs: {', '.join(names)}. "
            f"Give a list with one for each, or a dict by name."
        )
    return list(asked)


def _looked_up(asked: list[Any], loss: Loss, prefix: str) -> tuple[Metric, ...]:
    found = [nnx_metrics.get(metric, loss) for metric in asked]
    named = tuple(metric._replace(name=prefix + metric.name) for metric in found)
    _check_figures(["loss", *(metric.name for metric in named)])
    return named


def _check_figures(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"Two figures would be called {name!r} in the history. Leave one out.")


# Several outputs


class Several:
    """The loss of several outputs: the sum of each one's own times its weight.

    ``names`` are the outputs', and ``metrics`` has those of each.
    """

    __name__ = "loss"

    def __init__(
        self,
        names: tuple[str, ...],
        functions: tuple[Loss, ...],
        weights: tuple[float, ...],
        metrics: tuple[tuple[Metric, ...], ...],
    ) -> None:
        self.names, self.functions, self.weights = names, functions, weights
        self.metrics = metrics

    def total(self, parts: Sequence[Any]) -> Any:
        """Return the sum of losses times their weights."""
        terms = [
            part if weight == 1.0 else part * weight
            for part, weight in zip(parts, self.weights, strict=True)
        ]
        return functools.reduce(operator.add, terms)

    def paired(self, prediction: Any, y: Any) -> list[tuple[Tensor, Tensor]]:
        """Return each output with its target.

        Raises: DataError where there is not one target for each output.
        """
        names = self.names
        outputs = list(prediction.values() if isinstance(prediction, dict) else prediction)
        if isinstance(y, dict):
            missing = [name for name in names if name not in y]
            unknown = [name for name in y if name not in names]
            if missing or unknown:
                raise DataError(
                    f"y has the keys {', '.join(map(repr, y))}, and the outputs are "
                    f"{', '.join(map(repr, names))}. Give one target for each."
                )
            targets = [y[name] for name in names]
        elif isinstance(y, list | tuple) and len(y) == len(names):
            targets = list(y)
        else:
            given = "one array" if isinstance(y, Tensor) else f"{len(y or ())} arrays"
            raise DataError(
                f"The model has {len(names)} outputs ({', '.join(names)}), and y is {given}. Give "
                f"a list with one for each, in this order, or a dict by name."
            )
        return list(zip(outputs, targets, strict=True))

    def measure(self, prediction: Any, y: Any) -> None:
        """Run all metrics once, so that what does not fit is told."""
        for metrics, pair in zip(self.metrics, self.paired(prediction, y), strict=True):
            for metric in metrics:
                metric.measure(*pair)

    def tally(self) -> SeveralTally:
        """Return what sums up the metrics of all outputs."""
        return SeveralTally(self)

    def figures(self, sums: Sequence[float], rows: int) -> dict[str, float]:
        """Return the mean loss of each output by name, from sums over rows."""
        return {f"{name}_loss": s / rows for name, s in zip(self.names, sums, strict=True)}


class SeveralTally:
    """A `nnx.metrics.Tally` for each output."""

    def __init__(self, loss: Several) -> None:
        self._loss = loss
        self._tallies = [Tally(found) for found in loss.metrics]

    def add(self, predictions: Any, targets: Any, size: int | None = None) -> None:
        """Take in a batch, or many of ``size`` rows."""
        pairs = self._loss.paired(predictions, targets)
        for tally, pair in zip(self._tallies, pairs, strict=True):
            tally.add(*pair, size)

    def state(self) -> list[Any]:
        """Return all that was taken in, as `restore` takes it."""
        return [tally.state() for tally in self._tallies]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from a `state`."""
        for tally, kept in zip(self._tallies, state, strict=True):
            tally.restore(kept)

    def results(self) -> dict[str, float]:
        """Return what all batches so far amount to, by name."""
        return {key: value for tally in self._tallies for key, value in tally.results().items()}


class Totals:
    """Sums of losses over rows: of the loss, and of that of each output."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss
        self.total, self.rows = 0.0, 0
        self.parts = [0.0] * len(getattr(loss, "names", ()))

    def add(self, losses: list[float], parts: list[list[float]], size: int) -> None:
        """Take in steps of so many rows each."""
        for number in losses:
            self.total += number * size
        for i, numbers in enumerate(parts):
            for number in numbers:
                self.parts[i] += number * size
        self.rows += size * len(losses)

    def figures(self) -> dict[str, float]:
        """Return the means by name."""
        parts = self._loss.figures(self.parts, self.rows) if self.parts else {}
        return {"loss": self.total / self.rows, **parts}

    def state(self) -> list[Any]:
        """Return the sums, as `restore` takes them."""
        return [self.rows, self.total, self.parts]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from a `state`. Raises: ValueError for one of other outputs."""
        rows, total, parts = state
        if type(rows) is not int or rows < 0 or len(parts) != len(self.parts):
            raise ValueError(f"{state!r} are no sums of this training's losses")
        self.rows, self.total, self.parts = rows, float(total), [float(part) for part in parts]


Form = Any
"""The structure of a batch, to be compared."""


def form_of(tree: Any) -> Form:
    """Return lists, tuples and dicts without what is in them."""
    if isinstance(tree, dict):
        return ("dict", *((key, form_of(item)) for key, item in tree.items()))
    if isinstance(tree, list | tuple):
        return (type(tree).__name__, *map(form_of, tree))
    return tree is None
