"""What a job would come to: how many pictures, how long and how much disk, from some that are made and thrown away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.batch.expand import Bad
from fewstep.batch.make import Made, Walker, make
from fewstep.batch.plan import Group
from fewstep.batch.progress import duration, size
from fewstep.engine.files import picture_bytes
from fewstep.engine.request import RequestError

MOST_KINDS = 64  # of which a first group is kept
MEASURED = 3  # of them, those with the most work
MOST_APART = 4096  # kinds that are told apart: every row may be of its own
OTHERS = "others"  # all further ones


@dataclass
class Load:
    """What there is of one kind of picture."""

    sample: Group | None
    pictures: int = 0
    work: float = 0.0  # pixels times evaluations, the copies that fill a group up included


@dataclass
class Estimate:
    """What was found of a whole manifest, and what it would take."""

    loads: dict[Hashable, Load] = field(default_factory=dict)
    failed: list[Bad] = field(default_factory=list)  # the first few
    failures: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    measured: int = 0  # pictures

    @property
    def pictures(self) -> int:
        """Pictures that can be made."""
        return sum(load.pictures for load in self.loads.values())


def survey(parts: Iterable[Group | Bad], most_failed: int = 20) -> Estimate:
    """All that the manifest says, without a picture made."""
    found = Estimate()
    for part in parts:
        if isinstance(part, Bad):
            found.failures += part.count
            found.failed += [part] if len(found.failed) < most_failed else []
            continue
        first = part.items[0].settled
        kind = first.kind if first.kind in found.loads or len(found.loads) < MOST_APART else OTHERS
        load = found.loads.setdefault(kind, Load(part if len(found.loads) < MOST_KINDS else None))
        load.pictures += len(part.items)
        load.work += part.size * _work(part)
    return found


def _work(group: Group) -> float:
    """Of one picture: its pixels, once for every evaluation and once for being decoded."""
    first = group.items[0].settled
    return first.width * first.height * (first.steps - first.start + 1)


def measure(engine: Walker, found: Estimate, kind: str) -> Estimate:
    """Make a group of each kind that has the most work twice, the second time by the clock, and reckon the rest from those by their work.

    Raises RequestError if one cannot be made.
    """
    largest = sorted((load for load in found.loads.values() if load.sample), key=lambda load: -load.work)[:MEASURED]
    seconds = work = written = 0.0
    for load in largest:
        assert load.sample is not None
        _make(engine, load.sample)
        began = time.perf_counter()
        contents = [picture_bytes(made.picture.image, made.picture.record, kind) for made in _make(engine, load.sample)]
        taken = time.perf_counter() - began
        own = load.sample.size * _work(load.sample)
        seconds, work = seconds + taken / own * load.work, work + load.work
        written += sum(map(len, contents)) / len(contents) * load.pictures
        found.measured += len(contents)
    counted = sum(load.pictures for load in largest)
    if counted:
        found.seconds = seconds * sum(load.work for load in found.loads.values()) / work
        found.bytes = written * found.pictures / counted
    return found


def _make(engine: Walker, group: Group) -> list[Made]:
    made = make(engine, group)
    for one in made:
        if isinstance(one, Bad):
            raise RequestError(f"line {one.line}: {one.error}")
    return [one for one in made if isinstance(one, Made)]


def said(found: Estimate, out: Path | None) -> dict[str, Any]:
    """The estimate as plain values, with the free space where ``out`` is or would be; a bucket, None, has no end of it."""
    whole = {"pictures": found.pictures, "failed": found.failures, "kinds": len(found.loads), "measured": found.measured}
    return {**whole, "seconds": round(found.seconds, 1), "bytes": round(found.bytes), "free_bytes": None if out is None else _free(out)}


def _free(out: Path) -> int:
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    return shutil.disk_usage(place).free


def lines(told: dict[str, Any]) -> list[str]:
    """The same for people."""
    failed = f"{told['failed']} cannot be made" if told["failed"] else "all can be made"
    free = told["free_bytes"]
    space = f"{size(told['bytes'])} of disk" + ("" if free is None else f", and {size(free)} are free")
    room = "" if free is None or told["bytes"] < free else ": NOT ENOUGH ROOM"
    kinds = f"more than {MOST_APART} kinds" if told["kinds"] > MOST_APART else f"{told['kinds']} kind{'s' * (told['kinds'] != 1)}"
    return [
        f"{told['pictures']} pictures of {kinds}; {failed}",
        f"about {duration(told['seconds'])} on this machine, as {told['measured']} pictures took that were made to find out",
        f"about {space}{room}",
    ]
