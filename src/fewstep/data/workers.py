"""Looking at pictures in several processes, answers in order, with a bounded number of them waiting."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait

from fewstep.data.filters import Look, Rules, look
from fewstep.data.item import Item
from fewstep.engine.request import RequestError

FEW = 8  # pictures handed over at once
AHEAD = 3  # such parts that wait for each worker


def looks(items: Iterable[Item], rules: Rules, workers: int) -> Iterator[Look]:
    """``look(item, rules)`` of every item, in their order: here, or in ``workers`` processes of their own where there are two or more.

    Raises RequestError if a worker dies, as one does that the machine has no memory for.
    """
    if workers < 2:
        yield from (look(item, rules) for item in items)
        return
    source = iter(items)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_with_parent) as pool:
        waiting: deque[Future[list[Look]]] = deque()
        try:
            while True:
                while len(waiting) < AHEAD * workers and (part := list(islice(source, FEW))):
                    waiting.append(pool.submit(look_at, part, rules))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise RequestError("a worker process died, of too little memory perhaps: the same command goes on; give fewer --workers") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def look_at(items: list[Item], rules: Rules) -> list[Look]:
    """What a worker does."""
    return [look(item, rules) for item in items]


def _leave_with_parent() -> None:
    """A killed parent cannot tell its workers to end, and they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
