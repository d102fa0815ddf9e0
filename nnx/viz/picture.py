"""What every picture can do: be saved as .svg, .png or .pdf, and show itself in a notebook."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnx.errors import DataError, did_you_mean
from nnx.files import replace_file

FORMATS = ("svg", "png", "pdf")
DPI = 144

LIGHT = {
    "paper": "#ffffff", "ink": "#1f2328", "muted": "#59636e", "edge": "#8c959f", "box": "#f6f8fa",
    "border": "#d0d7de", "input": "#8250df", "parameter": "#0969da", "op": "#8c959f",
    "result": "#1a7f37", "value": "#57606a", "gradient": "#b35900", "positive": "#007a5e",
    "negative": "#c8380e", "zero": "#ffffff", "lit": "#d97706", "first": "#0072b2",
    "second": "#d55e00",
}  # fmt: skip
DARK = {
    "paper": "#0d1117", "ink": "#e6edf3", "muted": "#9198a1", "edge": "#6e7681", "box": "#161b22",
    "border": "#3d444d", "input": "#b083f0", "parameter": "#539bf5", "op": "#768390",
    "result": "#3fb950", "value": "#adbac7", "gradient": "#f0a04b", "positive": "#35d6a8",
    "negative": "#ff6f47", "zero": "#000000", "lit": "#ffd866", "first": "#56b4e9",
    "second": "#e69f00",
}  # fmt: skip


def colours(dark: bool | None) -> dict[str, str]:
    """Return the colours by their use, for dark paper or for light."""
    return DARK if dark else LIGHT


def rgb(colour: str) -> Any:
    """Return a colour such as #0072b2 as three numbers from 0 to 255."""
    import numpy as np

    return np.frombuffer(bytes.fromhex(colour.removeprefix("#")), np.uint8)


def signed_colours(values: Any, limit: float, use: dict[str, str]) -> Any:
    """Return numbers as colours: green above zero, red below, full at the limit.

    Shapes: (...) -> (..., 3). Dtype: uint8. NaN is grey.
    """
    import numpy as np

    zero, plus, minus = (rgb(use[k]).astype(float) for k in ("zero", "positive", "negative"))
    share = np.clip(values / limit if limit else np.sign(values), -1, 1)[..., np.newaxis]
    mixed = np.where(share >= 0, zero + share * (plus - zero), zero - share * (minus - zero))
    return np.rint(np.where(np.isnan(share), rgb(use["muted"]), mixed)).astype(np.uint8)


def png(pixels: Any) -> bytes:
    """Return pixels as a PNG file. Shapes: (H, W, 3) uint8. Source: ISO/IEC 15948."""
    import numpy as np

    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each starts with its filter, none
    for i in range(3):
        lines[:, 1 + i :: 3] = pixels[..., i]

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(lines.data)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


class Picture:
    """A picture: ``save(path)`` writes it in the format that the path's suffix names."""

    text: str = ""
    """What it shows, in words."""

    def render(self, format: str) -> bytes:
        """Return the picture as a file of a format: svg, png or pdf."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture and return the path. Raises: DataError, CheckpointError."""
        check_suffix(path)
        replace_file(path, [memoryview(self.render(Path(path).suffix.lower().removeprefix(".")))])
        return Path(path)

    def __repr__(self) -> str:
        return f"<picture: {self.text}; .save('picture.png') writes it>"


class Plot(Picture):
    """A picture drawn by matplotlib; ``figure`` is open to changes."""

    def __init__(self, figure: Any, text: str, dark: bool | None) -> None:
        self.figure, self.text, self.dark = figure, text, dark

    def render(self, format: str) -> bytes:
        """Return the picture as a file of a format: svg, png or pdf."""
        return rendered(self.figure, format, self.dark)

    def _repr_png_(self) -> bytes:
        return self.render("png")

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.render("png")).decode()
        width = round(self.figure.get_figwidth() * DPI / 2)
        return (
            f'<img alt="{html.escape(self.text)}" width="{width}" '
            f'src="data:image/png;base64,{data}">'
        )


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise DataError unless a path ends in a format that pictures have."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        hint = did_you_mean(suffix, FORMATS)
        raise DataError(f"{os.fspath(path)!r}: the suffix names a picture's format. {hint}")


# matplotlib


def library() -> Any:
    """Return matplotlib. Raises: DataError that names the extra, where it is missing."""
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]
    except ValueError as error:  # of a setting, such as MPLBACKEND
        named = os.environ.get("MPLBACKEND")
        mend = f"MPLBACKEND is {named!r}: unset it" if named else "Mend its matplotlibrc"
        raise DataError(
            f"Pictures are drawn with matplotlib, which does not start: {error}. {mend}."
        ) from None
    except ImportError:
        raise DataError(
            "Pictures are drawn with matplotlib, which is not installed: "
            "python -m pip install 'nnx-array[plot]'."
        ) from None
    return matplotlib


@contextlib.contextmanager
def style(dark: bool | None = None) -> Iterator[dict[str, str]]:
    """Draw in nnx's style inside the context; gives the colours."""
    use = colours(dark)
    matplotlib = library()
    settings = {
        "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.facecolor": use["paper"], "axes.edgecolor":
        use["muted"], "axes.labelcolor": use["ink"], "text.color": use["ink"], "xtick.color":
        use["muted"], "ytick.color": use["muted"], "xtick.labelcolor": use["ink"],
        "ytick.labelcolor": use["ink"], "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": False, "grid.color": use["border"], "grid.linewidth": 0.6,
        "figure.facecolor": use["paper"], "savefig.facecolor": use["paper"], "legend.frameon":
        False, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "figure.dpi": DPI,
        "text.parse_math": False, "text.hinting": "none", "svg.fonttype": "none", "svg.hashsalt":
        "nnx",
    }  # fmt: skip
    # Of the user's own settings none changes a picture; asking for the backend would open one.
    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
    with matplotlib.rc_context({**defaults, **settings}):
        yield use


def new_figure(width: float, height: float, *, constrained: bool = True) -> Any:
    """Return an empty figure of a size in inches, which belongs to no window."""
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    if constrained:
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    return figure


def rendered(figure: Any, format: str, dark: bool | None) -> bytes:
    """Return a figure as a file; the same figure always gives the same bytes."""
    drawn = io.BytesIO()
    # No date, and in the style again, as labels of axes are made only when they are drawn.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
    with style(dark):
        figure.savefig(drawn, format=format, dpi=figure.dpi, metadata=metadata)
    return drawn.getvalue()
