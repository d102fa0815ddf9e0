"""The table that ``model.summary()`` prints."""

from __future__ import annotations

from nnx.nn.module import Module
from nnx.tensor import Parameter

WIDTH = 80


def table(model: Module) -> str:
    """Return one line a layer: path and class, output shape (B the batch), number of parameters.

    A shape is known after the first call. At most 80 columns wide.
    """
    rows = [("layer", "output shape", "parameters")]
    total, learned, counted = 0, 0, set[int]()
    for path, module in model.named_modules():
        own = [part for _, part in module._members() if isinstance(part, Parameter)]
        new = [part for part in own if id(part) not in counted]
        counted.update(map(id, new))
        n = sum(part.size for part in new)
        total += n
        learned += sum(part.size for part in new if part.requires_grad)
        holds_others = any(isinstance(part, Module) for _, part in module._members())
        if own or not holds_others:
            rows.append((f"{path} {_kind(module)}".strip(), _output(module), _count(module, n)))
    lines = _aligned(rows)
    lines.insert(1, "-" * len(lines[0]))
    lines.append(lines[1])
    lines.append(f"Total parameters: {total:,}" + _rest(model, total - learned))
    return "\n".join(lines)


def _kind(module: Module) -> str:
    return type(module).__name__


def _output(module: Module) -> str:
    shape = module._output_shape
    return "?" if shape is None else f"({', '.join(['B', *map(str, shape)])})"


def _count(module: Module, n: int) -> str:
    return f"{n:,}" if module._built else "?"


def _rest(model: Module, frozen: int) -> str:
    text = f", of which {frozen:,} are frozen" if frozen else ""
    return text if model.built else f"{text} so far; call the model on an example to build it"


def _aligned(rows: list[tuple[str, str, str]]) -> list[str]:
    counts = max(len(row[2]) for row in rows)
    shapes = min(max(len(row[1]) for row in rows), 30)
    names = min(max(len(row[0]) for row in rows), WIDTH - counts - shapes - 4)
    return [
        f"{_cut(name, names):<{names}}  {_cut(shape, shapes):<{shapes}}  {count:>{counts}}"
        for name, shape, count in rows
    ]


def _cut(text: str, width: int) -> str:
    """Return text of at most ``width`` characters; of a long path the end says more."""
    return text if len(text) <= width else "..." + text[3 - width :]
