"""The server's doors (docs/serving.md): pictures over HTTP, live sessions over a WebSocket, and what watches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException

from fewstep import __version__
from fewstep.engine.record import FORMATS, picture_bytes
from fewstep.engine.request import ASPECTS, TEACHER_STEPS, Picture, RequestError, Settled
from fewstep.serve.guard import Access, Guard
from fewstep.serve.live import add_live
from fewstep.serve.metrics import Metrics
from fewstep.serve.orders import Busy, Closed, Order
from fewstep.serve.scheduler import Scheduler, Walker
from fewstep.serve.wire import LARGEST_BODY, TOO_LARGE, Generate, base64_jpeg, error, event, explain, picture_event, refuse, sentence

MOST_STEPS = 64
MOST_PIXELS = 16  # of all pictures of a request, as a multiple of one of the model's own size
PING = 15.0  # seconds after which a stream that has nothing to say says so
ROUTES = ("/v1/generate", "/v1/live", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")
SAID = {404: "there is no such address: /openapi.json has those there are", 405: "this address does not take this method", 413: TOO_LARGE}
SORRY = "something went wrong here; the server's log says what"
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture, or a stream of events.",
        "content": {**{f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS}, "text/event-stream": {}},
    },
    **{status: {"description": "Refused; the body says why."} for status in (400, 401, 403, 413, 421, 429, 500, 503)},
}


def build(scheduler: Scheduler, metrics: Metrics, access: Access) -> Guard:
    """The whole application around ``scheduler``, which it starts and closes with itself."""
    metrics.scheduler = scheduler

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with scheduler:
            yield

    quiet: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}  # what is wrong with a prompt may quote it
    app = FastAPI(title="fewstep", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, max_body_size=LARGEST_BODY, telemetry=quiet)
    add_errors(app)
    add_watching(app, scheduler, metrics)
    add_generate(app, scheduler)
    add_live(app, scheduler, metrics)
    if access.origins:
        app.add_middleware(CORSMiddleware, allow_origins=access.origins, allow_methods=["GET", "POST"], allow_headers=["authorization", "content-type"])

    def count(path: str, status: int) -> None:
        metrics.answers.labels(path if path in ROUTES else "other", str(status)).inc()

    return Guard(app, access, count)


def open_app(engine: Walker, decoders: tuple[str, ...], access: Access) -> tuple[Guard, Scheduler]:
    """The application for one engine, and the scheduler in it."""
    metrics = Metrics()
    scheduler = Scheduler(engine, decoders, on_batch=metrics.batch)
    return build(scheduler, metrics, access), scheduler


def add_errors(app: FastAPI) -> None:
    """Every refusal has the one shape, and none quotes what is not the caller's to know."""

    def on(kind: type[Exception], answer: Callable[[Any], Response]) -> None:
        async def handle(_: Request, problem: Exception) -> Response:
            return answer(problem)

        app.add_exception_handler(kind, handle)

    def invalid(problem: RequestValidationError) -> Response:
        message, field = explain(list(problem.errors()))
        return refuse(400, message, field, "invalid_request")

    on(RequestValidationError, invalid)
    on(RequestError, lambda problem: refuse(400, sentence(problem), None, "invalid_request"))
    on(Busy, lambda problem: refuse(429, str(problem), None, "queue_full", {"Retry-After": str(problem.retry_after)}))
    on(Closed, lambda problem: refuse(503, str(problem), None, "shutting_down", {"Connection": "close"}))
    on(HTTPException, lambda problem: refuse(problem.status_code, SAID.get(problem.status_code, str(problem.detail)), None, None, problem.headers))
    on(Exception, lambda _: refuse(500, SORRY))


