"""A smaller autoencoder: where it starts, what moves in which turn, and a killed run that ends like one that was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from tests.tiny import CAPTIONS

from fewstep.data.emoji import Dials, World
from fewstep.data.subjects import shapes
from fewstep.distill import trainer
from fewstep.distill.compact import CompactPlan, CompactRecipe, Studio, imitate_phase, narrow, sharpen_phase, train_autoencoder
from fewstep.distill.patches import Contest, PatchCritic
from fewstep.distill.recipe import RecipeError, read_recipe
from fewstep.distill.trainer import Phase, update
from fewstep.models.bundle import WEIGHTS, load_weights, save_bundle
from fewstep.models.miniature import Shape, build_autoencoder, build_bundle

RECIPE = Path(__file__).parents[3] / "recipes" / "emoji-autoencoder.toml"
WORLD = World(tuple(shapes()), Dials(), 0)
SHAPE = Shape((32, 32), (1, 1), (1, 1), 1, 8, (32, 32), (1, 1), 77, 600, 4, (16, 16, 16), 4, 16)
TINY = CompactRecipe(channels=(8, 16, 16), batch_size=2, crop=32, updates=100, contest=Contest(turns=4), learning_rate=2e-3, noise=0.0, dials=Dials())


def teacher() -> AutoencoderKL:
    torch.manual_seed(0)
    return build_autoencoder(SHAPE).eval().requires_grad_(False)


def student_of(wide: AutoencoderKL, channels: tuple[int, ...] = TINY.channels) -> AutoencoderKL:
    torch.manual_seed(1)
    small: AutoencoderKL = AutoencoderKL.from_config({**wide.config, "block_out_channels": channels})
    narrow(wide, small)
    return small


def studio(recipe: CompactRecipe = TINY) -> Studio:
    wide = teacher()
    return Studio(wide, student_of(wide, recipe.channels), torch.ones(4, 1, 1), recipe)


def test_narrowed_to_its_own_width_it_is_the_same_autoencoder() -> None:
    wide, picture = teacher(), torch.randn(1, 3, 32, 32)
    same = student_of(wide, (16, 16, 16))
    with torch.no_grad():
        assert torch.equal(wide.encode(picture).latent_dist.parameters, same.encode(picture).latent_dist.parameters)


def test_each_group_keeps_its_first_channels() -> None:
    wide = teacher()
    small = student_of(wide)
    kept = wide.encoder.conv_in.weight[[0, 1, 4, 5, 8, 9, 12, 13]]
    assert torch.equal(small.encoder.conv_in.weight, kept)
    shortcut = small.decoder.up_blocks[-1].resnets[0].conv_shortcut.weight[..., 0, 0]  # the teacher has none there: what came in went on
    assert torch.equal(shortcut, torch.eye(16)[[0, 1, 4, 5, 8, 9, 12, 13]])


@pytest.mark.parametrize("channels", [(8, 16), (8, 16, 32), (6, 16, 16)])
def test_widths_that_do_not_fit_are_refused(channels: tuple[int, ...]) -> None:
    wide = teacher()
    other = (
        AutoencoderKL.from_config({**wide.config, "block_out_channels": channels, "norm_num_groups": 2})
        if len(channels) == 3
        else build_autoencoder(Shape(autoencoder_channels=channels, latent_channels=4))
    )
    with pytest.raises(ValueError, match="multiples of 4"):
        narrow(wide, other)


def steps(phase: Phase, count: int) -> list[dict[str, float]]:
    logged = []
    for number in range(count):
        indices, turn = range(number * phase.batch_size, (number + 1) * phase.batch_size), phase.turns[number % len(phase.turns)]
        rates = [group["lr"] for group in phase.optimizers[turn].param_groups]
        logged.append(update(phase, turn, [phase.batch(indices)], indices, 1.0, rates))
    return logged


def test_it_learns_latents_and_pictures() -> None:
    phase = imitate_phase(studio(), WORLD, torch.float32)
    logged = [update(phase, "student", [phase.batch(range(2))], range(2), 1.0, [4e-3]) for _ in range(60)]
    assert logged[-1]["encoded"] < 0.5 * logged[0]["encoded"] and logged[-1]["l1"] < 0.7 * logged[0]["l1"]


def test_in_the_contest_only_the_decoder_and_its_critic_move_each_in_its_turn() -> None:
    phase = sharpen_phase(studio(), WORLD, torch.float32)
    student, critic = phase.models["autoencoder"], phase.models["critic"]

    def state(network: Any) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in network.state_dict().items()}

    before = state(student), state(critic)
    steps(phase, 1)
    between = state(student), state(critic)
    assert all(torch.equal(before[0][key], between[0][key]) for key in before[0]), "the student moved in the critic's turn"
    assert any(not torch.equal(before[1][key], between[1][key]) for key in before[1])
    assert all(parameter.grad is None for parameter in (*student.parameters(), *critic.parameters()))
    steps(phase, 2)
    after = state(student)
    moved = {key.split(".")[0] for key in after if not torch.equal(between[0][key], after[key])}
    assert moved == {"decoder", "post_quant_conv"}
    assert all(parameter.grad is None for parameter in (*student.parameters(), *critic.parameters()))


def test_the_critic_sees_patches() -> None:
    """A logit depends on the pixels around it and on no others."""
    critic, picture = PatchCritic(), torch.randn(1, 3, 128, 128)
    changed = picture.clone()
    changed[..., 96:, :] += 1
    with torch.no_grad():
        moved = (critic(picture)[0] - critic(changed)[0]).abs().amax((0, 1, 3))
    assert critic(picture)[0].shape == (1, 1, 16, 16)
    assert torch.all(moved[:10] == 0) and torch.all(moved[12:] > 0)


class Killed(Exception):
    """Stands in for SIGKILL."""


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bundle(build_bundle(SHAPE, CAPTIONS, 0), tmp_path / "model")
    settings = [
        f"model={json.dumps(str(tmp_path / 'model'))}",
        "precision='float32'",
        "data={subjects=6}",
        "autoencoder={channels=[8, 16, 16], batch_size=2, crop=32, updates=3, contest={turns=4}}",
    ]
    recipe = tmp_path / "run.toml"
    recipe.write_text('trains = "autoencoder"\n')
    whole = train_autoencoder(recipe, tmp_path / "whole", settings)
    real, calls = trainer.update, 0

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 6):  # in each of the phases
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(trainer, "update", dies)
    for _ in range(2):
        with pytest.raises(Killed):
            train_autoencoder(recipe, tmp_path / "killed", settings)
    resumed = train_autoencoder(recipe, tmp_path / "killed", settings)
    assert train_autoencoder(recipe, tmp_path / "killed", settings) == resumed, "what is done stays"
    one, other = (load_file(folder / WEIGHTS) for folder in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "killed")]
    assert lines[0] == lines[1] and len(lines[0]) == 7
    config = json.loads((resumed / "config.json").read_text())
    assert config["block_out_channels"] == [8, 16, 16]
    load_weights(student_of(teacher()), resumed / WEIGHTS)


def test_the_shipped_recipe_and_broken_ones(tmp_path: Path) -> None:
    assert read_recipe(RECIPE, CompactPlan, ()).autoencoder.channels == (16, 32, 64, 96, 96)
    with pytest.raises(RecipeError, match="0 or more"):
        read_recipe(RECIPE, CompactPlan, ["autoencoder.contest.turns=-1"])
    recipe = tmp_path / "wide.toml"
    recipe.write_text('trains = "autoencoder"\n[autoencoder]\nchannels = [64, 64, 96, 96, 96]\n')
    with pytest.raises(RecipeError, match="at most"):
        train_autoencoder(recipe, tmp_path / "run")
