"""How the pictures of one kind are steered beside their prompts: guidance, negative prompts, and what the model is told of sizes. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.request import Settled

NAG_SCALE = 2.0  # of a negative prompt whose request does not say; measured (docs/decisions.md)


@dataclass(frozen=True)
class Steering:
    """For a batch: what a backend's denoiser does besides calling the network."""

    guidance_scale: float  # more than 1 is classifier-free guidance, away from the negative prompt or from the null prompt
    nag_scale: float | None  # normalized attention guidance, away from the negative prompt; None is none
    ids: NDArray[np.float32]  # [B, 6], see time_ids
    negatives: Sequence[Any] | None = None  # B encoded prompts, if there are negative ones

    @property
    def null(self) -> Sequence[Any] | None:
        """The negative prompts that stand in the null prompt's place."""
        return None if self.attends else self.negatives

    @property
    def away(self) -> Sequence[Any] | None:
        """The negative prompts that the attentions are led away from."""
        return self.negatives if self.attends else None

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


def time_ids(settled: Settled) -> tuple[int, ...]:
    """SDXL's micro-conditioning of one picture: (original height and width, cut off above and on the left, target height and width)."""
    size = settled.width, settled.height
    original, crop, target = settled.original_size or size, settled.crop or (0, 0), settled.target_size or size
    return (*original[::-1], *crop[::-1], *target[::-1])
