"""Ops timed one by one where they meet arrays: those of a graph, and those of eager calls.

While eager calls are profiled, functions that count the time stand in the places where ops are
looked up: the kernels and namespaces of devices, the gradient rules of the op table, and a few
methods. At all other times nothing is there, so that eager calls cost what they cost.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from nnx import costs
from nnx.device import Device, opened
from nnx.graph import Eqn
from nnx.jit import Function
from nnx.op import OPS, Op, recording
from nnx.optim.optimizer import Optimizer
from nnx.planned import Planned
from nnx.profile import Measured, Part
from nnx.random import Generator
from nnx.scalar import Env, resolve
from nnx.tensor import Tensor

ROUNDS, MIN_ROUNDS = 25, 3
BUDGET_S = 1.0
SHORTEST_S = 2e-8
_one_at_a_time = threading.Lock()


class Key(NamedTuple):
    """What calls of ops have in common that make one row."""

    name: str
    shapes: str


class Event(NamedTuple):
    """One call of an op."""

    key: Key
    time_s: float
    flops: int
    n_bytes: int


class Clock:
    """Times functions that it wraps, where they are called by this thread and not by one another.

    ``note(value, inputs, attrs)`` of a wrapped function says what its call was.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._thread, self._inside = threading.get_ident(), False

    def timed(
        self,
        function: Callable[..., Any],
        synchronize: Callable[[], object] | None,
        note: Callable[..., tuple[Key, int, int]],
    ) -> Callable[..., Any]:
        """Return the function with its calls timed."""

        @functools.wraps(function, updated=())
        def call(*inputs: Any, **attrs: Any) -> Any:
            if self._inside or threading.get_ident() != self._thread or recording.trace is not None:
                return function(*inputs, **attrs)
            self._inside = True
            try:
                if synchronize is not None:
                    synchronize()
                start = time.perf_counter()
                value = function(*inputs, **attrs)
                if synchronize is not None:
                    synchronize()
                time_s = time.perf_counter() - start
                key, flops, n_bytes = note(value, inputs, attrs)
                self.events.append(Event(key, time_s, flops, n_bytes))
            finally:
                self._inside = False
            return value

        return call

    def taken(self) -> list[Event]:
        """Return the events since the last time."""
        found, self.events = self.events, []
        return found


@functools.cache
def cost_of_timing() -> tuple[float, float]:
    """Return what timing adds to a call, and how far that varies, in seconds."""
    clock = Clock()
    call = clock.timed(lambda: None, None, lambda *_: (Key("", ""), 0, 0))
    for _ in range(1000):
        call()
    low, median, high = statistics.quantiles([e.time_s for e in clock.taken()], n=4)
    return median, max(high - low, SHORTEST_S)


def _rounds(call: Callable[[], object], clock: Clock) -> list[list[Event]]:
    """Return the events of each of several calls."""
    call()
    clock.taken()
    found: list[list[Event]] = []
    end = time.perf_counter() + BUDGET_S
    while len(found) < MIN_ROUNDS or (len(found) < ROUNDS and time.perf_counter() < end):
        call()
        found.append(clock.taken())
    return found


# A graph


def of_graph(entry: Any, arrays: Sequence[Any], env: Env) -> Measured:
    """Return the calls of a traced function's graph on its device, each as a part."""
    device, program = entry.device, entry.program()
    if not isinstance(program, Planned):
        program = Planned(entry.graph, device)
    clock = Clock()

    def wrap(kernel: Any) -> Any:
        return clock.timed(kernel, device.synchronize, lambda *_: (Key("", ""), 0, 0))

    step = program.with_kernels(wrap, env)
    rounds = _rounds(lambda: step(arrays, env), clock)
    cost_s, resolution_s = cost_of_timing()
    parts = []
    for i, eqn in enumerate(program.calls):
        time_s = statistics.median(events[i].time_s for events in rounds) - cost_s
        parts.append(_of_eqn(eqn, device, time_s if time_s >= resolution_s else None, env))
    return parts, resolution_s


