"""A UNet with its conditioning filled in: what samplers, teachers and students call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.models.prompt import Prompt, cat, conditioning


def denoiser(unet: Any, prompt: Prompt, ids: Tensor, guidance_scale: float = 0.0) -> Callable[[Tensor, Any], Tensor]:
    """``denoise(x, t)`` for latents [B, C, H, W] at one timestep or at timesteps [B].

    With a guidance scale w > 1 the null and the real prompt run as one batch of twice the size: û = û_null + w·(û - û_null)
    (classifier-free guidance, arXiv 2207.12598, in diffusers' convention); else there is no guidance.
    """
    guided = guidance_scale > 1
    conditions = conditioning(cat(prompt.null(), prompt), torch.cat([ids, ids])) if guided else conditioning(prompt, ids)

    def denoise(x: Tensor, t: Any) -> Tensor:
        if not guided:
            return unet(x, t, **conditions, return_dict=False)[0]
        both = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        null, real = unet(torch.cat([x, x]), both, **conditions, return_dict=False)[0].chunk(2)
        return null + guidance_scale * (real - null)

    return denoise
