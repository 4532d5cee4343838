"""Scenes: a function of (seed, index), never one that training is not to see, and the caption says what the picture shows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest

from fewstep.data.buckets import BUCKETS
from fewstep.data.emoji import COLOURS, PAINTS, SIDES, Dials, Scene, World, article, repainted
from fewstep.data.places import PLACES
from fewstep.data.subjects import SIDE, Subject

OPEN = Dials(keyword=0.4, sized=0.3, place=0.3, repaint=0.3, pair=0.1, bare=0.05, flip=0.3, turn=10.0, shift=0.05, held_out=0.2)


def disc(colour: tuple[float, float, float]) -> Callable[[], np.ndarray]:
    """A drawing of one disc, premultiplied, with a hard edge."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    inside = ((rows - SIDE / 2 + 0.5) ** 2 + (columns - SIDE / 2 + 0.5) ** 2 < (0.45 * SIDE) ** 2).astype(np.float32)[..., None]
    drawing = np.concatenate([np.float32(colour) * inside, inside], axis=-1, dtype=np.float32)
    return lambda: drawing


# colours that no background has
CYAN, LIME, MAROON = (0.0, 1.0, 1.0), (0.5, 1.0, 0.0), (0.4, 0.0, 0.0)
SUBJECTS = (
    Subject("fox", "Animals & Nature", ("animal", "face", "orange"), disc(CYAN)),
    Subject("owl", "Animals & Nature", ("animal", "bird", "wise", "fox"), disc(LIME)),
    Subject("red apple", "Food & Drink", ("fruit",), disc(MAROON)),
)
WORLD = World(SUBJECTS, Dials(), seed=3)


