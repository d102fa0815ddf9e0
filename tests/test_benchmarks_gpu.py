"""What needs a GPU, without one: stages, their time limits, what they say, report and schema."""

import copy
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import referencing
from jsonschema import Draft202012Validator

import nnx
import nnx.benchmarks
from nnx.benchmarks import (
    contestants,
    gpu,
    gpu_checked,
    gpu_elementwise,
    gpu_first_step,
    gpu_parts,
    gpu_rates,
    gpu_report,
    gpu_stages,
    gpu_steps,
    harness,
    machine,
    problems,
    readme,
    suite,
)
from nnx.benchmarks.case import UnavailableError, difference, sampled
from nnx.benchmarks.gpu import Stage
from nnx.benchmarks.problems import CELLS
from nnx.device import DeviceInfo
from nnx.kernels.cuda_program import CudaProgram
from nnx.kernels.cuda_step import Product
from tests import bench_fakes
from tests.cuda_machine import Machine
from tests.tracing import Form

ROOT = Path(__file__).parents[1]
FOLDER = Path(nnx.benchmarks.__file__).parent
SMALL = CELLS["4-20-10-3/16/adam"]
FACTS = {
    "name": "Made-up GPU", "capability": "9.0", "multiprocessors": 132, "memory_bytes": 80 << 30,
    "driver": "580.1", "cuda_driver": "13.0", "cuda_runtime": "13.0", "cublaslt": "130100",
}  # fmt: skip
STATE = {"temperature_c": 40.0, "sm_mhz": 1980.0, "memory_mhz": 2619.0, "power_w": 300.0}
RATES = {
    "products": {"float32": 50e3, "tf32": 400e3, "bfloat16": 750e3},
    "memory": [[131072, 500.0], [2147483648, 3000.0]], "launch_us": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fakes_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(gpu, "state", lambda: STATE)


# A made-up run


def timed(us, over, setting="usual", **more):
    return {
        "status": "ok", "first_call_s": {setting: 0.5}, "setting": setting, "calls": 100,
        "trial_us": {}, "us": {"median": us, "quartiles": [0.98 * us, 1.02 * us], "best": us},
        "turns": 15, "device_us": {"median": 0.9 * us, "quartiles": [0.88 * us, 0.92 * us]},
        "over": {"reference": over[0], "median": us / over[1],
                 "quartiles": [0.99 * us / over[1], 1.01 * us / over[1]]}, **more,
    }  # fmt: skip


US = {"cupy": 20.0, "nnx-fit": 12.0, "torch-cuda": 180.0, "torch-compile-cuda": 60.0,
      "products-cuda": 18.5, "kernel": 100.0, "copy": 90.0}  # fmt: skip


def made_up():
    """Return results of a whole run: invented; JAX is not there, and one peer is wrong."""

    def case(found):
        contestants = {n: timed(US[n], (found.reference, US[found.reference]))
                       for n in found.contestants if n in US}  # fmt: skip
        missing = {"status": "unavailable", "reason": "jax is not installed"}
        if "jax-cuda" in found.contestants:
            contestants["jax-cuda"] = missing
        report = {
            "suite": found.suite, "group": found.group, "name": found.name,
            "reference": found.reference, "flops": 1_685_504, "bytes": 332_416, "launches": 14,
            "busy_turns": 0, "contestants": contestants,
        }  # fmt: skip
        return {"kind": "case", **gpu_stages.beside_floor(report, [found], RATES)}

    rows = {
        "rates": [{"kind": "rates", **RATES}],
        "tests": [gpu_stages.tested("tests/test_a.py::test_one PASSED [ 50%]\n"
                                    "tests/test_a.py::test_b[a b] FAILED [100%]\n", 1, "t.txt")],
        "sanitizer": [
            gpu_stages.sanitized("memcheck", "========= ERROR SUMMARY: 0 errors", 0, "m.txt"),
            {"kind": "left out", "what": "initcheck", "reason": "no time was left"},
        ],
        "steps": list(map(case, gpu_steps.SMALL)),
        "wide": list(map(case, gpu_steps.LARGE)),
        "elementwise": list(map(case, gpu_elementwise.CASES)),
        "first step": [{"kind": "first step", "command": "nnx train mnist --device cuda", "runs": 5,
                        "first_s": 9.0, "seconds": {"median": 2.5, "quartiles": [2.4, 2.6]}}],
    }  # fmt: skip
    assert list(rows) == list(gpu.STAGES)
    results = {
        "schema": gpu.SCHEMA, "machine": machine.describe(), "gpu": FACTS, "quick": False,
        "stages": {
            name: {"status": "ok", "reason": "", "seconds": 9.5, "budget_s": 60.0, "before": None,
                   "after": STATE, "rows": found}
            for name, found in rows.items()
        },
    }  # fmt: skip
    return copy.deepcopy(results | {"limits": gpu_report.limits(results)})


def errors(results):
    documents = {
        name: json.loads((FOLDER / name).read_text(encoding="utf-8"))
        for name in ("schema.json", "gpu_schema.json")
    }
    registry = referencing.Registry().with_resources(
        (name, referencing.Resource.from_contents(content)) for name, content in documents.items()
    )
    schema = documents["gpu_schema.json"]
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == gpu.SCHEMA
    found = Draft202012Validator(schema, registry=registry).iter_errors(
        json.loads(json.dumps(results, allow_nan=False))
    )
    return [(error.json_path, error.message[:200]) for error in found]


def test_made_up_results_fit_the_schema():
    assert errors(made_up()) == []


@pytest.mark.parametrize(
    "path",
    ["gpu.name", "stages.steps.rows.0.contestants.cupy.us", "stages.tests.rows.0.problems",
     "stages.rates.rows.0.launch_us", "limits.0.met", "stages.wide.after.sm_mhz"],
)  # fmt: skip
def test_what_is_missing_is_found_by_the_schema(path):
    results = made_up()
    *keys, last = path.split(".")
    part = results
    for key in keys:
        part = part[int(key) if key.isdigit() else key]
    del part[last]
    assert errors(results)


# Limits


def limits_of(results):
    return {v["figure"]: v for v in gpu_report.limits(results)}


def test_limits_are_those_of_the_figures():
    found = limits_of(made_up())
    eager = found["784-16-16-10/32/sgd, queued: torch over nnx"]
    assert eager["measured"] == 9.0 and eager["limit"] == 5.0 and eager["met"]
    assert found["784-512-512-10/32/adam, loss read: torch.compile over nnx"]["measured"] == 3.0
    wide = [v for name, v in found.items() if "products alone" in name]
    assert [v["limit"] for v in wide] == [0.9, 0.9] and wide[0]["measured"] == 18.5 / 20
    copies = [v for name, v in found.items() if "copy over the kernel" in name]
    assert len(copies) == 4 and all(v["limit"] == 0.85 and v["met"] for v in copies)
    assert found["first step of nnx train mnist --device cuda, s"]["met"]
    assert not found["tests that fail on the GPU"]["met"]
    assert not any("jax" in name for name in found)  # which was not there


def test_a_limit_that_is_missed_says_so():
    results = made_up()
    for row in results["stages"]["wide"]["rows"]:
        row["contestants"]["products-cuda"]["over"]["median"] = 0.5
    missed = [v for v in gpu_report.limits(results) if "products alone" in v["figure"]]
    assert len(missed) == 2 and not any(v["met"] for v in missed)
    results["limits"] = missed
    assert gpu_report.text(results).count("**missed**") == 2
    assert gpu_report.summary(results).count("MISSED") == 2


def test_every_cell_of_the_comparison_is_measured():
    cells = {case.problem.cell.name for case in gpu_steps.SMALL}
    assert cells == {
        f"{net}/{batch}/{rule}"
        for net in ("784-16-16-10", "784-512-512-10")
        for batch in (32, 128, 1024) for rule in ("sgd", "adam")
    }  # fmt: skip
    assert [case.problem.cell.precision for case in gpu_steps.LARGE] == ["high", "medium"]
    assert {gpu_steps.FIT, gpu_steps.PRODUCTS, *gpu_steps.PEERS} <= {
        name for case in gpu_steps.SMALL for name in case.contestants
    }


def test_cells_are_measured_in_the_order_of_what_they_tell():
    order = [(case.problem.cell.batch, case.problem.cell.optimizer, case.problem.queued)
             for case in gpu_steps.SMALL[::2]]  # fmt: skip
    assert order == [
        (32, "sgd", True), (1024, "sgd", True), (128, "sgd", True), (32, "sgd", False),
        (32, "adam", True), (1024, "adam", True), (128, "adam", True), (32, "adam", False),
    ]  # fmt: skip
    for first, second in zip(gpu_steps.SMALL[::2], gpu_steps.SMALL[1::2], strict=True):
        assert (first.problem.cell.sizes, second.problem.cell.sizes) == gpu_steps.NETWORKS
        assert second.problem.cell._replace(sizes=first.problem.cell.sizes) == first.problem.cell
    assert [case.quick for case in gpu_steps.SMALL] == [True] * 2 + [False] * 14


@pytest.mark.parametrize("contestant", ["cupy", "torch-cuda", "torch-compile-cuda", "jax-cuda"])
def test_each_setting_of_a_cell_is_compiled_once(contestant, monkeypatch):
    made = []

    def makers(cell, contestant):
        names = settings(cell, contestant)
        return {name: lambda name=name: made.append((cell, name)) or steps for name in names}

    settings = contestants.makers
    steps = contestants.Steps(bool, bool, contestants.waiting_clock(bool))
    monkeypatch.setattr(contestants, "makers", makers)
    gpu_steps._kept_steps.cache_clear()
    try:
        for case in gpu_steps.CASES:
            for make in gpu_steps.variants(case, contestant).values():
                make()
    finally:
        gpu_steps._kept_steps.cache_clear()
    assert len(made) == len(set(made)) >= 14


# The report


def test_report_has_each_stage_and_what_is_missing():
    text = gpu_report.text(made_up())
    for words in ("Made-up GPU", "580.1", "1980 MHz, 40 °C, 300 W",
                  "| torch | 180 us |", "jax is not installed", "no time was left",
                  "failed: tests/test_a.py::test_b[a b]", "memcheck: 0 errors", "14 launches",
                  "2.50 s (quartiles 2.40 to 2.60", "TFLOP/s", "1 left out"):  # fmt: skip
        assert words in text, words
    widths = {}
    for line in text.splitlines():
        if line.startswith("|"):
            n = len(re.findall(r"(?<!\\)\|", line))
            assert widths.setdefault("now", n) == n, line
        else:
            widths.clear()


def test_report_of_a_run_that_was_ended_early_is_whole():
    for name in gpu.STAGES:
        results = made_up()
        results["stages"] = {
            name: results["stages"][name] | {"status": "cut", "reason": "too long", "rows": []}
        }
        results["limits"] = gpu_report.limits(results)
        assert results["limits"] == [] and errors(results) == []
        text = gpu_report.text(results)
        assert "too long" in text and "Nothing was measured" in text


def test_a_reason_cannot_break_the_table():
    results = made_up()
    results["stages"]["steps"]["reason"] = "a | b\n# not a heading"
    text = gpu_report.text(results)
    assert "a \\| b # not a heading" in text and "\n# not" not in text


def test_short_table_is_of_the_queued_steps():
    text = gpu_report.short(made_up())
    assert "| 784-16-16-10/32/sgd, queued | 20.0 us | 12.0 us | 180 us | 60.0 us |" in text
    assert "/high, queued" in text and "/medium, queued" in text and "adam" not in text
    assert text.endswith(f"{made_up()['machine']['date']}.")


def test_without_results_the_readme_says_so():
    assert gpu_report.short(None) == "not yet measured on a GPU"


def test_readme_takes_the_table_of_a_run(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(made_up()))
    readme_text = readme.FILE.read_text(encoding="utf-8")
    text = readme.filled(readme_text, suite.read(readme.RESULTS), readme.of_gpu(path))
    assert "| 784-512-512-10/1024/sgd, queued | 20.0 us |" in text
    assert "not yet measured" not in text
    assert readme.filled(text, suite.read(readme.RESULTS), None) == readme.filled(
        readme_text, suite.read(readme.RESULTS), None
    )


# Stages and their time


def stage(name, seconds=60):
    return Stage(f"tests.gpu_fakes:{name}", seconds, seconds)


def reasons(found):
    return [row["what"] for row in found["rows"]]


def is_running(pid):
    """Return whether a process is there and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_a_stage_that_overruns_is_cut_with_its_processes_and_keeps_its_rows(tmp_path):
    stages = {"long": stage("overruns", 8), "after": stage("fine")}
    start = time.monotonic()
    results = gpu.run(tmp_path, stages, FACTS)
    assert time.monotonic() - start < 60
    found = results["stages"]["long"]
    assert found["status"] == "cut" and "did not end within its 8 s" in found["reason"]
    first, pid = reasons(found)
    assert first == "first"
    end = time.monotonic() + 10
    while is_running(int(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(int(pid))
    assert results["stages"]["after"]["status"] == "ok"
    assert gpu.is_fine(results, list(stages))  # slow, not wrong
    assert "cut" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("name", "reason"), [("raises", "RuntimeError: out of luck"), ("dies", "exit status 7")]
)
def test_a_crash_leaves_the_other_stages(tmp_path, name, reason):
    results = gpu.run(tmp_path, {name: stage(name), "after": stage("fine")}, FACTS, quick=True)
    found = results["stages"][name]
    assert found["status"] == "crashed" and reason in found["reason"]
    assert reasons(found) == ["before"]
    assert reasons(results["stages"]["after"]) == ["quick True", "rates None"]
    assert not gpu.is_fine(results, [name, "after"]) and gpu.is_fine(results, ["after"])


def test_a_stage_for_which_no_time_is_left_is_not_started(tmp_path):
    results = gpu.run(tmp_path, {"one": stage("fine")}, FACTS, total_s=1.0)
    assert results["stages"]["one"]["status"] == "not run"
    assert errors(results) == []


@pytest.mark.parametrize("quick", [False, True])
def test_chosen_stages_share_the_whole_time(quick):
    shared = gpu.shared_out({name: gpu.STAGES[name] for name in ("steps", "wide")}, quick)
    seconds = [s.quick_seconds if quick else s.seconds for s in shared.values()]
    assert sum(seconds) == pytest.approx(gpu.QUICK_S if quick else gpu.TOTAL_S)
    assert seconds[0] > 1.5 * (gpu.STAGES["steps"][1 + quick])


def test_results_are_written_after_each_stage(tmp_path, monkeypatch):
    written = []

    def noted(results, folder):
        written.append(sorted(results["stages"]))
        write(results, folder)

    write = gpu.write
    monkeypatch.setattr(gpu, "write", noted)
    gpu.run(tmp_path, {"a": stage("fine"), "b": stage("raises")}, FACTS)
    assert written == [["a"], ["a", "b"]]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert errors(results) == [] and "RuntimeError" in (tmp_path / "report.md").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"gpu.json", "report.md", "a.log", "b.log"}


def test_another_run_keeps_the_stages_of_the_same_gpu(tmp_path):
    gpu.run(tmp_path, {"a": stage("fine")}, FACTS)
    again = gpu.run(tmp_path, {"b": stage("fine")}, FACTS)
    assert list(again["stages"]) == ["a", "b"]
    other = gpu.run(tmp_path, {"c": stage("fine")}, FACTS | {"name": "another"})
    assert list(other["stages"]) == ["c"]


def test_rates_are_told_to_the_stages_after_them(tmp_path):
    (tmp_path / "gpu.json").write_text(json.dumps(made_up()))
    results = gpu.run(tmp_path, {"a": stage("fine")}, FACTS)
    assert "'launch_us': 1.0" in reasons(results["stages"]["a"])[1]


def test_half_a_row_is_left_out():
    assert list(gpu._whole(['{"a": 1}', '{"b": '])) == [{"a": 1}]


def test_all_stages_together_take_less_than_ten_minutes():
    assert sum(s.seconds for s in gpu.STAGES.values()) >= gpu.TOTAL_S - 10
    assert gpu.TOTAL_S < 600 and gpu.QUICK_S < 120
    for found in (*gpu.STAGES.values(), *gpu.ASKED.values()):
        module, name = found.function.split(":")
        assert module == gpu_stages.__name__ and callable(getattr(gpu_stages, name))
        assert found.quick_seconds <= found.seconds


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_the_end_of_the_command_ends_its_stage(tmp_path):
    code = (
        "import signal, sys; from pathlib import Path; from nnx.benchmarks import gpu\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))\n"
        f"gpu.run(Path({str(tmp_path)!r}), {{'long': gpu.Stage('tests.gpu_fakes:overruns', 60, "
        f"60)}}, {FACTS!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    rows, end = tmp_path / "long.rows", time.monotonic() + 60
    while time.monotonic() < end and (not rows.exists() or rows.read_text().count("\n") < 2):
        time.sleep(0.05)
    pid = int(json.loads(rows.read_text().splitlines()[1])["what"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)


# The command


def test_without_a_gpu_it_says_why_and_ends_with_2(monkeypatch, capsys, tmp_path):
    absent = DeviceInfo("cupy", False, "no\ndriver", "", None)
    monkeypatch.setattr(nnx, "devices", lambda: [absent])
    assert gpu.main(["--out", str(tmp_path / "new")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == "benchmarks.gpu needs an NVIDIA GPU: no driver\n"
    assert not (tmp_path / "new").exists()


def test_with_a_gpu_the_chosen_stages_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "why_not", lambda: None)
    monkeypatch.setattr(gpu, "gpu_facts", lambda: FACTS)
    monkeypatch.setattr(gpu, "STAGES", {"a": stage("fine"), "b": stage("raises")})
    monkeypatch.setattr(gpu, "ASKED", {"slow": stage("fine")})
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert gpu.main(["--out", str(tmp_path), "--only", "a"]) == 0
        assert gpu.main(["--out", str(tmp_path)]) == 1
        assert not (tmp_path / "slow.log").exists()
        assert gpu.main(["--out", str(tmp_path), "--only", "slow"]) == 0
        assert (tmp_path / "slow.log").exists()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "b: up to 60 s\n  crashed in" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["benchmarks.gpu", "nnx.benchmarks.gpu"])
def test_both_names_of_the_command_work(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0 and "--quick" in result.stdout


def test_unknown_stages_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", "x", "--only", "speed"])
    assert "elementwise" in capsys.readouterr().err


# Tests and compute-sanitizer


def test_each_test_is_counted_even_where_the_run_was_ended():
    text = (
        "collecting ... collected 12 items / 2 errors / 3 deselected / 9 selected\n"
        "tests/test_a.py::test_one PASSED                [ 10%]\n"
        "tests/test_a.py::test_two[x y] SKIPPED (no GPU: told) [ 20%]\n"
        "tests/test_b.py::TestC::test_three FAILED [ 30%]\n"
        "tests/test_b.py::test_four ERROR [ 40%]\n"
        "tests/test_b.py::test_five \n"
        "=== short test summary info ===\n"
        "ERROR tests/test_c.py - ModuleNotFoundError: No module named 'mpmath'\n"
        "ERROR tests/test_b.py::test_four - OSError\n"
    )
    row = gpu_stages.tested(text, None, "tests.txt")
    assert {k: row[k] for k in ("passed", "skipped", "failed", "error", "exit", "not_run")} == {
        "passed": 1, "skipped": 1, "failed": 1, "error": 1, "exit": None, "not_run": 5,
    }  # fmt: skip
    assert row["problems"] == [
        "tests/test_b.py::TestC::test_three", "tests/test_b.py::test_four",
        "not collected: tests/test_c.py",
    ]  # fmt: skip
    assert gpu_report.is_fault(row)


@pytest.mark.parametrize("stage", ["tests", "slow tests"])
def test_tests_that_were_cut_are_no_pass(stage):
    collected = "collected 4 items\n"
    passed = "tests/test_a.py::test_one PASSED [ 10%]\n"
    for text, left in ((collected + passed, ", 3 not run"), (collected, ", 4 not run"), ("", "")):
        row = gpu_stages.tested(text, None, "tests.txt")
        assert row["problems"] == [] and gpu_report.is_fault(row)
        results = made_up()
        results["stages"][stage] = results["stages"]["tests"] | {"rows": [row]}
        results["limits"] = gpu_report.limits(results)
        assert errors(results) == []
        told = f"{stage}: {row['passed']} passed, 0 skipped, 0 failed, cut before the last{left}"
        for shown in (gpu_report.text(results), gpu_report.summary(results)):
            assert told in shown and (left or " not run" not in shown.partition(told)[2])
        assert not gpu.is_fine(results, [stage])
    assert not gpu_report.is_fault(gpu_stages.tested(passed, 0, "tests.txt"))
    assert gpu_report.is_fault(gpu_stages.tested(passed, 1, "tests.txt"))


@pytest.mark.parametrize(
    ("name", "fine"), [("tests", False), ("slow tests", False), ("wide", True)]
)
def test_a_stage_of_tests_that_was_ended_is_no_pass(name, fine):
    results = {"stages": {name: {"status": "cut", "rows": []}}}
    assert gpu.is_fine(results, [name]) == fine


def test_a_run_without_tests_is_a_fault():
    row = gpu_stages.tested("ImportError: no such module", 4, "tests.txt")
    assert row["problems"] == ["no test was run: ImportError: no such module"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose tests say in which order they run; a test without a mark fails."""
    folder = tmp_path / "checkout" / "tests"
    folder.mkdir(parents=True)
    for name in ("test_a.py", *reversed(gpu_stages.RISKY)):
        (folder / name).write_text(
            "import pytest\n"
            "@pytest.mark.gpu\ndef test_other_on_gpu(): pass\n"
            "@pytest.mark.gpu\ndef test_is_captured(): pass\n"
            "@pytest.mark.gpu\n@pytest.mark.slow\ndef test_slow(): pass\n"
            "def test_elsewhere(): assert False\n"
        )
    (folder.parent / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu: one\n  slow: long\n")
    monkeypatch.setattr(gpu_stages, "ROOT", folder.parent)


def run_of_tests(stage, options):
    """Return the row of a stage of tests, and which ran, as their files and names."""
    (row,) = stage(options)
    text = (options.out / row["log"]).read_text()
    assert (row["failed"], row["exit"], row["problems"], row["not_run"]) == (0, 0, [], 0)
    ran = re.findall(r"^tests/(\S+)::(\S+) PASSED", text, re.MULTILINE)
    assert len(ran) == row["passed"]
    return ran


def test_the_tests_that_are_run_are_those_marked_gpu_the_risky_ones_first(checkout, tmp_path):
    ran = run_of_tests(gpu_stages.tests, gpu_stages.Options(tmp_path, 120))
    names = ("test_other_on_gpu", "test_is_captured")
    assert ran == [(file, name) for file in (*gpu_stages.RISKY, "test_a.py") for name in names]


def test_in_short_only_captures_replays_and_refusals_are_tested(checkout, tmp_path):
    ran = run_of_tests(gpu_stages.tests, gpu_stages.Options(tmp_path, 120, quick=True))
    assert {name for _, name in ran} == {"test_is_captured"}


def test_slow_tests_are_a_stage_of_their_own_which_is_only_asked_for(checkout, tmp_path):
    ran = run_of_tests(gpu_stages.slow_tests, gpu_stages.Options(tmp_path, 120, quick=True))
    assert len(ran) == 5 and {name for _, name in ran} == {"test_slow"}
    assert "slow tests" not in gpu.STAGES
    options = gpu.parse(["--out", "x", "--only", "slow tests"])
    assert options.only == ["slow tests"]


def test_tests_need_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_stages, "ROOT", tmp_path / "nowhere")
    (row,) = gpu_stages.tests(gpu_stages.Options(tmp_path, 120))
    assert "no tests beside the package" in row["reason"]


def test_the_tests_that_go_first_are_there():
    files = [path.name for path in gpu_stages.in_order(ROOT / "tests")]
    assert files[: len(gpu_stages.RISKY)] == list(gpu_stages.RISKY)
    text = (ROOT / "tests" / gpu_stages.RISKY[0]).read_text(encoding="utf-8")
    first, *_ = re.findall(r"def (test_\w+)", text)
    assert any(word in first for word in gpu_stages.QUICK_TESTS.split(" or "))


def test_a_missing_sanitizer_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_stages, "sanitizer_path", lambda: None)
    (row,) = gpu_stages.sanitizer(gpu_stages.Options(tmp_path, 30))
    assert row["what"] == "compute-sanitizer" and "not installed" in row["reason"]


