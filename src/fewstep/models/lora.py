"""Low-rank adapters: train them inside a UNet, wear them, extract them from two sets of weights, and write them under kohya's names.

W' = W + strength · (alpha / rank) · B A        A: [rank, in·k·k] ("down"), B: [out, rank] ("up")
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewstep.models.stack import Changes, total

PREFIX = "lora_unet_"
# Every convolution and linear layer but conv_in, conv_out and the shared embeddings, as the paper has it and LCM-LoRA lists it.
SUFFIXES = (
    "to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 conv1 conv2 conv_shortcut downsamplers.0.conv upsamplers.0.conv time_emb_proj"
).split()


class LowRank(nn.Module):
    """A parametrization that adds (alpha / rank) · B A to a weight; B starts at zero, so that it begins as no change."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rank = min(rank, weight.shape[0], weight[0].numel())
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()).to(weight.device) / rank)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def _adapter(layer: Any) -> Any:
    return layer.parametrizations.weight[0]


def _key(name: str) -> str:
    return PREFIX + name.replace(".", "_")


def targets(unet: nn.Module) -> dict[str, nn.Module]:
    """The layers that carry adapters, by name."""
    return {name: layer for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(tuple(SUFFIXES))}


def add_lora(unet: nn.Module, rank: int, alpha: float, seed: int = 0) -> list[nn.Parameter]:
    """Freeze ``unet``, put an adapter on each target, and return the adapters' parameters: all that is left to train."""
    unet.requires_grad_(False)
    torch.manual_seed(seed)
    added = [(layer, LowRank(layer.weight, rank, alpha)) for layer in targets(unet).values()]  # type: ignore[arg-type]
    for layer, adapter in added:
        parametrize.register_parametrization(layer, "weight", adapter)
    return [parameter for _, adapter in added for parameter in adapter.parameters()]


def adapters(unet: nn.Module) -> dict[str, Tensor]:
    """The adapters inside ``unet`` under kohya's names: what :mod:`fewstep.models.adapters` reads."""
    tensors: dict[str, Tensor] = {}
    for name, layer in targets(unet).items():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        adapter, weight, key = _adapter(layer), cast(Tensor, layer.weight), _key(name)
        tensors[f"{key}.lora_down.weight"] = adapter.down.detach().reshape(-1, *weight.shape[1:]).contiguous()
        tensors[f"{key}.lora_up.weight"] = adapter.up.detach().reshape(len(weight), -1, *(1,) * (weight.ndim - 2)).contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(adapter.scale * len(adapter.down)))
    return tensors


@torch.no_grad()
def set_adapters(unet: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the adapters inside ``unet`` the values that :func:`adapters` or :func:`extract_lora` gave, of the same rank."""
    for name, layer in targets(unet).items():
        adapter, key = _adapter(layer), _key(name)
        adapter.scale = float(tensors[f"{key}.alpha"]) / len(adapter.down)
        adapter.down.copy_(tensors[f"{key}.lora_down.weight"].flatten(1))
        adapter.up.copy_(tensors[f"{key}.lora_up.weight"].flatten(1))


def fuse_lora(unet: nn.Module) -> None:
    """Make the adapted weights the weights, and remove the adapters."""
    for layer in targets(unet).values():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


@torch.no_grad()
def extract_lora(base: nn.Module, tuned: nn.Module, rank: int) -> tuple[dict[str, Tensor], float]:
    """The best rank-``rank`` adapters that turn ``base`` into ``tuned``, by SVD, under kohya's names; and the share of the change,
    ‖ΔW - BA‖ / ‖ΔW‖ over all layers, that they leave out. Layers that are no targets count as left out.
    """
    tensors: dict[str, Tensor] = {}
    own, other = dict(base.named_parameters()), dict(tuned.named_parameters())
    left = total = 0.0
    layers = targets(base)
    for name, weight in own.items():
        change = (other[name] - weight).double()
        total += float(change.square().sum())
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None or not name.endswith(".weight"):
            left += float(change.square().sum())
            continue
        flat = change.reshape(change.shape[0], -1)
        u, s, v = torch.linalg.svd(flat, full_matrices=False)
        r = min(rank, len(s))
        left += float(s[r:].square().sum())
        root = s[:r].sqrt()
        down, up = (root[:, None] * v[:r]), u[:, :r] * root
        key = _key(name.removesuffix(".weight"))
        shape = weight.shape[1:] if weight.ndim == 4 else flat.shape[1:]
        tensors[f"{key}.lora_down.weight"] = down.reshape(r, *shape).float().contiguous()
        tensors[f"{key}.lora_up.weight"] = up.reshape(len(flat), r, *(1,) * (weight.ndim - 2)).float().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(r))
    return tensors, (left / total) ** 0.5 if total else 0.0


class Worn:
    """A network that wears a stack of LoRAs in its weights, in place, and takes it off to the bit: what is changed is kept as it was beside it."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = dict(network.named_parameters())
        self._kept: dict[str, Tensor] = {}
        self._key: Hashable = ()

    @torch.no_grad()
    def wear(self, key: Hashable, changes: Callable[[], Changes]) -> None:
        """Wear those ``changes`` and no others, which ``key`` names; () is none. They are asked for where they are not worn already."""
        if key == self._key:
            return
        found, self._key = changes(), None
        for name in self._kept.keys() - found.keys():
            self._weights[name].copy_(self._kept.pop(name))
        for name, added in found.items():
            weight = self._weights[name]
            kept = self._kept.setdefault(name, weight.clone())
            weight.copy_(kept.float() + total([(strength, change.to(weight.device)) for strength, change in added]))
        self._key = key


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """{name of a weight: its shape}."""
    return {name: tuple(weight.shape) for name, weight in network.named_parameters()}
