"""The roofline: how fast this machine's rates allow a kernel to be, and how fast each was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx.benchmarks import figures
from nnx.benchmarks.drawing import INK, WIDTH_IN, legend, mark, new_figure
from nnx.benchmarks.figures import OURS, Kernel, Results, plain, size_text, three_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

PANEL_IN, SMALL_IN, FEW = 4.4, 3.2, 6
"""The height of a panel, and that of one with few kernels."""
HEAD_IN, TITLE_IN, BETWEEN_IN, LEFT_IN, RIGHT_IN = 0.35, 0.3, 0.85, 0.75, 0.25
FONT, LETTER = 7, 4.4
"""The size of labels, and the width of a letter on average, in points."""
APART = 1.5
"""Rates of memory that differ less are drawn as one roof."""


class Level(NamedTuple):
    """Memory of about one rate: of the caches, up to what size."""

    gbs: float
    size: float


def levels(memory: list[list[float]]) -> list[Level]:
    """Return the rates of memory by level, those near one another together.

    What holds less is never slower: where it was measured so, the loop was too short for its call.
    """
    found: list[Level] = []
    for i, (size, _) in enumerate(memory):
        gbs = max(rate for _, rate in memory[i:])
        if found and found[-1].gbs < APART * gbs:
            found[-1] = found[-1]._replace(size=size)
        else:
            found.append(Level(gbs, size))
    return found


class Panel(NamedTuple):
    """Logarithmic axes of a known size in points, so that labels can be put beside one another."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float
    height: float

    def points(self, x: float, y: float) -> tuple[float, float]:
        """Return where on the axes a value lies, in points."""
        (x0, x1), (y0, y1) = self.x, self.y
        return (self.width * math.log(x / x0) / math.log(x1 / x0),
                self.height * math.log(y / y0) / math.log(y1 / y0))  # fmt: skip


def roofline(results: Results) -> tuple[Figure, str] | None:
    """Draw the roofs of the machine with the kernels under them, a panel for each suite."""
    suites: dict[str, list[Kernel]] = {}
    for kernel in figures.kernels(results):
        suites.setdefault(kernel.suite, []).append(kernel)
    if not suites:
        return None
    panels = {suite: _panel(kernels, results["rates"]) for suite, kernels in suites.items()}
    height = HEAD_IN + sum(panel.height / 72 + BETWEEN_IN for panel in panels.values())
    figure = new_figure(height)
    figure.set_layout_engine("none")
    bottom = height - HEAD_IN
    for suite, panel in panels.items():
        bottom -= panel.height / 72 + TITLE_IN
        axes = figure.add_axes(
            (LEFT_IN / WIDTH_IN, bottom / height, panel.width / 72 / WIDTH_IN,
             panel.height / 72 / height)
        )  # fmt: skip
        bottom -= BETWEEN_IN - TITLE_IN
        axes.set_title(plain(figures.TITLES.get(suite, suite)), loc="left", fontweight="bold")
        taken = _draw_roofs(axes, panel, results["rates"])
        _draw_kernels(axes, panel, suites[suite], taken)
    kernels = [kernel for chosen in suites.values() for kernel in chosen]
    names = [name for name in OURS if any(k.device == name for k in kernels)]
    legend(figure, {name: name for name in names})
    return figure, _description(results, kernels)


def _description(results: Results, kernels: list[Kernel]) -> str:
    peak = max(results["rates"]["products"].values())
    best = max(kernels, key=lambda kernel: kernel.gflops)
    return (
        f"{len(kernels)} kernels by FLOPs a byte and GFLOP/s, on logarithmic axes, under the "
        f"measured roofs of the processor: products at {three_figures(peak)} GFLOP/s, and memory "
        f"by size. The fastest is {best.case} on {best.device}, {three_figures(best.gflops)} "
        "GFLOP/s. The roofs of a GPU are not measured."
    )


def _panel(kernels: list[Kernel], rates: Results) -> Panel:
    x = [kernel.intensity for kernel in kernels]
    y = [kernel.gflops for kernel in kernels]
    peak = max(rates["products"].values())
    ridge = peak / min(level.gbs for level in levels(rates["memory"]))
    height = PANEL_IN if len(_labels(kernels)) > FEW else SMALL_IN
    return Panel(
        (min(x) / 12, max(*x, ridge) * 25), (min(y) / 3, max(*y, peak) * 12),
        72 * (WIDTH_IN - LEFT_IN - RIGHT_IN), 72 * height,
    )  # fmt: skip


def _labels(kernels: list[Kernel]) -> dict[str, Kernel]:
    """Return the fastest kernel of each group and FLOPs a byte, by name.

    The sizes of an op have the same FLOPs a byte, and one name.
    """
    best: dict[tuple[str, str], Kernel] = {}
    for kernel in kernels:
        key = (kernel.group, f"{kernel.intensity:.2g}")
        if key not in best or kernel.gflops > best[key].gflops:
            best[key] = kernel
    groups = [group for group, _ in best]
    return {k.group if groups.count(k.group) == 1 else k.case: k for k in best.values()}


