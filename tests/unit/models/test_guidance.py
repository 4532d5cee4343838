"""Classifier-free guidance, in one batch of twice the size."""

from __future__ import annotations

from pathlib import Path

import torch

from fewstep.models.bundle import load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import conditioning, encode, time_ids


def test_the_output_is_guided_away_from_the_null_prompt(tiny: Path) -> None:
    """û = u₀ + g·(u - u₀) at one network evaluation, against two separate calls; with one timestep or one a sample."""
    bundle = load_bundle(tiny)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        prompt, ids = encode(bundle, ["a pizza", "a ghost"]), time_ids(2, 256, 256)
        prompted = bundle.unet(noise, 999, **conditioning(prompt, ids)).sample
        null = bundle.unet(noise, 999, **conditioning(prompt.null(), ids)).sample
        guided = denoiser(bundle.unet, prompt, ids, 5.0)
        assert torch.allclose(guided(noise, 999), null + 5.0 * (prompted - null), atol=1e-4)
        assert torch.allclose(guided(noise, torch.tensor([999, 999])), guided(noise, 999), atol=1e-5)
        assert torch.equal(denoiser(bundle.unet, prompt, ids)(noise, 999), prompted)
