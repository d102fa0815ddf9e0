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
from nnx.outputs import called, n_rows
from nnx.tape import no_grad
from nnx.tensor import Tensor
from nnx.tree import flatten
from nnx.viz.counts import class_names, host, labels, probabilities, shortened
from nnx.viz.nodes import evaluating, place_of
from nnx.viz.picture import Plot, new_figure, rgb, signed_colours, style

Array = NDArray[Any]

MOST_NEURONS = 100
PASSING = (Flatten, Reshape, Dropout)  # layers that only hand values on
STEP = 2.1  # inches from one layer to the next
COLUMN = 16  # neurons that stand in one column
MOST_SHOWN = 256  # neurons of a layer
CHANNELS = (2, 3, 4)  # of an image
THINNEST = 0.12  # inches of an image's shorter side


def _sign_legend(figure: Any, limit: float, use: dict[str, str], what: str) -> None:
    """Draw the one scale: from the most negative, through zero, to the most positive."""
    height = figure.get_figheight()
    axes = figure.add_axes((0.2, 0.34 / height, 0.6, 0.14 / height))
    axes.imshow(
        signed_colours(np.linspace(-1, 1, 255)[np.newaxis], 1.0, use), aspect="auto",
        extent=(-1, 1, 0, 1),
    )  # fmt: skip
    axes.set_yticks([])
    ends = (f"−{limit:.3g} (red)", f"+{limit:.3g} (green)") if limit else ("red", "green")
    axes.set_xticks([-1, 0, 1], [ends[0], "0", ends[1]])
    axes.tick_params(length=0, labelsize=9)
    for side in axes.spines.values():
        side.set(visible=True, color=use["border"])
    axes.set_title(what, fontsize=9, weight="normal", loc="center", pad=3)


# Weights


