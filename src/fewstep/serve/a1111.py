"""AUTOMATIC1111's API under /sdapi/v1, as its clients speak it: pictures, progress and interrupt."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fewstep import __version__
from fewstep.engine.request import SEEDS, Picture, RequestError, Settled, seeds_from
from fewstep.engine.request import Request as Wish
from fewstep.engine.source import open_image
from fewstep.serve.a1111_facts import add_facts, check_model
from fewstep.serve.controls import controls_in
from fewstep.serve.nearest import SAMPLER, Nearest, nearest, steps_from_image, used_for
from fewstep.serve.orders import Order, Update
from fewstep.serve.pictures import decode_text, gray_mask, picture_as
from fewstep.serve.rack import Rack, tagged
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shapes import A1111
from fewstep.serve.waiting import NOBODY, finished, settle
from fewstep.serve.wire import LARGEST_UPLOAD, MOST_COUNT, base64_jpeg

STRENGTH = 0.75  # A1111's own, where an image has no mask and the request does not say


def finite(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings``, which are echoed. Raises ValueError on numbers that JSON does not have."""
    try:
        json.dumps(settings, allow_nan=False)
    except ValueError:
        raise ValueError("a number in it is none that JSON has") from None
    return settings


Settings = Annotated[dict[str, Any], AfterValidator(finite)]


class Txt2Img(BaseModel):
    """The body of txt2img. What is not listed is passed over, for clients send all that a Stable Diffusion WebUI could do."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: str | None = Field(None, description="What to draw; <lora:name:0.8> puts one of /sdapi/v1/loras over the weights.")
    negative_prompt: str | None = Field(None, description="What to lead the picture away from; works without guidance.")
    seed: int | None = Field(None, ge=-1, lt=SEEDS, description="-1 is random.")
    subseed: int | None = Field(None, ge=-1, lt=SEEDS, description="Another seed, to go some of the way to; -1 is random.")
    subseed_strength: float | None = Field(None, ge=0, le=1, description="How much of the way; above 0 the subseeds count up and the seed stays.")
    steps: int | None = Field(None, description="The nearest trained number is used.")
    cfg_scale: float | None = Field(None, description="Told to be otherwise.")
    width: int | None = Field(None, description="The nearest training size of this shape is used.")
    height: int | None = None
    batch_size: int | None = Field(None, ge=1, le=MOST_COUNT, description="Pictures, with seeds that count up, times n_iter.")
    n_iter: int | None = Field(None, ge=1, le=MOST_COUNT)
    sampler_name: str | None = Field(None, description="The model's own is used.")
    sampler_index: str | None = None
    scheduler: str | None = None
    tiling: bool | None = Field(None, description="Opposite sides fit together without a seam.")
    override_settings: Settings | None = None
    script_name: str | None = Field(None, description="There are none.")
    alwayson_scripts: Settings | None = Field(None, description="ControlNet's units are followed; there are no others.")
    send_images: bool | None = None

    def check(self, model: str) -> None:
        """Raises HTTPException, as A1111 answers it, on another model than ``model`` and on a script."""
        check_model(model, (self.override_settings or {}).get("sd_model_checkpoint"))
        if self.script_name:
            raise HTTPException(422, f"Script '{self.script_name[:100]}' not found")


class Img2Img(Txt2Img):
    """The body of img2img."""

    init_images: list[str] | None = Field(None, description="The image to begin from, as a data URL or in Base64; the first counts.")
    denoising_strength: float | None = Field(
        None, description="How much of it is made anew, 0.75 if left out and 1 with a mask; where the steps do not have it, the nearest that they have is used."
    )
    mask: str | None = Field(None, description="White is painted anew.")
    inpainting_mask_invert: int | None = Field(None, description="1: black is.")


MADE: dict[str, Any] = {
    "type": "object",
    "required": ["images", "parameters", "info"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string"}, "description": "PNGs in Base64."},
        "parameters": {"type": "object", "description": "What was asked for."},
        "info": {"type": "string", "description": "What was made, as JSON."},
    },
}
ANSWERS: dict[int | str, dict[str, Any]] = {200: {"description": "The pictures.", "content": {"application/json": {"schema": MADE}}}}


class Jobs:
    """What each client has made now, for its progress and its interrupt."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[Job]] = {}

    def of(self, owner: str) -> list[Job]:
        """What is being made for ``owner``, the oldest first."""
        return self._jobs.get(owner, [])

    def add(self, owner: str, job: Job) -> None:
        """One more."""
        self._jobs.setdefault(owner, []).append(job)

    def remove(self, owner: str, job: Job) -> None:
        """It is over."""
        self._jobs[owner].remove(job)
        if not self._jobs[owner]:
            del self._jobs[owner]


