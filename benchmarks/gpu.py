"""Everything that needs an NVIDIA GPU: tests, compute-sanitizer, figures beside the peers there.

    python -m benchmarks.gpu --out DIR [--quick] [--only STAGE ...] [--mnist DIR]

It ends within 10 minutes (--quick: 2), whatever happens: each stage is a process of its own with a
time of its own, and DIR/gpu.json and DIR/report.md are written after each, with what it had by
then. Exit status: 0, also where figures were cut; 1 where a stage failed or found a fault, or tests
were not finished; 2 without a GPU. The stage `slow tests` runs only where --only names it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnx.benchmarks import figures, gpu_report, gpu_stages, machine

SCHEMA = "nnx-gpu/1"
TOTAL_S, QUICK_S = 570.0, 115.0
LEAST_S = 5.0
"""With less time left a stage is not started."""
ENDS_S = 3.0
"""How long before its end a stage is told that its time ends."""
STATE = {"temperature_c": "temperature.gpu", "sm_mhz": "clocks.sm", "memory_mhz": "clocks.mem",
         "power_w": "power.draw"}  # fmt: skip

Results = dict[str, Any]


class Stage(NamedTuple):
    """A function of `gpu_stages`, as module:name, and how long it may take, also in short."""

    function: str
    seconds: float
    quick_seconds: float


STAGES = {
    "rates": Stage("nnx.benchmarks.gpu_stages:rates", 25, 8),
    "tests": Stage("nnx.benchmarks.gpu_stages:tests", 180, 30),
    "sanitizer": Stage("nnx.benchmarks.gpu_stages:sanitizer", 45, 10),
    "steps": Stage("nnx.benchmarks.gpu_stages:small", 160, 35),
    "wide": Stage("nnx.benchmarks.gpu_stages:wide", 95, 18),
    "elementwise": Stage("nnx.benchmarks.gpu_stages:elementwise", 25, 6),
    "first step": Stage("nnx.benchmarks.gpu_stages:first_step", 40, 8),
}
ASKED = {"slow tests": Stage("nnx.benchmarks.gpu_stages:slow_tests", 540, 100)}
"""Those that run only where --only names them."""


def why_not() -> str | None:
    """Return why there is no GPU, in one line; None where there is one."""
    import nnx

    found = [info for info in nnx.devices() if info.name == "cupy"]
    if any(info.available for info in found):
        return None
    return figures.plain(found[0].reason if found else "nnx has no device cupy")


def gpu_facts() -> Results:
    """Return the GPU's name and the versions of what drives it."""
    from cupy.cuda import runtime  # type: ignore[import-not-found, unused-ignore]

    properties = runtime.getDeviceProperties(0)
    facts: Results = {
        "name": properties["name"].decode(),
        "capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": int(properties["multiProcessorCount"]),
        "memory_bytes": int(properties["totalGlobalMem"]),
        "cuda_driver": version(runtime.driverGetVersion()),
        "cuda_runtime": version(runtime.runtimeGetVersion()),
        "driver": None,
        "cublaslt": None,
    }
    with contextlib.suppress(Exception):  # figures for the report, which can do without
        facts["driver"] = asked_smi(["driver_version"])[0]
        from nnx.kernels import cublaslt

        facts["cublaslt"] = str(cublaslt.library().version)
    return facts


def version(number: int) -> str:
    """Return 13.1 for CUDA's 13010.

    >>> version(13010)
    '13.1'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def asked_smi(names: Sequence[str]) -> list[str]:
    """Return what nvidia-smi says of the GPU that is the first to CUDA."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    result = subprocess.run(
        ["nvidia-smi", f"--id={first}", f"--query-gpu={','.join(names)}",
         "--format=csv,noheader,nounits"],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    return [part.strip() for part in result.stdout.splitlines()[0].split(",")]


def state() -> Results | None:
    """Return clocks, temperature and power; None where nvidia-smi does not say."""
    try:
        return {
            name: float(text)
            for name, text in zip(STATE, asked_smi(list(STATE.values())), strict=True)
        }
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


# Stages


def rows_of(stage: Stage, name: str, options: gpu_stages.Options) -> Results:
    """Run a stage in a process of its own; return its status, with the rows that it had."""
    rows, log = options.out / f"{slug(name)}.rows", options.out / f"{slug(name)}.log"
    rows.unlink(missing_ok=True)
    told = options._replace(seconds=max(options.seconds - ENDS_S, 1))
    described = {**told._asdict(), "out": str(told.out), "mnist": told.mnist and str(told.mnist)}
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "nnx.benchmarks.gpu", "--stage", stage.function, str(rows),
             json.dumps(described)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(options.seconds)
            found = {"status": "ok", "reason": ""}
            if code:
                said = gpu_stages.last_line(log.read_text(encoding="utf-8", errors="replace"))
                found = {"status": "crashed", "reason": f"exit status {code}: {said}"}
        except subprocess.TimeoutExpired:
            reason = f"it did not end within its {options.seconds:.0f} s"
            found = {"status": "cut", "reason": reason}
        finally:
            _end(process)
    seconds = time.monotonic() - start
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    rows.unlink(missing_ok=True)
    return {**found, "seconds": seconds, "budget_s": options.seconds, "rows": list(_whole(lines))}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a stage with all processes that it started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _whole(lines: Sequence[str]) -> Iterator[Results]:
    """Yield rows; the last may have been cut off in the middle."""
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def slug(name: str) -> str:
    """Return a name as it stands in a file's."""
    return name.replace(" ", "-")


