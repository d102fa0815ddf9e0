"""Optimizer: what takes a step, over any update rule.

A rule is one method, ``update(param, grad, slots)``. The built-in ones and a user's own are written
in the same form and run by the same code.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NoReturn, Protocol, TypedDict, Unpack

import nnx
from nnx import dtypes
from nnx.device import Device
from nnx.errors import DataError, DeviceError, DTypeError, ShapeError, did_you_mean
from nnx.host import to_host
from nnx.op import changes, recording
from nnx.optim import scaling
from nnx.scalar import Scalar
from nnx.tensor import Tensor, asarray

Schedule = Callable[[int], float]
Rate = float | Schedule
Slots = dict[str, Any]


class HasParameters(Protocol):
    """A module, or anything else that has parameters."""

    def parameters(self) -> Iterable[Tensor]:
        """Return the parameters."""


Params = Iterable[Tensor] | HasParameters


class Clip(TypedDict, total=False):
    """What is done with gradients first: every optimizer takes these settings, one to clip."""

    clip_norm: float | None
    clip_value: float | None
    loss_scale: float | None


class _Entry:
    """A parameter and its slots."""

    __slots__ = ("param", "slots")

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self.slots: dict[str, Tensor] = {}


Change = tuple[Tensor, Any]
"""A parameter or a slot, and its new array."""


class _Rate:
    """The rate of the step after ``more`` further ones, for a compiled function to ask for."""

    def __init__(self, optimizer: Optimizer, more: int) -> None:
        self._optimizer, self._more = optimizer, more

    @property
    def steady(self) -> bool:
        """Whether it is the same for every step."""
        return self._optimizer._schedule is None

    def __call__(self) -> float:
        """Return the rate; it is then the one in force."""
        optimizer = self._optimizer
        if optimizer._schedule is not None:
            rate = optimizer._schedule(optimizer.step_count + self._more)
            optimizer._lr = optimizer._checked_rate(rate)
        return optimizer._lr


def _rate_first(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor whose first argument is ``params`` be called with the rate first."""
    if init.__code__.co_varnames[1:2] != ("params",):
        return init

    @functools.wraps(init)
    def called(self: Optimizer, *args: Any, **settings: Any) -> None:
        if args and _is_rate(args[0]):
            args = (None, *args)
        init(self, *args, **settings)

    return called


def _is_rate(x: Any) -> bool:
    return isinstance(x, numbers.Real) or (callable(x) and not hasattr(x, "parameters"))


