"""The check of gradients against differences, along random directions, in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nnx import autodiff, dtypes, ops, tape, tree
from nnx.device import Device
from nnx.errors import DTypeError, GradientError
from nnx.op import Node, apply
from nnx.tensor import Tensor, asarray

TOLERANCE = 1e-7
"""How far a gradient may be from the differences, relative to its largest part."""


def derivative(f: Callable[[float], float], step: float = 2.0**-6) -> float:
    """Return df/dt at t = 0 for a smooth f of one number.

    Numerics: central differences at halved steps, extrapolated to step 0; of all columns the
    estimate that moved least is kept, so that a kink or a pole beyond a small step does no harm.
    Source: Ridders, Adv. Eng. Softw. 4 (1982) 75-76.

    >>> derivative(lambda t: (3 + t) ** 3)
    27.0
    """
    best, error = float("nan"), float("inf")
    before: list[float] = []
    for level in range(10):
        h = step * 0.5**level
        up, down = f(h), f(-h)
        row = [(up - down) / (2 * h)]
        for k, older in enumerate(before):
            row.append(row[k] + (row[k] - older) / (4.0 ** (k + 1) - 1))
            moved = max(abs(row[-1] - row[k]), abs(row[-1] - older))
            if moved <= error:
                best, error = row[-1], moved
        if error <= 1e-11 * (abs(best) + abs(up) + abs(down)):
            break
        before = row
    return best


def check_grads(f: Callable[..., Any], args: Sequence[Any], order: int = 2) -> None:
    """Compare the gradients of ``f`` at ``args`` with differences, up to ``order``.

    Every float array, float and module in ``args`` is an input, taken in float64; the rest (class
    numbers, text, None) is passed on as it is. Each input is moved along a random direction; the
    results of ``f`` are summed with random weights.
    Raises: GradientError with the op, the input, and both numbers where they differ by more than
    1e-7 of the gradient's size.

    >>> import nnx
    >>> check_grads(nnx.tanh, [nnx.asarray([0.5, -1.0])])
    """
    with _in_float64(args) as called:
        numbers = [n for n, arg in enumerate(called) if _is_input(arg)]
        if not numbers:
            raise GradientError("check_grads: no argument is a float array, a float or a module.")
        for wrong in _differences(_weighted(f), called, numbers, order):
            raise GradientError(_locate(f, called, order) or f"check_grads: {wrong}")


def _is_input(arg: Any) -> bool:
    """Return whether an argument is made of float tensors alone."""
    try:
        leaves, _ = tree.flatten(arg)
    except DTypeError:
        return False
    return bool(leaves) and all(leaf.dtype.is_floating for leaf in leaves)


@contextlib.contextmanager
def _in_float64(args: Sequence[Any]) -> Iterator[list[Any]]:
    """Give the arguments with inputs of their own in float64; modules get their values back."""
    modules = [arg for arg in args if hasattr(arg, "named_parameters")]
    held = [(p, p.array) for module in modules for p in tree.flatten(module)[0]]
    try:
        for parameter, _ in held:
            parameter.assign(parameter.astype(dtypes.float64).array)
        where = next(
            (x.device for x in (*args, *(p for p, _ in held)) if isinstance(x, Tensor)), None
        )
        yield [_wide(arg, where) for arg in args]
    finally:
        for parameter, array in held:
            parameter.assign(array)


def _wide(arg: Any, where: Device | None) -> Any:
    """Return an argument with its float arrays and floats as fresh float64 tensors."""
    if isinstance(arg, float):
        return asarray(arg, dtype=dtypes.float64, device=where)
    if hasattr(arg, "dtype") and not isinstance(arg, Tensor):
        arg = asarray(arg, device=where)
    if hasattr(arg, "named_parameters") or not _is_input(arg):
        return arg
    leaves, rebuild = tree.flatten(arg)
    return rebuild([leaf.detach().astype(dtypes.float64) for leaf in leaves])


def _random(shape: tuple[int, ...], seed: int) -> Any:
    """Return numbers between 1/2 and 3/2 of both signs; none is near 0 and hides an element."""
    import numpy as np

    bits = np.random.default_rng(seed)
    return bits.uniform(0.5, 1.5, shape) * bits.choice([-1.0, 1.0], shape)


def _dot(x: Tensor, weights: Any) -> Tensor:
    total = ops.reduce.sum(x * asarray(weights, dtype=x.dtype, device=x.device))
    return total  # type: ignore[no-any-return]


def _combine(parts: list[Tensor], seed: int) -> Tensor:
    """Return the sum of all elements of all parts with random weights."""
    terms = [_dot(x, _random(x.shape, seed + k)) for k, x in enumerate(parts)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _weighted(f: Callable[..., Any]) -> Callable[..., Tensor]:
    """Return f with its floating-point results made one number."""

    def single(*args: Any) -> Tensor:
        outputs = [y for y in tree.flatten(f(*args))[0] if y.dtype.is_floating]
        if not outputs:
            raise GradientError("check_grads: the function returns no floating-point tensor.")
        return _combine(outputs, 100)

    return single


def _differences(
    f: Callable[..., Tensor], args: list[Any], numbers: list[int], order: int
) -> Iterator[str]:
    """Yield what is wrong with the gradients of f, input by input, order by order."""
    gradient = autodiff.grad(f, numbers)
    for level in range(1, order + 1):
        grads = [tree.flatten(part)[0] for part in gradient(*args)]
        for n, parts in zip(numbers, grads, strict=True):
            for k, (leaf, g) in enumerate(zip(tree.flatten(args[n])[0], parts, strict=True)):
                numbers_differ = _compare(f, args, leaf, g, 7 * n + k)
                if numbers_differ:
                    name = leaf.name or f"{n}" + (f", part {k}" if len(parts) > 1 else "")
                    yield _sentence(f"input {name}", leaf, level, numbers_differ)
        f = _directed(gradient, level)
        gradient = autodiff.grad(f, numbers)


def _directed(gradient: Callable[..., Any], level: int) -> Callable[..., Tensor]:
    """Return the gradient along a random direction: a function whose gradient is one order up."""
    return lambda *args: _combine(tree.flatten(gradient(*args))[0], 1000 * level)


def _compare(
    f: Callable[..., Tensor], args: list[Any], leaf: Tensor, g: Tensor, seed: int
) -> tuple[float, float] | None:
    """Return the rule's number and the differences' along one direction, if they are not equal."""
    import numpy as np

    direction = _random(leaf.shape, seed)
    parts = np.asarray(g.numpy(), np.float64) * direction
    base = leaf.array
    start = np.array(leaf.numpy(), np.float64)

    def moved(t: float) -> float:
        leaf.assign(asarray(start + t * direction, leaf.dtype, leaf.device).array)
        with tape.no_grad():
            return float(f(*args))

    try:
        expected = derivative(moved)
        size = abs(moved(0.0))
    finally:
        leaf.assign(base)
    got = float(parts.sum())
    # The rounding of f itself, magnified by the steps of the differences.
    bound = TOLERANCE * max(abs(expected), float(np.abs(parts).sum())) + 1e-12 * max(size, 1.0)
    return None if abs(got - expected) <= bound else (got, expected)


def _sentence(where: str, x: Any, level: int, both: tuple[float, float]) -> str:
    return (
        f"the gradient of order {level} with respect to {where} of shape {tuple(x.shape)} is "
        f"wrong: along a random direction the rules give {both[0]:.12g}, differences "
        f"{both[1]:.12g}."
    )


def _locate(f: Callable[..., Any], args: list[Any], order: int) -> str | None:
    """Return a message that names the first op under f whose own gradient is wrong."""
    for node in _nodes(f, args):
        places = [i for i, x in enumerate(node.inputs) if isinstance(x, Tensor) and x.requires_grad]
        inputs = [x.detach() if isinstance(x, Tensor) else x for x in node.inputs]
        single = _weighted(lambda *xs, node=node: apply(node.op, xs, node.attrs))
        for wrong in _differences(single, inputs, places, order):
            return f"check_grads: op {node.op.name!r}: {_named(node, wrong)}"
    return None


def _named(node: Node, wrong: str) -> str:
    """Return a message in which the op's inputs have their names."""
    for i, name in enumerate(node.op.input_names):
        wrong = wrong.replace(f"input {i} ", f"input {name!r} ")
    return wrong


def _nodes(f: Callable[..., Any], args: list[Any]) -> list[Node]:
    """Return the tape of f, oldest node first."""
    tracked = [_tracked(arg) for arg in args]
    with tape.enable_grad():
        y = _weighted(f)(*tracked)
    return tape.collect([y], set())[0][::-1]


def _tracked(arg: Any) -> Any:
    if not _is_input(arg) or hasattr(arg, "named_parameters"):
        return arg
    leaves, rebuild = tree.flatten(arg)
    fresh = [leaf.detach() for leaf in leaves]
    for leaf in fresh:
        leaf.requires_grad = True
    return rebuild(fresh)
