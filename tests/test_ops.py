"""The table test: every op, on every device, in every type, for every sample.

What a row checks stands in `nnx.testing.conformance`, what goes into it in `nnx.testing.samples`.
"""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nnx
from nnx.errors import DTypeError, GradientError, ShapeError
from nnx.op import OPS, apply
from nnx.testing import check_grads
from nnx.testing.conformance import Row, check_op
from nnx.testing.samples import SAMPLES

NUMPY = nnx.device("numpy")
DIFFERENTIABLE = [name for name, op in OPS.items() if op.vjp is not None]


def test_every_op_has_samples():
    assert sorted(OPS) == sorted(SAMPLES)


def test_every_op_has_a_plain_sample_and_one_of_no_elements():
    for name, rows in SAMPLES.items():
        sizes = [np.size(x) for row in rows for x in row.inputs if isinstance(x, np.ndarray)]
        assert rows[0].reference is not None, name
        assert 0 in sizes, name


def test_every_op_says_what_it_is():
    for op in OPS.values():
        assert op.doc and op.doc.strip().splitlines()[0], op.name


def test_inputs_of_one_type_stand_side_by_side():
    for op in OPS.values():
        n_inputs = 3 if op.n_inputs is None else op.n_inputs
        places = list(range(n_inputs))
        assert places[op.span] == [i for i in places if i in op.values], op.name


def test_table(op_name, device_name, monkeypatch):
    if "jax" in device_name:  # JAX compiles each op for each shape: only the plainest row
        monkeypatch.setitem(SAMPLES, op_name, SAMPLES[op_name][:1])
    failures = check_op(OPS[op_name], nnx.device(device_name))
    assert not failures, "\n".join(map(str, failures))


# Wrong gradients are found: a check that passes everything proves nothing


def planted(rule, wrong):
    """Return a gradient rule that is off by one percent in one input, or in all."""
    if callable(rule):
        return lambda *args, **attrs: [
            None if share is None else share * 1.01 for share in rule(*args, **attrs)
        ]
    return tuple(
        (lambda *args, one=one, **attrs: scaled(one(*args, **attrs))) if i == wrong else one
        for i, one in enumerate(rule)
    )


def scaled(share):
    return None if share is None else share * 1.01


def rows_with(name, position):
    """Return the rows in which an input of an op has a gradient that is checked."""
    rows = [
        Row(sample, "float64", NUMPY)
        for sample in SAMPLES[name]
        if "float64" in sample.dtypes and sample.raises is None
        if sample.order or sample.slopes is not None
    ]
    return [
        row for row in rows
        if row.has_gradient() and position in row.floats and row.hosts[position].size
    ]  # fmt: skip


PLACES = [
    (name, i)
    for name in DIFFERENTIABLE
    for i in range(OPS[name].n_inputs or 1)
    if callable(OPS[name].vjp) or OPS[name].vjp[i] is not None
]


@pytest.mark.parametrize(("name", "position"), PLACES, ids=[f"{n}-{i}" for n, i in PLACES])
def test_planted_wrong_gradient_is_caught(name, position, monkeypatch):
    op = OPS[name]
    rows = rows_with(name, position)
    assert rows, "no sample has a gradient in this input"
    monkeypatch.setitem(SAMPLES, name, [row.sample for row in rows])
    monkeypatch.setattr(op, "vjp", planted(op.vjp, position))
    assert any("gradient" in failure.what for failure in check_op(op, NUMPY))
    smooth = [row for row in rows if row.sample.order]
    caught = [row for row in smooth if refused(row, name)]
    assert caught or not smooth


def refused(row, name):
    """Return whether check_grads finds the wrong rule and names the op."""
    try:
        check_grads(*row.of_floats(), order=1)
    except GradientError as error:
        return f"op '{name}'" in str(error)
    return False


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp", "square", "var", "softmax", "matmul"])
def test_rule_that_is_right_once_and_cannot_be_derived_is_caught(name, monkeypatch):
    """A rule whose own derivative is lost gives right first and wrong second derivatives."""
    op = OPS[name]

    def cut(rule):
        def without_tape(*args, **attrs):
            share = rule(*args, **attrs)
            return share.detach() if isinstance(share, nnx.Tensor) else share

        return without_tape

    row = rows_with(name, 0)[0]
    check_grads(*row.of_floats(), order=2)
    monkeypatch.setattr(op, "vjp", tuple(rule and cut(rule) for rule in op.vjp))
    check_grads(*row.of_floats(), order=1)
    with pytest.raises(GradientError, match="order 2"):
        check_grads(*row.of_floats(), order=2)


# The public functions


def test_every_op_is_a_function_of_the_package():
    hidden = {"cross_entropy_rows", "cross_entropy_slope", "scatter_add"}
    for name in OPS.keys() - hidden:
        assert callable(getattr(nnx, name)), name


PLAIN = [n for n in OPS if hasattr(getattr(nnx, n, None), "op") and OPS[n].n_inputs is not None]


