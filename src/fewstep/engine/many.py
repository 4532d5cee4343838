"""Many requests: those of one kind are made together, as many at once as is best and memory holds, and come in the order they were asked in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from fewstep.engine.batching import short_of_memory
from fewstep.engine.request import Picture, Settled

Make = Callable[[Sequence[Settled]], list[Picture]]


def in_order(settled: Sequence[Settled], best: Callable[[Settled], int], make: Make) -> Iterator[Picture]:
    """A picture of each of ``settled``, by ``make`` in batches of one kind (Settled.kind) of ``best`` size."""
    done: dict[int, Picture] = {}
    waiting = dict(enumerate(settled))
    most: dict[Hashable, int] = {}  # of a kind, where memory was short
    for index, first in enumerate(settled):
        if index in waiting:
            alike = [i for i, one in waiting.items() if one.kind == first.kind]
            alike = alike[: most.get(first.kind) or best(first)] if len(alike) > 1 else alike
            pictures = _halving([waiting[i] for i in alike], make)
            if len(pictures) < len(alike):
                most[first.kind] = len(pictures)
            for i, picture in zip(alike, pictures, strict=False):
                done[i] = picture
                del waiting[i]
        yield done.pop(index)


def _halving(batch: Sequence[Settled], make: Make) -> list[Picture]:
    """The pictures of as many of ``batch``, from the first on, as memory is found for at once: all, or half of them, and half again."""
    while True:
        try:
            return make(batch)
        except (MemoryError, RuntimeError) as error:
            if len(batch) == 1 or not short_of_memory(error):
                raise
        batch = batch[: len(batch) // 2]  # once the error is gone, and with it what it held
