"""Who may speak to the server, and how often: the Host and the Origin, the key, the rate, and a line in the log for every request.

Plain ASGI, around everything.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs

from fastapi import Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewstep.engine.request import RequestError
from fewstep.serve.logs import REQUEST
from fewstep.serve.rate import Buckets, Rate
from fewstep.serve.shapes import A1111, SECRET, limit_of, refuse_to, too_large
from fewstep.serve.shares import Shares
from fewstep.serve.tickets import Tickets
from fewstep.serve.wire import LARGEST_BODY

OPEN = ("/healthz", "/readyz", "/health")  # to whoever watches whether the server lives
FREE = (f"{A1111}interrupt", f"{A1111}skip")  # they end work and make none, so the rate does not count them
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+/?", re.IGNORECASE)  # of a page, with a slash that people add
USUAL = {"http": ":80", "https": ":443"}
HOST = re.compile(r"[^\s/:@]+")
DEFAULT_RATE = Rate(300, 60)  # of a server that others than this machine reach
WRONG_KEYS = Rate(20, 60)  # from one address; until then the right one is not heard either, or who guesses would lose nothing
PATIENCE = 30.0  # seconds that a client has for the next piece of a body
WHOLE = 120.0  # and for all of it
MOST_HELD = 256 << 20  # bytes of bodies that may hold pictures, of all clients: room is granted before they are read
TOLD = [f"X-Fewstep-{name}" for name in ("Seed", "Steps", "Strength", "Size", "Changed")] + ["Server-Timing", "Retry-After", "X-Request-Id"]  # elsewhere
LATE = "the rest of the body did not come: send the request again"
HELD = "this server holds as much of what its clients sent as it may: try again in 1 s"
log = logging.getLogger("fewstep.serve")


@dataclass(frozen=True)
class Access:
    """Who may connect, and from where."""

    host: str = "127.0.0.1"  # the address that the server binds
    keys: tuple[str, ...] = ()
    no_auth: bool = False
    hosts: tuple[str, ...] = ()  # names that it is known by besides
    origins: tuple[str, ...] = ()  # of pages elsewhere that may use it
    rate: str | None = None  # how often one client may ask, as Rate.parse has it

    def __post_init__(self) -> None:
        """Raises RequestError on what must not be left on."""
        if self.keys and self.no_auth:
            raise RequestError("--api-key and --no-auth do not go together: give one of them")
        if any(not key.strip() or not key.isascii() for key in self.keys):
            raise RequestError("--api-key is empty or not plain ASCII: give a long random text")
        if not (self.keys or self.no_auth or is_loopback(self.host)):
            raise RequestError(f"--host {self.host} lets other machines in: give --api-key, or --no-auth if everybody may")
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise RequestError(f"--allow-origin {origin}: give what a browser calls the page's origin, such as https://name or http://name:8000")
        object.__setattr__(self, "origins", tuple(map(as_browsers_say, self.origins)))
        for name in self.hosts:
            if not HOST.fullmatch(name) and not is_address(name):
                raise RequestError(f"--allow-host {name}: give a name alone, such as pictures.example")
        if self.rate is not None:
            Rate.parse(self.rate)

    @property
    def limit(self) -> Rate | None:
        """How often one client may ask; None is as often as it likes, which is what a loopback address does unless told otherwise."""
        return Rate.parse(self.rate) if self.rate is not None else None if is_loopback(self.host) else DEFAULT_RATE

    def knows(self, host: str) -> bool:
        """Whether a Host header is of this server. A name that is not could belong to a page that has had it point here."""
        name = name_of(host)
        if name in ("localhost", self.host.lower(), *(known.lower() for known in self.hosts)):
            return True
        return is_loopback(name) if is_loopback(self.host) else is_address(name)

    def trusts(self, origin: str | None, host: str) -> bool:
        """Whether a page of ``origin`` may ask: none at all is no browser, and the server's own pages may."""
        return origin is None or origin.lower() in {f"http://{host}".lower(), f"https://{host}".lower(), *self.origins}

    def owner(self, authorization: str, client: str) -> str | None:
        """Whose turn a request takes, None if it has no key of ours."""
        if not self.keys:
            return client
        given = key_in(authorization)
        matches = [hmac.compare_digest(given, key.encode()) for key in self.keys]
        return f"key {matches.index(True)}" if any(matches) else None


def as_browsers_say(origin: str) -> str:
    """An origin without what a browser leaves out: capitals, a slash, the scheme's own port."""
    plain = origin.lower().rstrip("/")
    scheme = plain.partition(":")[0]
    return plain.removesuffix(USUAL[scheme]) if scheme in USUAL else plain