class Job:
    """One request for pictures, and how far it is."""

    def __init__(self, order: Order, settled: Sequence[Settled]) -> None:
        self.order, self.count, self.steps = order, len(settled), settled[0].steps
        self.since, self.interrupted = time.time(), False
        self._steps = dict.fromkeys(range(len(settled)), 0)
        self._newest: Update | None = None

    def tell(self, update: Update) -> None:
        """Take note of ``update``."""
        self._steps[update.index] = self.steps if update.picture else min(update.step, self.steps - 1)
        self._newest = update if update.image is not None else self._newest

    def interrupt(self) -> None:
        """Want no more of it than is finished."""
        self.interrupted = True
        self.order.cancel()

    def progress(self, preview: bool) -> dict[str, Any]:
        """As A1111 tells it; previews are made from the moment that one asks for them."""
        for job in self.order.left if preview else ():
            job.previews = True
        done = sum(self._steps.values()) / (self.count * self.steps)
        finished_ones = sum(step == self.steps for step in self._steps.values())
        spent = time.time() - self.since
        state = idle() | {
            "interrupted": self.interrupted,
            "job": "fewstep",
            "job_count": self.count,
            "job_no": min(finished_ones, self.count - 1),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(self.since)),
            "sampling_step": max((step for step in self._steps.values() if step < self.steps), default=self.steps),
            "sampling_steps": self.steps,
        }
        image = self._newest.image if preview and self._newest else None
        eta = spent / done - spent if done else 0.0
        return {"progress": max(done, 0.01), "eta_relative": eta, "state": state, "current_image": base64_jpeg(image), "textinfo": None}


def idle() -> dict[str, Any]:
    """The state of nothing to do."""
    none = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0, "job_timestamp": "0", "job_no": 0}
    return {**none, "sampling_step": 0, "sampling_steps": 0}


