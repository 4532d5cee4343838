"""One engine for many people: a bounded queue, fair turns by owner, the like made together, and no step for what nobody wants.

The engine is not for two threads, so one thread of the scheduler's owns it. All else happens on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any

from PIL.Image import Image
from PIL.Image import fromarray as open_pixels

from fewstep.engine.request import DECODERS, MOST_BATCH, Picture, Request, Settled
from fewstep.serve.checker import Checker
from fewstep.serve.orders import Busy, Closed, Counts, Job, Kind, Order, Refused, Update
from fewstep.serve.walker import Walker

MOST_WAITING = 64  # pictures in the queue
MOST_KINDS = 1024  # that are remembered: there are as many as guidance scales that anybody thinks of
LONGEST_BATCH = 1.0  # seconds: a batch that should take longer is made smaller, for whoever comes meanwhile waits for all of it
REST = 1.0  # seconds without work after which a measurement may begin, for whoever comes then waits for it
GRACE = 3.0  # seconds that a running step has to end in when the scheduler is closed
log = logging.getLogger("fewstep.serve")


@dataclass(frozen=True)
class Batch:
    """What became of pictures that were made together; for whoever measures."""

    waits: list[float]  # seconds that each was in the queue
    timings: dict[str, float]  # milliseconds a picture: text, denoise, decode; empty if it was abandoned


class Scheduler:
    """Hands jobs to the engine in fair order. Use it as ``async with Scheduler(engine) as scheduler``.

    Owners take turns: whose turn it is gives its oldest job, and others who wait for the same kind join it with one each. An owner who
    waits alone may fill the batch.
    """

    def __init__(
        self,
        engine: Walker,
        decoders: tuple[str, ...] = DECODERS,
        most_waiting: int = MOST_WAITING,
        on_batch: Callable[[Batch], None] = lambda batch: None,
        checker: Checker | None = None,
    ) -> None:
        self.checker = checker
        self.engine, self.decoders, self.most_waiting, self.on_batch = engine, decoders, most_waiting, on_batch
        self.limits, self.counts = engine.limits, Counts()
        self.ready, self.closed = asyncio.Event(), False
        self._batch: list[Job] = []
        self._queues: OrderedDict[Hashable, deque[Job]] = OrderedDict()  # who is first has the next turn
        self._seconds: OrderedDict[Kind, float] = OrderedDict()  # that a picture of a kind takes, the last seen last
        self._best: dict[Kind, int] = {}  # how many of a kind are best made at once, as far as that is known
        self._unmeasured: Job | None = None  # of the last kind that was made together and may be made better
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "fewstep-engine")
        self._task: asyncio.Task[None] | None = None
        self._deadline, self.left_behind = 0.0, False

    async def __aenter__(self) -> Scheduler:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def queued(self) -> int:
        """Pictures that wait."""
        return sum(map(len, self._queues.values()))

    @property
    def running(self) -> int:
        """Pictures that are being made."""
        return len(self._batch)

    def submit(self, asked: Sequence[Settled], owner: Hashable, decoder: str = "full", previews: bool = False) -> Order:
        """Queue pictures for ``owner``: all or none of them.

        An owner may hold as many places as are free: however eager some are, there is room for who comes new. Raises Busy if there is
        none, Closed after ``close``.
        """
        if self.closed:
            raise Closed
        own, free = len(self._queues.get(owner, ())), self.most_waiting - self.queued
        if own + len(asked) > free:
            self.counts.rejected += len(asked)
            raise Busy(self._retry_after())
        order = Order(self._drop)
        for index, settled in enumerate(asked):
            job = Job(settled, owner, decoder, previews, index, time.perf_counter(), order)
            order.add(job)
            self._queues.setdefault(owner, deque()).append(job)
        self._work.set()
        return order

    def exchange(self, order: Order, settled: Settled, decoder: str, previews: bool, replaced: bool) -> bool:
        """Have ``order``, of one picture, ask for another one in its place in the line. Returns False, changing nothing, once it is being made.

        What it asked for before counts as replaced or as cancelled.
        """
        for job in order.left:
            if job in self._queues.get(job.owner, ()):
                job.settled, job.decoder, job.previews = settled, decoder, previews
                self.counts.replaced += replaced
                self.counts.cancelled += not replaced
                return True
        return False

    async def close(self) -> None:
        """Take no more, end the running step, and fail with Closed what is not finished then.

        Returns within GRACE seconds of the first call. ``left_behind`` says whether a step is still computed then: nothing can stop it.
        """
        self.closed = True
        self._deadline = self._deadline or time.monotonic() + GRACE
        for job in [job for queue in self._queues.values() for job in queue]:
            self._fail(job, Closed())
        self._queues.clear()
        self._work.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=max(0.0, self._deadline - time.monotonic()))
            self.left_behind = not self._task.done()
        for job in self._batch:
            self._fail(job, Closed())
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _drop(self, jobs: Sequence[Job], replaced: bool) -> None:
        """Jobs that are not wanted any more."""
        for job in jobs:
            queue = self._queues.get(job.owner, deque())
            if job in queue:
                queue.remove(job)
                if not queue:
                    del self._queues[job.owner]
        if replaced:
            self.counts.replaced += len(jobs)
        else:
            self.counts.cancelled += len(jobs)

    def _retry_after(self) -> int:
        """Seconds until the queue should be empty."""
        kinds = [job.kind for queue in self._queues.values() for job in queue]
        return max(1, math.ceil(sum(self._seconds.get(kind, 0.1) for kind in kinds)))

    async def _serve(self) -> None:
        if await self._loop.run_in_executor(self._thread, self._warm):
            self.ready.set()
        while not self.closed:
            if not self._queues:
                await self._idle()
                continue
            batch, now = self._take(), time.perf_counter()
            self._batch = batch
            timings = await self._loop.run_in_executor(self._thread, self._run, batch)
            self._batch = []
            if timings:
                self._learn(batch[0].kind, timings)
                if len(batch) > 1 and batch[0].kind not in self._best and len(self._best) < MOST_KINDS:
                    self._unmeasured = batch[0]
            self.on_batch(Batch([now - job.since for job in batch], timings))

    async def _idle(self) -> None:
        """Wait for work. Where none comes for a while, measure how many are best made at once."""
        self._work.clear()
        try:
            async with asyncio.timeout(REST if self._unmeasured else None):
                await self._work.wait()
        except TimeoutError:
            job, self._unmeasured = self._unmeasured, None
            if job and not (self._queues or self.closed):
                self._best[job.kind] = await self._loop.run_in_executor(self._thread, self._measure, job)

    def _take(self) -> list[Job]:
        """The next batch. Its owners go to the end of the line, in the order they had."""
        first = next(iter(self._queues.values()))[0]
        most = max(1, min(self._best.get(first.kind, MOST_BATCH), int(LONGEST_BATCH / max(self._seconds.get(first.kind, LONGEST_BATCH), 1e-6))))
        alone = len(self._queues) == 1
        batch: list[Job] = []
        for owner, queue in list(self._queues.items()):
            while queue and queue[0].kind == first.kind and len(batch) < most:
                batch.append(queue.popleft())
                if not alone:
                    break
            if batch and batch[-1].owner == owner:
                self._queues.move_to_end(owner)
            if not queue:
                del self._queues[owner]
        return batch

    def _learn(self, kind: Kind, timings: dict[str, float]) -> None:
        seconds = sum(timings.values()) / 1000
        self._seconds[kind] = (self._seconds.pop(kind, seconds) + seconds) / 2
        if len(self._seconds) > MOST_KINDS:
            self._seconds.popitem(last=False)

    # What follows runs on the engine's thread.

    def _warm(self) -> bool:
        """Load what most requests need, so that nobody waits for it later. Returns whether the engine works."""
        try:
            self._load()
        except Exception as error:
            log.error("the model cannot be used: %s", error, exc_info=error)
            return False
        return True

    def _load(self) -> None:
        limits = self.limits
        walks = [(limits.default_steps, "full")] + [(steps, self.decoders[-1]) for steps in limits.students]
        for steps, decoder in walks:
            settled = limits.settle(Request("", seed=0, steps=steps))
            for (frame,) in self.engine.walk([settled], decoder):
                if self.closed:
                    return
                if frame.picture:
                    self._learn((settled.kind, decoder), frame.picture.timings)

    def _run(self, batch: list[Job]) -> dict[str, float]:
        """Make ``batch`` as far as somebody wants it. Returns the timings of a picture of it, none if it was abandoned."""
        try:
            picture = self._walk(batch)
        except Exception as error:
            if len(batch) > 1:  # one that cannot be made does not take the others with it
                timings = [self._run([job]) for job in batch if job.wanted]
                return timings[-1] if timings else {}
            batch[0].context.run(log.error, "a picture failed: %s", type(error).__name__, exc_info=error)
            self._call(self._fail, batch[0], error)
            return {}
        return picture.timings if picture else {}

    def _measure(self, job: Job) -> int:
        try:
            return self.engine.best_batch(job.settled)
        except Exception as error:
            log.error("the best batch cannot be measured: %s", type(error).__name__, exc_info=error)
            return MOST_BATCH

    def _walk(self, batch: list[Job]) -> Picture | None:
        picture = None
        batch = [job for job in batch if job.wanted and self._check(job)]
        if not batch:
            return None
        walk: Any = self.engine.walk([job.settled for job in batch], batch[0].decoder)
        with closing(walk):
            for frames in walk:
                for job, frame in zip(batch, frames, strict=True):
                    if job.wanted:
                        shown = frame.picture or (job.previews and frame.step < frame.steps)
                        image = frame.image if shown else None
                        if image is None or self._check(job, image):
                            self._call(self._tell, job, Update(job.index, frame.step, frame.steps, image, frame.picture))
                if (picture := frames[0].picture) is None and self.closed:
                    for job in batch:
                        self._call(self._fail, job, Closed())
                    return None
                if not any(job.wanted for job in batch):
                    break
        return picture

    def _check(self, job: Job, image: Image | None = None) -> bool:
        """Whether there is nothing against the prompt of ``job`` and what it begins from, or against ``image`` that it would show. No route passes it by."""
        if self.checker is None:
            return True
        settled = job.settled
        prompts = [prompt for prompt in (settled.prompt, settled.prompt_2, settled.blend) if prompt is not None]
        given = [part.pixels for part in (settled.source, *settled.control) if part is not None]
        for prompt, shown in product(prompts, [image] if image is not None or not given else map(open_pixels, given)):
            if (reason := self.checker(prompt, shown)) is not None:
                job.wanted = False
                self._call(self._fail, job, Refused(str(reason)))
                return False
        return True

    def _call(self, what: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(what, *arguments)

    # These it calls back on the event loop's thread.

    def _tell(self, job: Job, update: Update) -> None:
        self.counts.done += job.order.tell(update)

    def _fail(self, job: Job, error: Exception) -> None:
        self.counts.failed += job.order.fail(job, error)
