"""The registry, the choice of a device, other people's backends, and what imports what."""

import ast
import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

import nnx
import nnx.backends as backends
from nnx.backends import Backend, Hardware, Unavailable, loops_backend
from nnx.backends.array_api_backend import ArrayApiBackend
from nnx.device import Device
from nnx.errors import DeviceError, DTypeError
from nnx.op import OPS
from nnx.testing import check_backend
from nnx.testing.conformance import Row, check_op
from nnx.testing.samples import SAMPLES

ROOT = pathlib.Path(__file__).parents[1]


def run(code, path=None, **environment):
    """Return what a fresh interpreter prints."""
    env = {**os.environ, **environment}
    env.pop("NNX_DEVICE", None)
    env |= environment
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, env=env, cwd=path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# The registry


@pytest.mark.parametrize("name", backends.BUILTIN)
def test_built_in_backend_loads_under_its_name(name):
    assert backends.load(name).name == name


@pytest.mark.parametrize(
    ("alias", "name"),
    [("numpy:0", "numpy"), ("loops:0", "loops"), ("cpu", "numba"), (" numpy ", "numpy")],
)
def test_alias_is_the_same_device(alias, name):
    assert nnx.device(alias) is nnx.device(name)


@pytest.mark.parametrize("alias", ["cuda", "gpu", "cuda:0", "cupy:0"])
def test_aliases_of_cupy_end_where_cupy_does(alias):
    outcomes = []
    for name in (alias, "cupy"):
        try:
            outcomes.append(nnx.device(name).name)
        except DeviceError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_cpu_is_numpy_where_numba_is_not_installed(monkeypatch):
    monkeypatch.setattr(sys.modules["nnx.device"], "_numba_imports", lambda: False)
    assert nnx.device("cpu").name == "numpy"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nunpy", r"There is no device 'nunpy'\. Did you mean 'numpy'\? Allowed: .*loops"),
        ("cuda13", "Did you mean 'cuda'"),
        ("", "A device is a name such as 'numpy'"),
        (7, "A device is a name such as 'numpy' or 'cupy:1', got 7"),
        ("auto", "give it to model.compile"),
        ("numpy:1", r"There is no 'numpy:1': numpy has 1 device\(s\): 'numpy:0'"),
        ("numpy:x", "'x' in 'numpy:x' is not a device index"),
        ("numpy:-1", "is not a device index"),
        ("array_api:nothing_here", "there is no module 'nothing_here'"),
        ("array_api:", "there is no module ''"),
        ("array_api:math", "'math' has no asarray: it is no namespace of the array API"),
        ("array_api:array_api_strict:9", "There is no 'array_api:array_api_strict:9'"),
    ],
)
def test_device_that_is_not_there_says_what_is(name, text):
    with pytest.raises(DeviceError, match=text):
        nnx.device(name)


def test_devices_lists_all_and_never_raises():
    found = {info.name: info for info in nnx.devices()}
    assert list(found)[:3] == ["loops", "numpy", "numba"]
    assert found["numpy"].available and found["numpy"].description.startswith("NumPy 2")
    assert found["numpy"].memory_bytes is None or found["numpy"].memory_bytes > 1e8
    assert found["cupy"].available or found["cupy"].reason


def test_unavailable_device_raises_its_reason(monkeypatch):
    class Fanless(Borrowed):
        def devices(self):
            raise Unavailable("the fan is off. Turn it on.")

    monkeypatch.setitem(backends._plugins(), "fanless", None)
    monkeypatch.setattr(backends, "load", lambda name: Fanless())
    info = next(info for info in nnx.devices() if info.name == "fanless")
    assert not info.available and info.reason == "the fan is off. Turn it on."
    with pytest.raises(DeviceError, match="'fanless' cannot be used: the fan is off"):
        nnx.device("fanless")


# Precedence: argument, context, set_default_device, NNX_DEVICE, cpu


def test_precedence_of_devices(monkeypatch):
    monkeypatch.delenv("NNX_DEVICE", raising=False)
    assert nnx.zeros(1).device.name == "numba"
    monkeypatch.setenv("NNX_DEVICE", "loops")
    assert nnx.zeros(1).device.name == "loops"
    nnx.set_default_device("numpy")
    try:
        assert nnx.zeros(1).device.name == "numpy"
        with nnx.device("loops"):
            assert nnx.zeros(1).device.name == "loops"
            with nnx.device("numba"):
                assert nnx.zeros(1).device.name == "numba"
                assert nnx.zeros(1, device="numpy").device.name == "numpy"
            assert nnx.default_device().name == "loops"
        assert nnx.default_device().name == "numpy"
    finally:
        nnx.set_default_device(None)
    assert nnx.default_device().name == "loops"


