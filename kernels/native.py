"""Native code of one step: from source text to object code, from object code to a function.

Only the first half imports Numba; object code that was kept is linked with llvmlite alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import llvmlite.binding as llvm  # type: ignore[import-untyped]

__all__ = ["MissingSymbolError", "NativeFunction", "ObjectCode", "compile_step", "link", "register"]

ENTRY = "nnx_step"
# What the entry returns where Numba's code reports an error, which it does beside its result.
FAILED = -(1 << 63)
# Numbers from here on are those of no metadata that a step's module has.
_FREE_METADATA = 1_000_000


class MissingSymbolError(RuntimeError):
    """Object code that needs a function which nothing in this process defines."""


class ObjectCode(NamedTuple):
    """Object code, the name of its entry, and the names of what it takes from outside itself."""

    entry: str
    needs: tuple[str, ...]
    code: bytes


class NativeFunction:
    """Native code of one step, ``int64 step(int64 *table)``; it lives as long as this object."""

    __slots__ = ("_call", "_engine", "address", "symbol")

    def __init__(self, engine: Any, symbol: str) -> None:
        self._engine = engine
        self.symbol = symbol
        self.address: int = engine.get_function_address(symbol)
        # No argtypes: converting the argument anew costs a tenth of a call.
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64)(self.address)

    def bind(self, table_address: int) -> Callable[[], int]:
        """Return a function of no arguments that runs the step on the table at this address.

        It returns what the step returns and holds no lock of Python's meanwhile. Who calls it keeps
        the table alive.
        Raises: RuntimeError, when called, if the step reports an error.
        """
        call, table, failed = self._call, ctypes.c_void_p(table_address), FAILED

        # It names self, and so keeps the code as long as itself.
        def run() -> int:
            status: int = call(table)
            if status == failed:
                raise RuntimeError(
                    f"{self.symbol} stopped with an error of Python's, such as a "
                    f"division by zero. Run its source uncompiled to see which."
                )
            return status

        return run


# From source to object code


def compile_step(source: str, file_name: str) -> ObjectCode:
    """Return the object code of ``step`` in this source, for this processor.

    Raises: MissingSymbolError if it calls what this process has not: see ``register``.
    """
    from numba.core import compiler, types
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    step = _defined(source, file_name)
    flags: Any = compiler.Flags()  # type: ignore[no-untyped-call]
    flags.nrt = False
    flags.error_model = "numpy"
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.boundscheck = False
    flags.no_compile = True
    with global_compiler_lock:
        typing, target = cpu_target.typing_context, cpu_target.target_context
        typing.refresh()
        target.refresh()
        table = types.CPointer(types.int64)  # type: ignore[no-untyped-call]
        with _unoptimized():
            result = compiler.compile_extra(  # type: ignore[no-untyped-call]
                typing, target, step, (table,), types.int64, flags, {}
            )
            library = result.library
            entry = _add_entry(target, library, result.fndesc)
        # Numba links what it compiles, and LLVM aborts the process where it cannot.
        module = llvm.parse_assembly(library.get_llvm_str())
        _check(_declared(module))
        if _helpers(module):
            library.finalize()
            _, _, (code, _) = library.serialize_using_object_code()
            module = llvm.parse_assembly(library.get_llvm_str())
        else:
            code = _optimized(llvm.parse_assembly(_with_wide_loops(str(module))))
        needs = _undefined(code, module)
    return ObjectCode(entry, tuple(sorted(needs)), code)


@contextlib.contextmanager
def _unoptimized() -> Iterator[None]:
    """Keep Numba's own passes off while a function is lowered: they unroll short loops."""
    from numba.core import config

    level = config.OPT
    config.OPT = type(level)(0)
    try:
        yield
    finally:
        config.OPT = level


def _helpers(module: Any) -> list[str]:
    """Return the functions of Numba's own that a module needs and only Numba can link with it."""
    return [f.name for f in module.functions if f.is_declaration and f.name.startswith("_ZN")]


def _with_wide_loops(text: str) -> str:
    """Return LLVM's text with a wish beside each loop that sums in float64: full float32 vectors.

    LLVM counts how many float64 fit in a vector, though all but the sum is in float32.
    """
    features = llvm.get_host_cpu_features()
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx") else 4
    lines: list[str] = []
    loops: list[str] = []
    labels: set[str] = set()
    sums = False
    for line in text.splitlines():
        if line.startswith("define"):
            labels = set()
        label = re.match(r"([\w.$]+):", line)
        if label:
            labels.add(label[1])
            sums = False
        sums = sums or "fadd reassoc double" in line
        jump = re.match(r"  br label %([\w.$]+)$", line.rstrip())
        if sums and jump and jump[1] in labels:
            loop = f"!{_FREE_METADATA + 1 + len(loops)}"
            loops.append(f"{loop} = distinct !{{{loop}, !{_FREE_METADATA}}}")
            line = f"{line.rstrip()}, !llvm.loop {loop}"
        lines.append(line)
    lines.append(f'!{_FREE_METADATA} = !{{!"llvm.loop.vectorize.width", i32 {lanes}}}')
    lines += loops
    return "\n".join(lines) + "\n"


