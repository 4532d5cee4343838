"""Plain progressive distillation (arXiv 2202.00512): land where the teacher's steps lead, and no critic."""

from __future__ import annotations

from typing import Any

from fewstep.distill import steps
from fewstep.distill.latents import Samples
from fewstep.distill.methods.method import Method
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.steps import Task
from fewstep.distill.trainer import Losses


class Mse(Method):
    """The squared error of the landing point, over the jump's reach."""

    lands = reuses = True

    @classmethod
    def passes(cls, plan: DistillPlan, stage: Stage, phase: str) -> float:
        """As in a warm phase."""
        return super().passes(plan, stage, "warm") if phase == "full" else super().passes(plan, stage, phase)

    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """Equations 14 and 15 of the paper."""
        return steps.landing_losses(task, student, samples)
