"""`jit`: a function over tensors, traced once, compiled for its device, and run from then on.

A call is matched to an entry by the structure of its arguments, their types and shapes (but not the
size of the batch), and by what the trace took for granted: see `nnx.scalar.Facts` and `nnx.watch`.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from nnx import passes
from nnx.costs import flops
from nnx.device import Device, default_device
from nnx.errors import DeviceError, TraceError
from nnx.graph import Graph, Var, interpret, pretty, typecheck
from nnx.locks import renew_at_fork
from nnx.native import LARGE, MISSED, Native
from nnx.op import recording
from nnx.precision import get_matmul_precision
from nnx.scalar import Facts, Scalar, evaluator, made, text_of, value_of
from nnx.tape import COMPILED
from nnx.tensor import Tensor, asarray
from nnx.trace import Trace, batch_size, is_traced, tracing
from nnx.watch import Contents, Seen, Watch, device_of

REPORT_AFTER = 3
"""Traces of one function after which a warning says what makes it trace again."""


# Arguments


class _Static:
    """An argument that is part of the trace: compared by value if it can be, else by identity."""

    __slots__ = ("key", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        simple = isinstance(value, str | bytes | bool | int | float | type(None))
        self.key = (type(value).__name__, value if simple else id(value))


class _Call:
    """The leaves of a call's arguments, and the structure around them."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], where: Device | None) -> None:
        self.where = where
        self.tensors: list[Tensor] = []
        self.numbers: list[int | float] = []
        self.statics: list[Any] = []
        self.leads: list[int] = []
        self.structure = self._taken((args, kwargs))

    def _taken(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self._tensor(x)
        kind = type(x)
        if kind in (int, float):
            self.numbers.append(x)
            return ("number", kind.__name__)
        if kind in (list, tuple):
            return (kind.__name__, *(self._taken(item) for item in x))
        if isinstance(x, dict):
            return (kind.__name__, *((key, self._taken(item)) for key, item in x.items()))
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return (kind, *map(self._taken, x))
        if hasattr(x, "__array__") and hasattr(x, "shape"):
            return self._tensor(asarray(x, device=self.where))
        self.statics.append(x)
        return _Static(x).key

    def _tensor(self, x: Tensor) -> Any:
        self.tensors.append(x)
        shape = x.array.shape
        lead: Any = None
        if shape:
            lead = shape[0]
            if lead > 1:
                if lead not in self.leads:
                    self.leads.append(lead)
                lead = ("size", self.leads.index(lead))
        return ("tensor", type(x).__name__, str(x.array.dtype), lead, tuple(shape[1:]),
                x.requires_grad)  # fmt: skip

    def env(self) -> dict[str, Any]:
        """Return the scalars that the arguments bring."""
        env: dict[str, Any] = {_size_name(i): n for i, n in enumerate(self.leads)}
        env.update({f"a{i}": n for i, n in enumerate(self.numbers)})
        return env


def _size_name(i: int) -> str:
    return "B" if i == 0 else f"N{i}"


def _rebuilt(x: Any, tensors: Any, numbers: Any) -> Any:
    """Return arguments with their tensors and numbers replaced in order."""
    kind = type(x)
    if isinstance(x, Tensor) or (hasattr(x, "__array__") and hasattr(x, "shape")):
        return next(tensors)
    if kind in (int, float):
        return next(numbers)
    if kind in (list, tuple):
        return kind(_rebuilt(item, tensors, numbers) for item in x)
    if isinstance(x, dict):
        made = copy.copy(x)
        made.update({key: _rebuilt(item, tensors, numbers) for key, item in x.items()})
        return made
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return kind(*(_rebuilt(item, tensors, numbers) for item in x))
    return x


# Results


class _Results:
    """How a function's results are put together from a graph's outputs."""

    def __init__(self, value: Any, outputs: list[Var]) -> None:
        self._outputs = outputs
        self.make = self._maker(value)

    def _maker(self, x: Any) -> Callable[[Any, dict[str, Any]], Any]:
        if isinstance(x, Tensor):
            if recording.trace is not None:
                recording.trace.lift_all((x,))  # where no op has met it
            array = x.array
            place = len(self._outputs)
            self._outputs.append(array.var)
            if x.requires_grad and x.dtype.is_floating:
                return lambda tensors, env: _without_tape(tensors[place])
            return lambda tensors, env: tensors[place]
        if isinstance(x, Scalar):
            number = evaluator(x.text)
            return lambda tensors, env: number(env)
        if isinstance(x, list | tuple):
            parts = [self._maker(item) for item in x]
            kind = type(x)
            if hasattr(x, "_fields"):
                return lambda tensors, env: kind(*(part(tensors, env) for part in parts))
            return lambda tensors, env: kind(part(tensors, env) for part in parts)
        if isinstance(x, dict):
            items = {key: self._maker(item) for key, item in x.items()}
            return lambda tensors, env: {k: part(tensors, env) for k, part in items.items()}
        if hasattr(x, "__dict__") and any(map(is_traced, vars(x).values())):
            raise TraceError(
                f"A traced function returned a {type(x).__name__} that holds a tensor; the next "
                f"calls could not make it. Return tensors, numbers, and dicts, lists and tuples."
            )
        return lambda tensors, env: x


def _without_tape(result: Tensor) -> Tensor:
    """Mark a result through which a gradient would flow in eager mode: backward() then says no."""
    result.requires_grad = True
    result.node = COMPILED
    return result


class Lowered:
    """A traced function: print it, read its ``source``, ask for its ``stats()``."""

    def __init__(self, entry: _Entry) -> None:
        self._entry = entry
        self.graph = entry.graph

    def __repr__(self) -> str:
        return pretty(self.graph)

    @property
    def lowered(self) -> Graph:
        """The graph in the ops that the compiler knows."""
        return passes.prepared(self.graph, self._entry.device)

    @property
    def source(self) -> str:
        """The generated code; on a device that compiles nothing, its calls written out."""
        program = self._entry.program()
        if hasattr(program, "emission"):  # one for each range of sizes
            return str(program.emission(self._entry.example).source)
        return getattr(program, "source", None) or pretty(self.graph)

    def stats(self) -> dict[str, int]:
        """Return counts of eqns, kernels, FLOPs and bytes, for the sizes of the traced call."""
        return statistics(self.lowered, self._entry)


def statistics(graph: Graph, entry: _Entry) -> dict[str, int]:
    """Return counts for a lowered graph; FLOPs are those of products and of elementwise ops."""

    def sizes(x: Any) -> tuple[int, ...]:
        return tuple(map(value_of, x.shape))

    ends = [*graph.inputs, *graph.outputs]
    result = {
        "eqns": len(graph.eqns),
        "flops": sum(flops(e.op, list(map(sizes, e.vars)), sizes(e.out)) for e in graph.eqns),
        "bytes": sum(math.prod(sizes(x)) * x.dtype.itemsize for x in ends),
    }
    program = entry.program()
    if hasattr(program, "statistics"):
        result |= program.statistics(entry.example)
    return result


# One traced form of a function


class _Entry:
    """A trace, its program, and how a call goes through it."""

    def __init__(
        self, function: Callable[..., Any], call: _Call, args: Any, device: Device
    ) -> None:
        self.device = device
        contents = Contents(function, call.statics)
        leak = None
        try:
            trace, results, outputs = _traced(function, call, args, device)
        finally:
            leak = contents.leaked(is_traced)
        if leak is not None:
            raise TraceError(
                f"{_name_of(function)} keeps a tensor of the trace in {leak} from outside; later "
                f"calls would not. Return the tensor, or write into one that was made outside."
            )
        self.results = results
        self.n_results = len(outputs)
        self.effects = trace.effects
        outputs += [effect.var for effect in self.effects if effect.var is not None]
        self.names = [_size_name(i) for i in range(len(call.leads))]
        self.names += [f"a{i}" for i in range(len(call.numbers))]
        self.graph = trace.graph(outputs)
        self.graph.scalars = [*self.names, *self.graph.scalars]
        typecheck(self.graph)
        self._lowered: Graph | None = None
        if device.backend.compile is not None:
            # Before the facts are read: lowering may take more for granted.
            self._lowered = passes.prepared(self.graph, device)
            typecheck(self._lowered)
        self.getters = list(trace.getters.items())
        self.setters = [(obj, name, evaluator(text_of(s))) for obj, name, s in trace.setters]
        self.setter_texts = [text_of(s) for _, _, s in trace.setters]
        self.draws = [
            (d.generator, d.names, evaluator(text_of(d.used))) for d in trace.draws.values()
        ]
        self.n_arguments = len(call.tensors)
        self._statics = [Seen(x) for x in call.statics]
        self.captured = {i: weakref.ref(t) for i, t in trace.captured.items()}
        self.forms = {i: (t.array.shape, t.array.dtype) for i, t in trace.captured.items()}
        self.tracked = {i: t.requires_grad for i, t in trace.captured.items()}
        self.grads = dict(trace.grad_inputs)
        self.needs_grad = dict(trace.needs_grad)
        self.literals = {
            i: device.backend.asarray(host, device.native(self.graph.inputs[i].dtype), device.index)
            for i, host in trace.literals.items()
        }
        self.required = dict(trace.facts.required)
        self.holds = trace.facts.holds() if self.required else None
        self.watch = Watch(trace.watched, function, call.statics)
        self.owners = self._owners_of_gradients(trace)
        self.example = self.env(call)
        self.kinds = {name: isinstance(value, int) for name, value in self.example.items()}
        self.varying = self.kinds.keys() - {_size_name(i) for i in range(len(call.leads))}
        self._program: Any = None
        self._run: Any = None
        del trace
        gone = [self.graph.inputs[i] for i, t in self.captured.items() if self._found(i, t) is None]
        if gone:
            raise TraceError(
                f"A traced function made an array of shape {gone[0].shape} from host data inside "
                f"itself; it would be frozen into the compiled function. Pass it as an argument, "
                f"or make it once, outside."
            )

    def _owners_of_gradients(self, trace: Trace) -> dict[int, weakref.ref[Tensor]]:
        """Return whose ``grad`` an input is that the function has read there by itself."""
        known = [*self.watch.tensors(), *trace.captured.values()]
        graded = {id(x.grad): x for x in known if x.grad is not None}
        found = {}
        for i, tensor in trace.captured.items():
            if id(tensor) in graded and i not in self.grads:
                found[i] = weakref.ref(graded[id(tensor)])
        return found

    def env(self, call: _Call) -> dict[str, Any]:
        """Return the scalars of a call; random numbers are claimed by `claim`."""
        env = call.env()
        for name, getter in self.getters:
            env[name] = getter()
        for generator, names, _ in self.draws:
            env.update(zip(names, generator.state_dict().values(), strict=True))
        return env

    @property
    def is_dead(self) -> bool:
        """Whether something that it works on is gone."""
        return any(t() is None for i, t in self.captured.items() if i not in self.owners) or any(
            seen.is_gone for seen in self._statics
        )

    def broken(self, env: dict[str, Any], call: _Call) -> str | None:
        """Return why this entry does not serve a call, None if it does."""
        for seen, given in zip(self._statics, call.statics, strict=True):
            if not seen.is_(given):
                return "an argument is another object"
        arguments = call.tensors
        reason = self.watch.broken()
        if reason is not None:
            return reason
        if self.holds is not None and not self.holds(env):
            failed = [text for text, yes in self.required.items() if evaluator(text)(env) != yes]
            return f"{failed[0]} was {self.required[failed[0]]} and is not any more"
        for index, reference in self.captured.items():
            tensor = self._found(index, reference)
            if tensor is None:
                return "a tensor that the function used is gone"
            if tensor.requires_grad != self.tracked[index]:
                return "a tensor requires a gradient and did not, or the other way round"
            if (tensor.array.shape, tensor.array.dtype) != self.forms[index]:
                return "a tensor that the function uses has another shape or type"
        for index, had in self.needs_grad.items():
            tensor = arguments[index] if index < self.n_arguments else self.tensor(index)
            if (tensor.grad is not None) != had:
                return "a parameter has a gradient where it had none, or the other way round"
        return None

    def _found(self, index: int, reference: weakref.ref[Tensor]) -> Tensor | None:
        if index not in self.owners:
            return reference()
        owner = self.owners[index]()
        return None if owner is None else owner.grad

    def tensor(self, index: int) -> Tensor:
        """Return the tensor from outside that an input of the graph is."""
        tensor = self._found(index, self.captured[index])
        if tensor is None:
            raise TraceError("A tensor that a compiled function used is gone.")
        return tensor

    def updates(self) -> dict[int, int]:
        """Return which outputs replace which inputs."""
        found, place = {}, self.n_results
        for effect in self.effects:
            if effect.var is not None:
                if effect.kind == "array" and effect.index in self.captured:
                    found[place] = effect.index
                place += 1
        return found

    def program(self) -> Any:
        """Return the program, compiled at its first use."""
        if self._program is None:
            compile_graph = self.device.backend.compile
            if compile_graph is None or self._lowered is None:
                from nnx.planned import Planned

                self._program = Planned(self.graph, self.device)
            else:
                with self.device.scope():
                    self._program = compile_graph(self._lowered, self.updates(), self.kinds)
        return self._program

    def inputs(self, arguments: Sequence[Tensor]) -> list[Tensor | Any]:
        """Return what each input of the graph is in a call: tensors, or arrays of literals."""
        found: list[Any] = list(arguments)
        for i in range(self.n_arguments, len(self.graph.inputs)):
            if i in self.grads:
                owner = self.grads[i]
                holder = found[owner] if owner < self.n_arguments else self.tensor(owner)
                found.append(holder.grad)
            elif i in self.captured:
                found.append(self.tensor(i))
            else:
                found.append(self.literals[i])
        return found

    def run(self, call: _Call, env: dict[str, Any]) -> Any:
        """Run a call: nothing is assigned, and no random number used, unless all of it succeeds."""
        inputs = self.inputs(call.tensors)
        program = self.program()
        if self._run is None:
            from nnx.execute import Plain

            self._run = (Native if hasattr(program, "setting") else Plain)(self)
        claims = self.claim(env)
        try:
            tensors = self._run(inputs, env)
        except MemoryError as error:
            self._give_back(claims)
            largest = program.largest(env) if hasattr(program, "largest") else ""
            whose = f", whose largest result is that of {largest}," if largest else ""
            raise self.device.out_of_memory(f"A compiled step{whose}", error) from None
        except BaseException:
            self._give_back(claims)
            raise
        for obj, name, value in self.setters:
            vars(obj)[name] = value(env)
        return self.results.make(tensors, env)

    def claim(self, env: dict[str, Any]) -> list[tuple[Any, int, int]]:
        """Claim the random numbers of a call; return generators, first blocks and counts."""
        claims = []
        for generator, names, used in self.draws:
            n = used(env)
            seed, stream, block = generator.reserve(n)
            env.update(zip(names, (seed, stream, block), strict=True))
            claims.append((generator, block, n))
        return claims

    @staticmethod
    def _give_back(claims: Sequence[tuple[Any, int, int]]) -> None:
        for generator, first, n in claims:
            generator.give_back(first, n)

    def repeat(self, call: _Call, args: Sequence[Any], env: dict[str, Any]) -> Any:
        """Return what serves the next call if it is like this one; None where there is no such."""
        return self._run.repeat(call, args, env) if hasattr(self._run, "repeat") else None

    def explain(self, inputs: Sequence[Any], env: dict[str, Any]) -> None:
        """Raise what eager mode says of values that a compiled step has refused."""
        arrays = [x.array if isinstance(x, Tensor) else x for x in inputs]
        interpret(self.graph, self.device, arrays, env)
        raise TraceError(
            "The compiled function refused a value that the interpreted one takes. This is a fault "
            "of nnx: please report it with the printed f.lower(...)."
        )


def _traced(
    function: Callable[..., Any], call: _Call, args: Any, device: Device
) -> tuple[Trace, _Results, list[Var]]:
    """Trace a call; once more where Python needed a size as a number, with that size fixed."""
    fixed: set[str] = set()
    while True:
        with Trace(device) as trace:
            sizes = {
                n: n if _size_name(i) in fixed else batch_size(trace.facts, _size_name(i), n)
                for i, n in enumerate(call.leads)
            }
            twins = []
            for i, tensor in enumerate(call.tensors):
                shape = tuple(tensor.array.shape)
                shape = (sizes.get(shape[0], shape[0]), *shape[1:]) if shape else shape
                twins.append(trace.argument(tensor, shape, f"x{i}"))
            numbers = [_number(trace.facts, f"a{i}", n) for i, n in enumerate(call.numbers)]
            given, named = _rebuilt(args, iter(twins), iter(numbers))
            value = function(*given, **named)
            trace.raise_refused()
            outputs: list[Var] = []
            results = _Results(value, outputs)
        pinned = trace.facts.pinned & {_size_name(i) for i in range(len(call.leads))} - fixed
        if not pinned:
            for name in fixed:
                n = call.leads[0 if name == "B" else int(name[1:])]
                trace.facts.require(f"{name} == {n}", True)
            return trace, results, outputs
        fixed |= pinned


def _number(facts: Facts, name: str, n: int | float) -> Any:
    """Return a number of the caller as a scalar, or as it is where whole ones may overflow."""
    if isinstance(n, int):
        if abs(n) >= LARGE:
            facts.require(f"{name} == {n}", True)
            return n
        facts.require(f"-{LARGE} < {name} < {LARGE}", True)
    return made(facts, n, name)


class Function:
    """What `jit` returns: the function, its traced forms, and the last one used."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._entries: dict[Any, list[_Entry]] = {}
        self._traces = 0
        self._lock = threading.RLock()
        renew_at_fork(self, "_lock", threading.RLock)
        self.repeat: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the compiled function; trace and compile it first if no earlier form fits."""
        if recording.trace is not None:
            return self._function(*args, **kwargs)
        with self._lock:
            if self.repeat is not None and not kwargs:
                result = self.repeat.call(args)
                if result is not MISSED:
                    return result
            self.repeat = None
            call = _Call(args, kwargs, None)
            entry, env = self._entry(call, (args, kwargs))
            result = entry.run(call, env)
            if not kwargs:
                self.repeat = entry.repeat(call, args, env)
            return result

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else functools.partial(self, owner)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Return the traced graph of these arguments, without running it."""
        with self._lock:
            return Lowered(self._entry(_Call(args, kwargs, None), (args, kwargs))[0])

    def _entry(self, call: _Call, args: Any) -> tuple[_Entry, dict[str, Any]]:
        device = self._device(call)
        key = (device, call.structure, recording.on, get_matmul_precision())
        reason = "" if not self._entries else _new(call.structure, list(self._entries))
        entries = self._entries.setdefault(key, [])
        for entry in entries:
            env = entry.env(call)
            broken = entry.broken(env, call)
            if broken is None:
                return entry, env
            reason = broken
        try:
            with tracing:
                entry = _Entry(self._function, call, args, device)
        finally:
            if not entries:
                self._entries.pop(key, None)
        self._drop_dead()
        self._entries.setdefault(key, entries).append(entry)
        if len(entries) > 8:
            entries.pop(0)
        self._traces += 1
        if self._traces > REPORT_AFTER:
            warnings.warn(
                f"{_name_of(self._function)} was traced {self._traces} times, the last time "
                f"because {reason}. Each trace compiles anew. Pass what changes as an argument, or "
                f"keep shapes and types of the arguments alike.",
                stacklevel=4,
            )
        return entry, entry.env(call)

    def _drop_dead(self) -> None:
        """Forget forms whose networks are gone, and the memory that they hold."""
        for key, entries in list(self._entries.items()):
            entries[:] = [entry for entry in entries if not entry.is_dead]
            if not entries:
                del self._entries[key]

    def __reduce__(self) -> Any:
        # A decorated function is found by its name; what is compiled is not copied.
        module = sys.modules.get(self._function.__module__)
        name = getattr(self._function, "__qualname__", "")
        return name if getattr(module, name, None) is self else (jit, (self._function,))

    def _device(self, call: _Call) -> Device:
        found: Device | None = None
        for x in call.tensors:
            if found is not None and x.device is not found:
                raise DeviceError(
                    f"A jitted function got arrays on {found.name!r} and on {x.device.name!r}. "
                    f"Move them to one device first: x.to({found.name!r})."
                )
            found = x.device
        if found is not None:
            return found
        for x in call.statics:
            if hasattr(x, "named_parameters"):
                return x.device  # type: ignore[no-any-return]
        return device_of(self._function) or default_device()


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _new(structure: Any, before: list[Any]) -> str:
    return f"the arguments were new: {structure[1:]}, before {before[-1][1][1:]}"


def jit(function: Callable[..., Any]) -> Function:
    """Return a function that is traced at its first call, compiled for its device, and then run.

    Arguments and results are tensors, numbers, modules, optimizers, and dicts, lists and tuples of
    them. Parameters, slots, random numbers and other tensors that the function meets are inputs;
    what it assigns to them is written back after the call. A new batch size does not trace again;
    a new structure, type or shape does, and so does a change of what the function reads of Python:
    settings of modules and objects, globals, closures, lists and dicts of up to 256 items.
    Raises: TraceError where the function needs the value of an array, keeps a tensor of the trace,
    or cannot be compiled; GradientError, at backward(), for a gradient through its results.

    >>> import nnx
    >>> @jit
    ... def f(x):
    ...     return nnx.sum(x * x)
    >>> f(nnx.asarray([1.0, 2.0, 3.0])).item()
    14.0
    """
    return Function(function)


__all__ = ["Function", "Lowered", "jit"]
