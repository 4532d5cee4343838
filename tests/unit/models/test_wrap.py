"""Convolutions that wrap around: what goes in moved along comes out moved along."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import build
from torch import Tensor

from fewstep.models.bundle import Bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import encode, time_ids
from fewstep.models.wrap import wrapping
from fewstep.sampler import sample
from fewstep.stamp import Stamp

MOVES = {"x": (0, 4), "y": (4, 0), "xy": (4, 4)}  # latent positions, in whole steps of the UNet's strides


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return build()


def made(bundle: Bundle, noise: Tensor, tile: str | None, least: int = 1) -> Tensor:
    """A picture [1, 3, H, W] in two evaluations."""
    denoise = denoiser(bundle.unet, encode(bundle, ["a red apple"]), time_ids(1, 256, 256))
    with torch.inference_mode(), wrapping(tile, least):
        *_, last = sample(denoise, noise, **Stamp("unet", 2).walk())
        picture: Tensor = bundle.vae.decode(last.latents, return_dict=False)[0]
        return picture


@pytest.mark.parametrize("tile", MOVES)
def test_noise_that_is_moved_along_gives_the_picture_moved_along(bundle: Bundle, tile: str) -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    down, across = MOVES[tile]
    one, moved = made(bundle, noise, tile), made(bundle, noise.roll((down, across), (2, 3)), tile)
    expected = one.roll((down * bundle.factor, across * bundle.factor), (2, 3))
    assert (moved - expected).abs().max() < 2 / 255
    assert (made(bundle, noise.roll((down, across), (2, 3)), None) - expected).abs().max() > 10 / 255, "what does not wrap around is not moved along"


def test_one_axis_leaves_the_other_as_it_was(bundle: Bundle) -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    along, across = (made(bundle, noise.roll(4, axis), "x") - made(bundle, noise, "x").roll(4 * bundle.factor, axis) for axis in (3, 2))
    assert along.abs().max() < 2 / 255 < across.abs().max()


def test_an_image_that_is_moved_along_is_encoded_moved_along(bundle: Bundle) -> None:
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def encoded(image: Tensor) -> Tensor:
        with torch.inference_mode(), wrapping("xy"):
            mean: Tensor = bundle.vae.encode(image).latent_dist.mean
            return mean

    torch.testing.assert_close(encoded(image.roll((16, 48), (2, 3))), encoded(image).roll((1, 3), (2, 3)), atol=1e-5, rtol=1e-4)


def test_levels_with_fewer_positions_do_not_wrap() -> None:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with wrapping("xy", 16):
        layer = torch.nn.Conv2d(4, 4, 3, padding=1)
        fine, coarse = layer(noise), layer(noise[..., :8, :8])
    assert torch.equal(coarse, layer(noise[..., :8, :8]))
    torch.testing.assert_close(fine, torch.nn.functional.conv2d(torch.nn.functional.pad(noise, (1, 1, 1, 1), mode="circular"), layer.weight, layer.bias))


def test_outside_of_it_nothing_is_changed(bundle: Bundle) -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = made(bundle, noise, None)
    made(bundle, noise, "xy")
    assert torch.equal(made(bundle, noise, None), before)