class Grid(NamedTuple):
    """How numbers are laid out as a picture; of channels, behind or before it, the mean is."""

    height: int
    width: int
    is_image: bool
    channels: int = 1
    behind: bool = True

    def laid_out(self, values: Array) -> Array:
        """Return numbers as the picture. Shapes: (n,) -> (H, W); NaN where a place is empty."""
        if self.channels > 1:
            pixels = values.reshape((-1, self.channels) if self.behind else (self.channels, -1))
            mean: Array = pixels.mean(axis=int(self.behind))
            return mean.reshape(self.height, self.width)
        full = np.full(self.height * self.width, np.nan)
        full[: values.size] = values.reshape(-1)
        return full.reshape(self.height, self.width)

    def told(self, n: int) -> str:
        """Return what is to be said where n numbers are not simply an image."""
        if self.is_image:
            return f"the mean of {self.channels} channels" if self.channels > 1 else ""
        blank = self.height * self.width - n
        more = f", {_counted(blank, 'place')} empty" if blank else ""
        verb = "is" if n == 1 else "are"
        rows = _counted(self.height, "row")
        return f"{_counted(n, 'input')} {verb} no image: in {rows} of {self.width}{more}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def grid_of(n: int, shape: Sequence[int] | None) -> Grid:
    """Return the image that n inputs are, or the nearest grid.

    >>> grid_of(784, None)[:3], grid_of(6, (2, 3))[:3], grid_of(13, None)[:3]
    ((28, 28, True), (2, 3, True), (4, 4, False))

    Raises: ShapeError for a shape of another number of inputs.
    """
    if shape is not None and math.prod(shape) != n:
        raise ShapeError(
            f"shape {tuple(shape)} is of {math.prod(shape)} numbers, and there are {n} inputs. "
            f"Leave it out, and they are shown in the nearest grid."
        )
    sizes = [size for size in shape or () if size != 1]
    if len(sizes) == 2:
        return Grid(sizes[0], sizes[1], True)
    if len(sizes) == 3 and sizes[2] in CHANNELS:
        return Grid(sizes[0], sizes[1], True, sizes[2])
    if len(sizes) == 3 and sizes[0] in CHANNELS:
        return Grid(sizes[1], sizes[2], True, sizes[0], behind=False)
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
    image, such as (28, 28) or, of which the mean of the channels is shown, (32, 32, 3); without it
    a square number of 64 inputs or more is taken for one, and other inputs stand in the nearest
    grid.
    Raises: DataError for a network that has no weights, or was never run; ShapeError for a shape of
    another number of inputs.
    """
    path, columns, own = _first_weights(model)
    grid = grid_of(columns.shape[0], own or shape)
    n_neurons = columns.shape[1]
    shown = min(n_neurons, MOST_NEURONS)
    limit = float(np.abs(columns[np.isfinite(columns)]).max(initial=0.0))
    across = _across(shown)
    down = -(-shown // across)
    cell = 1.25 if shown <= 30 else 0.95
    longer = max(grid.height, grid.width)
    tall, wide = (max(cell * side / longer, THINNEST) for side in (grid.height, grid.width))
    title = _weights_title(path, columns, shown, grid)
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


def _weights_title(path: str, columns: Array, shown: int, grid: Grid) -> list[str]:
    n_in, n = columns.shape
    what = f"layer {path}: what its {n} neurons look for"
    lines = [what if n != 1 else f"layer {path}: what its neuron looks for"]
    if shown < n:
        lines.append(f"the first {shown} of {n} neurons")
    if about := grid.told(n_in):
        lines.append(f"its {about}" if not grid.is_image else about)
    wrong = int((~np.isfinite(columns)).sum())
    if wrong:
        lines.append(f"{wrong:,} of {columns.size:,} weights are NaN (dark) or infinite (full)")
    if not columns.any():
        lines.append("all weights are 0")
    return lines


def _neuron(axes: Any, column: Array, grid: Grid, limit: float, use: dict[str, str]) -> None:
    with np.errstate(invalid="ignore"):  # the mean of infinities may be none
        picture = signed_colours(grid.laid_out(column), limit, use)
    if not grid.is_image:
        picture.reshape(-1, 3)[len(column) :] = rgb(use["border"])  # the empty places
    _show(axes, picture, use)


def _show(axes: Any, picture: Array, use: dict[str, str], **settings: Any) -> None:
    axes.imshow(picture, interpolation="nearest", aspect="auto", **settings)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=True, color=use["border"], linewidth=0.8)


# Activations


class _Layer(NamedTuple):
    label: str
    values: Array
    weight: Array | None
    given: Array | None = None


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

    ``x`` is one example, with or without its batch axis, or of several inputs a list or dict with
    it; ``label`` the true class. With ``classes``
    the last layer is shown as probabilities. Lines between neurons are their weight times what
    comes in, green where it adds.
    Raises: DataError for several examples, or a network without layers.
    """
    image, layers = _answers(model, x)
    grid = grid_of(image.size, shape or (image.shape if image.ndim > 1 else None))
    few = not grid.is_image and image.size <= COLUMN
    if few:  # no image: neurons that answer what they are given
        layers.insert(0, _Layer("input", image.reshape(-1).astype(np.float64), None))
    wrong = sum(int((~np.isfinite(layer.values)).sum()) for layer in layers)
    last = None
    if classes and not np.isnan(layers[-1].values).any():
        last = probabilities(layers[-1].values[np.newaxis])[0]
    names = class_names(classes, len(last)) if last is not None else []
    told = _told(last, names, label)
    if classes and last is None:
        told = told.replace("activations", "no prediction")
    if wrong:
        told += f"; {_counted(wrong, 'answer')} NaN or infinite"
    room = 0.095 * max((len(shortened(name)) for name in names), default=0)
    with style(dark) as use:
        start = 0.9 if few else 3.9
        width, height = start + STEP * (len(layers) - 1) + (1.8 + room if names else 0.9), 5.6
        width = max(width, 0.165 * len(told) + 0.6, 6.6)
        figure = new_figure(width, height, constrained=False)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.axis("off")
        if not few:
            _input_picture(figure, image, grid, use, width, height)
        lines = _network(axes, layers, start, last, names, label, use)
        legend = "lit: answer by the largest of its layer, with a red rim where negative"
        legend += ", dark where NaN" if wrong else ""
        rest = "lines: weight × answer, green adds, red takes"
        if lines:
            legend += ("; " if 0.058 * len(legend + rest) < width else "\n") + rest
        figure.text(0.3 / width, 1 - 0.42 / height, told, fontsize=14, weight="bold")
        figure.text(0.3 / width, 0.22 / height, legend, fontsize=8, color=use["muted"])
    return Plot(figure, told, dark)


