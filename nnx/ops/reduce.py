"""Ops that take many elements to one, along one axis, several, or all."""

from __future__ import annotations

from typing import Any

from nnx import shapes
from nnx.op import op, primitive

Axis = int | tuple[int, ...] | None


def _restored(xp: Any, value: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """Return a reduced value with its reduced axes back as axes of size 1."""
    if keepdims or not x.shape:
        return value
    return xp.reshape(value, shapes.reduce(x.shape, axis, True))


def _spread(xp: Any, g: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """Return the gradient of a sum: g at every element that went into it."""
    return xp.broadcast_to(_restored(xp, g, x, axis, keepdims), x.shape)


def count(x: Any, axis: Axis) -> int:
    """Return how many elements go into one result."""
    return shapes.size(tuple(x.shape[a] for a in shapes.normalize_axes(axis, len(x.shape))))


def _reduction(name: str, doc: str, vjp: Any = None, **settings: Any) -> Any:
    def parameters(xp: Any, x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Any:
        return getattr(xp, name)(x, axis=axis, keepdims=keepdims)

    rule = settings.pop("shape", shapes.reduce)
    return primitive(name, "reduce", parameters, doc, vjp=vjp and (vjp,), shape=rule, **settings)


sum = _reduction(
    "sum",
    "The sum over ``axis`` (all axes if None).",
    lambda xp, g, out, x, axis=None, keepdims=False: _spread(xp, g, x, axis, keepdims),
    dtype="sum",
    linear=True,
)
any = _reduction("any", "Whether any element is true.", dtype="bool")
all = _reduction("all", "Whether every element is true.", dtype="bool")
argmax = _reduction(
    "argmax", "The index of the first largest element.",
    dtype="index", shape=shapes.choose,
)  # fmt: skip
argmin = _reduction(
    "argmin", "The index of the first smallest element.",
    dtype="index", shape=shapes.choose,
)  # fmt: skip


def _extreme_dx(
    xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False
) -> Any:
    chosen = x == _restored(xp, out, x, axis, keepdims)
    ones = xp.where(chosen, xp.ones_like(x), 0.0)
    ties = xp.sum(ones, axis=axis, keepdims=True)
    return _restored(xp, g, x, axis, keepdims) * ones / ties


max = _reduction(
    "max", "The largest element; NaN if any is.\n\nGradient: equal elements share equally.",
    _extreme_dx, shape=shapes.reduce_nonempty,
)  # fmt: skip
min = _reduction(
    "min", "The smallest element; NaN if any is.\n\nGradient: equal elements share equally.",
    _extreme_dx, shape=shapes.reduce_nonempty,
)  # fmt: skip


def _exclusive_product(xp: Any, x: Any, axis: int) -> Any:
    """Return, at each place along an axis, the product of all elements before it."""
    ahead = xp.cumulative_prod(x, axis=axis)
    first, rest = _ends(x, axis)
    return xp.concat([xp.ones_like(x[first]), ahead[rest]], axis=axis)


def _ends(x: Any, axis: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    lead = (slice(None),) * axis
    return (*lead, slice(0, 1), ...), (*lead, slice(0, x.shape[axis] - 1), ...)


def _prod_dx(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    # The product of the others, not out / x: an element may be 0.
    axes = shapes.normalize_axes(axis, len(x.shape))
    rest = tuple(a for a in range(len(x.shape)) if a not in axes)
    order = rest + axes
    moved = xp.permute_dims(x, order)
    flat = xp.reshape(moved, (*moved.shape[: len(rest)], count(x, axis)))
    last = len(rest)
    before = _exclusive_product(xp, flat, last)
    after = xp.flip(_exclusive_product(xp, xp.flip(flat, axis=last), last), axis=last)
    others = xp.reshape(before * after, moved.shape)
    back = tuple(order.index(a) for a in range(len(order)))
    return _restored(xp, g, x, axis, keepdims) * xp.permute_dims(others, back)


prod = _reduction("prod", "The product of the elements.", _prod_dx, dtype="sum")


@op(
    "reduce",
    vjp=(
        lambda xp, g, out, x, axis=None, keepdims=False: _spread(
            xp, g / count(x, axis) if count(x, axis) else g, x, axis, keepdims
        ),
    ),
    shape=shapes.reduce,
    dtype="float",
    linear=True,
)
def mean(xp: Any, x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The arithmetic mean; NaN for no elements. Numerics: the sum is formed in float64."""
    n = count(x, axis)
    total = xp.sum(xp.widen(x), axis=axis, keepdims=keepdims)
    return xp.narrow(total / (n or float("nan")), x)


def _centred(xp: Any, x: Any, axis: Axis) -> Any:
    """Return x minus its mean, wide.

    Numerics: the first element is taken off before the mean is formed, so that a large offset
    costs no digits; [10001, 10002, 10003, 10004] has the variance of [0, 1, 2, 3].
    """
    wide = xp.widen(x)
    axes = shapes.normalize_axes(axis, len(x.shape))
    if count(x, axis):
        wide = wide - wide[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))]
    return wide - xp.mean(wide, axis=axis, keepdims=True)


def _freedom(x: Any, axis: Axis, correction: float) -> float:
    n = count(x, axis) - correction
    return n if n > 0 else float("nan")


@op(
    "reduce",
    vjp=(
        lambda xp, g, out, x, axis=None, correction=0.0, keepdims=False: (
            _restored(xp, g, x, axis, keepdims)
            * xp.narrow(_centred(xp, x, axis), x)
            * (2.0 / _freedom(x, axis, correction))
        ),
    ),
    shape=shapes.reduce,
    dtype="float",
)
def var(
    xp: Any, x: Any, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False
) -> Any:
    """The mean squared distance from the mean, over n - correction.

    Numerics: two passes in float64, after the first element is taken off.
    """
    d = _centred(xp, x, axis)
    total = xp.sum(d * d, axis=axis, keepdims=keepdims)
    return xp.narrow(total / _freedom(x, axis, correction), x)


def _std_dx(
    xp: Any,
    g: Any,
    out: Any,
    x: Any,
    axis: Axis = None,
    correction: float = 0.0,
    keepdims: bool = False,
) -> Any:
    size = _restored(xp, out, x, axis, keepdims)
    flat = size == 0
    scale = _restored(xp, g, x, axis, keepdims) / xp.where(flat, 1.0, size)
    centred = xp.narrow(_centred(xp, x, axis), x)
    return xp.where(flat, 0.0, scale * centred / _freedom(x, axis, correction))


@op("reduce", vjp=(_std_dx,), shape=shapes.reduce, dtype="float")
def std(
    xp: Any, x: Any, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False
) -> Any:
    """The square root of the variance. Gradient: 0 where all elements are equal."""
    # The square of a small spread has no place in float32 where the spread itself has.
    wide = xp.var(xp.widen(x), axis=axis, correction=correction, keepdims=keepdims)
    return xp.narrow(xp.sqrt(wide), x)


def _running(name: str, doc: str, vjp: Any, **settings: Any) -> Any:
    def parameters(
        xp: Any, x: Any, /, axis: int | None = None, *, include_initial: bool = False
    ) -> Any:
        return getattr(xp, name)(x, axis=axis, include_initial=include_initial)

    return primitive(
        name, "reduce", parameters, doc, vjp=(vjp,), shape=shapes.cumulative, dtype="sum",
        **settings,
    )  # fmt: skip


def _without_initial(x: Any, axis: int, include_initial: bool) -> Any:
    lead = (slice(None),) * axis
    return x[(*lead, slice(1, x.shape[axis]), ...)] if include_initial else x


def _cumulative_sum_dx(
    xp: Any, g: Any, out: Any, x: Any, axis: int | None = None, include_initial: bool = False
) -> Any:
    axis = shapes.normalize_axis(axis or 0, len(x.shape))
    g = _without_initial(g, axis, include_initial)
    return xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)


def _cumulative_prod_dx(
    xp: Any, g: Any, out: Any, x: Any, axis: int | None = None, include_initial: bool = False
) -> Any:
    """Return before_i times (g_i + x_(i+1) (g_(i+1) + ...)): no division, an element may be 0."""
    axis = shapes.normalize_axis(axis or 0, len(x.shape))
    g = _without_initial(g, axis, include_initial)
    if not x.shape[axis]:
        return x
    lead = (slice(None),) * axis
    later, parts = 0.0, []
    for i in reversed(range(x.shape[axis])):
        at = (*lead, slice(i, i + 1), ...)
        later = g[at] + later
        parts.append(later)
        later = later * x[at]
    return _exclusive_product(xp, x, axis) * xp.concat(parts[::-1], axis=axis)


cumulative_sum = _running(
    "cumulative_sum", "The sum of each element and all before it along ``axis``.",
    _cumulative_sum_dx, linear=True,
)  # fmt: skip
cumulative_prod = _running(
    "cumulative_prod", "The product of each element and all before it along ``axis``.",
    _cumulative_prod_dx,
)  # fmt: skip


# The exponential family


def log1p_rest(xp: Any, x: Any, top: Any, axis: Axis) -> Any:
    """Return log(sum(exp(x - top))) where top is the maximum, axes kept.

    Numerics: the maximum's own term, exp(0) = 1, goes into log1p and not into the sum: small other
    terms keep their digits. Of several equal maxima one is left out.
    """
    largest = x == top
    others = xp.sum(xp.where(largest, 0.0, xp.exp(x - top)), axis=axis, keepdims=True)
    ties = xp.sum(xp.where(largest, xp.ones_like(x), 0.0), axis=axis, keepdims=True)
    return xp.log1p(others + xp.maximum(ties - 1.0, 0.0))


def _logsumexp_dx(
    xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False
) -> Any:
    return _restored(xp, g, x, axis, keepdims) * xp.softmax(x, axis=axis)


@op("reduce", vjp=(_logsumexp_dx,), shape=shapes.reduce_nonempty, dtype="float")
def logsumexp(xp: Any, x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """log(sum(exp(x))). Numerics: M + log1p(s), s the sum without the maximum's own term."""
    top = xp.max(x, axis=axis, keepdims=True)
    # An infinite maximum is the answer; x - M would be NaN beside it.
    rest = log1p_rest(xp, x, xp.where(xp.isinf(top), 0.0 * xp.ones_like(top), top), axis)
    total = xp.where(xp.isinf(top), top, top + rest)
    return total if keepdims else xp.reshape(total, shapes.reduce(x.shape, axis))


@op(
    "reduce",
    vjp=(lambda xp, g, out, x, axis=-1: out * (g - xp.sum(g * out, axis=axis, keepdims=True)),),
    shape=shapes.along_axes,
    dtype="float",
)
def softmax(xp: Any, x: Any, /, axis: Axis = -1) -> Any:
    """exp(x) over its sum along ``axis``. Numerics: the maximum is taken off first."""
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


@op(
    "reduce",
    vjp=(
        lambda xp, g, out, x, axis=-1: (
            g - xp.softmax(x, axis=axis) * xp.sum(g, axis=axis, keepdims=True)
        ),
    ),
    shape=shapes.along_axes,
    dtype="float",
)
def log_softmax(xp: Any, x: Any, /, axis: Axis = -1) -> Any:
    """log(softmax(x)). Numerics: (x - M) - log1p(s), s without the maximum's own term."""
    top = xp.max(x, axis=axis, keepdims=True)
    return (x - top) - log1p_rest(xp, x, top, axis)


def _layer_norm_parts(xp: Any, x: Any, eps: float) -> tuple[Any, Any]:
    """Return the normalised rows and 1 / sqrt(variance + eps), both wide."""
    d = _centred(xp, x, -1)
    scale = 1.0 / xp.sqrt(xp.mean(d * d, axis=-1, keepdims=True) + eps)
    return d * scale, scale


def _layer_norm_dx(
    xp: Any, g: Any, out: Any, x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    rows, scale = _layer_norm_parts(xp, x, eps)
    g = xp.widen(g if weight is None else g * weight)
    along = xp.mean(g * rows, axis=-1, keepdims=True)
    return xp.narrow(scale * (g - xp.mean(g, axis=-1, keepdims=True) - rows * along), x)


@op(
    "reduce",
    vjp=(
        _layer_norm_dx,
        lambda xp, g, out, x, weight=None, bias=None, eps=1e-5: (
            g * xp.narrow(_layer_norm_parts(xp, x, eps)[0], x)
        ),
        lambda xp, g, out, x, weight=None, bias=None, eps=1e-5: g,
    ),
    shape=shapes.layer_norm,
    dtype="float",
)
def layer_norm(xp: Any, x: Any, weight: Any = None, bias: Any = None, /, eps: float = 1e-5) -> Any:
    """Rows with mean 0 and variance 1 over the last axis, times ``weight``, plus ``bias``.

    Shapes: x (..., I), weight (I,), bias (I,) -> (..., I)
    Numerics: mean and variance in float64 after the first element is taken off.
    Source: arXiv 1607.06450.
    """
    result = xp.narrow(_layer_norm_parts(xp, x, eps)[0], x)
    if weight is not None:
        result = result * weight
    return result if bias is None else result + bias
