"""The critic: a copy of the teacher's encoder and mid-block with a convolutional head (paper, section 3.3). All of it is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from fewstep.models.lora import add_lora, shared
from fewstep.models.prompt import Prompt, conditioning
from fewstep.models.recast import recast


class Backbone(nn.Module):
    """A UNet up to its mid-block: d(x, t, c) in equations 22 and 23.

    All of a copy learns, in float32; with a ``rank``, a LoRA on the frozen weights of ``unet`` itself.
    """

    def __init__(self, unet: UNet2DConditionModel, rank: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.unet = shared(unet) if rank else recast(copy.deepcopy(unet), torch.float32)
        self.unet.up_blocks = nn.ModuleList()
        self.unet.conv_norm_out, self.unet.conv_out = None, None
        if rank:
            add_lora(self.unet, rank, rank, seed)
        else:
            self.unet.requires_grad_(True)

    def forward(self, x: Tensor, t: Tensor, prompt: Prompt, ids: Tensor) -> Tensor:
        """Features [B, C, h, w] after the mid-block, for latents [B, 4, H, W] at timesteps [B]. Clean latents are shown at t = 0."""
        return self.levels(x, t, prompt, ids)[-1]

    def levels(self, x: Tensor, t: Tensor, prompt: Prompt, ids: Tensor) -> list[Tensor]:
        """The same, with the features after each level of the encoder before them."""
        unet, given = self.unet, conditioning(prompt, ids)
        states = given["encoder_hidden_states"]
        embedding = unet.time_embedding(unet.get_time_embed(sample=x, timestep=t.clamp(min=0)))
        embedding = embedding + unet.get_aug_embed(emb=embedding, encoder_hidden_states=states, added_cond_kwargs=given["added_cond_kwargs"])
        x, found = unet.conv_in(x), []
        for block in unet.down_blocks:
            attends = getattr(block, "has_cross_attention", False)
            x, _ = block(hidden_states=x, temb=embedding, encoder_hidden_states=states) if attends else block(hidden_states=x, temb=embedding)
            found.append(x)
        return [*found, unet.mid_block(x, embedding, encoder_hidden_states=states)]


class Critic(nn.Module):
    """The logit of "this came from the teacher". Conditional on x_t, it judges a step (equation 22); else a picture (equation 23).

    With ``every`` there is a head after each level of the encoder but the last, beside the mid-block's, and the logit is their mean.
    """

    def __init__(self, backbone: Backbone, conditional: bool, seed: int = 0, every: bool = False) -> None:
        super().__init__()
        self.backbone, self.conditional = backbone, conditional
        config = backbone.unet.config
        widths, parts = list(config.block_out_channels), 2 if conditional else 1
        side = config.sample_size / 2 ** (len(widths) - 1)
        torch.manual_seed(seed)
        self.head = head(parts * widths[-1], widths[-1], depth=max(1, round(math.log2(side)) - 1))
        finer = [(width, config.sample_size / 2 ** (level + 1)) for level, width in enumerate(widths[:-1])] if every else []
        self.finer = nn.ModuleList(head(parts * width, width, depth=max(1, round(math.log2(side)) - 1)) for width, side in finer)

    def forward(self, x: Tensor, t: Tensor, prompt: Prompt, ids: Tensor, origin: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Logits [B] for latents [B, C, H, W] at timesteps [B]; ``origin`` is the (x_t, t) that a conditional critic compares with."""
        if not self.conditional:
            return self._judge([[level] for level in self.backbone.levels(x, t, prompt, ids)])
        if origin is None:
            raise ValueError("a conditional critic needs the latents that the step began at")
        # one pass over both, which is the same as two, for the backbone sees each alone
        both = Prompt(torch.cat([prompt.embeds] * 2), torch.cat([prompt.pooled] * 2))
        levels = self.backbone.levels(torch.cat([x, origin[0]]), torch.cat([t, origin[1]]), both, torch.cat([ids, ids]))
        return self._judge([level.chunk(2) for level in levels])

    def _judge(self, levels: Sequence[Sequence[Tensor]]) -> Tensor:
        """The mean logit [B] over the heads, from each level's features, which are joined channel by channel; the mid-block's are the last."""
        logits = [self.head(torch.cat(list(levels[-1]), dim=1)).flatten(1).mean(1)]
        logits += [finer(torch.cat(list(level), dim=1)).flatten(1).mean(1) for finer, level in zip(self.finer, levels, strict=False)]
        return torch.stack(logits).mean(0)


def head(inputs: int, width: int, depth: int) -> nn.Sequential:
    """``depth`` blocks of 4x4 convolution with stride 2, GroupNorm(32) and SiLU, then one value a position."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Conv2d(inputs if index == 0 else width, width, 4, 2, 1), nn.GroupNorm(math.gcd(32, width), width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
