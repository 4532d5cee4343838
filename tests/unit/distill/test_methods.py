"""Methods of distillation: each one's fixed point is where its paper says, and a run takes one by a name or a file, from any stage's exit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import build, tiny_bundle

from fewstep.distill import losses, steps
from fewstep.distill.latents import Samples
from fewstep.distill.methods import METHODS, find_method
from fewstep.distill.methods.add import NOISE, TIMES, Add, timesteps
from fewstep.distill.methods.distribution import Distribution
from fewstep.distill.methods.lcm import Lcm
from fewstep.distill.methods.matching import WEIGHT, Matching
from fewstep.distill.methods.method import Method
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.recipe import RecipeError, read_recipe
from fewstep.distill.steps import Task
from fewstep.distill.targets import carry, renoise
from fewstep.distill.teacher import FrozenText, alpha_bar_at
from fewstep.distill.trainer import minimised
from fewstep.distill.walk import distill
from fewstep.distill.watch.film import frames
from fewstep.models.bundle import Bundle, read_stamp
from fewstep.models.prompt import time_ids
from fewstep.schedule import CLEAN, PredictionType

RECIPES = Path(__file__).parents[3] / "recipes"
STAGE = Stage(steps=2, teacher_steps=4, n=1, levels=(1, 2, 3, 4), full=4)
PLAN = DistillPlan("", (STAGE,), guidance_scale=1.0)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """With its networks frozen, as a bundle that has been read is."""
    bundle = build()
    bundle.unet.requires_grad_(False)
    return bundle


@pytest.fixture(scope="module")
def samples(bundle: Bundle) -> Samples:
    latents = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return Samples(latents, ["a red apple"] * 8, time_ids(8, 256, 256), list(range(8)), seed=0)


@dataclass(eq=False)
class Sees:
    """A network that sees the same picture in anything: as ε, or as x0."""

    picture: torch.Tensor
    prediction_type: PredictionType

    def __call__(self, x: torch.Tensor, t: Any, **_: Any) -> tuple[torch.Tensor]:
        if self.prediction_type == "sample":
            return (self.picture,)
        a = alpha_bar_at(torch.as_tensor(t).expand(len(x)), x)
        return ((x - a**0.5 * self.picture) / (1 - a) ** 0.5,)


def task(bundle: Bundle, teacher: Any, **more: Any) -> Task:
    return Task(FrozenText(bundle), teacher, teacher_steps=4, n=1, levels=STAGE.levels, prediction_type="sample", **more)


@pytest.mark.parametrize("name", METHODS)
def test_is_one_short_file_and_knows_whose_turn_it_is(name: str, bundle: Bundle) -> None:
    method = find_method(name, Path())(bundle, PLAN, STAGE)
    assert set(method.turns) == {"student", *method.networks(method.phases[0])}
    source = Path(steps.__file__).parent / "methods" / f"{name}.py"
    assert len(source.read_text().splitlines()) <= 100


def test_a_consistent_student_has_no_consistency_loss(bundle: Bundle, samples: Samples) -> None:
    """Equation 7 of consistency models: where every point of a path shows the path's own end, nothing is left to learn; only the end says which."""
    end = samples.latents
    asked = task(bundle, Sees(end, "epsilon"))
    method = Lcm(bundle, PLAN, STAGE)
    assert float(method.losses("student", asked, Sees(end, "sample"), samples)["loss"]) < 1e-4
    another = Sees(end + 1, "sample")
    landed = float((asked.jump(samples).t_end == CLEAN).float().mean())
    assert 0 < landed < 1
    assert float(method.losses("student", asked, another, samples)["loss"]) == pytest.approx(landed, abs=2e-3)


