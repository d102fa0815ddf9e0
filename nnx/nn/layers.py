"""The layers. Each computes with ops alone, so that it runs on every device."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from typing import Any, ClassVar

from nnx import random
from nnx.device import Device
from nnx.errors import DataError, DTypeError, ShapeError
from nnx.nn import activations, init
from nnx.nn.init import Initializer
from nnx.nn.module import Module, Part
from nnx.nn.symbol import checked_name
from nnx.ops.contract import linear
from nnx.ops.elementwise import where
from nnx.ops.layout import reshape
from nnx.ops.reduce import layer_norm
from nnx.tensor import Tensor


class Layer(Module):
    """A module of the closed table: ``settings`` names what it is made from, in a model file too.

    Each setting is a parameter of ``__init__`` and an attribute of the same name. ``name`` is what
    `nnx.nn.Model` calls the layer.
    """

    settings: ClassVar[tuple[str, ...]] = ()

    def _settings_text(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)


class Sequential(Module):
    """Layers one after another: the output of each is the input of the next.

    Takes modules, or one list of them; a function joins as ``nn.Activation(function)``.
    ``model[i]`` is layer i, whose parameters have keys ``i.weight`` and so on.

    >>> from nnx import nn
    >>> nn.Sequential(nn.Dense(3, in_features=4), nn.Dense(2, in_features=3)).state_dict().keys()
    dict_keys(['0.weight', '0.bias', '1.weight', '1.bias'])
    """

    def __init__(self, *layers: Any, name: str | None = None) -> None:
        self._name = checked_name("Sequential", name)
        if len(layers) == 1 and isinstance(layers[0], list | tuple):
            layers = tuple(layers[0])
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise DTypeError(
                    f"Sequential: layer {i} is {layer!r}, not a module. Wrap a function: "
                    f"nn.Activation(function)."
                )
        self.layers: list[Module] = list(layers)

    def forward(self, x: Any) -> Any:
        """Return the last layer's output."""
        for layer in self.layers:
            x = layer(x)
        return x

    def _members(self) -> Iterator[Part]:
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)


class FeatureLayer(Layer):
    """A layer whose parameters fit the last axis of x, and which is built by it where not told."""

    in_features: int | None = None
    weight: Any = None
    bias: Any = None
    _row: tuple[int, ...] = ()  # (in_features,), what the end of x.shape has to be

    def build(self, x: Tensor) -> None:
        """Make the parameters for the features of x, on its device."""
        if not x.ndim:
            raise ShapeError(f"{self._label()} takes rows of features, got a single number.")
        self.make(x.shape[-1], self._target or x.device)

    def make(self, n_in: int, device: Device | None = None) -> None:
        """Make the parameters for a number of features."""
        if not n_in:
            raise ShapeError(f"{self._label()} cannot be made for rows of 0 features.")
        self.in_features, self._row = n_in, (n_in,)
        self._built = True


class Dense(FeatureLayer):
    """A fully connected layer: activation(x @ weight + bias).

    Shapes: x (..., I), weight (I, O), bias (O,) -> (..., O), O = units
    ``in_features`` makes the parameters at once; without it the first x tells I, and the weights
    are made on its device. They are drawn on the host: a seed gives the same bits everywhere.
    Raises: ShapeError for another number of features, DTypeError for integers.

    >>> layer = Dense(2, "relu", in_features=3, kernel_init="ones", bias_init=-4.0)
    >>> layer([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]).tolist()
    [[2.0, 2.0], [0.0, 0.0]]
    """

    settings = ("units", "activation", "use_bias", "in_features", "kernel_init", "bias_init")

    def __init__(
        self,
        units: int,
        activation: str | activations.Function | None = None,
        *,
        use_bias: bool = True,
        in_features: int | None = None,
        kernel_init: str | float | Initializer = "glorot_uniform",
        bias_init: str | float | Initializer = "zeros",
        name: str | None = None,
    ) -> None:
        self._name = checked_name("Dense", name)
        self.units = _whole("Dense", "units", units)
        self.activation = activation
        self.use_bias = bool(use_bias)
        self.kernel_init, self.bias_init = kernel_init, bias_init
        self._activate = activations.get(activation)
        # Both are looked up now, so that a wrong name is told here and not at the first input.
        init.get(kernel_init), init.get(bias_init)
        if in_features is not None:
            self.make(_whole("Dense", "in_features", in_features))

    def make(self, n_in: int, device: Device | None = None) -> None:
        """Make weight and bias for a number of features."""
        super().make(n_in, device)
        self.weight = init.make(self.kernel_init, (n_in, self.units), device, self._target_dtype)
        if self.use_bias:
            self.bias = init.make(self.bias_init, (self.units,), device, self._target_dtype)
        self._output_shape = (self.units,)

    def forward(self, x: Tensor) -> Any:
        """Return activation(x @ weight + bias)."""
        weight, array = self.weight, x.array
        if array.shape[-1:] != self._row or array.dtype != weight.array.dtype:
            _check_rows(self, x)
        out = linear(x, weight, self.bias)
        return out if self._activate is None else self._activate(out)


class Activation(Layer):
    """An activation as a layer of its own: a name such as "relu", or a function of a tensor."""

    settings = ("activation",)

    def __init__(self, activation: str | activations.Function, *, name: str | None = None) -> None:
        self._name = checked_name("Activation", name)
        self.activation = activation
        self._activate = activations.get(activation)

    def forward(self, x: Tensor) -> Any:
        """Return activation(x)."""
        return x if self._activate is None else self._activate(x)


