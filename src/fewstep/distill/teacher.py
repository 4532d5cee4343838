"""Training the teacher's UNet by ε-prediction on cached latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.distill.ema import Ema
from fewstep.distill.latents import Latents, Samples
from fewstep.distill.schedules import cosine
from fewstep.distill.trainer import Losses, Phase
from fewstep.models.bundle import Bundle
from fewstep.models.prompt import Prompt, conditioning, encode
from fewstep.schedule import TRAIN_TIMESTEPS, add_noise, alphas_cumprod


@dataclass(frozen=True)
class TeacherRecipe:
    """How the teacher's UNet is trained."""

    updates: int = 6000
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema: float = 0.9995
    dropout: float = 0.1  # share of null prompts, for classifier-free guidance
    snr_gamma: float = 5.0  # min-SNR weighting, min(SNR, γ) / SNR; 0: none
    pure_noise: float = 0.04  # share of samples at T, where the input holds no picture at all


def teacher_phase(bundle: Bundle, latents: Latents, recipe: TeacherRecipe, precision: torch.dtype) -> Phase:
    """ε-prediction on cached latents, E‖ε - f(x_t, t, c)‖², with null prompts and with pure noise at T.

    SDXL's schedule leaves 7 % of the picture at T; a sampler starts from none. Flat backgrounds live in just those 7 %, so T is
    trained as it is sampled: √(1-ᾱ_T)·ε.
    """
    unet = bundle.unet
    optimizer = torch.optim.AdamW(unet.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def losses(turn: str, samples: Samples) -> Losses:
        t = draw_timesteps(samples, recipe.pure_noise)
        noise = samples.noise(1)
        abar = gather(t, noise)
        x0 = samples.latents * (t < TRAIN_TIMESTEPS - 1)[:, None, None, None]
        prompt = encode_frozen(bundle, samples).dropped(torch.from_numpy(samples.uniform(2) < recipe.dropout))
        output = unet(add_noise(x0, noise, abar), t, **conditioning(prompt, samples.time_ids)).sample.float()
        error = (output - noise).square().mean((1, 2, 3))
        snr = (abar / (1 - abar)).flatten()
        weight = snr.clamp(max=recipe.snr_gamma) / snr if recipe.snr_gamma else torch.ones_like(snr)
        weight = torch.where(t == TRAIN_TIMESTEPS - 1, torch.ones_like(weight), weight)
        return {"loss": (weight * error).mean(), "error": error.mean()}

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


def draw_timesteps(samples: Samples, pure_noise: float) -> Tensor:
    """Timesteps [B], uniform over 0 .. 999, with a share ``pure_noise`` moved to T."""
    draw = samples.uniform(0)
    t = np.floor((draw - pure_noise) / (1 - pure_noise) * TRAIN_TIMESTEPS)
    t[draw < pure_noise] = TRAIN_TIMESTEPS - 1
    return torch.from_numpy(t).long().clamp(0, TRAIN_TIMESTEPS - 1).to(samples.latents.device)


def gather(t: Tensor, like: Tensor) -> Tensor:
    """ᾱ_t for timesteps [B], shaped [B, 1, 1, 1] in the dtype of ``like``; 1 for CLEAN."""
    table = torch.from_numpy(np.append(alphas_cumprod(), 1.0)).to(like.device)  # index -1 is CLEAN
    return table[t].to(like.dtype)[:, None, None, None]


@torch.no_grad()
def encode_frozen(bundle: Bundle, samples: Samples) -> Prompt:
    """The samples' captions, encoded by text encoders that no longer learn."""
    prompt = encode(bundle, samples.captions)
    return Prompt(prompt.embeds.float(), prompt.pooled.float())
