"""One update of each kind, as a function of models and samples: no optimizer, no rank, no counter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.distill import losses
from fewstep.distill.editing import Kept, anywhere, masked, masks, repaint
from fewstep.distill.latents import Samples, Text
from fewstep.distill.targets import Jump, carry, grid, land, reach, renoise, start_jump, teacher_target
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.trainer import Figure, Losses
from fewstep.models.counts import told
from fewstep.models.critic import Critic
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt, cat
from fewstep.schedule import CLEAN, TRAIN_TIMESTEPS, PredictionType, split


@dataclass(frozen=True)
class Task:
    """What a stage asks of the student: everything in it that does not change from update to update."""

    text: Text
    teacher: Any  # frozen UNet, ε-predicting
    teacher_steps: int  # M: the grid the teacher walks
    n: int  # teacher steps that the student covers in one
    levels: tuple[int, ...]  # where on the teacher's grid a jump may start, 1 .. M
    counts: tuple[int, ...] = ()  # the step counts of a student that has several, each with its own levels and n
    anywhere: float = 0.0  # share of jumps that start at any level instead
    masked: float = 0.0  # share of samples of which a part is kept as it is
    guidance_scale: float = 0.0  # of the teacher; only the first stage has it
    prediction_type: PredictionType = "epsilon"  # of the student
    renoise_t: tuple[int, ...] = ()  # the critic's timesteps t* for clean latents; empty: it sees what the student made as it is
    renoise_weights: tuple[float, ...] = ()
    r1_weight: float = 0.0
    r1_sigma: float = 0.05
    relativistic: bool = False  # whether the critic compares the two from the same x_t, instead of judging each
    noisy: bool = False  # whether the critic sees every landing point at a noise level drawn between its own and T
    walks: dict[tuple[str, int], Tensor] | None = None  # where the teacher led, by a batch's first sample; None where no batch comes again

    def walk(self, prompt: Prompt, jump: Jump, samples: Samples) -> Tensor:
        """x_{t - ns}, where the teacher's steps lead: float [B, C, H, W]."""
        return self._once("end", samples, lambda: teacher_target(denoiser(self.teacher, prompt, samples.time_ids, self.guidance_scale), jump))

    def jump(self, samples: Samples) -> Jump:
        """Each sample's start, drawn evenly from the levels that it may have, and the times of its jump."""
        draw, device = samples.uniform(0), samples.latents.device
        rows = masked(samples, self.masked) if self.masked else []
        own = place = None
        if self.counts:  # first which of them, then where: the rest of the same draw
            chosen = (draw * len(self.counts)).astype(np.int64)
            count = np.array(self.counts)[chosen]
            place, own = torch.from_numpy(chosen).to(device), torch.from_numpy(self.teacher_steps // count).to(device)
            levels = self.teacher_steps // count * (1 + (draw * len(self.counts) % 1 * count).astype(np.int64))
        else:
            levels = np.array(self.levels)[(draw * len(self.levels)).astype(np.int64)]
        if self.anywhere:  # but what the teacher paints is on its grid
            elsewhere = anywhere(levels, samples, self.anywhere, self.teacher_steps)
            levels = np.where(np.isin(np.arange(len(levels)), rows), levels, elsewhere)
        jump = start_jump(samples.latents, samples.noise(1), torch.from_numpy(levels).to(device), self.teacher_steps, self.n, own)
        return replace(jump if not rows else self._repainted(jump, levels, rows, samples), place=place)

    def _repainted(self, jump: Jump, levels: np.ndarray, rows: list[int], samples: Samples) -> Jump:
        """The same jump where samples in ``rows`` keep their picture outside a mask, inside which the teacher has painted so far."""
        kept = Kept(masks(samples, rows), samples.latents, samples.noise(1))

        def painted() -> Tensor:
            teacher = denoiser(self.teacher, self.text(samples)[rows], samples.time_ids[rows], self.guidance_scale)
            return repaint(teacher, kept[rows], levels[rows].astype(np.int64), grid(self.teacher_steps))

        x = jump.x.clone()
        x[rows] = self._once("start", samples, painted)
        return replace(jump, x=x, kept=kept)

    def _once(self, what: str, samples: Samples, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives for these samples, remembered where batches come again."""
        if self.walks is None:
            return make()
        key = what, samples.indices[0]
        if key not in self.walks:
            self.walks[key] = make()
        return self.walks[key]

    def critic_times(self, samples: Samples) -> Tensor:
        """t* for each sample, drawn by weight: long [B]."""
        edges = np.cumsum(self.renoise_weights) / sum(self.renoise_weights)
        chosen = np.searchsorted(edges, samples.uniform(3), side="right").clip(max=len(edges) - 1)
        return torch.tensor(self.renoise_t)[torch.from_numpy(chosen)].to(samples.latents.device)

    def noisier(self, t: Tensor, samples: Samples) -> Tensor:
        """A timestep between t and T for each sample, evenly: long [B]."""
        share = torch.from_numpy(samples.uniform(8)).to(t.device)
        return (t + share * (TRAIN_TIMESTEPS - t)).long().clamp(0, TRAIN_TIMESTEPS - 1)


def mse_losses(task: Task, student: Any, samples: Samples) -> Losses:
    """The first stage: land where the guided teacher lands (section 3.6), measured as ε so that every noise level counts alike."""
    prompt, jump = task.text(samples), task.jump(samples)
    target = task.walk(prompt, jump, samples)
    start, end = alpha_bar_at(jump.t, jump.x), alpha_bar_at(jump.t_end, jump.x)
    # the ε that takes x_t to the target in one step: move() solved for the output
    slope = (1 - end) ** 0.5 - (end / start) ** 0.5 * (1 - start) ** 0.5
    wanted = (target - (end / start) ** 0.5 * jump.x) / slope
    output = denoiser(student, prompt, samples.time_ids)(jump.x, jump.t)
    return {"loss": losses.mse(output, wanted)}


def landing_losses(task: Task, student: Any, samples: Samples) -> Losses:
    """Equations 14 and 15: the student's landing point against the teacher's, ‖x̂_{t-ns} - x_{t-ns}‖² over the jump's reach."""
    prompt, jump = task.text(samples), task.jump(samples)
    target = task.walk(prompt, jump, samples)
    return {"loss": losses.landing(land_student(task, student, jump, prompt, samples.time_ids), target, reach(jump))}


def adapter_losses(task: Task, adapted: Any, whole: Any, samples: Samples) -> Losses:
    """The LoRA that ships against the whole student it stands for: where both land from the same x_t."""
    prompt, jump = task.text(samples), task.jump(samples)
    with torch.no_grad():
        target = land_student(task, whole, jump, prompt, samples.time_ids)
    return {"loss": losses.landing(land_student(task, adapted, jump, prompt, samples.time_ids), target, reach(jump))}


def convert_losses(task: Task, student: Any, frozen: Any, samples: Samples) -> Losses:
    """Equations 27 to 29: an x0-predicting student learns what the ε-predicting one already knows."""
    prompt, jump = task.text(samples), task.jump(samples)
    with torch.no_grad():
        epsilon = denoiser(frozen, prompt, samples.time_ids)(jump.x, jump.t).float()
        x0, _ = split(jump.x, epsilon, alpha_bar_at(jump.t, jump.x), "epsilon")
    return {"loss": losses.mse(_asked(task, student, jump, prompt, samples.time_ids)(jump.x, jump.t), x0)}


def student_losses(task: Task, student: Any, critic: Critic, samples: Samples) -> Losses:
    """The student's turn, equation 21. Gradients pass through the critic; whoever calls keeps its weights from collecting any."""
    prompt, jump = task.text(samples), task.jump(samples)
    return contest_losses(task, land_student(task, student, jump, prompt, samples.time_ids), critic, jump, prompt, samples)


def contest_losses(task: Task, made: Tensor, critic: Critic, jump: Jump, prompt: Prompt, samples: Samples) -> Losses:
    """The same, once the student has landed at ``made`` [B, C, H, W]."""
    if task.relativistic:
        with torch.no_grad():
            target = teacher_target(denoiser(task.teacher, prompt, samples.time_ids, task.guidance_scale), jump)
        real, fake = judged(task, critic, [target, made], jump, prompt, samples)
        return {"loss": losses.relativistic(fake, real), "fake": fake.detach().float().mean()}
    (fake,) = judged(task, critic, [made], jump, prompt, samples)
    return {"loss": losses.student_loss(fake), "fake": fake.detach().float().mean()}


def critic_losses(task: Task, student: Any, critic: Critic, samples: Samples) -> Losses:
    """The critic's turn, equation 20: the teacher's latents are real, the student's are not; and approximate R1 where asked for."""
    prompt, jump = task.text(samples), task.jump(samples)
    with torch.no_grad():
        target = teacher_target(denoiser(task.teacher, prompt, samples.time_ids, task.guidance_scale), jump)
        made = land_student(task, student, jump, prompt, samples.time_ids)
    shown = [target, made]
    if task.r1_weight:
        shown.append(target + task.r1_sigma * samples.noise(5))
    real, fake, *perturbed = judged(task, critic, shown, jump, prompt, samples)
    contest = losses.relativistic if task.relativistic else losses.critic_loss
    loss = lost = contest(real, fake)
    if perturbed:
        loss = loss + task.r1_weight * losses.approximate_r1(real, perturbed[0])
    even = torch.zeros_like(real)  # the logits of a critic that can only guess
    between = (real + fake) / 2 if task.relativistic else even  # of a pair only the difference means anything
    right_teacher, right_student = (real > between).float().mean(), (fake < between).float().mean()
    return {
        "loss": loss,
        "of_guessing": lost.detach() / contest(even, even),
        "real": real.detach().float().mean(),
        "fake": fake.detach().float().mean(),
        "right": (right_teacher + right_student) / 2,
        "right_teacher": right_teacher,
        "right_student": right_student,
        "distance": Figure((target - made).square().mean().reshape(1), lambda means: means[0].sqrt()),
        "variety": Figure(moments(torch.cat([real, fake])), deviation),  # 0: the critic says the same of every picture
        # 1: the student's latents have the teacher's contrast
        "spread": Figure(torch.cat([moments(made), moments(target)]), lambda means: deviation(means[:2]) / deviation(means[2:]).clamp(min=1e-6)),
    }


def moments(values: Tensor) -> Tensor:
    """The means of ``values`` and of their squares: float64 [2]."""
    values = values.detach().double()
    return torch.stack([values.mean(), values.square().mean()])


def deviation(moments: Tensor) -> Tensor:
    """The standard deviation, over all samples, of what has these ``moments``."""
    return (moments[1] - moments[0].square()).clamp(min=0).sqrt()


def land_student(task: Task, student: Any, jump: Jump, prompt: Prompt, ids: Tensor) -> Tensor:
    """x̂_{t - ns}: the student's one step from x_t, float [B, C, H, W]."""
    return landing(task, answer(task, student, jump, prompt, ids), jump)


def answer(task: Task, student: Any, jump: Jump, prompt: Prompt, ids: Tensor) -> Tensor:
    """What the student says of x_t, float [B, C, H, W]."""
    return _asked(task, student, jump, prompt, ids)(jump.x, jump.t).float()


def landing(task: Task, output: Tensor, jump: Jump) -> Tensor:
    """Where one step by the student's ``output`` leads."""
    return jump.hold(land(jump.x, output, jump.t, jump.t_end, task.prediction_type), jump.t_end)


def _asked(task: Task, student: Any, jump: Jump, prompt: Prompt, ids: Tensor) -> Callable[[Tensor, Any], Tensor]:
    """The student, told the step count where it has several."""
    if jump.place is None:
        return denoiser(student, prompt, ids)
    condition = told(jump.place, len(task.counts))
    return denoiser(student, prompt, ids, added=lambda x, t, _: condition)


def judged(task: Task, critic: Critic, shown: Sequence[Tensor], jump: Jump, prompt: Prompt, samples: Samples) -> list[Tensor]:
    """The critic's logits [B] for each of ``shown``, in one pass; re-noised under one noise where the task says so: clean ones to t*, or all."""
    t = jump.t_end
    if task.noisy:
        t, noise = task.noisier(jump.t_end, samples), samples.noise(4)
        shown = [carry(latents, noise, jump.t_end, t) for latents in shown]
    elif task.renoise_t:
        finished, noise = t == CLEAN, samples.noise(4)
        t = torch.where(finished, task.critic_times(samples), t)
        shown = [torch.where(finished[:, None, None, None], renoise(latents, noise, t), latents) for latents in shown]
    count = len(shown)
    prompts = cat(*[prompt] * count)
    origin = (torch.cat([jump.x] * count), torch.cat([jump.t] * count)) if critic.conditional else None
    logits = critic(torch.cat(list(shown)), torch.cat([t] * count), prompts, torch.cat([samples.time_ids] * count), origin)
    return list(logits.chunk(count))
