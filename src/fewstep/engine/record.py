"""The picture file that says how it was made: AUTOMATIC1111's text for other tools, and a JSON record to repeat the picture from."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import secrets
import struct
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

from fewstep.engine.request import MOST_BATCH, Request, RequestError

KEY = "fewstep"
MOST_PIXELS = 4096 * 4096  # of a picture that is opened for its record
LARGEST = 1 << 27  # bytes of its file
LONGEST_TEXT = 1 << 16
NOTE = KEY.encode() + b"\0"  # what our maker's note in EXIF begins with
COMMENT = b"UNICODE\0"  # what a comment in EXIF begins with; UTF-16 follows


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
GIVE = "give a picture that 'fewstep generate' wrote"
KINDS = "PNG, WebP or JPEG"
ENDINGS = ".png, .webp or .jpg"


@dataclass(frozen=True)
class Record:
    """Everything that a picture's bytes depend on. No times, and no paths: a picture is passed on."""

    prompt: str
    seed: int
    steps: int
    width: int
    height: int
    model: str
    hash: str  # of the weights that denoised it
    guidance_scale: float
    version: str
    backend: str
    device: str
    threads: int
    decoder: str = "full"
    batch: int = 1  # pictures that were made at once: kernels differ by it in the last bits
    row: int = 0  # this one's place among them

    def __post_init__(self) -> None:
        """Raises ValueError on a value that no picture of ours can have."""
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), {"str": str, "int": int, "float": float}[str(field.type)]
            if kind is float and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"'{field.name}' is {value!r:.60}")
        if not (1 <= self.batch <= MOST_BATCH and 0 <= self.row < self.batch and 1 <= self.threads <= 4096):
            raise ValueError(f"batch {self.batch}, row {self.row} and threads {self.threads} do not go together")
        self.request  # noqa: B018 - its own checks

    @property
    def request(self) -> Request:
        """The request that this picture answered, with every choice made."""
        return Request(self.prompt, self.seed, self.steps, self.width, self.height)

    def parameters(self) -> str:
        """The text that AUTOMATIC1111 and its kin write and read: the prompt, then one line of settings."""
        settings = {
            "Steps": self.steps,
            "Sampler": "Euler",
            "Schedule type": "SGM Uniform",
            "CFG scale": self.guidance_scale or 1.0,
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model hash": self.hash,
            "Model": self.model,
            "Version": f"fewstep {self.version}",
        }
        return f"{self.prompt}\n{', '.join(f'{key}: {_quoted(value)}' for key, value in settings.items())}".strip()


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def format_of(path: Path) -> str | None:
    """The format that a file's name asks for: "png", "webp", "jpeg" or None."""
    return next((name for name, form in FORMATS.items() if path.suffix.lower() in form.suffixes), None)


def picture_bytes(image: Image.Image, record: Record, kind: str = DEFAULT) -> bytes:
    """The picture as a file of format ``kind`` with both texts. The same picture and record give the same bytes on the same machine."""
    form, stream = FORMATS[kind], io.BytesIO()
    parameters, content = record.parameters(), json.dumps(dataclasses.asdict(record), sort_keys=True, ensure_ascii=False)
    texts = _png_texts(parameters, content) if kind == "png" else _exif(parameters, content)
    image.save(stream, form.name, **texts, **form.options)
    return stream.getvalue()


def _png_texts(parameters: str, content: str) -> dict[str, Any]:
    texts = PngInfo()
    texts.add_text("parameters", parameters)
    texts.add_text(KEY, content)
    return {"pnginfo": texts}


def _exif(parameters: str, content: str) -> dict[str, Any]:
    """Both texts as EXIF: AUTOMATIC1111's is the comment, as it writes it, and ours the maker's note, which no viewer shows as a caption."""
    exif = Image.Exif()
    exif.endian = ">"
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: COMMENT + parameters.encode("utf-16-be"), ExifTags.Base.MakerNote: NOTE + content.encode()}
    return {"exif": exif.tobytes()}


def write_picture(image: Image.Image, record: Record, path: Path) -> Path:
    """Write ``path`` in the format of its name, whole or not at all; what stood there is replaced.

    Raises RequestError on a name of no format, OSError where it cannot be written.
    """
    kind = format_of(path)
    if kind is None:
        raise RequestError(f"{path}: pictures are written as {KINDS}: give a name that ends in {ENDINGS}")
    content = picture_bytes(image, record, kind)
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


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
        return Record(**json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: its record cannot be used ({_plain(error)}): give its prompt and seed yourself") from None


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
