"""The training-step benchmark: its contestants compute what nnx computes; its report is whole."""

import json

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.benchmarks import problems, train
from nnx.benchmarks.by_hand import Trainer
from nnx.benchmarks.floor import Floor
from nnx.benchmarks.problems import CELLS

SMALL = CELLS["4-20-10-3/16/adam"]


def in_float64(cell):
    """Return the problem of a cell and the same network in nnx, both in float64."""
    problem = problems.make(cell)
    y = problem.y if cell.loss == "cross_entropy" else problem.y.astype(np.float64)
    wide = [[p.astype(np.float64) for p in part] for part in (problem.weights, problem.biases)]
    model = problems.make_model(cell, "numpy").to(nnx.float64)
    return problem._replace(
        x=problem.x.astype(np.float64), y=y, weights=wide[0], biases=wide[1]
    ), model


@pytest.mark.parametrize("cell", CELLS.values(), ids=list(CELLS))
def test_step_by_hand_equals_eager_training(cell):
    problem, model = in_float64(cell)
    trainer = Trainer(cell, problem)
    optimizer = problems.make_optimizer(cell, model)
    loss_of = getattr(nn, cell.loss)
    x, y = nnx.asarray(problem.x, device="numpy"), nnx.asarray(problem.y, device="numpy")
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        assert trainer.step() == pytest.approx(float(loss), rel=1e-12)
    ours = [p.numpy() for p in model.parameters()]
    for theirs, p in zip(
        [*trainer.weights, *trainer.biases], [*ours[0::2], *ours[1::2]], strict=True
    ):
        np.testing.assert_allclose(theirs, p, rtol=0, atol=1e-9)


def test_reset_starts_again():
    trainer = Trainer(SMALL, problems.make(SMALL))
    first = [trainer.step() for _ in range(3)]
    trainer.reset()
    assert [trainer.step() for _ in range(3)] == first
    assert first[2] < first[0]


def test_floor_has_the_products_of_a_step():
    floor = Floor(SMALL)  # which checks each product against NumPy
    floor.step()
    assert len(floor._products) == 3 * 3 - 1


def test_report_of_a_tiny_run_is_whole(capsys):
    cell = json.loads(json.dumps(train.measure(SMALL, ["numpy-by-hand"], 1, 0)))
    report = cell["contestants"]["numpy-by-hand"]
    assert set(report["us"]) == {"median", "quartiles", "best"}
    assert report["first_call_s"].keys() == {report["setting"]}
    train.print_header(["numpy-by-hand"])
    train.print_cell(cell)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_verdicts_name_the_limits():
    def over(median):
        return {"over": {"median": median}}

    found = {"numba": over(1.0), "numpy-by-hand": over(2.0), "torch": over(9.0), "jax": over(0.9)}
    cell = {"name": "784-16-16-10/32/sgd", "contestants": found | {"products": over(0.5)}}
    verdicts = {v["figure"].split()[1]: (v["limit"], v["met"]) for v in train.step_verdicts(cell)}
    assert verdicts == {"numpy-by-hand": (2.5, False), "torch": (8.0, True), "jax": (1.0, False)}
    large = cell | {"name": "784-512-512-10/1024/adam"}
    assert train.step_verdicts(large)[-1]["limit"] == 0.93


def test_each_limit_is_of_a_cell():
    assert {net for net, _ in train.TIMES_NNX} <= {cell.net for cell in CELLS.values()}


def test_modes_share_a_file(tmp_path):
    path = tmp_path / "train.json"
    train.write(path, "steps", {"limits": []})
    train.write(path, "mnist", {"limits": [1]})
    assert json.loads(path.read_text()) == {"steps": {"limits": []}, "mnist": {"limits": [1]}}


def test_unknown_names_are_refused():
    with pytest.raises(SystemExit, match="No cell starts with 5-5"):
        problems.select(["5-5"])
    with pytest.raises(SystemExit, match="No peer is named torhc"):
        train.main(["--peers", "torhc"])
