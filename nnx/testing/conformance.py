"""The conformance table: every op's shape, type, value and gradient on one device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx import autodiff, dtypes
from nnx.device import Device, device
from nnx.dtypes import DType
from nnx.errors import GradientError, ShapeError
from nnx.op import OPS, Op, apply
from nnx.tensor import Tensor, asarray
from nnx.testing.gradients import _random, check_grads, derivative
from nnx.testing.samples import SAMPLES, Sample

Finding = tuple[str, object, object]
"""What is wrong, what was expected, what came."""


@dataclass(frozen=True)
class Failure:
    """A row of the table that does not hold."""

    op: str
    sample: str
    dtype: str
    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return (
            f"{self.op} ({self.sample}, {self.dtype}): {self.what}: "
            f"expected {self.expected}, got {self.got}"
        )


HALVES = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The relative step of the types of 16 bits, in which gradients are compared."""


def check_backend(name: str | Device, dtypes: Sequence[str] | None = None) -> list[Failure]:
    """Run the table of every op on a device and return the rows that fail; none is a pass.

    Each op is held against a formula in NumPy: the shape and type of its result, its values (also
    at infinity, NaN, for no elements, for strided memory), its gradient, and in float64 its second
    derivative. Types that the device does not have are left out. ``dtypes`` names those to run,
    "float16" and "bfloat16" among them, which run where float32 does; without it the types of the
    samples.
    """
    where = device(name)
    return [failure for op in OPS.values() for failure in check_op(op, where, dtypes)]


def check_op(op: Op, where: Device, types: Sequence[str] | None = None) -> list[Failure]:
    """Return the rows of one op that fail on a device, in the types named or in the samples'."""
    rows = SAMPLES.get(op.name, [])
    found = [] if rows else [Failure(op.name, "-", "-", "samples", "a row in the table", "none")]
    for sample in rows:
        named = sample.attrs.get("dtype") or dtypes.bool_
        for name in sample.dtypes if types is None else _among(types, sample):
            if where.has(dtypes.as_dtype(name)) and where.has(named):
                for what, expected, got in _findings(sample, name, where, sample is rows[0]):
                    texts = (" ".join(str(x).split()) for x in (expected, got))
                    found.append(Failure(op.name, sample.label, name, what, *texts))
    return found


def _among(types: Sequence[str], sample: Sample) -> list[str]:
    runs = {*sample.dtypes, *(HALVES if "float32" in sample.dtypes else ())}
    return [name for name in types if name in runs]


def _findings(sample: Sample, dtype: str, where: Device, plainest: bool) -> Iterator[Finding]:
    """Yield everything that is wrong with one row in one type."""
    checks: list[Callable[[Row], Iterator[Finding]]]
    if sample.raises is not None:
        checks = [_check_refusal]
    else:
        checks = [_check_value, _check_slopes, _check_gradient, _check_second]
        if plainest:
            checks += [_check_layouts, _check_nan]
        if sample.op in where.backend.into:
            checks.append(_check_into)
    row = Row(sample, dtype, where)
    for check in checks:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                yield from check(row)
            except Exception as error:
                what = check.__name__.removeprefix("_check_")
                yield what, "no error", f"{type(error).__name__}: {error}"


