"""How exact products of float32 matrices are: one setting, in PyTorch's words, for all devices."""

from __future__ import annotations

from nnx.errors import DataError, did_you_mean
from nnx.op import changes

MATMUL_PRECISIONS = ("highest", "high", "medium", "float16")

_matmul = "highest"


def set_matmul_precision(precision: str) -> None:
    """Set how products of float32 matrices are formed, in this process, from the next call on.

    ``"highest"``: in float32, the default. ``"high"``: the inputs rounded to TF32 (10 bits after
    the point). ``"medium"``: rounded to bfloat16 (7 bits), or to TF32 where the library prefers
    it. ``"float16"``, which is not one of PyTorch's words: rounded to float16 (10 bits, but nothing
    beyond 65504); train with an optimizer's ``loss_scale``. Sums are formed in float32 in each
    case, and other types than float32 do not change. Compiled steps also store in 16 bits what one
    product makes and only others read, and round the bias that is added to it. A device without
    such units, every CPU and every GPU before Ampere among them, forms them as ``"highest"`` does.
    Raises: DataError for another word.

    >>> set_matmul_precision("high")
    >>> get_matmul_precision()
    'high'
    >>> set_matmul_precision("highest")
    """
    global _matmul
    if precision not in MATMUL_PRECISIONS:
        raise DataError(
            f"There is no matmul precision {precision!r}. "
            f"{did_you_mean(precision, MATMUL_PRECISIONS)}"
        )
    _matmul = precision
    changes.n += 1  # compiled functions were made for the one before


def get_matmul_precision() -> str:
    """Return what `set_matmul_precision` set, such as "highest"."""
    return _matmul
