"""Loss scaling: what keeps gradients inside float16's range, and skips the steps that leave it.

Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; the growth and its
interval are those of PyTorch's GradScaler, the scale a power of two so that no digit is lost.
"""

from __future__ import annotations

import math
from typing import Any

from nnx.errors import DataError
from nnx.tensor import Tensor, asarray

GROWTH_INTERVAL = 2000
"""After so many finite steps in a row the scale is doubled."""
LARGEST = 2.0**24


def checked_scale(kind: str, scale: Any) -> float | None:
    """Return a scale to begin with. Raises: DataError unless it is a power of two, 1 to 2**24."""
    if scale is None:
        return None
    number = float(scale) if isinstance(scale, int | float) and not isinstance(scale, bool) else 0.0
    if not 1.0 <= number <= LARGEST or math.frexp(number)[0] != 0.5:
        raise DataError(
            f"{kind}: loss_scale is a power of two from 1 to 2**24, such as 2**15, got {scale!r}."
        )
    return number


def slots_of(scale: float, device: Any) -> dict[str, Tensor]:
    """Return what is kept between steps: the scale, and the finite steps since it last changed."""
    return {
        "scale": asarray(scale, dtype="float32", device=device),
        "good": asarray(0, dtype="int32", device=device),
    }


def all_finite(xp: Any, grads: list[Any]) -> Any:
    """Return whether every number of some gradients is finite, as an array of one flag."""
    found = None
    for grad in grads:
        fine = xp.all(xp.isfinite(grad))
        found = fine if found is None else xp.logical_and(found, fine)
    return found


def renewed(xp: Any, scale: Any, good: Any, fine: Any) -> tuple[Any, Any]:
    """Return the next scale, and the finite steps since it last changed."""
    more = good + 1
    grows = xp.logical_and(fine, more >= GROWTH_INTERVAL)
    doubled = xp.where(grows, xp.clip(scale * 2.0, 1.0, LARGEST), scale)
    halved = xp.clip(scale * 0.5, 1.0, LARGEST)
    counts = xp.logical_and(fine, xp.logical_not(grows))
    return xp.where(fine, doubled, halved), xp.where(counts, more, xp.zeros_like(good))
