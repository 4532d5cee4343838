"""Training the teacher's UNet by ε-prediction on cached latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.distill.ema import Ema
from fewstep.distill.latents import Cache, Samples, Text
from fewstep.distill.ranges import Count, Decay, Factor, Share, Weight
from fewstep.distill.schedules import cosine
from fewstep.distill.trainer import Losses, Phase
from fewstep.models.bundle import Bundle
from fewstep.models.prompt import Prompt, cat, conditioning, encode
from fewstep.schedule import TRAIN_TIMESTEPS, add_noise, alphas_cumprod


@dataclass(frozen=True)
class TeacherRecipe:
    """How the teacher's UNet is trained."""

    updates: Count = 6000
    batch_size: Count = 64
    learning_rate: Factor = 1e-3
    ema: Decay = 0.9995
    dropout: Share = 0.1  # share of null prompts, for classifier-free guidance
    snr_gamma: Weight = 5.0  # min-SNR weighting, min(SNR, γ) / SNR; 0: none
    debias: Weight = 0.0  # weight of high noise, max(1, SNR^-debias): an error in x0 weighs SNR times as much in ε, next to nothing at T
    pure_noise: Share = 0.04  # share of samples at T, where the input holds no picture at all


def teacher_phase(bundle: Bundle, latents: Cache, text: Text, recipe: TeacherRecipe, precision: torch.dtype) -> Phase:
    """ε-prediction on cached latents, E‖ε - f(x_t, t, c)‖², with null prompts and with pure noise at T.

    SDXL's schedule leaves 7 % of the picture at T; a sampler starts from none. Flat backgrounds live in just those 7 %, so T is
    trained as it is sampled: from √(1-ᾱ_T)·ε to the ε̂ that the old ᾱ_T turns into the picture, for noise as the target would say x0 = 0.
    """
    unet = bundle.unet
    optimizer = torch.optim.AdamW(unet.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def losses(turn: str, samples: Samples) -> Losses:
        return denoising_losses(samples, text(samples), recipe, lambda x, t, condition: unet(x, t, **condition).sample)

    return Phase(
        name="teacher/denoise",
        updates=recipe.updates,
        batch_size=recipe.batch_size,
        models={"unet": unet},
        optimizers={"student": optimizer},
        batch=lambda indices: latents.batch(indices, recipe.batch_size, bundle.vae.config.scaling_factor, bundle.device),
        losses=losses,
        learning_rate=lambda update: cosine(update, recipe.updates, warmup=200),
        averages={"unet": Ema(unet, recipe.ema)},
        clip=1.0,
        precision=precision,
    )


def denoising_losses(samples: Samples, prompt: Prompt, recipe: TeacherRecipe, predict: Callable[[Tensor, Tensor, dict[str, Any]], Tensor]) -> Losses:
    """The losses of ``predict(x, t, condition)``, which answers with ε for latents [B, C, H/f, W/f] at timesteps [B]; some prompts are dropped."""
    t = draw_timesteps(samples, recipe.pure_noise)
    noise = samples.noise(1)
    abar = alpha_bar_at(t, noise)
    x = add_noise(samples.latents * (t < TRAIN_TIMESTEPS - 1)[:, None, None, None], noise, abar)
    wanted = (x - abar**0.5 * samples.latents) / (1 - abar) ** 0.5  # equation 4: the noise, but at T what leads to the picture
    kept = prompt.dropped(torch.from_numpy(samples.uniform(2) < recipe.dropout).to(x.device))
    error = (predict(x, t, conditioning(kept, samples.time_ids)).float() - wanted).square().mean((1, 2, 3))
    weight = loss_weight((abar / (1 - abar)).flatten(), recipe.snr_gamma, recipe.debias)
    return {"loss": (weight * error).mean(), "error": error.mean()}


def draw_timesteps(samples: Samples, pure_noise: float) -> Tensor:
    """Timesteps [B], uniform over 0 .. 999, with a share ``pure_noise`` moved to T."""
    draw = samples.uniform(0)
    t = np.floor((draw - pure_noise) / (1 - pure_noise) * TRAIN_TIMESTEPS)
    t[draw < pure_noise] = TRAIN_TIMESTEPS - 1
    return torch.from_numpy(t).long().clamp(0, TRAIN_TIMESTEPS - 1).to(samples.latents.device)


def alpha_bar_at(t: Tensor, like: Tensor) -> Tensor:
    """ᾱ_t for timesteps [B], shaped [B, 1, 1, 1] in the dtype of ``like``; 1 for CLEAN."""
    table = torch.from_numpy(np.append(alphas_cumprod(), 1.0)).to(like.device)  # index -1 is CLEAN
    return table[t].to(like.dtype)[:, None, None, None]


def loss_weight(snr: Tensor, gamma: float, debias: float) -> Tensor:
    """The weight of an error in ε at each signal-to-noise ratio [B]: min(SNR, γ) / SNR (min-SNR, arXiv 2303.09556), γ = 0 for none,
    times max(1, SNR^-debias) (debias = 0.5 is arXiv 2310.08442's, above an SNR of 1).
    """
    low = snr.clamp(max=gamma) / snr if gamma else torch.ones_like(snr)
    return low * snr.pow(-debias).clamp(min=1)


class FrozenText:
    """Prompts of samples, by text encoders that no longer learn. Each caption is encoded alone, so that its batch makes no difference."""

    def __init__(self, bundle: Bundle, remembered: int = 16_384) -> None:
        self.bundle = bundle
        self._remember = lru_cache(maxsize=remembered)(self._encode)

    def __call__(self, samples: Samples) -> Prompt:
        """The samples' captions, encoded: float32."""
        return cat(*(self._remember(caption) for caption in samples.captions))

    @torch.no_grad()
    def _encode(self, caption: str) -> Prompt:
        with torch.autocast(self.bundle.device.type, enabled=False):
            prompt = encode(self.bundle, [caption])
        return Prompt(prompt.embeds.float(), prompt.pooled.float())
