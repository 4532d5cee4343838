"""A ControlNet for edges: a copy of a teacher's encoder learns to follow the edges of the scenes, as one restartable run.

DIR/latents/             scenes, rendered and encoded once, and beside them their edges
DIR/weights/edges.safetensors
DIR/controlnet/          the ControlNet as it belongs into the model's folder
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fewstep.data.emoji import World
from fewstep.distill import dist
from fewstep.distill.ema import Ema
from fewstep.distill.feed import keep_to_model
from fewstep.distill.latents import SHARD, Latents, Samples, cache_key
from fewstep.distill.outline import Part, plain
from fewstep.distill.pretrain import attention, complete, dtype
from fewstep.distill.ranges import Count, Decay, Factor, Seed, Share
from fewstep.distill.recipe import read_recipe, recipe_hash
from fewstep.distill.schedules import cosine
from fewstep.distill.state import Run
from fewstep.distill.teacher import FrozenText, TeacherRecipe, denoising_losses
from fewstep.distill.trainer import Losses, Phase
from fewstep.distill.watch.watch import Watch
from fewstep.distill.workers import each, spare
from fewstep.distill.world import DataRecipe, identity, open_world
from fewstep.engine.control import OWN
from fewstep.engine.hints import edges
from fewstep.models.bundle import Bundle, load_bundle, save_network, save_weights
from fewstep.models.controlnet import build_controlnet, read, together
from fewstep.models.weights import read_weights
from fewstep.zoo.registry import find

KEY = "fewstep-controlnet"  # of the record in its metadata
DRAWN = 64  # scenes that are drawn at once for their edges


@dataclass(frozen=True)
class EdgesRecipe(TeacherRecipe):
    """How the ControlNet is trained: as a teacher is, with its layout."""

    updates: Count = 4000
    batch_size: Count = 32
    learning_rate: Factor = 5e-4
    ema: Decay = 0.998
    pure_noise: Share = 0.15  # few steps decide at T where everything is
    embedding: tuple[Count, ...] = (8, 16, 16, 32, 32)  # widths of the hint's network, from its full size to a latent position's


@dataclass(frozen=True)
class EdgesPlan:
    """A recipe for ``fewstep train`` that makes a ControlNet for edges."""

    trains: Literal["controlnet"] = "controlnet"
    model: str = "emoji"  # whose teacher it is to guide
    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    data: DataRecipe = field(default_factory=DataRecipe)
    edges: EdgesRecipe = field(default_factory=EdgesRecipe)


def train_edges(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the ControlNet's own folder. Goes on where it was stopped.

    Raises RecipeError, WeightsError or ModelError on what cannot be used, NonFinite if training diverges.
    """
    dist.start()
    plan = read_recipe(path, EdgesPlan, settings)
    dist.check(recipe_hash(plan), {"edges.batch_size": plan.edges.batch_size})
    run, finished = Run.of(plan, folder), folder / OWN
    if (finished / "config.json").is_file():
        return finished
    watch = Watch(run, edges_outline(plan))
    run.observers = watch.routines()
    bundle, world, precision = load_bundle(find(plan.model), dist.device()), open_world(plan.data), dtype(plan.precision)
    keep_to_model(run, bundle)
    for network in bundle.models.values():
        network.eval().requires_grad_(False)
    for network in (bundle.vae, bundle.unet):
        network.set_attn_processor(attention())
        network.to(memory_format=torch.channels_last)
    key = cache_key(identity(plan.data, world), bundle.vae, precision)
    latents = Latents(folder / "latents", world, bundle.vae, plan.data.pictures, key, precision)
    hints = Edges(latents, world, plan.data.pictures)
    torch.manual_seed(plan.seed)
    net = build_controlnet(bundle.unet, plan.edges.embedding)
    net.set_attn_processor(attention())
    net.to(memory_format=torch.channels_last)
    complete(run, edges_phase(net, bundle, hints, plan.edges, precision), "edges")
    if dist.rank() == 0:
        record = {"base": bundle.hash, "hint": "canny", "recipe": recipe_hash(plan), "pictures": plan.edges.updates * plan.edges.batch_size}
        save_network(net, finished, torch.float16, {"format": "pt", KEY: json.dumps(record, sort_keys=True)})
    watch.finish()
    dist.wait()
    return finished


