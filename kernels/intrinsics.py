"""The Numba twins of `nnx.kernels.runtime`: how each name of emitted source becomes machine code.

Importing this imports Numba, so only the compiler of a step does it. Every function is straight
LLVM code, an LLVM intrinsic, a call of libm or one of BLAS: the machine code refers to nothing
else, and llvmlite alone can load it later.
"""

# Numba has no types of its own.
# mypy: disable-error-code="no-untyped-call, untyped-decorator, misc, attr-defined"

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

from nnx.kernels import blas, words
from nnx.kernels.elementary import FLOAT32, FLOAT64, I1, Arithmetic, call

Value = Any  # an LLVM value: llvmlite has no types of its own
Type = Any  # a Numba type
Build = Callable[..., Value]

# What emitted source may name: the runtime's names, to the twins.
TABLE: dict[str, object] = {}

SCALARS: dict[str, Type] = {
    "b1": types.boolean,
    "i8": types.int8, "i16": types.int16, "i32": types.int32, "i64": types.int64,
    "u8": types.uint8, "u16": types.uint16, "u32": types.uint32, "u64": types.uint64,
    "f32": types.float32, "f64": types.float64,
}  # fmt: skip
I32, I64 = ir.IntType(32), ir.IntType(64)


class Twin:
    """A name that Numba knows and plain Python cannot call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<compiled {self.name}>"


def _register(
    name: str,
    types_of: Callable[..., Any],
    lower: Callable[[Any, Any, Any, tuple[Value, ...]], Value],
) -> None:
    """Add a name: types_of(typing context, argument types) -> signature or None; lower -> code."""
    twin = Twin(name)

    def generic(self: Any, args: tuple[Type, ...], kws: dict[str, Type]) -> Any:
        return types_of(self.context, *args)

    template = type(f"{name}_template", (AbstractTemplate,), {"key": twin, "generic": generic})
    infer_global(twin, types.Function(template))
    lower_builtin(twin, types.VarArg(types.Any))(lower)
    TABLE[name] = twin


def _is_float(t: Type) -> bool:
    return isinstance(t, types.Float)


def _is_signed(t: Type) -> bool:
    return isinstance(t, types.Integer) and bool(t.signed)


def _arithmetic(builder: ir.IRBuilder, t: Type) -> Arithmetic:
    return Arithmetic(builder, FLOAT32 if t == types.float32 else FLOAT64)


# Casts


def _convert(b: ir.IRBuilder, x: Value, source: Type, target: Type) -> Value:
    """Return a scalar as another type; integers wrap, floats are cut towards 0."""
    to = I1 if target == types.boolean else ir.IntType(getattr(target, "bitwidth", 1))
    if _is_float(target):
        real = ir.FloatType() if target == types.float32 else ir.DoubleType()
        if _is_float(source):
            if source.bitwidth == target.bitwidth:
                return x
            return (b.fpext if source.bitwidth < target.bitwidth else b.fptrunc)(x, real)
        return (b.sitofp if _is_signed(source) else b.uitofp)(x, real)
    if _is_float(source):
        if target == types.boolean:
            return b.fcmp_unordered("!=", x, ir.Constant(x.type, 0.0))
        if target == types.uint64:
            return b.fptoui(x, I64)
        # Narrow targets by way of a wide signed one, as C compilers do, so that they wrap.
        wide = I32 if target.bitwidth < 32 or target == types.int32 else I64
        whole = b.fptosi(x, wide)
        return whole if wide.width == target.bitwidth else b.trunc(whole, to)
    if target == types.boolean:
        return b.icmp_unsigned("!=", x, ir.Constant(x.type, 0))
    if x.type.width < to.width:
        return (b.sext if _is_signed(source) else b.zext)(x, to)
    return x if x.type.width == to.width else b.trunc(x, to)


def _cast(name: str, target: Type) -> None:
    def types_of(context: Any, x: Type) -> Any:
        source = types.unliteral(x)
        if isinstance(source, (types.Float, types.Integer, types.Boolean)):
            return signature(target, source)
        return None

    def lower(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        return _convert(b, args[0], sig.args[0], target)

    _register(name, types_of, lower)


for _name, _type in SCALARS.items():
    _cast(_name, _type)


# Pointers


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):
    def generic(self, args: tuple[Type, ...], kws: dict[str, Type]) -> Any:
        pointer, index = args
        if isinstance(pointer, types.CPointer) and isinstance(index, types.Integer):
            return signature(pointer.dtype, pointer, types.intp)
        return None


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):
    def generic(self, args: tuple[Type, ...], kws: dict[str, Type]) -> Any:
        pointer, index, _ = args
        if isinstance(pointer, types.CPointer) and isinstance(index, types.Integer):
            return signature(types.none, pointer, types.intp, pointer.dtype)
        return None


class Region(types.CPointer):
    """A pointer to memory that is reached by one entry of the table alone."""

    def __init__(self, dtype: Type, slot: int) -> None:
        super().__init__(dtype)
        self.name = f"{self.name}[{slot}]"
        self.slot = slot

    @property
    def key(self) -> Any:
        """What tells two types apart: Numba keeps one object of each."""
        return self.dtype, self.slot


register_model(Region)(models.PointerModel)


def _mark(b: Any, pointer: Type, kind: type) -> None:
    """Tell LLVM that the access just built reaches no other region's memory.

    Regions are to LLVM what types are in C, whose objects of two types are two objects.
    """
    if isinstance(pointer, Region):
        access = next(i for i in reversed(b.block.instructions) if isinstance(i, kind))
        root = b.module.add_metadata(["nnx table"])
        region = b.module.add_metadata([f"slot {pointer.slot}", root, ir.Constant(I64, 0)])
        tag = b.module.add_metadata([region, region, ir.Constant(I64, 0)])
        access.set_metadata("tbaa", tag)


@lower_builtin(operator.getitem, types.CPointer, types.intp)
def _load(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
    pointer, index = args
    out = context.unpack_value(b, sig.return_type, b.gep(pointer, [index], inbounds=True))
    _mark(b, sig.args[0], ir.LoadInstr)
    return out


@lower_builtin(operator.setitem, types.CPointer, types.intp, types.Any)
def _store(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
    pointer, index, value = args
    context.pack_value(b, sig.args[2], value, b.gep(pointer, [index], inbounds=True))
    _mark(b, sig.args[0], ir.StoreInstr)
    return context.get_dummy_value()


def _pointer(name: str, target: Type) -> None:
    kind = types.CPointer(target)

    def slot_types(context: Any, table: Type, n: Type) -> Any:
        if isinstance(n, types.IntegerLiteral):
            return signature(Region(target, n.literal_value), table, n)
        return None

    def lower_at(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        return b.inttoptr(args[0], context.get_value_type(kind))

    def lower_slot(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        address = b.load(b.gep(args[0], [ir.Constant(I64, sig.args[1].literal_value)]))
        return b.inttoptr(address, context.get_value_type(kind))

    def lower_shift(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        return b.gep(args[0], [args[1]], inbounds=True)

    _register(f"{name}_at", lambda _, address: signature(kind, types.int64), lower_at)
    _register(f"{name}_slot", slot_types, lower_slot)
    _register(f"{name}_shift", lambda _, p, n: signature(p, p, types.intp), lower_shift)


for _name, _type in SCALARS.items():
    _pointer(_name, _type)


# Functions of scalars of one type


def _common(context: Any, args: tuple[Type, ...]) -> Type:
    """Return the type that all arguments are converted to, or None."""
    found = context.unify_types(*(types.unliteral(a) for a in args))
    return found if isinstance(found, (types.Float, types.Integer, types.Boolean)) else None


def _scalar(name: str, build: Build, result: Type = None, floats_only: bool = False) -> None:
    """Add build(builder, type, values) of arguments of one type; result is theirs if not given."""

    def types_of(context: Any, *args: Type) -> Any:
        common = _common(context, args)
        if common is not None and floats_only and not _is_float(common):
            common = types.float64
        return common and signature(result or common, *(common for _ in args))

    def lower(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        return build(b, sig.args[0], *args)

    _register(name, types_of, lower)


def _compare(b: Any, t: Type, op: str, x: Value, y: Value) -> Value:
    if _is_float(t):
        return b.fcmp_ordered(op, x, y)
    return (b.icmp_signed if _is_signed(t) else b.icmp_unsigned)(op, x, y)


def _extreme(op: str) -> Build:
    def build(b: Any, t: Type, x: Value, y: Value) -> Value:
        out = b.select(_compare(b, t, op, x, y), x, y)
        if not _is_float(t):
            return out
        # The comparison chose y if either is NaN.
        return b.select(b.fcmp_unordered("uno", x, x), x, out)

    return build


def _extreme_reduce(op: str, name: str) -> Build:
    plain = _extreme(op)

    def build(b: Any, t: Type, x: Value, y: Value) -> Value:
        # The loop vectoriser knows this intrinsic as a reduction, and not the selects.
        if not _is_float(t):
            return plain(b, t, x, y)
        # Of 0 and -0 either may come out: they are equal.
        return call(b, name, x, y, flags=("nsz",))

    return build


def _sum_add(b: Any, t: Type, x: Value, y: Value) -> Value:
    if _is_float(t):
        # Lets a reduction loop keep partial sums in the lanes of a vector.
        return b.fadd(x, y, flags=("reassoc",))
    return b.or_(x, y) if t == types.boolean else b.add(x, y)


_scalar("maximum", _extreme(">"))
_scalar("minimum", _extreme("<"))
_scalar("max_reduce", _extreme_reduce(">", "maximum"))
_scalar("min_reduce", _extreme_reduce("<", "minimum"))
_scalar("sum_add", _sum_add)
_scalar("divide", lambda b, t, x, y: b.fdiv(x, y), floats_only=True)


def _select_types(context: Any, condition: Type, x: Type, y: Type) -> Any:
    common = _common(context, (x, y))
    return common and signature(common, types.boolean, common, common)


_register("select", _select_types, lambda context, b, sig, args: b.select(*args))


def _logical(name: str, build: Build, n_args: int) -> None:
    _register(
        name,
        lambda context, *args: signature(types.boolean, *([types.boolean] * n_args)),
        lambda context, b, sig, args: build(b, *args),
    )


_logical("logical_and", lambda b, x, y: b.and_(x, y), 2)
_logical("logical_or", lambda b, x, y: b.or_(x, y), 2)
_logical("logical_xor", lambda b, x, y: b.xor(x, y), 2)
_logical("logical_not", lambda b, x: b.not_(x), 1)


def _elementary(name: str) -> None:
    _scalar(name, lambda b, t, x: getattr(_arithmetic(b, t), name)(x), floats_only=True)


for _name in ("exp", "expm1", "log", "log1p", "tanh"):
    _elementary(_name)


def _llvm(name: str, intrinsic: str) -> None:
    _scalar(name, lambda b, t, *x: _arithmetic(b, t).call(intrinsic, *x), floats_only=True)


for _name, _intrinsic in {
    "sqrt": "sqrt", "copysign": "copysign", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
    "round": "rint", "sin": "sin", "cos": "cos", "log2": "log2", "log10": "log10",
}.items():  # fmt: skip
    _llvm(_name, _intrinsic)


def _libm(name: str) -> None:
    """Add a function of libm, in float64 also for float32: not every libm has the narrow ones."""

    def build(b: Any, t: Type, *args: Value) -> Value:
        real = ir.DoubleType()
        kind = ir.FunctionType(real, [real] * len(args))
        function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        wide = [_convert(b, x, t, types.float64) for x in args]
        return _convert(b, b.call(function, wide), types.float64, t)

    _scalar(name, build, floats_only=True)


for _name in ("tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh"):
    _libm(_name)


def _hypot(b: Any, t: Type, x: Value, y: Value) -> Value:
    m = _arithmetic(b, t)
    x, y = m.call("fabs", x), m.call("fabs", y)
    if t == types.float32:
        wide = Arithmetic(b, FLOAT64)
        x2, y2 = (_convert(b, v, t, types.float64) for v in (x, y))
        square = b.fadd(b.fmul(x2, x2), b.fmul(y2, y2))
        out = _convert(b, wide.call("sqrt", square), types.float64, t)
    else:
        real = ir.DoubleType()
        kind = ir.FunctionType(real, [real, real])
        function = b.module.globals.get("hypot") or ir.Function(b.module, kind, "hypot")
        out = b.call(function, [x, y])
    infinity = m.const(float("inf"))
    for v in (x, y):
        out = b.select(b.fcmp_ordered("==", v, infinity), infinity, out)
    return out


def _logaddexp(b: Any, t: Type, x: Value, y: Value) -> Value:
    m = _arithmetic(b, t)
    top = _extreme(">")(b, t, x, y)
    gap = m.call("fabs", b.fsub(x, y))
    # Two equal infinities have no difference.
    gap = b.select(b.fcmp_ordered("==", x, y), m.const(0.0), gap)
    return b.fadd(top, m.log1p(m.exp(b.fneg(gap))))


_scalar("hypot", _hypot, floats_only=True)
_scalar("logaddexp", _logaddexp, floats_only=True)


def _abs(b: Any, t: Type, x: Value) -> Value:
    if _is_float(t):
        return _arithmetic(b, t).call("fabs", x)
    if not _is_signed(t):
        return x
    return b.select(b.icmp_signed("<", x, ir.Constant(x.type, 0)), b.neg(x), x)


def _sign(b: Any, t: Type, x: Value) -> Value:
    one, zero = ir.Constant(x.type, 1), ir.Constant(x.type, 0)
    if _is_float(t):
        out = b.select(b.fcmp_ordered(">", x, zero), one, zero)
        out = b.select(b.fcmp_ordered("<", x, zero), ir.Constant(x.type, -1.0), out)
        return b.select(b.fcmp_unordered("uno", x, x), x, out)
    if not _is_signed(t):
        return b.zext(b.icmp_unsigned("!=", x, zero), x.type) if t != types.boolean else x
    out = b.select(b.icmp_signed(">", x, zero), one, zero)
    return b.select(b.icmp_signed("<", x, zero), ir.Constant(x.type, -1), out)


def _signbit(b: Any, t: Type, x: Value) -> Value:
    bits = _arithmetic(b, t).to_bits(x)
    return b.icmp_signed("<", bits, ir.Constant(bits.type, 0))


def _is_inf(b: Any, t: Type, x: Value) -> Value:
    m = _arithmetic(b, t)
    return b.fcmp_ordered("==", m.call("fabs", x), m.const(float("inf")))


def _is_finite(b: Any, t: Type, x: Value) -> Value:
    m = _arithmetic(b, t)
    return b.fcmp_ordered("<", m.call("fabs", x), m.const(float("inf")))


_scalar("abs", _abs)
_scalar("sign", _sign)
_scalar("signbit", _signbit, types.boolean, floats_only=True)
_scalar("isinf", _is_inf, types.boolean, floats_only=True)
_scalar("isfinite", _is_finite, types.boolean, floats_only=True)
_scalar("isnan", lambda b, t, x: b.fcmp_unordered("uno", x, x), types.boolean, floats_only=True)


# Division, powers and shifts


def _float_divmod(b: Any, t: Type, x: Value, y: Value) -> tuple[Value, Value]:
    """Return the floored quotient and the remainder with y's sign, as NumPy's npy_divmod does."""
    m = _arithmetic(b, t)
    zero, one = m.const(0.0), m.const(1.0)
    rest = b.frem(x, y)
    quotient = b.fdiv(b.fsub(x, rest), y)
    # Where the remainder's sign is not that of y, one more y fits.
    whole = b.fcmp_ordered("==", rest, zero)
    over = b.xor(b.fcmp_ordered("<", y, zero), b.fcmp_ordered("<", rest, zero))
    over = b.and_(over, b.not_(whole))
    quotient = b.select(over, b.fsub(quotient, one), quotient)
    rest = b.select(over, b.fadd(rest, y), rest)
    rest = b.select(whole, m.call("copysign", zero, y), rest)
    # The quotient is whole but for rounding errors of the division.
    floor = m.call("floor", quotient)
    short = b.fcmp_ordered(">", b.fsub(quotient, floor), m.const(0.5))
    floor = b.select(short, b.fadd(floor, one), floor)
    plain = b.fdiv(x, y)
    empty = b.fcmp_ordered("==", quotient, zero)
    floor = b.select(empty, m.call("copysign", zero, plain), floor)
    return b.select(b.fcmp_ordered("==", y, zero), plain, floor), rest


def _int_divmod(b: Any, t: Type, x: Value, y: Value) -> tuple[Value, Value]:
    """Return the floored quotient and the remainder with y's sign; both 0 for y = 0."""
    zero, one = ir.Constant(x.type, 0), ir.Constant(x.type, 1)
    by_zero = b.icmp_unsigned("==", y, zero)
    if not _is_signed(t):
        safe = b.select(by_zero, one, y)
        quotient, rest = b.udiv(x, safe), b.urem(x, safe)
        return b.select(by_zero, zero, quotient), b.select(by_zero, zero, rest)
    # The processor traps on both; the second quotient wraps to x itself.
    lowest = ir.Constant(x.type, -(2 ** (x.type.width - 1)))
    wraps = b.and_(b.icmp_signed("==", x, lowest), b.icmp_signed("==", y, ir.Constant(x.type, -1)))
    safe = b.select(b.or_(by_zero, wraps), one, y)
    quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
    over = b.and_(
        b.icmp_signed("!=", rest, zero),
        b.icmp_signed("<", b.xor(rest, safe), zero),
    )
    quotient = b.select(over, b.sub(quotient, one), quotient)
    rest = b.select(over, b.add(rest, safe), rest)
    return b.select(by_zero, zero, quotient), rest


