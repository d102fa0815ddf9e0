"""Tensors: conversion from host data, values, indexing, writing, moving, and their errors."""

import copy
import pickle

import numpy as np
import pytest

import nnx

# From host data


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ([1.0, 2.5], "float32"),
        ([1, 2], "int64"),
        ([True, False], "bool"),
        (1.5, "float32"),
        (np.array([1.0, 2.0]), "float64"),
        (np.array([1, 2], np.int32), "int32"),
        ([np.float64(1.0), np.float64(2.0)], "float64"),
        (np.array([1, 2], np.uint8), "uint8"),
    ],
)
def test_asarray_keeps_values_and_chooses_type(device, given, dtype):
    x = nnx.asarray(given, device=device)
    assert x.dtype == dtype
    assert x.tolist() == np.asarray(given).tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1][::-1],
        lambda a: a.astype(">f4"),
        lambda a: np.lib.stride_tricks.as_strided(a, a.shape, a.strides, writeable=False),
    ],
    ids=["fortran", "strided", "negative stride", "big-endian", "read-only"],
)
def test_asarray_of_unusual_memory_equals_contiguous(device, make):
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    weight = nnx.asarray(np.ones((4, 2), np.float32), device=device)
    odd = nnx.asarray(make(plain), device=device)
    np.testing.assert_array_equal(odd.numpy(), plain)
    np.testing.assert_array_equal((odd @ weight).numpy(), plain @ np.ones((4, 2), np.float32))


def test_asarray_of_zero_stride_equals_repeated(device):
    row = np.array([1.0, 2.0, 3.0], np.float32)
    spread = np.broadcast_to(row, (4, 3))
    np.testing.assert_array_equal((nnx.asarray(spread, device=device) * 2).numpy(), spread * 2)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([[1, 2], [3]], nnx.DataError, "same length"),
        (np.array([1, None], dtype=object), nnx.DataError, "Python objects"),
        (np.array(["a", "b"]), nnx.DTypeError, "takes booleans, integers and floats"),
        (np.array([1j]), nnx.DTypeError, "complex"),
        ({"a": 1}, nnx.DataError, "Python objects"),
    ],
)
def test_asarray_refuses_what_is_no_array(given, error, text):
    with pytest.raises(error, match=text):
        nnx.asarray(given)


def test_asarray_refuses_nan_as_integer(device):
    with pytest.raises(nnx.DTypeError, match="NaN or infinity"):
        nnx.asarray([1.0, float("nan")], dtype="int64", device=device)


def test_asarray_unknown_type_says_what_was_meant():
    with pytest.raises(nnx.DTypeError, match="Did you mean 'float32'"):
        nnx.asarray([1.0], dtype="flaot32")


def test_asarray_never_writes_the_caller(device):
    mine = np.array([1.0, 2.0, 3.0], np.float32)
    x = nnx.asarray(mine, device=device)
    x[0] = 9.0
    assert mine.tolist() == [1.0, 2.0, 3.0]
    assert x.tolist() == [9.0, 2.0, 3.0]


def test_asarray_copy_is_apart_from_the_caller():
    mine = np.array([1.0, 2.0], np.float32)
    x = nnx.asarray(mine, device="numpy", copy=True)
    mine[0] = 5.0
    assert x.tolist() == [1.0, 2.0]


def test_asarray_copy_false_refuses_a_conversion():
    with pytest.raises(nnx.DataError, match="cannot be shared"):
        nnx.asarray(np.array([1, 2]), dtype="float32", device="numpy", copy=False)


# To host data


def test_numpy_is_read_only(device):
    host = nnx.ones((2,), device=device).numpy()
    with pytest.raises(ValueError, match="read-only"):
        host[0] = 2.0


def test_numpy_functions_do_not_convert_in_silence():
    with pytest.raises(TypeError):
        np.exp(nnx.ones((2,)))


