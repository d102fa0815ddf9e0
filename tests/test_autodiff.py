"""Gradients: the functional style, the tape style, any order, and each error."""

import gc
import re
import threading
from typing import NamedTuple

import numpy as np
import pytest

import nnx
from nnx import autodiff
from nnx.errors import DTypeError, GradientError, ShapeError
from nnx.op import OPS
from nnx.testing import check_grads

RANDOM = np.random.default_rng(7)
A = RANDOM.normal(size=(3, 3))
V, W = RANDOM.normal(size=3), RANDOM.normal(size=3)


@pytest.fixture
def on(usable):
    return nnx.device(usable)


@pytest.fixture(autouse=True)
def default():
    with nnx.device("numpy"):
        yield


def tensor(x, on="numpy"):
    return nnx.asarray(np.asarray(x, np.float64), device=on)


def leaf(x, on="numpy"):
    t = nnx.asarray(np.asarray(x, np.float32), device=on)
    t.requires_grad = True
    return t


def close(got, wanted, rtol=1e-6):
    np.testing.assert_allclose(np.asarray(got.numpy(), np.float64), wanted, rtol=rtol, atol=1e-6)


def quadratic(x):
    """x^T A x, whose gradient is (A + A^T) x and whose Hessian is A + A^T."""
    a = nnx.asarray(A.astype(x.numpy().dtype), device=x.device)
    return nnx.vecdot(x, a @ x)


# The functional style, on every device


def test_grad_equals_the_formula(on):
    close(nnx.grad(quadratic)(nnx.asarray(np.float32(V), device=on)), (A + A.T) @ V, 1e-5)


def test_value_and_grad_gives_both(on):
    value, g = nnx.value_and_grad(quadratic)(nnx.asarray(np.float32(V), device=on))
    close(value, V @ A @ V, 1e-5)
    close(g, (A + A.T) @ V, 1e-5)
    assert not value.requires_grad and not g.requires_grad


def test_vjp_equals_the_formula(on):
    a = nnx.asarray(np.float32(A), device=on)
    y, pull = nnx.vjp(lambda x: a @ x, nnx.asarray(np.float32(V), device=on))
    close(y, A @ V, 1e-5)
    (g,) = pull(nnx.asarray(np.float32(W), device=on))
    close(g, A.T @ W, 1e-5)
    (again,) = pull(nnx.asarray(np.float32(V), device=on))
    close(again, A.T @ V, 1e-5)


def test_jvp_equals_the_formula(on):
    x, t = (nnx.asarray(np.float32(v), device=on) for v in (V, W))
    y, along = nnx.jvp(lambda x: nnx.exp(x) * x, (x,), (t,))
    close(y, np.exp(V) * V, 1e-5)
    close(along, np.exp(V) * (V + 1) * W, 1e-5)


def test_jacobian_equals_the_formula(on):
    a = nnx.asarray(np.float32(A), device=on)
    j = nnx.jacobian(lambda x: nnx.tanh(a @ x))(nnx.asarray(np.float32(V), device=on))
    close(j, (1 - np.tanh(A @ V) ** 2)[:, None] * A, 1e-5)


def test_hessian_and_hvp_equal_the_formula(on):
    x, t = (nnx.asarray(np.float32(v), device=on) for v in (V, W))
    close(nnx.hessian(quadratic)(x), A + A.T, 1e-5)
    g, product = nnx.hvp(quadratic, (x,), (t,))
    close(g, (A + A.T) @ V, 1e-5)
    close(product, (A + A.T) @ W, 1e-5)


# Structures


class Pair(NamedTuple):
    weight: object
    bias: object


