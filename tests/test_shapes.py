"""Shape and type rules against NumPy's, and the words in which they refuse."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nnx
from nnx import dtypes, shapes
from nnx.errors import DTypeError, ShapeError
from nnx.op import OPS

DRAWN = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SMALL = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
AXES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3)  # a scalar has no axis 0


def blank(shape):
    return np.broadcast_to(np.int8(0), shape)


def outcome(rule, *args, **kwargs):
    """Return a rule's shape, or None where it refuses."""
    try:
        return rule(*args, **kwargs)
    except ShapeError:
        return None


def numpy_outcome(function, *args, **kwargs):
    try:
        return np.shape(function(*args, **kwargs))
    except (ValueError, IndexError, TypeError):
        return None


# Drawn


@DRAWN
@given(st.lists(SMALL, min_size=1, max_size=3))
def test_broadcast_equals_numpy(given_shapes):
    def together(*all_shapes):
        return blank(np.broadcast_shapes(*all_shapes))

    assert outcome(shapes.broadcast, *given_shapes) == numpy_outcome(together, *given_shapes)


@DRAWN
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=0))
def test_unbroadcast_axes_bring_back_the_input_s_shape(drawn):
    for shape in drawn.input_shapes:
        axes, reshapes = shapes.unbroadcast_axes(drawn.result_shape, shape)
        summed = np.sum(blank(drawn.result_shape), axis=axes, keepdims=True)
        assert summed.size == shapes.size(shape)
        assert summed.reshape(shape).shape == shape
        assert reshapes or summed.shape == shape


AXIS = st.one_of(st.none(), st.integers(-5, 4), st.lists(st.integers(-4, 3), max_size=3).map(tuple))


@DRAWN
@given(SMALL, AXIS, st.booleans())
def test_reduce_equals_numpy(shape, axis, keepdims):
    wanted = numpy_outcome(np.sum, blank(shape), axis=axis, keepdims=keepdims)
    assert outcome(shapes.reduce, shape, axis=axis, keepdims=keepdims) == wanted


@DRAWN
@given(SMALL, SMALL)
def test_matmul_equals_numpy(x, y):
    assert outcome(shapes.matmul, x, y) == numpy_outcome(np.matmul, blank(x), blank(y))


@DRAWN
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.data())
def test_matmul_of_fitting_stacks_equals_numpy(n, m, k, data):
    drawn = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3))
    x, y = (*drawn.input_shapes[0], n, m), (*drawn.input_shapes[1], m, k)
    assert shapes.matmul(x, y) == np.matmul(blank(x), blank(y)).shape


@DRAWN
@given(SMALL, st.lists(st.integers(-1, 6), max_size=4).map(tuple))
def test_reshape_equals_numpy(shape, target):
    # NumPy guesses a size of 0 / 0; the standard does not.
    known = shapes.size(tuple(n for n in target if n != -1))
    wanted = numpy_outcome(np.reshape, blank(shape), target)
    got = outcome(shapes.reshape, shape, target)
    assert got == wanted or (known == 0 and -1 in target and got is None)


@DRAWN
@given(SMALL, st.data())
def test_reshape_to_a_permutation_of_factors_fits(shape, data):
    target = tuple(data.draw(st.permutations(shape)))
    assert shapes.reshape(shape, target) == target
    if shapes.size(shape) and target:
        unknown = (-1, *target[1:])
        assert shapes.reshape(shape, unknown) == target


@DRAWN
@given(AXES, st.one_of(st.integers(-6, 5), st.lists(st.integers(-5, 5), max_size=2).map(tuple)))
def test_expand_dims_and_squeeze_equal_numpy(shape, axis):
    assert outcome(shapes.expand_dims, shape, axis) == numpy_outcome(
        np.expand_dims, blank(shape), axis
    )
    assert outcome(shapes.squeeze, shape, axis) == numpy_outcome(np.squeeze, blank(shape), axis)


