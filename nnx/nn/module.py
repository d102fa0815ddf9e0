"""Module: a network, or a part of one, as a tree of parameters and further modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from nnx import random
from nnx.device import Device, default_device, device
from nnx.dtypes import DType, as_dtype
from nnx.errors import DataError, ShapeError
from nnx.host import to_host
from nnx.nn import symbol
from nnx.op import changes, recording
from nnx.shapes import Shape
from nnx.tensor import Parameter, Tensor, asarray

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

Part = tuple[str, "Module | Parameter | Buffer"]


class Buffer(Tensor):
    """A tensor of a layer that is saved and moved with it, but not learned."""

    def __init__(self, array: Any, device: Device | None = None) -> None:
        if device is None:
            made = asarray(array)
            array, device = made.array, made.device
        super().__init__(array, device)


class Module:
    """The base of layers and networks: write ``forward``, assign parts to ``self``.

    Parameters are found where they are assigned, in that order: `Parameter` and `Module`
    attributes, and lists, tuples and dicts of them. Their keys are paths such as ``hidden.weight``.
    A layer that needs its input's size makes its parameters in ``build(*inputs)``, which runs once,
    before the first ``forward``. The first call also tells every layer its path, so that messages
    can name it; if it fails, the layers are as they were. Later calls do nothing but ``forward``.

    >>> class Twice(Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> Twice()([1.0, 3.0]).tolist()
    [2.0, 6.0]
    """

    training: bool = True

    # Class attributes, so that a subclass need not call super().__init__().
    _built: bool = True
    _called: bool = False  # its first call, and so all that is done once, is behind it
    _name: str | None = None  # what a user has called it, for `nnx.nn.Model`
    _path: str | None = None  # None until a first call has named the tree
    _output_shape: Shape | None = None  # without the batch axis
    _example: tuple[Any, ...] | None = None  # shapes and types of the first call's inputs
    _target: Device | None = None  # what `to` asked for, for parameters that are not yet made
    _target_dtype: DType | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if recording.trace is not None and recording.trace.rebinds(self, name, value):
            return
        object.__setattr__(self, name, value)
        changes.n += 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls):
            cls._built = False

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        """Return the outputs for tensors on this module's device; written by each module."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, x). Write one.")

    def build(self, *inputs: Any) -> None:
        """Make the parameters that depend on the sizes of the first inputs."""

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """Return ``forward`` of the inputs; host arrays are brought to this module's device.

        Host floats take the type of the parameters; tensors and integers keep theirs. Of symbols
        it returns symbols, see `nnx.nn.Model`.
        """
        if recording.trace is not None:
            return recording.trace.called(self, inputs, settings)
        if self._called and not settings:
            for x in inputs:
                if type(x) is not Tensor:
                    break
            else:
                return self.forward(*inputs)
        return self._enter(inputs, settings)

    # The first call

    def _enter(self, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """Bring inputs here; at the first call also name the tree and build this module."""
        if symbol.found_in((inputs, settings)):
            return symbol.call(self, inputs, settings)
        inputs = tuple(_received(self, x) for x in inputs)
        if self._called:
            return self.forward(*inputs, **settings)
        if self._path is not None:
            return self._first_call(inputs, settings)
        with self._undone_on_error():
            self._name_tree()
            return self._first_call(inputs, settings)

    def _first_call(self, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        if not self._built:
            with _outside_of_traces():
                self.build(*inputs)
            self._built = True
            self._name_parameters()
        result = self.forward(*inputs, **settings)
        self._example = _forms((inputs, settings))
        if isinstance(result, Tensor):
            self._output_shape = result.shape[1:]
        self._called = True
        return result

    def _name_tree(self) -> None:
        """Tell every module its path and every parameter its key, for messages."""
        for path, module in self.named_modules():
            module._path = path
            module._name_parameters()

    def _name_parameters(self) -> None:
        prefix = f"{self._path}." if self._path else ""
        for name, part in self._members():
            if isinstance(part, Parameter | Buffer):
                part.name = prefix + name

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Leave modules unbuilt, and the generator as it was, when a first call fails.

        Else a first batch of the wrong shape would fix the sizes of the layers that it got through.
        """
        if self.built:
            yield
            return
        before = [(module, dict(vars(module))) for _, module in self.named_modules()]
        state = random.default_generator().state_dict()
        try:
            yield
        except BaseException:
            for module, attributes in before:
                vars(module).clear()
                vars(module).update(attributes)
            random.default_generator().load_state_dict(state)
            raise

    def _label(self) -> str:
        """Return what messages call this module: its class, and its path where it has one."""
        name = self._path or self._name
        return f"{type(self).__name__} {name!r}" if name else type(self).__name__

    # Parts

    def _members(self) -> Iterator[Part]:
        """Yield the direct parts, in the order of their definition."""
        for name, value in vars(self).items():
            yield from _parts(name, value)

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[Part]:
        """Yield this module and all parts below it, each once, with their paths."""
        seen.add(id(self))
        yield prefix, self
        for name, part in self._members():
            if id(part) in seen:
                continue
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(part, Module):
                yield from part._walk(path, seen)
            else:
                seen.add(id(part))
                yield path, part

    def named_modules(self) -> list[tuple[str, Module]]:
        """Return this module (path ``""``) and all modules below it, with their paths."""
        return [(path, part) for path, part in self._walk("", set()) if isinstance(part, Module)]

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Return the parameters with their keys; one that is shared comes once, under its first.

        Raises: DataError where a layer has not yet seen an input that would tell its sizes.
        """
        self._check_built()
        return [(path, part) for path, part in self._walk("", set()) if isinstance(part, Parameter)]

    def parameters(self) -> list[Parameter]:
        """Return the parameters, in the order of their definition; see `named_parameters`."""
        return [part for _, part in self.named_parameters()]

    def _saved(self) -> list[tuple[str, Parameter | Buffer]]:
        self._check_built()
        return [(key, p) for key, p in self._walk("", set()) if not isinstance(p, Module)]

    @property
    def built(self) -> bool:
        """Whether all parameters are there: given sizes, or told by a first input."""
        return all(module._built for _, module in self.named_modules())

    def _check_built(self) -> None:
        for path, module in self.named_modules():
            if not module._built:
                where = f" {path!r}" if path else ""
                raise DataError(
                    f"{type(module).__name__}{where} has no parameters yet: it takes its size from "
                    f"its first input. Call the model on an example first, or give in_features."
                )

    # State

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters and buffers by key, as NumPy arrays, in order."""
        import numpy as np

        return {key: np.array(part.numpy()) for key, part in self._saved()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write the arrays of a `state_dict` into the parameters and buffers: all, or none.

        Each keeps its device and data type. Raises: ShapeError that lists keys which are missing,
        keys which are unknown, and shapes which differ; DataError before the module is built.
        """
        parts = dict(self._saved())
        hosts = {
            key: value.numpy() if isinstance(value, Tensor) else to_host(value, key)
            for key, value in state.items()
        }
        _check_state(self, parts, hosts)
        made = [
            asarray(hosts[key], dtype=part.dtype, device=part.device, copy=True)
            for key, part in parts.items()
        ]
        for part, new in zip(parts.values(), made, strict=True):
            part.assign(new.array)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write architecture and parameters to a file that `nnx.nn.load` reads.

        Of a network with classes or functions of one's own the file has the parameters alone: build
        it in code again, and `load` them.
        """
        from nnx import checkpoint

        checkpoint.save(self, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read the parameters of a file of `save` into this network: all, or none.

        Raises: CheckpointError for a file that is missing or damaged, or whose keys or shapes
        differ from the network's, which are named; DataError before the module is built.
        """
        from nnx import checkpoint

        checkpoint.load_weights(path, self)

    # Mode and place

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below it in training mode, or out of it; return it."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below it in the mode for predictions; return it."""
        return self.train(False)

    def to(self, target: str | Device | DType) -> Self:
        """Move all parameters, in place, to a device or a floating data type; return the module.

        Layers that are not yet built remember it. The parameters stay the same objects, so that an
        optimizer goes on with them.
        """
        where = None if isinstance(target, DType | type) else device(target)
        dtype = as_dtype(target) if where is None else None
        if dtype is not None and not dtype.is_floating:
            raise DataError(f"Parameters have a floating type, not {dtype}. Try nnx.float64.")
        found = [part for _, part in self._walk("", set())]
        tensors: list[Tensor] = [part for part in found if not isinstance(part, Module)]
        tensors += [part.grad for part in tensors if part.grad is not None]
        moved = [
            asarray(t.numpy(), dtype=dtype or t.dtype, device=where or t.device, copy=True)
            for t in tensors
        ]
        for tensor, new in zip(tensors, moved, strict=True):
            tensor.device = new.device
            tensor.assign(new.array)
        for part in found:
            if isinstance(part, Module):
                part._target = where or part._target
                part._target_dtype = dtype or part._target_dtype
        return self

    @property
    def device(self) -> Device:
        """Where the parameters are; before there are any, where they will be made."""
        first = self._first_parameter()
        return self._target or default_device() if first is None else first.device

    def _first_parameter(self) -> Parameter | None:
        parts = (part for _, part in self._walk("", set()))
        return next((part for part in parts if isinstance(part, Parameter)), None)

    # Training and looking

    def compile(self, *args: Any, **settings: Any) -> None:
        """Set optimizer, loss, metrics and device for `fit`; see `nnx.fit.compile_model`."""
        from nnx import fit

        fit.compile_model(self, *args, **settings)

    def fit(self, *args: Any, **settings: Any) -> Any:
        """Train on arrays or batches and return the history; see `nnx.fit.fit`."""
        from nnx import fit

        return fit.fit(self, *args, **settings)

    def evaluate(self, *args: Any, **settings: Any) -> Any:
        """Return loss and metrics by name; see `nnx.fit.evaluate`."""
        from nnx import fit

        return fit.evaluate(self, *args, **settings)

    def predict(self, *args: Any, **settings: Any) -> Any:
        """Return the outputs for host arrays as a NumPy array; see `nnx.fit.predict`."""
        from nnx import fit

        return fit.predict(self, *args, **settings)

    def train_on_batch(self, *args: Any, **settings: Any) -> dict[str, float]:
        """Do one step; return loss and metrics by name; see `nnx.by_batch.train_on_batch`."""
        from nnx import by_batch

        return by_batch.train_on_batch(self, *args, **settings)

    def test_on_batch(self, *args: Any, **settings: Any) -> dict[str, float]:
        """Return a batch's loss and metrics by name; see `nnx.by_batch.test_on_batch`."""
        from nnx import by_batch

        return by_batch.test_on_batch(self, *args, **settings)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for a batch as a NumPy array."""
        from nnx import by_batch

        return by_batch.predict_on_batch(self, x)

    def summary(self) -> None:
        """Print a table: layer, output shape, parameters, FLOPs and bytes of an example, totals.

        The last two count a forward pass: FLOPs are 2 m n k of a product and one an element of
        other ops, bytes those of the parameters and of all results.
        """
        from nnx.nn.summary import table

        print(table(self))

    def __repr__(self) -> str:
        inside = [(name, part) for name, part in self._members() if isinstance(part, Module)]
        if not inside:
            return f"{type(self).__name__}({self._settings_text()})"
        lines = [f"  ({name}): " + repr(part).replace("\n", "\n  ") for name, part in inside]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def _repr_html_(self) -> str:
        from nnx.viz import notebook

        return notebook.of_module(self)

    def _settings_text(self) -> str:
        return ""


def _outside_of_traces() -> contextlib.AbstractContextManager[None]:
    """Return a context in which what is made is real and stays, also in a traced function."""
    trace = recording.trace
    return contextlib.nullcontext() if trace is None else trace.suspended()


def _parts(name: str, value: Any) -> Iterator[Part]:
    """Yield what an attribute holds of parameters, buffers and modules."""
    if isinstance(value, Parameter | Buffer | Module):
        yield name, value
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _parts(f"{name}.{i}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _parts(f"{name}.{key}", item)


class Form(NamedTuple):
    """What is known of an input after a call: its shape without the batch, and its type."""

    shape: Shape
    dtype: DType


def _forms(tree: Any) -> Any:
    """Return the forms of tensors in a structure; None where there is something else in it."""
    if isinstance(tree, Tensor):
        return Form(tree.shape[1:], tree.dtype) if tree.shape else None
    if isinstance(tree, dict):
        found: Any = {key: _forms(item) for key, item in tree.items()}
        return None if None in found.values() else found
    if type(tree) in (list, tuple):
        found = type(tree)(map(_forms, tree))
        return None if None in found else found
    return None


def _received(module: Module, x: Any) -> Any:
    """Return host data as a tensor on the module's device; other arguments pass."""
    if isinstance(x, Tensor) or not (
        isinstance(x, list) or hasattr(x, "__array__") or hasattr(x, "__dlpack__")
    ):
        return x
    if isinstance(x, list) and any(isinstance(item, Tensor) for item in x):
        return x
    host = to_host(x, module._label())
    dtype: DType | None = None
    if host.dtype.kind == "f":
        first = module._first_parameter()
        dtype = first.dtype if first is not None else module._target_dtype or as_dtype("float32")
    return asarray(host, dtype=dtype, device=module.device)


def _check_state(
    module: Module, parts: Mapping[str, Parameter | Buffer], hosts: Mapping[str, NDArray[Any]]
) -> None:
    missing = [key for key in parts if key not in hosts]
    unknown = [key for key in hosts if key not in parts]
    differing = [
        f"{key} is {parts[key].shape}, got {host.shape}"
        for key, host in hosts.items()
        if key in parts and host.shape != parts[key].shape
    ]
    problems = [
        f"{what}: {', '.join(items)}"
        for what, items in (
            ("missing", missing), ("unknown", unknown), ("other shapes", differing),
        )
        if items
    ]  # fmt: skip
    if problems:
        raise ShapeError(
            f"load_state_dict: the arrays do not fit {type(module).__name__}; nothing was changed. "
            f"{'; '.join(problems)}. Build the model as it was when the arrays were saved."
        )
