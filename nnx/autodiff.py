"""The gradient functions: grad, vjp, jvp, jacobian, hessian, hvp, over nested structures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nnx import creation, ops, tree
from nnx.errors import DTypeError, GradientError, ShapeError
from nnx.op import recording
from nnx.tape import collect, key_of, pull, record, seed_for
from nnx.tensor import Tensor, asarray

Function = Callable[..., Any]


def _alias(given: Any) -> Tensor:
    """Return a fresh name for an input: what came before is cut off here, and only here."""
    x: Tensor = given if isinstance(given, Tensor) else asarray(given)
    if not x.dtype.is_floating:
        raise DTypeError(
            f"Gradients go through floating-point inputs, this one is {x.dtype}. "
            f"Convert it: x.astype('float32')."
        )
    if x.requires_grad:
        with record(True):
            return ops.elementwise.positive(x)  # type: ignore[no-any-return]
    fresh: Tensor = x.detach()
    fresh.requires_grad = True
    return fresh


def _tensors(argument: Any) -> Any:
    """Return an argument with a lone number or host array as a tensor."""
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return asarray(float(argument))
    if hasattr(argument, "__array__") and not isinstance(argument, Tensor):
        return asarray(argument)
    return argument


def _inputs(argument: Any) -> tuple[list[Tensor], tree.Rebuild, Any]:
    """Return an argument's inputs, how to rebuild its structure, and what to call f with."""
    argument = _tensors(argument)
    inputs: list[Tensor] = []
    called = tree.replace(argument, _alias, inputs)
    return inputs, tree.flatten(argument)[1], called


@contextlib.contextmanager
def _thawed(inputs: list[Tensor]) -> Iterator[None]:
    """Let gradients flow to frozen parameters that were asked for by name of their module."""
    frozen = [x for x in inputs if not x.requires_grad]
    for x in frozen:
        x.requires_grad = True
    try:
        yield
    finally:
        for x in frozen:
            x.requires_grad = False


class _Linearised:
    """A function run once on the tape, ready for any number of backward sweeps."""

    def __init__(self, f: Function, args: Sequence[Any], argnums: Sequence[int]) -> None:
        called = list(args)
        self.inputs: list[Tensor] = []
        self.rebuilds: list[tuple[int, tree.Rebuild]] = []
        for n in argnums:
            leaves, rebuild, argument = _inputs(args[n])
            called[n] = argument
            self.inputs += leaves
            self.rebuilds.append((len(leaves), rebuild))
        # Inside another gradient function, all gradients stay on the tape.
        self.nested = recording.depth > 0
        recording.depth += 1
        try:
            with record(True), _thawed(self.inputs):
                self.value = f(*called)
        finally:
            recording.depth -= 1

    def pull(self, outputs: list[Tensor], seeds: list[Tensor]) -> list[Any]:
        """Return the gradients, one structure an argument."""
        return self.structure(pull(outputs, seeds, self.inputs, self.nested))

    def structure(self, grads: list[Tensor]) -> list[Any]:
        """Return one value an input as one structure an argument."""
        result, start = [], 0
        for count, rebuild in self.rebuilds:
            result.append(rebuild(grads[start : start + count]))
            start += count
        return result


def _numbers(argnums: int | Sequence[int], args: Sequence[Any]) -> list[int]:
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    for n in numbers:
        if not -len(args) <= n < len(args):
            raise GradientError(
                f"argnums={argnums}: the function was called with {len(args)} arguments."
            )
    return [n % len(args) for n in numbers]


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise GradientError(
            f"grad: the function must return one number as a tensor, got {type(value).__name__}. "
            f"For further results return (value, rest) and pass has_aux=True."
        )
    if value.size != 1:
        raise GradientError(
            f"grad: the function returned shape {value.shape}; it must return a single number. "
            f"Reduce it, or use nnx.jacobian."
        )
    return value


