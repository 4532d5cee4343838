"""The embedded model in one file, opened by diffusers' own loader without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from fewstep.export import write
from fewstep.zoo.registry import embedded


def test_a_single_file_makes_the_folders_picture(tmp_path: Path) -> None:
    """``from_single_file`` with the exported folder as its configuration: the very same pixels as ``from_pretrained``."""
    folder = write(embedded("emoji"), 4, "diffusers", tmp_path / "folder")
    file = write(embedded("emoji"), 4, "single-file", tmp_path / "emoji.safetensors")
    pictures = []
    for pipeline in (
        StableDiffusionXLPipeline.from_pretrained(folder),
        StableDiffusionXLPipeline.from_single_file(str(file), config=str(folder), local_files_only=True, torch_dtype=torch.float32),
    ):
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.Generator("cpu").manual_seed(7)
        picture = pipeline("a red apple on a blue background", num_inference_steps=4, guidance_scale=0, generator=noise).images[0]
        pictures.append(np.asarray(picture).astype(int))
    assert np.array_equal(*pictures)
    assert np.std(pictures[0]) > 10
