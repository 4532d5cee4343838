"""What was ordered of the scheduler, and how whoever ordered hears of it. Lives on the event loop's thread, all but ``Job.wanted``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewstep.engine.request import Picture, Settled

if TYPE_CHECKING:
    from PIL.Image import Image


Kind = tuple[tuple[Hashable, ...], str]  # Settled.kind, and a decoder


class Busy(RuntimeError):
    """The queue is full. ``retry_after`` is in how many seconds there may be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full: try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(RuntimeError):
    """The scheduler is shutting down."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down: try again when it is back")


class Refused(RuntimeError):
    """Whoever runs the server has a checker, and it is against a prompt or a picture. The message is its reason."""

    code = "content_policy_violation"


@dataclass(frozen=True)
class Update:
    """Where one picture of an order stands after ``step`` network evaluations; with ``picture`` it is finished."""

    index: int  # of the picture in its order
    step: int
    steps: int
    image: Image | None = None  # a preview if one was asked for, at last the picture's own
    picture: Picture | None = None


@dataclass
class Counts:
    """How requests ended since the start: each is in one of these, or still queued or running."""

    done: int = 0
    cancelled: int = 0  # by whoever asked
    replaced: int = 0  # by a newer request of the same session
    rejected: int = 0  # the queue was full
    failed: int = 0


@dataclass(eq=False)
class Job:
    """One picture to make for ``owner``. ``wanted`` is read by the thread that computes; setting it to False is all that cancelling takes."""

    settled: Settled
    owner: Hashable
    decoder: str
    previews: bool
    index: int
    since: float  # when it was ordered, on the clock of time.perf_counter
    order: Order = field(repr=False)
    wanted: bool = True
    context: Context = field(default_factory=copy_context, repr=False)  # that it was ordered in: what the log says of it names its request

    @property
    def kind(self) -> Kind:
        """Pictures of one kind can be made together."""
        return self.settled.kind, self.decoder


class Order:
    """Pictures ordered together. ``async for update in order`` tells of each the newest there is: who reads slowly misses steps, no picture.

    The iteration ends when all are finished or the order is cancelled. It raises Closed if the scheduler was closed before, and what the
    engine raised if it failed, Refused if there was something against it.
    """

    def __init__(self, drop: Callable[[Sequence[Job], bool], None]) -> None:
        self._drop = drop
        self._left: dict[int, Job] = {}
        self._latest: dict[int, Update] = {}
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def left(self) -> list[Job]:
        """What is still to be made."""
        return list(self._left.values())

    def cancel(self, replaced: bool = False) -> bool:
        """Want nothing more of it; counted as replaced or as cancelled. Returns whether anything was still to be made."""
        left = self.left
        self._left.clear()
        for job in left:
            job.wanted = False
            self._latest.pop(job.index, None)
        self._drop(left, replaced)
        self._news.set()
        return bool(left)

    def __aiter__(self) -> Order:
        return self

    async def __anext__(self) -> Update:
        """The next update."""
        while not self._latest:
            if self._error is not None:
                raise self._error
            if not self._left:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._latest.pop(next(iter(self._latest)))

    def add(self, job: Job) -> None:
        """One more picture; for the scheduler."""
        self._left[job.index] = job

    def tell(self, update: Update) -> bool:
        """Pass on ``update``; for the scheduler. Returns whether this finished a picture that was wanted."""
        if update.index not in self._left:
            return False
        self._latest[update.index] = update
        if finished := update.picture is not None:
            del self._left[update.index]
        self._news.set()
        return finished

    def fail(self, job: Job, error: Exception) -> bool:
        """``job`` cannot be made; for the scheduler. Returns whether it was wanted."""
        if self._left.pop(job.index, None) is None:
            return False
        self._latest.pop(job.index, None)
        self._error = error
        self._news.set()
        return True