def _of_eqn(eqn: Eqn, device: Device, time_s: float | None, env: Env) -> Part:
    def sizes(x: Any) -> tuple[int, ...]:
        return tuple(resolve(x.shape, env))

    moves = eqn.op.name not in device.backend.views
    arrays = {*eqn.vars, eqn.out} if moves else ()
    given = [sizes(x) for x in eqn.vars]
    n_bytes = sum(math.prod(sizes(x)) * x.dtype.itemsize for x in arrays)
    flops = costs.flops(eqn.op, given, sizes(eqn.out))
    return Part(eqn.op.name, " ".join(map(str, given)), time_s, flops, n_bytes)


# Eager calls


def of_calls(call: Callable[[], object]) -> Measured:
    """Return the ops that a function runs eagerly, those of one name and shapes as one part."""
    clock = Clock()
    with _one_at_a_time, _hooked(clock):
        rounds = _rounds(call, clock)
    cost_s, resolution_s = cost_of_timing()
    keys = dict.fromkeys(event.key for events in rounds for event in events)
    parts = []
    for key in keys:
        mine = [[e for e in events if e.key == key] for events in rounds]
        time_s = statistics.median(sum(e.time_s - cost_s for e in events) for events in mine)
        last = next(events for events in reversed(mine) if events)
        flops, n_bytes = sum(e.flops for e in last), sum(e.n_bytes for e in last)
        told = time_s if time_s >= resolution_s else None
        parts.append(Part(*key, told, flops, n_bytes, len(last)))
    return parts, resolution_s


