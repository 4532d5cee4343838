"""Many pictures in one file, with an atlas that says where each is: what games load sprites from."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fewstep.engine.files import FORMATS, write_bytes
from fewstep.engine.request import RequestError

MOST_SIDE = 16384  # pixels: larger textures are not loaded everywhere


def pack(pictures: Sequence[tuple[str, Image.Image]]) -> tuple[Image.Image, list[dict[str, Any]]]:
    """(one image of all ``pictures``, each a name and an image; for each its name, x, y, w and h in it).

    They stand in rows of about equal number, in their order. Raises RequestError where there are none or too many for one image.
    """
    if not pictures:
        raise RequestError("a sheet of no pictures: give at least one")
    across = math.ceil(math.sqrt(len(pictures)))
    rows = [pictures[first : first + across] for first in range(0, len(pictures), across)]
    width = max(sum(image.width for _, image in row) for row in rows)
    heights = [max(image.height for _, image in row) for row in rows]
    _check_side(len(pictures), width, sum(heights))
    sheet = Image.new("RGBA" if any(image.mode == "RGBA" for _, image in pictures) else "RGB", (width, sum(heights)))
    atlas = []
    for number, row in enumerate(rows):
        x, y = 0, sum(heights[:number])
        for name, image in row:
            sheet.paste(image, (x, y))
            atlas.append({"name": name, "x": x, "y": y, "w": image.width, "h": image.height})
            x += image.width
    return sheet, atlas


def check_sheet(path: Path, count: int, width: int, height: int) -> None:
    """Raises RequestError where ``count`` pictures of one size are too many for a sheet, or the atlas's name is that of something else."""
    across = math.ceil(math.sqrt(count))
    _check_side(count, across * width, math.ceil(count / across) * height)
    atlas = path.with_suffix(".json")
    try:
        if atlas.exists() and "sprites" not in json.loads(atlas.read_bytes()):
            raise ValueError
    except (OSError, ValueError, TypeError, RecursionError):
        raise RequestError(f"--sheet {path}: its atlas would be {atlas}, which is there and no atlas: give another name") from None


def _check_side(count: int, width: int, height: int) -> None:
    if max(width, height) > MOST_SIDE:
        raise RequestError(f"a sheet of {count} pictures has {width}x{height} pixels, and {MOST_SIDE} a side are the most: make fewer at once")


def write_sheet(pictures: Sequence[tuple[str, Image.Image]], path: Path) -> Path:
    """Write the sheet of ``pictures`` as the PNG ``path`` and its atlas beside it as JSON. Returns the atlas's path."""
    sheet, sprites = pack(pictures)
    atlas = {"image": path.name, "width": sheet.width, "height": sheet.height, "sprites": sprites}
    stream = io.BytesIO()
    sheet.save(stream, "PNG", **FORMATS["png"].options)
    write_bytes(path, stream.getvalue())
    return write_bytes(path.with_suffix(".json"), json.dumps(atlas, indent=1, ensure_ascii=False).encode())
