"""The server's doors (docs/serving.md): the APIs, live sessions over a WebSocket, the studio, and what watches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Match

from fewstep import __version__
from fewstep.engine.request import ASPECTS, TEACHER_STEPS, RequestError
from fewstep.serve.a1111 import add_a1111
from fewstep.serve.alone import Alone
from fewstep.serve.checker import Checker
from fewstep.serve.controls import hints_of, read_by
from fewstep.serve.described import describe
from fewstep.serve.guard import Access, Guard
from fewstep.serve.huggingface import add_huggingface
from fewstep.serve.live import add_live
from fewstep.serve.metrics import Metrics
from fewstep.serve.native import add_generate
from fewstep.serve.openai import add_openai
from fewstep.serve.orders import Busy, Closed, Refused
from fewstep.serve.out import FULL, add_sessions
from fewstep.serve.rack import Rack
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shapes import api_of, refuse_to, too_large
from fewstep.serve.shelf import Shelf
from fewstep.serve.studio import add_studio, files_of
from fewstep.serve.tickets import Full, Tickets
from fewstep.serve.waiting import MOST_STEPS, SORRY
from fewstep.serve.walker import Walker
from fewstep.serve.wire import LARGEST_BODY, explain, sentence

Words = Mapping[str, list[str]]
VOCABULARY = ("subjects", "colours", "places", "words")
SAID = {404: "there is no such address: /openapi.json has those there are", 405: "this address does not take this method"}


def build(scheduler: Scheduler, metrics: Metrics, access: Access, words: Words, rack: Rack, here: Alone) -> Guard:
    """The whole application around ``scheduler``, which it starts and closes with itself."""
    metrics.scheduler = scheduler
    tickets, shelf, files = Tickets(prefix=here.prefix), Shelf(prefix=here.prefix), files_of()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with scheduler, here.joined(scheduler, metrics, tickets):
            yield
        tickets.close()

    def count(route: str, status: int) -> None:
        metrics.answers.labels(route, str(status)).inc()

    quiet: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}  # what is wrong with a prompt may quote it
    app = FastAPI(
        title="fewstep",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=LARGEST_BODY,
        telemetry=quiet,
    )
    add_errors(app)
    add_watching(app, scheduler, metrics, here)
    add_models(app, scheduler, words, rack)
    add_generate(app, scheduler)
    add_live(app, scheduler, metrics, tickets)
    add_sessions(app, scheduler, tickets, here)
    add_openai(app, scheduler, shelf)
    add_a1111(app, scheduler, rack)
    add_huggingface(app, scheduler)
    add_studio(app, files)
    guard = Guard(app, access, count, files, tickets)
    describe(app, bool(access.keys), guard.public)
    return guard


def open_app(
    engine: Walker,
    decoders: tuple[str, ...],
    access: Access,
    checker: Checker | None = None,
    words: Words = MappingProxyType({}),
    rack: Rack | None = None,
    here: Alone | None = None,
    controlnet: str | None = None,
) -> tuple[Guard, Scheduler]:
    """The application for one engine, and the scheduler in it. ``words`` are what its model was taught, as ``read_words`` reads them,
    ``rack`` the LoRAs that it offers, ``here`` which of several servers it is, if it is not the only one, and ``controlnet`` what reads control
    images instead of the model's own.
    """
    rack = rack or Rack()
    metrics = Metrics()
    scheduler = Scheduler(engine, decoders, on_batch=metrics.batch, checker=checker)
    scheduler.limits = read_by(rack.over(scheduler.limits), controlnet)
    return build(scheduler, metrics, access, words, rack, here or Alone()), scheduler


def add_errors(app: FastAPI) -> None:
    """Every refusal has the shape of its API, and none quotes what is not the caller's to know."""

    def on(kind: type[Exception], answer: Callable[[dict[str, Any], Any], Response]) -> None:
        async def handle(request: Request, problem: Exception) -> Response:
            return answer(request.scope, problem)  # type: ignore[arg-type]

        app.add_exception_handler(kind, handle)

    def invalid(scope: dict[str, Any], problem: RequestValidationError) -> Response:
        message, field = explain(list(problem.errors()))
        return refuse_to(scope, 422 if api_of(scope) == "a1111" else 400, message, field, "invalid_request")

    def http(scope: dict[str, Any], problem: AnyHTTPException) -> Response:
        if problem.status_code == 413:
            return refuse_to(scope, 413, too_large(scope["path"]), None, "too_large")
        said = problem.detail if problem.detail != HTTPStatus(problem.status_code).phrase else SAID.get(problem.status_code, problem.detail)
        headers = {"Allow": methods_for(scope)} if problem.status_code == 405 else problem.headers
        return refuse_to(scope, problem.status_code, said, headers=headers)

    def methods_for(scope: dict[str, Any]) -> str:
        """All of an address: the framework names those of the first of its routes alone."""
        return ", ".join(sorted({method for route in app.routes if route.matches(scope)[0] != Match.NONE for method in getattr(route, "methods", ())}))

    on(RequestValidationError, invalid)
    on(RequestError, lambda scope, problem: refuse_to(scope, 400, sentence(problem), None, "invalid_request"))
    on(Refused, lambda scope, problem: refuse_to(scope, 400, str(problem), "prompt", problem.code))
    on(Busy, lambda scope, problem: refuse_to(scope, 429, str(problem), None, "queue_full", {"Retry-After": str(problem.retry_after)}))
    on(Full, lambda scope, _: refuse_to(scope, 429, FULL, None, "sessions_full", {"Retry-After": "10"}))
    on(Closed, lambda scope, problem: refuse_to(scope, 503, str(problem), None, "shutting_down", {"Connection": "close"}))
    on(AnyHTTPException, http)
    on(Exception, lambda scope, _: refuse_to(scope, 500, SORRY))