@pytest.mark.parametrize(
    ("text", "status", "wanted"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, ("ok", 0, "")),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0,
         ("ok", 0, "")),
        ("========= Invalid __global__ write of size 4 bytes\n========= ERROR SUMMARY: 3 errors",
         86, ("ok", 3, "Invalid __global__ write of size 4 bytes")),
        ("========= Error: Device not supported\n========= ERROR SUMMARY: 0 errors", 1,
         ("failed", None, "exit status 1: ========= ERROR SUMMARY: 0 errors")),
        ("Traceback\nImportError: no", 1, ("failed", None, "exit status 1: ImportError: no")),
        ("", None, ("cut", None, "it did not end in its time")),
    ],
)  # fmt: skip
def test_what_the_sanitizer_says_is_understood(text, status, wanted):
    row = gpu_stages.sanitized("memcheck", text, status, "m.txt")
    assert (row["status"], row.get("errors"), row.get("reason", "")) == wanted
    assert gpu_report.is_fault(row) == (wanted[:2] not in (("ok", 0), ("cut", None)))


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_the_sanitizer_runs_each_tool_while_there_is_time(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "========= ERROR SUMMARY: 0 errors of $2"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    rows = list(gpu_stages.sanitizer(gpu_stages.Options(tmp_path, 60)))
    assert [row["tool"] for row in rows] == ["memcheck", "racecheck", "initcheck"]
    assert all(row["errors"] == 0 for row in rows)
    (row,) = gpu_stages.sanitizer(gpu_stages.Options(tmp_path, 60, quick=True))
    assert row["tool"] == "memcheck"
    (row, *_) = gpu_stages.sanitizer(gpu_stages.Options(tmp_path, 1))
    assert row["reason"] == "no time was left"


def test_what_is_checked_runs(capsys):
    assert gpu_checked.main("numpy") == 0
    assert int(capsys.readouterr().out.split()[0]) > 30


# Cases


def fake_cases(names, *chosen):
    cases = {case.name: case for case in bench_fakes.CASES}
    return [cases[name]._replace(contestants=names) for name in chosen]


TINY = harness.Settings(rounds=4, length_s=0.004, limit_s=60)


def rows_of_cases(tmp_path, seconds, cases, rates=None):
    options = gpu_stages.Options(tmp_path, seconds, rates=rates)
    return list(gpu_stages.cases("tests.bench_fakes", cases, options, TINY))


def test_cases_tell_who_is_missing_and_who_computes_something_else(tmp_path):
    cases = fake_cases(("plain", "twice", "wrong", "absent", "halves"), "first")
    (row,) = rows_of_cases(tmp_path, 60, cases)
    found = {name: c["status"] for name, c in row["contestants"].items()}
    assert found == {
        "plain": "ok", "twice": "ok", "wrong": "wrong", "absent": "unavailable", "halves": "ok",
    }  # fmt: skip
    assert row["contestants"]["halves"]["left_out"] == {"bad": "RuntimeError: no such setting"}
    assert row["contestants"]["twice"]["over"]["median"] == pytest.approx(2, rel=0.1)
    results = made_up()
    results["stages"]["steps"]["rows"] = [row]
    assert errors(results) == [] and gpu_report.is_fault(row)
    assert "bad failed: RuntimeError" in gpu_report.text(results)


def test_a_case_that_needs_no_compiler_is_run_where_one_that_does_has_no_time(
    tmp_path, monkeypatch
):
    now = 0.0
    monkeypatch.setattr(gpu_stages.time, "monotonic", lambda: now)

    def measuring(module, cases, names, settings, left_s):
        nonlocal now
        for case in cases:
            now += 40.0 if case.problem.queued else 2.0
            yield {"name": case.name, "bytes": 0}

    monkeypatch.setattr(harness, "measuring", measuring)
    chosen = [c for c in gpu_steps.SMALL if c.problem.cell.batch == 32]
    assert [c.problem.queued for c in chosen] == [True, True, False, False] * 2
    options = gpu_stages.Options(tmp_path, 107)
    rows = list(gpu_stages.cases("m", chosen, options, TINY))
    done = [row["name"] for row in rows if row["kind"] == "case"]
    assert done == [case.name for case in chosen[:4]]
    assert [row["what"] for row in rows[4:]] == [case.name for case in chosen[4:]]
    now = 0.0
    rows = list(gpu_stages.cases("m", [chosen[i] for i in (0, 1, 4, 2)], options, TINY))
    assert [row.get("name") for row in rows[:3]] == [chosen[i].name for i in (0, 1, 2)]
    assert [row["what"] for row in rows[3:]] == [chosen[4].name]


def test_summary_says_how_many_cases_were_left_out():
    results = made_up()
    assert "left out" not in gpu_report.summary(results)
    found = results["stages"]["steps"]["rows"]
    found[0]["contestants"]["torch-cuda"] = {"status": "cut", "reason": "no answer"}
    found[13:] = [{"kind": "left out", "what": "x", "reason": "no time"}]  # the rest: ended
    said = gpu_report.summary(results)
    assert "steps: 3 of 16 cases left out, contestants cut: 1" in said and "wide:" not in said
    results["quick"] = True
    assert "cases left out" not in gpu_report.summary(results)
    found[1:] = []
    assert "steps: 1 of 2 cases left out" in gpu_report.summary(results)


def test_a_contestant_that_is_late_is_cut_and_no_fault(tmp_path):
    cases = fake_cases(("plain", "late"), "first")
    (row,) = rows_of_cases(tmp_path, 12, cases)  # in which nobody waits for TINY's limit
    found = {name: c["status"] for name, c in row["contestants"].items()}
    assert found == {"plain": "ok", "late": "cut"}
    assert row["contestants"]["plain"]["turns"] == TINY.rounds
    results = made_up()
    results["stages"]["steps"]["rows"] = [row]
    assert errors(results) == [] and not gpu_report.is_fault(row)
    assert "| late | cut | no answer within" in gpu_report.text(results)


def test_queued_work_is_timed_by_the_device_and_counted_by_its_units(tmp_path):
    (row,) = rows_of_cases(tmp_path, 60, fake_cases(("plain", "queued"), "first"))
    found = row["contestants"]["queued"]
    unit_us = 1e6 * bench_fakes.UNIT_S / bench_fakes.UNITS
    assert found["us"]["median"] == pytest.approx(unit_us, rel=0.01)
    assert found["device_us"]["median"] == pytest.approx(unit_us / 2, rel=0.01)
    assert found["calls"] % bench_fakes.UNITS == 0
    assert "device_us" not in row["contestants"]["plain"]


def test_cases_without_time_are_told(tmp_path):
    cases = fake_cases(("plain",), "first", "second")
    row, left = rows_of_cases(tmp_path, 0.01, cases)
    assert row["kind"] == "case" and left["what"] == "second"
    assert "no time was left" in left["reason"]


def test_the_floor_is_of_flops_bytes_and_launches():
    found = gpu_rates.floor_us(RATES, "high", 400_000_000, 131072, 10)
    assert found == pytest.approx(1.0 + 131072 / 500e3 + 10.0)
    assert gpu_rates.floor_us(RATES, "medium", 750_000_000, 0, 0) == pytest.approx(1.0)


class TimedMachine(Machine):
    """A machine on which what is started takes a made-up time, more from Python than in a graph."""

    PYTHON_S, NODE_S, BYTES_PER_S = 5e-6, 1e-6, 2e11

    def __init__(self):
        super().__init__()
        self.now, self.in_capture = 0.0, None

    def load(self, source):
        return {"nothing": None}

    def memory(self, n):
        return types.SimpleNamespace(address=0)

    def _spend(self, time_s):
        if self.in_capture is None:
            self.now += max(self.PYTHON_S, time_s)
        else:
            self.in_capture.append(time_s)

    def launch(self, kernel, blocks, arguments):
        self._spend(self.NODE_S)

    def copy(self, target, source, n):
        self._spend(self.NODE_S + 2 * n / self.BYTES_PER_S)

    def capture(self, function):
        self.in_capture = nodes = []
        function()
        self.in_capture, total = None, sum(nodes)

        def replay():
            self.now += max(self.PYTHON_S, total)

        return replay

    def clock(self):
        start = self.now
        return lambda: self.now - start


def test_rates_of_copies_are_the_gpus_and_without_launches():
    machine = TimedMachine()
    empty_s = gpu_rates.launch_s(machine, machine.clock)
    assert empty_s == pytest.approx(machine.NODE_S)
    for kib in gpu_rates.COPIED_KIB:
        n = 1024 * kib
        found = gpu_rates.copy_s(n, empty_s, machine, machine.clock)
        assert 2 * n / found == pytest.approx(machine.BYTES_PER_S)


def test_a_copy_takes_at_least_a_share_of_what_was_measured():
    machine = TimedMachine()
    found = gpu_rates.copy_s(65536, 1.0, machine, machine.clock)
    assert found == pytest.approx(0.1 * (machine.NODE_S + 131072 / machine.BYTES_PER_S))


# What the contestants compute: on the CPU, as they would on a GPU


def test_the_steps_of_fit_are_those_of_the_cell():
    case = contestants.case("", SMALL, (), "")
    work = gpu_steps.fit(SMALL, "numpy", n_rows=32, n_steps=4)
    for _ in range(2):
        work.run()  # which the losses do not depend on
        off = difference(list(map(sampled, work.values())), contestants.expected(case))
        assert off < 1e-5
    assert work.units == 4
    read = work.clock()
    assert read() is None


def test_exact_losses_are_those_of_the_step_by_hand():
    cell = problems.Cell((6, 5, 4, 3), "relu", "cross_entropy", 7, "sgd")
    problem = problems.make(cell)
    wanted = contestants.expected(contestants.case("", cell, (), ""))[:3]
    found = gpu_steps.exact_losses(np, problem, 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "out"), [("float32", "float32"), ("tf32", "float32")])
