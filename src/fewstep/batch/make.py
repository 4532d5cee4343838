"""A group of pictures made, and what is written of each: what a worker does, wherever it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fewstep.batch.expand import Bad
from fewstep.batch.plan import Group, Item
from fewstep.engine.files import picture_bytes
from fewstep.engine.request import Frame, Picture, Settled

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.batch.store import Store

LONGEST_ERROR = 400  # characters
UNSAID = ("row", "version")  # of a picture's record, which says them itself
Score = Callable[["Image", str], float | None]  # of a picture and its prompt


class Walker(Protocol):
    """What makes pictures: an engine."""

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        """See Engine.walk."""


@dataclass(frozen=True)
class Made:
    """A picture of an item."""

    item: Item
    picture: Picture


def make(engine: Walker, group: Group) -> list[Made | Bad]:
    """The pictures of ``group``, in its order. Where the engine fails, each is tried alone, among copies of itself, and what fails is bad."""
    try:
        pictures = _pictures(engine, group.batch)
    except Exception as error:  # whatever it is, it is one picture's failure and is told with its line
        if len(group.items) == 1:
            (item,) = group.items
            return [Bad(item.index, item.row, item.line, _said(error))]
        return [one for item in group.items for one in make(engine, Group(group.number, (item,), group.size))]
    return [Made(item, picture) for item, picture in zip(group.items, pictures, strict=False)]


def _pictures(engine: Walker, batch: list[Settled]) -> list[Picture]:
    frames: list[Frame] = []
    for frames in engine.walk(batch):  # noqa: B007
        pass
    return [frame.picture for frame in frames if frame.picture]


def _said(error: Exception) -> str:
    return ((str(error).splitlines() or [""])[0] or type(error).__name__)[:LONGEST_ERROR]


@dataclass(frozen=True)
class Encoded:
    """A picture as a file: its line in the results, and its bytes, None where they are in their place already."""

    line: dict[str, Any]
    content: bytes | None


def encode(made: Made, store: Store, kind: str, score: Score | None) -> Encoded:
    """A picture as a file of format ``kind``, with its place in ``store`` and all that is said of it. Writes nothing."""
    item, picture = made.item, made.picture
    content = picture_bytes(picture.image, picture.record, kind)
    said = {name: value for name, value in dataclasses.asdict(picture.record).items() if value is not None and value is not False and name not in UNSAID}
    line = {
        "index": item.index,
        "row": item.row,
        "line": item.line,
        **store.place(item),
        "key": item.key,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        **said,
        "timings_ms": picture.timings,
    }
    if score is not None:
        line["score"] = looked_at(content, picture.record.prompt, score)
    if item.labels:
        line["labels"] = dict(item.labels)
    return Encoded(line, content)


def looked_at(content: bytes, prompt: str, score: Score) -> float | None:
    """The score of a picture's file, so that one that was there before has the score of one that is made."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return score(image, prompt)
