"""Networks: parameters and their keys, layers against formulas, initialisers, state, bad input."""

import copy
import json
import math

import numpy as np
import pytest

import nnx
from nnx import nn
from nnx.nn import init
from nnx.random import Generator


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def digits_net():
    return nn.Sequential(nn.Dense(16, "relu"), nn.Dense(16, "relu"), nn.Dense(10))


class MLP(nn.Module):
    def __init__(self):
        self.hidden = nn.Dense(20, in_features=4)
        self.out = nn.Dense(3, in_features=20)

    def forward(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


# Parameters, keys, modules


def test_keys_of_sequential_are_as_in_pytorch():
    model = digits_net()
    model(np.zeros((2, 784), np.float32))
    shapes = {key: p.shape for key, p in model.named_parameters()}
    assert shapes == {
        "0.weight": (784, 16), "0.bias": (16,), "1.weight": (16, 16), "1.bias": (16,),
        "2.weight": (16, 10), "2.bias": (10,),
    }  # fmt: skip
    assert sum(p.size for p in model.parameters()) == 13_002
    assert [p.name for p in model.parameters()] == list(shapes)


def test_parameters_come_in_definition_order_from_lists_dicts_and_attributes():
    class Net(nn.Module):
        def __init__(self):
            self.last = nn.Dense(1, in_features=2)
            self.scale = nn.Parameter([1.0, 2.0])
            self.blocks = [nn.Dense(2, in_features=2), (nn.Parameter([3.0]),)]
            self.heads = {"a": nn.Dense(1, in_features=1, use_bias=False), "b": nn.LayerNorm(2)}
            self.note = {"a": [1, "text", None]}
            self.first = nn.Flatten()

    assert [key for key, _ in Net().named_parameters()] == [
        "last.weight", "last.bias", "scale", "blocks.0.weight", "blocks.0.bias", "blocks.1.0",
        "heads.a.weight", "heads.b.weight", "heads.b.bias",
    ]  # fmt: skip
    assert [path for path, _ in Net().named_modules()] == [
        "", "last", "blocks.0", "heads.a", "heads.b", "first",
    ]  # fmt: skip


def test_a_shared_layer_is_counted_once_and_a_cycle_ends():
    shared = nn.Dense(3, in_features=3)
    model = nn.Sequential(shared, nn.Activation("relu"), shared)
    assert [key for key, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    shared.owner = model
    assert len(model.parameters()) == 2


def test_gradients_reach_all_parameters(device, rng):
    model = MLP().to(device)
    nn.cross_entropy(model(rng.normal(size=(5, 4))), np.array([0, 1, 2, 1, 0])).backward()
    for key, p in model.named_parameters():
        assert p.grad.shape == p.shape and np.abs(p.grad.numpy()).max() > 0, key


def test_grad_over_a_module_gives_a_dict_by_key():
    model = MLP()
    x = nnx.asarray(np.ones((2, 4), np.float32))
    grads = nnx.grad(lambda m: nnx.sum(m(x)))(model)
    assert list(grads) == [key for key, _ in model.named_parameters()]
    np.testing.assert_array_equal(grads["out.bias"].numpy(), [2, 2, 2])


def test_a_copy_shares_nothing():
    model = MLP()
    other = copy.deepcopy(model)
    before = model.state_dict()
    for p in other.parameters():
        p.assign(p.array * 0)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


# Building


def test_lazy_building_takes_size_and_device_from_the_input(device):
    model = digits_net()
    assert not model.built
    model(nnx.asarray(np.ones((2, 6), np.float32), device=device))
    assert model.built
    assert model[0].weight.shape == (6, 16) and model[0].in_features == 6
    assert {p.device for p in model.parameters()} == {device} and model.device is device


def test_to_is_remembered_by_unbuilt_layers(device):
    model = digits_net().to(device)
    assert model.device is device
    out = model([[1.0, 2.0], [3.0, 4.0]])
    assert out.device is device and {p.device for p in model.parameters()} == {device}


def test_a_tensor_of_another_device_than_asked_for_is_refused():
    model = digits_net().to("loops")
    with pytest.raises(nnx.DeviceError, match=r"'0\.weight'.*'loops'"):
        model(nnx.ones((2, 3), device="numpy"))
    assert not model.built


def test_to_moves_in_place_and_takes_gradients_along():
    model = nn.Sequential(nn.Dense(2, in_features=3)).to("numpy")
    nnx.sum(model(np.ones((1, 3), np.float32))).backward()
    weight, values = model[0].weight, model[0].weight.tolist()
    assert model.to("loops") is model
    assert model[0].weight is weight and weight.device.name == "loops"
    assert weight.tolist() == values and weight.grad.device.name == "loops"
    assert model([[1.0, 1.0, 1.0]]).device.name == "loops"


def test_to_a_wider_type():
    model = nn.Sequential(nn.Dense(2), nn.Dense(1)).to(nnx.float64)
    model(np.ones((1, 3)))
    assert {p.dtype for p in model.parameters()} == {nnx.float64}
    assert {p.dtype for p in model.to(nnx.float32).parameters()} == {nnx.float32}
    with pytest.raises(nnx.DataError, match="floating type, not int64"):
        model.to(nnx.int64)


def test_an_unbuilt_model_says_how_to_build_it():
    for ask in ("parameters", "named_parameters", "state_dict"):
        with pytest.raises(nnx.DataError, match=r"'0' has no parameters yet.*example.*in_features"):
            getattr(digits_net(), ask)()


def test_a_failed_first_call_leaves_the_model_unbuilt():
    nnx.random.seed(3)
    model = nn.Sequential(nn.Dense(5), nn.Dense(2, in_features=4))
    state = nnx.random.default_generator().state_dict()
    with pytest.raises(
        nnx.ShapeError, match=r"Dense '1' takes 4 features, got x of shape \(2, 5\)"
    ):
        model(np.ones((2, 3), np.float32))
    assert not model.built and model[0].weight is None
    assert nnx.random.default_generator().state_dict() == state
    with pytest.raises(nnx.ShapeError, match="Dense '1'"):
        model(np.ones((2, 7), np.float32))


def test_a_module_of_the_user_builds_once_before_its_first_forward():
    class Scale(nn.Module):
        calls = 0

        def build(self, x):
            self.calls += 1
            self.factor = nn.Parameter(nnx.ones(x.shape[-1:]))

        def forward(self, x):
            return x * self.factor

    model = nn.Sequential(Scale(), nn.Dense(1))
    assert not model.built
    for _ in range(2):
        assert model([[1.0, 2.0]]).shape == (1, 1)
    assert model[0].calls == 1
    assert [p.name for p in model.parameters()] == ["0.factor", "1.weight", "1.bias"]


def test_host_arrays_take_the_type_of_the_parameters():
    model = MLP()
    for x in (
        np.ones((2, 4)),
        [[1.0] * 4] * 2,
        np.ones((2, 4), ">f8"),
        np.ones((2, 4), np.float16),
    ):
        assert model(x).dtype == nnx.float32
    assert model(nnx.asarray(np.ones((2, 4)))).dtype == nnx.float64


# Layers


def test_dense_is_x_weight_plus_bias(device, rng):
    x = rng.normal(size=(3, 2, 4)).astype(np.float32)
    layer = nn.Dense(5, "tanh", in_features=4, bias_init=0.5).to(device)
    weight = layer.weight.numpy().astype(np.float64)
    np.testing.assert_allclose(layer(x).numpy(), np.tanh(x @ weight + 0.5), rtol=2e-6, atol=1e-6)


def test_dense_without_bias_has_one_parameter():
    layer = nn.Dense(2, use_bias=False, in_features=3)
    assert list(layer.state_dict()) == ["weight"]
    np.testing.assert_array_equal(layer(np.zeros((1, 3), np.float32)).numpy(), np.zeros((1, 2)))


@pytest.mark.parametrize("name", nn.activations.TABLE)
def test_activation_by_name_is_the_op(name, rng):
    x = nnx.asarray(rng.normal(size=(2, 3)).astype(np.float32))
    expected = x if name == "linear" else getattr(nnx, name)(x)
    np.testing.assert_array_equal(nn.Activation(name)(x).numpy(), expected.numpy())
    dense = nn.Dense(3, name, in_features=3, kernel_init=lambda shape, g: np.eye(3))
    np.testing.assert_allclose(dense(x).numpy(), expected.numpy(), rtol=1e-6)


def test_an_activation_may_be_a_function():
    assert nn.Activation(lambda x: x * 3)([[2.0]]).tolist() == [[6.0]]


def test_flatten_and_reshape_keep_the_batch():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(nn.Flatten()(x).numpy(), x.reshape(2, 12))
    np.testing.assert_array_equal(nn.Reshape(4, 3)(x).numpy(), x.reshape(2, 4, 3))
    np.testing.assert_array_equal(nn.Reshape((2, -1))(x).numpy(), x.reshape(2, 2, 6))
    assert nn.Flatten()(x[:0]).shape == (0, 12) and nn.Reshape(-1, 2)(x[:0]).shape == (0, 6, 2)
    assert nn.Flatten()(np.ones(5, np.float32)).shape == (5, 1)
    assert nn.Reshape()(np.ones(5, np.float32)).shape == (5,)


def test_layer_norm_is_the_formula(device, rng):
    x = rng.normal(size=(3, 6)) * 4 + 2
    layer = nn.LayerNorm(eps=1e-3).to(device)
    layer(x)
    layer.load_state_dict({"weight": np.arange(6.0), "bias": -np.arange(6.0)})
    centred = x - x.mean(1, keepdims=True)
    row = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(layer(x).numpy(), row * np.arange(6) - np.arange(6), atol=2e-5)
    far = layer(np.float32([[10001, 10002, 10003, 10004, 10005, 10006]])).numpy()
    assert np.abs(far).max() < 10  # where variances of large numbers cancel, hundreds come out


def test_dropout_scales_what_it_keeps_and_rests_in_eval():
    nnx.random.seed(1)
    x = np.ones((100, 100), np.float32)
    layer = nn.Dropout(0.25)
    dropped = layer(x).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.02
    assert not np.array_equal(dropped, layer(x).numpy())
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x)
    np.testing.assert_array_equal(nn.Dropout(0.0)(x).numpy(), x)


def test_dropout_gradient_flows_where_the_output_did():
    nnx.random.seed(2)
    x = nnx.asarray(np.full((4, 5), 2.0, np.float32))
    x.requires_grad = True
    out = nn.Dropout(0.5)(x)
    nnx.sum(out).backward()
    np.testing.assert_array_equal(x.grad.numpy(), out.numpy() / 2)


def test_a_dropped_infinity_is_zero():
    nnx.random.seed(0)
    out = nn.Dropout(0.5)(np.full((50,), np.inf, np.float32)).numpy()
    assert set(out) == {0.0, np.inf}


def test_train_and_eval_reach_nested_layers():
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.5))
    assert model.training and model.eval() is model
    assert not any(module.training for _, module in model.named_modules())
    assert model.train()[0][0].training


