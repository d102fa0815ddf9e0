"""Ops that move elements and do no arithmetic; each gradient moves them back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from nnx import dtypes, shapes
from nnx.errors import DTypeError, ShapeError
from nnx.op import op, primitive, recording
from nnx.scalar import IntScalar
from nnx.shapes import Shape

reshape = primitive(
    "reshape",
    "layout",
    lambda xp, x, /, shape, *, copy=None: xp.reshape(x, shape),
    "The same elements in another shape; one size may be -1.",
    vjp=(lambda xp, g, out, x, shape, copy=None: xp.reshape(g, x.shape),),
    shape=shapes.reshape,
    linear=True,
)


def _inverse(axes: Sequence[int]) -> tuple[int, ...]:
    order = [a % len(axes) for a in axes]
    return tuple(order.index(a) for a in range(len(order)))


permute_dims = primitive(
    "permute_dims",
    "layout",
    lambda xp, x, /, axes: xp.permute_dims(x, axes),
    "The axes in another order.",
    vjp=(lambda xp, g, out, x, axes: xp.permute_dims(g, _inverse(axes)),),
    shape=shapes.permute_dims,
    linear=True,
)


@op(
    "layout",
    vjp=(lambda xp, g, out, x: xp.matrix_transpose(g),),
    shape=lambda x: (*shapes.matrix(x)[:-2], x[-1], x[-2]),
    linear=True,
)
def matrix_transpose(xp: Any, x: Any, /) -> Any:
    """The last two axes exchanged."""
    n = len(x.shape)
    return xp.permute_dims(x, (*range(n - 2), n - 1, n - 2))


@op(
    "layout",
    vjp=(lambda xp, g, out, x, axis=0: xp.reshape(g, x.shape),),
    shape=shapes.expand_dims,
    linear=True,
)
def expand_dims(xp: Any, x: Any, /, axis: int | tuple[int, ...] = 0) -> Any:
    """A new axis of size 1 at each position named, counted in the result."""
    return xp.reshape(x, shapes.expand_dims(x.shape, axis))


@op(
    "layout",
    vjp=(lambda xp, g, out, x, axis: xp.reshape(g, x.shape),),
    shape=shapes.squeeze,
    linear=True,
)
def squeeze(xp: Any, x: Any, /, axis: int | tuple[int, ...]) -> Any:
    """The named axes of size 1 taken out."""
    return xp.reshape(x, shapes.squeeze(x.shape, axis))


broadcast_to = primitive(
    "broadcast_to",
    "layout",
    lambda xp, x, /, shape: xp.broadcast_to(x, shape),
    "x repeated along new axes and axes of size 1.",
    # The gradient's shape is the result's; the sweep sums it back to x's.
    vjp=(lambda xp, g, out, x, shape: g,),
    shape=shapes.broadcast_to,
    linear=True,
)


def _span(axis: int, start: int, stop: int) -> tuple[Any, ...]:
    """Return the key of a part along one axis; the standard asks for the dots."""
    return (*(slice(None),) * axis, slice(start, stop), ...)


def _concat_grads(xp: Any, g: Any, out: Any, *arrays: Any, axis: int | None = 0) -> list[Any]:
    parts, start = [], 0
    for x in arrays:
        n = shapes.size(x.shape) if axis is None else x.shape[axis]
        at = 0 if axis is None else shapes.normalize_axis(axis, len(x.shape))
        parts.append(xp.reshape(g[_span(at, start, start + n)], x.shape))
        start += n
    return parts


@op("layout", vjp=_concat_grads, shape=shapes.concat, linear=True)
def _concat(xp: Any, *arrays: Any, axis: int | None = 0) -> Any:
    """Arrays laid end to end along ``axis``."""
    if axis is None:
        arrays, axis = tuple(xp.reshape(x, (-1,)) for x in arrays), 0
    return xp.raw.concat(arrays, axis=axis)


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """Arrays laid end to end along ``axis``; flattened first if None."""
    if len(arrays) == 0:
        raise ShapeError("concat: takes one or more arrays, got none.")
    return _concat(*arrays, axis=axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Arrays of one shape laid side by side along a new axis."""
    if not arrays:
        raise ShapeError("stack: takes one or more arrays, got none.")
    return _stack(*arrays, axis=axis)


def _stack_grads(xp: Any, g: Any, out: Any, *arrays: Any, axis: int = 0) -> list[Any]:
    at = shapes.normalize_axis(axis, len(g.shape))
    return [xp.reshape(g[_span(at, i, i + 1)], x.shape) for i, x in enumerate(arrays)]