def test_gradients_have_the_structure_of_the_argument():
    tree = {"a": tensor(V), "b": [tensor(W), (tensor(2.0),)], "c": Pair(tensor(V), tensor(3.0))}

    def f(tree):
        inner = nnx.sum(tree["a"] * tree["b"][0]) * tree["b"][1][0]
        return inner + nnx.sum(tree["c"].weight) * tree["c"].bias

    g = nnx.grad(f)(tree)
    close(g["a"], 2 * W)
    close(g["b"][0], 2 * V)
    close(g["b"][1][0], V @ W)
    assert isinstance(g["b"], list) and isinstance(g["b"][1], tuple) and isinstance(g["c"], Pair)
    close(g["c"].weight, np.full(3, 3.0))
    close(g["c"].bias, V.sum())


def test_argnums_choose_the_inputs():
    def f(x, y, z):
        return nnx.sum(x * y) * z

    args = tensor(V), tensor(W), tensor(2.0)
    close(nnx.grad(f, argnums=1)(*args), 2 * V)
    close(nnx.grad(f, argnums=-1)(*args), V @ W)
    gx, gz = nnx.grad(f, argnums=(0, 2))(*args)
    close(gx, 2 * W)
    close(gz, V @ W)
    with pytest.raises(GradientError, match="argnums=3: the function was called with 3 arguments"):
        nnx.grad(f, argnums=3)(*args)


def test_has_aux_passes_the_rest_through():
    def f(x):
        return nnx.sum(x * x), {"size": x.size}

    g, rest = nnx.grad(f, has_aux=True)(tensor(V))
    close(g, 2 * V)
    assert rest == {"size": 3}
    (value, rest), g = nnx.value_and_grad(f, has_aux=True)(tensor(V))
    close(value, V @ V)


def test_keyword_arguments_are_passed_on():
    close(nnx.grad(lambda x, *, n: nnx.sum(x**n))(tensor(V), n=3), 3 * V**2)


def test_plain_numbers_and_host_arrays_are_taken():
    assert nnx.grad(lambda x: x**3)(2.0).item() == 12.0
    close(nnx.grad(lambda x: nnx.sum(x * x))(V), 2 * V)


def test_jacobian_of_structures_and_of_nothing():
    x = tensor(V)
    j = nnx.jacobian(lambda p: {"y": p["x"] * p["x"], "s": nnx.sum(p["x"])})({"x": x})
    close(j["y"]["x"], np.diag(2 * V))
    close(j["s"]["x"], np.ones(3))
    empty = nnx.jacobian(lambda x: x[:0])(x)
    assert empty.shape == (0, 3)


def test_jvp_of_structures():
    x, y = tensor(V), tensor(W)
    value, along = nnx.jvp(lambda a, b: [a * b, nnx.sum(a)], (x, y), (y, x))
    close(value[0], V * W)
    close(along[0], W * W + V * V)
    close(along[1], W.sum())
    with pytest.raises(ShapeError, match="tangents have shapes"):
        nnx.jvp(nnx.exp, (x,), (tensor(1.0),))


def test_hvp_of_several_inputs():
    x, y = tensor(V), tensor(W)
    gradient, product = nnx.hvp(lambda a, b: nnx.sum(a * a * b), (x, y), (y, x))
    close(gradient[0], 2 * V * W)
    close(gradient[1], V * V)
    close(product[0], 2 * W * W + 2 * V * V)
    close(product[1], 2 * V * W)


def test_hessian_of_a_function_of_a_matrix():
    x = tensor(A)
    h = nnx.hessian(lambda x: nnx.sum(x**3))(x)
    assert h.shape == (3, 3, 3, 3)
    close(nnx.reshape(h, (9, 9)), np.diag(6 * A.ravel()))


def test_module_gradients_come_by_name():
    from nnx import nn

    model = nn.Dense(2, in_features=3)
    x = nnx.asarray(np.float32(RANDOM.normal(size=(4, 3))))
    g = nnx.grad(lambda model: nnx.sum(model(x)))(model)
    assert sorted(g) == ["bias", "weight"]
    close(g["bias"], np.full(2, 4.0))
    close(g["weight"], np.repeat(x.numpy().sum(0)[:, None], 2, axis=1), 1e-5)


# Any order


