"""What a compiled function replaces in place: nothing is read when it has been overwritten."""

import numpy as np
import pytest

import nnx
from nnx import nn, optim
from tests.tracing import WAYS, Form, program_of, run, run_text


def hosts(*shapes):
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape) for shape in shapes]


# A function of arrays, the shapes of these, and which results replace which of them.
CASES = {
    "exchanged": (lambda x, y: (y, x), [(5,), (5,)], {0: 0, 1: 1}),
    "turned": (lambda x: nnx.flip(x, axis=0), [(6, 2)], {0: 0}),
    "transposed": (lambda x: nnx.matrix_transpose(x), [(4, 4)], {0: 0}),
    "rolled on": (lambda x, y: (nnx.roll(y, 1, axis=0), x[::-1]), [(5,), (5,)], {0: 0, 1: 1}),
    "kept as it was": (lambda x: (x * 2.0, x), [(5,)], {0: 0}),
    "a view kept": (lambda x: (x * 2.0, nnx.reshape(x, (6,))[::-1]), [(2, 3)], {0: 0}),
    "a view kept by a copy": (lambda x, y: (y, x[1:]), [(5,), (5,)], {0: 0}),
    "read anew": (lambda x, g: (x - g, nnx.sum(nnx.exp(x - g)), (x - g) @ x), [(4,), (4,)], {0: 0}),
    "read after": (
        lambda x, g: (x - 0.5 * g, nnx.cumulative_sum(x - 0.5 * g), nnx.softmax(x)),
        [(4,), (4,)], {0: 0},
    ),
    "reduced": (lambda x, y: (nnx.sum(y * x, axis=0), x + 1.0), [(3,), (4, 3)], {0: 0}),
    "in two passes": (
        lambda x: (nnx.softmax(x, axis=1), nnx.log_softmax(x, axis=1) + x), [(4, 5)], {0: 0},
    ),
    "a value of each row": (
        lambda r, s, x: (
            nnx.sum(x, axis=1) * s, nnx.sum(x, axis=1) * r, x * nnx.sum(x, axis=1)[:, None],
        ),
        [(4,), (4,), (4, 5)], {0: 0, 1: 1},
    ),
    "slots": (
        lambda w, m, g: (w - 0.1 * (0.9 * m + g), 0.9 * m + g), [(3, 4), (3, 4), (3, 4)],
        {0: 0, 1: 1},
    ),
    "one result for two": (lambda x, y: (x * y, x * y), [(4,), (4,)], {0: 0, 1: 1}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_what_is_replaced_is_not_read_after(case, way):
    f, shapes, updates = CASES[case]
    arrays = hosts(*shapes)
    eager = f(*(nnx.asarray(a, device="numpy") for a in arrays))
    eager = [eager] if isinstance(eager, nnx.Tensor) else eager
    form = Form(f, [nnx.asarray(a, device="numba") for a in arrays])
    found = run(program_of(form.lowered, updates), way, [*arrays, *form.literals], {})
    for x, wanted in zip(found, eager, strict=True):
        np.testing.assert_allclose(x, wanted.numpy(), rtol=1e-13, atol=1e-14)


def test_nothing_is_replaced_where_a_check_fails():
    def f(x, y, z, labels):
        return x - 1.0, nnx.sum(y, axis=0), z[::-1], nnx.cross_entropy(x @ y, labels)

    arrays = [*hosts((4, 3), (3, 3), (5,)), np.array([0, 1, 2, 3])]
    form = Form(f, [nnx.asarray(a, device="numba") for a in [*arrays[:3], arrays[3] % 3]])
    before = [a.copy() for a in arrays]
    total, loss = np.zeros(3), np.zeros(())
    program = program_of(form.lowered, {0: 0, 2: 2})
    outputs = [arrays[0], total, arrays[2], loss]
    assert run_text(program, arrays, outputs, {}) != 0
    assert program.run(arrays, {}, outputs) != 0
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_optimizer_that_exchanges_its_slots():
    class Turns(optim.Optimizer):
        """Uses two slots in turn."""

        def init_slots(self, param):
            return {"a": nnx.zeros_like(param), "b": nnx.zeros_like(param) + 1.0}

        def update(self, param, grad, slots):
            slots["a"], slots["b"] = slots["b"], slots["a"]
            return param - self.lr * (grad + slots["a"]) * nnx.sum(param)

    results = []
    for device, jit in (("numpy", False), ("numba", True)):
        nnx.random.seed(0)
        model = nn.Dense(3, in_features=4).to(device)
        opt = Turns(model.parameters(), lr=0.01)

        def step(x, opt=opt, model=model):
            opt.zero_grad()
            loss = nnx.sum(model(x) ** 2)
            loss.backward()
            opt.step()
            return loss

        step = nnx.jit(step) if jit else step
        x = nnx.asarray(hosts((5, 4))[0].astype("f4"), device=device)
        losses = [step(x).item() for _ in range(5)]
        results.append((losses, [p.numpy().copy() for p in model.parameters()]))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for a, b in zip(results[1][1], results[0][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
