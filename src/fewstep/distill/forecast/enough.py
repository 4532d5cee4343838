"""Whether this machine has the memory that a run takes at its worst moment: asked before its first step, for that moment may be hours away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from fewstep.distill.described import Described, read_any
from fewstep.distill.forecast.forecast import begins_with, forecast
from fewstep.distill.forecast.foretell import size, way_out
from fewstep.distill.forecast.machines import machine
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError

REGARDLESS = "--set check_memory=false begins regardless"


def check_memory(path: Path, settings: Sequence[str], run: Path) -> None:
    """Raises RecipeError if the distillation that the recipe at ``path`` describes does not fit into this machine's memory by its tensors alone.

    One that surely fits is not looked at more closely, nor one that has begun in its folder ``run``: a close look takes half a minute.
    """
    plan = read_any(path, settings)
    begun = any((folder / "state.json").is_file() for folder in (run, run / "teacher"))
    if not isinstance(plan, DistillPlan) or not plan.check_memory or begun:
        return
    where, described = machine("here"), begins_with(plan, path)[0]
    if described.note or plentiful(plan, described) <= where.memory:  # a model that is not there is refused in a moment
        return
    found = forecast(path, "here", settings, run, timed=False)
    if found.worst.cost.memory > where.memory:
        stage, phase = found.worst.cost.name.split("/")
        needed = f"{size(found.worst.cost.memory)}{' a rank' * (where.ranks > 1)}"
        raise RecipeError(f"{path}: stage {stage}: {phase} takes {needed}, and {where.about} has {size(where.memory)} free: {way_out(found)}; {REGARDLESS}")


def plentiful(plan: DistillPlan, described: Described) -> float:
    """Bytes that are more than enough for any phase: forty networks, one more for each picture of a batch, and half a megabyte for each that is cached."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(described.configs["unet"])
    weights = 4.0 * sum(math.prod(parameter.shape) for parameter in unet.parameters())
    return 2e9 + (40 + plan.batch_size) * weights + 5e5 * plan.data.pictures