class Dropout(Layer):
    """While training, sets elements to 0 with probability ``rate``; the rest grow by 1/(1 - rate).

    In `eval` mode it passes x on as it is. The mask comes from nnx.random: after the same seed all
    devices drop the same elements.
    Raises: DataError unless 0 <= rate < 1. Source: Srivastava et al. 2014 (inverted scaling).
    """

    settings = ("rate",)

    def __init__(self, rate: float, *, name: str | None = None) -> None:
        self._name = checked_name("Dropout", name)
        number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
        if not (number and 0 <= rate < 1):
            raise DataError(
                f"Dropout: rate is the share of elements to drop, from 0 to below 1; got {rate!r}."
            )
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Any:
        """Return x with a random share set to 0, or x itself out of training."""
        if not self.training or self.rate == 0.0:
            return x
        keep = random.bernoulli(1.0 - self.rate, x.shape, device=x.device)
        # Chosen, not multiplied: a dropped infinity is 0 and not NaN.
        return where(keep, x * (1.0 / (1.0 - self.rate)), 0.0)


class Flatten(Layer):
    """All axes but the first in one. Shapes: x (B, ...) -> (B, product of the rest)."""

    def __init__(self, *, name: str | None = None) -> None:
        self._name = checked_name("Flatten", name)

    def forward(self, x: Tensor) -> Any:
        """Return x with one row an example."""
        if not x.ndim:
            raise ShapeError(f"{self._label()} takes a batch of examples, got a single number.")
        return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class Reshape(Layer):
    """Each example in another shape; one size may be -1, and is worked out.

    Shapes: x (B, ...) -> (B, *shape)

    >>> Reshape(2, -1)([[1.0, 2.0, 3.0, 4.0]]).tolist()
    [[[1.0, 2.0], [3.0, 4.0]]]
    """

    settings = ("shape",)

    def __init__(self, *shape: Any, name: str | None = None) -> None:
        self._name = checked_name("Reshape", name)
        if len(shape) == 1 and isinstance(shape[0], list | tuple):
            shape = tuple(shape[0])
        if shape.count(-1) > 1:
            raise DataError(f"Reshape: only one size can be worked out from the rest, got {shape}.")
        self.shape = tuple(n if n == -1 else _whole("Reshape", "a size", n) for n in shape)

    def forward(self, x: Tensor) -> Any:
        """Return x with its examples reshaped. Raises: ShapeError where they do not fit."""
        n, known = math.prod(x.shape[1:]), math.prod(n for n in self.shape if n != -1)
        if not x.ndim or (n % known if -1 in self.shape else n != known):
            raise ShapeError(
                f"{self._label()} makes examples of shape {self.shape}, got x of shape {x.shape}: "
                f"{n} elements an example do not fit."
            )
        return reshape(x, (x.shape[0], *(n // known if k == -1 else k for k in self.shape)))


class LayerNorm(FeatureLayer):
    """Rows with mean 0 and variance 1 over the last axis, times weight, plus bias.

    (x - mean) / sqrt(variance + eps) * weight + bias, the variance that of the row itself (over I,
    not I - 1). Without ``in_features`` the first x tells I.
    Shapes: x (..., I), weight (I,) of ones, bias (I,) of zeros -> (..., I)
    Numerics: see `nnx.layer_norm`. Source: Ba et al. 2016 (arXiv 1607.06450), eq. 4.
    """

    settings = ("in_features", "eps")

    def __init__(
        self, in_features: int | None = None, *, eps: float = 1e-5, name: str | None = None
    ) -> None:
        self._name = checked_name("LayerNorm", name)
        if not (isinstance(eps, numbers.Real) and 0 <= eps < math.inf):
            raise DataError(f"LayerNorm: eps is a finite number of 0 or more, got {eps!r}.")
        self.eps: float = float(eps)
        if in_features is not None:
            self.make(_whole("LayerNorm", "in_features", in_features))

    def make(self, n_in: int, device: Device | None = None) -> None:
        """Make weight and bias for a number of features."""
        super().make(n_in, device)
        self.weight = init.make("ones", (n_in,), device, self._target_dtype)
        self.bias = init.make("zeros", (n_in,), device, self._target_dtype)

    def forward(self, x: Tensor) -> Any:
        """Return the normalised rows."""
        weight, array = self.weight, x.array
        if array.shape[-1:] != self._row or array.dtype != weight.array.dtype:
            _check_rows(self, x)
        return layer_norm(x, weight, self.bias, eps=self.eps)


# What a layer refuses


def _whole(kind: str, name: str, value: Any) -> int:
    """Return a size as an int. Raises: DataError unless it is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise DataError(f"{kind}: {name} is a whole number of 1 or more, got {value!r}.")
    return int(value)


def _check_floating(layer: Module, x: Tensor) -> None:
    if not x.dtype.is_floating:
        image = "Scale images: x.astype('float32') / 255."
        other = "Convert it: x.astype('float32')."
        raise DTypeError(
            f"{layer._label()} takes floating-point numbers, got x of type {x.dtype} and shape "
            f"{x.shape}. {image if str(x.dtype) == 'uint8' else other}"
        )


def _check_rows(layer: FeatureLayer, x: Tensor) -> None:
    """Explain an input whose last axis or type differs from the parameters'; another float may."""
    _check_floating(layer, x)
    shape, n = x.shape, layer.in_features
    if shape[-1:] == layer._row:
        return
    if len(shape) > 2 and math.prod(shape[1:]) == n:
        what = f"Flatten it first: x.reshape({shape[0]}, {n}), or start the model with nn.Flatten()"
    elif len(shape) == 2 and shape[0] == n:
        what = "Transpose it: x.T"
    elif shape:
        what = f"Give {n} numbers a row, or make the layer for {shape[-1]}: in_features={shape[-1]}"
    else:
        what = f"Give rows of {n} numbers"
    raise ShapeError(f"{layer._label()} takes {n} features, got x of shape {shape}. {what}.")
