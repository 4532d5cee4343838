"""What can be said beside a prompt makes the pictures of diffusers' own pipeline: guidance away from a negative prompt, a second prompt, sizes.

On the embedded weights, and on random ones in SDXL's layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tests.tiny import SDXL, tiny_bundle

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.export import write
from fewstep.zoo.registry import find

PROMPT, NEGATIVE = "a red apple on a blue background", "a pizza on a green background"
PIXELS = 2  # of 255
TEACHER = 16


@pytest.fixture(scope="module", params=["emoji", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find("emoji") if request.param == "emoji" else tiny_bundle(tmp_path_factory.mktemp("sdxl") / "tiny", (1, 4), shape=SDXL)


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine.load(str(model), backend="eager")


@pytest.fixture(scope="module")
def pipelines(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder, opened = tmp_path_factory.mktemp("export"), {}
    for steps in (1, 4, TEACHER):
        opened[steps] = StableDiffusionXLPipeline.from_pretrained(write(model, steps, "diffusers", folder / str(steps)), add_watermarker=False)
        opened[steps].set_progress_bar_config(disable=True)
    return opened


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image, dtype=int)


@pytest.mark.parametrize(
    ("steps", "ours", "theirs"),
    [
        (1, {"negative": NEGATIVE, "guidance_scale": 2.0}, {"negative_prompt": NEGATIVE, "guidance_scale": 2.0}),
        (4, {"negative": NEGATIVE, "guidance_scale": 2.0}, {"negative_prompt": NEGATIVE, "guidance_scale": 2.0}),
        (4, {"guidance_scale": 2.0}, {"guidance_scale": 2.0}),
        (TEACHER, {"negative": NEGATIVE}, {"negative_prompt": NEGATIVE}),  # with the teacher's own guidance
        (TEACHER, {"guidance_scale": 0}, {"guidance_scale": 0}),
        (4, {"prompt_2": NEGATIVE}, {"prompt_2": NEGATIVE, "guidance_scale": 0}),
        (
            4,
            {"original_size": (96, 64), "crop": (5, 60), "target_size": (200, 100)},
            {"original_size": (64, 96), "crops_coords_top_left": (60, 5), "target_size": (100, 200), "guidance_scale": 0},
        ),
    ],
)
def test_the_same_picture(engine: Engine, pipelines: dict[int, Any], steps: int, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    own = pixels(engine.generate(Request(PROMPT, 7, steps, 128, 96, **ours)).image)
    noise = torch.Generator("cpu").manual_seed(7)
    guidance = {"guidance_scale": engine.model.base.guidance_scale}
    other = pixels(pipelines[steps](PROMPT, num_inference_steps=steps, width=128, height=96, generator=noise, **guidance | theirs).images[0])
    assert np.abs(own - other).max() <= PIXELS
    plain = pixels(engine.generate(Request(PROMPT, 7, steps, 128, 96)).image)
    assert np.abs(own - plain).max() > PIXELS, "and it matters"


def test_a_text_that_is_cut_off_is_cut_where_diffusers_cuts_it(engine: Engine, pipelines: dict[int, Any]) -> None:
    long = "a red apple on a blue (background), " * 12
    own = pixels(engine.generate(Request(long, 7, 4, 128, 96, literal=True)).image)
    noise = torch.Generator("cpu").manual_seed(7)
    other = pixels(pipelines[4](long, num_inference_steps=4, width=128, height=96, generator=noise, guidance_scale=0).images[0])
    assert np.abs(own - other).max() <= PIXELS
