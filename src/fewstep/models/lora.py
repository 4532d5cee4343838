"""Low-rank adapters: train them inside a UNet, wear them, extract them from two sets of weights, and write them under kohya's names.

W' = W + strength · (alpha / rank) · B A        A: [rank, in·k·k] ("down"), B: [out, rank] ("up")
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.models.stack import Changes, total

PREFIX = "lora_unet_"
# Every convolution and linear layer but conv_in, conv_out and the shared embeddings, as the paper has it and LCM-LoRA lists it.
SUFFIXES = (
    "to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 conv1 conv2 conv_shortcut downsamplers.0.conv upsamplers.0.conv time_emb_proj"
).split()


class LowRank(nn.Module):
    """What an adapter adds to a layer's output: (alpha / rank) · B (A x). B starts at zero, so that it begins as no change.

    It stands beside the weight, not in it: a small change is not rounded away where the weight is held in bfloat16.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rank = min(rank, weight.shape[0], weight[0].numel())
        self.scale = alpha / rank
        self.down = nn.Parameter((torch.randn(rank, weight[0].numel()) / rank).view(rank, *weight.shape[1:]).to(weight.device))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, *(1,) * (weight.ndim - 2), device=weight.device))

    def forward(self, layer: Any, x: Tensor) -> Tensor:
        """The adapter's share of the output of ``layer``, a linear layer or a convolution, for its input."""
        if isinstance(layer, nn.Conv2d):
            return self.scale * functional.conv2d(functional.conv2d(x, self.down, None, layer.stride, layer.padding), self.up)
        return self.scale * functional.linear(functional.linear(x, self.down), self.up)

    @property
    def change(self) -> Tensor:
        """(alpha / rank) · B A, of the weight's shape."""
        return self.scale * (self.up.flatten(1) @ self.down.flatten(1)).view(len(self.up), *self.down.shape[1:])


def _add(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The forward hook of an adapted layer."""
    return output + layer.lora(layer, given[0])


def _key(name: str) -> str:
    return PREFIX + name.replace(".", "_")


def targets(unet: nn.Module) -> dict[str, nn.Module]:
    """The layers that carry adapters, by name."""
    return {name: layer for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(tuple(SUFFIXES))}


def adapted(unet: nn.Module) -> dict[str, LowRank]:
    """The adapters inside ``unet``, by the name of their layer."""
    return {name: cast(LowRank, layer.lora) for name, layer in targets(unet).items() if hasattr(layer, "lora")}


def add_lora(unet: nn.Module, rank: int, alpha: float, seed: int = 0) -> list[nn.Parameter]:
    """Freeze ``unet``, put an adapter on each target, and return the adapters' parameters: all that is left to train."""
    unet.requires_grad_(False)
    torch.manual_seed(seed)
    return [parameter for layer in targets(unet).values() for parameter in _adapt(layer, rank, alpha).parameters()]


def add_lora_like(unet: nn.Module, other: nn.Module) -> None:
    """Put adapters on ``unet``, and freeze the rest, with the ranks and scales of those in ``other``, if there are any."""
    layers, worn = targets(unet), adapted(other)
    unet.requires_grad_(not worn)
    for name, adapter in worn.items():
        _adapt(layers[name], len(adapter.down), adapter.scale * len(adapter.down))


def _adapt(layer: Any, rank: int, alpha: float) -> LowRank:
    layer.add_module("lora", LowRank(layer.weight, rank, alpha))
    layer.register_forward_hook(_add)
    return cast(LowRank, layer.lora)


def adapters(unet: nn.Module) -> dict[str, Tensor]:
    """The adapters inside ``unet`` under kohya's names: what :mod:`fewstep.models.adapters` reads."""
    tensors: dict[str, Tensor] = {}
    for name, adapter in adapted(unet).items():
        tensors[f"{_key(name)}.lora_down.weight"] = adapter.down.detach().contiguous()
        tensors[f"{_key(name)}.lora_up.weight"] = adapter.up.detach().contiguous()
        tensors[f"{_key(name)}.alpha"] = torch.tensor(float(adapter.scale * len(adapter.down)))
    return tensors


@torch.no_grad()
def set_adapters(unet: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the adapters inside ``unet`` the values that :func:`adapters` or :func:`extract_lora` gave, of the same rank."""
    for name, adapter in adapted(unet).items():
        key = _key(name)
        adapter.scale = float(tensors[f"{key}.alpha"]) / len(adapter.down)
        adapter.down.copy_(tensors[f"{key}.lora_down.weight"])
        adapter.up.copy_(tensors[f"{key}.lora_up.weight"])


@torch.no_grad()
def merged(unet: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`fuse_lora` would make of ``tensors``, the state of ``unet`` with its adapters, or some of it."""
    found = {name: value for name, value in tensors.items() if ".lora." not in name}
    for name, adapter in adapted(unet).items():
        if f"{name}.weight" in found:
            up, down, weight = tensors[f"{name}.lora.up"], tensors[f"{name}.lora.down"], found[f"{name}.weight"]
            found[f"{name}.weight"] = weight + adapter.scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return found


@torch.no_grad()
def fuse_lora(unet: nn.Module) -> None:
    """Add what the adapters add to the weights themselves, and remove the adapters."""
    layers = targets(unet)
    for name, adapter in adapted(unet).items():
        layer: Any = layers[name]
        layer.weight += adapter.change
        del layer.lora
        for number in [number for number, hook in layer._forward_hooks.items() if hook is _add]:
            del layer._forward_hooks[number]


def shared(network: Any) -> Any:
    """A copy of ``network`` whose weights are the very same tensors: what is then added to the copy is its own."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


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
        change = other[name].double() - weight.double()
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
