"""Samples of products that sum over an axis of both inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.errors import ShapeError
from nnx.testing.samples.table import (
    NAN,
    add,
    values,
)


def _products() -> None:
    x: tuple[int, ...]
    y: tuple[int, ...]
    for label, x, y in (
        ("matrices", (2, 3), (3, 4)),
        ("vector, matrix", (3,), (3, 2)),
        ("matrix, vector", (2, 3), (3,)),
        ("vectors", (3,), (3,)),
        ("stack, matrix", (2, 2, 3), (3, 2)),
        ("matrix, stack", (2, 3), (2, 3, 2)),
        ("stacks both ways", (2, 1, 2, 3), (2, 3, 2)),
        ("vector, stack", (3,), (2, 3, 2)),
        ("stack, vector", (2, 2, 3), (3,)),
        ("nothing inside", (2, 0), (0, 3)),
        ("nothing outside", (0, 2), (2, 3)),
    ):
        add("matmul", label, [values(x), values(y)], np.matmul)
    whole = np.arange(6.0).reshape(2, 3)
    add("matmul", "whole", [whole, whole.T], np.matmul, dtypes=("int32", "int64"), order=0)
    add("matmul", "NaN", [np.array([[1.0, NAN], [2.0, 3.0]]), np.eye(2)], np.matmul, order=0)
    for label, x, y in (
        ("wrong inner", (2, 3), (2, 3)), ("scalar", (), (3,)),
        ("wrong stack", (2, 2, 3), (3, 3, 2)),
    ):  # fmt: skip
        add("matmul", label, [np.ones(x), np.ones(y)], raises=ShapeError)


_products()


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    return x @ weight if bias is None else x @ weight + bias


add("linear", "rows", [values((2, 3)), values((3, 4)), values(4)], _linear)
add("linear", "no bias", [values((2, 3)), values((3, 4))], _linear)
add("linear", "one row", [values(3), values((3, 4)), values(4)], _linear)
add("linear", "stack", [values((2, 2, 3)), values((3, 2)), values(2)], _linear)
add("linear", "no rows", [np.zeros((0, 3)), values((3, 2)), values(2)], _linear)
add("linear", "no features", [np.zeros((2, 0)), np.zeros((0, 2)), values(2)], _linear)
for _label, _shapes in (
    ("wrong weight", ((2, 3), (4, 2), (2,))), ("wrong bias", ((2, 3), (3, 2), (3,))),
    ("0-d", ((), (3, 2), (2,))),
):  # fmt: skip
    add("linear", _label, [np.ones(shape) for shape in _shapes], raises=ShapeError)


def _vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    return np.sum(x * y, axis=axis)


add("vecdot", "rows", [values((2, 3)), values((2, 3), start=0.71)], _vecdot)
add("vecdot", "vectors", [values(3), values(3)[::-1]], _vecdot)
add("vecdot", "broadcast", [values((2, 1, 3)), values((2, 3))], _vecdot)
add("vecdot", "axis -2", [values((3, 2)), values((3, 1))], _vecdot, attrs={"axis": -2})
add("vecdot", "axis 0", [values((3, 2)), values((3, 2))], _vecdot, attrs={"axis": 0})
add("vecdot", "empty", [np.zeros((2, 0)), np.zeros((2, 0))], _vecdot)
add("vecdot", "whole", [np.arange(3.0), np.ones(3)], _vecdot, dtypes=("int32", "int64"), order=0)
add("vecdot", "wrong shapes", [np.ones((2, 3)), np.ones((2, 1))], raises=ShapeError)
add("vecdot", "0-d", [np.ones(()), np.ones(())], raises=ShapeError)

for _label, _x, _y, _axes in (
    ("two axes", (2, 3, 2), (3, 2, 2), 2), ("one axis", (2, 3), (3, 2), 1),
    ("outer", (2,), (3,), 0), ("named", (2, 3, 4), (4, 2), ((0, 2), (1, 0))),
    ("crossed", (2, 3, 4), (3, 4, 2), ((2, 0, 1), (1, 2, 0))),
    ("negative", (2, 3), (2, 3), ((-1,), (-1,))), ("empty", (2, 0), (0, 3), 1),
):  # fmt: skip
    add("tensordot", _label, [values(_x), values(_y)], np.tensordot, attrs={"axes": _axes})
add("tensordot", "wrong sizes", [np.ones((2, 3)), np.ones((2, 3))], attrs={"axes": 1},
     raises=ShapeError)  # fmt: skip
add("tensordot", "too many axes", [np.ones(2), np.ones(2)], attrs={"axes": 2}, raises=ShapeError)
