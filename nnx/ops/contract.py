"""Products that sum over an axis of both inputs."""

from __future__ import annotations

from typing import Any

from nnx import shapes
from nnx.op import op, primitive


def _matmul_dx(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    if len(y.shape) == 1:
        return g * y if len(x.shape) == 1 else xp.expand_dims(g, axis=-1) * y
    if len(x.shape) == 1:
        return xp.squeeze(xp.matmul(y, xp.expand_dims(g, axis=-1)), axis=-1)
    return xp.matmul(g, xp.matrix_transpose(y))


def _matmul_dy(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    if len(x.shape) == 1:
        if len(y.shape) == 1:
            return g * x
        return xp.expand_dims(x, axis=-1) * xp.expand_dims(g, axis=-2)
    transposed = xp.matrix_transpose(x)
    if len(y.shape) == 1:
        return xp.squeeze(xp.matmul(transposed, xp.expand_dims(g, axis=-1)), axis=-1)
    return xp.matmul(transposed, g)


matmul = primitive(
    "matmul",
    "contract",
    lambda xp, x, y, /: xp.matmul(x, y),
    """The matrix product x @ y; leading axes broadcast.

    Shapes: x (..., N, I), y (..., I, O) -> (..., N, O); a vector on either side loses its axis.
    """,
    vjp=(_matmul_dx, _matmul_dy),
    shape=shapes.matmul,
)


def _linear_dW(  # noqa: N802 (the field's name for the gradient of W)
    xp: Any, g: Any, out: Any, x: Any, weight: Any, bias: Any = None
) -> Any:
    if len(x.shape) == 2:
        return xp.matmul(x.T, g)
    n_in, n_out = weight.shape
    return xp.matmul(xp.reshape(x, (-1, n_in)).T, xp.reshape(g, (-1, n_out)))


def _linear_db(xp: Any, g: Any, out: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    n_axes = len(g.shape)
    if n_axes == 1:
        return g
    return xp.sum(g, axis=0 if n_axes == 2 else tuple(range(n_axes - 1)))


@op(
    "contract",
    vjp=(
        lambda xp, g, out, x, weight, bias=None: xp.matmul(g, weight.T),
        _linear_dW,
        _linear_db,
    ),
    shape=shapes.linear,
)
def linear(xp: Any, x: Any, weight: Any, bias: Any = None, /) -> Any:
    """x @ weight + bias.

    Shapes: x (..., I), weight (I, O), bias (O,) -> (..., O)
    """
    if bias is not None and bias.shape != weight.shape[1:]:
        shapes.linear(tuple(x.shape), tuple(weight.shape), tuple(bias.shape))
    product = xp.matmul(x, weight)
    return product if bias is None else product + bias


def _vecdot_dx(xp: Any, g: Any, out: Any, x: Any, y: Any, axis: int = -1) -> Any:
    return xp.expand_dims(g, axis=_from_end(x, y, axis)) * y


def _from_end(x: Any, y: Any, axis: int) -> int:
    """Return the axis counted from the end, where broadcasting does not move it."""
    return axis if axis < 0 else axis - max(len(x.shape), len(y.shape))


@op(
    "contract",
    vjp=(
        _vecdot_dx,
        lambda xp, g, out, x, y, axis=-1: _vecdot_dx(xp, g, out, y, x, axis),
    ),
    shape=shapes.vecdot,
)
def vecdot(xp: Any, x: Any, y: Any, /, axis: int = -1) -> Any:
    """The dot product along one axis of both: sum of x * y."""
    shapes.vecdot(tuple(x.shape), tuple(y.shape), axis)
    product = x * y
    return xp.narrow(xp.sum(product, axis=_from_end(x, y, axis)), product)


def _free(ndim: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a for a in range(ndim) if a not in axes)


def _back(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(a) for a in range(len(order)))


def _tensordot_dx(xp: Any, g: Any, out: Any, x: Any, y: Any, axes: Any = 2) -> Any:
    x_axes, y_axes = shapes.tensordot_axes(x.shape, y.shape, axes)
    free_x, free_y = _free(len(x.shape), x_axes), _free(len(y.shape), y_axes)
    g_axes = tuple(range(len(free_x), len(free_x) + len(free_y)))
    spread = xp.tensordot(g, y, axes=(g_axes, free_y))
    # What is left of y are its contracted axes in rising order; each belongs to an axis of x.
    partner = tuple(x_axes[y_axes.index(a)] for a in sorted(y_axes))
    return xp.permute_dims(spread, _back(free_x + partner))


def _tensordot_dy(xp: Any, g: Any, out: Any, x: Any, y: Any, axes: Any = 2) -> Any:
    x_axes, y_axes = shapes.tensordot_axes(x.shape, y.shape, axes)
    free_x, free_y = _free(len(x.shape), x_axes), _free(len(y.shape), y_axes)
    spread = xp.tensordot(x, g, axes=(free_x, tuple(range(len(free_x)))))
    partner = tuple(y_axes[x_axes.index(a)] for a in sorted(x_axes))
    return xp.permute_dims(spread, _back(partner + free_y))


@op("contract", vjp=(_tensordot_dx, _tensordot_dy), shape=shapes.tensordot)
def tensordot(xp: Any, x: Any, y: Any, /, axes: Any = 2) -> Any:
    """The sum of products over ``axes``: a number of trailing and leading axes, or two tuples."""
    x_axes, y_axes = shapes.tensordot_axes(x.shape, y.shape, axes)
    free_x, free_y = _free(len(x.shape), x_axes), _free(len(y.shape), y_axes)
    n = shapes.size(tuple(x.shape[a] for a in x_axes))
    rows = shapes.size(tuple(x.shape[a] for a in free_x))
    columns = shapes.size(tuple(y.shape[a] for a in free_y))
    left = xp.reshape(xp.permute_dims(x, free_x + x_axes), (rows, n))
    right = xp.reshape(xp.permute_dims(y, y_axes + free_y), (n, columns))
    return xp.reshape(xp.matmul(left, right), shapes.tensordot(x.shape, y.shape, axes))
