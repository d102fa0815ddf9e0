"""Every op of the table as kernels, run on the CPU in each order of threads.

What comes out is held to the bounds of native code, and so is the graph interpreted op by op.
"""

import numpy as np
import pytest

import nnx
from nnx.graph import interpret
from tests import cuda_on_cpu
from tests.cuda_machine import cuda_program
from tests.cuda_on_cpu import ORDERS
from tests.test_compiled_ops import ALL, PLAINEST, held, parts
from tests.tracing import run

pytestmark = pytest.mark.skipif(
    cuda_on_cpu.available() is not None, reason=str(cuda_on_cpu.available())
)


def cuda(form, arrays):
    """Yield the results of kernels in each order, which must be the same bits, and interpreted."""
    program = cuda_program(form.lowered)
    first = None
    for order in ORDERS:
        program.machine.order = order
        outputs = run(program, "cuda", arrays, {})
        bits = [x.tobytes() for x in outputs]
        assert first is None or bits == first, f"other bits in the order {order}"
        first = bits
        yield f"cuda, {order}", outputs
    yield "interpreted", map(np.asarray, interpret(form.graph, nnx.device("numba"), arrays, {}))


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("rows", parts(PLAINEST), ids=lambda rows: rows[0].op.name)
def test_every_op_and_its_derivatives_as_kernels(rows):
    assert held(rows, cuda) == []


@pytest.mark.slow
@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("rows", parts(ALL), ids=lambda rows: rows[0].op.name)
def test_every_sample_of_every_op_as_kernels(rows):
    assert held(rows, cuda) == []
