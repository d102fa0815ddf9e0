"""The update rules. g is the gradient of parameter w; everything is element by element."""

from __future__ import annotations

import math
from typing import Any, Unpack

import nnx
from nnx.errors import DataError
from nnx.optim.optimizer import Clip, Optimizer, Params, Rate, Slots, checked
from nnx.tensor import Tensor

Betas = tuple[float, float]


class SGD(Optimizer):
    """Gradient descent, w - lr g, with momentum where asked for.

    v = momentum v + g; w - lr v, or with Nesterov's look ahead w - lr (g + momentum v).
    ``weight_decay`` adds weight_decay w to g.
    Source: Sutskever et al. 2013, in PyTorch's form.
    """

    over_arrays = True

    def __init__(
        self,
        params: Params | Rate | None = None,
        lr: Rate | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **clip: Unpack[Clip],
    ) -> None:
        self.momentum = checked("SGD", "momentum", momentum, 0.0, 1.0)
        self.nesterov = nesterov
        self.weight_decay = checked("SGD", "weight_decay", weight_decay, 0.0, math.inf)
        if nesterov and not momentum:
            raise DataError("SGD: nesterov=True looks ahead along a momentum. Give momentum=0.9.")
        super().__init__(params, lr, **clip)

    def init_slots(self, param: Tensor) -> dict[str, Tensor]:
        """Return the velocity v, 0, where there is momentum."""
        return {"velocity": nnx.zeros_like(param)} if self.momentum else {}

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return w - lr g, or w - lr v."""
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        if self.momentum:
            velocity = slots["velocity"] = self.momentum * slots["velocity"] + grad
            grad = grad + self.momentum * velocity if self.nesterov else velocity
        return param - self.lr * grad


class Adam(Optimizer):
    """Steps of about lr, the gradient's mean over its root mean square.

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, at step t
    w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps).
    ``weight_decay`` adds weight_decay w to g; see `AdamW` for the decoupled form.
    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1.
    """

    over_arrays = True

    def __init__(
        self,
        params: Params | Rate | None = None,
        lr: Rate | None = None,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **clip: Unpack[Clip],
    ) -> None:
        self.betas = _betas(self._kind, betas)
        self.eps = checked(self._kind, "eps", eps, 0.0, math.inf)
        self.weight_decay = checked(self._kind, "weight_decay", weight_decay, 0.0, math.inf)
        super().__init__(params, lr, **clip)

    def init_slots(self, param: Tensor) -> dict[str, Tensor]:
        """Return the running mean m and mean square v, both 0."""
        return {"mean": nnx.zeros_like(param), "square": nnx.zeros_like(param)}

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return w moved against m / sqrt(v), both corrected for their start at 0."""
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        return self._moved(param, grad, slots)

    def _moved(self, param: Any, grad: Any, slots: Slots) -> Any:
        (beta1, beta2), t = self.betas, self.step_count
        mean = slots["mean"] = beta1 * slots["mean"] + (1.0 - beta1) * grad
        square = slots["square"] = beta2 * slots["square"] + (1.0 - beta2) * (grad * grad)
        # Times the inverse of the number: to divide arrays twice would take half as long again.
        root = self.xp.sqrt(square) * (1.0 - beta2**t) ** -0.5 + self.eps
        return param - self.lr / (1.0 - beta1**t) * (mean / root)