def test_what_the_fake_network_knows_of_the_teacher_pulls_nowhere(bundle: Bundle, samples: Samples) -> None:
    """DMD's gradient is the difference between the two; without guidance it is gone where they agree, and else leads from fake to real."""
    method = Distribution(bundle, PLAN, STAGE)
    student = Sees(samples.latents.clone().requires_grad_(), "sample")
    value = method.losses("student", task(bundle, bundle.unet), student, samples)
    assert float(value["loss"].detach()) == float(value["pull"]) == 0
    method.bundle, method.fake = replace(bundle, unet=Sees(samples.latents + 2, "epsilon")), Sees(samples.latents + 1, "epsilon")
    loss = method.losses("student", task(bundle, bundle.unet), student, samples)["loss"]
    (gradient,) = torch.autograd.grad(loss, student.picture)
    assert bool((gradient < 0).all())  # downhill is up, to where the teacher points
    torch.testing.assert_close(gradient * gradient.numel(), torch.full_like(gradient, -0.5), atol=1e-4, rtol=1e-4)  # (1 - 2) / mean|0 - 2|


def test_a_student_that_draws_as_its_teacher_is_not_pulled(bundle: Bundle, samples: Samples) -> None:
    """ADD's distillation term, equation 4; and of the critic only the head can learn."""
    method = Add(bundle, PLAN, STAGE)
    method.bundle = replace(bundle, unet=Sees(samples.latents, "epsilon"))
    values = method.losses("student", task(bundle, bundle.unet), Sees(samples.latents, "sample"), samples)
    assert float(values["pull"].detach()) < 1e-6
    assert {name.split(".")[0] for name, weight in method.critic.named_parameters() if weight.requires_grad} == {"head"}
    loss = method.losses("critic", task(bundle, bundle.unet), Sees(samples.latents, "sample"), samples)
    assert float(loss["loss"].detach()) == pytest.approx(2, abs=1e-5)  # the same pictures: (1 - l)₊ + (1 + l)₊ = 2


def test_the_relativistic_pair_is_at_chance_where_both_are_the_same(bundle: Bundle, samples: Samples) -> None:
    same = torch.randn(5)
    assert float(losses.relativistic(same, same)) == pytest.approx(math.log(2))
    method = find_method("paper", Path())(bundle, PLAN, STAGE)
    method.networks("unconditional")
    asked = task(bundle, Sees(samples.latents, "epsilon"), relativistic=True, noisy=True)
    for turn in ("critic", "student"):
        assert float(method.losses(turn, asked, Sees(samples.latents, "sample"), samples)["loss"].detach()) == pytest.approx(math.log(2), abs=1e-4)


@dataclass
class Says:
    """A critic whose logits are these, one value for each of what it is shown in turn."""

    values: list[float]
    conditional: bool = False

    def __call__(self, shown: torch.Tensor, *_: Any) -> torch.Tensor:
        if len(self.values) == 1 or len(shown) == 8:
            return torch.full((len(shown),), self.values.pop(0))
        return torch.cat([torch.full((8,), value) for value in self.values])


def test_add_wants_the_students_pictures_taken_for_the_datas(bundle: Bundle, samples: Samples) -> None:
    method = Add(bundle, PLAN, STAGE)
    method.bundle = replace(bundle, unet=Sees(samples.latents, "epsilon"))
    asked, student = task(bundle, bundle.unet), Sees(samples.latents, "sample")
    for said, loss in (([3.0, -3.0], 0.0), ([-3.0, 3.0], 8.0)):
        method.critic = Says(said)  # type: ignore[assignment]
        assert float(method.losses("critic", asked, student, samples)["loss"]) == loss, "right by more than 1 costs nothing"
    method.critic = Says([3.0])  # type: ignore[assignment]
    assert float(method.losses("student", asked, student, samples)["adversarial"]) == -3


def test_a_relativistic_critic_wants_the_teacher_ahead_and_the_student_itself(bundle: Bundle, samples: Samples) -> None:
    ahead, behind = torch.tensor([3.0]), torch.tensor([0.0])
    assert float(losses.relativistic(ahead, behind)) < math.log(2) < float(losses.relativistic(behind, ahead))
    asked = task(bundle, Sees(samples.latents, "epsilon"), relativistic=True)
    method = find_method("paper", Path())(bundle, PLAN, STAGE)
    method.critic = Says([3.0, 0.0])  # type: ignore[attr-defined]
    for turn, sign in (("critic", -3.0), ("student", 3.0)):
        value = method.losses(turn, asked, Sees(samples.latents, "sample"), samples)["loss"]
        assert float(value) == pytest.approx(math.log1p(math.exp(sign)), abs=1e-4)