def test_third_derivative():
    third = nnx.grad(nnx.grad(nnx.grad(lambda x: x**5)))
    assert third(2.0).item() == pytest.approx(60 * 4.0)
    assert nnx.grad(third)(2.0).item() == pytest.approx(120 * 2.0)
    wavy = nnx.grad(nnx.grad(nnx.grad(nnx.sin)))
    assert wavy(0.7).item() == pytest.approx(-np.cos(0.7), rel=1e-6)
    flat = nnx.grad(nnx.grad(nnx.grad(nnx.tanh)))
    t = np.tanh(0.3)
    assert flat(tensor(0.3)).item() == pytest.approx(-2 * (1 - t**2) * (1 - 3 * t**2))


def test_perturbations_are_not_confused():
    """d/dx (x d/dy (x + y)) is 1; a tape that mixes x's and y's steps says 2."""
    outer = nnx.grad(lambda x: x * nnx.grad(lambda y: x + y)(1.0))
    assert outer(1.0).item() == 1.0
    product = nnx.grad(lambda x: x * nnx.grad(lambda y: x * y)(2.0))
    assert product(3.0).item() == 6.0
    mixed = nnx.grad(lambda x: nnx.grad(lambda y: x * x * y * y)(x))
    assert mixed(2.0).item() == pytest.approx(6 * 4.0)


def test_gradient_inside_a_closure_sees_the_outer_input():
    def outer(x):
        inner = nnx.grad(lambda y: nnx.sum(y * y * x))
        return nnx.sum(inner(x) * x)

    close(nnx.grad(outer)(tensor(V)), 6 * V**2)


def test_jvp_and_vjp_compose():
    def f(x):
        return nnx.sum(nnx.exp(x) * x)

    _, along = nnx.jvp(nnx.grad(f), (tensor(V),), (tensor(W),))
    close(along, np.exp(V) * (V + 2) * W)
    directional = nnx.grad(lambda x: nnx.jvp(f, (x,), (tensor(W),))[1])
    close(directional(tensor(V)), np.exp(V) * (V + 2) * W)


def test_jacobian_of_a_gradient_is_the_hessian():
    close(nnx.jacobian(nnx.grad(quadratic))(tensor(V)), A + A.T)
    close(nnx.hessian(quadratic)(tensor(V)), A + A.T)


def test_gradient_through_one_step_of_learning():
    """The derivative of a loss after one step with respect to the learning rate."""
    w = tensor(V)

    def after(rate):
        g = nnx.grad(quadratic)(w)
        return quadratic(w - rate * g)

    g = (A + A.T) @ V
    moved = V - 0.1 * g
    assert nnx.grad(after)(tensor(0.1)).item() == pytest.approx(-((A + A.T) @ moved) @ g)


def test_cross_entropy_against_a_softmax_has_right_second_derivatives():
    def f(x, z):
        return nnx.cross_entropy(x, nnx.softmax(z))

    check_grads(f, [tensor(A), tensor(A[::-1] * 0.5)], order=2)


# Broadcasting, repeated use, structure of the graph


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((), (2, 3)), ((2, 3), ()), ((1, 1), (2, 3)),
     ((0, 3), (3,)), ((4, 1, 3), (2, 1))],
)  # fmt: skip
def test_broadcast_gradients_are_summed_back(first, second, on):
    x, y = nnx.ones(first, device=on) * 2, nnx.ones(second, device=on) * 3
    gx, gy = nnx.grad(lambda x, y: nnx.sum(x * y), argnums=(0, 1))(x, y)
    n = np.broadcast(np.ones(first), np.ones(second)).size
    close(gx, np.full(first, 3.0 * n / max(x.size, 1)))
    close(gy, np.full(second, 2.0 * n / max(y.size, 1)))


def test_uses_add_up():
    x = leaf([1.0, 2.0])
    y = x * 3
    nnx.sum(y * y + y + x).backward()
    close(x.grad, 18 * np.array([1.0, 2.0]) + 4)