class Optimizer:
    """The base of optimizers: subclass it and write ``update``.

    ``update(param, grad, slots)`` returns the parameter's new value. It may read ``self.lr`` and
    ``self.step_count`` (1 in the first step), and read and replace what `init_slots` put into
    ``slots``. It is written in nnx ops and changes nothing in place. So it is a function of
    tensors, which a compiler can trace.

    ``over_arrays = True`` says that ``update`` uses operators and the functions of ``self.xp``
    alone. It is then run over the device's own arrays, with ``self.xp`` their library, which is
    several times faster for small parameters; over tensors ``self.xp`` is ``nnx``.

    The first argument is the parameters (a module, or a list of them), or, where those follow later
    with `bind`, the learning rate: ``SGD(model.parameters(), 0.01)`` or ``SGD(0.01)``. A rate is a
    number or a function of the number of steps done; see `nnx.optim.schedules`.

    ``clip_norm`` shrinks all gradients together where the root of the sum of all their squares is
    larger: each times min(1, clip_norm / (norm + 1e-6)), as PyTorch's ``clip_grad_norm_`` and
    Keras's ``global_clipnorm``. ``clip_value`` moves each number of a gradient into -clip_value to
    clip_value. Either is done before ``update``, and so before weight decay; ``grad`` stays.

    ``loss_scale`` (2**15, say) keeps gradients inside the range of products in float16: call
    ``optimizer.scaled(loss).backward()``, as `fit` does. `step` divides by the scale. Where a
    gradient is not finite it changes no parameter and halves the scale; after 2,000 finite steps
    it doubles it. ``step_count`` counts skipped steps too.

    >>> class Signs(Optimizer):
    ...     def update(self, param, grad, slots):
    ...         return param - self.lr * nnx.sign(grad)
    >>> w = nnx.Parameter([1.0, 2.0])
    >>> (w * w).sum().backward()
    >>> Signs([w], lr=0.5).step()
    >>> w.tolist()
    [0.5, 1.5]
    """

    default_lr: ClassVar[float] = 1e-3
    over_arrays: ClassVar[bool] = False

    xp: Any = nnx
    step_count: int = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    loss_scale: float | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name != "step_count" and name != "_lr" and name != "xp":
            changes.n += 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _rate_first(cls.__init__)  # type: ignore[method-assign]

    @_rate_first
    def __init__(
        self, params: Params | Rate | None = None, lr: Rate | None = None, **clip: Unpack[Clip]
    ) -> None:
        for name in clip.keys() - Clip.__annotations__.keys():
            settings = inspect.signature(type(self)).parameters.keys() - {"clip", "settings"}
            hint = did_you_mean(name, settings | Clip.__annotations__.keys())
            raise DataError(f"{self._kind} has no setting {name!r}. {hint}")
        self.loss_scale = scaling.checked_scale(self._kind, clip.get("loss_scale"))
        self._scaling: dict[str, Tensor] = {}
        self.clip_norm, self.clip_value = self._checked_clip(
            clip.get("clip_norm"), clip.get("clip_value")
        )
        self._entries: list[_Entry] = []
        self._slots_made = False
        self._schedule: Schedule | None = None
        self.lr = self.default_lr if lr is None else lr
        if params is not None:
            self.bind(params)  # type: ignore[arg-type]

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return the new value of a parameter; written by each optimizer."""
        raise NotImplementedError(f"{type(self).__name__} has no update(param, grad, slots).")

    def init_slots(self, param: Tensor) -> dict[str, Tensor]:
        """Return what is kept between the steps for one parameter, by name, at its start."""
        return {}

    # What it works on

    def bind(self, params: Params) -> Optimizer:
        """Take the parameters to work on, once; return the optimizer.

        Raises: DataError if there are none, or others were bound before; DTypeError for anything
        that is not learned.
        """
        found = list({id(p): p for p in _listed(params)}.values())
        if not found:
            raise DataError(f"{self._kind} got no parameters. Give it model.parameters().")
        for p in found:
            if not isinstance(p, Tensor) or p.node is not None or not p.dtype.is_floating:
                raise DTypeError(
                    f"{self._kind} takes parameters (an nnx.Parameter, or a floating tensor that "
                    f"was computed from no other), got {_brief(p)}."
                )
        if self._entries:
            if {id(p) for p in found} == {id(entry.param) for entry in self._entries}:
                return self
            raise DataError(
                f"This {self._kind} works on other parameters already. Make a new one for these."
            )
        self._entries = [_Entry(p) for p in found]
        self._slots_made = False
        return self

    @property
    def bound(self) -> bool:
        """Whether it has parameters to work on."""
        return bool(self._entries)

    @property
    def params(self) -> list[Tensor]:
        """The parameters that it works on."""
        return [entry.param for entry in self._entries]

    @property
    def has_schedule(self) -> bool:
        """Whether a function of the steps sets the rate."""
        return self._schedule is not None

    @property
    def lr(self) -> float:
        """The learning rate in force: of the last step, or of the first if there was none.

        It can be set to a number or to a function of the number of steps done.
        Raises: DataError unless it is finite and 0 or more.
        """
        if recording.trace is not None:
            recording.trace.attribute(self, "_lr", self._lr)
        return self._lr

    @lr.setter
    def lr(self, rate: Rate) -> None:
        if recording.trace is not None and not callable(rate):
            self._trace_rate(recording.trace, rate)
        elif callable(rate):
            self._lr = self._checked_rate(rate(self.step_count))
            self._schedule = rate
        else:
            self._lr = self._checked_rate(rate)
            self._schedule = None

    def _trace_rate(self, trace: Any, rate: Any) -> None:
        """Set the rate inside a trace: each call then sets it, after what it computes."""
        if self._schedule is not None:
            trace.refuse_setting(f"{self._kind}.lr", "has a schedule; change the schedule outside")
        trace.attribute(self, "_lr", self._lr)
        vars(self)["_lr"] = rate if isinstance(rate, Scalar) else self._checked_rate(rate)

    def _checked_rate(self, rate: Any) -> float:
        return checked(self._kind, "lr", rate, 0.0, math.inf)

    def _checked_clip(
        self, clip_norm: float | None = None, clip_value: float | None = None
    ) -> tuple[float | None, float | None]:
        found = []
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            limit = None if value is None else checked(self._kind, name, value, 0.0, math.inf)
            if limit == 0:
                raise DataError(
                    f"{self._kind}: {name}=0 would leave no gradient. It is above 0; leave it out "
                    f"to clip nothing."
                )
            found.append(limit)
        if None not in found:
            raise DataError(f"{self._kind}: give clip_norm or clip_value, not both.")
        return found[0], found[1]

    @property
    def _kind(self) -> str:
        return type(self).__name__

    # Steps

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call ``backward`` on: times the scale, where there is one."""
        if self.loss_scale is None:
            return loss
        self._make_scaling()
        scaled: Tensor = loss * self._scaling["scale"].astype(loss.dtype)
        return scaled

    def _make_scaling(self) -> None:
        """Make what loss scaling keeps, on the device of the parameters, or move it there."""
        if not self._entries:
            self._explain_nothing()
        assert self.loss_scale is not None
        device = self._entries[0].param.device
        if not self._scaling:
            if recording.trace is not None:
                with recording.trace.suspended():
                    self._scaling = scaling.slots_of(self.loss_scale, device)
            else:
                self._scaling = scaling.slots_of(self.loss_scale, device)
        for slot in self._scaling.values():
            if slot.device is not device:
                _move(slot, device)

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward pass starts from none."""
        trace = recording.trace
        for entry in self._entries:
            if trace is not None:
                trace.forget_grad(entry.param)
            entry.param.grad = None

    def step(self) -> None:
        """Give every parameter that has a gradient its new value: all of them, or none.

        Raises: DataError where no parameter has a gradient, or the schedule gives no usable rate;
        ShapeError and DTypeError where ``update`` returns what does not fit. Nothing is then
        changed.
        """
        trace = recording.trace
        if trace is not None:
            for entry in self._entries:
                trace.use_grad(entry.param)
        entries = [entry for entry in self._entries if entry.param.grad is not None]
        if not entries:
            self._explain_nothing()
        if trace is not None:
            self._enter(trace)
        elif self._schedule is not None:
            self._lr = self._checked_rate(self._schedule(self.step_count))
        taped, recording.on = recording.on, False
        self.step_count += 1
        scales: dict[str, Any] = {}
        try:
            if not self._slots_made:
                self._make_slots()
            changes: list[Change] = []
            for (device, fast), group in itertools.groupby(entries, self._way_of):
                self.xp = device.namespace if fast else nnx
                change = self._array_change if fast else self._tensor_change
                with device.scope():
                    shrink = self._shrink(entries, device) if self.clip_norm is not None else None
                    fine = None
                    if self.loss_scale is not None:
                        fine, shrink = self._unscaled(entries, device, shrink, scales)
                    made = [pair for entry in group for pair in change(entry, device, shrink)]
                    changes += made if fine is None else _if_fine(device.namespace, fine, made)
        except BaseException:
            self.step_count -= 1
            raise
        finally:
            recording.on = taped
            vars(self).pop("xp", None)  # a module, which no copy could be made of
        for name, array in scales.items():
            self._scaling[name].assign(array)
        for tensor, array in changes:
            tensor.assign(array)

    def _way_of(self, entry: _Entry) -> tuple[Device, bool]:
        """Return a parameter's device, and whether `update` runs over its arrays there.

        Libraries differ in what a Python float makes of a bfloat16 array; ops do not.
        """
        device, array = entry.param.device, entry.param.array
        return device, self.over_arrays and device.dtype_of(array) is not dtypes.bfloat16

    def _enter(self, trace: Any) -> None:
        """Make the step count and the rate inputs of a trace, and the slots real arrays."""
        trace.watch(self)
        if not self._slots_made:
            with trace.suspended():
                self._make_slots()
        trace.attribute(self, "step_count", self.step_count)
        trace.attribute(self, "_lr", self._lr)
        self._lr = trace.rate(self, "_lr", functools.partial(_Rate, self))

    def _unscaled(
        self, entries: list[_Entry], device: Device, shrink: Any, scales: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Return whether all gradients are finite, and what each is multiplied with.

        ``scales`` gets what loss scaling keeps for the next step.
        """
        xp = device.namespace
        self._make_scaling()
        for entry in entries:
            if entry.param.grad is None or entry.param.grad.device is not device:
                self._refuse_scattered(entry, device, "loss_scale")
        scale, good = self._scaling["scale"].array, self._scaling["good"].array
        fine = scaling.all_finite(xp, [entry.param.grad.array for entry in entries])  # type: ignore[union-attr]
        scales["scale"], scales["good"] = scaling.renewed(xp, scale, good, fine)
        inverse = 1.0 / scale
        return fine, inverse if shrink is None else shrink * inverse

    def _refuse_scattered(self, entry: _Entry, device: Device, setting: str) -> None:
        """Raise where gradients that are looked at together are on several devices."""
        if entry.param.device is not device:
            raise DeviceError(
                f"{self._kind}: {setting} is of all gradients together, and they are on "
                f"{device.name!r} and {entry.param.device.name!r}. Put the model on one device."
            )
        self._refuse_grad(entry.param)

    def _shrink(self, entries: list[_Entry], device: Device) -> Any:
        """Return what all gradients are multiplied with, as an array of one number.

        Numerics: squares are summed in float64, in which those of float32 do not overflow.
        Source: Pascanu et al. 2013, algorithm 1; the 1e-6 is PyTorch's.
        """
        xp, total = device.namespace, None
        for entry in entries:
            grad = entry.param.grad
            if entry.param.device is not device:
                raise DeviceError(
                    f"{self._kind}: clip_norm is of all gradients together, and they are on "
                    f"{device.name!r} and {entry.param.device.name!r}. Take clip_value."
                )
            if grad is None or grad.device is not device:
                self._refuse_grad(entry.param)
            wide = xp.widen(grad.array)
            squares = xp.sum(wide * wide)
            total = squares if total is None else total + squares
        norm = xp.sqrt(total)
        if self.loss_scale is not None:
            self._make_scaling()
            norm = norm / self._scaling["scale"].array
        return xp.minimum(self.clip_norm / (norm + 1e-6), 1.0)

    def _clipped(self, xp: Any, grad: Any, shrink: Any) -> Any:
        """Return the array of a gradient as `update` is to see it."""
        if shrink is not None:
            grad = grad * xp.narrow(shrink, grad)
        if self.clip_value is not None:
            return xp.clip(grad, -self.clip_value, self.clip_value)
        return grad

    def _array_change(self, entry: _Entry, device: Device, shrink: Any) -> list[Change]:
        """Return the new arrays of a parameter and its slots, from ``update`` over arrays."""
        param, grad = entry.param, entry.param.grad
        if grad is None or grad.device is not device:
            self._refuse_grad(param)
        slots = {}
        for name, slot in entry.slots.items():
            if slot.device is not device:
                _move(slot, device)
            slots[name] = slot.array
        old, array = param.array, grad.array
        if shrink is not None or self.clip_value is not None:
            array = self._clipped(self.xp, array, shrink)
        value = self.update(old, array, slots)
        if getattr(value, "shape", None) != old.shape or value.dtype != old.dtype:
            self._refuse(f"for {_brief(param)}", value)
        changes = [(param, value)]
        if slots or entry.slots:
            changes += self._slot_changes(entry, slots)
        return changes

    def _tensor_change(self, entry: _Entry, device: Device, shrink: Any) -> list[Change]:
        """Return the new arrays of a parameter and its slots, from ``update`` over tensors."""
        param, grad = entry.param, entry.param.grad
        if grad is None or grad.device is not device:
            self._refuse_grad(param)
        for slot in entry.slots.values():
            if slot.device is not device:
                _move(slot, device)
        slots: Slots = dict(entry.slots)
        if shrink is not None or self.clip_value is not None:
            grad = Tensor(self._clipped(device.namespace, grad.array, shrink), device)
        value = _array(self.update(param, grad, slots))
        slots = {name: _array(slot) for name, slot in slots.items()}
        if getattr(value, "shape", None) != param.array.shape or value.dtype != param.array.dtype:
            self._refuse(f"for {_brief(param)}", value)
        return [(param, value), *self._slot_changes(entry, slots)]

    def _slot_changes(self, entry: _Entry, slots: Slots) -> list[Change]:
        """Return the new arrays of a parameter's slots, or raise where they do not fit."""
        if slots.keys() != entry.slots.keys():
            names = sorted(slots.keys() ^ entry.slots.keys())
            raise DataError(
                f"{self._kind}.update added or removed the slots {names}; there are "
                f"{sorted(entry.slots)}. Name them all in init_slots(self, param)."
            )
        for name, slot in entry.slots.items():
            old, new = slot.array, slots[name]
            if getattr(new, "shape", None) != old.shape or new.dtype != old.dtype:
                self._refuse(f"for slot {name!r} of {_brief(entry.param)}", new)
        return [(slot, slots[name]) for name, slot in entry.slots.items()]

    def _make_slots(self) -> None:
        """Make all slots: late, when a subclass has all its settings."""
        made = [self.init_slots(entry.param) for entry in self._entries]
        for entry, slots in zip(self._entries, made, strict=True):
            entry.slots = {name: Tensor(slot.array, slot.device) for name, slot in slots.items()}
        self._slots_made = True

    # State

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly, as NumPy arrays by name.

        ``step_count``, ``lr`` (if it is a number), and each slot as ``<number>.<name>``, the
        parameters numbered in the order of `bind`.
        """
        import numpy as np

        if not self._slots_made:
            self._make_slots()
        state = {"step_count": np.array(self.step_count, np.int64)}
        if self._schedule is None:
            state["lr"] = np.array(self.lr, np.float64)
        return state | {key: np.array(slot.numpy()) for key, slot in self._named_slots().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: all of it is taken, or nothing.

        A schedule given to this optimizer counts for more than the saved ``lr``.
        Raises: DataError for a wrong step count or rate, or before `bind`; ShapeError that lists
        missing and unknown keys and other shapes.
        """
        if not self._entries:
            raise DataError(f"{self._kind} has no parameters yet. Call bind(params) first.")
        if not self._slots_made:
            self._make_slots()
        slots = self._named_slots()
        hosts = {key: to_host(value, key) for key, value in state.items()}
        missing = [key for key in ("step_count", *slots) if key not in hosts]
        unknown = [key for key in hosts if key not in slots and key not in ("step_count", "lr")]
        differing = [
            f"{key} is {slots[key].shape}, got {host.shape}"
            for key, host in hosts.items()
            if key in slots and host.shape != slots[key].shape
        ]
        if missing or unknown or differing:
            raise ShapeError(
                f"load_state_dict: this state is not of a {self._kind} with these parameters; "
                f"nothing was changed. Missing: {missing}; unknown: {unknown}; other shapes: "
                f"{differing}."
            )
        count = hosts["step_count"]
        if count.shape or count.dtype.kind not in "iu" or count < 0:
            raise DataError(f"{self._kind}: step_count counts steps from 0 on, it is not {count}.")
        lr = self._checked_rate(hosts["lr"]) if "lr" in hosts else self._lr
        made = {
            key: asarray(hosts[key], dtype=slot.dtype, device=slot.device, copy=True)
            for key, slot in slots.items()
        }
        self.step_count = int(count)
        if self._schedule is None:
            self._lr = lr
        else:
            self._lr = self._checked_rate(self._schedule(max(0, self.step_count - 1)))
        for key, slot in slots.items():
            slot.assign(made[key].array)

    def _named_slots(self) -> dict[str, Tensor]:
        if self.loss_scale is not None:
            self._make_scaling()
        of_scaling = {f"loss_scale.{name}": slot for name, slot in self._scaling.items()}
        return of_scaling | {
            f"{i}.{name}": slot
            for i, entry in enumerate(self._entries)
            for name, slot in entry.slots.items()
        }

    def __repr__(self) -> str:
        rate = self._lr if self._schedule is None else self._schedule
        return f"{self._kind}(lr={rate}, {len(self._entries)} parameters, step {self.step_count})"

    # What stops a step

    def _explain_nothing(self) -> NoReturn:
        if not self._entries:
            raise DataError(
                f"{self._kind} has no parameters to work on. Give them when it is made, as in "
                f"{self._kind}(model.parameters(), lr=...), or with bind(params)."
            )
        raise DataError(
            f"{self._kind}: none of its {len(self._entries)} parameters has a gradient. Call "
            f"loss.backward() before step(), on a loss computed from these parameters."
        )

    def _refuse_grad(self, param: Tensor) -> NoReturn:
        grad: Any = param.grad
        if not isinstance(grad, Tensor):
            raise DTypeError(
                f"{self._kind}: the gradient of {_brief(param)} is a {type(grad).__name__}, not a "
                f"tensor. Wrap it: nnx.asarray(grad, device={param.device.name!r})."
            )
        raise DeviceError(
            f"{self._kind}: the gradient of {_brief(param)} is on {grad.device.name!r}. Move the "
            f"model before the backward pass, or call zero_grad() after moving it."
        )

    def _refuse(self, where: str, value: Any) -> NoReturn:
        if not hasattr(value, "shape"):
            raise DTypeError(
                f"{self._kind}.update returned {value!r} {where}. It returns the new value, of the "
                f"same shape and type."
            )
        raise ShapeError(
            f"{self._kind}.update made shape {tuple(value.shape)} of type {value.dtype} {where}. "
            f"Shape and type stay the same; nothing was changed."
        )


