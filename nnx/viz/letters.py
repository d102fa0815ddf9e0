"""Text in a fixed-width font, written into pixels of letters that are each drawn once."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nnx.viz.picture import rgb

CHARACTER = 0.602  # the width of any letter, in sizes of the font
RISE, DROP = 1.2, 0.4  # room above and below the baseline, in sizes of the font
PHASES = 4  # places within a pixel that a letter may begin at


def font(size: float, bold: bool) -> Any:
    """Return the font of a size."""
    from matplotlib.font_manager import FontProperties

    weight = "bold" if bold else "normal"
    return FontProperties(family="DejaVu Sans Mono", size=size, weight=weight)


class Letters:
    """Writes into an image of so many dots per inch. Shapes: pixels (H, W, 3) uint8.

    For matplotlib to lay out and draw each text anew takes several times as long.
    """

    def __init__(self, pixels: Any, dpi: float) -> None:
        self.pixels, self.dpi = pixels, dpi
        self._letter = functools.cache(self._drawn)

    def write(self, x: float, y: float, text: str, size: float, bold: bool, colour: str) -> None:
        """Write a text whose baseline begins at (x, y), in pixels from the upper left."""
        step = CHARACTER * size * self.dpi / 72
        rise, tall, pad = self._room(size)
        first = math.floor(x)
        line = np.zeros((tall, math.ceil(step * len(text)) + 2 * pad + 4), np.float32)
        for i, letter in enumerate(text):
            if letter != " ":
                column, phase = divmod(round(PHASES * (x - first + i * step)), PHASES)
                place = line[:, column : column + 3 * pad]
                np.maximum(place, self._letter(letter, size, bold, phase), out=place)
        top, left = round(y) - rise, first - pad
        row, column = max(top, 0), max(left, 0)
        area = self.pixels[row : top + tall, column : left + line.shape[1]]
        share = line[row - top :, column - left :][: area.shape[0], : area.shape[1], np.newaxis]
        area[...] = np.rint(area + share * (rgb(colour).astype(np.float32) - area))

    def _room(self, size: float) -> tuple[int, int, int]:
        """Return the height above the baseline and in all, and the room beside a letter."""
        scale = size * self.dpi / 72
        rise = math.ceil(RISE * scale)
        return rise, rise + math.ceil(DROP * scale), math.ceil(CHARACTER * scale)

    def _drawn(self, letter: str, size: float, bold: bool, phase: int) -> Any:
        """Return how much of each pixel a letter covers."""
        from matplotlib.backends import backend_agg

        untyped: Any = backend_agg
        rise, tall, pad = self._room(size)
        renderer = untyped.RendererAgg(3 * pad, tall, self.dpi)
        context = renderer.new_gc()
        renderer.draw_text(context, pad + phase / PHASES, rise, letter, font(size, bold), 0.0)
        return np.asarray(renderer.buffer_rgba())[..., 3].astype(np.float32) / 255
