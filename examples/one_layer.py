"""One dense layer, looped and vectorised: the same numbers, and why the second form is written.

You learn that a layer is one matrix product and one activation, what shapes it takes, and what
nnx says when a transpose is missing.

    python examples/one_layer.py --device numpy
"""

import argparse
import textwrap

import nnx

X = [[200.0, 17.0]]  # one row: the roasting of some coffee, 200 degrees for 17 minutes
W = [[1.0, -3.0, 5.0], [-2.0, 4.0, -6.0]]  # one column a unit, one row a feature
B = [[-1.0, 1.0, 2.0]]

QUANTITIES = [[0.0, 2.0, 1.0]]
PRICES = [[1.99, 2.50, 10.0]]


def dense_looped(x, weight, bias):
    """Compute a layer as the textbook first writes it: unit by unit, product by product."""
    n_in, n_units = weight.shape
    activations = []
    for j in range(n_units):
        z = bias[0, j]
        for i in range(n_in):
            z = z + x[0, i] * weight[i, j]
        activations.append(nnx.sigmoid(z))
    return nnx.stack(activations).reshape(1, n_units)


def dense(x, weight, bias):
    """Compute all units, and any number of rows of x, in one matrix product.

    Shapes: x (rows, features), weight (features, units), bias (1, units) -> (rows, units)
    """
    return nnx.sigmoid(x @ weight + bias)


def total_price(quantities, prices):
    """Return quantities times prices, and the error of the product without a transpose."""
    try:
        quantities @ prices
    except nnx.ShapeError as error:
        explanation = str(error)
    # (1, 3) @ (3, 1) -> (1, 1): each quantity meets its price, and the sum is one number.
    return (quantities @ prices.T).item(), explanation


def main(device="cpu"):
    with nnx.device(device):  # where the arrays made below live; no other line names it
        x, weight, bias = nnx.asarray(X), nnx.asarray(W), nnx.asarray(B)
        quantities, prices = nnx.asarray(QUANTITIES), nnx.asarray(PRICES)

    z = x @ weight + bias  # what the sigmoid is taken of
    looped = dense_looped(x, weight, bias)
    vectorised = dense(x, weight, bias)
    # Sigmoid is the probability of "yes"; from one half on, the answer is yes.
    answers = nnx.where(vectorised >= 0.5, 1, 0)
    print(f"device      {x.device}")
    print(f"x @ W + B   {z.tolist()}")
    print(f"looped      {looped.tolist()}")
    print(f"vectorised  {vectorised.tolist()}")
    print(f"answers     {answers.tolist()}")

    # Shapes decide what a product means. Both lists are rows here, (1, 3) and (1, 3).
    price, explanation = total_price(quantities, prices)
    print("\nquantities @ prices    is refused; nnx.ShapeError says:")
    print(textwrap.indent(textwrap.fill(explanation, 72), "    "))
    print(f"quantities @ prices.T  {price}")
    return {
        "z": z.tolist(),
        "looped": looped.tolist(),
        "vectorised": vectorised.tolist(),
        "answers": answers.tolist(),
        "price": price,
        "explanation": explanation,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One dense layer, looped and vectorised.")
    parser.add_argument("--device", default="cpu", help="a name from `nnx devices`")
    main(**vars(parser.parse_args()))
