"""A reduced decoder: pictures of any size by any factor, small and cheap enough, and only beside the autoencoder it was made for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fewstep.models.bundle import WEIGHTS
from fewstep.models.tiny_decoder import TinyConfig, TinyDecoder, build_tiny, load_tiny, save_tiny
from fewstep.models.weights import TINY, TINY_KEY, WeightsError
from fewstep.stamp import file_hash

EMOJI = TinyConfig(latent_channels=16, factor=16)
SMALL = TinyConfig(latent_channels=4, factor=16, channels=(8, 8), blocks=(1, 1))


def lively(config: TinyConfig, seed: int = 0) -> TinyDecoder:
    """A decoder none of whose weights is zero."""
    torch.manual_seed(seed)
    decoder = build_tiny(config)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return decoder.eval().requires_grad_(False)


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A model's folder with an autoencoder and the reduced decoder made for it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny / "vae", folder / "vae")
    save_tiny(lively(SMALL), folder, file_hash(folder / "vae" / WEIGHTS))
    return folder


@pytest.mark.parametrize(
    ("factor", "channels", "blocks"),
    [(16, (8, 8, 8), (1, 0, 1)), (8, (8, 8, 8), (1, 1, 1)), (4, (8, 8, 8), (0, 0, 0)), (4, (8,), (2,)), (6, (8, 8), (1, 1)), (1, (8,), (1,))],
)
@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (7, 1)])
def test_a_latent_becomes_a_square_of_pixels_whatever_the_factor(
    factor: int, channels: tuple[int, ...], blocks: tuple[int, ...], height: int, width: int
) -> None:
    decoder = lively(TinyConfig(3, factor, channels, blocks))
    latents = torch.zeros(1, 3, height, width, requires_grad=True)
    pictures = decoder(latents.expand(2, -1, -1, -1))
    assert pictures.shape == (2, 3, factor * height, factor * width)
    for y, x in {(0, 0), (height - 1, width - 1)}:
        (reach,) = torch.autograd.grad(pictures[0, :, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].square().sum(), latents, retain_graph=True)
        assert reach[0].abs().sum(dim=0)[y, x] > 0, "its pixels stand elsewhere"


def test_far_away_nothing_changes() -> None:
    """No attention and no statistics over a picture: the same latents give the same pixels in any company."""
    decoder, generator = lively(SMALL), torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 12, 12, generator=generator)
    other = latents.clone()
    other[..., 9:] = torch.randn(1, 4, 12, 3, generator=generator)
    one, two = decoder(latents), decoder(other)
    torch.testing.assert_close(one[..., : 4 * 16], two[..., : 4 * 16])  # first 3x3 and a block at each level: 1 + 2 + 2/2 + 1/2 latents of reach
    assert not torch.allclose(one[..., 8 * 16 :], two[..., 8 * 16 :])


def test_the_default_keeps_to_its_budget(tmp_path: Path) -> None:
    """At most 1 MB on disk and 2 GFLOP for a picture of 256 pixels."""
    decoder, work = build_tiny(EMOJI), []
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, _, out: work.append(2 * conv.weight.numel() * out.shape[2] * out.shape[3]))
    with torch.no_grad():
        decoder(torch.zeros(1, 16, 16, 16))
    assert 1e9 < sum(work) <= 2e9
    own = save_tiny(decoder, tmp_path, "0")
    assert sum(path.stat().st_size for path in own.iterdir()) <= 1_000_000


def test_what_is_saved_is_what_is_loaded(model: Path) -> None:
    decoder, latents = lively(SMALL), torch.randn(1, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    again = load_tiny(model)
    assert again.config == SMALL
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(again(latents), decoder.half().float()(latents))
    files = load_file(model / TINY / WEIGHTS)
    assert {value.dtype for value in files.values()} == {torch.float16}
    before = (model / TINY / WEIGHTS).read_bytes()
    save_tiny(again, model, file_hash(model / "vae" / WEIGHTS))
    assert (model / TINY / WEIGHTS).read_bytes() == before


def test_one_made_for_another_autoencoder_is_refused(model: Path) -> None:
    vae = model / "vae" / WEIGHTS
    before = file_hash(vae)
    save_file({key: value + 1 for key, value in load_file(vae).items()}, vae)
    with pytest.raises(WeightsError, match=f"made for another autoencoder \\({before}, not {file_hash(vae)}\\)"):
        load_tiny(model)


def test_a_model_without_one_says_so(tiny: Path) -> None:
    with pytest.raises(WeightsError, match="has no reduced decoder"):
        load_tiny(tiny)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", b"{", "not the dimensions"),
        ("config.json", b"[]", "not the dimensions"),
        ("config.json", json.dumps({"latent_channels": 4, "factor": 16, "attention": True}).encode(), "not the dimensions"),
        ("config.json", json.dumps({"latent_channels": 4, "factor": 16, "channels": [8], "blocks": [1]}).encode(), "not the weights of this model"),
        ("config.json", json.dumps({"latent_channels": 4, "factor": 16, "channels": [10**9], "blocks": [1]}).encode(), "not the dimensions"),
        (WEIGHTS, b"half", "it has 4 bytes"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(model: Path, file: str, content: bytes, sentence: str) -> None:
    (model / TINY / file).write_bytes(content)
    with pytest.raises(WeightsError, match=sentence):
        load_tiny(model)


def test_weights_that_name_no_autoencoder_are_refused(model: Path) -> None:
    path = model / TINY / WEIGHTS
    for metadata in ({"format": "pt"}, {TINY_KEY: "[]"}, {TINY_KEY: "{}"}):
        save_file(load_file(path), path, metadata)
        with pytest.raises(WeightsError, match="does not say which autoencoder"):
            load_tiny(model)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factor": 6}, "multiple of 4"),
        ({"factor": 2}, "multiple of 4"),
        ({"blocks": (1, 2)}, "one number each"),
        ({"channels": (), "blocks": ()}, "one number each"),
        ({"channels": (8, 0, 8)}, "whole numbers"),
        ({"latent_channels": 4.0}, "whole numbers"),
    ],
)
def test_a_contradiction_is_a_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TinyConfig(**{"latent_channels": 4, "factor": 16, **changes})  # type: ignore[arg-type]
