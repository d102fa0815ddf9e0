"""cuBLASLt's functions over NumPy: what the descriptors say, done by columns in host memory.

It knows nothing of how nnx uses it: it reads the descriptors as the library's header describes
them, so that a wrong attribute, width, layout or order of arguments shows as a wrong product.
"""

from __future__ import annotations

import ctypes
import struct
import types

import numpy as np

from nnx.kernels.cublaslt import SIGNATURES, Library

SUCCESS, INVALID_VALUE, INTERNAL_ERROR, NOT_SUPPORTED = 0, 7, 14, 15
# The number of bytes of each attribute's value.
SIZES = {
    "MatmulDesc": {0: 4, 1: 4, 2: 4, 3: 4, 4: 4, 7: 4, 8: 8, 11: 8, 12: 8},
    "MatrixLayout": {0: 4, 1: 4, 2: 8, 3: 8, 4: 8, 5: 4, 6: 8},
    "MatmulPreference": {1: 8, 3: 4, 5: 4, 6: 4, 7: 4, 8: 4},
}
STORED = {0: "f4", 1: "f8", 2: "f2", 14: "u2"}
RELU, BIAS, DRELU, BGRAD, GELU, DGELU, AUX, BGRADA, BGRADB = 2, 4, 8, 16, 32, 64, 128, 256, 512


def encode(values, bfloat16):
    """Return numbers as they are stored; bfloat16 is the upper half of a float32, to nearest."""
    if not bfloat16:
        return values
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(stored, bfloat16):
    """Return stored numbers as float64."""
    if bfloat16:
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)


def memory(address, n, kind):
    """Return n numbers at an address, as they are stored."""
    buffer = (ctypes.c_char * (n * np.dtype(kind).itemsize)).from_address(address)
    return np.frombuffer(buffer, kind)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_gradient(x):
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)


