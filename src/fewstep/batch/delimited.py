"""Tables as people and Excel write them: the separator found out, and of a quote that is not closed no more lost than its own row. Loads no torch."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TextIO

SEPARATORS = ("\t", ";", ",")
TOLD = re.compile(r'"?sep=([,;|:\t])"?', re.IGNORECASE)  # a first line by which Excel is told the separator


def records(stream: TextIO) -> Iterator[tuple[int, list[str] | str]]:
    """(line that it begins in, its cells or what is wrong with it) of every record of a CSV, the one with the columns' names included."""
    first = stream.readline()
    told = TOLD.fullmatch(first.strip("\r\n"))
    if not told:
        stream.seek(0)
    sign = told[1] if told else next((sign for sign in SEPARATORS if sign in first), ",")
    lines, width = _Lines(stream, 2 if told else 1), 0
    reader = csv.reader(lines, delimiter=sign, strict=True)
    while True:
        line = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            endless = any(words in str(error) for words in ("unexpected end", "field limit"))
            if endless or (width > 1 and any(len(row) == width for row in _rows(lines.between, sign))):
                lines.again()
            reader = csv.reader(lines, delimiter=sign, strict=True)
            yield line, f"it is no row of a CSV ({'a quote in it is not closed' if endless else error})"
        else:
            width = width or len(cells)
            yield line, cells


def _rows(lines: Sequence[str], sign: str) -> Iterator[list[str]]:
    """Those of ``lines`` that are a row each."""
    for line in lines:
        with suppress(csv.Error):
            yield from csv.reader([line], delimiter=sign, strict=True)


class _Lines:
    """The lines of a file for a reader of records. An open quote takes in all that follows, to the next one or the end: what a record that cannot be
    read has taken can be given again.
    """

    def __init__(self, stream: TextIO, number: int) -> None:
        self._stream, self._number = stream, number  # of the next line
        self._taken: list[str] = []  # of the record in progress
        self._waiting: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._stream)
        self._number += 1
        self._taken.append(line)
        return line

    def begin(self) -> int:
        """The number of the line that the next record begins in."""
        self._taken.clear()
        return self._number

    @property
    def between(self) -> list[str]:
        """The lines of the record in progress without its first and its last: rows of their own, where an open quote has taken them in."""
        return self._taken[1:-1]

    def again(self) -> None:
        """Give the lines of the record in progress again, without its first."""
        self._waiting.extendleft(reversed(self._taken[1:]))
        self._number -= len(self._taken) - 1