Box = tuple[float, float, float, float]


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_roofs(axes: Any, panel: Panel, rates: Results) -> list[Box]:
    """Draw axes and roofs; return where labels would lie over them."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(panel.x)
    axes.set_ylim(panel.y)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_xlabel("FLOPs a byte")
    axes.set_ylabel("GFLOP/s")
    axes.grid(alpha=0.15, color=INK, linewidth=0.5)
    found = levels(rates["memory"])
    fastest, peak = max(level.gbs for level in found), max(rates["products"].values())
    taken = []
    for name, rate in rates["products"].items():
        ends = (rate / fastest, panel.x[1])
        axes.plot(ends, [rate, rate], color=INK, linewidth=1.2)
        side = 1 if rate == peak else -1
        label = f"{three_figures(rate)} GFLOP/s, {name}"
        axes.annotate(
            label, (panel.x[1], rate), (-3, 3 * side), textcoords="offset points", fontsize=FONT,
            ha="right", va="bottom" if side > 0 else "top",
        )  # fmt: skip
        x, y = panel.points(panel.x[1], rate)
        width = LETTER * len(label)
        taken += [_box(x - width / 2, y + side * FONT, width, 1.5 * FONT)]
        taken += _along((panel.points(ends[0], rate)), (x, y))
    for level in found:
        taken += _draw_slope(axes, panel, level, peak)
    return taken


def _draw_slope(axes: Any, panel: Panel, level: Level, peak: float) -> list[Box]:
    ends = (panel.x[0], peak / level.gbs)
    axes.plot(ends, [x * level.gbs for x in ends], color=INK, linewidth=0.9, linestyle="--")
    start, end = (panel.points(x, x * level.gbs) for x in ends)
    label = f"{three_figures(level.gbs)} GB/s up to {size_text(level.size)}"
    turned = math.atan2(end[1] - start[1], end[0] - start[0])
    axes.annotate(
        label, (ends[0], ends[0] * level.gbs), (2, 2), textcoords="offset points", fontsize=FONT,
        va="bottom", ha="left", rotation=math.degrees(turned), rotation_mode="anchor",
    )  # fmt: skip
    width = LETTER * len(label)
    across = (start[0] + width * math.cos(turned), start[1] + width * math.sin(turned))
    low, high = ((x, y + FONT) for x, y in (start, across))
    return [*_along(start, end), *_along(low, high, FONT)]


def _along(start: tuple[float, float], end: tuple[float, float], thickness: float = 2) -> list[Box]:
    """Return boxes that cover a line."""
    n = max(int(math.dist(start, end) / 4), 1)
    (x0, y0), (x1, y1) = start, end
    return [
        _box(x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n, thickness, thickness)
        for i in range(n + 1)
    ]


def _draw_kernels(axes: Any, panel: Panel, kernels: list[Kernel], taken: list[Box]) -> None:
    for name in OURS:
        points = [(k.intensity, k.gflops) for k in kernels if k.device == name]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", **mark(name))
    taken = taken + [_box(*panel.points(k.intensity, k.gflops), 8, 8) for k in kernels]
    for name, kernel in sorted(_labels(kernels).items(), key=lambda item: item[1].intensity):
        _draw_label(axes, panel, kernel, plain(name), taken)


def _draw_label(axes: Any, panel: Panel, kernel: Kernel, name: str, taken: list[Box]) -> None:
    """Write a name as near to its marker as there is room; a line leads to one further off."""
    x, y = panel.points(kernel.intensity, kernel.gflops)
    width, height = LETTER * len(name), 1.25 * FONT
    for dx, dy in _around(width):
        box = _box(x + dx, y + dy, width, height)
        is_inside = box[0] > 0 and box[1] > 0 and box[2] < panel.width and box[3] < panel.height
        if is_inside and not any(_overlap(box, other) for other in taken):
            break
    taken.append(box)
    is_far = max(abs(dx) - width / 2, abs(dy)) > 12
    if is_far:
        taken += _along((x, y), (x + dx, y + dy))
    axes.annotate(
        name, (kernel.intensity, kernel.gflops), (dx, dy), textcoords="offset points",
        fontsize=FONT, ha="center", va="center",
        arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4} if is_far else None,
    )  # fmt: skip


def _around(width: float) -> list[tuple[float, float]]:
    """Return places around a marker, the nearest first."""
    found = [(side * (width / 2 + 6), 0.0) for side in (1, -1)]
    for up in range(8, 200, 3):
        for aside in (0.0, 0.3, -0.3, 0.6, -0.6, 1.0, -1.0):
            found += [(aside * (width + 10), float(up)), (aside * (width + 10), -float(up))]
    return found
