"""What the models are asked: held-out scenes by name, and keywords that many subjects share. The same list on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fewstep.data.emoji import COLOURS, Scene, World, article
from fewstep.data.places import PLACES

SEED = 500  # of the prompts, whatever the world's own
PICTURES = 16  # of each ambiguous prompt, with each group of seeds
GROUPS = 3  # of seeds: two models alike can be a tenth apart over one


@dataclass(frozen=True)
class Question:
    """A prompt and a scene that answers it. With a ``keyword``, so does any other subject that has it."""

    text: str
    scene: Scene
    keyword: str = ""


def held_out(world: World, count: int = 500, seed: int = SEED) -> list[Question]:
    """``count`` scenes from the combinations that training never sees: one subject by its Unicode name, and a background.

    Raises ValueError if the world holds nothing out.
    """
    asked = World(world.subjects, replace(world.dials, keyword=0.0, pair=0.0, bare=0.0), seed)
    backgrounds = [*(COLOURS if world.dials.place < 1 else ()), *(PLACES if world.dials.place > 0 else ())]
    combinations = (Scene(index, background) for index in range(len(world.subjects)) for background in backgrounds)
    if not any(asked.is_held_out(scene) for scene in combinations):
        raise ValueError(f"none of the {len(world.subjects)} subjects has a held-out background at dials.held_out = {world.dials.held_out}: raise it")

    def questions() -> Iterator[Question]:
        for index in range(count):
            rng = asked.rng(index)
            scene = asked.scene(rng, held_out=True)
            yield Question(asked.caption(scene, rng), scene)

    return list(questions())


def shared_keywords(world: World, least: int = 3) -> dict[str, frozenset[int]]:
    """Keywords that at least ``least`` subjects share, with those subjects' indices; the most shared first, then by alphabet."""
    owners: dict[str, set[int]] = {}
    for index in range(len(world.subjects)):
        for word in world.keywords(index):
            owners.setdefault(word, set()).add(index)
    shared = [(word, frozenset(indices)) for word, indices in owners.items() if len(indices) >= least]
    return dict(sorted(shared, key=lambda item: (-len(item[1]), item[0])))


def ambiguous(world: World, keywords: int = 8, pictures: int = PICTURES, seed: int = SEED) -> list[Question]:
    """``pictures`` questions in a row for each of the ``keywords`` most shared words, such as "a fruit on a white background".

    Their scenes show subjects that have the word, drawn evenly: what a model of perfect diversity would paint.
    """
    questions = []
    for word, subjects in list(shared_keywords(world).items())[:keywords]:
        rng = np.random.default_rng((seed, *word.encode()))
        colour = str(rng.choice(list(COLOURS)))
        text = f"{article(word)} on {article(colour)} background"
        questions += [Question(text, Scene(int(subject), colour), word) for subject in rng.choice(sorted(subjects), size=pictures)]
    return questions
