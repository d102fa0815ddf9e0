"""What a trained network says: of data with known targets, and of data without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnx import metrics
from nnx.cli.inputs import read_features, read_input
from nnx.cli.options import Where, choose_device
from nnx.cli.output import Figure, note, on_terminal, print_figures, print_json, print_rows
from nnx.cli.run import CHECKPOINT, MODEL, Config, read_config
from nnx.cli.sources import encode, hold_out, read_source, split_rows
from nnx.errors import ShapeError

if TYPE_CHECKING:
    from nnx.nn import Module

Array = NDArray[Any]


def evaluate(
    run: str, data: str | None, target: str | None, *, device: str | None, as_json: bool
) -> None:
    """Print loss and accuracy of a run on the test rows of its data, or on other data.

    For classes also how good each is told, and which is taken for which.
    """
    folder = Path(run)
    config = read_config(folder)
    where = choose_device(device, measure=False)
    rows, y, what = test_rows(config, data or config.data, target or config.target)
    model = load_model(folder, where)
    scores = outputs(model, config, config.standardise(rows))
    matrix = metrics.confusion_matrix(scores, y, len(config.classes)) if config.classes else None
    figures = [
        Figure("data", data or config.data, "data", f"{data or config.data}, {what}"),
        Figure("rows", len(rows), config.unit, f"{len(rows):,}"),
        Figure("device", where.name, "device", f"{where.name} ({where.reason})"),
        *_figures(config, scores, y),
    ]
    if matrix is not None:
        figures += _class_figures(config, matrix, as_json=as_json)
    print_figures(figures, as_json=as_json, title=f"{folder}, tested")
    if matrix is not None and on_terminal() and not as_json:
        print(f"\n{metrics.of_matrix(matrix, config.classes)}\n")
        print(metrics.confusion_text(matrix, config.classes))


def _class_figures(config: Config, matrix: Array, *, as_json: bool) -> list[Figure]:
    """Return what programs are told beside the accuracy; people see it as text."""
    report = metrics.of_matrix(matrix, config.classes)
    macro = report.averages["macro avg"]
    figures = [
        Figure("precision_macro", macro["precision"], "", ""),
        Figure("recall_macro", macro["recall"], "", ""),
        Figure("f1_macro", macro["f1-score"], "", ""),
    ]
    if as_json:
        figures += [
            Figure("classes", dict(report.classes), "", ""),
            Figure("confusion_matrix", matrix.tolist(), "", ""),
        ]
    return figures


def test_rows(config: Config, data: str, target: str | None) -> tuple[Array, Array, str]:
    """Return rows that training has not seen, their targets, and which rows they are."""
    source = read_source(data, target if data.lower().endswith(".csv") else None)
    what = "its test part" if source.x_test is not None else "all rows"
    x, y = source.x, source.y
    if source.x_test is not None and source.y_test is not None:
        x, y = source.x_test, source.y_test
    elif source.digest() == config.data_sha256:
        what = "the rows kept for the test"
        _, kept = split_rows(len(x), config.seed)
        x, y = x[kept], y[kept]
    else:
        if data == config.data:
            note(f"{data} has changed since training: all its rows count, learned ones too.")
        if source.kind == "csv" and config.features:
            x = read_features(data, config, source.target)
    _check_width(x, config, data)
    return x, targets(config, y, source.classes), what


def training_rows(config: Config, data: str) -> tuple[Array, Array]:
    """Return the rows that a run learns from, and their targets, as its network takes them."""
    source = read_source(data, config.target if data.lower().endswith(".csv") else None)
    split = hold_out(source, config.seed)
    _check_width(split.x, config, data)
    y = targets(config, split.y, source.classes)
    if not config.classes:
        y = ((y - config.y_mean) / config.y_scale).astype(np.float32)
    return config.standardise(split.x), y


def _check_width(x: Array, config: Config, data: str) -> None:
    if x.shape[1] != config.n_features:
        raise ShapeError(
            f"{data} has rows of {x.shape[1]} numbers, the network takes {config.n_features}. It "
            f"was trained on {config.data}."
        )


def targets(config: Config, y: Array, words: tuple[str, ...]) -> Array:
    """Return targets as the run's loss takes them, in the target's own unit.

    Shapes: (B,) -> (B,) for cross_entropy, (B, 1) for other losses.
    """
    if not config.classes:
        return y.astype(np.float32)[:, np.newaxis]
    index = encode(y, words, config.classes)
    if config.loss == "cross_entropy":
        return index
    return index.astype(np.float32)[:, np.newaxis]


def load_model(folder: Path, where: Where) -> Module:
    """Return the network of a run on a device.

    Raises: CheckpointError for the file of another network than config.json tells of.
    """
    from nnx import device, nn
    from nnx.errors import CheckpointError

    path = folder / MODEL
    if not path.exists() and (folder / CHECKPOINT).exists():
        path = folder / CHECKPOINT
        note(f"{folder} was cut off before its end: taken is its {CHECKPOINT}.")
    with device(where.name):
        model = nn.load(path)
    config = read_config(folder)
    shapes = [parameter.shape for parameter in model.parameters() if parameter.ndim == 2]
    found = (shapes[0][0], shapes[-1][1]) if shapes else (0, 0)
    if found != (config.n_features, config.outputs):
        raise CheckpointError(
            f"{path} is of another network than the run's config.json: it goes from {found[0]} "
            f"numbers to {found[1]}, and that of the run from {config.n_features} to "
            f"{config.outputs}. Put the run's own file back, or train again."
        )
    return model


def judge(model: Any, config: Config, x: Array, y: Array) -> list[Figure]:
    """Return how right a network is on inputs as it takes them; y as `targets` gives it."""
    return _figures(config, outputs(model, config, x), y)


def _figures(config: Config, scores: Array, y: Array) -> list[Figure]:
    from nnx import nn

    loss = metrics_value(nn.losses.get(config.loss), scores, y)
    figures = [Figure("loss", loss, f"loss ({config.loss})", f"{loss:.4g}")]
    if not config.classes:
        r2 = metrics.r2(scores, y)
        return [*figures, Figure("r2", r2, "r2", f"{r2:.4f}")]
    one_logit = config.loss == "binary_cross_entropy"
    accuracy = (metrics.binary_accuracy if one_logit else metrics.accuracy)(scores, y)
    return [*figures, Figure("accuracy", accuracy, "accuracy", f"{accuracy:.2%}")]


def metrics_value(loss: Any, scores: Array, y: Array) -> float:
    """Return a loss of host arrays as a number."""
    from nnx import asarray, no_grad

    with no_grad():
        return float(loss(asarray(scores, device="numpy"), asarray(y, device="numpy")))


def outputs(model: Any, config: Config, x: Array) -> Array:
    """Return logits, or values in the target's own unit.

    Shapes: x (B, I) -> (B, outputs).
    """
    out: Array = model.predict(x)
    if config.classes:
        return out
    return (out.astype(np.float64) * config.y_scale + config.y_mean).astype(np.float32)


def probabilities(config: Config, logits: Array) -> Array:
    """Return the probability of each class.

    Shapes: (B, outputs) -> (B, classes). Dtype: float64.
    """
    import nnx

    tensor = nnx.asarray(logits.astype(np.float64), device="numpy")
    if config.loss != "binary_cross_entropy":
        return np.asarray(nnx.softmax(tensor, axis=-1).numpy())
    second = nnx.sigmoid(tensor).numpy()
    return np.concatenate([nnx.sigmoid(-tensor).numpy(), second], axis=1)


def predict(run: str, path: str, *, device: str | None, as_json: bool) -> None:
    """Print what a run says of each row of a file."""
    folder = Path(run)
    config = read_config(folder)
    where = choose_device(device, measure=False)
    rows = read_input(path, config)
    model = load_model(folder, where)
    found = outputs(model, config, config.standardise(rows))
    unit = config.unit if len(found) != 1 else config.unit.removesuffix("s")
    note(f"{path}: {len(found):,} {unit}, read on {where.name} ({where.reason}).")
    if not config.classes:
        _print_values([_short(value) for value in found[:, 0]], config, as_json=as_json)
    else:
        _print_classes(probabilities(config, found), config, as_json=as_json)


def _print_values(values: list[float], config: Config, *, as_json: bool) -> None:
    if as_json:
        print_json([{"value": value} for value in values])
    else:
        print_rows(("row", config.target or "value"), list(enumerate(values)))


def _print_classes(shares: Array, config: Config, *, as_json: bool) -> None:
    best = [config.classes[index] for index in shares.argmax(axis=1)]
    named = [dict(zip(config.classes, map(_short, row), strict=True)) for row in shares.tolist()]
    if as_json:
        print_json(
            [{"class": name, "probabilities": row} for name, row in zip(best, named, strict=True)]
        )
    elif not on_terminal():
        columns = ("row", "class", *(f"p({name})" for name in config.classes))
        print_rows(columns, [
            (i, name, *row.values()) for i, (name, row) in enumerate(zip(best, named, strict=True))
        ])  # fmt: skip
    elif len(named) == 1:
        ranked = sorted(named[0].items(), key=lambda pair: -pair[1])[:10]
        print_rows(("class", "probability"), [(name, f"{share:.2%}") for name, share in ranked])
    else:
        print_rows(("row", "class", "probability"), [
            (i, name, f"{row[name]:.2%}") for i, (name, row) in enumerate(zip(best, named,
                                                                               strict=True))
        ])  # fmt: skip


def _short(value: float) -> float:
    """Return a number with the digits that a float32 has."""
    return float(f"{value:.7g}")
