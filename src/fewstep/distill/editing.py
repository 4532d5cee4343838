"""What a student meets where a picture is changed instead of made: it starts at any noise level, or keeps a picture outside a mask.

Image-to-image noises a picture to the level of its strength, which need not be one of a student's own; inpainting puts the picture back outside
the mask after each step (``keep`` of fewstep.sampler), so that inside it what the student made stands beside what it did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.distill.latents import Samples
from fewstep.distill.teacher import alpha_bar_at
from fewstep.sampler import sample
from fewstep.schedule import TRAIN_TIMESTEPS, add_noise

ANYWHERE, WHERE, MASKED, MASK = 14, 15, 16, 17  # purposes of the draws from samples: apart from the task's and from those of methods/add.py
SIDES = (0.3, 0.8)  # of a mask over the picture's
OUTSIDE = 0.25  # share of masks that are everything but a rectangle, as in outpainting


@dataclass(frozen=True)
class Kept:
    """A picture that stays where nothing is made anew."""

    made: Tensor  # bool [B, 1, H, W]: where latents are made
    picture: Tensor  # [B, C, H, W], clean latents
    noise: Tensor  # like them

    def hold(self, x: Tensor, t: Tensor) -> Tensor:
        """Latents ``x`` at timesteps t [B], and the picture with as much noise where it stays."""
        return torch.where(self.made, x, add_noise(self.picture, self.noise, alpha_bar_at(t, x)))

    def __getitem__(self, rows: list[int]) -> Kept:
        return Kept(self.made[rows], self.picture[rows], self.noise[rows])


def anywhere(levels: np.ndarray, samples: Samples, share: float, teacher_steps: int) -> np.ndarray:
    """``levels`` [B] of which a ``share`` is drawn evenly from (0, M] instead, never below the lowest noise there is: float64."""
    drawn = np.maximum((1 - samples.uniform(WHERE)) * teacher_steps, teacher_steps / TRAIN_TIMESTEPS)
    return np.where(samples.uniform(ANYWHERE) < share, drawn, levels)


def masked(samples: Samples, share: float) -> list[int]:
    """The ``share`` of the samples of which a part is kept: their rows."""
    return [int(row) for row in np.flatnonzero(samples.uniform(MASKED) < share)]


def masks(samples: Samples, rows: Sequence[int]) -> Tensor:
    """Where latents are made anew, bool [B, 1, H, W]: everywhere, and in ``rows`` within a rectangle or around one."""
    height, width = samples.latents.shape[-2:]
    made = np.ones((len(samples.indices), 1, height, width), bool)
    for row in rows:
        rng = np.random.default_rng((samples.seed, samples.indices[row], MASK))
        inside = np.zeros((height, width), bool)
        sides = [max(round(rng.uniform(*SIDES) * side), 1) for side in (height, width)]
        top, left = (int(rng.integers(side - length + 1)) for side, length in zip((height, width), sides, strict=True))
        inside[top : top + sides[0], left : left + sides[1]] = True
        made[row, 0] = ~inside if rng.random() < OUTSIDE else inside
    return torch.from_numpy(made).to(samples.latents.device)


@torch.no_grad()
def repaint(teacher: Callable[[Tensor, Tensor], Tensor], kept: Kept, levels: np.ndarray, table: Sequence[int]) -> Tensor:
    """x_t at ``levels`` [B] of the teacher's grid as inpainting comes there: from noise, step by step, the picture put back after each.

    ``table`` are the M + 1 timesteps of the grid from clean to T; a teacher answers in ε. Float, like the latents.
    """
    steps, grid = len(table) - 1, np.asarray(table)
    walked = [np.maximum(steps - done, levels) for done in range(steps - int(levels.min()) + 1)]
    times = [torch.from_numpy(grid[at]).to(kept.noise.device) for at in walked]
    start = add_noise(torch.zeros_like(kept.noise), kept.noise, alpha_bar_at(times[0], kept.noise))
    frames = sample(
        lambda x, t: teacher(x, t).float(),
        start,
        zip(times, times[1:], strict=False),
        prediction_type="epsilon",
        start_scale=1.0,
        level=lambda t: alpha_bar_at(t, start),
        keep=lambda x, t: torch.where((t == table[-1])[:, None, None, None], x, kept.hold(x, t)),  # who has not left T is noise alone
    )
    return [start, *(frame.latents for frame in frames)][-1]
