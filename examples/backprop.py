"""Backpropagation, in numbers that fit on paper: every derivative on one way from right to left.

You learn how the gradient of a small network is formed by hand, that nnx finds the same, and what
a derivative says: by how much the cost changes when a parameter is changed a little.

    python examples/backprop.py --device numpy
"""

import argparse

import nnx

NETWORK = {"w1": 2.0, "b1": 0.0, "w2": 3.0, "b2": 1.0}  # two layers of one unit each
INPUTS = {"a": 2.0, "b": 3.0, "c": 7.0, "d": 4.0}


def error(a2, y=5.0):
    """Return half the squared error; the half makes its derivative a2 - y."""
    return 0.5 * (a2 - y) ** 2


def cost(p, x=1.0):
    """Return the error of relu(w2 * relu(w1 * x + b1) + b2)."""
    a1 = nnx.relu(p["w1"] * x + p["b1"])
    a2 = nnx.relu(p["w2"] * a1 + p["b2"])
    return error(a2)


def by_hand(w1, b1, w2, b2, x=1.0, y=5.0):
    """Return the derivatives of the cost in the order in which they are found: from its end."""
    z1 = w1 * x + b1  # forward first, and each value is kept: the way back needs it
    a1 = max(z1, 0.0)
    z2 = w2 * a1 + b2
    a2 = max(z2, 0.0)
    d_a2 = a2 - y
    d_z2 = d_a2 * (z2 > 0)  # ReLU lets the gradient through where it let the value through
    d_w2, d_b2, d_a1 = d_z2 * a1, d_z2, d_z2 * w2
    d_z1 = d_a1 * (z1 > 0)
    d_w1, d_b1 = d_z1 * x, d_z1
    return {"a2": d_a2, "w2": d_w2, "b2": d_b2, "w1": d_w1, "b1": d_b1}


def drawn(x):
    """Return the graph that made a tensor: each result knows its op and that op's inputs."""
    if x.node is None:
        return x.name
    return f"{x.node.op.name}({', '.join(drawn(i) for i in x.node.inputs)})"


def main(device="cpu"):
    def number(value):
        return nnx.asarray(value, dtype="float64", device=device)

    # The functional style: a function in, its value and gradient out, in the same structure.
    p = {name: number(value) for name, value in NETWORK.items()}
    value, gradient = nnx.value_and_grad(cost)(p)
    found = {name: g.item() for name, g in gradient.items()}
    # For something between input and cost, the function starts there: a2 is 7 in this network.
    found["a2"] = nnx.grad(error)(number(7.0)).item()
    print(f"device {value.device}\nJ = {value.item()}\n\n         by hand    nnx")
    for name, derivative in by_hand(**NETWORK).items():
        print(f"dJ/d{name}  {derivative:8}  {found[name]:5}")

    nudged = cost(p | {"w1": number(2.001)}).item()
    rise = (nudged - value.item()) / 0.001
    print(f"\nw1 raised to 2.001: J = {nudged:.7f}, a rise of {rise:.4f} a unit of w1")

    # The tape style: mark the inputs, compute, ask the result to go backward.
    a, b, c, d = inputs = [number(v) for v in INPUTS.values()]
    for name, x in zip(INPUTS, inputs, strict=True):
        x.name, x.requires_grad = name, True
    z = (a + b) * (c - d)
    graph = drawn(z)
    z.backward()
    slopes = {x.name: x.grad.item() for x in inputs}
    print(f"\nz = (a + b) * (c - d) = {z.item()} at {INPUTS}")
    print(f"as a graph: {graph}")
    print(f"dz/da = dz/db = c - d, dz/dc = a + b, dz/dd = -(a + b):\n{slopes}")
    by = by_hand(**NETWORK)
    return {"J": value.item(), "by_hand": by, "nnx": found, "nudged": nudged, "z": slopes}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Backpropagation, by hand and by nnx.")
    parser.add_argument("--device", default="cpu", help="a name from `nnx devices`")
    main(**vars(parser.parse_args()))
