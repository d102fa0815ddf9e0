"""What a gradient costs: one backward pass, however many parameters there are.

You learn why networks are trained by backpropagation and not by trying: to raise each of P
parameters in turn takes P forward passes for one gradient. The ops are counted, not timed.

    python examples/count_ops.py --device numpy
"""

import argparse
import contextlib

import nnx


def chain(parameters):
    """Return the output of a network of one unit a layer, two parameters a layer."""
    a = 1.0
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        a = nnx.tanh(weight * a + bias)
    return a


@contextlib.contextmanager
def counted():
    """Yield a list that grows by the name of each op: all of them pass through `nnx.op.apply`."""
    names, apply = [], nnx.op.apply

    def counting(op, inputs, attrs):
        names.append(op.name)
        return apply(op, inputs, attrs)

    nnx.op.apply = counting
    try:
        yield names
    finally:
        nnx.op.apply = apply


def compare(n_layers, device):
    """Return P, the ops of a forward pass, of backpropagation, and of trying; and the gradients."""

    def numbers(values):
        return [nnx.asarray(value, dtype="float64", device=device) for value in values]

    values = [0.9, 0.1] * n_layers
    with counted() as forward:
        output, backward = nnx.vjp(chain, numbers(values))
    seed = numbers([1.0])[0]
    seed.requires_grad = True  # has nnx run its backward pass as ops too, so that they are counted
    with counted() as back:
        (gradient,) = backward(seed)

    step, tried = 1e-6, []
    with counted() as trying:
        for i in range(len(values)):
            raised = [*values[:i], values[i] + step, *values[i + 1 :]]
            tried.append((chain(numbers(raised)).item() - output.item()) / step)
    counts = (len(values), len(forward), len(back), len(trying))
    return counts, [g.item() for g in gradient], tried


def main(device="cpu"):
    print(f"device {nnx.device(device)}; ops that ran:")
    print("parameters   one forward pass   one backward pass   P forward passes")
    rows = []
    for n_layers in (5, 10, 20, 40):
        counts, gradient, tried = compare(n_layers, device)
        off = max(abs(g - t) for g, t in zip(gradient, tried, strict=True))
        rows.append((counts, off))
        print("{:10}   {:16}   {:17}   {:16}".format(*counts))
    print("\nTwice the parameters: twice the backward pass, four times the trying.")
    print(f"The two gradients agree to {max(off for _, off in rows):.0e}.")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a gradient costs, in ops.")
    parser.add_argument("--device", default="cpu", help="a name from `nnx devices`")
    main(**vars(parser.parse_args()))
