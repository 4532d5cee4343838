"""Hints are white lines on black in the picture's size, whatever they were made of."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fewstep.engine.hints import make_hint
from fewstep.engine.request import HINTS, RequestError


def square() -> Image.Image:
    image = Image.new("RGB", (96, 64), (200, 40, 40))
    image.paste((30, 30, 120), (32, 16, 64, 48))
    return image


def stroke(mode: str, paper: Any, ink: Any) -> Image.Image:
    image = Image.new(mode, (96, 64), paper)
    ImageDraw.Draw(image).line((10, 10, 80, 50), ink, 3)
    return image


@pytest.mark.parametrize("kind", HINTS)
def test_every_kind_has_the_pictures_size(kind: str) -> None:
    for image in (square(), square().convert("RGBA"), square().convert("P"), square().convert("L")):
        hint = make_hint(image, kind, 80, 80)
        assert (hint.shape, hint.dtype) == ((80, 80, 3), np.uint8)


def test_edges_lie_where_the_colours_meet_and_nowhere_else() -> None:
    pytest.importorskip("skimage")
    lines = make_hint(square(), "canny", 96, 64)[..., 0]
    assert set(np.unique(lines)) == {0, 255}
    border = np.zeros((64, 96), bool)
    border[14:50, 30:66] = True
    border[18:46, 34:62] = False
    assert lines[~border].max() == 0
    assert (lines[border.any(axis=1)].max(axis=1) == 255).sum() >= 32, "every row of the square has its sides"


def test_colours_of_one_brightness_have_edges_too() -> None:
    pytest.importorskip("skimage")
    image = Image.new("RGB", (32, 32), (250, 160, 190))
    image.paste((255, 186, 40), (8, 8, 24, 24))
    assert np.ptp(np.asarray(image.convert("L"))) <= 3
    assert make_hint(image, "canny", 32, 32).max() == 255


def test_a_canvas_is_its_strokes_whatever_its_paper() -> None:
    drawn = [make_hint(one, "scribble", 96, 64) for one in (stroke("RGB", "white", "black"), stroke("RGB", "black", "white"), stroke("RGB", "navy", "yellow"))]
    transparent = make_hint(stroke("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), "scribble", 96, 64)
    assert 100 < (transparent == 255).all(axis=2).sum() < 400
    for one in drawn:
        assert np.array_equal(one, transparent)


def test_line_art_is_what_is_darker_than_around_it() -> None:
    pytest.importorskip("skimage")
    hint = make_hint(stroke("RGB", "white", "black"), "lineart", 96, 64)[..., 0]
    line = make_hint(stroke("RGB", "white", "black"), "scribble", 96, 64)[..., 0] == 255
    assert hint[line].min() > 60 and np.median(hint[~line]) == 0
    assert make_hint(Image.new("RGB", (32, 32), "gray"), "lineart", 32, 32).max() == 0


def test_a_depth_map_keeps_its_order_at_any_number_of_bits() -> None:
    ramp = np.linspace(0, 1, 64)[None].repeat(16, 0)
    expected = (ramp * 255).round().astype(np.uint8)
    for image in (Image.fromarray(expected), Image.fromarray((ramp * 60_000 + 1000).astype(np.uint16)), Image.fromarray(ramp.astype(np.float32) * 7 - 3)):
        hint = make_hint(image, "depth", 64, 16)
        assert np.abs(hint.astype(int) - expected[..., None]).max() <= 1
    with pytest.raises(RequestError, match="not finite"):
        make_hint(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "depth", 8, 8)
    with pytest.raises(RequestError, match="8 or 16 bits"):
        make_hint(Image.fromarray(ramp.astype(np.float32)), "given", 64, 16)


@pytest.mark.parametrize("kind", ["canny", "lineart"])
def test_without_scikit_image_the_extra_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def imports(name: str, *rest: Any) -> Any:
        if name.startswith("skimage"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imports)
    with pytest.raises(RequestError, match=r"scikit-image.*fewstep\[controlnet\]"):
        make_hint(square(), kind, 64, 64)
    make_hint(square(), "scribble", 64, 64)
