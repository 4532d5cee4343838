"""What an evaluation inside a run measures: figures with known values, from what is here, and a sentence for what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.evals.synthetic import SUBJECTS, WORLD

from fewstep.evals import scorers as module
from fewstep.evals.figures import FIGURES, told
from fewstep.evals.judge import JUDGE, Judge, save_judge
from fewstep.evals.prompts import held_out
from fewstep.evals.rows import Renders
from fewstep.evals.scorers import ELSEWHERE, Asked, scorers

QUESTIONS = held_out(WORLD, 6)
PROMPTS = [question.text for question in QUESTIONS]


def noise(side: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (len(QUESTIONS), side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / JUDGE
    torch.manual_seed(0)
    save_judge(Judge([subject.name for subject in SUBJECTS], channels=(8, 16, 16)), path)
    return path


def measured(found: list[module.Scorer], pictures: np.ndarray) -> dict[str, float]:
    return {name: value for scorer in found for name, value in scorer(pictures).items()}


def test_a_student_that_is_its_teacher_differs_in_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found, left = scorers(Asked(PROMPTS), noise())
    assert measured(found, noise()) == {"sharpness": 1.0, "distance": 0.0}
    black = np.zeros_like(noise())
    assert measured(found, black)["sharpness"] == 0
    assert measured(found, noise(seed=1))["distance"] == pytest.approx(255 / 6**0.5, rel=0.02), "two uniform draws differ by √(1/6) of their range"
    assert [sentence.split(" left out:")[0] for sentence in left] == ["the CLIP score is", "FID and patch-FID are"]
    assert all("hf download" in sentence for sentence in left)


def test_the_judge_measures_scenes(judge: Path) -> None:
    """Renders of the scenes, drawn as the reference is, are at no distance from it, and their flat backgrounds are right by their pixels."""
    asked = Asked(PROMPTS, QUESTIONS, WORLD, judge)
    renders, _ = Renders(WORLD, 96)(QUESTIONS, range(ELSEWHERE, ELSEWHERE + len(QUESTIONS)))
    found, left = scorers(asked, noise())
    figures = measured(found, renders)
    assert left == []
    assert figures["frechet"] == pytest.approx(0, abs=1e-6)
    assert figures["patch_frechet"] == pytest.approx(0, abs=1e-6)
    assert measured(found, noise())["frechet"] > 0.01
    assert figures.keys() <= FIGURES.keys()
    assert figures["adherence"] <= min(figures["subject"], 1.0)


def test_a_judge_of_other_subjects_is_left_out_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    save_judge(Judge(["a cat", "a dog"], channels=(8, 16, 16)), tmp_path / JUDGE)
    _, left = scorers(Asked(PROMPTS, QUESTIONS, WORLD, tmp_path / JUDGE), noise())
    assert left[0].startswith("adherence and Fréchet distance are left out: the judge does not know")
    _, left = scorers(Asked(PROMPTS, QUESTIONS, WORLD, tmp_path / "none.safetensors"), noise())
    assert "there is no such judge" in left[0]


def test_clip_and_inception_measure_what_is_no_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """FID against itself is nothing, of shifted features the shift's square; patch-FID only where a picture has such a middle."""
    monkeypatch.setattr(module, "clip_score", lambda: lambda image, prompt: float(len(prompt)))
    monkeypatch.setattr(module.fid, "open_inception", lambda path: None)
    monkeypatch.setattr(module.fid, "features", lambda network, pictures: pictures.reshape(len(pictures), -1)[:, ::997].astype(np.float64))
    monkeypatch.setattr(module.fid, "whole", lambda pictures: pictures)
    large = noise(300) // 2
    found, left = scorers(Asked(PROMPTS), large)
    same, lighter = measured(found, large), measured(found, large + np.uint8(3))
    width = large[0].size // 997 + 1
    assert left == []
    assert same["clip"] == pytest.approx(np.mean([len(prompt) for prompt in PROMPTS]))
    assert same["fid"] == pytest.approx(0, abs=1e-3)
    assert lighter["fid"] == pytest.approx(9 * width, rel=1e-3)
    assert lighter["patch_fid"] == pytest.approx(9 * (299 * 299 * 3 // 997 + 1), rel=1e-3)
    assert "patch_fid" not in measured(scorers(Asked(PROMPTS), noise(96))[0], noise(96))


def test_figures_are_told_with_their_units() -> None:
    assert told({"adherence": 0.9375, "fid": 12.096}) == ["adherence 93.8%", "FID 12.10"]
