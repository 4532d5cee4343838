"""Every row of the known models walks as the scheduler does that its card names: diffusers' own pipeline, the same network, the same seed.

The networks are tiny and random, and the schedulers' configurations those that SDXL and SDXL-Turbo are published with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLPipeline, TCDScheduler

from fewstep.engine.noise import Draws, drawing
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import encode, time_ids
from fewstep.sampler import sample
from fewstep.schedule import consistency_timesteps, leading_timesteps, trajectory_shares
from fewstep.stamp import Stamp
from fewstep.zoo.known import KNOWN

PROMPT = "a red apple on a blue background"
LATENTS = 1e-4  # of the latents' rms, in float32
SEED, SIDE = 7, 256
SDXL = {  # scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
TURBO = {**SDXL, "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}  # of stabilityai/sdxl-turbo


def as_the_card_says(name: str, row: Stamp) -> tuple[Any, dict[str, Any]]:
    """(scheduler, arguments of the pipeline) on the model's card."""
    count = {"num_inference_steps": row.steps}
    if name.startswith("sdxl-lightning"):
        return EulerDiscreteScheduler.from_config(SDXL, timestep_spacing="trailing", prediction_type=row.prediction_type), count
    if name == "sdxl-turbo":
        return EulerAncestralDiscreteScheduler.from_config(TURBO), count
    if name == "hyper-sd" and row.kind == "lora":
        if row.steps == 1:
            return TCDScheduler.from_config(SDXL), {**count, "eta": 1.0}
        return DDIMScheduler.from_config(SDXL, timestep_spacing="trailing"), count
    if name == "hyper-sd":
        return LCMScheduler.from_config(SDXL), {"timesteps": [800]}
    if name == "dmd2":
        return LCMScheduler.from_config(SDXL), {"timesteps": [399] if row.steps == 1 else [999, 749, 499, 249]}
    assert name == "lcm-lora"
    return LCMScheduler.from_config(SDXL), count


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(tiny)


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> Any:
    opened = StableDiffusionXLPipeline.from_pretrained(tiny, add_watermarker=False)
    opened.set_progress_bar_config(disable=True)
    return opened


@torch.inference_mode()
def ours(bundle: Bundle, row: Stamp) -> torch.Tensor:
    side = SIDE // bundle.factor
    draws = Draws([partial(drawing, SEED)], (1, bundle.unet.config.in_channels, side, side))
    denoise = denoiser(bundle.unet, encode(bundle, [PROMPT]), time_ids(1, SIDE, SIDE), row.guidance_scale)
    *_, last = sample(denoise, torch.from_numpy(draws(0)), renoise=lambda step: torch.from_numpy(draws(step)), **row.walk())
    return last.latents


def theirs(pipe: Any, scheduler: Any, guidance: float, **given: Any) -> torch.Tensor:
    pipe.scheduler = scheduler
    generator = torch.Generator("cpu").manual_seed(SEED)
    return pipe(PROMPT, width=SIDE, height=SIDE, guidance_scale=guidance, generator=generator, output_type="latent", **given).images


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    rms = float(other.square().mean().sqrt())
    assert other.std() > 0.1, "flat latents prove nothing"
    assert float((one - other).abs().max()) / rms < LATENTS


ROWS = [(name, row) for name, known in KNOWN.items() for row in (*(one.row for one in known.weights), *(known.rows or {}).values())]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row.kind}-{row.steps}" for name, row in ROWS])
def test_a_row_walks_as_its_card_says(bundle: Bundle, pipe: Any, name: str, row: Stamp) -> None:
    scheduler, given = as_the_card_says(name, row)
    assert_same(ours(bundle, row), theirs(pipe, scheduler, 0.0, **given))


def test_sdxl_itself_walks_as_its_own_scheduler(bundle: Bundle, pipe: Any) -> None:
    row = Stamp("teacher", 20, spacing="leading", start_scale=1.0, guidance_scale=5.0)
    assert_same(ours(bundle, row), theirs(pipe, EulerDiscreteScheduler.from_config(SDXL), 5.0, num_inference_steps=20))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_tcd_in_several_steps(bundle: Bundle, pipe: Any, eta: float) -> None:
    """What the rows hold is TCD at one step alone: here is all that its shares of fresh noise do."""
    times = consistency_timesteps(4)
    row = Stamp("lora", 4, timesteps=tuple(times), start_scale=1.0, fresh=trajectory_shares(times, eta), end=0)
    assert_same(ours(bundle, row), theirs(pipe, TCDScheduler.from_config(SDXL), 0.0, num_inference_steps=4, eta=eta))


@pytest.mark.parametrize(
    ("scheduler", "grid", "most"),
    [(EulerDiscreteScheduler, leading_timesteps, 1000), (LCMScheduler, consistency_timesteps, 50), (TCDScheduler, consistency_timesteps, 50)],
)
def test_grids_are_the_schedulers(scheduler: Any, grid: Callable[[int], list[int]], most: int) -> None:
    made = scheduler.from_config(SDXL)
    for steps in range(1, most):
        made.set_timesteps(steps)
        assert np.array_equal(made.timesteps.numpy().astype(int), grid(steps)), steps