def test_parameter_used_twice_gets_both_gradients():
    w = nnx.Parameter(np.float32(A))
    x = nnx.asarray(np.float32(V))
    nnx.sum((x @ w) @ w).backward()
    ones = np.ones(3)
    close(w.grad, np.outer(V, A @ ones) + np.outer(A.T @ V, ones), 1e-5)


def test_same_tensor_twice_in_one_op():
    x = leaf([3.0])
    (x * x).backward()
    close(x.grad, [6.0])
    assert nnx.grad(lambda x: x**x)(tensor(2.0)).item() == pytest.approx(4 * (1 + np.log(2)))


def test_input_that_is_not_used_has_zero_gradient():
    gx, gy = nnx.grad(lambda x, y: nnx.sum(x), argnums=(0, 1))(tensor(V), tensor(A))
    close(gx, np.ones(3))
    close(gy, np.zeros((3, 3)))


def test_input_returned_as_it_is():
    assert nnx.grad(lambda x: x)(2.0).item() == 1.0
    close(nnx.jacobian(lambda x: x)(tensor(V)), np.eye(3))


def test_integer_parts_carry_no_gradient():
    x = tensor([3.0, 1.0, 2.0])
    close(nnx.grad(lambda x: x[nnx.argmax(x)] + nnx.sum(nnx.sign(x)))(x), [1.0, 0.0, 0.0])
    close(nnx.grad(lambda x: nnx.sum(nnx.where(x > 1.5, x * x, 0.0)))(x), [6.0, 0.0, 4.0])


def test_gradient_keeps_the_input_s_type_through_a_wider_one():
    x = nnx.asarray(np.float32(V))
    g = nnx.grad(lambda x: nnx.sum(x.astype("float64") ** 2))(x)
    assert g.dtype is nnx.float32
    close(g, 2 * V, 1e-5)


# The tape style


def test_backward_fills_grad_and_accumulates(on):
    x = leaf([1.0, 2.0], on)
    nnx.sum(x * x).backward()
    close(x.grad, [2.0, 4.0])
    nnx.sum(x * 3).backward()
    close(x.grad, [5.0, 7.0])
    x.grad = None
    nnx.sum(x).backward()
    close(x.grad, [1.0, 1.0])


def test_only_leaves_get_grad():
    x = leaf([1.0])
    y = x * 2
    (y * y).backward()
    assert y.grad is None
    close(x.grad, [8.0])


def test_backward_with_a_gradient_of_its_own():
    x = leaf([1.0, 2.0])
    y = x * x
    y.backward(nnx.asarray([1.0, 10.0]))
    close(x.grad, [2.0, 40.0])
    with pytest.raises(ShapeError, match=r"shape \(2,\) and the gradient given \(3,\)"):
        (x * x).backward(nnx.ones(3))


def test_retain_graph_allows_a_second_sweep():
    x = leaf([2.0])
    y = x * x * x
    y.backward(retain_graph=True)
    y.backward()
    close(x.grad, [24.0])


def test_backward_twice_says_what_to_do():
    x = leaf([2.0])
    y = x * x
    y.backward()
    with pytest.raises(GradientError, match=r"'multiply' was used up.*retain_graph=True"):
        y.backward()
    close(x.grad, [4.0])


def test_shared_part_of_two_losses_is_used_up_by_the_first():
    x = leaf([2.0])
    shared = x * x
    (shared * 2).backward()
    with pytest.raises(GradientError, match="used up"):
        (shared * 3).backward()


def test_backward_on_several_numbers_is_refused():
    x = leaf([1.0, 2.0])
    with pytest.raises(GradientError, match=r"shape \(2,\).*loss\.mean\(\)"):
        (x * x).backward()


def test_backward_without_history_is_refused():
    with pytest.raises(GradientError, match="requires_grad = True"):
        nnx.asarray([1.0]).backward()
    with nnx.no_grad():
        y = leaf([1.0]) * 2
    with pytest.raises(GradientError, match="no_grad"):
        y.backward()


