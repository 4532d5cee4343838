"""Distilling the autoencoder: a smaller one learns another's latents, and to draw more sharply from them. UNets that know these latents stay.

DIR/weights/{imitate,sharpen}.safetensors     each when its phase is done
DIR/vae/                                      the finished autoencoder as it belongs into the model's folder
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from fewstep.data.emoji import World
from fewstep.distill import dist
from fewstep.distill.autoencoder import CropRecipe, batch, late, whole_latents
from fewstep.distill.ema import Ema
from fewstep.distill.feed import keep_to_model
from fewstep.distill.outline import Part, plain
from fewstep.distill.patches import Contest, picture_losses
from fewstep.distill.pretrain import complete, dtype, pictures
from fewstep.distill.ranges import Count, Seed, Weight
from fewstep.distill.recipe import RecipeError, read_recipe, recipe_hash
from fewstep.distill.schedules import cosine
from fewstep.distill.state import Run
from fewstep.distill.trainer import Losses, Phase
from fewstep.distill.watch.watch import Watch
from fewstep.distill.workers import spare
from fewstep.distill.world import DataRecipe, open_world
from fewstep.models.bundle import load_bundle, save_network
from fewstep.zoo.registry import find


@dataclass(frozen=True)
class CompactRecipe(CropRecipe):
    """What the smaller autoencoder looks like and how it is trained."""

    channels: tuple[Count, ...] = (16, 32, 64, 96, 96)
    noise: Weight = 0.15  # most noise on latents, of each channel's deviation: a few-step student's do not lie exactly where the encoder puts them
    contest: Contest = field(default_factory=Contest)  # after the ``updates`` of imitation

    def __post_init__(self) -> None:
        whole_latents(self.crop, self.channels)


@dataclass(frozen=True)
class CompactPlan:
    """A recipe for ``fewstep distill`` that makes a smaller autoencoder."""

    trains: Literal["autoencoder"] = "autoencoder"
    model: str = "emoji"  # whose latents it learns
    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    data: DataRecipe = field(default_factory=DataRecipe)
    autoencoder: CompactRecipe = field(default_factory=CompactRecipe)


def train_autoencoder(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the smaller autoencoder's own folder. Goes on where it was stopped.

    Raises RecipeError, WeightsError or ModelError on what cannot be used, NonFinite if training diverges.
    """
    dist.start()
    plan = read_recipe(path, CompactPlan, settings)
    dist.check(recipe_hash(plan), {"autoencoder.batch_size": plan.autoencoder.batch_size})
    run = Run.of(plan, folder)
    done = folder / "vae"
    if (done / "config.json").is_file():
        return done
    world, precision, recipe = open_world(plan.data), dtype(plan.precision), plan.autoencoder
    crops = World(world.subjects, recipe.dials, plan.seed + 2)
    bundle = load_bundle(find(plan.model), dist.device())
    keep_to_model(run, bundle)
    teacher = bundle.vae
    torch.manual_seed(plan.seed)
    try:
        student = AutoencoderKL.from_config({**teacher.config, "block_out_channels": recipe.channels}).to(dist.device())
        narrow(teacher, student)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}: autoencoder: {error}") from None
    with torch.no_grad():
        looked_at = [teacher.encode(picture[None]).latent_dist.mean for picture in pictures(crops, bundle).to(dist.device())]
    deviation = torch.cat(looked_at).std(dim=(0, 2, 3))[:, None, None]
    for network in (teacher, student):
        network.set_attn_processor(AttnProcessor())
        network.to(memory_format=torch.channels_last)
    studio = Studio(teacher, student, deviation, recipe)
    watch = Watch(run, compact_outline(plan))
    run.observers = watch.routines()
    complete(run, imitate_phase(studio, crops, precision), "imitate")
    if recipe.contest.turns:
        complete(run, sharpen_phase(studio, World(world.subjects, recipe.dials, plan.seed + 3), precision), "sharpen")
    if dist.rank() == 0:
        save_network(student, done)
    watch.finish()
    dist.wait()
    return done


def compact_outline(plan: CompactPlan) -> tuple[Part, ...]:
    """Imitation, and the contest where there is one."""
    recipe, size = plan.autoencoder, plan.autoencoder.batch_size
    return plain("autoencoder", ("autoencoder/imitate", recipe.updates, size), ("autoencoder/sharpen", recipe.contest.turns, size))