class AdamW(Adam):
    """Adam with decoupled weight decay: w (1 - lr weight_decay) first, then Adam's step.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2.
    """

    def __init__(
        self,
        params: Params | Rate | None = None,
        lr: Rate | None = None,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **clip: Unpack[Clip],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **clip)

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return w shrunk, and moved as by `Adam`."""
        return self._moved(param * (1.0 - self.lr * self.weight_decay), grad, slots)


class RMSprop(Optimizer):
    """Gradient descent with each gradient over its root mean square.

    v = alpha v + (1 - alpha) g^2; u = g / (sqrt(v) + eps); w - lr u, or with momentum
    b = momentum b + u; w - lr b. ``weight_decay`` adds weight_decay w to g.
    Source: Hinton 2012, Neural Networks for Machine Learning, lecture 6e; in PyTorch's form.
    """

    default_lr = 1e-2
    over_arrays = True

    def __init__(
        self,
        params: Params | Rate | None = None,
        lr: Rate | None = None,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        **clip: Unpack[Clip],
    ) -> None:
        self.alpha = checked("RMSprop", "alpha", alpha, 0.0, 1.0)
        self.eps = checked("RMSprop", "eps", eps, 0.0, math.inf)
        self.weight_decay = checked("RMSprop", "weight_decay", weight_decay, 0.0, math.inf)
        self.momentum = checked("RMSprop", "momentum", momentum, 0.0, 1.0)
        super().__init__(params, lr, **clip)

    def init_slots(self, param: Tensor) -> dict[str, Tensor]:
        """Return the running mean square v, 0, and with momentum the velocity b, 0."""
        names = ("square", "velocity") if self.momentum else ("square",)
        return {name: nnx.zeros_like(param) for name in names}

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return w - lr u, or w - lr b."""
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        square = self.alpha * slots["square"] + (1.0 - self.alpha) * (grad * grad)
        slots["square"] = square
        move = grad / (self.xp.sqrt(square) + self.eps)
        if self.momentum:
            move = slots["velocity"] = self.momentum * slots["velocity"] + move
        return param - self.lr * move


class Adagrad(Optimizer):
    """Gradient descent that slows down where gradients have been large.

    v = v + g^2; w - lr g / (sqrt(v) + eps). ``weight_decay`` adds weight_decay w to g.
    Source: Duchi et al. 2011, figure 1, diagonal form.
    """

    default_lr = 1e-2
    over_arrays = True

    def __init__(
        self,
        params: Params | Rate | None = None,
        lr: Rate | None = None,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        **clip: Unpack[Clip],
    ) -> None:
        self.eps = checked("Adagrad", "eps", eps, 0.0, math.inf)
        self.weight_decay = checked("Adagrad", "weight_decay", weight_decay, 0.0, math.inf)
        super().__init__(params, lr, **clip)

    def init_slots(self, param: Tensor) -> dict[str, Tensor]:
        """Return the sum of squares v, 0."""
        return {"square": nnx.zeros_like(param)}

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return w - lr g / (sqrt(v) + eps)."""
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        square = slots["square"] = slots["square"] + grad * grad
        return param - self.lr * (grad / (self.xp.sqrt(square) + self.eps))


class Lion(Optimizer):
    """Steps of exactly lr, along the sign of a mix of the gradient and its running mean.

    w - lr (sign(beta1 m + (1 - beta1) g) + weight_decay w); then m = beta2 m + (1 - beta2) g.
    Source: Chen et al. 2023 (arXiv 2302.06675), algorithm 2.
    """

    default_lr = 1e-4
    over_arrays = True

    def __init__(
        self,
        params: Params | Rate | None = None,
        lr: Rate | None = None,
        betas: Betas = (0.9, 0.99),
        weight_decay: float = 0.0,
        **clip: Unpack[Clip],
    ) -> None:
        self.betas = _betas("Lion", betas)
        self.weight_decay = checked("Lion", "weight_decay", weight_decay, 0.0, math.inf)
        super().__init__(params, lr, **clip)

    def init_slots(self, param: Tensor) -> dict[str, Tensor]:
        """Return the running mean m, 0."""
        return {"mean": nnx.zeros_like(param)}

    def update(self, param: Any, grad: Any, slots: Slots) -> Any:
        """Return w moved by lr along the signs, and shrunk."""
        (beta1, beta2), mean = self.betas, slots["mean"]
        move = self.xp.sign(beta1 * mean + (1.0 - beta1) * grad)
        if self.weight_decay:
            move = move + self.weight_decay * param
        slots["mean"] = beta2 * mean + (1.0 - beta2) * grad
        return param - self.lr * move


def _betas(kind: str, betas: Any) -> Betas:
    try:
        first, second = betas
    except (TypeError, ValueError):
        raise DataError(f"{kind}: betas are two numbers, got {betas!r}.") from None
    return checked(kind, "beta1", first, 0.0, 1.0), checked(kind, "beta2", second, 0.0, 1.0)
