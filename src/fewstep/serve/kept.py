"""The image and the mask that a live session was sent, for the messages that refer to them."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from typing import TYPE_CHECKING

from fewstep.engine.request import RequestError
from fewstep.engine.source import open_image
from fewstep.serve.pictures import decode_text
from fewstep.serve.shares import Shares

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_HEADER = 4096  # bytes
SIDES = 4  # of the model's own: a larger picture is made as small as a square of such sides when it comes
MOST_KEPT = 256 << 20  # bytes of all sessions' pictures
WHAT = ("image", "mask")
SHAPE = 'a binary message is four bytes with the length of its header, the header {"image": "a name"} or {"mask": "a name"}, and a picture\'s bytes'


class Full(RuntimeError):
    """All sessions together have been sent as much as may be kept."""

    def __init__(self) -> None:
        super().__init__("the live sessions of this server keep as many pictures as they may: send a smaller one, or close another session")


class Kept:
    """The newest of each kind. ``native`` is the side of the model's own pictures, ``room`` the bytes that all sessions share."""

    def __init__(self, native: int, room: Shares, owner: str) -> None:
        self._most, self._room, self._owner = (SIDES * native) ** 2, room, owner
        self._pictures: dict[str, Image] = {}

    async def take(self, message: bytes) -> None:
        """Keep what a binary message brings. Raises RequestError on one that is malformed, or no whole PNG, WebP or JPEG; Full."""
        what, image = await asyncio.to_thread(self._read, message)
        self._drop(what)
        if not self._room.take(self._owner, bytes_of(image)):
            raise Full
        self._pictures[what] = image

    def close(self) -> None:
        """Keep nothing any more."""
        for what in WHAT:
            self._drop(what)

    def _read(self, message: bytes) -> tuple[str, Image]:
        what, picture = unpack(message)
        return what, smaller(open_image(picture, what), self._most)

    def _drop(self, what: str) -> None:
        if (image := self._pictures.pop(what, None)) is not None:
            self._room.give(self._owner, bytes_of(image))

    def find(self, what: str, given: str | bool | None) -> Image | None:
        """The picture that a field means: the kept one for true, the one in its Base64 for a text, none for null and false. Raises RequestError."""
        if isinstance(given, str):
            return open_image(decode_text(given, what), what)
        if given and what not in self._pictures:
            raise RequestError(f"{what} = true: this session was sent no {what}, send it as a binary message first")
        return self._pictures[what] if given else None


def bytes_of(image: Image) -> int:
    """Of its pixels, as Pillow holds them."""
    return image.width * image.height * (1 if image.mode in ("1", "L", "P") else 4)


def unpack(message: bytes) -> tuple[str, bytes]:
    """(image or mask, the bytes of a picture) from a binary message. Raises RequestError."""
    try:
        (length,) = struct.unpack_from(">I", message)
        if length > LONGEST_HEADER or 4 + length > len(message):
            raise ValueError
        header = json.loads(message[4 : 4 + length])
        ((what, name),) = header.items()
        if what not in WHAT or not isinstance(name, str):
            raise ValueError
    except (ValueError, AttributeError, struct.error, RecursionError):
        raise RequestError(SHAPE) from None
    return what, message[4 + length :]


def smaller(image: Image, most: int) -> Image:
    """``image``, or the same in at most about ``most`` pixels. Equal sizes stay equal, so that a mask goes on fitting its image."""
    scale = math.sqrt(most / (image.width * image.height))
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), reducing_gap=2.0)
