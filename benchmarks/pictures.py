"""The pictures of a run: bars of the devices, where each wins, the roofs, the training steps.

Each is drawn once and kept as SVG, which takes the colour of the text around it, and as PNG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx.benchmarks import figures, roofs
from nnx.benchmarks.drawing import INK, RC, legend, mark, new_figure, style
from nnx.benchmarks.figures import OURS, Results, plain, three_figures, time_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]


class Picture(NamedTuple):
    """A drawing; its SVG stands inside a page as it is."""

    name: str
    title: str
    description: str
    svg: str
    png: bytes


class Drawing(NamedTuple):
    """How a picture is drawn: the figure and its description, or None where there is no data."""

    title: str
    draw: Callable[[Results], tuple[Figure, str] | None]


def draw(results: Results) -> list[Picture]:
    """Return the pictures that there is data for."""
    import matplotlib

    found = []
    for name, drawing in DRAWINGS.items():
        options: Any = {**RC, "svg.hashsalt": f"nnx {name}"}
        with matplotlib.rc_context(options):
            drawn = drawing.draw(results)
            if drawn is not None:
                figure, description = drawn
                svg = _svg(figure, name, drawing.title, description)
                png = _png(figure, drawing.title)
                found.append(Picture(name, drawing.title, description, svg, png))
    return found


def standalone(picture: Picture) -> str:
    """Return the SVG as a file of its own, dark where the reader's pages are."""
    rules = ("<style>:root{color:#1b1b1b;background:#fff}"
             "@media (prefers-color-scheme:dark){:root{color:#e6e6e6;background:#16181c}}"
             "</style>")  # fmt: skip
    opened = picture.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{opened.replace(">", ">" + rules, 1)}\n'


def _png(figure: Figure, title: str) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, facecolor="white", metadata={"Title": title})
    return drawn.getvalue()


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return the figure as SVG for a page: no link leads out, and no name is another picture's."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    text = text.replace("xlink:href=", "href=").replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    opening = (
        f'<svg viewBox="{view[1]}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: opening, text, count=1)


# Devices

BAR_IN, HEAD_IN = 0.17, 0.26
BARS = ("dense", "ops", "train")
"""The suites whose devices are drawn as bars, in order."""
ROLES = {
    "textbook": "textbook: plain Python loops",
    "loops": "loops: looped",
    "numpy": "numpy: vectorised",
    "numba": "numba: compiled",
    "cupy": "cupy: GPU",
}


def shown_cases(results: Results) -> dict[str, list[Results]]:
    """Return the cases that the bars show: all dense layers, one size of each op and network.

    That one is the largest at which loops were run, or the largest.
    """
    found: dict[str, list[Results]] = {}
    for suite in BARS:
        groups: dict[str, list[Results]] = {}
        for case in figures.suites_of(results).get(suite, []):
            if any(name in OURS for name in figures.timed(case)):
                group = case["name"] if suite == "dense" else case["group"]
                groups.setdefault(group, []).append(case)
        if groups:
            found[suite] = [_most_telling(cases) for cases in groups.values()]
    return found


def _most_telling(cases: list[Results]) -> Results:
    looped = [case for case in cases if "loops" in figures.timed(case)]
    return max(looped or cases, key=lambda case: float(case["flops"]))


def devices(results: Results) -> tuple[Figure, str] | None:
    """Draw the times of nnx's devices as bars, grouped by case."""
    suites = shown_cases(results)
    if not suites:
        return None
    cases = [case for chosen in suites.values() for case in chosen]
    everywhere = [name for name in OURS if any(_is_here(case, name) for case in cases)]
    heights = [
        sum(HEAD_IN + BAR_IN * len(_bars(c, everywhere)) for c in chosen)
        for chosen in suites.values()
    ]
    figure = new_figure(sum(heights) + 0.75 * len(heights) + 0.6)
    panels = figure.subplots(
        len(suites), 1, squeeze=False, gridspec_kw={"height_ratios": heights}, sharex=True
    )[:, 0]
    times = [t for c in cases for n, f in figures.timed(c).items() if n in OURS
             for t in f["us"]["quartiles"]]  # fmt: skip
    for panel, (suite, chosen) in zip(panels, suites.items(), strict=True):
        panel.set_title(figures.TITLES[suite], loc="left", fontweight="bold")
        _draw_bars(panel, chosen, everywhere, min(times) / 3)
        panel.set_xlim(min(times) / 3, max(times) * 12)
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("median time of a call (logarithmic)")
        panel.xaxis.set_major_formatter(lambda us, _: figures.tick_text(us))
    patches = {ROLES[name]: name for name in everywhere}
    legend(figure, patches, bars=True)
    absent = [n for n in figures.names_of(cases) if n in OURS and n not in everywhere]
    aside = f" Not on this machine: {', '.join(absent)}." if absent else ""
    return figure, (
        f"Bars of the median time of a call on {', '.join(everywhere)}, for {len(cases)} cases, "
        "on a logarithmic axis; thin lines are the quartiles. Of each operation and network the "
        f"largest size that loops were run at is shown; what was not run has no bar.{aside}"
    )