def _told(last: Array | None, names: Sequence[str], label: Any) -> str:
    truth = "" if label is None else str(label)
    if last is None:
        return "activations" + (f", truth {shortened(truth)}" if truth else "")
    best = int(last.argmax())
    text = f"prediction {shortened(names[best])} ({last[best]:.1%})"
    if not truth:
        return text
    verdict = "right" if truth == names[best] else "wrong"
    return f"{text}, truth {shortened(truth)}: {verdict}"


def _answers(model: Module, x: Any) -> tuple[Array, list[_Layer]]:
    """Return the example as an array, and what each layer makes of it."""
    model._check_built()
    place = place_of(model)
    several = isinstance(x, dict) or place.are_several(x)
    given = x if several else host(x)
    row = place.inputs(x if several else _one_row(model, given))
    if n_rows(row) != 1:
        raise DataError(
            f"activations: x is {n_rows(row)} examples; give one, such as the first row of each of "
            f"its inputs: x[:1]."
        )
    found: list[tuple[str, Module, Array, Array | None]] = []

    def watch(path: str, module: Module, inputs: Any, out: Any) -> None:
        holds_others = any(isinstance(part, Module) for _, part in module._members())
        if isinstance(out, Tensor) and not holds_others and not isinstance(module, PASSING):
            first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            found.append((path, module, _flat(out), None if first is None else _flat(first)))

    with no_grad(), evaluating(model), watched(model, watch):
        called(model, row)
    if not found:
        raise DataError(f"activations: this {type(model).__name__} has no layers to show.")
    layers = []
    for path, module, values, inputs in found:
        kind = type(module).__name__
        activation = getattr(module, "activation", None)
        named = f" · {activation}" if isinstance(activation, str) else ""
        weight = getattr(module, "weight", None)
        dense = isinstance(weight, Tensor) and weight.ndim == 2
        layers.append(_Layer(
            f"{path} · {kind}{named}".removeprefix(" · "), values,
            weight.numpy() if dense and isinstance(weight, Tensor) else None, inputs,
        ))  # fmt: skip
    if several:
        return np.concatenate([part.numpy().reshape(-1) for part in flatten(row)[0]]), layers
    return given.reshape(row.shape[1:]) if given.ndim != 1 else given, layers


def _flat(x: Tensor) -> Array:
    """Return the first row of a batch as float64, without its shape."""
    row: Array = x.numpy()[0].reshape(-1).astype(np.float64)
    return row


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
    _show(axes, grid.laid_out(image), use, cmap="gray")
    about = grid.told(image.size).partition(":")[0] or "input"
    axes.set_title(about, fontsize=9, weight="normal", color=use["muted"], loc="center")


