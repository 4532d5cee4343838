"""Picture files: PNG, WebP and JPEG that hold the record of how they were made, written whole or not at all, and read from their headers."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import secrets
import struct
import unicodedata
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.WebPImagePlugin import WebPImageFile

from fewstep.engine.options import LARGEST
from fewstep.engine.record import Record
from fewstep.engine.request import MOST_PIXELS, RequestError

KEY = "fewstep"
LONGEST_TEXT = 1 << 16
LONGEST_EXIF = (1 << 16) - 3  # bytes, of a JPEG: sixteen bits say how long it is, those two bytes included
NOTE = KEY.encode() + b"\0"  # what our maker's note in EXIF begins with
COMMENT = b"UNICODE\0"  # what a comment in EXIF begins with; UTF-16 follows
TEXTS = ("prompt", "prompt_2", "blend", "negative", "template")  # of a record: what was typed, of any characters
GIVE = "give a picture that 'fewstep generate' wrote"
KINDS = "PNG, WebP or JPEG"
ENDINGS = ".png, .webp or .jpg"


@dataclass(frozen=True)
class Format:
    """A kind of picture file: what it begins with, what its name ends in (the usual ending first), and how Pillow reads and writes it."""

    name: str
    signature: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    plugin: type[ImageFile]
    options: dict[str, Any]


FORMATS = {
    # Filters leave a picture little but runs, and looking for nothing else takes half the time of level 1 alone and gives smaller files.
    "png": Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), (".png",), PngImageFile, {"compress_level": 1, "compress_type": zlib.Z_RLE}),
    "webp": Format("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), (".webp",), WebPImageFile, {"quality": 90, "method": 2}),
    "jpeg": Format("JPEG", re.compile(rb"\xff\xd8\xff"), (".jpg", ".jpeg"), JpegImageFile, {"quality": 95, "subsampling": "4:4:4"}),
}
DEFAULT = "png"


def format_of(path: Path) -> str | None:
    """The format that a file's name asks for: "png", "webp", "jpeg" or None."""
    return next((name for name, form in FORMATS.items() if path.suffix.lower() in form.suffixes), None)


def picture_bytes(image: Image.Image, record: Record, kind: str = DEFAULT, quality: int | None = None) -> bytes:
    """The picture as a file of format ``kind`` with both texts. The same picture and record give the same bytes on the same machine.

    ``quality`` is that of a JPEG or WebP, 0 to 100, where it is not the usual one. A JPEG has 64 KB for texts: of prompts so long that both have no
    room AUTOMATIC1111's is left out, and then ours. Raises RequestError on a transparent picture as JPEG, which has none.
    """
    check_format(kind, record.transparent)
    form, stream = FORMATS[kind], io.BytesIO()
    said = {name: value for name, value in dataclasses.asdict(record).items() if value is not None and value is not False}
    parameters, content = record.parameters(), json.dumps(said, sort_keys=True, ensure_ascii=False)
    options = form.options if quality is None or kind == "png" else {**form.options, "quality": quality}
    image.save(stream, form.name, **_texts(kind, parameters, content), **options)
    return stream.getvalue()


def check_format(kind: str, transparent: bool) -> None:
    """Raises RequestError if a ``transparent`` picture is to be a JPEG."""
    if transparent and kind == "jpeg":
        raise RequestError("a JPEG has no transparent background: give png or webp as the format")


def _texts(kind: str, parameters: str, content: str) -> dict[str, Any]:
    """Both texts, as Pillow takes them for a file of this kind."""
    if kind == "png":
        texts = PngInfo()
        texts.add_text("parameters", parameters)
        texts.add_text(KEY, content)
        return {"pnginfo": texts}
    both, ours = _exif(parameters, content), _exif("", content)
    room = LONGEST_EXIF if kind == "jpeg" else len(both)
    return {"exif": both if len(both) <= room else ours if len(ours) <= room else b""}


def _exif(parameters: str, content: str) -> bytes:
    """Both texts as EXIF: AUTOMATIC1111's is the comment, as it writes it, and ours the maker's note, which no viewer shows as a caption."""
    exif = Image.Exif()
    exif.endian = ">"
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: COMMENT + parameters.encode("utf-16-be"), ExifTags.Base.MakerNote: NOTE + content.encode()}
    return exif.tobytes()