def test_backward_after_a_write_is_refused():
    x, w = leaf([1.0, 2.0]), nnx.asarray([3.0, 4.0])
    w.name = "weight"
    y = nnx.sum(x * w)
    w[0] = 9.0
    with pytest.raises(GradientError, match=r"'multiply' .*weight \(2,\).* written in place"):
        y.backward()
    assert x.grad is None


def test_write_to_what_no_rule_reads_does_no_harm():
    x, w = leaf([1.0, 2.0]), nnx.asarray([3.0, 4.0])
    y = nnx.sum(x + w)
    w[0] = 9.0
    y.backward()
    close(x.grad, [1.0, 1.0])


def test_write_of_a_leaf_after_its_use_is_noticed():
    x = leaf([1.0, 2.0])
    y = nnx.sum(x * x)
    with nnx.no_grad():
        x[0] = 5.0
    with pytest.raises(GradientError, match="written in place"):
        y.backward()


def test_grad_of_what_is_no_single_number_is_refused():
    with pytest.raises(GradientError, match=r"returned shape \(3,\).*nnx\.jacobian"):
        nnx.grad(lambda x: x * 2)(tensor(V))
    with pytest.raises(GradientError, match="must return one number as a tensor, got float"):
        nnx.grad(lambda x: 3.0)(tensor(V))
    with pytest.raises(GradientError, match="has_aux=True"):
        nnx.grad(lambda x: (nnx.sum(x), 1))(tensor(V))


def test_integer_inputs_have_no_gradient():
    with pytest.raises(DTypeError, match=r"this one is int64.*astype\('float32'\)"):
        nnx.grad(lambda x: nnx.sum(x))(nnx.asarray([1, 2]))
    with pytest.raises(DTypeError, match="got str"):
        nnx.grad(lambda x: nnx.sum(x))("text")


def test_integer_result_has_no_gradient():
    x = leaf([1.0])
    y = nnx.sum(nnx.floor(x) * 0 + x).astype("int64")
    with pytest.raises((DTypeError, GradientError)):
        y.backward()


# Switching the tape off


def test_no_grad_records_nothing_and_ends():
    x = leaf([1.0])
    with nnx.no_grad():
        assert not (x * 2).requires_grad
        with nnx.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @nnx.no_grad()
    def f(x):
        return x * 2

    assert not f(x).requires_grad and not f(x).requires_grad


def test_no_grad_ends_with_an_error():
    x = leaf([1.0])
    with pytest.raises(KeyError), nnx.no_grad():
        raise KeyError
    assert (x * 2).requires_grad


def test_grad_works_inside_no_grad():
    with nnx.no_grad():
        assert nnx.grad(lambda x: x * x)(3.0).item() == 6.0


def test_no_grad_inside_grad_is_a_constant():
    def f(x):
        with nnx.no_grad():
            scale = x * x
        return scale * x

    assert nnx.grad(f)(3.0).item() == 9.0


def test_no_grad_of_one_thread_is_not_another_thread_s():
    x, seen = leaf([1.0]), []
    with nnx.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_cuts_the_history():
    assert nnx.grad(lambda x: x * x.detach())(3.0).item() == 3.0
    x = leaf([3.0])
    y = x.detach()
    assert not y.requires_grad and y.node is None
    np.testing.assert_array_equal(y.numpy(), x.numpy())


def test_grad_leaves_no_trace_on_its_argument():
    x = tensor(V)
    nnx.grad(quadratic)(x)
    assert not x.requires_grad and x.grad is None and x.node is None
    w = nnx.Parameter(np.float32(V))
    nnx.grad(lambda w: nnx.sum(w * w))(w)
    assert w.grad is None and w.node is None


def test_functional_gradient_inside_the_tape():
    x = leaf([2.0])
    inner = nnx.grad(lambda y: nnx.sum(y * y * x))(tensor([3.0]).astype("float32"))
    inner.backward()
    close(x.grad, [6.0])


# Size


def test_chain_of_fifty_thousand_ops():
    x = leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y + 1.0
    y.backward()
    close(x.grad, 1.0)
    del y
    gc.collect()