@DRAWN
@given(SMALL, st.data())
def test_permute_dims_equals_numpy(shape, data):
    axes = data.draw(st.one_of(st.permutations(range(len(shape))), st.lists(st.integers(-4, 3))))
    wanted = numpy_outcome(np.transpose, blank(shape), tuple(axes))
    assert outcome(shapes.permute_dims, shape, tuple(axes)) == wanted


@DRAWN
@given(SMALL, SMALL)
def test_broadcast_to_equals_numpy(shape, target):
    wanted = numpy_outcome(np.broadcast_to, blank(shape), target)
    assert outcome(shapes.broadcast_to, shape, target) == wanted


@DRAWN
@given(st.lists(SMALL, min_size=1, max_size=3), st.one_of(st.none(), st.integers(-4, 3)))
def test_concat_and_stack_equal_numpy(given_shapes, axis):
    arrays = [blank(shape) for shape in given_shapes]
    wanted = numpy_outcome(np.concatenate, arrays, axis=axis)
    assert outcome(shapes.concat, *given_shapes, axis=axis) == wanted
    if axis is not None:
        wanted = numpy_outcome(np.stack, arrays, axis=axis)
        assert outcome(shapes.stack, *given_shapes, axis=axis) == wanted


@DRAWN
@given(SMALL, st.lists(st.integers(0, 3), max_size=4).map(tuple))
def test_tile_equals_numpy(shape, repetitions):
    assert shapes.tile(shape, repetitions) == np.tile(blank(shape), repetitions).shape


@DRAWN
@given(AXES, st.integers(0, 3), st.one_of(st.none(), st.integers(-4, 3)))
def test_repeat_equals_numpy(shape, repeats, axis):
    wanted = numpy_outcome(np.repeat, blank(shape), repeats, axis=axis)
    assert outcome(shapes.repeat, shape, repeats, axis) == wanted


@DRAWN
@given(AXES, hnp.array_shapes(min_dims=0, max_dims=2, max_side=3), st.integers(-4, 3))
def test_take_equals_numpy(shape, indices, axis):
    places = np.zeros(indices, np.int64)
    filled = tuple(max(n, 1) for n in shape)
    wanted = numpy_outcome(np.take, blank(filled), places, axis=axis)
    assert outcome(shapes.take, filled, indices, axis) == wanted


@DRAWN
@given(SMALL, SMALL, st.integers(0, 3))
def test_tensordot_equals_numpy(x, y, axes):
    wanted = numpy_outcome(np.tensordot, blank(x), blank(y), axes)
    assert outcome(shapes.tensordot, x, y, axes) == wanted


@DRAWN
@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4), st.data())
def test_rule_of_a_key_equals_numpy(shape, data):
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    items = key if isinstance(key, tuple) else (key,)
    assert OPS["getitem"].shape(shape, key=items) == np.shape(blank(shape)[key])


@DRAWN
@given(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=3), st.data())
def test_rule_of_a_key_with_arrays_equals_numpy(shape, data):
    drawn = data.draw(
        hnp.mutually_broadcastable_shapes(num_shapes=len(shape), max_dims=2, max_side=3)
    )
    template, arrays, key = [], [], []
    for one in drawn.input_shapes:
        kind = data.draw(st.sampled_from(["array", "slice", "integer", "new"]))
        if kind == "array":
            template.append(f"#{len(arrays)}")
            arrays.append(one)
            key.append(np.zeros(one, np.int64))
        else:
            item = {"slice": slice(None), "integer": 0, "new": None}[kind]
            template.append(item)
            key.append(item)
    wanted = numpy_outcome(lambda: blank(shape)[tuple(key)])
    assert outcome(OPS["getitem"].shape, shape, *arrays, key=tuple(template)) == wanted


