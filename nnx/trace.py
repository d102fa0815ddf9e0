"""Tracing: a function run once on arrays without values, which note every op that meets them.

While a trace is open, the thread's tensors are on a `TracingDevice`. A tensor from outside that an
op meets joins the trace as an input, and what the function assigns to it is an output. Python's own
numbers and objects are taken over as they are; `nnx.watch` sees where they have changed since.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Self

from nnx import dtypes, shapes
from nnx.device import Device
from nnx.dtypes import DType
from nnx.errors import DeviceError, ShapeError, TraceError
from nnx.graph import DRAW, Graph, Var, same_shape
from nnx.locks import hold_at_fork
from nnx.op import Attrs, Op, explain, recording
from nnx.recorder import Recorder, Traced, refuse, refuse_reading, user_place
from nnx.scalar import Facts, Scalar, made, value_of, variable
from nnx.tensor import Tensor

# One function is traced at a time: parameters and other tensors stand for eqns meanwhile.
tracing = hold_at_fork(threading.RLock())


# The device that tensors are on meanwhile


class _TracingBackend:
    """The backend of a tracing device: creation makes eqns, values are refused."""

    compile = None
    on_host = True

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.name = trace.real.backend.name
        self.xp = trace.namespace

    def to_numpy(self, array: Any) -> NoReturn:
        refuse_reading(array)

    def astype(self, array: Any, dtype: Any) -> Any:
        return self._trace.namespace.convert(array, dtype)

    def asarray(self, host: Any, dtype: Any, index: int) -> Traced:
        return self._trace.literal(host, dtype)

    def creation(self, name: str, index: int) -> Callable[..., Any]:
        return getattr(self, f"_{name}")  # type: ignore[no-any-return]

    def _full(self, shape: Any, value: Any, dtype: Any) -> Traced:
        return self._trace.full(shape, value, dtype)

    def _zeros(self, shape: Any, dtype: Any) -> Traced:
        return self._trace.full(shape, 0, dtype)

    def _ones(self, shape: Any, dtype: Any) -> Traced:
        return self._trace.full(shape, 1, dtype)

    def _arange(self, start: Any, stop: Any, step: Any, dtype: Any) -> Any:
        import math

        kind = dtypes.as_dtype(dtype)
        if isinstance(stop, Scalar):
            n = stop - start if step == 1 else max(0, -(-(int(stop) - start) // step))
        else:
            n = max(0, math.ceil((stop - start) / step))
        steps = self._trace.iota(n, kind)
        scaled = steps if step == 1 else steps * step
        return scaled if start == 0 else scaled + start

    def _eye(self, n: int, m: int, k: int, dtype: Any) -> Any:
        whole, xp = dtypes.int64, self._trace.namespace
        rows = xp.reshape(self._trace.iota(n, whole), (n, 1))
        return (rows + k == self._trace.iota(m, whole)).astype(dtype)

    def _linspace(self, start: float, stop: float, num: int, dtype: Any, endpoint: bool) -> Any:
        import numpy as np

        host = np.linspace(start, stop, num, endpoint=endpoint, dtype=dtypes.as_dtype(dtype).name)
        return self._trace.literal(host, dtype)

    def setitem(self, array: Any, key: Any, value: Any) -> NoReturn:
        refuse("x[key] = value (write nnx.where(mask, value, x) instead); it")

    def synchronize(self, index: int) -> None:
        pass

    def scope(self, index: int) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class TracingDevice(Device):
    """Stands for a real device while a function is traced, under the same name."""

    def __init__(self, trace: Trace) -> None:
        real = trace.real
        self.trace, self.real = trace, real
        self.name, self.index = real.name, real.index
        self._native = {dtype: dtype for dtype in real.dtypes}
        self._dtype_of = self._native
        self.floating = {dtype for dtype in self._native if dtype.is_floating}
        self.numeric = set(self._native) - {dtypes.bool_}
        self.namespace = trace.namespace
        self.kernels = trace.kernels
        self.backend: Any = _TracingBackend(trace)

    def resolve(self) -> Device:
        """Return this device inside its trace, and the real one outside."""
        return self if recording.trace is self.trace else self.real

    def adopt(self, tensor: Tensor) -> None:
        """Take a tensor from outside into the trace."""
        self.trace.lift(tensor)


# The trace


class Held:
    """A tensor that joined a trace: what it had before, and the graph's name for it."""

    __slots__ = ("array", "device", "grad", "index", "inner", "tensor", "traced", "version")

    def __init__(self, tensor: Tensor, traced: Traced, index: int, inner: Device) -> None:
        self.tensor, self.traced, self.index = tensor, traced, index
        self.array, self.device, self.inner = tensor.array, tensor.device, inner
        self.grad, self.version = tensor.grad, tensor.version

    def enter(self) -> None:
        self.tensor.array, self.tensor.device = self.traced, self.inner