def test_sequential_takes_a_list_and_is_indexed():
    model = nn.Sequential([nn.Dense(2), nn.Flatten()])
    assert len(model) == 2 and [type(layer) for layer in model] == [nn.Dense, nn.Flatten]
    assert nn.Sequential()([1.0]).tolist() == [1.0]


# The same bits on every device


def test_initial_weights_are_bit_equal_on_all_devices(device):
    def weights(where):
        nnx.random.seed(7)
        model = nn.Sequential(
            *(nn.Dense(6, kernel_init=name, bias_init="normal") for name in init.TABLE)
        )
        model.to(where)([[0.5] * 9])
        return b"".join(a.tobytes() for a in model.state_dict().values())

    assert weights(device) == weights("numpy")


def test_weights_do_not_depend_on_lazy_or_immediate_building():
    nnx.random.seed(5)
    lazy = nn.Sequential(nn.Dense(3), nn.Dense(2))
    lazy([[0.0] * 4])
    nnx.random.seed(5)
    ready = nn.Sequential(nn.Dense(3, in_features=4), nn.Dense(2, in_features=3))
    for a, b in zip(lazy.parameters(), ready.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_dropout_masks_are_equal_on_all_devices(device):
    def masks(where):
        nnx.random.seed(11)
        layer = nn.Dropout(0.3)
        x = nnx.ones((7, 13), device=where)
        return [layer(x).numpy() != 0 for _ in range(3)]

    for mine, numpys in zip(masks(device), masks("numpy"), strict=True):
        np.testing.assert_array_equal(mine, numpys)


# Initialisers


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / (200 + 300)), ("glorot_normal", 2 / (200 + 300)),
        ("he_uniform", 2 / 200), ("he_normal", 2 / 200),
        ("lecun_uniform", 1 / 200), ("lecun_normal", 1 / 200),
        ("uniform", 0.1**2 / 12), ("normal", 0.05**2),
    ],
)  # fmt: skip
def test_initialiser_has_its_mean_and_variance(name, variance):
    drawn = init.get(name)((200, 300), Generator(3)).astype(np.float64)
    deviation = math.sqrt(variance)
    assert abs(drawn.mean()) < 4 * deviation / math.sqrt(drawn.size)
    assert drawn.var() == pytest.approx(variance, rel=0.03)
    if name.endswith("uniform"):
        assert math.sqrt(3) * deviation * 0.99 < np.abs(drawn).max() <= math.sqrt(3) * deviation
    else:
        assert np.abs(drawn).max() > 3 * deviation


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (2, 3, 4)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    drawn = init.orthogonal(shape, Generator(1))
    assert drawn.dtype == np.float32 and drawn.shape == shape
    flat = drawn.reshape(-1, shape[-1]).astype(np.float64)
    small = flat.T @ flat if flat.shape[0] >= flat.shape[1] else flat @ flat.T
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-6)


