"""The rest of the array API standard against NumPy, and that the namespace is whole."""

import numpy as np
import pytest

import nnx

HOST = np.array([[3.0, 1.0, 2.0, 1.0], [0.0, 5.0, -1.0, 5.0]])

# Source: array API standard 2025.12, API specification; complex numbers are left out.
NAMES = """
e inf nan newaxis pi __array_namespace_info__ arange asarray empty empty_like eye from_dlpack full
full_like linspace meshgrid ones ones_like tril triu zeros zeros_like astype broadcast_arrays
broadcast_shapes broadcast_to can_cast finfo iinfo isdtype result_type bool int8 int16 int32 int64
uint8 uint16 uint32 uint64 float32 float64 abs acos acosh add asin asinh atan atan2 atanh
bitwise_and bitwise_left_shift bitwise_invert bitwise_or bitwise_right_shift bitwise_xor ceil clip
copysign cos cosh divide equal exp expm1 floor floor_divide greater greater_equal hypot isfinite
isinf isnan less less_equal log log1p log2 log10 logaddexp logical_and logical_not logical_or
logical_xor maximum minimum multiply negative not_equal positive pow reciprocal remainder round
sign signbit sin sinh square sqrt subtract tan tanh trunc take take_along_axis isin matmul
matrix_transpose tensordot vecdot concat expand_dims flip moveaxis permute_dims repeat reshape roll
squeeze stack tile unstack argmax argmin count_nonzero nonzero searchsorted where unique_all
unique_counts unique_inverse unique_values argsort sort cumulative_prod cumulative_sum max mean min
prod std sum var all any diff
""".split()


@pytest.mark.parametrize("name", NAMES)
def test_namespace_has_the_standards_names(name):
    assert hasattr(nnx, name)


@pytest.fixture(params=("loops", "numpy", "array_api:array_api_strict"))
def x(request):
    return nnx.asarray(HOST, device=request.param)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sort_and_argsort_equal_numpy(x, axis, descending):
    order = np.argsort(-HOST if descending else HOST, axis=axis, stable=True)
    np.testing.assert_array_equal(nnx.argsort(x, axis=axis, descending=descending).numpy(), order)
    np.testing.assert_array_equal(
        nnx.sort(x, axis=axis, descending=descending).numpy(),
        np.take_along_axis(HOST, order, axis),
    )


def test_sort_gradient_goes_back_to_its_element(x):
    weight = np.arange(8.0).reshape(2, 4)
    got = nnx.grad(lambda x: (nnx.sort(x) * nnx.asarray(weight, device=x.device)).sum())(x)
    expected = np.zeros_like(HOST)
    np.put_along_axis(expected, np.argsort(HOST, stable=True), weight, -1)
    np.testing.assert_array_equal(got.numpy(), expected)