def test_context_ends_with_an_error_too():
    before = nnx.default_device()
    with contextlib.suppress(KeyError), nnx.device("loops"):
        raise KeyError
    assert nnx.default_device() is before


def test_wrong_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("NNX_DEVICE", "nunpy")
    with pytest.raises(DeviceError, match="NNX_DEVICE=nunpy: .*Did you mean 'numpy'"):
        nnx.zeros(1)


def test_context_of_one_thread_is_not_another_thread_s():
    import threading

    seen = []
    with nnx.device("loops"):
        thread = threading.Thread(target=lambda: seen.append(nnx.default_device().name))
        thread.start()
        thread.join()
    assert seen == [nnx.default_device().name]


def test_devices_compare_and_print():
    assert nnx.device("numpy") == "numpy" != nnx.device("loops")
    assert repr(nnx.device("numpy")) == "nnx.device('numpy')"
    assert len({nnx.device("numpy"), nnx.device("numpy:0"), nnx.device("loops")}) == 2


# Two devices in one op


def test_mixed_devices_are_refused_with_both_named():
    x, y = nnx.ones((2, 3), device="numpy"), nnx.ones((2, 3), device="loops")
    with pytest.raises(
        DeviceError, match=r"^add: .*\(2, 3\) on 'numpy' met .* on 'loops'.*x\.to\("
    ):
        x + y
    with pytest.raises(DeviceError, match="'numpy'.*'loops'"):
        nnx.concat([x, y])


def test_mixed_devices_name_the_parameter():
    weight = nnx.Parameter([[1.0], [2.0]], device=None)
    weight.name = "hidden.weight"
    there = "loops" if weight.device.name != "loops" else "numpy"
    with pytest.raises(
        DeviceError, match=r"matmul: .*parameter 'hidden\.weight' of shape \(2, 1\)"
    ):
        nnx.ones((1, 2), device=there) @ weight


# A backend of someone else's


class Borrowed(Backend):
    """The least that a backend of NumPy has to say."""

    name = "borrowed"
    xp = np

    def scope(self, index):
        return np.errstate(all="ignore")

    def prepare(self, kernel, index):
        return np.errstate(all="ignore")(kernel)


def failures_of(backend, *names):
    where = Device(backend.name, backend, 0)
    return [str(failure) for name in names for failure in check_op(OPS[name], where)]


def test_least_backend_passes_the_table():
    failures = check_backend(Device("borrowed", Borrowed(), 0))
    assert not failures, "\n".join(map(str, failures))


def sabotaged(**overrides):
    backend = Borrowed()
    backend.overrides = overrides
    return backend


def test_wrong_value_is_reported():
    found = failures_of(sabotaged(tanh=lambda x: np.tanh(x) * 1.0001), "tanh", "cosh")
    assert any("tanh (matrix, float32): value at" in text for text in found)
    assert any("tanh (matrix, float64): value at" in text for text in found)
    assert not any(text.startswith("cosh") for text in found)


def test_wrong_type_is_reported():
    found = failures_of(sabotaged(exp=lambda x: np.exp(x).astype(np.float64)), "exp")
    assert any("exp (matrix, float32): dtype: expected float32, got float64" in t for t in found)


def test_wrong_shape_is_reported():
    wrong = sabotaged(sum=lambda x, axis=None, keepdims=False: np.sum(x, axis=axis, keepdims=True))
    assert any("sum (all, float32): shape" in text for text in failures_of(wrong, "sum"))


def test_written_input_is_reported():
    def greedy(x):
        x *= 1
        x += 1
        return x - 1

    assert any("untouched" in text for text in failures_of(sabotaged(positive=greedy), "positive"))


def test_wrong_gradient_through_a_wrong_part_is_reported():
    found = failures_of(sabotaged(cos=lambda x: np.cos(x) + 0.01), "sin")
    assert any("sin (matrix, float64): gradient of input 0" in text for text in found)
    assert any("second derivative" in text for text in found)


def test_hidden_nan_is_reported():
    found = failures_of(sabotaged(relu=lambda x: np.where(x > 0, x, 0)), "relu")
    assert any("NaN in, NaN out" in text for text in found)