def test_orthogonal_is_not_biased_by_the_signs_of_qr():
    signs = [np.sign(init.orthogonal((3, 3), Generator(seed))[0, 0]) for seed in range(40)]
    assert -30 < sum(signs) < 30  # LAPACK's own Q would give one sign nearly always


def test_fans_of_a_convolution():
    assert init.fans((3, 3, 8, 16)) == (72, 144)
    assert init.fans((7,)) == (7, 7) and init.fans(()) == (1, 1)


def test_constants_and_functions_are_initialisers():
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    layer = nn.Dense(3, in_features=2, kernel_init=lambda shape, g: given, bias_init=0.25)
    given[:] = -1
    assert layer.weight.tolist() == [[0, 1, 2], [3, 4, 5]] and layer.bias.tolist() == [0.25] * 3
    wide = nn.Dense(3, in_features=2, kernel_init=lambda shape, g: given.astype(np.float64))
    assert wide.weight.dtype == nnx.float32


# State


def test_state_dict_holds_copies():
    model = MLP()
    state = model.state_dict()
    before = {key: value.copy() for key, value in state.items()}
    for value in state.values():
        value[...] = 9
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_load_state_dict_keeps_device_type_and_identity(device):
    source, target = MLP(), MLP().to(device)
    parameters = target.parameters()
    target.load_state_dict({key: value.astype(">f8") for key, value in source.state_dict().items()})
    assert all(a is b for a, b in zip(parameters, target.parameters(), strict=True))
    assert {p.device for p in parameters} == {device}
    assert {p.dtype for p in parameters} == {nnx.float32}
    for key, value in target.state_dict().items():
        np.testing.assert_array_equal(value, source.state_dict()[key])


