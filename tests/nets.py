"""ControlNets with random weights for the tests' tiny model, as people have their files."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel

from fewstep.models.bundle import Bundle

EMBEDDING = (8, 8, 8, 16, 16)


def build(bundle: Bundle, seed: int, size: float = 0.5, **config: Any) -> Any:
    """A ControlNet for ``bundle``'s UNet, whose zero convolutions have weights of this ``size``."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(bundle.unet, conditioning_embedding_out_channels=EMBEDDING[-bundle.factor.bit_length() :])
    net = ControlNetModel.from_config({**net.config, **config}) if config else net
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(weight, std=size / max(weight[0].numel(), 1) ** 0.5)
    return net.eval().requires_grad_(False)
