"""How another run's student, or a model's own, becomes the start of this run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.distill import dist
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError
from fewstep.distill.students import Students
from fewstep.models.bundle import read_stamp
from fewstep.models.students import read_student, student_file
from fewstep.models.weights import WeightsError
from fewstep.stamp import Stamp
from fewstep.zoo.registry import find


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
        return read_student(bundle, path, stamp)
    try:
        return students.read(path), stamp
    except WeightsError as error:
        raise RecipeError(f"start = {plan.start!r}: {error}") from None