def test_load_state_dict_does_not_share_memory_with_the_caller():
    model = MLP()
    state = model.state_dict()
    model.load_state_dict(state)
    state["hidden.bias"][:] = 5
    assert model.hidden.bias.tolist() == [0.0] * 20


def test_load_state_dict_takes_tensors():
    source, target = MLP(), MLP()
    target.load_state_dict(dict(source.named_parameters()))
    np.testing.assert_array_equal(target.out.weight.numpy(), source.out.weight.numpy())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("out.bias"), ["missing: out.bias"]),
        (lambda s: s.update(extra=np.zeros(1)), ["unknown: extra"]),
        (lambda s: s.update({"out.bias": np.zeros(4)}), ["out.bias is (3,), got (4,)"]),
        (
            lambda s: (s.pop("hidden.weight"), s.update(a=1.0, b=2.0, **{"out.weight": 1.0})),
            ["missing: hidden.weight", "unknown: a, b", "out.weight is (20, 3), got ()"],
        ),
    ],
)
def test_load_state_dict_is_all_or_nothing(change, told):
    model = MLP()
    before = model.state_dict()
    state = {key: value + 1 for key, value in before.items()}
    change(state)
    with pytest.raises(nnx.ShapeError) as error:
        model.load_state_dict(state)
    for text in told:
        assert text in str(error.value)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_load_state_dict_refuses_objects_before_it_writes():
    model = MLP()
    before = model.state_dict()
    state = {key: value + 1 for key, value in before.items()}
    state["out.bias"] = np.array([1, "x", None], object)
    with pytest.raises(nnx.DataError, match=r"out\.bias.*objects"):
        model.load_state_dict(state)
    np.testing.assert_array_equal(model.state_dict()["hidden.weight"], before["hidden.weight"])


