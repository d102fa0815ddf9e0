"""jit and the shapes of arrays: batches that stay symbolic, views, and where values are read."""

import numpy as np
import pytest

import nnx
from nnx import passes

BATCHES = (13, 7, 64, 5)


def hosts(*shapes, seed=0, dtype="f8"):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def placed(arrays):
    return [nnx.asarray(a, device="numba") for a in arrays]


SLICED = {
    "from": lambda x: x[1:],
    "to": lambda x: x[:3],
    "last": lambda x: x[-2:],
    "without last": lambda x: x[:-1],
    "between": lambda x: x[2:-2],
    "reversed": lambda x: x[::-1],
    "reversed from": lambda x: x[-2::-1],
    "nothing": lambda x: x[4:2],
    "differences": lambda x: x[1:] - x[:-1],
}


@pytest.mark.parametrize("name", SLICED)
def test_slices_of_a_batch_serve_every_batch(name):
    traces = []

    def sliced(x):
        traces.append(x.shape)
        return SLICED[name](x) * 2.0

    f = nnx.jit(sliced)
    for n in BATCHES:
        (x,) = hosts((n, 3))
        out = f(nnx.asarray(x, device="numba"))
        np.testing.assert_array_equal(out.numpy(), SLICED[name](x) * 2.0)
        assert out.shape == SLICED[name](x).shape
    assert len(traces) == 1


def test_a_slice_that_a_batch_is_too_short_for_is_traced_again():
    f = nnx.jit(lambda x: x[:6] + 1.0)
    for n in (13, 4, 6, 9, 2):
        (x,) = hosts((n, 2))
        np.testing.assert_array_equal(f(nnx.asarray(x, device="numba")).numpy(), x[:6] + 1.0)


def test_gradients_of_joined_batches_serve_every_batch():
    traces = []

    def f(x, y):
        traces.append(1)

        def cost(x):
            both = nnx.concat([x, y, x], axis=0)
            return nnx.sum(both * both * both) + nnx.sum(nnx.var(x, axis=0))

        return nnx.grad(cost)(x)

    jitted = nnx.jit(f)
    for n in BATCHES:
        x, y = hosts((n, 3), (n, 3))
        wanted = 6 * x * x + 2 / n * (x - x.mean(axis=0))
        np.testing.assert_allclose(jitted(*placed([x, y])).numpy(), wanted, rtol=1e-12, atol=1e-14)
    assert sum(traces) == 1


def test_slices_that_are_equal_by_chance_are_not_taken_for_one():
    # In the traced call, of 4 rows, both slices begin at 4.
    def f(x):
        many = nnx.exp(nnx.tile(x, (3, 1)))
        return many[x.shape[0] :], many[4:]

    f = nnx.jit(f)
    for n in (4, 6, 9):
        (x,) = hosts((n, 2))
        late, fixed = f(nnx.asarray(x, device="numba"))
        many = np.exp(np.tile(x, (3, 1)))
        np.testing.assert_allclose(late.numpy(), many[n:], rtol=1e-15)
        np.testing.assert_allclose(fixed.numpy(), many[4:], rtol=1e-15)


def test_what_lowering_takes_for_granted_is_looked_at(monkeypatch):
    prepared = passes.prepared

    def fixing(graph, device):
        int(graph.inputs[0].shape[0])
        return prepared(graph, device)

    monkeypatch.setattr(passes, "prepared", fixing)
    traces = []
    f = nnx.jit(lambda x: traces.append(1) or x * 2.0)
    for n in (5, 5, 6):
        f(nnx.zeros((n, 2), device="numba"))
    assert len(traces) == 2


def test_a_value_of_each_row_read_along_the_columns():
    """In a square matrix both have the same shape."""
    (x,) = hosts((4, 4))
    f = nnx.jit(lambda x: (nnx.atan2(x, nnx.sum(x, axis=1)), x - nnx.sum(x, axis=1)[None, :]))
    first, second = f(nnx.asarray(x, device="numba"))
    sums = x.sum(axis=1)
    np.testing.assert_allclose(first.numpy(), np.arctan2(x, sums), rtol=1e-14)
    np.testing.assert_allclose(second.numpy(), x - sums[None, :], rtol=1e-13, atol=1e-14)


def test_a_value_of_each_row_read_along_both():
    (x,) = hosts((5, 5))

    def f(x):
        top = nnx.max(x, axis=1)
        return (x - top[:, None]) * nnx.broadcast_to(top, (5, 5)) + nnx.reshape(top, (1, 5))

    f, top = nnx.jit(f), x.max(axis=1)
    wanted = (x - top[:, None]) * top[None, :] + top[None, :]
    np.testing.assert_array_equal(f(nnx.asarray(x, device="numba")).numpy(), wanted)


@pytest.mark.parametrize("way", ["reshape", "squeeze", "transpose"])
def test_a_result_that_is_a_view_is_also_a_factor(way):
    a, w = hosts((1, 4), (4, 4), seed=3)

    def f(a, w):
        y = a * 2.0
        view = {
            "reshape": lambda: nnx.reshape(y, (4,)),
            "squeeze": lambda: nnx.squeeze(y, axis=0),
            "transpose": lambda: nnx.permute_dims(y, (1, 0)),
        }[way]()
        # The larger value has the place in memory that one never written would be given.
        return view, (w * 3.0) @ view, nnx.sum(y)

    view, product, total = nnx.jit(f)(*placed([a, w]))
    wanted = (a * 2).reshape(view.shape)
    np.testing.assert_array_equal(view.numpy(), wanted)
    np.testing.assert_allclose(product.numpy(), w * 3 @ wanted, rtol=1e-13, atol=1e-15)
    assert total.item() == pytest.approx((a * 2).sum(), rel=1e-13)


def test_one_index_is_looked_at_before_memory_is_read():
    (x,) = hosts((6, 2))
    one = nnx.jit(lambda x, i: (x[i], nnx.exp(x)[i] * 2.0))
    for i in (0, 5, -1):
        for index in (np.int64(i), np.array([i])):
            got = one(nnx.asarray(x, device="numba"), nnx.asarray(index, device="numba"))
            np.testing.assert_array_equal(got[0].numpy(), x[index])
            np.testing.assert_allclose(got[1].numpy(), np.exp(x)[index] * 2.0, rtol=1e-15)
    with pytest.raises((nnx.NnxError, IndexError)):
        one(nnx.asarray(x, device="numba"), nnx.asarray(np.array([6]), device="numba"))


def test_a_number_that_is_computed_chooses_a_row():
    """argmax of all, as an index: no Python number in a trace."""
    x, w = hosts((5,), (5, 3), seed=2)
    for device in ("numpy", "numba"):
        f = nnx.jit(lambda x, w: w[nnx.argmax(x)])
        got = f(nnx.asarray(x, device=device), nnx.asarray(w, device=device))
        np.testing.assert_array_equal(got.numpy(), w[x.argmax()])


def test_a_step_of_many_loops_and_types():
    """The names of loops are not those of types, which come in between: i8, i16, i32, i64."""
    sizes = range(2, 72)
    arrays = hosts(*[(n,) for n in sizes], dtype="f8")

    def f(*arrays):
        return [nnx.floor(x * 9.0).astype(d) for x, d in zip(arrays, kinds * 18, strict=False)]

    kinds = ["int8", "int16", "int32", "int64"]
    for x, kind, got in zip(arrays, kinds * 18, nnx.jit(f)(*placed(arrays)), strict=False):
        np.testing.assert_array_equal(got.numpy(), np.floor(x * 9.0).astype(kind))
