"""One UNet for several step counts: it is told which by the condition of its time embedding, one number for each, that diffusers' UNets have.

W1·(e + C·c) + b1 is the embedding's first layer, and for one count C·c is a constant: what a student of several counts becomes for one of them
is an ordinary UNet with another bias, b1 + W1·C·c, which everything that runs SDXL can run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LAYER, CONDITION = "time_embedding.linear_1", "time_embedding.cond_proj.weight"


def learn_counts(unet: Any, counts: int) -> None:
    """Have ``unet`` learn to be told which of so many step ``counts`` it is asked for; until it has, that changes nothing."""
    embedding = unet.time_embedding
    weight = embedding.linear_1.weight
    embedding.cond_proj = nn.Linear(counts, embedding.linear_1.in_features, bias=False, device=weight.device, dtype=weight.dtype)
    nn.init.zeros_(embedding.cond_proj.weight)


def told(place: Tensor, counts: int) -> dict[str, Tensor]:
    """What the UNet takes beside its other conditions: each sample's step count, by its ``place`` [B] among the counts."""
    return {"timestep_cond": nn.functional.one_hot(place, counts).float()}


@torch.no_grad()
def settled(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """The weights of the UNet that answers as the one of ``tensors`` does when told the count at ``place``."""
    own = dict(tensors)
    constant = own.pop(CONDITION)[:, place]
    own[f"{LAYER}.bias"] = own[f"{LAYER}.bias"] + own[f"{LAYER}.weight"] @ constant
    return own
