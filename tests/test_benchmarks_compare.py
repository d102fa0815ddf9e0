"""Comparing two files of results: what moved is told, noise is not, and a check fails by half."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnx.benchmarks import compare, suite

MACHINE = {"cpu": "Some CPU", "cores": 2, "gpu": [], "python": "3.12.1", "date": "2026-01-02",
           "commit": "0123456789", "versions": {"numpy": "2.1.0", "nnx-array": "0.1.0"},
           "threads": {"OMP_NUM_THREADS": "default"}}  # fmt: skip
LONG = "step of 784-512-512-10/1024/adam under a name that is far longer than any line of it"


def measured(name="step over by hand", value=2.0, spread=0.1, better="lower", unit="ratio"):
    return {"name": name, "value": value, "quartiles": [value - spread, value + spread],
            "better": better, "unit": unit}  # fmt: skip


def counted(value, name="traces"):
    return measured(name, value, 0, unit="count")


def around(value, spread):
    return {"median": value, "quartiles": [value * (1 - spread), value * (1 + spread)]}


def contestant(us, over=None, spread=0.05, **more):
    found = {"status": "ok", "us": around(us, spread)}
    if over is not None:
        found["over"] = {"reference": "numba", **around(over, spread)}
    return {**found, **more}


def case(name="784-16-16-10/32", **contestants):
    return {"suite": "train", "group": "784", "name": name, "reference": "numba",
            "contestants": contestants}  # fmt: skip


def results(*figures, cases=None, **machine):
    found = {"schema": suite.SCHEMA, "machine": MACHINE | machine, "figures": list(figures)}
    return found if cases is None else found | {"cases": cases}


@pytest.fixture
def compared(tmp_path, capsys):
    """Compare two results as the program does; return its exit status, stdout and stderr."""

    def run(old, new, *options):
        paths = []
        for name, content in (("old.json", old), ("new.json", new)):
            paths.append(str(tmp_path / name))
            Path(paths[-1]).write_text(content if isinstance(content, str) else json.dumps(content))
        status = compare.main([*paths, *options])
        out, err = capsys.readouterr()
        lines = (out + err).splitlines()
        assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line), out + err
        return status, out, err

    return run


def full():
    """Results with every kind of figure."""
    numba = contestant(20.0, 1.0, first_call_s={"numba": 0.5}, floor_share=0.8)
    torch = contestant(90.0, 4.5, first_call_s={"default": 0.1, "fused": None})
    broken = {"status": "unavailable", "reason": "jax is not installed"}
    return results(measured(), counted(0, "blocks kept"), counted(1),
                   cases=[case(numba=numba, torch=torch, jax=broken)])  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--check",), ("--check", "--all")], ids=str)
def test_identical_files_have_moved_nothing(compared, options):
    status, out, err = compared(full(), full(), *options)
    assert status == 0 and not err
    # three figures, a ratio, two times, a share, two first calls
    assert "9 figures within the noise" in out
    assert not {"slower", "faster", "worse ", "gone", "new "} & set(out.split())


def test_every_figure_of_a_case_is_compared(compared):
    new = full()
    numba, torch = (new["cases"][0]["contestants"][name] for name in ("numba", "torch"))
    for found in (numba["us"], torch["us"], torch["over"]):
        found["median"] *= 2
        found["quartiles"] = [2 * q for q in found["quartiles"]]
    numba["floor_share"] /= 2
    numba["first_call_s"]["numba"] *= 3
    torch["first_call_s"]["default"] *= 0.3
    status, out, _ = compared(full(), new)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert lines[2:] == [
        "ratios and counts",
        "slower +100 % 4.50 9.00 train: 784-16-16-10/32, torch over numba",
        "times of two runs, which are weak evidence",
        "slower +200 % 500 ms 1500 ms train: 784-16-16-10/32, numba, first call",
        "slower +100 % 20.0 us 40.0 us train: 784-16-16-10/32, numba",
        "slower -50 % 80.0 % 40.0 % train: 784-16-16-10/32, numba, share of",
        "the floor",
        "slower +100 % 90.0 us 180 us train: 784-16-16-10/32, torch",
        "faster -70 % 100 ms 30.0 ms train: 784-16-16-10/32, torch, first call",
        "5 slower, 1 faster, 3 figures within the noise",
    ]


@pytest.mark.parametrize(
    ("new", "word"),
    [
        (measured(value=2.15), None),  # the intervals overlap
        (measured(value=2.09, spread=0), None),
        (measured(value=2.5), "slower"),
        (measured(value=1.5), "faster"),
    ],
)
def test_figure_moves_only_beyond_its_interval(compared, new, word):
    _, out, _ = compared(results(measured()), results(new))
    assert [w for w in ("slower", "faster") if w in out] == ([word] if word else [])


@pytest.mark.parametrize(("threshold", "is_told"), [((), False), (("--threshold", "3"), True)])
def test_small_change_needs_a_smaller_threshold(compared, threshold, is_told):
    old, new = measured(spread=0.01), measured(value=2.08, spread=0.01)
    _, out, _ = compared(results(old), results(new), *threshold)
    assert ("slower" in out) == is_told


def test_higher_may_be_better(compared):
    old, new = (results(measured(value=v, better="higher")) for v in (3.0, 2.0))
    assert "slower" in compared(old, new)[1] and "faster" in compared(new, old)[1]
    assert [compared(old, new, "--check", "1.4")[0], compared(new, old, "--check", "1.4")[0]] == [
        1, 0,
    ]  # fmt: skip


def test_time_measured_once_is_sure_to_a_quarter(compared):
    def once(first_call_s):
        return results(cases=[case(numba=contestant(20.0, first_call_s={"numba": first_call_s}))])

    assert "slower" not in compared(once(0.50), once(0.70))[1]
    assert "slower" in compared(once(0.50), once(0.90))[1]


def test_moved_figures_are_sorted_by_size(compared):
    names = ("a", "b", "c", "d", "e")
    old = results(*(measured(name, 1.0, 0.01) for name in names))
    new = results(*(measured(*pair, 0.01) for pair in zip(names, (2, 0.9, 3, 0.2, 1), strict=True)))
    _, out, _ = compared(old, new)
    rows = [line.split() for line in out.splitlines() if line.startswith(("slower", "faster"))]
    assert [(row[0], row[-1]) for row in rows] == [
        ("slower", "c"), ("slower", "a"), ("faster", "d"), ("faster", "b"),
    ]  # fmt: skip


# The check


@pytest.mark.parametrize(
    ("value", "factor", "expected"),
    [
        (3.1, (), 1),
        (2.9, (), 0),
        (1.0, (), 0),
        (0.0, (), 0),
        (3.1, ("1.6",), 0),
        (2.3, ("1.1",), 1),
    ],
)
def test_check_fails_beyond_its_factor(compared, value, factor, expected):
    new = measured(value=value, spread=0)
    status, _, err = compared(results(measured()), results(new), "--check", *factor)
    assert status == expected
    assert bool(err) == bool(expected)


def test_failure_names_figure_values_and_limit(compared):
    _, _, err = compared(results(measured()), results(measured(value=3.1)), "--check")
    assert err == "FAILED  step over by hand: 2.00 -> 3.10, limit 3.00\n"


@pytest.mark.parametrize(
    ("old", "new", "word", "status"),
    [
        (1, 1, None, 0),
        (1, 2, "worse", 1),
        (2, 3, "worse", 1),  # by half: nothing but that is needed where there is no noise
        (80, 81, "worse", 0),
        (0, 0, None, 0),
        (0, 1, "worse", 1),
        (1, 0, "better", 0),
        (0, 0.001, "worse", 1),
    ],
)
def test_counts_have_no_noise(compared, old, new, word, status):
    found, out, err = compared(results(counted(old)), results(counted(new)), "--check")
    assert (found, bool(err)) == (status, bool(status))
    assert [w for w in ("worse", "better") if out.count(f"\n{w}")] == ([word] if word else [])


def test_figure_that_vanished_fails(compared):
    old, new = results(measured(), counted(1)), results(counted(1))
    status, out, err = compared(old, new, "--check")
    assert status == 1
    assert "gone    step over by hand" in out and "1 gone" in out
    assert "FAILED  step over by hand: 2.00 -> gone" in err
    assert compared(old, new)[0] == 0


def test_new_figure_is_told_and_passes(compared):
    status, out, _ = compared(results(counted(1)), results(counted(1), measured()), "--check")
    assert status == 0
    assert "new     step over by hand" in out and "1 new" in out


def test_ratios_of_cases_are_checked_if_asked(compared):
    old, new = (
        results(measured(), cases=[case(numba=contestant(20.0), torch=contestant(40.0, over))])
        for over in (2.0, 4.0)
    )
    assert compared(old, new, "--check")[0] == 0
    status, _, err = compared(old, new, "--check", "--all")
    assert status == 1
    assert "torch over numba: 2.00 -> 4.00, limit 3.00" in err
    assert compared(new, old, "--check", "--all")[0] == 0


def test_times_are_never_checked(compared):
    old, new = (results(measured(), cases=[case(numba=contestant(us))]) for us in (20.0, 200.0))
    status, out, _ = compared(old, new, "--check", "--all")
    assert status == 0 and "slower" in out


# What is gone, new, of another status


def test_what_is_gone_as_a_whole_is_told_in_one_line(compared):
    two = [case("a", numba=contestant(1.0), torch=contestant(2.0, 2.0)),
           case("b", numba=contestant(1.0), torch=contestant(2.0, 2.0))]  # fmt: skip
    one = [case("b", numba=contestant(1.0))]
    told = {"gone": ["train: a", "train: b, torch"], "new": ["train: a", "train: b, torch"]}
    for old, new, word in ((two, one, "gone"), (one, two, "new")):
        _, out, _ = compared(results(cases=old), results(cases=new))
        lines = [line[8:] for line in out.splitlines() if line.startswith(f"{word}   ")]
        assert lines == told[word]
        assert f"2 {word}" in out


@pytest.mark.parametrize("status", ["crashed", "wrong", "cut", "unavailable", "not run"])
def test_other_status_is_named(compared, status):
    broken = {"status": status, "reason": "for a reason"}
    old, new = (results(measured(), cases=[case(numba=contestant(20.0), torch=found)])
                for found in (contestant(40.0, 2.0), broken))  # fmt: skip
    found, out, err = compared(old, new, "--check", "--all")
    told = " ".join(out.split())
    assert f"status train: 784-16-16-10/32, torch: ok -> {status} (for a reason)" in told
    assert "1 of another status" in out and "\ngone" not in out
    assert found == 1 and "torch over numba: 2.00 -> gone" in err
    _, out, _ = compared(new, old)
    assert f"torch: {status} -> ok" in " ".join(out.split()) and "\nnew" not in out


def test_new_contestant_that_fails_is_named(compared):
    crashed = {"status": "crashed", "reason": "a signal"}
    old, new = (
        results(cases=[case(numba=contestant(20.0), **more)]) for more in ({}, {"torch": crashed})
    )
    assert "torch: absent -> crashed (a signal)" in compared(old, new)[1]


# Another machine


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"cpu": "Another"}, "cpu Some CPU -> Another"),
        ({"cores": 64}, "cores 2 -> 64"),
        ({"versions": {"numpy": "2.2.0"}}, "numpy 2.1.0 -> 2.2.0"),
        ({"threads": {"OMP_NUM_THREADS": "1"}}, "OMP_NUM_THREADS default -> 1"),
    ],
)
def test_times_of_another_machine_are_not_judged(compared, other, told):
    old, new = full(), full()
    new["machine"] |= other
    found = new["cases"][0]["contestants"]["torch"]
    found["us"] = {"median": 900.0, "quartiles": [890.0, 910.0], "best": 880.0}
    found["over"] = {"reference": "numba", "median": 45.0, "quartiles": [44.0, 46.0]}
    _, out, _ = compared(old, new)
    assert f"other machine: {told}" in " ".join(out.split())
    assert "torch over numba" in out and "weak evidence" not in out
    assert "1 slower, 3 figures within the noise, 5 times not judged" in out


def test_another_version_of_nnx_is_the_same_machine():
    new = MACHINE | {"versions": {"numpy": "2.1.0", "nnx-array": "0.2.0", "torch": "2.6"},
                     "date": "2027-01-01", "commit": "other", "load": [3.0]}  # fmt: skip
    assert compare.differences(MACHINE, new) == []


# The file, the program


def damaged():
    """Pairs of a content and what is said of it."""
    yield "", "is no JSON"
    yield '{"schema": ', "is no JSON"
    yield [], "has no results"
    yield results() | {"schema": "nnx-bench/0"}, "has no results"
    yield {"schema": suite.SCHEMA}, "neither cases nor figures"
    yield results() | {"figures": 3}, "is damaged: TypeError"
    yield results() | {"machine": 3}, "is damaged"
    yield results({"name": "x"}), "is damaged: KeyError: 'quartiles'"
    yield results(measured(better="sideways")), "neither lower nor higher"
    yield results(measured(), measured()), "in it twice"
    yield results(measured(value=float("nan"))), "has the value nan"
    yield results(measured(value=-1.0)), "has the value -1.0"
    yield results(measured(spread=-1.0)), "quartiles (3.0, 1.0)"
    yield results(cases=[{"suite": "train"}]), "is damaged: KeyError"
    yield results(cases=[case(numba={"status": "ok", "us": {}})]), "is damaged: KeyError"
    zero = contestant(0.0, floor_share=1.0)
    yield results(cases=[case(numba=zero)]), "is damaged: ZeroDivisionError"


@pytest.mark.parametrize(("content", "told"), list(damaged()))
def test_damaged_file_is_told(compared, content, told):
    for old, new in ((content, full()), (full(), content)):
        status, out, err = compared(old, new)
        assert (status, out) == (2, "")
        assert told in err and ".json" in err


def test_missing_file_is_told(tmp_path, capsys):
    for path in (tmp_path / "none.json", tmp_path):
        assert compare.main([str(path), str(path)]) == 2
        assert f"{path} cannot be read: " in capsys.readouterr().err


def test_check_of_nothing_is_an_error(compared):
    status, _, err = compared(results(), results(measured()), "--check")
    assert status == 2 and "no figures to check" in err


@pytest.mark.parametrize(
    "options",
    [("--check", "1"), ("--check", "nan"), ("--check", "x"), ("--threshold", "-1"), ("--all",)],
)
def test_senseless_options_are_refused(options):
    with pytest.raises(SystemExit) as refused:
        compare.main(["a.json", "b.json", *options])
    assert refused.value.code == 2


def test_lines_keep_to_80_columns(compared):
    old, new = full(), copy.deepcopy(full())
    cpu = "A processor of a long name with @ all 3.50GHz its clocks and marketing (R) words"
    for content, factor in ((old, 1), (new, 1234567)):
        content["machine"]["cpu"] = cpu
        content["cases"] += [case(LONG, numba=contestant(1e5), torch=contestant(1e9, 3.0 * factor))]
        content["figures"] += [measured(f"{LONG} ({i})", 1e9 * factor, 0, unit=unit)
                               for i, unit in enumerate(("count", "us", "share", ""))]  # fmt: skip
    crashed = {"status": "crashed", "reason": f"ValueError: {LONG} " * 3}
    new["cases"] += [case(f"{LONG} more", numba=crashed)]
    status, out, err = compared(old, new, "--check")  # which looks at each line
    assert status == 1
    assert "x 1000000" in out and LONG.split()[-1] in out
    assert max(map(len, (out + err).splitlines())) <= 80


def test_it_runs_as_a_program(tmp_path):
    path = tmp_path / "full.json"
    suite.write(full(), path)
    for program in ([compare.__file__], ["-m", "nnx.benchmarks.compare"]):
        result = subprocess.run(
            [sys.executable, *program, path, path, "--check"], capture_output=True, text=True
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "no figure is worse" in result.stdout