class Row:
    """A sample in one type on one device."""

    def __init__(self, sample: Sample, dtype: str, where: Device) -> None:
        self.op = OPS[sample.op]
        self.sample = sample
        self.where = where
        self.hosts = [_cast(x, dtype) for x in sample.inputs]
        self.floats = [
            i for i, x in enumerate(self.hosts) if isinstance(x, np.ndarray) and _is_float(x.dtype)
        ]
        self.narrowest = dtypes.as_dtype(dtype)

    def place(self, hosts: list[Any]) -> list[Any]:
        """Return host arrays as tensors on the device; Python numbers stay what they are."""
        return [asarray(x, device=self.where) if isinstance(x, np.ndarray) else x for x in hosts]

    def run(self, inputs: list[Any]) -> Tensor:
        """Return the op's result."""
        return apply(self.op, tuple(inputs), dict(self.sample.attrs))

    def refer(self, hosts: list[Any]) -> Any:
        """Return the reference's result: float inputs in float64."""
        assert self.sample.reference is not None
        floating = self.expected_dtype().is_floating
        given = [
            _wide(x, floating and old is not x)
            for x, old in zip(hosts, self.sample.inputs, strict=True)
        ]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return np.asarray(self.sample.reference(*given, **self.sample.attrs))

    def of_floats(self) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """Return the op as a function of its float inputs alone, and these."""
        inputs = self.place(self.hosts)

        def f(*given: Any) -> Tensor:
            full = list(inputs)
            for i, x in zip(self.floats, given, strict=True):
                full[i] = x
            return self.run(full)

        return f, [inputs[i] for i in self.floats]

    def pull(self, weights: Any) -> list[Tensor]:
        """Return the gradients with respect to the float inputs for weights of the result."""
        f, floats = self.of_floats()
        result, pullback = autodiff.vjp(f, *floats)
        return list(pullback(asarray(weights, dtype=result.dtype, device=self.where)))

    def has_gradient(self) -> bool:
        """Return whether there is a float input, a float result, and a rule between them."""
        rules = self.op.vjp is not None and bool(self.floats)
        return rules and self.expected_dtype().is_floating

    def expected_dtype(self) -> DType:
        """Return what the op's type rule says, or the nearest that the device has."""
        kinds = [dtypes.as_dtype(x.dtype) if hasattr(x, "dtype") else x for x in self.hosts]
        return self.where.nearest(self.op.result_dtype(kinds, dict(self.sample.attrs)))

    def expected_shape(self) -> tuple[int, ...]:
        """Return what the op's shape rule says."""
        shapes = [None if x is None else np.shape(x) for x in self.hosts]
        return tuple(self.op.shape(*shapes, **self.sample.attrs))


def _is_float(dtype: Any) -> bool:
    return bool(dtype.kind == "f" or dtype.name == "bfloat16")


def _cast(x: Any, dtype: str) -> Any:
    """Return a sample's input in the type under test; only float64 arrays stand for it."""
    if isinstance(x, np.float64):
        x = np.asarray(x)
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        return x
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(dtype)


def _wide(x: Any, too: bool = False) -> Any:
    """Return floats as float64; integers of the type under test too where floats come out."""
    if not isinstance(x, np.ndarray) or (not _is_float(x.dtype) and not too):
        return x
    return x.astype(np.float64)


# The checks


def _check_refusal(row: Row) -> Iterator[Finding]:
    error = row.sample.raises
    assert error is not None
    try:
        result = row.run(row.place(row.hosts))
    except error as raised:
        if error is ShapeError and not str(raised).startswith(row.op.name):
            yield "message", f"one that names {row.op.name}", raised
    except Exception as other:
        yield "error", error.__name__, f"{type(other).__name__}: {other}"
    else:
        yield "error", error.__name__, f"a result of shape {result.shape}"
    if error is ShapeError:
        try:
            yield "shape rule", "ShapeError", row.expected_shape()
        except ShapeError:
            pass


def _check_value(row: Row) -> Iterator[Finding]:
    before = [np.array(x) for x in row.hosts]
    inputs = row.place(row.hosts)
    result = row.run(inputs)
    wanted = row.refer(row.hosts)
    if result.shape != row.expected_shape() or result.shape != wanted.shape:
        yield "shape", f"{wanted.shape}, by the rule {row.expected_shape()}", result.shape
        return
    if result.dtype is not row.expected_dtype():
        yield "dtype", row.expected_dtype(), result.dtype
    yield from _compare("value", wanted, result, row)
    held = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
    for name, arrays in (("tensor", held), ("host array", row.hosts)):
        for i, (old, new) in enumerate(zip(before, arrays, strict=True)):
            if row.hosts[i] is not None and not np.array_equal(
                old, new, equal_nan=_is_float(old.dtype)
            ):
                yield "untouched", f"{name} {i} as it was: {old}", new