def test_deep_chain_can_be_dropped_without_a_backward():
    y = leaf(1.0)
    for _ in range(50_000):
        y = y * 1.0
    del y
    gc.collect()


def test_deep_chain_through_the_functional_style():
    def f(x):
        for _ in range(5_000):
            x = x * 1.0001
        return x

    assert nnx.grad(f)(tensor(1.0)).item() == pytest.approx(1.0001**5000)


def test_diamonds_are_swept_once_a_node():
    """Thirty doublings make a billion paths and thirty nodes."""
    x = leaf(1.0)
    y = x
    for _ in range(30):
        y = y + y
    y.backward()
    close(x.grad, 2.0**30)


def counting(monkeypatch):
    """Return a list that gains the name of each op run and each gradient rule called."""
    seen = []

    def counted(name, function):
        return lambda *args, **attrs: seen.append(name) or function(*args, **attrs)

    device = nnx.device("numpy")
    for name, op in OPS.items():
        monkeypatch.setitem(device.kernels, name, counted(name, device.kernels[name]))
        if isinstance(op.vjp, tuple):
            rules = tuple(rule and counted(f"d {name}", rule) for rule in op.vjp)
            monkeypatch.setattr(op, "vjp", rules)
    return seen


def test_gradient_of_many_parameters_costs_one_pass(monkeypatch):
    seen = counting(monkeypatch)
    runs = []
    for n in (3, 300):
        x = nnx.asarray(np.ones((2, n), np.float32))
        weights = [nnx.Parameter(np.ones((n, n), np.float32)) for _ in range(2)]
        seen.clear()
        loss = nnx.sum(nnx.tanh(nnx.tanh(x @ weights[0]) @ weights[1]))
        loss.backward()
        assert all(w.grad.shape == (n, n) for w in weights)
        runs.append(list(seen))
    assert runs[0] == runs[1]
    forward = [name for name in runs[0] if not name.startswith("d ")]
    assert forward.count("matmul") == 2 and forward.count("tanh") == 2
    assert sum(name.startswith("d ") for name in runs[0]) == 6


def test_parts_that_lead_nowhere_are_not_swept(monkeypatch):
    seen = counting(monkeypatch)
    w = nnx.Parameter(np.ones(2, np.float32))
    x = nnx.asarray(np.ones(2, np.float32))
    nnx.grad(lambda x: nnx.sum(x * nnx.exp(nnx.sin(w))))(x)
    assert "d sin" not in seen and "d exp" not in seen


def test_used_up_tape_frees_its_arrays():
    x = leaf([1.0, 2.0])
    y = nnx.sum(x * x)
    node = y.node
    y.backward()
    assert node.arrays is None and node.out is None


# The public check


def test_check_grads_accepts_what_is_right():
    check_grads(lambda x, w: nnx.tanh(x @ w), [A, A.T])
    check_grads(lambda p: p["w"] * p["b"], [{"w": tensor(V), "b": tensor(W)}])
    check_grads(lambda x, y: nnx.cross_entropy(x, y), [A, np.array([0, 2, 1])])
    check_grads(lambda x: x**3, [1.5], order=4)
    check_grads(lambda x, text: x * len(text), [tensor(V), "three"])


def test_check_grads_gives_a_module_its_values_back():
    from nnx import nn

    model = nn.Dense(2, in_features=3, activation="tanh")
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    check_grads(lambda model, x: model(x), [model, A])
    for name, p in model.named_parameters():
        assert p.dtype is nnx.float32
        np.testing.assert_array_equal(p.numpy(), before[name])


def test_check_grads_names_op_input_and_both_numbers(monkeypatch):
    op = OPS["sinh"]
    monkeypatch.setattr(op, "vjp", (lambda xp, g, out, x: g * xp.sinh(x),))
    with pytest.raises(GradientError) as caught:
        check_grads(lambda x: nnx.sum(nnx.exp(x) + nnx.sinh(x)), [tensor([0.5, 1.5])])
    text = str(caught.value)
    assert "op 'sinh'" in text and "input 'x' of shape (2,)" in text and "order 1" in text
    both = re.search(r"the rules give (-?[\d.]+), differences (-?[\d.]+)\.$", text)
    assert both and float(both[1]) != float(both[2])


