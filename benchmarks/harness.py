"""Measuring: contestants in processes of their own take turns at blocks of calls.

In one process the thread pools of several libraries disturb one another, for their threads spin
for a while after each call. Here the others sleep while one runs; after a block in which several
threads worked the turn passes only after a pause, in which they fall asleep.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any, NamedTuple

from nnx.benchmarks.case import DEVICES, PEERS, UNCHECKED, WITH_LOOPS, Case, difference

PAUSE_S = 0.15
"""OpenBLAS's threads spin for 2^28 ticks after a call, measured as 105 ms at 2.6 GHz."""
SEVERAL_THREADS = 1.2
"""A block was of several threads if they computed so many times longer than it took."""
LOOK_S = 0.05
QUIET_SHARE = 0.15
"""Where others keep more than this share of the cores busy, steps of several threads stall."""
LOOPED_NS = 150.0
"""What a scalar operation in Python loops takes at most, as a first guess."""
MIN_TURNS = 3

Report = dict[str, Any]


class Settings(NamedTuple):
    """How long to measure.

    A call of loops that would take more than ``looped_s`` is not run; nor does a contestant go on
    with a case for more than ``case_s`` after its first turns, or be waited for beyond ``limit_s``;
    while it gets ready, which may be compiling, beyond ``open_s`` where that is more. With
    ``wait_s`` turns wait for a quiet machine, so long a case in all.
    """

    rounds: int = 15
    length_s: float = 0.01
    looped_s: float = 2.0
    case_s: float = 3.0
    limit_s: float = 300.0
    wait_s: float = 0.0
    open_s: float = 0.0


QUICK = Settings(rounds=5, length_s=0.004, looped_s=0.5, case_s=0.5, limit_s=60.0)


class StoppedError(Exception):
    """A contestant ended, or was ended, in the middle of its work; the text says how."""

    status = "crashed"


class LateError(StoppedError):
    """A contestant was ended because it gave no answer in its time."""

    status = "cut"


