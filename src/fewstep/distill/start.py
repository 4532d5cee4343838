"""What a run begins with: a plan that can be carried out here, a teacher, and where the plan wants them students of other runs or models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.distill import dist
from fewstep.distill.described import check_teacher
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.pretrain import dtype, train_teacher
from fewstep.distill.recipe import RecipeError, recipe_hash
from fewstep.distill.students import Students
from fewstep.distill.watch.health import misses_light
from fewstep.models.bundle import Bundle, read_stamp, save_weights
from fewstep.models.keys import in_diffusers_names
from fewstep.models.students import read_student, student_file
from fewstep.models.weights import WeightsError, check_fit, read_weights
from fewstep.stamp import Stamp
from fewstep.zoo.registry import find


def check(plan: DistillPlan) -> None:
    """Raises RecipeError if this machine, or the ranks, cannot carry out the plan."""
    if plan.batch_size % (dist.world() * plan.accumulate):
        raise RecipeError(f"batch_size = {plan.batch_size}: {dist.world()} ranks with accumulate = {plan.accumulate} do not divide it")
    if plan.frozen == "bfloat16" and dtype(plan.precision) == torch.float32:
        raise RecipeError('frozen = "bfloat16": this machine trains in float32; give precision = "bfloat16", or frozen = "float32"')
    dist.check(recipe_hash(plan), {})


def teacher(plan: DistillPlan, path: Path, folder: Path) -> Path:
    """The folder of the model that the recipe at ``path`` begins with; where that is a recipe, a run of it in ``folder``/teacher. Raises RecipeError."""
    if plan.teacher.endswith(".toml"):
        return train_teacher(path.parent / plan.teacher, folder / "teacher")
    folder = find(plan.teacher)
    check_teacher(plan.teacher, folder)
    return folder


def check_knows(plan: DistillPlan, misses: float | None) -> None:
    """Raises RecipeError on a first teacher that ``misses`` more of the noise in the data than the best linear guess does (probe.py): one under a wrong
    noise schedule, for instance.
    """
    if misses is not None and (light := misses_light(misses)).colour == "red":
        key = f"start = {plan.start!r}" if plan.start else f"teacher = {plan.teacher!r}"
        rule = f"it misses {misses:.1f} times as much of the noise in the pictures as the best linear guess"
        raise RecipeError(f"{key}: {rule}: {light.advice}; --set health.stop=false goes on regardless")


def bring(plan: DistillPlan, students: Students, path: Path) -> None:
    """Keep the student that the plan starts from at ``path``, once. Raises as :func:`starting_student`."""
    there = path.is_file()
    dist.wait()  # every rank has looked before one writes
    if not there:
        students.keep(*starting_student(plan, students), path)


def starting_student(plan: DistillPlan, students: Students) -> tuple[Any, Stamp]:
    """(UNet, stamp) of the student that ``plan.start`` names: that of a run's stage, or a model's own, as it ships.

    Raises RecipeError if it was distilled from another teacher, predicts no ε or draws fresh noise, or is no LoRA of the rank that a plan with
    ``lora_only`` has; StepMismatch or ModelError without any.
    """
    bundle = students.bundle
    where, steps = plan.start.rpartition(":")[0], plan.start_steps
    path = Path(where) / "weights" / f"{steps}-step.safetensors"
    stamp = read_stamp(path) if path.is_file() else None
    if stamp is None:
        path, stamp = student_file(find(where), steps)
    if stamp.base != bundle.hash:
        raise RecipeError(f"start = {plan.start!r}: it was distilled from the weights {stamp.base}, and the teacher's are {bundle.hash}: give its teacher")
    if stamp.prediction_type != "epsilon":
        raise RecipeError(f"start = {plan.start!r}: it predicts x0, and no student can learn from that: give one of more steps")
    if stamp.fresh:
        raise RecipeError(f"start = {plan.start!r}: it draws fresh noise between steps, and a teacher is walked without: give another method's student")
    if stamp.kind == "lora" and not plan.lora_only:
        return read_student(replace(bundle, unet=students.base()), path, stamp)
    try:
        return students.follow(path), stamp
    except WeightsError as error:
        raise RecipeError(f"start = {plan.start!r}: {error}") from None


def bring_begun(stage: Stage, bundle: Bundle, path: Path) -> None:
    """Keep the whole student that a ``stage`` begins as at ``path``, once: a run goes on with it whatever becomes of where it was.

    Raises RecipeError on a LoRA, another number of steps or another prediction type, and on an ε-predicting student of another teacher, for what it
    ships is a LoRA on this one; StepMismatch, ModelError or WeightsError if there is none that fits.
    """
    there = path.is_file()
    dist.wait()  # every rank has looked before one writes
    if there:
        return
    named = Path(stage.begin)
    source = named if named.suffix == ".safetensors" else named / "weights" / f"{stage.steps}-step.safetensors"
    if named.suffix != ".safetensors" and not source.is_file():
        source, _ = student_file(find(stage.begin), stage.steps)
    stamp = read_stamp(source)  # None: a file of others, who say elsewhere what it is
    given = f"stage {stage.name}: begin = {stage.begin!r}: {source.name}"
    if stamp and stamp.kind == "lora":
        raise RecipeError(f"{given} is a LoRA: give the run that made it, or leave begin out")
    if stamp and (stamp.steps, stamp.prediction_type) != (stage.steps, stage.prediction_type):
        has, wanted = f"{stamp.steps} steps and predicts {stamp.prediction_type}", f"{stage.steps} and {stage.prediction_type}"
        raise RecipeError(f"{given} is for {has}, the stage for {wanted}")
    if stamp and stage.prediction_type == "epsilon" and stamp.base != bundle.hash:
        raise RecipeError(f"{given} was distilled from the weights {stamp.base}, and the teacher's are {bundle.hash}: give one of its students")
    shapes = {key: tuple(value.shape) for key, value in bundle.unet.state_dict().items()}
    tensors = in_diffusers_names(read_weights(source), shapes)
    check_fit(source, tensors, shapes)
    if dist.rank() == 0:
        save_weights({key: value.float().contiguous() for key, value in tensors.items()}, path, stamp.to_metadata() if stamp else {"format": "pt"})
    dist.wait()
