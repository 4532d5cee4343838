"""POST /v1/sessions, and /out/NAME: the pictures of a live session for whoever knows its name, such as OBS."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from fewstep.serve.alone import Alone
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shapes import refuse_to
from fewstep.serve.tickets import MOST_VIEWERS, TOKEN, Outlet, Tickets

LOOK = 1.0  # seconds between looks whether the server is shutting down
SOON = 0.05  # seconds after which a picture that none has followed is sent a second time, for browsers show one when the next begins
AGAIN = 5  # looks after which the same picture is sent again, so that whoever is gone is noticed
FULL = "there are as many live sessions as this server allows: try again later"
MANY = f"{MOST_VIEWERS} look at this session already, and no more may: close one"
STYLE = "html,body{margin:0;height:100%;background:transparent}img{width:100%;height:100%;object-fit:contain}"
PAGE = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fewstep</title><style>{STYLE}</style><img src="/out/NAME.mjpeg" alt="The live picture">'
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
POLICY = f"default-src 'none'; img-src 'self'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'"


class Opening(BaseModel):
    """The body of POST /v1/sessions, which may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    out: str | None = Field(None, description="The name of a session to go on with, after a connection was lost.")


class Opened(BaseModel):
    """What opens a live session, and where its pictures can be seen."""

    token: str = Field(description="Opens it, for pages of the same origin.")
    expires_in: int = Field(description="Seconds in which the token must be used.")
    live: str = Field(description="The address of the WebSocket, with the token.")
    out: str = Field(description="The name of the session.")
    page: str = Field(description="A bare page with its pictures.")
    mjpeg: str = Field(description="The pictures as a stream.")


def add_sessions(app: FastAPI, scheduler: Scheduler, tickets: Tickets, here: Alone) -> None:
    """All routes of this file."""

    @app.post("/v1/sessions", response_model=Opened)
    async def sessions(request: Request, opening: Annotated[Opening | None, Body()] = None) -> Any:
        """Get a token for a live session: browsers cannot give a key with a WebSocket."""
        token, name = await here.ticket(tickets, request.state.owner, request.headers.get("origin"), opening.out if opening else None)
        found = {"live": f"/v1/live?token={token}", "out": name, "page": f"/out/{name}", "mjpeg": f"/out/{name}.mjpeg"}
        return Opened(token=token, expires_in=int(TOKEN), **found)

    @app.get("/out/{name}.mjpeg", response_class=Response, response_model=None, responses={200: {"content": {"multipart/x-mixed-replace": {}}}})
    async def stream(name: str) -> Response:
        """The pictures of a live session as they come, each a JPEG."""
        return View(known(name), scheduler)

    @app.get("/out/{name}", response_class=HTMLResponse)
    async def page(name: str) -> HTMLResponse:
        """A page with nothing but the picture of a live session."""
        known(name)
        return HTMLResponse(PAGE.replace("NAME", name), headers={**HEADERS, "Content-Security-Policy": POLICY})

    def known(name: str) -> Outlet:
        outlet = tickets.outlet(name)
        if outlet is None:
            raise HTTPException(404)
        return outlet


class View(StreamingResponse):
    """The pictures of ``outlet`` for one viewer, or that too many look already: counted from the first byte to the last, come what may."""

    def __init__(self, outlet: Outlet, scheduler: Scheduler) -> None:
        super().__init__(parts(outlet, scheduler), media_type="multipart/x-mixed-replace; boundary=frame", headers=HEADERS)
        self.outlet = outlet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        with self.outlet.viewed() as may:
            await (super().__call__ if may else refuse_to(scope, 429, MANY, None, "viewers_full", {"Retry-After": "10"}))(scope, receive, send)


async def parts(outlet: Outlet, scheduler: Scheduler) -> AsyncIterator[bytes]:
    """The pictures of ``outlet``, the newest there is when the reader is ready, and each once more if it rests."""
    seen, looks, once = 0, 0, False
    yield b"--frame\r\n"
    while not (outlet.closed or scheduler.closed):
        fresh = await outlet.newer(seen, SOON if once else LOOK)
        looks = 0 if fresh else looks + 1
        if outlet.jpeg and (fresh or once or looks >= AGAIN):
            seen, looks, once = outlet.number, 0, fresh
            yield b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n--frame\r\n" % (len(outlet.jpeg), outlet.jpeg)
