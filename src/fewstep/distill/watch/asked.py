"""What an evaluation asks: held-out scenes where a run learns from scenes, else the captions of its own pictures, with noise that no phase comes to."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from fewstep.distill import dist
from fewstep.distill.feed import Feed
from fewstep.distill.latents import Samples
from fewstep.distill.plan import DistillPlan
from fewstep.distill.pretrain import dtype
from fewstep.distill.recipe import RecipeError
from fewstep.distill.state import Run
from fewstep.distill.watch.evaluation import Evaluation
from fewstep.distill.watch.probe import MOST_STEPS, Walker, draw
from fewstep.evals.judge import JUDGE
from fewstep.evals.prompts import held_out
from fewstep.evals.scorers import Asked
from fewstep.models.bundle import Bundle
from fewstep.models.prompt import time_ids

ELSEWHERE = 2**42  # sample indices that neither a phase nor a probe comes to
FEW = 4  # pictures drawn at once, so that a run that is asked to end has not long to wait


def open_evaluation(plan: DistillPlan, run: Run, bundle: Bundle, feed: Feed) -> Evaluation | None:
    """The evaluation of a ``run``, the teacher's pictures drawn; None where its recipe wants none. Prints what it takes that is not here.

    Raises RecipeError if the best students are to ship and nothing says which they are.
    """
    recipe, parts = plan.evaluation, list[Samples]()
    if not recipe.prompts:
        return None
    left: list[str] = []
    asked = Asked(())
    if feed.world is not None:
        try:
            questions = [question for question in held_out(feed.world, recipe.prompts) for _ in range(recipe.seeds)]
            asked = Asked([question.text for question in questions], questions, feed.world, Path(bundle.folder or ".") / JUDGE)
            parts = scenes(asked, bundle, plan.data.seed)
        except ValueError as error:
            left.append(f"adherence and Fréchet distance are left out, and prompts are those of the training: {error}")
    if not parts:
        parts = captions(feed, bundle, recipe.prompts, recipe.seeds)
        asked = Asked([said for part in parts for said in part.captions])
    drawn = partial(_draw, feed, dtype(plan.precision))
    evaluation = Evaluation(run, bundle, drawn, parts, asked, recipe.figure, left)
    if dist.rank():
        return evaluation
    evaluation.begin(Walker(bundle.unet, MOST_STEPS, guidance_scale=plan.guidance_scale), recipe.inception)
    for sentence in evaluation.left_out:
        print(f"fewstep: {sentence}", file=sys.stderr)
    if recipe.ship == "best" and not evaluation.figure:
        raise RecipeError(f"evaluation.ship = 'best': {evaluation.left_out[-1]}")
    return evaluation


def _draw(feed: Feed, precision: torch.dtype, walker: Walker, samples: Samples) -> torch.Tensor:
    return draw(walker, feed.text, samples, precision)


def scenes(asked: Asked, bundle: Bundle, seed: int) -> list[Samples]:
    """Samples of the prompts at the size that the model was made for; only their noise counts."""
    side, parts = int(bundle.vae.config.sample_size), []
    shape = int(bundle.unet.config.in_channels), side // bundle.factor, side // bundle.factor
    for first in range(0, len(asked.prompts), FEW):
        said = list(asked.prompts[first : first + FEW])
        indices = list(range(ELSEWHERE + first, ELSEWHERE + first + len(said)))
        blank = torch.zeros(len(said), *shape, device=bundle.device)
        parts.append(Samples(blank, said, time_ids(len(said), side, side, device=bundle.device), indices, seed))
    return parts


def captions(feed: Feed, bundle: Bundle, prompts: int, seeds: int) -> list[Samples]:
    """Samples of the first captions of the largest bucket."""
    size = max(feed.latents.counts, key=lambda key: (feed.latents.counts[key], key))
    rows = [row for row in range(min(prompts, feed.latents.counts[size])) for _ in range(seeds)]
    scale, few = float(bundle.vae.config.scaling_factor), [range(first, min(first + FEW, len(rows))) for first in range(0, len(rows), FEW)]
    return [feed.latents.rows(size, [rows[i] for i in part], range(ELSEWHERE + part.start, ELSEWHERE + part.stop), scale, bundle.device) for part in few]