@op("layout", vjp=_stack_grads, shape=shapes.stack, linear=True)
def _stack(xp: Any, *arrays: Any, axis: int = 0) -> Any:
    """Arrays of one shape laid side by side along a new axis."""
    return xp.raw.stack(arrays, axis=axis)


def split(x: Any, sections: int | Sequence[int], /, *, axis: int = 0) -> list[Any]:
    """Equal parts, or the parts between the given positions, along ``axis``, as a list.

    Raises: ShapeError where the axis does not divide.
    """
    axis = shapes.normalize_axis(axis, x.ndim)
    n = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ShapeError(
                f"split: axis {axis} of {x.shape} has {n} entries and does not divide into "
                f"{sections} equal parts. Give the positions instead: split(x, [2, 5])."
            )
        sections = range(n // sections, n, n // sections)
    edges = [0, *sections, n]
    return [x[_span(axis, start, stop)] for start, stop in itertools.pairwise(edges)]


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The entries along ``axis``, as a tuple."""
    axis = shapes.normalize_axis(axis, x.ndim)
    return tuple(x[(*(slice(None),) * axis, i, ...)] for i in range(x.shape[axis]))


def moveaxis(x: Any, source: int, destination: int, /) -> Any:
    """One axis moved to another position."""
    source = shapes.normalize_axis(source, x.ndim)
    order = [a for a in range(x.ndim) if a != source]
    order.insert(shapes.normalize_axis(destination, x.ndim), source)
    return permute_dims(x, tuple(order))


flip = primitive(
    "flip",
    "layout",
    lambda xp, x, /, axis=None: xp.flip(x, axis=axis),
    "The order reversed along ``axis``, along all if None.",
    vjp=(lambda xp, g, out, x, axis=None: xp.flip(g, axis=axis),),
    shape=shapes.flip,
    linear=True,
)


def _negated(shift: int | tuple[int, ...]) -> int | tuple[int, ...]:
    return -shift if isinstance(shift, int) else tuple(-s for s in shift)


roll = primitive(
    "roll",
    "layout",
    lambda xp, x, /, shift, axis=None: xp.roll(x, shift, axis=axis),
    "Elements moved on by ``shift``; those that fall off come back at the start.",
    vjp=(lambda xp, g, out, x, shift, axis=None: xp.roll(g, _negated(shift), axis=axis),),
    shape=shapes.roll,
    linear=True,
)


def _tile_dx(xp: Any, g: Any, out: Any, x: Any, repetitions: Sequence[int]) -> Any:
    reps = shapes.as_shape(repetitions)
    ndim = max(len(x.shape), len(reps))
    sizes = (1,) * (ndim - len(x.shape)) + tuple(x.shape)
    reps = (1,) * (ndim - len(reps)) + reps
    pairs = tuple(n for pair in zip(reps, sizes, strict=True) for n in pair)
    summed = xp.sum(xp.reshape(g, pairs), axis=tuple(range(0, 2 * ndim, 2)))
    return xp.reshape(summed, x.shape)


@op("layout", vjp=(_tile_dx,), shape=shapes.tile, linear=True)
def tile(xp: Any, x: Any, /, repetitions: Sequence[int]) -> Any:
    """x laid out ``repetitions`` times along each axis."""
    return xp.raw.tile(x, shapes.as_shape(repetitions))


def _repeat_dx(xp: Any, g: Any, out: Any, x: Any, repeats: int, axis: int | None = None) -> Any:
    flat = (shapes.size(x.shape),) if axis is None else tuple(x.shape)
    at = 0 if axis is None else shapes.normalize_axis(axis, len(flat))
    apart = xp.reshape(g, (*flat[: at + 1], repeats, *flat[at + 1 :]))
    return xp.reshape(xp.sum(apart, axis=at + 1), x.shape)


@op("layout", vjp=(_repeat_dx,), shape=shapes.repeat, linear=True)
def repeat(xp: Any, x: Any, /, repeats: int, axis: int | None = None) -> Any:
    """Each element ``repeats`` times along ``axis``; flattened first if None."""
    return xp.raw.repeat(x, repeats, axis=axis)


def _pad_dx(xp: Any, g: Any, out: Any, x: Any, pad_width: Any, value: float = 0) -> Any:
    widths = shapes.pad_widths(pad_width, len(x.shape))
    return g[tuple(slice(low, low + n) for n, (low, _) in zip(x.shape, widths, strict=True))]


@op("layout", vjp=(_pad_dx,), shape=shapes.pad)
def pad(xp: Any, x: Any, /, pad_width: Any, value: float = 0) -> Any:
    """x with ``value`` around it: a number, a (before, after) pair, or one pair an axis."""
    for axis, (low, high) in enumerate(shapes.pad_widths(pad_width, len(x.shape))):
        one = x[_span(axis, 0, 1)] if x.shape[axis] else None
        if one is None:
            sizes = (*x.shape[:axis], low + high, *x.shape[axis + 1 :])
            x = xp.concat([x, xp.full_like(xp.broadcast_to(xp.sum(x), sizes), value)], axis=axis)
            continue
        edge = xp.full_like(one, value)
        parts = [xp.repeat(edge, n, axis=axis) for n in (low, high)]
        x = xp.concat([parts[0], x, parts[1]], axis=axis)
    return x


def _triangle(name: str, doc: str) -> Any:
    def evaluate(xp: Any, x: Any, /, k: int = 0) -> Any:
        shapes.matrix(tuple(x.shape))  # NumPy would make a matrix of a vector
        return getattr(xp.raw, name)(x, k=k)

    evaluate.__name__, evaluate.__doc__ = name, doc
    rule = (lambda xp, g, out, x, k=0: getattr(xp, name)(g, k=k),)
    return op("layout", vjp=rule, shape=shapes.matrix, linear=True)(evaluate)


tril = _triangle("tril", "Matrices with 0 above diagonal ``k``.")
triu = _triangle("triu", "Matrices with 0 below diagonal ``k``.")


@op(
    "layout",
    vjp=(lambda xp, g, out, x, dtype, copy=True: xp.astype(g, x.dtype),),
    shape=shapes.same,
    dtype="attr",
    values=(),
)
def astype(xp: Any, x: Any, /, dtype: Any, *, copy: bool = True) -> Any:
    """The same values in another data type. Gradient: only between floating types."""
    return xp.convert(x, xp.native(dtype))


# Indexing: a key is a template in which the k-th integer array is the string "#k".


def _shape_of_key(x: Shape, *indices: Shape, key: tuple[Any, ...]) -> Shape:
    filled, n_taken = _expand_ellipsis(x, key)
    if n_taken > len(x):
        raise ShapeError(f"{n_taken} indices for x of shape {x}, which has {len(x)} axes.")
    together = shapes.broadcast(*indices) if indices else ()
    result: list[int] = []
    at, starts, previous = 0, [], False
    for item in filled:
        # Beside arrays an integer is one too, as in NumPy: it says where their axes come out.
        advanced = isinstance(item, str) or (bool(indices) and isinstance(item, int))
        if advanced and not previous:
            starts.append(len(result))
        previous = advanced
        if item is None:
            result.append(1)
            continue
        if isinstance(item, slice):
            result.append(x[at] if item == slice(None) else shapes.span(item, x[at])[1])
        elif isinstance(item, int) and not -x[at] <= item < x[at]:
            raise ShapeError(f"index {item} is outside axis {at} of {x}, size {x[at]}.")
        at += 1
    place = starts[0] if len(starts) == 1 else 0
    return (*result[:place], *together, *result[place:])


def _expand_ellipsis(x: Shape, key: tuple[Any, ...]) -> tuple[list[Any], int]:
    taken = len([item for item in key if item is not None and item is not Ellipsis])
    rest = [slice(None)] * max(len(x) - taken, 0)
    at = next((i for i, item in enumerate(key) if item is Ellipsis), len(key))
    return [*key[:at], *rest, *key[at + 1 :]], taken


def _fill(key: tuple[Any, ...], indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(indices[int(item[1:])] if isinstance(item, str) else item for item in key)


@op(
    "layout",
    vjp=lambda xp, g, out, x, *indices, key: (
        xp.scatter_add(g, *indices, key=key, shape=tuple(x.shape)),
        *(None for _ in indices),
    ),
    shape=_shape_of_key,
    values=(0,),
)
def _getitem(xp: Any, x: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
    """x at ``key``, in which the string "#k" stands for the k-th of ``indices``."""
    return xp.index(x, _fill(key, indices))


@op(
    "layout",
    vjp=lambda xp, g, out, x, *indices, key, shape: (
        xp.getitem(g, *indices, key=key),
        *(None for _ in indices),
    ),
    shape=lambda x, *indices, key, shape: shape,
    values=(0,),
)
def scatter_add(xp: Any, x: Any, *indices: Any, key: tuple[Any, ...], shape: Shape) -> Any:
    """Zeros of ``shape`` with x added at ``key``; a place that is named twice gets both."""
    return xp.add_at(shape, _fill(key, indices), x)


def getitem(x: Any, key: Any, /) -> Any:
    """x[key] for integers, slices, None, ..., and integer or boolean arrays."""
    items = key if isinstance(key, tuple) else (key,)
    template: list[Any] = []
    indices: list[Any] = []
    for item in items:
        if item is None or item is Ellipsis or isinstance(item, slice):
            template.append(_plain_slice(item))
        elif isinstance(item, bool):
            raise TypeError("x[True] is no index: use an array of booleans, or x[None].")
        elif _is_whole(item):
            template.append(item.__index__())
        else:
            for index in x.index_arrays(item):
                template.append(f"#{len(indices)}")
                indices.append(index)
    if Ellipsis not in template:
        template.append(Ellipsis)  # the standard asks for it where axes are left over
    return _getitem(x, *indices, key=tuple(template))


def _is_whole(item: Any) -> bool:
    """Return whether an index is one number that Python knows; that of a trace is an array."""
    if recording.trace is not None and hasattr(item, "array"):
        return False
    return hasattr(item, "__index__") and not getattr(item, "shape", ())


def _plain_slice(item: Any) -> Any:
    if not isinstance(item, slice):
        return item
    parts = (item.start, item.stop, item.step)
    kept = (type(None), IntScalar)
    return slice(*(part if isinstance(part, kept) else part.__index__() for part in parts))


@op(
    "layout",
    vjp=(
        lambda xp, g, out, x, indices, axis=None: xp.scatter_add(
            g, indices, key=(*(slice(None),) * ((axis or 0) % len(x.shape)), "#0"),
            shape=tuple(x.shape),
        ),
        None,
    ),
    shape=shapes.take,
    values=(0,),
)  # fmt: skip
def take(xp: Any, x: Any, indices: Any, /, axis: int | None = None) -> Any:
    """The entries at ``indices`` along ``axis``; negative ones count from the end.

    Shapes: x (..., N, ...), indices (K...) -> (..., K..., ...)
    """
    _check_whole(xp, indices)
    if axis is None:
        shapes.take(tuple(x.shape), tuple(indices.shape))
    axis = shapes.normalize_axis(axis or 0, len(x.shape))
    return xp.index(x, (*(slice(None),) * axis, indices))


def _check_whole(xp: Any, indices: Any) -> None:
    if xp.dtype_of(indices).kind not in ("int", "uint"):
        raise DTypeError(f"An index is of integers, got {xp.dtype_of(indices)}.")


def _grid(xp: Any, x: Any, indices: Any, axis: int) -> tuple[Any, ...]:
    """Return one index array an axis that, together, read x along ``axis``."""
    axis = shapes.normalize_axis(axis, len(x.shape))
    rows = []
    for a, n in enumerate(x.shape):
        sizes = tuple(-1 if b == a else 1 for b in range(len(x.shape)))
        rows.append(indices if a == axis else xp.reshape(xp.arange_like(indices, n), sizes))
    return tuple(rows)


def _every_axis(x: Any) -> tuple[str, ...]:
    return tuple(f"#{a}" for a in range(len(x.shape)))


@op(
    "layout",
    vjp=(
        lambda xp, g, out, x, indices, axis=-1: xp.scatter_add(
            g, *_grid(xp, x, indices, axis), key=_every_axis(x), shape=tuple(x.shape)
        ),
        None,
    ),
    shape=shapes.take_along_axis,
    values=(0,),
)
def take_along_axis(xp: Any, x: Any, indices: Any, /, axis: int = -1) -> Any:
    """For each position, the entry of x along ``axis`` that ``indices`` names there."""
    _check_whole(xp, indices)
    shapes.take_along_axis(tuple(x.shape), tuple(indices.shape), axis)
    return xp.index(x, _grid(xp, x, indices, axis))


@op("layout", shape=shapes.one_hot, dtype="attr", values=())
def one_hot(xp: Any, x: Any, /, num_classes: int, dtype: Any = None) -> Any:
    """1 at the class of each element, else 0, along a new last axis.

    Shapes: x (...) -> (..., num_classes). Dtype: float32 unless named.
    Raises: LabelError for an element outside 0 to num_classes - 1.
    """
    from nnx.ops.loss import check_classes

    check_classes(xp, x, num_classes)
    classes = xp.arange_like(x, num_classes)
    return xp.astype(
        xp.expand_dims(x, axis=-1) == classes, dtypes.float32 if dtype is None else dtype
    )