def _is_here(case: Results, name: str) -> bool:
    found = case["contestants"].get(name)
    return found is not None and found["status"] != "unavailable"


def _bars(case: Results, names: list[str]) -> list[str]:
    return [name for name in names if name in case["contestants"]]


def _draw_bars(panel: Any, cases: list[Results], names: list[str], left: float) -> None:
    y, ticks = 0.0, []
    for case in cases:
        y += HEAD_IN
        panel.text(
            0.01, y - 0.3 * BAR_IN, plain(case["name"]), transform=panel.get_yaxis_transform(),
            fontweight="bold", fontsize=8, va="bottom",
        )  # fmt: skip
        for name in _bars(case, names):
            y += BAR_IN
            ticks.append((y - BAR_IN / 2, name))
            found = case["contestants"][name]
            if "us" in found:
                _draw_bar(panel, y - BAR_IN / 2, name, found["us"], left)
            else:
                words = "not here" if found["status"] == "unavailable" else found["status"]
                panel.text(left * 1.1, y - BAR_IN / 2, words, fontsize=8, va="center",
                           style="italic")  # fmt: skip
    panel.set_ylim(y + 0.1, 0.05)
    panel.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    panel.tick_params(axis="y", length=0)
    panel.set_xscale("log")


def _draw_bar(panel: Any, y: float, name: str, us: Results, left: float) -> None:
    look, (low, high) = style(name), us["quartiles"]
    panel.barh(
        y, us["median"] - left, height=0.75 * BAR_IN, left=left, color=look.colour,
        hatch=look.hatch, edgecolor=INK, linewidth=0.5,
    )  # fmt: skip
    panel.plot([low, high], [y, y], color=INK, linewidth=1.2, solid_capstyle="butt")
    label = figures.wide_mark(us) + time_text(us["median"])
    panel.annotate(label, (max(high, us["median"]), y), (4, 0), textcoords="offset points",
                   fontsize=8, va="center")  # fmt: skip


# Where each device wins


def crossover(results: Results) -> tuple[Figure, str] | None:
    """Draw the map of widths and batches with each cell's winner, and the times by width."""
    grid = figures.crossover(results)
    if not grid:
        return None
    widths, batches = (sorted(set(sizes)) for sizes in zip(*grid, strict=True))
    n_rows = -(-len(batches) // 2)
    map_in, row_in = 0.42 * len(batches) + 0.5, 2.3
    figure = new_figure(map_in + row_in * n_rows + 0.6)
    axes = figure.add_gridspec(n_rows + 1, 2, height_ratios=[map_in] + [row_in] * n_rows)
    _draw_map(figure.add_subplot(axes[0, :]), grid, widths, batches)
    first = None
    for i, batch in enumerate(batches):
        panel = figure.add_subplot(axes[1 + i // 2, i % 2], sharex=first, sharey=first)
        first = first or panel
        _draw_lines(panel, grid, batch)
        panel.set_xticks(widths, list(map(str, widths)))
    names = [n for n in OURS if any(n in times for times in grid.values())]
    legend(figure, {name: name for name in names})
    return figure, (
        "Above, the fastest device for each width and batch of a w-w-10 training step, with how "
        "many times the second takes; ~ where the quartiles of both overlap. Below, the time of a "
        "step against the width; vertical lines are the quartiles."
    )


def _draw_map(panel: Any, grid: figures.Grid, widths: list[int], batches: list[int]) -> None:
    from matplotlib.patches import Rectangle  # type: ignore[import-not-found, unused-ignore]

    for (width, batch), times in grid.items():
        x, y = widths.index(width), batches.index(batch)
        won = figures.winner(times)
        look = style(won.name)
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=look.colour, alpha=0.25, lw=0))
        panel.add_patch(
            Rectangle((x - 0.48, y - 0.44), 0.14, 0.88, facecolor=look.colour, edgecolor=INK,
                      hatch=look.hatch, linewidth=0.5)
        )  # fmt: skip
        factor = f"{three_figures(won.factor)}x" if won.factor else "alone"
        panel.text(x + 0.07, y, f"{won.name}\n{'~' * won.is_close}{factor}", ha="center",
                   va="center", fontsize=8)  # fmt: skip
    panel.set_xlim(-0.5, len(widths) - 0.5)
    panel.set_ylim(-0.5, len(batches) - 0.5)
    panel.set_xticks(range(len(widths)), list(map(str, widths)))
    panel.set_yticks(range(len(batches)), list(map(str, batches)))
    panel.tick_params(length=0)
    panel.set_xlabel("width of the network")
    panel.set_ylabel("batch")
    panel.set_title("The fastest device", loc="left", fontweight="bold")


def _draw_lines(panel: Any, grid: figures.Grid, batch: int) -> None:
    for name in OURS:
        points = [(w, us[name]) for (w, b), us in grid.items() if b == batch and name in us]
        if not points:
            continue
        look = style(name)
        x, y = [w for w, _ in points], [us["median"] for _, us in points]
        panel.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.4, **mark(name))
        panel.vlines(x, *zip(*[us["quartiles"] for _, us in points], strict=True), color=INK,
                     linewidth=1, zorder=1)  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda us, _: figures.tick_text(us))
    panel.grid(alpha=0.25, color=INK, linewidth=0.5)
    panel.minorticks_off()
    panel.set_title(f"batch {batch}", loc="left", fontsize=9)
    panel.set_xlabel("width")
    panel.set_ylabel("time of a step")


