"""What a call of ``fewstep batch`` asks for, checked as far as it can be before a file is opened."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.batch.cells import is_unicode
from fewstep.batch.expand import COMBINE
from fewstep.batch.manifest import Manifest
from fewstep.batch.output import is_bucket
from fewstep.batch.score import SCORES
from fewstep.engine.files import DEFAULT, FORMATS
from fewstep.engine.model import check_choice
from fewstep.engine.output import check_writable
from fewstep.engine.request import MOST_BATCH, RequestError
from fewstep.engine.where import HERE, Where


@dataclass(frozen=True)
class Options:
    """What was asked for. ``tars`` is the number of pictures in one, None for folders; ``json`` "-" is lines on stdout.

    ``actors``, ``gpus_per_actor`` and ``cpus_per_actor`` are for a Ray cluster.
    """

    manifest: Path
    out: str
    model: str = "emoji"
    base: str | None = None
    few_step: str | None = None
    steps: int | None = None
    backend: str = "auto"
    decoder: str = "full"
    device: str | None = None
    template: str | None = None
    combine: str = "zip"
    aspects: str | None = None
    seeds: str | None = None
    settings: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    format: str = DEFAULT
    batch: int = MOST_BATCH
    tars: int | None = None
    score: str | None = None
    parquet: bool = False
    strict: bool = False
    dry_run: bool = False
    json: Path | None = None
    metrics: Path | None = None
    on: str = HERE
    actors: str | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: int | None = None

    def __post_init__(self) -> None:
        """Raises RequestError on what no manifest could be made with."""
        check_choice("--format", self.format, tuple(FORMATS))
        check_choice("--combine", self.combine, COMBINE)
        if self.score is not None:
            check_choice("--score", self.score, SCORES)
        if not 1 <= self.batch <= MOST_BATCH:
            raise RequestError(f"--batch {self.batch}: give a number from 1 to {MOST_BATCH}")
        self._check_out()
        self._check_cluster()
        for option, path in (("--json", self.json), ("--metrics", self.metrics)):
            check_writable(option, path)
            if path is not None and path.absolute() == self.manifest.absolute():
                raise RequestError(f"{option} {path} is the list itself: name another file")

    def _check_out(self) -> None:
        if not is_unicode(self.out):
            raise RequestError(f"--out {self.out!r:.200} is not valid Unicode, which its page and its summary are: give another name")
        if re.match(r"[a-z0-9+.-]{2,}:", self.out) and not is_bucket(self.out):
            raise RequestError(f"--out {self.out}: write a bucket as s3://BUCKET/FOLDER, and a folder of this machine as its path")
        if self.tars is not None and self.tars < 1:
            raise RequestError(f"--tars {self.tars}: give the number of pictures in one, such as 1000")
        if self.tars is not None and is_bucket(self.out):
            raise RequestError(f"--tars {self.tars}: tars are written to a folder; give one with --out and copy them to {self.out} when they are done")

    def _check_cluster(self) -> None:
        _ = self.where
        if self.on != HERE and "," in (self.device or ""):
            raise RequestError(f"--device {self.device}: on a cluster each actor has one device; give --actors and --gpus-per-actor instead")
        if self.on != HERE and self.dry_run:
            raise RequestError(f"--dry-run measures this machine: give it without --on {self.on}")

    @property
    def where(self) -> Where:
        """Who makes the pictures. Raises RequestError on what no cluster could have."""
        return Where(self.on, self.actors, self.gpus_per_actor, self.cpus_per_actor)

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """All that the pictures of the job and their places depend on."""
        names = ("template", "combine", "aspects", "seeds", "settings", "keep", "model", "base", "few_step", "steps", "decoder", "format", "batch", "tars")
        return {"manifest": manifest.hash(), **{name: value for name, value in asdict(self).items() if name in names}}
