"""Training the judge that ``fewstep evaluate`` looks with. Its pictures, augmentation and seed are its own; it trains no generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from fewstep.data.emoji import World
from fewstep.distill import dist
from fewstep.distill.outline import Part, plain
from fewstep.distill.pretrain import complete
from fewstep.distill.ranges import Count, Factor, Seed
from fewstep.distill.recipe import read_recipe, recipe_hash
from fewstep.distill.schedules import cosine
from fewstep.distill.state import Run
from fewstep.distill.trainer import Phase
from fewstep.distill.watch.watch import Watch
from fewstep.distill.workers import spare
from fewstep.distill.world import DataRecipe, open_world
from fewstep.evals.judge import JUDGE, Judge, judge_batch, judge_losses, judge_world, save_judge


@dataclass(frozen=True)
class JudgePlan:
    """A recipe for ``fewstep train`` that makes a judge."""

    trains: Literal["judge"] = "judge"
    updates: Count = 2000
    batch_size: Count = 64
    learning_rate: Factor = 2e-3
    seed: Seed = 7919
    data: DataRecipe = field(default_factory=DataRecipe)  # the subjects; places, sizes and turns are the judge's own


def train_judge(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the judge's file. Goes on where it was stopped.

    Raises RecipeError on a recipe that cannot be used, or a folder that holds another run, NonFinite if training diverges.
    """
    dist.start()
    plan = read_recipe(path, JudgePlan, settings)
    dist.check(recipe_hash(plan), {"batch_size": plan.batch_size})
    run = Run.of(plan, folder)
    torch.manual_seed(plan.seed)
    world = judge_world(open_world(plan.data), plan.seed)
    judge = Judge([subject.name for subject in world.subjects]).to(dist.device())
    phase = judge_phase(judge, world, plan)
    watch = Watch(run, judge_outline(plan))
    run.observers = watch.routines()
    complete(run, phase, "judge")
    if dist.rank() == 0:
        save_judge(judge, folder / JUDGE)
    watch.finish()
    dist.wait()
    return folder / JUDGE


def judge_phase(judge: Judge, world: World, plan: JudgePlan) -> Phase:
    """Both of the judge's answers, by cross-entropy on its own distorted renders."""
    return Phase(
        name="judge/recognise",
        updates=plan.updates,
        batch_size=plan.batch_size,
        models={"judge": judge},
        optimizers={"student": torch.optim.AdamW(judge.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)},
        batch=lambda indices: judge_batch(world, indices),
        losses=lambda turn, batch: judge_losses(judge, tuple(tensor.to(dist.device()) for tensor in batch)),
        learning_rate=lambda update: cosine(update, plan.updates, warmup=100),
        clip=1.0,
        workers=spare(),
    )


def judge_outline(plan: JudgePlan) -> tuple[Part, ...]:
    """The one phase of a judge's training."""
    return plain("judge", ("judge/recognise", plan.updates, plan.batch_size))
