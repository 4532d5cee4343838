"""Before any training, the autoencoder paints each patch's mean colour, and its latents hold the picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fewstep.distill.linear_start import linear_start
from fewstep.models.miniature import Shape, build_autoencoder


def smooth_pictures(seed: int) -> Tensor:
    """Pictures of soft colour patches, [16, 3, 64, 64] in [-1, 1]."""
    coarse = torch.rand(16, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return functional.interpolate(coarse, size=(64, 64), mode="bilinear")


def test_colours_are_there_from_the_start() -> None:
    shape = Shape(latent_channels=8, autoencoder_channels=(16, 32, 64, 64), autoencoder_groups=2, sample_size=8)
    torch.manual_seed(0)
    model = build_autoencoder(shape).eval()
    linear_start(model, smooth_pictures(0))
    held_out = smooth_pictures(1)
    with torch.no_grad():
        posterior = model.encode(held_out).latent_dist
        error = functional.mse_loss(model.decode(posterior.mean).sample, held_out)
    assert error < 0.5 * held_out.var()
    assert float(posterior.std.max()) < 0.05


def test_too_narrow_is_a_sentence() -> None:
    shape = Shape(latent_channels=16, autoencoder_channels=(16, 16, 16), autoencoder_groups=4)
    with pytest.raises(ValueError, match="too narrow for 16 latent channels"):
        linear_start(build_autoencoder(shape), smooth_pictures(0))
