"""The harness of the benchmarks: turns, checks, time limits, and what becomes of each failure."""

import time
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx.backends.numpy_backend import NumpyBackend
from nnx.benchmarks import harness, rates, suite, worker
from nnx.benchmarks.case import Case, difference, on_device, sampled
from nnx.benchmarks.harness import Settings, measure
from nnx.benchmarks.worker import block, block_s, calls_in_block
from nnx.device import Device
from tests import bench_fakes

FAKES = "tests.bench_fakes"
TINY = Settings(rounds=6, length_s=0.004, limit_s=60)


@pytest.fixture(autouse=True)
def fakes_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def case(name="first", **changes):
    found = next(case for case in bench_fakes.CASES if case.name == name)
    return found._replace(**changes)


def figures(names, settings=TINY, cases=None):
    return measure(FAKES, cases or [case()], names, settings)


@pytest.mark.parametrize(
    "clock", ["made up", pytest.param("real", marks=pytest.mark.slow)]
)  # fmt: skip
def test_twice_the_time_is_reported_as_twice(clock, monkeypatch):
    monkeypatch.setenv("BENCH_FAKES_CLOCK", clock)
    (report,) = figures(["plain", "twice"], TINY._replace(rounds=15))
    found = report["contestants"]["twice"]
    assert found["over"]["reference"] == "plain"
    assert found["over"]["median"] == pytest.approx(2, rel=0.1)
    assert found["us"]["median"] == pytest.approx(2e6 * bench_fakes.UNIT_S, rel=0.1)


