"""Metrics of classes as text, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from nnx.errors import DataError
from nnx.metrics.classes import confusion_matrix, share

WIDTH = 80
MOST_CONFUSIONS = 20
COLUMNS = ("precision", "recall", "f1-score")

Row = dict[str, Any]


def classification_report(
    predictions: Any,
    targets: Any,
    class_names: Sequence[str] | None = None,
    output_dict: bool = False,
) -> Any:
    """Return precision, recall, F1 and number of rows of each class, and their averages, as text.

    Shapes: as `confusion_matrix`. With ``output_dict`` a dict under scikit-learn's keys. A class
    that is neither guessed nor occurs shows "-" (NaN in the dict) and counts in no average.
    Raises: DataError for names of another number than the classes, or scores with a NaN.

    >>> print(classification_report([0, 1, 1], [0, 1, 0], ["no", "yes"]))
                  precision    recall  f1-score   support
    <BLANKLINE>
              no       1.00      0.50      0.67         2
             yes       0.50      1.00      0.67         1
    <BLANKLINE>
        accuracy                           0.67         3
       macro avg       0.75      0.75      0.67         3
    weighted avg       0.83      0.67      0.67         3
    """
    matrix = confusion_matrix(predictions, targets)
    if class_names is not None and len(class_names) > len(matrix):
        matrix = confusion_matrix(predictions, targets, len(class_names))
    report = of_matrix(matrix, class_names)
    return report.as_dict() if output_dict else str(report)


class Report(NamedTuple):
    """Figures of each class by name, the accuracy, and the averages of the figures by name."""

    classes: list[tuple[str, Row]]
    accuracy: float
    averages: dict[str, Row]

    def as_dict(self) -> dict[str, Any]:
        """Return it under scikit-learn's keys."""
        return {**dict(self.classes), "accuracy": self.accuracy, **self.averages}

    def __str__(self) -> str:
        """Return it as text."""
        rest = 1 + 10 * (len(COLUMNS) + 1)
        longest = max(len(name) for name, _ in (*self.classes, *self.averages.items()))
        width = min(WIDTH - rest, longest)
        support = self.averages["macro avg"]["support"]
        return "\n".join([
            " " * (width + 1) + "".join(f"{name:>10}" for name in (*COLUMNS, "support")),
            "",
            *(_line(name, row, width) for name, row in self.classes),
            "",
            f"{'accuracy':>{width}}{'':21}{self.accuracy:10.2f}{support:10d}",
            *(_line(name, row, width) for name, row in self.averages.items()),
        ])  # fmt: skip


def _line(name: str, row: Row, width: int) -> str:
    cells = ["-" if math.isnan(row[key]) else f"{row[key]:.2f}" for key in COLUMNS]
    shown = "".join(f"{cell:>10}" for cell in (*cells, row["support"]))
    return f"{_cut(name, width):>{width}} {shown}"


def of_matrix(matrix: Any, class_names: Sequence[str] | None = None) -> Report:
    """Return the report of a confusion matrix."""
    import numpy as np

    matrix = _checked(matrix)
    names = _names(matrix, class_names)
    hits, guessed, actual = (
        part.astype(np.float64)
        for part in (matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1))
    )
    columns = [share(hits, guessed), share(hits, actual), share(2.0 * hits, guessed + actual)]
    occurs = guessed + actual > 0
    table = np.where(occurs[:, np.newaxis], np.stack(columns, axis=1), math.nan)
    total = int(actual.sum())

    def row(figures: Any, support: int) -> Row:
        return {**dict(zip(COLUMNS, figures.tolist(), strict=True)), "support": support}

    weights = {"macro avg": 1.0 * occurs, "weighted avg": actual}
    return Report(
        [(name, row(table[i], int(actual[i]))) for i, name in enumerate(names)],
        float(hits.sum() / total),
        {name: row(np.array([c @ weight for c in columns]) / weight.sum(), total)
         for name, weight in weights.items()},
    )  # fmt: skip


def confusion_text(matrix: Any, class_names: Sequence[str] | None = None) -> str:
    """Return a confusion matrix as text: a row a class, a column for what it was taken for.

    Where that is wider than 80 columns, the most frequent confusions, one a line.

    >>> import numpy as np
    >>> print(confusion_text(np.array([[5, 1], [0, 7]]), ["no", "yes"]))
    right / guessed  no yes
                 no   5   1
                yes   0   7
    """
    matrix = _checked(matrix)
    names = _names(matrix, class_names)
    first = "right / guessed"
    cell = 1 + max(3, len(str(matrix.max(initial=0))))
    left = max(len(first), *(min(len(name), 24) for name in names))
    if left + cell * len(names) > WIDTH:
        return _largest(matrix, names)
    heads = "".join(f"{_cut(name, cell - 1):>{cell}}" for name in names)
    lines = [f"{first:>{left}}{heads}"]
    for name, row in zip(names, matrix.tolist(), strict=True):
        lines.append(f"{_cut(name, left):>{left}}" + "".join(f"{n:>{cell}}" for n in row))
    return "\n".join(lines)


def _largest(matrix: Any, names: list[str]) -> str:
    import numpy as np

    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [divmod(int(at), len(names)) for at in order if wrong.flat[at]]
    if not pairs:
        return f"No row of the {len(names)} classes was taken for another."
    width = 28
    lines = [f"{'right':>{width}}  {'guessed':<{width}} {'rows':>9}"]
    lines += [
        f"{_cut(names[i], width):>{width}}  {_cut(names[j], width):<{width}} {wrong[i, j]:>9}"
        for i, j in pairs
    ]
    rest = int((wrong > 0).sum()) - len(pairs)
    return "\n".join([*lines, f"and {rest} rarer confusions"] if rest else lines)


def _checked(matrix: Any) -> Any:
    """Return a confusion matrix as an array. Raises: DataError for what is none."""
    import numpy as np

    found: Any = np.asarray(matrix)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or found.dtype.kind not in "iuf":
        raise DataError(
            f"A confusion matrix has a row and a column for each class; got "
            f"shape {found.shape} of type {found.dtype}. nnx.metrics.confusion_matrix makes one."
        )
    return found


def _names(matrix: Any, class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return [str(i) for i in range(len(matrix))]
    if len(class_names) != len(matrix):
        raise DataError(
            f"class_names has {len(class_names)} names, and there are {len(matrix)} classes: "
            f"{', '.join(map(str, class_names[:5]))}."
        )
    return [str(name) for name in class_names]


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: max(1, width - 1)] + "~"[: width - 1]
