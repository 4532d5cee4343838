"""What a run is fed: rendered scenes, encoded as it begins, or shards that were prepared before; the recipe's table ``data`` says which."""

from __future__ import annotations

import json
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
from fewstep.distill.state import write_text
from fewstep.distill.teacher import FrozenText
from fewstep.distill.world import DataRecipe, identity, open_world, words
from fewstep.models.bundle import Bundle

NOTE = "data.json"  # in a run's folder: which prepared pictures it began with


@dataclass(frozen=True)
class Feed:
    """Samples, their prompts, and what a model that learns from them can be asked for."""

    latents: Cache
    text: Text
    words: dict[str, list[str]]
    world: World | None = None  # of rendered scenes


def open_feed(recipe: DataRecipe, folder: Path, bundle: Bundle, precision: torch.dtype, batch_size: int) -> Feed:
    """The feed of a run in ``folder`` that trains ``bundle`` in batches of ``batch_size``; renders and encodes what is missing.

    Raises RecipeError on a source that cannot be used, on shards of fewer pictures than a batch or other ones than the run began with, and ShardsError.
    """
    if not recipe.shards:
        world = open_world(recipe)
        key = cache_key(identity(recipe, world), bundle.vae, precision)
        latents = Latents(folder / "latents", world, bundle.vae, recipe.pictures, key, precision)
        return Feed(latents, FrozenText(bundle), words(world), world)
    shards = Shards(Path(recipe.shards), encoders_key(bundle), recipe.skip_corrupt)
    if (count := sum(shards.counts.values())) < batch_size:
        raise RecipeError(f"data.shards: {recipe.shards} holds {count} pictures, fewer than a batch of {batch_size}: prepare more")
    if shards.skipped and dist.rank() == 0:
        print(f"fewstep: damaged shards left out: {len(shards.skipped)} ({', '.join(shards.skipped)}); {count} pictures are whole", file=sys.stderr)
    _same_pictures(folder, shards.identity)
    return Feed(Prepared(shards, recipe.seed, float(bundle.vae.config.scaling_factor)), prepared_text, bundle.words)


def _same_pictures(folder: Path, identity: str) -> None:
    """Note in a new run which pictures it is fed; raise RecipeError in one that began with others."""
    path, content = folder / NOTE, json.dumps({"shards": identity})
    if path.is_file() and path.read_text() != content:
        raise RecipeError(f"{folder} began with other pictures ({path.read_text()}, not {content}): put the shards back as they were, or give another --run")
    dist.wait()
    if dist.rank() == 0:
        write_text(path, content)
