"""Images that the composition follows, as clients send them: the native field, and what AUTOMATIC1111's ControlNet extension takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

from fastapi import HTTPException
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fewstep.engine.control import MOST_CONTROLS, OWN, Control, Controls
from fewstep.engine.hints import BY_SCIKIT_IMAGE
from fewstep.engine.request import HINTS, Limits, RequestError
from fewstep.engine.source import open_image
from fewstep.serve.pictures import decode_text

Hint = Literal["given", "canny", "lineart", "scribble", "depth"]
SCRIPT = "controlnet"  # the extension's name among always-on scripts, in whatever case
MODULES: dict[str, Hint] = {"none": "given", "canny": "canny", "lineart_standard": "lineart", "scribble": "scribble"}  # by the extension's names


def read_by(limits: Limits, net: str | None) -> Limits:
    """``limits`` of an engine for a server: control images are read by the ControlNet that it was started with, or else by the model's own."""
    guides = limits.guides
    if net is None or guides is None:
        return limits

    def read(control: Sequence[Control], width: int, height: int, evaluations: int) -> Controls:
        return guides([dataclasses.replace(one, net=net) for one in control], width, height, evaluations)

    return dataclasses.replace(limits, guides=read)


def hints_of(limits: Limits) -> list[str]:
    """What may be made of a control image on this server; nothing where there is no ControlNet, or nothing that computes one."""
    try:
        there = limits.guides is not None and limits.guides([Control(Image.new("RGB", (1, 1)))], limits.native, limits.native, 1)
    except RequestError:
        return []
    return [hint for hint in HINTS if hint not in BY_SCIKIT_IMAGE or find_spec("skimage")] if there else []


class ControlWanted(BaseModel):
    """An image that the composition follows, read by the server's ControlNet."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str = Field(description="A PNG, WebP or JPEG: a data URL or plain Base64. Nothing is fetched.")
    hint: Hint = Field("given", description="What is made of it first; given: it is the hint itself, white lines on black.")
    weight: float = Field(1.0, description="Of what the ControlNet says, 0 to 10.")
    start: float = Field(0.0, description="The share of the steps that pass before it acts.")
    end: float = Field(1.0, description="The share of the steps after which it acts no more.")

    def control(self) -> Control:
        """As the engine takes it. Decodes the image. Raises RequestError."""
        return Control(open_image(decode_text(self.image, "control image"), "control image"), self.hint, self.weight, None, self.start, self.end)


class Unit(BaseModel):
    """One unit of the extension. What is not listed is passed over."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    enabled: bool = True
    image: str | dict[str, Any] | None = None
    input_image: str | None = None  # what it was called before
    module: str | None = None
    model: str | None = None
    weight: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def control(self) -> Control:
        """As the engine takes it. Raises RequestError."""
        image = self.image.get("image") if isinstance(self.image, dict) else self.image or self.input_image
        module, model = (self.module or "none").lower(), self.model or "None"
        if not isinstance(image, str):
            raise RequestError("a ControlNet unit has no image: give one in Base64, for nothing is made from another unit's")
        if module not in MODULES:
            raise RequestError(f"module = {module!r:.60}: give one of {', '.join(MODULES)}")
        if model not in ("None", OWN):
            raise RequestError(f"model = {model!r:.60}: this server has one ControlNet: give None")
        opened = open_image(decode_text(image, "control image"), "control image")
        return Control(opened, MODULES[module], self.weight, None, self.guidance_start, self.guidance_end)


UNITS = TypeAdapter(list[Unit])


def controls_in(scripts: dict[str, Any] | None) -> Sequence[Control]:
    """The controls that always-on scripts ask for. Raises HTTPException on another script than ControlNet, RequestError on a unit that cannot be."""
    units: list[Unit] = []
    for script, said in (scripts or {}).items():
        if script.lower() != SCRIPT:
            raise HTTPException(422, f"always on script {script[:100]} not found")
        try:
            units += UNITS.validate_python(said.get("args") if isinstance(said, dict) else said)
        except ValidationError as error:
            first = error.errors()[0]
            raise RequestError(f"alwayson_scripts.controlnet.args: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"[:300]) from None
    enabled = [unit for unit in units if unit.enabled]
    if len(enabled) > MOST_CONTROLS:  # before any image is opened
        raise RequestError(f"{len(enabled)} ControlNet units are enabled: give at most {MOST_CONTROLS}")
    return [unit.control() for unit in enabled]
