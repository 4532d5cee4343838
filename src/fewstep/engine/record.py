"""The picture file that says how it was made: AUTOMATIC1111's text for other tools, and a JSON record to repeat the picture from."""

from __future__ import annotations

import dataclasses
import io
import json
import math
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

from fewstep.engine.options import LARGEST, parse_outpaint, parse_pair
from fewstep.engine.request import MOST_BATCH, MOST_PIXELS, Loras, Request, RequestError, Settled

KEY = "fewstep"
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
TOLD = {"original_size": "x", "crop": ",", "target_size": "x"}  # pairs that a record holds as texts, and what stands between
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
    blend: str | None = None
    blend_weight: float | None = None
    variation_seed: int | None = None
    variation: float | None = None
    image: str | None = None  # SHA-256 of the image that it was begun from, in this picture's size
    strength: float | None = None  # the share of the steps that were run
    mask: str | None = None  # SHA-256 of the mask
    outpaint: str | None = None  # pixels that were added to the image: "left,top,right,bottom"
    transparent: bool = False
    sampler: str | None = None  # by the name that other tools know it by; None is Euler
    template: str | None = None  # what the prompt was drawn from, where it has choices
    prompt_2: str | None = None
    negative: str | None = None
    nag_scale: float | None = None  # of normalized attention guidance, where the negative prompt works by that
    wording: bool = False  # whether brackets, BREAK and length mean something in the texts; in records from before they do not
    original_size: str | None = None  # "WxH", as the next two what the model was told where it is not the picture's own
    crop: str | None = None  # "left,top"
    target_size: str | None = None  # "WxH"
    loras: tuple[tuple[str, float, str], ...] | None = None  # (name, weight, hash) of each over the weights

    def __post_init__(self) -> None:
        """Raises ValueError on a value that no picture of ours can have."""
        loras: Any = self.loras
        if isinstance(loras, list):  # as JSON has them
            object.__setattr__(self, "loras", tuple(_lora(one) for one in loras))
        for field in dataclasses.fields(self):
            kind, _, optional = str(field.type).partition(" | ")
            kind, value = kind.partition("[")[0], getattr(self, field.name)
            if kind == "float" and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value).__name__ != kind and not (optional and value is None):
                raise ValueError(f"'{field.name}' is {value!r:.60}")
        if not (1 <= self.batch <= MOST_BATCH and 0 <= self.row < self.batch and 1 <= self.threads <= 4096):
            raise ValueError(f"batch {self.batch}, row {self.row} and threads {self.threads} do not go together")
        if self.image is None and (self.strength, self.mask, self.outpaint) != (None, None, None):
            raise ValueError("there is a strength, a mask or an outpaint, and no image")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}")
        self.request  # noqa: B018 - its own checks

    @classmethod
    def of(cls, settled: Settled, **made: Any) -> Record:
        """The record of a picture of ``settled``; ``made`` is how it was made."""
        names = {field.name for field in dataclasses.fields(settled)} & {field.name for field in dataclasses.fields(cls)} - {"guidance_scale", "nag_scale"}
        own: dict[str, Any] = {name: getattr(settled, name) for name in names} | {"wording": not settled.literal}
        for name, sign in TOLD.items():
            own[name] = own[name] and sign.join(map(str, own[name]))
        source = settled.source
        if source is not None:
            margins = source.outpaint and ",".join(map(str, source.outpaint))
            own |= {"image": source.image_hash, "strength": settled.strength, "mask": source.mask_hash, "outpaint": margins}
        own["loras"] = tuple((lora.name, lora.weight, lora.hash) for lora in settled.loras) or None
        return cls(**own, **made)

    @property
    def request(self) -> Request:
        """The request that this picture answered, with every choice made, all but files: an image that it was begun from, and LoRAs."""
        names = ("blend", "blend_weight", "variation_seed", "variation", "transparent", "prompt_2", "negative", "guidance_scale", "nag_scale")
        varied: dict[str, Any] = {name: getattr(self, name) for name in names} | {"literal": not self.wording, "loras": ()}
        varied |= {name: parse_pair(getattr(self, name), name, sign) for name, sign in TOLD.items()}
        return Request(self.prompt, self.seed, self.steps, self.width, self.height, **varied)

    def again(self, image: Image.Image | None = None, mask: Image.Image | None = None, loras: Loras = ()) -> Request:
        """The whole request, with the ``image``, ``mask`` and ``loras`` that are not in the record. Raises RequestError unless those are given that
        it needs.
        """
        if self.image is None:
            if image is not None or mask is not None:
                raise RequestError("the picture was made from noise alone: leave --image and --mask away")
            return dataclasses.replace(self.request, loras=loras)
        masked = self.mask is not None and self.outpaint is None
        if image is None or (masked and mask is None):
            raise RequestError(f"the picture was made from an image: give that one with --image FILE{' and its mask with --mask FILE' * masked}")
        return dataclasses.replace(self.request, image=image, mask=mask, strength=self.strength, outpaint=parse_outpaint(self.outpaint), loras=loras)

    def check_source(self, settled: Settled) -> None:
        """Raises RequestError unless ``settled`` is begun from the image and mask of this record, and has its LoRAs."""
        source = settled.source
        for what, own, given in (("image", self.image, source and source.image_hash), ("mask", self.mask, source and source.mask_hash)):
            if own != given:
                raise RequestError(f"the {what} is not the one that the picture was made from: give that file with --{what}")
        if [(lora.hash, lora.weight) for lora in settled.loras] != [(own, weight) for _, weight, own in self.loras or ()]:
            named = ", ".join(f"{name} at {weight:g} ({own})" for name, weight, own in self.loras or ())
            raise RequestError(f"the picture was made {f'with the LoRAs {named}' if named else 'without LoRAs'}, and these are others: give those with --lora")

    def parameters(self) -> str:
        """The text that AUTOMATIC1111 and its kin write and read: the prompt, then one line of settings."""
        settings = {
            "Steps": self.steps,
            "Sampler": self.sampler or "Euler",
            "Schedule type": "SGM Uniform" if self.sampler is None else None,
            "CFG scale": self.guidance_scale or 1.0,
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model hash": self.hash,
            "Model": self.model,
            "Variation seed": self.variation_seed,
            "Variation seed strength": self.variation,
            "Denoising strength": self.strength,
            "Blend": self.blend,
            "Blend weight": self.blend_weight,
            "Second prompt": self.prompt_2,
            "NAG scale": self.nag_scale,
            "Lora hashes": ", ".join(f"{name}: {own}" for name, _, own in self.loras) if self.loras else None,
            "Version": f"fewstep {self.version}",
        }
        negative = "" if self.negative is None else f"Negative prompt: {self.negative}\n"
        tags = "".join(f" <lora:{name}:{weight:g}>" for name, weight, _ in self.loras or ())
        return f"{self.prompt}{tags}\n{negative}{', '.join(f'{key}: {_quoted(value)}' for key, value in settings.items() if value is not None)}".strip()


