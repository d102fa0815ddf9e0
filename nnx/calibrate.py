"""The device for a network, chosen by running its own training steps on each."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from nnx import random
from nnx.device import devices
from nnx.errors import DeviceError

WARM_UP = 3
MIN_STEPS = 5
MAX_STEPS = 100
BUDGET_S = 0.1
NEAR = 1.1
"""A device this many times slower than the fastest is as good, if it is earlier in the list."""

Step = Callable[[], object]


class DeviceReport(NamedTuple):
    """Which device was chosen for a network and batch, and why.

    ``step_s`` is the median time of a training step in seconds by device, ``skipped`` the reason
    for each device that was not measured.
    """

    choice: str
    reason: str
    step_s: dict[str, float]
    skipped: dict[str, str]

    def __str__(self) -> str:
        figures = [f"{name} {1e6 * time_s:.0f} us a step" for name, time_s in self.step_s.items()]
        skipped = [f"{name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([f"{self.choice}: {self.reason}", *figures, *skipped])


def choose(make_step: Callable[[str], Step]) -> DeviceReport:
    """Return the fastest device for the steps that ``make_step(device name)`` gives.

    Only the first device of each backend is measured, and `loops` never: it is slow on purpose.
    The random generator is left as it was.
    Raises: DeviceError if no device could run a step.
    """
    state = random.default_generator().state_dict()
    step_s: dict[str, float] = {}
    skipped: dict[str, str] = {}
    try:
        for info in devices():
            name, reason = info.name, info.reason
            if info.available and name == "loops":
                reason = "the looped reference, slow on purpose"
            elif info.available and ":" in name:
                reason = f"not measured; {name.partition(':')[0]} stands for it"
            elif info.available:
                try:
                    step_s[name] = _median_s(make_step(name), name)
                except Exception as error:  # a device that cannot do it is not chosen, and said so
                    reason = f"a training step failed: {type(error).__name__}: {error}"
            if reason:
                skipped[name] = reason
    finally:
        random.default_generator().load_state_dict(state)
    return _chosen(step_s, skipped)


def _chosen(step_s: dict[str, float], skipped: dict[str, str]) -> DeviceReport:
    if not step_s:
        told = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise DeviceError(f"device='auto': no device could run a training step. {told}")
    fastest = min(step_s, key=lambda name: step_s[name])
    choice = next(name for name, time_s in step_s.items() if time_s <= NEAR * step_s[fastest])
    if len(step_s) == 1:
        reason = "the only device that can run it"
    elif choice == fastest:
        reason = "the fastest, by the median of its training steps"
    else:
        reason = f"as fast as {fastest} within {100 * (NEAR - 1):.0f}%, and earlier in the list"
    return DeviceReport(choice, reason, step_s, skipped)


def _median_s(step: Step, name: str) -> float:
    """Return the median time of a step, after some that are not counted."""
    from nnx.device import device

    wait = device(name).synchronize
    times: list[float] = []
    for i in range(WARM_UP + MAX_STEPS):
        start = time.perf_counter()
        step()
        wait()
        if i >= WARM_UP:
            times.append(time.perf_counter() - start)
        if len(times) >= MIN_STEPS and sum(times) > BUDGET_S:
            break
    return statistics.median(times)


def copied(*parts: Any) -> tuple[Any, ...]:
    """Return copies of a network and its optimizer that belong together as the originals do."""
    return copy.deepcopy(parts)
