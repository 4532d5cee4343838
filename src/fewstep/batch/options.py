"""What a call of ``fewstep batch`` asks for, checked as far as it can be before a file is opened."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.batch.expand import COMBINE
from fewstep.batch.manifest import Manifest
from fewstep.batch.output import is_bucket
from fewstep.batch.score import SCORES
from fewstep.engine.files import DEFAULT, FORMATS
from fewstep.engine.model import check_choice
from fewstep.engine.request import MOST_BATCH, RequestError

STDOUT = Path("-")
HERE, RAY = "here", "ray"  # --on; or the address of a Ray cluster
ADDRESS = r"[^\s:/]+:[0-9]{1,5}"


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
            if path is not None and path != STDOUT and not path.absolute().parent.is_dir():
                raise RequestError(f"{option} {path}: there is no folder {path.absolute().parent}; make it, or name another file")

    def _check_out(self) -> None:
        if re.match(r"[a-z0-9+.-]{2,}:", self.out) and not is_bucket(self.out):
            raise RequestError(f"--out {self.out}: write a bucket as s3://BUCKET/FOLDER, and a folder of this machine as its path")
        if self.tars is not None and self.tars < 1:
            raise RequestError(f"--tars {self.tars}: give the number of pictures in one, such as 1000")
        if self.tars is not None and is_bucket(self.out):
            raise RequestError(f"--tars {self.tars}: tars are written to a folder; give one with --out and copy them to {self.out} when they are done")

    def _check_cluster(self) -> None:
        if self.on not in (HERE, RAY) and not re.fullmatch(ADDRESS, self.on):
            raise RequestError(f"--on {self.on}: give {HERE}, {RAY}, or the HOST:PORT of a Ray cluster's head")
        for name in ("actors", "gpus_per_actor", "cpus_per_actor"):
            if self.on == HERE and getattr(self, name) is not None:
                raise RequestError(f"--{name.replace('_', '-')} is for a Ray cluster: give --on {RAY} as well")
        _ = self.pool
        gpus = self.gpus_per_actor
        if gpus is not None and not (0 <= gpus <= 1 or gpus == int(gpus) <= 64):
            raise RequestError(f"--gpus-per-actor {gpus:g}: give a share of one, such as 0.5, or a whole number")
        if self.cpus_per_actor is not None and not 1 <= self.cpus_per_actor <= 1024:
            raise RequestError(f"--cpus-per-actor {self.cpus_per_actor}: give a whole number from 1 on")
        if self.on != HERE and "," in (self.device or ""):
            raise RequestError(f"--device {self.device}: on a cluster each actor has one device; give --actors and --gpus-per-actor instead")
        if self.on != HERE and self.dry_run:
            raise RequestError(f"--dry-run measures this machine: give it without --on {self.on}")

    @property
    def pool(self) -> tuple[int, int | None]:
        """(fewest, most) actors; without a most, as many as the cluster has room for. Raises RequestError."""
        match = re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", self.actors or "1")
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if most < fewest:
            raise RequestError(f"--actors {self.actors}: give their number, such as 4, or the fewest and the most, such as 1-4")
        return fewest, most if self.actors else None

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """All that the pictures of the job and their places depend on."""
        names = ("template", "combine", "aspects", "seeds", "settings", "keep", "model", "base", "few_step", "steps", "decoder", "format", "batch", "tars")
        return {"manifest": manifest.hash(), **{name: value for name, value in asdict(self).items() if name in names}}