def run_stage(function: str, rows: str, described: str) -> int:
    """Be a stage: append each row to a file as soon as it is there."""
    module, _, name = function.partition(":")
    given = json.loads(described)
    given["out"], given["mnist"] = Path(given["out"]), given["mnist"] and Path(given["mnist"])
    with Path(rows).open("w", encoding="utf-8") as file:
        for row in getattr(importlib.import_module(module), name)(gpu_stages.Options(**given)):
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
    return 0


# The whole


def run(
    out: Path, stages: Mapping[str, Stage], facts: Results, *, quick: bool = False,
    mnist: Path | None = None, total_s: float | None = None,
) -> Results:  # fmt: skip
    """Run stages and write results and report after each; return the results.

    Stages of an earlier run into the same folder stay, where it was on the same GPU.
    """
    end = time.monotonic() + (total_s or (QUICK_S if quick else TOTAL_S))
    out.mkdir(parents=True, exist_ok=True)
    results: Results = {
        "schema": SCHEMA, "machine": machine.describe(), "gpu": facts, "quick": quick,
        "stages": _earlier(out / "gpu.json", facts), "limits": [],
    }  # fmt: skip
    for name, stage in stages.items():
        seconds = min(stage.quick_seconds if quick else stage.seconds, end - time.monotonic())
        before = state()
        if seconds < min(LEAST_S, stage.seconds):
            found: Results = {
                "status": "not run", "reason": "no time was left", "seconds": 0.0,
                "budget_s": max(seconds, 0.0), "rows": [],
            }  # fmt: skip
        else:
            print(f"{name}: up to {seconds:.0f} s", flush=True)
            told = gpu_stages.Options(out.resolve(), seconds, quick, mnist, _rates(results))
            found = rows_of(stage, name, told)
        results["stages"][name] = {**found, "before": before, "after": state()}
        results["limits"] = gpu_report.limits(results)
        write(results, out)
        print(f"  {found['status']} in {found['seconds']:.0f} s"
              + f": {found['reason']}" * bool(found["reason"]), flush=True)  # fmt: skip
    return results


def _earlier(path: Path, facts: Results) -> Results:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] == SCHEMA and results["gpu"] == facts:
            return dict(results["stages"])
    return {}


def _rates(results: Results) -> Results | None:
    rows = results["stages"].get("rates", {}).get("rows", [])
    return next((row for row in rows if row["kind"] == "rates"), None)


def write(results: Results, folder: Path) -> None:
    """Write gpu.json and report.md, each whole or not at all."""
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    for name, content in (("gpu.json", text), ("report.md", gpu_report.text(results))):
        new = folder / f"{name}.new"
        new.write_text(content, encoding="utf-8")
        new.replace(folder / name)


def is_fine(results: Results, stages: Sequence[str]) -> bool:
    """Return whether no stage failed or found a fault; figures that were cut are neither.

    Tests that were not finished are no pass.
    """
    chosen = {name: results["stages"][name] for name in stages}
    return all(
        stage["status"] == "ok" or (stage["status"] == "cut" and name not in gpu_report.TESTED)
        for name, stage in chosen.items()
    ) and not any(gpu_report.is_fault(row) for stage in chosen.values() for row in stage["rows"])


def shared_out(stages: Mapping[str, Stage], quick: bool) -> dict[str, Stage]:
    """Return stages that share out all of the time, each as much longer than it would be."""
    total_s = QUICK_S if quick else TOTAL_S
    times = total_s / sum(s.quick_seconds if quick else s.seconds for s in stages.values())
    return {
        name: s._replace(seconds=times * s.seconds, quick_seconds=times * s.quick_seconds)
        for name, s in stages.items()
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--quick", action="store_true", help="in 2 minutes, a few tests and cases")
    parser.add_argument(
        "--only", action="append", choices=[*STAGES, *ASKED], metavar="STAGE",
        help=f"of {', '.join(STAGES)}; or {', '.join(ASKED)}, which runs only so; they share the "
        "whole time; the others of an earlier run into DIR stay",
    )  # fmt: skip
    parser.add_argument(
        "--mnist", type=Path, metavar="DIR", help="folder of MNIST's four .gz files"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; see the exit status above."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--stage"]:
        return run_stage(*given[1:])
    options = parse(given)
    reason = why_not()
    if reason:
        print(f"benchmarks.gpu needs an NVIDIA GPU: {reason}", file=sys.stderr)
        return 2
    # So that `timeout` ends a stage too, with its processes.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    stages = STAGES
    if options.only:
        named = {name: s for name, s in {**STAGES, **ASKED}.items() if name in options.only}
        stages = shared_out(named, options.quick)
    results = run(options.out, stages, gpu_facts(), quick=options.quick, mnist=options.mnist)
    print(gpu_report.summary(results))
    return 0 if is_fine(results, list(stages)) else 1


if __name__ == "__main__":
    sys.exit(main())
