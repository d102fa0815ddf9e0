"""How each elementwise op is written for one element, and constants of each type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.dtypes import DType
from nnx.errors import TraceError

CAST = {
    "bool": "b1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8",
    "uint16": "u16", "uint32": "u32", "uint64": "u64", "float32": "f32", "float64": "f64",
    "float16": "f16", "bfloat16": "bf16",
}  # fmt: skip
"""The name of each type in emitted source; types that are not here cannot be lowered."""

HALF = frozenset({"float16", "bfloat16"})
"""Types that GPUs have, and work with as float32."""

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "equal": "==", "not_equal": "!=", "less": "<",
    "less_equal": "<=", "greater": ">", "greater_equal": ">=", "bitwise_and": "&",
    "bitwise_or": "|", "bitwise_xor": "^",
}  # fmt: skip
_CALLS = {
    "divide": "divide", "floor_divide": "floor_divide", "remainder": "remainder", "pow": "pow",
    "abs": "abs", "sign": "sign", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil",
    "trunc": "trunc", "round": "round", "maximum": "maximum", "minimum": "minimum",
    "where": "select", "bitwise_left_shift": "shift_left", "bitwise_right_shift": "shift_right",
    **{
        name: name
        for name in (
            "exp", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "sin", "cos", "tan",
            "asin", "acos", "atan", "atan2", "hypot", "sinh", "cosh", "tanh", "asinh", "acosh",
            "atanh", "logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf",
            "isfinite", "signbit", "copysign", "erf", "erfc",
        )
    },
}  # fmt: skip
_OWN: dict[str, Callable[..., str]] = {
    "negative": lambda x: f"(-{x})",
    "positive": lambda x: x,
    "square": lambda x: f"({x} * {x})",
    "bitwise_invert": lambda x: f"(~{x})",
}
COSTLY = frozenset({
    "exp", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "sin", "cos", "tan", "asin",
    "acos", "atan", "atan2", "hypot", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "pow",
})  # fmt: skip
"""Ops that cost more than keeping their result."""

_FLOAT_ONLY = frozenset({"floor", "ceil", "trunc", "round"})
_WHOLE_TESTS = {"isnan": "b1(False)", "isinf": "b1(False)", "isfinite": "b1(True)"}


def cast_of(dtype: DType) -> str:
    """Return the name of a type in emitted source. Raises: TraceError for one without."""
    name = CAST.get(dtype.name)
    if name is None:
        raise TraceError(
            f"{dtype} cannot be compiled, for no arithmetic has it. Use float32, or leave this "
            f"function un-jitted."
        )
    return name


def constant(value: Any, dtype: DType) -> str:
    """Return a Python number as a constant of a type."""
    if isinstance(value, float) and value != value:
        return f"{cast_of(dtype)}(nan)"
    if value in (float("inf"), float("-inf")):
        return f"{cast_of(dtype)}({'-' if value < 0 else ''}inf)"
    if dtype.kind in ("int", "uint"):
        value = int(value)
    elif dtype.is_floating:
        value = float(value)
    else:
        value = bool(value)
    return f"{cast_of(dtype)}({value!r})"


def written(name: str, inputs: list[str], common: DType, out: DType) -> str | None:
    """Return the expression of an op for inputs of one type, None if the op is not elementwise."""
    whole = not common.is_floating
    if name in _WHOLE_TESTS and whole:
        return _WHOLE_TESTS[name]
    if name in _FLOAT_ONLY and whole:
        return inputs[0]
    if common.kind == "bool":
        replaced = {"add": "logical_or", "multiply": "logical_and", "maximum": "logical_or",
                    "minimum": "logical_and", "bitwise_and": "logical_and",
                    "bitwise_or": "logical_or", "bitwise_xor": "logical_xor",
                    "bitwise_invert": "logical_not", "square": "positive"}  # fmt: skip
        name = replaced.get(name, name)
    if name.startswith("logical_"):
        inputs = [f"b1({x})" for x in inputs] if common.kind != "bool" else inputs
    if name in _OWN:
        text = _OWN[name](*inputs)
    elif name in _INFIX:
        text = f"({inputs[0]} {_INFIX[name]} {inputs[1]})"
    elif name in _CALLS:
        text = f"{_CALLS[name]}({', '.join(inputs)})"
    elif name == "reciprocal":
        text = f"divide({cast_of(out)}(1), {inputs[0]})"
    else:
        return None
    # Whole numbers grow to 64 bits in an expression, and those of 16 bits to float32; the cast
    # wraps and rounds them as arrays do.
    return f"{cast_of(out)}({text})" if out.kind in ("int", "uint") or out.name in HALF else text


def is_elementwise(name: str) -> bool:
    """Return whether an op of a lowered graph works element by element."""
    return name in _INFIX or name in _CALLS or name in _OWN or name in ("reciprocal", "astype")
