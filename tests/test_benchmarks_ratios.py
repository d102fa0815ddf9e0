"""The guard of nnx's own speed: its counters count, its figures can be compared and committed."""

import numpy as np
import pytest

import nnx
from nnx.benchmarks import compare, counts, harness, ratios, suite
from nnx.kernels import cache

EAGER = ratios.RATIOS[0]
COUNTED_BY = (counts.python_calls, counts.peak_bytes, counts.blocks_kept, counts.cyclic_garbage)


def nothing():
    """The call that costs nothing."""


# Counters


@pytest.mark.parametrize("counter", COUNTED_BY)
def test_nothing_counts_nothing(counter):
    assert counter(nothing) == 0


def test_calls_of_python_and_of_c_are_counted():
    assert counts.python_calls(lambda: nothing()) == 1
    assert counts.python_calls(lambda: (nothing(), len("x"), nothing())) == 3


def test_memory_that_is_given_back_at_once_is_counted():
    found = counts.peak_bytes(lambda: bytes(1_000_000) and None)
    assert 1_000_000 <= found < 1_001_000


def test_memory_of_arrays_is_counted():
    assert 100_000 <= counts.peak_bytes(lambda: np.ones(100_000, np.uint8).min()) < 102_000


def test_memory_that_stays_is_counted():
    kept = []
    assert counts.blocks_kept(lambda: kept.append([[]])) >= 2


def test_cycles_are_counted():
    def cycles():
        for _ in range(20):  # in all more than the collector would wait for
            x = []
            x.append(x)

    assert counts.cyclic_garbage(cycles) == 20


def test_arrays_and_their_bytes_are_counted():
    x = np.ones(10)
    assert counts.arrays(nothing) == (0, 0)
    assert counts.arrays(lambda: np.empty(10), 7) == (7, 560)
    assert counts.arrays(lambda: np.zeros((2, 5)), 7) == (7, 560)
    assert counts.arrays(lambda: (x + x, x * x), 7) == (14, 1120)
    assert counts.arrays(lambda: x[2:], 7) == (0, 0)


def test_arrays_outlive_their_count():
    kept = []
    counts.arrays(lambda: kept.append(np.arange(1000)), 3)
    kept[0].resize(5000, refcheck=False)
    assert kept[0][999] == 999 and kept[-1].sum() == 499_500
    assert np.empty(3).sum() is not None  # by NumPy's own functions again


def test_another_array_in_a_compiled_call_is_seen():
    @nnx.jit
    def f(x):
        return nnx.sum(x * x)

    x = nnx.asarray(np.ones(5, np.float32), device="numba")
    calls = counts.MANY_CALLS
    before = counts.arrays(lambda: f(x), calls)[0]
    assert counts.arrays(lambda: (f(x), np.empty(3)), calls)[0] == before + calls


def test_traces_and_compilations_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("NNX_CACHE_DIR", str(tmp_path))
    ticks = counts.Ticks()
    f = nnx.jit(ticks.before(lambda x: nnx.sum(x * 3.25 + 0.1171875)))
    with counts.calls_of(cache, "compile_step") as compilations:
        for shape, n in (((4, 3), 1), ((4, 3), 1), ((9, 3), 1), ((4, 5), 2), ((9, 3), 2)):
            f(nnx.asarray(np.ones(shape, np.float32), device="numba"))
            assert (ticks.so_far(), compilations()) == (n, n)


def test_count_of_what_is_gone_is_an_error():
    with (
        pytest.raises(AttributeError, match="compile_nothing"),
        counts.calls_of(cache, "compile_nothing"),
    ):
        pass


def test_counted_function_is_put_back():
    original = cache.compile_step
    with pytest.raises(KeyError), counts.calls_of(cache, "compile_step"):
        raise KeyError
    assert cache.compile_step is original


@pytest.fixture(scope="module")
def measured():
    """All counts, from their own process."""
    return counts.measured()


def test_step_is_traced_once_and_leaves_nothing(measured):
    expected = {
        "runs of Python's step in 21 compiled": 1,
        "compilations in 21 compiled steps": 1,
        "products of a compiled step": 8,
        "entries of native code per compiled step": 1,
        "arrays made in 1024 compiled steps": 4,  # losses, cut from blocks of 256
        "blocks kept by a compiled step": 0,
        "cyclic garbage of a compiled step": 0,
        "blocks kept by an eager step": 0,
        "cyclic garbage of an eager step": 0,
    }
    assert expected.items() <= measured.items()


# The file


