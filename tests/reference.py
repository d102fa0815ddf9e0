"""A lowered graph in wider arithmetic by NumPy alone, and by how much rounding may move it.

Every rounded eqn may be off by a few units in the last place of its type: sums by the usual
n eps sum|x|, functions by 4 units, single operations by 1. `bounds` works the graph out without
these errors, then several times with errors of random sign and size up to that bound put in after
each eqn. What moves an output little is not allowed to move it much: the error of a program may
be `FACTOR` times the largest difference that was seen, plus 4 units of its own.

Values that are merely moved or chosen get no error. So what is equal stays equal, and what jumps
does so for all or, where rounding decides, shows it by its bound.
"""

import math

import numpy as np

from nnx.graph import CHECK, FULL, IOTA, Var
from nnx.scalar import evaluator, resolve

WIDE = np.longdouble  # where it is no wider than float64, the errors put in still are the larger
RUNS, FACTOR = 5, 4

CHOOSES = frozenset({
    "negative", "positive", "abs", "sign", "floor", "ceil", "trunc", "round", "maximum", "minimum",
    "copysign", "where", "max", "min", "any", "all", "argmax", "argmin", "isnan", "isinf",
    "isfinite", "signbit", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or", "logical_xor", "logical_not", "floor_divide", "reshape",
    "permute_dims", "broadcast_to", "flip", "roll", "tile", "repeat", "concat", "getitem",
})  # fmt: skip
SINGLE = frozenset({"add", "subtract", "multiply", "divide", "sqrt", "square", "reciprocal",
                    "astype", "remainder"})  # fmt: skip
IN_OWN_TYPE = frozenset({"floor_divide", "remainder", "round"})
"""Steps of whole numbers of times: of the values that the type has, not of nearer ones."""


def bounds(graph, arrays, env, seed=0):
    """Return (value, bound) of each output; both NaN where rounding decides whether it is one."""
    exact = evaluate(graph, arrays, env)
    moved = [np.zeros(x.shape, WIDE) for x in exact]
    with np.errstate(all="ignore"):
        for k in range(RUNS):
            noisy = evaluate(graph, arrays, env, np.random.default_rng([seed, k]))
            for i, x in enumerate(noisy):
                if x.dtype == WIDE:
                    difference = np.where(x == exact[i], 0, abs(x - exact[i]))
                    both = np.isnan(x) & np.isnan(exact[i])
                    moved[i] = np.maximum(moved[i], np.where(both, 0, difference))
                else:
                    moved[i] = np.where(x != exact[i], np.nan, moved[i])
        return [
            (x, FACTOR * m + 4 * _spacing(x, v.dtype))
            for x, m, v in zip(exact, moved, graph.outputs, strict=True)
        ]


def wrong(x, wanted, bound):
    """Return where an output is farther from what is wanted than its bound; where that is NaN, not.

    A NaN is right where NaN is wanted.
    """
    with np.errstate(all="ignore"):
        right = (x == wanted) | ((x != x) & (wanted != wanted)) | ~np.isfinite(bound)
        if x.dtype.kind == "f":
            right |= abs(x - wanted) <= bound
    return np.argwhere(~right)


def evaluate(graph, arrays, env, rng=None):
    """Return a graph's outputs, floats as `WIDE`; with a generator, each eqn with an error."""
    values = {
        x: a.astype(WIDE) if x.dtype.is_floating else a
        for x, a in zip(graph.inputs, arrays, strict=True)
    }
    with np.errstate(all="ignore"):
        for eqn in graph.eqns:
            given = [_operand(x, eqn, values, env) for x in eqn.inputs]
            attrs = {name: resolve(value, env) for name, value in eqn.attrs.items()}
            if eqn.op is CHECK:
                assert rng is not None or not given[0].any()
            out = _result(eqn, given, attrs)
            if eqn.out.dtype.is_floating:
                out = np.asarray(out, WIDE)
                if rng is not None and eqn.op.name not in CHOOSES:
                    # Below the normal numbers, places lie no closer than the least.
                    least = WIDE(np.finfo(eqn.out.dtype.name).smallest_subnormal)
                    limit = _error(eqn, given, attrs, out) + (out != 0) * least
                    out = out + limit * rng.uniform(-1, 1, out.shape)
                out = _in_range(out, eqn.out.dtype)
            else:
                out = np.asarray(out, eqn.out.dtype.name)
            values[eqn.out] = out
    return [values[x] for x in graph.outputs]


