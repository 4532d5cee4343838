"""What a method of distillation is made of: the networks that learn beside the student, whose turn it is, and the losses of a turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from fewstep.distill.latents import Samples
from fewstep.distill.outline import paper_passes
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.steps import Task
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.trainer import Losses
from fewstep.engine.request import listed
from fewstep.models.bundle import Bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt
from fewstep.schedule import split

CRITICS = ("r1_weight", "r1_sigma", "relativistic", "critic_heads", "critic_noise", "critic_rank")  # values of a recipe that change a critic


class Method(ABC):
    """A method at work in one stage; what it builds may live on from phase to phase.

    ``bundle`` has the teacher that the run began with, frozen; ``plan`` and ``stage`` are the recipe's.
    """

    phases: ClassVar[tuple[str, ...]] = ("full",)  # that it has, in order: "conditional" and "unconditional" train a LoRA, "full" the whole student
    turns: ClassVar[tuple[str, ...]] = ("student",)  # whose optimizer steps, in rotation: the student's, and those of networks() by their names
    fresh: ClassVar[float] = 0.0  # share of the noise that its students draw anew between steps (fewstep.sampler)
    options: ClassVar[tuple[str, ...]] = ()  # of the recipe's CRITICS that it reads
    lands: ClassVar[bool] = False  # whether its student is asked by land_student alone: what is kept of pictures, and several step counts, are heeded there
    reuses: ClassVar[bool] = False  # whether its losses take task.walk, so that batches may come again (``reuse`` of the recipe)

    def __init__(self, bundle: Bundle, plan: DistillPlan, stage: Stage) -> None:
        self.bundle, self.plan, self.stage = bundle, plan, stage

    @classmethod
    def check(cls, plan: DistillPlan, stage: Stage) -> None:
        """Raises ValueError, before anything is trained, if the method cannot do this stage."""
        for phase in ("conditional", "unconditional", "full"):
            if getattr(stage, phase) and phase not in cls.phases:
                raise ValueError(f"stage {stage.name}: method {plan.method!r} has no phase '{phase}', it has {', '.join(cls.phases)}")
        if plan.lora_only and "conditional" not in cls.phases and "unconditional" not in cls.phases:
            raise ValueError(f"lora_only: method {plan.method!r} trains the whole student and has no phase for a LoRA; give method = 'paper'")
        if (stage.also or stage.masked) and not cls.lands:
            raise ValueError(f"stage {stage.name}: method {plan.method!r} knows neither 'also' nor 'masked'; leave them out, or give method = 'paper'")
        if stage.renoise_t and not cls.options:
            raise ValueError(f"stage {stage.name}: method {plan.method!r} has no critic that reads renoise_t; leave it and its weights out")
        stride = stage.teacher_steps // stage.steps
        own = range(stride, stage.teacher_steps + 1, stride)
        if (cls.lands or stage.warm or stage.kind == "mse") and not stage.also and (stage.n != stride or not set(own) <= set(stage.starts())):
            raise ValueError(
                f"stage {stage.name}: its student is sampled in steps of n = {stride} from the levels {listed(list(own))}: give that n, and levels with these"
            )
        for name in CRITICS:
            if name not in cls.options and getattr(plan, name) != getattr(DistillPlan, name):
                raise ValueError(f"{name} = {getattr(plan, name)!r}: method {plan.method!r} does not read it; leave it out")

    @classmethod
    def passes(cls, plan: DistillPlan, stage: Stage, phase: str) -> float:
        """Forward passes of the UNet for one sample of an update, over all turns on average: what time is reckoned by (fewstep.distill.outline)."""
        return paper_passes(plan, stage, phase)

    def networks(self, phase: str) -> dict[str, nn.Module]:
        """What learns beside the student in ``phase``, each in the turn of its name. Called once as the phase begins."""
        return {}

    @abstractmethod
    def losses(self, turn: str, task: Task, student: Any, samples: Samples) -> Losses:
        """The losses of ``turn``, of which "loss" is minimised: by whom it belongs to, no other network collects a gradient."""


def picture(network: Any, task: Task, x: Tensor, t: Tensor, prompt: Prompt, ids: Tensor) -> Tensor:
    """x̂0, the finished latents that the student ``network`` sees in x [B, C, H, W] at timesteps [B]: float."""
    return split(x, denoiser(network, prompt, ids)(x, t).float(), alpha_bar_at(t, x), task.prediction_type)[0]
