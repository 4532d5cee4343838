"""What to try next is a command that makes what it says."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from fewstep.engine.record import Record
from fewstep.engine.request import Limits, Picture, Request
from fewstep.engine.summary import next_step

LIMITS = Limits("emoji", 16, 256, (1, 2, 4, 8), True, 4)


def after(request: Request, size: tuple[int, int] = (256, 256), drawn: str | None = None) -> list[str]:
    record = Record(drawn or request.prompt, 3, request.steps or 4, *size, "emoji", "0" * 12, 0.0, "0", "eager", "cpu", 1)
    return next_step(Picture(Image.new("RGB", size), 3, record.steps, *size, "emoji", {}, record), request, LIMITS)


def test_a_prompt_alone_is_followed_by_fewer_steps_or_more_pictures() -> None:
    assert after(Request("a fox")) == ["the same in fewer steps: fewstep generate 'a fox' --seed 3 --steps 2"]
    assert after(Request("a fox", steps=1)) == ["four more: fewstep generate 'a fox' --count 4"]
    assert after(Request("a fox", width=320, height=192), (320, 192)) == ["the same in fewer steps: fewstep generate 'a fox' --size 320x192 --seed 3 --steps 2"]


@pytest.mark.parametrize(
    "more",
    [
        {"transparent": True},
        {"literal": True},
        {"guidance_scale": 3.0},
        {"crop": (8, 8)},
        {"negative": "a dog"},
        {"image": Image.new("L", (9, 9))},
        {"tile": "x"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_else_was_asked_for_is_not_left_out(more: dict[str, Any]) -> None:
    assert after(Request("a fox", **more)) == []


def test_a_prompt_that_was_drawn_or_that_a_terminal_obeys_is_not_repeated() -> None:
    assert after(Request("a {fox|owl}"), drawn="a fox") == []
    assert after(Request("a fox\x1b[2J")) == []
