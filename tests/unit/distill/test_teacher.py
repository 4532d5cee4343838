"""What the teacher's loss weighs, and prompts that do not depend on the batch they are in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import CAPTIONS, build
from torch import Tensor, nn

from fewstep.distill.latents import Samples, cache_key
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.teacher import FrozenText, TeacherRecipe, alpha_bar_at, loss_weight, teacher_phase
from fewstep.models.bundle import read_stamp

RECIPES = Path(__file__).parents[3] / "recipes"
QUICK = ["teacher.updates=2", "teacher.batch_size=4", "data.pictures=64"]


def test_weights_have_their_closed_forms() -> None:
    snr = torch.tensor([0.0047, 0.25, 1.0, 5.0, 20.0])
    assert loss_weight(snr, 0.0, 0.0).tolist() == [1.0] * 5
    torch.testing.assert_close(loss_weight(snr, 5.0, 0.0), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.25]))
    torch.testing.assert_close(loss_weight(snr, 5.0, 0.5), torch.tensor([0.0047**-0.5, 2.0, 1.0, 1.0, 0.25]))
    torch.testing.assert_close(loss_weight(snr, 0.0, 1.0) * snr, torch.tensor([1.0, 1.0, 1.0, 5.0, 20.0]))  # in x0: never less than an even weight


def samples(captions: list[str]) -> Samples:
    count = len(captions)
    return Samples(torch.zeros(count, 4, 2, 2), captions, torch.zeros(count, 6), list(range(count)), 0)


def test_a_caption_is_encoded_the_same_in_every_batch() -> None:
    bundle = build()
    text, fresh = FrozenText(bundle), FrozenText(bundle)
    text(samples(CAPTIONS[:5]))
    mixed, alone = text(samples([CAPTIONS[7], CAPTIONS[3]])), fresh(samples([CAPTIONS[3]]))
    assert torch.equal(mixed.embeds[1:], alone.embeds)
    assert torch.equal(mixed.pooled[1:], alone.pooled)


def test_a_cache_is_known_by_its_data_and_its_autoencoder() -> None:
    one, other = build(0).vae, build(1).vae
    key = cache_key("data", one, torch.float32)
    assert key == cache_key("data", build(0).vae.half().float(), torch.float32), "float16 files hold the same autoencoder"
    assert len({key, cache_key("more", one, torch.float32), cache_key("data", other, torch.float32), cache_key("data", one, torch.bfloat16)}) == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_teacher_goes_on_from_one_that_is_finished(tmp_path: Path) -> None:
    first = ["autoencoder.updates=2", "text.updates=2", "vocabulary_captions=50", *QUICK]
    start = train_teacher(RECIPES / "smoke-teacher.toml", tmp_path / "first", first)
    recipe = tmp_path / "further.toml"
    recipe.write_text(f'start = "{start}"\nprecision = "float32"\n[data]\nsubjects = 6\n[teacher]\nlearning_rate = 1e-2')
    end = train_teacher(recipe, tmp_path / "second", QUICK)
    for part in ("vae", "text_encoder"):
        name = next((start / part).glob("*.safetensors")).name
        assert (start / part / name).read_bytes() == (end / part / name).read_bytes(), f"{part} is another"
    unet = Path("unet") / "diffusion_pytorch_model.safetensors"
    assert (start / unet).read_bytes() != (end / unet).read_bytes()
    before, after = read_stamp(start / unet), read_stamp(end / unet)
    assert before and after
    assert (before.pictures, after.pictures) == (8, 16)


class Oracle(nn.Module):
    """A UNet that knows the one picture there is, and answers in ε as equation 4 has it."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture, self.nothing, self.device = picture, nn.Parameter(torch.zeros(())), picture.device

    def forward(self, x: Tensor, t: Tensor, **conditions: Any) -> Any:
        a = alpha_bar_at(t, x)
        return SimpleNamespace(sample=(x - a**0.5 * self.picture) / (1 - a) ** 0.5 + self.nothing)


@pytest.mark.parametrize("pure_noise", [0.0, 0.999])
def test_who_knows_the_picture_makes_no_error_at_any_timestep_noise_alone_included(pure_noise: float) -> None:
    """With the noise itself as the target at T, the best teacher would see no picture there, and every sample would start out grey."""
    bundle, picture = build(), torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1))
    bundle.unet = Oracle(picture)
    phase = teacher_phase(bundle, None, FrozenText(bundle), TeacherRecipe(pure_noise=pure_noise), torch.float32)
    asked = samples(CAPTIONS[:8])
    made = phase.losses("student", replace(asked, latents=picture.expand(8, -1, -1, -1)))
    assert float(made["error"]) < 1e-8
