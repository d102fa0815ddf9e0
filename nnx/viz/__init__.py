"""Pictures of what a network does: its graph, its weights, its neurons, its learning, its faults.

Each function returns a picture with ``save(path)``, which a notebook also shows by itself.
"""

from __future__ import annotations

from nnx.viz.graphs import GraphPicture, graph
from nnx.viz.images import activations, mistakes, weights
from nnx.viz.picture import Picture, Plot
from nnx.viz.plots import confusion, history, roc

__all__ = [
    "GraphPicture", "Picture", "Plot", "activations", "confusion", "graph", "history", "mistakes",
    "roc", "weights",
]  # fmt: skip
