"""Metrics against NumPy by hand: at once, in parts, on several devices."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import nnx
from nnx import metrics
from nnx.errors import DataError, ShapeError

DEVICES = ["numpy", "loops", "array_api:array_api_strict"]


def draw(shape, seed=0):
    return nnx.random.Generator(seed).host_normal(0.0, 1.0, shape)


SCORES = draw((40, 5))
CLASSES = nnx.random.Generator(1).host_integers(5, shape=40)
ROWS = np.eye(5, dtype=np.float32)[CLASSES]
P, Y = draw((30, 2), 2), draw((30, 2), 3) * 3 + 1
LOGITS = draw((25, 1), 4)
BITS = (draw((25, 1), 5) > 0).astype(np.float32)


def hand_top_k(scores, classes, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.mean([c in row for row, c in zip(order, classes, strict=True)])


def hand_r2(p, y):
    p, y = p.astype(np.float64), y.astype(np.float64)
    return np.mean(1 - ((y - p) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0))


CASES = [
    ("accuracy", SCORES, CLASSES, (SCORES.argmax(1) == CLASSES).mean()),
    ("accuracy", SCORES, ROWS, (SCORES.argmax(1) == CLASSES).mean()),
    ("accuracy", SCORES.reshape(8, 5, 5), CLASSES.reshape(8, 5),
     (SCORES.argmax(1) == CLASSES).mean()),
    ("accuracy", LOGITS, BITS, ((LOGITS > 0) == BITS).mean()),
    ("accuracy", LOGITS[:, 0], BITS[:, 0], ((LOGITS > 0) == BITS).mean()),
    ("accuracy", np.array([1, 2, 3]), np.array([1, 2, 4]), 2 / 3),
    ("binary_accuracy", SCORES, ROWS, ((SCORES > 0) == ROWS).mean()),
    ("top_k_accuracy", SCORES[:, :4], CLASSES % 4, 1.0),
    ("mse", P, Y, ((P - Y).astype(np.float64) ** 2).mean()),
    ("mae", P, Y, np.abs(P - Y).mean()),
    ("r2", P, Y, hand_r2(P, Y)),
    ("r2", P[:, 0], Y[:, 0], hand_r2(P[:, 0], Y[:, 0])),
]  # fmt: skip


def options(name):
    return {"k": 4} if name == "top_k_accuracy" else {}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "p", "y", "expected"), CASES)
def test_metric_equals_numpy(name, p, y, expected, device):
    function = getattr(metrics, name)
    given = nnx.asarray(p, device=device)
    assert function(given, y, **options(name)) == pytest.approx(expected, rel=1e-6)
    assert function(p, nnx.asarray(y, device=device), **options(name)) == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [(1, 3, 7), (10,), (64,)])
@pytest.mark.parametrize(("name", "p", "y", "expected"), CASES)
def test_tally_in_parts_equals_whole(name, p, y, expected, sizes, monkeypatch):
    monkeypatch.setattr(metrics.Tally, "ROWS", 8)
    metric = metrics.get(functools.partial(getattr(metrics, name), **options(name)))
    tally, start = metrics.Tally([metric]), 0
    for i in range(len(p)):
        stop = start + sizes[i % len(sizes)]
        if start < len(p):
            tally.add(nnx.asarray(p[start:stop]), nnx.asarray(y[start:stop]))
        start = stop
    assert tally.results() == {name: pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_equals_sorting(k):
    scores = np.round(SCORES)  # many ties
    assert metrics.top_k_accuracy(scores, CLASSES, k=k) == pytest.approx(
        hand_top_k(scores, CLASSES, k)
    )
    assert metrics.top_k_accuracy(scores, ROWS, k=1) == metrics.accuracy(scores, CLASSES)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["accuracy", "binary_accuracy"])
def test_accuracy_of_nan_is_nan(name, device, monkeypatch):
    """The largest of a row with a NaN would be the NaN, and right by accident."""
    monkeypatch.setattr(metrics.Tally, "ROWS", 1)
    scores = nnx.asarray([[np.nan, 0.2], [0.3, 0.2]], device=device)
    targets = nnx.asarray([0, 0] if name == "accuracy" else [[0, 1], [1, 1]], device=device)
    assert np.isnan(getattr(metrics, name)(scores, targets))
    tally = metrics.Tally([metrics.get(name)])
    for i in (0, 1):
        tally.add(scores[i : i + 1], targets[i : i + 1])
    assert np.isnan(tally.results()[name])


def test_top_k_nan_is_wrong():
    scores = np.array([[1.0, np.nan, 0.0]], np.float32)
    assert metrics.top_k_accuracy(scores, [1], k=2) == 0.0


def test_r2_constant_target_and_few_rows():
    assert metrics.r2([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert metrics.r2([1.0, 2.0], [1.0, 1.0]) == 0.0
    assert np.isnan(metrics.r2([1.0], [1.0]))


def test_r2_of_a_large_mean_keeps_its_digits():
    y = (1e4 + draw(3000, 6)).astype(np.float32)
    p = y + np.float32(0.5)
    tally = metrics.Tally([metrics.get("r2")])
    for start in range(0, 3000, 100):
        tally.add(nnx.asarray(p[start : start + 100]), nnx.asarray(y[start : start + 100]))
        tally._measure(nnx.asarray(0.0).device)
    assert tally.results()["r2"] == pytest.approx(hand_r2(p, y), rel=1e-9)


def test_many_batches_at_once_give_the_bits_of_one_by_one(monkeypatch):
    """However many: how many steps are done at once depends on the clock."""
    monkeypatch.setattr(metrics.Tally, "ROWS", 50)
    monkeypatch.setattr(metrics.Tally, "ELEMENTS", 230)
    named = [metrics.get(name) for name in ("mse", "mae", "r2")]
    p, y = nnx.asarray(draw((1200, 5)) * 1e3), nnx.asarray(draw((1200, 5), 1))
    expected = []
    for blocks in ([1] * 150, [150], [7, 1, 100, 2, 40]):
        tally, start = metrics.Tally(named), 0
        for i, n in enumerate(blocks):
            rows = slice(8 * start, 8 * (start + n))
            tally.add(p[rows], y[rows], 8)
            start += n
            if i == 2:
                again = metrics.Tally(named)
                again.restore(tally.state())
                tally = again
        expected.append(tally.results())
    assert expected[0] == expected[1] == expected[2]


def test_metrics_equal_scikit_learn():
    peer = pytest.importorskip("sklearn.metrics")
    assert metrics.accuracy(SCORES, CLASSES) == peer.accuracy_score(CLASSES, SCORES.argmax(1))
    assert metrics.r2(P, Y) == pytest.approx(peer.r2_score(Y, P), rel=1e-6)
    assert metrics.mae(P, Y) == pytest.approx(peer.mean_absolute_error(Y, P), rel=1e-6)
    assert metrics.top_k_accuracy(SCORES, CLASSES, k=2) == pytest.approx(
        peer.top_k_accuracy_score(CLASSES, SCORES, k=2)
    )


@pytest.mark.parametrize(
    ("name", "p", "y"),
    [
        ("accuracy", SCORES, CLASSES[:-1]),
        ("accuracy", LOGITS, BITS[:, 0]),
        ("accuracy", SCORES, ROWS[:, :3]),
        ("binary_accuracy", LOGITS, BITS[:, 0]),
        ("top_k_accuracy", LOGITS, BITS),
        ("mse", LOGITS, BITS[:, 0]),
        ("mae", P, Y[:, :1]),
        ("r2", P, Y[:, 0]),
    ],
)
def test_metric_refuses_shapes_that_would_broadcast(name, p, y):
    with pytest.raises(ShapeError):
        getattr(metrics, name)(p, y)


def test_get_unknown_name_says_what_was_meant():
    with pytest.raises(DataError, match=r"'acuracy'.*Did you mean 'accuracy'"):
        metrics.get("acuracy")
    with pytest.raises(DataError, match="a name or a function"):
        metrics.get(3)
    with pytest.raises(DataError, match=r"k is from 1 to the 5 classes, got 6"):
        metrics.top_k_accuracy(SCORES, CLASSES, k=6)


def test_get_accuracy_beside_binary_cross_entropy_counts_each_answer():
    metric = metrics.get("accuracy", nnx.binary_cross_entropy)
    tally = metrics.Tally([metric])
    tally.add(nnx.asarray(SCORES), nnx.asarray(ROWS))
    assert tally.results() == {"accuracy": pytest.approx(((SCORES > 0) == ROWS).mean())}


def test_get_function_is_averaged_by_rows():
    def bias(predictions, targets):
        return (predictions - targets).mean()

    tally = metrics.Tally([metrics.get(bias)])
    tally.ROWS = 1
    for rows in (slice(0, 20), slice(20, 30)):
        tally.add(nnx.asarray(P[rows]), nnx.asarray(Y[rows]))
    assert tally.results() == {"bias": pytest.approx((P - Y).mean(), rel=1e-5)}


def test_tally_of_nothing_is_nan_and_keeps_no_tape():
    tally = metrics.Tally([metrics.get("mse")])
    assert np.isnan(tally.results()["mse"])
    w = nnx.Parameter([1.0])
    tally.add(w * 2.0, nnx.asarray([1.0]))
    assert all(not isinstance(part, nnx.Tensor) for pair in tally._parts for part in pair)
    assert tally.results() == {"mse": 1.0}
