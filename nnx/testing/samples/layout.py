"""Samples of ops that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx import dtypes
from nnx.errors import ShapeError
from nnx.testing.samples.table import (
    FLOATS,
    INTEGERS,
    MASK,
    NAN,
    Reference,
    add,
    values,
)


def _layout() -> None:
    """Add the rows of ops that move elements."""
    x: tuple[int, ...]
    shape: Any
    axes: tuple[int, ...]
    for label, x, shape in (
        ("matrix", (2, 3), (3, 2)), ("flat", (2, 3), (-1,)), ("number", (2, 3), 6),
        ("to 0-d", (1, 1), ()), ("from 0-d", (), (1, 1)), ("empty", (0, 3), (3, -1, 2)),
    ):  # fmt: skip
        if label == "empty":
            shape = (3, 0, 2)
        add("reshape", label, [values(x)], lambda x, shape: x.reshape(shape),
             attrs={"shape": shape})  # fmt: skip
    add("reshape", "wrong size", [np.ones((2, 3))], attrs={"shape": (4, 2)}, raises=ShapeError)
    add("reshape", "two unknown", [np.ones((2, 3))], attrs={"shape": (-1, -1)}, raises=ShapeError)
    for label, shape, axes in (
        ("cycle", (2, 3, 4), (2, 0, 1)), ("negative", (2, 3), (-1, 0)), ("0-d", (), ()),
        ("empty", (0, 3), (1, 0)),
    ):  # fmt: skip
        add("permute_dims", label, [values(shape)], lambda x, axes: np.transpose(x, axes),
             attrs={"axes": axes})  # fmt: skip
    for axes in ((0,), (0, 0), (0, 2)):
        add("permute_dims", f"wrong axes {axes}", [np.ones((2, 3))], attrs={"axes": axes},
             raises=ShapeError)  # fmt: skip
    for shape in ((2, 3), (2, 3, 4), (0, 3)):
        add("matrix_transpose", str(shape), [values(shape)], lambda x: np.swapaxes(x, -1, -2))
    add("matrix_transpose", "vector", [np.ones(3)], raises=ShapeError)
    for axis in (0, -1, 2, (0, 2)):
        add("expand_dims", f"axis {axis}", [values((2, 3))], np.expand_dims, attrs={"axis": axis})
    add("expand_dims", "0-d", [values(())], np.expand_dims, attrs={"axis": 0})
    add("expand_dims", "empty", [np.zeros((0, 3))], np.expand_dims, attrs={"axis": 1})
    add("expand_dims", "no such axis", [np.ones((2, 3))], attrs={"axis": 3}, raises=ShapeError)
    for axis in (1, -1, (1, 3)):
        add("squeeze", f"axis {axis}", [values((2, 1, 3, 1))], np.squeeze, attrs={"axis": axis})
    add("squeeze", "empty", [np.zeros((0, 1))], np.squeeze, attrs={"axis": 1})
    add("squeeze", "not 1", [np.ones((2, 3))], attrs={"axis": 0}, raises=ShapeError)
    for label, x, shape in (
        ("row", (3,), (2, 3)), ("column", (2, 1), (2, 3)), ("0-d", (), (2,)),
        ("same", (2, 3), (2, 3)), ("to nothing", (1, 3), (0, 3)), ("nothing", (0, 1), (2, 0, 3)),
        ("both", (1, 2, 1), (3, 2, 2)),
    ):  # fmt: skip
        add("broadcast_to", label, [values(x)], np.broadcast_to, attrs={"shape": shape})
    add("broadcast_to", "wrong", [np.ones(3)], attrs={"shape": (2, 4)}, raises=ShapeError)
    add("broadcast_to", "fewer", [np.ones((2, 3))], attrs={"shape": (3,)}, raises=ShapeError)


_layout()


def _joins() -> None:
    """Add the rows of ops that join arrays."""

    def joined(*arrays: Any, axis: int | None = 0) -> Any:
        return np.concatenate(arrays, axis=axis)

    def stacked(*arrays: Any, axis: int = 0) -> Any:
        return np.stack(arrays, axis=axis)

    add("concat", "rows", [values((2, 3)), values((1, 3))], joined)
    add("concat", "columns", [values((2, 1)), values((2, 3))], joined, attrs={"axis": -1})
    add("concat", "flat", [values((2, 1)), values(3)], joined, attrs={"axis": None})
    add("concat", "one", [values((2, 3))], joined)
    add("concat", "with nothing", [np.zeros((0, 3)), values((2, 3))], joined)
    add("concat", "types", [values((1, 3)), np.array([[1, 2, 3]])], joined)
    add("concat", "wrong sizes", [np.ones((2, 3)), np.ones((2, 4))], raises=ShapeError)
    add("concat", "wrong axes", [np.ones((2, 3)), np.ones(3)], raises=ShapeError)
    add("concat", "no such axis", [np.ones(3)], attrs={"axis": 1}, raises=ShapeError)
    add("stack", "rows", [values(3), values(3)[::-1]], stacked)
    add("stack", "last", [values((2, 3)), values((2, 3), start=0.71)], stacked, attrs={"axis": -1})
    add("stack", "middle", [values((2, 3))] * 2, stacked, attrs={"axis": 1})
    add("stack", "0-d", [values(()), np.ones(())], stacked)
    add("stack", "empty", [np.zeros((0, 3))] * 2, stacked)
    add("stack", "wrong sizes", [np.ones(2), np.ones(3)], raises=ShapeError)
    add("stack", "no such axis", [np.ones(2)], attrs={"axis": 2}, raises=ShapeError)


_joins()


def _moves() -> None:
    """Add the rows of ops that reorder, repeat, or cut off."""
    cases: dict[str, tuple[Reference, dict[str, Any]]] = {
        "flip": (np.flip, {}),
        "roll": (np.roll, {"shift": 1}),
        "tile": (_tile, {"repetitions": (2,)}),
        "repeat": (np.repeat, {"repeats": 2}),
        "pad": (_pad, {"pad_width": 1}),
    }
    for op, (reference, attrs) in cases.items():
        add(op, "matrix", [values((2, 3))], reference, attrs=attrs)
        add(op, "whole", [np.arange(3.0)], reference, attrs=attrs, dtypes=INTEGERS, order=0)
        add(op, "flags", [np.array([True, False])], reference, attrs=attrs)
        add(op, "empty", [np.zeros((0, 3))], reference, attrs=attrs)
    for axis in (1, -2, (0, 2)):
        add("flip", f"axis {axis}", [values((2, 3, 2))], np.flip, attrs={"axis": axis})
    add("flip", "0-d", [values(())], np.flip)
    add("flip", "no such axis", [np.ones(2)], attrs={"axis": 1}, raises=ShapeError)
    for shift, axis in ((2, 1), (-1, 0), ((1, 2), (0, 1)), (5, -1)):
        add("roll", f"{shift} along {axis}", [values((2, 3))], np.roll,
             attrs={"shift": shift, "axis": axis})  # fmt: skip
    add("roll", "no such axis", [np.ones(2)], attrs={"shift": 1, "axis": 1}, raises=ShapeError)
    for repetitions in ((2, 1), (2, 1, 2), (3,), (0, 1)):
        add("tile", str(repetitions), [values((2, 3))], _tile, attrs={"repetitions": repetitions})
    add("tile", "0-d", [values(())], _tile, attrs={"repetitions": (2, 2)})
    add("tile", "negative", [np.ones(2)], attrs={"repetitions": (-1,)}, raises=ShapeError)
    for axis in (0, -1):
        add("repeat", f"axis {axis}", [values((2, 3))], np.repeat,
             attrs={"repeats": 2, "axis": axis})  # fmt: skip
    add("repeat", "none", [values((2, 3))], np.repeat, attrs={"repeats": 0, "axis": 0})
    add("repeat", "negative", [np.ones(2)], attrs={"repeats": -1}, raises=ShapeError)
    for width in ((1, 0), ((1, 2), (0, 1)), 0):
        add("pad", f"{width}", [values((2, 3))], _pad, attrs={"pad_width": width, "value": 1.5})
    add("pad", "nothing", [np.zeros((0, 2))], _pad, attrs={"pad_width": ((2, 1), (1, 1))})
    add("pad", "negative", [np.ones(2)], attrs={"pad_width": (-1, 0)}, raises=ShapeError)
    for op, function in (("tril", np.tril), ("triu", np.triu)):
        for k in (0, 1, -1):
            add(op, f"k {k}", [values((3, 4))], function, attrs={"k": k})
        add(op, "stack", [values((2, 2, 3))], function)
        add(op, "empty", [np.zeros((0, 3))], function)
        add(op, "whole", [np.arange(4.0).reshape(2, 2)], function, dtypes=INTEGERS, order=0)
        add(op, "NaN", [np.array([[1.0, NAN], [NAN, 2.0]])], function, order=0)
        add(op, "vector", [np.ones(3)], raises=ShapeError)


def _tile(x: Any, repetitions: tuple[int, ...]) -> Any:
    return np.tile(x, repetitions)


def _pad(x: Any, pad_width: Any, value: float = 0) -> Any:
    return np.pad(x, pad_width, constant_values=value)


_moves()

for _target in (dtypes.float64, dtypes.float32, dtypes.int32, dtypes.bool_):
    add(
        "astype", f"to {_target}", [np.array([[0.0, 1.5, -2.0]])],
        lambda x, dtype: x.astype(dtype.name), attrs={"dtype": _target},
        dtypes=(*FLOATS, "int64"), order=2 if _target is dtypes.float64 else 0,
    )  # fmt: skip
add("astype", "flags", [MASK], lambda x, dtype: x.astype(dtype.name),
     attrs={"dtype": dtypes.float32})  # fmt: skip
add("astype", "empty", [np.zeros((0, 3))], lambda x, dtype: x.astype(dtype.name),
     attrs={"dtype": dtypes.int32})  # fmt: skip
