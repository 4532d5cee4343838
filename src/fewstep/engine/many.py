"""Many requests: those of one kind are made together, as many at once as is best and memory holds, and come in the order they were asked in."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import islice

from fewstep.engine.batching import short_of_memory
from fewstep.engine.request import Picture, Settled

Make = Callable[[Sequence[Settled]], list[Picture]]


def in_order(settled: Sequence[Settled], best: Callable[[Settled], int], make: Make) -> Iterator[Picture]:
    """A picture of each of ``settled``, by ``make`` in batches of one kind (Settled.kind) of ``best`` size."""
    done: dict[int, Picture] = {}
    waiting: defaultdict[Hashable, deque[int]] = defaultdict(deque)  # by kind, in their order
    most: dict[Hashable, int] = {}  # of a kind, where memory was short
    for index, one in enumerate(settled):
        waiting[one.kind].append(index)
    for index, first in enumerate(settled):
        if index not in done:
            kind = first.kind
            alike = waiting[kind]
            count = min(len(alike), most.get(kind) or best(first)) if len(alike) > 1 else 1
            pictures = _halving([settled[i] for i in islice(alike, count)], make)
            if len(pictures) < count:
                most[kind] = len(pictures)
            done |= {alike.popleft(): picture for picture in pictures}
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
