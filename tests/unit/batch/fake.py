"""An engine whose pictures are one colour, at no cost, a job's parts around it, and what the command answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageStat

from fewstep.batch.expand import Bad, Expansion, Wanted
from fewstep.batch.local import Books, run
from fewstep.batch.make import Score, make
from fewstep.batch.manifest import open_manifest
from fewstep.batch.plan import Group, Maker, groups, items
from fewstep.batch.progress import Tally
from fewstep.batch.results import NAME, Results
from fewstep.batch.store import Folders, Store
from fewstep.engine.record import Record
from fewstep.engine.request import Frame, Limits, Picture, Request, Settled

LIMITS = Limits("fake", factor=16, native=64, students=(1, 2, 4, 8), teacher=False, default_steps=1)
SMALL = ("--steps", "1", "--set", "width=64", "--set", "height=64")
MAKER = Maker(LIMITS, lambda steps: f"weights for {steps}", "full", "png")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Batch = Callable[..., Answer]


class FakeEngine:
    """``broken`` are prompts that it fails at, and with them whoever is made beside them."""

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.broken = set(broken)
        self.batches: list[list[Settled]] = []

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        self.batches.append(list(batch))
        if found := self.broken & {one.prompt for one in batch}:
            raise RuntimeError(f"no picture of {', '.join(sorted(found))}")
        yield [Frame(1, 1, lambda: None, picture(one, len(batch), row)) for row, one in enumerate(batch)]


def picture(one: Settled, batch: int = 1, row: int = 0) -> Picture:
    """As of a real engine, it depends on the size of its batch."""
    made = {"model": "fake", "hash": "0" * 12, "guidance_scale": 0.0, "version": "0", "backend": "eager", "device": "cpu", "threads": 1}
    record = Record.of(one, **made, batch=batch, row=row)
    colour = hashlib.sha256(f"{one.prompt} {one.seed} {batch}".encode()).digest()
    image = Image.new("RGB", (one.width, one.height), (colour[0], colour[1], colour[2]))
    return Picture(image, one.seed, one.steps, one.width, one.height, "fake", {"text": 0.5, "denoise": 1.0, "decode": 2.0}, record)


def wanted(prompts: Iterable[str], **more: int) -> Iterator[Wanted]:
    for number, prompt in enumerate(prompts, start=1):
        yield Wanted(number - 1, number, number + 1, Request(prompt, **{"seed": number, **more}), {})


def parts(manifest: Path, expansion: Expansion | None = None, most: int = 4) -> Iterator[Group | Bad]:
    return groups(items((expansion or Expansion()).wanted(open_manifest(manifest)), MAKER), most)


def csv_of(path: Path, prompts: Iterable[str]) -> Path:
    lines = [f'"{prompt}",{number}' for number, prompt in enumerate(prompts, start=1)]
    path.write_text("\n".join(["prompt,seed", *lines]) + "\n")
    return path


def redness(image: Image.Image, prompt: str) -> float | None:
    """A score: the mean of the red; none of a prompt with a 3 in it."""
    return None if "3" in prompt else ImageStat.Stat(image.convert("RGB")).mean[0]


def job(
    out: Path,
    manifest: Path,
    engine: FakeEngine | None = None,
    store: Store | None = None,
    total: int = 0,
    strict: bool = False,
    kind: str = "png",
    score: Score | None = None,
) -> tuple[Tally, list[Bad]]:
    """Run a job in the folder ``out`` to its end, or to what stops it."""
    scratch = out / ".tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    results, failed = Results(out / NAME), list[Bad]()
    tally = Tally(total)
    books = Books(results, store or Folders(out, scratch, kind), tally, lambda tally, last: None, failed.append, strict, kind, score)
    try:
        run(parts(manifest), [partial(make, engine or FakeEngine())], books)
        results.finish(scratch)
    finally:
        results.close()
    return tally, failed


def kept(results: Results, store: Store, manifest: Path, engine: FakeEngine | None = None, score: Score | None = None) -> Tally:
    """Run a job of the prompts in ``manifest`` into ``store``, to its end or to what stops it."""
    tally = Tally(sum(1 for _ in open_manifest(manifest).rows()))
    run(parts(manifest), [partial(make, engine or FakeEngine())], Books(results, store, tally, lambda tally, last: None, lambda bad: None, score=score))
    return tally


def files(out: Path, pattern: str = "pictures/**/*.png") -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob(pattern)) if path.is_file()}


class Breaks(FakeEngine):
    """Ends the process's work, as a kill would, after so many batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        if len(self.batches) == self.after:
            raise KeyboardInterrupt
        return super().walk(batch, decoder)
