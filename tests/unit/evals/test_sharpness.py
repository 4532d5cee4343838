"""Gradient energy: closed forms on ramps and edges, and it falls under blur."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from tests.unit.evals.synthetic import WORLD

from fewstep.evals.sharpness import gradient_energies


def test_a_flat_picture_has_none():
    assert gradient_energies(np.full((2, 20, 30, 3), 77, np.uint8)) == pytest.approx([0, 0], abs=1e-12)


def test_a_ramp_has_the_square_of_its_slope():
    ramp = np.broadcast_to((np.arange(50) * 5).astype(np.uint8)[None, :, None], (40, 50, 3))
    assert gradient_energies(ramp[None])[0] == pytest.approx((5 / 255) ** 2, rel=1e-4)


@pytest.mark.parametrize("spread", [2, 4, 8])
def test_an_edge_spread_over_k_pixels_has_a_kth_of_the_energy(spread):
    def edge(width: int) -> np.ndarray:
        line = np.clip((np.arange(65) - 20) * (240 / width), 0, 240).astype(np.uint8)
        return np.broadcast_to(line[None, :, None], (33, 65, 3))[None]

    assert gradient_energies(edge(spread))[0] == pytest.approx(gradient_energies(edge(1))[0] / spread, rel=1e-3)


def test_it_falls_with_every_blur_of_a_render():
    render = Image.fromarray(WORLD.render(WORLD.scene(WORLD.rng(0)), 128, 128))
    blurred = [np.asarray(render.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 0.7, 1.5, 3)]
    energies = gradient_energies(np.stack(blurred))
    assert (np.diff(energies) < 0).all()
    assert energies[-1] < 0.5 * energies[0]