def test_check_grads_names_the_argument_where_no_op_is_wrong():
    def f(x, y):
        return x * y.detach()

    with pytest.raises(GradientError, match=r"order 1 with respect to input 1 of shape \(3,\)"):
        check_grads(f, [tensor(V), tensor(W)])


def test_check_grads_needs_something_to_check():
    with pytest.raises(GradientError, match="no argument is a float array"):
        check_grads(lambda n: nnx.zeros(n), [3])
    with pytest.raises(GradientError, match="no floating-point tensor"):
        check_grads(lambda x: nnx.argmax(x), [tensor(V)])


def test_derivative_is_exact_beside_a_kink():
    from nnx.testing.gradients import derivative

    assert derivative(lambda t: abs(t + 1e-3)) == pytest.approx(1.0, rel=1e-9)
    assert derivative(np.exp) == pytest.approx(1.0, rel=1e-11)
    assert derivative(lambda t: 1 / (0.01 + t)) == pytest.approx(-1e4, rel=1e-6)


# PyTorch, where it is installed


def torch_or_skip():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


CASES = {
    "mlp": lambda n, x, w: n.sum(n.tanh(n.matmul(n.tanh(n.matmul(x, w)), w))),
    "softmax": lambda n, x, w: n.sum(n.softmax(n.matmul(x, w), -1) * x),
    "norms": lambda n, x, w: n.sum(n.sqrt(n.sum(x * x, -1)) * n.sum(n.exp(-w * w), -1)),
    "indexing": lambda n, x, w: n.sum(x[0] * w[:, 1] + x[1:, [0, 2]].sum()),
    "extremes": lambda n, x, w: n.sum(n.maximum(x, w) * n.minimum(x, w)) + n.sum(n.abs(x) * w),
    "logs": lambda n, x, w: n.sum(n.log1p(x * x) / (1 + n.sigmoid(w))),
}


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_equal_pytorch(name):
    torch = torch_or_skip()
    f = CASES[name]
    b = A.T + 0.1
    x, w = (torch.tensor(v, requires_grad=True) for v in (A, b))
    first = torch.autograd.grad(f(torch, x, w), (x, w), create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), (x, w))

    def squared(x, w):
        gx, gw = nnx.grad(lambda x, w: f(nnx, x, w), (0, 1))(x, w)
        return nnx.sum(gx**2) + nnx.sum(gw**2)

    args = tensor(A), tensor(b)
    for got, wanted in zip(nnx.grad(lambda x, w: f(nnx, x, w), (0, 1))(*args), first, strict=True):
        close(got, wanted.detach().numpy(), 1e-9)
    for got, wanted in zip(nnx.grad(squared, (0, 1))(*args), second, strict=True):
        close(got, wanted.numpy(), 1e-9)


def test_hessian_and_jacobian_equal_pytorch():
    torch = torch_or_skip()

    def f(n, x):
        return n.sum(n.tanh(n.matmul(n.reshape(x, (3, 3)), n.reshape(x, (3, 3)))))

    flat = A.ravel()
    wanted = torch.autograd.functional.hessian(lambda x: f(torch, x), torch.tensor(flat))
    close(nnx.hessian(lambda x: f(nnx, x))(tensor(flat)), wanted.numpy(), 1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.softmax(x, -1), torch.tensor(A))
    close(nnx.jacobian(lambda x: nnx.softmax(x, -1))(tensor(A)), jacobian.numpy(), 1e-9)


def test_autodiff_keeps_no_state_after_an_error():
    with pytest.raises(ZeroDivisionError):
        nnx.grad(lambda x: 1 / 0)(1.0)
    assert autodiff.recording.depth == 0 and autodiff.recording.on


# What may not be lost in silence


