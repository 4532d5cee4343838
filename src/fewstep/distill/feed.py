"""What a run is fed: rendered scenes, encoded as it begins, or shards that were prepared before; the recipe's table ``data`` says which."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.data.emoji import World
from fewstep.data.encode import encoders_key
from fewstep.data.shards import Shards
from fewstep.distill import dist
from fewstep.distill.latents import Cache, Latents, Text, cache_key
from fewstep.distill.prepared import Prepared, prepared_text
from fewstep.distill.recipe import RecipeError
from fewstep.distill.state import Run
from fewstep.distill.teacher import FrozenText
from fewstep.distill.world import DataRecipe, identity, open_world, seen, words
from fewstep.models.bundle import Bundle


@dataclass(frozen=True)
class Feed:
    """Samples, their prompts, and what a model that learns from them can be asked for."""

    latents: Cache
    text: Text
    words: dict[str, list[str]]
    world: World | None = None  # of rendered scenes


def keep_to_model(run: Run, bundle: Bundle) -> None:
    """Have a ``run`` go on with the very weights that it began with. Raises RecipeError."""
    run.keep_to("the model", f"{bundle.hash}-{encoders_key(bundle)}", "put the model's files back as they were")


def open_feed(recipe: DataRecipe, run: Run, bundle: Bundle, precision: torch.dtype, batch_size: int) -> Feed:
    """The feed of a ``run`` that trains ``bundle`` in batches of ``batch_size``; renders and encodes what is missing.

    Raises RecipeError on a source that cannot be used, on shards of fewer pictures than a batch or other ones than the run began with, and ShardsError.
    """
    if not recipe.shards:
        world = open_world(recipe)
        run.keep_to("the scenes", hashlib.sha256(" ".join(seen(world)).encode()).hexdigest()[:12], "put data.source back as it was")
        key = cache_key(identity(recipe, world), bundle.vae, precision)
        latents = Latents(run.folder / "latents", world, bundle.vae, recipe.pictures, key, precision)
        return Feed(latents, FrozenText(bundle), words(world), world)
    shards = Shards(Path(recipe.shards), encoders_key(bundle), recipe.skip_corrupt)
    if (count := sum(shards.counts.values()) - shards.lost) < batch_size:
        raise RecipeError(f"data.shards: {recipe.shards} holds {count} pictures, fewer than a batch of {batch_size}: prepare more")
    if shards.skipped and dist.rank() == 0:
        names, stand = ", ".join(shards.skipped), f"; in place of {shards.lost} pictures others of their size are shown" if shards.lost else ""
        print(f"fewstep: damaged shards left out: {len(shards.skipped)} ({names}); {count} pictures are whole{stand}", file=sys.stderr)
    run.keep_to("the pictures", shards.identity, "put the shards back as they were")
    return Feed(Prepared(shards, recipe.seed, float(bundle.vae.config.scaling_factor)), prepared_text, bundle.words)
