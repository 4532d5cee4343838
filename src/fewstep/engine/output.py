"""Where pictures go: a file, a folder, or the working directory; found writable before anything is made. Loads no torch."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fewstep.engine.files import DEFAULT, ENDINGS, FORMATS, KINDS, format_of, write_bytes
from fewstep.engine.request import RequestError, listed

if TYPE_CHECKING:
    from fewstep.engine.request import Picture

OTHER_FORMATS = (".gif", ".bmp", ".tif", ".tiff", ".avif")
LONGEST_SLUG = 60
STDOUT = Path("-")


@dataclass(frozen=True)
class Output:
    """A folder for pictures of one format, or one file in it."""

    folder: Path
    file: str | None = None
    format: str = DEFAULT

    def save(self, picture: Picture) -> Path:
        """Write ``picture`` and return its path. A name that was not asked for never replaces a file, also of another process. Raises OSError."""
        if self.file:
            return picture.save(self.folder / self.file)
        stem = f"{slug(picture.record.prompt)}-{picture.seed}"
        while True:
            with suppress(FileExistsError):
                return picture.save(free_name(self.folder, stem, FORMATS[self.format].suffixes[0]), replace=False)


def open_output(out: Path | None, count: int, kind: str | None = None) -> Output:
    """Where ``count`` pictures go: ``out`` is a picture's name (for one picture) or a folder, which is made; None is the working directory.

    ``kind`` is a format for a folder, PNG if None; a name says its own. Raises RequestError on a name or a format that cannot be meant, or
    a place that cannot be written.
    """
    if out == STDOUT:
        raise RequestError("--out -: pictures are files here, and none goes to the standard output: give a name or a folder")
    if kind is not None and kind not in FORMATS:
        raise RequestError(f"--format {kind}: there is {listed(list(FORMATS))}")
    if out is None or out.is_dir():
        place = Output(out or Path(), format=kind or DEFAULT)
    elif meant := format_of(out):
        if count > 1:
            raise RequestError(f"--out {out} is one file, and {count} pictures are asked for: give a folder")
        if kind not in (None, meant):
            raise RequestError(f"--out {out} and --format {kind} do not go together: give one of them")
        place = Output(out.parent, out.name, meant)
    elif out.suffix.lower() in OTHER_FORMATS:
        raise RequestError(f"--out {out}: pictures are written as {KINDS}: give a name that ends in {ENDINGS}, or a folder")
    else:
        place = Output(out, format=kind or DEFAULT)
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        _try(place.folder)
    except OSError as error:
        raise RequestError(f"{out or place.folder.resolve()} cannot be written ({error.strerror}): give another place with --out") from None
    return place


def check_writable(option: str, path: Path | None) -> None:
    """Raises RequestError unless a file can be written at ``path``, if one is asked for: what is worked out for long is not lost for its name.

    "-" is the standard output for --json, and no name for what others write.
    """
    if path is None or (path == STDOUT and option == "--json"):
        return
    if path == STDOUT:
        raise RequestError(f"{option} -: this is written as a file, and not to the standard output: give its name")
    if path.is_dir():
        raise RequestError(f"{option} {path} is a folder: give the name of a file")
    try:
        _try(path.absolute().parent)
    except OSError as error:
        raise RequestError(f"{option} {path}: {path.absolute().parent} cannot be written ({error.strerror}): make it, or name another file") from None


def _try(folder: Path) -> None:
    """Raises OSError where ``folder`` takes no file."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".fewstep-"):
        pass


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line of a long work's progress, on stdout or on ``stream``. Where its reader has gone, the work goes on without one."""
    out = stream or sys.stdout
    try:
        print(line, file=out, flush=True)
    except BrokenPipeError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), out.fileno())
        if out is not sys.stderr:
            say("fewstep: nobody reads the output any more; the work goes on", sys.stderr)


def tell(lines: Iterable[str], found: object, json: Path | None) -> None:
    """Print ``lines``, and write ``found`` as JSON to the file ``json`` if there is one; to the standard output instead of the lines if that is "-"."""
    if json != STDOUT:
        print("\n".join(lines))
    if json is not None:
        put_json(found, json)


def put_json(found: object, path: Path) -> None:
    """Write ``found`` as JSON to the file ``path``, whole or not at all, or to the standard output if that is "-"."""
    content = dumps(found, indent=1, ensure_ascii=False) + "\n"
    if path == STDOUT:
        sys.stdout.write(content)
    else:
        write_bytes(path, content.encode("utf8", "replace"))


def slug(prompt: str) -> str:
    """A file name that a prompt suggests: "a-red-apple"; "picture" where it suggests none."""
    letters = unicodedata.normalize("NFKD", prompt.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", letters)[:LONGEST_SLUG].strip("-") or "picture"


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """``folder/stem`` and ``suffix``, or with -2, -3 … before it where that is taken."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists() or path.is_symlink():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path
