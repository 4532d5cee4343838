"""Differences of pictures in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from fewstep.bench.pixels import contrast, psnr, worst


def flat(value: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def test_the_worst_of_all_values_counts() -> None:
    other = flat(100)
    other.putpixel((3, 3), (100, 140, 100))
    assert worst([flat(100)], [flat(97)]) == 3
    assert worst([flat(1), flat(100)], [flat(1), other]) == 40
    assert worst([flat(0)], [flat(255)]) == 255, "no wrapping around of unsigned numbers"


def test_pictures_that_cannot_be_compared_differ_by_all_there_is() -> None:
    assert worst([flat(1)], [flat(1, (8, 4))]) == 255
    assert worst([flat(1)], [flat(1), flat(1)]) == 255
    assert worst([flat(1)], [flat(1).convert("L")]) == 255


def test_psnr_of_a_constant_difference() -> None:
    assert psnr([flat(100)], [flat(110)]) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr([flat(100)], [flat(100)]) == math.inf


def test_contrast_is_the_standard_deviation_of_the_flattest() -> None:
    board = Image.fromarray(np.repeat(np.indices((8, 8)).sum(axis=0)[:, :, None] % 2 * 200, 3, axis=2).astype(np.uint8))
    assert contrast([board]) == pytest.approx(100.0)
    assert contrast([board, flat(3)]) == 0.0
