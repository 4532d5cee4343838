"""A picture in a terminal: two pixels a character, the upper in the foreground's colour and the lower in the background's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 32
HALF = "▀"


def can_show(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows colours and half blocks."""
    if not stream.isatty() or os.environ.get("TERM", "") == "dumb" or "NO_COLOR" in os.environ:
        return False
    try:
        HALF.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def half_blocks(image: Image, columns: int = COLUMNS) -> str:
    """``image`` as lines of half blocks in 24-bit colour, ``columns`` characters wide."""
    from PIL.Image import Resampling

    rows = max(1, round(columns * image.height / image.width / 2))
    pixels = image.convert("RGB").resize((columns, 2 * rows), Resampling.BOX).tobytes()
    row_bytes = 3 * columns
    lines = []
    for row in range(rows):
        upper, lower = (pixels[(2 * row + half) * row_bytes :][:row_bytes] for half in (0, 1))
        cells = []
        for x in range(0, row_bytes, 3):
            (r, g, b), (s, h, c) = upper[x : x + 3], lower[x : x + 3]
            cells.append(f"\x1b[38;2;{r};{g};{b};48;2;{s};{h};{c}m{HALF}")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)