def key_in(authorization: str) -> bytes:
    """The key of an Authorization header, empty if there is none: "Bearer KEY", or as the password of any user with "Basic"."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode()
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def is_address(name: str) -> bool:
    """Whether ``name`` is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether ``name`` is this machine as only it itself sees it."""
    return name.lower() == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def name_of(host: str) -> str:
    """A Host header without its port: "[::1]:7860" is "::1"."""
    host = host.strip().lower()
    return host[1 : host.find("]")] if host.startswith("[") else host.rpartition(":")[0] if host.count(":") == 1 else host


class Late(Exception):
    """A client does not send the body it has begun."""


class Guard:
    """Lets through to ``app`` what ``access`` allows; tells ``count`` (route, status) of every request.

    ``public`` are addresses that may be read without a key. ``tickets`` let in to a WebSocket in a key's place.
    """

    def __init__(self, app: ASGIApp, access: Access, count: Callable[[str, int], None], public: Collection[str], tickets: Tickets) -> None:
        self.app, self.access, self.count, self.tickets = app, access, count, tickets
        self.public = frozenset((*OPEN, *public))
        self.buckets = Buckets(access.limit) if access.limit else None
        self.wrong, self.held = Buckets(WRONG_KEYS), Shares(MOST_HELD)
        self.inside: ASGIApp = self._inside
        if access.origins:  # around every refusal, so that these pages can read why; they may send any header, for none but the key's means anything here
            self.inside = CORSMiddleware(self._inside, access.origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=TOLD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        name, started, status = secrets.token_hex(8), time.perf_counter(), 500
        REQUEST.set(name)  # for all that this request has said to the log, also after it has left here

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                more = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        try:
            await (self._stranger(scope) or self.inside)(scope, receive, tell)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.count(route, status)
            milliseconds = round(1000 * (time.perf_counter() - started), 1)
            path = next((f"{known}…" for known in SECRET if scope["path"].startswith(known)), scope["path"][:200])
            facts = {"method": scope.get("method", "WEBSOCKET"), "path": path, "status": status, "ms": milliseconds}
            log.info("%(method)s %(path)s %(status)d in %(ms).1f ms", facts, extra={"facts": facts})

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a request of a page that may ask comes to. While it is answered its body has a share of what may be held."""
        if refusal := self._refusal(scope):
            await refusal(scope, receive, send)
            return
        owner, size = scope["state"]["owner"], weight(scope)
        if size and not self.held.take(owner, size):
            await refuse_to(scope, 429, HELD, None, "bodies_full", {"Retry-After": "1"})(scope, receive, send)
            return
        try:
            with suppress(Late):
                await self.app(scope, *patiently(scope, receive, send))
        finally:
            self.held.give(owner, size)

    def _stranger(self, scope: Scope) -> Response | None:
        """Why a request is not of this server's concern, whoever it is from."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.access.knows(host):
            return refuse_to(scope, 421, "this server is not known by the name in the Host header: start it with --allow-host NAME", "host", "wrong_host")
        if not self.access.trusts(headers.get("origin"), host):
            return refuse_to(scope, 403, "pages of this origin may not use this server: start it with --allow-origin ORIGIN", "origin", "wrong_origin")
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request goes no further; sets whose turn it takes if it does."""
        headers, path, method = Headers(scope=scope), scope["path"], scope.get("method", "GET")
        client, state, owner = (scope.get("client") or ("", 0))[0], scope.setdefault("state", {}), None
        if scope["type"] == "websocket" and (token := parse_qs(scope["query_string"].decode("latin-1")).get("token")):
            state["ticket"] = ticket = self.tickets.redeem(token[0], headers.get("origin"))
            if ticket is None:
                return refuse_to(scope, 401, "the token is over, or another page's: POST /v1/sessions gives one", "token", "wrong_token")
            owner = ticket.owner
        elif not (method in ("GET", "HEAD") and (path in self.public or path.startswith(SECRET))):
            given = headers.get("authorization", "")
            if self.access.keys and given and (wait := self.wrong.wait(client)):
                said = f"too many wrong keys came from this address: try again in {wait} s"
                return refuse_to(scope, 429, said, "authorization", "rate_limited", {"Retry-After": str(wait)})
            owner = self.access.owner(given, client)
            if owner is None:
                if given:
                    self.wrong.take(client)
                return refuse_to(scope, 401, "give the key as 'Authorization: Bearer KEY'", "authorization", "wrong_key", {"WWW-Authenticate": "Bearer"})
        if self.buckets and (method == "POST" or scope["type"] == "websocket") and path not in FREE and (wait := self.buckets.take(owner or client)):
            said = f"more requests came than this server takes from one client: try again in {wait} s"
            return refuse_to(scope, 429, said, None, "rate_limited", {"Retry-After": str(wait)})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 20 or int(length) > limit_of(path):
            return refuse_to(scope, 413, too_large(path), None, "too_large")
        state["owner"] = owner if owner is not None else client
        return None


def weight(scope: Scope) -> int:
    """Bytes of a body that may be large: those of it that are announced, or as many as there may be. 0 of one that is not."""
    headers, most = Headers(scope=scope), limit_of(scope["path"])
    if scope["type"] != "http" or most <= LARGEST_BODY:
        return 0
    size = most if "transfer-encoding" in headers else int(headers.get("content-length", "0"))
    return size if size > LARGEST_BODY else 0


def patiently(scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """``receive`` and ``send`` of a request whose client is not waited for if it holds back the rest of the body: it is told, and Late is raised."""
    deadline, whole, over = time.monotonic() + WHOLE, scope["type"] != "http", False

    async def hear() -> Message:
        nonlocal whole, over
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(min(PATIENCE, deadline - time.monotonic())):
                message = await receive()
        except TimeoutError:
            await refuse_to(scope, 408, LATE, None, "too_slow", {"Connection": "close"})(scope, receive, send)
            over = True  # whatever the application makes of it
            raise Late from None
        whole = not message.get("more_body", False)
        return message

    async def tell(message: Message) -> None:
        if not over:
            await send(message)

    return hear, tell