class Draws:
    """The random numbers that a trace takes from one generator."""

    def __init__(self, generator: Any, facts: Facts, number: int) -> None:
        self.generator = generator
        state = generator.state_dict()
        self.names = [f"g{number}_{part}" for part in ("seed", "stream", "block")]
        self.seed, self.stream, self.block = (
            made(facts, value, name) for name, value in zip(self.names, state.values(), strict=True)
        )
        self.used: Any = 0


class Effect:
    """An assignment of a traced function: to a tensor's ``array`` or its ``grad``.

    ``index`` is the position of the tensor among the graph's inputs, ``var`` the new value, None
    where the gradient was forgotten.
    """

    __slots__ = ("index", "kind", "var")

    def __init__(self, index: int, kind: str, var: Var | None) -> None:
        self.index, self.kind, self.var = index, kind, var


Getter = Callable[[], int | float]


class Trace(Recorder):
    """One run of a function on traced arrays; a context in which this thread traces."""

    def __init__(self, real: Device) -> None:
        super().__init__(real)
        self.facts = Facts()
        self.inputs: list[Var] = []
        self.held: list[Held] = []
        self.captured: dict[int, Tensor] = {}
        self.getters: dict[str, Getter] = {}
        self.setters: list[tuple[Any, str, Any]] = []
        self.draws: dict[int, Draws] = {}
        self.literals: dict[int, Any] = {}
        self.watched: dict[int, Any] = {}
        self.grad_inputs: dict[int, int] = {}
        self.needs_grad: dict[int, bool] = {}
        self._reset: set[int] = set()
        self.refused: TraceError | None = None
        self.effects: list[Effect] = []
        self._attributes: dict[tuple[int, str], tuple[Any, str, Any]] = {}
        self._first: dict[tuple[int, str], Scalar] = {}
        self._rates: dict[int, tuple[int, Scalar | None]] = {}
        self.device = TracingDevice(self)

    # Opening and closing

    def __enter__(self) -> Self:
        self._before, recording.trace = recording.trace, self
        return self

    def __exit__(self, *error: object) -> None:
        recording.trace = self._before
        if error[0] is None:
            self._collect_effects()
        for held in self.held:
            tensor = held.tensor
            tensor.array, tensor.device = held.array, held.device
            tensor.version, tensor.grad = held.version, held.grad
        for obj, name, before in self._attributes.values():
            setattr(obj, name, before)

    def raise_refused(self) -> None:
        """Raise what was refused, where the traced function has caught it and gone on."""
        if self.refused is not None:
            raise self.refused

    def _collect_effects(self) -> None:
        for held in self.held:
            tensor = held.tensor
            if tensor.array is not held.traced:
                self.effects.append(Effect(held.index, "array", self._var(tensor.array)))
            if tensor.grad is not held.grad:
                grad = None if tensor.grad is None else self._var(tensor.grad.array)
                self.effects.append(Effect(held.index, "grad", grad))
        for obj, name, _ in self._attributes.values():
            asked = self._rates.get(id(obj), (0, None))[1]
            # What a rate is asked from keeps it itself.
            if not self.is_untouched(obj, name) and vars(obj)[name] is not asked:
                self.setters.append((obj, name, vars(obj)[name]))

    def _var(self, array: Any) -> Var:
        if not isinstance(array, Traced):
            raise TraceError("A traced function assigned an array that was not computed from ops.")
        return array.var

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave the trace for a while, for what is made once and stays: slots, parameters."""
        now = [(h, h.tensor.array, h.tensor.grad) for h in self.held]
        for held in self.held:
            held.tensor.array, held.tensor.device = held.array, held.device
            held.tensor.grad = held.grad
        recording.trace = None
        try:
            yield
        finally:
            recording.trace = self
            for held, array, grad in now:
                held.tensor.array, held.tensor.device = array, self.device
                held.tensor.grad = grad

    # Inputs

    def argument(self, tensor: Tensor, sizes: Sequence[Any], name: str) -> Tensor:
        """Return the traced twin of an argument, with some of its sizes as scalars."""
        var = Var(sizes, tensor.dtype, name)
        twin = object.__new__(type(tensor))
        twin.__dict__.update(tensor.__dict__)
        twin.node = None
        held = Held(twin, Traced(self, var), len(self.inputs), self.device)
        self.inputs.append(var)
        self.held.append(held)
        held.enter()
        return twin

    def lift(self, tensor: Tensor) -> None:
        """Make a tensor from outside an input of the trace."""
        if tensor.device is self.device:
            return
        if tensor.device is not self.real:
            raise DeviceError(
                f"A function traced on {self.real.name!r} met an array of shape {tensor.shape} on "
                f"{tensor.device.name!r}. Move it first: x.to({self.real.name!r})."
            )
        if tensor.node is not None and tensor.requires_grad:
            file, number = user_place()
            raise TraceError(
                f"{file}, line {number}: a traced function met a tensor of shape {tensor.shape} "
                f"that was computed outside, with its gradient recorded. Pass it as an argument, "
                f"or x.detach()."
            )
        var = Var(tensor.shape, tensor.dtype, tensor.name or f"captured{len(self.captured)}")
        held = Held(tensor, Traced(self, var), len(self.inputs), self.device)
        self.captured[len(self.inputs)] = tensor
        self.inputs.append(var)
        self.held.append(held)
        held.enter()

    def lift_all(self, inputs: Sequence[Any]) -> None:
        """Make every tensor among an op's inputs part of the trace; `apply` calls this."""
        for x in inputs:
            if isinstance(x, Tensor) and x.device is not self.device:
                self.lift(x)

    def read_grad(self, tensor: Tensor, grad: Tensor | None) -> None:
        """Note that a gradient from before the call is added to, or that there was none."""
        for held in self.held:
            if held.tensor is tensor and grad is held.grad and held.index not in self._reset:
                self.needs_grad[held.index] = grad is not None
                if grad is not None:
                    self.grad_inputs[len(self.inputs)] = held.index
                    self.lift(grad)

    def use_grad(self, tensor: Tensor) -> None:
        """Note that an optimizer reads a gradient, which may be of before the call, or none."""
        if tensor.device is not self.device:
            self.lift(tensor)
        self.read_grad(tensor, tensor.grad)

    def refuse_setting(self, what: str, why: str) -> NoReturn:
        """Raise TraceError for an assignment that each call would have to repeat, and cannot."""
        file, number = user_place()
        raise TraceError(
            f"{file}, line {number}: a function traced by nnx.jit sets {what}, which {why}."
        )

    def forget_grad(self, tensor: Tensor) -> None:
        """Note that a gradient from before the call does not matter."""
        if tensor.device is not self.device:
            self.lift(tensor)
        self._reset |= {held.index for held in self.held if held.tensor is tensor}

    def literal(self, host: Any, dtype: DType) -> Traced:
        """Make numbers that stand in the program an input that never changes."""
        if not host.shape:
            return self.full((), host.item(), dtypes.as_dtype(dtype))
        var = Var(host.shape, dtypes.as_dtype(dtype), f"literal{len(self.literals)}")
        self.literals[len(self.inputs)] = host.astype(var.dtype.name)
        self.inputs.append(var)
        return Traced(self, var)

    def refuse_branch(self) -> NoReturn:
        """Raise TraceError for a condition that depends on values."""
        refuse("a branch on an array (if, while, and, or, not)")

    def host(self, obj: Any) -> Any:
        """Return host data that stands in a traced function, its scalars as plain numbers.

        Raises: TraceError for arrays, which a function would freeze into its trace.
        """
        if isinstance(obj, Scalar):
            return self.facts.pin(obj)
        if isinstance(obj, list | tuple):
            return type(obj)(map(self.host, obj)) if type(obj) in (list, tuple) else obj
        if getattr(obj, "shape", None) != () and not isinstance(
            obj, int | float | list | tuple | Scalar
        ):
            file, number = user_place()
            raise TraceError(
                f"{file}, line {number}: a host array of shape {getattr(obj, 'shape', ())} would "
                f"be frozen into the compiled function. Pass it as an argument, or make it a "
                f"tensor once, outside: nnx.asarray(...)."
            )
        return obj

    # Numbers of the host

    def attribute(self, obj: Any, name: str, value: int | float) -> None:
        """Make a number that an object keeps an input; what is assigned to it is written back."""
        key = (id(obj), name)
        if key not in self._attributes:
            text = f"n{len(self.getters)}"
            self._attributes[key] = (obj, name, value)
            self.getters[text] = functools.partial(getattr, obj, name)
            self._first[key] = made(self.facts, value, text)
            setattr(obj, name, self._first[key])

    def is_untouched(self, obj: Any, name: str) -> bool:
        """Return whether a number that was made an input has not been set since."""
        return vars(obj)[name] is self._first[id(obj), name]

    def number(self, value: float, getter: Getter, name: str = "n") -> Scalar:
        """Return a scalar whose value each call gets from a function."""
        text = f"{name}{len(self.getters)}"
        self.getters[text] = getter
        return made(self.facts, value_of(value), text)

    def rate(self, obj: Any, name: str, ask: Callable[[int], Getter]) -> Any:
        """Return the learning rate that an object keeps under a name, for one more of its steps.

        ``ask(n)`` is what gives it to each call, after n steps before it; but a rate that the
        function has set itself is the one in force.
        """
        value, (done, last) = vars(obj)[name], self._rates.get(id(obj), (0, None))
        if self.is_untouched(obj, name) or value is last:
            value = last = self.number(value, ask(done))
        self._rates[id(obj)] = (done + 1, last)
        return value

    def draw(self, generator: Any, kind: str, settings: tuple[Any, ...], shape: Any, words: int,
             dtype: DType) -> Tensor:  # fmt: skip
        """Return random numbers as eager code would draw them, from counters that are inputs."""
        draws = self.draws.get(id(generator))
        if draws is None:
            draws = self.draws[id(generator)] = Draws(generator, self.facts, len(self.draws))
        sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        n_words = shapes.size(sizes) * words
        block = draws.block + draws.used if not _is_zero(draws.used) else draws.block
        out = self.record(
            DRAW, (),
            {
                "seed": draws.seed, "stream": draws.stream, "block": block, "kind": kind,
                "settings": settings, "shape": sizes, "dtype": dtype,
            },
        )  # fmt: skip
        draws.used = draws.used + (n_words + 3) // 4
        return Tensor(out, self.device)

    def rebinds(self, obj: Any, name: str, value: Any) -> bool:
        """Return whether an attribute's new value was written into its tensor: each call does so.

        Raises: TraceError for what only the trace would set, and no later call.
        """
        if isinstance(value, Tensor) and value.device is self.device:
            old = vars(obj).get(name)
            fits = isinstance(old, Tensor) and not old.requires_grad and (
                same_shape(tuple(old.array.shape), value.array.shape) and old.dtype is value.dtype
            )  # fmt: skip
            if not fits:
                self.refuse_setting(
                    f"{type(obj).__name__}.{name}",
                    "was no tensor of this shape and type before. Make it once, outside, with "
                    "nnx.zeros(...) or nnx.asarray(...); then each call writes into it",
                )
            self.lift_all((old,))
            old.assign(value.array)
            return True
        counts = isinstance(value, int | float | Scalar) and not name.startswith("_")
        if counts and name != "training" and vars(obj).get(name) != value:
            self.refuse_setting(
                f"{type(obj).__name__}.{name}",
                "a call of the compiled function would not do. Set it outside, or keep it in a "
                "tensor of the module",
            )
        return False

    # Objects whose settings the function has read

    def called(self, module: Any, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """Run a module that is called in the trace."""
        self.watch(module)
        return module._enter(inputs, settings)

    def watch(self, obj: Any) -> None:
        """Note an object: when one of its settings changes, the trace no longer holds."""
        self.watched.setdefault(id(obj), obj)

    # Errors

    def record(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> Traced:
        """Note an op; what it refuses is told as eager mode tells it."""
        try:
            made = super().record(op, inputs, attrs)
        except ShapeError:
            self._run_eagerly(op, inputs, attrs)
            raise
        if op.kind == "elementwise" and op.name != "where":
            self._check_types(op, inputs, attrs, made.dtype)
        return made

    def _check_types(self, op: Op, inputs: Sequence[Any], attrs: Attrs, dtype: DType) -> None:
        """Refuse types and numbers that eager mode refuses, such as 300 beside int8."""
        kinds = [x.dtype for x in inputs if isinstance(x, Traced)]
        numbers = [value_of(x) for x in inputs if not isinstance(x, Traced) and x is not None]
        large = any(isinstance(n, int) and not -128 <= n < 128 for n in numbers)
        if all(kind.is_floating for kind in kinds) and not op.name.startswith("bitwise"):
            return
        if not large and not any(kind.kind == "bool" for kind in kinds):
            if not op.name.startswith("bitwise"):
                return
        ones = self.real.backend.creation("ones", self.real.index)
        tried = [
            Tensor(ones(_plain(tuple(x.shape)), dtype=self.real.native(x.dtype)), self.real)
            if isinstance(x, Traced) else value_of(x)
            for x in inputs
        ]  # fmt: skip
        plain = {name: _plain(value) for name, value in attrs.items()}
        try:
            with self.real.scope():
                out = self.real.kernels[op.name](
                    *(x.array if isinstance(x, Tensor) else x for x in tried), **plain
                )
        except Exception as error:
            explain(op, tuple(tried), plain, error)
        got = self.real.dtype_of(out)
        if got is not dtype:
            file, number = user_place()
            raise TraceError(
                f"{file}, line {number}: op {op.name!r} of {', '.join(map(str, kinds))} gives "
                f"{got} in eager mode and {dtype} when compiled. Convert the inputs first: "
                f"x.astype('int64')."
            )

    def _run_eagerly(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> None:
        """Run an op that does not fit on zeros, so that its error is the one of eager mode."""
        tensors: list[Any] = []
        zeros = self.real.backend.creation("zeros", self.real.index)
        for x in inputs:
            if isinstance(x, Traced):
                sizes = tuple(value_of(n) for n in x.shape)
                tensors.append(Tensor(zeros(sizes, dtype=self.real.native(x.dtype)), self.real))
            else:
                tensors.append(value_of(x))
        plain = {name: _plain(value) for name, value in attrs.items()}
        arrays = [x.array if isinstance(x, Tensor) else x for x in tensors]
        try:
            self.real.kernels[op.name](*arrays, **plain)
        except Exception as error:
            explain(op, tuple(tensors), plain, error)

    def graph(self, outputs: Sequence[Var]) -> Graph:
        """Return what was noted as a graph with these outputs."""
        names = [*self.getters, *(name for d in self.draws.values() for name in d.names)]
        return Graph(self.inputs, names, self.eqns, outputs)


def is_traced(x: Any) -> bool:
    """Return whether a value belongs to a trace: a tensor without values, or a scalar."""
    return isinstance(x, Scalar) or (isinstance(x, Tensor) and isinstance(x.array, Traced))


def _plain(x: Any) -> Any:
    if isinstance(x, tuple | list):
        return tuple(_plain(item) for item in x)
    if isinstance(x, slice):
        return slice(*map(_plain, (x.start, x.stop, x.step)))
    return value_of(x)


def _is_zero(x: Any) -> bool:
    return type(x) is int and x == 0


def batch_size(facts: Facts, name: str, n: int) -> Any:
    """Return the size of a leading axis as a scalar; sizes 0 and 1 are traced as they are."""
    return variable(facts, name, n) if n > 1 else n


__all__ = [
    "Effect",
    "Trace",
    "TracingDevice",
    "batch_size",
    "is_traced",
    "tracing",
]