@pytest.mark.parametrize(
    ("key", "template"),
    [
        ((0, [0, 1]), (0, "#0")), (([0, 1], 0), ("#0", 0)),
        (([0, 1], slice(None), 0), ("#0", slice(None), 0)),
        ((0, slice(None), [0, 1]), (0, slice(None), "#0")),
        ((slice(None), [0, 1], 0), (slice(None), "#0", 0)),
        ((0, None, [0, 1]), (0, None, "#0")),
    ],
    ids=str,
)  # fmt: skip
def test_integer_beside_an_array_counts_as_an_array(key, template):
    shape = (3, 4, 5)
    wanted = np.shape(blank(shape)[tuple(np.array(i) if isinstance(i, list) else i for i in key)])
    assert OPS["getitem"].shape(shape, (2,), key=template) == wanted


# What the errors say


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: shapes.broadcast((2, 3), (4,)), r"\(2, 3\) and \(4,\) do not .*x\[:, None\]"),
        (lambda: shapes.matmul((2, 3), (2, 3)), r"has 3 entries and axis -2 .*has 2.*x @ y\.mT"),
        (lambda: shapes.matmul((3, 2), (3, 4)), r"Transpose the first: x\.mT @ y fits"),
        (lambda: shapes.matmul((2, 3), (5, 7)), "Reshape or transpose one"),
        (lambda: shapes.matmul((), (3,)), r"Use x \* y"),
        (lambda: shapes.normalize_axis(2, 2), "axis 2 does not .* Allowed: -2 to 1"),
        (lambda: shapes.normalize_axis(0, 0), "the array has no axes"),
        (lambda: shapes.normalize_axes((0, -2), 2), "names one axis twice"),
        (lambda: shapes.reduce_nonempty((0, 3), 0), "no elements along axis 0"),
        (lambda: shapes.reshape((2, 3), (4, 2)), r"\(2, 3\) has 6 elements.*\(4, 2\)"),
        (lambda: shapes.linear((2, 3), (4, 2)), "last axis of the first has 3"),
        (lambda: shapes.linear((2, 3), (3, 2), (3,)), r"takes a bias of shape \(2,\), got \(3,\)"),
        (lambda: shapes.loss((3, 1), (3,)), r"compare each with each.*y\.reshape\(\(3, 1\)\)"),
        (lambda: shapes.cross_entropy((4, 3), (4, 2)), r"labels of shape \(4,\) \(class numbers\)"),
        (lambda: shapes.concat((2, 3), (2, 4)), "may differ only along axis 0"),
        (lambda: shapes.pad((2,), (-1, 0)), "none negative"),
    ],
)  # fmt: skip
def test_error_says_what_was_given_and_what_to_do(call, text):
    with pytest.raises(ShapeError, match=text):
        call()


# Types

FLOATING = ("float16", "bfloat16", "float32", "float64")
SIGNED, UNSIGNED = (tuple(f"{kind}{bits}" for bits in (8, 16, 32, 64)) for kind in ("int", "uint"))


def test_promotion_within_a_kind_is_the_standard_s():
    for names in ((*SIGNED, *UNSIGNED), ("float16", "float32", "float64")):
        for a, b in itertools.product(names, repeat=2):
            if {a, b} >= {"uint64"} and {a, b} & set(SIGNED):
                with pytest.raises(DTypeError, match="No integer type holds both"):
                    dtypes.promote(dtypes.as_dtype(a), dtypes.as_dtype(b))
            else:
                got = dtypes.promote(dtypes.as_dtype(a), dtypes.as_dtype(b))
                assert got == np.promote_types(a, b).name


def test_promotion_across_kinds_takes_the_higher():
    for floating in FLOATING:
        for other in (*SIGNED, *UNSIGNED, "bool"):
            assert dtypes.promote(dtypes.as_dtype(other), dtypes.as_dtype(floating)) == floating
    for whole in (*SIGNED, *UNSIGNED):
        assert dtypes.promote(dtypes.bool_, dtypes.as_dtype(whole)) == whole
    assert dtypes.promote(dtypes.float16, dtypes.bfloat16) is dtypes.float32


