"""Gradients: one backward sweep over the tape, and the functions made of it.

A sweep runs the rules of the op table in one of two namespaces: over raw arrays, which is fast and
leaves no tape, or over tensors, which leaves one and so can be differentiated again.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from nnx import creation, dtypes, ops, shapes, tree
from nnx.device import Device, Namespace
from nnx.dtypes import DType
from nnx.errors import DTypeError, GradientError, ShapeError
from nnx.op import OPS, Node, recording
from nnx.tensor import Tensor, asarray

Function = Callable[..., Any]
_by_sequence = operator.attrgetter("sequence")


@contextlib.contextmanager
def _record(on: bool) -> Iterator[None]:
    before = recording.on
    recording.on = on
    try:
        yield
    finally:
        recording.on = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Return a context, or decorator, in which nothing goes on the tape."""
    return _record(False)


def enable_grad() -> contextlib.AbstractContextManager[None]:
    """Return a context that records again inside `no_grad`."""
    return _record(True)


# The sweep


def _tensor_namespace() -> Namespace:
    """Return the ``xp`` of rules that run over tensors: nnx's own functions."""
    xp = Namespace(creation)
    for module in ops.MODULES:
        for name in OPS.keys() & vars(module).keys():
            setattr(xp, name, getattr(module, name))
    xp.getitem = ops.layout._getitem
    xp.native = dtypes.as_dtype
    xp.dtype_of = lambda x: x.dtype
    xp.float32 = dtypes.float32
    xp.widen = _widen
    xp.narrow = lambda x, like: x if x.dtype is like.dtype else x.astype(like.dtype)
    xp.arange_like = lambda x, n: creation.arange(n, dtype=x.dtype, device=x.device)
    return xp


def _widen(x: Tensor) -> Tensor:
    wide = dtypes.float64 if x.device.has(dtypes.float64) else dtypes.float32
    return x if x.dtype is wide else x.astype(wide)


_OVER_TENSORS = _tensor_namespace()


def _key(x: Tensor) -> int:
    return id(x) if x.node is None else id(x.node)


def _collect(outputs: Sequence[Tensor], stop: set[int]) -> tuple[list[Node], dict[int, Tensor]]:
    """Return the nodes below the outputs, newest first, and the leaves under them.

    Iterative: a tape may be deeper than Python's stack. Nodes are numbered as they are made, so
    that falling numbers are a topological order.
    Raises: GradientError where the tape was used up, or an input was written since.
    """
    seen: dict[int, Node] = {}
    leaves: dict[int, Tensor] = {}
    stack: list[Tensor] = list(outputs)
    while stack:
        x = stack.pop()
        node = x.node
        key = id(x) if node is None else id(node)
        if node is None or key in stop:
            leaves[key] = x
        elif key not in seen:
            seen[key] = node
            if node.arrays is None or not (node.op.linear or _unchanged(node)):
                _refuse(node)
            inputs = node.inputs
            for i in node.tracked:
                stack.append(inputs[i])
    return sorted(seen.values(), key=_by_sequence, reverse=True), leaves


def _unchanged(node: Node) -> bool:
    version = 0
    for x in node.inputs:
        if isinstance(x, Tensor):
            version += x.version
    return version == node.version


def _refuse(node: Node) -> NoReturn:
    """Say why there is no gradient through a node: used up, or an input was written since."""
    if node.arrays is None:
        raise GradientError(
            f"backward: the tape through {node.op.name!r} was used up by an earlier backward(). "
            f"Compute the loss again, or keep the tape with backward(retain_graph=True)."
        )
    tensors = [x for x in node.inputs if isinstance(x, Tensor)]
    shown = ", ".join(f"{x.name or 'input'} {x.shape}" for x in tensors)
    raise GradientError(
        f"backward: an input of {node.op.name!r} ({shown}) was written in place after the "
        f"forward pass, so its gradient would be wrong. Call backward() before the write."
    )


def _sweep(
    nodes: list[Node], grads: dict[int, Any], over_tensors: bool, wanted: set[int] | None = None
) -> None:
    """Carry the gradients in ``grads`` (by key) down through the nodes, adding at each input.

    With ``wanted``, only inputs that lead to one of these keys get a gradient.
    """
    leads = None if wanted is None else _leading_to(nodes, wanted)
    inputs: Sequence[Any]
    rules: tuple[Any, ...]
    for node in nodes:
        g = grads.pop(id(node), None)
        if g is None:
            continue
        if over_tensors:
            xp, inputs, out = _OVER_TENSORS, node.inputs, Tensor(node.out, node.device)
            out.node, out.requires_grad = node, True
        else:
            xp, inputs, out = node.device.namespace, node.arrays or (), node.out
        vjp, attrs = node.op.vjp, node.attrs
        if isinstance(vjp, tuple):
            rules, together = vjp, ()
        else:
            rules, together = (), vjp(xp, g, out, *inputs, **attrs)  # type: ignore[misc]
        for i in node.tracked:
            x = node.inputs[i]
            key = id(x) if x.node is None else id(x.node)
            if leads is not None and key not in leads:
                continue
            if rules:
                rule = rules[i]
                share = None if rule is None else rule(xp, g, out, *inputs, **attrs)
            else:
                share = together[i]
            if share is None:
                continue
            array = x if over_tensors else x.array
            if share.shape != array.shape:
                share = _unbroadcast(xp, share, tuple(array.shape))
            if share.dtype != array.dtype:
                share = xp.astype(share, array.dtype)
            held = grads.get(key)
            grads[key] = share if held is None else xp.add(held, share)


