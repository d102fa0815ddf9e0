"""Data types by name, and the one promotion table that every device follows.

Two floats give the wider one, two integers the narrowest that holds both, and a float with an
integer gives the float. A Python number is weak: it takes the array's type, or the default of its
own kind where the array's kind is lower (an integer array times 0.5 is float32).
Source: array API standard 2025.12, type promotion; mixed kinds as in PyTorch.
"""

from __future__ import annotations

from typing import Any, Final

from nnx.errors import DTypeError, did_you_mean


class DType:
    """A data type such as ``nnx.float32``; equal to itself, to its name, and to NumPy's."""

    __slots__ = ("bits", "kind", "name")

    def __init__(self, name: str, kind: str, bits: int) -> None:
        self.name: Final = name
        self.kind: Final = kind
        self.bits: Final = bits

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return max(self.bits // 8, 1)

    @property
    def is_floating(self) -> bool:
        """Whether gradients can flow through this type."""
        return self.kind == "float"

    def __repr__(self) -> str:
        return f"nnx.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return as_dtype, (self.name,)

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self is other
        return _name_of(other) == self.name


_TABLE: dict[str, DType] = {
    name: DType(name, kind, bits)
    for name, kind, bits in (
        ("bool", "bool", 1),
        *((f"int{bits}", "int", bits) for bits in (8, 16, 32, 64)),
        *((f"uint{bits}", "uint", bits) for bits in (8, 16, 32, 64)),
        ("bfloat16", "float", 16),
        *((f"float{bits}", "float", bits) for bits in (16, 32, 64)),
    )
}
bool_ = _TABLE["bool"]
int8, int16, int32, int64 = (_TABLE[f"int{bits}"] for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (_TABLE[f"uint{bits}"] for bits in (8, 16, 32, 64))
bfloat16, float16, float32, float64 = (
    _TABLE[name] for name in ("bfloat16", "float16", "float32", "float64")
)
ALL: Final = tuple(_TABLE.values())

_PYTHON = {bool: bool_, int: int64, float: float32}
_RANK = {"bool": 0, "uint": 1, "int": 1, "float": 2}


def _name_of(dtype: object) -> str | None:
    """Return the plain name of a NumPy, CuPy, PyTorch or JAX type, or of a string."""
    if isinstance(dtype, str):
        return dtype
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    if isinstance(name, str):
        return "bool" if name == "bool_" else name
    text = str(dtype)
    return text.rpartition(".")[2] if "." in text else None


def as_dtype(dtype: Any) -> DType:
    """Return the `DType` meant by a name, a Python type or another library's type.

    Raises: DTypeError for a type that nnx does not have.
    """
    if isinstance(dtype, DType):
        return dtype
    if dtype is bool or dtype is int or dtype is float:
        # Keyword dtype=float means the default float here, as Python numbers do everywhere.
        return _PYTHON[dtype]
    found = _TABLE.get(_name_of(dtype) or "")
    if found is None:
        raise DTypeError(f"There is no data type {dtype!r}. {did_you_mean(dtype, _TABLE)}")
    return found


def of_scalar(value: bool | int | float) -> DType:
    """Return the default type of a Python number: bool, int64 or float32."""
    return _PYTHON[type(value)]


def promote(*dtypes: DType) -> DType:
    """Return the type that holds values of all the given types.

    >>> promote(int64, float32), promote(uint8, int8), promote(float32, float64)
    (nnx.float32, nnx.int16, nnx.float64)
    """
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = _promote_two(result, dtype)
    return result


def _promote_two(a: DType, b: DType) -> DType:
    if a is b:
        return a
    if _RANK[a.kind] != _RANK[b.kind]:
        return a if _RANK[a.kind] > _RANK[b.kind] else b
    if a.kind == b.kind:
        # float16 and bfloat16 hold each other only in float32.
        return float32 if a.bits == b.bits else max(a, b, key=lambda dtype: dtype.bits)
    signed, unsigned = (a, b) if a.kind == "int" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    if unsigned.bits == 64:
        raise DTypeError(
            f"No integer type holds both {a} and {b}. Convert one of them: x.astype('int64')."
        )
    return _TABLE[f"int{2 * unsigned.bits}"]


def with_scalar(dtype: DType, value: bool | int | float) -> DType:
    """Return the type of an array of ``dtype`` met by a Python number, which is weak."""
    scalar = of_scalar(value)
    return dtype if _RANK[scalar.kind] <= _RANK[dtype.kind] else scalar


def result_dtype(dtypes: list[DType], scalars: list[bool | int | float]) -> DType:
    """Return the common type of arrays and Python numbers."""
    if not dtypes:
        return promote(*map(of_scalar, scalars))
    result = promote(*dtypes)
    for value in scalars:
        result = with_scalar(result, value)
    return result
