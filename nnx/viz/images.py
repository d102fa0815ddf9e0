"""Pictures made of images: weights, lit neurons, mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnx.diagnose import watched
from nnx.errors import DataError, ShapeError
from nnx.nn.layers import Dropout, Flatten, Reshape
from nnx.nn.module import Module
from nnx.tape import no_grad
from nnx.tensor import Tensor, asarray
from nnx.viz.counts import class_names, host, labels, probabilities
from nnx.viz.nodes import evaluating
from nnx.viz.picture import Plot, new_figure, rgb, signed_colours, style

Array = NDArray[Any]

MOST_NEURONS = 100
PASSING = (Flatten, Reshape, Dropout)  # layers that only hand values on
STEP = 2.1  # inches from one layer to the next
COLUMN = 16  # neurons that stand in one column
MOST_SHOWN = 256  # neurons of a layer


def _sign_legend(figure: Any, limit: float, use: dict[str, str], what: str) -> None:
    """Draw the one scale: from the most negative, through zero, to the most positive."""
    height = figure.get_figheight()
    axes = figure.add_axes((0.2, 0.34 / height, 0.6, 0.14 / height))
    axes.imshow(
        signed_colours(np.linspace(-1, 1, 255)[np.newaxis], 1.0, use), aspect="auto",
        extent=(-1, 1, 0, 1),
    )  # fmt: skip
    axes.set_yticks([])
    axes.set_xticks([-1, 0, 1], [f"−{limit:.3g} (red)", "0", f"+{limit:.3g} (green)"])
    axes.tick_params(length=0, labelsize=9)
    for side in axes.spines.values():
        side.set(visible=True, color=use["border"])
    axes.set_title(what, fontsize=9, weight="normal", loc="center", pad=3)


# Weights


class Grid(NamedTuple):
    """How the inputs of a neuron are laid out as a picture."""

    height: int
    width: int
    is_image: bool


def grid_of(n: int, shape: Sequence[int] | None) -> Grid:
    """Return the image that n inputs are, or the nearest grid.

    >>> grid_of(784, None), grid_of(6, (2, 3)), grid_of(13, None)
    (Grid(height=28, width=28, is_image=True), Grid(height=2, width=3, is_image=True), \
Grid(height=4, width=4, is_image=False))
    """
    sizes = [size for size in shape or () if size != 1]
    if len(sizes) == 2 and math.prod(sizes) == n:
        return Grid(sizes[0], sizes[1], True)
    side = math.isqrt(n)
    if side * side == n and n >= 64 and shape is None:
        return Grid(side, side, True)
    height = next((h for h in range(side, 0, -1) if n % h == 0 and n // h <= 2 * h), 0)
    if height:
        return Grid(height, n // height, False)
    width = math.isqrt(n - 1) + 1
    return Grid(-(-n // width), width, False)


def weights(model: Module, *, shape: Sequence[int] | None = None, dark: bool | None = None) -> Plot:
    """Return the weights of the first layer: each neuron as a picture of what it looks for.

    Green adds to the neuron, red takes from it, on one scale for all. ``shape`` is that of an input
    image, such as (28, 28); without it a square number of 64 inputs or more is taken for one, and
    other inputs stand in the nearest grid.
    Raises: DataError for a network that has no weights, or was never run.
    """
    path, columns, own = _first_weights(model)
    grid = grid_of(columns.shape[0], own or shape)
    n_neurons = columns.shape[1]
    shown = min(n_neurons, MOST_NEURONS)
    limit = float(np.abs(columns[np.isfinite(columns)]).max(initial=0.0))
    across = _across(shown)
    down = -(-shown // across)
    cell = 1.25 if shown <= 30 else 0.95
    tall, wide = cell * grid.height / max(grid.height, grid.width), cell
    if grid.height > grid.width:
        tall, wide = cell, cell * grid.width / grid.height
    title = _weights_title(path, n_neurons, shown, grid, columns.shape[0])
    width = max(across * (wide + 0.12) + 0.5, 0.088 * max(map(len, title)) + 0.5, 4.4)
    height = down * (tall + 0.3) + 1.0 + 0.25 * len(title)
    with style(dark) as use:
        figure = new_figure(width, height, constrained=False)
        left = (width - across * (wide + 0.12)) / 2
        for k in range(shown):
            x = left + (k % across) * (wide + 0.12) + 0.06
            y = height - 0.25 * len(title) - 0.15 - (k // across + 1) * (tall + 0.3)
            axes = figure.add_axes((x / width, y / height, wide / width, tall / height))
            axes.set_label(f"neuron {k}")
            _neuron(axes, columns[:, k], grid, limit, use)
            axes.set_title(str(k), fontsize=8, weight="normal", color=use["muted"], pad=2.5,
                           loc="center")  # fmt: skip
        for i, line in enumerate(title):
            figure.text(0.25 / width, 1 - (0.3 + 0.25 * i) / height, line,
                        weight="normal" if i else "bold", fontsize=9 if i else 11,
                        color=use["muted" if i else "ink"])  # fmt: skip
        _sign_legend(figure, limit, use, "weight")
    return Plot(figure, f"weights of {shown} neurons, from −{limit:.3g} to +{limit:.3g}", dark)


def _across(n: int) -> int:
    """Return how many neurons stand in a row: about as many as rows, full ones if they can be."""
    root = math.isqrt(n)
    full = next((n // down for down in range(root, 0, -1) if n % down == 0), n)
    return full if full <= 2 * root else math.ceil(math.sqrt(n * 1.2))


def _first_weights(model: Module) -> tuple[str, Array, tuple[int, ...] | None]:
    """Return the first weights as one column a neuron, and their own height and width."""
    for path, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            array = parameter.numpy()
            own = array.shape[:-1] if array.ndim > 2 else None
            layer = path.rpartition(".")[0] or type(model).__name__
            return layer, array.reshape(-1, array.shape[-1]), own
    raise DataError(
        f"weights: this {type(model).__name__} has no layer with weights, such as nn.Dense, to "
        f"draw."
    )


def _weights_title(path: str, n: int, shown: int, grid: Grid, n_in: int) -> list[str]:
    what = f"layer {path}: what its {n} neurons look for"
    lines = [what if n != 1 else f"layer {path}: what its neuron looks for"]
    if shown < n:
        lines.append(f"the first {shown} of {n} neurons")
    if not grid.is_image:
        blank = grid.height * grid.width - n_in
        more = f", {blank} {'place' if blank == 1 else 'places'} empty" if blank else ""
        lines.append(f"its {n_in} inputs are no image: in {grid.height} rows of {grid.width}{more}")
    return lines


def _neuron(axes: Any, column: Array, grid: Grid, limit: float, use: dict[str, str]) -> None:
    n = grid.height * grid.width
    picture = np.empty((n, 3), np.uint8)
    picture[:] = rgb(use["border"])  # the empty places
    picture[: len(column)] = signed_colours(column, limit, use)
    _show(axes, picture.reshape(grid.height, grid.width, 3), use)


def _show(axes: Any, picture: Array, use: dict[str, str], **settings: Any) -> None:
    axes.imshow(picture, interpolation="nearest", **settings)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=True, color=use["border"], linewidth=0.8)


# Activations


class _Layer(NamedTuple):
    label: str
    values: Array
    weight: Array | None


def activations(
    model: Module,
    x: Any,
    *,
    label: Any = None,
    classes: Sequence[Any] | None = None,
    shape: Sequence[int] | None = None,
    dark: bool | None = None,
) -> Plot:
    """Return one example on its way through a network: each layer's neurons, lit as they answer.

    ``x`` is one example, with or without its batch axis; ``label`` the true class. With ``classes``
    the last layer is shown as probabilities. Lines between neurons are their weight times what
    comes in, green where it adds.
    Raises: DataError for several examples, or a network without layers.
    """
    image, layers = _answers(model, x)
    grid = grid_of(image.size, shape or (image.shape if image.ndim == 2 else None))
    few = not grid.is_image and image.size <= COLUMN
    if few:  # no image: neurons that answer what they are given
        layers.insert(0, _Layer("input", image.reshape(-1).astype(np.float64), None))
    last = probabilities(layers[-1].values[np.newaxis])[0] if classes else None
    names = class_names(classes, len(last)) if last is not None else []
    told = _told(last, names, label)
    with style(dark) as use:
        start = 0.9 if few else 3.9
        width, height = start + STEP * (len(layers) - 1) + (1.9 if classes else 0.9), 5.6
        width = max(width, 0.165 * len(told) + 0.6, 6.6)
        figure = new_figure(width, height, constrained=False)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.axis("off")
        if not few:
            _input_picture(figure, image, grid, use, width, height)
        lines = _network(axes, layers, start, last, names, label, use)
        legend = "lit: answer by the largest of its layer, with a red rim where negative"
        legend += "; lines: weight × answer, green adds, red takes" if lines else ""
        figure.text(0.3 / width, 1 - 0.42 / height, told, fontsize=14, weight="bold")
        figure.text(0.3 / width, 0.22 / height, legend, fontsize=8, color=use["muted"])
    return Plot(figure, told, dark)


def _told(last: Array | None, names: Sequence[str], label: Any) -> str:
    truth = "" if label is None else str(label)
    if last is None:
        return "activations" + (f", truth {truth}" if truth else "")
    best = int(last.argmax())
    text = f"prediction {names[best]} ({last[best]:.1%})"
    if not truth:
        return text
    verdict = "right" if truth == names[best] else "wrong"
    return f"{text}, truth {truth}: {verdict}"


def _answers(model: Module, x: Any) -> tuple[Array, list[_Layer]]:
    """Return the example as an array, and what each layer makes of it."""
    model._check_built()
    given = host(x)
    row = _one_row(model, given)
    found: list[tuple[str, Module, Array]] = []

    def watch(path: str, module: Module, inputs: Any, out: Any) -> None:
        holds_others = any(isinstance(part, Module) for _, part in module._members())
        if isinstance(out, Tensor) and not holds_others and not isinstance(module, PASSING):
            found.append((path, module, out.numpy()[0].reshape(-1).astype(np.float64)))

    with no_grad(), evaluating(model), watched(model, watch):
        model(asarray(row, device=model.device))
    if not found:
        raise DataError(f"activations: this {type(model).__name__} has no layers to show.")
    layers = []
    for path, module, values in found:
        kind = type(module).__name__
        activation = getattr(module, "activation", None)
        named = f" · {activation}" if isinstance(activation, str) else ""
        weight = getattr(module, "weight", None)
        dense = isinstance(weight, Tensor) and weight.ndim == 2
        layers.append(_Layer(
            f"{path} · {kind}{named}".removeprefix(" · "), values,
            weight.numpy() if dense and isinstance(weight, Tensor) else None,
        ))  # fmt: skip
    return given.reshape(row.shape[1:]) if given.ndim != 1 else given, layers


def _one_row(model: Module, given: Array) -> Array:
    """Return one example with its batch axis. Raises: DataError for several."""
    first = model._first_parameter()
    sizes = (getattr(module, "in_features", None) for _, module in model.named_modules())
    features = next(filter(None, sizes), None)
    if given.dtype.kind == "f" and first is not None:
        given = given.astype(str(first.dtype))
    flattens = any(isinstance(module, Flatten) for _, module in model.named_modules())
    if features is not None and given.size == features and not flattens:
        return given.reshape(1, -1)
    if given.ndim > 1 and given.shape[0] == 1:
        return given
    if given.ndim > 1 and features is not None and given[0].size == features:
        raise DataError(
            f"activations: x of shape {given.shape} is {len(given)} examples; give one: x[0]."
        )
    return given[np.newaxis]


def _input_picture(
    figure: Any, image: Array, grid: Grid, use: dict[str, str], width: float, height: float
) -> None:
    side = 2.3
    tall = side * grid.height / max(grid.height, grid.width)
    wide = side * grid.width / max(grid.height, grid.width)
    axes = figure.add_axes((
        (0.3 + (side - wide) / 2) / width, (height / 2 - tall / 2) / height, wide / width,
        tall / height,
    ))  # fmt: skip
    axes.set_label("input")
    full = np.full(grid.height * grid.width, np.nan)
    full[: image.size] = image.reshape(-1)
    _show(axes, full.reshape(grid.height, grid.width), use, cmap="gray")
    about = "input" if grid.is_image else f"{image.size} inputs, no image"
    axes.set_title(about, fontsize=9, weight="normal", color=use["muted"], loc="center")


def _places(n: int, x: float, middle: float) -> tuple[Array, float]:
    """Return the centres of n neurons in columns around x, and their radius."""
    columns = -(-n // COLUMN)
    rows = -(-n // columns)
    step = min(3.9 / max(rows, 8), 1.4 / columns)
    at = np.arange(n)
    xs = x + (at // rows - (columns - 1) / 2) * step
    ys = middle + ((rows - 1) / 2 - at % rows) * step
    return np.stack([xs, ys], axis=1), 0.40 * step


def _network(
    axes: Any,
    layers: list[_Layer],
    start: float,
    last: Array | None,
    names: Sequence[str],
    label: Any,
    use: dict[str, str],
) -> bool:
    """Draw the neurons of every layer, and lines between; return whether there are any."""
    lines = False
    before: tuple[Array, Array] | None = None
    for i, layer in enumerate(layers):
        final = i == len(layers) - 1
        values = last if final and last is not None else layer.values
        n = min(len(values), MOST_SHOWN)
        centres, radius = _places(n, start + STEP * i, 2.75)
        if before is not None and layer.weight is not None:
            lines |= _lines(axes, before, centres, layer.weight, use)
        _neurons(axes, centres, radius, values[:n], use)
        more = f"\n{n} of {len(values)} shown" if n < len(values) else ""
        text = layer.label if not (final and last is not None) else f"{layer.label}\nprobability"
        axes.text(start + STEP * i, 0.62, text + more, ha="center", va="center", fontsize=8.5,
                  color=use["muted"], linespacing=1.4)  # fmt: skip
        if final and last is not None and n <= 2 * COLUMN:
            _named(axes, centres, radius, values, names, label, use)
        before = (centres, layer.values)
    return lines


def _neurons(axes: Any, centres: Array, radius: float, values: Array, use: dict[str, str]) -> None:
    from matplotlib.collections import EllipseCollection

    top = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    share = np.nan_to_num(np.abs(values) / top)[:, np.newaxis]
    dark, lit = rgb(use["zero"]) / 255, rgb(use["lit"]) / 255
    edges = [use["negative"] if value < 0 else use["muted"] for value in values]
    circles = EllipseCollection(
        [2 * radius] * len(values), [2 * radius] * len(values), [0.0] * len(values), units="xy",
        offsets=centres, offset_transform=axes.transData, facecolors=dark + share * (lit - dark),
        edgecolors=edges, linewidths=[1.6 if value < 0 else 0.8 for value in values], zorder=3,
    )  # fmt: skip
    axes.add_collection(circles, autolim=False)


def _lines(
    axes: Any,
    before: tuple[Array, Array],
    centres: Array,
    weight: Array,
    use: dict[str, str],
) -> bool:
    """Draw what each neuron adds to each of the next layer, as strong as it is.

    Returns whether it did: between many neurons nothing could be seen.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    starts, answers = before
    if weight.shape[0] != len(starts) or max(len(starts), len(centres)) > COLUMN:
        return False
    parts = answers[:, np.newaxis] * weight[:, : len(centres)]
    share = np.abs(parts) / (np.abs(parts).max() or 1.0)
    drawn, colours = [], []
    for i, j in np.argwhere(share > 0.04):
        drawn.append([starts[i], centres[j]])
        sign = use["positive" if parts[i, j] > 0 else "negative"]
        colours.append(to_rgba(sign, 0.85 * float(share[i, j])))
    axes.add_collection(LineCollection(drawn, colors=colours, linewidths=1.1, zorder=1),
                        autolim=False)  # fmt: skip
    return True