def test_contestants_take_turns(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("BENCH_FAKES_LOG", str(log))
    figures(["plain", "twice"], TINY._replace(rounds=4))
    blocks = [line.split()[1] for line in log.read_text().splitlines() if "block" in line]
    assert blocks[-8:] == ["plain", "twice", "twice", "plain"] * 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [("wrong", "computes something else"), ("nan", "inf"), ("empty", "computes nothing")],
)
def test_wrong_results_are_told_and_never_timed(name, reason, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("BENCH_FAKES_LOG", str(log))
    (report,) = figures(["plain", name])
    found = report["contestants"][name]
    assert found["status"] == "wrong" and reason in found["reason"]
    assert set(found) == {"status", "reason"}
    assert f"block {name}" not in log.read_text()
    assert report["contestants"]["plain"]["status"] == "ok"


def test_a_crash_is_told_and_the_next_case_goes_on():
    first, second = figures(["plain", "crash"], cases=[case(), case("second")])
    assert first["contestants"]["crash"] == {"status": "crashed", "reason": "out of luck"}
    assert first["contestants"]["plain"]["status"] == "ok"
    assert second["contestants"]["crash"]["status"] == "ok"


def test_an_error_of_a_contestant_is_told():
    (report,) = figures(["plain", "fails"])
    assert report["contestants"]["fails"] == {
        "status": "crashed", "reason": "ValueError: this cannot be computed",
    }  # fmt: skip


def test_a_contestant_may_find_out_that_it_cannot_take_part():
    (report,) = figures(["plain", "absent"])
    found = report["contestants"]["absent"]
    assert found == {"status": "unavailable", "reason": "no such device here"}


def test_no_one_is_waited_for_beyond_the_limit():
    start = time.monotonic()
    (report,) = figures(["late"], TINY._replace(limit_s=3))
    assert report["contestants"]["late"] == {
        "status": "cut", "reason": "no answer within 3 s",
    }  # fmt: skip
    assert time.monotonic() - start < 30


class Asked(harness.Contestant):
    """Notes how long it is waited for, and answers as a worker would."""

    def __init__(self):
        super().__init__("products")  # whose values are not checked
        self.limits = []

    def ask(self, limit_s, **command):
        self.limits.append((command["do"], limit_s))
        if command["do"] == "time" and len(self.limits) > 3:
            raise harness.LateError("late")
        return {
            "open": {"variants": {"one": {"first_call_s": 0.1}}, "left_out": {}},
            "calibrate": {"setting": "one", "calls": 1, "trial_us": {}},
            "time": {"time_s": 1e-3, "cpu_s": 0.0, "device_s": None},
        }[command["do"]]


def test_getting_ready_may_take_longer_than_a_turn():
    match, asked = harness.Match(FAKES, case(), TINY._replace(limit_s=3, open_s=90)), Asked()
    match.admit(asked)
    match.play(lambda: None)
    assert asked.limits == [("open", 90), ("calibrate", 3), ("time", 3), ("time", 3)]
    assert match.found["products"] == {"status": "cut", "reason": "late"}
    assert "us" not in match.report()["contestants"].get("products", {})


def test_no_one_gets_ready_beyond_the_time_that_is_left():
    settings, asked = TINY._replace(limit_s=3, open_s=90), Asked()
    harness.Match(FAKES, case(), settings, lambda: 7.0).admit(asked)
    assert asked.limits == [("open", 7.0), ("calibrate", 3)]
    match = harness.Match(FAKES, case(), settings, lambda: -1.0)
    match.admit(harness.Contestant("plain"))
    assert match.found["plain"] == {"status": "cut", "reason": "no time was left for it"}


def test_loops_beyond_the_budget_are_not_run_and_not_guessed(tmp_path, monkeypatch):
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("BENCH_FAKES_LOG", str(log))
    (report,) = figures(["loops"], cases=[case("huge")])
    found = report["contestants"]["loops"]
    assert found["status"] == "not run" and "more than the 2 s given to loops" in found["reason"]
    assert set(found) == {"status", "reason"}
    assert log.read_text() == ""


def test_loops_that_were_run_say_what_the_next_take():
    small = case("first", work=1000)
    known = harness.looped_guess_s(small, {"all": 1e-3})
    assert known == pytest.approx(1.0)
    assert harness.looped_guess_s(small, {}) == pytest.approx(1000 * harness.LOOPED_NS * 1e-9)


def test_what_is_not_here_has_its_reason():
    missing = harness.absent(["numpy", "torch", "cupy", "plain"])
    assert "numpy" not in missing and "plain" not in missing
    usable = {info.name: info for info in nnx.devices()}
    assert ("cupy" in missing) is not usable["cupy"].available
    if "torch" in missing:
        assert missing["torch"] == "torch is not installed"


class Slow(NumpyBackend):
    """A device that does its work only when it is waited for."""

    name = "slow"
    delay_s = 0.01

    def synchronize(self, index):
        time.sleep(self.delay_s)


def test_what_is_timed_ends_when_the_device_is_done():
    device = Device("slow", Slow(), 0)
    work = on_device(device, lambda x: x + 1.0, [np.ones(3, np.float32)])
    assert block_s(work, 5, slow=True) >= 5 * Slow.delay_s
    np.testing.assert_array_equal(work.values()[0], [2, 2, 2])


def test_a_block_is_as_long_as_asked(monkeypatch):
    monkeypatch.setattr(worker, "time", bench_fakes.CLOCK)
    work = next(iter(bench_fakes.variants(case(), "plain").values()))()
    assert calls_in_block(work, 5 * bench_fakes.UNIT_S) == (5, False)
    # Calls before the clock starts count neither as time nor as what threads computed.
    time_s, cpu_s, _ = block(work, 10, slow=False)
    assert time_s == cpu_s == pytest.approx(10 * bench_fakes.UNIT_S)
    slow = work._replace(run=lambda: bench_fakes._spend(0.11))
    assert calls_in_block(slow, 0.01) == (1, True)


def test_difference_is_in_units_of_the_largest():
    exact = [np.array([0.0, 100.0]), np.array([1.0])]
    assert difference([np.array([1.0, 100.0])], exact) == pytest.approx(0.01)
    assert difference([np.array([0.0, np.nan])], exact) == np.inf
    assert difference([np.array([0.0])], exact) == np.inf
    assert sampled(np.ones((1000, 1000), np.float32)).shape[0] <= 1 << 17


def test_floor_is_work_at_the_measured_rates():
    found = {"products": {"one thread": 50.0, "all threads": 100.0},
             "memory": [[1e3, 40.0], [1e6, 20.0]]}  # fmt: skip
    assert rates.floor_us(found, 2e6, 0) == pytest.approx(20.0)
    assert rates.floor_us(found, 0, 1e3) == pytest.approx(0.025)
    assert rates.floor_us(found, 2e6, 2e7) == pytest.approx(20.0 + 1000.0)


def test_rates_are_the_best_of_two():
    first = {"products": {"one thread": 50.0}, "memory": [[1e3, 40.0], [1e6, 20.0]]}
    second = {"products": {"one thread": 60.0}, "memory": [[1e3, 30.0], [1e6, 25.0]]}
    assert rates.best(first, second) == {
        "products": {"one thread": 60.0}, "memory": [[1e3, 40.0], [1e6, 25.0]],
    }  # fmt: skip


@pytest.mark.parametrize("name", suite.SUITES)
def test_suites_are_whole(name):
    ((_, cases),) = suite.chosen([name], quick=False)
    ((module, quick),) = suite.chosen([name], quick=True)
    assert len({c.name for c in cases}) == len(cases)
    assert quick and all(c in cases for c in quick)
    assert all(isinstance(c, Case) and c.suite == name and c.contestants for c in cases)
    assert module.startswith("nnx.benchmarks.")


QUICK_WORKS = [
    (module, case, name)
    for module, cases in suite.chosen(["ops", "dense", "crossover", "train"], quick=True)
    for case in cases
    for name in ("numpy", "numba", "numpy-by-hand", "textbook", "loops")
    if name in case.contestants and (name != "loops" or case.work < 20_000)
]


@pytest.mark.parametrize(
    ("module", "case", "name"), QUICK_WORKS, ids=[f"{c.name}, {n}" for _, c, n in QUICK_WORKS]
)
def test_contestants_compute_what_numpy_does_in_float64(module, case, name):
    import importlib

    found = importlib.import_module(module)
    for make in found.variants(case, name).values():
        work = make()
        work.run()
        off = difference([sampled(a) for a in work.values()], found.expected(case))
        assert off <= case.tolerance


def test_contestants_are_those_that_can_be():
    names = suite.contestants(["loops", "numpy"], ["numpy", "torch"])
    assert names == ["textbook", "loops", "numpy", "numpy-by-hand", "torch", "products"]


def test_results_are_written_and_read(tmp_path):
    path = tmp_path / "results.json"
    results = suite.run(["overhead"], ["numpy"], ["numpy"], True, TINY._replace(rounds=2))
    suite.write(results, path)
    assert suite.read(path) == results
    by_name = {case["name"]: case["contestants"] for case in results["cases"]}
    assert by_name["x + y, 10 elements"]["numpy"]["over"]["median"] > 1
    assert results["machine"]["cores"] and results["rates"]["products"]["one thread"] > 0
    path.write_text("{}")
    with pytest.raises(ValueError, match="no results of `nnx bench`"):
        suite.read(path)
