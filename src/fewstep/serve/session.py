"""A live session: whoever types sees the newest intent, and sees something at all times.

``async for shown in Session(scheduler)`` yields pictures while ``ask`` is called with every keystroke. Of what waits only the newest is
kept. What runs is stopped at its next step when something newer waits, unless nothing would be shown for too long then. A picture comes
from the reduced decoder at once and from the full one when the person pauses.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.engine.request import Picture, Request, RequestError, Settled
from fewstep.serve.orders import Busy, Closed, Order, Update
from fewstep.serve.scheduler import Scheduler

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.engine.engine import Engine

PAUSE = 0.2  # seconds without a request, after which the picture is made with the full decoder
HUNGER = 0.25  # seconds after which something must have been shown while requests keep coming
RETRY = 0.1  # seconds until a full queue is tried again
LOOK = 0.5  # seconds between looks whether the scheduler was closed, while nothing is wanted


@dataclass(frozen=True)
class Intent:
    """One request of a session."""

    generation: int
    settled: Settled
    previews: bool
    since: float  # when it was asked


@dataclass(frozen=True)
class Shown:
    """A picture to show. Generations never go down."""

    intent: Intent
    step: int
    steps: int
    decoder: str
    final: bool  # nothing more of this generation follows
    image: Image
    timings: dict[str, float]  # milliseconds: since it was asked ("total"), and of the stages where it is a whole picture
    picture: Picture | None  # None for a preview

    @property
    def generation(self) -> int:
        """Which request it answers."""
        return self.intent.generation


class Session:
    """See above. Not for more than one reader. Close it when the reader is gone."""

    def __init__(self, scheduler: Scheduler, pause: float = PAUSE, hunger: float = HUNGER) -> None:
        self.scheduler, self.pause, self.hunger = scheduler, pause, hunger
        self.generation = 0  # the newest that was asked
        self.shown = self.replaced = 0  # pictures that were shown, requests that a newer one replaced before they were finished
        self._waiting: Intent | None = None
        self._running: Intent | None = None
        self._order: Order | None = None
        self._decoder = ""
        self._rough: Intent | None = None  # shown by the reduced decoder, and not yet by the full one
        self._shown_at = -math.inf
        self._takes = 0.0  # seconds from a start to a picture, lately
        self._started = 0.0
        self._news = asyncio.Event()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def of(cls, engine: Engine) -> AsyncIterator[Session]:
        """A session that has ``engine`` for itself: ``async with Session.of(engine) as session``."""
        async with Scheduler(engine, engine.model.decoders()) as scheduler:
            session = cls(scheduler)
            try:
                yield session
            finally:
                session.close()

    def ask(self, request: Request, generation: int | None = None, previews: bool = False) -> int:
        """Want ``request`` from now on, and no longer what was asked before. Returns its generation: ``generation`` or the next.

        ``previews`` are pictures of the steps on the way. Raises RequestError on a request that the model cannot meet, or a generation
        that is not newer than the last.
        """
        return self.want(self.scheduler.limits.settle(request), generation, previews)

    def want(self, settled: Settled, generation: int | None = None, previews: bool = False) -> int:
        """``ask`` for what is settled already, which takes a while where there is an image."""
        number = self.generation + 1 if generation is None else generation
        if number <= self.generation:
            raise RequestError(f"generation = {number}: the last was {self.generation}, give a higher one")
        intent = Intent(number, settled, previews, time.monotonic())
        self.generation, self._rough = number, None
        if self._order is not None and self.scheduler.exchange(self._order, intent.settled, self._first, previews, replaced=not self._second_look):
            self.replaced += not self._second_look
            self._running, self._decoder = intent, self._first
            return number
        if self._waiting is not None:
            self.replaced += 1
            self.scheduler.counts.replaced += 1
        self._waiting = intent
        if self._order is not None and self._may_stop(intent.since):
            stopped = self._order.cancel(replaced=not self._second_look)
            self.replaced += stopped and not self._second_look
        self._news.set()
        return number

    def close(self) -> None:
        """Want nothing any more: what runs for it stops at its next step, and the iteration ends."""
        self._closed = True
        if self._order is not None:
            self._order.cancel()
        self._news.set()

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> Shown:
        """The next picture to show. Raises Closed if the scheduler was closed, and what the engine raised if it failed."""
        while not self._closed:
            if self._order is None:
                await self._begin()
                continue
            try:
                update = await anext(self._order, None)
            except Exception:
                self._order = None
                raise
            if update is None:
                self._order = None
            elif update.image is not None and not self._closed:
                return self._show(update, update.image)
        raise StopAsyncIteration

    @property
    def answering(self) -> int:
        """The generation that is being answered, or was last; 0 before the first."""
        return self._running.generation if self._running is not None else 0

    @property
    def _first(self) -> str:
        """The decoder of a first look."""
        return self.scheduler.decoders[-1]

    @property
    def _second_look(self) -> bool:
        """Whether what runs was shown before, by the reduced decoder."""
        return self._decoder != self._first

    def _may_stop(self, now: float) -> bool:
        """Whether what runs can give way. A second look always can; a first look if the newer request should still be shown in time."""
        return self._second_look or now + self._takes < self._shown_at + self.hunger

    async def _begin(self) -> None:
        """Order the newest request, or the full picture of the last one when it is time; wait if there is nothing to do."""
        if self.scheduler.closed:
            raise Closed
        delay = LOOK
        try:
            if self._waiting is not None:
                self._start(self._waiting, self._first)
                self._waiting = None
                return
            if self._rough is not None:
                delay = min(delay, self._rough.since + self.pause - time.monotonic())
                if delay <= 0:
                    self._start(self._rough, "full")
                    self._rough = None
                    return
        except Busy:
            delay = RETRY
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._news.wait()

    def _start(self, intent: Intent, decoder: str) -> None:
        self._order = self.scheduler.submit([intent.settled], self, decoder, intent.previews and decoder == self._first)
        self._running, self._decoder, self._started = intent, decoder, time.monotonic()

    def _show(self, update: Update, image: Image) -> Shown:
        intent, now = self._running, time.monotonic()
        assert intent is not None
        final = update.picture is not None and self._decoder == "full"
        if update.picture is not None:
            self._order = None
            if not self._second_look:
                self._takes = (self._takes + now - self._started) / 2 if self._takes else now - self._started
            self._rough = intent if not final and self._waiting is None else None
        self._shown_at, self.shown = now, self.shown + 1
        timings = {**(update.picture.timings if update.picture else {}), "total": round(1000 * (now - intent.since), 2)}
        return Shown(intent, update.step, update.steps, self._decoder, final, image, timings, update.picture)
