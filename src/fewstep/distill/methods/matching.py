"""The paper's contest with a distribution-matching term beside it (DMD2, arXiv 2405.14867), by the decoupled schedule (arXiv 2511.22677)."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewstep.distill import steps
from fewstep.distill.latents import Samples
from fewstep.distill.methods.distribution import Distribution
from fewstep.distill.methods.paper import Paper
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.steps import Task
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.trainer import Losses, minimised
from fewstep.models.bundle import Bundle
from fewstep.schedule import split

WEIGHT = 0.1  # of the matching term: its gradient is then about as long as the contest's, at one step and at four


class Matching(Paper):
    """In every phase of the paper's: where the student lands is the critic's affair, the picture that it saw there the two networks'."""

    turns = ("critic", "fake", "student")
    lands = False

    def __init__(self, bundle: Bundle, plan: DistillPlan, stage: Stage) -> None:
        super().__init__(bundle, plan, stage)
        self.matching = Distribution(bundle, plan, stage)

    @classmethod
    def check(cls, plan: DistillPlan, stage: Stage) -> None:
        """It lands as the paper's method does, and asks as much of a stage; but its second network is told nothing of masks and step counts."""
        Paper.check(plan, stage)
        super().check(plan, stage)

    @classmethod
    def passes(cls, plan: DistillPlan, stage: Stage, phase: str) -> float:
        """The paper's two turns, of which the student's looks at its picture four times more; and the fake network's, after the student."""
        paper = super().passes(plan, stage, phase)
        return (2 * paper + 4 + (1 + 3)) / 3 if phase in cls.phases else paper

    def networks(self, phase: str) -> dict[str, nn.Module]:
        """The critic, and the network that knows the student's pictures."""
        return {**super().networks(phase), **self.matching.networks(phase)}

    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """Equations 20 and 21, the latter with the term."""
        if turn == "fake":
            return self.matching.losses(turn, task, student, samples)
        if turn == "critic":
            return super().losses(turn, task, student, samples)
        assert self.critic is not None, "networks() made it as the phase began"
        prompt, jump, ids = task.text(samples), task.jump(samples), samples.time_ids
        output = steps.answer(task, student, jump, prompt, ids)
        contest = steps.contest_losses(task, steps.landing(task, output, jump), self.critic, jump, prompt, samples)
        made = split(jump.x, output, alpha_bar_at(jump.t, jump.x), task.prediction_type)[0]
        matching = self.matching.pull(made, jump.t, prompt, samples)
        return {**contest, "loss": minimised(contest) + WEIGHT * minimised(matching), "pull": matching["pull"]}
