"""Samples of indexing, and of its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx import dtypes
from nnx.errors import DTypeError, LabelError, ShapeError
from nnx.testing.samples.table import (
    INTEGERS,
    add,
    values,
)


def _filled(key: tuple[Any, ...], indices: Sequence[Any]) -> tuple[Any, ...]:
    """Return a key with its k-th array in the place of "#k"."""
    return tuple(indices[int(item[1:])] if isinstance(item, str) else item for item in key)


def _indexing() -> None:
    """Add the rows of indexing and of its gradient, which are each other's."""

    def read(x: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
        return x[_filled(key, indices)]

    def added(x: Any, *indices: Any, key: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        total = np.zeros(shape, x.dtype)
        np.add.at(total, _filled(key, indices), x)
        return total

    key: tuple[Any, ...]
    all_, row, column = slice(None), np.array([1, 0, 1]), np.array([[2], [-1]])
    for label, shape, indices, key in (
        ("integer", (3, 4), [], (1,)), ("negative", (3, 4), [], (-1, 2)),
        ("slices", (3, 4), [], (slice(1, 3), slice(None, None, 2))),
        ("backwards", (3, 4), [], (slice(None, None, -1),)),
        ("ellipsis", (2, 3, 4), [], (..., 1)), ("new axis", (3,), [], (None, all_)),
        ("nothing", (3, 4), [], (slice(2, 2),)), ("whole", (), [], ()),
        ("array", (3, 4), [row], ("#0",)), ("array behind", (3, 4), [row], (all_, "#0")),
        ("pairs", (3, 4), [row, row], ("#0", "#1")), ("grid", (3, 4), [column, row], ("#0", "#1")),
        ("array and integer", (3, 4), [row], ("#0", 1)),
        ("integer apart", (2, 3, 4), [row], (0, all_, "#0")),
        ("integer beside", (2, 3, 4), [row], (all_, 1, "#0")),
        ("arrays apart", (2, 3, 4), [row, row], ("#0", all_, "#1")),
        ("array between", (2, 3, 4), [row], (all_, "#0", slice(0, 2))),
        ("array after ellipsis", (2, 3, 4), [row], (..., "#0")),
        ("no entries", (3, 4), [np.zeros(0, np.int64)], ("#0",)),
    ):  # fmt: skip
        x = values(shape)
        add("getitem", label, [x, *indices], read, attrs={"key": key})
        add("scatter_add", label, [values(x[_filled(key, indices)].shape), *indices], added,
             attrs={"key": key, "shape": shape})  # fmt: skip
    for label, key in (("too many", (0, 0, 0)), ("outside", (3,)), ("below", (-4, 0))):
        add("getitem", label, [np.ones((3, 4))], attrs={"key": key}, raises=ShapeError)
    add("getitem", "arrays do not fit", [np.ones((3, 4)), np.array([0, 1]), np.array([0, 1, 2])],
         attrs={"key": ("#0", "#1")}, raises=ShapeError)  # fmt: skip
    numbers = np.arange(12.0).reshape(3, 4)
    add("getitem", "whole numbers", [numbers, row], read, attrs={"key": ("#0",)}, dtypes=INTEGERS,
         order=0)  # fmt: skip


_indexing()

_places = np.array([2, 0, 2, -1])
add("take", "rows", [values((3, 2)), _places], np.take, attrs={"axis": 0})
add("take", "columns", [values((2, 3)), _places], np.take, attrs={"axis": -1})
add("take", "vector", [values(3), _places], np.take)
add("take", "grid", [values((3, 2)), _places.reshape(2, 2)], np.take, attrs={"axis": 0})
add("take", "0-d index", [values((3, 2)), np.array(1)], np.take, attrs={"axis": 0})
add("take", "no entries", [values((3, 2)), np.zeros(0, np.int64)], np.take, attrs={"axis": 0})
add("take", "narrow index", [values((3, 2)), _places.astype(np.int32)], np.take,
     attrs={"axis": 0})  # fmt: skip
add("take", "floats", [np.ones(3), np.ones(2)], raises=DTypeError)
add("take", "no axis named", [np.ones((2, 3)), _places], raises=ShapeError)
add("take", "no such axis", [np.ones((2, 3)), _places], attrs={"axis": 2}, raises=ShapeError)
_order = np.array([[2, 0, -1], [1, 1, 0]])
add("take_along_axis", "rows", [values((2, 3)), _order], np.take_along_axis)
add("take_along_axis", "columns", [values((2, 3)), _order % 2], np.take_along_axis,
     attrs={"axis": 0})  # fmt: skip
add("take_along_axis", "fewer", [values((2, 3)), _order[:, :1]], np.take_along_axis)
add("take_along_axis", "vector", [values(3), _order[0]], np.take_along_axis)
add("take_along_axis", "stack", [values((2, 2, 3)), _order[:, None, :].repeat(2, 1)],
     np.take_along_axis)  # fmt: skip
add("take_along_axis", "none", [values((2, 3)), _order[:, :0]], np.take_along_axis)
add("take_along_axis", "of nothing", [np.zeros((0, 3)), _order[:0]], np.take_along_axis)
add("take_along_axis", "floats", [np.ones(3), np.ones(2)], raises=DTypeError)
add("take_along_axis", "other axes", [np.ones((2, 3)), _places], raises=ShapeError)


def _one_hot(x: Any, num_classes: int, dtype: Any = None) -> Any:
    return (x[..., None] == np.arange(num_classes)).astype(
        "float32" if dtype is None else dtype.name
    )


add("one_hot", "labels", [np.array([0, 2, 1])], _one_hot, attrs={"num_classes": 3})
add("one_hot", "grid", [np.array([[0], [2]])], _one_hot, attrs={"num_classes": 4})
add("one_hot", "0-d", [np.array(1)], _one_hot, attrs={"num_classes": 2})
add("one_hot", "none", [np.zeros(0, np.int64)], _one_hot, attrs={"num_classes": 2})
add("one_hot", "integers", [np.array([1, 0], np.uint8)], _one_hot,
     attrs={"num_classes": 2, "dtype": dtypes.int32})  # fmt: skip
for _label, _wrong in (
    ("above", np.array([0, 3])), ("below", np.array([0, -1])), ("floats", np.ones(2)),
):  # fmt: skip
    add("one_hot", _label, [_wrong], attrs={"num_classes": 3}, raises=LabelError)