def _optimized(module: Any) -> bytes:
    """Return the object code of a module, whose loops are put in vectors before any is unrolled.

    Numba's own order unrolls short loops first, such as that over 16 columns, and leaves scalars.
    """
    from numba.core import config
    from numba.core.codegen import get_host_cpu_features

    _initialize()
    features = config.CPU_FEATURES
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=config.CPU_NAME or llvm.get_host_cpu_name(),
        features=get_host_cpu_features() if features is None else features,
        opt=int(config.OPT),
        reloc="static" if llvm.get_process_triple().startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )
    tuning = llvm.create_pipeline_tuning_options(speed_level=int(config.OPT))
    tuning.loop_vectorization = bool(config.LOOP_VECTORIZE)
    tuning.slp_vectorization = bool(config.SLP_VECTORIZE)
    tuning.loop_interleaving = True
    tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


def _add_entry(context: Any, library: Any, step: Any) -> str:
    """Add the function of the table alone that calls Numba's code, and return its name.

    Numba's takes two arguments more, for its result and for an error. Without them a call costs a
    sixth less, and two threads may run one step.
    """
    from llvmlite import ir

    # Numba keeps all it compiles in one space of names.
    name = f"{ENTRY}.{step.llvm_func_name}"
    module = library.create_ir_module(name)
    called_type = context.call_conv.get_function_type(step.restype, step.argtypes)
    called = ir.Function(module, called_type, step.llvm_func_name)
    result_type = ir.IntType(64)
    table_type = called_type.args[-1]
    function = ir.Function(module, ir.FunctionType(result_type, [table_type]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    status, result = context.call_conv.call_function(
        builder, called, step.restype, step.argtypes, function.args
    )
    builder.ret(builder.select(status.is_error, ir.Constant(result_type, FAILED), result))
    library.add_ir_module(module)
    return name


def _defined(source: str, file_name: str) -> Callable[..., Any]:
    """Return the function ``step`` of this source, its outside names replaced by Numba's twins."""
    namespace: dict[str, Any] = {"__name__": ENTRY}
    exec(compile(source, file_name, "exec"), namespace)
    if not callable(namespace.get("step")):
        raise ValueError(f"The source {file_name} defines no function step(table).")
    namespace.update(twins())
    step: Callable[..., Any] = namespace["step"]
    return step


def twins() -> Mapping[str, Any]:
    """Return what Numba compiles in the place of a source's outside names."""
    from nnx.kernels.intrinsics import TABLE

    table: Mapping[str, Any] = TABLE
    return table


def _undefined(code: bytes, module: Any) -> set[str]:
    """Return the names that object code, made of this module, takes from outside itself."""
    if code[:5] != b"\x7fELF\x02":
        return _declared(module)
    # The object's own table also has what LLVM calls by itself, such as memset.
    sections = {s.name(): s.data() for s in llvm.ObjectFileRef.from_data(code).sections()}
    names = sections[b".strtab"]
    found = set()
    for start, _, _, section, _, _ in struct.iter_unpack("=IBBHQQ", sections[b".symtab"]):
        if section == 0 and start:
            found.add(names[start : names.index(b"\x00", start)].decode())
    return found - {"_GLOBAL_OFFSET_TABLE_"}


def _declared(module: Any) -> set[str]:
    """Return the functions that a module does not define, without LLVM's own and Numba's."""
    names = {function.name for function in module.functions if function.is_declaration}
    return {name for name in names if not name.startswith(("llvm.", "_ZN"))}


# From object code to a function


def register(symbols: Mapping[str, int]) -> None:
    """Give LLVM the addresses of functions that steps call by name."""
    for name, address in symbols.items():
        if not address:
            raise ValueError(f"The symbol {name!r} has the address {address!r}; give a function's.")
        llvm.add_symbol(name, address)


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def link(made: ObjectCode) -> NativeFunction:
    """Return the function of this object code.

    Raises: MissingSymbolError if it needs what this process has not: see ``register``.
    """
    _initialize()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    # After the engine is made: making the first one opens the process's own symbols.
    _check(made.needs)
    engine.add_object_file(llvm.ObjectFileRef.from_data(made.code))
    engine.finalize_object()
    return NativeFunction(engine, made.entry)


def _check(names: Iterable[str]) -> None:
    missing = sorted(name for name in names if not _is_known(name))
    if missing:
        raise MissingSymbolError(
            f"The compiled step needs {', '.join(missing)}, which nothing in this process defines. "
            f"Give its address: load(source, symbols={{name: address}})."
        )


def _is_known(name: str) -> bool:
    """Return whether LLVM finds this name, after looking where it does not look by itself."""
    if llvm.address_of_symbol(name) is not None:
        return True
    for library in _libraries():
        with contextlib.suppress(AttributeError):
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
            return True
    # Numba's own helpers, which it gives to LLVM when its target is made.
    from numba.core.registry import cpu_target

    return cpu_target.target_context is not None and llvm.address_of_symbol(name) is not None


@functools.cache
def _libraries() -> list[ctypes.CDLL]:
    """Return libraries that hold the functions of C's math.h."""
    if os.name == "nt":
        return [ctypes.CDLL("ucrtbase")]
    numpy_core = importlib.import_module("numpy._core._multiarray_umath")
    # A look-up in a library goes through those it was linked with, libm among them.
    return [ctypes.CDLL(numpy_core.__file__)]
