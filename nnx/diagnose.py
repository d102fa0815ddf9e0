"""Where a NaN or an infinity came from: the data, a parameter, or the first layer that made one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from nnx.nn.module import Module
from nnx.op import Node
from nnx.outputs import called, named
from nnx.tape import enable_grad
from nnx.tensor import Tensor

ELEMENTS = 1 << 24
"""How many numbers are looked at together: what is found out of each takes a byte."""


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; worked out on its device."""
    if not tensor.dtype.is_floating:
        return True
    device, array = tensor.device, tensor.array
    kernels, n = device.kernels, tensor.shape[0] if tensor.ndim else 1
    rows = max(1, ELEMENTS * n // max(1, tensor.size))
    with contextlib.nullcontext() if device.backend.on_host else device.scope():
        for start in range(0, n, rows):
            part = array if rows >= n else array[start : start + rows, ...]
            finite = kernels["all"](kernels["isfinite"](part))
            if not bool(device.backend.to_numpy(finite)):
                return False
    return True


def bad_parameter(model: Module) -> str | None:
    """Return the name of the first parameter with a NaN or an infinity, and the place, or None."""
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            return f"parameter {name!r} ({_where(parameter, 'index')})"
    return None


def all_finite(tree: Any) -> bool:
    """Return whether all tensors of a structure are finite."""
    return all(is_finite(tensor) for _, tensor in named("x", tree))


def first_bad(model: Module, x: Any, y: Any, rows: Any, loss: Tensor) -> str:
    """Return in words the first tensor that is not finite, of a step whose loss is not.

    ``rows`` are the positions of the batch in the data, None if they are not known; ``loss`` still
    has its tape.
    """
    for what, data in (*named("x", x), *named("y", y)):
        places = _bad_places(data)
        if len(places):
            row = int(places[0][0])
            known = "" if rows is None else f", which is row {rows[row]} of {what}"
            return f"{what} itself at row {row} of the batch{known} ({_where(data)})"
    found = bad_parameter(model)
    if found:
        return f"{found}: an earlier step made it so, by a gradient that overflowed"
    return _bad_layer(model, x) or f"the loss, in {_bad_node(loss) or 'an op without a gradient'}"


def _bad_places(tensor: Tensor) -> Any:
    """Return the indices of all elements that are not finite, one a row."""
    import numpy as np

    host = tensor.numpy()
    if host.dtype.kind in "biu":
        return ()
    return np.argwhere(~np.isfinite(np.atleast_1d(host)))


def _where(tensor: Tensor, word: str = "first at index") -> str:
    places = _bad_places(tensor)
    place = tuple(int(i) for i in places[0])
    value = tensor.numpy().reshape(tensor.shape or (1,))[place]
    total = f", {len(places)} of {tensor.size} elements are not finite" if tensor.size > 1 else ""
    return f"{value} {word} {place if len(place) > 1 else place[0]}{total}"


def _bad_layer(model: Module, x: Any) -> str | None:
    """Run the batch again and return the first layer whose output is not finite."""
    found: list[tuple[str, Module, Tensor]] = []

    def watch(path: str, module: Module, inputs: Any, out: Any) -> None:
        if not found and isinstance(out, Tensor) and len(_bad_places(out)):
            found.append((path, module, out))

    with enable_grad(), watched(model, watch):
        called(model, x)
    if not found:
        return None
    path, module, out = found[0]
    layer = f"{type(module).__name__} {path!r}" if path else f"the network {type(module).__name__}"
    made = _bad_node(out)
    by = f", made by {made}" if made else ""
    return f"the output of {layer} of shape {out.shape} ({_where(out)}){by}"


@contextlib.contextmanager
def watched(model: Module, watch: Callable[[str, Module, Any, Any], None]) -> Iterator[None]:
    """Call ``watch`` with inputs and output of every module below, innermost first."""

    def wrapped(path: str, module: Module) -> Callable[..., Any]:
        forward = module.forward

        def call(*inputs: Any, **settings: Any) -> Any:
            out = forward(*inputs, **settings)
            watch(path, module, inputs, out)
            return out

        return call

    modules = model.named_modules()
    try:
        for path, module in modules:
            vars(module)["forward"] = wrapped(path, module)
        yield
    finally:
        for _, module in modules:
            vars(module).pop("forward", None)


def _bad_node(out: Tensor) -> str | None:
    """Describe the first op of the tape below ``out`` whose result is not finite."""
    import numpy as np

    for node in _oldest_first(out):
        if node.out is None or not len(_bad_places(Tensor(node.out, node.device))):
            continue
        given = [x for x in node.inputs if isinstance(x, Tensor)]
        if any(len(_bad_places(x)) for x in given):
            return f"op {node.op.name!r} from inputs that depend on no parameter and are not finite"
        largest = max((float(np.abs(x.numpy()).max(initial=0)) for x in given), default=0.0)
        return f"op {node.op.name!r} from finite inputs of up to {largest:.3g} in size"
    return None


def _oldest_first(out: Tensor) -> list[Node]:
    nodes: dict[int, Node] = {}
    stack = [out]
    while stack:
        node = stack.pop().node
        if node is not None and id(node) not in nodes:
            nodes[id(node)] = node
            stack += [x for x in node.inputs if isinstance(x, Tensor)]
    return sorted(nodes.values(), key=lambda node: node.sequence)