@pytest.mark.parametrize("name", PLAIN)
def test_public_function_equals_its_op(name):
    """Attributes are taken by keyword and by position, inputs by position."""
    function = getattr(nnx, name)
    sample = next(s for s in SAMPLES[name] if s.raises is None)
    row = Row(sample, sample.dtypes[0], NUMPY)
    inputs = row.place(row.hosts)
    wanted = row.run(inputs).numpy()
    np.testing.assert_array_equal(function(*inputs, **sample.attrs).numpy(), wanted)
    order = [*inspect.signature(function).parameters.values()]
    names = [p.name for p in order if p.kind is p.POSITIONAL_OR_KEYWORD]
    if names[: len(sample.attrs)] == list(sample.attrs):
        np.testing.assert_array_equal(function(*inputs, *sample.attrs.values()).numpy(), wanted)


def test_unknown_argument_is_named():
    x = nnx.asarray([1.0], device="numpy")
    with pytest.raises(TypeError, match=r"softmax\(\) has no argument 'dim'; it takes x, axis"):
        nnx.softmax(x, dim=0)
    with pytest.raises(TypeError, match="got 4 arguments"):
        nnx.softmax(x, 0, 1, 2)


def test_concat_stack_split_unstack_and_moveaxis_equal_numpy():
    host = np.arange(24.0).reshape(2, 3, 4)
    x = nnx.asarray(host, device="numpy")
    for axis in (0, 1, -1):
        np.testing.assert_array_equal(
            nnx.concat([x, x], axis=axis), np.concatenate([host] * 2, axis)
        )
        np.testing.assert_array_equal(nnx.stack([x, x], axis=axis), np.stack([host] * 2, axis))
        for part, wanted in zip(
            nnx.split(x, [1], axis=axis), np.split(host, [1], axis), strict=True
        ):
            np.testing.assert_array_equal(part, wanted)
        for part, wanted in zip(nnx.unstack(x, axis=axis), np.moveaxis(host, axis, 0), strict=True):
            np.testing.assert_array_equal(part, wanted)
        np.testing.assert_array_equal(nnx.moveaxis(x, axis, 0), np.moveaxis(host, axis, 0))
    with pytest.raises(ShapeError, match="does not divide into 2 equal parts"):
        nnx.split(x, 2, axis=1)
    with pytest.raises(ShapeError, match="one or more arrays"):
        nnx.stack([])
    with pytest.raises(ShapeError, match="concat: takes one or more arrays"):
        nnx.concat([])


def test_type_error_lists_what_was_given():
    x = nnx.asarray([1.0, 2.0], device="numpy")
    with pytest.raises(DTypeError, match=r"bitwise_and does not take \(float32 \(2,\), "):
        nnx.bitwise_and(x, x)


def test_shape_error_names_the_op_on_every_device(usable):
    x = nnx.ones((2, 3), device=usable)
    with pytest.raises(ShapeError, match=r"^matmul: .*Transpose the second: x @ y.mT fits"):
        nnx.matmul(x, x)
    with pytest.raises(ShapeError, match="^add: shapes"):
        x + nnx.ones((2, 4), device=usable)


# Drawn shapes and strides against NumPy

DRAWN = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SMALL = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
NUMBERS = st.floats(-4.0, 4.0, width=32)
ON = st.sampled_from(["numpy", "loops", "array_api:array_api_strict"])


@st.composite
def arrays(draw, shape=SMALL):
    """Draw an array in any memory order, strided, reversed, or without strides."""
    sizes = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    host = draw(hnp.arrays(np.float32, sizes, elements=NUMBERS))
    order = draw(st.permutations(range(host.ndim)))
    host = np.array(host.transpose(order), order="C").transpose(np.argsort(order))
    for axis in range(host.ndim):
        step = draw(st.sampled_from([1, -1, 2]))
        lead = (slice(None),) * axis
        if step == 2:
            host = np.repeat(host, 2, axis=axis)[(*lead, slice(None, None, 2))]
        elif step == -1:
            host = host[(*lead, slice(None, None, -1))]
    return host


def equal(got, wanted):
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert got.shape == np.shape(wanted)


@DRAWN
@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0),
    st.data(),
    ON,
)
def test_drawn_broadcasting_equals_numpy(drawn, data, on):
    x, y = (data.draw(arrays(shape)) for shape in drawn.input_shapes)
    a, b = nnx.asarray(x, device=on), nnx.asarray(y, device=on)
    equal(a + b, x + y)
    equal(nnx.maximum(a, b), np.maximum(x, y))
    da, db = nnx.grad(lambda a, b: nnx.sum(a * b), argnums=(0, 1))(a, b)
    ones = np.ones(drawn.result_shape, np.float32)
    equal(da, summed_to(ones * y, x.shape))
    equal(db, summed_to(ones * x, y.shape))


