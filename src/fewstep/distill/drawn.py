"""Subjects as the embedded model draws them itself: a source of pictures that needs no file, for trying distillation out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from PIL import Image

from fewstep.data.emoji import SIZES
from fewstep.data.subjects import BETWEEN, GROUPS, SIDE, Subject, choose, subject_of
from fewstep.engine.engine import Engine
from fewstep.engine.matte import cut_out
from fewstep.engine.request import Request
from fewstep.engine.words import read_words
from fewstep.zoo.registry import find

DRAWN = "emoji"  # the source's name
PROMPT, STEPS, SEED = "a {} on a blue background", 8, 3  # hardly a subject is blue


@cache
def drawn_subjects(dial: str | int) -> tuple[Subject, ...]:
    """The subjects that a setting of the dial opens (:func:`fewstep.data.subjects.choose`), drawn. Raises ValueError on a setting it has not."""
    words = read_words(find(DRAWN))
    known = zip(words["subjects"], words["keywords"], strict=True)
    chosen = choose([subject_of(name, GROUPS[-1], keywords.split(BETWEEN), lambda: np.zeros(0)) for name, keywords in known], dial)
    pictures = Engine.load(DRAWN, steps=STEPS).generate_many([Request(PROMPT.format(one.name), SEED) for one in chosen])
    drawings = [_drawing(picture.image) for picture in pictures]
    return tuple(replace(one, draw=drawing.copy) for one, drawing in zip(chosen, drawings, strict=True))


def _drawing(picture: Image.Image) -> np.ndarray:
    """Premultiplied RGBA, float32 [SIDE, SIDE, 4] in [0, 1]: what stands in the middle, where a scene puts its subject, cut out."""
    edge = round(picture.width * (1 - SIZES[""]) / 2)
    middle = cut_out(picture).crop((edge, edge, picture.width - edge, picture.height - edge))
    return np.asarray(middle.convert("RGBa").resize((SIDE, SIDE)), np.float32) / 255
