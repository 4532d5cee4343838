"""Clients that put a server under load: people who type, programs that ask, and those who behave badly. For bench/serve.py and for tests."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

KEYS = 8.0  # a second
WAIT = 30.0  # seconds for an answer
LAST = 180.0  # seconds for the last picture: a crowd waits for each other's full decoder
TEXTS = (
    "a red apple on a blue background",
    "a green tree on a white background",
    "a yellow car on green",
    "a blue fish in the sea",
    "a pizza on a red background",
    "a black cat on yellow",
)


@dataclass
class Typed:
    """What one person saw. Times are seconds on the clock of time.perf_counter."""

    sent: list[float] = field(default_factory=list)  # of each keystroke; its generation is its place, from 1
    frames: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    refused: int = 0  # times that the server answered 429
    last: bytes = b""  # the picture of the last frame
    text: str = ""  # the last that was typed

    @property
    def waits(self) -> list[float]:
        """Of each keystroke the seconds to the first frame of its own generation or a newer one; infinite if none came."""
        found, place = [], 0
        for generation, since in enumerate(self.sent, start=1):
            while place < len(self.frames) and self.frames[place][1]["generation"] < generation:
                place += 1
            found.append(self.frames[place][0] - since if place < len(self.frames) else float("inf"))
        return found

    @property
    def stale(self) -> int:
        """Frames that came after one of a newer generation."""
        generations = [header["generation"] for _, header in self.frames]
        return sum(later < earlier for earlier, later in pairwise(generations))

    @property
    def share(self) -> int:
        """Frames that came while there was typing."""
        return sum(at <= self.sent[-1] for at, _ in self.frames)

    @property
    def complete(self) -> bool:
        """Whether the last frame is the final one of the last keystroke."""
        return bool(self.frames) and self.frames[-1][1]["final"] and self.frames[-1][1]["generation"] == len(self.sent)


async def type_live(url: str, seconds: float, steps: int = 1, seed: int = 1, first: int = 0) -> Typed:
    """Type TEXTS, from the one of number ``first``, for so long, and wait for the last picture. One that is refused with 429 tries again."""
    typed, until = Typed(), time.perf_counter() + seconds
    while True:
        try:
            async with connect(f"{url.replace('http', 'ws')}/v1/live", max_size=None, compression=None) as live:
                reader = asyncio.create_task(_look(live, typed))
                await _press(live, typed, until, steps, seed, first)
                deadline = time.perf_counter() + LAST
                while not (typed.complete or reader.done()) and time.perf_counter() < deadline:
                    await asyncio.sleep(0.01)
                reader.cancel()
            return typed
        except InvalidStatus as problem:
            if problem.response.status_code != 429:
                raise
            typed.refused += 1
            await asyncio.sleep(1)


async def _press(live: Any, typed: Typed, until: float, steps: int, seed: int, first: int) -> None:
    due, number = time.perf_counter(), first
    while time.perf_counter() < until:
        text = TEXTS[number % len(TEXTS)]
        for end in range(1, len(text) + 1):
            if (now := time.perf_counter()) >= until:
                return
            typed.sent.append(now)
            typed.text = text[:end]
            await live.send(json.dumps({"prompt": typed.text, "seed": seed, "steps": steps, "generation": len(typed.sent)}))
            due += 1 / KEYS
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        number += 1


async def _look(live: Any, typed: Typed) -> None:
    try:
        async for frame in live:
            now = time.perf_counter()
            if isinstance(frame, str):
                typed.errors.append(frame)
                continue
            (length,) = struct.unpack_from(">I", frame)
            typed.frames.append((now, json.loads(frame[4 : 4 + length])))
            typed.last = frame[4 + length :]
    except ConnectionClosed as problem:
        typed.errors.append(str(problem))


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP: status 0 if there was none at all, -1 if it broke off in the middle."""

    status: int
    content: bytes = b""
    seconds: float = 0.0


class Client:
    """One connection that is kept alive. Knows as much HTTP as it needs, so that it takes little of the cores it shares with the server."""

    def __init__(self, url: str) -> None:
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: Any = None) -> Answer:
        """POST ``body`` as JSON, or GET if there is none."""
        began, content = time.perf_counter(), b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
        begun = False
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
            reader, writer = self._streams
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
            first = await reader.readexactly(1)
            begun = True
            status, headers = self._head(first + await reader.readuntil(b"\r\n\r\n"))
            got = await self._chunks(reader) if headers.get("transfer-encoding") == "chunked" else await reader.readexactly(int(headers["content-length"]))
            if headers.get("connection") == "close":
                self.close()
            return Answer(status, got, time.perf_counter() - began)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            self.close()
            return Answer(-1 if begun else 0)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    @staticmethod
    def _head(text: bytes) -> tuple[int, dict[str, str]]:
        first, *lines = text.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> bytes:
        content = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            content += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return content


async def hammer(url: str, path: str, bodies: list[Any], concurrency: int, stop: Callable[[], bool] = lambda: False) -> list[Answer]:
    """Ask for all ``bodies``, so many at a time, until ``stop`` says so."""
    left, answers = list(reversed(bodies)), list[Answer]()

    async def work() -> None:
        client = Client(url)
        while left and not stop():
            answers.append(await client.ask(path, left.pop()))
        client.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return answers


async def numbers(url: str) -> dict[str, float]:
    """What GET /metrics tells, of what has no labels."""
    client = Client(url)
    text = (await client.ask("/metrics")).content.decode()
    client.close()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}


def begun(url: str, content: bytes) -> socket.socket:
    """A connection on which ``content`` was sent and nothing is read."""
    connection = socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 80), WAIT)
    connection.sendall(content)
    return connection


def vanish(connection: socket.socket) -> None:
    """End it with a reset, as a machine does that has lost its memory of it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def post(path: str, body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    """A request as bytes, which says it has ``length`` bytes, whatever it has."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body
