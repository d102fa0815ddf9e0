"""Training on iterables of batches."""

from __future__ import annotations

import numpy as np
import pytest

from nnx import optim
from nnx.errors import DataError, LabelError, ShapeError
from tests.training import Batches, X, Y, classifier, same


@pytest.mark.parametrize("source", [Batches(), list(Batches())])
def test_batches_of_an_iterable_train_as_arrays_do(source):
    model, expected = classifier(), classifier()
    model.fit(source, epochs=2, validation_data=source)
    expected.fit(X, Y, batch_size=16, epochs=2, shuffle=False, validation_data=(X, Y))
    assert same(model.state_dict(), expected.state_dict())
    assert model.history.history["accuracy"] == expected.history.history["accuracy"]
    for name in ("loss", "val_loss"):
        assert model.history.history[name] == pytest.approx(expected.history.history[name])
    assert model.evaluate(source) == pytest.approx(expected.evaluate(X, Y))
    assert np.array_equal(model.predict(source), model.predict(X, batch_size=16))


def test_generator_serves_one_epoch_whole_and_says_so_at_the_second():
    model = classifier()
    model.fit(iter(Batches()), epochs=1)
    expected = classifier()
    expected.fit(X, Y, batch_size=16, shuffle=False)
    assert same(model.state_dict(), expected.state_dict())
    with pytest.raises(DataError, match="used up after one pass"):
        model.fit(iter(Batches()), epochs=2)


def test_iterable_that_fills_its_memory_again_is_measured_right():
    x, y = np.empty((16, 4), np.float32), np.empty(16, np.int64)

    def reusing():
        for i in range(0, 48, 16):
            x[:], y[:] = X[i : i + 16], Y[i : i + 16]
            yield x, y

    model, expected = classifier(optimizer=optim.SGD(0.0)), classifier(optimizer=optim.SGD(0.0))
    history = model.fit(reusing())
    assert history.history["accuracy"] == [expected.evaluate(X[:48], Y[:48])["accuracy"]]


class Indexed:
    """What Keras calls a Sequence: a length and batches by number, without __iter__."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X, Y


BAD = [
    (lambda: [(X, Y), (X, Y + 9)], LabelError, r"epoch 1 of 1, step 2 \(.*batch 1.*: Label 11"),
    (lambda: [(X, Y), (X[:, :2], Y)], ShapeError, r"batch 1 of the iterable\): Dense '0' takes 4"),
    (lambda: [(X, Y), (X, Y[:5])], LabelError, "Batch 1 of the iterable: x has 50 rows and y 5"),
    (lambda: [(X, Y), (X[:0], Y[:0])], DataError, "Batch 1 of the iterable: x .* is empty"),
    (lambda: [(X, Y), (X, Y, np.ones(3))], DataError, "Batch 1 of the iterable: sample_weight"),
    (lambda: [(X, Y), "ab"], DataError, "Batch 1 of the iterable has 1 parts"),
    (lambda: [[X, Y]], DataError, "batches in a list are tuples"),
    (lambda: Indexed(), DataError, "x is a Indexed: neither an array nor an iterable.*Wrap it"),
    (lambda: lambda: iter(Batches()), DataError, "x is a function: neither .*Call it"),
]


@pytest.mark.parametrize(("source", "error", "words"), BAD)
def test_a_bad_batch_is_told_by_its_number(source, error, words):
    model, expected = classifier(), classifier()
    with pytest.raises(error, match=words):
        model.fit(source())
    if "atch 1" in words:
        expected.fit([(X, Y)])
    assert same(model.state_dict(), expected.state_dict())


def test_a_bad_batch_to_validate_is_told_by_its_number():
    model = classifier()
    with pytest.raises(LabelError, match="In the validation data: Batch 1 of the iterable: Label"):
        model.fit(X, Y, validation_data=[(X, Y), (X, Y + 9)])
    with pytest.raises(LabelError, match="^Batch 1 of the iterable: Label"):
        model.evaluate([(X, Y), (X, Y + 9)])
    with pytest.raises(DataError, match="In the validation data: The iterable gave no batches"):
        model.fit(X, Y, validation_data=iter(Batches()), epochs=2)


@pytest.mark.parametrize("good", [0, 1])
def test_what_an_iterable_raises_tells_the_batch_and_keeps_what_was_learned(good):
    def failing():
        yield from [(X, Y)] * good
        raise RuntimeError("the disk is gone")

    model, expected = classifier(), classifier()
    with pytest.raises(RuntimeError, match="the disk is gone") as caught:
        model.fit(failing())
    assert caught.value.__notes__ == [
        f"The iterable raised this when batch {good} was asked for (from 0 on)."
    ]
    if good:
        expected.fit([(X, Y)])
    assert same(model.state_dict(), expected.state_dict())
    model.fit(X, Y)
