"""Training with device="auto"."""

from __future__ import annotations

import json

import pytest

from nnx import calibrate, nn, optim
from nnx.errors import DeviceError
from tests.training import Batches, X, Y, classifier, network, same


@pytest.fixture(autouse=True)
def figures(monkeypatch, tmp_path):
    """Keep the figures of device="auto" in a folder of the test's own, and return it."""
    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path / "devices")
    return tmp_path / "devices"


def with_times(monkeypatch, **times):
    """Let each device take a made-up time for its steps; None fails."""

    def median(step, name):
        step()
        if times.get(name) is None:
            raise RuntimeError("out of memory")
        return times[name]

    monkeypatch.setattr(calibrate, "_median_s", median)


@pytest.mark.parametrize(
    ("times", "choice", "reason"),
    [
        ({"numpy": 3e-3, "numba": 1e-3}, "numba", "the fastest"),
        ({"numpy": 1.05e-3, "numba": 1e-3}, "numpy", "as fast as numba within 10%"),
        ({"numpy": 1e-3, "numba": 1e-3}, "numpy", "the fastest"),
        ({"numpy": None, "numba": 1e-3}, "numba", "the only device"),
    ],
)
def test_auto_takes_the_fastest_and_says_why(monkeypatch, times, choice, reason):
    with_times(monkeypatch, **times)
    model = network(nn.Dense(3))
    model.compile("adam", "cross_entropy", device="auto")
    assert model.device_report is None
    model.fit(X, Y, validation_data=(X, Y))
    report = model.device_report
    assert model.device == report.choice == choice and reason in report.reason
    assert report.step_s == {name: t for name, t in times.items() if t is not None}
    assert "slow on purpose" in report.skipped["loops"]
    assert ("numpy" in report.skipped) == (times["numpy"] is None)
    assert choice in str(report)


def test_auto_changes_no_parameter_and_draws_nothing():
    def run(device):
        model = network(nn.Dense(6), nn.Dropout(0.5), nn.Dense(3))
        model.compile(optim.Adam(0.01), "cross_entropy", ["accuracy"], device)
        model.fit(X, Y, epochs=2)
        return model

    measured = run("auto")
    named = run(measured.device.name)
    assert same(measured.state_dict(), named.state_dict())
    assert measured.history.history == named.history.history
    assert set(measured.device_report.step_s) >= {"numpy", "numba"}
    assert all(0 < t < 10 for t in measured.device_report.step_s.values())
    assert named.device_report is None


def test_figures_are_kept_for_the_network_and_batch(monkeypatch, figures, capsys):
    def chosen(units=3, rows=16, verbose=2):
        model = network(nn.Dense(units), nn.Dense(3))
        model.compile("adam", "cross_entropy", device="auto")
        model.fit(X, Y, batch_size=rows, verbose=verbose)
        return model.device_report

    with_times(monkeypatch, numpy=3e-3, numba=1e-3)
    first = chosen()
    assert not first.earlier and len(list(figures.iterdir())) == 1
    told = capsys.readouterr().err
    assert "device='auto' chose numba: the fastest" in told and "numpy 3000 us a step" in told
    with_times(monkeypatch, numpy=1e-3, numba=3e-3)
    again = chosen(verbose=0)
    assert again.earlier and again.choice == "numba" and again.step_s == first.step_s
    assert "of an earlier run kept in" in str(again) and not capsys.readouterr().err
    assert chosen(units=4).choice == chosen(rows=8).choice == "numpy"
    assert len(list(figures.iterdir())) == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"step_s": {}}', '{"step_s": {"numpy": -1}, "skipped": {}}',
             '{"step_s": {"nowhere": 1}, "skipped": {}}', '{"step_s": {"numpy": NaN}}']
)  # fmt: skip
def test_damaged_figures_are_told_and_measured_again(text, monkeypatch, figures):
    with_times(monkeypatch, numpy=3e-3, numba=1e-3)
    model = classifier("auto")
    model.fit(X, Y)
    (path,) = figures.iterdir()
    path.write_text(text)
    model = classifier("auto")
    with pytest.warns(UserWarning, match="is damaged"):
        model.fit(X, Y)
    assert model.device_report.choice == "numba" and not model.device_report.earlier
    assert json.loads(path.read_text())["step_s"] == {"numpy": 3e-3, "numba": 1e-3}


def test_figures_that_cannot_be_kept_are_used(monkeypatch, figures):
    figures.write_text("a file where the folder should be")
    with_times(monkeypatch, numpy=3e-3, numba=1e-3)
    model = classifier("auto")
    model.fit(X, Y)
    assert model.device_report.choice == "numba" and not model.device_report.file


def test_auto_works_with_a_generator_and_loses_no_batch(monkeypatch):
    with_times(monkeypatch, numpy=2.0, numba=1.0)
    model = classifier("auto")
    model.fit(iter(Batches()))
    expected = classifier("numba")
    expected.fit(X, Y, batch_size=16, shuffle=False)
    assert same(model.state_dict(), expected.state_dict())


def test_auto_where_nothing_can_run_is_an_error(monkeypatch):
    with_times(monkeypatch)
    with pytest.raises(DeviceError, match=r"no device could run.*out of memory"):
        classifier("auto").fit(X, Y)
