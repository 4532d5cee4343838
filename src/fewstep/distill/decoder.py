"""Distilling the decoder: a reduced one learns to make the pictures that the full one makes, as one restartable run.

DIR/latents/                                 scenes, rendered and encoded once, as a teacher's or a student's run has them
DIR/decoded/                                 the full decoder's pictures of some of them
DIR/weights/{decoder,sharpen}.safetensors    each when its phase is done
DIR/decoder_tiny/                            the reduced decoder as it belongs into the model's folder
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from fewstep.distill import dist
from fewstep.distill.decoded import Crops, Decoded
from fewstep.distill.ema import Ema
from fewstep.distill.feed import keep_to_model
from fewstep.distill.latents import Latents, cache_key
from fewstep.distill.outline import Part, plain
from fewstep.distill.patches import Contest, picture_losses
from fewstep.distill.pretrain import complete, dtype
from fewstep.distill.ranges import Amount, Count, Decay, Factor, Seed, Weight
from fewstep.distill.recipe import RecipeError, read_recipe, recipe_hash
from fewstep.distill.schedules import cosine
from fewstep.distill.state import Run
from fewstep.distill.trainer import Losses, Phase
from fewstep.distill.watch.watch import Watch
from fewstep.distill.workers import spare
from fewstep.distill.world import DataRecipe, identity, open_world
from fewstep.models.bundle import WEIGHTS, load_bundle
from fewstep.models.tiny_decoder import TinyConfig, TinyDecoder, build_tiny, save_tiny
from fewstep.models.weights import TINY
from fewstep.stamp import file_hash
from fewstep.zoo.registry import find


@dataclass(frozen=True)
class DecoderRecipe:
    """What the reduced decoder looks like and how it is trained."""

    channels: tuple[Count, ...] = (96, 64, 48)
    blocks: tuple[Count, ...] = (1, 2, 2)
    pictures: Count = 1536  # latents that the full decoder is run on, a third of a second each on one core
    updates: Count = 10_000
    batch_size: Count = 4  # crops an update
    crop: Count = 8  # latents a side of a crop; as many as there are, where a picture has fewer
    margin: Amount = 1  # latents along a crop's border that do not count, unless it is the picture's border
    noise: Weight = 0.15  # most noise on latents, of each channel's deviation: a few-step student's do not lie exactly where the encoder puts them
    edges: Weight = 1.0  # weight of the edge loss beside L1
    learning_rate: Factor = 2e-3
    ema: Decay = 0.999
    contest: Contest = field(default_factory=Contest)  # after the ``updates`` of imitation

    def __post_init__(self) -> None:
        if self.crop <= 2 * self.margin:
            raise ValueError(f"crop = {self.crop}, margin = {self.margin}: nothing would be left inside the margin")


@dataclass(frozen=True)
class DecoderPlan:
    """A recipe for ``fewstep distill`` that makes a reduced decoder."""

    trains: Literal["decoder"] = "decoder"
    model: str = "emoji"  # whose decoder it learns from
    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    data: DataRecipe = field(default_factory=DataRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)


def train_decoder(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the reduced decoder's own folder. Goes on where it was stopped.

    Raises RecipeError, WeightsError or ModelError on what cannot be used, NonFinite if training diverges.
    """
    dist.start()
    plan = read_recipe(path, DecoderPlan, settings)
    dist.check(recipe_hash(plan), {"decoder.batch_size": plan.decoder.batch_size})
    run = Run.of(plan, folder)
    if (folder / TINY / WEIGHTS).is_file():
        return folder / TINY
    model, precision = find(plan.model), dtype(plan.precision)
    bundle = load_bundle(model, dist.device())
    keep_to_model(run, bundle)
    vae, recipe = bundle.vae, plan.decoder
    vae.set_attn_processor(AttnProcessor())
    vae.to(memory_format=torch.channels_last)
    try:
        config = TinyConfig(int(vae.config.latent_channels), bundle.factor, recipe.channels, recipe.blocks)
    except ValueError as error:
        raise RecipeError(f"{path}: decoder: {error}") from None
    world = open_world(plan.data)
    key = cache_key(identity(plan.data, world), vae, precision)
    latents = Latents(folder / "latents", world, vae, plan.data.pictures, key, precision)
    decoded = Decoded(folder / "decoded", latents, vae, recipe.pictures, key, precision)
    torch.manual_seed(plan.seed)
    decoder = build_tiny(config).to(dist.device())
    watch = Watch(run, decoder_outline(plan))
    run.observers = watch.routines()
    complete(run, decoder_phase(decoder, decoded, recipe, precision), "decoder")
    if recipe.contest.turns:
        complete(run, sharpen_phase(decoder, decoded, recipe, precision), "sharpen")
    if dist.rank() == 0:
        save_tiny(decoder, folder, file_hash(model / "vae" / WEIGHTS))
    watch.finish()
    dist.wait()
    return folder / TINY


def decoder_outline(plan: DecoderPlan) -> tuple[Part, ...]:
    """Imitation, and the contest where there is one."""
    recipe, size = plan.decoder, plan.decoder.batch_size
    return plain("decoder", ("decoder/imitate", recipe.updates, size), ("decoder/sharpen", recipe.contest.turns, size))


def decoder_phase(decoder: TinyDecoder, decoded: Decoded, recipe: DecoderRecipe, precision: torch.dtype) -> Phase:
    """L1 and edges between the two decoders' pictures, E|d(z + σ·n) - D(z)|. The answer is a function of the latents, so a plain distance
    does not blur it. The judge's features take no part: it is to measure this decoder, and one that was trained to please it could not be trusted.
    """
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def losses(turn: str, crops: Crops) -> Losses:
        pictures, output = drawn(decoder, crops)
        return picture_losses(output, pictures, recipe.edges)

    return Phase(
        name="decoder/imitate",
        updates=recipe.updates,
        batch_size=recipe.batch_size,
        models={"decoder": decoder},
        optimizers={"student": optimizer},
        batch=lambda indices: decoded.batch(indices, recipe.batch_size, recipe.crop, recipe.margin, recipe.noise),
        losses=losses,
        learning_rate=lambda update: cosine(update, recipe.updates, warmup=100),
        averages={"decoder": Ema(decoder, recipe.ema)},
        clip=1.0,
        precision=precision,
        workers=spare(),
    )


def sharpen_phase(decoder: TinyDecoder, decoded: Decoded, recipe: DecoderRecipe, precision: torch.dtype) -> Phase:
    """The reduced decoder against a critic of patches that knows the full one's pictures: for what it has too few weights to get exactly right."""
    last = list(decoder.parameters())[-2]  # the last convolution's weights; its bias follows
    first = recipe.updates * recipe.batch_size  # samples go on where imitation ended

    def batch(indices: range) -> Crops:
        later = range(indices.start + first, indices.stop + first, indices.step)
        return decoded.batch(later, recipe.batch_size, recipe.crop, recipe.margin, recipe.noise)

    return recipe.contest.phase("decoder", decoder, last, lambda crops: drawn(decoder, crops), batch, recipe.batch_size, recipe.ema, precision)


def drawn(decoder: TinyDecoder, crops: Crops) -> tuple[Tensor, Tensor]:
    """(the full decoder's pictures, ``decoder``'s) of what counts of ``crops``."""
    device = next(decoder.parameters()).device
    output = decoder(crops.latents.to(device)).float()[..., crops.rows, crops.columns]
    return crops.pictures.to(device), output
