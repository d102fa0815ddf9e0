"""Shape rules: plain functions from tuples of sizes to a tuple of sizes, with their errors.

An entry of the op table names one of these. They run when a graph is traced, and in eager mode
only once an array library has refused, to say why in the words of the user's program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from nnx.errors import ShapeError
from nnx.scalar import IntScalar

Shape = tuple[int, ...]


def as_shape(shape: int | Iterable[int]) -> Shape:
    """Return a shape as a tuple of ints."""
    if isinstance(shape, int | IntScalar):
        return (shape,)
    return tuple(n if isinstance(n, IntScalar) else int(n) for n in shape)


def size(shape: Shape) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that arrays of these shapes have together.

    Source: array API standard, broadcasting.

    >>> broadcast((3, 1), (4,))
    (3, 4)
    """
    ndim = max(map(len, shapes))
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        together = 1
        for n in sizes:
            if is_one(together):
                together = n
            elif not is_one(n) and n != together:
                listed = " and ".join(map(str, shapes))
                raise ShapeError(
                    f"shapes {listed} do not broadcast. Sizes, compared from the right, must be "
                    f"equal or 1; reshape one of them, or insert an axis with x[:, None]."
                )
        result.append(together)
    return tuple(result)


def is_one(n: Any) -> bool:
    """Return whether a size is 1 for good; that of a traced batch is not, whatever its value."""
    return type(n) is not IntScalar and n == 1


def is_zero(n: Any) -> bool:
    """Return whether a number is 0 for good."""
    return type(n) is not IntScalar and n == 0


def same(shape: Shape, *_: Any, **__: Any) -> Shape:
    """Return the first input's shape: for ops that change values only."""
    return shape


def elementwise(*shapes: Shape, **_: Any) -> Shape:
    """Return the broadcast shape: for ops that work element by element."""
    return broadcast(*shapes)


def span(item: slice, n: Any) -> tuple[Any, Any, int]:
    """Return where a slice of an axis of n entries starts, how many it takes, and its step.

    The batch's size stays a scalar, but for steps other than 1 and -1; where the outcome depends
    on it, as for the first ten rows of a batch, that becomes a fact of the trace.
    """
    parts = (item.start, item.stop, item.step)
    step = 1 if item.step is None else item.step
    plain = not isinstance(n, IntScalar) and not any(isinstance(p, IntScalar) for p in parts)
    if plain or isinstance(step, IntScalar) or step not in (1, -1):
        start, stop, step = item.indices(n)
        return start, len(range(start, stop, step)), step
    low, high = (0, n) if step == 1 else (-1, n - 1)
    first, last = (low, high) if step == 1 else (high, low)
    start = first if item.start is None else _clipped(item.start, n, low, high)
    stop = last if item.stop is None else _clipped(item.stop, n, low, high)
    count = (stop - start) * step
    return start, count if count > 0 else 0, step


def _clipped(i: Any, n: Any, low: Any, high: Any) -> Any:
    i = i + n if i < 0 else i
    return low if i < low else high if i > high else i


def unbroadcast_axes(shape: Shape, target: Shape) -> tuple[tuple[int, ...], bool]:
    """Return the axes to sum so that ``shape`` falls back to ``target``, and whether to reshape."""
    lead = len(shape) - len(target)
    kept = tuple(
        i + lead for i, n in enumerate(target) if is_one(n) and not is_one(shape[i + lead])
    )
    return tuple(range(lead)) + kept, bool(lead or kept)


def normalize_axis(axis: int, ndim: int) -> int:
    """Return a non-negative axis. Raises: ShapeError where there is no such axis."""
    if not -ndim <= axis < ndim:
        allowed = f"{-ndim} to {ndim - 1}" if ndim else "none: the array has no axes"
        raise ShapeError(f"axis {axis} does not exist in {ndim} dimensions. Allowed: {allowed}.")
    return axis % ndim