class Contestant:
    """A worker process. After it has stopped, the next case starts another."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: subprocess.Popen[str] | None = None
        self._errors: Any = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile("w+", errors="replace")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nnx.benchmarks.worker", self.name],
                text=True, bufsize=1, encoding="utf-8",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        return self._process

    def ask(self, limit_s: float, **command: Any) -> Report:
        """Return the answer to a command. Raises: StoppedError."""
        if limit_s <= 0:
            raise LateError("no time was left for it")
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        was_late = threading.Event()

        def stop() -> None:
            was_late.set()
            process.kill()

        late = threading.Timer(limit_s, stop)
        late.start()
        try:
            try:
                process.stdin.write(json.dumps(command) + "\n")
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if line:
                return json.loads(line)  # type: ignore[no-any-return]
            process.wait()
            if was_late.is_set():
                raise LateError(f"no answer within {limit_s:.3g} s")
            raise StoppedError(self._last_words())
        finally:
            late.cancel()
            if process.returncode is not None:
                self.close()

    def _last_words(self) -> str:
        assert self._process is not None
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit status {self._process.returncode}"

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
            process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        process.stdout.close()
        self._errors.close()


def absent(names: Sequence[str]) -> dict[str, str]:
    """Return which contestants cannot take part on this machine, and why."""
    import nnx

    known = {info.name: info for info in nnx.devices()}
    found = {}
    for name in names:
        if name in DEVICES and not (name in known and known[name].available):
            found[name] = known[name].reason if name in known else "no such device"
        elif name in PEERS and util.find_spec(PEERS[name]) is None:
            found[name] = f"{PEERS[name]} is not installed"
    return found


def looped_guess_s(case: Case, before: dict[str, float]) -> float:
    """Return about how long a call of loops takes, from those of the group that were run."""
    return case.work * before.get(case.group, LOOPED_NS * 1e-9)


def busy_share(time_s: float) -> float:
    """Return the share of all cores that is busy while this process sleeps; 0 but on Linux."""

    def ticks() -> tuple[int, int]:
        line = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
        counts = [int(field) for field in line.split()[1:9]]
        return sum(counts) - counts[3] - counts[4], sum(counts)

    if not Path("/proc/stat").exists():
        time.sleep(time_s)
        return 0.0
    busy, total = ticks()
    time.sleep(time_s)
    busy_now, total_now = ticks()
    return (busy_now - busy) / max(total_now - total, 1)


def quartiles(values: Sequence[float]) -> Report:
    """Return the median and the quartiles of figures."""
    if len(values) < 2:
        return {"median": values[0], "quartiles": [values[0], values[0]]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


class Match:
    """One case: its contestants get ready, are checked, and take turns."""

    def __init__(
        self, module: str, case: Case, settings: Settings,
        left_s: Callable[[], float] = lambda: math.inf,
    ) -> None:  # fmt: skip
        self._module, self._case, self._settings = module, case, settings
        self._left_s = left_s
        self.found: dict[str, Report] = {}
        self._ready: list[Contestant] = []
        self._calls: dict[str, int] = {}
        self._us: dict[str, dict[int, float]] = {}
        self._device_us: dict[str, list[float]] = {}
        self._expected: list[Any] | None = None
        self.busy_turns = 0

    def admit(self, contestant: Contestant) -> None:
        """Get a contestant ready; one that computes something else is told of, and never timed."""
        case, name = self._case, contestant.name
        try:
            with tempfile.TemporaryDirectory() as folder:
                values = str(Path(folder) / "values.npz")
                opened = contestant.ask(
                    self._limit_s(self._settings.open_s),
                    do="open", module=self._module, case=case.name, values=values,
                )  # fmt: skip
                if "unavailable" in opened:
                    self.found[name] = {"status": "unavailable", "reason": opened["unavailable"]}
                    return
                wrong = self._wrong(name, values, list(opened["variants"]))
            if wrong:
                self.found[name] = {"status": "wrong", "reason": wrong}
                return
            report = contestant.ask(
                self._limit_s(), do="calibrate", length_s=self._settings.length_s
            )
        except StoppedError as error:
            self.found[name] = {"status": error.status, "reason": str(error)}
            return
        first_calls = {k: v["first_call_s"] for k, v in opened["variants"].items()}
        self._ready.append(contestant)
        self._calls[name], self._us[name] = report["calls"], {}
        self.found[name] = {"status": "ok", "first_call_s": first_calls, **report}
        if opened["left_out"]:
            self.found[name]["left_out"] = opened["left_out"]

    def _limit_s(self, least_s: float = 0.0) -> float:
        """Return how long a contestant is waited for, at least so long where that much is left."""
        return min(max(self._settings.limit_s, least_s), self._left_s())

    def _wrong(self, name: str, path: str, settings: list[str]) -> str:
        import numpy as np

        if name in UNCHECKED:
            return ""
        if self._expected is None:
            self._expected = import_module(self._module).expected(self._case)
        with np.load(path) as kept:
            for setting in settings:
                n = sum(key.endswith(f"/{setting}") for key in kept.files)
                found = [kept[f"{i}/{setting}"] for i in range(n)]
                if self._expected and not found:
                    return f"computes nothing ({setting})"
                off = difference(found, self._expected)
                if off > self._case.tolerance:
                    return (f"computes something else ({setting}): off by {off:.1e} of the "
                            f"largest value, allowed {self._case.tolerance:.0e}")  # fmt: skip
        return ""

    def play(self, on_turn: Callable[[], object]) -> None:
        """Let the contestants take turns; the order rotates from round to round."""
        settings, wait_s = self._settings, self._settings.wait_s
        spent = {c.name: 0.0 for c in self._ready}
        pause = False
        for i in range(settings.rounds):
            start = i % len(self._ready) if self._ready else 0
            for contestant in self._ready[start:] + self._ready[:start]:
                name = contestant.name
                if self.found[name]["status"] != "ok":
                    continue
                if i >= MIN_TURNS and spent[name] > settings.case_s:
                    continue
                if pause or settings.wait_s:
                    time.sleep(PAUSE_S)
                if settings.wait_s:
                    wait_s = self._wait_for_quiet(wait_s)
                try:
                    block = contestant.ask(settings.limit_s, do="time")
                except StoppedError as error:
                    self.found[name] = {"status": error.status, "reason": str(error)}
                    continue
                pause = block["cpu_s"] > SEVERAL_THREADS * block["time_s"]
                spent[name] += block["time_s"]
                self._us[name][i] = 1e6 * block["time_s"] / self._calls[name]
                if block["device_s"] is not None:
                    found_us = 1e6 * block["device_s"] / self._calls[name]
                    self._device_us.setdefault(name, []).append(found_us)
            on_turn()

    def _wait_for_quiet(self, wait_s: float) -> float:
        start = time.monotonic()
        while busy_share(LOOK_S) > QUIET_SHARE:
            if time.monotonic() - start > wait_s:
                self.busy_turns += 1
                break
        return max(wait_s - max(time.monotonic() - start - LOOK_S, 0), 0)

    def report(self) -> Report:
        """Return the figures of the case, with each contestant's ratio to the reference."""
        case = self._case
        reference = self._us.get(case.reference, {})
        if self.found.get(case.reference, {}).get("status") != "ok":
            reference = {}
        for name, times in self._us.items():
            found = self.found[name]
            if found["status"] != "ok":
                continue
            found["us"] = quartiles(list(times.values())) | {"best": min(times.values())}
            found["turns"] = len(times)
            if name in self._device_us:
                found["device_us"] = quartiles(self._device_us[name])
            shared = [times[i] / reference[i] for i in times.keys() & reference.keys()]
            if shared:
                found["over"] = {"reference": case.reference, **quartiles(shared)}
        stats = next((f["stats"] for f in self.found.values() if f.get("stats")), {})
        for found in self.found.values():
            found.pop("stats", None)
        of_gpu = {name: stats[name] for name in ("launches", "epilogues") if stats.get(name)}
        return {
            "suite": case.suite, "group": case.group, "name": case.name,
            "reference": case.reference,
            "flops": case.flops or stats.get("flops", 0),
            "bytes": case.n_bytes or stats.get("bytes", 0),
            **of_gpu,
            "busy_turns": self.busy_turns,
            "contestants": {n: self.found[n] for n in case.contestants if n in self.found},
        }  # fmt: skip


