"""From latents to pictures."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fewstep.engine.request import MOST_BATCH
from fewstep.models.bundle import WeightsError

ENCODED = 2  # pictures that an autoencoder encodes at once: the activations of more fall out of a processor's cache


def decode(vae: Any, latents: Tensor) -> list[Image.Image]:
    """RGB pictures of ``latents`` [B, C, H/f, W/f], rounded to bytes as diffusers' VaeImageProcessor does.

    On a CPU one by one, which keeps the activations in its cache: a batch of eight takes a quarter longer for each.
    Raises WeightsError if the autoencoder answers with values that are not finite.
    """
    parts = torch.split(unscaled(vae.config, latents).to(vae.dtype), 1 if latents.device.type == "cpu" else MOST_BATCH)
    pixels = torch.cat([vae.decode(part, return_dict=False)[0] for part in parts])  # [B, 3, H, W] in [-1, 1]
    if not bool(torch.isfinite(pixels).all()):
        raise WeightsError("the picture came out with values that are not finite: the weights are damaged or do not belong together")
    pixels = (pixels.float() / 2 + 0.5).clamp(0, 1)
    return [Image.fromarray(rows) for rows in (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def unscaled(config: Any, latents: Tensor) -> Tensor:
    """Latents as the autoencoder knows them, from the unit-variance ones that are denoised: per channel where its configuration says so."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        return latents * latents.new_tensor(std).view(shape) / config.scaling_factor + latents.new_tensor(mean).view(shape)
    return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
