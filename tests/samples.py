"""The inputs for each op: the table that the package ships, and that these tests run.

It stands in `nnx.testing.samples`, where `nnx.testing.check_backend` reads it too. A new op needs
one row there.
"""

from nnx.testing.samples import SAMPLES, Sample

__all__ = ["SAMPLES", "Sample"]
