"""The PNG that says how it was made: AUTOMATIC1111's ``parameters`` text for other tools, and a JSON record to repeat the picture from."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewstep.engine.request import MOST_BATCH, Request, RequestError

KEY = "fewstep"
MOST_PIXELS = 4096 * 4096  # of a picture that is opened for its record
LONGEST_TEXT = 1 << 16
SIGNATURE = b"\x89PNG\r\n\x1a\n"


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


def png_bytes(image: Image.Image, record: Record) -> bytes:
    """The picture as a PNG with both texts. The same picture and record give the same bytes."""
    texts = PngInfo()
    texts.add_text("parameters", record.parameters())
    texts.add_text(KEY, json.dumps(dataclasses.asdict(record), sort_keys=True))
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=texts)
    return stream.getvalue()


def write_png(image: Image.Image, record: Record, path: Path) -> Path:
    """Write ``path`` whole or not at all; what stood there is replaced. Raises OSError where it cannot be written."""
    content = png_bytes(image, record)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_record(path: Path) -> Record:
    """The record of a PNG that fewstep wrote, from its header: no pixel is decoded.

    Raises RequestError on a file that is missing, no PNG, larger than 16.8 megapixels, or without a record that can be used.
    """
    try:
        with path.open("rb") as stream:
            header = stream.read(24)
        if len(header) < 24 or not header.startswith(SIGNATURE) or header[12:16] != b"IHDR":
            raise RequestError(f"{path} is no PNG: give a picture that 'fewstep generate' wrote")
        width, height = struct.unpack(">II", header[16:24])
        if width * height > MOST_PIXELS:
            raise RequestError(f"{path} says it is {width}x{height} pixels: give one of at most {MOST_PIXELS / 1e6:.1f} megapixels")
        with Image.open(path, formats=("PNG",)) as picture:
            text = picture.info.get(KEY)
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror or 'not a whole PNG'}): give a picture that 'fewstep generate' wrote") from None
    except (ValueError, SyntaxError, struct.error) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path} is a damaged PNG ({error}): give a picture that 'fewstep generate' wrote") from None
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise RequestError(f"{path} holds no record of fewstep: give a picture that 'fewstep generate' wrote")
    try:
        return Record(**json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: its record cannot be used ({error}): give its prompt and seed yourself") from None