@torch.no_grad()
def narrow(teacher: AutoencoderKL, student: AutoencoderKL) -> None:
    """Start ``student`` from the first channels of each of ``teacher``'s groups: what its inner levels know of the latents need not be learnt anew.

    Raises ValueError unless the student has as many levels and at most the teacher's channels in each, multiples of the groups.
    """
    wide, groups = teacher.config.block_out_channels, teacher.config.norm_num_groups
    widths = student.config.block_out_channels
    if len(widths) != len(wide) or any(ours > theirs or ours % groups for ours, theirs in zip(widths, wide, strict=True)):
        raise ValueError(f"channels = {list(widths)}: give {len(wide)} multiples of {groups} of at most {list(wide)}")
    known = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if name in known:
            source = known[name]
        else:  # a shortcut where the teacher, as wide on both sides, has none
            width = next(theirs for ours, theirs in zip(widths, wide, strict=True) if ours == parameter.shape[0])
            source = torch.eye(width)[..., None, None] if parameter.ndim == 4 else torch.zeros(width)
        kept = source.to(parameter)[_share(len(parameter), len(source), groups)]
        if parameter.ndim > 1:
            kept = kept[:, _share(parameter.shape[1], kept.shape[1], groups)]
        fewer = source.shape[1] / parameter.shape[1] if parameter.ndim > 1 and name in known else 1.0
        parameter.copy_(fewer * kept)


def _share(count: int, of: int, groups: int) -> Tensor:
    """The first channels of each group, ``count`` of ``of`` in all."""
    if count == of:
        return torch.arange(count)
    return torch.cat([group * (of // groups) + torch.arange(count // groups) for group in range(groups)])


@dataclass(frozen=True)
class Studio:
    """Who learns from whom."""

    teacher: AutoencoderKL
    student: AutoencoderKL
    deviation: Tensor  # [C, 1, 1], of each channel of the teacher's latents
    recipe: CompactRecipe

    def decoded(self, moments: Tensor, rng: Any) -> Tensor:
        """The student's pictures of the teacher's latents, with noise whose deviation is uniform up to ``recipe.noise`` of each channel's own."""
        mean = moments.chunk(2, dim=1)[0]
        share = torch.from_numpy(rng.uniform(0, self.recipe.noise, (len(mean), 1, 1, 1)).astype("float32")).to(mean)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, "float32")).to(mean)
        output: Tensor = self.student.decode(mean + share * self.deviation * noise).sample
        return output.float()

    def moments(self, pictures: Tensor) -> Tensor:
        """The teacher's posterior, mean and log-variance side by side: [B, 2C, H/f, W/f]."""
        with torch.no_grad():
            return self.teacher.encode(pictures).latent_dist.parameters.float()


def imitate_phase(studio: Studio, world: World, precision: torch.dtype) -> Phase:
    """The student's encoder on the teacher's posterior, E‖(μ' - μ)/σ‖² with σ each channel's deviation, and its decoder on L1 and edges."""
    recipe, student = studio.recipe, studio.student
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def imitate(turn: str, made: Any) -> Losses:
        shown = made[0].to(student.device)
        moments = studio.moments(shown)
        mean, logvar = (student.encode(shown).latent_dist.parameters.float() - moments).chunk(2, dim=1)
        encoded, narrow = (mean / studio.deviation).square().mean(), logvar.square().mean()
        output = studio.decoded(moments, made[1])
        drawn = picture_losses(output, shown)
        return {**drawn, "encoded": encoded, "loss": drawn["loss"] + encoded + 0.01 * narrow}

    return Phase(
        name="autoencoder/imitate",
        updates=recipe.updates,
        batch_size=recipe.batch_size,
        models={"autoencoder": student},
        optimizers={"student": optimizer},
        batch=lambda indices: batch(world, indices, recipe, int(student.config.sample_size), late(indices, recipe)),
        losses=imitate,
        learning_rate=lambda update: cosine(update, recipe.updates, warmup=30),
        averages={"autoencoder": Ema(student, recipe.ema)},
        clip=1.0,
        precision=precision,
        workers=spare(),
    )


def sharpen_phase(studio: Studio, world: World, precision: torch.dtype) -> Phase:
    """The decoder against a critic of patches that knows renders; the encoder stays."""
    recipe, student = studio.recipe, studio.student
    for parameter in (*student.encoder.parameters(), *student.quant_conv.parameters()):
        parameter.requires_grad_(False)

    def draw(made: Any) -> tuple[Tensor, Tensor]:
        shown = made[0].to(student.device)
        return shown, studio.decoded(studio.moments(shown), made[1])

    def crops(indices: range) -> Any:
        return batch(world, indices, recipe, int(student.config.sample_size))

    return recipe.contest.phase("autoencoder", student, student.decoder.conv_out.weight, draw, crops, recipe.batch_size, recipe.ema, precision)
