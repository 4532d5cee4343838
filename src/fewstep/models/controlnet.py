"""ControlNets (arXiv 2302.05543): what they add to a UNet's skip connections and middle, summed over several.

û = unet(x, t, c, skips + Σ wᵢ·rᵢ)      rᵢ = netᵢ(x, t, c, hintᵢ)      wᵢ = 0 in the steps that net i does not act in
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from fewstep.models.bundle import load_weights
from fewstep.models.control_layout import SHARED

ROOM = 2 << 30  # bytes of ControlNets that are kept beside those in use: SDXL's has 2.5 GB in half precision


@dataclass(frozen=True)
class Reader:
    """A ControlNet with the hints of a batch."""

    net: Any
    hint: Tensor  # [B, 3, H, W] in [0, 1]
    weights: Mapping[int, float]  # by the timesteps that it acts at


def load_controlnet(path: Path, config: Mapping[str, Any], device: Any = "cpu", dtype: torch.dtype = torch.float32) -> ControlNetModel:
    """The ControlNet in a .safetensors file, as ``config`` has it. Raises WeightsError, naming the first three misfits, unless all weights fit."""
    with init_empty_weights():
        net = ControlNetModel(**config)
    load_weights(net, path, become=(device, dtype))
    return net.eval().requires_grad_(False)


def build_controlnet(unet: Any, embedding: Sequence[int]) -> ControlNetModel:
    """A ControlNet that is to learn to guide ``unet``: a copy of its encoder that changes nothing yet. ``embedding`` are the widths of the hint's
    network, each at half the side of the one before.

    Of the middle it has the first residual block alone, as the small ones that are published for SDXL do.
    """
    config = {key: unet.config[key] for key in SHARED if key in unet.config}
    own = {key: unet.config[key] for key in ("down_block_types", "transformer_layers_per_block")}
    net = ControlNetModel(**config, **own, mid_block_type="UNetMidBlock2D", conditioning_embedding_out_channels=tuple(embedding))
    encoder = unet.state_dict()
    net.load_state_dict({name: encoder.get(name, weight) for name, weight in net.state_dict().items()})
    return net.to(unet.device)


def residuals(guides: Sequence[Reader]) -> Callable[[Tensor, Any, Mapping[str, Any]], dict[str, Any]]:
    """``added(x, t, condition)``: keyword arguments for a UNet that is called with latents [kB, C, H/f, W/f] at t under ``condition``.

    k is 2 where the null prompt and the prompt run as one batch: both see the hint. Where no net acts there are none, and the UNet is as it was.
    """

    def added(x: Tensor, t: Any, condition: Mapping[str, Any]) -> dict[str, Any]:
        acting = [(guide, guide.weights[now]) for guide in guides if (now := int(t)) in guide.weights]
        if not acting:
            return {}
        return together([read(guide.net, x, t, condition, guide.hint, weight) for guide, weight in acting])

    return added


def read(net: Any, x: Tensor, t: Any, condition: Mapping[str, Any], hint: Tensor, weight: float = 1.0) -> tuple[Sequence[Tensor], Tensor]:
    """What a ControlNet says of latents [kB, C, H/f, W/f] at t, under a UNet's ``condition`` and a ``hint`` [B, 3, H, W]: (for the skips, for the middle)."""
    said = {key: condition[key] for key in ("encoder_hidden_states", "added_cond_kwargs")}
    hint = hint.repeat(len(x) // len(hint), 1, 1, 1)
    answer: tuple[Sequence[Tensor], Tensor] = net(x, t, controlnet_cond=hint, conditioning_scale=weight, return_dict=False, **said)
    return answer


def together(answers: Sequence[tuple[Sequence[Tensor], Tensor]]) -> dict[str, Any]:
    """What several ControlNets say, added, as keyword arguments of a UNet."""
    skips, middles = zip(*answers, strict=True)
    return {"down_block_additional_residuals": tuple(map(_sum, zip(*skips, strict=True))), "mid_block_additional_residual": _sum(middles)}


def _sum(parts: Sequence[Tensor]) -> Tensor:
    first, *others = parts
    return sum(others, first)


class Nets:
    """The ControlNets in memory: those in use, and others as long as there is room, the newest first."""

    def __init__(self, device: Any, dtype: torch.dtype, quick: Callable[[Any], Any]) -> None:
        """``quick`` makes a network fast, in place."""
        self._device, self._dtype, self._quick = device, dtype, quick
        self._held: OrderedDict[str, Any] = OrderedDict()

    def get(self, wanted: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> list[Any]:
        """The ControlNets of these (hash, file, configuration), loaded where they are not yet. Raises WeightsError on one that does not fit."""
        for name, path, config in wanted:
            if name not in self._held:
                self._make_room({own for own, _, _ in wanted})
                self._held[name] = self._quick(load_controlnet(path, config, self._device, self._dtype))
            self._held.move_to_end(name)
        return [self._held[name] for name, _, _ in wanted]

    def _make_room(self, needed: set[str]) -> None:
        for name in list(self._held):
            others = [net for other, net in self._held.items() if other not in needed]
            if name not in needed and sum(weight.nbytes for net in others for weight in net.parameters()) > ROOM:
                del self._held[name]
