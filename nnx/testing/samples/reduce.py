"""Samples of ops that take many elements to one."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.errors import ShapeError
from nnx.testing.samples.table import (
    FLOATS,
    INF,
    INTEGERS,
    MASK,
    NAN,
    SAMPLES,
    Reference,
    add,
    values,
)

_function: Reference


def _reduction(
    op: str,
    reference: Reference,
    *,
    low: float = -1.0,
    kinds: tuple[str, ...] = INTEGERS,
    order: int = 2,
    of_nothing: bool = True,
    many: bool = True,
    **attrs: Any,
) -> None:
    """Add the rows that every reduction needs."""

    def sample(label: str, x: Any, /, **more: Any) -> None:
        settings = {"dtypes": more.pop("dtypes", FLOATS), "order": more.pop("order", order)}
        add(op, label, [x], reference, attrs={**attrs, **more}, **settings)

    sample("all", values((2, 3), low))
    sample("axis 1", values((2, 3), low), axis=1)
    sample("kept", values((2, 3), low), axis=-2, keepdims=True)
    sample("0-d", values((), low))
    sample("no rows", np.zeros((0, 3)), axis=1)
    if many:
        sample("two axes", values((2, 3, 2), low), axis=(0, 2))
        sample("two axes kept", values((2, 3, 2), low), axis=(-1, 0), keepdims=True)
    if of_nothing:
        sample("of nothing", np.zeros((0, 3)), axis=0, order=0)
    else:
        add(op, "of nothing", [np.zeros((0, 3))], attrs={**attrs, "axis": 0}, raises=ShapeError)
    sample("limits", np.array([[1.0, INF], [INF, -INF], [NAN, 1.0]]), axis=1, order=0)
    if kinds:
        sample("whole", np.array([[3.0, 1.0], [2.0, 3.0]]), axis=0, dtypes=kinds, order=0)
    add(op, "no such axis", [np.ones((2, 3))], attrs={**attrs, "axis": 2}, raises=ShapeError)


def _wide_sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.sum(x, axis=axis, keepdims=keepdims)


_reduction("sum", _wide_sum)
_reduction("prod", lambda x, axis=None, keepdims=False: np.prod(x, axis=axis, keepdims=keepdims))
for _zeros in (1, 2):
    _row = np.array([0.5, 0.0, -1.5, 0.0 if _zeros == 2 else 2.0])
    add("prod", f"{_zeros} zeros", [_row], np.prod)
    add("cumulative_prod", f"{_zeros} zeros", [_row], np.cumprod)
add("sum", "flags", [np.array([True, True, False])], np.sum)
add("sum", "no axis", [values((2, 3))], np.sum, attrs={"axis": ()})
_reduction("mean", np.mean)
_reduction("max", np.max, of_nothing=False)
_reduction("min", np.min, of_nothing=False)
for _name in ("max", "min"):
    add(
        _name, "ties", [np.array([[1.0, 1.0, 1.0, 1.0]])], lambda x, axis: x[:, 0],
        attrs={"axis": 1}, order=0, slopes=(np.full((1, 4), 0.25),),
    )  # fmt: skip
_reduction("var", np.var)
_reduction("std", np.std, order=2)
for _name, _function in (("var", np.var), ("std", np.std)):
    add(
        _name, "correction", [values((3, 2))],
        lambda x, axis, correction, function=_function: function(x, axis=axis, ddof=correction),
        attrs={"axis": 0, "correction": 1},
    )  # fmt: skip
    add(_name, "of one", [np.ones((1, 2))], lambda x, axis, correction: np.full(2, NAN),
         attrs={"axis": 0, "correction": 1}, order=0)  # fmt: skip
SAMPLES["std"] = [s for s in SAMPLES["std"] if s.label != "0-d"]
add("std", "0-d", [values(())], np.std, order=0, slopes=(np.array(0.0),))
add("std", "all equal", [np.ones(3)], np.std, order=0, slopes=(np.zeros(3),))


def _chosen(function: Reference) -> Reference:
    def choose(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return np.asarray(function(x, axis=axis, keepdims=keepdims), np.int64)

    return choose


_reduction("argmax", _chosen(np.argmax), of_nothing=False, many=False)
_reduction("argmin", _chosen(np.argmin), of_nothing=False, many=False)
for _name in ("argmax", "argmin"):
    add(_name, "several axes", [np.ones((2, 3))], attrs={"axis": (0, 1)}, raises=ShapeError)
for _name, _function in (("any", np.any), ("all", np.all)):
    _reduction(_name, _function)
    add(_name, "flags", [MASK], _function, attrs={"axis": 0})
    add(_name, "no flags", [np.zeros((0,), bool)], _function)


def _running(op: str, function: Reference, start: float) -> None:
    def reference(x: Any, axis: int = 0, include_initial: bool = False) -> Any:
        result = function(x, axis=axis)
        first = np.full_like(np.take(result, [], axis=axis), start)
        sizes = list(result.shape)
        sizes[axis] = 1
        first = np.full(sizes, start, result.dtype)
        return np.concatenate([first, result], axis=axis) if include_initial else result

    add(op, "row", [values(4)], reference)
    add(op, "axis 0", [values((3, 2))], reference, attrs={"axis": 0})
    add(op, "axis -1", [values((2, 3))], reference, attrs={"axis": -1})
    add(op, "initial", [values((2, 3))], reference, attrs={"axis": 1, "include_initial": True})
    add(op, "empty", [np.zeros((2, 0))], reference, attrs={"axis": 1})
    add(op, "whole", [np.arange(1.0, 5.0)], reference, dtypes=INTEGERS, order=0)
    add(op, "limits", [np.array([1.0, INF, -INF, NAN, 1.0])], reference, order=0)
    add(op, "no axis named", [np.ones((2, 3))], raises=ShapeError)
    add(op, "no such axis", [np.ones((2, 3))], attrs={"axis": 2}, raises=ShapeError)


_running("cumulative_sum", np.cumsum, 0.0)
_running("cumulative_prod", np.cumprod, 1.0)


def _logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    top = np.max(x, axis=axis, keepdims=True, initial=-INF)
    top = np.where(np.isinf(top), 0.0, top)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else np.sum(total, axis=axis)


def _softmax(x: Any, axis: Any = -1) -> Any:
    x = np.asarray(x, np.float64)
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-INF))
    return e / np.sum(e, axis=axis, keepdims=True)


def _log_softmax(x: Any, axis: Any = -1) -> Any:
    return x - _logsumexp(x, axis, True)


_reduction("logsumexp", _logsumexp, of_nothing=False)
add("logsumexp", "of -inf", [np.array([[-INF, -INF], [-INF, 1.0]])], _logsumexp,
     attrs={"axis": 1}, order=0)  # fmt: skip
add("logsumexp", "one -inf", [np.array([-INF, 1.0])], _logsumexp,
     order=0, slopes=(np.array([0.0, 1.0]),))  # fmt: skip
for _name, _function in (("softmax", _softmax), ("log_softmax", _log_softmax)):
    add(_name, "rows", [values((2, 3))], _function)
    add(_name, "vector", [values(4)], _function)
    add(_name, "axis 0", [values((3, 2))], _function, attrs={"axis": 0})
    add(_name, "two axes", [values((2, 3, 2))], _function, attrs={"axis": (0, 2)})
    add(_name, "all axes", [values((2, 3))], _function, attrs={"axis": None})
    add(_name, "one class", [values((2, 1))], _function)
    add(_name, "no rows", [np.zeros((0, 3))], _function)
    add(_name, "large", [np.array([[1e4, 1.0, -1e4]])], _function, order=0)
    add(_name, "NaN", [np.array([[1.0, NAN], [1.0, 2.0]])], _function, order=0)
    add(_name, "-inf", [np.array([[1.0, -INF, 2.0]])], _function, order=0)
    add(_name, "whole", [np.array([[1.0, 2.0]])], _function, dtypes=INTEGERS, order=0)
    add(_name, "no such axis", [np.ones((2, 3))], attrs={"axis": 2}, raises=ShapeError)


def _layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    d = x - x.mean(axis=-1, keepdims=True)
    rows = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + eps)
    rows = rows if weight is None else rows * weight
    return rows if bias is None else rows + bias


add("layer_norm", "rows", [values((2, 4)), values(4, 0.5, 1.5), values(4)], _layer_norm)
add("layer_norm", "plain", [values((2, 4))], _layer_norm)
add("layer_norm", "weight only", [values((2, 4)), values(4, 0.5, 1.5)], _layer_norm)
add("layer_norm", "bias only", [values((2, 4)), None, values(4)], _layer_norm)
add("layer_norm", "stack", [values((2, 2, 3)), values(3), values(3)], _layer_norm)
add("layer_norm", "vector", [values(4)], _layer_norm, attrs={"eps": 0.1})
add("layer_norm", "no rows", [np.zeros((0, 3)), np.ones(3), np.ones(3)], _layer_norm)
add("layer_norm", "offset", [np.array([[10001.0, 10002.0, 10003.0, 10004.0]])], _layer_norm)
add("layer_norm", "NaN", [np.array([[1.0, NAN], [1.0, 2.0]])], _layer_norm, order=0)
add("layer_norm", "wrong weight", [np.ones((2, 3)), np.ones(2)], raises=ShapeError)
add("layer_norm", "0-d", [np.ones(())], raises=ShapeError)