def _named(
    axes: Any,
    centres: Array,
    radius: float,
    values: Array,
    names: Sequence[str],
    label: Any,
    use: dict[str, str],
) -> None:
    """Write the class and its probability beside each neuron of the last layer."""
    best = int(values.argmax())
    for k, (x, y) in enumerate(centres):
        mark = " ← truth" if str(label) == names[k] and k != best else ""
        axes.text(x + radius + 0.1, y, f"{names[k]}: {values[k]:.1%}{mark}", va="center",
                  fontsize=9, weight="bold" if k == best else "normal",
                  color=use["ink"] if k == best or mark else use["muted"])  # fmt: skip


# Mistakes


def mistakes(
    predictions: Any,
    targets: Any,
    x: Any,
    *,
    classes: Sequence[Any] | None = None,
    shape: Sequence[int] | None = None,
    n: int = 20,
    dark: bool | None = None,
) -> Plot:
    """Return the examples that are wrong with the most confidence, the worst first.

    Shapes: predictions (B, C) or (B,) scores, targets (B,), x (B, ...).
    Raises: ShapeError where x has another number of rows.
    """
    shares, images = probabilities(predictions), host(x)
    true = labels(targets, len(shares), shares.shape[1])
    names = class_names(classes, shares.shape[1])
    if len(images) != len(shares):
        raise ShapeError(f"mistakes: {len(shares)} predictions of {len(images)} examples.")
    predicted = shares.argmax(axis=1)
    wrong = np.nonzero(predicted != true)[0]
    sure = shares[wrong, predicted[wrong]]
    worst = wrong[np.argsort(-sure, kind="stable")][:n]
    own = images.shape[1:] if images.ndim == 3 else None
    grid = grid_of(math.prod(images.shape[1:]), shape or own)
    text = f"{len(wrong):,} of {len(shares):,} wrong" + (", the surest first" if len(wrong) else "")
    across = min(5, max(len(worst), 3))
    down = max(-(-len(worst) // across), 1)
    with style(dark) as use:
        figure = new_figure(1.7 * across + 0.3, 2.3 * down + 0.6)
        figure.suptitle(text, x=0.015, ha="left", weight="bold", fontsize=12)
        panels = figure.subplots(down, across, squeeze=False).reshape(-1)
        for panel in panels[len(worst) :]:
            panel.axis("off")
        for panel, row in zip(panels, worst, strict=False):
            full = np.full(grid.height * grid.width, np.nan)
            full[: images[row].size] = images[row].reshape(-1)
            _show(panel, full.reshape(grid.height, grid.width), use, cmap="gray")
            panel.set_title(
                f"says {names[predicted[row]]}, {shares[row, predicted[row]]:.1%} sure\n"
                f"truth {names[true[row]]}", fontsize=9, loc="center", linespacing=1.35, pad=4,
            )  # fmt: skip
            panel.set_xlabel(f"image {row}", fontsize=8, color=use["muted"], labelpad=2)
    return Plot(figure, text, dark)