def test_buffers_are_saved_and_moved_but_not_learned():
    class Counter(nn.Module):
        def __init__(self):
            self.seen = nn.Buffer([1.0, 2.0])
            self.weight = nn.Parameter([3.0])
            self.passing = nnx.asarray([4.0])

    model = Counter().to("loops")
    assert list(model.state_dict()) == ["seen", "weight"]
    assert [key for key, _ in model.named_parameters()] == ["weight"]
    assert model.seen.device.name == "loops"
    model.load_state_dict({"seen": [5, 6], "weight": [7]})
    assert model.seen.tolist() == [5, 6]


# Architecture as data


def whole_network():
    return nn.Sequential(
        nn.Reshape(4, 3), nn.Flatten(), nn.Dense(6, nnx.gelu, kernel_init=init.he_normal),
        nn.Sequential(nn.LayerNorm(eps=1e-3), nn.Activation("tanh"), nn.Dropout(0.5)),
        nn.Dense(2, use_bias=False, kernel_init=0.5, bias_init="ones"),
    )  # fmt: skip


def test_config_survives_json():
    model = whole_network().eval()
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 12)
    expected = model(x).numpy()
    text = json.dumps(nn.to_config(model))
    again = nn.from_config(json.loads(text), model.state_dict()).eval()
    np.testing.assert_array_equal(again(x).numpy(), expected)
    assert json.dumps(nn.to_config(again)) == text
    assert list(again.state_dict()) == list(model.state_dict())


def test_config_of_an_unbuilt_network_builds_lazily_again():
    config = nn.to_config(whole_network())
    assert config["layers"][2]["activation"] == "gelu"
    assert config["layers"][2]["kernel_init"] == "he_normal"
    assert config["layers"][2]["in_features"] is None
    assert not nn.from_config(config).built


def test_config_with_weights_leaves_the_generator_alone():
    model = nn.Sequential(nn.Dense(3, in_features=2))
    state = nnx.random.default_generator().state_dict()
    nn.from_config(nn.to_config(model), model.state_dict())
    assert nnx.random.default_generator().state_dict() == state
    assert np.abs(nn.from_config(nn.to_config(model)).state_dict()["0.weight"]).min() > 0


def test_config_refuses_what_has_no_name():
    with pytest.raises(nnx.CheckpointError, match=r"no name.*relu"):
        nn.to_config(nn.Dense(2, lambda x: x))
    with pytest.raises(nnx.CheckpointError, match=r"MLP is not one of the layers.*state_dict\(\)"):
        nn.to_config(MLP())

    class Dense(nn.Dense):
        pass

    with pytest.raises(nnx.CheckpointError, match="Dense is not one of"):
        nn.to_config(Dense(2))


