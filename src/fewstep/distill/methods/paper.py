"""SDXL-Lightning's method (arXiv 2402.13929, sections 3.2 to 3.4): a critic of steps, then one of pictures, against the teacher's latents."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from fewstep.distill import steps
from fewstep.distill.latents import Samples
from fewstep.distill.methods.method import CRITICS, Method
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.sharding import gathered
from fewstep.distill.steps import Task
from fewstep.distill.trainer import Losses
from fewstep.models.bundle import Bundle
from fewstep.models.critic import Backbone, Critic


class Paper(Method):
    """LoRA with the conditional critic, LoRA with the unconditional one, then the whole UNet with the latter. Turns are 1 : 1."""

    phases = ("conditional", "unconditional", "full")
    turns: ClassVar[tuple[str, ...]] = ("critic", "student")
    options = CRITICS
    lands = True

    def __init__(self, bundle: Bundle, plan: DistillPlan, stage: Stage) -> None:
        super().__init__(bundle, plan, stage)
        self.backbone = self._fresh()  # anew at each stage
        self.critic: Critic | None = None

    def _fresh(self) -> Backbone:
        backbone = Backbone(self.bundle.unet, self.plan.critic_rank, self.plan.seed + self.stage.steps)
        if self.plan.checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        return backbone

    def networks(self, phase: str) -> dict[str, nn.Module]:
        """The critic, on a backbone that goes on learning from phase to phase; "full" keeps an unconditional one."""
        if phase != "full" or self.critic is None or self.critic.conditional:
            self.backbone = gathered(self.backbone, self._fresh)  # in shares it belongs to the critic before
            seed = self.plan.seed + self.stage.steps
            every = self.plan.critic_heads == "every"
            self.critic = Critic(self.backbone, phase == "conditional", seed, every).to(self.bundle.device)
        return {"critic": self.critic}

    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """Equations 20 and 21."""
        assert self.critic is not None, "networks() made it as the phase began"
        if turn == "critic":
            return steps.critic_losses(task, student, self.critic, samples)
        return steps.student_losses(task, student, self.critic, samples)