def add_watching(app: FastAPI, scheduler: Scheduler, metrics: Metrics, here: Alone) -> None:
    """How it goes."""

    @app.get("/health", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    async def readyz(request: Request) -> dict[str, str] | Response:
        """Whether pictures can be made now: the model is loaded and the server is not shutting down."""
        if scheduler.closed or not scheduler.ready.is_set():
            why = "the server is shutting down" if scheduler.closed else "the model is being loaded"
            return refuse_to(request.scope, 503, why, None, "not_ready", {"Retry-After": "1"})
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def numbers() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(await here.numbers(metrics), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_models(app: FastAPI, scheduler: Scheduler, words: Words, rack: Rack) -> None:
    """What there is."""
    hints = hints_of(scheduler.limits)

    def one() -> dict[str, Any]:
        limits = scheduler.limits
        sizes = {aspect: list(limits.size_of(aspect)) for aspect in ASPECTS}
        teacher = [TEACHER_STEPS.start, MOST_STEPS] if limits.teacher else None
        facts = {"steps": limits.students, "teacher_steps": teacher, "default_steps": limits.default_steps, "sizes": sizes, "multiple_of": limits.factor}
        facts["anywhere"] = sorted(limits.anywhere)  # the step counts that have every strength
        return {"id": limits.name, "object": "model", "created": 0, "owned_by": "fewstep", **facts, "decoders": scheduler.decoders, "control": hints}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model, and what it can do."""
        return {"object": "list", "data": [one()]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One model, and what it can do."""
        if name != scheduler.limits.name:
            raise HTTPException(404, f"there is no such model here: give {scheduler.limits.name}")
        return one()

    @app.get("/v1/loras")
    async def loras() -> dict[str, Any]:
        """The LoRAs that a request may name."""
        return {"object": "list", "data": [{"id": name, "object": "lora"} for name in await asyncio.to_thread(rack.files)]}

    @app.get("/v1/words")
    async def taught() -> dict[str, list[str]]:
        """What the model was taught to draw; empty lists for a model that does not say."""
        return {name: words.get(name, []) for name in VOCABULARY}
