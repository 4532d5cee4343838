"""A reduced decoder learns from the full one: where a crop counts, what is cached, and a killed run that ends like one that was not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.tiny import CAPTIONS
from torch import nn

from fewstep.cli import main
from fewstep.distill import decoded as decoded_module
from fewstep.distill import pretrain, trainer
from fewstep.distill.decoded import Decoded, shares, span, to_bytes
from fewstep.distill.decoder import DecoderPlan, DecoderRecipe, decoder_phase, train_decoder
from fewstep.distill.latents import to_tensor
from fewstep.distill.recipe import RecipeError, read_recipe
from fewstep.distill.trainer import update
from fewstep.models.bundle import WEIGHTS, save_bundle
from fewstep.models.miniature import Shape, build_bundle
from fewstep.models.tiny_decoder import TinyConfig, build_tiny, load_tiny
from fewstep.models.weights import TINY

RECIPE = Path(__file__).parents[3] / "recipes" / "emoji-decoder.toml"
SIZES = {(64, 64): 5, (84, 48): 3, (48, 84): 2}  # pictures of each bucket in the cache below
FACTOR, CHANNELS = 4, 2


class Stretch(nn.Module):
    """A full decoder that answers each latent with a flat square: its first channels as a colour. It counts its calls."""

    device, dtype, calls = torch.device("cpu"), torch.float32, 0

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.calls += len(latents)
        colour = torch.cat([latents, -latents.mean(1, keepdim=True)], dim=1)
        return (colour.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3),)


def latents(scale: float = 0.3) -> Any:
    generator = torch.Generator().manual_seed(0)
    made = {(w, h): (scale * torch.randn(n, CHANNELS, h // FACTOR, w // FACTOR, generator=generator)).half() for (w, h), n in SIZES.items()}
    return SimpleNamespace(latents=made, seed=3)


@pytest.fixture
def vae() -> Any:
    return Stretch()


@pytest.fixture
def decoded(tmp_path: Path, vae: Any) -> Decoded:
    return Decoded(tmp_path / "decoded", latents(), vae, 10, "key", torch.float32)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 4), st.floats(0, 1, exclude_max=True))
def test_what_a_crop_border_spoils_does_not_count_and_nothing_else(length: int, crop: int, margin: int, draw: float) -> None:
    inside, kept = span(length, crop, margin, draw)
    assert inside.start >= 0 and inside.stop <= length and len(inside) == min(crop, length)
    for position in inside:
        from_start = margin if inside.start == 0 else position - inside.start  # the picture's own border spoils nothing
        to_stop = margin if inside.stop == length else inside.stop - 1 - position
        assert (position in kept) == (min(from_start, to_stop) >= margin)


def test_crops_reach_every_place() -> None:
    starts = {span(16, 12, 2, draw)[0].start for draw in np.linspace(0, 1, 100, endpoint=False)}
    assert starts == {0, 1, 2, 3, 4}
    assert set().union(*(span(16, 12, 2, draw)[1] for draw in (0.0, 0.999))) == set(range(16))


def test_a_margin_as_wide_as_the_reach_makes_a_crop_tell_the_whole_picture() -> None:
    """With that margin, what counts of a decoded crop is what decoding everything would have given there; with less it is not."""
    torch.manual_seed(0)
    decoder = build_tiny(TinyConfig(CHANNELS, FACTOR, (8,), (1,)))  # of four 3x3 convolutions: reach 4
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    whole = torch.randn(1, CHANNELS, 16, 16)
    picture = decoder(whole)

    def differs(margin: int, draw: float) -> float:
        inside, kept = span(16, 11, margin, draw)
        crop = decoder(whole[..., inside.start : inside.stop])
        part = crop[..., (kept.start - inside.start) * FACTOR : (kept.stop - inside.start) * FACTOR]
        return float((part - picture[..., kept.start * FACTOR : kept.stop * FACTOR]).detach().abs().max())

    for draw in (0.0, 0.5, 0.99):
        assert differs(4, draw) < 1e-4
        assert differs(1, draw) > 1e-2


def test_each_bucket_gives_its_share() -> None:
    assert shares({(64, 64): 60, (84, 48): 30, (48, 84): 10}, 20) == {(64, 64): 12, (84, 48): 6, (48, 84): 2}
    assert shares({(64, 64): 6, (84, 48): 3}, 100) == {(64, 64): 6, (84, 48): 3}
    for count in range(1, 11):
        given_out = shares(SIZES, count)
        assert sum(given_out.values()) == count and all(given_out[size] <= SIZES[size] for size in given_out)


def test_bytes_and_back() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 3), dtype=np.uint8)
    assert np.array_equal(to_bytes(to_tensor(pictures)).numpy(), pictures)
    assert to_bytes(torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))[:, 0, 0, 0].tolist() == [0, 255]


def test_a_crop_and_its_picture_show_the_same_place(decoded: Decoded) -> None:
    shapes = set()
    for number in range(40):
        crops = decoded.batch(range(2 * number, 2 * number + 2), 2, 12, 2, noise=0.0)
        (wanted,) = Stretch().decode(crops.latents, return_dict=False)
        torch.testing.assert_close(crops.pictures, wanted[..., crops.rows, crops.columns].clamp(-1, 1), atol=1.01 / 255, rtol=0)
        shapes.add(crops.latents.shape)
    assert shapes == {(2, CHANNELS, 12, 12)}, "every bucket holds a crop of 12"


def test_a_sample_is_a_function_of_its_index(decoded: Decoded) -> None:
    whole, half = decoded.batch(range(8, 12), 4, 12, 2, 0.15), decoded.batch(range(8, 12)[1::2], 4, 12, 2, 0.15)
    assert torch.equal(whole.latents[1::2], half.latents) and torch.equal(whole.pictures[1::2], half.pictures)
    assert (whole.rows, whole.columns) == (half.rows, half.columns)


def test_noise_is_each_channels_own_share(tmp_path: Path, vae: Any) -> None:
    source = latents()
    for part in source.latents.values():
        part[:, 1] *= 0.1
    decoded = Decoded(tmp_path, source, vae, 10, "key", torch.float32)
    pairs = [[decoded.batch(range(n, n + 1), 1, 16, 0, noise).latents for noise in (0.0, 0.5)] for n in range(400)]
    strengths = torch.cat([(noisy - clean).square().mean((2, 3)).sqrt() for clean, noisy in pairs]) / decoded.deviation.flatten()
    assert float(strengths.max()) < 0.5 * 1.2 and float(strengths.min()) < 0.05
    torch.testing.assert_close(strengths.mean(0), torch.tensor([0.25, 0.25]), atol=0.03, rtol=0)  # the mean of U(0, 0.5)


def test_decoding_goes_on_where_it_was_stopped(tmp_path: Path, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_module, "SHARD", 2)  # shards of 2, 2, 1; 2, 1; 2
    real, left = decoded_module.save_weights, 3

    def dies(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(decoded_module, "save_weights", dies)
    with pytest.raises(KeyboardInterrupt):
        Decoded(tmp_path, latents(), vae, 10, "key", torch.float32)
    again = Stretch()
    resumed = Decoded(tmp_path, latents(), again, 10, "key", torch.float32)
    assert again.calls == 10 - 4, "two whole shards were there"
    assert {size: [len(shard) for shard in shards] for size, shards in resumed.pictures.items()} == {(64, 64): [2, 2, 1], (84, 48): [2, 1], (48, 84): [2]}
    fresh = Stretch()
    Decoded(tmp_path, latents(), fresh, 10, "key", torch.float32)
    assert fresh.calls == 0
    Decoded(tmp_path, latents(), fresh, 10, "another", torch.float32)
    assert fresh.calls == 10, "pictures of another autoencoder were kept"


def test_the_loss_falls_and_who_answers_alike_has_none(decoded: Decoded) -> None:
    torch.manual_seed(0)
    recipe = DecoderRecipe(channels=(16,), blocks=(1,), updates=150, batch_size=2, learning_rate=1e-2, noise=0.0)
    decoder = build_tiny(TinyConfig(CHANNELS, FACTOR, recipe.channels, recipe.blocks))
    phase = decoder_phase(decoder, decoded, recipe, torch.float32)
    logged = []
    for number in range(recipe.updates):
        indices = range(2 * number, 2 * number + 2)
        logged.append(update(phase, "student", [phase.batch(indices)], indices, phase.learning_rate(number), [recipe.learning_rate]))
    first, last = logged[0], {key: np.mean([line[key] for line in logged[-10:]]) for key in logged[0]}
    assert last["loss"] < 0.2 * first["loss"] and last["psnr"] > first["psnr"] + 10

    crops = phase.batch(range(2))
    perfect = decoder_phase(decoder, decoded, recipe, torch.float32)
    decoder.forward = lambda latents: nn.functional.pad(crops.pictures, (crops.columns.start, 0, crops.rows.start, 0))
    exact = perfect.losses("student", crops)
    assert float(exact["loss"]) == 0 and float(exact["psnr"]) >= 90


class Killed(Exception):
    """Stands in for SIGKILL."""


def model(folder: Path) -> Path:
    """A random model of pictures of 64 pixels, a quarter of the latents' scale each way."""
    shape = Shape((32, 32), (1, 1), (1, 1), 1, 8, (32, 32), (1, 1), 77, 600, 4, (8, 8, 8), 4, 16)
    save_bundle(build_bundle(shape, CAPTIONS, 0), folder)
    return folder


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = model(tmp_path / "model")
    settings = [
        f"model={json.dumps(str(teacher))}",
        "precision='float32'",
        "data={subjects=6, pictures=6}",
        "decoder={channels=[8, 8], blocks=[1, 1], pictures=5, updates=8, batch_size=2, contest={turns=4}}",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with pytest.raises(SystemExit) as ended:  # as the command line has it
        main(["distill", str(RECIPE), "--run", str(whole), *(part for setting in settings for part in ("--set", setting))])
    assert ended.value.code == 0 and capsys.readouterr().out.splitlines()[-1] == str(whole / TINY)
    real, calls = trainer.update, 0

    def dies(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls in (1, 6, 12):
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(trainer, "update", dies)
    monkeypatch.setattr(pretrain.complete, "__defaults__", ((), 0.0))  # a checkpoint after each update
    for _ in range(3):
        with pytest.raises(Killed):
            train_decoder(RECIPE, killed, settings)
    train_decoder(RECIPE, killed, settings)
    assert calls == 8 + 4 + 3, "it began anew"
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    one, other = load_file(whole / TINY / WEIGHTS), load_file(killed / TINY / WEIGHTS)
    assert all(torch.equal(one[key], other[key]) for key in one)

    (teacher / TINY).symlink_to(whole / TINY)
    decoder = load_tiny(teacher)  # it is for this model's autoencoder
    averaged = load_file(whole / "weights" / "sharpen.safetensors")
    assert all(torch.equal(value, averaged[f"decoder/{key}"].half().float()) for key, value in decoder.state_dict().items())


def test_a_shape_that_the_model_cannot_have_is_a_sentence(tmp_path: Path) -> None:
    settings = [f"model={json.dumps(str(model(tmp_path / 'model')))}", "data={subjects=6, pictures=2}", "decoder={channels=[8,8,8,8], blocks=[1,1,1,1]}"]
    with pytest.raises(RecipeError, match="multiple of 8"):
        train_decoder(RECIPE, tmp_path / "run", settings)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("decoder.margin=4", "nothing would be left"),
        ("decoder.updates=0", "1 or more"),
        ("decoder.noise=-0.1", "0 or more"),
        ("decoder.judge=1", "unknown key"),
    ],
)
def test_a_contradiction_is_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(RECIPE, DecoderPlan, [setting])
