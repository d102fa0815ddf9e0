"""Which values of a compiled step share work memory."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nnx import dtypes
from nnx.graph import Var
from nnx.kernels.memory import at_least, lifetimes, shared
from nnx.scalar import Facts
from nnx.trace import batch_size

B = batch_size(Facts(), "B", 8)


def of(*shape, dtype=dtypes.float32):
    return Var(shape, dtype)


def places(*steps, kept):
    """Return the number of the buffer of each value."""
    buffers = shared(lifetimes(steps, kept))
    return [next(i for i, b in enumerate(buffers) if x in b.vars) for x in kept]


def test_value_takes_the_memory_of_one_that_is_done_with():
    x, y, z = of(4), of(4), of(4)
    assert places([x], [x, y], [y, z], kept=[x, y, z]) == [0, 1, 0]


def test_values_of_one_step_never_share():
    x, y = of(4), of(4)
    assert places([x, y], kept=[x, y]) == [0, 1]
    assert places([x], [x, y], kept=[x, y]) == [0, 1]


def test_heir_takes_the_place_of_what_its_step_reads_last():
    x, y, z = of(4), of(4), of(4)
    first = lifetimes([[x], [x, y], [y, z], [y]], [x, y, z])
    assert [b.vars for b in shared(first, {y: {x}, z: {y}})] == [[x, y], [z]]
    both = lifetimes([[x], [x, y, z]], [x, y, z])
    assert [b.vars for b in shared(both, {y: {x}, z: {x}})] == [[x, y], [z]]


def test_values_of_two_types_never_share():
    x, y = of(4), of(4, dtype=dtypes.float64)
    assert places([x], [y], kept=[x, y]) == [0, 1]


def test_buffer_grows_to_its_largest_value_where_that_is_known():
    x, y = of(B, 4), of(B, 16)
    (buffer,) = shared(lifetimes([[x], [y]], [x, y]))
    assert buffer.size == 16 * B
    (buffer,) = shared(lifetimes([[y], [x]], [x, y]))
    assert buffer.size == 16 * B
    assert len(shared(lifetimes([[of(100)], [x]], [x]))) == 1
    known = of(100)
    assert places([known], [x], kept=[known, x]) == [0, 1]


def test_order_of_sizes():
    assert at_least(3, 3) and not at_least(2, 3)
    assert at_least(16 * B, 10 * B) and not at_least(10 * B, 16 * B)
    assert not at_least(100, B) and not at_least(B, 100)
    assert at_least(B * B + B, B * B)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 3)), max_size=12))
def test_two_values_in_use_at_once_never_share(spans):
    kept = [of(size) for _, _, size in spans]
    ends = [(min(a, b), max(a, b)) for a, b, _ in spans]
    steps = [[x for x, (a, b) in zip(kept, ends, strict=True) if s in (a, b)] for s in range(9)]
    for buffer in shared(lifetimes(steps, kept)):
        mine = sorted(ends[i] for i, x in enumerate(kept) if x in buffer.vars)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(mine))
        assert buffer.size == max(x.shape[0] for x in buffer.vars)