def summed_to(g, shape):
    """Return a gradient summed back to the shape that was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    for axis, n in enumerate(shape):
        g = g.sum(axis=axis, keepdims=True) if n == 1 else g
    return g


@DRAWN
@given(arrays(), st.data(), st.booleans(), ON)
def test_drawn_reductions_equal_numpy(x, data, keepdims, on):
    axes = st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.nothing()
    several = st.lists(axes, unique_by=lambda a: a % x.ndim).map(tuple) if x.ndim else st.just(())
    axis = data.draw(st.one_of(st.none(), axes, several))
    t = nnx.asarray(x, device=on)
    equal(nnx.sum(t, axis=axis, keepdims=keepdims), np.sum(x, axis=axis, keepdims=keepdims))
    equal(nnx.prod(t, axis=axis, keepdims=keepdims), np.prod(x, axis=axis, keepdims=keepdims))
    if x.size:
        equal(nnx.max(t, axis=axis, keepdims=keepdims), np.max(x, axis=axis, keepdims=keepdims))
        equal(nnx.mean(t, axis=axis, keepdims=keepdims), np.mean(x, axis=axis, keepdims=keepdims))
        wide = x.astype(np.float64)
        equal(nnx.var(t, axis=axis, keepdims=keepdims), np.var(wide, axis=axis, keepdims=keepdims))


KEYS = st.shared(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4), key="keys")


@DRAWN
@given(arrays(KEYS), st.data(), ON)
def test_drawn_basic_keys_equal_numpy(x, data, on):
    key = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    check_key(x, key, on)


@DRAWN
@given(arrays(KEYS), st.data(), ON)
def test_drawn_array_keys_equal_numpy(x, data, on):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    items = []
    for n in x.shape:
        whole = hnp.arrays(np.int64, shape, elements=st.integers(-n, n - 1))
        items.append(data.draw(st.one_of(whole, st.just(slice(None)), st.integers(-n, n - 1))))
    check_key(x, tuple(items), on)


@DRAWN
@given(arrays(KEYS), st.data(), ON)
def test_drawn_masks_equal_numpy(x, data, on):
    mask = data.draw(hnp.arrays(bool, x.shape[: data.draw(st.integers(1, x.ndim))]))
    check_key(x, mask, on)


def check_key(x, key, on):
    """Compare x[key], and where its gradient goes, with NumPy."""
    t = nnx.asarray(x, device=on)
    wanted = x[key]
    equal(t[key], wanted)
    counted = np.zeros(x.shape)
    np.add.at(counted, key, 1.0)
    equal(nnx.grad(lambda t: nnx.sum(t[key]))(t), counted)


@DRAWN
@given(st.data(), ON)
def test_drawn_matmul_equals_numpy(data, on):
    n, m, k = (data.draw(st.integers(0, 3)) for _ in range(3))
    drawn = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=2))
    vector_left, vector_right = data.draw(st.booleans()), data.draw(st.booleans())
    left = (m,) if vector_left else (*drawn.input_shapes[0], n, m)
    right = (m,) if vector_right else (*drawn.input_shapes[1], m, k)
    x, y = data.draw(arrays(left)), data.draw(arrays(right))
    a, b = nnx.asarray(x, device=on), nnx.asarray(y, device=on)
    equal(nnx.matmul(a, b), np.matmul(x, y))
    da, db = nnx.grad(lambda a, b: nnx.sum(nnx.matmul(a, b)), argnums=(0, 1))(a, b)
    assert da.shape == x.shape and db.shape == y.shape
    if not (vector_left or vector_right):
        ones = np.ones(np.matmul(x, y).shape)
        equal(da, summed_to(ones @ np.swapaxes(y, -1, -2), x.shape))
        equal(db, summed_to(np.swapaxes(x, -1, -2) @ ones, y.shape))


def test_device_arrays_are_not_shared_with_results():
    """No op hands out its input as its result where a later write could reach the caller's data."""
    host = np.ones((2, 3), np.float32)
    x = nnx.asarray(host, device="numpy")
    for name in ("positive", "reshape", "permute_dims", "broadcast_to", "astype"):
        sample = SAMPLES[name][0]
        attrs = {"dtype": nnx.float32} if name == "astype" else dict(sample.attrs)
        attrs = {"axes": (0, 1)} if name == "permute_dims" else attrs
        y = apply(OPS[name], (x,), attrs)
        y[0] = 5.0
        np.testing.assert_array_equal(host, 1.0)


def test_no_module_takes_the_place_of_something_public():
    """A module that is imported becomes an attribute of the package, in place of an op so named."""
    code = (
        "import importlib, pkgutil, types, nnx\n"
        "for part in pkgutil.iter_modules(nnx.__path__):\n"
        "    importlib.import_module(f'nnx.{part.name}')\n"
        "print(*[n for n in nnx.__all__ if isinstance(getattr(nnx, n), types.ModuleType)])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) <= {"nn", "optim", "random", "data", "testing", "viz"}
    assert all(callable(getattr(nnx, name)) for name in OPS if name in nnx.__all__)
