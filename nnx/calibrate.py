"""The device for a network, chosen by running its own training steps on each.

What was measured is kept for the machine, in one small file a network and batch.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nnx import random
from nnx.device import devices
from nnx.errors import CheckpointError, DeviceError
from nnx.files import replace_file

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
    for each device that was not measured; ``file`` is where the figures are kept, "" if nowhere,
    and ``earlier`` whether they are those of an earlier run.
    """

    choice: str
    reason: str
    step_s: dict[str, float]
    skipped: dict[str, str]
    file: str = ""
    earlier: bool = False

    def __str__(self) -> str:
        figures = [f"{name} {1e6 * time_s:.0f} us a step" for name, time_s in self.step_s.items()]
        skipped = [f"{name}: {reason}" for name, reason in self.skipped.items()]
        kept = [f"figures {'of an earlier run ' if self.earlier else ''}kept in {self.file}"]
        return "\n".join(
            [f"{self.choice}: {self.reason}", *figures, *skipped, *(kept if self.file else ())]
        )


def choose(make_step: Callable[[str], Step], about: Any = None) -> DeviceReport:
    """Return the fastest device for the steps that ``make_step(device name)`` gives.

    Only the first device of each backend is measured, and `loops` never: it is slow on purpose.
    The random generator is left as it was. ``about`` describes network and batch in values of JSON:
    with it the figures are kept, and those of an earlier run on this machine are taken.
    Raises: DeviceError if no device could run a step.
    """
    path = None if about is None else _path(about)
    earlier = None if path is None else _read(path)
    if earlier is not None:
        return earlier
    report = _measured(make_step)
    return report if path is None else _keep(path, report)


def _measured(make_step: Callable[[str], Step]) -> DeviceReport:
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


# What is kept


def folder() -> Path:
    """Return where figures are kept: beside the compiled steps."""
    import platformdirs

    named = os.environ.get("NNX_CACHE_DIR")
    root = Path(named).expanduser() if named else platformdirs.user_cache_path("nnx", False)
    return root.absolute() / "devices"


def _path(about: Any) -> Path:
    """Return the file of a network and batch on this machine, its devices and their versions."""
    import nnx

    machine = [platform.node(), platform.machine(), platform.python_version(), os.cpu_count()]
    found = [[str(part) for part in info] for info in devices()]
    key = json.dumps([about, machine, found, nnx.__version__])
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _read(path: Path) -> DeviceReport | None:
    """Return what is kept in a file; None where there is none, or it is damaged, which is told."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(text)
        step_s = {str(name): float(time_s) for name, time_s in kept["step_s"].items()}
        skipped = {str(name): str(reason) for name, reason in kept["skipped"].items()}
        usable = {info.name for info in devices() if info.available}
        if step_s and all(0 < t < math.inf for t in step_s.values()) and step_s.keys() <= usable:
            return _chosen(step_s, skipped)._replace(file=str(path), earlier=True)
    warnings.warn(f"{path} is damaged: the devices are measured again.", stacklevel=2)
    return None


def _keep(path: Path, report: DeviceReport) -> DeviceReport:
    """Keep the figures; where that is impossible they are only returned."""
    text = json.dumps({"step_s": report.step_s, "skipped": report.skipped}, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, [memoryview(text.encode())])
    except (OSError, CheckpointError):
        return report
    return report._replace(file=str(path))


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
