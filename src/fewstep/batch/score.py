"""How well a picture shows its prompt: by the judge of the embedded model, or by CLIP. Both need torch."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewstep.batch.make import Score
from fewstep.engine.request import RequestError
from fewstep.engine.words import split

if TYPE_CHECKING:
    from PIL.Image import Image

SCORES = ("judge", "clip")


def scorer(name: str | None, folder: Path) -> Score | None:
    """What scores pictures of the model in ``folder``, None where nobody asked. Raises RequestError where what it takes is not here."""
    if name == "clip":
        from fewstep.evals.clip import clip_score
        from fewstep.models.weights import WeightsError

        try:
            return clip_score()
        except WeightsError as error:
            raise RequestError(f"--score clip: {error}") from None
    return judged(folder) if name else None


def later(name: str | None, folder: Path) -> Score | None:
    """The same, loaded for the first picture that it scores: where other machines score what they make, there may be none."""
    once = cache(partial(scorer, name, folder))

    def score(image: Image, prompt: str) -> float | None:
        there = once()
        return there(image, prompt) if there else None

    return score if name else None


def judged(folder: Path) -> Score:
    """The probability that the judge in a model's ``folder`` sees the subject that a prompt names: 0 to 1, None where it names none.

    Of several subjects the one with the longest name counts. Raises RequestError where there is no judge, WeightsError on a damaged one.
    """
    import torch

    from fewstep.evals.judge import JUDGE, load_judge, look

    if not (folder / JUDGE).is_file():
        raise RequestError(f"--score judge: {folder.name} has no {JUDGE}; leave it away, or train one with fewstep train")
    judge = load_judge(folder / JUDGE)
    subjects = sorted(enumerate(" ".join(split(name)) for name in judge.subjects), key=lambda one: -len(one[1]))

    def score(image: Image, prompt: str) -> float | None:
        said = f" {' '.join(split(prompt))} "
        meant = next((index for index, name in subjects if f" {name} " in said), None)
        if meant is None:
            return None
        of_subject, _ = judge.classify(look(judge, np.array(image.convert("RGB"))[None]))
        return round(float(torch.softmax(of_subject[0], dim=0)[meant]), 4)

    return score
