"""Where a stage ends: how its student is kept, and how another run, or a model's student, becomes the start of this one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from fewstep.distill import dist
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError
from fewstep.models.bundle import Bundle, load_bundle, load_weights, read_stamp, save_weights
from fewstep.models.students import student
from fewstep.stamp import Stamp
from fewstep.zoo.registry import find


def keep(student: Any, stamp: Stamp, path: Path) -> None:
    """Leave a whole student at ``path``, where later stages and other runs find it."""
    if dist.rank() == 0:
        save_weights({key: value.contiguous() for key, value in student.state_dict().items()}, path, stamp.to_metadata())
    dist.wait()


def bring(plan: DistillPlan, bundle: Bundle, path: Path) -> None:
    """Keep the student that the plan starts from at ``path``, once. Raises as :func:`starting_student`."""
    there = path.is_file()
    dist.wait()  # every rank has looked before one writes
    if not there:
        keep(*starting_student(plan, bundle), path)


def starting_student(plan: DistillPlan, bundle: Bundle) -> tuple[Any, Stamp]:
    """(UNet, stamp) of the student that ``plan.start`` names: the whole one of a run's stage, or a model's own, as it ships.

    Raises RecipeError if it was distilled from another teacher than ``bundle``, predicts no ε or draws fresh noise; StepMismatch or ModelError without any.
    """
    where, steps = plan.start.rpartition(":")[0], plan.start_steps
    whole = Path(where) / "weights" / f"{steps}-step.safetensors"
    stamp = read_stamp(whole) if whole.is_file() else None
    if stamp is not None:
        unet = copy.deepcopy(bundle.unet)
        load_weights(unet, whole)
    else:
        unet, stamp = student(load_bundle(find(where), bundle.device), steps)
    if stamp.base != bundle.hash:
        raise RecipeError(f"start = {plan.start!r}: it was distilled from the weights {stamp.base}, and the teacher's are {bundle.hash}: give its teacher")
    if stamp.prediction_type != "epsilon":
        raise RecipeError(f"start = {plan.start!r}: it predicts x0, and no student can learn from that: give one of more steps")
    if stamp.fresh:
        raise RecipeError(f"start = {plan.start!r}: it draws fresh noise between steps, and a teacher is walked without: give another method's student")
    return unet.eval().requires_grad_(False), stamp
