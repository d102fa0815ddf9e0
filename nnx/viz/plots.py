"""Plots of learning and of predictions: history, confusion, roc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnx.errors import DataError
from nnx.metrics import confusion_matrix, roc_auc, roc_curve
from nnx.viz.counts import class_names, host, labels, probabilities, shortened
from nnx.viz.picture import Plot, new_figure, style

MANY_CLASSES = 20  # above, a cell of a confusion matrix has no room for its number
MOST_LABELS = 40  # of an axis; of more classes every second, third ... is named
PANELS = 3  # side by side
IN_A_COLUMN = 18  # entries of a legend
LETTER = 0.09  # inches that a letter of a label takes
VALIDATION = "val_"
NEAR_PERFECT = 0.93  # mean area under ROC curves, from which their corner is enlarged
LINES = ("solid", "dashed", "dashdot", "dotted")


def _curve(scores: Any, is_true: Any) -> tuple[Any, Any, float]:
    """Return false and true positive rates over all thresholds, and the area under them."""
    answers = is_true.astype(np.int64)
    false_rate, true_rate, _ = roc_curve(scores, answers)
    return false_rate, true_rate, roc_auc(scores, answers)


def history(history: Any, *, dark: bool | None = None) -> Plot:
    """Return the curves of a training: a panel for each measure, with its validation.

    Takes what `fit` returns, or a dict of lists. Raises: DataError where there is no epoch.
    """
    measured: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    names = [name for name, values in measured.items() if len(values)]
    if not names:
        raise DataError("history: there is no epoch to draw. Train first: model.fit(x, y).")
    measures = list(dict.fromkeys(name.removeprefix(VALIDATION) for name in names))
    n_epochs = max(len(measured[name]) for name in names)
    first = next(iter(getattr(history, "epoch", ())), 0) + 1
    across = min(len(measures), PANELS)
    down = -(-len(measures) // across)
    with style(dark) as use:
        figure = new_figure(4.6 * across, 3.4 * down)
        panels = figure.subplots(down, across, squeeze=False).reshape(-1)
        for panel, measure in zip(panels, measures, strict=False):
            _curves(panel, measured, measure, first, use)
        for panel in panels[len(measures) :]:
            panel.axis("off")
    last = ", ".join(f"{name} {measured[name][-1]:.4g}" for name in names)
    return Plot(figure, f"{n_epochs} epoch{'s' * (n_epochs != 1)}: {last}", dark)


def _curves(
    panel: Any,
    measured: Mapping[str, Sequence[float]],
    measure: str,
    first: int,
    use: dict[str, str],
) -> None:
    both = ((measure, "training", "first", "o"), (VALIDATION + measure, "validation", "second",
                                                  "s"))  # fmt: skip
    gaps, longest = 0, 0
    for name, label, colour, marker in both:
        if name in measured:
            values = np.asarray(measured[name], np.float64)
            fine = np.isfinite(values)
            gaps, longest = gaps + int((~fine).sum()), max(longest, len(values))
            panel.plot(
                range(first, first + len(values)), np.where(fine, values, np.nan),
                color=use[colour], label=label, linewidth=1.8, markersize=4,
                marker=marker if len(values) <= 25 else None,
                linestyle="solid" if name == measure else "dashed",
            )  # fmt: skip
    panel.set_title(measure)
    panel.set_xlabel("epoch" + (f" (not drawn: {gaps} NaN or infinite)" if gaps else ""))
    panel.grid(True, axis="y")
    panel.xaxis.get_major_locator().set_params(integer=True)
    if longest == 1:
        panel.set_xticks([first])
    if VALIDATION + measure in measured:
        panel.legend()


def confusion(
    predictions: Any,
    targets: Any,
    *,
    classes: Sequence[Any] | None = None,
    dark: bool | None = None,
) -> Plot:
    """Return the confusion matrix: of each true class, how often it was taken for which.

    Shapes: predictions (B, C) scores or (B,) class numbers; targets (B,) or rows (B, C).
    The shade is the share of the row.
    """
    given = host(predictions)
    if given.ndim == 1 and given.dtype.kind in "iu":
        most = max(int(given.max(initial=1)), int(host(targets).max(initial=1)))
        n_classes = len(classes) if classes else most + 1
        predicted = labels(given, len(given), n_classes)
    else:
        shares = probabilities(given)
        n_classes, predicted = shares.shape[1], shares.argmax(axis=1)
    true = labels(targets, len(predicted), n_classes)
    names = [shortened(name) for name in class_names(classes, n_classes)]
    counts = confusion_matrix(predicted, true, n_classes)
    accuracy = counts.trace() / max(counts.sum(), 1)
    with style(dark) as use:
        side = min(max(0.5 * n_classes + 1.6, 3.6), 12.0)
        slanted = max(map(len, names)) > 3
        room = LETTER * max(map(len, names)) if slanted else 0.0
        figure = new_figure(side + 0.3 + room, side + 0.7 * room)
        axes = figure.subplots()
        _matrix(axes, counts, use)
        step = -(-n_classes // MOST_LABELS)
        named = range(0, n_classes, step)
        axes.set_xticks(named, names[::step])
        axes.set_yticks(named, names[::step])
        if slanted:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
        axes.set(xlabel="predicted (shade: share of the row)", ylabel="true")
        axes.set_title(f"{accuracy:.2%} of {counts.sum():,} right")
    return Plot(figure, f"confusion matrix, {accuracy:.2%} of {counts.sum():,} right", dark)


def _matrix(axes: Any, counts: Any, use: dict[str, str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("share", [use["paper"], use["first"]])
    # The root lets faults be seen beside the many that are right.
    axes.imshow(np.sqrt(share), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    n = len(counts)
    axes.set_xticks(np.arange(1, n) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, n) - 0.5, minor=True)
    axes.grid(True, which="minor")
    axes.tick_params(which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if n > MANY_CLASSES:
        return
    for i in range(n):
        for j in range(n):
            if counts[i, j]:
                strong = share[i, j] > 0.35
                axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=9,
                          weight="bold" if i == j else "normal",
                          color=use["paper"] if strong else use["ink"])  # fmt: skip


def roc(
    predictions: Any,
    targets: Any,
    *,
    classes: Sequence[Any] | None = None,
    dark: bool | None = None,
) -> Plot:
    """Return ROC curves: each class against the rest, or of two classes the second.

    Shapes: predictions (B, C) or (B,) scores; targets (B,) or rows (B, C).
    Raises: DataError where the targets are all of one class.
    """
    shares = probabilities(predictions)
    n_classes = shares.shape[1]
    true = labels(targets, len(shares), n_classes)
    names = [shortened(name) for name in class_names(classes, n_classes)]
    there = [c for c in range(n_classes) if 0 < (true == c).sum() < len(true)]
    if not there:
        raise DataError("roc: all targets are of one class, and nothing can be told apart.")
    shown = [1] if n_classes == 2 else there
    curves = {c: _curve(shares[:, c], true == c) for c in shown}
    mean = float(np.mean([area for _, _, area in curves.values()]))
    with style(dark) as use:
        from matplotlib import colormaps

        columns = -(-len(shown) // IN_A_COLUMN)
        entry = 0.55 + LETTER * (max(len(names[c]) for c in shown) + 8)
        figure = new_figure(4.6 + columns * entry, 4.6)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=use["muted"], linewidth=1, linestyle=(0, (2, 3)))
        palette = colormaps["viridis" if dark else "viridis_r"]
        corner = mean > NEAR_PERFECT
        panels = [axes, axes.inset_axes((0.36, 0.12, 0.6, 0.6))] if corner else [axes]
        for i, c in enumerate(shown):
            false_rate, true_rate, area = curves[c]
            for panel in panels:
                panel.plot(
                    false_rate, true_rate, linewidth=1.8, linestyle=LINES[i % len(LINES)],
                    color=palette(0.25 + 0.75 * i / max(len(shown) - 1, 1)),
                    label=f"{names[c]}: {area:.4f}",
                )  # fmt: skip
        if corner:
            _enlarge(axes, panels[1], use)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal",
                 xlabel="false positives, share", ylabel="true positives, share")  # fmt: skip
        axes.grid(True)
        axes.set_title(f"area under the curve {mean:.4f}" + (", mean" if len(shown) > 1 else ""))
        entries = axes.get_legend_handles_labels()
        figure.legend(*entries, title="class, area", loc="outside right upper", fontsize=9,
                      ncols=columns)  # fmt: skip
    return Plot(figure, f"ROC curves, area {mean:.4f}", dark)


def _enlarge(axes: Any, panel: Any, use: dict[str, str]) -> None:
    """Make a panel show the upper left corner, where good curves are."""
    panel.set(xlim=(0, 0.2), ylim=(0.8, 1.003), xticks=[0, 0.1, 0.2], yticks=[0.8, 0.9, 1])
    panel.tick_params(labelsize=8)
    panel.grid(True)
    panel.set_title("the corner, enlarged", fontsize=8, weight="normal", color=use["muted"])
    axes.indicate_inset_zoom(panel, edgecolor=use["muted"])
