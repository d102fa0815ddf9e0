"""A drawing of boxes, lines and text, written as SVG by itself or drawn by matplotlib."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from nnx.viz.layout import Point
from nnx.viz.letters import CHARACTER, Letters, font
from nnx.viz.picture import DARK, DPI, colours, new_figure, png, rendered, style

FONTS = "'DejaVu Sans Mono',Menlo,'SF Mono',Consolas,ui-monospace,monospace"
MAX_SIDE, MAX_AREA = 30_000, 12_000_000  # pixels; matplotlib draws sides below 2**16


class Text(NamedTuple):
    """A line of text; ``x, y`` is the left (or right) end of its baseline."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False
    right: bool = False


class Rect(NamedTuple):
    """A rectangle with round corners."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str | None = None
    radius: float = 0.0


class Bars(NamedTuple):
    """A small histogram that stands on ``y``; heights are from 0 to 1."""

    x: float
    y: float
    width: float
    height: float
    heights: tuple[float, ...]
    colour: str


class Path(NamedTuple):
    """A line: each part is (square, points), square ones with rounded corners, others curves."""

    parts: tuple[tuple[bool, tuple[Point, ...]], ...]
    colour: str
    width: float = 1.4
    arrow: bool = True


class Group(NamedTuple):
    """What belongs together: the tooltip, and data for programs that read the SVG."""

    title: str
    data: dict[str, str]
    parts: list[Any]


def text_width(text: str, size: float) -> float:
    """Return how wide a line of text is."""
    return CHARACTER * size * len(text)


Segment = tuple[str, tuple[Point, ...]]
CORNER = 7.0


def segments(path: Path) -> list[Segment]:
    """Return a path as moves M, lines L and Bezier curves C and Q, as SVG names them."""
    found: list[Segment] = [("M", (path.parts[0][1][0],))]
    for square, points in path.parts:
        found += _cornered(points) if square else _curved(points)
    return found


def _curved(points: Sequence[Point]) -> list[Segment]:
    found: list[Segment] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y0 == y1:
            found.append(("L", ((x1, y1),)))
        else:
            middle = (x0 + x1) / 2
            found.append(("C", ((middle, y0), (middle, y1), (x1, y1))))
    return found


def _cornered(points: Sequence[Point]) -> list[Segment]:
    found: list[Segment] = []
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        found.append(("L", (_towards(corner, before),)))
        found.append(("Q", (corner, _towards(corner, after))))
    return [*found, ("L", (points[-1],))]


def _towards(start: Point, end: Point) -> Point:
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    share = min(CORNER / length, 0.5) if length else 0.0
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _head(path: Path) -> tuple[Point, Point, Point]:
    x, y = path.parts[-1][1][-1]
    return (x, y), (x - 7.0, y - 3.5), (x - 7.0, y + 3.5)


# SVG


def svg(items: Sequence[Any], width: float, height: float, label: str, dark: bool | None) -> str:
    """Return an SVG file; without ``dark`` it follows what the reader's system prefers."""
    scope = {None: "nnx-graph", True: "nnx-graph-dark", False: "nnx-graph-light"}[dark]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" class="{scope}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="{FONTS}">',
        f"<title>{_escaped(label)}</title>",
        f"<style>{_css(dark, scope)}</style>",
        '<rect class="nnx-f-paper" width="100%" height="100%"/>',
        *itertools.chain.from_iterable(map(_lines, items)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _css(dark: bool | None, scope: str) -> str:
    """Return classes for each colour: as a fill, and as a stroke, inside of one class of pictures.

    Written out and not as variables or currentColor: programs that turn an SVG into pixels know
    neither, nor the media query, and then show the light colours.
    """
    chosen = "".join(_rules(scope, name, value) for name, value in colours(dark).items())
    if dark is not None:
        return chosen
    night = "".join(_rules(scope, name, value) for name, value in DARK.items())
    return f"{chosen}@media (prefers-color-scheme:dark){{{night}}}"


def _rules(scope: str, name: str, value: str) -> str:
    return f".{scope} .nnx-f-{name}{{fill:{value}}}.{scope} .nnx-s-{name}{{stroke:{value}}}"


def _escaped(text: str) -> str:
    """Return text for XML, which has no control characters."""
    shown = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    return html.escape(shown)


def _lines(item: Any) -> list[str]:
    if isinstance(item, Group):
        data = "".join(f' data-{name}="{_escaped(value)}"' for name, value in item.data.items())
        inside = itertools.chain.from_iterable(map(_lines, item.parts))
        return [f"<g{data}><title>{_escaped(item.title)}</title>", *inside, "</g>"]
    if isinstance(item, Text):
        weight = ' font-weight="bold"' if item.bold else ""
        anchor = ' text-anchor="end"' if item.right else ""
        return [
            f'<text x="{item.x:.1f}" y="{item.y:.1f}" font-size="{item.size:g}" '
            f'class="nnx-f-{item.colour}"{weight}{anchor} xml:space="preserve">'
            f"{_escaped(item.text)}</text>"
        ]
    if isinstance(item, Rect):
        stroke = "" if item.stroke is None else f" nnx-s-{item.stroke}"
        return [
            f'<rect x="{item.x:.1f}" y="{item.y:.1f}" width="{item.width:.1f}" '
            f'height="{item.height:.1f}" rx="{item.radius:g}" '
            f'class="nnx-f-{item.fill}{stroke}"/>'
        ]
    if isinstance(item, Bars):
        bars = ("L".join(f"{x:.1f},{y:.1f}" for x, y in bar) for bar in _bars(item))
        return [f'<path class="nnx-f-{item.colour}" d="{"".join(f"M{bar}Z" for bar in bars)}"/>']
    way = " ".join(kind + " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                   for kind, points in segments(item))  # fmt: skip
    lines = [
        f'<path class="nnx-s-{item.colour}" fill="none" stroke-width="{item.width:g}" d="{way}"/>'
    ]
    if item.arrow:
        tip = "L".join(f"{x:.1f},{y:.1f}" for x, y in _head(item))
        lines.append(f'<path class="nnx-f-{item.colour}" d="M{tip}Z"/>')
    return lines


def _bars(item: Bars) -> list[tuple[Point, Point, Point, Point]]:
    """Return the corners of a histogram's bars."""
    step = item.width / len(item.heights)
    found = []
    for i, share in enumerate(item.heights):
        left, top = item.x + i * step, item.y - share * item.height
        right = left + step - 1
        if share:
            found.append(((left, item.y), (left, top), (right, top), (right, item.y)))
    return found


# matplotlib

# Straight to its renderers: to make an artist of each piece, and of each text its measured size,
# takes as long as all of the drawing.


def drawn(
    items: Sequence[Any], width: float, height: float, dark: bool | None, format: str
) -> bytes:
    """Return the same drawing as a .png or .pdf file; a point is a pixel of the SVG."""
    use = colours(dark)
    paper = Rect(0, 0, width, height, "paper")
    sharpest = min(MAX_SIDE / max(width, height), (MAX_AREA / (width * height)) ** 0.5)
    with style(dark):
        if format == "png":
            return _png([paper, *items], width, height, min(DPI, 72 * sharpest), use)
        from matplotlib.artist import Artist

        class Drawing(Artist):
            def draw(self, renderer: Any) -> None:
                _Brush(renderer, height, use).draw([paper, *items])

        figure = new_figure(width / 72, height / 72, constrained=False)
        figure.add_artist(Drawing())
        return rendered(figure, format, dark)


def _png(
    items: Sequence[Any], width: float, height: float, dpi: float, use: dict[str, str]
) -> bytes:
    import numpy as np
    from matplotlib.backends import backend_agg

    untyped: Any = backend_agg
    size = math.ceil(width * dpi / 72), math.ceil(height * dpi / 72)
    renderer = untyped.RendererAgg(*size, dpi)
    pixels = np.asarray(renderer.buffer_rgba())[..., :3]
    _Brush(renderer, size[1] * 72 / dpi, use, Letters(pixels, dpi)).draw(items)
    return png(pixels)


class _Brush:
    """Draws on a renderer of matplotlib, whose y goes up; text by ``letters`` where there are."""

    def __init__(
        self, renderer: Any, height: float, use: dict[str, str], letters: Letters | None = None
    ) -> None:
        from matplotlib.transforms import Affine2D

        self.renderer, self.use, self.letters = renderer, use, letters
        self.pixels = renderer.points_to_pixels(1.0)
        self.height = height * self.pixels
        self.transform = Affine2D().scale(self.pixels, -self.pixels).translate(0, self.height)

    def draw(self, items: Sequence[Any]) -> None:
        """Draw one after the other."""
        for item in items:
            if isinstance(item, Group):
                self.draw(item.parts)
            elif isinstance(item, Text):
                self._text(item)
            elif isinstance(item, Rect):
                stroke = self.use[item.stroke] if item.stroke else None
                self._path(_rounded(item), self.use[item.fill], stroke, 1.0)
            elif isinstance(item, Bars):
                way = [step for bar in _bars(item) for step in _outline(bar)]
                self._path(way, self.use[item.colour])
            else:
                self._path(segments(item), None, self.use[item.colour], item.width)
                if item.arrow:
                    self._path(_outline(_head(item)), self.use[item.colour])

    def _text(self, item: Text) -> None:
        left = item.x - text_width(item.text, item.size) if item.right else item.x
        x, y, colour = left * self.pixels, item.y * self.pixels, self.use[item.colour]
        if self.letters is not None:
            self.letters.write(x, y, item.text, item.size, item.bold, colour)
            return
        context = self.renderer.new_gc()
        context.set_foreground(colour)
        face = font(item.size, item.bold)
        self.renderer.draw_text(context, x, self.height - y, item.text, face, 0.0)
        context.restore()

    def _path(
        self, way: Sequence[Segment], fill: str | None, stroke: str | None = None, width: float = 0
    ) -> None:
        from matplotlib.colors import to_rgba
        from matplotlib.path import Path as Outline

        codes = {"M": (Outline.MOVETO,), "L": (Outline.LINETO,), "Q": (Outline.CURVE3,) * 2,
                 "C": (Outline.CURVE4,) * 3, "Z": (Outline.CLOSEPOLY,)}  # fmt: skip
        points = [point for _, some in way for point in some]
        if not points:
            return
        outline = Outline(points, [code for kind, _ in way for code in codes[kind]])
        context = self.renderer.new_gc()
        context.set_linewidth(width)
        context.set_foreground(stroke or fill)
        self.renderer.draw_path(context, outline, self.transform, fill and to_rgba(fill))
        context.restore()


def _outline(corners: Sequence[Point]) -> list[Segment]:
    first, *others = corners
    return [("M", (first,)), *(("L", (corner,)) for corner in others), ("Z", (first,))]


def _rounded(item: Rect) -> list[Segment]:
    """Return a rectangle as a path, with parabolas for corners: so small, they look round."""
    left, top, r = item.x, item.y, min(item.radius, item.width / 2, item.height / 2)
    right, bottom = left + item.width, top + item.height
    return [
        ("M", ((left + r, top),)), ("L", ((right - r, top),)),
        ("Q", ((right, top), (right, top + r))), ("L", ((right, bottom - r),)),
        ("Q", ((right, bottom), (right - r, bottom))), ("L", ((left + r, bottom),)),
        ("Q", ((left, bottom), (left, bottom - r))), ("L", ((left, top + r),)),
        ("Q", ((left, top), (left + r, top))), ("Z", ((left + r, top),)),
    ]  # fmt: skip
