"""Checks that users run on their own work: a function's gradients, and another array library.

The samples of the conformance table stand in `nnx.testing.samples`: they are shipped, so that the
author of a backend runs the same table as nnx itself.
"""

from __future__ import annotations

from nnx.testing.conformance import Failure, check_backend
from nnx.testing.gradients import check_grads

__all__ = ["Failure", "check_backend", "check_grads"]
