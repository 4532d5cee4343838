"""From nothing to a teacher, as one restartable run: autoencoder, text encoders, cached latents, UNet.

DIR/weights/{autoencoder,text,unet}.safetensors     each when its phase is done
DIR/latents/                                        scenes, rendered and encoded once
DIR/model/                                          the finished bundle
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from fewstep.data.emoji import World
from fewstep.distill import dist
from fewstep.distill.autoencoder import AutoencoderRecipe, reconstruct_phase, whole_latents
from fewstep.distill.feed import keep_to_model, open_feed
from fewstep.distill.latents import to_tensor
from fewstep.distill.linear_start import linear_start
from fewstep.distill.outline import Part, plain
from fewstep.distill.plan import TrackingRecipe
from fewstep.distill.ranges import Count, Seed, Weight
from fewstep.distill.recipe import ASIDE, RecipeError, read_recipe, recipe_hash
from fewstep.distill.sharding import fill, gather
from fewstep.distill.state import Run
from fewstep.distill.teacher import TeacherRecipe, teacher_phase
from fewstep.distill.text import TextRecipe, TextTowers, text_phase
from fewstep.distill.trainer import Phase, Routine, train
from fewstep.distill.watch.watch import Watch
from fewstep.distill.world import DataRecipe, captions, open_world
from fewstep.models.bundle import Bundle, load_bundle, save_bundle, save_weights
from fewstep.models.miniature import Shape, build_bundle
from fewstep.models.weights import read_weights
from fewstep.stamp import Stamp
from fewstep.zoo.registry import find

LOOKED_AT = 96  # pictures that the autoencoder's linear start is measured on


@dataclass(frozen=True)
class TeacherPlan:
    """A recipe for ``fewstep train``."""

    trains: Literal["teacher"] = "teacher"
    start: str = ""  # a finished model to go on from: its autoencoder and text encoders stay, its UNet learns on; empty: all from nothing
    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of activations; auto: bfloat16 where the processor multiplies it natively
    guidance_scale: Weight = 4.0  # that the teacher is sampled with
    vocabulary_captions: Count = 20_000
    data: DataRecipe = field(default_factory=DataRecipe)
    shape: Shape = field(default_factory=Shape)
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    text: TextRecipe = field(default_factory=TextRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    tracking: TrackingRecipe = field(default_factory=TrackingRecipe, metadata=ASIDE)

    def __post_init__(self) -> None:
        if self.start and (self.shape, self.autoencoder, self.text) != (Shape(), AutoencoderRecipe(), TextRecipe()):
            raise ValueError(f"start = {self.start!r}: shape, autoencoder and text are that model's own: leave them out")
        whole_latents(self.autoencoder.crop, self.shape.autoencoder_channels)
        if self.data.shards and not self.start:
            raise ValueError(f"data.shards = {self.data.shards!r}: name the model that encoded them as start: only its UNet can be trained on them")


def train_teacher(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the finished bundle's folder. Goes on where it was stopped.

    Raises RecipeError on a recipe that cannot be used, or a folder that holds another run, NonFinite if training diverges.
    """
    dist.start()
    plan = read_recipe(path, TeacherPlan, settings)
    dist.check(
        recipe_hash(plan),
        {f"{part}.batch_size": getattr(plan, part).batch_size for part in (("teacher",) if plan.start else ("autoencoder", "text", "teacher"))},
    )
    run = Run.of(plan, folder)
    model = folder / "model"
    if (model / "model_index.json").is_file():
        return model
    watch = Watch(run, teacher_outline(plan), tracking=plan.tracking)
    run.observers = watch.routines()
    precision = dtype(plan.precision)
    bundle = load_bundle(find(plan.start), dist.device()) if plan.start else _foundation(run, plan, open_world(plan.data), precision)
    before = bundle.stamp.pictures
    if plan.start:
        keep_to_model(run, bundle)
    bundle.unet.train().requires_grad_(True)
    for network in (bundle.vae, bundle.unet):
        network.set_attn_processor(attention())
        network.to(memory_format=torch.channels_last)
    for network in (bundle.vae, bundle.text_encoder, bundle.text_encoder_2):
        network.eval().requires_grad_(False)

    feed = open_feed(plan.data, run, bundle, precision, plan.teacher.batch_size)
    bundle.vae.register_to_config(scaling_factor=1 / feed.latents.spread)
    complete(run, teacher_phase(bundle, feed.latents, feed.text, plan.teacher, precision), "unet")
    bundle.words = feed.words
    seen = before + plan.teacher.updates * plan.teacher.batch_size
    bundle.stamp = Stamp("teacher", 32, guidance_scale=plan.guidance_scale, base=bundle.hash, recipe=recipe_hash(plan), stage="teacher", pictures=seen)
    if dist.rank() == 0:
        save_bundle(bundle, model)
    watch.finish()
    dist.wait()
    return model