def _if_fine(xp: Any, fine: Any, changes: list[Change]) -> list[Change]:
    """Return changes that leave everything as it was unless a flag is true."""
    return [(tensor, xp.where(fine, array, tensor.array)) for tensor, array in changes]


def checked(kind: str, name: str, value: Any, low: float, high: float) -> float:
    """Return a setting as a float. Raises: DataError unless low <= value < high."""
    number = math.nan
    if not isinstance(value, bool | str):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    if not low <= number < high:
        allowed = f"from {low:g} to below {high:g}" if high < math.inf else f"of {low:g} or more"
        raise DataError(f"{kind}: {name} is a finite number {allowed}, got {value!r}.")
    return number


def _listed(params: Any) -> list[Any]:
    if hasattr(params, "parameters"):
        return list(params.parameters())
    if isinstance(params, Tensor | Mapping | str) or not isinstance(params, Iterable):
        raise DTypeError(
            f"An optimizer takes a module or a list of parameters, got {_brief(params)}. Give it "
            f"model.parameters(), or [parameter]."
        )
    return list(params)


def _move(slot: Tensor, device: Device) -> None:
    """Move a slot after its parameter, which `Module.to` moved."""
    device.adopt(slot)


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Tensor) else value


def _brief(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"parameter {x.name or ''} of shape {x.shape} and type {x.dtype}".replace("  ", " ")
    return f"{type(x).__name__} {str(x)[:40]}"
