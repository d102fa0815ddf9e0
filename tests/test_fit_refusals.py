"""Bad input of `fit` and `compile` is refused before anything changes."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.callbacks import EarlyStopping
from nnx.errors import DataError, DeviceError, DTypeError, LabelError, ShapeError
from tests.training import T, X, Y, classifier, network, regressor, same


class NeedsDetaching:
    """As a tensor of PyTorch that requires a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on it. Use tensor.detach().numpy() instead.")


NAN_LABELS = np.where(np.arange(50) == 17, np.nan, Y)
RAGGED = [[1.0, 2.0, 3.0, 4.0], [1.0]]
PAIR = (X, Y)
BAD = [
    (PAIR, {"batch_size": 0}, DataError, "batch_size is a whole number of 1 or more, got 0"),
    (PAIR, {"batch_size": 2.5}, DataError, "batch_size"),
    (PAIR, {"epochs": 0}, DataError, "epochs is a whole number of 1 or more"),
    (PAIR, {"epochs": True}, DataError, "epochs"),
    (PAIR, {"initial_epoch": -1}, DataError, "initial_epoch"),
    (PAIR, {"validation_split": 1.0}, DataError, "validation_split is from 0 to below 1"),
    (PAIR, {"validation_split": -0.1}, DataError, "validation_split"),
    (PAIR, {"validation_split": 0.99}, DataError, "leaves 0 to train with and 50"),
    (PAIR, {"validation_split": 0.99, "validation_data": PAIR}, DataError, "not both"),
    (PAIR, {"validation_data": (X[:, :3], Y)}, ShapeError, "takes 4 features"),
    (PAIR, {"validation_data": (X[:, :3], Y)}, ShapeError, "In the validation data"),
    (PAIR, {"validation_data": (X, Y[:, np.newaxis])}, ShapeError, "In the validation data"),
    (PAIR, {"validation_data": (X, Y[:40])}, LabelError, "x has 50 rows and y 40"),
    (PAIR, {"validation_split": 0.2, "validation_data": PAIR}, DataError, "not both"),
    (PAIR, {"validation_split": float("nan")}, DataError, "validation_split is from 0"),
    (PAIR, {"validation_data": (X, Y + 1)}, LabelError, "Label 3 at index"),
    (PAIR, {"validation_data": X}, DataError, "validation_data is"),
    (PAIR, {"validation_data": (X[:0], Y[:0])}, DataError, "is empty"),
    (PAIR, {"verbose": "loud"}, DataError, "verbose"),
    (PAIR, {"class_weight": {3: 1.0}}, DataError, "class 3, which does not exist: .* 0 to 2"),
    (PAIR, {"class_weight": {"a": 1.0}}, DataError, "class 'a'"),
    (PAIR, {"class_weight": {0: -1.0}}, DataError, r"class_weight\[0\] is -1.0"),
    (PAIR, {"class_weight": {1: float("nan")}}, DataError, r"class_weight\[1\] is nan"),
    (PAIR, {"class_weight": {}}, DataError, "class_weight is a dict"),
    (PAIR, {"initial_epoch": 5, "epochs": 3}, DataError, "For 3 more: epochs=8"),
    (PAIR, {"callbacks": 5}, DataError, "callbacks has 5"),
    (PAIR, {"callbacks": EarlyStopping}, DataError, r"not the class: EarlyStopping\(\)"),
    (PAIR, {"callbacks": ["EarlyStoping"]}, DataError, "Did you mean 'EarlyStopping'"),
    (PAIR, {"callbacks": "EarlyStoping"}, DataError, "Did you mean 'EarlyStopping'"),
    (PAIR, {"callbacks": EarlyStopping("acuracy")}, DataError, "Did you mean 'accuracy'"),
    (PAIR, {"callbacks": EarlyStopping()}, DataError, "val_ needs validation data"),
    (PAIR, {"verbose": np.array([1, 2])}, DataError, "verbose"),
    (PAIR, {"validation_data": (X, Y[:9])}, LabelError, "In the validation data: x has 50 rows"),
    (PAIR, {"validation_data": (X[:0], Y[:0])}, DataError, "In the validation data: x of shape"),
    (PAIR, {"validation_data": (X,)}, DataError, "got a tuple of 1"),
    ((None, Y), {}, DataError, "x: got an array of Python objects"),
    ((NeedsDetaching(), Y), {}, DTypeError, "this .*NeedsDetaching gives no NumPy .*detach"),
    (("abc", None), {}, DataError, "x is a str: neither an array nor an iterable"),
    (PAIR, {"sample_weight": -np.ones(50)}, DataError, "-1.0 at row 0"),
    (PAIR, {"class_weight": [1, 2, 3]}, DataError, "class_weight is a dict"),
    (PAIR, {"sample_weight": np.ones(49)}, DataError, r"shape \(49,\), x has 50 rows"),
    (PAIR, {"sample_weight": np.where(np.arange(50) == 4, np.nan, 1)}, DataError, "nan at row 4"),
    ((X, None), {}, DataError, "y is missing"),
    ((X, Y[:49]), {}, LabelError, "x has 50 rows and y 49: row 49 is the first"),
    ((X[:0], Y[:0]), {}, DataError, r"x of shape \(0, 4\) is empty"),
    ((X, Y + 1), {}, LabelError, f"Label 3 at index {np.argmax(Y == 2)}"),
    ((X, np.where(np.arange(50) == 41, -1, Y)), {}, LabelError, "Label -1 at index 41"),
    ((X, NAN_LABELS), {}, LabelError, "Label nan at index 17"),
    ((X, Y + 0.25), {}, LabelError, "Label .*25 at index 0"),
    ((X, Y.astype(float)), {}, LabelError, "at index 0 .*astype"),
    ((X, Y[:, np.newaxis]), {}, ShapeError, r"\(32, 3\)"),
    ((X, 2 * np.eye(3)[Y]), {}, LabelError, "at index"),
    ((X, "labels"), {}, DTypeError, "y: got data of type"),
    ((np.zeros((50, 4), np.uint8), Y), {}, DTypeError, r"astype\('float32'\) / 255"),
    ((np.zeros((50, 4), int), Y), {}, DTypeError, "floating"),
    ((np.array([{}] * 50), Y), {}, DataError, "x: got an array of Python objects"),
    ((RAGGED, [0, 1]), {}, DataError, "x: the rows do not form an array"),
    ((1.0, 1), {}, DataError, "x is a single value"),
    ((X[:, :3], Y), {}, ShapeError, r"Dense '0' takes 4 features, got x of shape \(32, 3\)"),
    ((X.reshape(50, 2, 2), Y), {}, ShapeError, "Flatten it first"),
    (([(X, Y)], Y), {}, DataError, "belong into them"),
    (([(X, Y)],), {"validation_split": 0.2}, DataError, "validation_split cuts"),
    (([(X,)],), {}, DataError, "Batch 0 of the iterable has 1 parts"),
    ((iter([]),), {}, DataError, "gave no batches"),
    ((iter([(X, Y + 1)]),), {}, LabelError, "Label 3"),
    ((iter([(X, Y[:9])]),), {}, LabelError, "row 9 is the first"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "settings", "error", "words"), BAD)
