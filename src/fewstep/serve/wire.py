"""What goes over the wire (docs/serving.md): requests as JSON, errors in one shape, frames of a live session as bytes."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field

from fewstep.engine.checks import MOST_LORAS, MOST_VARIATIONS
from fewstep.engine.control import MOST_CONTROLS
from fewstep.engine.files import check_format, picture_bytes
from fewstep.engine.request import Picture, Request, RequestError, seeds_from
from fewstep.engine.source import open_image, to_rgb
from fewstep.serve.controls import ControlWanted
from fewstep.serve.pictures import MADE, decode_text, preview_as
from fewstep.serve.session import Session, Shown

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_COUNT = 16  # pictures of one request
LARGEST_BODY = 1 << 16  # bytes of a request
LARGEST_UPLOAD = 8 << 20  # bytes of a request that may hold pictures, or of a message of a live session
LARGEST_GENERATION = 2**53 - 1  # what JavaScript counts to
AS_THEY_ARE = (  # fields that are those of a request of the engine
    *("prompt", "steps", "width", "height", "aspect", "blend", "blend_weight", "variation_seed", "variation", "strength", "transparent", "tile"),
    *("prompt_2", "negative", "nag_scale", "guidance_scale", "literal"),
)
QUALITY = 85  # of a picture that is looked at for a moment
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class LoraWanted(BaseModel):
    """A LoRA over the weights."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(description="As GET /v1/loras lists it.")
    weight: float = Field(1.0, description="-20 to 20; 0 is none.")


class VariationWanted(BaseModel):
    """A step from one picture's noise towards another's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int = Field(description="Whose noise to go to.")
    share: float = Field(description="How much of the way, 0 to 1.")


class Wanted(BaseModel):
    """One picture, as a request of the engine; what is left out is chosen."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(description="What to draw.")
    seed: int | None = Field(None, description="Random if left out.")
    steps: int | None = Field(None, description="Network evaluations; GET /v1/models says which there are.")
    width: int | None = Field(None, description="Pixels.")
    height: int | None = Field(None, description="Pixels.")
    aspect: str | None = Field(None, description="Shape, for instance 16:9, instead of a size.")

    blend: str | None = Field(None, description="A second prompt to mix in.")
    blend_weight: float | None = Field(None, description="Its share, 0 to 1; 0.5 if left out.")
    variation_seed: int | None = Field(None, description="Another seed, to go some of the way to; random if left out.")
    variation: float | None = Field(None, description="How much of the way, 0 to 1.")
    variations: list[VariationWanted] | None = Field(None, max_length=MOST_VARIATIONS, description="Further ones, each from where the last one led.")
    image: str | None = Field(None, description="A PNG, WebP or JPEG to begin from: a data URL or plain Base64. Nothing is fetched.")
    strength: float | None = Field(None, description="How much of the image is made anew: the share of the steps that are run, or of the noise.")
    mask: str | None = Field(None, description="As large as the image: white is repainted, black stays to the bit, grey is mixed.")
    outpaint: list[int] | None = Field(None, min_length=4, max_length=4, description="Pixels to add to the image: left, top, right, bottom.")
    transparent: bool = Field(False, description="Cut the flat background out.")
    tile: str | None = Field(None, description="x, y or xy: along these opposite sides fit together without a seam.")
    prompt_2: str | None = Field(None, description="What the second text encoder reads instead of the prompt.")
    negative: str | None = Field(None, description="What to lead the picture away from.")
    nag_scale: float | None = Field(None, description="How far, by attention, 1 to 100; 2 if left out and there is no other guidance.")
    guidance_scale: float | None = Field(None, description="Of classifier-free guidance, up to 100; above 1 it takes twice the time.")
    literal: bool = Field(False, description="Take brackets and braces in prompts for themselves.")
    original_size: list[int] | None = Field(None, min_length=2, max_length=2, description="Width and height before scaling, as the model is told.")
    crop: list[int] | None = Field(None, min_length=2, max_length=2, description="Pixels cut off on the left and above, as the model is told.")
    target_size: list[int] | None = Field(None, min_length=2, max_length=2, description="Width and height that are wanted, as the model is told.")

    control: list[ControlWanted] | None = Field(None, max_length=MOST_CONTROLS, description="Images that the composition follows.")
    loras: list[LoraWanted] | None = Field(None, max_length=MOST_LORAS, description="Over the weights, in whatever order.")

    def requests(self, count: int = 1) -> list[Request]:
        """A request for each of ``count`` pictures, with seeds that count up. Decodes pictures. Raises RequestError."""
        image, mask = (None if text is None else open_image(decode_text(text, name), name) for name, text in (("image", self.image), ("mask", self.mask)))
        return self.requests_with(image, mask, count)

    def requests_with(self, image: Image | None, mask: Image | None, count: int = 1) -> list[Request]:
        """The same with these pictures, whatever the fields of their names say. Raises RequestError."""
        first, margins = Request("", self.seed).seed_or_random(), None if self.outpaint is None else tuple(self.outpaint)
        own: dict[str, Any] = {name: getattr(self, name) for name in AS_THEY_ARE}
        own |= {name: None if (pair := getattr(self, name)) is None else tuple(pair) for name in ("original_size", "crop", "target_size")}
        own["variations"] = tuple((one.seed, one.share) for one in self.variations or ())
        own["control"] = [one.control() for one in self.control or ()]
        own["loras"] = None if self.loras is None else tuple((lora.name, lora.weight) for lora in self.loras)
        return [Request(seed=seed, image=image, mask=mask, outpaint=margins, **own) for seed in seeds_from(first, count)]  # type: ignore[arg-type]


