"""What the tables of data sets call things: the file, the caption and the score of a picture, under the names that are in use."""

from __future__ import annotations

import csv
import json
import math
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.engine.request import RequestError

FILES = ("file", "file_name", "filename", "path", "image")
CAPTIONS = ("caption", "text", "prompt", "TEXT", "captions", "description")
SCORES = ("aesthetic", "aesthetic_score", "AESTHETIC_SCORE", "aesthetics", "score")


@dataclass(frozen=True)
class Told:
    """What a row says."""

    file: str | None
    caption: str | None
    score: float | None


def told(row: Mapping[str, Any]) -> Told:
    """The file, caption and score in a row of any of the layouts; of a list of captions the first. What is missing is None."""
    file, caption = first(row, FILES), first(row, CAPTIONS)
    if isinstance(caption, list) and caption:
        caption = caption[0]
    return Told(file if isinstance(file, str) else None, caption if isinstance(caption, str) else None, _number(first(row, SCORES)))


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value under the first of ``names`` that the row has, None where it has none."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("captions.jsonl, line 7", its row) for every line of a .jsonl or .csv; a row that cannot be read is empty.

    Raises RequestError on a CSV that is none.
    """
    with path.open("rb") as start:
        encoding = _encoding(start.read(2))
    with path.open(encoding=encoding, errors="replace", newline="") as stream:
        if path.suffix == ".jsonl":
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield f"{path.name}, line {line}", parse_object(text)
            return
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                yield f"{path.name}, line {reader.line_num}", row
        except csv.Error as error:
            raise RequestError(f"{path}, line {reader.line_num}: it is no row of a CSV ({error}): write the file again") from None


def text_of(content: bytes) -> str:
    """The text of a small file, in UTF-8 or by its mark in UTF-16, as Windows writes it."""
    return content.decode(_encoding(content[:2]), errors="replace")


def _encoding(start: bytes) -> str:
    return "utf-16" if start in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``, empty where it holds none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}
