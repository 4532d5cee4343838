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
from ray.serve.exceptions import RayServeException

from fewstep.engine.engine import Engine
from fewstep.engine.request import RequestError
from fewstep.engine.words import read_words
from fewstep.serve.alone import Alone
from fewstep.serve.app import open_app
from fewstep.serve.board import BOARD, HOLD, NAMESPACE, TELL, text_of
from fewstep.serve.checker import load_checker
from fewstep.serve.guard import Access, Guard
from fewstep.serve.logs import log_in_lines
from fewstep.serve.metrics import Metrics
from fewstep.serve.rack import Rack
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.sticky import prefix_of
from fewstep.serve.tickets import OVER, Full, Tickets

NAME = "fewstep"  # of the application, and of its deployment
AGAIN = 0.3  # seconds between two tries to find a session
TRIES = int((HOLD + 1) / AGAIN)  # the way to a replica that has just died is open for a moment, and it keeps its sessions for HOLD
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
    controlnet: str | None = None


class Elsewhere(Exception):
    """A session lives at another replica than the one that was asked."""


class Replica(Alone):
    """This one, among the others."""

    def __init__(self) -> None:
        self.tag = serve.get_replica_context().replica_tag
        self.prefix = prefix_of(self.tag)
        self.tickets: Tickets | None = None
        self._board: Any = ray.get_actor(BOARD, namespace=NAMESPACE)
        self._others: Any = None  # the way to the replica that a session is at

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
                leave, lost = await self._board.tell.remote(self.tag, tickets.owners(), tickets.busy(), list(metrics.registry.collect()))
                tickets.lose(lost)
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
            with suppress(RayError, RayServeException):
                if self._others is None:
                    self._others = await asyncio.to_thread(serve.get_app_handle, NAME)
                given = await self._others.ticket.remote(owner=owner, origin=origin, out=out)
                if given is None:
                    break
                return str(given[0]), str(given[1])
            await asyncio.sleep(AGAIN)
        raise RequestError(OVER)

    async def own(self, owner: str, origin: str | None, out: str) -> tuple[str, str] | None:
        """The same for a replica that has been sent here, where ``out`` is or is to be; None if it is over, or somebody else's.

        Raises Elsewhere where another replica has it, of which the sender has not heard yet or which has just died.
        """
        assert self.tickets is not None
        if not self.tickets.has(out):
            home = await self._board.claim.remote(out, owner, self.tag)
            if not home:
                return None
            if home != self.tag:
                raise Elsewhere(home)
            self.tickets.adopt(out, owner)
        try:
            return await super().ticket(self.tickets, owner, origin, out)
        except (RequestError, Full):
            return None

    async def numbers(self, metrics: Metrics) -> bytes:
        """The figures of all replicas, this one's of this moment and alone while the board cannot be asked."""
        others = {}
        with suppress(RayError):
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
        nets = None if plan.controlnet is None else [plan.controlnet]
        engine = Engine.load(plan.model, base=plan.base, few_step=plan.few_step, device=plan.device, threads=plan.threads, controlnets=nets)
        rack, words = Rack(plan.lora_dir), read_words(engine.model.folder)
        guard, self._scheduler = open_app(engine, engine.model.decoders(), plan.access, check, words, rack, self._here, plan.controlnet)
        return guard

    async def ticket(self, owner: str, origin: str | None, out: str) -> tuple[str, str] | None:
        """See Replica.own; other replicas call it."""
        return await self._here.own(owner, origin, out)
