"""The compiled path on a GPU: what the tests without one hold of emitted text, on real hardware.

All are marked gpu, and say so where they are skipped. Eager ops on a GPU are in tests/test_cupy.py.
Captures, replays and refusals stand first: `python -m benchmarks.gpu` may be cut before the last.
"""

import warnings

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from nnx.op import OPS
from tests.test_compiled_ops import held, parts, rows_of
from tests.test_cuda_masks import ROUND, by_hand, form_of
from tests.test_cuda_masks import arguments as wide_arguments
from tests.test_cuda_masks import network as network_of
from tests.test_lessons_jit import NETWORKS, ONCE, PAIRS, STEPS, check
from tests.test_lessons_jit import rows_of as lesson_rows
from tests.tracing import outputs_for

DEVICE = "cupy"
CALLS = 3
"""Launched kernel by kernel, captured, replayed."""
REPLAYS = 1000
REASON = next((info.reason for info in nnx.devices() if info.name == DEVICE), "no such device")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=f"no GPU: {REASON}")]


@pytest.fixture
def captures(monkeypatch):
    """Return what captures gave: a function that replays, or None."""
    from nnx.kernels.cuda_machine import CupyMachine

    found = []

    def noted(self, start):
        found.append(capture(self, start))
        return found[-1]

    capture = CupyMachine.capture
    monkeypatch.setattr(CupyMachine, "capture", noted)
    return found


# Capture and memory


def small_step(device=DEVICE):
    """Return a jitted step of a small network, its batch, its network."""
    nnx.random.seed(0)
    with nnx.device(device):
        model = nn.Sequential(
            nn.Dense(32, "relu", in_features=20), nn.Dropout(0.2), nn.Dense(5, in_features=32)
        )
    optimizer = optim.Adam(1e-3).bind(model.parameters())

    @nnx.jit
    def step(x, y):
        optimizer.zero_grad()
        loss = nn.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(0)
    batch = [
        nnx.asarray(part, device=device)
        for part in (rng.standard_normal((16, 20), dtype=np.float32), rng.integers(0, 5, 16))
    ]
    return step, batch, model


def test_a_step_is_captured_without_a_warning(captures):
    step, batch, _ = small_step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [step(*batch).item() for _ in range(5)]
    assert len(captures) == 2 and None not in captures  # up to the checks, and the rest
    assert losses[-1] < losses[0]


