"""Pictures of what a network does: its graph, its weights, its neurons, its learning, its faults.

Each function returns a picture with ``save(path)``, which a notebook also shows by itself.
"""

from __future__ import annotations

from nnx.viz.graphs import GraphPicture, graph
from nnx.viz.picture import Picture, Plot

__all__ = ["GraphPicture", "Picture", "Plot", "graph"]
