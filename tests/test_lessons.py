"""The lessons in examples/: the numbers that each of them teaches, on every device that is here."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

import nnx

EXAMPLES = Path(__file__).parents[1] / "examples"
ALWAYS = ("loops", "numpy", "numba", "array_api:array_api_strict")
WHERE_THERE = ("array_api:torch", "array_api:jax.numpy", "cupy")
TRAINED_ON = ("numpy", "array_api:array_api_strict")


def lesson(name):
    """Return an example as a module: examples/ is no package, it is read and run by path."""
    spec = importlib.util.spec_from_file_location(f"lesson_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[*ALWAYS, *WHERE_THERE])
def device(request):
    if request.param in ALWAYS:
        return nnx.device(request.param)
    try:
        return nnx.device(request.param)
    except nnx.DeviceError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def exact_device(device):
    """A device with float64."""
    if not device.has(nnx.float64):
        pytest.skip(f"{device} has no float64 here")
    return device


# One layer


def test_one_layer_looped_and_vectorised_answers(device):
    found = lesson("one_layer").main(device)
    assert found["z"] == [[165.0, -531.0, 900.0]]
    assert found["answers"] == [[1, 0, 1]]
    assert found["looped"] == found["vectorised"] == [[1.0, 0.0, 1.0]]


def test_one_layer_forms_each_product(device):
    # Numbers on which sigmoid is not yet 0 or 1.
    module = lesson("one_layer")
    x, weight, bias = (
        nnx.asarray(values, device=device)
        for values in ([[0.2, 0.7]], [[1.0, -3.0, 5.0], [-2.0, 4.0, -6.0]], [[-1.0, 1.0, 2.0]])
    )
    expected = [1 / (1 + 2.718281828459045**-z) for z in (-2.2, 3.2, -1.2)]
    assert module.dense_looped(x, weight, bias).tolist()[0] == pytest.approx(expected, rel=1e-5)
    assert module.dense(x, weight, bias).tolist()[0] == pytest.approx(expected, rel=1e-5)


def test_quantities_times_prices_and_the_missing_transpose(device):
    found = lesson("one_layer").main(device)
    assert found["price"] == 15.0
    assert "shapes (1, 3) and (1, 3) do not fit" in found["explanation"]
    assert "Transpose the second: x @ y.mT fits." in found["explanation"]


# Backpropagation


def test_backprop_by_hand_and_by_nnx(exact_device):
    found = lesson("backprop").main(exact_device)
    expected = {"a2": 2.0, "w2": 4.0, "b2": 2.0, "w1": 6.0, "b1": 6.0}
    assert found["J"] == 2.0
    assert found["by_hand"] == expected
    assert found["nnx"] == expected
    assert found["nudged"] == pytest.approx(2.0060045, rel=1e-14)


def test_backprop_of_a_product_of_sums(exact_device):
    module = lesson("backprop")
    assert module.main(exact_device)["z"] == {"a": 3.0, "b": 3.0, "c": 5.0, "d": -5.0}


def test_backprop_draws_the_graph(exact_device, capsys):
    lesson("backprop").main(exact_device)
    assert "multiply(add(a, b), subtract(c, d))" in capsys.readouterr().out


def test_gradient_costs_one_backward_pass(exact_device):
    rows = lesson("count_ops").main(exact_device)
    assert [counts[0] for counts, _ in rows] == [10, 20, 40, 80]
    for (n_parameters, forward, backward, trying), off in rows:
        assert forward == 3 * n_parameters // 2  # multiply, add, tanh for each layer
        assert forward <= backward <= 4 * forward  # however many parameters
        assert trying == n_parameters * forward
        assert off < 1e-5  # and both find the same gradient


def test_counting_leaves_nnx_as_it_was():
    apply = nnx.op.apply
    with pytest.raises(RuntimeError), lesson("count_ops").counted():
        raise RuntimeError
    assert nnx.op.apply is apply


# Trained


@pytest.mark.parametrize("name", TRAINED_ON)
def test_profit_is_learned_from_scratch(name):
    found = lesson("profit").main(name)
    for style in ("sigmoid", "softmax"):
        assert found[style]["accuracy"] >= 0.99
        assert found[style]["rule"] == pytest.approx([4.0, 3.0, -1.0], abs=0.1)
    # Without a stable form this is inf, and a warning, which the suite makes an error.
    assert found["far"] == 1000.0


def test_profit_cost_falls(capsys):
    lesson("profit").main("numpy", steps=200)
    costs = [float(c) for c in re.findall(r"cost (\d\.\d+)", capsys.readouterr().out)]
    assert len(costs) == 6
    assert costs[0] == costs[3] == 0.6931  # log 2: knowing nothing
    assert costs[0] > costs[1] > costs[2] and costs[3] > costs[4] > costs[5]
    assert costs[2] < 0.1 and costs[5] < 0.1


@pytest.mark.parametrize("name", TRAINED_ON)
def test_iris_in_both_styles(name):
    found = lesson("iris").main(name)
    assert found["fit"] >= 0.95
    assert found["loop"] >= 0.95


def test_iris_styles_come_to_the_same(capsys):
    lesson("iris").main("numpy", epochs=3)
    shown = [
        line.partition("loss after ")[2]
        for line in capsys.readouterr().out.splitlines()
        if "loss after" in line
    ]
    assert len(shown) == 2 and shown[0] == shown[1]
    assert shown[0].count("epoch") == 3


@pytest.mark.parametrize(("name", "epochs"), [("numpy", 5), ("array_api:array_api_strict", 2)])
def test_digits_with_sigmoid_and_relu(name, epochs):
    found = lesson("digits").main(name, epochs=epochs)
    for result in found.values():
        assert result["parameters"] == 13_002
        assert len(result["epochs"]) == epochs
        assert result["epochs"][-1] > result["epochs"][0]
        assert result["accuracy"] >= (0.88 if epochs == 5 else 0.84)
        assert len(result["answers"]) == 10
    assert found["relu"]["epochs"][0] > found["sigmoid"]["epochs"][0]
    assert found["relu"]["gradient"] > 2 * found["sigmoid"]["gradient"]


# As programs

COMMANDS = {
    "one_layer": (),
    "backprop": (),
    "count_ops": (),
    "profit": ("--steps", "3"),
    "iris": ("--epochs", "2"),
    "digits": ("--epochs", "1"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_program_runs_and_prints_within_80_columns(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "numpy", *COMMANDS[name]])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert "device numpy" in re.sub(" +", " ", "\n".join(lines))
    assert [line for line in lines if len(line) > 80] == []


def test_every_lesson_is_in_the_table_and_has_a_command():
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert programs == COMMANDS.keys()
    assert set(re.findall(r"`python examples/(\w+)\.py`", table)) == programs
    for name in programs:
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert f"\n    python examples/{name}.py --device numpy" in text
