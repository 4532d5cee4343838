"""The route that huggingface_hub's InferenceClient posts to: /models/NAME, or the address of the server itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewstep.engine.files import FORMATS, check_format
from fewstep.engine.request import Request as Wish
from fewstep.engine.request import RequestError, Settled
from fewstep.engine.source import open_image
from fewstep.serve.native import PICTURE
from fewstep.serve.nearest import Nearest, nearest, steps_from_image
from fewstep.serve.pictures import decode_text, picture_as
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shapes import HUGGING_FACE
from fewstep.serve.waiting import NOBODY, finished, settle
from fewstep.serve.wire import LARGEST_UPLOAD


class Size(BaseModel):
    """Of a picture that begins from an image."""

    width: int
    height: int


class Parameters(BaseModel):
    """What a client may say besides. What is not listed is passed over."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: str | None = Field(None, description="What to draw, where the input is an image.")
    negative_prompt: str | None = Field(None, description="What to lead the picture away from; works without guidance.")
    width: int | None = Field(None, description="The nearest training size of this shape is used.")
    height: int | None = None
    target_size: Size | None = None
    num_inference_steps: int | None = Field(None, description="The nearest trained number is used.")
    guidance_scale: float | None = Field(None, description="Told to be otherwise.")
    scheduler: str | None = Field(None, description="The model's own is used.")
    seed: int | None = Field(None, description="Random if left out.")
    strength: float | None = Field(None, description="How much of an image is made anew.")


class Inputs(BaseModel):
    """A request: a prompt, or an image in Base64 with a prompt among the parameters."""

    model_config = ConfigDict(extra="ignore")

    inputs: str = Field(description="A prompt, or an image in Base64 where parameters.prompt is given.")
    parameters: Parameters | None = None


INPUTS = Inputs.model_json_schema(ref_template="#/components/schemas/{model}")
PARTS: dict[str, Any] = INPUTS.pop("$defs")  # what it refers to, for the components of the OpenAPI document
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": INPUTS}, "image/*": {}}}}


def add_huggingface(app: FastAPI, scheduler: Scheduler) -> None:
    """POST /models/NAME and POST /."""
    route: dict[str, Any] = {"response_model": None, "response_class": Response, "responses": PICTURE, "max_body_size": LARGEST_UPLOAD, "openapi_extra": BODY}

    @app.post(f"{HUGGING_FACE}{{name:path}}", **route)
    async def infer(request: Request, name: str) -> Response:
        """Make a picture as Hugging Face's inference clients ask for it; the answer is its bytes."""
        if name.rpartition("/")[2] != scheduler.limits.name:
            raise HTTPException(404, f"there is no such model here: give {scheduler.limits.name}")
        return await answer(request)

    @app.post("/", **route)
    async def infer_here(request: Request) -> Response:
        """The same, for clients that are given the address of the server."""
        return await answer(request)

    async def answer(request: Request) -> Response:
        wanted, kind = read(request.headers.get("content-type", ""), await request.body()), format_for(request.headers.get("accept", ""))
        near, settled = await asyncio.to_thread(settle_image, scheduler, wanted)
        pictures = await finished(scheduler.submit(settled, request.state.owner), request)
        if not pictures:
            return Response(status_code=NOBODY)
        content = await asyncio.to_thread(picture_as, pictures[0], kind)
        return Response(content, media_type=f"image/{kind}", headers=near.headers(pictures[0]))


def read(kind: str, body: bytes) -> Inputs | bytes:
    """A request in JSON, or the image that is the whole body. Raises RequestError, RequestValidationError."""
    if kind.startswith("image/") or any(form.signature.match(body) for form in FORMATS.values()):
        return body
    if not kind.startswith("application/json"):
        raise RequestError("the body is neither JSON nor an image: give its Content-Type")
    try:
        return Inputs.model_validate(json.loads(body))
    except ValidationError as problem:
        raise RequestValidationError(problem.errors(include_url=False, include_input=False)) from None
    except (ValueError, RecursionError):
        raise RequestError("the body is not valid JSON") from None


def format_for(accept: str) -> str:
    """The format that an Accept header names first, PNG unless it names another that there is."""
    first = accept.split(",")[0].partition(";")[0].strip().removeprefix("image/")
    kind = first if first in FORMATS else "png"
    check_format(kind, transparent=False)
    return kind


def settle_image(scheduler: Scheduler, wanted: Inputs | bytes) -> tuple[Nearest, list[Settled]]:
    """What is made for ``wanted``, and the model's request for it. Raises RequestError."""
    said = (wanted.parameters if isinstance(wanted, Inputs) else None) or Parameters.model_validate({})
    steps, size, begin, prompt = said.num_inference_steps, None, dict[str, Any](), said.prompt or ""
    if isinstance(wanted, bytes) or said.prompt is not None:
        image = open_image(wanted if isinstance(wanted, bytes) else decode_text(wanted.inputs, "image"))
        begin, steps, size = {"image": image, "strength": said.strength}, steps_from_image(scheduler.limits, steps, masked=False), image.size
    else:
        prompt = wanted.inputs
    width, height = (said.target_size.width, said.target_size.height) if said.target_size else (said.width, said.height)
    if width is not None or height is not None:
        size = (width or height or 0, height or width or 0)
    asked: dict[str, Any] = {
        "guidance_scale": said.guidance_scale,
        "scheduler": said.scheduler,
        "negative_prompt": said.negative_prompt,
        "strength": begin.get("strength"),
    }
    near = nearest(scheduler.limits, steps, size, **asked)
    wish = Wish(prompt, said.seed, near.steps, near.width, near.height, negative=said.negative_prompt, **begin)
    return near, settle(scheduler.limits, [wish])