def test_searching_equals_numpy(x):
    np.testing.assert_array_equal(nnx.count_nonzero(x, axis=1).numpy(), [4, 3])
    for ours, theirs in zip(nnx.nonzero(x), HOST.nonzero(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    table = nnx.asarray([0.0, 1.0, 2.0], device=x.device)
    np.testing.assert_array_equal(
        nnx.searchsorted(table, x, side="right").numpy(),
        np.searchsorted([0.0, 1.0, 2.0], HOST, "right"),
    )
    np.testing.assert_array_equal(nnx.isin(x, table).numpy(), np.isin(HOST, [0.0, 1.0, 2.0]))


def test_unique_equals_numpy(x):
    for ours, theirs in zip(nnx.unique_all(x), np.unique_all(HOST), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_diff_meshgrid_and_outer_equal_numpy(x):
    np.testing.assert_array_equal(nnx.diff(x, n=2).numpy(), np.diff(HOST, n=2))
    a, b = nnx.asarray([1.0, 2.0]), nnx.asarray([3.0, 4.0, 5.0])
    for indexing in ("xy", "ij"):
        theirs = np.meshgrid([1.0, 2.0], [3.0, 4.0, 5.0], indexing=indexing)
        for ours, grid in zip(nnx.meshgrid(a, b, indexing=indexing), theirs, strict=True):
            np.testing.assert_array_equal(ours.numpy(), grid)
    np.testing.assert_array_equal(nnx.outer(a, b).numpy(), np.outer([1, 2], [3, 4, 5]))


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_finfo_equals_numpy(name):
    ours, theirs = nnx.finfo(getattr(nnx, name)), np.finfo(name)
    assert (ours.bits, ours.eps, ours.max, ours.min, ours.smallest_normal) == (
        theirs.bits, float(theirs.eps), float(theirs.max), float(theirs.min),
        float(theirs.smallest_normal),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["int8", "uint8", "int32", "int64", "uint64"])
def test_iinfo_equals_numpy(name):
    ours, theirs = nnx.iinfo(getattr(nnx, name)), np.iinfo(name)
    assert (ours.bits, ours.max, ours.min) == (theirs.bits, theirs.max, theirs.min)


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]


@pytest.mark.parametrize("a", INTEGERS)
@pytest.mark.parametrize("b", INTEGERS)
def test_promotion_of_integers_equals_numpy(a, b):
    assert nnx.result_type(getattr(nnx, a), getattr(nnx, b)) == np.promote_types(a, b).name


def test_promotion_of_mixed_kinds_keeps_the_float():
    assert nnx.result_type(nnx.int64, nnx.float32) is nnx.float32
    assert nnx.result_type(nnx.float32, 1.0, 3) is nnx.float32
    with pytest.raises(nnx.DTypeError, match="No integer type holds"):
        nnx.result_type(nnx.int64, nnx.uint64)


def test_casts_and_kinds():
    assert nnx.can_cast(nnx.int8, nnx.int16)
    assert not nnx.can_cast(nnx.float64, nnx.float32)
    assert nnx.isdtype(nnx.float32, "real floating")
    assert nnx.isdtype(nnx.uint8, ("bool", "integral"))
    assert not nnx.isdtype(nnx.bool, "numeric")
    with pytest.raises(nnx.DataError, match="Did you mean 'numeric'"):
        nnx.isdtype(nnx.bool, "numric")


def test_namespace_info_lists_types_and_devices():
    info = nnx.__array_namespace_info__()
    assert "numpy" in info.devices()
    assert info.default_dtypes()["real floating"] is nnx.float32
    assert set(info.dtypes(kind="bool")) == {"bool"}
    assert info.default_device() is nnx.default_device()


@pytest.mark.parametrize("device", ["loops", "numpy", "array_api:array_api_strict"])
def test_creation_equals_numpy(device):
    def same(ours, theirs):
        np.testing.assert_array_equal(ours.numpy(), theirs)
        assert ours.device.name == device
        assert ours.dtype == theirs.dtype.name

    same(nnx.zeros((2, 3), device=device), np.zeros((2, 3), np.float32))
    same(nnx.ones(3, dtype="int64", device=device), np.ones(3, np.int64))
    same(nnx.full((2,), 2.5, device=device), np.full(2, 2.5, np.float32))
    same(nnx.full((2,), 7, device=device), np.full(2, 7))
    same(nnx.arange(2, 11, 3, device=device), np.arange(2, 11, 3))
    same(nnx.arange(0.5, 2.0, device=device), np.arange(0.5, 2.0, dtype=np.float32))
    same(nnx.eye(2, 3, k=1, device=device), np.eye(2, 3, k=1, dtype=np.float32))
    same(nnx.linspace(0.0, 1.0, 5, device=device), np.linspace(0, 1, 5, dtype=np.float32))
    like = nnx.asarray(np.zeros((2, 2)), device=device)
    same(nnx.full_like(like, 3), np.full((2, 2), 3.0))
    same(nnx.zeros_like(like, dtype="bool"), np.zeros((2, 2), bool))


def test_creation_refuses_bad_sizes():
    with pytest.raises(nnx.DataError, match="0 or more"):
        nnx.zeros((2, -1))
    with pytest.raises(nnx.DataError, match="step is 0"):
        nnx.arange(0, 3, 0)