class CublasLtOnCpu:
    """Stands for the loaded library; `library` wraps it as nnx does the real one.

    ``algorithms`` is how many it proposes; ``workspaces`` are the bytes that each needs.
    """

    def __init__(self, version=131000, algorithms=3, workspaces=(0, 0, 0, 0)):
        self.algorithms, self.workspaces = algorithms, workspaces
        self.refused, self.refusal = set(), NOT_SUPPORTED  # algorithms that do not run, and how
        self.has_epilogues, self.heuristic_status = True, SUCCESS
        self.has_bias = False  # all the same
        self.objects = {}  # attributes as bytes, by address
        self.handles = set()
        self.calls = []
        self.ran = []  # (algorithm, workspace, its bytes, stream) of each product
        self.faults = []  # what went wrong inside
        self._next = 0x1000
        self._callbacks = []
        self._names = {}
        bodies = {"cublasLtGetVersion": lambda: version, "cublasLtGetStatusName": self._status_name}
        for kind in SIZES:
            create = getattr(self, f"_create_{kind}")
            bodies[f"cublasLt{kind}Create"] = create
            bodies[f"cublasLt{kind}Destroy"] = self._destroy
            bodies[f"cublasLt{kind}SetAttribute"] = self._setter(SIZES[kind])
            bodies[f"cublasLt{kind}GetAttribute"] = self._getter(SIZES[kind])
        bodies["cublasLtCreate"] = self._create_handle
        bodies["cublasLtDestroy"] = self._destroy_handle
        bodies["cublasLtMatmulAlgoGetHeuristic"] = self._heuristic
        bodies["cublasLtMatmulAlgoCheck"] = self._check
        bodies["cublasLtMatmul"] = self._matmul
        # Functions by C's calling convention, so that the types of arguments are tried too.
        self.functions = types.SimpleNamespace()
        for name, body in bodies.items():
            result, arguments = SIGNATURES[name]
            result = ctypes.c_void_p if result is ctypes.c_char_p else result
            function = ctypes.CFUNCTYPE(result, *arguments)(self._guarded(name, body))
            setattr(self.functions, name, function)
        self.library = Library(self.functions)

    def _guarded(self, name, body):
        def call(*arguments):
            self.calls.append(name)
            try:
                answer = body(*arguments)
            except Exception as error:
                self.faults.append(error)
                return INTERNAL_ERROR
            return SUCCESS if answer is None else answer

        return call

    def _status_name(self, status):
        names = {1: "NOT_INITIALIZED", 7: "INVALID_VALUE", 14: "INTERNAL_ERROR"}
        word = f"CUBLAS_STATUS_{names.get(status, 'NOT_SUPPORTED')}".encode()
        self._names[status] = ctypes.create_string_buffer(word)
        return ctypes.addressof(self._names[status])

    # Objects

    def _new(self, where, **attributes):
        self._next += 0x100
        self.objects[self._next] = attributes
        ctypes.c_uint64.from_address(where).value = self._next
        return self._next

    def _create_handle(self, where):
        self.handles.add(self._new(where))

    def _destroy_handle(self, handle):
        self.handles.remove(handle)
        self._destroy(handle)

    def _destroy(self, address):
        del self.objects[address]

    def _set(self, address, **numbers):
        for number, value in numbers.items():
            self.objects[address][int(number[1:])] = value

    def _create_MatmulDesc(self, where, compute, scale):  # noqa: N802
        four = struct.Struct("<i").pack
        self._set(self._new(where), a0=four(compute), a1=four(scale), a2=four(0), a3=four(0),
                  a4=four(0), a7=four(1), a8=bytes(8), a11=bytes(8), a12=bytes(8))  # fmt: skip

    def _create_MatrixLayout(self, where, dtype, rows, columns, ld):  # noqa: N802
        four, eight = struct.Struct("<i").pack, struct.Struct("<q").pack
        self._set(self._new(where), a0=four(dtype), a1=four(0), a2=eight(rows), a3=eight(columns),
                  a4=eight(ld), a5=four(1), a6=eight(0))  # fmt: skip

    def _create_MatmulPreference(self, where):  # noqa: N802
        four, eight = struct.Struct("<i").pack, struct.Struct("<q").pack
        self._set(self._new(where), a1=eight(0), a3=four(7), a5=four(256), a6=four(256),
                  a7=four(256), a8=four(256))  # fmt: skip

    def _setter(self, sizes):
        def set_attribute(address, number, buffer, n):
            if sizes.get(number) != n:
                return INVALID_VALUE
            self.objects[address][number] = ctypes.string_at(buffer, n)

        return set_attribute

    def _getter(self, sizes):
        def get_attribute(address, number, buffer, n, written):
            if sizes.get(number) != n:
                return INVALID_VALUE
            ctypes.memmove(buffer, self.objects[address][number], n)
            ctypes.c_uint64.from_address(written).value = n

        return get_attribute

    def get(self, address, number):
        """Return an attribute as a number."""
        return int.from_bytes(self.objects[address][number], "little", signed=True)

    # Algorithms: eight words, the first says which one

    def _heuristic(self, handle, op, a, b, c, d, preference, wanted, results, count):
        assert handle in self.handles and {op, a, b, c, d, preference} <= set(self.objects)
        self.preference = dict(self.objects[preference])
        epilogue = self.get(op, 7)
        has_none = epilogue not in (1, BIAS if self.has_bias else 1) and not self.has_epilogues
        found = range(0 if has_none else min(self.algorithms, wanted))
        for i in found:
            words = [i, *range(100, 107)]
            entry = struct.pack("<8QQif4i", *words, self.workspaces[i], SUCCESS, 1.0, 0, 0, 0, 0)
            ctypes.memmove(results + 96 * i, entry, 96)
        ctypes.c_int.from_address(count).value = len(found)
        return self.heuristic_status

    def _check(self, handle, op, a, b, c, d, algo, result):
        assert handle in self.handles
        words = struct.unpack("<8Q", ctypes.string_at(algo, 64))
        if words[0] >= self.algorithms or words[1:] != tuple(range(100, 107)):
            return INVALID_VALUE
        entry = struct.pack("<Qif", self.workspaces[words[0]], SUCCESS, 1.0)
        ctypes.memmove(result + 64, entry, len(entry))

    # The product, by columns

    def _load(self, base, layout):
        """Return a view of the stored numbers (batch, rows, columns), and whether of bfloat16."""
        number, order, rows, columns, ld, batch, stride = (self.get(layout, i) for i in range(7))
        assert order == 0 and base
        stored = memory(base, (batch - 1) * stride + (columns - 1) * ld + rows, STORED[number])
        item = stored.itemsize
        shape, strides = (batch, rows, columns), (stride * item, item, ld * item)
        return np.lib.stride_tricks.as_strided(stored, shape, strides), number == 14

    def _matmul(self, handle, op, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
                algo, workspace, n_workspace, stream):  # fmt: skip
        assert handle in self.handles
        words = struct.unpack("<8Q", ctypes.string_at(algo, 64))
        assert words[1:] == tuple(range(100, 107)) and words[0] < self.algorithms
        self.ran.append((words[0], workspace or 0, n_workspace, stream or 0))
        if words[0] in self.refused:
            return self.refusal
        assert n_workspace >= self.workspaces[words[0]]
        scalar = "f8" if self.get(op, 1) == 1 else "f4"
        assert self.get(op, 2) == 0
        (alpha,), (beta,) = memory(alpha, 1, scalar), memory(beta, 1, scalar)
        left, right = decode(*self._load(a, a_layout)), decode(*self._load(b, b_layout))
        left = left.swapaxes(1, 2) if self.get(op, 3) else left
        right = right.swapaxes(1, 2) if self.get(op, 4) else right
        out = float(alpha) * (left @ right)
        if beta:
            out += float(beta) * decode(*self._load(c, c_layout))
        view, bfloat16 = self._load(d, d_layout)
        out = self._epilogue(op, out, left, right, view.dtype, bfloat16)
        view[...] = encode(out, bfloat16)

    def _epilogue(self, op, out, left, right, kind, bfloat16):
        """Return (batch, rows, columns) after what the flags of the epilogue's number say."""
        flags, bias, aux = (self.get(op, i) for i in (7, 8, 11))
        _, rows, columns = out.shape
        if flags & BIAS:
            out = out + decode(memory(bias, rows, kind), bfloat16)[:, None]
        ld = self.get(op, 12)
        if flags & AUX:
            assert aux and ld >= rows and ld % (128 if flags & (RELU | DRELU) else 8) == 0
            assert len(out) == 1
        if flags & (RELU | DRELU) and flags & AUX:
            bits = memory(aux, columns * ld // 8, "u1").reshape(columns, ld // 8)
            if flags & RELU:
                positive = np.zeros((columns, ld), bool)
                positive[:, :rows] = out[0].T > 0
                bits[...] = np.packbits(positive, axis=1, bitorder="little")
            else:
                out = np.where(np.unpackbits(bits, axis=1, bitorder="little")[:, :rows].T, out, 0)
        if flags & (GELU | DGELU) and flags & AUX:
            values = memory(aux, (columns - 1) * ld + rows, kind)
            strides = (kind.itemsize, ld * kind.itemsize)
            values = np.lib.stride_tricks.as_strided(values, (rows, columns), strides)
            if flags & GELU:
                values[...] = encode(out[0], bfloat16)
            else:
                out = out * gelu_gradient(decode(values, bfloat16))
        if flags & RELU:
            out = np.maximum(out, 0)
        if flags & GELU:
            out = gelu(out)
        if flags & BGRAD:
            memory(bias, rows, kind)[...] = encode(out[0].sum(1), bfloat16)
        if flags & BGRADA:
            memory(bias, rows, kind)[...] = encode(left[0].sum(1), bfloat16)
        if flags & BGRADB:
            memory(bias, columns, kind)[...] = encode(right[0].sum(0), bfloat16)
        return out
