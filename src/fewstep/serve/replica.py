"""One of several servers that a Ray cluster has under one address (docs/serving.md): the same application, which knows of the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from fewstep.engine.engine import Engine
from fewstep.engine.request import RequestError
from fewstep.engine.words import read_words
from fewstep.serve.alone import Alone
from fewstep.serve.app import open_app
from fewstep.serve.board import BOARD, NAMESPACE, TELL, text_of
from fewstep.serve.checker import load_checker
from fewstep.serve.guard import Access, Guard
from fewstep.serve.logs import log_in_lines
from fewstep.serve.metrics import Metrics
from fewstep.serve.rack import Rack
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.sticky import prefix_of
from fewstep.serve.tickets import OVER, Full, Tickets

NAME = "fewstep"  # of the application, and of its deployment
TRIES = 3  # to find a session: the way to a replica that has just died is open for a moment
AGAIN = 0.3  # seconds between two
log = logging.getLogger("fewstep.serve")


@dataclass(frozen=True)
class Plan:
    """What every replica serves, and to whom. Files lie at the same path on every machine."""

    model: str
    base: str | None
    few_step: str | None
    access: Access
    checker: str | None
    lora_dir: Path | None
    device: str = "cpu"
    threads: int = 1


class Replica(Alone):
    """This one, among the others."""

    def __init__(self) -> None:
        self.tag = serve.get_replica_context().replica_tag
        self.prefix = prefix_of(self.tag)
        self.tickets: Tickets | None = None
        self._board: Any = ray.get_actor(BOARD, namespace=NAMESPACE)

    @asynccontextmanager
    async def joined(self, scheduler: Scheduler, metrics: Metrics, tickets: Tickets) -> AsyncIterator[None]:
        """Tell the board what is here, until it says that all are to leave or is gone itself: with it goes the command that serves."""
        self.tickets = tickets
        telling = asyncio.create_task(self._tell(scheduler, metrics, tickets))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self, scheduler: Scheduler, metrics: Metrics, tickets: Tickets) -> None:
        leave = False
        while not leave:
            try:
                leave = await self._board.tell.remote(self.tag, tickets.owners(), list(metrics.registry.collect()))
            except RayError:
                leave = not self._found()
            await asyncio.sleep(TELL)
        await scheduler.close()
        tickets.close()

    def _found(self) -> bool:
        """Whether there is a board, which may have been begun anew."""
        try:
            self._board = ray.get_actor(BOARD, namespace=NAMESPACE)
        except ValueError:
            return False
        return True

    async def ticket(self, tickets: Tickets, owner: str, origin: str | None, out: str | None) -> tuple[str, str]:
        """See Alone; the replica where ``out`` lives gives the ticket, or one that has it go on after that has died."""
        if out is None or tickets.has(out):
            return await super().ticket(tickets, owner, origin, out)
        for _ in range(TRIES):
            with suppress(RayError):
                given = await serve.get_app_handle(NAME).ticket.remote(owner=owner, origin=origin, out=out)
                if given is None:
                    break
                return str(given[0]), str(given[1])
            await asyncio.sleep(AGAIN)
        raise RequestError(OVER)

    async def own(self, owner: str, origin: str | None, out: str) -> tuple[str, str] | None:
        """The same for a replica that has been sent here, where ``out`` is or is to be; None if it is over, or somebody else's."""
        assert self.tickets is not None
        if not self.tickets.has(out):
            if not await self._board.claim.remote(out, owner, self.tag):
                return None
            self.tickets.adopt(out, owner)
        try:
            return await super().ticket(self.tickets, owner, origin, out)
        except (RequestError, Full):
            return None

    async def numbers(self, metrics: Metrics) -> bytes:
        """The figures of all replicas, this one's of this moment."""
        others = await self._board.figures.remote()
        return text_of({**others, self.tag: list(metrics.registry.collect())})


@serve.ingress()
class Server:
    """The deployment: an engine, and the application around it."""

    def __init__(self, plan: Plan) -> None:
        log_in_lines()
        self._plan, self._here = plan, Replica()

    def __serve_build_asgi_app__(self) -> Guard:
        plan = self._plan
        check = load_checker(plan.checker) if plan.checker is not None else None
        engine = Engine.load(plan.model, base=plan.base, few_step=plan.few_step, device=plan.device, threads=plan.threads)
        rack, words = Rack(plan.lora_dir), read_words(engine.model.folder)
        guard, self._scheduler = open_app(engine, engine.model.decoders(), plan.access, check, words, rack, self._here)
        return guard

    async def ticket(self, owner: str, origin: str | None, out: str) -> tuple[str, str] | None:
        """See Replica.own; other replicas call it."""
        return await self._here.own(owner, origin, out)