def test_bad_input_is_refused_before_anything_changes(args, settings, error, words):
    model = classifier()
    before, state = model.state_dict(), nnx.random.default_generator().state_dict()
    with pytest.raises(error, match=words):
        model.fit(*args, **settings)
    assert same(model.state_dict(), before)
    assert nnx.random.default_generator().state_dict() == state


@pytest.mark.parametrize(("layers", "y", "loss"), [
    ((), T[:, 0], "mse"),
    ((), T, lambda p, y: (p - y[:, 0]).mean(axis=1)),
    ((nn.Dense(1, in_features=4), nn.Reshape()), T, "mae"),
    ((), (T[:, 0] > 0).astype(np.float32), "binary_cross_entropy"),
])  # fmt: skip
def test_one_column_against_a_vector_is_an_error(layers, y, loss):
    model = regressor(*layers, loss=loss)
    before = model.state_dict()
    with pytest.raises(ShapeError):
        model.fit(X, y)
    assert same(model.state_dict(), before)


def test_binary_targets_are_checked_in_the_whole_data_first():
    model = regressor(loss="binary_cross_entropy")
    y = np.zeros((50, 1), np.float32)
    y[44] = 1.5
    with pytest.raises(LabelError, match=r"1.5 at index \(44, 0\)"):
        model.fit(X, y)


