"""How the pictures of one kind are steered beside their prompts: guidance, negative prompts, and what the model is told of sizes. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.control import Net, acts
from fewstep.engine.request import Settled
from fewstep.engine.tiles import depth

NAG_SCALE = 2.0  # of a negative prompt whose request does not say; measured (docs/decisions.md)


@dataclass(frozen=True)
class Guide:
    """A ControlNet for a batch, and what it reads."""

    net: Net
    hints: NDArray[np.float32]  # [B, 3, H, W] in [0, 1]
    weights: Mapping[int, float]  # of what it says, by the timesteps that it acts at


@dataclass(frozen=True)
class Steering:
    """For a batch: what a backend's denoiser does besides calling the network."""

    guidance_scale: float  # more than 1 is classifier-free guidance, away from the negative prompt or from the null prompt
    nag_scale: float | None  # normalized attention guidance, away from the negative prompt; None is none
    ids: NDArray[np.float32]  # [B, 6], see time_ids
    negatives: Sequence[Any] | None = None  # B encoded prompts, if there are negative ones
    guides: Sequence[Guide] = ()  # ControlNets with their hints
    tile: str | None = None  # along "x", "y" or "xy" the pictures wrap around
    layout: int | None = None  # the timestep of the evaluation that lays them out, if others follow it

    @property
    def null(self) -> Sequence[Any] | None:
        """The negative prompts that stand in the null prompt's place."""
        return None if self.attends else self.negatives

    @property
    def away(self) -> Sequence[Any] | None:
        """The negative prompts that the attentions are led away from."""
        return self.negatives if self.attends else None

    def wrapped(self, x: Any, t: Any, levels: int) -> int:
        """How many of a UNet's ``levels`` wrap around for latents ``x`` [B, C, H/f, W/f] at t, the finest first."""
        height, width = x.shape[2:]
        return depth(height, width, levels, int(t) == self.layout) if self.tile else 0

    @property
    def attends(self) -> bool:
        """Whether it needs a network whose attentions take a negative prompt."""
        return self.nag_scale is not None


def scales(settled: Settled, own: float) -> tuple[float, float | None]:
    """(guidance_scale, nag_scale or None) for pictures of this kind with weights whose ``own`` guidance scale that is.

    A negative prompt takes the null prompt's place where there is guidance, and is attention's affair where there is none or where the
    request gives its nag_scale.
    """
    guidance = own if settled.guidance_scale is None else settled.guidance_scale
    if settled.negative is None or (guidance > 1 and settled.nag_scale is None):
        return guidance, None
    return guidance, NAG_SCALE if settled.nag_scale is None else settled.nag_scale


def layout(settled: Settled, timesteps: Sequence[int]) -> int | None:
    """The timestep at which pictures of this kind are laid out; None where no other follows, or an image has laid them out."""
    return timesteps[0] if settled.start == 0 and settled.entry is None and settled.steps > 1 else None


def time_ids(settled: Settled) -> tuple[int, ...]:
    """SDXL's micro-conditioning of one picture: (original height and width, cut off above and on the left, target height and width)."""
    size = settled.width, settled.height
    original, crop, target = settled.original_size or size, settled.crop or (0, 0), settled.target_size or size
    return (*original[::-1], *crop[::-1], *target[::-1])


def guides(batch: Sequence[Settled], timesteps: Sequence[int]) -> tuple[Guide, ...]:
    """The ControlNets of pictures of one kind, which are evaluated at ``timesteps``."""
    found = []
    for place, first in enumerate(batch[0].control):
        hints = np.stack([settled.control[place].pixels for settled in batch]).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        acting = acts(first.start, first.end, len(timesteps))
        found.append(Guide(first.net, hints, {t: first.weight for t, now in zip(timesteps, acting, strict=True) if now}))
    return tuple(found)
