"""Iris: one network, 4-20-10-3, trained in two styles that come to the same.

You learn the short style, compile and fit, and the explicit one, in which the training loop is
yours; and why the flowers that measure a network must not be among those that trained it.

    python examples/iris.py --device numpy
"""

import argparse

import nnx
from nnx import nn, optim


def compile_and_fit(flowers, epochs, device):
    """Return the accuracy on the held-out flowers of a network trained by `fit`."""
    # Each layer takes its number of inputs from the first batch. The last one has no activation:
    # the loss takes its three outputs as they are, and puts softmax on them itself.
    model = nn.Sequential(nn.Dense(20, "tanh"), nn.Dense(10, "tanh"), nn.Dense(3))
    model.compile(
        optimizer=optim.Adam(0.005), loss="cross_entropy", metrics=["accuracy"], device=device
    )
    history = model.fit(flowers.x_train, flowers.y_train, batch_size=30, epochs=epochs, verbose=0)
    show("compile and fit", history.history["loss"])
    return model.evaluate(flowers.x_test, flowers.y_test)["accuracy"]


class Flowers(nn.Module):
    """The same network as a class: its layers in ``__init__``, what they compute in ``forward``."""

    def __init__(self):
        self.hidden1 = nn.Dense(20, in_features=4)
        self.hidden2 = nn.Dense(10, in_features=20)
        self.out = nn.Dense(3, in_features=10)

    def forward(self, x):
        x = nnx.tanh(self.hidden1(x))
        x = nnx.tanh(self.hidden2(x))
        return self.out(x)


def explicit_loop(flowers, epochs, device, batch_size=30):
    """Return the accuracy on the held-out flowers of a network trained by a loop of our own."""
    model = Flowers().to(device)
    optimizer = optim.Adam(model.parameters(), lr=0.005)
    x, y, x_test, y_test = (nnx.asarray(part, device=device) for part in flowers[:4])

    losses = []
    for _ in range(epochs):
        # A new order each epoch, else the network would learn from the same batches again.
        order = nnx.random.permutation(len(x), device=device)
        total = 0.0
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            optimizer.zero_grad()  # gradients add up until they are cleared
            loss = nn.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(x))
    show("explicit loop", losses)

    with nnx.no_grad():  # nothing is learned here, so nothing need be recorded
        answers = nnx.argmax(model(x_test), axis=1)
    return nnx.mean(answers == y_test).item()


def show(style, losses):
    """Print the loss at the start, in the middle and at the end."""
    n = len(losses)
    shown = ", ".join(f"epoch {i + 1}: {losses[i]:.3f}" for i in sorted({0, n // 2, n - 1}))
    print(f"{style:<16} loss after {shown}")


def main(device="cpu", epochs=100, seed=0):
    flowers = nnx.data.load("iris")
    print(f"device {nnx.device(device)}")
    print(f"{len(flowers.x_train)} flowers to learn from, {len(flowers.x_test)} held out")
    nnx.random.seed(seed)  # the same start and the same shuffles for both
    fitted = compile_and_fit(flowers, epochs, device)
    nnx.random.seed(seed)
    looped = explicit_loop(flowers, epochs, device)
    print(f"held-out flowers named right: {fitted:.1%} by fit, {looped:.1%} by the loop")
    return {"fit": fitted, "loop": looped}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Iris in two styles.")
    parser.add_argument("--device", default="cpu", help="a name from `nnx devices`")
    parser.add_argument("--epochs", type=int, default=100)
    main(**vars(parser.parse_args()))
