"""From the lines that the emitters write, which are Python, to CUDA C++.

The two differ in how a loop is shared among threads: ``for q in grid(n):`` goes over all threads
of a part of a kernel, ``rows`` over its warps, ``lanes`` over those of a warp, and so on; see
`_LOOPS`. A name is declared where it is first assigned.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from importlib import resources

from nnx import philox

INDENT = "    "
TYPES = {
    "b1": "bool", "i8": "signed char", "i16": "short", "i32": "int", "i64": "long long",
    "u8": "unsigned char", "u16": "unsigned short", "u32": "unsigned int",
    "u64": "unsigned long long", "f32": "float", "f64": "double", "f16": "nnx::f16",
    "bf16": "nnx::bf16",
}  # fmt: skip
"""C++'s name of each type of emitted text."""

_INFIX: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "/", ast.BitAnd: "&",
    ast.BitOr: "|", ast.BitXor: "^", ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=",
    ast.Gt: ">", ast.GtE: ">=", ast.And: "&&", ast.Or: "||",
}  # fmt: skip
_PREFIX: dict[type, str] = {ast.USub: "-", ast.Invert: "~", ast.Not: "!", ast.UAdd: "+"}

# The threads of a part: `block` of `blocks`, 256 threads each; a warp takes a row. Names are those
# of the loop's variable {0} and of its arguments {1}, {2}.
_LOOPS = {
    "range": "for (long long {0} = {1}; {0} < {2}; {0}++) {{",
    "grid": "for (long long {0} = block * 256 + threadIdx.x; {0} < {1}; {0} += blocks * 256) {{",
    "rows": ("for (long long {0} = block * 8 + threadIdx.x / 32; {0} < {1}; {0} += blocks * 8) {{"),
    "block_rows": "for (long long {0} = block; {0} < {1}; {0} += blocks) {{",
    "lanes": "for (long long {0} = threadIdx.x % 32; {0} < {1}; {0} += 32) {{",
    "threads": "for (long long {0} = threadIdx.x; {0} < {1}; {0} += 256) {{",
    "quad": '_Pragma("unroll") for (int {0} = 0; {0} < 4; {0}++) {{',
    "rest": (
        "for (long long {0} = {1} + block * 256 + threadIdx.x; {0} < {2}; {0} += blocks * 256) {{"
    ),
    # Several numbers of a thread are on their way at a time.
    "tile": (
        '_Pragma("unroll 4") '
        "for (long long {0} = {1} + threadIdx.x / {3}; {0} < {2}; {0} += 256 / {3}) {{"
    ),
}


def translated(lines: Sequence[str]) -> list[str]:
    """Return Python lines, indented by one step or more, as C++ lines with braces."""
    return _Translation().run(lines)


class _Translation:
    def __init__(self) -> None:
        self.out: list[str] = []
        self.blocks: list[tuple[int, set[str]]] = [(1, set())]
        self.comments: list[str] = []

    def run(self, lines: Sequence[str]) -> list[str]:
        for line in [one for text in lines for one in text.split("\n")]:
            text = line.strip()
            if text and text != "pass":
                self._line((len(line) - len(line.lstrip())) // len(INDENT), text)
        self._close(1)
        return self.out

    def _put(self, text: str) -> None:
        self.out.append(INDENT * len(self.blocks) + text)

    def _close(self, depth: int) -> None:
        while len(self.blocks) > depth:
            self.blocks.pop()
            self._put("}")

    def _open(self, *names: str) -> None:
        self.blocks.append((len(self.blocks) + 1, set(names)))

    def _declared(self, name: str) -> bool:
        return any(name in names for _, names in self.blocks)

    def _line(self, depth: int, text: str) -> None:
        if text.startswith("#"):
            self.comments.append("//" + text[1:])
            return
        self._close(depth)
        for comment in self.comments:  # which stand in the block of the code after them
            self._put(comment)
        self.comments = []
        if text == "else:":
            self._put("else {")
            self._open()
            return
        if text.endswith(":"):
            self._header(ast.parse(text + " pass").body[0])
            return
        self._statement(ast.parse(text).body[0] if text != "continue" else ast.Continue())

    def _header(self, node: ast.stmt) -> None:
        if isinstance(node, ast.For):
            assert isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Call)
            assert isinstance(node.iter.func, ast.Name)
            name, kind = node.target.id, node.iter.func.id
            args = [expression(a) for a in node.iter.args]
            if kind == "range" and len(args) == 1:
                args.insert(0, "0")
            self._put(_LOOPS[kind].format(name, *args))
            self._open(name)
        elif isinstance(node, ast.While):
            self._put(f"while ({expression(node.test)}) {{")
            self._open()
        elif isinstance(node, ast.If):
            self._put(f"if ({expression(node.test)}) {{")
            self._open()
        else:
            raise TypeError(f"no C++ for {ast.unparse(node)!r}")

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Return):
            self._put("return;")
        elif isinstance(node, ast.Continue):
            self._put("continue;")
        elif isinstance(node, ast.AugAssign):
            sign = _INFIX[type(node.op)]
            self._put(f"{expression(node.target)} {sign}= {expression(node.value)};")
        elif isinstance(node, ast.Expr):
            self._put(f"{expression(node.value)};")
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            value = expression(node.value)
            if isinstance(target, ast.Tuple):
                names = [n.id for n in target.elts if isinstance(n, ast.Name)]
                self.blocks[-1][1].update(names)
                self._put(f"const auto [{', '.join(names)}] = {value};")
            elif isinstance(target, ast.Name) and not self._declared(target.id):
                self.blocks[-1][1].add(target.id)
                self._put(f"auto {target.id} = {value};")
            else:
                self._put(f"{expression(target)} = {value};")
        else:
            raise TypeError(f"no C++ for {ast.unparse(node)!r}")


