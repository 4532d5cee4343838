"""The world of scenes that a recipe describes, and the captions and words that come with it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.data.emoji import COLOURS, PAINTS, Dials, World
from fewstep.data.places import PLACES
from fewstep.data.subjects import BETWEEN, choose, read_subjects
from fewstep.distill.drawn import DRAWN, drawn_subjects
from fewstep.distill.ranges import Count, Seed
from fewstep.distill.recipe import ASIDE, RecipeError

COMPARED = 4  # scenes that tell one source's drawings from another's


@dataclass(frozen=True)
class DataRecipe:
    """Where the pictures come from and how wide their world is."""

    source: str = "shapes"  # a folder with emoji, NotoColorEmoji.ttf, "emoji" (as the embedded model draws them) or "shapes"
    subjects: int | str = 120  # how many: a number, "groups" or "all"
    pictures: Count = 10_240  # scenes whose latents are cached
    seed: Seed = 11
    dials: Dials = field(default_factory=Dials)
    # of pictures that fewstep data prepare made, instead; not in repr, which names what rendered scenes are cached under
    shards: str = field(default="", repr=False)  # their folder
    skip_corrupt: bool = field(default=False, repr=False, metadata=ASIDE)  # show others in place of damaged shards, with a count, instead of stopping

    def __post_init__(self) -> None:
        if self.skip_corrupt and not self.shards:
            raise ValueError("data.skip_corrupt goes with data.shards")
        if self.shards and dataclasses.replace(self, shards="", skip_corrupt=False, seed=DataRecipe.seed) != DataRecipe():
            raise ValueError(f"data.shards = {self.shards!r}: source, subjects, pictures and dials say what is rendered instead: leave them out")


def open_world(recipe: DataRecipe) -> World:
    """The recipe's world. Raises RecipeError if its source cannot be read or has too few subjects, or if it has shards instead."""
    if recipe.shards:
        raise RecipeError(f"data.shards = {recipe.shards!r}: this is trained on rendered scenes alone: leave it out")
    try:
        drawn = drawn_subjects(recipe.subjects) if recipe.source == DRAWN else choose(read_subjects(Path(recipe.source)), recipe.subjects)
        return World(tuple(drawn), recipe.dials, recipe.seed)
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(f"data.source: {error}") from None


def identity(recipe: DataRecipe, world: World) -> str:
    """What of the recipe and its source decides the scenes, wherever the source lies: runs of which it is the same may share what they cache."""
    return f"{dataclasses.replace(recipe, source='')} {' '.join(seen(world))}"


def seen(world: World) -> tuple[str, str]:
    """What of its source decides a world's scenes: the names of its subjects, and the hash of how a few scenes are drawn."""
    drawn = hashlib.sha256()
    for index in range(COMPARED):
        drawn.update(world.render(world.scene(world.rng(index)), 64, 64).tobytes())
    return str([subject.name for subject in world.subjects]), drawn.hexdigest()


def captions(world: World, count: int) -> Iterator[str]:
    """The captions of the first ``count`` scenes: what a vocabulary is made from."""
    for index in range(count):
        rng = world.rng(index)
        yield world.caption(world.scene(rng), rng)


def words(world: World) -> dict[str, list[str]]:
    """What a model of this world was taught to draw, for hints about prompts; the keywords of a subject are one text, with BETWEEN between them."""
    names = [subject.name for subject in world.subjects]
    places = list(PLACES) if world.dials.place else []
    phrases = [*names, *COLOURS, *(PLACES[place] for place in places), *(word for i in range(len(names)) for word in world.keywords(i))]
    phrases += ["a an small large background on to the left right of above below"]
    return {
        "subjects": names,
        "keywords": [BETWEEN.join(world.keywords(i)) for i in range(len(names))],
        "colours": list(COLOURS),
        "places": [PLACES[place] for place in places],
        "paints": list(PAINTS) if world.dials.repaint else [],
        "words": sorted({word for phrase in phrases for word in phrase.lower().split()}),
    }