def test_array_of_the_host_joins_an_operator(device):
    x = nnx.asarray([1.0, 2.0], device=device)
    if not device.backend.on_host:
        with pytest.raises(nnx.DeviceError, match="An array of the host met one on"):
            x + np.array([1.0, 1.0], np.float32)
        return
    for result in (x + np.array([1.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32) + x):
        assert isinstance(result, nnx.Tensor)
        assert result.device is device
        assert result.tolist() == [2.0, 3.0]


def test_python_numbers_are_weak(device):
    x = nnx.asarray([1.0], device=device)
    assert (x * 2).dtype == (x * 2.5).dtype == (x * np.float64(2.5)).dtype == nnx.float32
    assert (nnx.asarray([1], device=device) * 0.5).dtype == nnx.float32
    assert (nnx.asarray([True], device=device) + 1).dtype == nnx.int64


def test_item_of_several_is_refused():
    with pytest.raises(nnx.ShapeError, match=r"shape \(2,\) is not one number"):
        nnx.ones((2,)).item()


def test_scalars_convert(device):
    x = nnx.asarray(2.5, device=device)
    assert (float(x), int(x), bool(x), f"{x:.1f}") == (2.5, 2, True, "2.5")
    assert [10, 20, 30][nnx.asarray(1, device=device)] == 20
    with pytest.raises(nnx.DTypeError, match="integer tensor"):
        [1][x]


def test_dlpack_goes_both_ways():
    x = nnx.asarray([1.0, 2.0], device="numpy", copy=True)
    np.testing.assert_array_equal(np.from_dlpack(x), [1.0, 2.0])
    assert nnx.from_dlpack(np.array([3.0, 4.0])).tolist() == [3.0, 4.0]


def test_namespace_is_nnx():
    assert nnx.ones((1,)).__array_namespace__() is nnx


# Indexing

KEYS = [
    0, -1, (1, 2), slice(1, None), (slice(None), slice(None, None, 2)), (Ellipsis, 0),
    (None, 0), (slice(None), None), [0, 2, 0], ([0, 1], [2, 3]), (slice(1, 3), [3, 0, 0]),
    ([1, 0], slice(None, 2)), np.array([[0, 1], [2, 0]]), np.array([True, False, True]),
    (slice(2, 0, -1), 1),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_getitem_equals_numpy(device, key):
    host = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(nnx.asarray(host, device=device)[key].numpy(), host[key])


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_getitem_gradient_adds_at_the_key(device, key):
    host = np.arange(12.0).reshape(3, 4)
    weight = np.arange(1.0, 1.0 + host[key].size).reshape(host[key].shape)
    expected = np.zeros_like(host)
    np.add.at(expected, key, weight)
    x = nnx.asarray(host, device=device)
    got = nnx.grad(lambda x: (x[key] * nnx.asarray(weight, device=device)).sum())(x)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_index_out_of_range_names_the_axis(device):
    with pytest.raises(nnx.ShapeError, match="outside axis 1"):
        nnx.zeros((2, 3), device=device)[0, 3]


def test_setitem_writes_and_counts(device):
    host = np.zeros((3, 4), np.float32)
    x = nnx.zeros((3, 4), device=device)
    before = x.version
    x[1, 1:3] = nnx.asarray([1.0, 2.0], device=device)
    x[2] = 5
    host[1, 1:3], host[2] = [1, 2], 5
    np.testing.assert_array_equal(x.numpy(), host)
    assert x.version == before + 2


def test_setitem_leaves_views_alone(device):
    x = nnx.asarray([1.0, 2.0, 3.0], device=device)
    part = x[:2]
    x[0] = 9.0
    assert part.tolist() == [1.0, 2.0]


def test_setitem_through_a_gradient_is_refused():
    x = nnx.ones((2,))
    x.requires_grad = True
    with pytest.raises(nnx.GradientError, match=r"nnx\.where"):
        x[0] = 1.0
    with nnx.no_grad():
        x[0] = 3.0
    assert x.tolist() == [3.0, 1.0]


def test_setitem_of_a_wrong_shape_changes_nothing(device):
    x = nnx.zeros((2, 2), device=device)
    with pytest.raises(nnx.ShapeError):
        x[0] = nnx.ones((3,), device=device)
    assert x.tolist() == [[0.0, 0.0], [0.0, 0.0]]


# Moving, copying, printing


def test_to_moves_values_and_types():
    x = nnx.asarray([1.5, 2.5], device="numpy")
    moved = x.to("loops")
    assert (moved.device.name, moved.tolist()) == ("loops", [1.5, 2.5])
    assert x.to(nnx.float64).dtype == x.to(float).to("float64" and nnx.float64).dtype == "float64"
    assert x.to("numpy") is x


def test_copies_are_apart(device):
    x = nnx.asarray([1.0, 2.0], device=device)
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.device is device
        twin[0] = 7.0
        assert x.tolist() == [1.0, 2.0]


def test_repr_says_device_type_and_tape():
    x = nnx.asarray([1.0, 2.0], dtype="float64", device="numpy")
    x.requires_grad = True
    assert repr(x) == "Tensor([1., 2.], dtype=float64, device='numpy', requires_grad=True)"


def test_transpose_of_three_axes_is_refused():
    with pytest.raises(nnx.ShapeError, match=r"\.mT"):
        nnx.zeros((2, 3, 4)).T  # noqa: B018


def test_matmul_error_explains_a_missing_transpose(device):
    quantities = nnx.asarray([[0.0, 2.0, 1.0]], device=device)
    prices = nnx.asarray([[1.99, 2.50, 10.0]], device=device)
    with pytest.raises(nnx.ShapeError, match=r"Transpose the second: x @ y\.mT fits"):
        quantities @ prices
    assert (quantities @ prices.mT).item() == pytest.approx(15.0)


def test_python_floats_of_a_named_type_are_not_rounded_before(device):
    assert nnx.asarray(2.001, dtype="float64", device=device).item() == 2.001
    assert nnx.asarray([[0.1]], dtype="float64", device=device).tolist() == [[0.1]]
    assert nnx.asarray([2.001], device=device).dtype == "float32"


def test_types_may_be_named_in_calls(device):
    x = nnx.asarray([0.0, 1.0], device=device)
    assert x.astype("int64").dtype == "int64"
    assert nnx.one_hot(x.astype(int), 2, dtype="float64").dtype == "float64"
    with pytest.raises(nnx.DTypeError, match="Did you mean 'float32'"):
        x.astype("flaot32")


def test_slice_beyond_the_end_stops_there(device):
    x = nnx.arange(10, device=device)
    assert x[8:20].tolist() == [8, 9]
    assert x[-20:2].tolist() == [0, 1]


@pytest.mark.parametrize("places", [[[0, -1], [3, 2]], [[-4, 3]]], ids=["square", "both ends"])
def test_rows_are_taken_by_integers(device, places):
    host = np.arange(40.0).reshape(4, 5, 2)
    x, at = nnx.asarray(host, device=device), nnx.asarray(places, device=device)
    np.testing.assert_array_equal(x[at], host[np.asarray(places)])
    np.testing.assert_array_equal(x[:, at], host[:, np.asarray(places)])
    for outside in (-5, 4):
        with pytest.raises((IndexError, nnx.ShapeError)):
            x[nnx.asarray([outside], device=device)]


def test_write_of_a_tracked_value_is_refused_because_its_gradient_would_be_lost():
    w = nnx.Parameter(nnx.asarray([1.0, 2.0], device="numpy").array, nnx.device("numpy"))
    total = nnx.zeros(2, device="numpy")
    with pytest.raises(nnx.GradientError, match=r"nnx\.stack"):
        total[0] = 3.0 * w[0]
    with nnx.no_grad():
        total[0] = 3.0 * w[0]
    assert total.tolist() == [3.0, 0.0]


def test_asarray_of_tracked_tensors_is_refused():
    w = nnx.ones((2,))
    w.requires_grad = True
    with pytest.raises(nnx.GradientError, match=r"nnx\.stack"):
        nnx.asarray([[w[0], 1.0], [2.0, w[1]]])
    assert nnx.stack([w[0], w[1]]).requires_grad


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: nnx.reshape(x, 2, 2), "as one tuple"),
        (lambda x: x.mean(dim=0), "dim is axis"),
        (lambda x: np.mean(x), r"nnx\.mean"),
        (lambda x: nnx.sum(x, axes=0), "no argument 'axes'; it takes x, axis, keepdims"),
    ],
)
def test_arguments_of_other_libraries_are_explained(call, text):
    with pytest.raises(TypeError, match=text):
        call(nnx.ones((2, 2)))


@pytest.mark.parametrize(
    ("name", "text"),
    [("array", r"nnx\.asarray"), ("concatenate", r"nnx\.concat"), ("sigmoyd", "mean 'sigmoid'")],
)
def test_names_of_other_libraries_are_explained(name, text):
    with pytest.raises(AttributeError, match=text):
        getattr(nnx, name)


def test_linear_takes_a_bias_of_one_axis_only(device):
    x, w = nnx.ones((2, 4), device=device), nnx.ones((4, 3), device=device)
    with pytest.raises(nnx.ShapeError, match=r"bias of shape \(3,\), got \(1, 3\)"):
        nnx.linear(x, w, nnx.ones((1, 3), device=device))