def add_a1111(app: FastAPI, scheduler: Scheduler, rack: Rack) -> None:
    """All routes under /sdapi/v1."""
    jobs = Jobs()
    add_facts(app, scheduler, rack)

    @app.post(f"{A1111}txt2img", response_model=None, responses=ANSWERS, max_body_size=LARGEST_UPLOAD)
    async def txt2img(request: Request, wanted: Annotated[Txt2Img, Body()]) -> Any:
        """Make pictures of a prompt."""
        return await answer(request, wanted)

    @app.post(f"{A1111}img2img", response_model=None, responses=ANSWERS, max_body_size=LARGEST_UPLOAD)
    async def img2img(request: Request, wanted: Annotated[Img2Img, Body()]) -> Any:
        """Make pictures that begin from an image."""
        if not wanted.init_images:
            raise HTTPException(404, "Init image not found")
        return await answer(request, wanted)

    async def answer(request: Request, wanted: Txt2Img) -> Any:
        wanted.check(scheduler.limits.name)
        near, settled = await asyncio.to_thread(settle_images, scheduler, wanted)
        owner = request.state.owner
        job = Job(scheduler.submit(settled, owner), settled)
        jobs.add(owner, job)
        try:
            pictures = await finished(job.order, request, job.tell)
        finally:
            jobs.remove(owner, job)
        if pictures is None:
            return Response(status_code=NOBODY)
        send = wanted.send_images is not False
        contents = await asyncio.to_thread(lambda: [base64.b64encode(picture_as(picture, "png")).decode() for picture in pictures if send])
        echo = wanted.model_dump() | {"alwayson_scripts": None} | ({"init_images": None, "mask": None} if isinstance(wanted, Img2Img) else {})
        body = {"images": contents, "parameters": echo, "info": json.dumps(info(near, wanted, pictures))}
        return Response(json.dumps(body), media_type="application/json", headers=near.headers(pictures[0]) if pictures else None)

    @app.get(f"{A1111}progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        """How far the oldest request of this client is."""
        for job in jobs.of(request.state.owner):
            return job.progress(not skip_current_image)
        return {"progress": 0.0, "eta_relative": 0.0, "state": idle(), "current_image": None, "textinfo": None}

    @app.post(f"{A1111}interrupt")
    async def interrupt(request: Request) -> dict[str, Any]:
        """End what this client has made now; it is answered with what is finished."""
        for job in jobs.of(request.state.owner):
            job.interrupt()
        return {}

    @app.post(f"{A1111}skip")
    async def skip(request: Request) -> None:
        """The same."""
        await interrupt(request)


def settle_images(scheduler: Scheduler, wanted: Txt2Img) -> tuple[Nearest, list[Settled]]:
    """What is made for ``wanted``, and a request of the model's for each picture. Raises RequestError."""
    steps, size, begin = wanted.steps, None, dict[str, Any]()
    if isinstance(wanted, Img2Img) and wanted.init_images:
        image = open_image(decode_text(wanted.init_images[0], "image"))
        drawn = open_image(decode_text(wanted.mask, "mask"), "mask") if wanted.mask else None
        mask = gray_mask(drawn, image.size, wanted.inpainting_mask_invert == 1) if drawn else None
        usual = STRENGTH if mask is None else None
        begin = {"image": image, "mask": mask, "strength": usual if wanted.denoising_strength is None else wanted.denoising_strength}
        steps, size = steps_from_image(scheduler.limits, steps, masked=mask is not None), image.size
    if given := [side for side in (wanted.width, wanted.height) if side is not None]:
        size = (given[0], given[-1])
    asked = {"guidance_scale": wanted.cfg_scale, "sampler": wanted.sampler_name or wanted.sampler_index, "scheduler": wanted.scheduler}
    tile = "xy" if wanted.tiling else None
    near = nearest(scheduler.limits, steps, size, tile, **asked, negative_prompt=wanted.negative_prompt, strength=getattr(wanted, "denoising_strength", None))
    first, other = (Wish("", None if seed in (None, -1) else seed).seed_or_random() for seed in (wanted.seed, wanted.subseed))
    count = (wanted.batch_size or 1) * (wanted.n_iter or 1)
    if count > MOST_COUNT:
        raise RequestError(f"batch_size times n_iter = {count}: give at most {MOST_COUNT} pictures")
    prompt, loras = tagged(wanted.prompt or "")
    begin["control"] = controls_in(wanted.alwayson_scripts)
    made = {"loras": loras, "steps": near.steps, "width": near.width, "height": near.height, "negative": wanted.negative_prompt, "tile": tile, **begin}
    if wanted.subseed_strength:
        wishes = [Wish(prompt, first, variation=wanted.subseed_strength, variation_seed=seed, **made) for seed in seeds_from(other, count)]
    else:
        wishes = [Wish(prompt, seed, **made) for seed in seeds_from(first, count)]
    return near, settle(scheduler.limits, wishes)


def info(near: Nearest, wanted: Txt2Img, pictures: Sequence[Picture]) -> dict[str, Any]:
    """What the pictures were made with, as A1111 tells it: used, not asked for; that is in extra_generation_params."""
    if not pictures:
        return {"all_prompts": [], "all_seeds": [], "infotexts": []}
    first = pictures[0]
    drawn, negatives = [picture.record.prompt for picture in pictures], [picture.record.negative or "" for picture in pictures]
    seeds, used = [picture.seed for picture in pictures], used_for(first)
    subseeds = [-1 if picture.record.variation_seed is None else picture.record.variation_seed for picture in pictures]
    extra = {f"Asked {name}": both["asked"] for name, both in near.changed(first).items()}
    return {
        "prompt": drawn[0],
        "all_prompts": drawn,
        "negative_prompt": negatives[0],
        "all_negative_prompts": negatives,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": first.record.variation or 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": SAMPLER,
        "cfg_scale": used["guidance_scale"],
        "steps": first.steps,
        "batch_size": wanted.batch_size or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first.model,
        "sd_model_hash": first.record.hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first.record.strength,
        "extra_generation_params": extra,
        "index_of_first_image": 0,
        "infotexts": [picture.record.parameters() for picture in pictures],
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"fewstep {__version__}",
    }
