"""The exported folder in diffusers' own pipeline makes the engine's pictures, from the same noise and by the same walk.

The network's inputs, timesteps and the finished latents are compared beside the pictures: a decoder may hide what went wrong before it.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from PIL import Image
from tests.tiny import SHAPE, build_unet, tiny_bundle

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.export import write
from fewstep.models.bundle import SCHEDULER, load_bundle, save_weights
from fewstep.models.lora import extract_lora
from fewstep.schedule import alpha_bar, start_scale, trailing_timesteps
from fewstep.stamp import Stamp, file_hash

PROMPT = "a red apple on a blue background"
PIXELS = 2  # of 255
LATENTS = 1e-4  # of the latents' rms: float32 rounding in two orders of arithmetic; start_scale = 1 gives 8e-3
FLATTEST = 5.0  # standard deviation, of 255, that a picture must have to say anything
SQUARE, WIDE = (256, 256), (320, 192)
TEACHER = 32


@dataclasses.dataclass
class Walk:
    """What passed through the networks on the way to a picture."""

    inputs: list[torch.Tensor]  # of the UNet, [B, C, H/f, W/f] each
    times: list[int]
    latents: list[torch.Tensor]  # as the autoencoder gets them


@contextmanager
def watch(unet: Any, vae: Any) -> Iterator[Walk]:
    walk = Walk([], [], [])

    def denoised(_: Any, args: tuple[Any, ...]) -> None:
        walk.inputs.append(args[0].clone())
        walk.times.append(int(args[1]))

    hooks = [unet.register_forward_pre_hook(denoised)]
    hooks.append(vae.post_quant_conv.register_forward_pre_hook(lambda _, args: walk.latents.append(args[0].clone())))
    try:
        yield walk
    finally:
        for hook in hooks:
            hook.remove()


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image, dtype=int)


def worst(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, in units of the second's rms."""
    return float((one - other).abs().max() / other.square().mean().sqrt())


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


