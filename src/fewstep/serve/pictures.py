"""Pictures on their way in and out of the compatible APIs: Base64 and data URLs, masks, formats, and the text that a file holds."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, ImageOps

from fewstep.engine.files import COMMENT, FORMATS, picture_bytes
from fewstep.engine.request import Picture, RequestError
from fewstep.engine.source import to_gray

if TYPE_CHECKING:
    from PIL.Image import Image


def decode_text(text: str, what: str) -> bytes:
    """The bytes of a data URL or of plain Base64. Raises RequestError, naming it ``what``, on anything else, an address elsewhere too."""
    if text.startswith(("http:", "https:", "file:")):
        raise RequestError(f"the {what} is an address: this server fetches nothing, give the image itself in Base64")
    try:
        return base64.b64decode(re.sub(r"^data:[^,]{0,100},", "", text, count=1), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"the {what} is no Base64: give a data URL or plain Base64") from None


def alpha_mask(image: Image, wanted: bool) -> Image | None:
    """A mask as the engine has it, white where ``image`` is transparent; None if it is nowhere. Raises RequestError if one is ``wanted`` then."""
    if not image.has_transparency_data:
        if wanted:
            raise RequestError("the mask is nowhere transparent: give one that is, where the image is to be painted anew")
        return None
    return ImageOps.invert(image.convert("RGBA").getchannel("A"))


def gray_mask(mask: Image, size: tuple[int, int], invert: bool) -> Image:
    """A mask whose white is painted anew, of ``size``, the image's; inverted if asked for."""
    gray = to_gray(mask)
    gray = gray if gray.size == size else gray.resize(size)
    return ImageOps.invert(gray) if invert else gray


def picture_as(picture: Picture, kind: str, quality: int | None = None) -> bytes:
    """The picture as a file that says how it was made; ``quality`` is of JPEG and WebP, 0 to 100."""
    return picture_bytes(picture.image, picture.record, kind, quality)


def preview_as(image: Image, kind: str) -> bytes:
    """A preview as a file."""
    stream = io.BytesIO()
    image.save(stream, FORMATS[kind].name, **FORMATS[kind].options)
    return stream.getvalue()


def text_in(image: Image) -> str:
    """The text with its settings that AUTOMATIC1111 and its kin write into a picture; empty if there is none."""
    text = image.info.get("parameters")
    if isinstance(text, str):
        return text
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    if not isinstance(comment, bytes) or not comment.startswith(COMMENT):
        return ""
    return comment.removeprefix(COMMENT).decode("utf-16-be", "replace")


def settings_in(text: str) -> dict[str, Any]:
    """The settings in such a text by their names; what comes before them is "Prompt" and, where there is one, "Negative prompt"."""
    *prompt, last = text.strip().split("\n")
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last[:4000])
    if len(found) < 3:
        return {"Prompt": text.strip()} if text.strip() else {}
    above, _, negative = "\n".join(prompt).partition("\nNegative prompt:")
    told = {"Prompt": above, **({"Negative prompt": negative.strip()} if negative else {})}
    return {**told, **{name: value.strip().strip('"') for name, value in found}}
