"""`profile`: where the time of a function goes, kernel by kernel or op by op."""

from __future__ import annotations

import functools
import html
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nnx.device import Device, default_device, opened
from nnx.errors import TraceError
from nnx.jit import Function, _Call
from nnx.op import recording
from nnx.watch import device_of

if TYPE_CHECKING:
    from nnx.rates import Rates
    from nnx.restore import Kept

WARM_UP = 3
ROUNDS = 15
BUDGET_S = 0.4
"""After so long no further call of the whole function is measured."""
BLOCK_S = 1e-3
WIDTH = 80


class Part(NamedTuple):
    """What was measured of a kernel or an op: its median time, None where it is too short.

    ``n_bytes`` are those of the arrays that it reads and writes, each once; ``threads`` says which
    of the machine's rates of products is its roof.
    """

    name: str
    shapes: str
    time_s: float | None
    flops: int
    n_bytes: int
    calls: int = 1
    threads: str = "all threads"


class Row(NamedTuple):
    """A kernel, or an op with arrays of some shapes, which one call of the function makes ``calls``
    times.

    ``share`` is that of all rows' time. ``gflops`` and ``gbs`` are 1e9 FLOPs and bytes a second,
    ``roof_share`` the time that the machine's rates allow over the time that it takes. All of them,
    and ``time_s``, are None where it is too short for the clock, and ``roof_share`` where neither
    FLOPs nor bytes are known.
    """

    name: str
    time_s: float | None
    share: float | None
    flops: int
    n_bytes: int
    gflops: float | None
    gbs: float | None
    roof_share: float | None
    calls: int = 1
    shapes: str = ""


class Profile:
    """What `profile` found; it prints as a table.

    ``rows`` are the kernels, ``total_s`` is the sum of their times, ``call_s`` the time of a whole
    call from Python. Rows of less than ``resolution_s`` are too short for the clock.
    """

    def __init__(
        self, name: str, device: str, rows: list[Row], call_s: float, resolution_s: float
    ) -> None:
        self.name, self.device = name, device
        self.rows, self.call_s, self.resolution_s = rows, call_s, resolution_s

    @property
    def total_s(self) -> float:
        """The sum of the rows' times."""
        return sum(row.time_s or 0.0 for row in self.rows)

    def __repr__(self) -> str:
        head, *cells = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
        lines = [self._title(), ""]
        for first, *others in (head, *cells):
            if len(first) > widths[0]:
                first = f"{first[: widths[0] - 3]}..."
            figures = [f"{x:>{width}}" for x, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([f"{first:<{widths[0]}}", *figures]).rstrip())
        return "\n".join([*lines, "", *self._notes()])

    def _repr_html_(self) -> str:
        head, *cells = ([html.escape(x) for x in row] for row in self._cells())
        rows = ["".join(f"<td>{x}</td>" for x in row) for row in cells]
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        top = "".join(f"<th>{x}</th>" for x in head)
        notes = "<br>".join(map(html.escape, self._notes()))
        title = html.escape(self._title())
        return f"<p>{title}</p><table><tr>{top}</tr>{table}</table><p>{notes}</p>"

    def _title(self) -> str:
        return f"{self.name} on {self.device}: {time_text(self.call_s)} a call"

    def _cells(self) -> list[list[str]]:
        counted = any(row.calls != 1 for row in self.rows)
        head = ["kernel", *(["calls"] if counted else []), "time", "share", "GFLOP/s", "GB/s"]
        cells = [[*head, "of roof"]]
        for row in self.rows:
            cells.append([
                f"{row.name} {row.shapes}".strip(),
                *([str(row.calls)] if counted else []),
                "short" if row.time_s is None else time_text(row.time_s),
                "" if row.share is None else f"{row.share:.1%}",
                "" if not row.flops else _rate_text(row.gflops),
                "" if not row.n_bytes else _rate_text(row.gbs),
                "" if row.roof_share is None else f"{row.roof_share:.0%}",
            ])  # fmt: skip
        return cells

    def _notes(self) -> list[str]:
        found = [f"{time_text(self.total_s)} in the kernels, {time_text(self.call_s)} the whole "
                 f"call from Python."]  # fmt: skip
        if any(row.time_s is None for row in self.rows):
            found.append(f"short: under {time_text(self.resolution_s)}, which the clock cannot "
                         f"tell from nothing.")  # fmt: skip
        return found


def _rate_text(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3g}" if rate >= 0.01 else "<0.01"