class Guided:
    """A network that sees one picture under the null prompt, and another under any; remembers the timesteps."""

    def __init__(self, null: torch.Tensor, other: torch.Tensor) -> None:
        self.null, self.other, self.seen = Sees(null, "epsilon"), Sees(other, "epsilon"), list[torch.Tensor]()

    def __call__(self, x: torch.Tensor, t: Any, encoder_hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        self.seen.append(torch.as_tensor(t))
        return (self.other if bool(encoder_hidden_states.any()) else self.null)(x, t)


def test_what_distribution_learns_beside_the_student_learns_whole(bundle: Bundle) -> None:
    (fake,) = Distribution(bundle, PLAN, STAGE).networks("full").values()
    assert all(parameter.requires_grad for parameter in fake.parameters())


def test_distribution_leads_along_guidance_below_where_the_student_stood(bundle: Bundle, samples: Samples) -> None:
    method, x = Distribution(bundle, replace(PLAN, guidance_scale=3.0), STAGE), samples.latents
    teacher = Guided(x + 1, x + 2)
    method.bundle, method.fake = replace(bundle, unet=teacher), Sees(x + 1, "epsilon")
    student = Sees(x.clone().requires_grad_(), "sample")
    asked = task(bundle, bundle.unet)
    (gradient,) = torch.autograd.grad(method.losses("student", asked, student, samples)["loss"], student.picture)
    expected = torch.full_like(gradient, -1.5)  # ((1 - 2) - (3 - 1)(2 - 1)) / mean|0 - 2|
    torch.testing.assert_close(gradient * gradient.numel(), expected, atol=1e-3, rtol=1e-3)
    assert len(teacher.seen) == 3
    assert all(bool((below <= asked.jump(samples).t).all()) for below in teacher.seen[1:])


@dataclass(eq=False)
class Farther(Sees):
    """A network that sees a picture further off the more noise there is; under the null prompt where it is."""

    def __call__(self, x: torch.Tensor, t: Any, encoder_hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        away = (1 + torch.as_tensor(t).expand(len(x)) / 100)[:, None, None, None] if bool(encoder_hidden_states.any()) else 0
        return Sees(self.picture + away, "epsilon")(x, t)


def test_distributions_two_pulls_are_each_over_their_own_size(bundle: Bundle, samples: Samples) -> None:
    """DMD's equation 8: or a look at little noise, where all agree, would let the other pull's size run away."""
    method, x = Distribution(bundle, replace(PLAN, guidance_scale=3.0), STAGE), samples.latents
    method.bundle, method.fake = replace(bundle, unet=Farther(x, "epsilon")), Farther(x, "epsilon")
    student = Sees(x.clone().requires_grad_(), "sample")
    (gradient,) = torch.autograd.grad(method.losses("student", task(bundle, bundle.unet), student, samples)["loss"], student.picture)
    torch.testing.assert_close(gradient * gradient.numel(), torch.full_like(gradient, -2.0), atol=1e-2, rtol=1e-2)  # (3 - 1) · 1 at any two levels


def test_matching_is_the_papers_contest_and_a_share_of_distributions_pull(bundle: Bundle, samples: Samples) -> None:
    """To the gradient, for a student that predicts x0; where the fake network knows no more than the teacher it is the paper's alone."""
    paper, matching = (find_method(name, Path())(bundle, PLAN, STAGE) for name in ("paper", "matching"))
    assert isinstance(matching, Matching)
    apart = Distribution(bundle, PLAN, STAGE)
    for method in (paper, matching):
        method.networks("unconditional")
    apart.bundle, apart.fake = replace(bundle, unet=Sees(samples.latents + 2, "epsilon")), Sees(samples.latents + 1, "epsilon")
    asked = task(bundle, bundle.unet)

    def slope(method: Method) -> torch.Tensor:
        student = Sees(samples.latents.clone().requires_grad_(), "sample")
        return torch.autograd.grad(minimised(method.losses("student", asked, student, samples)), student.picture)[0]

    torch.testing.assert_close(slope(matching), slope(paper))
    matching.matching = apart
    torch.testing.assert_close(slope(matching), slope(paper) + WEIGHT * slope(apart))
    assert matching.passes(PLAN, STAGE, "full") == pytest.approx((2 * paper.passes(PLAN, STAGE, "full") + 8) / 3)


def test_what_a_critic_costs_is_told_by_what_guessing_costs(bundle: Bundle, samples: Samples) -> None:
    """Whatever the contest, and without a penalty: what the lights and stop rules look at."""
    teacher, student = Sees(samples.latents, "epsilon"), Sees(samples.latents, "sample")
    method = find_method("paper", Path())(bundle, PLAN, STAGE)
    for asked in (task(bundle, teacher), task(bundle, teacher, relativistic=True), task(bundle, teacher, r1_weight=9.0)):
        method.critic = Says([0.0, 0.0, *[4.0] * bool(asked.r1_weight)])  # type: ignore[attr-defined]
        found = method.losses("critic", asked, student, samples)
        assert float(found["of_guessing"]) == pytest.approx(1, abs=1e-5)
    method.critic = Says([9.0, 3.0])  # type: ignore[attr-defined]
    assert float(method.losses("critic", task(bundle, teacher, relativistic=True), student, samples)["right"]) == 1, "both count as real, one more so"
    add = Add(bundle, PLAN, STAGE)
    add.bundle, add.critic = replace(bundle, unet=teacher), Says([0.0, 0.0])  # type: ignore[assignment]
    assert float(add.losses("critic", task(bundle, teacher), student, samples)["of_guessing"]) == 1


def test_a_noise_level_is_not_told_by_its_noise() -> None:
    """Both are drawn by (seed, index, purpose): one purpose for both would be one stream."""
    many = Samples(torch.zeros(1000, 1, 1, 1), [""] * 1000, torch.zeros(1000, 6), list(range(1000)), seed=0)
    for first, second in zip(TIMES, NOISE, strict=True):
        drawn = torch.stack([timesteps(many, first).float(), many.noise(second).flatten().abs()])
        assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.15


def test_noise_that_is_carried_on_is_the_later_levels(samples: Samples) -> None:
    x0, noise, t, later = samples.latents, samples.noise(1), torch.tensor([249] * 8), torch.tensor([499] * 8)
    torch.testing.assert_close(carry(x0, noise, torch.full_like(t, CLEAN), later), renoise(x0, noise, later))
    a = alpha_bar_at(later, x0)
    torch.testing.assert_close(carry(alpha_bar_at(t, x0) ** 0.5 * x0, 0 * noise, t, later), a**0.5 * x0)
    spread = torch.randn(8, 4, 64, 64), torch.randn(8, 4, 64, 64)
    assert float(carry((1 - alpha_bar_at(t, x0)) ** 0.5 * spread[0], spread[1], t, later).var()) == pytest.approx(float(1 - a[0]), rel=0.02)
    asked = Task(None, None, 4, 1, (1,))  # type: ignore[arg-type]
    levels = asked.noisier(t, samples)
    assert bool(((levels >= t) & (levels < 1000)).all())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["method=add", "relativistic=true"], "method 'add' does not read it"),
        (["method=mse", "r1_sigma=0.5"], "method 'mse' does not read it"),
        (["method=mse", "stages=[{teacher_steps=8, steps=4, n=2, full=2, renoise_t=[9], renoise_weights=[1]}]"], "no critic that reads renoise_t"),
        (["stages=[{teacher_steps=8, steps=4, n=1, full=2}]"], r"in steps of n = 2 from the levels 2, 4, 6 and 8"),
        (["stages=[{teacher_steps=8, steps=4, n=2, full=2, levels=[1, 3]}]"], "give that n, and levels with these"),
        (["method=matching", "stages=[{teacher_steps=8, steps=4, n=1, full=2}]"], r"in steps of n = 2 from the levels 2, 4, 6 and 8"),
        (["method=matching", "stages=[{teacher_steps=8, steps=4, n=2, masked=0.5, full=2}]"], "method 'matching' knows neither 'also' nor 'masked'"),
        (["method=gan"], "there is paper, mse, lcm, add, distribution, matching"),
        (["method=nowhere.py"], "no such file"),
        (["method=mse"], "method 'mse' has no phase 'conditional'"),
        (["method=lcm", "stages=[{teacher_steps=8, steps=2, n=3, full=2}]"], "lands on level 1"),
        (["method=lcm", "stages=[{teacher_steps=8, steps=4, n=2, full=2}, {teacher_steps=4, steps=2, n=2, full=2}]"], "draws fresh noise"),
        (["scale=0"], "more than 0"),
        (["start=emoji"], "a run or model and a step count"),
        (["start=emoji:1"], "no stage leads on"),
        (["start=emoji:4"], "no earlier stage makes a 8-step student"),
        (["start=emoji:8", "stages=[{teacher_steps=8, steps=4, n=2, full=2}]", "data.subjects=1", "data.pictures=1", "teacher=TINY"], "distilled from"),
        (['stages=[{teacher_steps=8, steps=4, n=2, full=2, begin="emoji"}]'], "is a LoRA"),
        (['stages=[{teacher_steps=8, steps=2, n=4, full=2, begin="emoji"}]', "lora_only=true"], "whole student's"),
        (['stages=[{teacher_steps=8, steps=1, n=8, full=2, begin="emoji"}]'], "predicts sample, the stage for 1 and epsilon"),
        (['stages=[{teacher_steps=8, steps=1, n=8, full=2, begin="emoji", prediction_type="sample", convert=2}]'], "leave convert out"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_before_anything_is_trained(first: Path, tmp_path: Path, settings: list[str], sentence: str) -> None:
    settings = [setting.replace("TINY", json.dumps(str(first.parent / "teacher"))) for setting in settings]
    with pytest.raises(RecipeError, match=sentence):
        distill(RECIPES / "quick.toml", tmp_path / "run", ["data.source=shapes", "data.subjects=6", "data.pictures=2", *settings])
    assert not (tmp_path / "run" / "metrics.jsonl").is_file() or not (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_tenth_is_a_tenth() -> None:
    whole, tenth = (read_recipe(RECIPES / "quick.toml", DistillPlan, [f"scale={scale}"]) for scale in (1, 0.1))
    assert [stage.warm for stage in tenth.stages] == [round(stage.warm / 10) for stage in whole.stages]
    assert all(bool(small.convert) == bool(stage.convert) for small, stage in zip(tenth.stages, whole.stages, strict=True))
    assert replace(tenth, seed=1).stages == tenth.stages  # what is scaled once is not scaled again


SHORT = ["data.pictures=4", "batch_size=2", "health.stop=false", "evaluation.prompts=0"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one stage done."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = tiny_bundle(folder / "teacher", students=())
    stages = 'stages=[{kind="mse", teacher_steps=8, steps=4, n=2, mse=2, adapter=2}]'
    distill(RECIPES / "smoke.toml", folder / "first", [*SHORT, "health.every=0", f"teacher={json.dumps(str(teacher))}", stages])
    return folder / "first"


def test_a_stages_exit_starts_another_run_by_a_method_of_ones_own(first: Path, tmp_path: Path) -> None:
    """Stages down to the start are left out, the teacher of the next is the one that was brought, and the method's file decides what ships."""
    (tmp_path / "mine.py").write_text("from fewstep.distill.methods import lcm\n\nclass Mine(lcm.Lcm):\n    fresh = 0.5\n")
    (tmp_path / "recipe.toml").write_text((RECIPES / "smoke.toml").read_text())
    stages = 'stages=[{kind="mse", teacher_steps=8, steps=4, n=2, mse=2}, {teacher_steps=4, steps=2, n=2, warm=2, full=2}]'
    settings = [*SHORT, "health.every=2", f"teacher={json.dumps(str(first.parent / 'teacher'))}", stages, f"start={first}:4", "method=mine.py", "r1_weight=0.0"]
    model = distill(tmp_path / "recipe.toml", tmp_path / "run", settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["4to2/warm", "4to2/full"]
    brought, given = (load_file(folder / "weights" / "4-step.safetensors") for folder in (tmp_path / "run", first))
    assert all(torch.equal(brought[key], given[key]) for key in given)
    stamp = read_stamp(model / "students" / "2-step-lora.safetensors")
    assert stamp is not None
    assert (stamp.fresh, stamp.phases) == (0.5, ("warm", "full"))
    earlier = read_stamp(first / "weights" / "4-step.safetensors")
    assert earlier is not None and stamp.pictures - earlier.pictures == (2 + 2) * 2
    shown = frames(tmp_path / "run")
    assert [(frame.steps, frame.said) for frame in shown] == [
        (2, "before training"),
        (2, "4 to 2 steps, warm, update 2"),
        (2, "4 to 2 steps, full, update 2"),
    ]
    assert [frame.seconds for frame in shown] == sorted(frame.seconds for frame in shown)


def test_a_stage_begins_as_the_student_that_its_recipe_names(first: Path, tmp_path: Path) -> None:
    stages = f'stages=[{{teacher_steps=8, steps=4, n=2, warm=2, full=2, begin="{first}"}}]'
    rates = [f"{part}_learning_rate=1e-12" for part in ("mse", "full", "critic")]
    teacher = f"teacher={json.dumps(str(first.parent / 'teacher'))}"
    distill(RECIPES / "smoke.toml", tmp_path / "run", [*SHORT, "health.every=0", teacher, "method=mse", "r1_weight=0.0", *rates, stages])
    learnt, given = (load_file(folder / "weights" / "4-step.safetensors") for folder in (tmp_path / "run", first))
    assert all(torch.allclose(learnt[key], given[key], atol=1e-6) for key in given)
    stamps = [read_stamp(folder / "weights" / "4-step.safetensors") for folder in (tmp_path / "run", first)]
    new, old = (stamp.pictures for stamp in stamps if stamp)
    assert new == old + (2 + 2) * 2  # with those that the student had seen before


def test_a_first_stage_with_an_adapter_ships_it(first: Path) -> None:
    stamp = read_stamp(first / "model" / "students" / "4-step-lora.safetensors")
    assert stamp is not None
    assert (stamp.steps, stamp.fresh, stamp.phases[-1]) == (4, 0.0, "adapter")


def test_the_method_in_the_documentation_is_one(tmp_path: Path, bundle: Bundle, samples: Samples) -> None:
    """As it stands there, and where the student lands with the teacher there is nothing to learn."""
    page = (RECIPES.parent / "docs" / "methods.md").read_text(encoding="utf8")
    (tmp_path / "mine.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    method = find_method("mine.py", tmp_path)(bundle, PLAN, STAGE)
    asked = task(bundle, Sees(samples.latents, "epsilon"))
    assert float(method.losses("student", asked, Sees(samples.latents, "sample"), samples)["loss"]) < 1e-5
    assert float(method.losses("student", asked, Sees(samples.latents + 1, "sample"), samples)["loss"]) > 0.1


def test_a_file_without_one_method_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("from fewstep.distill.methods.method import Method\n")
    (tmp_path / "broken.py").write_text("class Mine(\n")
    with pytest.raises(RecipeError, match="holds 0 subclasses"):
        find_method("none.py", tmp_path)
    with pytest.raises(RecipeError, match=r"broken\.py"):
        find_method("broken.py", tmp_path)
    assert issubclass(find_method("paper", tmp_path), Method)
