"""Who may speak to the server: the Host and the Origin, the key, and a line in the log for every request. Plain ASGI, around everything."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewstep.engine.request import RequestError
from fewstep.serve.wire import LARGEST_BODY, TOO_LARGE, refuse

OPEN = ("/healthz", "/readyz")  # to whoever watches whether the server lives
log = logging.getLogger("fewstep.serve")


@dataclass(frozen=True)
class Access:
    """Who may connect, and from where."""

    host: str = "127.0.0.1"  # the address that the server binds
    keys: tuple[str, ...] = ()
    no_auth: bool = False
    hosts: tuple[str, ...] = ()  # names that it is known by besides
    origins: tuple[str, ...] = ()  # of pages elsewhere that may use it

    def __post_init__(self) -> None:
        """Raises RequestError on what must not be left on."""
        if self.keys and self.no_auth:
            raise RequestError("--api-key and --no-auth do not go together: give one of them")
        if any(not key.strip() or not key.isascii() for key in self.keys):
            raise RequestError("--api-key is empty or not plain ASCII: give a long random text")
        if not (self.keys or self.no_auth or is_loopback(self.host)):
            raise RequestError(f"--host {self.host} lets other machines in: give --api-key, or --no-auth if everybody may")

    def knows(self, host: str) -> bool:
        """Whether a Host header is of this server. A name that is not could belong to a page that has had it point here."""
        name = name_of(host)
        if name in ("localhost", self.host.lower(), *(known.lower() for known in self.hosts)):
            return True
        return is_loopback(name) if is_loopback(self.host) else is_address(name)

    def trusts(self, origin: str | None, host: str) -> bool:
        """Whether a page of ``origin`` may ask: none at all is no browser, and the server's own pages may."""
        return origin is None or origin in self.origins or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")

    def owner(self, authorization: str, client: str) -> str | None:
        """Whose turn a request takes, None if it has no key of ours."""
        if not self.keys:
            return client
        scheme, _, given = authorization.partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in self.keys]
        return f"key {matches.index(True)}" if any(matches) and scheme.lower() == "bearer" else None


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


class Guard:
    """Lets through to ``app`` what ``access`` allows; tells ``count`` (path, status) of every request."""

    def __init__(self, app: ASGIApp, access: Access, count: Callable[[str, int], None]) -> None:
        self.app, self.access, self.count = app, access, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        name, started, status = secrets.token_hex(8), time.perf_counter(), 500

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", name.encode())]}
            await send(message)

        try:
            await (self._refusal(scope) or self.app)(scope, receive, tell)
        finally:
            self.count(scope["path"], status)
            milliseconds = round(1000 * (time.perf_counter() - started), 1)
            line = {"request": name, "method": scope.get("method", "WEBSOCKET"), "path": scope["path"][:200], "status": status, "ms": milliseconds}
            log.info(json.dumps(line))

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request goes no further; sets whose turn it takes if it does."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.access.knows(host):
            return refuse(421, "this server is not known by the name in the Host header: start it with --allow-host NAME", "host", "wrong_host")
        if not self.access.trusts(origin, host):
            return refuse(403, "pages of this origin may not use this server: start it with --allow-origin ORIGIN", "origin", "wrong_origin")
        preflight = scope.get("method") == "OPTIONS" and origin is not None
        owner = self.access.owner(headers.get("authorization", ""), (scope.get("client") or ("", 0))[0])
        if owner is None and not preflight and scope["path"] not in OPEN:
            return refuse(401, "give the key as 'Authorization: Bearer KEY'", "authorization", "wrong_key", {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return refuse(413, TOO_LARGE, None, "too_large")
        scope.setdefault("state", {})["owner"] = owner
        return None
