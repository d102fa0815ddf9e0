"""How the pictures look: one colour, marker, hatch and line for each contestant, everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

WIDTH_IN = 7.0
INK = "#010203"
"""Text and axes; in the SVG it becomes the colour of the text around it."""
RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Style(NamedTuple):
    """How a contestant is drawn, so that it is known without its colour too."""

    colour: str
    marker: str
    hatch: str
    line: Any


STYLES = {
    "textbook": Style("#949494", "v", "..", ":"),
    "loops": Style("#d55e00", "s", "////", "--"),
    "numpy": Style("#56b4e9", "o", "\\\\\\\\", "-."),
    "numba": Style("#009e73", "D", "", "-"),
    "cupy": Style("#cc79a7", "*", "xxxx", (0, (5, 1, 1, 1, 1, 1))),
    "numpy-by-hand": Style("#0072b2", "P", "++++", "-"),
    "torch": Style("#e69f00", "^", "----", "-"),
    "torch-compile": Style("#a6761d", ">", "oooo", "-"),
    "torch-cuda": Style("#f0e442", "<", "OO", "-"),
    "jax": Style("#7b61ff", "X", "||||", "-"),
    "jax-cuda": Style("#b3a6ff", "p", "**", "-"),
    "products": Style(INK, "|", "", "-"),
}
OTHER = Style("#949494", "h", "", "-")


def style(name: str) -> Style:
    """Return how a contestant is drawn."""
    return STYLES.get(name, OTHER)


def mark(name: str) -> dict[str, Any]:
    """Return what makes a contestant's marker."""
    look = style(name)
    edge = 1.6 if look.marker == "|" else 0.6
    size = {"*": 9, "|": 8, "D": 5.5}.get(look.marker, 6)
    return {
        "marker": look.marker, "markersize": size, "markerfacecolor": look.colour,
        "markeredgecolor": INK, "markeredgewidth": edge,
    }  # fmt: skip


def new_figure(height_in: float) -> Figure:
    """Return an empty figure, as wide as all."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def legend(figure: Figure, names: dict[str, str], bars: bool = False) -> None:
    """Put a line of contestants by label above the drawing; a floor is a dotted line."""
    from matplotlib.lines import Line2D  # type: ignore[import-not-found, unused-ignore]
    from matplotlib.patches import Patch  # type: ignore[import-not-found, unused-ignore]

    handles: list[Any] = []
    for label, name in names.items():
        look = style(name)
        if name == "floor":
            handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=":", label=label))
        elif bars:
            handles.append(
                Patch(facecolor=look.colour, edgecolor=INK, hatch=look.hatch, linewidth=0.5,
                      label=label)
            )  # fmt: skip
        else:
            handles.append(
                Line2D([], [], color=look.colour, linestyle="", label=label, **mark(name))
            )
    columns = 3 if bars else min(len(handles), 5)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
