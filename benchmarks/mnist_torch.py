"""Train 784-16-16-10 on full MNIST in PyTorch and print the test accuracy; `mnist` times it."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

FOLDER = Path(os.environ["NNX_DATA_DIR"])


def read(name: str, header: int) -> torch.Tensor:
    """Return the bytes of an IDX file behind its header."""
    content = gzip.decompress((FOLDER / name).read_bytes())
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8, offset=header))


def read_set(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in [0, 1] and labels. Shapes: (B, 784), (B,)."""
    images = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    return images.float() / 255, read(f"{name}-labels-idx1-ubyte.gz", 8).long()


x_train, y_train = read_set("train")
x_test, y_test = read_set("t10k")
torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(5):
    for rows in torch.randperm(len(x_train)).split(32):
        optimizer.zero_grad()
        functional.cross_entropy(model(x_train[rows]), y_train[rows]).backward()
        optimizer.step()
with torch.no_grad():
    accuracy = (model(x_test).argmax(dim=1) == y_test).float().mean().item()
print(json.dumps({"accuracy": accuracy}))
