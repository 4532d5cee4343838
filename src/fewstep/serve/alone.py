"""What a server knows of others that answer under the same address: nothing, where it is the only one (``serve.replica`` on a cluster)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fewstep.serve.metrics import Metrics
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.tickets import Tickets


class Alone:
    """The only server. ``prefix`` begins every name that is given out, so that a request that brings one back finds the way here."""

    prefix = ""

    @asynccontextmanager
    async def joined(self, scheduler: Scheduler, metrics: Metrics, tickets: Tickets) -> AsyncIterator[None]:
        """While this server answers."""
        yield

    async def ticket(self, tickets: Tickets, owner: str, origin: str | None, out: str | None) -> tuple[str, str]:
        """(token, name) of a ticket for a new session, or for the session ``out``, wherever it lives. Raises what Tickets.open raises."""
        ticket = tickets.open(owner, origin, out)
        return ticket.token, ticket.outlet.name

    async def numbers(self, metrics: Metrics) -> bytes:
        """What ``GET /metrics`` answers."""
        return metrics.text()