def _divmod(b: Any, t: Type, x: Value, y: Value) -> tuple[Value, Value]:
    return (_float_divmod if _is_float(t) else _int_divmod)(b, t, x, y)


_scalar("floor_divide", lambda b, t, x, y: _divmod(b, t, x, y)[0])
_scalar("remainder", lambda b, t, x, y: _divmod(b, t, x, y)[1])


def _pow(b: Any, t: Type, x: Value, y: Value) -> Value:
    if _is_float(t):
        return _arithmetic(b, t).call("pow", x, y)
    return _int_pow(b, t, x, y)


def _int_pow(b: Any, t: Type, x: Value, y: Value) -> Value:
    """Return x**y by squaring, in as many steps as an exponent has bits."""
    zero, one = ir.Constant(x.type, 0), ir.Constant(x.type, 1)
    entry = b.block
    loop = b.append_basic_block("power")
    done = b.append_basic_block("power.done")
    b.branch(loop)
    b.position_at_end(loop)
    left, base, out = b.phi(x.type), b.phi(x.type), b.phi(x.type)
    odd = b.trunc(left, I1)
    next_out = b.select(odd, b.mul(out, base), out)
    next_base = b.mul(base, base)
    next_left = b.lshr(left, one)
    for phi, start, step in (
        (left, y, next_left), (base, x, next_base), (out, one, next_out),
    ):  # fmt: skip
        phi.add_incoming(start, entry)
        phi.add_incoming(step, loop)
    b.cbranch(b.icmp_unsigned("!=", next_left, zero), loop, done)
    b.position_at_end(done)
    if not _is_signed(t):
        return next_out
    # 1 / x**-y, cut: 0 but for x = 1 and -1, whose powers the loop got right for any bits of y.
    size_one = b.icmp_unsigned("<=", b.add(x, one), ir.Constant(x.type, 2))
    unit = b.and_(size_one, b.icmp_signed("!=", x, zero))
    below = b.and_(b.icmp_signed("<", y, zero), b.not_(unit))
    return b.select(below, zero, next_out)


