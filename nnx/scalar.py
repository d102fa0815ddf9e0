"""Numbers of the host that a traced function computes with: batch sizes, rates, step counts.

A `Scalar` has the value of the call that is traced and the expression that gives its value in any
later call. What Python decides by its value is noted in `Facts`: the trace holds where the same
facts hold.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Term = tuple[str, ...]
"""The variables of one product, in order; () for the constant."""
Polynomial = dict[Term, int]

Env = Mapping[str, int | float]


class Facts:
    """What a trace took for granted about its scalars: expressions that must hold again."""

    def __init__(self) -> None:
        self.required: dict[str, bool] = {}
        self.pinned: set[str] = set()

    def require(self, text: str, outcome: bool) -> None:
        """Note that an expression was true, or was false."""
        self.required[text] = outcome

    def pin(self, scalar: Scalar) -> Any:
        """Return the value of a scalar that Python needs as a plain number, and note it."""
        self.required[f"{scalar.text} == {scalar.value!r}"] = True
        if scalar.text.isidentifier():
            self.pinned.add(scalar.text)
        return scalar.value

    def shown(self, scalar: Scalar, spec: str = "") -> str:
        """Return a scalar as text: a name made of it is a name for this number alone."""
        return format(self.pin(scalar), spec)

    def holds(self) -> Callable[[Env], bool]:
        """Return a test of the facts for other values of the variables."""
        parts = [f"({text})" if yes else f"not ({text})" for text, yes in self.required.items()]
        return evaluator(" and ".join(parts) or "True")


@functools.lru_cache(maxsize=4096)
def evaluator(text: str) -> Callable[[Env], Any]:
    """Return a function that works an expression out for values of its variables."""
    looked_up = _WORD.sub(lambda word: f"env[{word[0]!r}]", text)
    scope = {"__builtins__": {}, "nan": math.nan, "inf": math.inf}
    found: Callable[[Env], Any] = eval(f"lambda env: {looked_up}", scope)
    return found


_WORD = re.compile(r"\b(?!(?:and|or|not|if|else|is|True|False|nan|inf)\b)[A-Za-z_]\w*")


class Scalar:
    """A number that may be another one in the next call; it computes as a Python number does."""

    __slots__ = ("facts", "polynomial", "text", "value")

    def __init__(
        self, facts: Facts, value: Any, text: str, polynomial: Polynomial | None = None
    ) -> None:
        self.facts, self.value, self.text, self.polynomial = facts, value, text, polynomial

    def __repr__(self) -> str:
        return self.facts.shown(self)

    def __hash__(self) -> int:
        return hash(self.text)

    # Arithmetic

    def _combined(self, other: Any, symbol: str, reflected: bool) -> Any:
        if type(other) not in _NUMBERS and not isinstance(other, Scalar):
            return NotImplemented
        left, right = (other, self) if reflected else (self, other)
        if symbol in ("/", "//", "%", "**") and isinstance(right, Scalar):
            right = self._checked(left, right, symbol)
        value = _OPERATORS[symbol](value_of(left), value_of(right))
        exact = _exact(symbol, left, right)
        if exact is not None:
            return _from_polynomial(self.facts, value, exact)
        text = f"({text_of(left)} {symbol} {text_of(right)})"
        return made(self.facts, value, text)

    def _checked(self, left: Any, right: Scalar, symbol: str) -> Any:
        """Note that a divisor is not 0, and a whole power not negative: Python acts otherwise."""
        if symbol == "**":
            whole = type(value_of(left)) is int and type(right.value) is int
            if whole and right._compared(0, "<"):
                return self.facts.pin(right)
        elif right.polynomial is None and (isinstance(right, IntScalar) or right.is_argument):
            self.facts.require(f"{right.text} == 0", right.value == 0)
        return right

    @property
    def is_argument(self) -> bool:
        """Whether this is a number that the caller gives."""
        return _ARGUMENT.fullmatch(self.text) is not None

    # Comparison

    def _compared(self, other: Any, symbol: str) -> Any:
        if type(other) not in _NUMBERS and not isinstance(other, Scalar):
            return NotImplemented
        decided = _decided(self, other, symbol)
        if decided is not None:
            return decided
        outcome = _COMPARISONS[symbol](self.value, value_of(other))
        self.facts.require(f"{self.text} {symbol} {text_of(other)}", outcome)
        return outcome

    def __eq__(self, other: object) -> bool:
        return self._compared(other, "==")  # type: ignore[no-any-return]

    def __ne__(self, other: object) -> bool:
        return self._compared(other, "!=")  # type: ignore[no-any-return]

    def __neg__(self) -> Any:
        return self._combined(-1, "*", False)

    def __pos__(self) -> Scalar:
        return self

    def __abs__(self) -> Any:
        return self if self._compared(0, ">=") else -self

    # Where Python needs the number itself

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __float__(self) -> float:
        return float(self.facts.pin(self))

    def __int__(self) -> int:
        return int(self.facts.pin(self))

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.facts.pin(self), digits)

    def __trunc__(self) -> Any:
        return math.trunc(self.facts.pin(self))

    def __floor__(self) -> Any:
        return math.floor(self.facts.pin(self))

    def __ceil__(self) -> Any:
        return math.ceil(self.facts.pin(self))

    def __format__(self, spec: str) -> str:
        return self.facts.shown(self, spec)


class IntScalar(Scalar):
    """A whole number, such as the size of an axis."""

    __slots__ = ()

    def __index__(self) -> int:
        return int(self.facts.pin(self))


class FloatScalar(Scalar):
    """A float, such as a learning rate."""

    __slots__ = ()


_ARGUMENT = re.compile(r"a\d+")
_NUMBERS = (int, float, bool)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "**": operator.pow,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def _install() -> None:
    def arithmetic(symbol: str, reflected: bool) -> Any:
        return lambda self, other: self._combined(other, symbol, reflected)

    def comparison(symbol: str) -> Any:
        return lambda self, other: self._compared(other, symbol)

    names = {
        "+": "add", "-": "sub", "*": "mul", "/": "truediv", "//": "floordiv", "%": "mod",
        "**": "pow",
    }  # fmt: skip
    for symbol, name in names.items():
        setattr(Scalar, f"__{name}__", arithmetic(symbol, False))
        setattr(Scalar, f"__r{name}__", arithmetic(symbol, True))
    for symbol, name in {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}.items():
        setattr(Scalar, f"__{name}__", comparison(symbol))


_install()


def variable(facts: Facts, name: str, value: int | float) -> Scalar:
    """Return the scalar of an input; a whole one is the size of an axis, 1 or more."""
    if isinstance(value, int):
        return IntScalar(facts, value, name, {(name,): 1})
    return FloatScalar(facts, value, name)


def made(facts: Facts, value: int | float, text: str) -> Scalar:
    """Return a scalar with an expression."""
    return (IntScalar if isinstance(value, int) else FloatScalar)(facts, value, text)


def value_of(x: Any) -> Any:
    """Return the number that a scalar stands for in the traced call; others as they are."""
    return x.value if isinstance(x, Scalar) else x


def text_of(x: Any) -> str:
    """Return a number or scalar as an expression."""
    return x.text if isinstance(x, Scalar) else repr(x)


def names_in(x: Any) -> Iterator[str]:
    """Yield the names of the scalars in a number, or in a structure of them."""
    if isinstance(x, Scalar):
        yield from re.findall(r"\b[A-Za-z_]\w*", x.text)
    elif isinstance(x, tuple | list):
        for item in x:
            yield from names_in(item)
    elif isinstance(x, slice):
        yield from names_in((x.start, x.stop, x.step))


def resolve(x: Any, env: Env) -> Any:
    """Return a value, or a structure of them, with the scalars in it worked out."""
    if isinstance(x, Scalar):
        return evaluator(x.text)(env)
    if isinstance(x, tuple | list):
        return (
            type(x)(resolve(item, env) for item in x)
            if type(x) in (tuple, list)
            else tuple(resolve(item, env) for item in x)
        )
    if isinstance(x, slice):
        return slice(*(resolve(part, env) for part in (x.start, x.stop, x.step)))
    return x


# Polynomials with whole coefficients: the sizes that shapes are made of


def _polynomial(x: Any) -> Polynomial | None:
    if isinstance(x, Scalar):
        return x.polynomial
    return {(): x} if type(x) is int else None


def _exact(symbol: str, left: Any, right: Any) -> Polynomial | None:
    """Return the result as a polynomial where it is one."""
    p, q = _polynomial(left), _polynomial(right)
    if p is None or q is None:
        return None
    if symbol in "+-":
        sign = 1 if symbol == "+" else -1
        return _clean({t: p.get(t, 0) + sign * q.get(t, 0) for t in p.keys() | q.keys()})
    if symbol == "*":
        product: Polynomial = {}
        for s, a in p.items():
            for t, b in q.items():
                term = tuple(sorted(s + t))
                product[term] = product.get(term, 0) + a * b
        return _clean(product)
    if symbol in ("//", "%") and len(q) == 1:
        quotient = _divided(p, *next(iter(q.items())))
        if quotient is not None:
            return quotient if symbol == "//" else {}
    return None


def _divided(p: Polynomial, term: Term, factor: int) -> Polynomial | None:
    """Return p over one product if every part of p has it as a factor."""
    result: Polynomial = {}
    for t, a in p.items():
        rest = list(t)
        for name in term:
            if name not in rest:
                return None
            rest.remove(name)
        if not factor or a % factor:
            return None
        result[tuple(rest)] = a // factor
    return result


def _clean(p: Polynomial) -> Polynomial:
    return {t: a for t, a in p.items() if a}


def _from_polynomial(facts: Facts, value: int, p: Polynomial) -> Any:
    if not p.keys() - {()}:
        return p.get((), 0)
    parts = []
    for term, a in sorted(p.items(), key=lambda item: (-len(item[0]), item[0])):
        factors = [*term] if a == 1 and term else [*term, str(a)]
        parts.append(" * ".join(factors))
    text = (
        parts[0]
        if len(parts) == 1 and len(p) == 1 and " " not in parts[0]
        else (f"({' + '.join(parts)})")
    )
    return IntScalar(facts, value, text, p)


def _decided(left: Any, right: Any, symbol: str) -> bool | None:
    """Return the outcome of a comparison that is the same for all sizes, else None."""
    p, q = _polynomial(left), _polynomial(right)
    if p is None or q is None:
        return None
    difference = _clean({t: p.get(t, 0) - q.get(t, 0) for t in p.keys() | q.keys()})
    if not difference.keys() - {()}:
        return _COMPARISONS[symbol](difference.get((), 0), 0)
    slopes = [a for t, a in difference.items() if t]
    least = sum(difference.values())  # its value where every variable is 1
    if min(slopes) > 0 and least > 0:
        return symbol in ("!=", ">", ">=")
    if min(slopes) > 0 and least == 0 and symbol in (">=", "<"):
        return symbol == ">="
    if max(slopes) < 0 and least < 0:
        return symbol in ("!=", "<", "<=")
    if max(slopes) < 0 and least == 0 and symbol in ("<=", ">"):
        return symbol == "<="
    return None


class Sizes(tuple[Any, ...]):
    """The shape of a traced array; equality looks at plain sizes before it asks about scalars."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple) or len(self) != len(other):
            return False
        pairs = list(zip(self, other, strict=True))
        if any(type(a) is int and type(b) is int and a != b for a, b in pairs):
            return False
        return all(a is b or a == b for a, b in pairs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __getitem__(self, key: Any) -> Any:
        part = tuple.__getitem__(self, key)
        return Sizes(part) if isinstance(key, slice) else part

    def __add__(self, other: Any) -> Any:
        return Sizes((*self, *other))

    def __radd__(self, other: Any) -> Any:
        return Sizes((*other, *self))
