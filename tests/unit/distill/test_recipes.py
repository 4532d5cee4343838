"""Every recipe that ships can be read, and the plan for the embedded model leaves none of the paper's stages out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.plan import DistillPlan
from fewstep.distill.pretrain import TeacherPlan
from fewstep.distill.recipe import RecipeError, read_recipe

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_is_read(path: Path) -> None:
    kind = TeacherPlan if path.stem.endswith("teacher") else DistillPlan
    assert isinstance(read_recipe(path, kind), kind)


def test_emoji_walks_the_papers_stages() -> None:
    plan = read_recipe(RECIPES / "emoji.toml", DistillPlan)
    assert [stage.steps for stage in plan.stages] == [32, 8, 4, 2, 1]
    assert [stage.kind for stage in plan.stages] == ["mse"] + ["adversarial"] * 4
    assert all(stage.conditional and stage.unconditional and stage.full for stage in plan.stages[1:])
    assert plan.stages[-1].prediction_type == "sample"
    assert plan.stages[-1].convert
    assert plan.stages[-1].renoise_t == (9, 249, 499, 749)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("stages=[]", "at least one"),
        ("stages=[{teacher_steps=32, steps=8, n=4, mse=1}]", "kind 'mse'"),
        ("stages=[{teacher_steps=9, steps=2, n=4}]", "multiple"),
        ("stages=[{teacher_steps=4, steps=1, n=4, prediction_type='sample'}]", "convert"),
        ("stages=[{teacher_steps=4, steps=1, n=4, renoise_t=[9], renoise_weights=[1.0, 2.0]}]", "1 renoise_t, but 2 weights"),
        ("stages=[{teacher_steps=4, steps=2, n=2}, {teacher_steps=8, steps=1, n=8}]", "no earlier stage"),
    ],
)
def test_a_contradiction_is_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(RECIPES / "emoji.toml", DistillPlan, [setting])
