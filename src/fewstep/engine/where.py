"""Where work is carried out: on this machine, or by actors of a Ray cluster, how many of them and how large. Loads no Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fewstep.engine.request import RequestError

HERE, RAY = "here", "ray"  # --on; or the address of a Ray cluster
ADDRESS = r"[^\s:/]+:[0-9]{1,5}"


@dataclass(frozen=True)
class Where:
    """What was asked for, checked. Raises RequestError on what no cluster could have."""

    on: str = HERE
    actors: str | None = None  # "4", or "1-4"
    gpus_per_actor: float | None = None
    cpus_per_actor: int | None = None
    noun: str = "actor"  # what one is called on the command line

    def __post_init__(self) -> None:
        if self.on not in (HERE, RAY) and not re.fullmatch(ADDRESS, self.on):
            raise RequestError(f"--on {self.on}: give {HERE}, {RAY}, or the HOST:PORT of a Ray cluster's head")
        for name in ("actors", "gpus_per_actor", "cpus_per_actor"):
            if self.on == HERE and getattr(self, name) is not None:
                raise RequestError(f"--{name.replace('_', '-').replace('actor', self.noun)} is for a Ray cluster: give --on {RAY} as well")
        _ = self.count
        gpus = self.gpus_per_actor
        if gpus is not None and not (0 <= gpus <= 1 or gpus == int(gpus) <= 64):
            raise RequestError(f"--gpus-per-{self.noun} {gpus:g}: give a share of one, such as 0.5, or a whole number")
        if self.cpus_per_actor is not None and not 1 <= self.cpus_per_actor <= 1024:
            raise RequestError(f"--cpus-per-{self.noun} {self.cpus_per_actor}: give a whole number from 1 on")

    @property
    def count(self) -> tuple[int, int | None]:
        """(fewest, most) actors; without a most, as many as the cluster has room for. Raises RequestError."""
        match = re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", self.actors or "1")
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if most < fewest:
            raise RequestError(f"--{self.noun}s {self.actors}: give their number, such as 4, or the fewest and the most, such as 1-4")
        return fewest, most if self.actors else None
