"""POST /v1/generate: pictures over HTTP, as the model has them and in no other way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.sse import EventSourceResponse

from fewstep.engine.files import FORMATS, picture_bytes
from fewstep.engine.request import RequestError, Settled
from fewstep.serve import waiting
from fewstep.serve.orders import Order, Update
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.waiting import NOBODY, STREAM, finished
from fewstep.serve.wire import LARGEST_UPLOAD, Generate, base64_jpeg, event, picture_event

PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture, or a stream of events.",
        "content": {**{f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS}, "text/event-stream": {}},
    },
}


def add_generate(app: FastAPI, scheduler: Scheduler) -> None:
    """POST /v1/generate."""

    @app.post("/v1/generate", response_model=None, response_class=Response, responses=PICTURE, max_body_size=LARGEST_UPLOAD)
    async def generate(request: Request, wanted: Annotated[Generate, Body()]) -> Response:
        """Make a picture; with ``stream``, tell of every step, of several pictures at once."""
        settled = await asyncio.to_thread(settle, scheduler, wanted)
        order = scheduler.submit(settled, request.state.owner, wanted.decoder, wanted.previews)
        if wanted.stream:
            return EventSourceResponse(events(order, len(settled), wanted.format), headers=STREAM)
        pictures = await finished(order, request)
        if not pictures:
            return Response(status_code=NOBODY)
        (picture,) = pictures
        content = await asyncio.to_thread(picture_bytes, picture.image, picture.record, wanted.format)
        stages = ", ".join(f"{stage};dur={milliseconds}" for stage, milliseconds in picture.timings.items())
        headers = {"X-Fewstep-Seed": str(picture.seed), "X-Fewstep-Steps": str(picture.steps), "Server-Timing": stages}
        headers["X-Fewstep-Strength"] = f"{picture.strength:g}"
        return Response(content, media_type=f"image/{wanted.format}", headers=headers)


def settle(scheduler: Scheduler, wanted: Generate) -> list[Settled]:
    """What ``wanted`` comes to. Raises RequestError on what the model or this server does not do."""
    if not wanted.stream and (wanted.count > 1 or wanted.previews):
        raise RequestError("one answer holds one finished picture: give stream = true with a count or with previews")
    if wanted.decoder not in scheduler.decoders:
        raise RequestError(f"decoder = '{wanted.decoder}': {scheduler.limits.name} has no reduced decoder, leave decoder at full")
    return waiting.settle(scheduler.limits, wanted.requests(wanted.count))


def events(order: Order, count: int, kind: str) -> AsyncIterator[bytes]:
    """``order``, of ``count`` pictures in the format ``kind``, as server-sent events."""
    return waiting.events(order, partial(told, kind=kind), event("done", {"count": count}))


async def told(update: Update, kind: str) -> bytes:
    """One update as an event: a step, or a finished picture."""
    if update.picture is not None:
        return await asyncio.to_thread(picture_event, update.index, update.picture, kind)
    image = await asyncio.to_thread(base64_jpeg, update.image)
    return event("progress", {"index": update.index, "step": update.step, "steps": update.steps, "image": image})
