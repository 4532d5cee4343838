"""A UNet with its conditioning filled in: what samplers, teachers and students call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.models.attention import negation, take_negatives
from fewstep.models.prompt import Prompt, cat, conditioning


def denoiser(
    unet: Any,
    prompt: Prompt,
    ids: Tensor,
    guidance_scale: float = 0.0,
    null: Prompt | None = None,
    negative: Prompt | None = None,
    nag_scale: float = 1.0,
    added: Callable[[Tensor, Any, Mapping[str, Any]], Mapping[str, Any]] = lambda x, t, condition: {},
) -> Callable[[Tensor, Any], Tensor]:
    """``denoise(x, t)`` for latents [B, C, H, W] at one timestep or at timesteps [B].

    With a guidance scale w > 1 the null and the real prompt run as one batch of twice the size: û = û_null + w·(û - û_null)
    (classifier-free guidance, arXiv 2207.12598, in diffusers' convention); else there is no guidance. ``null`` stands in the null
    prompt's place where it is given; where it has another length than the prompt, the two run one after the other.

    ``negative`` is what the attentions are led away from, at ``nag_scale`` (fewstep.models.attention), with guidance or without.
    ``added`` is asked before each call of the network for further arguments (fewstep.models.controlnet.residuals).
    """
    guided = guidance_scale > 1
    null = prompt.null() if null is None else null
    if not guided:
        halves = [(prompt, ids, negative)]
    elif null.embeds.shape == prompt.embeds.shape:
        halves = [(cat(null, prompt), torch.cat([ids, ids]), None if negative is None else cat(negative.null(), negative))]
    else:
        halves = [(null, ids, None if negative is None else negative.null()), (prompt, ids, negative)]
    conditions = [{**conditioning(own, its), **({} if away is None else negation(away.embeds, nag_scale))} for own, its, away in halves]
    if negative is not None:
        take_negatives(unet)

    def call(x: Tensor, t: Any, condition: Mapping[str, Any]) -> Tensor:
        output: Tensor = unet(x, t, **condition, **added(x, t, condition), return_dict=False)[0]
        return output

    def denoise(x: Tensor, t: Any) -> Tensor:
        if not guided:
            return call(x, t, conditions[0])
        times = isinstance(t, Tensor) and t.ndim > 0
        if len(conditions) == 1:
            outputs: Sequence[Tensor] = call(torch.cat([x, x]), torch.cat([t, t]) if times else t, conditions[0]).chunk(2)
        else:
            outputs = [call(x, t, condition) for condition in conditions]
        return outputs[0] + guidance_scale * (outputs[1] - outputs[0])

    return denoise
