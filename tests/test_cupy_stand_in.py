"""The CuPy backend on a stand-in for CuPy, so that it is tested on any machine.

What the stand-in takes from CuPy's source, and where it differs, stands in tests/fake_cupy.
Tests marked gpu, in tests/test_cupy.py, do the same on real hardware.
"""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx import nn, optim, rows
from nnx.op import OPS
from nnx.prepare import place_of
from nnx.rows import array_data
from nnx.testing.conformance import check_op
from tests import fake_cupy
from tests.fake_cupy import functions

ROOT = Path(__file__).parents[1]
HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None
TYPES = ["float32", "float64", "float16", "bfloat16"]


@pytest.fixture
def machine():
    with fake_cupy.installed() as found:
        yield found


@pytest.fixture(scope="module")
def table_device():
    with fake_cupy.installed():
        yield nnx.device("cupy")


def run(code, **environment):
    """Return what a fresh interpreter with the stand-in prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# The stand-in is like CuPy


def test_stand_in_s_loops_are_those_of_cupy():
    if not HAS_BFLOAT16:
        pytest.skip("ml_dtypes is not installed")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.__version__.startswith(fake_cupy.VERSION):
        pytest.skip(f"the loops are of CuPy {fake_cupy.VERSION} with ml_dtypes")
    from cupy._sorting import search
    from cupyx.scipy import special

    for name, kernel in functions.UFUNCS.items():
        homes = [home for home in (cupy, search, special) if hasattr(home, name)]
        real = [loop for loop in getattr(homes[0], name).types if not set("FDV") & set(loop)]
        assert kernel.types == real, name


def test_stand_in_refuses_what_cupy_refuses(machine):
    import cupy

    x = cupy.ones((2, 3), "float32")
    for refused in (
        lambda: np.asarray(x),
        lambda: x + np.ones((2, 3), np.float32),
        lambda: np.ones((2, 3), np.float32) + x,
        lambda: np.exp(x),
        lambda: cupy.exp(np.ones(3)),
        lambda: x.set(cupy.ones((2, 3), "float32")),
    ):
        with pytest.raises(TypeError):
            refused()
    with pytest.raises(ValueError, match="different from the current device"), cupy.cuda.Device(1):
        x + 1
    assert cupy.asnumpy(x[cupy.asarray([5])]).tolist() == [[1.0] * 3]  # wraps around, unlike NumPy


# Ops


@pytest.mark.parametrize("op", OPS)
def test_table(op, table_device):
    failures = check_op(OPS[op], table_device)
    failures += check_op(OPS[op], table_device, ["float16", "bfloat16"])
    assert not failures, "\n".join(map(str, failures))


def test_all_four_types_are_there(table_device):
    has = [name for name in TYPES if table_device.has(nnx.dtypes.as_dtype(name))]
    assert has == (TYPES if HAS_BFLOAT16 else TYPES[:3])


def test_bfloat16_is_left_out_where_cupy_lacks_it(machine, monkeypatch):
    import cupy

    monkeypatch.setattr(cupy, "__version__", "13.6.0")
    loops = [loop for loop in cupy.add.types if "E" not in loop]
    monkeypatch.setattr(cupy.add, "types", loops)
    assert not nnx.device("cupy").has(nnx.bfloat16) and nnx.device("cupy").has(nnx.float16)
    assert nnx.sign(nnx.asarray([2, -3], device="cupy")).tolist() == [1, -1]


@pytest.mark.parametrize("name", [n for n in OPS if n != "astype"])
def test_narrow_types_stay_what_they_are_beside_numbers(name, table_device):
    if not HAS_BFLOAT16:
        pytest.skip("ml_dtypes is not installed")
    if OPS[name].kind != "elementwise" or OPS[name].n_inputs != 2:
        pytest.skip("takes no number beside an array")
    if "bit" in name:
        pytest.skip("takes whole numbers")
    x = nnx.asarray([1.0, 2.0], dtype="bfloat16", device=table_device)
    for result in (getattr(nnx, name)(x, 0.3), getattr(nnx, name)(0.3, x)):
        assert result.dtype in (nnx.bfloat16, nnx.bool)


def test_bfloat16_is_left_out_where_cuda_is_too_old(machine):
    machine.built_for = 12010
    assert not nnx.device("cupy").has(nnx.bfloat16)


@pytest.mark.parametrize("dtype", TYPES[2:])
def test_running_sums_of_16_bits_round_once(machine, dtype):
    if dtype == "bfloat16" and not HAS_BFLOAT16:
        pytest.skip("ml_dtypes is not installed")
    x = nnx.full((2000,), 0.1, dtype=dtype, device="cupy")
    wanted = np.cumsum(x.numpy().astype(np.float64))
    step = 2.0**-10 if dtype == "float16" else 2.0**-7
    np.testing.assert_allclose(wide(nnx.cumulative_sum(x)), wanted, rtol=step)


def test_remainder_is_exact_where_cupy_s_is_not(machine):
    x = nnx.asarray([5.0, -5.0, 1e-9, 7.0], dtype="float32", device="cupy")
    y = nnx.asarray([np.inf, np.inf, -1.0, 0.1], dtype="float32", device="cupy")
    wanted = np.remainder(x.numpy(), y.numpy())
    np.testing.assert_array_equal(nnx.remainder(x, y).numpy(), wanted)


def test_places_outside_an_axis_are_refused(machine):
    x = nnx.asarray(np.arange(24.0).reshape(2, 3, 4), device="cupy:1")
    for bad in ([0, 3], [-4, 1]):
        at = nnx.asarray(bad, device="cupy:1")
        for read in (
            lambda at=at: x[:, at],
            lambda at=at: x[None, ..., at, 0],
            lambda at=at: nnx.take(x, at, axis=1),
            lambda at=at: nnx.take(x, at.astype("int8"), axis=-2),
        ):
            wrong = max(bad, key=abs)
            with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for axis 1 with"):
                read()
    with pytest.raises(IndexError, match="index 9 .* axis 2 with size 4"):
        nnx.take_along_axis(x, nnx.asarray(np.full((2, 3, 1), 9), device="cupy:1"))
    with pytest.raises(IndexError, match="index 200 is out"):
        x[nnx.asarray(np.array([1, 200], np.uint8), device="cupy:1")]
    places = nnx.asarray([-2, 1], device="cupy:1")
    assert x[places].tolist() == x.tolist() and x[places, 0, -1].tolist() == [3.0, 15.0]


def test_batches_are_cut_without_a_look_at_their_places(machine):
    data = array_data(place_of(network("cupy")), X, Y)
    cut = data.cutter(16, np.arange(50)[::-1].copy())
    machine.log.clear()
    x, y, _ = cut(0)
    assert not any(line[0] == "get" for line in machine.log)
    assert np.array_equal(x.numpy(), X[::-1][:16]) and np.array_equal(y.numpy(), Y[::-1][:16])


# Products


def matrices(shape, dtype):
    array = nnx.random.Generator(4).host_normal(0.0, 1.0, shape)
    return nnx.asarray(array, dtype=dtype, device="cupy")


@pytest.mark.parametrize("dtype", TYPES)
def test_transposes_and_broadcasts_are_multiplied_as_they_lie(machine, dtype):
    if dtype == "bfloat16" and not HAS_BFLOAT16:
        pytest.skip("ml_dtypes is not installed")
    a, b, c = (matrices(shape, dtype) for shape in ((4, 3, 5), (4, 3, 2), (5, 7)))
    used = nnx.device("cupy").memory()["pool_used"]
    cases = [
        (lambda: nnx.matmul(a.mT, b), "gemmStridedBatchedEx", 4),
        (lambda: nnx.matmul(b.mT, a), "gemmStridedBatchedEx", 4),
        (lambda: nnx.matmul(c.T, a.mT), "gemmStridedBatchedEx", 4),
        (lambda: nnx.matmul(a, c), "gemmEx", 1),
        (lambda: nnx.matmul(a[:, :, ::2], b[:, :, :1].reshape(4, 1, 3).mT), None, 4),
    ]
    for call, kernel, n in cases[:-1]:
        machine.products.clear()
        out = call()
        ((name, _, _, n_products, kind, compute, stream),) = machine.products
        assert (name, n_products, stream) == (kernel, n, "null")
        assert kind == {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}[dtype]
        assert compute == (70 if dtype == "float64" else 68)
        held = nnx.device("cupy").memory()["pool_used"] - used
        assert held == -(-out.size * out.dtype.itemsize // 512) * 512  # the result, and no copy
        del out


def wide(x):
    return x.numpy().astype(np.float64)


@pytest.mark.parametrize("flags", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_flag_gives_the_product(machine, flags):
    x, y = matrices((2, 3, 4), "float64"), matrices((2, 4, 5), "float64")
    left = nnx.asarray(np.swapaxes(x.numpy(), 1, 2).copy(), device="cupy").mT if flags[0] else x
    right = nnx.asarray(np.swapaxes(y.numpy(), 1, 2).copy(), device="cupy").mT if flags[1] else y
    np.testing.assert_allclose((left @ right).numpy(), wide(x) @ wide(y), rtol=1e-12)
    assert machine.products[-1][1] == (flags[1], flags[0])  # exchanged


def test_odd_strides_are_copied_and_right(machine):
    x, y = matrices((6, 8), "float32"), matrices((3, 2, 8, 8), "float32")
    for left, right in (
        (x[::2, ::2], y[:, :, ::2, ::-1]),
        (x[:, ::-1], y),
        (nnx.broadcast_to(x[:1], (6, 8)), y[:, :1]),
        (nnx.broadcast_to(y[:, :1], (3, 5, 8, 8)), x.T),
        (y.transpose(1, 0, 2, 3), y.transpose(1, 0, 3, 2)),
    ):
        wanted = np.matmul(wide(left), wide(right))
        np.testing.assert_allclose((left @ right).numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_sums_of_16_bit_products_are_rounded_once(machine, n):
    from cupy_backends.cuda.libs import cublas

    x = np.array([2048, 1, -2048, 1], np.float16).reshape(1, 1, 4) * np.ones((n, 1, 1), np.float16)
    y = np.array([1, 1, 1, 0], np.float16).reshape(1, 4, 1)
    handle = sys.modules["cupy"].cuda.Device().cublas_handle
    cublas.setMathMode(handle, 1)
    left, right = (nnx.asarray(a, device="cupy") for a in (x, np.repeat(y, n, axis=0)))
    assert (left @ right).tolist() == [[[1.0]]] * n  # by parts: 2048 + 1 is 2048 in float16
    assert cublas.getMathMode(handle) == 1  # CuPy's own products are as they were
    cublas.setMathMode(handle, 0)


def test_precision_is_a_setting(machine):
    x, y = matrices((8, 8), "float32"), matrices((8, 8), "float32")
    errors = {}
    try:
        for word, compute in (("highest", 68), ("high", 77), ("medium", 75)):
            nnx.set_matmul_precision(word)
            assert nnx.get_matmul_precision() == word
            errors[word] = np.abs((x @ y).numpy() - wide(x) @ wide(y)).max()
            assert machine.products[-1][5] == compute
            (x.astype("float16") @ y.astype("float16")).numpy()
            assert machine.products[-1][5] == 68
            (x.astype("float64") @ y.astype("float64")).numpy()
            assert machine.products[-1][5] == 70
        assert errors["highest"] < errors["high"] < errors["medium"] < 0.1
    finally:
        nnx.set_matmul_precision("highest")


def test_precision_changes_nothing_without_the_units():
    with fake_cupy.installed(capability="75") as machine:
        try:
            nnx.set_matmul_precision("high")
            x = matrices((3, 3), "float32")
            (x @ x).numpy()
        finally:
            nnx.set_matmul_precision("highest")
        assert machine.products[-1][5] == 68


def test_misspelt_precision_is_told():
    text = r"'hihg'\. Did you mean 'high'\? Allowed: float16, high, highest, medium"
    with pytest.raises(nnx.DataError, match=text):
        nnx.set_matmul_precision("hihg")


def test_missing_libraries_name_the_install_line(machine, monkeypatch):
    def no_compiler(*args, **settings):
        raise RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: no such file")

    monkeypatch.delattr(sys.modules["cupy_backends.cuda.libs"], "cublas")
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas")
    x = nnx.ones((2, 2), device="cupy")
    text = r"CuPy 14.* library of CUDA 13\.0: cannot import.*cupy-cuda13x\[ctk"
    with pytest.raises(nnx.DeviceError, match=text):
        x @ x
    monkeypatch.setattr(fake_cupy.functions.ufunc, "__call__", no_compiler)
    with pytest.raises(nnx.DeviceError, match=r"load libnvrtc\.so\.13.*cupy-cuda13x\[ctk"):
        nnx.exp(x)


# Training


def network(device, dropout=0.3):
    nnx.random.seed(5)
    return nn.Sequential(
        nn.Dense(12, "relu", in_features=4), nn.Dropout(dropout), nn.Dense(3, in_features=12)
    ).to(device)  # fmt: skip


X = nnx.random.Generator(1).host_normal(0.0, 1.0, (50, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def trained(device, x=X, y=Y, **settings):
    model = network(device)
    before = {name: value.copy() for name, value in model.state_dict().items()}
    model.compile(optim.Adam(0.02), "cross_entropy", ["accuracy"])
    model.fit(x, y, **{"batch_size": 16, "epochs": 3, "verbose": 0, **settings})
    return model, before


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("device", ["cupy", "cupy:1"])
def test_training_equals_numpy_s(machine, device, jit):
    model, before = trained(device, jit=jit, validation_data=(X, Y))
    twin, same = trained("numpy", jit=jit, validation_data=(X, Y))
    for name in before:
        np.testing.assert_array_equal(before[name], same[name])  # initial weights: to the bit
        np.testing.assert_allclose(
            model.state_dict()[name], twin.state_dict()[name], rtol=2e-4, atol=2e-5
        )
    for name, values in twin.history.history.items():
        assert model.history.history[name] == pytest.approx(values, rel=1e-4)
    np.testing.assert_allclose(model.predict(X), twin.predict(X), rtol=1e-3, atol=1e-4)


def test_draws_masks_and_shuffles_are_equal_to_the_bit(machine):
    found = []
    for device in ("numpy", "cupy", "cupy:1"):
        generator = nnx.random.Generator(9)
        mask = nn.Dropout(0.5)
        nnx.random.seed(2)
        dropped = mask.train()(nnx.ones((6, 7), device=device)).numpy()
        order = nnx.device(device).backend.permutation(generator, 100)
        found.append((dropped.tolist(), order.tolist()))
    assert found[0] == found[1] == found[2]


LESSONS = {
    "one_layer": (),
    "backprop": (),
    "count_ops": (),
    "profit": ("--steps", "20"),
    "iris": ("--epochs", "2"),
    "digits": ("--epochs", "1"),
}
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.parametrize("name", LESSONS)
def test_lesson_says_the_same_as_on_the_cpu(machine, name, monkeypatch, capsys):
    if name == "digits":  # a tenth of them: the stand-in is slow
        whole = nnx.data.load("digits")
        part = whole._replace(x_train=whole.x_train[:1000], y_train=whole.y_train[:1000])
        monkeypatch.setattr(nnx.data, "load", lambda name: part)
    said = []
    for device in ("numpy", "cupy"):
        monkeypatch.setattr(sys, "argv", [name, "--device", device, *LESSONS[name]])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        said.append(re.sub(" +", " ", capsys.readouterr().out.replace(device, "here")))
    assert NUMBER.split(said[0]) == NUMBER.split(said[1])
    numbers = [[float(text) for text in NUMBER.findall(lines)] for lines in said]
    assert numbers[1] == pytest.approx(numbers[0], rel=2e-3, abs=2e-4)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="ml_dtypes is not installed")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_narrow_types_train(machine, dtype, kind):
    eps = 1e-4 if dtype == "float16" else 1e-8
    optimizer = optim.SGD(0.1, momentum=0.9) if kind == "SGD" else optim.Adam(0.01, eps=eps)
    model = network("cupy", dropout=0.0).to(nnx.dtypes.as_dtype(dtype))
    model.compile(optimizer, "cross_entropy")
    history = model.fit(X, Y, batch_size=10, epochs=8, verbose=0, jit=False).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert {str(p.dtype) for p in model.parameters()} == {dtype}


# What the suite asks of every device, and of a GPU

SUITE = """
import sys, pytest
from tests import fake_cupy
with fake_cupy.installed():
    files = [f"tests/test_{name}.py" for name in ("cupy", "tensor", "random", "numerics")]
    sys.exit(pytest.main(["-q", *files, "-k", "cupy and not gpus_are", "-p", "no:cacheprovider"]))
