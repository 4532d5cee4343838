"""What a cache of scenes may be shared by, and what a model is told of its world."""

from __future__ import annotations

import dataclasses

from fewstep.distill.world import DataRecipe, identity, open_world, words
from fewstep.evals.prompts import shared_keywords


def test_a_source_that_moved_is_the_same_and_other_drawings_are_not() -> None:
    recipe = DataRecipe(subjects=6)
    world = open_world(recipe)
    assert identity(dataclasses.replace(recipe, source="elsewhere"), world) == identity(recipe, world)
    assert identity(dataclasses.replace(recipe, pictures=1), world) != identity(recipe, world)
    redrawn = [dataclasses.replace(subject, draw=other.draw) for subject, other in zip(world.subjects, world.subjects[::-1], strict=True)]
    assert identity(recipe, dataclasses.replace(world, subjects=tuple(redrawn))) != identity(recipe, world)


def test_the_embedded_model_passes_its_keywords_on_to_who_learns_from_its_drawings() -> None:
    world = open_world(DataRecipe(source="emoji", subjects=5))
    assert [subject.name for subject in world.subjects] == ["red apple", "banana", "strawberry", "watermelon", "pizza"]
    assert shared_keywords(world) == {"fruit": frozenset(range(4))}
    told = words(world)
    assert told["keywords"][:2] == ["apple | fruit", "fruit"] and len(told["keywords"]) == len(told["subjects"])
    assert {"fruit", "banana"} <= set(told["words"])
