"""Random numbers from a counter: the same seed gives the same bits on every device.

A generator is three numbers below 2**64: seed, stream, and the block that comes next. A draw of n
elements takes whole blocks of four words, element by element from the first word on, and what is
left of the last block is dropped:

    draw                                        words an element      element from its words
    uniform, normal, in float32                 1                     `philox.uniform32`, `normal32`
    uniform, normal, in float64                 2                     `philox.uniform64`, `normal64`
    bernoulli                                   1                     `philox.below`
    integers, high - low <= 2**32, or wider     2, or 4               low + `philox.scaled`
    permutation                                 2                     key `philox.pair`

So with W words an element, element i starts at word W i % 4 of block ``block + W i // 4``, which
lets a device make any element alone, and ``block`` grows by ceil(n W / 4). How much is used
depends on the shape, the dtype and the range, never on the values drawn.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnx import philox
from nnx.dtypes import as_dtype
from nnx.errors import DataError, DTypeError, ShapeError
from nnx.locks import renew_at_fork
from nnx.op import recording

if TYPE_CHECKING:
    from nnx.device import Device
    from nnx.tensor import Tensor

Shape = int | Iterable[int]
Convert = Callable[[philox.Words], NDArray[Any]]

# Large draws go in pieces that stay in a core's cache; the pieces do not show in the result.
_BLOCKS_AT_ONCE = 8192


class Generator:
    """A stream of random numbers of one seed, 0 <= seed < 2**64; safe to share between threads.

    The ``host_`` methods return NumPy arrays; the plain ones move the same bits to a device.
    Source: Salmon et al., SC 2011 (Philox4x32-10).

    >>> Generator(7).host_integers(1, 7, 5)
    array([5, 1, 5, 6, 1])
    """

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        renew_at_fork(self, "_lock")
        self._seed, self._stream, self._block = _uint64("seed", seed), 0, 0

    def __repr__(self) -> str:
        return f"<Generator seed={self._seed} stream={self._stream} block={self._block}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Generator, (0,), self.state_dict()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, int]:
        """Return seed, stream and next block: all that is needed to go on exactly."""
        with self._lock:
            return {"seed": self._seed, "stream": self._stream, "block": self._block}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises: DataError, before anything changes, for other keys or numbers out of range.
        """
        if set(state) != {"seed", "stream", "block"}:
            raise DataError(
                "A generator's state has the keys seed, stream and block, "
                f"got {_shown(list(state))}. Pass what state_dict() of a Generator returned."
            )
        seed, stream, block = (_uint64(name, state[name]) for name in ("seed", "stream", "block"))
        with self._lock:
            self._seed, self._stream, self._block = seed, stream, block

    def fork(self, stream: int) -> Generator:
        """Return a generator of the same seed at the start of another of its 2**64 streams.

        Streams share no counter, so no numbers; a new Generator is on stream 0.
        """
        other = Generator(self._seed)
        other._stream = _uint64("stream", stream)
        return other

    def reserve(self, n_blocks: int) -> tuple[int, int, int]:
        """Claim the next blocks, for a kernel to draw from; return (seed, stream, first block)."""
        with self._lock:
            first = self._block
            if first + n_blocks > 2**64:
                raise DataError(
                    f"Stream {self._stream} of seed {self._seed} is at block {first} and has "
                    f"{2**64 - first} blocks left, {n_blocks} were asked for. Take another "
                    "stream with fork(), or another seed."
                )
            self._block = first + n_blocks
            return self._seed, self._stream, first

    def give_back(self, first: int, n_blocks: int) -> None:
        """Return the blocks of the last `reserve`, unless others were drawn since."""
        with self._lock:
            if self._block == first + n_blocks:
                self._block = first

    def uniform(
        self,
        low: float = 0.0,
        high: float = 1.0,
        shape: Shape = (),
        *,
        dtype: Any = None,
        device: str | Device | None = None,
    ) -> Tensor:
        """Return numbers spread evenly over [low, high); see `host_uniform`."""
        if recording.trace is not None:
            return self._traced("uniform", (low, high), shape, _float_name(dtype), device)
        return _to_device(self.host_uniform(low, high, shape, dtype), device)

    def normal(
        self,
        loc: float = 0.0,
        scale: float = 1.0,
        shape: Shape = (),
        *,
        dtype: Any = None,
        device: str | Device | None = None,
    ) -> Tensor:
        """Return normal numbers of mean ``loc`` and deviation ``scale``; see `host_normal`."""
        if recording.trace is not None:
            return self._traced("normal", (loc, scale), shape, _float_name(dtype), device)
        return _to_device(self.host_normal(loc, scale, shape, dtype), device)

    def integers(
        self,
        low: int,
        high: int | None = None,
        shape: Shape = (),
        *,
        device: str | Device | None = None,
    ) -> Tensor:
        """Return whole numbers, each of low .. high - 1 alike; see `host_integers`."""
        if recording.trace is not None:
            return self._traced("integers", (low, high), shape, "int64", device)
        return _to_device(self.host_integers(low, high, shape), device)

    def permutation(self, n: int, *, device: str | Device | None = None) -> Tensor:
        """Return 0 .. n - 1 in random order; see `host_permutation`."""
        if recording.trace is not None:
            return self._traced("permutation", (), n, "int64", device)
        return _to_device(self.host_permutation(n), device)

    def bernoulli(
        self, p: float, shape: Shape = (), *, device: str | Device | None = None
    ) -> Tensor:
        """Return booleans that are true with probability p; see `host_bernoulli`."""
        if recording.trace is not None:
            return self._traced("bernoulli", (p,), shape, "bool", device)
        return _to_device(self.host_bernoulli(p, shape), device)

    def host_uniform(
        self, low: float = 0.0, high: float = 1.0, shape: Shape = (), dtype: Any = None
    ) -> NDArray[Any]:
        """Return u (high - low) + low for u in [0, 1).

        Dtype: float32 (the default) or float64; low, high and each step are rounded to it.
        Numerics: a result that rounding lifts to ``high`` becomes the float just below it.
        Raises: DataError unless low <= high and high - low is finite; DTypeError; ShapeError.
        """
        scalar = _float_type("uniform", dtype)
        low, high = _real("uniform", "low", low), _real("uniform", "high", high)
        with np.errstate(over="ignore", invalid="ignore"):
            start, stop = scalar(low), scalar(high)
            span = stop - start
        if not (low <= high and np.isfinite(span)):
            raise DataError(
                f"uniform takes finite low <= high whose difference {scalar.__name__} can hold, "
                f"got low={low}, high={high}. Swap them, or draw from a narrower range."
            )
        last = np.nextafter(stop, start)
        unit: Convert = philox.uniform32 if scalar is np.float32 else philox.uniform64

        def convert(words: philox.Words) -> NDArray[Any]:
            u = unit(words)
            if low != 0 or high != 1:
                u *= span
                u += start
                np.minimum(u, last, out=u)
            return u

        return self._draw(shape, scalar, _words_per_float(scalar), convert)

    def host_normal(
        self, loc: float = 0.0, scale: float = 1.0, shape: Shape = (), dtype: Any = None
    ) -> NDArray[Any]:
        """Return z scale + loc for standard normal z = `philox.normal_quantile`.

        Dtype: float32 (the default) or float64. Numerics: all in float64, rounded once at the end.
        Raises: DataError for scale < 0 or loc and scale too large for the dtype; DTypeError;
        ShapeError.
        """
        scalar = _float_type("normal", dtype)
        loc, scale = _real("normal", "loc", loc), _real("normal", "scale", scale)
        # 9 is above the largest |z| there is, so nothing below can overflow.
        if not (scale >= 0 and abs(loc) + 9 * scale <= float(np.finfo(scalar).max)):
            raise DataError(
                f"normal takes a finite loc and a finite scale >= 0 within the range of "
                f"{scalar.__name__}, got loc={loc}, scale={scale}. scale is the standard "
                "deviation: give its absolute value, or 0 for a constant."
            )
        standard = philox.normal32 if scalar is np.float32 else philox.normal64

        def convert(words: philox.Words) -> NDArray[Any]:
            z = standard(words)
            if loc != 0 or scale != 1:
                z *= scale
                z += loc
            return z

        return self._draw(shape, scalar, _words_per_float(scalar), convert)

    def host_integers(
        self, low: int, high: int | None = None, shape: Shape = ()
    ) -> NDArray[np.int64]:
        """Return whole numbers low <= k < high, or 0 <= k < low if one is given.

        Dtype: int64. Numerics: equally likely to a relative 2**-32; see `philox.scaled`.
        Raises: DataError unless -2**63 <= low < high <= 2**63, both whole; ShapeError.
        """
        start, stop = (0, low) if high is None else (low, high)
        if not (_is_whole(start) and _is_whole(stop) and -(2**63) <= start < stop <= 2**63):
            raise DataError(
                "integers takes whole numbers -2**63 <= low < high <= 2**63 (high itself is not "
                f"drawn), got low={_shown(start)}, high={_shown(stop)}. For the one number k use "
                "integers(k, k + 1); for fractions use uniform."
            )
        start, span = int(start), int(stop) - int(start)
        # Modulo 2**64, where adding a negative start is adding its two's complement.
        offset = np.uint64(start % 2**64)

        def convert(words: philox.Words) -> NDArray[Any]:
            return (philox.scaled(words, span) + offset).view(np.int64)

        return self._draw(shape, np.int64, philox.words_per_scaled(span), convert)

    def host_permutation(self, n: int) -> NDArray[np.int64]:
        """Return the order that sorts n random 64-bit keys, equal keys by index.

        Dtype: int64. Raises: DataError unless n is a whole number >= 0.
        """
        if not (_is_whole(n) and n >= 0):
            raise DataError(
                f"permutation takes a whole number n >= 0, got {_shown(n)}. "
                "To shuffle an array, index it: x[permutation(len(x))]."
            )
        keys = self._draw(n, np.uint64, 2, philox.pair)
        return np.argsort(keys, kind="stable").astype(np.int64, copy=False)

    def host_bernoulli(self, p: float, shape: Shape = ()) -> NDArray[np.bool_]:
        """Return booleans that are true with probability p.

        Numerics: p is rounded to a multiple of 2**-32; 0 is never true and 1 always.
        Raises: DataError unless 0 <= p <= 1; ShapeError.
        """
        p = _real("bernoulli", "p", p)
        if not 0 <= p <= 1:
            raise DataError(
                f"bernoulli takes a probability 0 <= p <= 1, got p={p}. Divide a percentage by 100."
            )
        return self._draw(shape, np.bool_, 1, lambda words: philox.below(words, p))

    def _traced(
        self, kind: str, settings: tuple[Any, ...], shape: Any, dtype: str, device: Any
    ) -> Tensor:
        """Let the open trace note a draw, after the checks that a draw of nothing makes."""
        trace = recording.trace
        if kind != "permutation":
            named = (dtype,) if kind in ("uniform", "normal") else ()
            getattr(self, f"host_{kind}")(*settings, (0,), *named)
        words = _words_of(kind, dtype, settings)
        drawn: Tensor = trace.draw(self, kind, settings, shape, words, as_dtype(dtype))
        return drawn

    def _draw(
        self,
        shape: Shape,
        dtype: type[np.generic],
        words_each: int,
        convert: Convert,
    ) -> NDArray[Any]:
        shape = _shape(shape)
        out = np.empty(math.prod(shape), dtype)
        seed, stream, block = self.reserve(_blocks(out.size, words_each))
        step = _BLOCKS_AT_ONCE * 4 // words_each
        for first in range(0, out.size, step):
            part = out[first : first + step]
            n_blocks = _blocks(part.size, words_each)
            words = philox.stream_words(seed, stream, block, n_blocks)
            part[:] = convert(words[: part.size * words_each])
            block += n_blocks
        return out.reshape(shape)


