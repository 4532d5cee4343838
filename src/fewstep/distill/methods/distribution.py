"""Distribution matching (DMD2, arXiv 2405.14867) with the decoupled schedule (arXiv 2511.22677): the student's pictures follow the teacher's law."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.distill import losses
from fewstep.distill.latents import Samples
from fewstep.distill.methods.add import NOISE, TIMES, timesteps
from fewstep.distill.methods.method import Method, picture
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.steps import Task
from fewstep.distill.targets import renoise
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.trainer import Figure, Losses
from fewstep.models.bundle import Bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt
from fewstep.models.recast import recast
from fewstep.schedule import split


class Distribution(Method):
    """A second network learns what the student draws; the student moves from where that one points to where the teacher points.

    The paper trains it five times for each update of the student; here it is twice, for small budgets, and there is no critic beside it.
    """

    turns = ("fake", "fake", "student")

    def __init__(self, bundle: Bundle, plan: DistillPlan, stage: Stage) -> None:
        super().__init__(bundle, plan, stage)
        self.fake = recast(copy.deepcopy(bundle.unet), torch.float32).train().requires_grad_(True)
        if plan.checkpointing:
            self.fake.enable_gradient_checkpointing()

    @classmethod
    def passes(cls, plan: DistillPlan, stage: Stage, phase: str) -> float:
        """The fake network twice, after the student; then the student, and four looks at its picture."""
        return (2 * (1 + 3) + (3 + 4)) / 3 if phase == "full" else super().passes(plan, stage, phase)

    def networks(self, phase: str) -> dict[str, nn.Module]:
        """The network that knows the student's pictures, from the teacher's weights on."""
        return {"fake": self.fake}

    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """The fake network's denoising loss, or 0.5‖x̂ - sg(x̂ - g)‖² of which the gradient in x̂ is g."""
        prompt, jump, ids = task.text(samples), task.jump(samples), samples.time_ids
        if turn == "fake":
            with torch.no_grad():
                made = picture(student, task, jump.x, jump.t, prompt, ids)
            t, noise = timesteps(samples, TIMES[0]), samples.noise(NOISE[0])
            return {"loss": losses.mse(denoiser(self.fake, prompt, ids)(renoise(made, noise, t), t), noise)}
        return self.pull(picture(student, task, jump.x, jump.t, prompt, ids), jump.t, prompt, samples)

    def pull(self, made: Tensor, t: Tensor, prompt: Prompt, samples: Samples) -> Losses:
        """The student's loss, of the pictures ``made`` [B, C, H, W] that it saw at timesteps ``t`` [B]."""
        with torch.no_grad():
            g = self._direction(made, t, prompt, samples)
        return {"loss": 0.5 * losses.mse(made, made.detach() - g), "pull": Figure(g.square().mean().reshape(1), torch.sqrt)}

    def _direction(self, made: Tensor, t: Tensor, prompt: Prompt, samples: Samples) -> Tensor:
        """Matching, at any noise level, and guidance, at levels below where the student stood; each over its mean size, as in DMD's equation 8."""
        ids, teacher = samples.time_ids, self.bundle.unet
        tau = timesteps(samples, TIMES[0])
        x = renoise(made, samples.noise(NOISE[0]), tau)
        real, fake = (_seen(network, x, tau, prompt, ids) for network in (teacher, self.fake))
        below = (timesteps(samples, TIMES[1]) * (t + 1) // 1000).clamp(min=1)
        x = renoise(made, samples.noise(NOISE[1]), below)
        wanted, null = _seen(teacher, x, below, prompt, ids), _seen(teacher, x, below, prompt.null(), ids)
        return (fake - real) / _size(made - real) - (self.plan.guidance_scale - 1) * (wanted - null) / _size(made - wanted)


def _size(difference: Tensor) -> Tensor:
    """How large it is on average in each sample, [B, 1, 1, 1]."""
    return difference.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)


def _seen(network: Any, x: Tensor, t: Tensor, prompt: Prompt, ids: Tensor) -> Tensor:
    return split(x, denoiser(network, prompt, ids)(x, t).float(), alpha_bar_at(t, x), "epsilon")[0]