@pytest.fixture(scope="module")
def pipelines(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The export for each step count, as diffusers opens it."""
    folder = tmp_path_factory.mktemp("export")
    return {steps: pipeline(write(tiny, steps, "diffusers", folder / str(steps))) for steps in (1, 2, 4, 8, TEACHER)}


def pipeline(folder: Path) -> Any:
    opened = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    opened.set_progress_bar_config(disable=True)
    return opened


def compare(engine: Engine, pipe: Any, steps: int, size: tuple[int, int], seed: int, guidance: float = 0.0) -> tuple[int, float, float]:
    """Make a picture both ways from the same noise. Returns the worst difference of pixels, of UNet inputs and of latents."""
    width, height = size
    unet = engine.backend._unet(steps)
    with watch(unet, engine.backend.bundle.vae) as own:
        ours = engine.generate(Request(PROMPT, seed, steps, width, height))
    factor, channels = engine.limits.factor, pipe.unet.config.in_channels
    noise = torch.randn((1, channels, height // factor, width // factor), generator=torch.Generator("cpu").manual_seed(seed))
    with watch(pipe.unet, pipe.vae) as theirs:
        image = pipe(PROMPT, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance, latents=noise).images[0]
    assert own.times == theirs.times == trailing_timesteps(steps)
    for walk in (own, theirs):
        assert worst(walk.inputs[0][:1], start_scale() * noise) < 1e-6, "pure noise at T is √(1-ᾱ_T)·ε"
    assert ours.image.size == image.size == size
    assert pixels(image).std() > FLATTEST, "a flat picture proves nothing"
    inputs = max(worst(a, b) for a, b in zip(own.inputs, theirs.inputs, strict=True))
    difference = int(np.abs(pixels(ours.image) - pixels(image)).max())
    measured = difference, inputs, worst(torch.cat(own.latents), torch.cat(theirs.latents))
    print(f"{steps} steps, {width}x{height}: {difference}/255, inputs {inputs:.1e}, latents {measured[2]:.1e}, std {pixels(image).std():.0f}")
    return measured


def assert_same(measured: tuple[int, float, float]) -> None:
    difference, inputs, latents = measured
    assert difference <= PIXELS
    assert inputs < LATENTS
    assert latents < LATENTS


@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_students_make_the_same_picture(engine: Engine, pipelines: dict[int, Any], steps: int, size: tuple[int, int]) -> None:
    for seed in (7, 8):
        assert_same(compare(engine, pipelines[steps], steps, size, seed))


@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=["square", "wide"])
def test_the_teacher_with_guidance_makes_the_same_picture(engine: Engine, pipelines: dict[int, Any], size: tuple[int, int]) -> None:
    guidance = engine.model.base.guidance_scale
    assert guidance > 1
    assert_same(compare(engine, pipelines[TEACHER], TEACHER, size, 7, guidance))


def test_a_lora_student_makes_the_same_picture(tmp_path: Path) -> None:
    """Merged into the exported UNet, whose float16 files must not round away what the LoRA says."""
    folder = tiny_bundle(tmp_path / "tiny", students=())
    base = load_bundle(folder)
    torch.manual_seed(3)
    tuned = build_unet(SHAPE)
    tuned.load_state_dict({key: value + 0.02 * torch.randn_like(value) for key, value in base.unet.state_dict().items()})
    tensors, _ = extract_lora(base.unet, tuned, rank=16)
    stamp = Stamp(kind="lora", steps=2, base=file_hash(folder / "unet" / "diffusion_pytorch_model.safetensors"), alpha=16)
    save_weights({key: value.half() for key, value in tensors.items()}, folder / "students" / "2.safetensors", stamp.to_metadata())
    pipe = pipeline(write(folder, 2, "diffusers", tmp_path / "out"))
    whole = Engine.load(str(folder), backend="eager")
    change = worst(whole.backend._unet(2).mid_block.resnets[0].conv1.weight, base.unet.mid_block.resnets[0].conv1.weight)
    assert change > 0.1, "the LoRA changes the weights"
    difference, *_ = compare(whole, pipe, 2, SQUARE, 7)
    assert difference <= PIXELS


def test_the_pipeline_draws_the_noise_that_the_engine_draws(engine: Engine, pipelines: dict[int, Any]) -> None:
    """A seed given to diffusers as a CPU generator means the same picture here."""
    image = pipelines[2](PROMPT, num_inference_steps=2, guidance_scale=0, generator=torch.Generator("cpu").manual_seed(11)).images[0]
    ours, other = (engine.generate(Request(PROMPT, seed, 2)) for seed in (11, 12))
    assert np.abs(pixels(image) - pixels(ours.image)).max() <= PIXELS < np.abs(pixels(image) - pixels(other.image)).max()


def test_the_engine_opens_the_export_and_makes_the_same_picture(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    again = Engine.load(str(write(tiny, 4, "diffusers", tmp_path / "four")), backend="eager")
    assert again.limits.students == (4,)
    assert not again.limits.teacher
    one, other = (each.generate(Request(PROMPT, 5, 4)) for each in (engine, again))
    assert np.array_equal(pixels(one.image), pixels(other.image))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 16, 32, 50, 128])
def test_the_schedule_is_diffusers(steps: int) -> None:
    """σ = √((1-ᾱ)/ᾱ) at every evaluation, 0 at the end, and the same timesteps."""
    scheduler = EulerDiscreteScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(steps)
    times = trailing_timesteps(steps)
    assert [int(t) for t in scheduler.timesteps] == times
    sigmas = [((1 - alpha_bar(t)) / alpha_bar(t)) ** 0.5 for t in times]
    assert np.allclose(scheduler.sigmas[:-1], sigmas, rtol=1e-5)
    assert float(scheduler.sigmas[-1]) == 0.0
    first = float(scheduler.init_noise_sigma)
    assert first / (first**2 + 1) ** 0.5 == pytest.approx(start_scale(), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_picture_alone_is_the_one_of_a_batch(engine: Engine, steps: int) -> None:
    requests = [Request(PROMPT if seed % 2 else "a pizza on a green background", seed, steps) for seed in range(8)]
    batch = list(engine.generate_many(requests))
    assert {picture.record.batch for picture in batch} == {8}
    alone = [engine.generate(request) for request in (requests[0], requests[5])]
    for one, together in zip(alone, (batch[0], batch[5]), strict=True):
        assert one.record.batch == 1
        assert pixels(one.image).std() > FLATTEST
        assert np.abs(pixels(one.image) - pixels(together.image)).max() <= PIXELS
    assert np.abs(pixels(alone[0].image) - pixels(batch[5].image)).max() > PIXELS, "other seeds are other pictures"


@pytest.mark.slow
def test_the_lines_on_the_card_make_the_engines_picture(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    card = (write(tiny, 2, "diffusers", tmp_path / "two-steps") / "README.md").read_text(encoding="utf8")
    program = card.split("```python\n")[1].split("```")[0]
    prompt = program.split('pipe("')[1].split('"')[0]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=100, capture_output=True)
    ours = engine.generate(Request(prompt, 0, 2)).image
    assert np.abs(pixels(Image.open(tmp_path / "picture.png")) - pixels(ours)).max() <= PIXELS
