"""How long the server waits for clients that have stopped speaking or reading, and how much they may say before a request is one: below ASGI."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE = 30.0  # seconds for the head of a request
LARGEST_HEAD = 1 << 16  # bytes; and the piece in which the head ends, which is at most what is received at once
READING = 60  # seconds in which a client that has gone or does not read must take something of what was sent to it
QUIET, PROBES = 60, 4  # seconds of silence before TCP asks whether the other side is there, and how often it asks


class Impatient(HttpToolsProtocol):
    """Drops a connection on which no request comes, none that is whole, or a head without end: uvicorn waits only between requests, and bounds no head."""

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = None  # bytes so far of the head that is being received; None while none is

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From here on a request is waited for."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        begun = self._head is not None
        super().data_received(data)
        if begun and self._head is not None:
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self.send_400_response(f"The head of this request is longer than {LARGEST_HEAD >> 10} KiB.")
        self._watch()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._head = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self._rest()

    def _watch(self) -> None:
        """Wait for a request, unless one is being answered or the connection has become a WebSocket."""
        if (self.cycle is not None and not self.cycle.response_complete) or self.transport.get_protocol() is not self:
            self._rest()
        elif self._timer is None:
            self._timer = self.loop.call_later(PATIENCE, self._late)

    def _late(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def patient(listener: socket.socket) -> socket.socket:
    """``listener``, whose connections TCP ends when the other side is gone without a word or takes nothing of what is sent to it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_USER_TIMEOUT", 1000 * READING), ("TCP_KEEPIDLE", QUIET), ("TCP_KEEPINTVL", QUIET // PROBES), ("TCP_KEEPCNT", PROBES)):
        if hasattr(socket, option):  # Linux has all of them, and hands them on to the connections
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return listener
