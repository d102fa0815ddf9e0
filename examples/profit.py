"""From scratch: learn from 10,000 days which of them make a profit, with tensors and gradients.

You learn what training is (guess, measure, step against the gradient, repeat), how the two ways to
say "yes or no" compare, and why a loss takes the numbers before the sigmoid or softmax.

    python examples/profit.py --device numpy
"""

import argparse

import nnx


def with_sigmoid(p, x, y):
    """Return the cost of one output a day: the sigmoid of it is the probability of a profit."""
    return nnx.binary_cross_entropy(x @ p["weight"] + p["bias"], y)


def with_softmax(p, x, y):
    """Return the cost of two outputs a day, for loss and profit: softmax makes them add up to 1."""
    return nnx.cross_entropy(x @ p["weight"] + p["bias"], y)


def train(cost, p, x, y, steps, rate):
    """Return the parameters after a number of steps against the gradient, over all days at once."""
    value_and_grad = nnx.value_and_grad(cost)
    for step in range(1, steps + 1):
        value, gradient = value_and_grad(p, x, y)
        p = {name: p[name] - rate * gradient[name] for name in p}
        if step == 1 or step % 100 == 0:
            print(f"  step {step:4}  cost {value:.4f}")
    return p


def rule(weight, bias, mean, std):
    """Return what was learned as numbers a, b, c of the rule a x + b y + c z > 20."""
    weight = weight / std  # undo the scaling of the inputs
    bias = bias - nnx.sum(weight * mean)
    return (weight * (-20 / bias)).tolist()


def main(device="cpu", steps=500):
    days = nnx.data.load("profit")  # NumPy arrays; a day made a profit where 4x + 3y - z > 20
    with nnx.device(device):
        x, y = nnx.asarray(days.x_train), nnx.asarray(days.y_train)
        x_test, y_test = nnx.asarray(days.x_test), nnx.asarray(days.y_test)
        one = {"weight": nnx.zeros((3,)), "bias": nnx.zeros(())}
        two = {"weight": nnx.zeros((3, 2)), "bias": nnx.zeros((2,))}
    # With inputs around 0 and of size 1, one learning rate suits all parameters. The test days
    # are scaled by what the training days are like: nothing may be learned from them.
    mean, std = nnx.mean(x, axis=0), nnx.std(x, axis=0)
    x, x_test = (x - mean) / std, (x_test - mean) / std

    print(f"device {x.device}\nsigmoid and binary cross-entropy")
    p = train(with_sigmoid, one, x, y, steps, rate=1.0)
    # The sigmoid is above one half where its input is above 0, so it need not be formed.
    says_profit = x_test @ p["weight"] + p["bias"] > 0
    sigmoid = {
        "accuracy": nnx.mean(says_profit == (y_test == 1)).item(),
        "rule": rule(p["weight"], p["bias"], mean, std),
    }

    print("softmax and cross-entropy")
    p = train(with_softmax, two, x, y, steps, rate=1.0)
    choice = nnx.argmax(x_test @ p["weight"] + p["bias"], axis=1)
    # Only the difference of two outputs matters: with two classes, softmax is a sigmoid of it.
    weight, bias = p["weight"][:, 1] - p["weight"][:, 0], p["bias"][1] - p["bias"][0]
    softmax = {
        "accuracy": nnx.mean(choice == y_test).item(),
        "rule": rule(weight, bias, mean, std),
    }

    for name, result in {"sigmoid": sigmoid, "softmax": softmax}.items():
        a, b, c = result["rule"]
        print(f"{name}: {result['accuracy']:.1%} of the test days right;", end=" ")
        print(f"it learned {a:.1f}x + {b:.1f}y {c:+.1f}z > 20")

    # exp(1000) is too large for any float. The losses know a form of log(sigmoid) without it.
    far = nnx.asarray(1000.0, device=device)
    wrong = nnx.binary_cross_entropy(far, nnx.zeros_like(far)).item()
    print(f"the cost of being wrong with an output of 1000: {wrong:.0f}, and no overflow")
    return {"sigmoid": sigmoid, "softmax": softmax, "far": wrong}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train from scratch, with sigmoid and softmax.")
    parser.add_argument("--device", default="cpu", help="a name from `nnx devices`")
    parser.add_argument("--steps", type=int, default=500)
    main(**vars(parser.parse_args()))