def test_wrong_reading_of_memory_is_reported():
    def careless(x):
        return np.exp(x) if x.flags.c_contiguous else np.exp(x) + 1

    found = failures_of(sabotaged(exp=careless), "exp")
    for kind in ("Fortran memory", "strided memory", "zero-stride memory", "turned on the device"):
        assert any(kind in text for text in found)


def test_missing_refusal_and_warning_are_reported():
    loud = Borrowed()
    loud.prepare = lambda kernel, index: kernel
    assert any("divide by zero" in text for text in failures_of(loud, "log"))
    lenient = sabotaged(tril=lambda x, k=0: np.tril(x, k))
    assert any(
        "tril (vector, float32): error: expected ShapeError" in t
        for t in failures_of(lenient, "tril")
    )


PLUGIN = """
import numpy as np
from nnx.backends import Backend

class Mine(Backend):
    name = "mine"
    xp = np
    def scope(self, index):
        return np.errstate(all="ignore")
    def prepare(self, kernel, index):
        return np.errstate(all="ignore")(kernel)

BACKEND = Mine()
"""


@pytest.fixture
def installed(tmp_path):
    """Return a function that puts a package with an entry point on a path of its own."""

    def install(name, source):
        (tmp_path / f"{name}_plugin.py").write_text(source)
        info = tmp_path / f"{name}_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[nnx.backends]\n{name} = {name}_plugin:BACKEND\n")
        return tmp_path

    return install


def test_stranger_s_plugin_is_found_and_runs(installed):
    path = installed("mine", PLUGIN)
    printed = run(
        """
        import sys, nnx
        assert "mine_plugin" not in sys.modules
        print([d.name for d in nnx.devices() if d.available])
        x = nnx.asarray([1.0, 2.0], device="mine")
        print(nnx.grad(lambda x: nnx.sum(x * x))(x).tolist(), x.device)
        print(nnx.testing.check_backend("mine"))
        """,
        path,
    )
    assert "'mine'" in printed.splitlines()[0]
    assert printed.splitlines()[1:] == ["[2.0, 4.0] mine", "[]"]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("BACKEND = 7", "TypeError: it names 7, not an instance of nnx.backends.Backend"),
        ("import surely_not_installed", "ModuleNotFoundError"),
        ("x = 1", "AttributeError"),
        (
            "from nnx.backends import Backend\nclass B(Backend): name = 'ill'\nBACKEND = B()",
            "NotImplementedError: backend 'ill' must name its array namespace",
        ),
        ("def f(:", "SyntaxError"),
    ],
)
def test_broken_plugin_warns_and_harms_nothing(installed, source, cause):
    path = installed("ill", source)
    printed = run(
        """
        import warnings
        warnings.simplefilter("error")
        import nnx
        print(nnx.ones(2).tolist())
        warnings.simplefilter("always")
        with warnings.catch_warnings(record=True) as seen:
            info = {d.name: d for d in nnx.devices()}
        print(info["numpy"].available, info["ill"].available, info["ill"].reason)
        print([str(w.message) for w in seen])
        print(nnx.backends.broken())
        warnings.simplefilter("ignore")
        try:
            nnx.ones(1, device="ill")
        except nnx.DeviceError as error:
            print(error)
        """,
        path,
    )
    first, listed, warned, broken, refused = printed.splitlines()
    assert first == "[1.0, 1.0]"
    assert listed.startswith("True False ") and cause in listed
    assert "The nnx backend 'ill' does not load" in warned and cause.split("'")[0] in warned
    assert broken.startswith("{'ill': ")
    assert "Mend or uninstall the package that brings it" in refused


def test_backend_s_hardware_is_listed_by_index(monkeypatch):
    two = Borrowed()
    two.devices = lambda: (Hardware("first", 10), Hardware("second"))
    monkeypatch.setitem(backends._plugins(), "borrowed", None)
    monkeypatch.setattr(backends, "load", lambda name: two)
    found = [info for info in nnx.devices() if info.name.startswith("borrowed")]
    assert [info.name for info in found] == ["borrowed", "borrowed:1"]
    assert [info.memory_bytes for info in found] == [10, None]


# Any array API namespace


