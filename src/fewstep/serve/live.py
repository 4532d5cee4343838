"""The live session over a WebSocket: messages in, frames out (docs/serving.md)."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import nullcontext

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from fewstep.engine.request import RequestError, Settled
from fewstep.serve.kept import MOST_KEPT, Full, Kept
from fewstep.serve.metrics import Metrics
from fewstep.serve.orders import Closed, Refused
from fewstep.serve.out import FULL
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.session import Session
from fewstep.serve.shares import Shares
from fewstep.serve.tickets import Outlet, Tickets
from fewstep.serve.wire import Ask, Numbered, error, explain, frame_bytes, jpeg, picture_in, refuse, sentence

MOST_SESSIONS = 64
MOST_STEPS = 8  # a session is for pictures that come at once
RESTART, FAILED = 1012, 1011  # WebSocket close codes
log = logging.getLogger("fewstep.serve")


def add_live(app: FastAPI, scheduler: Scheduler, metrics: Metrics, tickets: Tickets) -> None:
    """WS /v1/live."""
    places, room = Shares(MOST_SESSIONS), Shares(MOST_KEPT)

    @app.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        if scheduler.closed:
            await socket.send_denial_response(refuse(503, str(Closed()), None, "shutting_down"))
            return
        owner = socket.state.owner
        if not places.take(owner):
            await socket.send_denial_response(refuse(429, FULL, None, "sessions_full", {"Retry-After": "10"}))
            return
        session, ticket = Session(scheduler), getattr(socket.state, "ticket", None)
        kept = Kept(scheduler.limits.native, room, owner)
        metrics.sessions += 1
        tasks: list[asyncio.Task[None]] = []
        try:
            await socket.accept()
            with tickets.connected(ticket) if ticket else nullcontext() as outlet:
                tasks = [asyncio.create_task(work) for work in (listen(socket, session, kept), show(socket, session, outlet))]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for problem in (task.exception() for task in done):
                    if problem is not None and not isinstance(problem, WebSocketDisconnect):
                        log.error("a live session failed: %s", type(problem).__name__, exc_info=problem)
        finally:
            metrics.sessions -= 1
            places.give(owner)
            session.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            kept.close()


async def listen(socket: WebSocket, session: Session, kept: Kept) -> None:
    """Keep what each binary message brings and ask for what each text says, until the socket is closed."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        text, content = message.get("text"), message.get("bytes")
        if problem := await (ask(session, kept, text) if text is not None else keep(kept, content or b"")):
            await socket.send_text(json.dumps(problem))
        await asyncio.sleep(0)  # whoever floods this socket holds up nobody else's


async def keep(kept: Kept, message: bytes) -> dict[str, object] | None:
    """Keep a picture for later messages. Returns what is wrong with it, None if nothing is."""
    try:
        await kept.take(message)
    except RequestError as problem:
        return error(sentence(problem), 400, None, "invalid_request")
    except Full as problem:
        return error(str(problem), 429, None, "memory_full")
    return None


async def ask(session: Session, kept: Kept, text: str) -> dict[str, object] | None:
    """Pass one message on to ``session``. Returns what is wrong with it, None if nothing is."""
    try:
        wanted = Ask.model_validate_json(text)
    except ValidationError as problem:
        message, field = explain(list(problem.errors(include_input=False, include_url=False)))
        return {**error(message, 400, field, "invalid_request"), **numbered(text)}
    try:
        if (wanted.steps or 0) > MOST_STEPS:
            raise RequestError(f"steps = {wanted.steps}: a live session takes at most {MOST_STEPS}")
        pictured = wanted.image or wanted.mask or wanted.control
        settled = await asyncio.to_thread(settle, session, kept, wanted) if pictured else settle(session, kept, wanted)
        session.want(settled, wanted.generation, wanted.previews)
    except RequestError as problem:
        return {**error(sentence(problem), 400, None, "invalid_request"), "generation": wanted.generation}
    return None


def numbered(text: str) -> dict[str, int]:
    """The generation of a message that is wrong in other ways; none where that is, too."""
    try:
        return Numbered.model_validate_json(text).model_dump()
    except ValidationError:
        return {}


def settle(session: Session, kept: Kept, wanted: Ask) -> Settled:
    """What a message comes to, with the pictures that it refers to. Raises RequestError."""
    (request,) = wanted.requests_with(kept.find("image", wanted.image), kept.find("mask", wanted.mask))
    return session.scheduler.limits.settle(request)


async def show(socket: WebSocket, session: Session, outlet: Outlet | None = None) -> None:
    """Send what ``session`` shows, and have ``outlet`` show it too. Who reads slowly gets fewer frames, and the newest."""
    try:
        while True:
            try:
                shown = await anext(session, None)
            except Refused as problem:
                await socket.send_text(json.dumps({**error(str(problem), 400, "prompt", problem.code), "generation": session.answering}))
                continue
            if shown is None:
                return
            frame = await asyncio.to_thread(frame_bytes, shown, session)
            if outlet is not None:
                outlet.show(picture_in(frame) if shown.image.mode == "RGB" else jpeg(shown.image))
            await socket.send_bytes(frame)
    except WebSocketDisconnect:
        return
    except Closed as problem:
        await socket.close(RESTART, str(problem))
    except Exception:
        await socket.send_text(json.dumps(error("this picture could not be made; the server's log says why", 500)))
        await socket.close(FAILED)