def edges_outline(plan: EdgesPlan) -> tuple[Part, ...]:
    """The one phase of a ControlNet's training."""
    return plain("controlnet", ("edges/follow", plan.edges.updates, plan.edges.batch_size))


def edges_phase(net: Any, bundle: Bundle, hints: Edges, recipe: EdgesRecipe, precision: torch.dtype) -> Phase:
    """The teacher's own loss, E‖ε - f(x_t, t, c, net(x_t, t, c, edges))‖², by the weights of ``net`` alone (arXiv 2302.05543, equation 5)."""
    unet, text = bundle.unet, FrozenText(bundle)

    def losses(turn: str, batch: tuple[Samples, Tensor]) -> Losses:
        samples, hint = batch

        def predict(x: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
            output: Tensor = unet(x, t, **condition, **together([read(net, x, t, condition, hint)])).sample
            return output

        return denoising_losses(samples, text(samples), recipe, predict)

    return Phase(
        name="edges/follow",
        updates=recipe.updates,
        batch_size=recipe.batch_size,
        models={"net": net},
        optimizers={"student": torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)},
        batch=lambda indices: hints.batch(indices, recipe.batch_size, bundle.vae.config.scaling_factor, bundle.device),
        losses=losses,
        learning_rate=lambda update: cosine(update, recipe.updates, warmup=200),
        averages={"net": Ema(net, recipe.ema)},
        clip=1.0,
        precision=precision,
    )


class Edges:
    """Canny's edges of cached scenes, a bit a pixel, in the latents' folder. Opening it makes what is missing; they go where the latents go."""

    def __init__(self, latents: Latents, world: World, count: int) -> None:
        self.latents = latents
        bits: dict[tuple[int, int], list[Tensor]] = {}
        shards = list(range(0, count, SHARD))
        for first in shards[dist.rank() :: dist.world()]:
            if not self._shard(first).is_file():
                self._draw(world, range(first, min(first + SHARD, count)))
        dist.wait()
        for first in shards:
            bits.setdefault(self._size(first), []).append(read_weights(self._shard(first))["edges"])
        self._bits = {size: torch.cat(parts) for size, parts in bits.items()}

    def batch(self, indices: range, batch_size: int, scale: float, device: torch.device) -> tuple[Samples, Tensor]:
        """(the samples with these global indices, their hints [B, 3, H, W]). All of one batch come from one bucket, drawn by how full it is."""
        counts, seed = self.latents.counts, self.latents.seed
        sizes = sorted(counts)
        shares = np.array([counts[size] for size in sizes]) / sum(counts.values())
        size = sizes[int(np.random.default_rng((seed, 2, indices[0] // batch_size)).choice(len(sizes), p=shares))]
        rows = [int(np.random.default_rng((seed, 3, index)).integers(counts[size])) for index in indices]
        return self.latents.rows(size, rows, indices, scale, device), self.hints(size, rows).to(device)

    def hints(self, size: tuple[int, int], rows: Sequence[int]) -> Tensor:
        """The edges of cached pictures of the bucket ``size``, white on black: float [B, 3, H, W] in [0, 1]."""
        lines = torch.from_numpy(np.unpackbits(self._bits[size][list(rows)].numpy(), axis=-1)).float()
        return lines[:, None].expand(-1, 3, -1, -1)

    def _shard(self, first: int) -> Path:
        return self.latents.folder / f"edges-{first:07d}.safetensors"

    def _size(self, first: int) -> tuple[int, int]:
        width, height = json.loads((self.latents.folder / f"{first:07d}.json").read_text(encoding="utf8"))["size"]
        return width, height

    def _draw(self, world: World, indices: range) -> None:
        few = [range(start, min(start + DRAWN, indices.stop)) for start in range(indices.start, indices.stop, DRAWN)]
        drawn = each(partial(_edges, world, self._size(indices.start)), few, spare())
        save_weights({"edges": torch.from_numpy(np.concatenate(list(drawn)))}, self._shard(indices.start), {"format": "pt"})


def _edges(world: World, size: tuple[int, int], indices: range) -> np.ndarray:
    """The edges of scenes, packed: uint8 [N, H, W / 8]."""
    scenes = [world.render(world.scene(world.rng(index)), *size) for index in indices]
    return np.packbits(np.stack([edges(scene) for scene in scenes]), axis=-1)
