"""Latent consistency distillation (arXiv 2303.01469, equation 7; arXiv 2310.04378): all of a path's points show the same finished picture."""

from __future__ import annotations

from typing import Any

import torch

from fewstep.distill.latents import Samples
from fewstep.distill.methods.method import Method, picture
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.steps import Task
from fewstep.distill.targets import teacher_target
from fewstep.distill.trainer import Losses
from fewstep.models.guidance import denoiser
from fewstep.schedule import CLEAN

HUBER = 1e-3  # c of the pseudo-Huber distance √(d² + c²) - c, as in diffusers' LCM script


class Lcm(Method):
    """d(f(x_t, t), sg f(x_s, s)), where x_s is where the teacher's n steps lead from x_t: n is LCM's skipping step k.

    f is the picture that the student sees; at the clean end it is what it is given, so no boundary condition is needed. The target is the
    student's own at this moment, not an average of it (arXiv 2310.14189). Its students draw all noise anew between steps.
    """

    fresh = 1.0

    @classmethod
    def check(cls, plan: DistillPlan, stage: Stage) -> None:
        """Where a jump lands, another has to start, or nothing teaches what is seen there; and its students teach nobody."""
        super().check(plan, stage)
        if any(other.full and other.steps == stage.teacher_steps for other in plan.stages):
            raise ValueError(f"stage {stage.name}: its teacher is a student of method 'lcm', which draws fresh noise, and a teacher is walked without")
        starts = stage.starts()
        for level in starts:
            if level > stage.n and level - stage.n not in starts:
                raise ValueError(f"stage {stage.name}: method 'lcm' lands on level {level - stage.n}, and no jump starts there: add it to levels")

    @classmethod
    def passes(cls, plan: DistillPlan, stage: Stage, phase: str) -> float:
        """The teacher's n steps, the student at both ends, and back."""
        return stage.n + 1 + 3 if phase == "full" else super().passes(plan, stage, phase)

    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """The consistency loss, on finished latents."""
        prompt, jump, ids = task.text(samples), task.jump(samples), samples.time_ids
        with torch.no_grad():
            x = teacher_target(denoiser(task.teacher, prompt, ids, task.guidance_scale), jump)
            finished = (jump.t_end == CLEAN)[:, None, None, None]
            wanted = torch.where(finished, x, picture(student, task, x, jump.t_end.clamp(min=0), prompt, ids))
        made = picture(student, task, jump.x, jump.t, prompt, ids)
        loss = ((made - wanted).square() + HUBER**2).sqrt().mean() - HUBER
        return {"loss": loss, "distance": (made - wanted).detach().square().mean().sqrt()}
