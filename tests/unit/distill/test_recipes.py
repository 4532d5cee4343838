"""Every recipe that ships can be read, and the plan for the embedded model leaves none of the paper's stages out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.command import MAKERS
from fewstep.distill.described import PLANS, read_any
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.pretrain import TeacherPlan, train_teacher
from fewstep.distill.recipe import KINDS, RecipeError, read_recipe, trained_by

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_is_read(path: Path) -> None:
    assert isinstance(read_any(path), PLANS[trained_by(path)])
    assert (trained_by(path) == "teacher") == ("teacher" in path.stem)


def test_emoji_walks_the_papers_stages() -> None:
    plan = read_recipe(RECIPES / "emoji.toml", DistillPlan)
    assert [stage.steps for stage in plan.stages] == [32, 8, 4, 2, 1]
    assert [stage.kind for stage in plan.stages] == ["mse"] + ["adversarial"] * 4
    assert all(stage.conditional and stage.unconditional and stage.full for stage in plan.stages[1:])
    assert plan.stages[-1].prediction_type == "sample"
    assert plan.stages[-1].convert
    assert all(stage.renoise_t == (9, 249, 499, 749) for stage in plan.stages if stage.steps <= 2)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("stages=[]", "at least one"),
        ("reuse=0", "reuse = 0: give 1 or more"),
        ("stages=[{teacher_steps=4, steps=1, n=4, renoise_t=[9], renoise_weights=[0]}]", "one is above 0"),
        ("stages=[{teacher_steps=32, steps=8, n=4, mse=1}]", "kind 'mse'"),
        ("stages=[{kind='mse', teacher_steps=128, steps=32, n=4, mse=1, warm=1}]", "an MSE stage has no warm updates"),
        ("stages=[{kind='mse', teacher_steps=128, steps=32, n=4, mse=1, full=40}]", "an MSE stage has no full updates"),
        ("stages=[{kind='mse', teacher_steps=8, steps=4, n=2, mse=1, prediction_type='sample', begin='emoji'}]", "an MSE stage predicts ε"),
        (
            "stages=[{teacher_steps=8, steps=4, n=2, mse=2, kind='mse'}, {teacher_steps=4, steps=2, n=2, prediction_type='sample', convert=2},"
            " {teacher_steps=4, steps=1, n=4, prediction_type='sample', convert=2}]",
            "goes on from the student of 4to2, which predicts x0",
        ),
        ("stages=[{teacher_steps=4, steps=1, n=4, prediction_type='sample', convert=1, adapter=1}]", "ships whole"),
        ("stages=[{teacher_steps=9, steps=2, n=4}]", "multiple"),
        ("stages=[{teacher_steps=4, steps=1, n=4, prediction_type='sample'}]", "convert"),
        ("stages=[{teacher_steps=4, steps=1, n=4, renoise_t=[9], renoise_weights=[1.0, 2.0]}]", "1 renoise_t, but 2 weights"),
        ("stages=[{teacher_steps=4, steps=2, n=2}, {teacher_steps=8, steps=1, n=8}]", "no earlier stage"),
    ],
)
def test_a_contradiction_is_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(RECIPES / "emoji.toml", DistillPlan, [setting])


@pytest.mark.parametrize(
    ("recipe", "setting", "sentence"),
    [
        ("emoji.toml", "batch_size=-4", "batch_size = -4: give 1 or more"),
        ("emoji.toml", "mse_learning_rate=-1", "give more than 0"),
        ("emoji.toml", "ema=1", "ema = 1: give 0 or more, less than 1"),
        ("emoji.toml", "scale=inf", "give a finite number"),
        ("emoji.toml", "data.seed=-1", "data: seed = -1: give 0 or more"),
        ("emoji.toml", "evaluation.every=-1", "give 0 or more"),
        ("emoji.toml", "stages=[{teacher_steps=2000, steps=8, n=4}]", "^[^,]*: stages.0.: teacher_steps = 2000: give 1 or more, at most 1000"),
        ("emoji.toml", "stages=[{teacher_steps=8, steps=4, n=2, full=-1}]", "full = -1: give 0 or more"),
        ("emoji.toml", "stages=[{teacher_steps=4, steps=2, n=2, renoise_t=[5000], renoise_weights=[1]}]", "renoise_t.0. = 5000: give 0 or more, at most 999"),
        ("emoji-teacher.toml", "teacher.learning_rate=0", "give more than 0"),
        ("emoji-teacher.toml", "teacher.updates=-1", "give 1 or more"),
        ("emoji-teacher.toml", "teacher.dropout=nan", "give a finite number"),
        ("emoji-teacher.toml", "autoencoder.crop=40", "a latent is 16 pixels a side"),
        ("emoji-teacher.toml", "shape.text_length=2", "give 3 or more"),
        ("emoji-teacher.toml", "shape.unet_channels=[]", "give 1 or more"),
        ("emoji-autoencoder.toml", "autoencoder.crop=40", "a latent is 16 pixels a side"),
        ("emoji-autoencoder.toml", "autoencoder.noise=-1", "give 0 or more"),
        ("emoji-decoder.toml", "decoder.pictures=0", "give 1 or more"),
        ("emoji-decoder.toml", "decoder.contest.turns=-1", "give 0 or more"),
        ("emoji-edges.toml", "edges.batch_size=0", "give 1 or more"),
        ("emoji-judge.toml", "updates=0", "give 1 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused_before_anything_is_done(recipe: str, setting: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(RECIPES / recipe, PLANS[trained_by(RECIPES / recipe)], [setting])


def test_guidance_is_the_runs_own_teachers_alone() -> None:
    first, second = Stage(steps=16, teacher_steps=32, n=2, full=2), Stage(steps=8, teacher_steps=16, n=2, kind="mse", mse=2)
    plan = DistillPlan("emoji", (first, second), guidance_scale=5.0)
    assert [plan.guidance_of(stage) for stage in plan.stages] == [5.0, 0.0]
    onward = DistillPlan("emoji", (second,), start="run:16", guidance_scale=5.0)
    assert onward.guidance_of(onward.stages[0]) == 0, "it learns from a student, which has guidance in it"


def test_networks_that_cannot_be_built_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"shape: .*divisible"):
        train_teacher(RECIPES / "emoji-teacher.toml", tmp_path, ["data.source=shapes", "data.subjects=8", "vocabulary_captions=50", "shape.unet_groups=7"])


def test_a_teacher_that_goes_on_keeps_the_shape_it_has() -> None:
    with pytest.raises(RecipeError, match="that model's own"):
        read_recipe(RECIPES / "emoji-teacher-further.toml", TeacherPlan, ["text.updates=3"])


def test_every_kind_of_recipe_has_a_plan_and_a_verb(tmp_path: Path) -> None:
    assert set(KINDS) == set(PLANS) == set(MAKERS)
    for kind in KINDS:  # and may say of itself what it is
        (tmp_path / "said.toml").write_text(f'trains = "{kind}"\nstages = []\nteacher = "emoji"\n')
        assert trained_by(tmp_path / "said.toml") == kind
    assert read_recipe(RECIPES / "emoji.toml", DistillPlan, ["trains=students"]) == read_recipe(RECIPES / "emoji.toml", DistillPlan)


def test_what_train_makes_is_the_recipes_to_say(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text('trains = "dog"')
    with pytest.raises(RecipeError, match="'teacher', 'judge', 'controlnet', 'students', 'autoencoder', 'decoder'"):
        trained_by(tmp_path / "wrong.toml")


def test_a_contradiction_in_a_stage_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('teacher = "emoji"\n\n[[stages]]\nteacher_steps = 8\nsteps = 4\nn = 2\n\n[[stages]]\nteacher_steps = 128\nsteps = 3\nn = 4\n')
    with pytest.raises(RecipeError, match=r"wrong\.toml, line 8: stages\[1\]: .*multiple"):
        read_recipe(path, DistillPlan)