def _compare(what: str, wanted: Any, result: Tensor, row: Row) -> Iterator[Finding]:
    """Yield the first place where a result is further from the reference than its bound."""
    got = np.asarray(result.numpy())
    if not _is_float(got.dtype):
        wrong = np.asarray(wanted != got)
    else:
        wanted = np.asarray(wanted, np.float64)
        with np.errstate(all="ignore"):
            wrong = ~_near(wanted.astype(got.dtype), got, wanted, _slack(row, wanted, got.dtype))
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        where = f" at {tuple(map(int, at))}" if wrong.ndim else ""
        yield what + where, wanted[at], got[at]


def _slack(row: Row, wanted: Any, dtype: Any) -> Any:
    """Return the error allowed at each place.

    Sums are rounded in units of their largest result: a small one may be a difference of others.
    """
    size = np.abs(wanted)
    if row.op.kind in ("reduce", "contract"):
        size = np.maximum(size, np.max(size, initial=0.0, where=np.isfinite(size)))
    name = row.narrowest.name
    with np.errstate(all="ignore"):
        if name in HALVES and _is_float(np.dtype(dtype)):
            # NumPy has no spacing of bfloat16; below the smallest normal one step does for all.
            return row.sample.ulps * HALVES[name] * np.maximum(size, 2.0**-14)
        narrow = np.float32 if name == "float32" else dtype
        return row.sample.ulps * np.spacing(size.astype(narrow).astype(dtype)).astype(np.float64)


def _near(rounded: Any, got: Any, wanted: Any, slack: Any) -> Any:
    same = (rounded == got) | (np.isnan(rounded) & np.isnan(got))
    close = np.abs(got.astype(np.float64) - wanted) <= slack
    return same | (np.isfinite(rounded) & np.isfinite(got) & close)


def _check_slopes(row: Row) -> Iterator[Finding]:
    if row.sample.slopes is None:
        return
    grads = row.pull(np.ones(row.expected_shape()))
    for i, wanted, g in zip(row.floats, row.sample.slopes, grads, strict=True):
        yield from _compare(f"gradient of input {i}", np.asarray(wanted), g, row)


def _check_gradient(row: Row) -> Iterator[Finding]:
    """Compare the gradients with differences of the reference, along one direction an input."""
    if not row.sample.order or not row.has_gradient():
        return
    weights = _random(row.expected_shape(), 1)
    before = [np.array(x) for x in row.hosts]
    for i, g in zip(row.floats, row.pull(weights), strict=True):
        x = row.hosts[i]
        if g.shape != x.shape or g.dtype != x.dtype:
            yield f"gradient of input {i}", f"{x.dtype} {x.shape}", f"{g.dtype} {g.shape}"
            continue
        direction = _random(x.shape, 2 + i)
        wanted = derivative(_along(row, i, direction, weights))
        parts = g.numpy().astype(np.float64) * direction
        precision = 1e-7 if row.narrowest is dtypes.float64 else 2e-5
        precision = 16 * HALVES.get(row.narrowest.name, precision / 16)
        bound = precision * max(abs(wanted), float(np.abs(parts).sum()), 1e-3)
        if not abs(float(parts.sum()) - wanted) <= bound:
            yield f"gradient of input {i} along a direction", wanted, float(parts.sum())
    if any(not np.array_equal(a, b) for a, b in zip(before, row.hosts, strict=True)):
        yield "untouched by the gradient", before, row.hosts


def _along(row: Row, i: int, direction: Any, weights: Any) -> Callable[[float], float]:
    def moved(t: float) -> float:
        hosts = list(map(_wide, row.hosts))
        hosts[i] = hosts[i] + t * direction
        return float(np.sum(row.refer(hosts) * weights))

    return moved


def _check_second(row: Row) -> Iterator[Finding]:
    smooth = row.sample.order > 1 and row.narrowest is dtypes.float64
    if not smooth or not row.has_gradient():
        return
    try:
        check_grads(*row.of_floats(), order=2)
    except GradientError as error:
        yield "second derivative", "rules equal to differences", error