def test_fit_replays_several_steps_at_once(captures):
    _, _, model = small_step()
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((1600, 20), dtype=np.float32), rng.integers(0, 5, 1600)
    model.compile(optim.Adam(1e-3), "cross_entropy", device=DEVICE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = model.fit(x, y, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert captures and None not in captures
    assert losses[-1] < losses[0]


def test_a_thousand_replays_allocate_nothing():
    step, batch, _ = small_step()
    for _ in range(5):
        loss = step(*batch)
    device = nnx.device(DEVICE)
    device.synchronize()
    before = device.memory()
    for _ in range(REPLAYS):
        loss = step(*batch)
    device.synchronize()
    after = device.memory()
    assert np.isfinite(loss.item())
    for figure in ("pool_used", "pool_total"):
        assert after[figure] == before[figure]


# What goes wrong


def state_of(model):
    return [np.array(p.numpy()) for p in model.parameters()]


@pytest.mark.parametrize("calls", [0, 1, 4], ids=["first call", "launched", "replayed"])
def test_a_label_out_of_range_changes_nothing(calls):
    step, (x, y), model = small_step()
    for _ in range(calls):
        step(x, y)
    before = state_of(model)
    bad = y.numpy().copy()
    bad[3] = 7
    with pytest.raises(nnx.LabelError, match="7"):
        step(x, nnx.asarray(bad, device=DEVICE))
    for ours, was in zip(state_of(model), before, strict=True):
        assert ours.tobytes() == was.tobytes()
    # The context goes on: other steps run, and so do those of other functions.
    assert np.isfinite([step(x, y).item() for _ in range(3)]).all()
    ones = nnx.ones((3, 3), device=DEVICE)
    assert (ones @ ones).tolist() == [[3.0] * 3] * 3


def test_a_label_out_of_range_in_fit_changes_nothing_after_it():
    _, (x, y), model = small_step()
    model.compile(optim.SGD(0.1), "cross_entropy", device=DEVICE)
    bad = y.numpy().copy()
    bad[-1] = 5
    before = state_of(model)
    with pytest.raises(nnx.LabelError, match="5"):
        model.fit(x, nnx.asarray(bad, device=DEVICE), batch_size=16, epochs=1, verbose=0)
    for ours, was in zip(state_of(model), before, strict=True):
        assert ours.tobytes() == was.tobytes()
    assert np.isfinite(model.fit(x, y, batch_size=16, verbose=0).history["loss"]).all()


def test_too_little_memory_in_a_compiled_function_leaves_it_usable():
    device = nnx.device(DEVICE)
    n = int((device.memory()["total"] / 4) ** 0.5 * 1.1)
    outer = nnx.jit(lambda x: nnx.sum(nnx.exp(nnx.permute_dims(x, (1, 0)) @ x)))
    small = nnx.ones((1, 8), device=DEVICE)
    expected = outer(small).item()
    with pytest.raises(nnx.OutOfMemoryError):
        outer(nnx.zeros((1, n), device=DEVICE))
    assert [outer(small).item() for _ in range(CALLS)] == [expected] * CALLS
    step, batch, _ = small_step()
    assert np.isfinite([step(*batch).item() for _ in range(CALLS)]).all()


# Every op


def replayed(form, arrays):
    """Yield the results of each call, which must be the same bits."""
    import cupy

    program = nnx.device(DEVICE).backend.compile(form.lowered, {}, {})
    given = [cupy.asarray(x) for x in arrays]
    outputs = [cupy.asarray(x) for x in outputs_for(form.lowered, {})]
    first = None
    for i in range(CALLS):
        assert program.run_at([x.data.ptr for x in (*given, *outputs)], {}) == 0
        results = [cupy.asnumpy(x) for x in outputs]
        bits = [x.tobytes() for x in results]
        assert first is None or bits == first, f"other bits in call {i + 1}"
        first = bits
        yield f"call {i + 1}", results
    for array, x in zip(arrays, given, strict=True):
        assert cupy.asnumpy(x).tobytes() == array.tobytes()


@pytest.mark.parametrize("first", range(0, len(OPS), 12))
def test_every_op_and_its_derivatives_are_within_the_bounds_of_float64(first):
    chosen = [rows_of(op, DEVICE)[0] for op in list(OPS)[first : first + 12]]
    assert held(chosen, replayed) == []


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_sample_of_every_op_is_within_the_bounds_of_float64(op):
    for some in parts(rows_of(op, DEVICE)):
        assert held(some, replayed) == []


# Training


@pytest.mark.parametrize(("network", "optimizer"), ONCE)
def test_lessons_are_as_near_the_truth_as_on_the_cpu(network, optimizer):
    check(network, optimizer, STEPS, DEVICE)


@pytest.mark.parametrize(("network", "optimizer"), ONCE[::3])
def test_lessons_whose_products_are_none_of_them_loops(network, optimizer, monkeypatch):
    from nnx.kernels.cuda_machine import CupyMachine

    monkeypatch.setattr(CupyMachine, "warp_turns", 0)
    check(network, optimizer, STEPS, DEVICE)


@pytest.mark.parametrize("precision", ROUND)
def test_wide_layers_have_the_gradients_of_rounded_factors(precision):
    arrays = wide_arguments((40, 1024, 2048, 6))
    form = form_of(network_of, arrays)
    kind = ROUND[precision]
    nnx.set_matmul_precision(precision)
    try:
        for _, (found, *more) in replayed(form, arrays + form.literals):
            for one, two in zip((found, *more), by_hand(kind, *arrays), strict=True):
                if precision == "high":
                    # How factors lose digits is not said: relu's sign may be another near 0.
                    assert np.linalg.norm(one - two) < 5e-2 * np.linalg.norm(two)
                else:
                    np.testing.assert_allclose(one, two, rtol=0, atol=4e-3 * np.abs(two).max())
    finally:
        nnx.set_matmul_precision("highest")


def test_nan_stays_in_wide_layers():
    arrays = wide_arguments((40, 1024, 2048, 6))
    arrays[0][3, 5] = np.nan
    form = form_of(network_of, arrays)
    nnx.set_matmul_precision("medium")
    try:
        for _, (out, first, *_) in replayed(form, arrays + form.literals):
            assert np.isnan(out[3]).all() and not np.isnan(np.delete(out, 3, 0)).any()
            assert np.isnan(first[5]).all()
    finally:
        nnx.set_matmul_precision("highest")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "optimizer"), [p for p in PAIRS if p not in ONCE])
def test_lessons_with_every_optimizer(network, optimizer):
    check(network, optimizer, STEPS, DEVICE)


def started(network, device):
    """Return a lesson's network with its first weights, made on a device."""
    data, build = NETWORKS[network]
    with nnx.device(device):
        nnx.random.seed(3)
        model = build()
        if not hasattr(model, "loss"):
            model(nnx.asarray(lesson_rows(data)[0][:4], device=device))
    return model


@pytest.mark.parametrize("network", NETWORKS)
def test_first_weights_are_bit_equal(network):
    pairs = zip(started(network, "numpy").parameters(), started(network, DEVICE).parameters(),
                strict=True)  # fmt: skip
    for ours, theirs in pairs:
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


@pytest.mark.parametrize("jit", [False, True])
def test_masks_are_bit_equal(jit):
    def masks(device):
        nnx.random.seed(5)
        dropout = nn.Dropout(0.3)
        function = nnx.jit(dropout) if jit else dropout
        x = nnx.ones((70, 33), device=device)
        return [function(x).numpy() for _ in range(CALLS)]

    for ours, theirs in zip(masks("numpy"), masks(DEVICE), strict=True):
        assert ours.tobytes() == theirs.tobytes()
        assert 0 < (ours == 0).mean() < 1


def test_shuffles_are_bit_equal():
    """The mean of the rows of each batch tells which came when."""

    class Noted(nnx.callbacks.Callback):
        def __init__(self):
            self.means = []

        def on_train_batch_end(self, batch, logs=None):
            self.means.append(logs["loss"])

    def means(device):
        nnx.random.seed(6)
        model = nn.Sequential(nn.Dense(1, in_features=1))
        model.compile(optim.SGD(1e-3), lambda p, y: nnx.mean(y) + 0.0 * nnx.mean(p), device=device)
        y, noted = np.arange(64, dtype=np.float32)[:, None], Noted()
        model.fit(y, y, batch_size=4, epochs=3, verbose=0, callbacks=[noted])
        return noted.means

    found = means(DEVICE)
    assert found == means("numpy")
    assert len(set(found)) > len(found) // 2
