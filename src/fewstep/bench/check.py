"""Whether what was timed was right: pictures compared with those that they should be, so that a fast wrong answer cannot win."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image

from fewstep.bench.pixels import BOUND, contrast, worst
from fewstep.bench.sides import images, threads
from fewstep.engine.request import Picture

HALF_BOUND = 40  # of 255, where both sides compute in 16 bits and round differently: at worst 17 were seen, and other pictures differ by far more


class Check:
    """The largest difference seen of each contestant, and whether it used as many threads as it was given."""

    def __init__(self, dtype: torch.dtype = torch.float32, allowed: int | None = None) -> None:
        """``allowed`` threads, None where they do not matter."""
        self.bound = BOUND if dtype == torch.float32 else HALF_BOUND
        self._allowed = allowed
        self._differences: dict[str, int] = {}
        self._threads: dict[str, int] = {}
        self.contrast = 255.0  # the least of any picture that was compared with

    def see(self, name: str, ours: Sequence[Picture], theirs: Sequence[Image]) -> None:
        """Compare what ``name`` made with what it should have made."""
        self._differences[name] = max(self._differences.get(name, 0), worst(images(ours), theirs))
        self._threads[name] = threads(ours)
        self.contrast = min(self.contrast, contrast(theirs))

    def row(self, name: str) -> dict[str, Any]:
        """The columns ``difference`` and ``failed``; both None for one that was not compared."""
        return {"difference": self._differences.get(name), "failed": self.failure(name)}

    def failure(self, name: str) -> str | None:
        """Why its times do not count, None if they do."""
        if (difference := self._differences.get(name, 0)) > self.bound:
            return f"its pictures differ by {difference} of 255, and {self.bound} are allowed"
        if self._allowed is not None and (used := self._threads.get(name, self._allowed)) != self._allowed:
            return f"it used {used} threads and the other side {self._allowed}"
        return None
