"""Pictures that have to be the same: how far two are apart, and what every backend is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep.engine.request import ASPECTS, Request

BOUND = 2  # of 255, between backends that compute in float32
STEPS = (1, 2, 4, 8, 16)
EVERY: list[Any] = [  # step count in every shape, of which the slow tests ask most
    *(Request("a ghost on a purple background", 3, steps) for steps in STEPS),
    *(Request("", 4, 1, aspect=aspect) for aspect in ASPECTS),
    *(
        pytest.param(Request("a ghost on a purple background", 3, steps, aspect=aspect), marks=pytest.mark.slow)
        for steps in STEPS
        for aspect in ASPECTS
        if aspect != "1:1"
    ),
]


def named(request: Request) -> str:
    """A request of EVERY, as the name of a test."""
    return f"{request.steps} steps {request.aspect or 'native'}"


def difference(one: Any, other: Any) -> int:
    """The largest between two images, or two results' images, of 255."""
    first, second = (np.asarray(getattr(picture, "image", picture), dtype=int) for picture in (one, other))
    return int(np.abs(first - second).max())
