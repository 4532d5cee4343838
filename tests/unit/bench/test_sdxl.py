"""SDXL at full size: what can be said of it without having it in memory, and all the rest on a small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from fewstep.bench import sdxl
from fewstep.bench.options import Options
from fewstep.bench.peaks import Peaks
from fewstep.bench.pixels import BOUND, worst
from fewstep.bench.sides import FULL, TINY, Setting, Sides, images, ours, theirs
from fewstep.engine.model import open_model
from fewstep.engine.request import RequestError
from fewstep.models.dimensions import VAE

SMALL_UNET = {
    **sdxl.UNET,
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (1, 2, 2),
    "transformer_layers_per_block": (1, 1, 1),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "projection_class_embeddings_input_dim": 32 + 6 * 256,
}
SMALL_TEXT = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "projection_dim": 32}
SMALL: dict[str, dict[str, Any]] = {
    "text_encoder": {**SMALL_TEXT, "hidden_act": "quick_gelu"},
    "text_encoder_2": {**SMALL_TEXT, "hidden_act": "gelu"},
    "unet": SMALL_UNET,
    "vae": {**VAE, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "sample_size": 128},
}


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """2567.5 M weights of four bytes, with a fifth to spare."""
    monkeypatch.setattr(sdxl, "memory", lambda: (16 << 30, 8_000_000_000))
    with pytest.raises(RequestError, match=r"takes 12\.3 GB in float32, and 8\.0 GB are available"):
        sdxl.check_memory(sdxl.hollow_unet())
    monkeypatch.setattr(sdxl, "memory", lambda: (64 << 30, 13_000_000_000))
    sdxl.check_memory(sdxl.hollow_unet())


def test_too_small_a_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sdxl.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3e9}))
    with pytest.raises(RequestError, match=r"takes 9 GB on disk, and .* has 3: set TMPDIR"):
        sdxl.write_random(tmp_path / "sdxl", [1])


def test_random_weights_keep_the_size_of_what_passes() -> None:
    """Through a layer the variance stays about one; no value is a denormal, which would be slow."""
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.GroupNorm(8, 512))
    sdxl.fill(layer.requires_grad_(False))
    assert float(layer[0](torch.randn(256, 512)).std()) == pytest.approx(1.0, abs=0.05)
    assert bool((layer[1].weight == 1).all())
    assert not bool(layer[0].bias.any())


def test_one_evaluation_of_a_small_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row has the operations of that UNet, and no more than the machine can do."""
    monkeypatch.setattr(sdxl, "CONFIGS", SMALL)
    monkeypatch.setattr(sdxl, "measure", lambda: Peaks(1e12, 1e11))
    told: list[str] = []
    sections = sdxl.one_forward(Options(rounds=2, warmup=1), told.append, SMALL_UNET, side=64)
    assert [section.name for section in sections] == ["peaks", "stages"]
    (row,) = sections[1].rows
    assert row["gflop"] == pytest.approx(sdxl.Networks(SMALL).denoise(1, 64).flops / 1e9)
    assert row["of_floor"] == pytest.approx(row["floor_ms"] / row["ms"])
    assert f"{sdxl.parameters(sdxl.hollow_unet(SMALL_UNET)) / 1e6:.1f} M" in sections[1].notes[0]
    assert told


@pytest.mark.slow
def test_one_set_of_random_weights_serves_every_number_of_steps(tmp_path: Path) -> None:
    """The folder as it is in diffusers makes the pictures of every student in the engine."""
    folder = sdxl.write_random(tmp_path / "sdxl", (1, 4), SMALL)
    sides = Sides(open_model(str(folder)), "eager", 1, tmp_path, whole=True)
    assert sides.model.limits.students == (1, 4)
    assert sides.decoders(128) == ([FULL, TINY], [])
    assert sides.pipeline(1) is sides.pipeline(4)
    assert isinstance(sides.pipeline(1), StableDiffusionXLPipeline)
    pictures = {}
    for steps in (1, 4):
        setting, question = Setting(steps, 2, 128), sides.questions(2)
        own = images(ours(sides.engine(FULL), setting)(question))
        other = theirs(sides.pipeline(steps), setting)(question)
        assert worst(own, other) <= BOUND
        pictures[steps] = own[0]
    assert np.asarray(pictures[4]).std() > 2, "noise, and no flat colour"
