"""The live session over a WebSocket: messages in, frames out (docs/serving.md)."""

from __future__ import annotations

import asyncio
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from fewstep.engine.request import RequestError
from fewstep.serve.metrics import Metrics
from fewstep.serve.orders import Closed
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.session import Session
from fewstep.serve.wire import Ask, error, explain, frame_bytes, refuse, sentence

MOST_SESSIONS = 64
MOST_STEPS = 8  # a session is for pictures that come at once
FULL = "there are as many live sessions as this server allows: try again later"
BINARY = "a message is text, JSON as docs/serving.md has it"
RESTART, FAILED = 1012, 1011  # WebSocket close codes


def add_live(app: FastAPI, scheduler: Scheduler, metrics: Metrics) -> None:
    """WS /v1/live."""

    @app.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        if scheduler.closed:
            await socket.send_denial_response(refuse(503, str(Closed()), None, "shutting_down"))
            return
        if metrics.sessions >= MOST_SESSIONS:
            await socket.send_denial_response(refuse(429, FULL, None, "sessions_full", {"Retry-After": "10"}))
            return
        session = Session(scheduler)
        metrics.sessions += 1
        tasks: list[asyncio.Task[None]] = []
        try:
            await socket.accept()
            tasks = [asyncio.create_task(work(socket, session)) for work in (listen, show)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            metrics.sessions -= 1
            session.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def listen(socket: WebSocket, session: Session) -> None:
    """Ask for what each message says, until the socket is closed."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        if problem := ask(session, message.get("text")):
            await socket.send_text(json.dumps(problem))
        await asyncio.sleep(0)  # whoever floods this socket holds up nobody else's


def ask(session: Session, text: str | None) -> dict[str, object] | None:
    """Pass one message on to ``session``. Returns what is wrong with it, None if nothing is."""
    if text is None:
        return error(BINARY, 400, None, "invalid_request")
    try:
        wanted = Ask.model_validate_json(text)
    except ValidationError as problem:
        message, field = explain(list(problem.errors(include_input=False, include_url=False)))
        return error(message, 400, field, "invalid_request")
    try:
        if (wanted.steps or 0) > MOST_STEPS:
            raise RequestError(f"steps = {wanted.steps}: a live session takes at most {MOST_STEPS}")
        session.ask(wanted.requests()[0], wanted.generation, wanted.previews)
    except RequestError as problem:
        return {**error(sentence(problem), 400, None, "invalid_request"), "generation": wanted.generation}
    return None


async def show(socket: WebSocket, session: Session) -> None:
    """Send what ``session`` shows. Who reads slowly gets fewer frames, and the newest."""
    try:
        async for shown in session:
            await socket.send_bytes(await asyncio.to_thread(frame_bytes, shown, session))
    except WebSocketDisconnect:
        return
    except Closed as problem:
        await socket.close(RESTART, str(problem))
    except Exception:
        await socket.send_text(json.dumps(error("this picture could not be made; the server's log says why", 500)))
        await socket.close(FAILED)