def _check_layouts(row: Row) -> Iterator[Finding]:
    """Compare inputs in every kind of memory with the same values in plain memory."""
    for name, change in _LAYOUTS.items():
        hosts = [change(x) if isinstance(x, np.ndarray) and x.ndim else x for x in row.hosts]
        plain = [np.array(x, order="C") if isinstance(x, np.ndarray) else x for x in hosts]
        plain = [x.astype(x.dtype.newbyteorder("=")) if hasattr(x, "dtype") else x for x in plain]
        wanted = row.run(row.place(plain)).numpy()
        yield from _compare(f"{name} memory", wanted, row.run(row.place(hosts)), row)
    turned = [_turned(x, row) for x in row.hosts]
    wanted = row.run(row.place(row.hosts)).numpy()
    yield from _compare("turned on the device", wanted, row.run(turned), row)


def _check_into(row: Row) -> Iterator[Finding]:
    """Compare a kernel that writes with the one that does not, also where an input is replaced."""
    backend = row.where.backend
    arrays, attrs, result = _call_of(row)
    wanted = np.array(backend.to_numpy(result))
    empty = backend.creation("empty", row.where.index)
    outs = [empty(wanted.shape, dtype=row.where.native(row.expected_dtype()))]
    if row.op.kind == "elementwise":
        alike = [x for x in arrays if getattr(x, "shape", None) == wanted.shape and wanted.ndim]
        outs += [x for x in alike if x.dtype == outs[0].dtype]
    for out in outs:
        held = [(x, np.array(backend.to_numpy(x))) for x in arrays if hasattr(x, "shape")]
        with row.where.scope():
            given = backend.into[row.op.name](*arrays, **attrs, out=out)
        if given is not out:
            yield "into", "that the kernel returns out", type(given).__name__
        if not _alike(backend.to_numpy(out), wanted):
            yield "into", wanted, backend.to_numpy(out)
        if any(x is not out and not _alike(backend.to_numpy(x), old) for x, old in held):
            yield "untouched by into", [old for _, old in held], "other values"
        for x, old in held:
            if x is out:
                x[...] = backend.asarray(old, x.dtype, row.where.index)


def _alike(x: Any, y: Any) -> bool:
    return bool(np.array_equal(x, y, equal_nan=_is_float(y.dtype)))


def _call_of(row: Row) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return the arrays and attributes that an op's kernel is called with, and what it gives."""
    calls: list[Any] = []
    device = Device(row.where.name, row.where.backend, row.where.index)
    kernel = device.kernels[row.op.name]

    def noted(*arrays: Any, **attrs: Any) -> Any:
        calls.append((arrays, attrs))
        return kernel(*arrays, **attrs)

    device.kernels[row.op.name] = noted
    here = Row(row.sample, row.narrowest.name, device)
    result = here.run(here.place([np.array(x) if _is_host(x) else x for x in row.hosts])).array
    return (*calls[0], result)


def _is_host(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def _turned(x: Any, row: Row) -> Any:
    """Return a tensor whose memory is in the opposite order, made on the device."""
    if not isinstance(x, np.ndarray):
        return x
    axes = tuple(reversed(range(x.ndim)))
    there = asarray(np.array(x.transpose(axes), order="C"), device=row.where)
    return apply(OPS["permute_dims"], (there,), {"axes": axes})


def _strided(x: Any) -> Any:
    return np.repeat(x, 2, axis=-1)[..., ::2]


def _read_only(x: Any) -> Any:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


_LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "Fortran": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "zero-stride": lambda x: np.broadcast_to(x[:1], x.shape),
    "read-only": _read_only,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
}


def _check_nan(row: Row) -> Iterator[Finding]:
    """Put a NaN into the first float input; it must show wherever the reference shows it."""
    if not row.floats or not row.expected_dtype().is_floating:
        return
    i = row.floats[0]
    hosts = list(row.hosts)
    hosts[i] = hosts[i].copy()
    hosts[i].flat[:1] = np.nan
    wanted, got = np.isnan(row.refer(hosts)), np.isnan(row.run(row.place(hosts)).numpy())
    if not np.array_equal(wanted, got):
        yield "NaN in, NaN out", wanted.tolist(), got.tolist()
