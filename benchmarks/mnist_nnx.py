"""Train 784-16-16-10 on full MNIST in nnx and print the test accuracy; `mnist` times it."""

import json

import nnx
from nnx import nn, optim

digits = nnx.data.load("mnist")
nnx.random.seed(0)
model = nn.Sequential(nn.Dense(16, "relu"), nn.Dense(16, "relu"), nn.Dense(10))
model.compile(
    optimizer=optim.Adam(1e-3), loss="cross_entropy", metrics=["accuracy"], device="numba"
)
model.fit(digits.x_train, digits.y_train, batch_size=32, epochs=5, verbose=0)
print(json.dumps({"accuracy": model.evaluate(digits.x_test, digits.y_test)["accuracy"]}))
