"""Pictures of graphs: each value a box with its number, or its numbers in short, and gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnx.errors import DTypeError
from nnx.graph import Graph
from nnx.nn.module import Module
from nnx.tensor import Tensor
from nnx.viz import nodes, scene
from nnx.viz.layout import Box, lay_out
from nnx.viz.nodes import Computation, Node
from nnx.viz.picture import Picture
from nnx.viz.scene import Bars, Group, Rect, Text, text_width

PAD = 11.0
MARGIN = 24.0
N_BARS = 12
BARS_WIDTH = 48.0
NAME, NORMAL, SMALL = 14.0, 12.0, 11.0
LONGEST = 44  # characters of a formula or a name; the tooltip has all
WORDS = {"input": "input", "parameter": "parameter", "op": "", "result": "result"}


class GraphPicture(Picture):
    """A computation as boxes and arrows; ``nodes`` are what the boxes show.

    In an SVG each box is a group with ``data-name``, ``data-value`` and ``data-gradient`` (all
    digits, of single numbers), and its tooltip tells more.
    """

    def __init__(self, computation: Computation, dark: bool | None) -> None:
        self.nodes = computation.nodes
        self.notes = computation.notes
        self.dark = dark
        self._items, self._size, self.text = _arranged(computation)

    def svg(self) -> str:
        """Return the picture as SVG; without ``dark`` it follows the reader's system."""
        return scene.svg(self._items, *self._size, self.text, self.dark)

    def render(self, format: str) -> bytes:
        """Return the picture as a file of a format: svg, png or pdf."""
        if format == "svg":
            return self.svg().encode()
        return scene.drawn(self._items, *self._size, self.dark, format)

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f'<div style="overflow:auto;max-height:90vh">{self.svg()}</div>'


def graph(
    x: Any,
    *example: Any,
    names: Mapping[str, Any] | None = None,
    loss: Any = None,
    gradients: bool | None = None,
    dark: bool | None = None,
) -> GraphPicture:
    """Return a picture of a computation: values and gradients of all that led to a result.

    ``x`` is a tensor, such as a loss after ``backward(retain_graph=True)``; or a model with an
    example, ``graph(model, x, y, loss="cross_entropy")``, several inputs, targets and losses as for
    `fit`; or a traced `Graph`. ``names`` maps names to tensors, and ``names=locals()`` will do.
    Gradients are those of this result; without ``gradients`` they are shown once ``backward()`` was
    called.
    Raises: GradientError without a tape, DataError for a model without an example.

    >>> import nnx
    >>> w = nnx.asarray(3.0)
    >>> w.requires_grad = True
    >>> picture = graph(w * 2.0, names={"w": w}, gradients=True)
    >>> [(node.name, float(node.value), float(node.gradient)) for node in picture.nodes]
    [('w', 3.0, 2.0), ('J', 6.0, 1.0)]
    """
    traced = getattr(x, "graph", None)
    if isinstance(x, Tensor):
        found = nodes.of_tensor(x, names, gradients)
    elif isinstance(x, Module):
        found = nodes.of_model(x, example, loss, gradients)
    elif isinstance(x, Graph):
        found = nodes.of_graph(x)
    elif isinstance(traced, Graph):
        found = nodes.of_graph(traced)
    else:
        raise DTypeError(
            f"graph: draws a tensor, a model with an example, or a traced graph; got "
            f"{type(x).__name__}."
        )
    return GraphPicture(found, dark)


# Boxes