# Training steps


def steps(results: Results) -> tuple[Figure, str] | None:
    """Draw the times of training steps as ratios to the best peer's."""
    cases = figures.raced(results)
    if not cases:
        return None
    names = [n for n in figures.names_of(cases) if any(n in figures.timed(c) for c in cases)]
    shown = [name for name in names if name not in ("loops", "textbook")]
    row_in = max(0.07 * len(shown) + 0.12, 0.4)
    figure = new_figure(row_in * len(cases) + 1.3)
    panel = figure.subplots()
    for i, case in enumerate(cases):
        _draw_ratios(panel, i, case, shown)
        if i % 2:
            panel.axhspan(i - 0.5, i + 0.5, color=INK, alpha=0.05, linewidth=0)
    panel.axvline(1, color=INK, linewidth=1.2)
    panel.set_ylim(len(cases) - 0.5, -0.5)
    labels = [f"{plain(c['name'])}\n1.0 = {_peer(c)}" for c in cases]
    panel.set_yticks(range(len(cases)), labels, fontsize=8)
    panel.tick_params(axis="y", length=0)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    panel.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if re.search("[25]", f"{x:g}") else "")
    panel.grid(axis="x", alpha=0.25, color=INK, linewidth=0.5)
    panel.set_xlabel("time of a step over the best peer's (logarithmic): left of 1 is faster")
    legend(figure, {figures.short_name(name): name for name in shown} | {"floor": "floor"})
    return figure, (
        f"The times of {len(cases)} training steps over those of the best peer, at the line of 1; "
        "thin lines are the quartiles. Products are the step's matrix products alone, and the "
        "floor is the time of its FLOPs and bytes at this machine's rates: no contestants. "
        "Loops are in the table only."
    )


def _peer(case: Results) -> str:
    name = figures.best_peer(case) or ""
    time = time_text(figures.timed(case)[name]["us"]["median"])
    return f"{figures.short_name(name)}, {time}"


def _draw_ratios(panel: Any, row: int, case: Results, names: list[str]) -> None:
    ratios = figures.to_best_peer(case)
    peer = case["contestants"][figures.best_peer(case)]["us"]["median"]
    for i, name in enumerate(names):
        if name in ratios:
            y = row - 0.4 + 0.8 * (i + 0.5) / len(names)
            low, high = ratios[name]["quartiles"]
            panel.plot([low, high], [y, y], color=INK, linewidth=1)
            panel.plot([ratios[name]["median"]], [y], linestyle="", **mark(name))
    if "floor_us" in case:
        floor = case["floor_us"] / peer
        panel.plot([floor, floor], [row - 0.4, row + 0.4], color=INK, linewidth=1.2, linestyle=":")


DRAWINGS = {
    "devices": Drawing("Looped, vectorised, compiled, on a GPU", devices),
    "crossover": Drawing("Which device wins at which width and batch", crossover),
    "roofline": Drawing("The roofs of this machine and how near the kernels come", roofs.roofline),
    "steps": Drawing("Training steps beside the best peer", steps),
}
