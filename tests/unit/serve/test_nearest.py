"""What stock clients ask for becomes the nearest that the model has, and they are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.serve.fake import LIMITS, picture, settled

from fewstep.engine.request import ASPECTS, RequestError
from fewstep.serve.nearest import MOST_TEACHER_STEPS, nearest, quality_of, size_named, size_near, steps_from_image, steps_near

EMOJI = replace(LIMITS, native=256, factor=8)


@pytest.mark.parametrize(("asked", "used"), [(None, 4), (1, 1), (2, 2), (3, 4), (5, 4), (6, 8), (7, 8), (8, 8), (20, 8), (10**30, 8)])
def test_steps(asked: int | None, used: int) -> None:
    assert steps_near(LIMITS, asked) == used


@given(st.integers(1, 200), st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 16]), min_size=1, unique=True))
def test_no_other_step_count_is_nearer(asked: int, students: list[int]) -> None:
    limits = replace(LIMITS, students=tuple(sorted(students)))
    assert abs(steps_near(limits, asked) - asked) == min(abs(have - asked) for have in students)


@pytest.mark.parametrize(("asked", "used"), [(1, 16), (20, 20), (1000, MOST_TEACHER_STEPS)])
def test_a_teacher_alone_takes_its_own_number(asked: int, used: int) -> None:
    assert steps_near(replace(LIMITS, students=(), default_steps=32), asked) == used


@pytest.mark.parametrize(
    ("asked", "aspect"), [(None, "1:1"), ((512, 512), "1:1"), ((1024, 1536), "3:4"), ((1536, 1024), "4:3"), ((1792, 1024), "16:9"), ((1, 65536), "9:16")]
)
def test_sizes(asked: tuple[int, int] | None, aspect: str) -> None:
    assert size_near(EMOJI, asked) == EMOJI.size_of(aspect)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_training_size_is_its_own_nearest(aspect: str) -> None:
    assert size_near(EMOJI, EMOJI.size_of(aspect)) == EMOJI.size_of(aspect)


@pytest.mark.parametrize("size", [(0, 512), (-1, 1), (1 << 17, 512), (10**400, 1)])
def test_sizes_that_cannot_be(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="give sides from 1 to"):
        size_near(EMOJI, size)


def test_no_steps_are_refused() -> None:
    with pytest.raises(RequestError, match="above 0"):
        steps_near(LIMITS, 0)


def test_names_of_sizes() -> None:
    assert size_named("512x768") == (512, 768)
    assert size_named("auto") is size_named("") is size_named(None) is None
    with pytest.raises(RequestError, match="WIDTHxHEIGHT"):
        size_named("large")


def test_an_image_without_a_mask_needs_two_steps() -> None:
    assert [steps_from_image(LIMITS, steps, masked=False) for steps in (None, 1, 20)] == [4, 2, 20]
    assert steps_from_image(LIMITS, 1, masked=True) == 1
    with pytest.raises(RequestError, match="steps = 0"):
        nearest(LIMITS, steps_from_image(LIMITS, 0, masked=False), None)
    assert steps_from_image(replace(LIMITS, anywhere=frozenset({1})), 1, masked=False) == 1


def test_qualities() -> None:
    assert [quality_of(steps) for steps in LIMITS.students] == ["low", "low", "medium", "high"]


def test_what_was_changed_is_told_and_nothing_else() -> None:
    near = nearest(LIMITS, 20, (512, 512), guidance_scale=7.0, sampler="Euler a", scheduler="automatic", negative_prompt="ugly\néx")
    made = picture(settled(steps=near.steps), "full", 1, 0)
    assert near.changed(made) == {
        "steps": {"asked": 20, "used": 8},
        "size": {"asked": "512x512", "used": "64x64"},
        "guidance_scale": {"asked": 7.0, "used": 1.0},
        "sampler": {"asked": "Euler a", "used": "Euler"},
        "negative_prompt": {"asked": "ugly\néx", "used": None},
    }
    headers = near.headers(made)
    assert headers["X-Fewstep-Changed"] == (
        r"steps=20 used 8, size=512x512 used 64x64, guidance_scale=7 used 1, sampler=Euler a used Euler, negative_prompt=ugly\n\u00e9x used nothing"
    )
    assert (headers["X-Fewstep-Steps"], headers["X-Fewstep-Size"], headers["X-Fewstep-Seed"]) == ("8", "64x64", "1")
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    same = nearest(LIMITS, 4, (64, 64), guidance_scale=1, sampler="Euler", scheduler="SGM Uniform", negative_prompt="")
    assert same.changed(picture(settled(steps=4), "full", 1, 0)) == {}