def where(picture: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Row and column of each pixel that is nearly ``colour``: [N, 2]."""
    return np.argwhere(np.abs(picture.astype(float) - 255 * np.array(colour)).max(axis=-1) < 12)


def test_colours_are_the_ones_that_are_promised() -> None:
    assert COLOURS == {
        "red": (220, 50, 50),
        "green": (60, 170, 80),
        "blue": (50, 90, 210),
        "yellow": (250, 215, 60),
        "white": (255, 255, 255),
        "black": (20, 20, 20),
        "purple": (140, 70, 180),
        "orange": (245, 140, 40),
        "pink": (250, 160, 190),
        "gray": (150, 150, 150),
    }


@pytest.mark.parametrize("dials", [Dials(), OPEN])
def test_a_scene_is_a_function_of_seed_and_index(dials: Dials) -> None:
    def sample(world: World, index: int) -> tuple[Scene, str, bytes]:
        rng = world.rng(index)
        scene = world.scene(rng)
        return scene, world.caption(scene, rng), world.render(scene, 64, 64).tobytes()

    world, other = World(SUBJECTS, dials, 7), World(SUBJECTS, dials, 8)
    forwards = [sample(world, index) for index in range(24)]
    backwards = [sample(World(SUBJECTS, dials, 7), index) for index in reversed(range(24))]
    assert forwards == backwards[::-1]
    assert len({scene for scene, _, _ in forwards}) > 16
    assert [scene for scene, _, _ in forwards] != [sample(other, index)[0] for index in range(24)]


def combinations(scene: Scene) -> set[tuple[int, str, str]]:
    """Of all subjects that a scene shows."""
    second = {(scene.other, scene.background, "")} if scene.other is not None else set()
    return {(scene.subject, scene.background, scene.paint), *second}


def test_training_never_sees_what_is_held_out() -> None:
    world, other = World(SUBJECTS, OPEN, 0), World(SUBJECTS, OPEN, 99)
    seen = set().union(*(combinations(world.scene(world.rng(index))) for index in range(4000)))
    asked = [other.scene(other.rng(index), held_out=True) for index in range(1000)]
    held = set().union(*(combinations(scene) for scene in asked if scene.other is None))
    assert seen and held and not seen & held  # and the seed does not matter
    assert {background for _, background, _ in held} & set(COLOURS) and {background for _, background, _ in held} & set(PLACES)
    assert len(held) / len(seen | held) == pytest.approx(OPEN.held_out, abs=0.05)


def test_nothing_is_held_out_when_the_dial_is_shut() -> None:
    world = World(SUBJECTS, dataclasses.replace(OPEN, held_out=0.0))
    assert not any(world.is_held_out(world._draw(world.rng(index))) for index in range(500))


@pytest.mark.parametrize(("share", "held_out"), [(0.0, True), (1.0, False)])
def test_a_scene_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, share: float, held_out: bool) -> None:
    draws = iter(range(2000))
    drawn = Scene(subject=0, background="blue")
    monkeypatch.setattr(World, "_draw", lambda self, rng: drawn if next(draws, None) is not None else pytest.fail("searches for ever"))
    world = World(SUBJECTS, Dials(held_out=share))
    with pytest.raises(ValueError, match="held_out"):
        world.scene(world.rng(0), held_out=held_out)


@pytest.mark.parametrize("background", COLOURS)
@pytest.mark.parametrize(("width", "height"), BUCKETS)
def test_the_background_is_the_colour_that_the_caption_names(background: str, width: int, height: int) -> None:
    world = World(SUBJECTS, Dials(bare=0.0, keyword=0.0))
    scene = Scene(subject=0, background=background)
    caption = world.caption(scene, world.rng(1))
    assert set(re.findall(r"\w+", caption)) & set(COLOURS) == {background} and "fox" in caption
    picture = world.render(scene, width, height)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    for corner in (picture[0, 0], picture[0, -1], picture[-1, 0], picture[-1, -1]):
        assert tuple(int(value) for value in corner) == COLOURS[background]


def test_captions_say_all_that_the_scene_has() -> None:
    world = World(SUBJECTS, dataclasses.replace(OPEN, bare=0.0))
    for index in range(600):
        rng = world.rng(index)
        scene = world.scene(rng)
        caption = world.caption(scene, rng)
        nouns = {SUBJECTS[scene.subject].name, *world.keywords(scene.subject)}
        assert any(noun in caption for noun in nouns)
        for part in (scene.size, scene.paint, PLACES.get(scene.background, scene.background)):
            assert part in caption
        if scene.other is not None:
            assert scene.relation in SIDES and scene.relation in caption and SUBJECTS[scene.other].name in caption
        assert not re.search(r"\ba [aeio]|\ban [^aeiou]|  ", caption), caption


def test_a_bare_caption_names_no_background() -> None:
    world = World(SUBJECTS, Dials(bare=1.0, keyword=0.0))
    assert world.caption(Scene(subject=0, background="blue", size="small"), world.rng(0)) == "a small fox"


def test_keywords_that_mean_another_subject_or_a_colour_are_not_used() -> None:
    assert WORLD.keywords(0) == ("animal", "face")
    assert WORLD.keywords(1) == ("animal", "bird", "wise")


def test_shares_are_the_dials() -> None:
    world = World(SUBJECTS, dataclasses.replace(OPEN, held_out=0.0))
    scenes = [world.scene(world.rng(index)) for index in range(6000)]
    paired = [scene for scene in scenes if scene.other is not None]
    assert np.mean([scene.background in PLACES for scene in scenes]) == pytest.approx(OPEN.place, abs=0.02)
    assert np.mean([scene.flip for scene in scenes]) == pytest.approx(OPEN.flip, abs=0.02)
    assert len(paired) / len(scenes) == pytest.approx(OPEN.pair * 2 / 3, abs=0.015)  # one draw in three is of the subject itself
    assert np.mean([bool(scene.paint) for scene in scenes if scene.subject != 2]) == pytest.approx(OPEN.repaint, abs=0.03)
    assert not any(scene.paint == scene.background for scene in scenes if scene.paint)
    assert not any(scene.paint for scene in scenes if scene.subject == 2)  # "a green red apple" teaches nothing
    assert not any(scene.size for scene in paired)


def test_small_plain_and_large_are_in_that_order() -> None:
    areas = [len(where(WORLD.render(Scene(subject=0, background="black", size=size), 256, 256), CYAN)) for size in ("small", "", "large")]
    assert areas[0] < 0.5 * areas[1] and areas[1] < 0.75 * areas[2]


@pytest.mark.parametrize(("width", "height"), BUCKETS)
@pytest.mark.parametrize("relation", SIDES)
def test_two_subjects_stand_as_the_caption_says(relation: str, width: int, height: int) -> None:
    picture = WORLD.render(Scene(subject=0, background="white", other=1, relation=relation), width, height)
    first, second = (where(picture, colour).mean(axis=0) for colour in (CYAN, LIME))
    down, right = (first - second) / min(width, height)
    if relation in ("above", "below"):
        assert (down < -0.25) == (relation == "above") and abs(right) < 0.02 and abs(down) > 0.25
    else:
        assert (right < -0.25) == (relation == "to the left of") and abs(down) < 0.02 and abs(right) > 0.25


def test_the_subject_is_in_the_middle_and_shift_moves_it() -> None:
    centred = where(WORLD.render(Scene(subject=0, background="white"), 256, 256), CYAN).mean(axis=0)
    moved = where(WORLD.render(Scene(subject=0, background="white", shift=(0.1, -0.05)), 256, 256), CYAN).mean(axis=0)
    np.testing.assert_allclose(centred, [127.5, 127.5], atol=1)
    np.testing.assert_allclose(moved - centred, [-0.05 * 256, 0.1 * 256], atol=1)


def test_flip_is_a_mirror() -> None:
    half = np.zeros((SIDE, SIDE, 4), np.float32)
    half[:, : SIDE // 2] = 1.0  # the left half is white
    world = World((Subject("half", "Objects", (), lambda: half),))
    plain, flipped = (world.render(Scene(subject=0, background="black", flip=flip), 100, 100) for flip in (False, True))
    np.testing.assert_array_equal(flipped, plain[:, ::-1])


def test_a_subject_has_the_same_colours_at_every_size() -> None:
    """Resizing premultiplied drawings leaves no dark or light rim: every pixel lies between subject and background."""
    for side in (64, 100, 256):
        picture = WORLD.render(Scene(subject=2, background="white"), side, side).astype(float) / 255
        share = 1 - picture[..., 1]  # maroon has no green, white all of it
        expected = share[..., None] * np.array(MAROON) + (1 - share[..., None])
        np.testing.assert_allclose(picture, expected, atol=2 / 255)


def test_every_subject_keeps_its_own_drawing() -> None:
    """Worlds come and go, and a drawing that was kept for one subject is not taken for another's."""
    for step in range(40):
        colour = (step / 40, 1.0 - step / 40, 1.0)
        world = World((Subject(f"subject {step}", "Objects", (), disc(colour)),))
        centre = world.render(Scene(subject=0, background="black"), 64, 64)[32, 32]
        np.testing.assert_allclose(centre, 255 * np.array(colour), atol=1.5)


@pytest.mark.parametrize("paint", PAINTS)
def test_repainting_keeps_black_and_white_and_gives_the_middle_the_colour(paint: str) -> None:
    colour = np.array(COLOURS[paint]) / 255
    middle = float(colour @ [0.299, 0.587, 0.114])
    shades = np.array([0.0, middle, 1.0], np.float32)
    sprite = np.concatenate([np.repeat(shades[:, None], 3, axis=1), np.ones((3, 1), np.float32)], axis=1)[None]
    np.testing.assert_allclose(repainted(sprite, COLOURS[paint])[0, :, :3], [[0, 0, 0], colour, [1, 1, 1]], atol=1e-6)
    half = repainted(sprite * 0.5, COLOURS[paint])  # premultiplied: half as opaque is half of everything
    np.testing.assert_allclose(half, 0.5 * repainted(sprite, COLOURS[paint]), atol=1e-6)


def test_repainting_is_monotone_and_transparent_stays_transparent() -> None:
    shades = np.linspace(0, 1, 64, dtype=np.float32)
    sprite = np.concatenate([np.repeat(shades[:, None], 3, axis=1), np.ones((64, 1), np.float32)], axis=1)[None]
    for paint in PAINTS:
        result = repainted(sprite, COLOURS[paint])[0, :, :3]
        assert np.all(np.diff(result @ [0.299, 0.587, 0.114]) >= -1e-6) and result.min() >= 0 and result.max() <= 1
    assert not repainted(np.zeros((4, 4, 4), np.float32), COLOURS["red"]).any()


def test_articles() -> None:
    assert [article(word) for word in ("apple", "fox", "orange cat", "unicorn", "umbrella", "T-Rex")] == [
        "an apple",
        "a fox",
        "an orange cat",
        "a unicorn",
        "an umbrella",
        "a T-Rex",
    ]


@pytest.mark.parametrize("name", ["keyword", "sized", "place", "repaint", "pair", "bare", "flip", "shift", "held_out"])
def test_a_share_outside_nought_to_one_is_refused(name: str) -> None:
    for value in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"dials.{name} = {value}"):
            Dials(**{name: value})
