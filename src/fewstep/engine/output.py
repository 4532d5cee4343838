"""Where pictures go: a file, a folder, or the working directory; found writable before anything is made. Loads no torch."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.engine.request import RequestError

if TYPE_CHECKING:
    from fewstep.engine.request import Picture

OTHER_FORMATS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
LONGEST_SLUG = 60


@dataclass(frozen=True)
class Output:
    """A folder for pictures, or one file in it."""

    folder: Path
    file: str | None = None

    def save(self, picture: Picture) -> Path:
        """Write ``picture`` and return its path. A name that was not asked for never replaces a file. Raises OSError."""
        return picture.save(self.folder / self.file if self.file else free_name(self.folder, f"{slug(picture.record.prompt)}-{picture.seed}"))


def open_output(out: Path | None, count: int) -> Output:
    """Where ``count`` pictures go: ``out`` is a .png file (for one picture) or a folder, which is made; None is the working directory.

    Raises RequestError on a name that cannot be meant, or a place that cannot be written.
    """
    if out is None:
        place = Output(Path())
    elif out.suffix.lower() == ".png" and not out.is_dir():
        if count > 1:
            raise RequestError(f"--out {out} is one file, and {count} pictures are asked for: give a folder")
        place = Output(out.parent, out.name)
    elif out.suffix.lower() in OTHER_FORMATS and not out.is_dir():
        raise RequestError(f"--out {out}: pictures are written as PNG: give a name that ends in .png, or a folder")
    else:
        place = Output(out)
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.folder, prefix=".fewstep-"):
            pass
    except OSError as error:
        raise RequestError(f"{out or place.folder.resolve()} cannot be written ({error.strerror}): give another place with --out") from None
    return place


def slug(prompt: str) -> str:
    """A file name that a prompt suggests: "a-red-apple"; "picture" where it suggests none."""
    letters = unicodedata.normalize("NFKD", prompt.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", letters)[:LONGEST_SLUG].strip("-") or "picture"


def free_name(folder: Path, stem: str) -> Path:
    """``folder/stem.png``, or with -2, -3 … where that is taken."""
    path, number = folder / f"{stem}.png", 1
    while path.exists() or path.is_symlink():
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path
