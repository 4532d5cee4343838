"""The image that a picture is begun from: opened with care, brought to its size, extended, and put back where nothing was to change."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from fewstep.engine.files import FORMATS, KINDS
from fewstep.engine.request import MOST_PIXELS, RequestError

Bytes = NDArray[np.uint8]
WHITE = (255, 255, 255)
LONGEST_TEXTS = 1 << 20  # characters of all texts in a file: sixty thousand bytes can hold sixty million


class TooLarge(RequestError):
    """An image that says it has more pixels than are opened."""


@dataclass(frozen=True, eq=False)
class Source:
    """An image in the size of its picture, and how much of it is to be made anew."""

    pixels: Bytes  # [H, W, 3]
    mask: Bytes | None  # [H, W]: 255 is made anew, 0 stays; None: all is
    image_hash: str  # SHA-256 of the pixels
    mask_hash: str | None
    outpaint: tuple[int, int, int, int] | None = None  # how many of the pixels were added on the left, top, right and bottom

    def paste(self, made: Bytes) -> Bytes:
        """``made`` [H, W, 3] where the mask is white, the image's own pixels where it is black, and a mixture between."""
        if self.mask is None:
            return made
        share = self.mask[:, :, None].astype(np.float32) / np.float32(255)
        return np.rint(self.pixels + share * (made.astype(np.float32) - self.pixels)).astype(np.uint8)

    def latent_mask(self, factor: int) -> NDArray[np.float32]:
        """The mask of the latents: the mean over each latent position, [1, 1, H/f, W/f] in [0, 1]."""
        height, width = self.pixels.shape[:2]
        if self.mask is None:
            return np.ones((1, 1, height // factor, width // factor), np.float32)
        blocks = self.mask.reshape(1, 1, height // factor, factor, width // factor, factor)
        return blocks.mean((3, 5), dtype=np.float32) / np.float32(255)


def prepare(image: Image.Image, mask: Image.Image | None, margins: tuple[int, int, int, int] | None, width: int, height: int, factor: int) -> Source:
    """``image`` and ``mask`` as a picture of this size is begun from, with ``margins`` (left, top, right, bottom) around it.

    What has another size is scaled to cover the frame and cut at the middle. Raises RequestError on pixels that cannot be read, or on
    margins that are no multiples of ``factor`` or leave no room for the image.
    """
    left, top, right, bottom = margins or (0, 0, 0, 0)
    inner = width - left - right, height - top - bottom
    if any(side % factor for side in (left, top, right, bottom)):
        raise RequestError(f"outpaint = {left},{top},{right},{bottom}: give multiples of {factor} pixels")
    if min(inner) < factor:
        raise RequestError(f"outpaint = {left},{top},{right},{bottom} leaves no room for the image in {width}x{height} pixels: give less, or a larger size")
    try:
        image.load()
        image = ImageOps.fit(to_rgb(image), inner, Image.Resampling.LANCZOS) if image.size != inner else to_rgb(image)
        if mask is not None:
            mask.load()
            mask = ImageOps.fit(to_gray(mask), inner, Image.Resampling.BILINEAR) if mask.size != inner else to_gray(mask)
    except RequestError:
        raise
    except (OSError, ValueError, SyntaxError, struct.error):
        raise RequestError("the image or its mask is damaged: give whole ones") from None
    if margins is not None:
        image, mask = outpaint(image, margins, mask)
    pixels, gray = np.asarray(image), None if mask is None else np.asarray(mask)
    return Source(pixels, gray, digest(pixels), None if gray is None else digest(gray), margins)


def outpaint(image: Image.Image, margins: tuple[int, int, int, int], mask: Image.Image | None = None) -> tuple[Image.Image, Image.Image]:
    """(a larger image, its mask) to have the frame extended by ``margins`` pixels on the left, top, right and bottom.

    The new parts repeat the nearest pixels and are white in the mask; the rest is black, or as in ``mask``, which has the image's size.
    """
    left, top, right, bottom = margins
    wider = np.pad(np.asarray(to_rgb(image)), ((top, bottom), (left, right), (0, 0)), mode="edge")
    inside = Image.new("L", image.size) if mask is None else to_gray(mask)
    frame = Image.new("L", (image.width + left + right, image.height + top + bottom), 255)
    frame.paste(inside, (left, top))
    return Image.fromarray(wider), frame


def digest(pixels: Bytes) -> str:
    """The SHA-256 of an array's shape and values, in hexadecimal."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` without transparency, on white."""
    return image if image.mode == "RGB" else _on(_of_bytes(image, "image"), WHITE).convert("RGB")


def to_gray(mask: Image.Image) -> Image.Image:
    """``mask`` in grey; what is transparent counts as black."""
    return _on(_of_bytes(mask, "mask"), (0, 0, 0)).convert("L")


def _of_bytes(image: Image.Image, what: str) -> Image.Image:
    """``image`` in 8 bits a colour: 16 of grey, as depth maps have them, are scaled down. Raises RequestError on numbers without a scale."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F", "LAB", "La", "RGBa"):
        raise RequestError(f"the {what} has pixels of kind '{image.mode}': give one in grey or RGB, of 8 or 16 bits a colour")
    return image


def _on(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    if not image.has_transparency_data:
        return image
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, colour), opaque)


def open_image(content: bytes, what: str = "image", most: int = MOST_PIXELS) -> Image.Image:
    """The picture in the bytes of a PNG, WebP or JPEG, decoded and turned as its EXIF says.

    Its size is looked at before its pixels are. Raises TooLarge on more than ``most`` pixels and RequestError, naming it ``what``, on anything
    that is no whole picture or moves. Of its texts it keeps the first megabyte.
    """
    form = next((form for form in FORMATS.values() if form.signature.match(content)), None)
    if form is None:
        raise RequestError(f"the {what} is no {KINDS}: give it as one of these")
    try:
        with warnings.catch_warnings(action="ignore"):
            picture: ImageFile = form.plugin(io.BytesIO(content))
            if picture.width * picture.height > most:
                raise TooLarge(f"the {what} says it is {picture.width}x{picture.height} pixels: give one of at most {most / 1e6:.1f} megapixels")
            if getattr(picture, "n_frames", 1) != 1:
                raise RequestError(f"the {what} is an animation: give a single picture")
            picture.load()
            forget_long_texts(picture)
            return ImageOps.exif_transpose(picture)
    except RequestError:
        raise
    except (OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error, Image.DecompressionBombError, MemoryError):
        raise RequestError(f"the {what} is a damaged picture: give a whole one") from None


def forget_long_texts(picture: ImageFile) -> None:
    """Drop from ``picture.info`` the texts that exceed LONGEST_TEXTS: they are compressed, and would be kept and told as long as the picture is."""
    left = LONGEST_TEXTS
    for name, value in list(picture.info.items()):
        if isinstance(value, str):
            left -= len(value)
            if left < 0:
                del picture.info[name]