def value_and_grad(
    f: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Function:
    """Return a function that gives ``(f(*args), gradient)``.

    The gradient has the structure of the argument (a list of them where ``argnums`` has several);
    a module's is a dict by parameter name. With ``has_aux``, f returns ``(value, aux)``.
    Raises: GradientError where f does not return a single number.
    """

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        line = _Linearised(lambda *a: f(*a, **kwargs), args, _numbers(argnums, args))
        value = line.value[0] if has_aux else line.value
        y = _scalar(value)
        grads = line.pull([y], [creation.ones_like(y)])
        result = grads[0] if isinstance(argnums, int) else tuple(grads)
        return (_settled(line, line.value), result)

    return wrapped


def _settled(line: _Linearised, value: Any) -> Any:
    """Return results without their tape, unless an outer gradient may want it."""
    if line.nested or not isinstance(value, Tensor | tuple | list):
        return value
    if isinstance(value, Tensor):
        outside = collect([value], {key_of(x) for x in line.inputs})[1].keys() - {
            key_of(x) for x in line.inputs
        }
        traced = any(x.node is not None for x in line.inputs)
        return value if outside or traced else value.detach()
    return type(value)(_settled(line, item) for item in value)


def grad(f: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """Return a function that gives the gradient of ``f``; it composes to any order.

    >>> grad(lambda x: x**3)(2.0).item()
    12.0
    """
    inner = value_and_grad(f, argnums, has_aux)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, result = inner(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return wrapped


def vjp(f: Function, *args: Any) -> tuple[Any, Function]:
    """Return ``f(*args)`` and the function from output weights to input gradients, as a tuple."""
    line = _Linearised(f, args, range(len(args)))
    outputs, _ = tree.flatten(line.value)

    def pullback(weights: Any) -> tuple[Any, ...]:
        seeds = [seed_for(y, w) for y, w in zip(outputs, _weights(weights, outputs), strict=True)]
        return tuple(line.pull(outputs, seeds))

    return line.value, pullback


def _weights(given: Any, outputs: list[Tensor]) -> list[Tensor]:
    leaves, _ = tree.flatten(_tensors(given))
    if len(leaves) != len(outputs):
        raise ShapeError(
            f"vjp: the function has {len(outputs)} results and {len(leaves)} weights were given; "
            f"give one each, in the same structure."
        )
    return leaves


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Return ``f(*primals)`` and its derivative along ``tangents``.

    The gradient is linear in its weights; its own gradient with respect to them is the derivative.
    """
    given, _ = tree.flatten([_tensors(t) for t in tangents])
    line = _Linearised(f, primals, range(len(primals)))
    outputs, rebuild = tree.flatten(line.value)
    if [t.shape for t in given] != [x.shape for x in line.inputs]:
        raise ShapeError(
            f"jvp: tangents have shapes {[t.shape for t in given]}, the inputs "
            f"{[x.shape for x in line.inputs]}; they must be equal."
        )
    weights = [_alias(creation.zeros_like(y)) for y in outputs]
    pulled = pull(outputs, weights, line.inputs, True)
    directions = [
        t.astype(p.dtype) if t.dtype is not p.dtype else t
        for t, p in zip(given, pulled, strict=True)
    ]
    along = pull(pulled, directions, weights, line.nested)
    if not line.nested and not any(x.node is not None for x in line.inputs):
        along = [x.detach() for x in along]
    return _settled(line, line.value), rebuild(along)


def jacobian(f: Function, argnums: int | Sequence[int] = 0) -> Function:
    """Return a function that gives all derivatives, in the structures of result and argument.

    Shapes: f (Y...), x (X...) -> (Y..., X...)
    """

    def wrapped(*args: Any) -> Any:
        line = _Linearised(f, args, _numbers(argnums, args))
        outputs, rebuild = tree.flatten(line.value)
        each = [line.structure(_derivatives(line, y)) for y in outputs]
        return rebuild([d[0] if isinstance(argnums, int) else tuple(d) for d in each])

    return wrapped


def _derivatives(line: _Linearised, y: Tensor) -> list[Tensor]:
    """Return d(y)/d(input) for each input: one sweep an element of y."""
    rows = [pull([y], [_unit(y, i)], line.inputs, line.nested) for i in range(y.size)]
    if not rows:
        return [
            creation.zeros(y.shape + x.shape, dtype=x.dtype, device=x.device) for x in line.inputs
        ]
    return [
        ops.layout.reshape(ops.layout.stack([row[k] for row in rows]), y.shape + x.shape)
        for k, x in enumerate(line.inputs)
    ]


def _unit(y: Tensor, i: int) -> Tensor:
    """Return zeros like y with a 1 at flat position i."""
    places = creation.arange(y.size, device=y.device)
    return ops.layout.reshape((places == i).astype(y.dtype), y.shape)


def hessian(f: Function, argnums: int | Sequence[int] = 0) -> Function:
    """Return a function that gives all second derivatives. Shapes: x (X...) -> (X..., X...)."""
    return jacobian(grad(f, argnums), argnums)


def hvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Return the gradient of ``f`` and the Hessian's product with ``tangents``.

    Costs two backward passes; the Hessian is never formed. One primal gives plain results.
    """
    numbers = tuple(range(len(primals)))
    gradient, product = jvp(lambda *args: grad(f, numbers)(*args), primals, tangents)
    return (gradient[0], product[0]) if len(numbers) == 1 else (gradient, product)