def test_products_are_those_of_a_step(dtype, out):
    machine = Machine()
    work = gpu_steps.products(SMALL, dtype, out, machine)
    assert machine.products == 8 and work.stats()["flops"] == 2 * 16 * (3 * 310 - 80)
    work.run()
    assert (machine.products, machine.replays) == (16, 1)


def test_product_memory_is_filled_to_its_end(monkeypatch):
    monkeypatch.setattr(gpu_steps, "TILE", 8)
    memory = gpu_steps._filled(Machine(), 21, "float32")
    at = memory.address - memory.bytes.ctypes.data
    found = memory.bytes[at : at + 84].view(np.float32)
    assert (found[8:16] == found[:8]).all() and (found[16:] == found[:5]).all() and found.all()
    memory = gpu_steps._filled(Machine(), 8, "bfloat16")
    at = memory.address - memory.bytes.ctypes.data
    narrow = (memory.bytes[at : at + 16].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(narrow, found[:8], rtol=2**-7)


def program_of(function, arrays):
    form = Form(function, [nnx.asarray(x, device="numpy") for x in arrays])
    return CudaProgram(form.lowered, {}, dict.fromkeys(form.lowered.scalars, True), Machine())


@pytest.mark.parametrize("name", gpu_elementwise.FUNCTIONS)
def test_elementwise_functions_are_one_kernel_of_the_bytes_that_are_counted(name):
    problem = gpu_elementwise.FUNCTIONS[name]._replace(elements=1000)
    given = gpu_elementwise.arguments(problem)
    program = program_of(problem.function, given)
    counted = gpu_parts.counts(program, {})
    assert counted["launches"] == 1 and counted["bytes"] == 4000 * (problem.n_arguments + 1)
    out = np.full(1000, np.nan, np.float32)
    gpu_elementwise.alone(program, {}, [x.ctypes.data for x in (*given, out)])()
    wanted = problem.function(*[x.astype(np.float64) for x in given])
    assert abs(out - wanted).max() <= 1e-6 * abs(wanted).max()
    full = next(case for case in gpu_elementwise.CASES if case.name.startswith(f"{name}, "))
    assert full.n_bytes == 4 * gpu_elementwise.ELEMENTS * (problem.n_arguments + 1)


@pytest.mark.parametrize("elements", [1000, 200_000])
def test_elementwise_results_are_expected_where_they_are_sampled(elements):
    for case in gpu_elementwise.CASES:
        problem = case.problem._replace(elements=elements)
        whole = problem.function(
            *[x.astype(np.float64) for x in gpu_elementwise.arguments(problem)]
        )
        found = gpu_elementwise.expected(case._replace(problem=problem))
        assert difference([sampled(whole)], found) == 0
        whole[7 * (elements // 1000) % elements :] += 1.0
        assert difference([sampled(whole)], found) > 100 * case.tolerance


def test_elementwise_functions_are_expected_of_a_sample_alone(monkeypatch):
    monkeypatch.setattr(gpu_elementwise, "TILE", 1009)
    sizes = []

    def noted(x, y):
        sizes.append(x.size)
        return x

    case = gpu_elementwise.CASES[1]
    problem = case.problem._replace(function=noted, elements=1 << 21)
    (found,) = gpu_elementwise.expected(case._replace(problem=problem))
    assert sizes == [1 << 16] and len(np.unique(found)) == 1009  # all of a tile
    x, y = gpu_elementwise.arguments(problem)
    assert x.size == 1 << 21 and (x[1009:2018] == x[:1009]).all() and not (x == y).any()


def test_parts_of_a_product_are_counted():
    x, w = np.ones((5, 7), np.float32), np.ones((7, 3), np.float32)
    counted = gpu_parts.counts(program_of(lambda x, w: x @ w, [x, w]), {})
    assert counted == {"flops": 2 * 5 * 7 * 3, "bytes": 4 * (35 + 21 + 15), "launches": 1}


def test_factors_that_are_narrower_than_their_product_are_counted_as_they_are():
    x, w = np.ones((5, 7), np.float32), np.ones((7, 3), np.float32)
    nnx.set_matmul_precision("medium")
    try:
        program = program_of(lambda x, w: x @ w, [x, w])
    finally:
        nnx.set_matmul_precision("highest")
    counted = [gpu_parts._of_product(run, {}) for run in program.step.runs
               if isinstance(run, Product)]  # fmt: skip
    assert counted == [(2 * 5 * 7 * 3, 2 * (35 + 21) + 4 * 15)]


def test_epilogues_of_products_are_told_in_their_order():
    x, w, v = (np.ones((128, 128), np.float32) for _ in range(3))
    b = np.ones(128, np.float32)
    nnx.set_matmul_precision("medium")
    try:
        program = program_of(lambda x, w, v, b: nnx.maximum(x @ w + b, 0.0) @ v, [x, w, v, b])
    finally:
        nnx.set_matmul_precision("highest")
    assert gpu_parts.epilogues(program, {}) == ["relu_bias", "none"]


def test_epilogues_go_from_the_work_to_the_row_and_the_report():
    match = harness.Match("tests.bench_fakes", fake_cases(("plain",), "first")[0], TINY)
    match.found["plain"] = {
        "status": "unavailable", "reason": "made up",
        "stats": {"flops": 5, "bytes": 6, "launches": 2, "epilogues": ["drelu", "none"]},
    }  # fmt: skip
    report = match.report()
    assert (report["launches"], report["epilogues"]) == (2, ["drelu", "none"])
    results = made_up()
    results["stages"]["wide"]["rows"] = [{"kind": "case", **report}]
    assert errors(results) == []
    assert "2 launches. Epilogues of its products: drelu, none." in gpu_report.text(results)
    assert "Epilogues of its products" not in gpu_report.text(made_up())


def test_counts_of_a_step_have_its_epilogues():
    program = program_of(
        lambda x, w: x @ w, [np.ones((5, 7), np.float32), np.ones((7, 3), np.float32)]
    )
    lowered = types.SimpleNamespace(
        _entry=types.SimpleNamespace(program=lambda: program, example={}), stats=dict
    )
    found = contestants.program_stats(types.SimpleNamespace(lower=lambda *x: lowered), [])
    assert found["launches"] == 1 and found["epilogues"] == ["none"]


@pytest.mark.parametrize(
    ("platform", "text"), [("gpu", r'sees no gpu: pip install "jax\[cuda13\]"'), ("cpu", "no cpu$")]
)
def test_jax_without_the_gpu_says_what_to_install(platform, text, monkeypatch):
    def devices(platform):
        raise RuntimeError(f"Unknown backend {platform}")

    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=devices))
    with pytest.raises(UnavailableError, match=text):
        contestants.jax_device(platform)


# The first step


def test_the_first_step_of_a_fresh_process_is_timed():
    found = gpu_first_step.seconds(["train", "iris", "--device", "numpy"], None, 120)
    assert 0 < found < 120


def test_a_command_without_a_first_step_says_why():
    with pytest.raises(gpu_first_step.FirstStepError, match="no such|There is no|not"):
        gpu_first_step.seconds(["train", "nothing-of-this-name"], None, 120)


def test_first_steps_are_a_median_after_one_that_fills_caches(tmp_path, monkeypatch):
    times = iter([9.0, 3.0, 1.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(gpu_first_step, "seconds", lambda *given: next(times))
    options = gpu_stages.Options(tmp_path, 600, mnist=tmp_path)
    (row,) = gpu_stages.first_step(options)
    assert (row["first_s"], row["runs"], row["seconds"]["median"]) == (9.0, 5, 3.0)
    (row,) = gpu_stages.first_step(options._replace(mnist=None))
    assert row["reason"] == "no --mnist DIR was given"


def test_made_up_results_are_not_changed_by_the_report():
    results = made_up()
    before = copy.deepcopy(results)
    gpu_report.text(results)
    assert results == before
