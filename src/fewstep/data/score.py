"""How a picture looks, as a number: what the source says, or a function of whoever prepares the data, ``--scorer module:function``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from fewstep.data.filters import Look
from fewstep.engine.named import named
from fewstep.engine.request import RequestError


@dataclass(frozen=True)
class Score:
    """What was found out with the picture: the source's own scores, under its ``aesthetic`` and the like, unless a function of ``name`` was asked."""

    name: str = ""

    def __call__(self, look: Look) -> float | None:
        """The picture's score, None where there is none."""
        return look.score


@dataclass(frozen=True)
class Scorer(Score):
    """A function that takes a PIL image, the picture at the size that is trained on, and returns a number. Called in the main process, one by one."""

    function: Callable[[Image.Image], float] = lambda image: math.nan

    def __call__(self, look: Look) -> float | None:
        """What the function says. Raises RequestError if it fails, as it does when its weights are not there."""
        assert look.pixels is not None
        try:
            return float(self.function(Image.fromarray(look.pixels)))
        except Exception as problem:
            raise RequestError(f"--scorer {self.name} failed on {look.name} ({type(problem).__name__}: {problem}): mend it, or leave it out") from None


def load_scorer(name: str | None) -> Score:
    """The function that "module:function" names; the source's own scores without a name. Raises RequestError, saying why, if there is none."""
    if name is None:
        return Score()
    return Scorer(name, named("--scorer", name, "takes a picture and returns a number"))
