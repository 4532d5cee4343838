"""results.jsonl: a line for every picture and every failure, appended as they come and put in the manifest's order at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewstep.batch.spill import Spill

NAME = "results.jsonl"
FAILED = {"index": int, "row": int, "error": str}  # what a line has at least, of a failure
MADE = {"index": int, "row": int, "prompt": str, "key": str, "path": str, "sha256": str, "bytes": int}  # and of a picture


class Results:
    """The lines of one job, by the index of their picture. Of several lines with one index the last counts. Few are held in memory.

    One thread may append while another reads what was there before.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        """Opens ``path`` or begins it; half a line at its end, as a kill leaves it, is cut off. Without ``writes`` it is left as it is.

        Raises OSError.
        """
        self.path, self._writes = path, writes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND if writes else os.O_RDONLY, 0o666)
        self._places = self._scan()

    def of(self, index: int) -> dict[str, Any] | None:
        """The line of a picture, as it was when the file was opened; None where there was none."""
        found = self._places.execute("SELECT start, length FROM places WHERE id = ?", (index,)).fetchone()
        return None if found is None else _parsed(os.pread(self._file, found[1], found[0]))

    def add(self, line: dict[str, Any]) -> None:
        """Append a line. Raises OSError."""
        self._append(_text(line).encode())

    def _append(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._file, content) :]

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines that count, in the manifest's order."""
        for start, length in self._scan().execute("SELECT start, length FROM places ORDER BY id"):
            if line := _parsed(os.pread(self._file, length, start)):
                yield line

    def finish(self, scratch: Path) -> None:
        """Put the file in the manifest's order, one line a picture, by way of the folder ``scratch``. Nothing can be appended after. Raises OSError."""
        sorted_ = scratch / NAME
        with sorted_.open("w", encoding="utf8") as stream:
            for line in self.lines():
                stream.write(_text(line))
            stream.flush()
            os.fsync(stream.fileno())
        sorted_.replace(self.path)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDONLY)

    def close(self) -> None:
        """Done with."""
        os.close(self._file)
        self._places.close()

    def _scan(self) -> Spill:
        """Where the line of each index stands, the last of several."""
        places = Spill("places (id INTEGER PRIMARY KEY, start INTEGER, length INTEGER)")
        start = 0
        with open(self._file, "rb", closefd=False) as stream:
            stream.seek(0)
            for text in stream:
                if not text.endswith(b"\n"):
                    if self._writes:
                        os.ftruncate(self._file, start)
                elif line := _parsed(text):
                    places.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (line["index"], start, len(text)))
                start += len(text)
        return places


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a finished file, as they stand."""
    with path.open("rb") as stream:
        yield from filter(None, map(_parsed, stream))


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line, None if it was damaged: its picture is made again. A number that JSON does not know, as older versions wrote them, is nothing."""
    try:
        line = json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and _is_whole(line) else None


def _is_whole(line: dict[str, Any]) -> bool:
    """Whether a line has what is asked of it: where it belongs, and its picture's place and checksums, or its error."""
    needed = FAILED if "error" in line else MADE | ({"member": str} if str(line.get("path")).endswith(".tar") else {})
    return all(type(line.get(name)) is kind for name, kind in needed.items()) and 0 <= line["index"] < 1 << 63
