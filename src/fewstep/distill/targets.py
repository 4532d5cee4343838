"""What a stage teaches: where a student's jump starts, where the teacher's steps lead, and where the student lands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.distill.editing import Kept
from fewstep.distill.teacher import alpha_bar_at
from fewstep.sampler import sample
from fewstep.schedule import CLEAN, TRAIN_TIMESTEPS, PredictionType, add_noise, move

Network = Callable[[Tensor, Tensor], Tensor]  # (latents [B, C, H, W], timesteps [B]) -> output, like the latents


@dataclass(frozen=True)
class Jump:
    """One jump of the student for each sample: from x_t at ``t`` to ``t_end`` [B], by way of the teacher's ``times`` [n + 1, B]."""

    x: Tensor  # [B, C, H, W], the latents at t
    times: Tensor  # long [n + 1, B], diffusers' indices; the last repeats where the end comes early
    place: Tensor | None = None  # long [B], of the step count it belongs to, where a student has several
    kept: Kept | None = None  # what stays of a picture, where some do

    @property
    def t(self) -> Tensor:
        """Where the jump starts, [B]."""
        return self.times[0]

    @property
    def t_end(self) -> Tensor:
        """Where it lands, [B]."""
        return self.times[-1]

    def hold(self, x: Tensor, t: Tensor) -> Tensor:
        """Latents at timesteps t [B], with what stays of a picture put back."""
        return x if self.kept is None else self.kept.hold(x, t)


def grid(steps: int) -> list[int]:
    """The timesteps of an N-step teacher from clean to T, N + 1 of them: index k is noise level k / N, as trailing spacing rounds it."""
    return [CLEAN] + [round(k * TRAIN_TIMESTEPS / steps) - 1 for k in range(1, steps + 1)]


def start_jump(x0: Tensor, noise: Tensor, levels: Tensor, teacher_steps: int, n: int, own: Tensor | None = None) -> Jump:
    """x_t for samples at ``levels`` [B] of an M-step teacher's grid, 1 .. M or between, and the times of its n steps, equations 7 to 13.

    Where each sample has an n of its ``own`` [B], ``n`` is the most of them. At T the network is shown noise alone, √(1-ᾱ_T)·ε, while
    conversions keep the old ᾱ_T (section 3.5).
    """
    gone = [i if own is None else own.clamp(max=i) for i in range(n + 1)]
    times = torch.stack([torch.round((levels - i).clamp(min=0).double() * TRAIN_TIMESTEPS / teacher_steps).long() - 1 for i in gone])
    picture = x0 * (levels < teacher_steps)[:, None, None, None]
    return Jump(add_noise(picture, noise, alpha_bar_at(times[0], x0)), times)


def land(x: Tensor, output: Tensor, t: Tensor, t_end: Tensor, prediction_type: PredictionType = "epsilon") -> Tensor:
    """Equations 14 and 15: where an output at x_t leads, with each sample's own timesteps [B]."""
    return move(x, output, alpha_bar_at(t, x), alpha_bar_at(t_end, x), prediction_type)


@torch.no_grad()
def teacher_target(teacher: Network, jump: Jump) -> Tensor:
    """x_{t - ns} after the frozen teacher's n steps from x_t, equations 7 to 13: float, like the latents. A sample that is clean stays so."""
    frames = sample(
        lambda x, t: teacher(x, t.clamp(min=0)).float(),
        jump.x,
        zip(jump.times, jump.times[1:], strict=False),
        prediction_type="epsilon",
        start_scale=1.0,
        level=lambda t: alpha_bar_at(t, jump.x),
        keep=jump.hold,
    )
    return list(frames)[-1].latents


def reach(jump: Jump) -> Tensor:
    """How far an error of 1 in x0 moves the landing point, [B, 1, 1, 1]: √ᾱ_e - √(1-ᾱ_e)·√(ᾱ_t / (1-ᾱ_t)), 1 at the clean picture.

    From T an 8-step student's is 0.07: what decides on the picture's colours hardly counts where it lands.
    """
    start, end = alpha_bar_at(jump.t, jump.x), alpha_bar_at(jump.t_end, jump.x)
    return end**0.5 - (1 - end) ** 0.5 * (start / (1 - start)) ** 0.5


def carry(x: Tensor, noise: Tensor, t: Tensor, t_later: Tensor) -> Tensor:
    """Latents at timesteps t [B] with as much more noise as those at t_later [B] have: √(ᾱ'/ᾱ)·x + √(1 - ᾱ'/ᾱ)·ε."""
    return add_noise(x, noise, alpha_bar_at(t_later, x) / alpha_bar_at(t, x))


def renoise(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Latents at the critic's own timesteps t* [B] (equations 25 and 26)."""
    return add_noise(x, noise, alpha_bar_at(t, x))