def expression(node: ast.expr) -> str:
    """Return a Python expression of emitted text as one of C++."""
    match node:
        case ast.Name(id=name):
            return {"inf": "NNX_INF", "nan": "NNX_NAN"}.get(name, name)
        case ast.Constant(value=value):
            return _constant(value)
        case ast.BinOp(left=left, op=ast.Mod(), right=right):
            return f"nnx::floor_mod({expression(left)}, {expression(right)})"
        case ast.BinOp(left=left, op=op, right=right):
            return f"({expression(left)} {_INFIX[type(op)]} {expression(right)})"
        case ast.UnaryOp(op=op, operand=x):
            return f"({_PREFIX[type(op)]}{expression(x)})"
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return f"({expression(left)} {_INFIX[type(op)]} {expression(right)})"
        case ast.BoolOp(op=op, values=values):
            return f"({f' {_INFIX[type(op)]} '.join(map(expression, values))})"
        case ast.IfExp(test=test, body=a, orelse=b):
            return f"({expression(test)} ? {expression(a)} : {expression(b)})"
        case ast.Attribute(value=x, attr=name):
            return f"{expression(x)}.{name}"
        case ast.Subscript(value=array, slice=index):
            return f"{expression(array)}[{expression(index)}]"
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call(name, args)
    raise TypeError(f"no C++ for {ast.unparse(node)!r}")


def _call(name: str, args: list[ast.expr]) -> str:
    given = [expression(a) for a in args]
    if name in TYPES:
        return f"nnx::cast<nnx::{name}>({given[0]})"
    over = re.fullmatch(r"over_(warp|block|rows)_(\w+?)", name)
    if over:
        kind = over[2].capitalize()
        width = f", {given.pop().removesuffix('LL')}" if over[1] == "rows" else ""
        return f"nnx::over_{over[1]}<nnx::{kind}{width}>({', '.join(given)})"
    best = re.fullmatch(r"(is_better|place_over_warp)_arg(max|min)", name)
    if best:
        largest = "true" if best[2] == "max" else "false"
        return f"nnx::{best[1]}<{largest}>({', '.join(given)})"
    if name in ("thread", "lane"):
        return "threadIdx.x" if name == "thread" else "(threadIdx.x % 32)"
    if name == "sync":
        return "__syncthreads()"
    return f"nnx::{name}({', '.join(given)})"


def _constant(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}{'LL' if value < 2**63 else 'ULL'}"
    if isinstance(value, float):
        return "NNX_INF" if value == float("inf") else repr(value)
    raise TypeError(f"no C++ for {value!r}")


@functools.cache
def library() -> str:
    """Return the functions that emitted text calls, with the coefficients of `nnx.philox`."""
    text = (resources.files("nnx.kernels") / "device.cuh").read_text("utf-8")

    def listed(values: Sequence[float]) -> str:
        return ", ".join(repr(float(v)) for v in values)

    found = {
        "LOG_SERIES": listed(philox._LOG_SERIES),
        "SQRT_HALF_BITS": str(int(philox._SQRT_HALF_BITS)),
        "LN2_HIGH": repr(philox._LN2_HIGH),
        "LN2_LOW": repr(philox._LN2_LOW),
    }
    for name, both in (
        ("CENTRE", philox._CENTRE), ("FAR_TAIL", philox._FAR_TAIL), ("TAIL", philox._TAIL),
    ):  # fmt: skip
        found[f"{name}_0"], found[f"{name}_1"] = listed(both[0]), listed(both[1])
    # The longest first: TAIL_0 is part of FAR_TAIL_0.
    for name in sorted(found, key=len, reverse=True):
        text = text.replace(name, found[name])
    return text