def measure(
    module: str,
    cases: Iterable[Case],
    names: Sequence[str],
    settings: Settings,
    on_turn: Callable[[Case], object] = lambda case: None,
) -> list[Report]:
    """Return the figures of all cases of a suite, by the contestants named: see `measuring`."""
    return list(measuring(module, cases, names, settings, on_turn))


def measuring(
    module: str,
    cases: Iterable[Case],
    names: Sequence[str],
    settings: Settings,
    on_turn: Callable[[Case], object] = lambda case: None,
    left_s: Callable[[], float] = lambda: math.inf,
) -> Iterator[Report]:
    """Yield the figures of each case of a suite, by the contestants named.

    ``module`` is the suite's; ``on_turn`` is called after each round; ``left_s`` says how long
    contestants may still get ready. Contestants that are not here, stop, are late, or compute
    something else have a status and a reason in place of times; loops whose call would take too
    long are not run.
    """
    missing = absent(names)
    running = {name: Contestant(name) for name in names if name not in missing}
    looped: dict[str, dict[str, float]] = {}
    try:
        for case in cases:
            match = Match(module, case, settings, left_s)
            for name in case.contestants:
                if name not in names:
                    continue
                before = looped.setdefault(name, {})
                if name in missing:
                    match.found[name] = {"status": "unavailable", "reason": missing[name]}
                elif (
                    name in ("loops", WITH_LOOPS)
                    and looped_guess_s(case, before) > settings.looped_s
                ):
                    match.found[name] = {
                        "status": "not run",
                        "reason": "a call would take more than the "
                        f"{settings.looped_s:g} s given to loops",
                    }
                else:
                    match.admit(running[name])
            match.play(lambda case=case: on_turn(case))  # type: ignore[misc]
            report = match.report()
            for name in ("loops", WITH_LOOPS):
                found = report["contestants"].get(name, {})
                if "us" in found and case.work:
                    looped[name][case.group] = 1e-6 * found["us"]["median"] / case.work
            yield report
    finally:
        for contestant in running.values():
            contestant.close()