def _blocks(n: int, words_each: int) -> int:
    return -(-n * words_each // 4)


def _float_name(dtype: Any) -> str:
    return "float32" if dtype is None else as_dtype(dtype).name


def _words_of(kind: str, dtype: str, settings: tuple[Any, ...]) -> int:
    """Return how many words an element of a draw takes; see the top of this file."""
    if kind in ("uniform", "normal"):
        return 1 if dtype == "float32" else 2
    if kind == "integers":
        low, high = settings
        return philox.words_per_scaled(int(low) if high is None else int(high) - int(low))
    return 2 if kind == "permutation" else 1


def _words_per_float(scalar: type[np.float32 | np.float64]) -> int:
    return 1 if scalar is np.float32 else 2


def _to_device(array: NDArray[Any], device: str | Device | None) -> Tensor:
    # Late, so that seeds, shuffles and initialisers do without the array stack.
    from nnx.tensor import asarray

    named = array.dtype.name if array.dtype.kind == "f" else None
    return asarray(array, dtype=named, device=device)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _uint64(name: str, value: Any) -> int:
    """Check a seed, stream or block; NumPy integers and 0-d integer arrays pass."""
    try:
        number = -1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise DataError(
            f"A random {name} is a whole number from 0 to 2**64 - 1, got {_shown(value)}. "
            f"Give one in that range: {name} % 2**64 folds any int into it."
        )
    return number


def _real(draw: str, name: str, value: Any) -> float:
    try:
        # float() alone would take strings and arrays of one element too.
        if isinstance(value, numbers.Real):
            return float(value)
    except OverflowError:
        pass
    raise DataError(
        f"{draw} takes a real number within float64 as {name}, got {_shown(value)}. "
        "For one value an element, draw first and then scale and shift the array."
    )


def _float_type(draw: str, dtype: Any) -> type[np.float32 | np.float64]:
    name = "float32" if dtype is None else as_dtype(dtype).name
    if name not in ("float32", "float64"):
        raise DTypeError(
            f"{draw} makes float32 or float64, got dtype {name}. "
            f"Draw one of them and convert it: {draw}(...).astype({name!r})."
        )
    return np.float32 if name == "float32" else np.float64


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no int of more than 4,300 digits
        return "an int too long to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shape(shape: Shape) -> tuple[int, ...]:
    try:
        sizes = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        sizes = (-1,)
    if min(sizes, default=0) < 0 or math.prod(sizes) >= 2**60:
        raise ShapeError(
            "A random array's shape is a whole number >= 0 or a tuple of such, "
            f"got {_shown(shape)}. For a single number use shape=()."
        )
    return sizes


# Seeded by the system until `seed` is called. Never replaced: who holds it follows the new seed.
_default = Generator(int.from_bytes(os.urandom(8), "little"))

uniform = _default.uniform
normal = _default.normal
integers = _default.integers
permutation = _default.permutation
bernoulli = _default.bernoulli


def default_generator() -> Generator:
    """Return the generator behind `nnx.random.uniform` and the rest, and behind initialisers."""
    return _default


_chosen = False


def seed(seed: int) -> None:
    """Start the default generator again from its first block, with this seed."""
    global _chosen
    _default.load_state_dict({"seed": seed, "stream": 0, "block": 0})
    _chosen = True


def seed_was_chosen() -> bool:
    """Return whether `seed` was called; else the seed is the system's, and no one's wish."""
    return _chosen
