"""The tests of repeated calls once more, whose functions become CUDA kernels here."""

import pytest

from tests.test_repeat import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("emulated")