def test_promotion_does_not_depend_on_the_order():
    held = [dtype for dtype in dtypes.ALL if dtype is not dtypes.uint64]
    for a, b in itertools.product(held, repeat=2):
        assert dtypes.promote(a, b) is dtypes.promote(b, a)


@pytest.mark.parametrize(
    ("dtype", "number", "wanted"),
    [
        ("float32", 1.5, "float32"), ("float16", 2, "float16"), ("int32", 2, "int32"),
        ("uint8", 1.5, "float32"), ("bool", 1, "int64"), ("bool", 0.5, "float32"),
        ("float64", True, "float64"), ("int8", True, "int8"), ("bool", True, "bool"),
    ],
)  # fmt: skip
def test_python_numbers_are_weak(dtype, number, wanted):
    assert dtypes.with_scalar(dtypes.as_dtype(dtype), number) == wanted
    x = nnx.zeros(1, dtype=dtype, device="numpy")
    if dtype != "bool" or number is not True:
        assert (x + number).dtype == (number + x).dtype == wanted


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("sum", ["int32"], "int64"), ("sum", ["uint8"], "uint64"), ("sum", ["bool"], "int64"),
        ("sum", ["float32"], "float32"), ("mean", ["int64"], "float32"),
        ("mean", ["float64"], "float64"), ("divide", ["int32", "int32"], "float32"),
        ("exp", ["uint8"], "float32"), ("argmax", ["float64"], "int64"),
        ("less", ["int8", 2.5], "bool"),
        ("where", ["bool", "float64", 1.0], "float64"), ("where", ["bool", 1, 0], "int64"),
        ("getitem", ["uint8", "int64"], "uint8"), ("concat", ["int32", "float32"], "float32"),
        ("take", ["float64", "int32"], "float64"),
        ("cross_entropy", ["float64", "int64"], "float64"),
        ("clip", ["int32", None, 1.5], "float32"),
        ("linear", ["float32", "float32", None], "float32"),
        ("matmul", ["int8", "int16"], "int16"), ("relu", ["int32"], "int32"),
    ],
)  # fmt: skip
def test_rule_of_types_is_the_written_one(name, given, wanted):
    inputs = [dtypes.as_dtype(x) if isinstance(x, str) else x for x in given]
    assert OPS[name].result_dtype(inputs, {}) == wanted


def test_type_named_by_the_caller_comes_out():
    assert OPS["astype"].result_dtype([dtypes.float32], {"dtype": "int8"}) is dtypes.int8
    assert OPS["one_hot"].result_dtype([dtypes.int64], {"num_classes": 3}) is dtypes.float32


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("float32", "float32"), (np.float64, "float64"), (np.dtype("int8"), "int8"),
        (float, "float32"),
        (int, "int64"), (bool, "bool"), (np.bool_, "bool"), (nnx.uint16, "uint16"),
    ],
    ids=str,
)  # fmt: skip
def test_types_go_by_many_names(given, name):
    assert dtypes.as_dtype(given).name == name
    assert dtypes.as_dtype(given) == given or given in (float, int, bool)


def test_types_print_compare_and_hash():
    assert repr(nnx.float32) == "nnx.float32" and str(nnx.float32) == "float32"
    assert nnx.float32 == "float32" and nnx.float32 == np.float32 and nnx.float32 != nnx.float64
    assert {nnx.float32: 1}[dtypes.as_dtype("float32")] == 1
    assert [dtype.itemsize for dtype in (nnx.bool, nnx.int8, nnx.float16, nnx.float64)] == [
        1,
        1,
        2,
        8,
    ]
    with pytest.raises(DTypeError, match="Did you mean 'float32'"):
        dtypes.as_dtype("float33")
    with pytest.raises(DTypeError, match="There is no data type"):
        dtypes.as_dtype(complex)


@pytest.mark.parametrize("name", ["int64", "float32"])
def test_types_survive_copying(name):
    import copy
    import pickle

    dtype = dtypes.as_dtype(name)
    assert pickle.loads(pickle.dumps(dtype)) == dtype
    assert copy.deepcopy(dtype) == dtype