def normalize_axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Return the axes meant by None (all), one number or several."""
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, int):
        return (normalize_axis(axis, ndim),)
    axes = tuple(normalize_axis(a, ndim) for a in axis)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {tuple(axis)} names one axis twice.")
    return axes


def reduce(
    shape: Shape,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
    **_: Any,
) -> Shape:
    """Return the shape after a reduction over ``axis``."""
    axes = normalize_axes(axis, len(shape))
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def reduce_nonempty(
    shape: Shape,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
    **_: Any,
) -> Shape:
    """Return the shape after a reduction that has no value for no elements."""
    result = reduce(shape, axis, keepdims)
    if 0 in (shape[a] for a in normalize_axes(axis, len(shape))):
        raise ShapeError(
            f"x of shape {shape} has no elements along axis {axis}, so there is nothing to choose."
        )
    return result


def choose(shape: Shape, axis: int | None = None, keepdims: bool = False) -> Shape:
    """Return the shape of the places of the largest or smallest elements."""
    if axis is not None and not isinstance(axis, int):
        raise ShapeError(f"axis={axis!r}: a place is found along one axis, or among all (None).")
    return reduce_nonempty(shape, axis, keepdims)


def along_axes(shape: Shape, axis: int | Sequence[int] | None = -1) -> Shape:
    """Return the shape unchanged after checking that the axes exist."""
    normalize_axes(axis, len(shape))
    return shape


def flip(shape: Shape, axis: int | Sequence[int] | None = None) -> Shape:
    """Return the shape of an array in reverse: its own."""
    return along_axes(shape, axis)


def roll(
    shape: Shape, shift: int | Sequence[int], axis: int | Sequence[int] | None = None
) -> Shape:
    """Return the shape of an array moved on by ``shift``: its own."""
    return along_axes(shape, axis)


def cumulative(
    shape: Shape, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Shape:
    """Return the shape of a running sum or product."""
    if axis is None and len(shape) != 1:
        raise ShapeError(f"x of shape {shape} has several axes: name one with axis=.")
    axis = normalize_axis(axis or 0, len(shape))
    return tuple(n + (include_initial and i == axis) for i, n in enumerate(shape))


def matmul(x: Shape, y: Shape) -> Shape:
    """Return the shape of a matrix product: (..., I) @ (..., I, O)."""
    if not x or not y:
        raise ShapeError(f"shapes {x} and {y}: a product of matrices takes no scalars. Use x * y.")
    inner = y[-2] if len(y) > 1 else y[-1]
    if x[-1] != inner:
        raise ShapeError(_explain_matmul(x, y, inner))
    batch = broadcast(x[:-2], y[:-2]) if max(len(x), len(y)) > 2 else ()
    return batch + x[-2:-1] + (y[-1:] if len(y) > 1 else ())


def _explain_matmul(x: Shape, y: Shape, inner: int) -> str:
    where = "axis -2" if len(y) > 1 else "the only axis"
    text = (
        f"shapes {x} and {y} do not fit: the last axis of the first has {x[-1]} entries and "
        f"{where} of the second has {inner}; they must be equal."
    )
    if len(y) > 1 and y[-1] == x[-1]:
        return f"{text} Transpose the second: x @ y.mT fits."
    if len(x) > 1 and x[-2] == inner:
        return f"{text} Transpose the first: x.mT @ y fits."
    return f"{text} Reshape or transpose one of them."


def linear(x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    """Return the shape of ``x @ weight + bias``: (..., I), (I, O), (O,) -> (..., O)."""
    if len(weight) != 2 or not x:
        raise ShapeError(f"takes x (..., I) and weight (I, O), got x {x} and weight {weight}.")
    result = matmul(x, weight)
    if bias is not None and bias != weight[1:]:
        raise ShapeError(
            f"weight of shape {weight} takes a bias of shape {weight[1:]}, got {bias}."
        )
    return result


def vecdot(x: Shape, y: Shape, axis: int = -1) -> Shape:
    """Return the shape of a dot product along one axis."""
    n_x = x[normalize_axis(axis, len(x))]
    n_y = y[normalize_axis(axis, len(y))]
    if n_x != n_y:
        raise ShapeError(f"axis {axis} has {n_x} entries in {x} and {n_y} in {y}; must be equal.")
    full = broadcast(x, y)
    return reduce(full, axis if axis < 0 else axis - max(len(x), len(y)))


def tensordot(x: Shape, y: Shape, axes: Any = 2) -> Shape:
    """Return the shape of a contraction over ``axes`` of both arrays."""
    x_axes, y_axes = tensordot_axes(x, y, axes)
    rest_x = tuple(n for i, n in enumerate(x) if i not in x_axes)
    return rest_x + tuple(n for i, n in enumerate(y) if i not in y_axes)


def tensordot_axes(x: Shape, y: Shape, axes: Any) -> tuple[Shape, Shape]:
    """Return the contracted axes of both arrays as non-negative tuples."""
    if isinstance(axes, int):
        if not 0 <= axes <= min(len(x), len(y)):
            raise ShapeError(f"axes={axes} of shapes {x} and {y}: allowed 0 to the fewer axes.")
        axes = (range(len(x) - axes, len(x)), range(axes))
    x_axes = normalize_axes(tuple(axes[0]), len(x))
    y_axes = normalize_axes(tuple(axes[1]), len(y))
    if [x[a] for a in x_axes] != [y[a] for a in y_axes]:
        raise ShapeError(f"axes {x_axes} of {x} and {y_axes} of {y} differ in size.")
    return x_axes, y_axes


def reshape(x: Shape, shape: int | Iterable[int], copy: bool | None = None) -> Shape:
    """Return the target shape with its -1 filled in."""
    target = as_shape(shape)
    unknown = [i for i, n in enumerate(target) if n == -1]
    known = size(tuple(n for n in target if n != -1))
    fits = size(x) % known == 0 if unknown and known else size(x) == known
    if len(unknown) > 1 or not fits or any(n < -1 for n in target) or (unknown and not known):
        raise ShapeError(f"x of shape {x} has {size(x)} elements; it cannot take shape {target}.")
    return tuple(size(x) // known if n == -1 else n for n in target)


def permute_dims(x: Shape, axes: Sequence[int]) -> Shape:
    """Return the shape with its axes in a new order."""
    order = normalize_axes(tuple(axes), len(x))
    if len(order) != len(x):
        raise ShapeError(f"x of shape {x} has {len(x)} axes; axes={tuple(axes)} must name each.")
    return tuple(x[a] for a in order)


def expand_dims(x: Shape, axis: int | Sequence[int] = 0) -> Shape:
    """Return the shape with a size of 1 inserted at ``axis`` (positions in the result)."""
    count = 1 if isinstance(axis, int) else len(axis)
    new = normalize_axes(axis, len(x) + count)
    rest = iter(x)
    return tuple(1 if i in new else next(rest) for i in range(len(x) + count))


def squeeze(x: Shape, axis: int | Sequence[int]) -> Shape:
    """Return the shape without the named axes of size 1."""
    axes = normalize_axes(axis, len(x))
    if any(x[a] != 1 for a in axes):
        raise ShapeError(f"x of shape {x}: only axes of size 1 can be squeezed, got axis={axis}.")
    return tuple(n for i, n in enumerate(x) if i not in axes)


def broadcast_to(x: Shape, shape: int | Iterable[int]) -> Shape:
    """Return the target shape after checking that x fits it."""
    target = as_shape(shape)
    if len(x) > len(target) or broadcast(x, target) != target:
        raise ShapeError(f"x of shape {x} does not broadcast to {target}.")
    return target


def concat(*shapes: Shape, axis: int | None = 0) -> Shape:
    """Return the shape of arrays laid end to end."""
    if not shapes:
        raise ShapeError("needs at least one array.")
    if axis is None:
        return (sum(map(size, shapes)),)
    first = shapes[0]
    axis = normalize_axis(axis, len(first))
    for shape in shapes:
        if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != (
            first[:axis] + first[axis + 1 :]
        ):
            raise ShapeError(f"shapes {first} and {shape} may differ only along axis {axis}.")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def stack(*shapes: Shape, axis: int = 0) -> Shape:
    """Return the shape of equal arrays along a new axis."""
    if not shapes or any(shape != shapes[0] for shape in shapes):
        raise ShapeError(f"takes one or more arrays of one shape, got {list(shapes)}.")
    at = normalize_axis(axis, len(shapes[0]) + 1)
    return (*shapes[0][:at], len(shapes), *shapes[0][at:])


def tile(x: Shape, repetitions: Sequence[int]) -> Shape:
    """Return the shape of an array repeated along each axis."""
    reps = as_shape(repetitions)
    ndim = max(len(x), len(reps))
    x, reps = (1,) * (ndim - len(x)) + x, (1,) * (ndim - len(reps)) + reps
    if any(r < 0 for r in reps):
        raise ShapeError(f"repetitions must be 0 or more, got {reps}.")
    return tuple(n * r for n, r in zip(x, reps, strict=True))


def repeat(x: Shape, repeats: int, axis: int | None = None) -> Shape:
    """Return the shape of an array with each element repeated."""
    if not isinstance(repeats, int) or repeats < 0:
        raise ShapeError(f"repeats must be a whole number, 0 or more, got {repeats!r}.")
    if axis is None:
        return (size(x) * repeats,)
    axis = normalize_axis(axis, len(x))
    return tuple(n * repeats if i == axis else n for i, n in enumerate(x))


def pad(x: Shape, pad_width: Any, value: float = 0) -> Shape:
    """Return the shape of a padded array."""
    widths = pad_widths(pad_width, len(x))
    return tuple(low + n + high for n, (low, high) in zip(x, widths, strict=True))


def pad_widths(pad_width: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    """Return (before, after) for each axis from a number, a pair, or a pair an axis."""
    if isinstance(pad_width, int):
        pad_width = (pad_width, pad_width)
    pairs = tuple(pad_width)
    if len(pairs) == 2 and all(isinstance(n, int) for n in pairs):
        pairs = (pairs,) * ndim
    widths = tuple((int(low), int(high)) for low, high in pairs)
    if len(widths) == 1:
        widths = widths * ndim
    if len(widths) != ndim or any(min(pair) < 0 for pair in widths):
        raise ShapeError(
            f"pad_width={pad_width} must be a number, a pair, or {ndim} pairs, none negative."
        )
    return widths


def one_hot(x: Shape, num_classes: int, dtype: Any = None) -> Shape:
    """Return the shape with one entry a class appended."""
    return (*x, num_classes)


def take(x: Shape, indices: Shape, axis: int | None = None) -> Shape:
    """Return the shape of entries taken along one axis."""
    if axis is None:
        if len(x) != 1:
            raise ShapeError(f"x of shape {x} has several axes: name one with axis=.")
        axis = 0
    axis = normalize_axis(axis, len(x))
    return x[:axis] + indices + x[axis + 1 :]


def take_along_axis(x: Shape, indices: Shape, axis: int = -1) -> Shape:
    """Return the shape of entries chosen along one axis, one index a position."""
    axis = normalize_axis(axis, len(x))
    if len(indices) != len(x):
        raise ShapeError(f"indices of shape {indices} must have as many axes as x {x}.")
    rest = broadcast(x[:axis] + x[axis + 1 :], indices[:axis] + indices[axis + 1 :])
    return (*rest[:axis], indices[axis], *rest[axis:])


def matrix(x: Shape, k: int = 0) -> Shape:
    """Return the shape of a stack of matrices unchanged."""
    if len(x) < 2:
        raise ShapeError(f"takes matrices of shape (..., M, N), got {x}.")
    return x


def loss(prediction: Shape, target: Shape, reduction: str = "mean", **_: Any) -> Shape:
    """Return the shape of a loss that compares element by element: both shapes must be equal."""
    if prediction != target:
        raise ShapeError(
            f"prediction has shape {prediction} and target {target}; they must be equal, or "
            f"broadcasting would compare each with each. Reshape one: y.reshape({prediction})."
        )
    return _reduced(prediction, reduction)


def cross_entropy(logits: Shape, labels: Shape, reduction: str = "mean") -> Shape:
    """Return the shape of a loss of logits (..., C) against labels (...,) or rows (..., C)."""
    if not logits:
        raise ShapeError("logits must have shape (..., C), one entry a class; got a scalar.")
    if labels not in (logits[:-1], logits):
        raise ShapeError(
            f"logits of shape {logits} take labels of shape {logits[:-1]} (class numbers) or "
            f"{logits} (one row of probabilities each), got {labels}."
        )
    return _reduced(logits[:-1], reduction)


def _reduced(shape: Shape, reduction: str) -> Shape:
    return shape if reduction == "none" else ()


def layer_norm(
    x: Shape, weight: Shape | None = None, bias: Shape | None = None, eps: float = 1e-5
) -> Shape:
    """Return the shape of rows normalised over the last axis."""
    for name, shape in (("weight", weight), ("bias", bias)):
        if shape is not None and shape != x[-1:]:
            raise ShapeError(f"x of shape {x} takes a {name} of shape {x[-1:]}, got {shape}.")
    normalize_axis(-1, len(x))
    return x