def _places(n: int, x: float, middle: float, columns: int | None = None) -> tuple[Array, float]:
    """Return the centres of n neurons in columns around x, and their radius."""
    columns = columns or -(-n // COLUMN)
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
        named = final and last is not None and n <= 2 * COLUMN
        centres, radius = _places(n, start + STEP * i, 2.75, 1 if named else None)
        if before is not None and layer.weight is not None:
            lines |= _lines(axes, before, centres, layer, use)
        _neurons(axes, centres, radius, values[:n], use)
        more = f"\n{n} of {len(values)} shown" if n < len(values) else ""
        text = layer.label if not (final and last is not None) else f"{layer.label}\nprobability"
        axes.text(start + STEP * i, 0.62, text + more, ha="center", va="center", fontsize=8.5,
                  color=use["muted"], linespacing=1.4)  # fmt: skip
        if named and last is not None:
            _named(axes, centres, radius, values, names, label, use)
        before = (centres, layer.values)
    return lines


def _neurons(axes: Any, centres: Array, radius: float, values: Array, use: dict[str, str]) -> None:
    from matplotlib.collections import EllipseCollection

    top = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    share = np.clip(np.nan_to_num(np.abs(values) / top), 0, 1)[:, np.newaxis]
    dark, lit = rgb(use["zero"]) / 255, rgb(use["lit"]) / 255
    faces = dark + share * (lit - dark)
    faces[np.isnan(values)] = rgb(use["muted"]) / 255
    edges = [use["negative"] if value < 0 else use["muted"] for value in values]
    circles = EllipseCollection(
        [2 * radius] * len(values), [2 * radius] * len(values), [0.0] * len(values), units="xy",
        offsets=centres, offset_transform=axes.transData, facecolors=faces,
        edgecolors=edges, linewidths=[1.6 if value < 0 else 0.8 for value in values], zorder=3,
    )  # fmt: skip
    axes.add_collection(circles, autolim=False)


def _lines(
    axes: Any,
    before: tuple[Array, Array],
    centres: Array,
    layer: _Layer,
    use: dict[str, str],
) -> bool:
    """Draw what each neuron adds to each of the next layer, as strong as it is.

    Returns whether it did: not where the layer was given something else, and not between many
    neurons, where nothing could be seen.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    (starts, answers), weight, given = before, layer.weight, layer.given
    if weight is None or given is None or given.shape != answers.shape:
        return False
    if not np.allclose(given, answers, equal_nan=True) or max(len(starts), len(centres)) > COLUMN:
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        parts = answers[:, np.newaxis] * weight[:, : len(centres)].astype(np.float64)
    parts[~np.isfinite(parts)] = 0.0
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
        axes.text(x + radius + 0.1, y, f"{shortened(names[k])}: {values[k]:.1%}{mark}",
                  va="center", fontsize=9 if len(names) <= COLUMN else 7,
                  weight="bold" if k == best else "normal",
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
    Raises: ShapeError where x has another number of rows, or ``shape`` of numbers; DataError for a
    NaN among the predictions, or n below 1.
    """
    if n < 1:
        raise DataError(f"mistakes: n is {n}; at least 1 is to be shown.")
    shares, images = probabilities(predictions), host(x)
    true = labels(targets, len(shares), shares.shape[1])
    names = [shortened(name, 14) for name in class_names(classes, shares.shape[1])]
    if len(images) != len(shares):
        raise ShapeError(f"mistakes: {len(shares)} predictions of {len(images)} examples.")
    predicted = shares.argmax(axis=1)
    wrong = np.nonzero(predicted != true)[0]
    sure = shares[wrong, predicted[wrong]]
    worst = wrong[np.argsort(-sure, kind="stable")][:n]
    n_in = math.prod(images.shape[1:])
    grid = grid_of(n_in, shape or (images.shape[1:] if images.ndim > 2 else None))
    text = f"{len(wrong):,} of {len(shares):,} wrong" + (", the surest first" if len(wrong) else "")
    across = min(5, max(len(worst), 3))
    down = max(-(-len(worst) // across), 1)
    wide = max(map(len, names)) > 4
    about = grid.told(n_in) if len(worst) else ""
    with style(dark) as use:
        figure = new_figure(1.7 * across + 0.3, (2.5 if wide else 2.3) * down + 0.6)
        title = text + (f"\n{about}" if about else "")
        figure.suptitle(title, x=0.015, ha="left", weight="bold", fontsize=12)
        panels = figure.subplots(down, across, squeeze=False).reshape(-1)
        for panel in panels[len(worst) :]:
            panel.axis("off")
        for panel, row in zip(panels, worst, strict=False):
            _show(panel, grid.laid_out(images[row]), use, cmap="gray")
            panel.set_aspect(1.0)
            between = "\n" if wide else ", "
            panel.set_title(
                f"says {names[predicted[row]]}{between}{shares[row, predicted[row]]:.1%} sure\n"
                f"truth {names[true[row]]}", fontsize=9, loc="center", linespacing=1.35, pad=4,
            )  # fmt: skip
            panel.set_xlabel(f"image {row}", fontsize=8, color=use["muted"], labelpad=2)
    return Plot(figure, text, dark)