def _operand(x, eqn, values, env):
    if isinstance(x, Var):
        return values[x]
    if x is None:
        return x
    number = evaluator(x.text)(env) if hasattr(x, "text") else x
    held = [y.dtype for i, y in enumerate(eqn.inputs) if i in eqn.op.values and isinstance(y, Var)]
    kind = held[0] if held else eqn.out.dtype
    rounded = np.asarray(number).astype(kind.name)  # a Python number takes the arrays' type
    return rounded.astype(WIDE) if kind.is_floating else rounded


def _result(eqn, given, attrs):
    name, out = eqn.op.name, eqn.out
    if eqn.op is FULL:
        return np.full(attrs["shape"], np.asarray(attrs["value"]).astype(out.dtype.name))
    if eqn.op is IOTA:
        return np.arange(attrs["n"])
    if eqn.op is CHECK:
        return given[0]
    if name == "astype":
        return given[0].astype(WIDE if out.dtype.is_floating else out.dtype.name)
    if name in ("getitem", "scatter_add"):
        filled = [given[1 + int(k[1:])] if isinstance(k, str) else k for k in attrs["key"]]
        if name == "getitem":
            return given[0][tuple(filled)]
        total = np.zeros(attrs["shape"], given[0].dtype)
        np.add.at(total, tuple(filled), given[0])
        return total
    if name == "concat":
        return np.concat(given, **attrs)
    if name in IN_OWN_TYPE and out.dtype.is_floating:
        given = [x.astype(out.dtype.name) for x in given]
    attrs.pop("copy", None)
    if name == "tile":
        return np.tile(given[0], attrs["repetitions"])
    if name == "cumulative_sum" or name == "cumulative_prod":
        attrs["axis"] = attrs.get("axis") or 0
    if name in ("erf", "erfc"):
        # Of the C library, right to a digit or two of float64.
        return np.vectorize(getattr(math, name), otypes=[WIDE])(given[0])
    return getattr(np, name)(*given, **attrs)


def _error(eqn, given, attrs, out):
    """Return how far a correct program's result may be from an eqn's exact one."""
    name, eps = eqn.op.name, np.finfo(eqn.out.dtype.name).eps
    if name == "astype":
        source = eqn.inputs[0].dtype
        if source.is_floating and source.bits <= eqn.out.dtype.bits:
            return np.zeros(out.shape)
    if name == "remainder":
        return eps * np.broadcast_to(abs(given[1]), out.shape)
    if name == "logaddexp":  # where it is near 0 it is a difference of numbers of this size
        return 4 * eps * np.maximum(abs(out), np.maximum(abs(given[0]), abs(given[1])))
    if name in SINGLE:
        return eps * abs(out)
    if name == "matmul":
        return given[0].shape[-1] * eps * np.matmul(abs(given[0]), abs(given[1]))
    if name in ("sum", "cumulative_sum", "scatter_add"):
        n = max(given[0].size // max(out.size, 1), 1) if name == "sum" else given[0].size
        return n * eps * np.asarray(_result(eqn, [abs(given[0]), *given[1:]], dict(attrs)))
    if name in ("prod", "cumulative_prod"):
        return given[0].size * eps * abs(out)
    return 4 * eps * abs(out)


def _in_range(x, dtype):
    """Return infinity and 0 for what a type cannot hold."""
    info = np.finfo(dtype.name)
    largest = WIDE(info.max) * (1 + WIDE(info.eps) / 4)
    x = np.where(abs(x) > largest, np.copysign(WIDE(np.inf), x), x)
    return np.where(abs(x) < WIDE(info.smallest_subnormal) / 2, np.copysign(WIDE(0), x), x)


def _spacing(x, dtype):
    if not dtype.is_floating:
        return np.zeros(x.shape)
    own = abs(x).astype(dtype.name)
    return np.where(np.isfinite(own), np.spacing(own), 0).astype(WIDE)
