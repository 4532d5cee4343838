"""Students on one frozen base: one copy of the weights, which never moves, and a LoRA from the first phase to the model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import build, tiny_bundle

from fewstep.distill import trainer
from fewstep.distill.methods.paper import Paper
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.recipe import RecipeError
from fewstep.distill.students import OnBase, students_of
from fewstep.distill.walk import distill
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.models.bundle import load_bundle, read_stamp

RECIPES = Path(__file__).parents[3] / "recipes"
FIRST = '{kind="mse", teacher_steps=8, steps=4, n=2, mse=2}'
SECOND = "{teacher_steps=4, steps=2, n=2, warm=2, conditional=2, unconditional=4}"
SHARED = ["lora_only=true", "critic_rank=2", "checkpointing=true", "data.pictures=64", "batch_size=2", "evaluation.prompts=0"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("lora-only") / "teacher", ())


@pytest.fixture(scope="module")
def settings(teacher: Path) -> list[str]:
    return [f"stages=[{FIRST}, {SECOND}]", f"teacher={json.dumps(str(teacher))}", *SHARED]


@pytest.fixture(scope="module")
def run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora-only") / "run"
    distill(RECIPES / "smoke.toml", folder, settings)
    return folder


def plan(**values: Any) -> DistillPlan:
    stage = Stage(steps=2, teacher_steps=4, n=2, conditional=1, unconditional=1)
    return DistillPlan(teacher="", stages=(Stage(steps=4, teacher_steps=8, n=2, kind="mse", mse=1), stage), rank=2, **values)


def places(network: torch.nn.Module) -> set[int]:
    return {weight.data_ptr() for name, weight in network.named_parameters() if ".lora." not in name}


def test_student_teacher_and_critic_are_one_copy_of_the_weights() -> None:
    bundle, wanted = build(), plan(lora_only=True, critic_rank=2)
    students = students_of(wanted, bundle)
    assert isinstance(students, OnBase)
    student, critic = students.follow(None), Paper(bundle, wanted, wanted.stages[1]).networks("conditional")["critic"]
    base = places(bundle.unet)
    assert places(student) == base
    assert places(critic.backbone) < base
    learnt = [name for name, weight in critic.named_parameters() if weight.requires_grad]
    assert {name.split(".")[0] for name in learnt} == {"backbone", "head"}
    assert all(".lora." in name for name in learnt if name.startswith("backbone"))
    assert not any(weight.requires_grad for weight in bundle.unet.parameters())


def test_a_base_in_bfloat16_leaves_what_learns_in_float32() -> None:
    bundle, wanted = build(), plan(frozen="bfloat16", precision="bfloat16")
    before = {name: weight.clone() for name, weight in bundle.unet.named_parameters()}
    students = students_of(wanted, bundle)
    assert {weight.dtype for weight in bundle.unet.parameters()} == {torch.bfloat16}
    student = students.follow(None)
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    assert all(torch.equal(weight, before[name].bfloat16().float()) for name, weight in student.named_parameters())


def test_whole_students_begin_with_the_file_of_a_teacher_that_is_held_in_bfloat16(teacher: Path) -> None:
    exact, bundle = load_bundle(teacher), load_bundle(teacher)
    student = students_of(plan(frozen="bfloat16", precision="bfloat16"), bundle).follow(None)
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), exact.unet.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lora_is_all_that_such_a_run_leaves(run: Path, teacher: Path) -> None:
    for steps in (4, 2):
        path = run / "weights" / f"{steps}-step.safetensors"
        assert all(".lora_" in key or key.endswith(".alpha") for key in load_file(path))
        assert (stamp := read_stamp(path)) is not None
        assert stamp.kind == "lora"
    assert json.loads((run / "model" / "students.json").read_text()) == {"2": {"file": "2-step-lora.safetensors", "residual": 0.0}}
    one, other = (load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (run / "model", teacher))
    assert all(torch.equal(one[key], other[key]) for key in other)
    shipped = Engine.load(str(run / "model"), backend="eager").generate(Request("a red apple", seed=1, steps=2)).image
    assert np.asarray(shipped).std() > 0
    phases = [json.loads(line)["phase"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(phases)) == ["8to4/mse", "4to2/warm", "4to2/conditional", "4to2/unconditional"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_goes_on_after_a_kill_and_from_another_run(run: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    real, calls = trainer.update, 0

    def dies(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(trainer, "update", dies)
    with pytest.raises(Killed):
        distill(RECIPES / "smoke.toml", tmp_path / "killed", settings)
    distill(RECIPES / "smoke.toml", tmp_path / "killed", settings)
    assert (tmp_path / "killed" / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    one, other = (load_file(folder / "weights" / "2-step.safetensors") for folder in (run, tmp_path / "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    onward = [*settings, f"stages=[{SECOND}]", f'start="{run}:4"']
    distill(RECIPES / "smoke.toml", tmp_path / "onward", onward)
    assert (tmp_path / "onward" / "model" / "students" / "2-step-lora.safetensors").is_file()
    with pytest.raises(RecipeError, match="no LoRA of rank 3"):
        distill(RECIPES / "smoke.toml", tmp_path / "other", [*onward, "rank=3"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whole_students_go_on_from_a_lora_and_others_from_them(run: Path, teacher: Path, tmp_path: Path) -> None:
    settings = [f"teacher={json.dumps(str(teacher))}", "data.pictures=64", "batch_size=2", "evaluation.prompts=0", "health.every=0"]
    settings += ["stages=[{teacher_steps=4, steps=2, n=2, conditional=2, unconditional=2, full=2}]"]
    for folder, start in ((tmp_path / "first", run), (tmp_path / "second", tmp_path / "first")):
        distill(RECIPES / "smoke.toml", folder, [*settings, f'start="{start}:4"'])
        assert (stamp := read_stamp(folder / "weights" / "4-step.safetensors")) is not None
        assert stamp.kind == "unet"
    first, second = (load_file(tmp_path / name / "weights" / "4-step.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lora_only=true"], "'full'"),
        (["lora_only=true", 'stages=[{teacher_steps=2, steps=1, n=2, prediction_type="sample", convert=1, unconditional=1}]', 'start="x:2"'], "predicts x0"),
        (["lora_only=true", "sharded=true", f"stages=[{FIRST}]"], "sharded"),
        (["lora_only=true", 'method="mse"', f"stages=[{FIRST}]"], "no phase for a LoRA"),
        (['frozen="bfloat16"'], "precision"),
        (["critic_rank=-1"], "critic_rank"),
        (["rank=0"], "rank"),
    ],
)
def test_contradictions_are_refused_before_the_first_step(settings: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        distill(RECIPES / "smoke.toml", tmp_path / "run", settings)