class Generate(Wanted):
    """The body of POST /v1/generate."""

    decoder: Literal["full", "tiny"] = Field("full", description="Who turns latents into pixels.")
    format: Literal["png", "webp", "jpeg"] = Field("png", description="Of the picture.")
    stream: bool = Field(False, description="Answer with server-sent events instead of a picture.")
    count: int = Field(1, ge=1, le=MOST_COUNT, description="Pictures, with seeds that count up; more than one need stream.")
    previews: bool = Field(False, description="Send a preview after each step; needs stream.")

    def requests(self, count: int = 1) -> list[Request]:
        """As any picture's; a JPEG cannot be transparent. Raises RequestError."""
        check_format(self.format, self.transparent)
        return super().requests(count)


class Numbered(BaseModel):
    """What of a message is enough to say which one an answer is to."""

    model_config = ConfigDict(strict=True)

    generation: int = Field(ge=1, le=LARGEST_GENERATION, description="A number that grows with each message.")


class Ask(Numbered, Wanted):
    """A message to a live session."""

    model_config = ConfigDict(extra="forbid")

    previews: bool = Field(False, description="Show the steps on the way, too.")
    image: str | bool | None = Field(None, description="True is the image that was sent before.")  # type: ignore[assignment]
    mask: str | bool | None = Field(None, description="True is the mask that was sent before.")  # type: ignore[assignment]


def error(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The one shape of errors."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refuse(status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer. Only ASCII, for what was given and is quoted need not be valid Unicode."""
    return Response(json.dumps(error(message, status, param, code)), status, headers, media_type="application/json")


def explain(problems: list[Any]) -> tuple[str, str | None]:
    """(sentence, which field) of what Pydantic found wrong."""
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body")[:80]
    if first["type"] == "json_invalid":
        return "the body is not valid JSON", None
    if first["type"] in ("model_attributes_type", "model_type") and not field:  # what curl sends unless told otherwise is a form
        return "the body is no JSON object: send one, with the header Content-Type: application/json", None
    if first["type"] == "extra_forbidden":
        return f"{field!a}: there is no such field", field
    said = first["msg"].removeprefix("Value error, ")
    return f"{field or 'the body'}: {said[:1].lower()}{said[1:]}", field or None


def sentence(problem: RequestError) -> str:
    """What the engine says of a request, with a field's name where it names an option of the command line."""
    return str(problem).replace("use --steps ", "use steps = ").replace("leave --decoder at", "leave decoder at")


def jpeg(image: Image) -> bytes:
    """A picture to look at for a moment; a transparent one on white."""
    stream = io.BytesIO()
    to_rgb(image).save(stream, "JPEG", quality=QUALITY, comment=MADE)
    return stream.getvalue()


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return format_sse_event(event=name, data_str=json.dumps(data))


def base64_jpeg(image: Image | None) -> str | None:
    """A preview within JSON."""
    return None if image is None else base64.b64encode(jpeg(image)).decode()


def picture_event(index: int, picture: Picture, kind: str) -> bytes:
    """The event that brings a finished picture."""
    content = base64.b64encode(picture_bytes(picture.image, picture.record, kind)).decode()
    facts: dict[str, Any] = {"seed": picture.seed, "steps": picture.steps, "width": picture.width, "height": picture.height, "model": picture.model}
    facts |= {"strength": picture.strength, "variation_seed": picture.record.variation_seed}
    return event("picture", {"index": index, **facts, "timings_ms": picture.timings, "format": kind, "image": content})


def frame_bytes(shown: Shown, session: Session) -> bytes:
    """A frame of a live session: the header's length as four bytes, big-endian; the header, JSON in UTF-8; a JPEG, or a transparent WebP, to the end.

    A final picture says in its metadata how it was made.
    """
    settled, kind = shown.intent.settled, "webp" if shown.image.mode == "RGBA" else "jpeg"
    header = {
        "generation": shown.generation,
        "step": shown.step,
        "steps": shown.steps,
        "decoder": shown.decoder,
        "final": shown.final,
        "preview": shown.picture is None,
        "format": kind,
        "seed": settled.seed,
        "width": settled.width,
        "height": settled.height,
        "strength": settled.strength,
        "variation_seed": settled.variation_seed,
        "timings_ms": shown.timings,
        "shown": session.shown,
        "replaced": session.replaced,
    }
    packed = json.dumps(header).encode()
    if shown.final and shown.picture:
        image = picture_bytes(shown.image, shown.picture.record, kind)
    else:
        image = preview_as(shown.image, kind) if kind == "webp" else jpeg(shown.image)
    return struct.pack(">I", len(packed)) + packed + image


def picture_in(frame: bytes) -> bytes:
    """The picture in a frame of ``frame_bytes``."""
    return frame[4 + struct.unpack_from(">I", frame)[0] :]
