"""The stand-in's ndarray: no NumPy array, never one in silence, and always of one device.

From CuPy's source (14.2): a NumPy array among the operands is a TypeError (`_preprocess_args`);
`__array__` raises TypeError; an array of another device than the current one raises ValueError
where the GPUs cannot reach each other's memory (`_check_peer_access`), which is so here; an index
outside an axis wraps around (`_take`), where NumPy raises.
"""

from __future__ import annotations

import numpy as np

from tests.fake_cupy import cuda
from tests.fake_cupy.cuda import Device, MemoryPointer, _pool, machine

SCALARS = (bool, int, float, np.generic)


class ndarray:  # noqa: N801 (CuPy's name)
    """An array in a GPU's memory."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        _check_supported(dtype)
        n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.data = _pool.malloc(n) if memptr is None else memptr
        whole = self.data.mem.chunk.bytes
        offset = self.data.ptr - self.data.mem.ptr
        self._host = np.ndarray(shape, dtype, whole, offset, strides, order)
        self.base = None

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: Device(self.data.device_id))
    T = property(lambda self: self.transpose())

    @property
    def mT(self):  # noqa: N802 (the standard's name)
        return seen(self, np.swapaxes(usable(self), -1, -2))

    # To the host, only by name

    def __array__(self, dtype=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        raise TypeError(f"Unsupported type {np.ndarray}")

    def get(self, stream=None, order="C", out=None, blocking=True):
        (stream or cuda.get_current_stream()).run()
        machine.note("get", self.nbytes)
        return self._host.copy(order)

    def set(self, host, stream=None):
        if not isinstance(host, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (host.dtype, host.shape) != (self.dtype, self.shape):
            raise TypeError(f"{host.dtype} array cannot be set to {self.dtype} array")
        if not self.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        host = np.ascontiguousarray(host)
        with self.device:
            self.data.copy_from_host_async(host.ctypes.data, self.nbytes, stream)

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __index__(self):
        return self.get().__index__()

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return repr(self.get())

    # Views

    def view(self, dtype=None):
        return seen(self, self._host.view() if dtype is None else self._host.view(dtype))

    def reshape(self, *shape, order="C"):
        host = self._host.reshape(*shape)
        shared = np.shares_memory(host, self._host) if host.size else True
        return seen(self, host) if shared else new(usable(self).reshape(*shape))

    def transpose(self, *axes):
        axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return seen(self, self._host.transpose(*((axes,) if axes else ())))

    def ravel(self, order="C"):
        return self.reshape((-1,))

    def squeeze(self, axis=None):
        return seen(self, self._host.squeeze(axis))

    def swapaxes(self, i, j):
        return seen(self, self._host.swapaxes(i, j))

    # New arrays

    def copy(self, order="C"):
        with self.device:
            return new(self._host)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        dtype = np.dtype(dtype)
        if dtype == self.dtype and not copy:
            return self
        with np.errstate(all="ignore"):
            return new(usable(self).astype(dtype))

    def fill(self, value):
        self._host.fill(value)

    def __getitem__(self, key):
        items, host = key if isinstance(key, tuple) else (key,), self._host
        if not any(isinstance(item, ndarray) for item in items):
            if any(isinstance(item, np.ndarray | list) for item in items):
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
            found = host[key]
            # A view, also of one element: no kernel runs, so any device will do.
            return seen(self, host[(*items, ...)] if not isinstance(found, np.ndarray) else found)
        return new(usable(self)[_wrapped(items, host.shape)])

    def __setitem__(self, key, value):
        host = usable(self)
        items = key if isinstance(key, tuple) else (key,)
        place = _wrapped(items, host.shape) if any(isinstance(i, ndarray) for i in items) else key
        host[place] = operand(value)

    def scatter_add(self, key, value):
        if np.dtype(self.dtype).name not in _ATOMIC:
            raise TypeError("cupy.add.at only supports int32, int64, float16, float32, ...")
        items = key if isinstance(key, tuple) else (key,)
        np.add.at(usable(self), _wrapped(items, self.shape), operand(value))

    # DLPack: type 2 is CUDA

    def __dlpack_device__(self):
        return 2, self.data.device_id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is None or dl_device == self.__dlpack_device__():
            if copy is True:
                raise BufferError("copy=True only supported for copy to CPU.")
            if stream is not None and stream < -1:
                raise ValueError(f"-1, 1, 2, or any larger value, but {stream} was provided")
            wanted = cuda.LEGACY_STREAM if stream is None else stream
            machine.note("dlpack", self.data.device_id, wanted, machine.device())
            return Capsule(self)
        if dl_device == (1, 0):
            if copy is False:
                raise ValueError("GPU memory cannot be exported to CPU without copy.")
            return np.ascontiguousarray(self.get()).__dlpack__(max_version=max_version)
        raise BufferError("unsupported device requested.")


class Capsule:
    """In place of DLPack's capsule, which needs real memory of a GPU."""

    def __init__(self, array):
        self.array = array


_ATOMIC = ("int32", "int64", "uint32", "uint64", "float16", "float32", "float64")
_CHARS = "?bhilqBHILQefd"


def _check_supported(dtype):
    if dtype.char not in _CHARS and dtype.name != "bfloat16":
        raise ValueError(f"Unsupported dtype {dtype}")


def _wrapped(items, shape):
    """Return an index of NumPy's in which places outside an axis wrap around, as in CuPy."""
    free = len(shape) - sum(_axes(item) for item in items if item is not None and item is not ...)
    found, axis = [], 0
    for item in items:
        if item is ...:
            axis += free
        elif isinstance(item, ndarray):
            host = usable(item)
            n = shape[axis]
            if host.dtype == bool or not n:
                found.append(host)
            else:
                found.append(host.astype(np.int64) % n)
            axis += _axes(item)
            continue
        elif item is not None:
            axis += 1
        found.append(item)
    return tuple(found)


def _axes(item):
    return item.ndim if isinstance(item, ndarray) and item.dtype == bool else 1


def usable(array):
    """Return the host's view of an array that a kernel on the current device may read."""
    if not isinstance(array, ndarray):
        raise TypeError(f"Unsupported type {type(array)}")
    if array.data.device_id != machine.device():
        raise ValueError(
            f"The device where the array resides ({array.data.device_id}) is different from the "
            f"current device ({machine.device()}). Peer access is unavailable between these "
            f"devices."
        )
    return array._host


def operand(x):
    """Return a kernel's argument: an array of the current device, or a number."""
    if isinstance(x, SCALARS) and not isinstance(x, ndarray):
        return x
    return usable(x)


def seen(array, host):
    """Return a view of an array's memory."""
    at = host.ctypes.data if host.size else array.data.mem.ptr
    made = object.__new__(ndarray)
    made.data = MemoryPointer(array.data.mem, at - array.data.mem.ptr)
    made._host, made.base = host, array if array.base is None else array.base
    return made


def new(host):
    """Return a new array on the current device with the values of the host's."""
    host = np.asarray(host)
    made = ndarray(host.shape, host.dtype)
    made._host[...] = host
    return made