def _leading_to(nodes: list[Node], wanted: set[int]) -> set[int]:
    leads = set(wanted)
    for node in reversed(nodes):
        if any(isinstance(x, Tensor) and _key(x) in leads for x in node.inputs):
            leads.add(id(node))
    return leads


def _unbroadcast(xp: Any, g: Any, shape: shapes.Shape) -> Any:
    """Sum a gradient over the axes along which its input was repeated."""
    given = tuple(g.shape)
    if len(given) < len(shape):  # a rule may leave axes of size 1 away
        return xp.broadcast_to(g, shape)
    axes, _ = shapes.unbroadcast_axes(given, shape)
    if axes:
        g = xp.sum(g, axis=axes, keepdims=True)
    if shapes.size(tuple(g.shape)) != shapes.size(shape):
        return xp.broadcast_to(g, shape)
    return xp.reshape(g, shape)


def _seed(y: Tensor, gradient: Any) -> Tensor:
    """Return the incoming gradient of a result: what was given, or 1 for a single number."""
    if not y.dtype.is_floating:
        raise DTypeError(f"Only floating-point results have gradients, this one is {y.dtype}.")
    if gradient is None:
        if y.size != 1:
            raise GradientError(
                f"backward: the result has shape {y.shape}; only a single number has one "
                f"gradient. Reduce it (loss.mean()), or give the incoming gradient."
            )
        return _one(y.device, y.dtype) if y.shape == () else creation.ones_like(y)
    given = asarray(gradient, dtype=y.dtype, device=y.device)
    if given.shape != y.shape:
        raise ShapeError(
            f"backward: the result has shape {y.shape} and the gradient given {given.shape}; "
            f"they must be equal."
        )
    return given


@functools.lru_cache(maxsize=64)
def _one(device: Device, dtype: DType) -> Tensor:
    """Return the number 1 on a device; every training step starts its backward pass with it."""
    return creation.ones((), dtype=dtype, device=device)


def backward(y: Tensor, gradient: Any = None, *, retain_graph: bool = False) -> None:
    """Do what `Tensor.backward` says."""
    if not y.requires_grad:
        raise GradientError(
            "backward: this tensor does not depend on anything that requires a gradient. Set "
            "x.requires_grad = True before computing with x, and leave nnx.no_grad()."
        )
    seed = _seed(y, gradient)
    nodes, leaves = _collect([y], set())
    grads = {_key(y): seed.array}
    with y.device.scope():
        _sweep(nodes, grads, over_tensors=False)
        add = y.device.namespace.add
        for key, leaf in leaves.items():
            share = grads.get(key)
            if share is not None:
                held = leaf.grad
                leaf.grad = Tensor(share if held is None else add(held.array, share), leaf.device)
    if not retain_graph:
        for node in nodes:
            node.arrays = node.out = None
            node.inputs = ()  # a loss that is kept keeps no activations


def _pull(
    outputs: list[Tensor], seeds: list[Tensor], inputs: list[Tensor], differentiable: bool
) -> list[Tensor]:
    """Return the gradients of the outputs, weighted by seeds, with respect to the inputs."""
    wanted = {_key(x) for x in inputs}
    roots = [(y, seed) for y, seed in zip(outputs, seeds, strict=True) if y.requires_grad]
    nodes, leaves = _collect([y for y, _ in roots], wanted)
    again = differentiable or bool(leaves.keys() - wanted) or any(s.requires_grad for s in seeds)
    grads: dict[int, Any] = {}
    with _record(again), outputs[0].device.scope():
        for y, seed in roots:
            value = seed if again else seed.array
            key = _key(y)
            grads[key] = value if key not in grads else grads[key] + value
        _sweep(nodes, grads, over_tensors=again, wanted=wanted)
    results = []
    for x in inputs:
        share = grads.get(_key(x))
        if share is None:
            results.append(creation.zeros_like(x))
        else:
            results.append(share if isinstance(share, Tensor) else Tensor(share, x.device))
    return results


def _alias(given: Any) -> Tensor:
    """Return a fresh name for an input: what came before is cut off here, and only here."""
    x: Tensor = given if isinstance(given, Tensor) else asarray(given)
    if not x.dtype.is_floating:
        raise DTypeError(
            f"Gradients go through floating-point inputs, this one is {x.dtype}. "
            f"Convert it: x.astype('float32')."
        )
    if x.requires_grad:
        with _record(True):
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
            with _record(True), _thawed(self.inputs):
                self.value = f(*called)
        finally:
            recording.depth -= 1

    def pull(self, outputs: list[Tensor], seeds: list[Tensor]) -> list[Any]:
        """Return the gradients, one structure an argument."""
        return self.structure(_pull(outputs, seeds, self.inputs, self.nested))

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
        outside = _collect([value], {_key(x) for x in line.inputs})[1].keys() - {
            _key(x) for x in line.inputs
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
        seeds = [_seed(y, w) for y, w in zip(outputs, _weights(weights, outputs), strict=True)]
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
    pulled = _pull(outputs, weights, line.inputs, True)
    directions = [
        t.astype(p.dtype) if t.dtype is not p.dtype else t
        for t, p in zip(given, pulled, strict=True)
    ]
    along = _pull(pulled, directions, weights, line.nested)
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
    rows = [_pull([y], [_unit(y, i)], line.inputs, line.nested) for i in range(y.size)]
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
