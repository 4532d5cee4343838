"""Training the autoencoder: reconstruct crops of scenes, from a linear start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from fewstep.data.buckets import buckets
from fewstep.data.emoji import Dials, World
from fewstep.distill.ema import Ema
from fewstep.distill.latents import to_tensor
from fewstep.distill.patches import edge_loss
from fewstep.distill.ranges import Count, Decay, Factor, Weight
from fewstep.distill.schedules import cosine
from fewstep.distill.trainer import Losses, Phase
from fewstep.distill.workers import spare


@dataclass(frozen=True)
class CropRecipe:
    """How an autoencoder is trained on crops of scenes."""

    batch_size: Count = 4  # crops an update
    crops: Count = 2  # crops from one scene
    crop: Count = 128  # pixels a side; the last tenth of the updates sees crops twice as large, a quarter as many
    updates: Count = 4500
    learning_rate: Factor = 1.5e-4  # 6e-4 undoes the linear start
    ema: Decay = 0.999
    dials: Dials = field(default_factory=lambda: Dials(place=0.4, repaint=0.2, pair=0.1, flip=0.3, turn=10.0, shift=0.1, held_out=0.0))


def whole_latents(crop: int, channels: Sequence[int]) -> None:
    """Raises ValueError where an autoencoder of these ``channels`` makes no whole number of latents of a crop."""
    if crop % (side := 2 ** (len(channels) - 1)):
        raise ValueError(f"crop = {crop}: with {len(channels)} channels a latent is {side} pixels a side, give a multiple of it")


@dataclass(frozen=True)
class AutoencoderRecipe(CropRecipe):
    """How an autoencoder is trained from its linear start."""

    kl_weight: Weight = 1e-6


def crops(world: World, indices: range, recipe: CropRecipe, size: int, side: int) -> Tensor:
    """Random crops of scenes in the buckets of ``side`` pixels: float [len(indices), 3, size, size] in [-1, 1]. ``recipe.crops`` neighbours share a scene."""
    pictures, last, picture = [], -1, np.empty(0)
    for index in indices:
        rng = world.rng(index // recipe.crops)
        scene = world.scene(rng)
        sizes = [sides for sides in buckets(side) if min(sides) >= size]
        width, height = sizes[int(rng.integers(len(sizes)))]
        if index // recipe.crops != last:
            last, picture = index // recipe.crops, world.render(scene, width, height)
        place = np.random.default_rng((world.seed, index, 1))
        y, x = int(place.integers(height - size + 1)), int(place.integers(width - size + 1))
        pictures.append(picture[y : y + size, x : x + size])
    return to_tensor(np.stack(pictures))


def batch(world: World, indices: range, recipe: CropRecipe, side: int, large: bool = False) -> tuple[Tensor, np.random.Generator]:
    """Crops of scenes, twice as large and a quarter as many where ``large``, and where the randomness of their update comes from."""
    rng = np.random.default_rng((world.seed, indices.start, 2))
    if large:
        return crops(world, indices[: max(len(indices) // 4, 1)], recipe, min(2 * recipe.crop, side), side), rng
    return crops(world, indices, recipe, min(recipe.crop, side), side), rng


def late(indices: range, recipe: CropRecipe) -> bool:
    """Whether these samples belong to the last tenth of the updates."""
    return indices.start >= int(0.9 * recipe.updates) * recipe.batch_size


def reconstruct_phase(model: AutoencoderKL, world: World, recipe: AutoencoderRecipe, precision: torch.dtype) -> Phase:
    """All of the autoencoder on L1 + L2 + edges, with a KL term just large enough to keep the latents bounded."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def losses(turn: str, batch: tuple[Tensor, np.random.Generator]) -> Losses:
        pictures, rng = batch[0].to(model.device), batch[1]
        posterior = model.encode(pictures).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32)).to(model.device)
        latents = posterior.mean + posterior.std * noise
        output = model.decode(latents).sample.float()
        l1, l2 = F.l1_loss(output, pictures), F.mse_loss(output, pictures)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = l1 + 2 * l2 + edge_loss(output, pictures) + recipe.kl_weight * kl
        return {"loss": loss, "l1": l1, "l2": l2, "kl": kl, "latent_std": latents.float().std()}

    return Phase(
        name="autoencoder/reconstruct",
        updates=recipe.updates,
        batch_size=recipe.batch_size,
        models={"autoencoder": model},
        optimizers={"student": optimizer},
        batch=lambda indices: batch(world, indices, recipe, int(model.config.sample_size), late(indices, recipe)),
        losses=losses,
        learning_rate=lambda update: cosine(update, recipe.updates, warmup=100),
        averages={"autoencoder": Ema(model, recipe.ema)},
        clip=1.0,
        precision=precision,
        workers=spare(),
    )
