"""The picture file that says how it was made: AUTOMATIC1111's text for other tools, and a JSON record to repeat the picture from."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fewstep.engine.control import Control, Told, followed, told
from fewstep.engine.options import parse_outpaint, parse_pair
from fewstep.engine.request import MOST_BATCH, Loras, Request, RequestError, Settled
from fewstep.engine.variations import as_text

ANEW = "give its prompt and seed for one that is nearly the same"  # instead of a picture that cannot be repeated to the byte
TOLD = {"original_size": "x", "crop": ",", "target_size": "x"}  # pairs that a record holds as texts, and what stands between


@dataclass(frozen=True)
class Record:
    """Everything that a picture's bytes depend on. No times, and no paths: a picture is passed on."""

    prompt: str
    seed: int
    steps: int
    width: int
    height: int
    model: str
    hash: str  # of the weights that denoised it
    guidance_scale: float
    version: str
    backend: str
    device: str
    threads: int
    precision: str | None = None  # of the numbers, where that was asked for
    decoder: str = "full"
    batch: int = 1  # pictures that were made at once: kernels differ by it in the last bits
    row: int = 0  # this one's place among them
    blend: str | None = None
    blend_weight: float | None = None
    variation_seed: int | None = None
    variation: float | None = None
    variations: tuple[tuple[int, float], ...] | None = None  # further ones, (seed, share) of each
    image: str | None = None  # SHA-256 of the image that it was begun from, in this picture's size
    strength: float | None = None  # the share of the steps that were run, or of the noise that was begun from
    mask: str | None = None  # SHA-256 of the mask
    outpaint: str | None = None  # pixels that were added to the image: "left,top,right,bottom"
    transparent: bool = False
    tile: str | None = None  # "x", "y" or "xy": along these it was made without a seam
    sampler: str | None = None  # by the name that other tools know it by; None is Euler
    template: str | None = None  # what the prompt was drawn from, where it has choices
    prompt_2: str | None = None
    negative: str | None = None
    nag_scale: float | None = None  # of normalized attention guidance, where the negative prompt works by that
    wording: bool = False  # whether brackets, BREAK and length mean something in the texts; in records from before they do not
    original_size: str | None = None  # "WxH", as the next two what the model was told where it is not the picture's own
    crop: str | None = None  # "left,top"
    target_size: str | None = None  # "WxH"
    loras: tuple[tuple[str, float, str], ...] | None = None  # (name, weight, hash) of each over the weights
    control: tuple[Told, ...] | None = None  # each image that it follows, and who reads it

    def __post_init__(self) -> None:
        """Raises ValueError on a value that no picture of ours can have."""
        loras: Any = self.loras
        if isinstance(loras, list):  # as JSON has them
            object.__setattr__(self, "loras", tuple(_lora(one) for one in loras))
        variations: Any = self.variations
        if isinstance(variations, list):
            object.__setattr__(self, "variations", tuple(tuple(one) if isinstance(one, list) else one for one in variations))
        control: Any = self.control
        if isinstance(control, list):
            object.__setattr__(self, "control", told(control))
        for field in dataclasses.fields(self):
            kind, _, optional = str(field.type).partition(" | ")
            kind, value = kind.partition("[")[0], getattr(self, field.name)
            if kind == "float" and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value).__name__ != kind and not (optional and value is None):
                raise ValueError(f"'{field.name}' is {value!r:.60}")
        if not (1 <= self.batch <= MOST_BATCH and 0 <= self.row < self.batch and 1 <= self.threads <= 4096):
            raise ValueError(f"batch {self.batch}, row {self.row} and threads {self.threads} do not go together")
        if self.image is None and (self.strength, self.mask, self.outpaint) != (None, None, None):
            raise ValueError("there is a strength, a mask or an outpaint, and no image")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}")
        self.request  # noqa: B018 - its own checks

    @classmethod
    def of(cls, settled: Settled, **made: Any) -> Record:
        """The record of a picture of ``settled``; ``made`` is how it was made."""
        names = {field.name for field in dataclasses.fields(settled)} & {field.name for field in dataclasses.fields(cls)} - {"guidance_scale", "nag_scale"}
        own: dict[str, Any] = {name: getattr(settled, name) for name in names} | {"wording": not settled.literal}
        for name, sign in TOLD.items():
            own[name] = own[name] and sign.join(map(str, own[name]))
        source = settled.source
        if source is not None:
            margins = source.outpaint and ",".join(map(str, source.outpaint))
            own |= {"image": source.image_hash, "strength": settled.strength, "mask": source.mask_hash, "outpaint": margins}
        own["variations"] = settled.variations or None
        own["control"] = tuple(hint.told() for hint in settled.control) or None
        own["loras"] = tuple((lora.name, lora.weight, lora.hash) for lora in settled.loras) or None
        return cls(**own, **made)

    @property
    def request(self) -> Request:
        """The request that this picture answered, with every choice made, all but files: an image that it was begun from, and LoRAs."""
        names = ("blend", "blend_weight", "variation_seed", "variation", "transparent", "tile", "prompt_2", "negative", "guidance_scale", "nag_scale")
        varied: dict[str, Any] = {name: getattr(self, name) for name in names} | {"literal": not self.wording, "loras": (), "variations": self.variations or ()}
        varied |= {name: parse_pair(getattr(self, name), name, sign) for name, sign in TOLD.items()}
        return Request(self.prompt, self.seed, self.steps, self.width, self.height, **varied)

    def again(self, image: Image.Image | None = None, mask: Image.Image | None = None, loras: Loras = (), control: Sequence[Control] = ()) -> Request:
        """The whole request, with the ``image``, ``mask``, ``loras`` and ``control`` that are not in the record. Raises RequestError unless those
        are given that it needs.
        """
        request = dataclasses.replace(self.request, loras=loras, control=control)
        if self.image is None:
            if image is not None or mask is not None:
                raise RequestError("the picture was made from noise alone: leave --image and --mask away")
            return request
        masked = self.mask is not None and self.outpaint is None
        if image is None or (masked and mask is None):
            raise RequestError(f"the picture was made from an image: give that one with --image FILE{' and its mask with --mask FILE' * masked}")
        return dataclasses.replace(request, image=image, mask=mask, strength=self.strength, outpaint=parse_outpaint(self.outpaint))

    def check_source(self, settled: Settled) -> None:
        """Raises RequestError unless ``settled`` is begun from the image and mask of this record, follows its control images and has its LoRAs."""
        source = settled.source
        for what, own, given in (("image", self.image, source and source.image_hash), ("mask", self.mask, source and source.mask_hash)):
            if own != given:
                raise RequestError(f"the {what} is not the one that the picture was made from: give that file with --{what}")
        if [(lora.hash, lora.weight) for lora in settled.loras] != [(own, weight) for _, weight, own in self.loras or ()]:
            named = ", ".join(f"{name} at {weight:g} ({own})" for name, weight, own in self.loras or ())
            raise RequestError(f"the picture was made {f'with the LoRAs {named}' if named else 'without LoRAs'}, and these are others: give those with --lora")

        if tuple(hint.told() for hint in settled.control) != (self.control or ()):
            raise RequestError(f"the picture {followed(self.control or ())}, and these are others: give those, in their order, with --control and --controlnet")

    def check_made_alike(self, other: Record) -> None:
        """Raises RequestError where the picture of ``other``, made after this record, was made in a way that gives other bytes."""
        if other.decoder != self.decoder:
            raise RequestError("the picture was decoded whole, for which too little memory is free now: make room and give the same again")
        for name in ("backend", "device", "threads", "precision"):
            if getattr(other, name) != getattr(self, name):
                raise RequestError(f"the picture was made with {name} {getattr(self, name)}, which is {getattr(other, name)} here: {ANEW}")

    def parameters(self) -> str:
        """The text that AUTOMATIC1111 and its kin write and read: the prompt, then one line of settings."""
        settings = {
            "Steps": self.steps,
            "Sampler": self.sampler or "Euler",
            "Schedule type": "SGM Uniform" if self.sampler is None else None,
            "CFG scale": self.guidance_scale or 1.0,
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model hash": self.hash,
            "Model": self.model,
            "Variation seed": self.variation_seed,
            "Variation seed strength": self.variation,
            "Further variations": as_text(self.variations) if self.variations else None,
            "Denoising strength": self.strength,
            "Tiling": "True" if self.tile == "xy" else self.tile,
            "Blend": self.blend,
            "Blend weight": self.blend_weight,
            "Second prompt": self.prompt_2,
            "NAG scale": self.nag_scale,
            "Lora hashes": ", ".join(f"{name}: {own}" for name, _, own in self.loras) if self.loras else None,
            **{f"ControlNet {number}": one.setting() for number, one in enumerate(self.control or ())},
            "Version": f"fewstep {self.version}",
        }
        negative = "" if self.negative is None else f"Negative prompt: {self.negative}\n"
        tags = "".join(f" <lora:{name}:{weight:g}>" for name, weight, _ in self.loras or ())
        return f"{self.prompt}{tags}\n{negative}{', '.join(f'{key}: {_quoted(value)}' for key, value in settings.items() if value is not None)}".strip()


def _lora(one: Any) -> tuple[str, float, str]:
    """(name, weight, hash) of a LoRA as JSON has it. Raises ValueError on anything else."""
    good = isinstance(one, list) and [type(value) for value in one] in ([str, float, str], [str, int, str]) and math.isfinite(one[1])
    if not good:
        raise ValueError(f"'loras' holds {one!r:.60}")
    name, weight, own = one
    return name, float(weight), own


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text