def time_text(time_s: float) -> str:
    """Return a time with three figures.

    >>> time_text(1.234e-6), time_text(0.0456), time_text(2)
    ('1.23 us', '45.6 ms', '2 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if time_s >= size:
            return f"{time_s / size:.3g} {unit}" if time_s < 1000 * size else f"{time_s:.0f} {unit}"
    return f"{1e9 * time_s:.3g} ns"


def profile(f: Any, /, *args: Any, **kwargs: Any) -> Profile:
    """Return where the time of ``f(*args, **kwargs)`` goes, as rows of a table to print.

    A function of `nnx.jit` on `numba` has a row for each product and each nest of loops of its
    source: each is compiled alone (some seconds, the first time) and run on copies of the
    function's arrays, as the kernels before it left them. On other devices there is a row for each
    op of the graph that the device runs. Any other function, such as a network, has a row for each
    op that it runs eagerly, forward and backward, with arrays of the same shapes together; a
    compiled function inside of it is one row.

    A time is the median of several repeats, without the cost of measuring; a kernel's repeats are
    blocks of calls in a row, with its arrays in the cache where they fit. The call is the median of
    blocks of whole calls, after three to warm up. FLOPs are 2 m n k for a product and one for each
    element elsewhere, whatever the function; bytes are those of the arrays read and written. The
    machine's rates, the roof, are measured once a process: see `nnx.rates`.

    ``f`` is called, several times. Then tensors, modules, optimizers, random generators and lists
    and dicts that it can reach are put back as they were, so that no parameter changes and no
    random number is used; a compiled function that builds a network, or an optimizer's slots, at
    its first call builds them. What it prints or writes elsewhere it does.
    Raises: TypeError for what cannot be called; what calling ``f`` raises, such as TraceError.

    >>> import nnx
    >>> found = profile(lambda x: nnx.exp(x @ x), nnx.ones((8, 8), device="numpy"))
    >>> [row.name for row in found.rows], found.rows[0].flops
    (['matmul', 'exp'], 1024)
    """
    if not callable(f):
        raise TypeError(
            f"nnx.profile takes a function, a function of nnx.jit or a module, and then its "
            f"arguments, as in nnx.profile(step, x, y); got {f!r:.60}, a {type(f).__name__}."
        )
    if recording.trace is not None:
        raise TraceError("nnx.profile measures calls: it cannot be called inside of nnx.jit.")
    from nnx import rates
    from nnx.restore import Kept

    name = _name_of(f)
    while isinstance(f, functools.partial):  # as a method of `nnx.jit` is
        f, args, kwargs = f.func, (*f.args, *args), {**f.keywords, **kwargs}
    kept = Kept(f, args, kwargs)
    if isinstance(f, Function):
        f.lower(*args, **kwargs)
        earlier, kept = kept, Kept(f, args, kwargs)  # what it builds at its first call stays
        kept.take("_lr", earlier)  # a schedule was asked for the rate
    try:
        if isinstance(f, Function):
            device, call_s, measure = _compiled(f, args, kwargs, kept)
        else:
            device, call_s, measure = _eager(f, args, kwargs)
    finally:
        kept.put_back()
    parts, resolution_s = measure()
    rows = rows_of(parts, rates.of_device(device))
    return Profile(name, device.name, rows, call_s, resolution_s)


Measured = tuple[list[Part], float]
"""Parts, and the time below which they are too short."""


def _name_of(f: Any) -> str:
    while isinstance(f, functools.partial):
        f = f.func
    return getattr(f, "__name__", type(f).__name__)


def _compiled(
    f: Function, args: Any, kwargs: Any, kept: Kept
) -> tuple[Device, float, Callable[[], Measured]]:
    """Return the device, the time of a call, and what measures the kernels."""

    def entry() -> tuple[Any, Any, Any]:
        call = _Call(args, kwargs, None)
        return (*f._entry(call, (args, kwargs)), call)

    with f._lock:
        for _ in range(WARM_UP):
            found = entry()[0]
            kept.add(*(found.tensor(i) for i in found.captured), *(s[0] for s in found.setters))
            kept.add(*(generator for generator, _, _ in found.draws))
            f(*args, **kwargs)
        device = found.device
        call_s = call_time_s(lambda: f(*args, **kwargs), device.synchronize)
        found, env, call = entry()
        arrays = [getattr(x, "array", x) for x in found.inputs(call.tensors)]
        program = found.program()
        f.repeat = None  # it would keep the arrays of these calls
        if hasattr(program, "machine"):
            from nnx.profile_device import DeviceKernels

            return device, call_s, DeviceKernels(program, arrays, env).measured
        if hasattr(program, "emitted"):
            from nnx.profile_native import Kernels

            kernels = Kernels(program, arrays, env)  # copies, before the memory is put back
            return device, call_s, kernels.measured
    from nnx.profile_ops import of_graph

    return device, call_s, lambda: of_graph(found, arrays, env)


def _eager(
    f: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Device, float, Callable[[], Measured]]:
    """Return the device, the time of a call, and what was measured of the ops."""
    from nnx.profile_ops import of_calls

    def call() -> None:
        f(*args, **kwargs)

    call()
    device = _Call(args, kwargs, None).tensors
    where = device[0].device if device else device_of(f) or default_device()
    call_s = call_time_s(call, _synchronize_all)
    found = of_calls(call)
    return where, call_s, lambda: found


def _synchronize_all() -> None:
    for device in opened():
        device.synchronize()


def call_time_s(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Return the seconds of a call: the median of blocks of calls, each until all is done."""

    def block(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            call()
        synchronize()
        return (time.perf_counter() - start) / n

    first = block(1)
    n, end = max(1, min(int(BLOCK_S / first), 1000)), time.perf_counter() + BUDGET_S
    found = [first]
    while len(found) <= ROUNDS and time.perf_counter() < end:
        found.append(block(n))
    import statistics

    return statistics.median(found[1:] or found)


def rows_of(parts: Sequence[Part], found: Rates) -> list[Row]:
    """Return what was measured with its share of all, its rates, and how near its roof it is."""
    from nnx.rates import roof_s

    total_s = sum(part.time_s or 0.0 for part in parts)
    rows = []
    for name, shapes, time_s, flops, n_bytes, calls, threads in parts:
        if time_s is None:
            rows.append(Row(name, None, None, flops, n_bytes, None, None, None, calls, shapes))
            continue
        roof = calls * roof_s(found, flops / calls, n_bytes / calls, threads) / time_s
        rows.append(Row(
            name, time_s, time_s / total_s, flops, n_bytes, 1e-9 * flops / time_s,
            1e-9 * n_bytes / time_s, roof if flops or n_bytes else None, calls, shapes,
        ))  # fmt: skip
    return rows


__all__ = ["Profile", "Row", "profile"]
