"""What guidance and negative prompts do to a UNet's graph, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.steering import Steering

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt."""

    embeds: Array  # [1, L, C]
    pooled: Array  # [1, P]


def denoiser(unet: Callable[[dict[str, NDArray[Any]]], Array], prompts: Sequence[Prompt], steering: Steering) -> Callable[[Array, int], Array]:
    """``denoise(x, t)`` of a UNet's graph, called with its inputs by name; see fewstep.models.guidance.denoiser for what guidance does."""
    scale, away = steering.guidance_scale, steering.away
    empty = [_null(prompt) for prompt in prompts] if steering.null is None else list(steering.null)
    nothing = None if away is None else [_null(prompt) for prompt in away]
    if scale <= 1:
        halves = [(prompts, away)]
    elif empty[0].embeds.shape == prompts[0].embeds.shape:
        halves = [([*empty, *prompts], None if away is None or nothing is None else [*nothing, *away])]
    else:
        halves = [(empty, nothing), (prompts, away)]
    fixed = [_inputs(own, its, steering) for own, its in halves]

    def run(x: Array, t: int, inputs: dict[str, NDArray[Any]]) -> Array:
        sample = np.concatenate([x] * (len(inputs["ids"]) // len(x))).astype(np.float32)
        return unet({"sample": sample, "timestep": np.full(len(sample), t, np.int64), **inputs})

    def denoise(x: Array, t: int) -> Array:
        outputs = [run(x, t, inputs) for inputs in fixed]
        if scale <= 1:
            return outputs[0]
        null, real = np.split(outputs[0], 2) if len(outputs) == 1 else outputs
        return null + np.float32(scale) * (real - null)

    return denoise


def _inputs(prompts: Sequence[Prompt], away: Sequence[Prompt] | None, steering: Steering) -> dict[str, NDArray[Any]]:
    """What a UNet's graph takes beside latents and timestep."""
    inputs: dict[str, NDArray[Any]] = {
        "prompt_embeds": np.concatenate([prompt.embeds for prompt in prompts]),
        "pooled": np.concatenate([prompt.pooled for prompt in prompts]),
        "ids": np.concatenate([steering.ids] * (len(prompts) // len(steering.ids))),
    }
    if away is not None:
        inputs |= {"negative_embeds": np.concatenate([prompt.embeds for prompt in away]), "nag_scale": np.array(steering.nag_scale, np.float32)}
    return inputs


def _null(prompt: Prompt) -> Prompt:
    return Prompt(np.zeros_like(prompt.embeds), np.zeros_like(prompt.pooled))
