"""Which pictures are fit to train on, and why the others are not: a function of one picture, to run in any process.

Source: SDXL-Lightning (arXiv 2402.13929) on its data: pictures of more than 1024 pixels, LAION's aesthetic score above 5.5, sharpness by
the Laplacian, cleaned prompts. The paper gives no threshold of sharpness, and crops squares; here the crop is the nearest aspect bucket.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from fewstep.data.buckets import nearest
from fewstep.data.captions import clean, words
from fewstep.data.item import Item
from fewstep.engine.request import RequestError
from fewstep.engine.source import TooLarge, digest, open_image, to_rgb

MOST_PIXELS = 200_000_000  # of a picture: what cameras make; 600 MB decoded
TILES = 4  # a side, that sharpness is looked for in
THUMBNAIL = 128  # pixels a side of what the audit shows
REASONS = {  # of being dropped, in the order in which they are looked for
    "no caption": "nothing says what the picture shows",
    "no words": "nothing was left of the caption: addresses, markup or emoji alone",
    "short caption": "the caption has fewer words than were asked for",
    "unreadable": "missing, damaged, an animation, or no PNG, WebP or JPEG",
    "too large": f"more than {MOST_PIXELS / 1e6:.0f} megapixels, as picture bombs are",
    "too small": "it would have to be enlarged, or has a shorter side than was asked for",
    "blurred": "no part of it is as sharp as was asked for",
    "duplicate": "its pixels are those of an earlier picture",
    "caption repeated": "too many pictures before it have the same caption",
    "no score": "nothing says how it looks, and a score was asked for",
    "low score": "its aesthetic score is below what was asked for",
}


@dataclass(frozen=True)
class Rules:
    """What a picture must have to be kept."""

    side: int  # of the model's square pictures
    min_side: int = 0  # pixels of the shorter side; 0: none is enlarged, which for squares is the paper's rule
    min_sharpness: float = 100.0  # of the sharpest tile at the size that is trained on, see sharpness(); 0: any
    min_words: int = 2
    same_caption: int = 100  # most pictures that share a caption; 0: any number
    min_score: float = 0.0  # aesthetic, LAION's being 0 to 10; 0: any

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < 1e9:
                raise RequestError(f"--{name.replace('_', '-')} {value}: give a number from 0 on")


@dataclass(frozen=True)
class Look:
    """What one process found out about a picture. ``reason`` is empty if nothing yet speaks against it."""

    name: str
    given: str  # the caption as the source has it
    caption: str  # cleaned
    reason: str = ""
    detail: str = ""
    pixels: np.ndarray | None = None  # uint8 [h, w, 3], cut to its bucket
    time_ids: tuple[int, ...] = ()  # original height and width, crop's top and left, target height and width, in pixels
    digest: str = ""  # of the pixels before scaling
    score: float | None = None
    thumbnail: bytes = b""  # JPEG

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the bucket."""
        *_, height, width = self.time_ids
        return width, height

    def without_pixels(self) -> Look:
        """The same, smaller."""
        return replace(self, pixels=None)


def look(item: Item, rules: Rules) -> Look:
    """Read, judge and cut one picture. Never raises on what a picture or its caption may be."""
    given = item.caption or ""
    caption = clean(given)
    if problem := _of_caption(given, caption, rules):
        return Look(item.name, given, caption, *problem)
    try:
        image = to_rgb(open_image(item.place.read(), "picture", MOST_PIXELS))
    except TooLarge as error:
        return Look(item.name, given, caption, "too large", _brief(error))
    except (RequestError, OSError) as error:
        return Look(item.name, given, caption, "unreadable", _brief(error))
    thumbnail = _thumbnail(image)
    width, height = nearest(image.width, image.height, rules.side)
    least = (rules.min_side, rules.min_side) if rules.min_side else (width, height)
    if image.width < least[0] or image.height < least[1]:
        detail = f"{image.width}x{image.height}, and {least[0]}x{least[1]} are needed"
        return Look(item.name, given, caption, "too small", detail, thumbnail=thumbnail)
    cut, top, left = crop(image, width, height)
    found = sharpness(cut)
    if found < rules.min_sharpness:
        return Look(item.name, given, caption, "blurred", f"sharpness {found:.1f}", thumbnail=thumbnail)
    return Look(
        name=item.name,
        given=given,
        caption=caption,
        detail=f"{image.width}x{image.height}, sharpness {found:.0f}",
        pixels=np.asarray(cut),
        time_ids=(image.height, image.width, top, left, height, width),
        digest=digest(np.asarray(image))[:32],
        score=item.score,
        thumbnail=thumbnail,
    )


def _of_caption(given: str, caption: str, rules: Rules) -> tuple[str, str] | None:
    if not given.strip():
        return "no caption", ""
    count = words(caption)
    if not count and rules.min_words:
        return "no words", ""
    return ("short caption", f"{count} word{'s' * (count != 1)}") if count < rules.min_words else None


def crop(image: Image.Image, width: int, height: int) -> tuple[Image.Image, int, int]:
    """(``image`` scaled to cover ``width`` by ``height`` and cut at the middle, pixels cut off above, on the left), as SDXL counts them."""
    scale = max(width / image.width, height / image.height)
    whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    if image.size == whole:
        return image.crop((left, top, left + width, top + height)), top, left
    x, y = image.width / whole[0], image.height / whole[1]
    box = (left * x, top * y, (left + width) * x, (top + height) * y)  # only what stays is scaled: of a long strip the whole would fill the memory
    return image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0), top, left


def sharpness(image: Image.Image, tiles: int = TILES) -> float:
    """The variance of ∇²Y in the sharpest of ``tiles``² tiles, Y the luma in 0 .. 255 and ∇² the four neighbours less four times the middle.

    Over a whole picture the variance falls with the share that is flat or out of focus by intent: a subject on a plain ground is not blurred.
    """
    luma = np.asarray(image.convert("L"), np.float32)
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    parts = (part for rows in np.array_split(laplacian, tiles, 0) for part in np.array_split(rows, tiles, 1))
    return max(float(part.var(dtype=np.float64)) for part in parts)


def _thumbnail(image: Image.Image) -> bytes:
    small, stream = image.copy() if max(image.size) <= THUMBNAIL else image.reduce(max(max(image.size) // (4 * THUMBNAIL), 1)), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _brief(error: Exception) -> str:
    """What is wrong, without what to do, on one line: it may quote a hostile file."""
    said = error.strerror or "" if isinstance(error, OSError) else str(error).partition(": give")[0]
    return ascii(said[:200])[1:-1]
