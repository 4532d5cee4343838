"""Finished pictures that are fetched by a name nobody can guess: in memory, for a while, and never more than so many bytes."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 3600.0  # that a picture is kept
MOST_BYTES = 64 << 20  # of all pictures; the oldest make room


@dataclass(frozen=True)
class Kept:
    """A file on the shelf."""

    content: bytes
    media_type: str
    until: float  # on the shelf's clock


class Shelf:
    """Names and their pictures, the oldest first. ``prefix`` begins the names."""

    def __init__(self, seconds: float = SECONDS, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic, prefix: str = "") -> None:
        self.seconds, self.most_bytes, self._clock, self._prefix = seconds, most_bytes, clock, prefix
        self.bytes = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def put(self, content: bytes, media_type: str) -> str:
        """Keep ``content``. Returns its name, with 128 random bits."""
        name = f"{self._prefix}{secrets.token_urlsafe(16)}.{media_type.partition('/')[2]}"
        self._kept[name] = Kept(content, media_type, self._clock() + self.seconds)
        self.bytes += len(content)
        self._tidy()
        return name

    def get(self, name: str) -> Kept | None:
        """What ``name`` stands for, None if that is unknown or over."""
        self._tidy()
        return self._kept.get(name)

    def _tidy(self) -> None:
        now = self._clock()
        while self._kept and (self.bytes > self.most_bytes or next(iter(self._kept.values())).until <= now):
            self.bytes -= len(self._kept.popitem(last=False)[1].content)