def test_gradient_does_not_end_at_another_device():
    x = nnx.Parameter(np.ones(2, np.float32))
    with pytest.raises(nnx.GradientError, match="from one device to another"):
        (x * 2).to("loops")
    with pytest.raises(nnx.GradientError, match="from one device to another"):
        nnx.asarray(x * 2, device="loops")
    assert x.detach().to("loops").device == "loops"


def test_write_to_an_index_is_noticed():
    w = nnx.Parameter(np.arange(1.0, 4.0))
    index = nnx.asarray(np.array([0, 1]))

    def f(x):
        y = x[index]
        index[0] = 2
        return nnx.sum(y * w[:2])

    with pytest.raises(nnx.GradientError, match="written in place"):
        nnx.grad(f)(nnx.asarray(np.ones(3)))


def test_jacobian_and_hessian_of_several_arguments():
    x, y = nnx.asarray(np.array([1.0, 2.0])), nnx.asarray(np.array([3.0, 5.0]))
    dx, dy = nnx.jacobian(lambda x, y: x * y, argnums=(0, 1))(x, y)
    np.testing.assert_array_equal(dx.numpy(), np.diag([3.0, 5.0]))
    np.testing.assert_array_equal(dy.numpy(), np.diag([1.0, 2.0]))
    (_, mixed), _ = nnx.hessian(lambda x, y: nnx.sum(x * y * y), argnums=(0, 1))(x, y)
    np.testing.assert_array_equal(mixed.numpy(), np.diag([6.0, 10.0]))


def test_grad_of_a_module_reaches_a_frozen_parameter():
    from nnx import nn

    layer = nn.Dense(1, in_features=2, kernel_init="ones")
    layer.weight.requires_grad = False
    grads = nnx.grad(lambda m: nnx.sum(m([[1.0, 2.0]])))(layer)
    assert grads["weight"].tolist() == [[1.0], [2.0]]
    assert not layer.weight.requires_grad


def test_module_inside_a_structure_stays_a_module():
    from nnx import nn

    layer = nn.Dense(1, in_features=2, kernel_init="ones")
    scale = nnx.asarray(2.0)
    grads = nnx.grad(lambda p: nnx.sum(p[0]([[1.0, 2.0]])) * p[1]["s"])([layer, {"s": scale}])
    assert grads[0]["weight"].tolist() == [[2.0], [4.0]]
    assert grads[1]["s"].item() == 3.0


def test_jvp_and_hvp_take_structures_and_keep_no_tape():
    p = {"a": nnx.asarray([1.0, 2.0]), "b": [nnx.asarray(3.0)]}
    t = {"a": nnx.asarray([1.0, 0.0]), "b": [nnx.asarray(1.0)]}
    value, along = nnx.jvp(lambda p: nnx.sum(p["a"] ** 2) * p["b"][0], (p,), (t,))
    assert (value.item(), along.item()) == (15.0, 2 * 3 + 5)
    assert not along.requires_grad
    _, product = nnx.hvp(lambda p: nnx.sum(p["a"] ** 2) * p["b"][0], (p,), (t,))
    assert product["a"].tolist() == [2 * 3 + 2 * 1, 2 * 2]
    assert product["b"][0].item() == 2.0


def test_vjp_counts_its_weights():
    _, pullback = nnx.vjp(lambda x: (x, 2 * x), nnx.asarray([1.0]))
    with pytest.raises(nnx.ShapeError, match="2 results and 1 weights"):
        pullback(nnx.asarray([1.0]))


def test_kept_loss_keeps_no_activations():

    import weakref

    x = nnx.Parameter(np.ones(3, np.float32))
    hidden = x * 2
    gone = weakref.ref(hidden)
    loss = nnx.sum(hidden * hidden)
    loss.backward()
    del hidden
    gc.collect()
    assert gone() is None
    assert loss.item() == 12.0


def test_parameter_is_apart_from_the_callers_array():
    mine = np.ones(2, np.float32)
    parameter = nnx.Parameter(mine)
    mine[0] = 7.0
    assert parameter.tolist() == [1.0, 1.0]
