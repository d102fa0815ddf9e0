"""The errors that a user can cause; each is also the builtin that Python code would expect.

Every message says what was given, what is allowed, where, and what to do next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator


class NnxError(Exception):
    """The base of every error that nnx raises on purpose."""


class ShapeError(NnxError, ValueError):
    """Shapes that do not fit together."""


class DTypeError(NnxError, TypeError):
    """A data type that an operation does not take."""


class LabelError(NnxError, ValueError):
    """Labels that name no class: out of range, not whole, not a number, of another length."""


class DeviceError(NnxError, RuntimeError):
    """A device that cannot be used, or arrays of two devices in one operation."""


class OutOfMemoryError(NnxError, MemoryError):
    """A device without room for the result of an op; ``asked`` and ``free`` are bytes if known."""

    asked: int | None = None
    free: int | None = None


class GradientError(NnxError, RuntimeError):
    """A gradient that cannot be had: no tape, used up, or its inputs were written since."""


class TraceError(NnxError, TypeError):
    """Python code that needs a value while only shapes are known."""


class CheckpointError(NnxError, OSError):
    """A model file that is missing, damaged, or not one of nnx."""


class DataError(NnxError, ValueError):
    """Data that cannot be read or trained on, or a setting out of its range."""


class NonFiniteError(NnxError, ArithmeticError):
    """A NaN or an infinity where training cannot go on."""


@contextlib.contextmanager
def told_in(where: str) -> Iterator[None]:
    """Put the place before the message of an error that nnx raises within."""
    try:
        yield
    except NnxError as error:
        error.args = (f"{where}: {error}", *error.args[1:])
        raise


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """Return a sentence that names the nearest allowed word, or lists what is allowed.

    >>> did_you_mean("nunpy", ["numpy", "numba"])
    "Did you mean 'numpy'? Allowed: numba, numpy."
    """
    import difflib

    words = sorted(allowed)
    lowered = {word.lower(): word for word in words}
    near = difflib.get_close_matches(str(given).lower(), lowered, n=1, cutoff=0.5)
    hint = f"Did you mean {lowered[near[0]]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(words)}."


def no_attribute(module: str, name: str, names: Iterable[str]) -> AttributeError:
    """Return the error for a name that a module does not have, with the nearest that it has.

    >>> no_attribute("nnx.optim", "Adma", ["Adam", "SGD"])
    AttributeError("module 'nnx.optim' has no attribute 'Adma'. Did you mean 'Adam'?")
    """
    import difflib

    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near and not name.startswith("_") else ""
    return AttributeError(f"module {module!r} has no attribute {name!r}.{hint}")
