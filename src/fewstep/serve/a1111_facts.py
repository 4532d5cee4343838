"""What A1111's clients ask when they connect: options, models, samplers, and lists of what there is none of; and png-info."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from fewstep.engine.source import open_image
from fewstep.serve.nearest import SAMPLER, SCHEDULER
from fewstep.serve.pictures import decode_text, settings_in, text_in
from fewstep.serve.rack import Rack
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shapes import A1111
from fewstep.serve.wire import LARGEST_UPLOAD

EMPTY: dict[str, Any] = {
    "sd-vae": [],
    "sd-modules": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "latent-upscale-modes": [],
    "script-info": [],
    "extensions": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
    "memory": {"ram": {}, "cuda": {}},
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}],
    "samplers": [{"name": SAMPLER, "aliases": ["k_euler"], "options": {}}],
    "schedulers": [{"name": "sgm_uniform", "label": SCHEDULER, "aliases": ["SGMUniform"], "default_rho": -1, "need_inner_model": True}],
}
NOTHING_TO_DO = ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings", "unload-checkpoint", "reload-checkpoint")


class Info(BaseModel):
    """The body of png-info."""

    model_config = ConfigDict(extra="ignore")

    image: str = Field(description="A picture as a data URL or in Base64.")


def add_facts(app: FastAPI, scheduler: Scheduler, rack: Rack) -> None:
    """All routes of this file."""
    name = scheduler.limits.name

    def tell(path: str, content: Any) -> None:
        async def said() -> Any:
            return content

        app.add_api_route(f"{A1111}{path}", said, methods=["GET"], name=f"a1111 {path}", summary=f"A1111: {path}")

    def pass_over(path: str) -> None:
        async def done() -> None:
            return None

        app.add_api_route(f"{A1111}{path}", done, methods=["POST"], name=f"a1111 {path}", summary=f"A1111: {path}, for which there is nothing to do")

    for path, content in EMPTY.items():
        tell(path, content)
    for path in NOTHING_TO_DO:
        pass_over(path)
    tell("sd-models", [{"title": name, "model_name": name, "hash": None, "sha256": None, "filename": f"{name}.safetensors", "config": None}])
    tell("options", {"sd_model_checkpoint": name, "sd_checkpoint_hash": "", "sd_vae": "None", "samples_format": "png", "CLIP_stop_at_last_layers": 1})

    @app.get(f"{A1111}loras")
    async def loras() -> list[dict[str, Any]]:
        """The LoRAs that a prompt may name."""
        return await asyncio.to_thread(rack.facts)

    @app.post(f"{A1111}options")
    async def set_options(options: Annotated[dict[str, Any], Body()]) -> None:
        """Take options as clients send them, all at once; there is one model and nothing else to choose."""
        check_model(name, options.get("sd_model_checkpoint"))

    @app.post(f"{A1111}png-info", max_body_size=LARGEST_UPLOAD)
    async def png_info(wanted: Annotated[Info, Body()]) -> dict[str, Any]:
        """Read the settings that a picture says it was made with."""
        text, items = await asyncio.to_thread(read_info, wanted.image)
        return {"info": text, "items": items, "parameters": settings_in(text)}


def read_info(text: str) -> tuple[str, dict[str, str]]:
    """(the text with its settings, all texts by their names) of a picture. Raises RequestError."""
    image = open_image(decode_text(text, "image"))
    return text_in(image), {name: value for name, value in image.info.items() if isinstance(name, str) and isinstance(value, str)}


def check_model(name: str, asked: Any) -> None:
    """Raises HTTPException unless ``asked`` is nothing, ``name``, or that with a hash or an ending."""
    if asked and str(asked).split(" [")[0].removesuffix(".safetensors") != name:
        raise HTTPException(404, f"there is no such model here: give {name}")
