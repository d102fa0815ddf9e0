"""Random draws as emitted text: the words of `nnx.random`, made into numbers in its order.

The results are equal bit for bit to those of `nnx.random.Generator` from the same counters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx import philox
from nnx.kernels.expressions import cast_of

KINDS = frozenset({"bernoulli", "uniform", "normal", "integers", "permutation"})


def drawn(
    kind: str, settings: tuple[Any, ...], dtype: Any, place: str, n: str, counters: tuple[str, ...]
) -> list[str]:
    """Return lines that write a draw of n elements at ``place``; see the table in `nnx.random`.

    ``counters`` are the names of seed, stream and first block.
    """
    words, text = _element(kind, settings, dtype)
    per_block = 4 // words
    seed, stream, block = counters
    each = "q" if words == 4 else f"{per_block} * q"
    lines = [f"for q in range(({n} + {per_block - 1}) // {per_block}):"]
    lines.append(f"    r0, r1, r2, r3 = random_block({seed}, {stream}, {block} + q)")
    for i in range(per_block):
        named = {f"WORD{k}": f"r{words * i + k}" for k in range(words)}
        value = text
        for name, word in named.items():
            value = value.replace(name, word)
        lines.append(f"    if {each} + {i} < {n}:")
        lines.append(f"        {place}[{each} + {i}] = {value}")
    return lines


def _element(kind: str, settings: tuple[Any, ...], dtype: Any) -> tuple[int, str]:
    """Return how many words an element takes, and the element of WORD0, WORD1, ..."""
    if kind == "bernoulli":
        # As `philox.below` rounds: Python's round, to even.
        return 1, f"bernoulli_word(WORD0, {round(float(settings[0]) * 2**32)})"
    if kind == "permutation":
        return 2, "pair_u64(WORD0, WORD1)"
    if kind == "integers":
        return _whole(*settings)
    narrow = dtype.name == "float32"
    words, given = (1, "WORD0") if narrow else (2, "WORD0, WORD1")
    cast = cast_of(dtype)
    if kind == "normal":
        loc, scale = (float(s) for s in settings)
        text = f"normal_{cast}({given})"
        if loc != 0 or scale != 1:
            text = f"{text} * f64({scale!r}) + f64({loc!r})"
        return words, f"{cast}({text})" if narrow else text
    text = f"uniform_{cast}({given})"
    low, high = (float(s) for s in settings)
    if (low, high) != (0.0, 1.0):
        scalar = np.float32 if narrow else np.float64
        start, stop = scalar(low), scalar(high)
        span, last = (repr(float(v)) for v in (stop - start, np.nextafter(stop, start)))
        moved = f"{text} * {cast}({span}) + {cast}({float(start)!r})"
        text = f"minimum({moved}, {cast}({last}))"
    return words, text


def _whole(low: int, high: int | None) -> tuple[int, str]:
    start, stop = (0, int(low)) if high is None else (int(low), int(high))
    span = stop - start
    words = philox.words_per_scaled(span)
    pairs = "u64(0), pair_u64(WORD0, WORD1)"
    if words == 4:
        pairs = "pair_u64(WORD0, WORD1), pair_u64(WORD2, WORD3)"
    # 2**64 has no place in 64 bits; there, 0 stands for it.
    return words, f"scaled_i64({pairs}, u64({span % 2**64}), u64({start % 2**64}))"


def order(out: str, keys: str, spare: str, n: str) -> list[str]:
    """Return lines that write to ``out`` the order that sorts n keys, equal ones by index.

    A merge sort without recursion; ``spare`` has the size of ``out``.
    """
    return [
        f"for c in range({n}):",
        f"    {out}[c] = c",
        "width = 1",
        f"while width < {n}:",
        f"    for q in range(({n} + 2 * width - 1) // (2 * width)):",
        *(f"        {text}" for text in merge(out, keys, spare, n)),
        f"    for c in range({n}):",
        f"        {out}[c] = {spare}[c]",
        "    width *= 2",
    ]


def merge(out: str, keys: str, spare: str, n: str) -> list[str]:
    """Return lines that merge the q-th pair of sorted runs of ``width`` keys, by ``spare``."""
    return f"""\
low = 2 * width * q
middle = low + width if low + width < {n} else {n}
end = middle + width if middle + width < {n} else {n}
left = low
right = middle
for c in range(low, end):
    first = right >= end
    if left < middle and not first:
        first = {keys}[{out}[left]] <= {keys}[{out}[right]]
    if first:
        {spare}[c] = {out}[left]
        left += 1
    else:
        {spare}[c] = {out}[right]
        right += 1""".splitlines()
