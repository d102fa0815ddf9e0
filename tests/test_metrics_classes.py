"""Metrics of classes and of order: counted by hand, beside scikit-learn, in parts, and in `fit`."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import nnx
from nnx import metrics, nn, optim
from nnx.errors import DataError, LabelError, ShapeError

AVERAGES = ["macro", "micro", "weighted", None]


def draw(shape, seed=0):
    return nnx.random.Generator(seed).host_normal(0.0, 1.0, shape)


def classes(n, rows, seed):
    return nnx.random.Generator(seed).host_integers(n, shape=rows)


# Five classes; 4 never occurs, 3 is never guessed, 5 is neither.
SCORES = draw((60, 6)) - np.array([0, 0, 0, 99, 0, 99], np.float32)
TRUTH = classes(4, 60, 1)
GUESS = SCORES.argmax(axis=1)
LOGITS, BITS = np.round(draw(50, 2), 1), (draw(50, 3) > 0.4).astype(np.int64)
MANY, ANSWERS = draw((40, 3), 4), (draw((40, 3), 5) > 0.3).astype(np.int64)
ANSWERS[:, 2] = 0

# guess 0 0 0 1 1 2, truth 0 0 1 1 2 0
SMALL = ([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 0])


@pytest.mark.parametrize(
    ("name", "average", "expected"),
    [
        ("precision", None, [2 / 3, 1 / 2, 0]),
        ("recall", None, [2 / 3, 1 / 2, 0]),
        ("f1", None, [2 / 3, 1 / 2, 0]),
        ("f1", "macro", 7 / 18),
        ("f1", "micro", 1 / 2),
        ("f1", "weighted", (3 * 2 / 3 + 2 * 1 / 2) / 6),
        ("f1", "auto", 7 / 18),
    ],
)
def test_counts_by_hand(name, average, expected, device):
    guess = nnx.asarray(SMALL[0], device=device)
    found = getattr(metrics, name)(guess, SMALL[1], average=average)
    assert found == pytest.approx(expected)


def test_binary_by_hand():
    logits, bits = [2.0, 1.0, -1.0, -3.0, 0.0], [1, 0, 1, 0, 1]  # a logit of 0 says 0
    assert metrics.precision(logits, bits) == 1 / 2
    assert metrics.recall(logits, bits) == pytest.approx(1 / 3)
    assert metrics.f1(logits, bits) == pytest.approx(2 / 5)
    column = np.array(logits)[:, np.newaxis], np.array(bits)[:, np.newaxis]
    assert metrics.f1(*column) == metrics.f1(*column, multilabel=True) == pytest.approx(2 / 5)
    two = np.array([[0.0, x] for x in logits])
    assert metrics.f1(two, bits) == pytest.approx(2 / 5)
    assert metrics.f1(two, bits, average="macro") == pytest.approx((2 / 5 + 2 / 5) / 2)
    assert metrics.confusion_matrix(logits, bits).tolist() == [[1, 1], [2, 1]]


def test_what_has_no_answer_is_zero():
    assert metrics.precision([-1.0, -2.0], [1, 0]) == 0.0
    assert metrics.recall([1.0, 2.0], [0, 0]) == 0.0
    assert metrics.f1([-1.0, -2.0], [0, 0]) == 0.0
    assert metrics.f1([0, 0], [0, 0], average=None).tolist() == [1.0, 0.0]
    assert metrics.f1([0, 0], [0, 0], average="macro") == 1.0


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_scores_of_classes_equal_scikit_learn(name, average):
    peer = pytest.importorskip("sklearn.metrics")
    theirs = functools.partial(getattr(peer, f"{name}_score"), average=average, zero_division=0)
    ours = functools.partial(getattr(metrics, name), average=average)
    labels = range(6) if average is None else None
    assert ours(SCORES, TRUTH) == pytest.approx(theirs(TRUTH, GUESS, labels=labels), rel=1e-14)
    assert ours(SCORES, np.eye(6, dtype=np.float32)[TRUTH]) == pytest.approx(ours(SCORES, TRUTH))
    if average is not None:
        assert ours(GUESS, TRUTH) == ours(SCORES, TRUTH)
    assert ours(LOGITS, BITS) == pytest.approx(theirs(BITS, LOGITS > 0))
    assert ours(MANY, ANSWERS, multilabel=True) == pytest.approx(
        theirs(ANSWERS, (MANY > 0).astype(int))
    )


@pytest.mark.parametrize("average", AVERAGES)
def test_many_classes_are_counted_one_by_one_alike(average, monkeypatch):
    scores, truth = draw((300, 70), 4), classes(70, 300, 5)
    few = metrics.f1(scores[:, :60], truth % 60, average=average)
    many = metrics.f1(scores, truth, average=average)
    monkeypatch.setattr("nnx.metrics.classes.MATRIX", 70)
    assert metrics.f1(scores, truth, average=average) == pytest.approx(many, rel=1e-15)
    monkeypatch.setattr("nnx.metrics.classes.MATRIX", 0)
    assert metrics.f1(scores[:, :60], truth % 60, average=average) == pytest.approx(few, rel=1e-15)


def test_the_highest_scores_are_found_once(monkeypatch):
    found, argmax = [], nnx.ops.reduce.argmax

    def counted(x, **options):
        found.append(x.shape)
        return argmax(x, **options)

    monkeypatch.setattr(nnx.ops.reduce, "argmax", counted)
    tally = metrics.Tally([metrics.get(name) for name in ("accuracy", "f1", "recall")])
    tally.add(nnx.asarray(SCORES), nnx.asarray(TRUTH))
    assert tally.results()["accuracy"] == np.mean(GUESS == TRUTH) and found == [(60, 6)]


def test_binary_scores_and_matrix_equal_scikit_learn():
    peer = pytest.importorskip("sklearn.metrics")
    for name in ("precision", "recall", "f1"):
        expected = getattr(peer, f"{name}_score")(BITS, LOGITS > 0)
        assert getattr(metrics, name)(LOGITS, BITS) == pytest.approx(expected, rel=1e-15)
    expected = peer.confusion_matrix(TRUTH, GUESS, labels=range(6))
    assert np.array_equal(metrics.confusion_matrix(SCORES, TRUTH), expected)
    assert np.array_equal(metrics.confusion_matrix(GUESS, TRUTH, n_classes=6), expected)


# The area under the curve


def test_area_by_hand():
    assert metrics.roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert metrics.roc_auc([1.0, 1.0, 1.0], [0, 1, 1]) == 0.5
    assert metrics.roc_auc([3.0, 1.0], [0, 1]) == 0.0
    assert metrics.roc_auc([[0.0, 1.0], [5.0, 2.0]], [1, 0]) == 1.0
    # Class 0 is never first: 2 of 2 pairs wrong; classes 1 and 2 are told without a fault.
    scores = np.log([[0.1, 0.6, 0.3], [0.4, 0.5, 0.1], [0.2, 0.1, 0.7]])
    assert metrics.roc_auc(scores, [0, 1, 2], average=None).tolist() == [0.0, 0.5, 1.0]
    assert metrics.roc_auc(np.exp(scores), [0, 1, 2]) == 0.5


def test_area_without_an_answer_is_nan():
    assert math.isnan(metrics.roc_auc([1.0, 2.0], [1, 1]))
    assert math.isnan(metrics.roc_auc([1.0, np.nan], [0, 1]))
    scores = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    each = metrics.roc_auc(scores, [0, 1, 0], average=None)
    assert each[:2].tolist() == [1.0, 1.0] and math.isnan(each[2])
    assert metrics.roc_auc(scores, [0, 1, 0]) == 1.0
    assert math.isnan(metrics.roc_auc(np.where(scores == 3, np.nan, scores), [0, 1, 0]))


def softmax(x):
    powers = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("average", AVERAGES)
def test_area_equals_scikit_learn(average):
    peer = pytest.importorskip("sklearn.metrics")
    ours = functools.partial(metrics.roc_auc, average=average)
    assert ours(LOGITS, BITS) == pytest.approx(peer.roc_auc_score(BITS, LOGITS), rel=1e-14)
    shares = softmax(SCORES[:, :4] / 20)
    expected = peer.roc_auc_score(TRUTH, shares, multi_class="ovr", average=average)
    assert ours(SCORES[:, :4] / 20, TRUTH) == pytest.approx(expected, rel=1e-12)
    assert ours(shares, TRUTH) == pytest.approx(expected, rel=1e-12)
    told = ANSWERS[:, :2]  # scikit-learn refuses or warns at a column of one class
    expected = peer.roc_auc_score(told, MANY[:, :2], average=average)
    assert ours(MANY[:, :2], told, multilabel=True) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("drop", [True, False])
def test_roc_curve_equals_scikit_learn(drop):
    peer = pytest.importorskip("sklearn.metrics")
    expected = peer.roc_curve(BITS, LOGITS, drop_intermediate=drop)
    for mine, theirs in zip(metrics.roc_curve(LOGITS, BITS, drop), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)


def test_infinite_scores_that_are_equal_are_one_point_of_the_curve():
    curve = metrics.roc_curve([np.inf, np.inf, -np.inf], [1, 0, 1])
    assert curve.false_positive_rate.tolist() == [0.0, 1.0, 1.0]
    assert curve.true_positive_rate.tolist() == [0.0, 0.5, 1.0]


def test_report_takes_a_matrix_as_lists():
    assert "0.57" in str(metrics.of_matrix([[1, 2], [3, 4]]))
    assert "3   4" in metrics.confusion_text([[1, 2], [3, 4]])


def test_roc_curve_by_hand():
    curve = metrics.roc_curve([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1], drop_intermediate=False)
    assert curve.false_positive_rate.tolist() == [0, 0, 0.5, 1]
    assert curve.true_positive_rate.tolist() == [0, 0.5, 1, 1]
    assert curve.thresholds == pytest.approx([np.inf, 0.8, 0.4, 0.1])
    assert np.isnan(metrics.roc_curve([1.0, 2.0], [1, 1]).false_positive_rate[1:]).all()


# In parts, on every device

PARTS = [
    ("f1", SCORES, TRUTH, {}),
    ("f1", GUESS, TRUTH, {"average": "weighted"}),
    ("precision", MANY, ANSWERS, {"multilabel": True}),
    ("recall", LOGITS, BITS, {}),
    ("roc_auc", LOGITS, BITS, {}),
    ("roc_auc", SCORES[:, :4], TRUTH, {"average": "weighted"}),
]


@pytest.mark.parametrize(("name", "p", "y", "options"), PARTS)
def test_parts_amount_to_the_whole(name, p, y, options, device, monkeypatch):
    monkeypatch.setattr(metrics.Tally, "ROWS", 8)
    function = getattr(metrics, name)
    order = np.argsort(p if p.ndim == 1 else p[:, 0], kind="stable")  # parts lack classes
    tally = metrics.Tally([metrics.get(functools.partial(function, **options))])
    for start in range(0, len(p), 7):
        rows = order[start : start + 7]
        tally.add(nnx.asarray(p[rows], device=device), nnx.asarray(y[rows], device=device))
    assert tally.results()[name] == pytest.approx(function(p, y, **options), rel=1e-14)


def test_metrics_that_count_the_same_count_once(monkeypatch):
    calls = []
    counting = metrics.METRICS["f1"].measure

    def counted(predictions, targets):
        calls.append(len(targets))
        return counting(predictions, targets)

    entries = [metrics.METRICS[n]._replace(measure=counted) for n in ("precision", "recall", "f1")]
    tally = metrics.Tally(entries)
    tally.add(nnx.asarray(SCORES), nnx.asarray(TRUTH))
    assert set(tally.results()) == {"precision", "recall", "f1"} and calls == [60]


def test_nan_in_one_part_shows_at_the_end():
    tally = metrics.Tally([metrics.get("f1"), metrics.get("roc_auc")])
    tally.ROWS = 1
    for scores in ([1.0, -1.0], [np.nan, 2.0], [3.0, -4.0]):
        tally.add(nnx.asarray(scores), nnx.asarray([1, 0]))
    assert all(math.isnan(value) for value in tally.results().values())


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_fit_and_evaluate_give_them(device):
    nnx.random.seed(3)
    x, y = draw((90, 4), 7), classes(3, 90, 8)
    model = nn.Sequential(nn.Dense(6, "tanh"), nn.Dense(3))
    names = ["accuracy", "precision", "recall", "f1", "roc_auc"]
    model.compile(optim.SGD(0.0), "cross_entropy", names, device)
    history = model.fit(x, y, validation_data=(x, y)).history
    p = model.predict(x)
    expected = {name: getattr(metrics, name)(p, y) for name in names}
    found = model.evaluate(x, y, batch_size=7)
    for name in names:
        assert history[name] == history[f"val_{name}"] == pytest.approx([expected[name]])
        assert found[name] == pytest.approx(expected[name])


def test_beside_binary_cross_entropy_columns_are_questions():
    model = nn.Sequential(nn.Dense(3, in_features=3))
    model.compile("sgd", "binary_cross_entropy", ["f1", "roc_auc"])
    found = model.evaluate(MANY, ANSWERS.astype(np.float32))
    p = model.predict(MANY)
    assert found["f1"] == pytest.approx(metrics.f1(p, ANSWERS, multilabel=True))
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc(p, ANSWERS, multilabel=True))


# Text


def test_report_equals_scikit_learn():
    peer = pytest.importorskip("sklearn.metrics")
    names = ["setosa", "versicolor", "virginica", "iris d'Alger"]
    guess, truth = GUESS % 4, TRUTH
    for target_names in (None, names):
        options = {"target_names": target_names, "zero_division": 0}
        assert metrics.classification_report(guess, truth, target_names) + "\n" == (
            peer.classification_report(truth, guess, **options)
        )
        theirs = peer.classification_report(truth, guess, output_dict=True, **options)
        ours = metrics.classification_report(guess, truth, target_names, output_dict=True)
        assert ours.keys() == theirs.keys()
        for key, row in theirs.items():
            assert ours[key] == pytest.approx(row)


def test_report_shows_a_class_that_is_nowhere_and_leaves_it_out():
    figures = metrics.classification_report(SCORES, TRUTH, output_dict=True)
    assert math.isnan(figures["5"]["f1-score"]) and figures["5"]["support"] == 0
    assert figures["macro avg"]["f1-score"] == pytest.approx(metrics.f1(SCORES, TRUTH))
    line = metrics.classification_report(SCORES, TRUTH).splitlines()[7].split()
    assert line == ["5", "-", "-", "-", "0"]


def test_classes_may_be_named_as_the_averages():
    report = metrics.of_matrix(np.array([[2, 1], [0, 3]]), ["accuracy", "macro avg"])
    assert report.accuracy == 5 / 6 and report.classes[0][1]["recall"] == pytest.approx(2 / 3)
    assert str(report).count("accuracy") == 2


@pytest.mark.parametrize("n", [2, 10, 16, 40])
def test_text_keeps_to_80_columns(n):
    names = [f"a name of some length, the number {i}" * (1 + i % 3) for i in range(n)]
    guess, truth = classes(n, 3000, 1), classes(n, 3000, 2)
    guess[:n] = truth[:n] = np.arange(n)
    matrix = metrics.confusion_matrix(guess, truth)
    texts = [
        metrics.classification_report(guess, truth, names),
        metrics.confusion_text(matrix, names),
        metrics.confusion_text(matrix * 1000),
    ]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80


def test_confusion_text_by_hand():
    matrix = metrics.confusion_matrix(*SMALL)
    assert metrics.confusion_text(matrix, ["a", "bc", "long name"]) == (
        "right / guessed   a  bc lo~\n"
        "              a   2   0   1\n"
        "             bc   1   1   0\n"
        "      long name   0   1   0"
    )
    wide = np.diag(np.full(40, 5))
    assert "No row of the 40 classes" in metrics.confusion_text(wide)
    wide[3, 5] = 2
    assert metrics.confusion_text(wide).splitlines()[1].split() == ["3", "5", "2"]


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: metrics.f1(SCORES, TRUTH, average="marco"), DataError, "Did you mean 'macro'"),
        (lambda: metrics.roc_auc(LOGITS, BITS, average="binary"), DataError, "average='binary'"),
        (lambda: metrics.f1(SCORES, TRUTH, average="binary"), DataError, "there are 6 classes"),
        (lambda: metrics.f1(SCORES, TRUTH + 3), LabelError, "numbered 0 to 5"),
        (lambda: metrics.f1(GUESS, TRUTH - 1), LabelError, "Label -1"),
        (lambda: metrics.f1(SCORES, TRUTH + 0.5), LabelError, "class numbers are integers"),
        (lambda: metrics.f1(SCORES, TRUTH[:-1]), ShapeError, "Reshape"),
        (lambda: metrics.f1(LOGITS[:, np.newaxis], BITS), ShapeError, r"\(50,\)"),
        (lambda: metrics.f1(SCORES, TRUTH, multilabel=True), ShapeError, "60, 6"),
        (lambda: metrics.roc_auc(SCORES, TRUTH[:-1]), ShapeError, "roc_auc"),
        (lambda: metrics.roc_auc(SCORES, TRUTH + 3), LabelError, "0 to 5, got 6"),
        (lambda: metrics.roc_auc(LOGITS, BITS + 1), LabelError, "target 2 is neither 0 nor 1"),
        (lambda: metrics.roc_curve(SCORES, TRUTH), DataError, "there are 6 classes"),
        (lambda: metrics.roc_curve([np.nan, 1.0], [0, 1]), DataError, "row 0 .* has a NaN"),
        (lambda: metrics.confusion_matrix(np.where(SCORES == SCORES[9, 2], np.nan, SCORES), TRUTH),
         DataError, "row 9 .* has a NaN, 1 in all"),
        (lambda: metrics.confusion_matrix(GUESS, TRUTH, n_classes=2), DataError, "n_classes=2"),
        (lambda: metrics.classification_report(SCORES, TRUTH, ["a", "b"]), DataError,
         "class_names has 2 names, and there are 6"),
        (lambda: metrics.confusion_text(np.eye(3), ["a"]), DataError, "1 names"),
        (lambda: metrics.confusion_text([[1, 2, 3]]), DataError, r"got shape \(1, 3\)"),
        (lambda: metrics.of_matrix([1, 2]), DataError, r"got shape \(2,\)"),
        (lambda: metrics.confusion_matrix(GUESS, TRUTH, n_classes="9"), DataError, "got '9'"),
        (lambda: metrics.f1([0, 10**9], [0, 1]), DataError, "largest class number is 1,000"),
        (lambda: metrics.confusion_matrix([0, 10**5], [0, 1]), DataError, "np.unique"),
        (lambda: metrics.f1(SCORES[:0], TRUTH[:0]), DataError, "there is nothing to count"),
        (lambda: metrics.confusion_matrix(GUESS[:0], TRUTH[:0]), DataError, "nothing to count"),
        (lambda: metrics.roc_curve([], []), DataError, "roc_curve: .* nothing to count"),
        (lambda: metrics.f1(SCORES, TRUTH, avrage="macro"), DataError, "Did you mean 'average'"),
        (lambda: metrics.top_k_accuracy(SCORES, TRUTH, k="2"), DataError, "k is a whole number"),
        (lambda: metrics.top_k_accuracy(SCORES, TRUTH, k=1.5), DataError, "k is a whole number"),
        (lambda: metrics.top_k_accuracy(SCORES, TRUTH + 9), LabelError, "numbered 0 to 5"),
        (lambda: metrics.top_k_accuracy(SCORES, TRUTH - 9), LabelError, "numbered 0 to 5"),
        (lambda: metrics.get("auc"), DataError, "Did you mean 'roc_auc'"),
        (lambda: metrics.get("roc_curve"), DataError, "not one number"),
        (lambda: metrics.get(metrics.confusion_matrix), DataError, "not one number"),
        (lambda: metrics.get(functools.partial(metrics.f1, average=None)), DataError, "each class"),
        (lambda: metrics.get(functools.partial(metrics.f1, average="x")), DataError, "Allowed"),
    ],
)  # fmt: skip
def test_bad_input_is_told(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_average_for_two_classes_is_refused_before_training():
    model = nn.Sequential(nn.Dense(6, in_features=6))
    metric = functools.partial(metrics.f1, average="binary")
    model.compile("sgd", "cross_entropy", [metric])
    before = model.state_dict()
    with pytest.raises(DataError, match="there are 6 classes"):
        model.fit(SCORES, TRUTH)
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())
