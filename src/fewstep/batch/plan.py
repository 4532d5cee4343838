"""What a job makes and with what at once: requests settled and named by a hash, in groups that are a function of the manifest alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fewstep.batch.expand import Bad, Wanted
from fewstep.batch.spill import Spill
from fewstep.engine.files import check_format
from fewstep.engine.request import Limits, RequestError, Settled

OPEN = 512  # pictures that wait for others of their kind
HEAVY = 16  # how many of those one counts for that holds an image
USUAL = tuple((field.name, field.default) for field in dataclasses.fields(Settled))


@dataclass(frozen=True)
class Item:
    """One picture to make. ``key`` is the SHA-256 of its full request and of what makes it: the same key is the same picture."""

    index: int
    row: int
    line: int
    settled: Settled
    key: str
    labels: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its file, without the ending: row, seed, and what it is."""
        return f"{self.row:07d}-{self.settled.seed}-{self.key[:12]}"


@dataclass(frozen=True)
class Group:
    """Pictures of one kind that are made at once. ``size`` is how many the engine makes: the last of a kind are filled up with copies."""

    number: int
    items: tuple[Item, ...]
    size: int

    @cached_property
    def batch(self) -> list[Settled]:
        """What the engine is given."""
        settled = [item.settled for item in self.items]
        return settled + [settled[-1]] * (self.size - len(settled))


@dataclass(frozen=True)
class Maker:
    """What all pictures of a job depend on besides their requests."""

    limits: Limits
    hash: Callable[[int], str]  # of the weights for so many steps
    decoder: str
    format: str

    def item(self, wanted: Wanted) -> Item:
        """``wanted`` with every choice made. Raises RequestError on what this model cannot do."""
        check_format(self.format, wanted.request.transparent)
        settled = self.limits.settle(wanted.request)
        return Item(wanted.index, wanted.row, wanted.line, settled, self.key(settled), wanted.labels)

    def key(self, settled: Settled) -> str:
        """The SHA-256 of all that the picture is a function of. Images and LoRAs count by their content, not by their names.

        What is at its default is left out, so that a field that comes later changes no key.
        """
        said = {name: value for name, usual in USUAL if (value := getattr(settled, name)) != usual}
        if source := said.pop("source", None):
            said |= {"image": source.image_hash, "mask": source.mask_hash, "outpaint": source.outpaint}
        if control := said.pop("control", ()):
            said["control"] = [hint.told() for hint in control]
        said["loras"] = [(lora.hash, lora.weight) for lora in settled.loras]
        said |= {"model": self.hash(settled.steps), "decoder": self.decoder, "format": self.format}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class Seen:
    """Which keys there have been, on disk rather than in memory: a job may have ten million."""

    def __init__(self) -> None:
        self._table = Spill("seen (key BLOB PRIMARY KEY, row INTEGER, line INTEGER) WITHOUT ROWID")

    def first(self, item: Item) -> tuple[int, int] | None:
        """(row, line) of the item that had this key before, or None, and ``item`` is the first. Raises SpillError."""
        key = bytes.fromhex(item.key[:32])
        if self._table.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (key, item.row, item.line)).rowcount:
            return None
        row, line = self._table.execute("SELECT row, line FROM seen WHERE key = ?", (key,)).fetchone()
        return row, line


def items(wanted: Iterable[Wanted | Bad], maker: Maker) -> Iterator[Item | Bad]:
    """Each of ``wanted`` as an item, or why it cannot be: what the model cannot do, and what means the same as one before."""
    seen = Seen()
    for one in wanted:
        if isinstance(one, Bad):
            yield one
            continue
        try:
            item = maker.item(one)
        except RequestError as error:
            yield Bad(one.index, one.row, one.line, str(error))
            continue
        if (before := seen.first(item)) is None:
            yield item
        else:
            where = f"row {before[0]} in line {before[1]}" if before[0] != item.row else "another of its own pictures"
            yield Bad(item.index, item.row, item.line, f"it means the same as {where}, to the seed: leave one of them out, or give it another seed")


def groups(found: Iterable[Item | Bad], most: int) -> Iterator[Group | Bad]:
    """Groups of up to ``most`` items of one kind (Settled.kind), each as soon as it is full; what is bad is passed on at once.

    Where so many kinds are open that OPEN items wait, the group that was begun first goes as it is, and so do all at the end. One that is
    not full is filled up to the next power of two, so that there are few sizes to be prepared for.
    """
    waiting: OrderedDict[Hashable, list[Item]] = OrderedDict()
    number = held = 0

    def leave(kind: Hashable) -> Group:
        nonlocal number, held
        group = waiting.pop(kind)
        held -= sum(map(_weight, group))
        number += 1
        return Group(number - 1, tuple(group), min(most, 1 << (len(group) - 1).bit_length()))

    for one in found:
        if isinstance(one, Bad):
            yield one
            continue
        kind = one.settled.kind
        waiting.setdefault(kind, []).append(one)
        held += _weight(one)
        if len(waiting[kind]) == most:
            yield leave(kind)
        while held > OPEN:
            yield leave(next(iter(waiting)))
    while waiting:
        yield leave(next(iter(waiting)))


def _weight(item: Item) -> int:
    return HEAVY if item.settled.source or item.settled.control else 1