_scalar("pow", _pow)


def _shift(name: str, left: bool) -> None:
    def types_of(context: Any, x: Type, n: Type) -> Any:
        x, n = types.unliteral(x), types.unliteral(n)
        if isinstance(x, types.Integer) and isinstance(n, types.Integer):
            return signature(x, x, n)
        return None

    def lower(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        x, n = args
        wide = _convert(b, n, sig.args[1], types.uint64)
        fits = b.icmp_unsigned("<", wide, ir.Constant(I64, x.type.width))
        zero = ir.Constant(x.type, 0)
        amount = _convert(b, wide, types.uint64, sig.args[0])
        amount = b.select(fits, amount, zero)
        if left:
            return b.select(fits, b.shl(x, amount), zero)
        if not _is_signed(sig.args[0]):
            return b.select(fits, b.lshr(x, amount), zero)
        all_sign = b.ashr(x, ir.Constant(x.type, x.type.width - 1))
        return b.select(fits, b.ashr(x, amount), all_sign)

    _register(name, types_of, lower)


_shift("shift_left", left=True)
_shift("shift_right", left=False)


# Matrix products

# CBLAS's names of orders and transposes.
_ROW_MAJOR, _AS_IS, _TRANSPOSED = 101, 111, 112


def _gemm(name: str, routine: str, target: Type) -> None:
    def types_of(context: Any, *args: Type) -> Any:
        n = types.int64
        a, b_, c = (args[i] for i in (5, 7, 9))
        if any(not isinstance(p, types.CPointer) or p.dtype != target for p in (a, b_, c)):
            return None
        return signature(types.none, n, n, n, n, n, a, n, b_, n, c, n)

    def lower(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        ta, tb, m, n, k, a, lda, b_, ldb, c, ldc = args
        real = context.get_value_type(target)
        address = real.as_pointer()
        kind = ir.FunctionType(
            ir.VoidType(),
            [*[I32] * 6, real, address, I32, address, I32, real, address, I32],
        )
        symbol = blas.symbol(routine)
        function = b.module.globals.get(symbol) or ir.Function(b.module, kind, symbol)

        def transpose(flag: Value) -> Value:
            plain = b.icmp_signed("==", flag, ir.Constant(I64, 0))
            return b.select(plain, ir.Constant(I32, _AS_IS), ir.Constant(I32, _TRANSPOSED))

        def stride(n: Value) -> Value:  # CBLAS refuses 0, though a matrix without columns has it
            some = b.icmp_signed(">", n, ir.Constant(I64, 1))
            return b.trunc(b.select(some, n, ir.Constant(I64, 1)), I32)

        sizes = [b.trunc(size, I32) for size in (m, n, k)]
        b.call(
            function,
            [ir.Constant(I32, _ROW_MAJOR), transpose(ta), transpose(tb), *sizes,
             ir.Constant(real, 1.0), a, stride(lda), b_, stride(ldb),
             ir.Constant(real, 0.0), c, stride(ldc)],
        )  # fmt: skip
        return context.get_dummy_value()

    _register(name, types_of, lower)


_gemm("f32_gemm", "sgemm", types.float32)
_gemm("f64_gemm", "dgemm", types.float64)


def _blas_threads(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
    symbol = blas.symbol("set_num_threads")
    kind = ir.FunctionType(ir.VoidType(), [I32])
    function = b.module.globals.get(symbol) or ir.Function(b.module, kind, symbol)
    b.call(function, [b.trunc(args[0], I32)])
    return context.get_dummy_value()


_register("blas_threads", lambda _, n: signature(types.none, types.int64), _blas_threads)


# Memory and calls by address: for the loop over steps


def _copy_bytes(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
    place = ir.IntType(8).as_pointer()
    target, source = (b.inttoptr(x, place) for x in args[:2])
    copy = b.module.declare_intrinsic("llvm.memcpy", [place, place, I64])
    b.call(copy, [target, source, args[2], ir.Constant(I1, 0)])
    return context.get_dummy_value()


def _call_at(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
    kind = ir.FunctionType(I64, [I64])
    return b.call(b.inttoptr(args[0], kind.as_pointer()), [args[1]])


_n = types.int64
_register("copy_bytes", lambda _, *args: signature(types.none, _n, _n, _n), _copy_bytes)
_register("call_at", lambda _, *args: signature(_n, _n, _n), _call_at)


# Random numbers


def _words(name: str, result: Type, arguments: list[Type], build: Build) -> None:
    sig = signature(result, *arguments)

    def lower(context: Any, b: Any, sig: Any, args: tuple[Value, ...]) -> Value:
        out = build(b, *args)
        return context.make_tuple(b, result, out) if isinstance(out, list) else out

    _register(name, lambda context, *args: sig, lower)


_i64, _u32 = types.int64, types.uint32
_words("random_block", types.UniTuple(_u32, 4), [_i64, _i64, _i64], words.block)
_words("random_word", _u32, [_i64, _i64, _i64, _i64], words.word)
_words("uniform_f32", types.float32, [_u32], words.uniform32)
_words("uniform_f64", types.float64, [_u32, _u32], words.uniform64)
_words("pair_u64", types.uint64, [_u32, _u32], words.pair)
_words("scaled_i64", _i64, [types.uint64] * 4, words.scaled)
_words("normal_f32", types.float64, [_u32], words.normal32)
_words("normal_f64", types.float64, [_u32, _u32], words.normal64)
_words(
    "bernoulli_word",
    types.boolean,
    [_u32, _i64],
    lambda b, word, threshold: b.icmp_signed("<", b.zext(word, I64), threshold),
)
