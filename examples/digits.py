"""Handwritten digits: 784-16-16-10, once with sigmoid and once with ReLU in its hidden layers.

You learn how many numbers a network learns (13,002 here), how pictures go in and answers come
out, and why ReLU took over: sigmoid lets less of the gradient through to the first layer.

    python examples/digits.py --device numpy --epochs 5
"""

import argparse

import nnx
from nnx import nn, optim


def build(activation):
    """Return the network: a picture's 784 pixels go in, one score a digit comes out."""
    return nn.Sequential(nn.Dense(16, activation), nn.Dense(16, activation), nn.Dense(10))


def first_gradient(model, digits):
    """Return the mean size of the gradient at the first layer's biases, before training."""
    x = nnx.asarray(digits.x_train[:500], device=model.device)
    y = nnx.asarray(digits.y_train[:500], device=model.device)
    model(x)  # the first call tells the layers their sizes, and so makes their parameters
    gradient = nnx.grad(lambda model: nn.cross_entropy(model(x), y))(model)
    return nnx.mean(nnx.abs(gradient["0.bias"])).item()


def learn(activation, digits, epochs, device):
    """Return how a network with this activation did: on each epoch, and on digits held out."""
    nnx.random.seed(0)  # both networks start from the same weights
    model = build(activation)
    model.compile(
        optimizer=optim.Adam(3e-3), loss="cross_entropy", metrics=["accuracy"], device=device
    )
    slope = first_gradient(model, digits)
    n_parameters = sum(p.size for p in model.parameters())
    history = model.fit(digits.x_train, digits.y_train, batch_size=32, epochs=epochs, verbose=0)
    scores = model.evaluate(digits.x_test, digits.y_test)
    answers = model.predict(digits.x_test[:10]).argmax(axis=1)
    return {
        "parameters": n_parameters,
        "gradient": slope,
        "epochs": history.history["accuracy"],
        "accuracy": scores["accuracy"],
        "answers": answers.tolist(),
        "model": model,
    }


def main(device="cpu", epochs=5):
    digits = nnx.data.load("digits")  # 28 x 28 pixels a row, from 0 (paper) to 1 (ink)
    print(f"device {nnx.device(device)}")
    print(f"{len(digits.x_train)} digits to learn from, {len(digits.x_test)} held out\n")
    results = {name: learn(name, digits, epochs, device) for name in ("sigmoid", "relu")}
    results["relu"]["model"].summary()

    for name, result in results.items():
        print(f"\n{name}: gradient at the first layer {result['gradient']:.5f} to begin with")
        print("  right while training: ", *(f"{share:.1%}" for share in result["epochs"]))
        print(f"  right of those held out: {result['accuracy']:.1%}")
    print("\nthe first ten held out  ", *digits.y_test[:10])
    print("what ReLU's network says", *results["relu"]["answers"])
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Handwritten digits, with sigmoid and ReLU.")
    parser.add_argument("--device", default="cpu", help="a name from `nnx devices`")
    parser.add_argument("--epochs", type=int, default=5)
    main(**vars(parser.parse_args()))
