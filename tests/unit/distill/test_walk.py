"""A tiny plan through every kind of phase: hygiene of gradients, and a run that was killed ends like one that was not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fewstep.distill import steps, trainer
from fewstep.distill.latents import Samples
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.steps import Task
from fewstep.distill.teacher import FrozenText
from fewstep.distill.walk import distill
from fewstep.models.bundle import load_bundle, read_stamp
from fewstep.models.prompt import time_ids

RECIPES = Path(__file__).parents[3] / "recipes"
TEACHER = ["autoencoder.updates=2", "text.updates=2", "teacher.updates=2", "vocabulary_captions=50", "data.pictures=64"]
SETTINGS = ["data.pictures=64", "batch_size=2", "evaluation.prompts=2", "evaluation.figure=distance"]


class Killed(Exception):
    """Stands in for SIGKILL: nothing gets to clean up after it."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_teacher(RECIPES / "smoke-teacher.toml", tmp_path_factory.mktemp("run") / "teacher", TEACHER)


@dataclass
class Walked:
    """A run that was never stopped, and what was seen of its turns."""

    folder: Path
    turns: list[tuple[str, str]] = field(default_factory=list)  # (phase, turn)
    strayed: list[str] = field(default_factory=list)  # turns that moved another's weights or left gradients


@pytest.fixture(scope="module")
def settings(teacher: Path) -> list[str]:
    return [*SETTINGS, f"teacher={json.dumps(str(teacher))}"]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Walked:
    walked, real = Walked(tmp_path_factory.mktemp("run") / "whole"), trainer.update

    def watched(phase: trainer.Phase, turn: str, *arguments: Any) -> dict[str, float]:
        others = [model for name, model in phase.models.items() if name != turn]
        before = [[p.detach().clone() for p in model.parameters()] for model in others]
        losses = real(phase, turn, *arguments)
        moved = any(not torch.equal(p, q) for model, old in zip(others, before, strict=True) for p, q in zip(model.parameters(), old, strict=True))
        left = any(p.grad is not None for model in phase.models.values() for p in model.parameters())
        walked.strayed += [f"{phase.name}: {turn}'s turn"] * (moved or left)
        walked.turns.append((phase.name, turn))
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "update", watched)
        distill(RECIPES / "smoke.toml", walked.folder, settings)
    return walked


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_ends_like_one_that_was_not(whole: Walked, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, real, calls = tmp_path / "killed", trainer.update, 0

    def dies(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls in (5, 17, 31):
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(trainer, "update", dies)
    for _ in range(3):
        with pytest.raises(Killed):
            distill(RECIPES / "smoke.toml", killed, settings)
    distill(RECIPES / "smoke.toml", killed, settings)
    assert (killed / "metrics.jsonl").read_text() == (whole.folder / "metrics.jsonl").read_text()
    for path in sorted((whole.folder / "weights").glob("*-step*.safetensors")):
        one, other = load_file(path), load_file(killed / "weights" / path.name)
        assert all(torch.equal(one[key], other[key]) for key in one), path.name
    for path in sorted((whole.folder / "model" / "students").glob("*.safetensors")):
        stamp = read_stamp(path)
        assert stamp is not None
        assert stamp.phases[-1] == ("adapter" if stamp.kind == "lora" else "full")
        assert stamp.pictures > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_turn_touches_only_its_own_weights(whole: Walked) -> None:
    assert whole.strayed == []
    assert {"critic", "student"} <= {turn for _, turn in whole.turns}
    assert len({name for name, _ in whole.turns}) == 10


def test_a_walk_is_taken_once_for_a_batch_that_comes_again(teacher: Path) -> None:
    bundle = load_bundle(teacher)
    calls = 0
    unet = bundle.unet

    class Counted(torch.nn.Module):
        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            return unet(*arguments, **keywords)

    task = Task(FrozenText(bundle), Counted(), teacher_steps=4, n=2, levels=(2, 4), walks={})
    latents = torch.randn(3, int(unet.config.in_channels), 4, 4)
    samples = Samples(latents, ["a red apple"] * 3, time_ids(3, 32, 32), [5, 6, 7], seed=0)
    first = steps.landing_losses(task, unet, samples)["loss"]
    again = steps.landing_losses(task, unet, samples)["loss"]
    assert (calls, float(first)) == (2, float(again))
    steps.landing_losses(task, unet, replace(samples, indices=[8, 9, 10]))
    assert calls == 4
