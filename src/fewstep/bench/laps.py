"""What each stage took, contestant by contestant and round by round, as the engine's own clocks have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.bench.clock import Series
from fewstep.bench.sides import stages


class Laps:
    """Looks on at a race (see ``interleave``) and keeps the seconds of every stage in the rounds that count."""

    def __init__(self) -> None:
        self._spent: dict[str, list[dict[str, float]]] = {}

    def __call__(self, counted: bool, given: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        """Take note of pictures that the engine made; what others made has no stages."""
        for name, pictures in made.items():
            if counted and hasattr(pictures[0], "timings"):
                self._spent.setdefault(name, []).append(stages(pictures))

    def of(self, name: str, stage: str) -> Series:
        """The seconds of one contestant in "text", "denoise" or "decode", over its whole batch."""
        return Series(tuple(spent[stage] for spent in self._spent[name]))