def write_picture(image: Image.Image, record: Record, path: Path, replace: bool = True) -> Path:
    """Write ``path`` in the format of its name, whole or not at all; what stood there is replaced, or with ``replace`` off stays.

    Raises RequestError on a name of no format, OSError where it cannot be written, of which FileExistsError on what stays.
    """
    kind = format_of(path)
    if kind is None:
        raise RequestError(f"{path}: pictures are written as {KINDS}: give a name that ends in {ENDINGS}")
    return write_bytes(path, picture_bytes(image, record, kind), replace)


def write_bytes(path: Path, content: bytes, replace: bool = True) -> Path:
    """Write ``path``, whole or not at all; what stood there is replaced, or with ``replace`` off stays. A link stays one: what it leads to is written.

    Raises OSError where it cannot be written, of which FileExistsError on what stays.
    """
    place = Path(os.path.realpath(path)) if replace and path.is_symlink() else path
    temporary = place.with_name(f".{place.stem[:40]}-{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        error.filename = str(path)  # nobody knows the temporary one
        raise
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        if replace:
            temporary.replace(place)
        else:
            _put(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _put(temporary: Path, path: Path) -> None:
    """Give ``temporary`` the name ``path``. Raises FileExistsError if there is one of that name: a link is made only where there is none."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(path) from None
        temporary.replace(path)
    else:
        temporary.unlink()


def read_record(path: Path) -> Record:
    """The record of a picture that fewstep wrote, from its header: no pixel is decoded.

    Raises RequestError on a file that is missing, no PNG, WebP or JPEG, larger than 134 MB or 16.8 megapixels, or without a usable record.
    """
    try:
        with path.open("rb") as stream:
            text = _read_text(path, stream)
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror or 'not a whole picture'}): {GIVE}") from None
    except Image.DecompressionBombError:
        raise RequestError(f"{path} says it is larger than {MOST_PIXELS / 1e6:.1f} megapixels: {GIVE}") from None
    except (ValueError, SyntaxError, LookupError, TypeError, struct.error) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path} is a damaged picture: {GIVE}") from None
    if text is None or len(text) > LONGEST_TEXT:
        raise RequestError(f"{path} holds no record of fewstep: {GIVE}")
    try:
        record = Record(**json.loads(text))
        _check_plain({name: value for name, value in dataclasses.asdict(record).items() if name not in TEXTS})
        return record
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: its record cannot be used ({_plain(error)}): give its prompt and seed yourself") from None


def _check_plain(value: Any) -> None:
    """Raises ValueError on a text with control characters, which a terminal obeys: what a file says of itself is told."""
    if isinstance(value, str) and any(unicodedata.category(letter) == "Cc" for letter in value):
        raise ValueError(f"it holds {value!r:.60}")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        _check_plain(one)


def _plain(error: Exception) -> str:
    """What an error says, on one line and without control characters, for it may quote a hostile file."""
    return ascii(str(error)[:200])[1:-1]


def _read_text(path: Path, stream: BinaryIO) -> str | None:
    """Our text in an open file, None where there is none. Raises RequestError and what Pillow raises on damage."""
    start = stream.read(16)
    form = next((form for form in FORMATS.values() if form.signature.match(start)), None)
    if form is None:
        raise RequestError(f"{path} is no {KINDS}: {GIVE}")
    if (size := stream.seek(0, os.SEEK_END)) > LARGEST:
        raise RequestError(f"{path} has {size / 1e6:.0f} MB: give a picture of at most {LARGEST / 1e6:.0f} MB")
    stream.seek(0)
    with warnings.catch_warnings(action="ignore"):  # what Pillow has to say about damage is said below
        picture = form.plugin(stream)
        if picture.width * picture.height > MOST_PIXELS:
            raise RequestError(f"{path} says it is {picture.width}x{picture.height} pixels: give one of at most {MOST_PIXELS / 1e6:.1f} megapixels")
        if getattr(picture, "n_frames", 1) != 1:
            raise RequestError(f"{path} is an animation: {GIVE}")
        if form.plugin is PngImageFile:
            text = picture.info.get(KEY)
            return text if isinstance(text, str) else None
        exif = Image.Exif()
        exif.load(picture.info.get("exif", b""))
        note = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.MakerNote)
    return note.removeprefix(NOTE).decode() if isinstance(note, bytes) and note.startswith(NOTE) else None
