"""What a rehearsal has in place of data and weights: samples, prompts and models of the right shapes that hold nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from fewstep.distill.latents import Samples
from fewstep.distill.pretrain import attention
from fewstep.models.bundle import Bundle
from fewstep.models.prompt import Prompt
from fewstep.stamp import Stamp


class Blank(Samples):
    """Samples that say nothing, at no cost."""

    def noise(self, purpose: int) -> Tensor:
        """Like the latents."""
        return torch.zeros_like(self.latents)

    def uniform(self, purpose: int) -> np.ndarray:
        """Zeros, [B]."""
        return np.zeros(len(self.indices))


@dataclass
class BlankLatents:
    """Stands where a run has its cache of latents."""

    unet: Any

    def batch(self, indices: range, batch_size: int, scale: float, device: torch.device) -> Samples:
        """Square latents, blank."""
        side, channels = int(self.unet.config.sample_size), int(self.unet.config.in_channels)
        count = len(indices)
        return Blank(torch.zeros(count, channels, side, side), ["a"] * count, torch.zeros(count, 6), list(indices), 0)


class BlankText:
    """Stands where a run has its text encoders."""

    def __init__(self, unet: Any, length: int) -> None:
        self.shape = (length, int(unet.config.cross_attention_dim))
        self.pooled = int(unet.config.projection_class_embeddings_input_dim) - 6 * int(unet.config.addition_time_embed_dim)

    def __call__(self, samples: Samples) -> Prompt:
        """Prompts, blank."""
        count = len(samples.captions)
        return Prompt(torch.zeros(count, *self.shape), torch.zeros(count, self.pooled))

    @property
    def bytes(self) -> int:
        """Of one prompt."""
        return 4 * (self.shape[0] * self.shape[1] + self.pooled)


def hollow(configs: Mapping[str, Any], sizes: Mapping[str, int], accelerator: bool) -> Bundle:
    """A model of these dimensions; its text encoders are mere weights of so many bytes."""
    unet, vae = UNet2DConditionModel.from_config(configs["unet"]), AutoencoderKL.from_config(configs["vae"])
    for network in (unet, vae):
        network.set_attn_processor(attention(accelerator))
        network.eval().requires_grad_(False)
    encoders = [_Weights(sizes[name]) for name in ("text_encoder", "text_encoder_2")]
    return Bundle(cast(Any, None), cast(Any, None), cast(Any, encoders[0]), cast(Any, encoders[1]), unet, vae, Stamp("teacher", 32))


class _Weights(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(size // 4), requires_grad=False)
