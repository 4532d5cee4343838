"""Graphs without weights: what is bound to them by name is all that they compute with."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from tests.tiny import SMALLER, tiny_bundle

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.export import about, write
from fewstep.models.bundle import Bundle, load_bundle, save_weights
from fewstep.models.graphs import plain, upsample
from fewstep.models.miniature import build_unet
from fewstep.stamp import Stamp


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (16, 16)])
def test_four_small_convolutions_are_one_large_one_of_the_doubled_picture(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Upsample2D(6, use_conv=True, out_channels=5)
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(upsample(layer, x), layer(x), atol=1e-5, rtol=1e-5)


def test_networks_are_as_before_after_an_export(tiny: Path) -> None:
    from fewstep.models.graphs import Decoder

    bundle = load_bundle(tiny)
    before = {name: type(processor) for name, processor in bundle.vae.attn_processors.items()}
    module = Decoder(bundle)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plainly = module(x)
        with plain(module):
            cheaper = module(x)
        again = module(x)
    assert torch.equal(plainly, again)
    torch.testing.assert_close(cheaper, plainly, atol=1e-5, rtol=1e-4)
    assert {name: type(processor) for name, processor in bundle.vae.attn_processors.items()} == before
    assert not any("forward" in vars(layer) for layer in bundle.vae.decoder.modules())


@pytest.fixture(scope="module")
def with_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of its own, with graphs that were exported from it."""
    folder = tiny_bundle(tmp_path_factory.mktemp("graphs") / "tiny", students=(1, 2), shape=SMALLER)
    write(folder, 2, "graphs", folder / "graphs")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_graph_serves_every_student_and_any_size(with_graphs: Path) -> None:
    quick, reference = (Engine.load(str(with_graphs), backend=backend) for backend in ("onnxruntime", "eager"))
    for steps, size in ((1, (256, 256)), (2, (336, 192)), (16, (64, 80))):
        request = Request("a red apple", 3, steps, *size)
        one, other = (np.asarray(engine.generate(request).image, int) for engine in (quick, reference))
        assert np.abs(one - other).max() <= 2
        assert other.std() > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_unets_take_texts_of_any_length_and_a_negative_one_of_another(with_graphs: Path) -> None:
    quick, reference = (Engine.load(str(with_graphs), backend=backend) for backend in ("onnxruntime", "eager"))
    long = "a red apple " * 60
    for more in ({}, {"negative": "pizza"}, {"negative": long, "nag_scale": 3.0}, {"negative": long, "guidance_scale": 2.0}):
        requests = [Request(prompt, 3, 2, 336, 192, **more) for prompt in ("a red apple", "pizza", long)]  # type: ignore[arg-type]
        for one, other in zip(quick.generate_many(requests), reference.generate_many(requests), strict=True):
            assert np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).max() <= 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_encoder_takes_any_size(with_graphs: Path) -> None:
    quick, reference = (Engine.load(str(with_graphs), backend=backend).backend for backend in ("onnxruntime", "eager"))
    for size in ((256, 256), (64, 80), (336, 192)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        one, other = (backend.encode_image(pixels) for backend in (quick, reference))
        assert one.shape == (1, SMALLER.latent_channels, size[0] // 16, size[1] // 16)
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_weight_is_left_in_a_graph(with_graphs: Path) -> None:
    shapes = json.loads((with_graphs / "graphs" / "weights.json").read_text())
    bundle: Bundle = load_bundle(with_graphs)
    assert set(shapes["unet"]) == {f"unet.{name}" for name, _ in bundle.unet.named_parameters()}
    assert all((with_graphs / "graphs" / f"{name}.onnx").stat().st_size < 250_000 for name in shapes)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_weights_that_were_equal_at_the_export_may_differ_afterwards(with_graphs: Path) -> None:
    """Biases start as zeros, and an exporter takes equal tensors for one: a student's would then be another's."""
    torch.manual_seed(5)
    unet = build_unet(SMALLER)
    for parameter in unet.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    tensors = {key: value.half().contiguous() for key, value in copy.deepcopy(unet).state_dict().items()}
    path = with_graphs / "students" / "4-step.safetensors"
    save_weights(tensors, path, Stamp(kind="unet", steps=4).to_metadata())
    request = Request("a red apple", 3, 4)
    one, other = (np.asarray(Engine.load(str(with_graphs), backend=backend).generate(request).image, int) for backend in ("onnxruntime", "eager"))
    assert np.abs(one - other).max() <= 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_exported_student_is_whole_and_says_how_near_it_is(with_graphs: Path, tmp_path: Path) -> None:
    import onnxruntime

    out = write(with_graphs, 2, "onnx", tmp_path / "onnx")
    assert [re.sub("[0-9.]+", "N", line) for line in about(out, "onnx")] == [
        *(f"{name}Nonnx  N MB" for name in ("text", "unet", "decoder")),
        "a picture in each of three shapes differs from torch's by at most N of N",
    ]
    record = json.loads((out / "model.json").read_text())
    assert record["timesteps"] == [999, 499]
    assert record["largest_difference_of_255"] <= 2
    assert record["bytes"]["unet.onnx"] == (out / "unet.onnx").stat().st_size > 1_000_000
    assert {value.name for value in onnxruntime.InferenceSession(str(out / "unet.onnx")).get_inputs()} == {
        "sample",
        "timestep",
        "prompt_embeds",
        "pooled",
        "ids",
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_too_large_for_one_file_lies_in_a_second_that_is_named(with_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDXL's UNet is 10 GB in float32, and protobuf ends at 2."""
    from fewstep.export import onnx

    whole = json.loads((write(with_graphs, 2, "onnx", tmp_path / "whole") / "model.json").read_text())
    monkeypatch.setattr(onnx, "MOST", whole["bytes"]["unet.onnx"] - 500_000)
    out = write(with_graphs, 2, "onnx", tmp_path / "apart")
    apart = json.loads((out / "model.json").read_text())
    assert apart["largest_difference_of_255"] == whole["largest_difference_of_255"] <= 2
    assert apart["bytes"] == {path.name: path.stat().st_size for path in out.iterdir() if ".onnx" in path.name}
    assert apart["bytes"].keys() - whole["bytes"].keys() == {"unet.onnx.data"}
    assert apart["bytes"]["unet.onnx"] < 500_000 < apart["bytes"]["unet.onnx.data"]