def nested(depth):
    config = {"kind": "Flatten"}
    for _ in range(depth):
        config = {"kind": "Sequential", "layers": [config]}
    return config


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "has a 'kind'"),
        ([], "has a 'kind'"),
        ({}, "has a 'kind'"),
        ({"kind": ["Dense"]}, "has a 'kind'"),
        ({"kind": "Dens"}, "Did you mean 'Dense'"),
        ({"kind": "__import__"}, "no layer kind"),
        ({"kind": "Dense"}, "cannot be built.*units"),
        ({"kind": "Dense", "units": 0}, "cannot be built.*units is a whole number"),
        ({"kind": "Dense", "units": "4"}, "units is a whole number"),
        ({"kind": "Dense", "units": 2, "unit": 2}, "Did you mean 'units'"),
        ({"kind": "Dense", "units": 2, "forward": "x"}, "no setting 'forward'"),
        ({"kind": "Dense", "units": 2, "activation": print}, "not plain data"),
        ({"kind": "Dense", "units": 2, "activation": "os.system"}, "no activation"),
        ({"kind": "Dense", "units": 2, "kernel_init": "he"}, "no initialiser"),
        ({"kind": "Dropout", "rate": 1.0}, "rate is the share"),
        ({"kind": "Sequential", "layers": {"0": 1}}, "layers is dict"),
        ({"kind": "Sequential", "layers": "Dense"}, "layers is a list"),
        ({"kind": "Dense", "units": 10**30, "in_features": 2}, "cannot be built"),
        ({"kind": "Dense", "units": 10**9, "in_features": 10**9}, "cannot be built"),
        ({"kind": "Sequential"}, "layers is a list"),
        ({"kind": "Reshape", "shape": [2, "x"]}, "a size is a whole number"),
        ({"kind": "Reshape", "shape": 5}, "cannot be built"),
        (nested(100), "more than 64 deep"),
    ],
)
def test_from_config_refuses_what_to_config_does_not_write(config, told):
    with pytest.raises(nnx.CheckpointError, match=told):
        nn.from_config(config)


def test_from_config_refuses_weights_that_do_not_fit():
    config = nn.to_config(nn.Dense(2, in_features=3))
    with pytest.raises(nnx.CheckpointError, match="missing: bias"):
        nn.from_config(config, {"weight": np.zeros((3, 2))})


# Losses by name


@pytest.mark.parametrize("name", nn.losses.TABLE)
def test_losses_are_the_ops(name):
    assert nn.losses.get(name) is getattr(nn, name) is getattr(nnx, name)


def test_losses_get():
    own = lambda p, y: nnx.sum(p - y)  # noqa: E731
    assert nn.losses.get(own) is own
    with pytest.raises(nnx.DataError, match="Did you mean 'cross_entropy'"):
        nn.losses.get("crossentropy")
    with pytest.raises(nnx.DTypeError, match="name such as"):
        nn.losses.get(3)


# Summary


def test_summary_is_a_table_with_the_total(capsys):
    model = digits_net()
    assert model.summary() is None
    assert "call the model on an example" in capsys.readouterr().out
    model(np.zeros((1, 784), np.float32))
    model.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "output", "shape", "parameters", "FLOPs", "bytes"]
    assert lines[2].split() == ["0", "Dense", "(B,", "16)", "12,560", "25.1k", "50.4k"]
    assert lines[4].split() == ["2", "Dense", "(B,", "10)", "170", "330", "720"]
    assert lines[-2] == "Total parameters: 13,002"
    # Products 2 n_in n_out, one an element for the bias and for relu.
    n_flops = 2 * (784 * 16 + 16 * 16 + 16 * 10) + 2 * 16 + 2 * 16 + 10
    n_bytes = 4 * (13_002 + 2 * 16 + 2 * 16 + 10)
    assert lines[-1] == f"A sample: {n_flops:,} FLOPs, {n_bytes:,} bytes"