def _arranged(computation: Computation) -> tuple[list[Any], tuple[float, float], str]:
    """Return all that is drawn, the size of the drawing, and what it shows in words."""
    found = computation.nodes
    contents = {id(node): _contents(node, computation.result) for node in found}
    boxes = [Box(key, width, height) for key, (_, width, height) in contents.items()]
    edges = [(id(x), id(node)) for node in found for x in node.inputs]
    layout = lay_out(boxes, edges)
    text = _headline(computation)
    head = [Text(MARGIN, MARGIN + NAME, text, NAME, "ink", bold=True)]
    lines = [*computation.notes, *_legend(found)]
    for i, line in enumerate(lines, start=1):
        head.append(Text(MARGIN, MARGIN + NAME + 18 * i, line, SMALL, "muted"))
    top = MARGIN + NAME + 18 * len(lines) + 26
    items: list[Any] = [*head]
    for route in layout.routes:
        moved = tuple(
            (square, tuple((MARGIN + x, top + y) for x, y in points))
            for square, points in route.parts
        )
        items.append(scene.Path(moved, "edge"))
    for node in found:
        x, y, width = layout.places[id(node)]
        rows, _, height = contents[id(node)]
        items.append(_box(node, rows, MARGIN + x, top + y, width, height))
    across = max(text_width(line.text, line.size) for line in head)
    size = max(layout.width, across) + 2 * MARGIN, top + layout.height + MARGIN
    return items, size, text


def _headline(computation: Computation) -> str:
    words = [f"{len(computation.nodes)} values"]
    result = next((n for n in computation.nodes if n.kind == "result"), None)
    if computation.result and result is not None and _is_number(result.value):
        words.insert(0, f"{_cut(computation.result, LONGEST)} = {number(result.value)}")
    if computation.device:
        words.append(f"device {computation.device}")
    return " · ".join(words)


def _legend(found: list[Node]) -> list[str]:
    many = any(node.value is not None and not _is_number(node.value) for node in found)
    if not many:
        return []
    text = "of a tensor: histogram, least … mean … largest element"
    graded = any(node.gradient is not None for node in found)
    return [f"{text}; grad: the derivative of the result by each" if graded else text]


Row = list[tuple[str, float, str, bool]]  # text, size, colour, bold


def _contents(node: Node, result: str) -> tuple[list[Any], float, float]:
    """Return a box's rows, each a list of pieces from left to right, and its size."""
    title: list[Any] = [Text(0, 0, _cut(node.name, LONGEST), NAME, "ink", bold=True)]
    if node.shape and node.shape != "()":
        title.append(Text(0, 0, node.shape, SMALL, "muted"))
    rows = [title]
    about = node.layer if node.layer and node.kind != "result" else ""
    if not about:
        about = _cut(node.formula if node.op else WORDS[node.kind], LONGEST)
    if node.layer and node.kind == "result":
        about = node.layer
    elif node.layer and node.name != node.op and not node.layer.endswith(node.op):
        about = f"{node.layer} · {node.op}"
    colour = "muted" if node.kind == "op" else node.kind
    rows.append([Text(0, 0, _cut(about, LONGEST), SMALL, colour)])
    if node.value is not None:
        rows += _value_rows(node, result)
    width = max(map(_row_width, rows)) + 2 * PAD + 4
    heights = sum(_row_height(row) for row in rows)
    return rows, width, heights + 2 * PAD - 4


def _value_rows(node: Node, result: str) -> list[list[Any]]:
    if _is_number(node.value):
        rows = [[Text(0, 0, number(node.value), 15, "ink")]]
        if node.gradient is not None:
            label = f"d{result}/d{node.name} = "
            short = label if len(label) <= LONGEST - 10 else "grad = "
            text = f"{short}{number(node.gradient)}"
            rows.append([Text(0, 0, text, NORMAL, "gradient")])
        return rows
    rows = [_summary_row("value", node.value, "value")]
    if node.gradient is not None:
        rows.append(_summary_row("grad", node.gradient, "gradient"))
    return rows


def _summary_row(label: str, array: Any, colour: str) -> list[Any]:
    row: list[Any] = [Text(0, 0, f"{label:<5}", SMALL, "muted")]
    heights = histogram(array)
    if heights:
        row.append(Bars(0, 0, BARS_WIDTH, 13, heights, colour))
    row.append(Text(0, 0, summary(array), SMALL, "gradient" if label == "grad" else "ink"))
    return row