def test_simulated_devices_hold_the_table_of_some_ops():
    """What a GPU would refuse: arrays made elsewhere, and types that are not there."""
    for index in (1, 3):
        where = nnx.device(f"array_api:array_api_strict:{index}")
        for name in ("add", "where", "gelu", "sum", "var", "getitem", "pad", "one_hot",
                     "cross_entropy", "layer_norm", "cumulative_prod"):  # fmt: skip
            failures = check_op(OPS[name], where)
            assert not failures, "\n".join(map(str, failures))
    without = nnx.device("array_api:array_api_strict:3")
    assert not without.has(nnx.float64)
    with pytest.raises(DTypeError, match="has no float64. It has bool"):
        nnx.zeros(2, dtype="float64", device=without)


def test_namespace_without_inspection_has_one_device():
    class Silent(ArrayApiBackend):
        xp = types.SimpleNamespace(asarray=np.asarray)

    assert Silent("silent").places == (None,)


@pytest.mark.slow
def test_jax_in_64_bits_passes_the_table():
    pytest.importorskip("jax")
    code = 'import nnx; print(*nnx.testing.check_backend("array_api:jax.numpy"), sep="\\n")'
    assert not run(code, JAX_ENABLE_X64="1").strip()


# Loops are loops


class NoArithmetic(np.ndarray):
    """NumPy memory that can be moved and not computed with."""

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        raise AssertionError(f"the looped device computed with numpy.{ufunc.__name__}")


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.kind != "layout"])
def test_looped_device_computes_without_numpy(name, monkeypatch):
    """Every op of arithmetic still runs where NumPy's ufuncs, matmul and sums raise."""

    def hold(self, data):
        self.data = np.asarray(data).view(NoArithmetic)

    def forbidden(*arguments, **settings):
        raise AssertionError("the looped device called NumPy's arithmetic")

    rows = [Row(s, s.dtypes[0], nnx.device("loops")) for s in SAMPLES[name] if s.raises is None]
    with monkeypatch.context() as patch:
        patch.setattr(loops_backend.LoopArray, "__init__", hold)
        for function in (
            "dot",
            "einsum",
            "tensordot",
            "vecdot",
            "cumsum",
            "cumulative_sum",
            "mean",
        ):
            patch.setattr(np, function, forbidden)
        results = [row.run(row.place(row.hosts)).numpy().view(np.ndarray) for row in rows]
    for row, got in zip(rows, results, strict=True):
        with np.errstate(all="ignore"):
            wanted = row.refer(row.hosts)
        np.testing.assert_allclose(got, wanted.astype(got.dtype), rtol=1e-5, atol=1e-6)


def test_array_without_arithmetic_does_raise():
    with pytest.raises(AssertionError, match=r"numpy\.multiply"):
        np.ones(2).view(NoArithmetic) * 2
    with pytest.raises(AssertionError, match=r"numpy\.add"):
        np.sum(np.ones(2).view(NoArithmetic))


# What imports what

LAYERS = (
    {"errors", "memory", "places"}, {"scalar", "threads", "locks"}, {"dtypes"}, {"shapes"},
    {"op"}, {"ops", "precision"},
    {"device", "host", "philox"}, {"tensor"}, {"creation", "tree", "random"},
    {"standard", "tape"}, {"autodiff"}, {"graph"}, {"recorder"}, {"trace"}, {"passes"}, {"watch"},
    {"native"},
    {"execute", "planned", "costs"}, {"jit"}, {"rates", "restore"},
    {"profile"}, {""}, {"nn", "optim"}, {"fit"}, {"cli"},
)  # fmt: skip
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
FIT = RANK["fit"]  # a module that is not named above may use all that fit may
OUTSIDE = {"numba", "cupy", "matplotlib", "rich", "safetensors", "torch", "jax", "scipy"}
FOR_A_BACKEND = {
    "errors", "dtypes", "shapes", "op", "device", "precision", "backends", "kernels",
}  # fmt: skip
FOR_A_KERNEL = {
    "errors", "dtypes", "shapes", "scalar", "op", "ops", "graph", "passes", "memory", "philox",
    "files", "locks", "places", "precision", "backends", "kernels",
}  # fmt: skip


def imports(path):
    """Return the modules that a file imports when it is imported itself."""
    waiting, found = list(ast.parse(path.read_text()).body), set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            holders = (ast.stmt, ast.ExceptHandler, ast.match_case)
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, holders)]
    return found


def part(module):
    """Return which part of nnx a module belongs to; "" for the package itself, None outside."""
    top, _, rest = module.partition(".")
    if top != "nnx":
        return None
    first = rest.partition(".")[0]
    known = (ROOT / "nnx" / first).is_dir() or (ROOT / "nnx" / f"{first}.py").exists()
    return first if known or first in ("backends", "kernels") else ""


