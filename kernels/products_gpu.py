"""Products of row-major matrices on a GPU, prepared once and then run with addresses alone.

The algorithm is the fastest that cuBLASLt proposes, measured and kept on disk.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from ctypes import byref
from typing import Any, NamedTuple

from nnx.errors import DeviceError
from nnx.kernels import choices, cublaslt
from nnx.kernels.cache import UnusableError
from nnx.kernels.choices import Choice
from nnx.kernels.cublaslt import Algo, HeuristicResult, Library, MatmulDesc, Status, StatusError
from nnx.kernels.problems_gpu import (
    COMPUTE,
    EPILOGUES,
    Description,
    Problem,
    aux_bytes,
    bias_length,
    check,
    packed,
    preference,
)

__all__ = [
    "EPILOGUES", "WORKSPACE_BYTES", "Gpu", "NoAlgorithmError", "Plan", "Pointers", "Problem",
    "Timer", "aux_bytes", "bias_length", "check", "current_gpu", "event_timer", "packed", "prepare",
]  # fmt: skip

WORKSPACE_BYTES = 32 << 20
"""The workspace that NVIDIA recommends for the GPUs from 2022 on; one serves a whole stream."""

CANDIDATES = 8
"""How many of the algorithms that cuBLASLt proposes are measured."""

ALIGNMENT_BYTES = 256
"""Addresses are told apart by alignment up to this, the most that cuBLASLt asks for."""

REFUSALS = (Status.NOT_SUPPORTED, Status.INVALID_VALUE, Status.ARCH_MISMATCH)
"""What cuBLASLt answers where it has nothing for a problem, and nothing is broken."""


class NoAlgorithmError(DeviceError):
    """cuBLASLt has no algorithm for a problem; without the epilogue it may have one."""


class Pointers(NamedTuple):
    """Addresses in the GPU's memory: the matrices, what the epilogue has, the workspace."""

    a: int
    b: int
    c: int
    bias: int = 0
    aux: int = 0
    workspace: int = 0


class Gpu(NamedTuple):
    """A GPU: its index, and what a measurement on it is good for."""

    index: int
    name: str
    capability: int
    multiprocessors: int


def current_gpu() -> Gpu:
    """Return the GPU that is current in CuPy."""
    from cupy.cuda import runtime  # type: ignore[import-not-found, unused-ignore]

    index = int(runtime.getDevice())
    found = runtime.getDeviceProperties(index)
    capability = 10 * int(found["major"]) + int(found["minor"])
    return Gpu(index, found["name"].decode(), capability, int(found["multiProcessorCount"]))


