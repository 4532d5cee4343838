"""Tokens that open a live session, for browsers cannot set headers there, and what each session shows to whoever looks over its shoulder."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from fewstep.engine.request import RequestError

TOKEN = 60.0  # seconds that a token opens a session
LINGER = 60.0  # seconds that an outlet stays without a session, for whoever connects again
MOST_OUTLETS = 256
MOST_VIEWERS = 8  # of one session
OVER = "out: this session is over or somebody else's, leave it out to open a new one"


class Full(RuntimeError):
    """As many sessions are open as this server allows."""


@dataclass(eq=False)
class Outlet:
    """The newest picture of a live session. Its name is what lets in whoever wants to see it."""

    owner: str
    until: float  # on the clock of the tickets, while nobody is connected
    name: str
    jpeg: bytes = b""
    number: int = 0  # of the picture; 0 before the first
    connected: int = 0
    viewers: int = 0
    closed: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def show(self, jpeg: bytes) -> None:
        """Show this picture from now on."""
        self.jpeg, self.number = jpeg, self.number + 1
        self._wake()

    def close(self) -> None:
        """Show nothing any more."""
        self.closed = True
        self._wake()

    async def newer(self, number: int, seconds: float) -> bool:
        """Wait for a picture after ``number``, or ``seconds``. Returns whether there is one."""
        if self.number <= number and not self.closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        return self.number > number

    @contextmanager
    def viewed(self) -> Iterator[bool]:
        """While somebody looks, if as many as may do not look already: whether it is so."""
        if self.viewers >= MOST_VIEWERS:
            yield False
            return
        self.viewers += 1
        try:
            yield True
        finally:
            self.viewers -= 1

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@dataclass(frozen=True)
class Ticket:
    """Lets pages of ``origin`` (None: what is no browser) open a live session as ``owner``."""

    owner: str
    origin: str | None
    until: float
    outlet: Outlet
    token: str = field(repr=False)


class Tickets:
    """All that are valid, and the outlets. Lives on the event loop's thread. ``prefix`` begins the names of both."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, prefix: str = "") -> None:
        self._clock, self._prefix = clock, prefix
        self._tickets: dict[str, Ticket] = {}
        self._outlets: dict[str, Outlet] = {}

    def open(self, owner: str, origin: str | None, out: str | None = None) -> Ticket:
        """A ticket for a session with a new outlet, or with ``out``, one of ``owner``'s. Raises RequestError if that is over, Full."""
        self._tidy()
        until = self._clock() + LINGER
        if out is not None:
            outlet = self._outlets.get(out)
            if outlet is None or outlet.owner != owner:
                raise RequestError(OVER)
            outlet.until = until
        elif sum(outlet.owner == owner for outlet in self._outlets.values()) >= MOST_OUTLETS - len(self._outlets):  # as Shares has it
            raise Full
        else:
            outlet = Outlet(owner, until, self._prefix + secrets.token_urlsafe(16))
            self._outlets[outlet.name] = outlet
        self._void(outlet)
        ticket = Ticket(owner, origin, self._clock() + TOKEN, outlet, self._prefix + secrets.token_urlsafe(24))
        self._tickets[ticket.token] = ticket
        return ticket

    def has(self, name: str) -> bool:
        """Whether the session ``name`` is here, and not over."""
        return self.outlet(name) is not None

    def adopt(self, name: str, owner: str) -> None:
        """Have the session ``name`` of ``owner`` go on here, with no picture yet, if it does not already."""
        self._outlets.setdefault(name, Outlet(owner, self._clock() + LINGER, name))

    def owners(self) -> dict[str, str]:
        """Whose each session is that is not over, by its name."""
        self._tidy()
        return {name: outlet.owner for name, outlet in self._outlets.items()}

    def busy(self) -> set[str]:
        """The names of the sessions that somebody is connected to."""
        return {name for name, outlet in self._outlets.items() if outlet.connected}

    def lose(self, names: Collection[str]) -> None:
        """Have the sessions ``names`` be over here: they go on elsewhere. Whoever is connected stays so, and nobody looks any more."""
        for outlet in [self._outlets.pop(name) for name in names if name in self._outlets]:
            outlet.close()
            self._void(outlet)

    def redeem(self, token: str, origin: str | None) -> Ticket | None:
        """The ticket of ``token``, as often as it is shown before it is over; None if it is not known, or was given to another origin."""
        self._tidy()
        ticket = self._tickets.get(token)
        return ticket if ticket is not None and ticket.origin == origin else None

    def outlet(self, name: str) -> Outlet | None:
        """The outlet of this name, None if there is none or it is over."""
        self._tidy()
        return self._outlets.get(name)

    @contextmanager
    def connected(self, ticket: Ticket) -> Iterator[Outlet]:
        """While a session is open with ``ticket``."""
        outlet = ticket.outlet
        outlet.connected += 1
        try:
            yield outlet
        finally:
            outlet.connected -= 1
            outlet.until = self._clock() + LINGER

    def close(self) -> None:
        """Let everybody go."""
        for outlet in self._outlets.values():
            outlet.close()

    def _void(self, outlet: Outlet) -> None:
        for token in [token for token, ticket in self._tickets.items() if ticket.outlet is outlet]:
            del self._tickets[token]

    def _tidy(self) -> None:
        now = self._clock()
        for token in [token for token, ticket in self._tickets.items() if ticket.until <= now]:
            del self._tickets[token]
        for name in [name for name, outlet in self._outlets.items() if not outlet.connected and outlet.until <= now]:
            self._outlets.pop(name).close()
