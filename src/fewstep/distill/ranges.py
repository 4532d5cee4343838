"""What a number of a recipe may be. The type of a field says it, ``batch_size: Count``, and recipe.py holds a recipe's values to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated

from fewstep.schedule import TRAIN_TIMESTEPS


@dataclass(frozen=True)
class Range:
    """From ``least`` to ``most``, each part of it but for ``without``."""

    least: float
    most: float = inf
    without: float | None = None

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and value != self.without

    def __str__(self) -> str:
        least = f"more than {self.least}" if self.without == self.least else f"{self.least} or more"
        if self.most == inf:
            return least
        return f"{least}, {'less than' if self.without == self.most else 'at most'} {self.most}"


Count = Annotated[int, Range(1)]
Amount = Annotated[int, Range(0)]  # none of it too
Seed = Annotated[int, Range(0, 2**63 - 1)]
Steps = Annotated[int, Range(1, TRAIN_TIMESTEPS)]
Timestep = Annotated[int, Range(0, TRAIN_TIMESTEPS - 1)]
Factor = Annotated[float, Range(0, without=0)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, without=1)]  # of a running average: at 1 it would stay as it was
