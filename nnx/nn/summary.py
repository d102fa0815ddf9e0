"""The table that ``model.summary()`` prints."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nnx.costs import flops
from nnx.errors import NnxError
from nnx.graph import Eqn
from nnx.nn.model import Model, Step, places
from nnx.nn.module import Form, Module
from nnx.nn.symbol import BATCH, Inference, Symbol, mapped
from nnx.op import Op
from nnx.scalar import Scalar, evaluator
from nnx.tensor import Parameter
from nnx.trace import tracing

WIDTH = 80


class Row(NamedTuple):
    """A line: what is computed, its output, its parameters, the ops of one example, its inputs."""

    name: str
    output: str
    parameters: str
    work: Work | None
    weight_bytes: int = 0
    source: str = ""


class Work(NamedTuple):
    """What ops do for one example: floating-point operations, and bytes that they write."""

    flops: int
    bytes: int


def table(model: Module) -> str:
    """Return one line a layer: path, class, output shape (B the batch), parameters, FLOPs, bytes.

    FLOPs and bytes are those of a forward pass for one example: 2 m n k of a product, one an
    element of the others; bytes are those of the parameters and of what the ops write. They and the
    shapes are known after the first call, and of a chain that begins with a `Dense` once it is
    built. Of a `Model` each call is a line, with what it is
    connected to. At most 80 columns wide.
    """
    rows = _model_rows(model) if isinstance(model, Model) else _module_rows(model)
    wide = isinstance(model, Model)
    lines = _aligned([_HEAD, *map(_cells, rows)], wide)
    lines.insert(1, "-" * len(lines[0]))
    lines.append(lines[1])
    return "\n".join([*lines, *_totals(model, rows)])


_HEAD = ("layer", "output shape", "parameters", "FLOPs", "bytes", "connected to")


def _cells(row: Row) -> tuple[str, ...]:
    if row.work is None:
        return (row.name, row.output, row.parameters, "?", "?", row.source)
    figures = map(_short, (row.work.flops, row.work.bytes + row.weight_bytes))
    return (row.name, row.output, row.parameters, *figures, row.source)


def _short(n: int) -> str:
    """Return a number in at most six characters.

    >>> _short(512), _short(25_088), _short(1_500_000)
    ('512', '25.1k', '1.5M')
    """
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:.1f}{name}"
    return str(n)


def _totals(model: Module, rows: Sequence[Row]) -> list[str]:
    parts = model._walk("", set())
    own = [part for _, part in parts if isinstance(part, Parameter)]
    total = sum(part.size for part in own)
    frozen = sum(part.size for part in own if not part.requires_grad)
    text = f"Total parameters: {total:,}" + (f", of which {frozen:,} are frozen" if frozen else "")
    if not model.built:
        return [f"{text} so far; call the model on an example to build it"]
    works = [row.work for row in rows if row.work is not None]
    if len(works) < len(rows):
        why = "its forward needs values" if model._example else "call the model on an example"
        return [text, f"FLOPs and bytes are not known: {why}."]
    weights = sum(part.size * part.dtype.itemsize for part in own)
    n_flops, n_bytes = (sum(column) for column in zip(*works, strict=True))
    return [text, f"A sample: {n_flops:,} FLOPs, {weights + n_bytes:,} bytes"]


# Lines of modules


def _module_rows(model: Module) -> list[Row]:
    counted = _counted(model)
    rows = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = [part for _, part in module._members() if isinstance(part, Parameter)]
        new = [part for part in own if id(part) not in seen]
        seen.update(map(id, new))
        work = None if counted is None else counted.get(id(module), Work(0, 0))
        holds_others = any(isinstance(part, Module) for _, part in module._members())
        if own or not holds_others or (work is not None and work.flops):
            name = f"{path} {type(module).__name__}".strip()
            rows.append(_row(name, _output(module), module, new, work))
    return rows


def _row(name: str, output: str, module: Any, new: list[Parameter], work: Work | None,
         source: str = "") -> Row:  # fmt: skip
    count = f"{sum(part.size for part in new):,}"
    weight_bytes = sum(part.size * part.dtype.itemsize for part in new)
    known = not isinstance(module, Module) or module.built
    return Row(name, output, count if known else "?", work, weight_bytes, source)


def _output(module: Module) -> str:
    shape = module._output_shape
    return "?" if shape is None else f"({', '.join(['B', *map(str, shape)])})"


class _Counting(Inference):
    """A trace that knows which module each of its eqns belongs to."""

    def __init__(self, model: Module) -> None:
        super().__init__(model.device)
        self._stack = [model]
        self.owners: list[Module] = []

    def called(self, module: Any, inputs: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """Run a module; what it records is its own."""
        self._stack.append(module)
        try:
            return super().called(module, inputs, settings)
        finally:
            self._stack.pop()

    def record(self, op: Op, inputs: Sequence[Any], attrs: Any) -> Any:
        """Note an op, and whose it is."""
        made = super().record(op, inputs, attrs)
        self.owners += [self._stack[-1]] * (len(self.eqns) - len(self.owners))
        return made


def _counted(model: Module) -> dict[int, Work] | None:
    """Return the work of each module by itself, by id; None where it cannot be known."""
    example = model._example or _presumed(model)
    if example is None or not model.built:
        return None
    inputs, named = mapped(example, lambda form: Symbol((BATCH, *form.shape), form.dtype))

    def run(trace: _Counting) -> None:
        twins = mapped((tuple(inputs), named), trace.twin)
        trace.called(model, *twins)

    trace = _traced(model, run)
    if trace is None:
        return None
    found: dict[int, list[Eqn]] = {}
    for eqn, owner in zip(trace.eqns, trace.owners, strict=True):
        found.setdefault(id(owner), []).append(eqn)
    return {key: _work(eqns) for key, eqns in found.items()}


def _presumed(model: Module) -> Any:
    """Return the inputs of a chain that begins with a layer of a known width, as of a file."""
    from nnx.nn.layers import Dense, Sequential

    first = model
    while isinstance(first, Sequential) and first.layers:
        first = first.layers[0]
    if not isinstance(first, Dense) or not first.built:
        return None
    return (Form((first.weight.shape[0],), first.weight.dtype),), {}


def _traced(model: Module, run: Callable[[_Counting], None]) -> _Counting | None:
    """Return a trace of a run in the mode for predictions; None where the run needs values."""
    from nnx.loop import mode

    try:
        with tracing, mode(model, training=False), _Counting(model) as trace:
            run(trace)
            trace.raise_refused()
    except NnxError:
        return None
    return trace


def _work(eqns: Sequence[Eqn]) -> Work:
    """Return what eqns do for one example more."""
    one, two = (
        [_costs(eqn, functools.partial(_size, batch=batch)) for eqn in eqns] for batch in (1, 2)
    )
    more = [(n - m, b - a) for (m, a), (n, b) in zip(one, two, strict=True)]
    return Work(sum(n for n, _ in more), sum(b for _, b in more))


def _size(n: Any, batch: int) -> int:
    return int(evaluator(n.text)({"B": batch})) if isinstance(n, Scalar) else n


def _costs(eqn: Eqn, size: Callable[[Any], int]) -> tuple[int, int]:
    """Return the FLOPs of an eqn, and the bytes that it writes."""
    out = [size(n) for n in eqn.out.shape]
    n_flops = flops(eqn.op, [[size(n) for n in x.shape] for x in eqn.vars], out)
    n_bytes = 0 if eqn.op.kind == "layout" else math.prod(out) * eqn.out.dtype.itemsize
    return n_flops, n_bytes


# Lines of calls


def _model_rows(model: Model) -> list[Row]:
    graph = model._graph
    ends: list[int] = []

    def run(trace: _Counting) -> None:
        values: list[Any] = [trace.twin(x) for x in graph.symbols()[: len(graph.inputs)]]
        for step in graph.steps:
            graph.go_on(step, values, {"B": BATCH})
            ends.append(len(trace.eqns))

    trace = _traced(model, run)
    labels = [name for name, _, _ in graph.inputs]
    rows = [
        Row(f"{name} Input", _shapes([(BATCH, *shape)]), "0", Work(0, 0))
        for name, shape, _ in graph.inputs
    ]
    seen: set[int] = set()
    for i, step in enumerate(graph.steps):
        start = ends[i - 1] if i else 0
        work = None if trace is None else _work(trace.eqns[start : ends[i]])
        rows.append(_step_row(step, labels, seen, work))
        labels += [step.name] * len(step.forms)
    return rows


def _step_row(step: Step, labels: list[str], seen: set[int], work: Work | None) -> Row:
    if isinstance(step.target, Module):
        name = f"{step.name} {type(step.target).__name__}"
        parts = [p for _, p in step.target._walk("", set()) if isinstance(p, Parameter)]
    else:
        name = step.name
        parts = [x for x in step.args if isinstance(x, Parameter)]
    new = [part for part in parts if id(part) not in seen]
    seen.update(map(id, new))
    shape = _shapes([form for form, _ in step.forms])
    source = ", ".join(dict.fromkeys(labels[at.place] for at in places((step.args, step.settings))))
    row = _row(name, shape, step.target, new, work, source)
    return row._replace(parameters="shared") if parts and not new else row


def _shapes(forms: Sequence[Any]) -> str:
    return ", ".join(f"({', '.join(map(str, form))})" for form in forms)


# The table


def _aligned(rows: list[tuple[str, ...]], connected: bool) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    numbers = sum(widths[2:5]) + 6
    widths[1] = min(widths[1], 30 if not connected else 16)
    rest = WIDTH - numbers - widths[1] - 2
    if connected:
        widths[5] = min(widths[5], max(12, rest - 2 - widths[0]))
        rest -= widths[5] + 2
    widths[0] = min(widths[0], rest)
    lines = []
    for row in rows:
        cells = [_cut(row[i], widths[i]).ljust(widths[i]) for i in (0, 1)]
        cells += [row[i].rjust(widths[i]) for i in (2, 3, 4)]
        cells += [_cut(row[5], widths[5]).ljust(widths[5])] if connected else []
        lines.append("  ".join(cells).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    """Return text of at most ``width`` characters; of a long path the end says more."""
    return text if len(text) <= width else "..." + text[3 - width :]
