"""Parity: the same training steps on two or more devices, and where their numbers part.

Every device starts from the same weights, the same random numbers and the same batches. What is
compared is all that a step computes: each layer's values, the loss, each gradient, each weight
after the update. The reference is the first device.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx import random
from nnx.device import device as open_device
from nnx.errors import DataError
from nnx.jit import jit
from nnx.tensor import Tensor, asarray

if TYPE_CHECKING:
    from nnx.nn import Module
    from nnx.nn.losses import Loss
    from nnx.optim import Optimizer

__all__ = ["Difference", "Parity", "parity", "ulps"]


class Difference(NamedTuple):
    """How far one array of one step is from the reference's: the largest over its elements.

    ``absolute`` is |a - b|; ``relative`` that over the larger of |a| and |b|; ``ulp`` the number of
    floats of the array's type between a and b. NaN against a number counts as inf.
    """

    step: int
    kind: str
    name: str
    device: str
    absolute: float
    relative: float
    ulp: float

    @property
    def is_equal(self) -> bool:
        """Whether not a bit differs, but for the sign of zero."""
        return self.ulp == 0


class Parity(NamedTuple):
    """What `parity` found: the differences in the order in which a step computes."""

    reference: str
    devices: tuple[str, ...]
    differences: list[Difference]

    def first(self, device: str) -> Difference | None:
        """Return the first place where a device parts from the reference; None without one."""
        mine = (d for d in self.differences if d.device == device)
        return next((d for d in mine if not d.is_equal), None)

    def worst(self, device: str) -> list[Difference]:
        """Return for each array of a device the largest differences over the steps."""
        found: dict[tuple[str, str], Difference] = {}
        for d in self.differences:
            if d.device != device:
                continue
            known = found.get((d.kind, d.name), d)
            larger = d if d.absolute > known.absolute else known
            found[d.kind, d.name] = larger._replace(
                absolute=max(d.absolute, known.absolute),
                relative=max(d.relative, known.relative),
                ulp=max(d.ulp, known.ulp),
            )
        return list(found.values())


def ulps(a: Any, b: Any) -> Any:
    """Return how many floats lie between the elements of two arrays of one type, as float64.

    Shapes: both the same. Zeros of both signs are one; NaN and NaN are equal, NaN and a number inf
    apart. Integers are compared as they are.

    >>> import numpy as np
    >>> ulps(np.float32([1.0, -1.0]), np.nextafter(np.float32([1.0, -1.0]), np.float32(2)))
    array([1., 1.])
    """
    import numpy as np

    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        raise DataError(f"Two arrays differ in kind: {a.dtype} {a.shape} and {b.dtype} {b.shape}.")
    if a.dtype.kind != "f":
        return np.abs(a.astype(np.float64) - b.astype(np.float64))
    bits = np.dtype(f"i{a.itemsize}")

    def place(x: Any) -> Any:
        whole = np.ascontiguousarray(x).view(bits).reshape(x.shape).astype(np.int64)
        return np.where(whole < 0, np.iinfo(bits).min - whole, whole)

    first, second = place(a), place(b)
    # Exact where it matters: the difference of near ones fits, that of far ones is rounded.
    low, high = np.minimum(first, second), np.maximum(first, second)
    apart = high.astype(np.float64) - low.astype(np.float64)
    near = apart < 2.0**52
    with np.errstate(over="ignore"):
        apart = np.where(near, (high - low).astype(np.float64), apart)
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    apart = np.where(nan_a & nan_b, 0.0, apart)
    return np.where(nan_a ^ nan_b, np.inf, apart)


def _difference(step: int, key: tuple[str, str], name: str, ours: Any, theirs: Any) -> Difference:
    """Return the largest differences of an array on a device from that of the reference."""
    import numpy as np

    with np.errstate(all="ignore"):
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        absolute = np.where(same, 0.0, np.abs(a - b))
        size = np.maximum(np.abs(a), np.abs(b))
        relative = np.where(same | (size == 0), 0.0, absolute / size)

    def largest(x: Any) -> float:
        x = np.where(np.isnan(x), np.inf, x)
        return float(np.max(x, initial=0.0))

    return Difference(
        step, *key, name, largest(absolute), largest(relative), largest(ulps(ours, theirs))
    )


class _Recorder:
    """Keeps what each layer returns while it is on."""

    def __init__(self, model: Module) -> None:
        self.values: list[tuple[str, Tensor]] = []
        self._layers = [
            (name or type(module).__name__, module)
            for name, module in model.named_modules()
            if len(module.named_modules()) == 1
        ]

    def __enter__(self) -> _Recorder:
        for name, layer in self._layers:
            vars(layer)["forward"] = self._recorded(name, layer.forward)
        return self

    def _recorded(self, name: str, forward: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            result = forward(*args, **settings)
            if isinstance(result, Tensor):
                seen = sum(known.split(" call ")[0] == name for known, _ in self.values)
                self.values.append((f"{name} call {seen + 1}" if seen else name, result))
            return result

        return call

    def __exit__(self, *_: object) -> None:
        for _name, layer in self._layers:
            vars(layer).pop("forward", None)


Step = dict[tuple[str, str], Any]


def _steps(
    model: Module, optimizer: Optimizer, loss: Loss, batches: Sequence[tuple[Any, Any]], name: str
) -> list[Step]:
    """Return all that training steps compute on a device, as host arrays, by kind and name."""
    import numpy as np

    model, optimizer = copy.deepcopy((model, optimizer))
    model.to(name).train()
    optimizer.bind(model)
    params = model.named_parameters()
    names: list[str] = []

    def step(x: Tensor, y: Tensor) -> Any:
        optimizer.zero_grad()
        with _Recorder(model) as recorder:
            value = loss(model(x), y)
        value.backward()
        grads = [p.grad for _, p in params]
        optimizer.step()
        names[:] = [key for key, _ in recorder.values]
        return [v for _, v in recorder.values], value, grads

    eager = open_device(name).name in ("loops", "numpy")
    call = step if eager else jit(step)
    found: list[Step] = []
    for x, y in batches:
        values, value, grads = call(asarray(x, device=name), asarray(y, device=name))
        kept: Step = {}
        for layer, array in zip(names, values, strict=True):
            kept["activation", layer] = np.array(array.numpy())
        kept["loss", ""] = np.array(value.numpy())
        for (key, _), grad in zip(reversed(params), reversed(grads), strict=True):
            if grad is not None:
                kept["gradient", key] = np.array(grad.numpy())
        for key, param in params:
            kept["weight", key] = np.array(param.numpy())
        found.append(kept)
    return found


def parity(
    model: Module,
    batches: Sequence[tuple[Any, Any]],
    *,
    loss: Any,
    optimizer: Any = "sgd",
    devices: Sequence[str] = ("numpy", "numba"),
) -> Parity:
    """Train copies of a network on each device and return how far apart they are.

    ``batches`` are pairs (x, y) of host arrays, one a step. Loops and numpy compute eagerly, other
    devices under `nnx.jit`. The model, its optimizer and the random state are left as they were.
    Raises: DataError for fewer than two devices, or no batch; DeviceError for one that cannot be
    used, before anything is computed.
    """
    from nnx import optim
    from nnx.nn import losses

    names = list(dict.fromkeys(devices))
    if len(names) < 2:
        raise DataError(
            f"Parity compares two devices or more, got {', '.join(names) or 'none'}. Name others: "
            f"`nnx devices` lists them."
        )
    if not batches:
        raise DataError("Parity needs a batch, (x, y), for each step; got none.")
    for name in names:
        open_device(name)
    rule, function = optim.get(optimizer), losses.get(loss)
    if not model.built:
        model(asarray(batches[0][0], device=model.device))
    generator = random.default_generator()
    state, runs = generator.state_dict(), {}
    try:
        for name in names:
            generator.load_state_dict(state)
            runs[name] = _steps(model, rule, function, batches, name)
    finally:
        generator.load_state_dict(state)
    reference = runs[names[0]]
    differences = [
        _difference(i + 1, key, name, runs[name][i][key], theirs)
        for i, step in enumerate(reference)
        for key, theirs in step.items()
        for name in names[1:]
    ]
    return Parity(names[0], tuple(names[1:]), differences)