def test_summary_counts_own_shared_and_frozen_parameters(capsys):
    class Net(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter(np.ones(1000, np.float32))
            self.a_layer_with_a_long_name_so_that_the_line_is_longer_than_eighty_columns = [
                nn.Dense(10, in_features=10)
            ]
            self.again = (
                self.a_layer_with_a_long_name_so_that_the_line_is_longer_than_eighty_columns
            )

    model = Net()
    model.again[0].tied = model.scale
    model.scale.requires_grad = False
    model.summary()
    out = capsys.readouterr().out
    assert "Total parameters: 1,110, of which 1,000 are frozen" in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[2].split() == ["Net", "?", "1,000", "?", "?"]


def test_repr_shows_the_tree():
    text = repr(nn.Sequential(nn.Dense(3, "relu"), nn.Sequential(nn.Flatten())))
    assert "(0): Dense(units=3, activation='relu'" in text
    assert "    (0): Flatten()" in text


# Bad input


def test_wrong_features_name_the_layer_and_the_way_out():
    model = digits_net()
    model(np.zeros((1, 784), np.float32))
    with pytest.raises(nnx.ShapeError) as error:
        model(np.zeros((64, 28, 28), np.float32))
    assert str(error.value) == (
        "Dense '0' takes 784 features, got x of shape (64, 28, 28). Flatten it first: "
        "x.reshape(64, 784), or start the model with nn.Flatten()."
    )


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((4, 3), r"Dense 'hidden' takes 4 features, got x of shape \(4, 3\)\. Transpose it: x\.T"),
        ((2, 5), "Give 4 numbers a row, or make the layer for 5: in_features=5"),
        ((5,), r"takes 4 features, got x of shape \(5,\)"),
        ((), r"takes 4 features, got x of shape \(\)\. Give rows of 4"),
    ],
)
def test_wrong_features(shape, told, device):
    with pytest.raises(nnx.ShapeError, match=told):
        MLP().to(device)(np.ones(shape, np.float32))


def test_paths_in_messages_are_full():
    class Outer(nn.Module):
        def __init__(self):
            self.encoder = MLP()

        def forward(self, x):
            return self.encoder.out(self.encoder.hidden(x)[:, :7])

    model = Outer()
    with pytest.raises(nnx.ShapeError, match=r"Dense 'encoder\.out' takes 20 features"):
        model(np.ones((2, 4), np.float32))
    model.encoder.out.weight.device  # noqa: B018
    with pytest.raises(nnx.DeviceError, match=r"parameter 'encoder\.hidden\.weight'"):
        model(nnx.asarray(np.ones((2, 4), np.float32), device="loops"))


@pytest.mark.parametrize("layer", [lambda: nn.Dense(2), lambda: nn.LayerNorm()])
@pytest.mark.parametrize("built", [False, True])
def test_integers_are_refused_with_advice(layer, built):
    model = nn.Sequential(layer())
    if built:
        model([[1.0, 2.0]])
    with pytest.raises(
        nnx.DTypeError, match=r"'0' takes floating.*uint8.*astype\('float32'\) / 255"
    ):
        model(np.zeros((3, 2), np.uint8))
    with pytest.raises(nnx.DTypeError, match=r"int64.*Convert it: x\.astype\('float32'\)"):
        model([[1, 2]])
    with pytest.raises(nnx.DTypeError, match="bool"):
        model(np.zeros((3, 2), bool))
    assert model.built is built


@pytest.mark.parametrize("x", [np.array([[1, "a"]], object), [[1.0], [1.0, 2.0]]])
def test_object_and_ragged_arrays_are_refused(x):
    with pytest.raises(nnx.DataError):
        MLP()(x)


def test_rows_of_no_features_do_not_build():
    with pytest.raises(nnx.ShapeError, match="rows of 0 features"):
        nn.Dense(2)(np.zeros((3, 0), np.float32))
    with pytest.raises(nnx.ShapeError, match="single number"):
        nn.Dense(2)(np.float32(1))
    with pytest.raises(nnx.ShapeError, match="single number"):
        nn.Flatten()(np.float32(1))


