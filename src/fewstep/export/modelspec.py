"""What Stability's modelspec asks a weights file to say of itself, so that other tools show it right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewstep.stamp import Stamp

SDXL = (320, 640, 1280)  # channels of the UNet
PREDICTION = {"epsilon": "epsilon", "v_prediction": "v"}  # modelspec knows no other


def modelspec(folder: Path, stamp: Stamp, adapter: str = "") -> dict[str, str]:
    """The metadata that modelspec 1.0.0 requires of a student of the model in ``folder``, and its prediction type.

    ``adapter`` is "lora" for one. SDXL's architecture is claimed only for UNets that are SDXL's.
    """
    config: dict[str, Any] = json.loads((folder / "unet" / "config.json").read_text(encoding="utf8"))
    vae: dict[str, Any] = json.loads((folder / "vae" / "config.json").read_text(encoding="utf8"))
    side = int(config["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    architecture = "stable-diffusion-xl-v1-base" if tuple(config["block_out_channels"]) == SDXL else folder.name
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{architecture}/{adapter}" if adapter else architecture,
        "implementation": "https://github.com/huggingface/diffusers" if adapter else "https://github.com/Stability-AI/generative-models",
        "title": f"{folder.name}, {stamp.steps} step{'s' * (stamp.steps != 1)}",
        "resolution": f"{side}x{side}",
    }
    if stamp.prediction_type in PREDICTION:
        spec["prediction_type"] = PREDICTION[stamp.prediction_type]
    return {f"modelspec.{key}": value for key, value in spec.items()}