class Plan:
    """A product ready to run, on one GPU and with one workspace; made by `prepare`.

    Not for two threads at a time; nor for two streams, which would share the workspace.
    """

    def __init__(self, library: Library, problem: Problem, index: int, pointers: Pointers) -> None:
        self.problem = problem
        self.choice = Choice(bytes(cublaslt.ALGO_BYTES), 0, 0.0)
        kind = EPILOGUES[problem.epilogue]
        self._used = (True, True, True, bool(kind.bias), bool(kind.aux))
        self.alignments = tuple(
            min(x & -x, ALIGNMENT_BYTES) if used and x else 1
            for x, used in zip(pointers[:5], self._used, strict=True)
        )
        self._masks = tuple(alignment - 1 for alignment in self.alignments)
        self._library, self._handle = library, library.handle(index)
        self.version = library.version
        self._description = Description(library, problem)
        self._addresses = self._description.addresses()
        scalar = COMPUTE[problem.compute][2]
        self._alpha, self._beta = byref(scalar(1)), byref(scalar(problem.beta))
        self._algo, self._workspace = Algo(), pointers.workspace
        self._bias = self._aux = 0
        self._refuse(pointers[:5])
        self._point(pointers.bias, pointers.aux)

    def run(self, a: int, b: int, c: int, bias: int = 0, aux: int = 0, stream: int = 0) -> None:
        """Queue the product of the matrices at these addresses on a stream.

        Nothing is allocated, searched or waited for, so it may be captured; the addresses are then
        part of the graph. C is written, and ``bias`` and ``aux`` where the epilogue says so.
        Raises: DeviceError for an address that is missing or less aligned than the one it was
        prepared with, and in a forked child; StatusError where cuBLASLt refuses.
        """
        mask_a, mask_b, mask_c, mask_bias, mask_aux = self._masks
        bad = a & mask_a | b & mask_b | c & mask_c | bias & mask_bias | aux & mask_aux
        if bad or not (a and b and c and self._handle.address):
            self._refuse((a, b, c, bias, aux))
        if bias != self._bias or aux != self._aux:
            self._refuse((a, b, c, bias, aux))
            self._point(bias, aux)
        operation, layout_a, layout_b, layout_c, layout_d = self._addresses
        status = self._library.functions.cublasLtMatmul(
            self._handle.address, operation,
            self._alpha, b, layout_a, a, layout_b,
            self._beta, c, layout_c, c, layout_d,
            byref(self._algo), self._workspace, self.choice.workspace_bytes, stream,
        )  # fmt: skip
        if status:
            raise self._library.error("cublasLtMatmul", status, self.problem)

    def take(self, choice: Choice) -> None:
        """Run with an algorithm from now on."""
        self.choice, self._algo = choice, Algo.from_buffer_copy(choice.algo)

    def candidates(self, workspace_bytes: int) -> list[Choice]:
        """Return the algorithms that cuBLASLt proposes, the one it thinks the fastest first.

        Raises: NoAlgorithmError where there is none.
        """
        wanted = preference(self._library, self.problem, workspace_bytes, self.alignments)
        results, count = (HeuristicResult * CANDIDATES)(), ctypes.c_int()
        name, answer = "cublasLtMatmulAlgoGetHeuristic", ""
        try:
            self._library.call(
                name, self._handle.address, *self._addresses, wanted.address, CANDIDATES,
                results, byref(count), about=self.problem,
            )  # fmt: skip
        except StatusError as error:
            if error.status not in REFUSALS:
                raise
            answer = f" {error}"
        found = [
            Choice(bytes(result.algo), result.workspace_bytes, 0.0)
            for result in results[: count.value]
            if result.state == Status.SUCCESS and result.workspace_bytes <= workspace_bytes
        ]
        if not found:
            raise NoAlgorithmError(
                f"cuBLASLt {self._library.version} has no algorithm for {self.problem} with "
                f"{workspace_bytes} bytes of workspace and addresses aligned to {self.alignments} "
                f"bytes. Without an epilogue it may have one.{answer}"
            )
        return found

    def accepts(self, choice: Choice, workspace_bytes: int) -> bool:
        """Return whether the library takes an algorithm for this problem and workspace."""
        if len(choice.algo) != cublaslt.ALGO_BYTES:
            return False
        algo, result = Algo.from_buffer_copy(choice.algo), HeuristicResult()
        status = self._library.functions.cublasLtMatmulAlgoCheck(
            self._handle.address, *self._addresses, byref(algo), byref(result)
        )
        needed: int = result.workspace_bytes
        return status == Status.SUCCESS and needed <= choice.workspace_bytes <= workspace_bytes

    def _point(self, bias: int, aux: int) -> None:
        """Let the epilogue use these addresses."""
        operation = self._description.operation
        if self._used[3]:
            operation[MatmulDesc.BIAS_POINTER] = bias
        if self._used[4]:
            operation[MatmulDesc.EPILOGUE_AUX_POINTER] = aux
        self._bias, self._aux = bias, aux

    def _refuse(self, addresses: tuple[int, ...]) -> None:
        """Raise what keeps the plan from running with these addresses, if anything does."""
        if not self._handle.address:
            raise DeviceError(f"The product {self.problem} cannot run. {self._handle.lost}")
        for name, x, used, alignment in zip(
            Pointers._fields, addresses, self._used, self.alignments, strict=False
        ):
            if used and not x:
                raise DeviceError(f"The product {self.problem} needs the address of {name}.")
            if used and x % alignment:
                raise DeviceError(
                    f"The product {self.problem} was prepared with {name} at a multiple of "
                    f"{alignment} bytes, and {x:#x} is none. Prepare it with such an address."
                )


Timer = Callable[[Callable[[], None], int], float]
"""``timer(launch, stream)`` returns the seconds that one launch takes on the GPU."""