def add_watching(app: FastAPI, scheduler: Scheduler, metrics: Metrics) -> None:
    """What there is, and how it goes."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    async def readyz() -> dict[str, str] | Response:
        """Whether pictures can be made now: the model is loaded and the server is not shutting down."""
        if scheduler.closed or not scheduler.ready.is_set():
            return refuse(503, "the server is shutting down" if scheduler.closed else "the model is being loaded", None, "not_ready", {"Retry-After": "1"})
        return {"status": "ok"}

    @app.get("/metrics")
    async def numbers() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model, and what it can do."""
        limits = scheduler.limits
        sizes = {aspect: list(limits.size_of(aspect)) for aspect in ASPECTS}
        teacher = [TEACHER_STEPS.start, MOST_STEPS] if limits.teacher else None
        facts = {"steps": limits.students, "teacher_steps": teacher, "default_steps": limits.default_steps, "sizes": sizes, "multiple_of": limits.factor}
        one = {"id": limits.name, "object": "model", "created": 0, "owned_by": "fewstep", **facts, "decoders": scheduler.decoders}
        return {"object": "list", "data": [one]}


def add_generate(app: FastAPI, scheduler: Scheduler) -> None:
    """Pictures over HTTP."""

    @app.post("/v1/generate", response_model=None, response_class=Response, responses=PICTURE)
    async def generate(request: Request, wanted: Annotated[Generate, Body()]) -> Response:
        """Make a picture; with ``stream``, tell of every step, of several pictures at once."""
        settled = settle(scheduler, wanted)
        order = scheduler.submit(settled, request.state.owner, wanted.decoder, wanted.previews)
        if wanted.stream:
            return EventSourceResponse(events(order, len(settled), wanted.format), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        try:
            picture = await finished(order, request)
        finally:
            order.cancel()
        if picture is None:
            return Response(status_code=499)  # nobody reads it
        content = await asyncio.to_thread(picture_bytes, picture.image, picture.record, wanted.format)
        stages = ", ".join(f"{stage};dur={milliseconds}" for stage, milliseconds in picture.timings.items())
        headers = {"X-Fewstep-Seed": str(picture.seed), "X-Fewstep-Steps": str(picture.steps), "Server-Timing": stages}
        return Response(content, media_type=f"image/{wanted.format}", headers=headers)


def settle(scheduler: Scheduler, wanted: Generate) -> list[Settled]:
    """What ``wanted`` comes to. Raises RequestError on what the model or this server does not do."""
    if not wanted.stream and (wanted.count > 1 or wanted.previews):
        raise RequestError("one answer holds one finished picture: give stream = true with a count or with previews")
    if wanted.decoder not in scheduler.decoders:
        raise RequestError(f"decoder = '{wanted.decoder}': {scheduler.limits.name} has no reduced decoder, leave decoder at full")
    settled = [scheduler.limits.settle(request) for request in wanted.requests(wanted.count)]
    first, native = settled[0], scheduler.limits.native
    if first.steps > MOST_STEPS:
        raise RequestError(f"steps = {first.steps}: this server makes at most {MOST_STEPS}")
    if len(settled) * first.width * first.height > MOST_PIXELS * native**2:
        raise RequestError(f"{len(settled)} pictures of {first.width}x{first.height}: one request may have {MOST_PIXELS} of {native}x{native} in all")
    return settled


async def finished(order: Order, request: Request) -> Picture | None:
    """The one picture of ``order``, None if whoever asked went away first."""

    async def last() -> Picture | None:
        async for update in order:
            if update.picture is not None:
                return update.picture
        return None

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    made, left = asyncio.create_task(last()), asyncio.create_task(gone())
    try:
        await asyncio.wait((made, left), return_when=asyncio.FIRST_COMPLETED)
        return made.result() if made.done() else None
    finally:
        made.cancel()
        left.cancel()


async def events(order: Order, count: int, kind: str) -> AsyncIterator[bytes]:
    """``order`` as server-sent events; whoever stops reading stops the work."""
    try:
        while True:
            try:
                async with asyncio.timeout(PING):
                    update = await anext(order, None)
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if update is None:
                break
            if update.picture is not None:
                yield await asyncio.to_thread(picture_event, update.index, update.picture, kind)
            else:
                image = await asyncio.to_thread(base64_jpeg, update.image)
                yield event("progress", {"index": update.index, "step": update.step, "steps": update.steps, "image": image})
        yield event("done", {"count": count})
    except Closed as problem:
        yield event("error", error(str(problem), 503, None, "shutting_down"))
    except Exception:
        yield event("error", error(SORRY, 500))
    finally:
        order.cancel()
