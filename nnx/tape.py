"""The backward sweep over the tape, which `Tensor.backward` and the gradient functions share.

A sweep runs the rules of the op table in one of two namespaces: over raw arrays, which is fast and
leaves no tape, or over tensors, which leaves one and so can be differentiated again.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from nnx import creation, dtypes, ops, shapes
from nnx.device import Device, Namespace
from nnx.dtypes import DType
from nnx.errors import DTypeError, GradientError, ShapeError
from nnx.op import OPS, Node, listed, recording
from nnx.tensor import Tensor, asarray, bind_backward

Key = Node | Tensor
"""What a gradient is kept under; both are hashed by identity, so that no two are ever compared."""

_by_sequence = operator.attrgetter("sequence")

COMPILED: Any = Node(OPS["positive"], (), [], {}, None, None, 0, [])  # type: ignore[arg-type]
"""Stands on the tape for all that a compiled function did, of which there is no record."""
COMPILED.arrays = None


@contextlib.contextmanager
def record(on: bool) -> Iterator[None]:
    """Record this thread's ops, or do not, inside the context."""
    before = recording.on
    recording.on = on
    try:
        yield
    finally:
        recording.on = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Return a context, or decorator, in which nothing goes on the tape."""
    return record(False)


def enable_grad() -> contextlib.AbstractContextManager[None]:
    """Return a context that records again inside `no_grad`."""
    return record(True)


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


def key_of(x: Tensor) -> Key:
    """Return what a gradient is kept under: the node that made a tensor, or the leaf itself."""
    return x if x.node is None else x.node


def collect(outputs: Sequence[Tensor], stop: set[Key]) -> tuple[list[Node], dict[Key, Tensor]]:
    """Return the nodes below the outputs, newest first, and the leaves under them.

    Iterative: a tape may be deeper than Python's stack. Nodes are numbered as they are made, so
    that falling numbers are a topological order.
    Raises: GradientError where the tape was used up, or an input was written since.
    """
    seen: set[Node] = set()
    leaves: dict[Key, Tensor] = {}
    stack: list[Tensor] = list(outputs)
    while stack:
        x = stack.pop()
        node = x.node
        if node is None:
            leaves[x] = x
        elif node in stop:
            leaves[node] = x
        elif node not in seen:
            seen.add(node)
            if node.arrays is None or not (node.op.linear or _unchanged(node)):
                _refuse(node)
            inputs = node.inputs
            for i in node.tracked:
                stack.append(inputs[i])
    return sorted(seen, key=_by_sequence, reverse=True), leaves


def _unchanged(node: Node) -> bool:
    version = 0
    for x in node.inputs:
        if isinstance(x, Tensor):
            version += x.version
    return version == node.version


def _refuse(node: Node) -> NoReturn:
    """Say why there is no gradient through a node: compiled, used up, or an input was written."""
    if node is COMPILED:
        raise GradientError(
            "backward: no gradient flows back through a function compiled by nnx.jit. Jit the "
            "whole computation with its gradient (backward() or nnx.grad inside of it), leave it "
            "un-jitted, or take the result as a constant: x.detach()."
        )
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


def sweep(
    nodes: list[Node], grads: dict[Key, Any], over_tensors: bool, wanted: set[Key] | None = None
) -> None:
    """Carry the gradients in ``grads`` (by key) down through the nodes, adding at each input.

    With ``wanted``, only inputs that lead to one of these keys get a gradient.
    """
    leads = None if wanted is None else _leading_to(nodes, wanted)
    inputs: Sequence[Any]
    rules: tuple[Any, ...]
    try:
        for node in nodes:
            g = grads.pop(node, None)
            if g is None:
                continue
            if over_tensors:
                xp, inputs, out = _OVER_TENSORS, node.inputs, Tensor(node.out, node.device)
                out.node, out.requires_grad = node, True
            else:
                xp, inputs, out = node.device.namespace, node.arrays or (), node.out
            vjp, attrs, given = node.op.vjp, node.attrs, (xp, g, out, *inputs)
            if isinstance(vjp, tuple):
                rules, together = vjp, ()
            else:
                rules, together = (), vjp(*given, **attrs)  # type: ignore[misc]
            for i in node.tracked:
                x = node.inputs[i]
                key = x if x.node is None else x.node
                if leads is not None and key not in leads:
                    continue
                if rules:
                    rule = rules[i]
                    share = None if rule is None else rule(*given, **attrs)
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
    except MemoryError as error:
        what = f"The gradient of {node.op.name} of {listed(node.inputs)}"
        raise node.device.out_of_memory(what, error) from None


def _leading_to(nodes: list[Node], wanted: set[Key]) -> set[Key]:
    leads = set(wanted)
    for node in reversed(nodes):
        if any(isinstance(x, Tensor) and key_of(x) in leads for x in node.inputs):
            leads.add(node)
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


def seed_for(y: Tensor, gradient: Any) -> Tensor:
    """Return the incoming gradient of a result: what was given, or 1 for a single number."""
    dtype, shape = y.dtype, y.shape
    if not dtype.is_floating:
        raise DTypeError(f"Only floating-point results have gradients, this one is {dtype}.")
    if gradient is None:
        if shape == () and recording.trace is None:
            return _one(y.device, dtype)
        if shapes.size(shape) != 1:
            raise GradientError(
                f"backward: the result has shape {shape}; only a single number has one "
                f"gradient. Reduce it (loss.mean()), or give the incoming gradient."
            )
        return creation.ones_like(y)
    given = asarray(gradient, dtype=dtype, device=y.device)
    if given.shape != shape:
        raise ShapeError(
            f"backward: the result has shape {shape} and the gradient given {given.shape}; "
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
    seed = seed_for(y, gradient)
    nodes, leaves = collect([y], set())
    grads = {key_of(y): seed.array}
    with y.device.scope():
        sweep(nodes, grads, over_tensors=False)
        add, trace = y.device.namespace.add, recording.trace
        for key, leaf in leaves.items():
            share = grads.get(key)
            if share is not None:
                held = leaf.grad
                if trace is not None:
                    trace.read_grad(leaf, held)
                leaf.grad = Tensor(share if held is None else add(held.array, share), leaf.device)
    if not retain_graph:
        for node in nodes:
            node.arrays = node.out = None
            node.inputs = ()  # a loss that is kept keeps no activations


bind_backward(backward)


def pull(
    outputs: list[Tensor], seeds: list[Tensor], inputs: list[Tensor], differentiable: bool
) -> list[Tensor]:
    """Return the gradients of the outputs, weighted by seeds, with respect to the inputs."""
    wanted = {key_of(x) for x in inputs}
    roots = [(y, seed) for y, seed in zip(outputs, seeds, strict=True) if y.requires_grad]
    nodes, leaves = collect([y for y, _ in roots], wanted)
    again = differentiable or bool(leaves.keys() - wanted) or any(s.requires_grad for s in seeds)
    grads: dict[Key, Any] = {}
    with record(again), outputs[0].device.scope():
        for y, seed in roots:
            value = seed if again else seed.array
            key = key_of(y)
            grads[key] = value if key not in grads else grads[key] + value
        sweep(nodes, grads, over_tensors=again, wanted=wanted)
    results = []
    for x in inputs:
        share = grads.get(key_of(x))
        if share is None:
            results.append(creation.zeros_like(x))
        else:
            results.append(share if isinstance(share, Tensor) else Tensor(share, x.device))
    return results