def teacher_outline(plan: TeacherPlan) -> tuple[Part, ...]:
    """The phases that ``fewstep train`` carries out for a teacher."""
    unet = plain("unet", ("teacher/denoise", plan.teacher.updates, plan.teacher.batch_size))
    if plan.start:
        return unet
    autoencoder = plain("autoencoder", ("autoencoder/reconstruct", plan.autoencoder.updates, plan.autoencoder.batch_size))
    return (*autoencoder, *plain("text", ("text/contrast", plan.text.updates, plan.text.batch_size)), *unet)


def _foundation(run: Run, plan: TeacherPlan, world: World, precision: torch.dtype) -> Bundle:
    """A bundle whose autoencoder and text encoders are trained, and whose UNet is not."""
    wide = World(world.subjects, plan.text.dials, plan.seed + 1)
    try:
        bundle = build_bundle(plan.shape, captions(wide, plan.vocabulary_captions), plan.seed)
    except (ValueError, RuntimeError) as error:  # the networks' own checks
        raise RecipeError(f"shape: {error}") from None
    bundle.vae.set_attn_processor(attention())
    bundle.vae.to(memory_format=torch.channels_last)
    crops = World(world.subjects, plan.autoencoder.dials, plan.seed + 2)
    if "autoencoder/reconstruct" not in run.state.done:
        linear_start(bundle.vae, pictures(crops, bundle))
    for network in bundle.models.values():
        network.to(dist.device())
    complete(run, reconstruct_phase(bundle.vae, crops, plan.autoencoder, precision), "autoencoder")
    complete(run, text_phase(TextTowers(bundle).to(dist.device()), wide, plan.text, precision), "text")
    return bundle


def complete(run: Run, phase: Phase, name: str, routines: Sequence[Routine] = (), save_seconds: float = 120.0) -> None:
    """Train ``phase`` to its end, leave its models in DIR/weights/NAME.safetensors, and go on from that file, averages in place."""
    path = run.folder / "weights" / f"{name}.safetensors"
    if phase.name not in run.state.done:
        train(run, phase, [*routines, *run.observers], save_seconds)
        for model, average in phase.averages.items():
            average.copy_to(phase.models[model])
        tensors = gather({f"{name}/{key}": value for name, network in phase.models.items() for key, value in network.state_dict().items()})
        if dist.rank() == 0:
            save_weights(tensors, path, {"format": "pt"})
        run.finish()
    tensors = read_weights(path)
    for model, network in phase.models.items():
        fill(network, {key.removeprefix(f"{model}/"): value for key, value in tensors.items() if key.startswith(f"{model}/")})


def pictures(world: World, bundle: Bundle) -> torch.Tensor:
    """Scenes to start the autoencoder from, [LOOKED_AT, 3, side, side] in [-1, 1]; their indices are out of training's way."""
    side = bundle.factor * int(bundle.unet.config.sample_size)
    scenes = [world.render(world.scene(world.rng(2**40 + i)), side, side) for i in range(LOOKED_AT)]
    return to_tensor(np.stack(scenes))


def attention(accelerator: bool | None = None) -> AttnProcessor | AttnProcessor2_0:
    """How a network in training attends: fused on an ``accelerator``, by default where there is one, for the plain products of a large picture
    do not fit; by plain products on a processor, where torch's fused attention takes a third of the time going backwards.
    """
    accelerator = torch.cuda.is_available() if accelerator is None else accelerator
    return AttnProcessor2_0() if accelerator else AttnProcessor()


def dtype(precision: str) -> torch.dtype:
    """The dtype of activations. "auto" takes bfloat16 on an accelerator and on processors with AMX, where it is several times faster."""
    if precision == "auto":
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
        precision = "bfloat16" if torch.cuda.is_available() or "amx_bf16" in flags else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
