"""Passes: what a graph becomes before it is compiled, with the same values."""

import re

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.graph import interpret, pretty, typecheck
from nnx.passes import lower, prepared
from nnx.trace import Trace

DEVICE = nnx.device("numpy")
HARD = np.array([0.0, -0.0, 1.5, -1.5, np.nan, np.inf, -np.inf, 1e-45, -1e-45], np.float32)


def traced(function, *arrays):
    """Return the graph of a function of arrays."""
    tensors = [nnx.asarray(a, device=DEVICE) for a in arrays]
    with Trace(DEVICE) as trace:
        twins = [trace.argument(x, x.shape, f"x{i}") for i, x in enumerate(tensors)]
        out = function(*twins)
    outs = [out] if isinstance(out, nnx.Tensor) else out
    return trace.graph([x.array.var for x in outs])


def both(function, *arrays):
    """Return the text of the prepared graph, and the results before and after the passes."""
    graph = traced(function, *arrays)
    ready = prepared(graph, DEVICE)
    typecheck(ready)
    with np.errstate(all="ignore"):
        before = interpret(lower(graph, DEVICE), DEVICE, arrays, {})
        after = interpret(ready, DEVICE, arrays, {})
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(np.signbit(x), np.signbit(y))
    return pretty(ready)


def test_sign_of_relu_is_read_from_its_result():
    text = both(lambda x: [nnx.relu(x), (x > 0).astype("float32")], HARD)
    assert "greater(%0, 0)" in text and "greater(x0" not in text


def test_sign_of_a_clipped_value_is_its_own():
    text = both(lambda x: [nnx.maximum(x, 1), (x > 0).astype("float32")], HARD)
    assert "greater(x0, 0)" in text


def test_flag_that_became_a_number_is_the_flag_again():
    text = both(lambda x: nnx.where((x < 1).astype("float32") > 0, x, 2.0), HARD)
    assert "astype" not in text and "greater" not in text


def test_size_of_a_negated_value_is_that_of_the_value():
    text = both(lambda x: nnx.abs(-x), HARD)
    assert "negative" not in text


@pytest.mark.parametrize("label", [-1, 3])
def test_label_that_a_check_refuses_is_not_wrapped(label):
    x, y = np.ones((2, 3), np.float32), np.array([0, 2])
    text = both(nn.cross_entropy, x, y)
    assert "less(" in text and not re.search(r"add\(%\d+, 3\)", text)
    graph = prepared(traced(nn.cross_entropy, x, y), DEVICE)
    with pytest.raises(nnx.TraceError, match="check"):
        interpret(graph, DEVICE, [x, np.array([0, label])], {})


def test_choice_by_a_test_that_no_check_refuses_is_kept():
    text = both(lambda x: nnx.where(x < 0, x + 10, x), np.array([-1, 0, 5]))
    assert "where" in text