def test_an_empty_batch_passes(device):
    model = nn.Sequential(nn.Dense(3, "relu"), nn.LayerNorm()).to(device)
    assert model(np.zeros((0, 4), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan, math.inf, "0.5", None, True])
def test_dropout_rate_out_of_range(rate):
    with pytest.raises(nnx.DataError, match="from 0 to below 1"):
        nn.Dropout(rate)


@pytest.mark.parametrize("units", [0, -1, 1.5, "3", None, True, math.nan])
def test_sizes_are_whole_numbers(units):
    for make in (
        lambda: nn.Dense(units), lambda: nn.Dense(1, in_features=units if units is not None else 0),
        lambda: nn.Reshape(units if units != -1 else -2),
    ):  # fmt: skip
        with pytest.raises(nnx.DataError, match="whole number of 1 or more"):
            make()


def test_numpy_integers_are_sizes():
    assert nn.Dense(np.int32(3), in_features=np.int64(2)).weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: nn.Dense(2, "rely"), nnx.DataError, "Did you mean 'relu'"),
        (lambda: nn.Dense(2, 3), nnx.DTypeError, "An activation is"),
        (lambda: nn.Dense(2, kernel_init="glorot"), nnx.DataError, "Did you mean 'glorot_"),
        (lambda: nn.Dense(2, bias_init=None), nnx.DTypeError, "An initialiser is"),
        (lambda: nn.Activation("sigmoyd"), nnx.DataError, "Did you mean 'sigmoid'"),
        (lambda: nn.LayerNorm(eps=-1), nnx.DataError, "eps is a finite number"),
        (lambda: nn.LayerNorm(eps=math.nan), nnx.DataError, "eps is a finite number"),
        (lambda: nn.Reshape(-1, -1), nnx.DataError, "only one size"),
        (lambda: nn.Sequential(nn.Dense(2), nnx.relu), nnx.DTypeError, "layer 1.*nn.Activation"),
        (lambda: nn.Sequential(nn.Dense), nnx.DTypeError, "layer 0"),
        (
            lambda: nn.Dense(2, in_features=2, kernel_init=lambda shape, g: np.zeros(3)),
            nnx.ShapeError, r"asked for shape \(2, 2\) and gave \(3,\)",
        ),
        (lambda: nn.Dense(2, in_features=2, bias_init="orthogonal"), nnx.ShapeError, "two axes"),
        (lambda: nn.Reshape(5)(np.zeros((2, 6))), nnx.ShapeError, r"\(5,\).*\(2, 6\)"),
        (lambda: nn.Reshape(4, -1)(np.zeros((2, 6))), nnx.ShapeError, "do not fit"),
    ],
)  # fmt: skip
def test_wrong_settings(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()([1.0])


@pytest.mark.parametrize(
    "make",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(">f4"),
        lambda a: np.lib.stride_tricks.as_strided(a, a.shape, a.strides, writeable=False),
    ],
)
def test_unusual_memory_gives_the_result_of_contiguous(make, device, rng):
    x = rng.normal(size=(6, 4)).astype(np.float32)
    model = MLP().to(device)
    np.testing.assert_array_equal(model(make(x)).numpy(), model(x).numpy())


def test_shared_layer_stays_shared_in_a_configuration():
    shared = nn.Dense(3, in_features=3)
    model = nn.Sequential(shared, nn.Activation("relu"), nn.Sequential(shared))
    config = json.loads(json.dumps(nn.to_config(model)))
    assert config["layers"][2]["layers"] == [{"kind": "Shared", "of": 1}]
    again = nn.from_config(config, model.state_dict())
    assert again[0] is again[2][0] and list(again.state_dict()) == ["0.weight", "0.bias"]
    apart = nn.from_config(nn.to_config(nn.Sequential(nn.Flatten(), nn.Flatten())))
    assert apart[0] is not apart[1]
