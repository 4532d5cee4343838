"""Image to image and inpainting make the pictures of diffusers' own pipelines, where those begin at the same timestep.

Theirs draw from the posterior of the autoencoder, ours take its mean: they are made to, and then draw the same noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.export import write
from fewstep.schedule import trailing_timesteps

PROMPT = "a red apple on a blue background"
PIXELS = 2  # of 255
WIDTH, HEIGHT = 320, 192


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


@pytest.fixture(scope="module")
def parts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("export")
    return {
        steps: StableDiffusionXLPipeline.from_pretrained(write(tiny, steps, "diffusers", folder / str(steps)), add_watermarker=False).components
        for steps in (2, 4, 8)
    }


@pytest.fixture(autouse=True)
def mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Smooth, as pictures are."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def theirs(kind: Any, parts: dict[str, Any], steps: int, count: int, **more: Any) -> tuple[np.ndarray, list[int]]:
    """(their picture of the last ``count`` of ``steps`` steps, the timesteps that they evaluated at)."""
    pipe = kind(**parts, **({"requires_aesthetics_score": False} if kind is StableDiffusionXLImg2ImgPipeline else {}))
    pipe.set_progress_bar_config(disable=True)
    times: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: times.append(int(args[1])))
    made = pipe(PROMPT, num_inference_steps=steps, strength=count / steps, guidance_scale=0.0, generator=torch.Generator("cpu").manual_seed(7), **more).images[
        0
    ]
    hook.remove()
    return np.asarray(made, int), times


@pytest.mark.parametrize(("steps", "count"), [(2, 1), (4, 1), (4, 3), (8, 4)])
def test_image_to_image(engine: Engine, parts: dict[int, Any], image: Image.Image, steps: int, count: int) -> None:
    expected, times = theirs(StableDiffusionXLImg2ImgPipeline, parts[steps], steps, count, image=image)
    assert times == trailing_timesteps(steps)[-count:]
    ours = engine.generate(Request(PROMPT, 7, steps, WIDTH, HEIGHT, image=image, strength=count / steps))
    assert ours.strength == count / steps
    assert np.abs(np.asarray(ours.image, int) - expected).max() <= PIXELS
    assert expected.std() > 5, "a flat picture proves nothing"


@pytest.mark.parametrize(("steps", "count"), [(2, 1), (4, 3), (4, 4), (8, 8)])
def test_inpainting(engine: Engine, parts: dict[int, Any], image: Image.Image, steps: int, count: int) -> None:
    """A mask on the grid of latents, whose scaling is then none; their pixels under its black are what comes of decoding, ours the image's."""
    mask = Image.new("L", image.size)
    mask.paste(255, (96, 32, 256, 160))
    expected, times = theirs(StableDiffusionXLInpaintPipeline, parts[steps], steps, count, image=image, mask_image=mask, width=WIDTH, height=HEIGHT)
    assert times == trailing_timesteps(steps)[-count:]
    ours = engine.generate(Request(PROMPT, 7, steps, WIDTH, HEIGHT, image=image, mask=mask, strength=count / steps))
    white = np.asarray(mask) == 255
    assert np.abs(np.asarray(ours.image, int) - expected)[white].max() <= PIXELS
    assert np.array_equal(np.asarray(ours.image)[~white], np.asarray(image)[~white])
    assert expected[white].std() > 5
