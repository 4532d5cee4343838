"""What a scheduler needs of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fewstep.engine.request import Frame, Limits, Settled


class Walker(Protocol):
    """An engine, or what stands in for one."""

    @property
    def limits(self) -> Limits:
        """Sizes and step counts that its model can do."""

    def best_batch(self, settled: Settled) -> int:
        """See Engine.best_batch."""

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        """See Engine.walk."""
