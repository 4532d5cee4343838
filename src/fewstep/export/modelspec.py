"""What Stability's modelspec asks a weights file to say of itself, so that other tools show it right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewstep.stamp import Stamp
from fewstep.zoo.registry import embedded

VERSION = "1.0.1"  # https://github.com/Stability-AI/ModelSpec
SDXL = (320, 640, 1280)  # channels of the UNet
PREDICTION = {"epsilon": "epsilon", "v_prediction": "v"}  # modelspec knows no other


def modelspec(folder: Path, stamp: Stamp, adapter: str = "", name: str = "", note: str = "") -> dict[str, str]:
    """The metadata that modelspec requires of a student of the model in ``folder``, and what of the rest is known of it.

    ``adapter`` is "lora" for one, ``name`` what the model is called if not as its folder, ``note`` what there is to say besides. SDXL's
    architecture is claimed only for UNets that are SDXL's. There is no date and no hash of the tensors: the same export gives the same
    bytes, and what was exported may be far larger than memory.
    """
    side = int(_config(folder, "unet")["sample_size"]) * 2 ** (len(_config(folder, "vae")["block_out_channels"]) - 1)
    name = name or folder.name
    architecture = "stable-diffusion-xl-v1-base" if is_sdxl(folder) else name
    what = "undistilled teacher" if stamp.kind == "teacher" else "student"
    spec = {
        "sai_model_spec": VERSION,
        "architecture": f"{architecture}/{adapter}" if adapter else architecture,
        "implementation": "https://github.com/huggingface/diffusers" if adapter else "https://github.com/Stability-AI/generative-models",
        "title": f"{name}, {stamp.steps} step{'s' * (stamp.steps != 1)}",
        "description": f"The {stamp.steps}-step {what} of {name}, exported by fewstep. {note}".strip(),
        "resolution": f"{side}x{side}",
        "usage_hint": usage(stamp),
        "tags": "few-step" if stamp.kind != "teacher" else "teacher",
    }
    if not adapter:
        spec["unet_dtype"] = "float16"
    if folder.resolve() == embedded("emoji").resolve():
        spec |= {"license": "Apache-2.0", "author": "the fewstep authors"}
    if stamp.prediction_type in PREDICTION:
        spec["prediction_type"] = PREDICTION[stamp.prediction_type]
    return {f"modelspec.{key}": value for key, value in spec.items()}


def usage(stamp: Stamp) -> str:
    """How it is sampled, in the words that tools share."""
    scale = f"CFG scale {max(stamp.guidance_scale, 1.0):g}"
    schedule = "SGM Uniform (trailing timesteps)" if stamp.spacing == "trailing" else "Normal (leading timesteps)"
    return f"{stamp.steps} step{'s' * (stamp.steps != 1)}, sampler {stamp.sampler}, schedule {schedule}, {scale}, predicts {stamp.prediction_type}"


def is_sdxl(folder: Path) -> bool:
    """Whether the UNet of the model in ``folder`` has SDXL's widths."""
    return tuple(_config(folder, "unet")["block_out_channels"]) == SDXL


def _config(folder: Path, part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / part / "config.json").read_text(encoding="utf8"))
    return content
