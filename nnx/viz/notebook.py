"""What notebooks show of tensors, graphs, histories and modules; no plotting library is needed."""

from __future__ import annotations

import base64
import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.errors import DataError
from nnx.graph import Graph
from nnx.nn.module import Module
from nnx.nn.summary import table
from nnx.op import recording
from nnx.tensor import Tensor
from nnx.viz.graphs import graph, summary
from nnx.viz.picture import LIGHT, png, rgb, signed_colours
from nnx.viz.plots import history

Array = NDArray[Any]

MOST_CELLS = 10  # rows or columns of a matrix that is written out
MOST_PIXELS = 256  # rows or columns of one that is a picture
MOST_EQNS = 200  # of a graph that is drawn
MOST_EPOCHS = 10
PICTURE_SIZE = 240  # pixels of a heat map's longer side


def of_tensor(x: Tensor) -> str | None:
    """Return a tensor as HTML: small ones in numbers, matrices as heat maps, others in short."""
    if recording.trace is not None:
        return None
    array = x.numpy()
    name = f" {x.name}" if x.name else ""
    head = f"{type(x).__name__}{name} {x.shape} {x.dtype} on {x.device.name}"
    tape = ", requires_grad" if x.requires_grad else ""
    parts = [f"<code>{html.escape(head + tape)}</code>"]
    if array.size > 1 and array.ndim <= 2:
        matrix = array.reshape(-1, array.shape[-1])
        small = max(matrix.shape) <= MOST_CELLS
        parts.append(_cells(matrix) if small else _heat_map(matrix))
    if array.size == 1:
        parts.append(f"<b>{html.escape(str(array.reshape(-1)[0].item()))}</b>")
    elif array.size > MOST_CELLS:
        parts.append(f"<small>least … mean … largest: {html.escape(summary(array))}</small>")
    if array.size > 1 and array.ndim <= 2 and array.dtype.kind == "f":
        parts.append("<small>green positive, red negative</small>")
    return f"<div>{'<br>'.join(parts)}</div>"


def _limit(matrix: Array) -> float:
    wide = matrix.astype(np.float64)
    return float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))


def _cells(matrix: Array) -> str:
    """Return a matrix as a table of its numbers on their colours."""
    # Half of the colour at most, also of infinity, so that black numbers stay readable.
    wide, limit = matrix.astype(np.float64), _limit(matrix) or 1.0
    colours = signed_colours(np.clip(wide, -limit, limit) / 2, limit, LIGHT)
    colours[np.isnan(wide)] = rgb(LIGHT["border"])
    rows = []
    for values, shades in zip(matrix.tolist(), colours.tolist(), strict=True):
        cells = "".join(
            f'<td style="background:rgb({",".join(map(str, shade))});color:#1f2328;'
            f'padding:2px 6px;text-align:right">{html.escape(_short(value))}</td>'
            for value, shade in zip(values, shades, strict=True)
        )
        rows.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _heat_map(matrix: Array) -> str:
    """Return a matrix as an image, each pixel an element, or the mean of a block of them."""
    wide = matrix.astype(np.float64)
    for axis in (0, 1):
        step = -(-wide.shape[axis] // MOST_PIXELS)
        if step > 1:
            starts = np.arange(0, wide.shape[axis], step)
            last = np.diff(np.append(starts, wide.shape[axis]))
            # Of infinities of both signs, or beyond the range, the mean is shown as no number.
            with np.errstate(invalid="ignore", over="ignore"):
                sums = np.add.reduceat(wide, starts, axis=axis)
            wide = sums / np.expand_dims(last, 1 - axis)
    data = base64.b64encode(png(signed_colours(wide, _limit(wide), LIGHT))).decode()
    height, width = wide.shape
    scale = PICTURE_SIZE / max(height, width)
    return (
        f'<img alt="heat map of a matrix" width="{max(round(width * scale), 12)}" '
        f'height="{max(round(height * scale), 12)}" style="image-rendering:pixelated" '
        f'src="data:image/png;base64,{data}">'
    )


def of_module(model: Module) -> str:
    """Return a module's summary as HTML."""
    return f"<pre>{html.escape(f'{type(model).__name__}')}\n{html.escape(table(model))}</pre>"


def of_graph(traced: Graph) -> str:
    """Return a traced graph as a picture, a very long one as text."""
    if len(traced.eqns) > MOST_EQNS or not traced.eqns:
        return f"<pre>{html.escape(repr(traced))}</pre>"
    return graph(traced)._repr_html_()


def of_history(trained: Any) -> str:
    """Return the last epochs as a table, under the curves where matplotlib is there to draw."""
    measured, epochs = trained.history, trained.epoch
    if not epochs:
        return f"<code>{html.escape(repr(trained))}</code>"
    try:
        curves = history(trained)._repr_html_()
    except DataError:
        curves = ""
    names = "".join(f"<th>{html.escape(str(name))}</th>" for name in ("epoch", *measured))
    rows = []
    for i in range(max(len(epochs) - MOST_EPOCHS, 0), len(epochs)):
        values = (epochs[i] + 1, *(_short(values[i]) for values in measured.values()))
        rows.append("<tr>" + "".join(f"<td>{value}</td>" for value in values) + "</tr>")
    cut = f"<small>the last {MOST_EPOCHS} of {len(epochs)} epochs</small>"
    more = cut if len(epochs) > MOST_EPOCHS else ""
    return f"<div>{curves}<table><tr>{names}</tr>{''.join(rows)}</table>{more}</div>"
