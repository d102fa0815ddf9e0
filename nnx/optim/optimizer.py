"""Optimizer: what takes a step, over any update rule.

A rule is one method, ``update(param, grad, slots)``. The built-in ones and a user's own are written
in the same form and run by the same code.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Protocol

import nnx
from nnx.device import Device
from nnx.errors import DataError, DeviceError, DTypeError, ShapeError
from nnx.host import to_host
from nnx.op import recording
from nnx.tensor import Tensor, asarray

Schedule = Callable[[int], float]
Rate = float | Schedule
Slots = dict[str, Any]


class HasParameters(Protocol):
    """A module, or anything else that has parameters."""

    def parameters(self) -> list[Any]:
        """Return the parameters."""


Params = Iterable[Tensor] | HasParameters


class Optimizer:
    """The base of optimizers: subclass it and write ``update``.

    ``update(param, grad, slots)`` returns the parameter's new value. It may read ``self.lr`` and
    ``self.step_count`` (1 in the first step), and read and replace what `init_slots` put into
    ``slots``. It is written in nnx ops and changes nothing in place. So it is a function of
    tensors, which a compiler can trace.

    ``over_arrays = True`` says that ``update`` uses operators and the functions of ``self.xp``
    alone; it is then run over the device's own arrays, several times faster in eager mode. Under
    tensors ``self.xp`` is ``nnx``.

    The first argument is the parameters (a module, or a list of them), or, where those follow later
    with `bind`, the learning rate: ``SGD(model.parameters(), 0.01)`` or ``SGD(0.01)``. A rate is a
    number or a function of the number of steps done; see `nnx.optim.schedules`.

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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _rate_first(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, params: Params | Rate | None = None, lr: Rate | None = None) -> None:
        self._entries: list[_Entry] = []
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
            if [entry.param for entry in self._entries] == found:
                return self
            raise DataError(
                f"This {self._kind} works on other parameters already. Make a new one for these."
            )
        self._entries = [_Entry(p, self.init_slots(p)) for p in found]
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
    def lr(self) -> float:
        """The learning rate in force: of the last step, or of the first if there was none.

        It can be set to a number or to a function of the number of steps done.
        Raises: DataError unless it is finite and 0 or more.
        """
        return self._lr

    @lr.setter
    def lr(self, rate: Rate) -> None:
        if callable(rate):
            self._lr = self._checked_rate(rate(self.step_count))
            self._schedule = rate
        else:
            self._lr = self._checked_rate(rate)
            self._schedule = None

    def _checked_rate(self, rate: Any) -> float:
        return checked(self._kind, "lr", rate, 0.0, math.inf)

    @property
    def _kind(self) -> str:
        return type(self).__name__

    # Steps

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward pass starts from none."""
        for entry in self._entries:
            entry.param.grad = None

    def step(self) -> None:
        """Give every parameter that has a gradient its new value: all of them, or none.

        Raises: DataError where no parameter has a gradient, or the schedule gives no usable rate;
        ShapeError and DTypeError where ``update`` returns what does not fit. Nothing is then
        changed.
        """
        entries = [entry for entry in self._entries if entry.param.grad is not None]
        if not entries:
            self._explain_nothing()
        if self._schedule is not None:
            self._lr = self._checked_rate(self._schedule(self.step_count))
        taped, recording.on = recording.on, False
        self.step_count += 1
        try:
            changes = self._changes(entries)
        except BaseException:
            self.step_count -= 1
            raise
        finally:
            recording.on = taped
        for entry, value, slots in changes:
            entry.param.assign(value)
            for name, slot in entry.slots.items():
                slot.assign(slots[name])

    def _changes(self, entries: list[_Entry]) -> list[tuple[_Entry, Any, Slots]]:
        """Return the new arrays of each parameter and of its slots, without writing any."""
        device = None
        changes = []
        with contextlib.ExitStack() as quiet:
            for entry in entries:
                param = entry.param
                if param.device is not entry.device:
                    entry.move()
                if param.device is not device:
                    device = param.device
                    quiet.enter_context(device.backend.quiet())
                grad: Any = param.grad
                try:
                    if grad.device is not device:
                        _refuse_grad(param, grad)
                    if self.over_arrays:
                        self.xp = device.namespace
                        slots = {name: slot.array for name, slot in entry.slots.items()}
                        value = self.update(param.array, grad.array, slots)
                    else:
                        slots = dict(entry.slots)
                        value = self.update(param, grad, slots).array
                        slots = {name: slot.array for name, slot in slots.items()}
                except AttributeError as error:
                    self._explain(entry, error)
                if value.shape != param.array.shape or value.dtype != param.array.dtype:
                    self._refuse(param, "the parameter", value, param.array)
                if slots:
                    self._check_slots(entry, slots)
                changes.append((entry, value, slots))
        return changes
