"""What the model does that is nearest to what stock clients ask for: 20 steps, guidance 7, "Euler a" and 512x512, whatever the model is.

The native API and the command line refuse instead. What was used is told in headers and in the answer, beside what was asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fewstep.engine.options import parse_size
from fewstep.engine.request import ASPECTS, TEACHER_STEPS, Limits, Picture, RequestError

MOST_TEACHER_STEPS = 50
LONGEST_SIDE = 1 << 16  # pixels
STEPS_OF_QUALITY = {"low": 1, "medium": 4, "standard": 4, "high": 8, "hd": 8, "xhigh": 8, "max": 8}
SAMPLER, SCHEDULER = "Euler", "SGM Uniform"  # the names under which other tools know the few-step sampler and its timesteps
UNSAID = (None, "", "auto", "automatic", "Automatic")  # values that leave the choice open


@dataclass(frozen=True)
class Nearest:
    """Steps and a size that the model has; ``asked`` is what there was asked for instead, by the name it was asked by."""

    steps: int
    width: int
    height: int
    asked: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, picture: Picture) -> dict[str, dict[str, Any]]:
        """{"steps": {"asked": 20, "used": 8}, …} of what was asked for and made otherwise. None is used of what the model does not have."""
        used = used_for(picture)
        told = {name: (given, used.get(name)) for name, given in self.asked.items() if given not in UNSAID}
        return {name: {"asked": given, "used": has} for name, (given, has) in told.items() if given != has}

    def headers(self, picture: Picture) -> dict[str, str]:
        """The headers of an answer with ``picture``: what was used, and in X-Fewstep-Changed what was asked for otherwise."""
        used = {**used_for(picture), "seed": picture.seed, "model": picture.model}
        told = {f"X-Fewstep-{name.replace('_', '-').title()}": _plain(value) for name, value in used.items()}
        changed = [f"{name}={_plain(both['asked'])} used {_plain(both['used'])}" for name, both in self.changed(picture).items()]
        return told | ({"X-Fewstep-Changed": ", ".join(changed)} if changed else {})


def nearest(limits: Limits, steps: int | None, size: tuple[int, int] | None, tile: str | None = None, **asked: Any) -> Nearest:
    """The nearest trained step count and the training size of the nearest shape. What is None is the model's own choice.

    ``asked`` is what else was asked for, to be told if it is not what is used: guidance_scale, sampler, scheduler, negative_prompt.
    Raises RequestError on steps or sides that are not above 0.
    """
    width, height = size_near(limits, size, tile)
    wanted = {"steps": steps, "size": size and f"{size[0]}x{size[1]}", **asked}
    return Nearest(steps_near(limits, steps), width, height, wanted)


def steps_near(limits: Limits, steps: int | None) -> int:
    """The step count among the students' that is nearest to ``steps``, of two the higher one; a teacher without students takes its own."""
    if steps is None:
        return limits.default_steps
    if steps < 1:
        raise RequestError(f"steps = {_plain(steps)}: give a whole number above 0")
    if limits.students:
        return min(limits.students, key=lambda have: (abs(have - steps), -have))
    return min(max(steps, TEACHER_STEPS.start), MOST_TEACHER_STEPS)


def steps_from_image(limits: Limits, steps: int | None, masked: bool) -> int | None:
    """``steps`` for a picture that begins from an image: without a mask at least 2, for one step leaves nothing of it, but where it begins anywhere."""
    wanted = limits.default_steps if steps is None else steps
    if wanted < 1:
        return steps  # which steps_near refuses
    return steps if masked else wanted if wanted in limits.anywhere else max(wanted, 2)


def size_near(limits: Limits, size: tuple[int, int] | None, tile: str | None = None) -> tuple[int, int]:
    """(width, height) that the model was trained on, or that a tile can have, of the shape that is nearest to that of ``size``."""
    if size is None:
        return limits.size_of("1:1", tile)
    if not all(1 <= side <= LONGEST_SIDE for side in size):
        raise RequestError(f"size {_plain(size[0])}x{_plain(size[1])}: give sides from 1 to {LONGEST_SIDE} pixels")
    shape = math.log(size[0] / size[1])
    aspect = min(ASPECTS, key=lambda aspect: abs(math.log(ASPECTS[aspect][0] / ASPECTS[aspect][1]) - shape))
    return limits.nearest(*limits.size_of(aspect, tile), tile)


def size_named(text: str | None) -> tuple[int, int] | None:
    """The size in "512x768"; None where the choice is left open. Raises RequestError on anything else."""
    return None if text is None or text in UNSAID else parse_size(text)


def quality_of(steps: int) -> str:
    """The quality that OpenAI's clients read for a number of steps."""
    return "low" if steps <= 2 else "medium" if steps <= 4 else "high"


def used_for(picture: Picture) -> dict[str, Any]:
    """What ``picture`` was made with, by the names it is asked for. A guidance scale of 1 is none, as other tools write it."""
    guidance = picture.record.guidance_scale or 1.0
    size, strength = f"{picture.width}x{picture.height}", {} if picture.record.strength is None else {"strength": picture.strength}
    negative = {} if picture.record.negative is None else {"negative_prompt": picture.record.negative}
    return {"steps": picture.steps, "size": size, "guidance_scale": guidance, "sampler": SAMPLER, "scheduler": SCHEDULER, **strength, **negative}


def _plain(value: Any) -> str:
    """A value for a header or a sentence: one short line of ASCII."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of many digits"
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else json.dumps(str(value))[1:-1][:100]
