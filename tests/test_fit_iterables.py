"""Training on iterables of batches."""

from __future__ import annotations

import numpy as np
import pytest

from nnx import optim
from nnx.errors import DataError
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