def _row_width(row: list[Any]) -> float:
    widths = [BARS_WIDTH if isinstance(p, Bars) else text_width(p.text, p.size) for p in row]
    return sum(widths) + 9 * (len(row) - 1)


def _row_height(row: list[Any]) -> float:
    return max(18.0, *(1.5 * piece.size for piece in row if isinstance(piece, Text)))


def _box(node: Node, rows: list[Any], x: float, y: float, width: float, height: float) -> Group:
    parts: list[Any] = [
        Rect(x, y, width, height, "box", "border", 6),
        Rect(x, y + 7, 3.5, height - 14, node.kind, None, 1.7),
    ]
    line = y + PAD - 4
    for i, row in enumerate(rows):
        line += _row_height(row)
        left = x + PAD + 4
        for piece in row:
            if i == 0 and piece is not row[0]:
                parts.append(piece._replace(x=x + width - PAD, y=line - 3, right=True))
            else:
                parts.append(piece._replace(x=left, y=line - 3))
            wide = BARS_WIDTH if isinstance(piece, Bars) else text_width(piece.text, piece.size)
            left += wide + 9
    data = {"name": node.name, "kind": node.kind}
    for key, array in (("value", node.value), ("gradient", node.gradient)):
        if array is not None and _is_number(array):
            data[key] = repr(array.reshape(-1)[0].item())
    return Group(_tooltip(node), data, parts)


def _tooltip(node: Node) -> str:
    lines = [f"{node.name} = {node.formula}" if node.formula else f"{node.name}: {node.kind}"]
    if node.layer:
        lines.append(f"layer {node.layer}")
    lines.append(f"{node.dtype} {node.shape}".strip())
    for label, array in (("value", node.value), ("gradient", node.gradient)):
        if array is not None:
            lines.append(f"{label}: {_told(array)}")
    return "\n".join([*lines, *([node.place] if node.place else [])])


# Numbers


def _is_number(array: Any) -> bool:
    return array is not None and bool(array.size == 1)


def number(array: Any) -> str:
    """Return a single number with up to six digits."""
    value = array.reshape(-1)[0].item()
    return f"{value:.6g}".replace("-", "−") if isinstance(value, float) else str(value)


def summary(array: Any) -> str:
    """Return least … mean … largest of an array, and how many elements are not finite."""
    import numpy as np

    if not array.size:
        return "empty"
    wide = array.astype(np.float64)
    fine = wide[np.isfinite(wide)]
    wrong = wide.size - fine.size
    warning = f"{wrong} of {wide.size} NaN or infinite" if wrong else ""
    if not fine.size:
        return warning
    if fine.min() == fine.max() and not wrong:
        return f"all {fine[0]:.3g}".replace("-", "−")
    with np.errstate(over="ignore"):  # the sum for the mean
        parts = fine.min(), fine.mean(), fine.max()
    shown = " … ".join(f"{v:.3g}".replace("-", "−") for v in parts)
    return f"{shown}, {warning}" if warning else shown


def histogram(array: Any) -> tuple[float, ...]:
    """Return the heights of a histogram, the highest 1; nothing for an array all of one value.

    Numerics: heights are square roots of shares, so that a few outliers can be seen.
    """
    import numpy as np

    fine = array[np.isfinite(array)].astype(np.float64)
    if fine.size < 2 or fine.min() == fine.max():
        return ()
    # Of halves: the distance between the ends of float64 would be infinite.
    counts, _ = np.histogram(fine / 2, bins=N_BARS)
    return tuple(np.sqrt(counts / counts.max()).tolist())


def _told(array: Any) -> str:
    """Return an array for a tooltip: all of a small one, else its summary and norm."""
    import numpy as np

    if array.size <= 8:
        return str(array.tolist())
    norm = float(np.linalg.norm(array.astype(np.float64)))
    return f"least … mean … largest {summary(array)}, norm {norm:.6g}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