def test_metric_that_does_not_fit_is_refused_first():
    model = classifier(metrics=["mse"])
    before = model.state_dict()
    with pytest.raises(ShapeError):
        model.fit(X, Y)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"optimizer": "adma"}, DataError, "'adma'.*Did you mean 'adam'"),
        ({"loss": "cross_entrpy"}, DataError, "'cross_entrpy'.*Did you mean 'cross_entropy'"),
        ({"loss": "MSE"}, DataError, "'MSE'.*Did you mean 'mse'"),
        ({"loss": None}, DTypeError, "A loss is a name .* got None"),
        ({"loss": []}, DTypeError, r"A loss is a name .* got \[\]"),
        ({"metrics": 5}, DataError, "A metric is a name or a function, got 5"),
        ({"metrics": ["acuracy"]}, DataError, "'acuracy'.*Did you mean 'accuracy'"),
        ({"metrics": ["rocauc"]}, DataError, "Did you mean 'roc_auc'"),
        ({"metrics": ["confusion_matrix"]}, DataError, "not one number"),
        ({"metrics": ["mse", "mse"]}, DataError, "Two figures would be called 'mse'"),
        ({"device": "nunpy"}, DeviceError, "'nunpy'.*Did you mean 'numpy'"),
        ({"optimizer": optim.Adam}, DTypeError, "optimizer"),
    ],
)
def test_compile_refuses_unknown_names(settings, error, words):
    model = network()
    with pytest.raises(error, match=words):
        model.compile(**({"optimizer": "adam", "loss": "mse"} | settings))
    with pytest.raises(DataError, match=r"is not compiled.*model\.compile\("):
        model.fit(X, Y)
    with pytest.raises(DataError, match="is not compiled"):
        model.evaluate(X, Y)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), "fast"])
def test_learning_rate_out_of_range_is_refused(rate):
    with pytest.raises((DataError, DTypeError)):
        network().compile(optim.Adam(lr=rate), "mse")


def test_predict_and_evaluate_refuse_what_fit_refuses():
    model = classifier()
    with pytest.raises(DTypeError, match="uint8"):
        model.predict(np.zeros((5, 4), np.uint8))
    with pytest.raises(DataError, match="is empty"):
        model.predict(X[:0])
    with pytest.raises(DataError, match="batch_size"):
        model.predict(X, batch_size=0)
    with pytest.raises(LabelError, match="row 49"):
        model.evaluate(X, Y[:49])
    with pytest.raises(LabelError, match="Label 3"):
        model.evaluate(X, Y + 1)


def test_weighted_loss_of_the_users_own_without_rows_is_refused():
    model = regressor(loss=lambda p, y: nnx.mse(p, y))
    before = model.state_dict()
    with pytest.raises(DataError, match="reduction='none'"):
        model.fit(X, T, sample_weight=np.ones(50))
    assert same(model.state_dict(), before)


def test_fault_in_the_validation_data_says_so():
    model = nn.Sequential(nn.Dense(2, in_features=1))
    model.compile("sgd", "cross_entropy")
    x = np.ones((4, 1), np.float32)
    with pytest.raises(nnx.LabelError, match="In the validation data: Label 6"):
        model.fit(x, [0, 1, 0, 1], validation_data=(x, [0, 1, 6, 1]))


def test_none_stands_for_no_metrics_and_no_callbacks():
    model = classifier(metrics=None)
    model.fit(X, Y, callbacks=None)
    expected = classifier(metrics=())
    expected.fit(X, Y)
    assert list(model.evaluate(X, Y, callbacks=None)) == ["loss"]
    assert same(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize("value", [None, "a", X])
def test_metric_that_gives_no_number_is_named(value):
    def spread(prediction, target):
        return value

    model = classifier(metrics=[spread])
    with pytest.raises(DataError, match="The metric spread returned .*must return one number"):
        model.fit(X, Y)


def test_option_that_a_metric_lacks_is_told():
    metric = functools.partial(nnx.metrics.precision, avrage="macro")
    with pytest.raises(DataError, match="precision has no option 'avrage'. Did you mean 'average'"):
        classifier(metrics=[metric])


@pytest.mark.parametrize(("name", "meant"), [("clipnorm", "clip_norm"), ("weigth_decay", "weight")])
def test_setting_that_an_optimizer_lacks_is_told(name, meant):
    with pytest.raises(DataError, match=f"Adam has no setting '{name}'. Did you mean '{meant}"):
        optim.Adam(1e-3, **{name: 1.0})


@pytest.mark.parametrize(
    ("module", "name", "meant"),
    [
        (nnx.callbacks, "EarlyStoping", "EarlyStopping"),
        (nnx.callbacks, "ModelCheckpoint", "Checkpoint"),
        (nnx.metrics, "acuracy", "accuracy"),
        (optim, "Adma", "Adam"),
        (optim.schedules, "cosin", "cosine"),
        (nn, "Dens", "Dense"),
    ],
)
def test_name_that_a_module_lacks_is_answered_with_the_nearest(module, name, meant):
    with pytest.raises(AttributeError, match=f"{name}'. Did you mean '{meant}'"):
        getattr(module, name)
    assert not hasattr(module, "_private")
