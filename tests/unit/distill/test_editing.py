"""Students that edit: jumps from any level, and pictures that stay outside a mask."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_bundle

from fewstep.distill import steps
from fewstep.distill.editing import Kept, masked, masks, repaint
from fewstep.distill.latents import Samples
from fewstep.distill.plan import Stage
from fewstep.distill.steps import Task
from fewstep.distill.targets import grid
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.walk import distill
from fewstep.models.prompt import Prompt, time_ids
from fewstep.schedule import CLEAN, add_noise, epsilon_from_x0

RECIPES = Path(__file__).parents[3] / "recipes"
COUNT = 64


@dataclass(eq=False)
class Sees:
    """A network that sees ``picture`` in anything, and says so as ε or as x0."""

    picture: torch.Tensor
    x0: bool = False

    def __call__(self, x: torch.Tensor, t: Any, **_: Any) -> tuple[torch.Tensor]:
        picture = self.picture.expand(len(x), -1, -1, -1)
        return (picture if self.x0 else epsilon_from_x0(x, picture, alpha_bar_at(t, x)),)


@pytest.fixture(scope="module")
def samples() -> Samples:
    latents = torch.randn(COUNT, 4, 16, 12, generator=torch.Generator().manual_seed(1))
    return Samples(latents, [""] * COUNT, time_ids(COUNT, 192, 256), list(range(COUNT)), seed=0)


def task(teacher: Any, **values: Any) -> Task:
    def text(samples: Samples) -> Prompt:
        return Prompt(torch.zeros(len(samples.indices), 1, 1), torch.zeros(len(samples.indices), 1))

    return Task(text, teacher, 8, 2, (2, 4, 6, 8), prediction_type="sample", **values)


def test_jumps_start_anywhere_in_their_share(samples: Samples) -> None:
    own = {249, 499, 749, 999}
    asked = task(None, anywhere=0.5).jump(samples)
    elsewhere = [int(t) for t in asked.t if int(t) not in own]
    assert COUNT * 0.3 < len(elsewhere) < COUNT * 0.7
    assert min(elsewhere) < 250 and max(elsewhere) > 750
    assert all(int(end) == max(int(t) - 250, CLEAN) for t, end in zip(asked.t, asked.t_end, strict=True))  # a jump is as long from anywhere
    assert bool((asked.t >= 0).all())
    assert torch.equal(task(None).jump(samples).t, task(None, anywhere=0.0).jump(samples).t)


def test_a_student_that_lands_with_its_teacher_from_anywhere_has_nothing_to_learn(samples: Samples) -> None:
    picture = torch.randn(1, 4, 16, 12)
    asked = task(Sees(picture), anywhere=1.0, masked=0.5)
    assert float(steps.landing_losses(asked, Sees(picture, x0=True), samples)["loss"]) < 1e-5
    assert float(steps.landing_losses(asked, Sees(picture + 1, x0=True), samples)["loss"]) > 0.05


def test_masks_are_rectangles_or_what_is_around_them(samples: Samples) -> None:
    made = masks(samples, masked(samples, 0.5))
    whole = made.flatten(1).all(1)
    assert COUNT * 0.3 < int(whole.sum()) < COUNT * 0.7
    for mask in made[~whole, 0]:
        inside = mask if not (mask[0].all() and mask[-1].all()) else ~mask
        rows, columns = inside.any(1), inside.any(0)
        assert torch.equal(inside, rows[:, None] & columns[None]) or torch.equal(~inside, (~inside).any(1)[:, None] & (~inside).any(0)[None])
    assert torch.equal(made, masks(samples, masked(samples, 0.5)))
    assert not masked(samples, 0.0)


def test_inside_a_mask_is_what_the_teacher_paints_and_outside_the_picture(samples: Samples) -> None:
    """A teacher that sees P in all noise walks in a straight line: x_t = √ᾱ_t·P + √(1-ᾱ_t)·(ε - √(ᾱ_T / (1-ᾱ_T))·P)."""
    sees, noise = torch.randn(1, 4, 16, 12), samples.noise(1)
    made, table = masks(samples, range(COUNT)), grid(8)
    levels = np.arange(COUNT) % 8 + 1
    x = repaint(lambda x, t: Sees(sees)(x, t)[0], Kept(made, samples.latents, noise), levels, table)
    level = alpha_bar_at(torch.tensor(table)[torch.from_numpy(levels)], x)
    last = alpha_bar_at(torch.tensor([999]), x)
    inside = add_noise(sees, noise - (last / (1 - last)) ** 0.5 * sees, level)
    outside = torch.where(torch.from_numpy(levels == 8)[:, None, None, None], (1 - level) ** 0.5 * noise, add_noise(samples.latents, noise, level))
    assert torch.allclose(x, torch.where(made, inside, outside), atol=1e-4)


def test_what_a_student_says_outside_a_mask_does_not_count(samples: Samples) -> None:
    picture = torch.randn(1, 4, 16, 12)
    made = masks(samples, range(COUNT))
    strange = torch.where(made, picture, torch.full_like(samples.latents, 7.0))
    asked = task(Sees(picture), masked=1.0)
    assert float(steps.landing_losses(asked, Sees(strange, x0=True), samples)["loss"]) < 1e-5
    jump = asked.jump(samples)
    target = asked.walk(asked.text(samples), jump, samples)
    outside = add_noise(samples.latents, samples.noise(1), alpha_bar_at(jump.t_end, target))
    assert torch.equal(torch.where(made, outside, target), outside)


def test_a_sample_is_the_same_in_whatever_part_of_a_batch(samples: Samples) -> None:
    asked = task(Sees(torch.randn(1, 4, 16, 12)), masked=0.6, anywhere=0.3)
    whole = asked.jump(samples)
    for rows in (slice(0, 5), slice(5, 6), slice(40, COUNT)):
        part = replace(samples, latents=samples.latents[rows], captions=samples.captions[rows], time_ids=samples.time_ids[rows], indices=samples.indices[rows])
        alone = asked.jump(part)
        assert torch.equal(alone.times, whole.times[:, rows])
        assert torch.allclose(alone.x, whole.x[rows], atol=1e-5)


def test_batches_that_come_again_are_painted_once(samples: Samples) -> None:
    calls = []

    def teacher(x: torch.Tensor, t: Any, **_: Any) -> tuple[torch.Tensor]:
        calls.append(len(x))
        return (x,)

    asked = task(teacher, masked=0.5, walks={})
    first = asked.jump(samples)
    before = len(calls)
    assert before
    again = asked.jump(samples)
    assert len(calls) == before
    assert torch.equal(first.x, again.x)


def test_a_run_learns_to_edit(tmp_path: Path) -> None:
    """Both shares at work through all phases of a stage; and a share is a share."""
    teacher = tiny_bundle(tmp_path / "teacher", students=())
    stages = "stages=[{teacher_steps=4, steps=2, n=2, warm=2, conditional=2, unconditional=2, full=2, adapter=2, anywhere=0.5, masked=0.5}]"
    settings = ["data.pictures=4", "batch_size=4", "health.every=0", "health.stop=false", "evaluation.prompts=0", f"teacher={json.dumps(str(teacher))}"]
    model = distill(RECIPES / "smoke.toml", tmp_path / "run", [*settings, stages])
    assert (model / "students" / "2-step-lora.safetensors").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {f"4to2/{phase}" for phase in ("warm", "conditional", "unconditional", "full", "adapter")}
    with pytest.raises(ValueError, match="whole pictures"):
        Stage(steps=4, teacher_steps=8, n=2, kind="mse", mse=2, masked=0.5)