FILES = sorted([*ROOT.glob("nnx/**/*.py"), *ROOT.glob("backends/*.py"), *ROOT.glob("kernels/*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    places = path.relative_to(ROOT).with_suffix("").parts
    own = places[1] if places[0] == "nnx" and places[1] != "__init__" else ""
    used = {part(module) for module in imports(path)} - {None}
    if places[0] == "backends":
        assert used <= FOR_A_BACKEND
    elif places[0] == "kernels":
        assert used <= FOR_A_KERNEL
    else:
        rank = RANK.get(own, FIT)
        assert not {name for name in used if RANK.get(name, FIT) > rank}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_heavy_library_is_imported_at_the_top(path):
    tops = {module.partition(".")[0] for module in imports(path)}
    # The twins are made of Numba's parts; the module is imported when something is compiled.
    allowed = {"numba"} if path.name == "intrinsics.py" else set()
    assert not tops & OUTSIDE - allowed
    core = {
        "op",
        "ops",
        "shapes",
        "dtypes",
        "device",
        "tensor",
        "tape",
        "autodiff",
        "creation",
        "tree",
    }
    if path.relative_to(ROOT).with_suffix("").parts[1] in core:
        assert "numpy" not in tops


def test_import_of_nnx_imports_no_heavy_library():
    printed = run("import sys, nnx; print(*{m.partition('.')[0] for m in sys.modules})")
    assert not set(printed.split()) & {*OUTSIDE, "typer", "pooch", "array_api_compat"}


def test_array_libraries_are_imported_where_they_are_used():
    printed = run("import sys, nnx; nnx.devices(); nnx.ones(2); print('numba' in sys.modules)")
    assert printed.split() == ["False"]


def test_reader_of_imports_sees_what_counts(tmp_path):
    """Imports in branches and classes count; those in functions and for types do not."""
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import numba\n"
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import rich\n"
        "try:\n    from nnx import fit\nexcept ImportError:\n    import jax\n"
        "def f():\n    import cupy\n"
        "class A:\n    import scipy\n"
    )
    found = imports(path)
    assert found >= {"numba", "rich", "nnx.fit", "jax", "scipy"}
    assert not found & {"torch", "cupy"}
    assert part("nnx.fit") == "fit" and part("nnx.ones") == "" and part("numpy") is None


def test_threads_that_open_a_device_first_get_the_same_one(monkeypatch):
    import threading

    monkeypatch.setattr(sys.modules["nnx.device"], "_opened", {})
    start = threading.Barrier(8)
    found = []

    def open_it():
        start.wait()
        found.append(nnx.device("numpy"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=open_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len({id(device) for device in found}) == 1


def test_numpy_sums_of_many_rows_keep_float32_digits():
    x = nnx.asarray(np.full((1_000_000, 2), 0.1, np.float32), device="numpy")
    exact = 1_000_000 * float(np.float32(0.1))
    np.testing.assert_allclose(nnx.sum(x, axis=0).numpy(), exact, rtol=1e-6)
    np.testing.assert_allclose(nnx.mean(x, axis=0).numpy(), np.float32(0.1), rtol=1e-6)


def test_uint64_labels_are_class_numbers():
    logits = nnx.asarray(np.eye(3, dtype=np.float32), device="numpy")
    plain = nnx.cross_entropy(logits, nnx.asarray(np.array([0, 1, 2]), device="numpy"))
    wide = nnx.asarray(np.array([0, 1, 2], np.uint64), device="numpy")
    assert nnx.cross_entropy(logits, wide).item() == plain.item()


def test_type_that_a_device_lacks_becomes_the_next_wider_one():
    half = nnx.asarray(np.ones(2, np.float16), device="array_api:array_api_strict")
    assert half.dtype is nnx.float32


def test_integers_that_a_device_would_wrap_are_refused():
    pytest.importorskip("jax")
    code = """
        import nnx
        with nnx.device("array_api:jax.numpy"):
            print(nnx.asarray([1, 2]).tolist())
            for make in (lambda: nnx.asarray(2**40), lambda: nnx.random.uniform(dtype="float64")):
                try:
                    print("made", make())
                except nnx.DTypeError:
                    print("refused")
    """
    assert run(code, JAX_ENABLE_X64="0").split("\n")[:3] == ["[1, 2]", "refused", "refused"]