@contextlib.contextmanager
def _hooked(clock: Clock) -> Iterator[None]:
    """Let a clock time all ops of the devices that are open, while inside."""
    undo: list[Callable[[], object]] = []
    spaces = {id(device.namespace): device for device in opened()}

    def put(owner: Any, name: str, value: Any) -> None:
        undo.append(functools.partial(setattr, owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        for device in spaces.values():
            kernels, space = device.kernels, vars(device.namespace)
            undo += [functools.partial(kernels.update, dict(kernels)),
                     functools.partial(space.update, dict(space))]  # fmt: skip
            for held in (kernels, space):
                held.update({
                    name: clock.timed(held[name], device.synchronize, _Forward(op, device))
                    for name, op in OPS.items() if name in held
                })  # fmt: skip
        for op in OPS.values():
            if op.vjp is not None:
                put(op, "vjp", _timed_rules(op, clock, spaces))
        put(Function, "__call__", clock.timed(Function.__call__, None, _of_compiled))
        put(Optimizer, "_array_change", clock.timed(Optimizer._array_change, None, _of_update))
        for name in ("uniform", "normal", "integers", "bernoulli", "permutation"):
            draw = getattr(Generator, f"host_{name}")
            note = functools.partial(_of_draw, name)
            put(Generator, f"host_{name}", clock.timed(draw, None, note))
        yield
    finally:
        for step in reversed(undo):
            step()


def _arrays_in(values: Sequence[Any]) -> list[Any]:
    """Return the arrays among an op's inputs; some ops take lists of them."""
    flat = [y for x in values for y in (x if isinstance(x, list | tuple) else [x])]
    arrays = [x.array if isinstance(x, Tensor) else x for x in flat]
    return [x for x in arrays if hasattr(x, "shape") and hasattr(x, "dtype")]


def _shapes(arrays: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in arrays]


class _Costs:
    """What the arrays of an op's calls on a device come to."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._overlap = getattr(device.backend.xp, "may_share_memory", None)

    def n_bytes(self, out: Any, given: Sequence[Any], moves: bool) -> int:
        """Return the bytes of arrays, 0 where a result is only a view of what was given."""
        if moves and self._overlap is not None and any(self._overlap(out, x) for x in given):
            return 0
        arrays = {id(x): x for x in [out, *given]}.values()
        dtype_of = self._device.dtype_of
        return sum(math.prod(x.shape) * dtype_of(x).itemsize for x in arrays)


class _Forward(_Costs):
    """Says what a call of an op's kernel was."""

    def __init__(self, op: Op, device: Device) -> None:
        super().__init__(device)
        self._op = op

    def __call__(self, out: Any, inputs: Any, attrs: Any) -> tuple[Key, int, int]:
        given = _arrays_in(inputs)
        shapes = _shapes(given)
        key = Key(self._op.name, " ".join(map(str, shapes)))
        if not hasattr(out, "shape"):
            return key, 0, 0
        flops = costs.flops(self._op, shapes, tuple(out.shape)) if given else 0
        return key, flops, self.n_bytes(out, given, moves=self._op.kind == "layout")


class _Backward:
    """Says what a call of an op's gradient rule was: of the input at a place, or of all."""

    def __init__(self, op: Op, place: int | None, spaces: dict[int, Device]) -> None:
        self._op, self._place, self._spaces = op, place, spaces

    def __call__(self, out: Any, given: Any, attrs: Any) -> tuple[Key, int, int]:
        xp, g, _, *inputs = given
        arrays = _arrays_in(inputs)
        shapes = _shapes(arrays)
        key = Key(f"{self._op.name} backward", " ".join(map(str, shapes)))
        device = self._spaces.get(id(xp)) or getattr(g, "device", None)
        results = _arrays_in([out])
        if not isinstance(device, Device) or not results:
            return key, 0, 0
        (g,) = _arrays_in([g])
        if any(x is g for x in results):
            return key, 0, 0  # what comes is handed on
        n_bytes = sum(_Costs(device).n_bytes(x, [g], moves=True) for x in results)
        read = [] if self._op.linear else arrays
        if self._op.kind == "contract":
            read = [x for i, x in enumerate(arrays) if i != self._place and i < 2]
            if self._place == 2:
                return key, math.prod(g.shape), n_bytes
            flops = costs.flops(self._op, shapes[:2], tuple(g.shape))
        elif self._op.kind in ("elementwise", "reduce"):
            flops = max(map(math.prod, [g.shape, *shapes]))
        else:
            flops = 0
        return key, flops, n_bytes + sum(_Costs(device).n_bytes(x, [], False) for x in read)


def _timed_rules(op: Op, clock: Clock, spaces: dict[int, Device]) -> Any:
    """Return the gradient rules of an op, each timed."""

    def timed(rule: Any, place: int | None) -> Any:
        return None if rule is None else clock.timed(
            rule, _synchronize(spaces), _Backward(op, place, spaces)
        )  # fmt: skip

    if isinstance(op.vjp, tuple):
        return tuple(timed(rule, i) for i, rule in enumerate(op.vjp))
    return timed(op.vjp, None)


def _synchronize(spaces: dict[int, Device]) -> Callable[[], object] | None:
    """Return what waits for all devices that work on by themselves."""
    waiting = [device for device in spaces.values() if not device.backend.on_host]

    def wait() -> None:
        for device in waiting:
            device.synchronize()

    return wait if waiting else None


def _of_compiled(out: Any, inputs: Any, attrs: Any) -> tuple[Key, int, int]:
    name = getattr(inputs[0], "__name__", "function")
    return Key(f"{name}, compiled", ""), 0, 0


def _of_update(change: Any, inputs: Any, attrs: Any) -> tuple[Key, int, int]:
    optimizer, entry, *_ = inputs
    given = [entry.param, entry.param.grad, *entry.slots.values()]
    written = [entry.param, *entry.slots.values()]
    n_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*given, *written))
    key = Key(f"{type(optimizer).__name__}.update", str(entry.param.shape))
    return key, entry.param.size, n_bytes


def _of_draw(name: str, out: Any, inputs: Any, attrs: Any) -> tuple[Key, int, int]:
    return Key(f"random.{name}", str(out.shape)), 0, out.size * out.dtype.itemsize
