"""What a person looks at when a job is done: a page that filters and sorts, and a contact sheet. Both need nothing but the folder."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from fewstep.engine.sheet import pack

PAGE, SHEET = "index.html", "sheet.jpg"
MOST = 2000  # pictures on the page
SHEET_PICTURES, SHEET_SIDE = 100, 160
SHOWN = ("row", "prompt", "seed", "steps", "width", "height", "score", "bytes", "error", "labels", "path", "member")
Read = Callable[[dict[str, Any]], bytes | None]


def spread(lines: Iterable[dict[str, Any]], total: int, most: int) -> Iterator[dict[str, Any]]:
    """At most ``most`` of the ``total`` lines, evenly over all."""
    chosen = 0
    for number, line in enumerate(lines):
        if number * most >= chosen * total and chosen < most:
            chosen += 1
            yield line


def page(lines: Iterable[dict[str, Any]], title: str, total: int, read: Read) -> str:
    """The page of ``lines``, which are of a job of ``total`` pictures. Pictures in tars are shown as thumbnails inside it.

    Nothing that a manifest holds becomes markup: the page's script sets it as text.
    """
    entries = []
    for line in lines:
        entry = {name: line[name] for name in SHOWN if line.get(name) is not None}
        entry["ms"] = round(sum(line.get("timings_ms", {}).values()), 1)
        if "member" in line:
            content = read(line)
            entry["src"] = "" if content is None else "data:image/jpeg;base64," + base64.b64encode(_jpeg(_thumbnail(content))).decode()
        elif "path" in line:
            entry["src"] = quote(line["path"])
        entries.append(entry)
    shown = json.dumps(entries, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    note = "" if len(entries) == total else f"{len(entries)} of {total}, evenly over all; results.jsonl has the rest"
    frame = (files("fewstep.batch") / "gallery.html").read_text(encoding="utf8")
    return frame.replace("$TITLE", escape(title)).replace("$NOTE", escape(note)).replace("$ENTRIES", shown)


def contact_sheet(lines: Iterable[dict[str, Any]], read: Read) -> bytes | None:
    """A JPEG of all pictures of ``lines``, small, in their order; None where there is none."""
    contents = ((line, read(line)) for line in lines if "error" not in line)
    small = [(str(line["row"]), _thumbnail(content)) for line, content in contents if content is not None]
    return _jpeg(pack(small)[0]) if small else None


def _thumbnail(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as picture:
        small = picture.convert("RGBA")
    small.thumbnail((SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", small.size, "white")
    return Image.alpha_composite(white, small).convert("RGB")


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def named(out: str) -> str:
    """What the page is called: after its folder."""
    return (Path(out).resolve().name if "://" not in out else out.rstrip("/").rpartition("/")[2]) or "pictures"