def prepare(
    problem: Problem,
    pointers: Pointers,
    stream: int = 0,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
    gpu: Gpu | None = None,
    timer: Timer | None = None,
    library: Library | None = None,
) -> Plan:
    """Return a plan with the algorithm that is the fastest for a problem on the current GPU.

    The choice comes from disk, or is measured here and kept, by problem, alignment, workspace,
    cuBLASLt's version, GPU, and whether the stream can be captured. Either way the product runs at
    least once, at ``pointers``: C, bias and aux are written as by `Plan.run`, and its kernel is
    loaded. Not while a stream captures.
    Another choice adds in another order: where none can be kept, two runs may differ by rounding.
    Raises: ShapeError, DTypeError; NoAlgorithmError; DeviceError as `cublaslt.library` and
    `Library.handle` do; StatusError.
    """
    check(problem)
    if workspace_bytes and (not pointers.workspace or pointers.workspace % ALIGNMENT_BYTES):
        raise DeviceError(
            f"A workspace of {workspace_bytes} bytes needs an address that is a multiple of "
            f"{ALIGNMENT_BYTES}, not {pointers.workspace:#x}."
        )
    library = library or cublaslt.library()
    gpu = gpu or current_gpu()
    plan = Plan(library, problem, gpu.index, pointers)
    key = _key(plan, workspace_bytes, gpu, stream)

    def launch() -> None:
        plan.run(*pointers[:5], stream=stream)

    fault = ""
    try:
        kept = choices.load(key)
        if kept is not None:
            if not plan.accepts(kept, workspace_bytes):
                raise UnusableError("is not taken by cuBLASLt")
            plan.take(kept)
            launch()
            return plan
    except (UnusableError, StatusError) as error:
        fault = str(error)
    plan.take(_fastest(plan, launch, workspace_bytes, stream, timer or event_timer))
    choices.keep(key, plan.choice)
    # Last, so that a warning that was made an error finds the choice mended.
    if fault:
        warnings.warn(
            f"The choice of an algorithm in {choices.path_of(key)} {fault}. It was measured again.",
            UserWarning,
            stacklevel=2,
        )
    return plan


def _key(plan: Plan, workspace_bytes: int, gpu: Gpu, stream: int) -> dict[str, Any]:
    """Return what a measurement of a plan is good for."""
    return {
        "problem": plan.problem._asdict(), "alignments": list(plan.alignments),
        "workspace_bytes": workspace_bytes, "cublaslt": plan.version,
        "gpu": {**gpu._asdict(), "index": None},
        "captured": bool(stream),  # else calls may have been timed
    }  # fmt: skip


def is_faster(
    other: Callable[[], None], name: str, plan: Plan, stream: int, *,
    workspace_bytes: int = WORKSPACE_BYTES, gpu: Gpu | None = None, timer: Timer | None = None,
) -> bool:  # fmt: skip
    """Return whether something else that does a plan's work takes less time than the plan.

    Its time is measured once, and kept under its name as choices are.
    """
    key = {"name": name, **_key(plan, workspace_bytes, gpu or current_gpu(), stream)}
    try:
        kept = choices.load(key)
    except UnusableError:
        kept = None
    if kept is None:
        kept = Choice(b"", 0, float((timer or event_timer)(other, stream)))
        choices.keep(key, kept)
    return kept.time_s < plan.choice.time_s


def _fastest(
    plan: Plan, launch: Callable[[], None], workspace_bytes: int, stream: int, timer: Timer
) -> Choice:
    """Return the proposed algorithm that takes the least time; of equals the first proposed."""
    measured, refusal = [], ""
    for candidate in plan.candidates(workspace_bytes):
        plan.take(candidate)
        try:
            measured.append(candidate._replace(time_s=float(timer(launch, stream))))
        except StatusError as error:
            if error.status not in REFUSALS:
                raise
            refusal = str(error)
    if not measured:
        raise NoAlgorithmError(f"None of the algorithms that cuBLASLt proposes runs. {refusal}")
    return min(measured, key=lambda choice: choice.time_s)


class _Address:
    """A stream by its address, in the words of CUDA's stream protocol."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


def event_timer(launch: Callable[[], None], stream: int) -> float:
    """Return the seconds of one launch by CUDA's events, the least of three rounds.

    Launches on a stream of its own are captured and replayed, as those of a step are: queued one
    by one, small products would all take the time of a call. The default stream (0) cannot be.
    """
    from cupy import cuda  # type: ignore[import-not-found, unused-ignore]

    on = cuda.Stream.from_external(_Address(stream)) if stream else cuda.Stream.null

    def seconds(work: Callable[[], None]) -> float:
        start, end = cuda.Event(), cuda.Event()
        start.record(on)
        work()
        end.record(on)
        end.synchronize()
        return float(cuda.get_elapsed_time(start, end)) * 1e-3

    launch()  # loads the kernel
    n = max(1, min(50, int(1e-3 / max(seconds(launch), 1e-6))))

    def several() -> None:
        for _ in range(n):
            launch()

    work = several
    if stream:
        # What other threads do on the GPU is none of this capture's business.
        on.begin_capture(cuda.runtime.streamCaptureModeThreadLocal)
        try:
            several()
        finally:
            graph = on.end_capture()
        graph.launch(on)

        def work() -> None:
            graph.launch(on)

    return min(seconds(work) for _ in range(3)) / n
