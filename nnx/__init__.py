"""nnx: one network, any device.

Write a network once; run it as Python loops, on NumPy, compiled, or on a GPU, by a flag.
"""

from __future__ import annotations

import importlib
from typing import Any

from nnx import ops as _ops
from nnx.autodiff import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
from nnx.creation import (
    arange,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    zeros,
    zeros_like,
)  # fmt: skip
from nnx.device import Device, DeviceInfo, default_device, device, devices, set_default_device
from nnx.dtypes import (
    DType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)  # fmt: skip
from nnx.dtypes import bool_ as bool
from nnx.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    DTypeError,
    GradientError,
    LabelError,
    NnxError,
    NonFiniteError,
    OutOfMemoryError,
    ShapeError,
    TraceError,
)  # fmt: skip
from nnx.jit import jit
from nnx.ops.layout import concat, getitem, moveaxis, split, stack, unstack
from nnx.precision import get_matmul_precision, set_matmul_precision
from nnx.profile import profile
from nnx.standard import (
    __array_namespace_info__,
    argsort,
    astype,
    broadcast_arrays,
    broadcast_shapes,
    can_cast,
    count_nonzero,
    diff,
    e,
    finfo,
    from_dlpack,
    iinfo,
    inf,
    isdtype,
    isin,
    meshgrid,
    nan,
    newaxis,
    nonzero,
    outer,
    pi,
    result_type,
    searchsorted,
    sort,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)  # fmt: skip
from nnx.tape import enable_grad, no_grad
from nnx.tensor import Parameter, Tensor, asarray
from nnx.threads import get_num_threads, set_num_threads

__version__ = "0.1.0"
__array_api_version__ = "2025.12"

for _module in _ops.MODULES:
    for _name in (_ops.OPS.keys() & vars(_module).keys()) - {"astype"}:
        globals()[_name] = getattr(_module, _name)

_LAZY = (
    "backends", "callbacks", "checkpoint", "data", "fit", "metrics", "nn", "optim", "random",
    "testing", "viz",
)  # fmt: skip

__all__ = [
    "CheckpointError", "DType", "DTypeError", "DataError", "Device", "DeviceError", "DeviceInfo",
    "GradientError", "LabelError", "NnxError", "NonFiniteError", "Parameter", "ShapeError",
    "Tensor", "TraceError", "__array_namespace_info__", "arange", "argsort", "asarray", "astype",
    "broadcast_arrays", "broadcast_shapes", "can_cast", "count_nonzero", "diff", "e", "finfo",
    "from_dlpack", "iinfo", "inf", "isdtype", "isin", "meshgrid", "nan", "newaxis", "nonzero",
    "outer", "pi", "result_type", "searchsorted", "sort", "unique_all", "unique_counts",
    "unique_inverse", "unique_values", "bfloat16", "bool", "concat", "default_device",
    "device", "devices", "empty", "empty_like", "enable_grad", "eye", "float16", "float32",
    "float64", "full", "full_like", "getitem", "grad", "hessian", "hvp", "int8", "int16", "int32",
    "int64", "jacobian", "jit", "jvp", "linspace", "moveaxis", "no_grad", "ones", "ones_like",
    "profile", "set_default_device", "split", "stack", "uint8", "uint16", "uint32", "uint64",
    "unstack", "value_and_grad", "vjp", "zeros", "zeros_like", "get_num_threads", "set_num_threads",
    "get_matmul_precision", "set_matmul_precision", "OutOfMemoryError",
    *_ops.OPS,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"nnx.{name}")
    raise AttributeError(f"module 'nnx' has no attribute {name!r}.{_hint(name)}")


def _hint(name: str) -> str:
    """Return what a name of NumPy or PyTorch is called here, or the nearest name."""
    standard = {
        "array": "asarray", "tensor": "asarray", "concatenate": "concat", "cat": "concat",
        "transpose": "permute_dims", "dot": "matmul", "absolute": "abs", "power": "pow",
        "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2", "amax": "max",
        "amin": "min", "cumsum": "cumulative_sum", "cumprod": "cumulative_prod",
        "unsqueeze": "expand_dims", "from_numpy": "asarray", "clamp": "clip", "mul": "multiply",
        "sub": "subtract", "div": "divide", "neg": "negative", "invert": "bitwise_invert",
    }  # fmt: skip
    if name in standard:
        return f" The array API's name is nnx.{standard[name]}."
    if name.startswith("_"):
        return ""
    import difflib

    near = difflib.get_close_matches(name, __dir__(), n=1, cutoff=0.7)
    return f" Did you mean {near[0]!r}?" if near else ""


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
