"""Work that rendering does on the processor while an accelerator trains: worker processes, answers in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from fewstep.distill import dist

T = TypeVar("T")
AHEAD = 4  # answers that each worker keeps ready


class WorkerDied(RuntimeError):
    """A worker process ended before its work was done; the message says what to do."""


class _Calls(Dataset[T]):
    def __init__(self, function: Callable[[range], T], items: Sequence[range]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        return self.function(self.items[index])


def each(function: Callable[[range], T], items: Sequence[range], workers: int) -> Iterator[T]:
    """``function(item)`` for each of ``items``, in their order: here, or ahead of time in ``workers`` forked processes. Raises WorkerDied."""
    if not workers or len(items) < 2:
        return map(function, items)
    loader = DataLoader(
        _Calls(function, items),
        batch_size=None,
        num_workers=min(workers, len(items)),
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",
        worker_init_fn=_one_thread,
    )
    return _minded(iter(loader))


def _minded(answers: Iterator[T]) -> Iterator[T]:
    with minding():
        yield from answers


@contextmanager
def minding() -> Iterator[None]:
    """A context in which the death of a worker is WorkerDied, wherever in it this process is when torch hears of that."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerDied("a worker process died, of too little memory perhaps: the same command goes on from the last checkpoint") from None


def spare() -> int:
    """Worker processes for this rank: its share of the cores beside an accelerator, none where the cores themselves train."""
    return max((os.cpu_count() or 1) // dist.world() - 1, 0) if torch.cuda.is_available() else 0


def _as_it_is(item: T) -> T:
    return item


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
