"""ControlNets make diffusers' pictures: one and several, with shares of the steps, guidance and an image to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file
from tests import nets

from fewstep.engine.control import Control
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.export import write
from fewstep.models.bundle import load_bundle

PROMPT, WIDTH, HEIGHT = "a red apple on a blue background", 192, 128
PIXELS = 2  # of 255
FLATTEST, LEAST = 5.0, 10  # what a picture has to differ in from a flat one, and from the one without ControlNets


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


@pytest.fixture(scope="module")
def files(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder as diffusers writes it, and a single file of a net without any attention, as the small ones of SDXL are."""
    folder, bundle = tmp_path_factory.mktemp("nets"), load_bundle(tiny)
    nets.build(bundle, 1).save_pretrained(folder / "whole")
    small = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
    nets.build(bundle, 2, **small).save_pretrained(folder / "small")
    (folder / "small" / "diffusion_pytorch_model.safetensors").rename(folder / "small.safetensors")
    return [folder / "whole", folder / "small.safetensors"]


@pytest.fixture(scope="module")
def theirs(files: list[Path]) -> list[Any]:
    small = ControlNetModel.from_config(ControlNetModel.load_config(files[1].with_suffix("")))
    small.load_state_dict(load_file(files[1]))
    return [ControlNetModel.from_pretrained(files[0]), small.eval()]


@pytest.fixture(scope="module")
def parts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("export")
    return {
        steps: StableDiffusionXLPipeline.from_pretrained(write(tiny, steps, "diffusers", folder / str(steps)), add_watermarker=False).components
        for steps in (4, 16)
    }


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    coarse = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    return [Image.fromarray(one).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for one in coarse]


def made(kind: Any, parts: dict[str, Any], net: Any, steps: int, **more: Any) -> np.ndarray:
    pipe = kind(**parts, controlnet=net, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    return np.asarray(pipe(PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=steps, generator=generator, **more).images[0], int)


def check(engine: Engine, expected: np.ndarray, steps: int, control: list[Control], **more: Any) -> None:
    ours, plain = (engine.generate(Request(PROMPT, 7, steps, WIDTH, HEIGHT, control=used, **more)).image for used in (control, ()))
    assert expected.std() > FLATTEST
    assert np.abs(np.asarray(plain, int) - expected).max() >= LEAST, "a difference would not be seen"
    assert np.abs(np.asarray(ours, int) - expected).max() <= PIXELS


@pytest.mark.parametrize("which", [0, 1])
def test_one_net(engine: Engine, files: list[Path], theirs: list[Any], parts: dict[int, Any], images: list[Image.Image], which: int) -> None:
    expected = made(StableDiffusionXLControlNetPipeline, parts[4], theirs[which], 4, image=images[0], controlnet_conditioning_scale=0.7, guidance_scale=0.0)
    check(engine, expected, 4, [Control(images[0], weight=0.7, net=files[which])])


def test_two_nets_that_act_in_some_of_the_steps(engine: Engine, files: list[Path], theirs: list[Any], parts: dict[int, Any], images: list[Image.Image]) -> None:
    said = {"controlnet_conditioning_scale": [0.7, 0.4], "control_guidance_start": [0.0, 0.5], "control_guidance_end": [0.5, 1.0], "guidance_scale": 0.0}
    expected = made(StableDiffusionXLControlNetPipeline, parts[4], MultiControlNetModel(theirs), 4, image=images, **said)
    check(engine, expected, 4, [Control(images[0], weight=0.7, net=files[0], end=0.5), Control(images[1], weight=0.4, net=files[1], start=0.5)])


def test_with_guidance(engine: Engine, files: list[Path], theirs: list[Any], parts: dict[int, Any], images: list[Image.Image]) -> None:
    """The null prompt's half of the batch is guided too."""
    expected = made(StableDiffusionXLControlNetPipeline, parts[16], theirs[0], 16, image=images[0], controlnet_conditioning_scale=0.5, guidance_scale=5.0)
    check(engine, expected, 16, [Control(images[0], weight=0.5, net=files[0])], guidance_scale=5.0)


def test_from_an_image(
    engine: Engine, files: list[Path], theirs: list[Any], parts: dict[int, Any], images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their shares of the steps are of those that are run, and so are ours."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    said = {"image": images[1], "control_image": images[0], "strength": 0.75, "control_guidance_end": 0.67, "controlnet_conditioning_scale": 1.0}
    expected = made(StableDiffusionXLControlNetImg2ImgPipeline, parts[4], theirs[0], 4, guidance_scale=0.0, **said)
    check(engine, expected, 4, [Control(images[0], net=files[0], end=0.67)], image=images[1], strength=0.75)


def test_a_batch_of_different_prompts_and_hints(engine: Engine, files: list[Path], images: list[Image.Image]) -> None:
    requests = [Request(prompt, 7, 4, WIDTH, HEIGHT, control=[Control(image, net=files[0])]) for prompt, image in zip((PROMPT, "a pizza"), images, strict=True)]
    together = list(engine.generate_many(requests))
    assert {picture.record.batch for picture in together} == {2}
    for picture, request in zip(together, requests, strict=True):
        alone = engine.generate(request)
        assert np.abs(np.asarray(picture.image, int) - np.asarray(alone.image, int)).max() <= PIXELS


@pytest.mark.parametrize("tiny", ["emoji"], indirect=True, scope="session")  # it is held to eager's pictures, which are held to diffusers' in both
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiled_network_is_guided(engine: Engine, files: list[Path], images: list[Image.Image], tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.engine.backends import compiled

    compile_ = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **options: compile_(function, backend="aot_eager", **options))
    quick = Engine.load(str(tiny), backend="compiled")
    for control in ([Control(images[0], net=files[0], end=0.5)], []):
        request = Request(PROMPT, 7, 4, WIDTH, HEIGHT, control=control)
        ours, plain = (np.asarray(one.generate(request).image, int) for one in (quick, engine))
        assert np.abs(ours - plain).max() <= PIXELS
