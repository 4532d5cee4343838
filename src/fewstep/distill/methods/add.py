"""Adversarial diffusion distillation, SDXL-Turbo's method (arXiv 2311.17042), with the critic in latents (LADD, arXiv 2403.12015)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.distill.latents import Samples
from fewstep.distill.methods.method import Method, picture
from fewstep.distill.outline import ENCODER
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.steps import Task
from fewstep.distill.targets import renoise
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.trainer import Losses
from fewstep.models.bundle import Bundle
from fewstep.models.critic import Backbone, Critic
from fewstep.models.guidance import denoiser
from fewstep.schedule import TRAIN_TIMESTEPS, split

WEIGHT = 2.5  # λ of the distillation term, as in the paper
TIMES, NOISE = (10, 11), (12, 13)  # purposes of what is drawn here, a first and a second: apart from the task's, and a number serves one draw


class Add(Method):
    """A hinge critic between the student's pictures and the data's, and a pull towards what the guided teacher makes of the student's.

    The paper's critic looks at pixels through DINOv2. Here, as in LADD, it looks through the frozen teacher's own encoder and mid-block at
    pictures noised anew, and only its head learns: nothing has to be decoded. It reads the mid-block alone, and there is no R1 penalty.
    """

    turns = ("critic", "student")

    def __init__(self, bundle: Bundle, plan: DistillPlan, stage: Stage) -> None:
        super().__init__(bundle, plan, stage)
        self.critic = Critic(Backbone(bundle.unet), conditional=False, seed=plan.seed + stage.steps).to(bundle.device)
        self.critic.backbone.requires_grad_(False)

    @classmethod
    def passes(cls, plan: DistillPlan, stage: Stage, phase: str) -> float:
        """Critic: the student, and its encoder twice. Student: forth and back, through the critic too, and the guided teacher."""
        return ((1 + 2 * ENCODER) + (3 + 2 * ENCODER + 2)) / 2 if phase == "full" else super().passes(plan, stage, phase)

    def networks(self, phase: str) -> dict[str, nn.Module]:
        """The critic's head."""
        return {"critic": self.critic.head}

    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """Equations 1 to 4 of ADD."""
        prompt, jump, ids = task.text(samples), task.jump(samples), samples.time_ids
        t, noise = timesteps(samples, TIMES[0]), samples.noise(NOISE[0])
        if turn == "critic":
            with torch.no_grad():
                made = picture(student, task, jump.x, jump.t, prompt, ids)
            real, fake = (self.critic(renoise(x, noise, t), t, prompt, ids).float() for x in (samples.latents, made))
            right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
            loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            return {"loss": loss, "of_guessing": loss.detach() / 2, "right": right, "real": real.mean(), "fake": fake.mean()}
        made = picture(student, task, jump.x, jump.t, prompt, ids)
        adversarial = -self.critic(renoise(made, noise, t), t, prompt, ids).float().mean()
        s = timesteps(samples, TIMES[1])
        with torch.no_grad():
            x = renoise(made, samples.noise(NOISE[1]), s)
            seen = denoiser(self.bundle.unet, prompt, ids, self.plan.guidance_scale)(x, s).float()
            wanted = split(x, seen, alpha_bar_at(s, x), "epsilon")[0]
        # c(s) = √ᾱ_s: what a noisy picture shows the teacher counts less
        pull = (alpha_bar_at(s, made) ** 0.5 * (made - wanted).square()).mean()
        return {"loss": adversarial + WEIGHT * pull, "adversarial": adversarial.detach(), "pull": pull.detach()}


def timesteps(samples: Samples, purpose: int) -> Tensor:
    """Timesteps [B], each sample's own, even between 20 and 979: at the very ends there is nothing to tell (arXiv 2311.18828)."""
    share = torch.from_numpy(samples.uniform(purpose)).to(samples.latents.device)
    return (TRAIN_TIMESTEPS * (0.02 + 0.96 * share)).long()