"""


def test_suite_holds_on_the_stand_in():
    printed = run(SUITE).splitlines()[-1]
    assert "passed" in printed and "failed" not in printed


# Several GPUs


def test_gpus_by_index(machine):
    import cupy

    x, y = nnx.ones(3, device="cuda:1"), nnx.ones(3, device="cupy")
    assert x.array.data.device_id == 1 and str(x.device) == "cupy:1"
    assert (nnx.exp(x) * 2 - x).array.data.device_id == 1
    with pytest.raises(nnx.DeviceError, match=r"add: .* on 'cupy:1' met .* on 'cupy'"):
        x + y
    assert (x.to("cupy") + y).tolist() == [2.0] * 3
    with pytest.raises(nnx.DeviceError, match=r"cupy has 2 device\(s\): 'cupy:0', 'cupy:1'"):
        nnx.ones(3, device="cupy:2")
    # Another GPU may be current, by a library or by the user's own code.
    cupy.cuda.Device(1).use()
    assert nnx.exp(y).array.data.device_id == 0 and (y @ y).item() == 3.0
    grad = nnx.grad(lambda v: nnx.sum(nnx.tanh(v) * v))(y)
    assert grad.array.data.device_id == 0
    x[0] = 5.0
    y[1:] = 4.0
    assert x.tolist() == [5.0, 1.0, 1.0] and y.tolist() == [1.0, 4.0, 4.0]


def test_table_holds_on_the_second_gpu(machine):
    where = nnx.device("cupy:1")
    for op in ("matmul", "linear", "softmax", "layer_norm", "take_along_axis", "scatter_add"):
        failures = check_op(OPS[op], where, ["float32"])
        assert not failures, "\n".join(map(str, failures))


# Memory


def test_memory_figures_are_of_the_gpu_and_of_its_pool(machine):
    before = nnx.device("cupy").memory()
    held = nnx.zeros(1 << 20, device="cupy")
    after = nnx.device("cupy").memory()
    assert after["pool_used"] - before["pool_used"] == 4 << 20
    assert after["total"] == 1 << 30 and after["used"] + after["free"] == after["total"]
    assert nnx.device("cupy:1").memory()["pool_used"] < 4 << 20
    del held
    assert nnx.device("cupy").memory()["pool_free"] >= 4 << 20
    nnx.device("cupy").release()
    assert nnx.device("cupy").memory()["pool_free"] == 0


def test_out_of_memory_says_op_shapes_and_bytes():
    with fake_cupy.installed(memory_bytes=1 << 20):
        x, y = nnx.ones((600, 2), device="cupy"), nnx.ones((2, 600), device="cupy")
        with pytest.raises(nnx.OutOfMemoryError) as raised:
            x @ y
        text = str(raised.value)
        assert text.startswith(
            "matmul of float32 (600, 2), float32 (2, 600) asked for 1,440,000 bytes on 'cupy', "
        )
        assert f"{raised.value.free:,} are free. Take a smaller batch" in text
        assert raised.value.asked == 1_440_000 and isinstance(raised.value, MemoryError)
        with pytest.raises(nnx.OutOfMemoryError, match=r"zeros\(\(999, 999\),\).*3,992,004 bytes"):
            nnx.zeros((999, 999), device="cupy")
        with pytest.raises(nnx.OutOfMemoryError, match=r"A copy of float32 \(1000, 1000\)"):
            nnx.asarray(np.ones((1000, 1000), np.float32), device="cupy")
        assert (nnx.ones((300, 2), device="cupy") @ y).shape == (300, 600)  # usable afterwards


def test_out_of_memory_in_a_gradient_names_it():
    with fake_cupy.installed(memory_bytes=1 << 20):
        x = nnx.ones((4, 15_000), device="cupy")
        with pytest.raises(nnx.OutOfMemoryError, match=r"The gradient of tanh of float32 \(4, 15"):
            nnx.grad(lambda v: nnx.sum(nnx.tanh(v)))(x)
        assert nnx.grad(lambda v: nnx.sum(nnx.tanh(v)))(x[0]).shape == (15_000,)


class Kept(nnx.callbacks.Callback):
    """Keeps the parameters as they are after each step."""

    def on_train_batch_end(self, step, logs=None):
        self.state = {name: value.copy() for name, value in self.model.state_dict().items()}


@pytest.mark.parametrize("jit", [True, False])
def test_out_of_memory_leaves_the_parameters_and_the_process(jit):
    x, y = np.tile(X, (40, 1)), np.tile(Y, 40)
    with fake_cupy.installed(memory_bytes=200_000):
        model = network("cupy", dropout=0.0)
        model.compile(optim.Adam(0.02), "cross_entropy")
        model.fit(X, Y, batch_size=10, verbose=0, jit=jit)
        used = nnx.device("cupy").memory()["pool_used"]
        kept = Kept()
        with pytest.raises(nnx.OutOfMemoryError, match="batch of 2000 rows") as raised:
            model.fit([(x[:10], y[:10]), (x, y)], verbose=0, jit=jit, callbacks=[kept])
        text = str(raised.value)
        assert "In epoch 1 of 1, step 2" in text and "bytes on 'cupy'" in text
        assert "batch_size below" in text
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value, kept.state[name])
        del raised
        assert nnx.device("cupy").memory()["pool_used"] < used + 100_000
        model.fit(X, Y, batch_size=10, verbose=0, jit=jit)


# Labels and NaN


@pytest.mark.parametrize("jit", [True, False])
def test_label_out_of_range_is_told_before_a_kernel_uses_it(machine, jit):
    wrong = Y.copy()
    wrong[33] = 3
    texts = []
    for device in ("cupy", "numpy"):
        with pytest.raises(nnx.LabelError) as raised:
            trained(device, X, wrong, jit=jit)
        texts.append(str(raised.value))
        logits = nnx.zeros((2, 3), device=device)
        for bad in ([0, 7], [-1, 2]):
            with pytest.raises(nnx.LabelError, match=r"Label (7|-1) at index (0|1)"):
                nnx.cross_entropy(logits, nnx.asarray(bad, device=device))
        batches = [(X[:10], Y[:10]), (X[30:40], wrong[30:40])]
        with pytest.raises(nnx.LabelError, match="Label 3 at index 3"):
            trained(device, batches, None, epochs=1, jit=jit)
    assert texts[0] == texts[1]
    assert nnx.cross_entropy(nnx.zeros((2, 3), device="cupy"), nnx.asarray([0, 2], device="cupy"))


@pytest.mark.parametrize("jit", [True, False])
def test_nan_is_found_on_the_step_where_it_appears(machine, jit):
    bad = X.copy()
    bad[37, 2] = np.nan
    texts = []
    for device in ("cupy", "numpy"):
        with pytest.raises(nnx.NonFiniteError, match="step 3 of 4") as raised:
            trained(device, bad, Y, shuffle=False, jit=jit)
        texts.append(str(raised.value))
    assert texts[0] == texts[1] and "row 37 of x" in texts[0]


# Batches on their way


def by_rows(monkeypatch, resident=False):
    monkeypatch.setattr(rows, "MAPPED_BYTES", 0)
    backend = type(nnx.device("cupy").backend)
    monkeypatch.setattr(backend, "resident", lambda self, size, index: resident)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("device", ["cupy", "cupy:1"])
def test_batches_sent_ahead_train_as_data_held_whole(machine, monkeypatch, device, shuffle):
    whole, _ = trained(device, X, Y, shuffle=shuffle)
    by_rows(monkeypatch)
    machine.log.clear()
    ahead, _ = trained(device, X.astype(np.float64), Y, shuffle=shuffle, validation_data=(X, Y))
    assert any(line[0] == "copy" for line in machine.log)
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(ahead.state_dict()[name], value)
    assert ahead.predict(X).tolist() == whole.predict(X).tolist()


def test_events_order_copies_and_steps(machine):
    backend = nnx.device("cupy").backend
    sent = [[np.full((4, 3), n, np.float64), np.arange(4) + n] for n in range(5)]
    given, machine.log[:] = iter(sent), []
    seen = []
    for x, y in backend.uploads(given, [np.dtype("float32"), np.dtype("int64")], 0):
        machine.note("step", len(seen))
        seen.append((x.get(), y.get()))
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
    for (x, y), (wanted_x, wanted_y) in zip(seen, sent, strict=True):
        assert np.array_equal(x, wanted_x) and np.array_equal(y, wanted_y)
    words = [line[0] for line in machine.log if line[0] in ("copy", "step", "pinned")]
    # Batch n + 1 is on its way before step n; two pieces of pinned memory a column do for all.
    assert words == [
        *["pinned"] * 2, *["copy"] * 2, *["pinned"] * 2, *["copy"] * 2, "step",
        *["copy", "copy", "step"] * 3, "step",
    ]  # fmt: skip
    copies = [line for line in machine.log if line[0] == "copy"]
    assert all(pinned and stream != "null" for _, stream, _, _, pinned in copies)
    events = [line for line in machine.log if line[0] in ("record", "wait", "copy", "step")]
    for at, line in enumerate(events):
        if line[0] == "copy" and events[at - 1][0] != "copy":
            # The copy waits for the work that may still use the array's memory.
            assert events[at - 1] == ("wait", line[1], events[at - 2][1])
            assert events[at - 2][2] == "null"
        if line[0] == "step":
            # The step's stream waits for the copy.
            assert events[at - 1][:2] == ("wait", "null")
    # Pinned memory is filled again only after its last copy: the host waits for that event.
    assert sum(line[0] == "host waits" for line in machine.log) == 3
    assert machine.log[-1][0] == "synchronize"


def test_a_pass_given_up_waits_for_its_copies(machine):
    backend = nnx.device("cupy").backend
    hosts = ([np.full(200, n, np.float32)] for n in range(4))
    batches = backend.uploads(hosts, [np.dtype("float32")], 0)
    next(batches)
    batches.close()
    assert machine.log[-1][0] == "synchronize"
    assert all(stream.done for stream in machine.streams.values())


def test_data_stays_on_the_gpu_where_it_fits():
    with fake_cupy.installed(memory_bytes=1 << 20):
        backend = nnx.device("cupy").backend
        assert backend.resident(500_000, 0) and not backend.resident(600_000, 0)
        held = nnx.zeros(100_000, device="cupy")
        assert not backend.resident(400_000, 0)
        del held  # what the pool keeps is free too
        assert backend.resident(400_000, 0)


def test_mapped_file_is_held_on_the_gpu_and_read_by_rows_where_it_does_not_fit(
    machine, monkeypatch, tmp_path
):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(rows, "MAPPED_BYTES", 0)
    place = place_of(network("cupy"))
    assert not rows.reads_by_rows(place, mapped)
    by_rows(monkeypatch)
    assert rows.reads_by_rows(place, mapped) and rows.reads_by_rows(place, X)


# DLPack


def test_arrays_of_other_libraries_are_shared_on_their_gpu(machine):
    import cupy

    for index, name in ((0, "cupy"), (1, "cupy:1")):
        with cupy.cuda.Device(index):
            theirs = cupy.arange(6, dtype="float32").reshape(2, 3)
        for ours in (
            nnx.from_dlpack(theirs),
            nnx.asarray(theirs),
            nnx.asarray(theirs, device=name),
        ):
            assert ours.device == name and ours.array.data.ptr == theirs.data.ptr
            assert ours.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
        assert nnx.from_dlpack(theirs, copy=True).array.data.ptr != theirs.data.ptr
        assert nnx.asarray(theirs, dtype="float64").dtype is nnx.float64
    moved = nnx.from_dlpack(theirs, device="numpy")
    assert moved.device == "numpy" and moved.tolist()[1] == [3.0, 4.0, 5.0]
    assert nnx.from_dlpack(theirs, device="cupy").device == "cupy"
    with pytest.raises(nnx.DataError, match=r"on 'cupy:1' cannot be shared with 'cupy'"):
        nnx.from_dlpack(theirs, device="cupy", copy=False)
    with pytest.raises(nnx.DeviceError, match=r"There is no 'cupy:7'"):
        nnx.from_dlpack(Elsewhere(2, 7))
    with pytest.raises(nnx.DeviceError, match="DLPack's type 8"):
        nnx.from_dlpack(Elsewhere(8, 0))


class Elsewhere:
    def __init__(self, *where):
        self.where = where

    def __dlpack_device__(self):
        return self.where

    def __dlpack__(self, **settings):
        raise AssertionError("asked for memory that nobody can read")


def test_tensors_are_exported_with_the_stream_of_who_asks(machine):
    x = nnx.asarray([1.0, 2.0], device="cupy:1")
    assert x.__dlpack_device__() == (2, 1)
    for stream, noted in ((None, 1), (7, 7), (-1, -1)):
        x.__dlpack__(stream=stream, max_version=(1, 0))
        # CuPy orders its current stream of the current GPU: it has to be the array's own.
        assert machine.log[-1] == ("dlpack", 1, noted, 1)
    with pytest.raises(ValueError, match="-5 was provided"):
        x.__dlpack__(stream=-5)
    np.testing.assert_array_equal(np.from_dlpack(x, device="cpu"), [1.0, 2.0])
    with pytest.raises(TypeError):
        np.asarray(x.array)


def test_arrays_of_the_gpu_go_into_ops_and_fit(machine):
    import cupy

    x = nnx.ones((2, 2), device="cupy")
    assert (x + cupy.ones((2, 2), "float32")).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    with pytest.raises(nnx.DeviceError, match="An array of the host met one on 'cupy'"):
        x + np.ones((2, 2), np.float32)
    with cupy.cuda.Device(1), pytest.raises(nnx.DeviceError):
        x + cupy.ones((2, 2), "float32")
    model, _ = trained("cupy", cupy.asarray(X), cupy.asarray(Y))
    twin, _ = trained("cupy", X, Y)
    assert model.history.history == twin.history.history


# Fork


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")
from tests import fake_cupy
import nnx
with fake_cupy.installed():
    {before}
    pid = os.fork()
    if pid == 0:
        try:
            {after}
        except nnx.DeviceError as error:
            print(type(error).__name__, error)
        else:
            print("fine")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    {parent}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("x = nnx.ones(3, device='cupy')", "x + 1", True),
        ("x = nnx.ones(3, device='cupy')", "x.numpy()", True),
        ("x = nnx.ones(3, device='cupy')", "nnx.zeros(3, device='cupy')", True),
        ("nnx.ones(3, device='cupy')", "nnx.asarray([1.0], device='cupy')", True),
        ("nnx.ones(3, device='cupy')", "nnx.device('cupy').synchronize()", True),
        ("nnx.devices()", "nnx.device('cupy:1')", True),
        ("pass", "fake_cupy.cuda.machine.__init__(); nnx.ones(3, device='cupy') + 1", False),
        ("nnx.ones(3, device='cupy')", "nnx.ones(3, device='numpy') + 1", False),
    ],
)
def test_fork_after_cuda_says_spawn(before, after, told):
    printed = run(FORK.format(before=before, after=after, parent="nnx.ones(2, device='cpu') + 1"))
    if told:
        assert printed.startswith("DeviceError ") and "get_context('spawn')" in printed
        assert "'cupy" in printed
    else:
        assert printed == "fine\n"
