"""Cutting out: composites whose α is known, and what must stay opaque."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fewstep.engine.matte import MOST, SPREADS, background, cut_out, flood, opaque

SIDE, FINE = 128, 4
COLOURS = [((60, 90, 220), (230, 60, 40)), ((255, 255, 255), (200, 60, 40)), ((200, 200, 200), (255, 255, 255)), ((40, 160, 60), (250, 220, 40))]


def shape() -> np.ndarray:
    """α of a disc, a ring of it and a thin line, antialiased: float [SIDE, SIDE]."""
    big = Image.new("L", (SIDE * FINE, SIDE * FINE))
    draw = ImageDraw.Draw(big)
    draw.ellipse((100, 120, 410, 400), fill=255)
    draw.line((40, 60, 200, 300), fill=255, width=14)
    return np.asarray(big.resize((SIDE, SIDE), Image.Resampling.BOX), float) / 255


def compose(alpha: np.ndarray, foreground: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    pixels = alpha[:, :, None] * foreground + (1 - alpha[:, :, None]) * np.array(colour, float)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("behind", "before"), COLOURS)
@pytest.mark.parametrize("grain", [0, 4])
def test_a_known_composite_is_taken_apart(behind: tuple[int, int, int], before: tuple[int, int, int], grain: int) -> None:
    alpha, rng = shape(), np.random.default_rng(0)
    foreground = np.array(before) + rng.normal(0, grain, (SIDE, SIDE, 3))
    foreground[60:70, 60:70] = behind  # a region of the background's colour inside
    cut = np.asarray(cut_out(compose(alpha, foreground, behind)), float)
    wrong = np.abs(cut[:, :, 3] / 255 - alpha)
    edge = (alpha > 0.2) & (alpha < 1)
    assert wrong.mean() < 0.003
    assert wrong[edge].mean() < 0.06
    assert np.abs(cut[:, :, :3] - foreground)[edge].mean() < 8, "the edge has the colour of the subject, not the background's"
    assert (cut[60:70, 60:70, 3] == 255).all(), "no hole"
    assert (cut[0] == 0).all() and (cut[-1] == 0).all()


def test_white_on_white_stays_inside_its_outline() -> None:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 30, 100, 100), fill="white", outline=(40, 40, 40), width=2)
    alpha = np.asarray(cut_out(image))[:, :, 3]
    assert (alpha[40:90, 45:85] == 255).all()
    assert (alpha[:20] == 0).all()


def test_a_subject_at_the_border_is_not_taken_for_the_background() -> None:
    image = Image.new("RGB", (SIDE, SIDE), (20, 120, 200))
    image.paste((250, 80, 20), (40, 64, 90, SIDE))
    alpha = np.asarray(cut_out(image))[:, :, 3]
    assert (alpha[80:, 50:80] == 255).all()
    assert (alpha[:60] == 0).all()


def test_an_unquiet_background_goes_too() -> None:
    rng = np.random.default_rng(1)
    grain = rng.normal(0, 3, (SIDE, SIDE, 3))
    alpha = shape()
    pixels = np.asarray(compose(alpha, np.broadcast_to((220.0, 40, 40), (SIDE, SIDE, 3)), (60, 180, 90)), float) + grain
    cut = np.asarray(cut_out(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))), float)[:, :, 3] / 255
    assert np.abs(cut - alpha).mean() < 0.01


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (1, 2, 3)])
def test_nothing_but_background_is_nothing(colour: tuple[int, int, int]) -> None:
    assert not np.asarray(cut_out(Image.new("RGB", (64, 80), colour))).any()


@pytest.mark.parametrize("spread", [20, 60, 255])
def test_a_picture_without_a_background_of_its_own_stays_whole(spread: int) -> None:
    grain = Image.fromarray(np.random.default_rng(2).integers(0, 1 + spread, (64, 64, 3), np.uint8))
    cut, unquiet = cut_out(grain), SPREADS * background(np.asarray(grain, np.float32))[1] > MOST
    assert opaque(cut) is unquiet is (spread > 20)
    assert not unquiet or cut.convert("RGB").tobytes() == grain.tobytes()


def test_specks_go_and_fine_lines_of_the_subject_stay() -> None:
    image = Image.new("RGB", (SIDE, SIDE), (60, 90, 220))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 90, 90), fill=(230, 60, 40))
    draw.line((65, 65, 65, 10), fill=(230, 60, 40), width=1)
    for at in ((0, 0), (126, 0), (10, 100)):
        draw.rectangle((*at, at[0] + 1, at[1] + 1), fill=(20, 20, 20))
    alpha = np.asarray(cut_out(image))[:, :, 3]
    assert (alpha[12:40, 65] == 255).all()
    assert not alpha[:3, :3].any() and not alpha[:3, -3:].any() and not alpha[98:104, 8:14].any()


def test_a_flood_follows_a_maze_and_stops_at_walls() -> None:
    free = np.ones((41, 41), bool)
    for row in range(2, 40, 4):
        free[row, :] = False
        free[row, 1 if row % 8 == 2 else 39] = True
    free[:, 0] = free[:, 40] = free[40] = False
    free[20, 18:23] = free[22, 18:23] = free[20:23, 18] = free[20:23, 22] = False
    reached = flood(free)
    assert not reached[21, 20], "shut in"
    assert (reached == free)[1:-2, 1:-1].sum() == free[1:-2, 1:-1].size - free[21, 19:22].sum()


def test_it_is_quick() -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (512, 512, 3), np.uint8))
    started = time.process_time()
    cut_out(image)
    assert time.process_time() - started < 3