def _lora(one: Any) -> tuple[str, float, str]:
    """(name, weight, hash) of a LoRA as JSON has it. Raises ValueError on anything else."""
    good = isinstance(one, list) and [type(value) for value in one] in ([str, float, str], [str, int, str]) and math.isfinite(one[1])
    if not good:
        raise ValueError(f"'loras' holds {one!r:.60}")
    name, weight, own = one
    return name, float(weight), own


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def format_of(path: Path) -> str | None:
    """The format that a file's name asks for: "png", "webp", "jpeg" or None."""
    return next((name for name, form in FORMATS.items() if path.suffix.lower() in form.suffixes), None)


def picture_bytes(image: Image.Image, record: Record, kind: str = DEFAULT, quality: int | None = None) -> bytes:
    """The picture as a file of format ``kind`` with both texts. The same picture and record give the same bytes on the same machine.

    ``quality`` is that of a JPEG or WebP, 0 to 100, where it is not the usual one. Raises RequestError on a transparent picture as JPEG, which has none.
    """
    check_format(kind, record.transparent)
    form, stream = FORMATS[kind], io.BytesIO()
    said = {name: value for name, value in dataclasses.asdict(record).items() if value is not None and value is not False}
    parameters, content = record.parameters(), json.dumps(said, sort_keys=True, ensure_ascii=False)
    texts = _png_texts(parameters, content) if kind == "png" else _exif(parameters, content)
    options = form.options if quality is None or kind == "png" else {**form.options, "quality": quality}
    image.save(stream, form.name, **texts, **options)
    return stream.getvalue()


def check_format(kind: str, transparent: bool) -> None:
    """Raises RequestError if a ``transparent`` picture is to be a JPEG."""
    if transparent and kind == "jpeg":
        raise RequestError("a JPEG has no transparent background: give png or webp as the format")


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
    return write_bytes(path, picture_bytes(image, record, kind))


def write_bytes(path: Path, content: bytes) -> Path:
    """Write ``path``, whole or not at all; what stood there is replaced. Raises OSError where it cannot be written."""
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
