"""What a cache of scenes may be shared by."""

from __future__ import annotations

import dataclasses

from fewstep.distill.world import DataRecipe, identity, open_world


def test_a_source_that_moved_is_the_same_and_other_drawings_are_not() -> None:
    recipe = DataRecipe(subjects=6)
    world = open_world(recipe)
    assert identity(dataclasses.replace(recipe, source="elsewhere"), world) == identity(recipe, world)
    assert identity(dataclasses.replace(recipe, pictures=1), world) != identity(recipe, world)
    redrawn = [dataclasses.replace(subject, draw=other.draw) for subject, other in zip(world.subjects, world.subjects[::-1], strict=True)]
    assert identity(recipe, dataclasses.replace(world, subjects=tuple(redrawn))) != identity(recipe, world)
