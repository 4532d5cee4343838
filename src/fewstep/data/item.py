"""One picture of a source, not opened yet: where its bytes lie, and what its source says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fewstep.engine.files import FORMATS
from fewstep.engine.options import LARGEST
from fewstep.engine.request import RequestError

PICTURES = {suffix for form in FORMATS.values() for suffix in form.suffixes}
OTHERS = {".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".jp2"}  # named in the audit instead of passed over
CAPTIONS = (".txt", ".caption")


class Place(Protocol):
    """Where the bytes of one picture lie. Small enough to be handed to another process."""

    def read(self) -> bytes:
        """Those bytes. Raises OSError, or RequestError where there is no such picture."""


@dataclass(frozen=True)
class Stretch:
    """A file, or ``length`` bytes of it from ``start`` on."""

    path: Path
    start: int = 0
    length: int | None = None

    def read(self) -> bytes:
        """Its bytes. Raises RequestError on more than a picture has, or fewer than there should be."""
        size = self.path.stat().st_size if self.length is None else self.length
        if size > LARGEST:
            raise RequestError(f"the picture has {size / 1e6:.0f} MB: give one of at most {LARGEST / 1e6:.0f} MB")
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            content = stream.read(size)
        if len(content) < size:
            raise RequestError("the file that the picture lies in is cut short: fetch it again")
        return content


@dataclass(frozen=True)
class Lost:
    """The place of a picture that a caption speaks of and that is not there."""

    problem: str

    def read(self) -> bytes:
        """Raises RequestError with the problem."""
        raise RequestError(self.problem)


@dataclass(frozen=True)
class Item:
    """One picture of a source, not opened yet."""

    name: str  # for people: a path inside the source, or "file.tar/key", "file.parquet/row"
    place: Place
    caption: str | None = None
    score: float | None = None  # of its looks, where the source says one
