"""OpenAI's Images API, as its clients speak it: POST /v1/images/generations and /v1/images/edits, with streams of partial images."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewstep.engine.files import check_format
from fewstep.engine.request import Picture, RequestError, Settled, seeds_from
from fewstep.engine.request import Request as Wish
from fewstep.engine.source import open_image
from fewstep.serve import waiting
from fewstep.serve.forms import Form, read_form
from fewstep.serve.nearest import STEPS_OF_QUALITY, Nearest, nearest, quality_of, size_named, steps_from_image
from fewstep.serve.orders import Update
from fewstep.serve.pictures import alpha_mask, picture_as, preview_as
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shelf import Shelf
from fewstep.serve.waiting import NOBODY, STREAM, finished, settle
from fewstep.serve.wire import LARGEST_UPLOAD, event

MOST = 10  # pictures of one request
ALIASES = ("gpt-image-", "dall-e-", "chatgpt-image-")  # models that clients ask for unless they are told otherwise
BROUGHT: dict[str, Any] = {
    "type": "object",
    "required": ["created", "data", "fewstep"],
    "properties": {
        "created": {"type": "integer"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["b64_json", "url", "seed"],
                "properties": {"b64_json": {"type": ["string", "null"]}, "url": {"type": ["string", "null"]}, "seed": {"type": "integer"}},
            },
        },
        "fewstep": {"type": "object", "required": ["model", "steps", "changed"]},
    },
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The pictures, or a stream of events.", "content": {"application/json": {"schema": BROUGHT}, "text/event-stream": {}}}
}
EDITED = {"image": {"type": "string", "format": "binary"}, "mask": {"type": "string", "format": "binary"}}


class Images(BaseModel):
    """The body of a request for pictures. What is not listed is passed over, for clients send much that no model has."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: str = Field(description="What to draw.")
    model: str | None = Field(None, description="The model's name, or one of OpenAI's, which mean the same.")
    n: int | None = Field(None, ge=1, le=MOST, description="Pictures, with seeds that count up.")
    size: str | None = Field(None, description="As WIDTHxHEIGHT; the nearest training size of this shape is used.")
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"] | None = Field(None, description="Steps, where those are not given.")
    background: Literal["opaque", "transparent", "auto"] | None = Field(None, description="Whether a flat background is cut out.")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="How the pictures come.")
    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="Of the pictures.")
    output_compression: int | None = Field(None, ge=0, le=100, description="Quality of JPEG and WebP.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: int | None = Field(None, ge=0, le=3, description="Pictures of the way there, in a stream.")
    seed: int | None = Field(None, description="Random if left out.")
    steps: int | None = Field(None, description="Network evaluations; the nearest trained number is used.")
    num_inference_steps: int | None = Field(None, description="The same by another name.")
    guidance_scale: float | None = Field(None, description="Told to be otherwise.")
    negative_prompt: str | None = Field(None, description="What to lead the picture away from; works without guidance.")
    strength: float | None = Field(None, description="How much of an image is made anew, in an edit.")

    @property
    def format(self) -> str:
        """Of the pictures."""
        return self.output_format or "png"

    @property
    def by_url(self) -> bool:
        """Whether the pictures are fetched by an address, as clients of the older models expect unless they say otherwise."""
        return self.response_format == "url" or (self.response_format is None and (self.model or "").startswith("dall-e-"))

    def check(self, model: str) -> None:
        """Raises RequestError on values that do not go together, HTTPException on another model than ``model``."""
        if self.model and self.model != model and not self.model.startswith(ALIASES):
            raise HTTPException(404, f"there is no such model here: give {model}, or leave model out")
        if self.format == "png" and self.output_compression not in (None, 100):
            raise RequestError(f"output_compression = {self.output_compression}: a PNG loses nothing, give output_format jpeg or webp with it")
        check_format(self.format, self.background == "transparent")
        if self.stream and self.response_format == "url":
            raise RequestError("a stream brings its pictures itself: give stream without response_format = url")


def add_openai(app: FastAPI, scheduler: Scheduler, shelf: Shelf) -> None:
    """All routes of this file."""

    @app.post("/v1/images/generations", response_model=None, responses=ANSWERS)
    async def generations(request: Request, wanted: Annotated[Images, Body()]) -> Response:
        """Make pictures of a prompt."""
        return await answer(request, wanted, None)

    @app.post(
        "/v1/images/edits",
        response_model=None,
        responses=ANSWERS,
        max_body_size=LARGEST_UPLOAD,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": edit_schema()}}}},
    )
    async def edits(request: Request) -> Response:
        """Make pictures that begin from an image; where a mask is transparent, or the image itself, it is painted anew."""
        form = await read_form(request)
        return await answer(request, wanted_in(form), form)

    async def answer(request: Request, wanted: Images, form: Form | None) -> Response:
        wanted.check(scheduler.limits.name)
        near, settled = await asyncio.to_thread(settle_images, scheduler, wanted, form)
        partial = (wanted.partial_images or 0) if wanted.stream else 0
        order = scheduler.submit(settled, request.state.owner, "full", partial > 0)
        if wanted.stream:
            told = Told(near, wanted, "image_edit" if form else "image_generation", partial)
            return EventSourceResponse(waiting.events(order, told), headers=STREAM)
        pictures = await finished(order, request)
        if not pictures:
            return Response(status_code=NOBODY)
        contents = await asyncio.to_thread(lambda: [picture_as(picture, wanted.format, wanted.output_compression) for picture in pictures])
        if wanted.by_url:
            names = [shelf.put(content, f"image/{wanted.format}") for content in contents]
            brought = [{"url": str(request.url_for("fetch", name=name)), "b64_json": None} for name in names]
        else:
            brought = [{"b64_json": base64.b64encode(content).decode(), "url": None} for content in contents]
        body = json.dumps(whole(near, wanted, pictures, brought))  # only ASCII: what was asked for and is told need not be valid Unicode
        return Response(body, media_type="application/json", headers=near.headers(pictures[0]))

    @app.get("/v1/pictures/{name}", response_class=Response, response_model=None)
    async def fetch(name: str) -> Response:
        """A picture that was asked for as a URL."""
        kept = shelf.get(name)
        if kept is None:
            raise HTTPException(404, "this picture is not kept any more: make it again")
        return Response(kept.content, media_type=kept.media_type, headers={"Cache-Control": "private, no-store"})


def wanted_in(form: Form) -> Images:
    """The fields of a form. Raises RequestValidationError."""
    try:
        return Images.model_validate(form.fields)
    except ValidationError as problem:
        raise RequestValidationError(problem.errors(include_url=False, include_input=False)) from None


def settle_images(scheduler: Scheduler, wanted: Images, form: Form | None) -> tuple[Nearest, list[Settled]]:
    """What is made for ``wanted``, and a request of the model's for each picture. Raises RequestError."""
    steps = wanted.steps if wanted.steps is not None else wanted.num_inference_steps
    if steps is None and wanted.quality in STEPS_OF_QUALITY:
        steps = STEPS_OF_QUALITY[wanted.quality]
    size, begin = size_named(wanted.size), dict[str, Any]()
    if form is not None:
        image, drawn = open_image(form.file("image", "image[]")), form.files.get("mask")
        mask = alpha_mask(image if drawn is None else open_image(drawn, "mask"), wanted=drawn is not None)
        begin = {"image": image, "mask": mask, "strength": wanted.strength}
        steps, size = steps_from_image(scheduler.limits, steps, masked=mask is not None), size or image.size
    near = nearest(scheduler.limits, steps, size, guidance_scale=wanted.guidance_scale, strength=wanted.strength, negative_prompt=wanted.negative_prompt)
    first = Wish("", wanted.seed).seed_or_random()
    made = {"steps": near.steps, "width": near.width, "height": near.height, "transparent": wanted.background == "transparent", **begin}
    made["negative"] = wanted.negative_prompt
    return near, settle(scheduler.limits, [Wish(wanted.prompt, seed, **made) for seed in seeds_from(first, wanted.n or 1)])


def whole(near: Nearest, wanted: Images, pictures: Sequence[Picture], brought: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer with all pictures; "fewstep" and the seeds are not OpenAI's."""
    first = pictures[0]
    data = [{**how, "revised_prompt": None, "seed": picture.seed} for how, picture in zip(brought, pictures, strict=True)]
    return {"created": int(time.time()), "data": data, **facts(first, wanted), "fewstep": used(near, first)}


def used(near: Nearest, picture: Picture) -> dict[str, Any]:
    """What of a request was made, and what otherwise than it was asked for."""
    return {"model": picture.model, "steps": picture.steps, "changed": near.changed(picture)}


def facts(picture: Picture, wanted: Images) -> dict[str, Any]:
    """What an answer or an event says of how a picture was made."""
    background = "transparent" if wanted.background == "transparent" else "opaque"
    return {"background": background, "output_format": wanted.format, "quality": quality_of(picture.steps), "size": f"{picture.width}x{picture.height}"}


class Told:
    """Updates in OpenAI's events: of each picture up to ``partial`` previews and the picture."""

    def __init__(self, near: Nearest, wanted: Images, kind: str, partial: int) -> None:
        self.near, self.wanted, self.kind, self.partial = near, wanted, kind, partial
        self.sent: dict[int, int] = {}  # previews of each picture

    async def __call__(self, update: Update) -> bytes | None:
        """The event of one update, None for a step that is passed over."""
        sent = self.sent.get(update.index, 0)
        if update.picture is not None:
            content = await asyncio.to_thread(picture_as, update.picture, self.wanted.format, self.wanted.output_compression)
            more = {"usage": USAGE, "seed": update.picture.seed, "steps": update.picture.steps, "fewstep": used(self.near, update.picture)}
            return self.event("completed", content, facts(update.picture, self.wanted) | more)
        if update.image is None or not due(update, self.partial, sent):
            return None
        self.sent[update.index] = sent + 1
        content = await asyncio.to_thread(preview_as, update.image, self.wanted.format)
        size = f"{update.image.width}x{update.image.height}"
        more = {"partial_image_index": sent, "quality": quality_of(update.steps), "size": size, "background": "opaque"}
        return self.event("partial_image", content, {**more, "output_format": self.wanted.format})

    def event(self, what: str, content: bytes, more: dict[str, Any]) -> bytes:
        """One that brings a picture."""
        name = f"{self.kind}.{what}"
        return event(name, {"type": name, "b64_json": base64.b64encode(content).decode(), "created_at": int(time.time()), **more})


USAGE = {"input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0, "total_tokens": 0}  # nobody counts here


def due(update: Update, partial: int, sent: int) -> bool:
    """Whether this step's preview is one of the ``partial`` that are spread over the steps, when ``sent`` of them were sent."""
    return sent < partial and update.step >= (sent + 1) * update.steps / (partial + 1)


def edit_schema() -> dict[str, Any]:
    """The fields of an edit, for the OpenAPI document."""
    schema = Images.model_json_schema()
    fields: dict[str, Any] = {}
    for name, field in schema["properties"].items():
        kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]  # a form has no null
        fields[name] = {**{key: value for key, value in field.items() if key not in ("anyOf", "default")}, **kinds[0]} if kinds else field
    return {**schema, "properties": {**fields, **EDITED}, "required": [*schema["required"], "image"]}