def test_committed_file_has_the_figures_of_today(measured):
    committed = {e["name"]: e for e in suite.read(ratios.RESULTS)["figures"]}
    assert set(committed) == {r.name for r in ratios.RATIOS} | set(measured)
    assert compare.read(ratios.RESULTS).figures.keys() == {
        (name, e["better"]) for name, e in committed.items()
    }


def test_counts_are_not_worse_than_the_committed_ones(measured):
    committed = {e["name"]: e for e in suite.read(ratios.RESULTS)["figures"]}
    entries = [ratios.counted(*pair) for pair in measured.items()]
    assert [e["name"] for e in entries if ratios.is_failing(e, committed)] == []


@pytest.fixture
def made_up(monkeypatch):
    """Replace measuring: the values of each ratio in turn, and two counts."""
    taken = []

    def use(**values):
        def measure(ratio, settings):
            value = values.get(ratio.contestant, [1.0])
            tries = [r for r, _ in taken if r is ratio]
            value = value[min(len(tries), len(value) - 1)]
            taken.append((ratio, settings.wait_s))
            return {"name": ratio.name, "value": value, "quartiles": [value * 0.95, value * 1.05],
                    "better": ratio.better, "unit": "ratio",
                    "us": {ratio.contestant: 12345.6, ratio.over: 123456.7}}  # fmt: skip

        monkeypatch.setattr(ratios, "measured", measure)
        monkeypatch.setattr(counts, "measured", lambda: {"traces": 1, "blocks kept": 0})
        return taken

    return use


def test_file_of_a_run_can_be_read_and_compared(made_up, tmp_path, capsys):
    made_up()
    path = tmp_path / "ratios.json"
    assert ratios.main(["--json", str(path)]) == 0
    assert len(suite.read(path)["figures"]) == len(ratios.RATIOS) + 2
    assert compare.main([str(path), str(path), "--check"]) == 0
    out = capsys.readouterr().out
    assert f"{len(ratios.RATIOS) + 2} figures within the noise" in out
    assert max(map(len, out.splitlines())) <= 80


def test_first_file_needs_none_before(made_up, tmp_path):
    taken = made_up()
    found = ratios.run(harness.QUICK, tmp_path / "none.json")
    assert len(taken) == len(ratios.RATIOS)
    assert {e.get("tries", 1) for e in found["figures"]} == {1}


@pytest.mark.parametrize(
    ("values", "tries", "best"),
    [
        ([2.9], 1, 2.9),
        ([3.1, 2.5, 1.0], 2, 2.5),
        ([4.0, 3.5, 3.8, 1.0], 3, 3.5),
    ],
)
def test_ratio_that_fails_is_measured_again(made_up, values, tries, best):
    taken = made_up(numpy=values)
    before = {EAGER.name: ratios.counted(EAGER.name, 2.0) | {"quartiles": [1.9, 2.1]}}
    found = ratios.best_of_tries(EAGER, harness.QUICK, before)
    assert (found["tries"], found["value"]) == (tries, best)
    assert [wait_s for _, wait_s in taken] == [0, *[ratios.WAIT_S] * (tries - 1)]


def test_best_of_a_ratio_that_should_be_high_is_the_highest(made_up):
    (by_hand,) = (r for r in ratios.RATIOS if r.contestant == ratios.HAND)
    made_up(**{ratios.HAND: [1.0, 1.9, 2.5]})
    before = {by_hand.name: ratios.counted(by_hand.name, 3.0) | {
        "quartiles": [2.9, 3.1], "better": "higher"}}  # fmt: skip
    found = ratios.best_of_tries(by_hand, harness.QUICK, before)
    assert (found["tries"], found["value"]) == (3, 2.5)


def test_ratio_is_measured():
    settings = harness.Settings(rounds=2, length_s=1e-4, case_s=0.1)
    entry = ratios.measured(EAGER, settings)
    assert set(entry["us"]) == {"numpy", "numpy-by-hand"}
    figure = compare.listed(entry)
    assert 0 < figure.low <= figure.value <= figure.high
    assert not figure.is_count


def test_each_ratio_is_of_a_case():
    for ratio in ratios.RATIOS:
        ((_, cases),) = suite.chosen([ratio.suite], quick=False)
        (case,) = (c for c in cases if c.name == ratio.case)
        assert case.reference == ratio.over and ratio.contestant in case.contestants


def test_contestant_that_fails_ends_the_run(monkeypatch):
    failed = {"status": "crashed", "reason": "a signal"}
    report = [{"contestants": {"numpy": failed, "numpy-by-hand": {"status": "ok"}}}]
    monkeypatch.setattr(harness, "measure", lambda *args: report)
    with pytest.raises(SystemExit, match="numpy: crashed: a signal"):
        ratios.measured(EAGER, harness.QUICK)
