"""Contestants timed in turn, A B A B, and what their times come to."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Series:
    """The seconds of one contestant, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds, in seconds."""
        return quantile(self.seconds, 0.5)

    @property
    def p95(self) -> float:
        """What 95 % of the rounds stay under, in seconds; over few rounds that is close to the slowest."""
        return quantile(self.seconds, 0.95)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``values`` lie under, interpolated between neighbours. Raises ValueError on no values."""
    if not values:
        raise ValueError("no values: there is nothing to take a quantile of")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def ratio(slower: Series, faster: Series) -> float:
    """How many times as long ``slower`` takes: the median of the rounds' own ratios, for what slows a round down slows both sides."""
    return quantile([a / b for a, b in zip(slower.seconds, faster.seconds, strict=True)], 0.5)


def interleave(
    contestants: Mapping[str, Callable[[Given], Made]],
    give: Callable[[], Mapping[str, Given]],
    rounds: int,
    warmup: int = 1,
    look: Callable[[bool, Mapping[str, Given], dict[str, Made]], None] = lambda counted, given, made: None,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Series]:
    """Let every contestant work once a round, in their order, on what ``give`` gives it for that round, and time each.

    The first ``warmup`` rounds are not counted. After each round ``look(counted, given, made)`` sees what was made, outside of any
    time. Garbage is collected between rounds and not within. A contestant must be done when it returns: nothing waits for it here.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-warmup, rounds):
        given, made = give(), dict[str, Made]()
        with _no_collection():
            for name, work in contestants.items():
                began = now()
                made[name] = work(given[name])
                if turn >= 0:
                    taken[name].append(now() - began)
        look(turn >= 0, given, made)
    return {name: Series(tuple(seconds)) for name, seconds in taken.items()}


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
